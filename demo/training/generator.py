"""Trains the demo's generator to draw what the renderer draws.

    python -m faceanon_engine.demo.training.generator DATA RUN --minutes 40

z is the renderer's vector u. Supervised style mixing gives the rows of w+ their meaning: for a picture with vector u,
rows 0-2 come from a vector that shares u's pose group, rows 3-7 from one that shares identity and expression, rows 8-9
from one that shares colours; everything else in them is random.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faceanon_engine.demo.people import SIZE, group_mask
from faceanon_engine.demo.training.common import GENERATOR, Data, channels_last, parser, random_batches, train
from faceanon_engine.demo.training.mapping import fit_mapping
from faceanon_engine.engine.networks import Generator

ROWS = {"pose": (0, 3), "identity": (3, 8), "colour": (8, 10)}


def mixed_codes(generator: Generator, u: Tensor, share: float) -> Tensor:
    """w+ [N, rows, w_dim] of u [N, P]; a `share` of the batch is mixed from three vectors each."""
    count = int(len(u) * share)
    w_plus = generator.broadcast(generator.mapping(u[count:]))
    if not count:
        return w_plus
    rows = []
    for group, (first, stop) in ROWS.items():
        names = ("identity", "expression") if group == "identity" else (group,)
        kept = torch.from_numpy(group_mask(*names)).to(u.device)
        other = torch.where(kept, u[:count], torch.randn(count, SIZE, device=u.device))
        rows.append(generator.mapping(other)[:, None].expand(-1, stop - first, -1))
    return torch.cat([torch.cat(rows, dim=1), w_plus])


def picture_loss(image: Tensor, target: Tensor) -> Tensor:
    """Pyramid of mean absolute differences, with one of gradients at every level and more weight on the face."""
    side = torch.linspace(-1, 1, image.shape[-1], device=image.device)
    weight = 1 + 2 * torch.exp(-(side[None] ** 2 / 0.2 + (side[:, None] - 0.15) ** 2 / 0.25))
    total = image.new_zeros(())
    while True:
        level = weight / weight.mean()
        total = total + ((image - target).abs() * level).mean()
        for axis in (2, 3):
            total = total + 1.5 * ((image.diff(dim=axis) - target.diff(dim=axis)).abs() * _cut(level, axis)).mean()
        if image.shape[-1] <= 8:
            return total
        image, target = F.avg_pool2d(image, 2), F.avg_pool2d(target, 2)
        weight = F.avg_pool2d(weight[None, None], 2)[0, 0]


def _cut(weight: Tensor, axis: int) -> Tensor:
    return weight[1:] if axis == 2 else weight[:, 1:]


def loss_of(networks: nn.ModuleDict, batch: Any, step: int) -> dict[str, Tensor]:
    generator: Any = networks["generator"]
    u, target = batch
    share = 0.5
    image = generator.synthesis(mixed_codes(generator, u, share))
    mixed = int(len(u) * share)
    loss = picture_loss(image, target)
    with torch.no_grad():
        errors = (image - target).abs().mean(dim=(1, 2, 3))
    return {"loss": loss, "l1": errors[mixed:].mean(), "l1_mixed": errors[:mixed].mean()}


def main() -> None:
    options = parser(__doc__, batch=16)
    options.add_argument(
        "--mapping-steps", type=int, default=25_000, help="of the mapping network's fit, before all else"
    )
    arguments = options.parse_args()
    data = Data(arguments.data, "scenes")
    torch.manual_seed(arguments.seed)
    generator = Generator(GENERATOR)
    # Fitted once and kept: an inverter can then learn codes while the synthesis network is still learning pictures.
    generator.mapping.requires_grad_(False)
    if not (arguments.run / "checkpoint.pt").exists():
        torch.set_num_threads(arguments.threads or torch.get_num_threads())
        left = fit_mapping(generator.mapping, data.codes[: len(data)], arguments.mapping_steps)
        with torch.no_grad():
            for name, parameter in generator.named_parameters():
                if name.endswith("affine.weight"):
                    # Random styles at the start would only have to be unlearned.
                    parameter.mul_(0.1)
        print(f"mapping fitted, {left:.3f} of the variance left", flush=True)
    networks = nn.ModuleDict({"generator": channels_last(generator)})
    batches = random_batches(data, arguments.batch, torch.device(arguments.device))
    train(arguments, networks, batches, loss_of, averaged="generator", decay=0.999)


if __name__ == "__main__":
    main()
