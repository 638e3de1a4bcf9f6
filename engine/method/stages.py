"""The stages before the optimisation: plain functions from images to arrays, run by sessions of any backend.

Images are float32 [N, 3, R, R] in [-1, 1], arrays or tensors; R is the generator's side. Source: FALCO, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faceanon_engine.engine.images.pixels import Floats, Pixels, to_uint8
from faceanon_engine.engine.networks.recipe import PixelRecipe
from faceanon_engine.engine.sessions.recipes import for_attributes, for_identity
from faceanon_engine.engine.sessions.runs import Sessions
from faceanon_engine.engine.system.tensors import as_array

if TYPE_CHECKING:
    from torch import Tensor


def embed_attributes(sessions: Sessions, images: Any, recipe: PixelRecipe) -> Floats:
    """Attribute embeddings float32 [N, E], which originals are paired by; a preset names the recipe of either side."""
    adapted = for_attributes(images, recipe, sessions.attribute_config)
    return as_array(sessions.session("attributes").run(adapted))


def embed_identity(sessions: Sessions, images: Any, recipe: PixelRecipe) -> Floats:
    """Identity embeddings float32 [N, D] of unit length."""
    return as_array(sessions.session("identity").run(for_identity(images, recipe)))


def invert_images(sessions: Sessions, images: Any) -> Floats:
    """Codes w+ float32 [N, rows, w_dim] that the generator redraws the images from."""
    return as_array(sessions.session("inverter").run(images))


def synthesise(sessions: Sessions, w_plus: Tensor, scaling: str = "clamp") -> Pixels:
    """Pictures uint8 [N, R, R, 3] of codes w+ float32 [N, rows, w_dim]; `scaling` as in `images.pixels.to_uint8`."""
    pictures: Pixels = to_uint8(sessions.session("synthesis").run(w_plus), scaling).cpu().numpy()
    return pictures
