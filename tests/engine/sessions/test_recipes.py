"""Another recipe before a graph is the recipe inside the network."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch

from faceanon_engine.engine.networks.build import build
from faceanon_engine.engine.networks.features import attribute_features, identity_embedding
from faceanon_engine.engine.networks.recipe import PixelRecipe
from faceanon_engine.engine.sessions.recipes import for_attributes, for_identity
from tests.support.tiny_bundle import CONFIGS

RECIPES = [PixelRecipe(unit, normalise) for unit in (False, True) for normalise in (False, True)]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.tag)
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_the_encoders_see_what_the_recipe_says(recipe: PixelRecipe, kind: str) -> None:
    torch.manual_seed(3)
    attributes = build("attribute_encoder", CONFIGS["attribute_encoder"]).double().eval()
    identity = build("identity_encoder", CONFIGS["identity_encoder"]).double().eval()
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    given = image if kind == "tensor" else image.numpy()
    with torch.no_grad():
        expected = attribute_features(attributes, image, recipe)
        adapted = torch.as_tensor(for_attributes(given, recipe, asdict(attributes.config)))
        features = attributes(adapted)
        # Only the constants, mean and standard deviation, are float32.
        torch.testing.assert_close(features.embedding, expected.embedding, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(features.tokens, expected.tokens, rtol=1e-6, atol=1e-6)
        adapted = torch.as_tensor(for_identity(given, recipe))
        torch.testing.assert_close(identity(adapted), identity_embedding(identity, image, recipe))


def test_the_default_recipe_touches_nothing() -> None:
    image = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    assert for_attributes(image, PixelRecipe(True, True), {}) is image
    assert for_identity(image, PixelRecipe(False, False)) is image
