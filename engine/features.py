"""What the feature networks see and say of an image, under a preset's pixel recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from faceanon_engine.engine.preset import PixelRecipe

if TYPE_CHECKING:
    from faceanon_engine.engine.networks.irse import IdentityEncoder
    from faceanon_engine.engine.networks.vit import AttributeEncoder, AttributeFeatures


def identity_embedding(encoder: IdentityEncoder, image: Tensor, recipe: PixelRecipe) -> Tensor:
    """Unit-length identity embedding [N, D] of images [N, 3, H, W] in [-1, 1]."""
    return encoder((image + 1) / 2 if recipe.unit_range else image)


def attribute_features(encoder: AttributeEncoder, image: Tensor, recipe: PixelRecipe) -> AttributeFeatures:
    """Attribute embedding [N, E] and tokens [N, T, C] of images [N, 3, H, W] in [-1, 1]."""
    # A recipe that keeps [-1, 1] passes the values through unscaled, as if they already were in [0, 1].
    from_range = (-1.0, 1.0) if recipe.unit_range else (0.0, 1.0)
    return encoder.encode(encoder.preprocess(image, from_range=from_range, normalise=recipe.normalise))


def to_uint8(image: Tensor, scaling: str = "clamp") -> Tensor:
    """Images [N, 3, H, W] as uint8 [N, H, W, 3].

    scaling "clamp" maps [-1, 1] to [0, 255] and clips what lies outside; "stretch" maps each image's own minimum
    and maximum to 0 and 255, as the released code does when it saves.
    """
    image = image.detach().float()
    if scaling == "stretch":
        low = image.amin(dim=(1, 2, 3), keepdim=True)
        high = image.amax(dim=(1, 2, 3), keepdim=True)
        unit = (image - low) / (high - low).clamp_min(1e-5)
    else:
        unit = (image.clamp(-1, 1) + 1) / 2
    return unit.mul(255).add(0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def from_uint8(pixels: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] as the pipeline's float32 [N, 3, H, W] in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
