from .e4e import Inverter, InverterConfig
from .irse import IdentityEncoder, IdentityEncoderConfig
from .precision import Networks
from .recipe import PixelRecipe
from .stylegan2 import Generator, GeneratorConfig
from .vit import AttributeEncoder, AttributeEncoderConfig, AttributeFeatures

__all__ = [
    "AttributeEncoder",
    "AttributeEncoderConfig",
    "AttributeFeatures",
    "Generator",
    "GeneratorConfig",
    "IdentityEncoder",
    "IdentityEncoderConfig",
    "Inverter",
    "InverterConfig",
    "Networks",
    "PixelRecipe",
]
