"""The four networks of the method, each with a frozen configuration."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn

from faceanon_engine.engine.networks.e4e import Inverter, InverterConfig
from faceanon_engine.engine.networks.irse import IdentityEncoder, IdentityEncoderConfig
from faceanon_engine.engine.networks.stylegan2 import Generator, GeneratorConfig
from faceanon_engine.engine.networks.vit import AttributeEncoder, AttributeEncoderConfig

NETWORKS: dict[str, tuple[type, type[nn.Module]]] = {
    "generator": (GeneratorConfig, Generator),
    "inverter": (InverterConfig, Inverter),
    "identity_encoder": (IdentityEncoderConfig, IdentityEncoder),
    "attribute_encoder": (AttributeEncoderConfig, AttributeEncoder),
}


def make_config(role: str, values: dict[str, Any]) -> Any:
    """The role's configuration from plain values, as read from JSON; raises ValueError naming unknown keys."""
    kind = NETWORKS[role][0]
    unknown = set(values) - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"{role}: unknown configuration keys {', '.join(sorted(unknown))}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def build(role: str, config: Any) -> nn.Module:
    """A network of that role from its configuration, or from the plain values of one; weights are random."""
    if not is_dataclass(config):
        config = make_config(role, config)
    return NETWORKS[role][1](config)
