"""One step of the latent-code optimisation for many images at once, in place: what is batched, captured and timed.

Every image has its own entry in every tensor of a `State`: its code, its Adam state, its count of steps, its stopping
rule. No entry sees another one, so images may come and go between steps. `reference.py` is the same mathematics written
for one batch from beginning to end, and its definition. Nothing here looks at a value on the host, so that a step can
be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from faceanon_engine.engine.choices import OptimisePrecision
from faceanon_engine.engine.method.compare import Targets, compare
from faceanon_engine.engine.method.losses import identity_loss
from faceanon_engine.engine.method.preset import Preset, StoppingRule
from faceanon_engine.engine.networks.precision import Networks, compute_dtype, computing
from faceanon_engine.engine.networks.stylegan2 import SynthesisPrefix

if TYPE_CHECKING:
    from faceanon_engine.engine.networks.stylegan2 import Generator

BETAS = (0.9, 0.999)
EPSILON = 1e-8
FIRST_SCALE = 256.0
"""Factor of the losses in float16, whose smallest number (6e-8) is above many gradients of single pixels."""


@dataclass(frozen=True)
class StepSettings:
    """What a step does: constants, the identity cosine asked for, what it computes in, and what the losses see.

    resolution: side of the generator's picture that the losses see; None is the whole picture.
    """

    preset: Preset
    margin: float = 0.0
    precision: OptimisePrecision = "fp32"
    resolution: int | None = None


@dataclass
class State:
    """Images under way, one entry each along the first dimension of every tensor; float32 unless said otherwise."""

    w_plus: Tensor
    """[N, rows, w_dim]; the rows that are optimised stand in `rows`."""
    rows: Tensor
    """[N, k, w_dim], after the last step."""
    evaluated: Tensor
    """[N, k, w_dim]: the rows that the last step's losses and picture belong to, which is before its update."""
    mean: Tensor
    square: Tensor
    """Adam's moments, [N, k, w_dim]."""
    updates: Tensor
    """Updates made, float64 [N]."""
    identity: Tensor
    tokens: Tensor
    """Of the originals, [N, D] and [N, T, C]."""
    features: Tensor
    image: Tensor | None
    """What the rows below the optimised ones give, see `SynthesisPrefix`; features in what the step computes in."""
    residual: Tensor | None
    """[N, 3, r, r]: what the picture at a proxy's side lacks of the whole one, for the first code."""
    first_cosine: Tensor
    first_attribute: Tensor
    """Of the first code, [N]."""
    best: Tensor
    stale: Tensor
    """Lowest attribute loss so far, and steps since it was last improved upon, [N]."""
    scale: Tensor
    """Factor of the losses while gradients are computed, [N]; 1 but in float16."""

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, start: int, count: int) -> State:
        """Views of some images; what is done to them is done to these."""
        return self.each(lambda value: value.narrow(0, start, count))

    def blank(self, capacity: int) -> State:
        """Zeros for so many images of the same kind, in memory of their own."""
        return self.each(lambda value: _blank(value, capacity))

    def clone(self) -> State:
        """A copy in memory of its own."""
        return self.each(Tensor.clone)

    def place(self, slot: int, image: State) -> None:
        """Copy the state of one image into a slot."""
        for name in _TENSORS:
            ours, theirs = getattr(self, name), getattr(image, name)
            if ours is not None:
                ours[slot].copy_(theirs[0])

    def code(self, start: int) -> Tensor:
        """Codes [N, rows, w_dim] that the last step's losses belong to; `start` is the first optimised row."""
        stop = start + self.rows.shape[1]
        return torch.cat([self.w_plus[:, :start], self.evaluated, self.w_plus[:, stop:]], dim=1)

    def each(self, change: Callable[[Tensor], Tensor]) -> State:
        """A state of every tensor's change."""
        values = {name: getattr(self, name) for name in _TENSORS}
        changed: dict[str, Any] = {name: None if value is None else change(value) for name, value in values.items()}
        return State(**changed)


_TENSORS = tuple(field.name for field in fields(State))


