"""A bundle's networks in Torch on one device, each loaded when it is first needed (lazy), and once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from faceanon_engine.engine.models.bundle import Bundle

if TYPE_CHECKING:
    from torch import nn

    from faceanon_engine.engine.networks.e4e import Inverter
    from faceanon_engine.engine.networks.irse import IdentityEncoder
    from faceanon_engine.engine.networks.precision import Networks
    from faceanon_engine.engine.networks.stylegan2 import Generator
    from faceanon_engine.engine.networks.vit import AttributeEncoder


class OpenedNetworks:
    """The networks, frozen, in float32. Making this is cheap and loads neither them nor Torch."""

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        """`device` is "cpu" or "cuda:N". A network raises UserError when it is first asked for and its file is bad."""
        self.bundle = bundle
        self.device = device

    @cached_property
    def generator(self) -> Generator:
        generator: Generator = self.bundle.load("generator", self.device)
        return generator

    @cached_property
    def inverter(self) -> Inverter:
        inverter: Inverter = self.bundle.load("inverter", self.device)
        return inverter

    @cached_property
    def identity_encoder(self) -> IdentityEncoder:
        encoder: IdentityEncoder = self.bundle.load("identity_encoder", self.device)
        return encoder

    @cached_property
    def attribute_encoder(self) -> AttributeEncoder:
        encoder: AttributeEncoder = self.bundle.load("attribute_encoder", self.device)
        return encoder

    @property
    def for_steps(self) -> Networks:
        """The three networks that a step of the optimisation runs."""
        from faceanon_engine.engine.networks.precision import Networks

        return Networks(self.generator, self.identity_encoder, self.attribute_encoder)

    def of_role(self, role: str) -> nn.Module:
        """The network of that role."""
        network: nn.Module = getattr(self, role)
        return network
