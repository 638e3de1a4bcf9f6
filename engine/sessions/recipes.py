"""Handing an image to a graph that holds another pixel recipe than the one wanted.

A graph's preprocessing ends in an affine map of each channel, and resizing is linear and keeps constants, so another
recipe is an affine map of the image before it goes in. Every graph holds its network's default: the identity encoder
takes [-1, 1] as it is, the attribute encoder maps to [0, 1] and normalises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from faceanon_engine.engine.networks.recipe import PixelRecipe
from faceanon_engine.engine.sessions.session import Batch
from faceanon_engine.engine.system.tensors import is_tensor

ATTRIBUTES_DEFAULT = PixelRecipe(unit_range=True, normalise=True)


def for_identity(image: Batch, recipe: PixelRecipe) -> Batch:
    """Images [N, 3, H, W] in [-1, 1] as the identity graph has to get them for the recipe."""
    return (image + 1) / 2 if recipe.unit_range else image


def for_attributes(image: Batch, recipe: PixelRecipe, config: Mapping[str, Any] | None) -> Batch:
    """Images [N, 3, H, W] in [-1, 1] as the attribute graphs have to get them for the recipe.

    `config` is the attribute encoder's, as bundle.json has it: its mean and std undo a normalisation not wanted. Raises
    ValueError where they are needed and not given.
    """
    if recipe == ATTRIBUTES_DEFAULT:
        return image
    # The graph computes ((x + 1) / 2 - mean) / std. What the recipe wants there is solved for x.
    wanted = (image + 1) / 2 if recipe.unit_range else image
    if not recipe.normalise:
        if config is None:
            raise ValueError(f"recipe {recipe.tag} undoes the normalisation: the encoder's mean and std are needed")
        mean, std = (_like(np.array(config[key], np.float32).reshape(1, 3, 1, 1), image) for key in ("mean", "std"))
        wanted = wanted * std + mean
    return wanted * 2 - 1


def _like(values: Any, image: Any) -> Any:
    if not is_tensor(image):
        return values
    import torch

    return torch.from_numpy(values).to(image.device, image.dtype)
