"""The four networks of the method, each with a frozen configuration."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

from torch import nn

from faceanon_engine.engine.networks.configs import CONFIGS, make_config
from faceanon_engine.engine.networks.e4e import Inverter
from faceanon_engine.engine.networks.irse import IdentityEncoder
from faceanon_engine.engine.networks.stylegan2 import Generator
from faceanon_engine.engine.networks.vit import AttributeEncoder

_MODULES: dict[str, type[nn.Module]] = {
    "generator": Generator,
    "inverter": Inverter,
    "identity_encoder": IdentityEncoder,
    "attribute_encoder": AttributeEncoder,
}
NETWORKS: dict[str, tuple[type, type[nn.Module]]] = {role: (CONFIGS[role], module) for role, module in _MODULES.items()}


def build(role: str, config: Any) -> nn.Module:
    """A network of that role from its configuration, or from the plain values of one; weights are random."""
    if not is_dataclass(config):
        config = make_config(role, config)
    return NETWORKS[role][1](config)