def _blank(value: Tensor, capacity: int) -> Tensor:
    zeros = torch.zeros((capacity, *value.shape[1:]), dtype=value.dtype, device=value.device)
    if value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last):
        return zeros.contiguous(memory_format=torch.channels_last)
    return zeros


class Outcome(NamedTuple):
    """What a step found before its update.

    images [N, 3, r, r]; cosine and attribute loss [N]; stop bool [N]: the preset's stopping rule is met.
    """

    images: Tensor
    cosine: Tensor
    attribute: Tensor
    stop: Tensor


@torch.no_grad()
@computing("fp32")
def begin(generator: Generator, w_plus: Tensor, targets: Targets, settings: StepSettings) -> State:
    """The state of images whose codes [N, rows, w_dim] have not been moved yet.

    `generator` is the float32 one, whatever the precision of the steps: what never changes is computed once, well.
    """
    start, stop = settings.preset.trainable_rows
    w_plus = w_plus.detach().float()
    rows = w_plus[:, start:stop].clone()
    prefix = generator.prefix(w_plus, first_row=start)
    zeros = rows.new_zeros(len(rows))
    return State(
        w_plus=w_plus.clone(),
        rows=rows,
        evaluated=rows.clone(),
        mean=torch.zeros_like(rows),
        square=torch.zeros_like(rows),
        updates=zeros.double(),
        identity=targets.identity.float(),
        tokens=targets.tokens.float(),
        features=prefix.features.to(compute_dtype(settings.precision)),
        image=None if prefix.image is None else prefix.image.float(),
        residual=None,
        first_cosine=zeros.clone(),
        first_attribute=zeros.clone(),
        best=torch.full_like(zeros, torch.inf),
        stale=zeros.clone(),
        scale=torch.full_like(zeros, FIRST_SCALE if settings.precision == "fp16" else 1.0),
    )


@torch.no_grad()
def with_view(networks: Networks, state: State, settings: StepSettings) -> State:
    """The same images for losses that see the picture at `settings.resolution`; the stopping rule starts anew.

    A generator's picture at a lower side lacks what the layers above would add. The difference is taken once, from the
    code as it is now, and kept: small changes of the code then change both pictures alike.
    """
    residual = None
    if settings.resolution is not None:
        plain = replace(settings, resolution=None)
        with computing(settings.precision):
            whole = draw(networks, state, state.rows, plain).float()
            part = draw(networks, replace(state, residual=None), state.rows, settings).float()
        side = part.shape[-1]
        residual = F.interpolate(whole, (side, side), mode="bilinear", antialias=True, align_corners=False) - part
    best, stale = torch.full_like(state.best, torch.inf), torch.zeros_like(state.stale)
    return replace(state, residual=residual, best=best, stale=stale)


def draw(networks: Networks, state: State, rows: Tensor, settings: StepSettings) -> Tensor:
    """Pictures float32 [N, 3, r, r] of optimised rows [N, k, w_dim], as the losses see them."""
    start, stop = settings.preset.trainable_rows
    # Row by row, so that the generator sees which of them ask for a gradient.
    w_plus = [*state.w_plus[:, :start].unbind(1), *rows.unbind(1), *state.w_plus[:, stop:].unbind(1)]
    prefix = SynthesisPrefix(start, state.features, state.image)
    if settings.resolution is None:
        return networks.generator.synthesis_from(prefix, w_plus).float()
    picture = networks.generator.skip_output_from(prefix, w_plus, settings.resolution).float()
    return picture if state.residual is None else picture + state.residual


def look(networks: Networks, state: State, settings: StepSettings) -> Outcome:
    """The outcome that the next step would find, without any change but to `evaluated` and the stopping rule."""
    with torch.no_grad(), computing(settings.precision):
        state.evaluated.copy_(state.rows)
        images, cosine, attribute = _losses(networks, state, state.rows, settings)
        return _outcome(state, images, cosine, attribute, settings)


