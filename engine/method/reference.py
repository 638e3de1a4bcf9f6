"""The latent-code optimisation: five rows of w+ per image, a whole batch at a time.

Source: FALCO, section 3.3. Every image has its own Adam state and its own losses: the batch's loss is the sum of
the images' losses, and Adam works element by element, so no image sees another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from faceanon_engine.engine.method.compare import Targets, compare
from faceanon_engine.engine.method.losses import identity_loss
from faceanon_engine.engine.method.preset import Preset

if TYPE_CHECKING:
    from faceanon_engine.engine.networks.irse import IdentityEncoder
    from faceanon_engine.engine.networks.stylegan2 import Generator
    from faceanon_engine.engine.networks.vit import AttributeEncoder


@dataclass(frozen=True)
class StepRecord:
    """Losses of one step, each [N]: identity cosine, identity loss and attribute loss before the update."""

    cosine: Tensor
    identity: Tensor
    attribute: Tensor


@dataclass(frozen=True)
class Optimised:
    """Outcome: codes [N, rows, w_dim], images [N, 3, R, R], losses at the first code and at the last."""

    w_plus: Tensor
    images: Tensor
    before: StepRecord
    after: StepRecord
    history: tuple[StepRecord, ...]


def learning_rate(step: int, steps: int, preset: Preset) -> float:
    """Learning rate of a step: multiplied by the decay at each of the preset's shares of the run."""
    passed = sum(step >= int(share * steps) for share in preset.decay_at)
    return preset.learning_rate * preset.learning_rate_decay**passed


def _record(cosine: Tensor, attribute: Tensor, margin: float) -> StepRecord:
    cosine, attribute = cosine.detach(), attribute.detach()
    return StepRecord(cosine=cosine, identity=identity_loss(cosine, margin), attribute=attribute)


def optimise(
    generator: Generator,
    identity_encoder: IdentityEncoder,
    attribute_encoder: AttributeEncoder,
    w_plus: Tensor,
    targets: Targets,
    preset: Preset,
    *,
    margin: float = 0.0,
    steps: int | None = None,
    schedule_steps: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Optimised:
    """Move the trainable rows of codes [N, rows, w_dim] away from the identities, towards the attributes.

    The networks are frozen. `margin` is the identity cosine asked for; `steps` defaults to the preset's;
    `schedule_steps` is the length the learning-rate schedule is laid out for, when it is not `steps`; `on_step`
    is called with the number of steps done. A code that stops being finite stays so: callers check.
    """
    steps = preset.steps if steps is None else steps
    planned = steps if schedule_steps is None else schedule_steps
    start, stop = preset.trainable_rows
    head, tail = w_plus[:, :start].detach(), w_plus[:, stop:].detach()
    rows = w_plus[:, start:stop].detach().clone().requires_grad_(True)
    optimiser = torch.optim.Adam([rows], lr=preset.learning_rate)

    with torch.no_grad():
        prefix = generator.prefix(w_plus, first_row=start)

    def evaluate() -> tuple[Tensor, Tensor, Tensor]:
        images = generator.synthesis_from(prefix, [*head.unbind(1), *rows.unbind(1), *tail.unbind(1)])
        cosine, attribute = compare(identity_encoder, attribute_encoder, images, targets, preset)
        return images, cosine, attribute

    history: list[StepRecord] = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, planned, preset)
        _, cosine, attribute = evaluate()
        total = preset.identity_weight * identity_loss(cosine, margin) + preset.attribute_weight * attribute
        (rows.grad,) = torch.autograd.grad(total.sum(), [rows])
        optimiser.step()
        history.append(_record(cosine, attribute, margin))
        del total
        if on_step is not None:
            on_step(step + 1)

    with torch.no_grad():
        images, cosine, attribute = evaluate()
    after = _record(cosine, attribute, margin)
    return Optimised(
        w_plus=torch.cat([head, rows.detach(), tail], dim=1),
        images=images,
        before=history[0] if history else after,
        after=after,
        history=tuple(history),
    )
