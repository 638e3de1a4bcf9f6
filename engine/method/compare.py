"""What generated images are compared with the originals by: identity cosine and attribute loss.

`compare` computes both by Torch's own operations, which is the definition, or by the fused kernels: both encoders'
inputs straight from the image, and the token loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from faceanon_engine.engine.method.losses import attribute_loss, identity_cosine
from faceanon_engine.engine.method.preset import Preset
from faceanon_engine.engine.networks.features import attribute_features, identity_embedding
from faceanon_engine.engine.networks.launcher import launcher_for
from faceanon_engine.engine.networks.recipe import PixelRecipe
from faceanon_engine.kernels.cuda.launch import Launcher
from faceanon_engine.kernels.resize_crop import View, resize_crop
from faceanon_engine.kernels.token_loss import token_loss

if TYPE_CHECKING:
    from faceanon_engine.engine.networks.irse import IdentityEncoder, IdentityEncoderConfig
    from faceanon_engine.engine.networks.vit import AttributeEncoder, AttributeEncoderConfig


@dataclass(frozen=True)
class Targets:
    """What is known of the originals, computed once: identity [N, D] of unit length, tokens [N, T, C]."""

    identity: Tensor
    tokens: Tensor


def encode_originals(
    identity_encoder: IdentityEncoder, attribute_encoder: AttributeEncoder, images: Tensor, preset: Preset
) -> tuple[Targets, Tensor]:
    """What the losses compare with of originals [N, 3, R, R] in [-1, 1], and their attribute embeddings [N, E].

    The embeddings are of the pixels that the attribute loss sees; both come from one pass through the encoder.
    """
    with torch.no_grad():
        identity = identity_embedding(identity_encoder, images, preset.identity_real)
        features = attribute_features(attribute_encoder, images, preset.attribute_real)
    return Targets(identity, features.tokens), features.embedding


def real_targets(
    identity_encoder: IdentityEncoder, attribute_encoder: AttributeEncoder, images: Tensor, preset: Preset
) -> Targets:
    """What the losses compare with of originals [N, 3, R, R] in [-1, 1]."""
    return encode_originals(identity_encoder, attribute_encoder, images, preset)[0]


def compare(
    identity_encoder: IdentityEncoder,
    attribute_encoder: AttributeEncoder,
    images: Tensor,
    targets: Targets,
    preset: Preset,
) -> tuple[Tensor, Tensor]:
    """Identity cosine [N] and attribute loss [N] between generated images [N, 3, R, R] and their targets."""
    launcher = launcher_for(images.device)
    if launcher is not None:
        return fused_compare(identity_encoder, attribute_encoder, images, targets, preset, launcher)
    identity = identity_embedding(identity_encoder, images, preset.identity_generated)
    tokens = attribute_features(attribute_encoder, images, preset.attribute_generated).tokens
    return identity_cosine(identity, targets.identity), attribute_loss(tokens, targets.tokens)


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