def step(networks: Networks, state: State, settings: StepSettings) -> Outcome:
    """Draw, compare, and move every image's rows once, in place; the outcome is of the rows before that."""
    preset = settings.preset
    with computing(settings.precision):
        state.evaluated.copy_(state.rows)
        rows = state.rows.detach().requires_grad_(True)
        images, cosine, attribute = _losses(networks, state, rows, settings)
        total = preset.identity_weight * identity_loss(cosine, settings.margin) + preset.attribute_weight * attribute
        (gradient,) = torch.autograd.grad((total * state.scale).sum(), [rows])
    with torch.no_grad():
        outcome = _outcome(state, images.detach(), cosine.detach(), attribute.detach(), settings)
        adam(state, gradient, preset, scaled=settings.precision == "fp16")
    return outcome


def _losses(networks: Networks, state: State, rows: Tensor, settings: StepSettings) -> tuple[Tensor, Tensor, Tensor]:
    images = draw(networks, state, rows, settings)
    dtype = compute_dtype(settings.precision)
    targets = Targets(state.identity, state.tokens)
    # The encoders' own weights are in the type already: there is nothing to be kept between casts.
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
        cosine, attribute = compare(
            networks.identity_encoder, networks.attribute_encoder, images, targets, settings.preset
        )
    return images, cosine.float(), attribute.float()


def _outcome(state: State, images: Tensor, cosine: Tensor, attribute: Tensor, settings: StepSettings) -> Outcome:
    first = state.updates == 0
    state.first_cosine.copy_(torch.where(first, cosine, state.first_cosine))
    state.first_attribute.copy_(torch.where(first, attribute, state.first_attribute))
    rule = settings.preset.stopping
    stop = torch.zeros_like(first) if rule is None else is_met(rule, state, cosine, attribute, settings.margin)
    return Outcome(images, cosine, attribute, stop)


def is_met(rule: StoppingRule, state: State, cosine: Tensor, attribute: Tensor, margin: float) -> Tensor:
    """Whether each image may stop, bool [N]; keeps the rule's account in the state."""
    improved = attribute < state.best * (1 - rule.improvement)
    state.best.copy_(torch.where(improved, attribute, state.best))
    state.stale.copy_(torch.where(improved, torch.zeros_like(state.stale), state.stale + 1))
    return (state.stale >= rule.patience) & ((cosine - margin).abs() <= rule.tolerance)


def adam(state: State, gradient: Tensor, preset: Preset, *, scaled: bool = False) -> None:
    """Adam (Kingma and Ba, ICLR 2015) with a step count and a learning rate of its own for every image.

    The rate falls at the preset's shares of its number of steps. With `scaled`, gradients [N, k, w_dim] are those of
    the losses times `state.scale`; an image whose gradient has left the range of numbers skips the update and halves
    its factor.
    """
    if scaled:
        finite = torch.isfinite(gradient).all(dim=2).all(dim=1)
        gradient = torch.where(finite[:, None, None], gradient / state.scale[:, None, None], 0.0)
        state.scale.mul_(torch.where(finite, 1.0, 0.5))
    else:
        finite = None
    passed = sum((state.updates >= int(share * preset.steps)).double() for share in preset.decay_at)
    rate = preset.learning_rate * preset.learning_rate_decay**passed
    count = state.updates + 1
    mean = torch.lerp(state.mean, gradient, 1 - BETAS[0])
    square = (state.square * BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    length = (rate / (1 - BETAS[0] ** count)).float()[:, None, None]
    root = (1 - BETAS[1] ** count).sqrt().float()[:, None, None]
    rows = state.rows - length * mean / ((square.sqrt() / root) + EPSILON)
    for old, new in ((state.mean, mean), (state.square, square), (state.rows, rows), (state.updates, count)):
        keep = new if finite is None else torch.where(finite.view(-1, *[1] * (new.ndim - 1)), new, old)
        old.copy_(keep)


def mix_codes(w_plus_real: Tensor, w_plus_fake: Tensor, preset: Preset) -> Tensor:
    """Initial codes [N, rows, w_dim]: the preset's trainable rows from the fake, all others from the original."""
    start, stop = preset.trainable_rows
    return torch.cat([w_plus_real[:, :start], w_plus_fake[:, start:stop], w_plus_real[:, stop:]], dim=1)
