"""A bundle opened for tests: its networks, sessions that run it, and the stages as a preset wants them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from faceanon_engine.engine.method import stages
from faceanon_engine.engine.method.pairing import NearestNeighbours, Neighbours
from faceanon_engine.engine.method.pool import Pool, PoolSpec
from faceanon_engine.engine.method.pool_making import Embed
from faceanon_engine.engine.method.pool_opening import open_or_make_pool
from faceanon_engine.engine.method.preset import PRESETS, Preset
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.models.opened import OpenedNetworks
from faceanon_engine.engine.networks.features import attribute_features
from faceanon_engine.engine.networks.precision import Networks
from faceanon_engine.engine.networks.recipe import PixelRecipe
from faceanon_engine.engine.sessions.runs import sessions_of_bundle, settle
from faceanon_engine.engine.system.tensors import as_tensor


class Opened:
    def __init__(self, bundle: Bundle, preset: Preset = PRESETS["falco"], backend: str = "torch") -> None:
        self.bundle, self.preset = bundle, preset
        self.runs = settle(backend, "fp32", "cpu")
        self.networks = OpenedNetworks(bundle)
        self.sessions = sessions_of_bundle(bundle, self.runs, networks=self.networks)

    @property
    def three(self) -> Networks:
        """The networks that a step runs."""
        return self.networks.for_steps

    def embed_attributes(self, images: Any) -> np.ndarray:
        return stages.embed_attributes(self.sessions, images, self.preset.pairing_real)

    def embed_identity(self, images: Any) -> np.ndarray:
        return stages.embed_identity(self.sessions, images, self.preset.identity_real)

    def invert(self, images: Any) -> np.ndarray:
        return stages.invert_images(self.sessions, images)

    def synthesise(self, w_plus: Any) -> np.ndarray:
        return stages.synthesise(self.sessions, as_tensor(w_plus), self.preset.output_scaling)

    def pool(self, spec: PoolSpec, **more: Any) -> Pool:
        return open_or_make_pool(spec, self.networks, self.sessions, self.preset, **more)

    def pair(self, images: Any, pool: Pool, k: int = 1) -> Neighbours:
        index = NearestNeighbours(pool.embedding(self.preset.pairing_generated))
        return index.search(self.embed_attributes(images), k)


def embed_with(generator: Any, attribute_encoder: Any, recipe: PixelRecipe) -> Embed:
    """What `create_pool` asks for, by two networks in Torch."""

    @torch.no_grad()
    def embed(w: Any) -> Any:
        image = generator.synthesis(generator.broadcast(torch.from_numpy(w)))
        return attribute_features(attribute_encoder, image, recipe).embedding.numpy()

    return embed
