"""What runs the stages without gradients: settled beforehand, and opened graph by graph when first needed (lazy).

Nothing here needs Torch: with another backend, and what it runs already built, a program that only extracts, inverts
and pairs never loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceanon_engine.engine.choices import Precision
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions.graphs import Artifact, artifact_name, get_graph
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
from faceanon_engine.engine.sessions.session import About, Session
from faceanon_engine.engine.system.cores import usable_cores

if TYPE_CHECKING:
    from faceanon_engine.engine.models.opened import OpenedNetworks
    from faceanon_engine.engine.sessions.cache import EngineCache

OpenGraph = Callable[[str], Session]


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


class Sessions:
    """The graphs of one set of networks, each opened when it is first needed, and once."""

    def __init__(self, open_graph: OpenGraph, runs: Runs, attribute_config: Mapping[str, Any] | None = None) -> None:
        """`open_graph(name)` opens a session of `runs`; `attribute_config` is the encoder's, as bundle.json has it.

        Only pixel recipes without normalisation need the configuration.
        """
        self.runs = runs
        self.attribute_config = attribute_config
        self._open = open_graph
        self._sessions: dict[str, Session] = {}

    def session(self, graph: str) -> Session:
        """The session of that graph; raises UserError when it cannot be opened."""
        if graph not in self._sessions:
            self._sessions[graph] = self._open(graph)
        return self._sessions[graph]

    def describe(self) -> dict[str, About]:
        """What really runs each graph that was opened."""
        return {graph: session.describe() for graph, session in self._sessions.items()}

    def close(self) -> None:
        """Close every session."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def sessions_of_bundle(
    bundle: Bundle,
    runs: Runs,
    *,
    prepare: Prepare | None = None,
    cache: EngineCache | None = None,
    networks: OpenedNetworks | None = None,
) -> Sessions:
    """Sessions of a bundle's graphs; `prepare` makes what the backend lacks.

    `networks` are the bundle's in Torch, which sessions of the backend "torch" then share instead of loading their own.
    """

    def open_graph(graph: str) -> Session:
        shared = networks if runs.backend == "torch" else None
        return open_session(
            bundle,
            graph,
            backend=runs.backend,
            precision=runs.precision,
            device=runs.device,
            prepare=prepare,
            cache=cache,
            network=None if shared is None else shared.of_role(get_graph(graph).role),
        )

    return Sessions(open_graph, runs, bundle.networks["attribute_encoder"]["config"])


def sessions_of_folder(
    folder: str | Path,
    *,
    attribute_config: Mapping[str, Any] | None = None,
    precision: Precision = "fp32",
    device: str = "cpu",
    threads: int | None = None,
) -> Sessions:
    """Sessions of the exported graphs in a folder, run by ONNX Runtime; neither Torch nor a bundle is needed.

    Raises UserError, when a graph is first used, where it is missing, damaged or of another bundle than those opened
    before.
    """
    bundles: set[str] = set()

    def open_graph(graph: str) -> Session:
        artifact = Artifact.read(Path(folder) / f"{artifact_name(graph, precision)}.onnx")
        artifact.check()
        bundles.add(artifact.bundle_digest)
        if len(bundles) > 1:
            raise UserError(f"the graphs in {folder} are of different bundles: export them again")
        return open_artifact(artifact, device=device, threads=threads)

    return Sessions(open_graph, Runs("onnxruntime", precision, device), attribute_config)
