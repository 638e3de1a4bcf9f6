from .e4e import Inverter as Inverter
from .e4e import InverterConfig as InverterConfig
from .features import attribute_features as attribute_features
from .features import identity_embedding as identity_embedding
from .irse import IdentityEncoder as IdentityEncoder
from .irse import IdentityEncoderConfig as IdentityEncoderConfig
from .precision import Networks as Networks
from .precision import computing as computing
from .precision import lowered as lowered
from .recipe import PixelRecipe as PixelRecipe
from .stylegan2 import Generator as Generator
from .stylegan2 import GeneratorConfig as GeneratorConfig
from .vit import AttributeEncoder as AttributeEncoder
from .vit import AttributeEncoderConfig as AttributeEncoderConfig

__all__: list[str]
