"""The forward-only stages: features, inversion and pairing, images in and arrays out, through sessions.

Nothing here needs Torch: with another backend, and what it runs already built, a program that only extracts, inverts
and pairs never loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.choices import Metric, Precision
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method.pairing import NearestNeighbours, Neighbours
from faceanon_engine.engine.method.preset import Preset
from faceanon_engine.engine.sessions.graphs import Artifact, artifact_name
from faceanon_engine.engine.sessions.opening import (
    Prepare,
    check_names,
    choose,
    device_for,
    open_artifact,
    open_session,
    provider_of,
    why_not,
)
from faceanon_engine.engine.sessions.recipes import for_attributes, for_identity
from faceanon_engine.engine.sessions.session import About, Session
from faceanon_engine.engine.system.cores import usable_cores
from faceanon_engine.engine.system.tensors import as_array

if TYPE_CHECKING:
    from faceanon_engine.engine.method.pool import Pool
    from faceanon_engine.engine.models.bundle import Bundle
    from faceanon_engine.engine.sessions.cache import EngineCache

Floats = npt.NDArray[np.float32]
OpenGraph = Callable[[str], Session]


class ForwardStages:
    """The stages, each from images [N, 3, R, R] in [-1, 1], arrays or tensors, to float32 arrays."""

    def __init__(
        self, open_graph: OpenGraph, preset: Preset, attribute_config: Mapping[str, Any] | None = None
    ) -> None:
        """`open_graph(name)` opens a session when it is first needed; `attribute_config` as bundle.json has it.

        Only recipes without normalisation need the configuration; those that pair have it in both presets.
        """
        self._open = open_graph
        self._sessions: dict[str, Session] = {}
        self.preset = preset
        self._attribute_config = attribute_config

    def session(self, graph: str) -> Session:
        """The session of that graph, opened once."""
        if graph not in self._sessions:
            self._sessions[graph] = self._open(graph)
        return self._sessions[graph]

    def adopt(self, other: ForwardStages) -> None:
        """Take over the sessions that another has opened for the same networks."""
        self._sessions = other._sessions | self._sessions
        other._sessions = {}

    def opened(self) -> dict[str, About]:
        """What really runs each graph that was opened."""
        return {graph: session.describe() for graph, session in self._sessions.items()}

    def embed_attributes(self, images: Any) -> Floats:
        """Attribute embeddings float32 [N, E] that originals are paired by."""
        adapted = for_attributes(images, self.preset.pairing_real, self._attribute_config)
        return as_array(self.session("attributes").run(adapted))

    def embed_generated(self, images: Any) -> Floats:
        """Attribute embeddings float32 [N, E] of generated images, as a pool keeps them."""
        adapted = for_attributes(images, self.preset.pairing_generated, self._attribute_config)
        return as_array(self.session("attributes").run(adapted))

    def embed_identity(self, images: Any) -> Floats:
        """Identity embeddings float32 [N, D] of unit length."""
        return as_array(self.session("identity").run(for_identity(images, self.preset.identity_real)))

    def invert(self, images: Any) -> Floats:
        """Codes w+ float32 [N, rows, w_dim] that the generator redraws the images from."""
        return as_array(self.session("inverter").run(images))

    def pair(self, embeddings: Floats, pool: Pool, metric: Metric = "euclidean", k: int = 1) -> Neighbours:
        """The k nearest faces of a pool for each attribute embedding [N, E]."""
        return NearestNeighbours(pool.embedding(self.preset.pairing_generated), metric).search(embeddings, k)

    def close(self) -> None:
        """Close every session."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()


@dataclass(frozen=True)
class Runs:
    """What runs the forward-only stages, settled before anything is opened.

    A session that would run on something else raises instead, so what is said here is what really runs.
    """

    backend: str
    precision: str
    device: str
    passed_over: Mapping[str, str] = field(default_factory=dict)
    """Faster backends that this machine cannot run, with the reasons."""

    def about(self) -> dict[str, str]:
        """Backend with its version and provider, precision and threads, for people."""
        about = {"backend": provider_of(self.backend, self.device), "precision": self.precision}
        if self.device != "cpu":
            return about
        if self.backend == "torch":
            import torch

            return about | {"threads": str(torch.get_num_threads())}
        return about | {"threads": str(usable_cores())}


def settle(backend: str, precision: str, device: str) -> Runs:
    """What the names mean on this machine, "auto" resolved; raises UserError for unknown names and absent devices."""
    check_names(backend, precision)
    place = device_for(device, backend)
    if backend != "auto":
        reason = why_not(backend, place)
        if reason is not None:
            raise UserError(f"backend {backend} cannot run on {place} here: {reason}; see 'faceanon-engine doctor'")
        return Runs(backend, precision, place)
    choice = choose(place, precision)
    return Runs(choice.backend, precision, place, choice.passed_over)


def of_bundle(
    bundle: Bundle,
    preset: Preset,
    runs: Runs,
    *,
    prepare: Prepare | None = None,
    cache: EngineCache | None = None,
    network: Callable[[str], Any] | None = None,
) -> ForwardStages:
    """The stages with a bundle's networks. `network(graph)` gives those that Torch has loaded already."""

    def open_graph(graph: str) -> Session:
        return open_session(
            bundle,
            graph,
            backend=runs.backend,
            precision=runs.precision,
            device=runs.device,
            prepare=prepare,
            cache=cache,
            network=network(graph) if network is not None and runs.backend == "torch" else None,
        )

    return ForwardStages(open_graph, preset, bundle.networks["attribute_encoder"]["config"])


def from_folder(
    folder: Path,
    preset: Preset,
    *,
    attribute_config: Mapping[str, Any] | None = None,
    precision: Precision = "fp32",
    device: str = "cpu",
    threads: int | None = None,
) -> ForwardStages:
    """The stages with the exported graphs of a folder, run by ONNX Runtime; neither Torch nor a bundle is needed.

    Raises UserError, when a stage is first used, for a graph that is missing, damaged or of another bundle than those
    opened before.
    """
    opened: set[str] = set()

    def open_graph(graph: str) -> Session:
        artifact = Artifact.read(folder / f"{artifact_name(graph, precision)}.onnx")
        artifact.check()
        opened.add(artifact.bundle_digest)
        if len(opened) > 1:
            raise UserError(f"the graphs in {folder} are of different bundles: export them again")
        return open_artifact(artifact, device=device, threads=threads)

    return ForwardStages(open_graph, preset, attribute_config)
