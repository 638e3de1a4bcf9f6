"""The method from images to images: the stages in their order, over batches. Source: FALCO, section 3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from faceanon_engine.engine.choices import Metric
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import to_uint8
from faceanon_engine.engine.method.anonymized import AnonymizedBatch
from faceanon_engine.engine.method.pairing import NearestNeighbours, Neighbours
from faceanon_engine.engine.method.pool import Pool, PoolSpec, create_pool
from faceanon_engine.engine.method.preset import Preset
from faceanon_engine.engine.sessions.graphs import get_graph
from faceanon_engine.engine.sessions.opening import Prepare
from faceanon_engine.engine.sessions.runs import of_bundle, settle
from faceanon_engine.engine.system.devices import resolve_for_torch
from faceanon_engine.engine.system.memory import free_memory
from faceanon_engine.engine.system.progress import Progress

if TYPE_CHECKING:
    from faceanon_engine.engine.method.stream import Stream
    from faceanon_engine.engine.models.bundle import Bundle

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Stages:
    """The forward-only stages, each from images in [-1, 1] to arrays, with the networks they need.

    The stages run in sessions of one backend; the networks themselves, in Torch, are opened for what needs gradients.
    """

    def __init__(
        self,
        bundle: Bundle,
        preset: Preset,
        device: str = "auto",
        *,
        backend: str = "torch",
        precision: str = "fp32",
        prepare: Prepare | None = None,
    ) -> None:
        """`prepare` makes what the backend lacks; raises UserError when the backend cannot run on the device."""
        self.bundle = bundle
        self.preset = preset
        self.device = torch.device(resolve_for_torch(device))
        self.runs = settle(backend, precision, str(self.device))
        self.forward = of_bundle(bundle, preset, self.runs, prepare=prepare, network=self._network)

    def _network(self, graph: str) -> Any:
        """The network in Torch behind a graph, opened once for sessions and optimisation alike."""
        return getattr(self, get_graph(graph).role)

    @cached_property
    def generator(self) -> Any:
        return self.bundle.generator(device=self.device)

    @cached_property
    def inverter(self) -> Any:
        return self.bundle.inverter(device=self.device)

    @cached_property
    def identity_encoder(self) -> Any:
        return self.bundle.identity_encoder(device=self.device)

    @cached_property
    def attribute_encoder(self) -> Any:
        return self.bundle.attribute_encoder(device=self.device)

    @property
    def resolution(self) -> int:
        """Side of the generator's images in pixels, which is the side the originals are brought to."""
        return int(self.generator.config.resolution)

    def to_device(self, images: Floats | Tensor) -> Tensor:
        """Images [N, 3, R, R] in [-1, 1] as a float32 tensor on the device; raises ValueError on another shape."""
        tensor = torch.as_tensor(images, dtype=torch.float32)
        expected = (3, self.resolution, self.resolution)
        if tensor.ndim != 4 or tuple(tensor.shape[1:]) != expected:
            raise ValueError(f"images have shape {tuple(tensor.shape)}, expected [N, {', '.join(map(str, expected))}]")
        return tensor.to(self.device)

    def embed_attributes(self, images: Floats | Tensor) -> Floats:
        """Attribute embeddings float32 [N, E] that originals are paired by."""
        return self.forward.embed_attributes(self.to_device(images))

    def embed_identity(self, images: Floats | Tensor) -> Floats:
        """Identity embeddings float32 [N, D] of unit length."""
        return self.forward.embed_identity(self.to_device(images))

    def invert(self, images: Floats | Tensor) -> Floats:
        """Codes w+ float32 [N, rows, w_dim] that the generator redraws the images from."""
        return self.forward.invert(self.to_device(images))

    def synthesise(self, codes: Floats | Tensor) -> Images:
        """Pictures uint8 [N, R, R, 3] of codes w+ [N, rows, w_dim]."""
        w_plus = torch.as_tensor(codes, dtype=torch.float32).to(self.device)
        image = self.forward.session("synthesis").run(w_plus)
        return to_uint8(image, self.preset.output_scaling).cpu().numpy()

    def _embed_fakes(self, w: Floats) -> Floats:
        """Attribute embeddings [N, E] of the faces of codes w [N, w_dim], as the pool keeps them."""
        codes = self.generator.broadcast(torch.from_numpy(w).to(self.device)).contiguous()
        return self.forward.embed_generated(self.forward.session("synthesis").run(codes))

    def pool(self, spec: PoolSpec, *, progress: Progress | None = None, batch_size: int | None = None) -> Pool:
        """The pool of that specification with the features the preset pairs by, made where it is missing."""
        if spec.bundle != self.bundle.digest:
            raise ValueError("the pool's specification names another bundle")
        return create_pool(
            spec,
            self.generator,
            self.attribute_encoder,
            self.preset.pairing_generated,
            batch_size=batch_size or self.choose_batch_size(limit=64),
            progress=progress,
            embed=self._embed_fakes,
            precision=self.runs.precision,
        )

    def choose_batch_size(self, limit: int = 64) -> int:
        """How many images fit at once: at most half of the free memory, at most `limit`."""
        each = self.bytes_per_image()
        return int(max(1, min(limit, free_memory(str(self.device)) * 0.5 // each)))

    def bytes_per_image(self) -> int:
        """Estimate of what one image's optimisation step holds at its peak, in bytes.

        About six activations of every resolution, for the backward pass and while it runs, and a fixed share for the
        encoders. At 1024 px that is 1.6 GB; measured on a CPU: 1.4 GB more for every further image
        (benchmarks/results/optimise_step-cpu.json).
        """
        config = self.generator.config
        side, total = 4, 0
        while side <= config.resolution:
            total += 6 * config.channels(side) * side * side * 4
            side *= 2
        return total + 64 * 2**20


class Anonymizer(Stages):
    """Turns batches of originals into batches of other people with the same attributes."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        preset: Preset,
        pool: Pool,
        margin: float = 0.0,
        steps: int | None = None,
        device: str = "auto",
        metric: Metric = "euclidean",
        backend: str = "torch",
        precision: str = "fp32",
        prepare: Prepare | None = None,
        optimise_precision: str = "fp32",
    ) -> None:
        """Prepare to anonymize; raises UserError when the pool belongs to another bundle or a value is out of range."""
        if pool.spec.bundle != bundle.digest:
            raise UserError(
                f"pool {pool.path} was made by another bundle than {bundle.name!r}: make one with 'pool create'"
            )
        settings = checked_settings(preset, margin, steps)
        super().__init__(bundle, settings, device, backend=backend, precision=precision, prepare=prepare)
        self.margin = margin
        self.optimise_precision = optimise_precision
        self.pool_used = pool
        self._index = NearestNeighbours(pool.embedding(preset.pairing_generated, precision), metric)

    @cached_property
    def stream(self) -> Stream:
        """The optimisation, and what comes before it, for originals that come one by one."""
        from faceanon_engine.engine.method.stream import Stream

        return Stream(self, self.optimise_precision)

    def pair(self, embeddings: Floats) -> Neighbours:
        """Nearest fake of each attribute embedding [N, E]."""
        return self._index.search(embeddings)

    def anonymize(
        self,
        images: Floats | Tensor,
        *,
        include_intermediates: bool = False,
        on_step: Callable[[int], None] | None = None,
    ) -> AnonymizedBatch:
        """Anonymize originals [N, 3, R, R] in [-1, 1], N at least 1; R is the generator's resolution.

        `include_intermediates` adds the pictures of the inversion and of the paired fake.
        """
        originals = self.to_device(images)
        result = self.stream.batch(originals, on_step)
        if not include_intermediates:
            return result
        fakes = torch.from_numpy(np.array(self.pool_used.w[result.neighbour_id], np.float32)).to(self.device)
        return replace(
            result,
            inversions=self.synthesise(self.invert(originals)),
            neighbours=self.synthesise(self.generator.broadcast(fakes)),
        )


def checked_settings(preset: Preset, margin: float, steps: int | None) -> Preset:
    """The preset with that number of steps; raises UserError for a margin or a number out of range."""
    if not 0 <= margin <= 1:
        raise UserError(f"margin {margin} is outside 0 to 1: 0 asks for unrelated identities, 1 for the same")
    if steps is not None and steps < 0:
        raise UserError(f"steps {steps} is negative: 50 is usual")
    return preset if steps is None else replace(preset, steps=steps)
