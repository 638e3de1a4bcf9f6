"""The loss side by the fused kernels: both encoders' inputs straight from the image, and the token loss.

`optimise.compare` is the definition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from faceanon_engine.engine.losses import identity_cosine
from faceanon_engine.engine.preset import PixelRecipe, Preset
from faceanon_engine.kernels.cuda.launch import Launcher
from faceanon_engine.kernels.resize_crop import View, resize_crop
from faceanon_engine.kernels.token_loss import token_loss

if TYPE_CHECKING:
    from faceanon_engine.engine.networks.irse import IdentityEncoder, IdentityEncoderConfig
    from faceanon_engine.engine.networks.vit import AttributeEncoder, AttributeEncoderConfig
    from faceanon_engine.engine.optimise import Targets


def identity_view(config: IdentityEncoderConfig, recipe: PixelRecipe) -> View:
    """What the identity encoder's body sees of an image in [-1, 1]."""
    colour = 0.5 if recipe.unit_range else 1.0
    shift = 0.5 if recipe.unit_range else 0.0
    return View(config.resize or config.input_size, config.input_size, config.crop, (colour,) * 3, (shift,) * 3)


def attribute_view(config: AttributeEncoderConfig, recipe: PixelRecipe) -> View:
    """What the attribute encoder's first convolution sees of an image in [-1, 1]."""
    factor, offset = (0.5, 0.5) if recipe.unit_range else (1.0, 0.0)
    mean, std = (config.mean, config.std) if recipe.normalise else ((0.0,) * 3, (1.0,) * 3)
    scale = (factor / std[0], factor / std[1], factor / std[2])
    shift = ((offset - mean[0]) / std[0], (offset - mean[1]) / std[1], (offset - mean[2]) / std[2])
    return View(config.input_size, config.input_size, None, scale, shift)


def fused_compare(
    identity_encoder: IdentityEncoder,
    attribute_encoder: AttributeEncoder,
    images: Tensor,
    targets: Targets,
    preset: Preset,
    launcher: Launcher,
) -> tuple[Tensor, Tensor]:
    """Identity cosine [N] and attribute loss [N] between generated images [N, 3, R, R] and their targets.

    Under autocast the encoders' inputs are made in its type at once.
    """
    device = images.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else images.dtype
    views = (
        identity_view(identity_encoder.config, preset.identity_generated),
        attribute_view(attribute_encoder.config, preset.attribute_generated),
    )
    face, whole = resize_crop(images, views, dtype=dtype, launcher=launcher)
    cosine = identity_cosine(identity_encoder.embed(face), targets.identity)
    # Last, as in the definition: whoever times the step takes the end of this for that of the forward pass.
    tokens = attribute_encoder.encode(whole).tokens
    return cosine, token_loss(tokens, targets.tokens, launcher=launcher)
