r"""Trains the demo's inverter on rendered pictures whose codes are known.

    python -m faceanon_engine.demo.training.inverter DATA CODES --generator GENERATOR_RUN --code-steps 3000 --steps 3000
    python -m faceanon_engine.demo.training.inverter DATA RUN --generator GENERATOR_RUN --begin CODES \
        --identity IDENTITY_RUN --attributes ATTRIBUTES_RUN

The loss asks for the picture, through the frozen generator, and for the code that the mapping network gives the
picture's vector. As e4e asks for the person as a recogniser sees it (Tov et al., 2021, section 4.3), `--identity` and
`--attributes` ask for what the frozen encoders see in the picture: a difference of pixels hardly notices a smile.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faceanon_engine.demo.training.common import (
    ATTRIBUTE_ENCODER,
    GENERATOR,
    IDENTITY_ENCODER,
    INVERTER,
    Data,
    channels_last,
    load_average,
    parser,
    random_batches,
    train,
)
from faceanon_engine.demo.training.generator import picture_loss
from faceanon_engine.engine.method import get_preset
from faceanon_engine.engine.method.losses import attribute_loss, identity_cosine
from faceanon_engine.engine.networks import AttributeEncoder, Generator, IdentityEncoder, Inverter
from faceanon_engine.engine.networks.features import attribute_features, identity_embedding

WEIGHTS = {"picture": 1.0, "code": 0.05, "identity": 0.5, "attributes": 0.5}
"""identity is one less the cosine; attributes is the mean difference of a token's features."""
PRESET = get_preset("falco")


def main() -> None:
    options = parser(__doc__, batch=16)
    options.add_argument("--generator", type=Path, required=True, help="run of the generator")
    options.add_argument(
        "--code-steps", type=int, default=0, help="first steps that ask for the code alone, which is quick"
    )
    options.add_argument("--begin", type=Path, help="run of the inverter to begin with")
    options.add_argument("--identity", type=Path, help="run of the identity encoder")
    options.add_argument("--attributes", type=Path, help="run of the attribute encoder")
    arguments = options.parse_args()
    data = Data(arguments.data, "scenes")
    torch.manual_seed(arguments.seed)
    generator: Any = load_average(arguments.generator, Generator(GENERATOR))
    generator = generator.to(arguments.device, memory_format=torch.channels_last).freeze()
    seen = Seen(arguments)
    inverter = Inverter(INVERTER)
    inverter.latent_avg.copy_(average_code(generator).expand(GENERATOR.rows, -1))
    if arguments.begin:
        load_average(arguments.begin, inverter)
    with torch.no_grad():
        spread = generator.mapping(torch.randn(2000, GENERATOR.z_dim, device=arguments.device)).std(dim=0).mean()

    def loss_of(networks: nn.ModuleDict, batch: Any, step: int) -> dict[str, Tensor]:
        u, image = batch
        codes = networks["inverter"](image)
        code = ((codes.float() - generator.mapping(u)[:, None]) / spread).square().mean()
        if step < arguments.code_steps:
            return {"loss": code, "code": code}
        inverted = generator.synthesis(codes)
        losses = {"picture": picture_loss(inverted, image), "code": code, **seen.losses(inverted, image)}
        return {"loss": torch.stack([WEIGHTS[name] * value for name, value in losses.items()]).sum(), **losses}

    networks = nn.ModuleDict({"inverter": channels_last(inverter)})
    batches = random_batches(data, arguments.batch, torch.device(arguments.device))
    train(arguments, networks, batches, loss_of, averaged="inverter", begun=arguments.begin)


class Seen:
    """What the frozen encoders that were asked for see of a picture."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._identity = self._attributes = None
        if arguments.identity:
            identity: Any = load_average(arguments.identity, IdentityEncoder(IDENTITY_ENCODER))
            self._identity = channels_last(identity.to(arguments.device).requires_grad_(False))
        if arguments.attributes:
            attributes: Any = load_average(arguments.attributes, AttributeEncoder(ATTRIBUTE_ENCODER))
            self._attributes = attributes.to(arguments.device).requires_grad_(False)

    def losses(self, inverted: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Scalars, by name, of what differs between images [N, 3, H, W] in [-1, 1]."""
        losses = {}
        if self._identity is not None:
            with torch.no_grad():
                wanted = identity_embedding(self._identity, image, PRESET.identity_real)
            embedding = identity_embedding(self._identity, inverted, PRESET.identity_generated)
            losses["identity"] = 1 - identity_cosine(embedding.float(), wanted.float()).mean()
        if self._attributes is not None:
            with torch.no_grad():
                tokens = attribute_features(self._attributes, image, PRESET.attribute_real).tokens.float()
            ours = attribute_features(self._attributes, inverted, PRESET.attribute_generated).tokens.float()
            losses["attributes"] = attribute_loss(ours, tokens).mean() / tokens.shape[1]
        return losses


@torch.no_grad()
def average_code(generator: Any, samples: int = 20_000) -> Tensor:
    """Mean w [w_dim] over that many vectors of a fixed seed."""
    z = torch.randn(samples, generator.config.z_dim, generator=torch.Generator().manual_seed(1))
    return generator.mapping(z.to(generator.w_avg.device)).mean(dim=0)


if __name__ == "__main__":
    main()
