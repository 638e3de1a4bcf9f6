"""What the feature networks see and say of an image, under a preset's pixel recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from faceanon_engine.engine.networks.recipe import PixelRecipe

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
