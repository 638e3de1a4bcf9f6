"""What a session needs before it can be opened: a graph exported, an engine built, each once and kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.beginning import WorkerFactory
from faceanon_engine.engine.job.workers import FalcoWorker
from faceanon_engine.engine.models import Bundle
from faceanon_engine.engine.sessions import Artifact, EngineCache, EngineOptions, Prepare, Wanted
from faceanon_engine.engine.sessions.cache import Entry
from faceanon_engine.engine.sessions.opening import engine_key, why_not_prepared
from faceanon_engine.engine.sessions.tensorrt_session import known_targets, load_module
from faceanon_engine.engine.system import gpus
from faceanon_engine.engine.system.cuda_driver import working_on
from faceanon_engine.export.tensorrt import Progress, architectures, build_engine

if TYPE_CHECKING:
    from faceanon_engine.export.onnx_export import Traced

Note = Callable[[str], None]


def prepare(bundle: Bundle, wanted: Wanted, cache: EngineCache) -> None:
    """Put into the cache what is wanted and is not there; a `Prepare` for `open_session`.

    Raises UserError when it cannot be exported or built here.
    """
    artifact = prepare_graph(bundle, wanted, cache)
    if wanted.backend != "onnxruntime":
        gpu = gpus()[int(wanted.device.partition(":")[2] or 0)]
        trt = load_module(wanted.backend)
        # For this GPU alone where it can be named: kernels need not serve others.
        named = [gpu.architecture] if gpu.architecture in known_targets(trt) else []
        prepare_engine(artifact, wanted, architectures(wanted.backend, named, gpu, trt)[0], cache, trt=trt)


def telling(note: Note) -> Prepare:
    """`prepare`, saying beforehand what takes a while; sent to another process it is `prepare` alone."""
    return _Telling(note)


def prepare_for(backend: str, note: Note) -> Prepare | None:
    """What makes what a backend lacks, saying so beforehand; None for "torch", which lacks nothing."""
    return None if backend == "torch" else telling(note)


def worker_factory(backend: str, note: Note) -> WorkerFactory | None:
    """A job's worker that makes what its backend lacks; None, the usual one, for "torch"."""
    return None if backend == "torch" else partial(FalcoWorker, prepare=telling(note))


class _Telling:
    """A callable that is left behind where there is nobody to tell."""

    def __init__(self, note: Note) -> None:
        self._note = note

    def __call__(self, bundle: Bundle, wanted: Wanted, cache: EngineCache) -> None:
        self._note(f"building {wanted.graph} ({wanted.precision}) for {wanted.backend}, this once")
        prepare(bundle, wanted, cache)

    def __reduce__(self) -> tuple[Callable[[], Prepare], tuple[()]]:
        return _silent, ()


def _silent() -> Prepare:
    return prepare


def prepare_graph(
    bundle: Bundle,
    wanted: Wanted,
    cache: EngineCache,
    *,
    force: bool = False,
    trace: Callable[[], Traced] | None = None,
) -> Artifact:
    """The exported and verified graph, made where it is missing or `force` is given; one of several processes makes it.

    `trace` gives the traced graph, which is kept for further precisions, and is called only where it is needed. Raises
    UserError when it cannot be exported with what is installed, or misses its tolerance.
    """

    def export(folder: Path) -> Artifact:
        reason = why_not_prepared()
        if reason is not None:
            raise UserError(reason)
        from faceanon_engine.export.onnx_export import export_graph

        return export_graph(
            bundle,
            wanted.graph,
            wanted.precision,
            folder,
            image_input=wanted.image_input,
            traced=None if trace is None else trace(),
        )

    return cache.ensure_graph(
        bundle.digest, wanted.graph, wanted.precision, export, image_input=wanted.image_input, force=force
    )


def prepare_engine(
    artifact: Artifact,
    wanted: Wanted,
    architecture: str,
    cache: EngineCache,
    *,
    options: EngineOptions | None = None,
    force: bool = False,
    progress: Progress | None = None,
    trt: Any = None,
) -> Entry:
    """The engine of an exported graph for an architecture, built where it is missing or `force` is given.

    It is built on the GPU that is wanted, or on the first one where none is named.
    """
    trt = trt or load_module(wanted.backend)
    version = str(trt.__version__)
    key = replace(engine_key(artifact, wanted, version, architecture), options=options or EngineOptions())
    timings = cache.timing_cache(wanted.backend, version, architecture)

    def build() -> tuple[Any, dict[str, Any]]:
        kind, _, number = wanted.device.partition(":")
        with working_on(int(number or 0)) if kind == "cuda" else nullcontext():
            return build_engine(artifact, key, trt, progress=progress, timing_cache=timings)

    return cache.ensure(key, build, force=force)
