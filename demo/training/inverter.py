"""Trains the demo's inverter on rendered pictures whose codes are known.

    python -m faceanon_engine.demo.training.inverter DATA RUN --generator GENERATOR_RUN --minutes 10

The loss asks for the picture, through the frozen generator, and for the code that the mapping network gives the
picture's vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faceanon_engine.demo.training.common import (
    GENERATOR,
    INVERTER,
    Data,
    channels_last,
    load_average,
    parser,
    random_batches,
    train,
)
from faceanon_engine.demo.training.generator import picture_loss
from faceanon_engine.engine.networks import Generator, Inverter


def main() -> None:
    found = parser(__doc__, batch=16)
    found.add_argument("--generator", type=Path, required=True, help="run of the generator")
    found.add_argument(
        "--code-steps", type=int, default=0, help="first steps that ask for the code alone, which is quick"
    )
    arguments = found.parse_args()
    data = Data(arguments.data, "scenes")
    torch.manual_seed(arguments.seed)
    generator: Any = load_average(arguments.generator, Generator(GENERATOR))
    generator = generator.to(arguments.device, memory_format=torch.channels_last).freeze()
    inverter = Inverter(INVERTER)
    inverter.latent_avg.copy_(average_code(generator).expand(GENERATOR.rows, -1))
    with torch.no_grad():
        spread = generator.mapping(torch.randn(2000, GENERATOR.z_dim, device=arguments.device)).std(dim=0).mean()

    def loss_of(networks: nn.ModuleDict, batch: Any, step: int) -> dict[str, Tensor]:
        u, image = batch
        codes = networks["inverter"](image)
        code = ((codes.float() - generator.mapping(u)[:, None]) / spread).square().mean()
        if step < arguments.code_steps:
            return {"loss": code, "code": code}
        picture = picture_loss(generator.synthesis(codes), image)
        return {"loss": picture + 0.05 * code, "picture": picture, "code": code}

    networks = nn.ModuleDict({"inverter": channels_last(inverter)})
    batches = random_batches(data, arguments.batch, torch.device(arguments.device))
    train(arguments, networks, batches, loss_of, averaged="inverter")


@torch.no_grad()
def average_code(generator: Any, samples: int = 20_000) -> Tensor:
    """Mean w [w_dim] over that many vectors of a fixed seed."""
    z = torch.randn(samples, generator.config.z_dim, generator=torch.Generator().manual_seed(1))
    return generator.mapping(z.to(generator.w_avg.device)).mean(dim=0)


if __name__ == "__main__":
    main()
