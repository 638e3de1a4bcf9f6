"""Building what was asked for of a bundle: every network, precision, backend and target, one after the other."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from faceanon_engine.engine.bench import Budget, host_probe, measure_interleaved, resident_peak, summarise
from faceanon_engine.engine.choices import ROLES, ImageInput, Precision
from faceanon_engine.engine.errors import UserError, refuse_single
from faceanon_engine.engine.models import Bundle
from faceanon_engine.engine.sessions import (
    GRAPHS,
    Artifact,
    EngineCache,
    EngineOptions,
    Profile,
    Session,
    Wanted,
    open_engine,
    open_session,
)
from faceanon_engine.engine.sessions.cache import Entry
from faceanon_engine.engine.sessions.engine_key import runs_on
from faceanon_engine.engine.sessions.graphs import get_graph
from faceanon_engine.engine.sessions.opening import check_names, open_artifact, why_not
from faceanon_engine.engine.sessions.tensorrt_session import load_module
from faceanon_engine.engine.system import Gpu, Observer, OutOfMemory, describe_machine, first_line, gpus, write_atomic
from faceanon_engine.engine.system.files import failures_explained
from faceanon_engine.export.prepare import prepare_engine, prepare_graph
from faceanon_engine.export.tensorrt import architectures

if TYPE_CHECKING:
    from faceanon_engine.export.onnx_export import Traced

logger = logging.getLogger(__name__)

REPORT_FORMAT = 2
ENGINE_BACKENDS = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class Request:
    """What to build. networks: names of graphs or of a bundle's roles; backends, precisions, targets: each once."""

    networks: Sequence[str] = ()
    """Empty for all."""
    backends: Sequence[str] = ()
    """Empty for everything that can be built here."""
    precisions: Sequence[Precision] = ("fp32",)
    profile: Profile = field(default_factory=Profile)
    targets: Sequence[str] = ()
    image_input: ImageInput = "float"
    options: EngineOptions = field(default_factory=EngineOptions)
    force: bool = False

    def __post_init__(self) -> None:
        for name in ("networks", "backends", "precisions", "targets"):
            refuse_single(name, getattr(self, name))


@dataclass(frozen=True)
class Item:
    """One thing to build: an exported graph (backend onnxruntime) or an engine for an architecture."""

    graph: str
    precision: Precision
    backend: str
    architecture: str | None

    @property
    def title(self) -> str:
        """For a progress bar."""
        where = "" if self.architecture is None else f" {self.architecture}"
        return f"{self.graph} {self.precision} {self.backend}{where}"


@dataclass(frozen=True)
class Built:
    """What became of an item.

    maximum_error, mean_error: largest and mean absolute difference from float64 Torch; measured_on says what ran.
    throughput: images a second at batch `throughput_batch`, None where it cannot run here.
    """

    graph: str
    precision: str
    backend: str
    architecture: str | None
    path: str | None
    bytes: int | None
    seconds: float
    reused: bool
    maximum_error: float | None = None
    mean_error: float | None = None
    measured_on: str | None = None
    throughput: float | None = None
    throughput_batch: int | None = None
    not_run: str | None = None
    """Why it was not run here."""
    error: str | None = None
    """Why it could not be built."""


@dataclass(frozen=True)
class Build:
    """A build as a whole: what was asked of which bundle, the folder it goes into, and what became of it."""

    bundle: Bundle
    request: Request
    folder: Path
    items: tuple[Item, ...]
    built: tuple[Built, ...] = ()
    """What became of each item; empty where nothing was to be built yet."""

    @property
    def failed(self) -> tuple[Built, ...]:
        """What could not be built."""
        return tuple(each for each in self.built if each.error is not None)

    @property
    def exit_code(self) -> int:
        """0 when everything was built, 1 when something could not be."""
        return 1 if self.failed else 0


class BuildObserver(Observer):
    """What building is watched by; the progress it is told is the share of the item that began last, of 1."""

    def begin(self, item: Item) -> None:
        """An item begins; what follows it may be long."""

    def end(self, item: Item, built: Built) -> None:
        """An item is done, or could not be."""


def build(
    bundle: str | Path | None = None,
    *,
    networks: Sequence[str] = (),
    backends: Sequence[str] = (),
    precisions: Sequence[Precision] = ("fp32",),
    profile: Profile | None = None,
    targets: Sequence[str] = (),
    image_input: ImageInput = "float",
    options: EngineOptions | None = None,
    force: bool = False,
    output: str | Path | None = None,
    dry_run: bool = False,
    observer: BuildObserver | None = None,
) -> Build:
    """Export the networks of a bundle to verified graphs and build engines of them; what is there and right is kept.

    Most arguments are those of `Request`. profile: batch sizes an engine serves. force: build again what is there.
    output: a folder in place of the user's cache. dry_run: name the items and build nothing. One that cannot be built
    has its error in the answer, and the others are built all the same.

    Raises UserError for one name where a list belongs, for unknown names, for a backend asked for that cannot be built
    for here, for a target that the backend does not have, and for a bundle that is not there.
    """
    request = Request(
        networks=networks,
        backends=backends,
        precisions=precisions,
        profile=profile or Profile(),
        targets=targets,
        image_input=image_input,
        options=options or EngineOptions(),
        force=force,
    )
    items = plan(request)
    opened = Bundle.open(bundle)
    cache = EngineCache(None if output is None else Path(output))
    built = [] if dry_run else run(opened, request, items, cache, observer)
    return Build(opened, request, cache.root, tuple(items), tuple(built))


def plan(request: Request) -> list[Item]:
    """The items of a request, in their order; nothing is built.

    Raises UserError for unknown names, for a backend asked for that cannot be built for here, and for a target that the
    backend does not have.
    """
    for precision in request.precisions:
        check_names("auto", precision)
    graphs = graphs_of(request.networks)
    here = gpus()[0] if gpus() else None
    chosen = list(request.backends) or [name for name in ("onnxruntime", *ENGINE_BACKENDS) if _buildable(name, here)]
    places: dict[str, Sequence[str | None]] = {}
    for backend in chosen:
        check_names(backend, "fp32")
        if backend in ("auto", "torch"):
            raise UserError(
                f"there is nothing to build for backend {backend!r}: name onnxruntime or an engine's backend"
            )
        if backend == "onnxruntime":
            places[backend] = [None]
        elif request.backends or not request.targets or backend == "tensorrt-rtx":
            # Without names, targets are meant for the backend that builds ahead of time.
            places[backend] = architectures(backend, list(request.targets), here, load_module(backend))
    if request.targets and not any(name in ENGINE_BACKENDS for name in places):
        raise UserError(
            "--target names GPUs and nothing is built for any: pip install tensorrt-rtx-cu13, or leave it out"
        )
    return [
        Item(graph, precision, backend, place)
        for graph in graphs
        for precision in request.precisions
        for backend, named in places.items()
        for place in named
    ]


def graphs_of(networks: Iterable[str]) -> list[str]:
    """Graphs by their names or those of their roles, in the usual order; all where none is named."""
    wanted: set[str] = set()
    for name in networks:
        if name in ROLES:
            wanted |= {graph.name for graph in GRAPHS.values() if graph.role == name}
        else:
            wanted.add(get_graph(name).name)
    return [name for name in GRAPHS if name in wanted or not wanted]


def _buildable(backend: str, gpu: Gpu | None) -> bool:
    if backend == "onnxruntime":
        return True
    try:
        load_module(backend)
    except UserError as error:
        logger.info("%s", error)
        return False
    return backend != "tensorrt" or gpu is not None


def run(
    bundle: Bundle, request: Request, items: Sequence[Item], cache: EngineCache, observer: BuildObserver | None = None
) -> list[Built]:
    """Build the items; one that cannot be built has its error, and the others are built all the same."""
    observer = observer or BuildObserver()
    graphs = _Graphs(bundle, request, cache)
    rows: list[Built] = []
    for item in items:
        observer.begin(item)
        started = time.monotonic()
        try:
            built = _build(bundle, request, item, cache, graphs, observer)
        except Exception as error:
            logger.debug("%s cannot be built", item.title, exc_info=True)
            seconds = time.monotonic() - started
            built = Built(**_names(item), path=None, bytes=None, seconds=seconds, reused=False, error=_told(error))
        rows.append(built)
        observer.end(item, built)
    return rows


def _told(error: Exception) -> str:
    """What a row says of an error; one that nobody foresaw has its type before it."""
    if isinstance(error, (UserError, OutOfMemory)):
        return str(error)
    return f"unexpected {type(error).__name__}: {first_line(error)}; '--log-level debug' shows where"


def _names(item: Item) -> dict[str, Any]:
    return asdict(item)


class _Graphs:
    """The exported graphs of a build: each is asked for once, and traced once for all its precisions."""

    def __init__(self, bundle: Bundle, request: Request, cache: EngineCache) -> None:
        self._bundle, self._request, self._cache = bundle, request, cache
        self._traced: tuple[str, Traced] | None = None
        self._done: dict[tuple[str, str], tuple[Artifact, float]] = {}
        self._failed: dict[tuple[str, str], UserError] = {}

    def artifact(self, graph: str, precision: Precision) -> tuple[Artifact, float]:
        """The exported graph, and the seconds that exporting took; 0.0 where it was there."""
        key = (graph, precision)
        if key in self._failed:
            raise self._failed[key]
        if key not in self._done:
            try:
                self._done[key] = self._prepare(graph, precision)
            except UserError as error:
                self._failed[key] = error
                raise
        return self._done[key]

    def _prepare(self, graph: str, precision: Precision) -> tuple[Artifact, float]:
        started: float | None = None

        def trace() -> Traced:
            nonlocal started
            from faceanon_engine.export.onnx_export import trace_bundle

            # Not before: another process may be exporting the same graph, which is waited for.
            started = time.monotonic()
            if self._traced is None or self._traced[0] != graph:
                self._traced = (graph, trace_bundle(self._bundle, graph, image_input=request.image_input))
            return self._traced[1]

        request = self._request
        wanted = Wanted(graph, "onnxruntime", precision, "cpu", image_input=request.image_input)
        artifact = prepare_graph(self._bundle, wanted, self._cache, force=request.force, trace=trace)
        return artifact, 0.0 if started is None else time.monotonic() - started


def _build(
    bundle: Bundle, request: Request, item: Item, cache: EngineCache, graphs: _Graphs, observer: BuildObserver
) -> Built:
    artifact, exported = graphs.artifact(item.graph, item.precision)
    reached = artifact.reached
    errors: dict[str, Any] = {
        "maximum_error": reached.get("maximum_absolute"),
        "mean_error": reached.get("mean_absolute"),
        "measured_on": "the graph on the CPU" if reached else None,
    }
    wanted = Wanted(item.graph, item.backend, item.precision, "cpu", request.profile, request.image_input)  # type: ignore[arg-type]
    entry = None
    if item.backend == "onnxruntime":
        made: dict[str, Any] = {
            "path": str(artifact.path),
            "bytes": artifact.bytes,
            "seconds": exported,
            "reused": not exported,
        }
    else:
        built_now = False

        def progress(done: float, total: float | None, what: str = "") -> None:
            nonlocal built_now
            built_now = True
            observer.progress(done, total, item.title)

        entry = prepare_engine(
            artifact,
            wanted,
            item.architecture or "",
            cache,
            options=request.options,
            force=request.force,
            progress=progress,
        )
        made = {
            "path": str(entry.path),
            "bytes": entry.bytes,
            "seconds": float(entry.details["seconds"]) if built_now else 0.0,
            "reused": not built_now,
        }
    ran = _try(bundle, item, request, artifact, entry)
    if not np.isfinite(ran.get("maximum_error", 0.0)):
        raise UserError(f"{item.title} gives values that are not finite, {ran['measured_on']}: use another --precision")
    return Built(**_names(item), **made, **{**errors, **ran})


def _try(bundle: Bundle, item: Item, request: Request, artifact: Artifact, entry: Entry | None) -> dict[str, Any]:
    """Run what was built, where this machine can: throughput, and for engines the errors they have themselves."""
    here = gpus()[0] if gpus() else None
    device = "cpu" if here is None else "cuda:0"
    if entry is not None:
        reason = "there is no GPU here" if here is None else why_not(item.backend, device)
        if reason is None and here is not None and not runs_on(entry.key, here.architecture):
            reason = f"it is for {item.architecture}, here is {here.architecture}"
        if reason is not None:
            return {"not_run": reason}
    elif why_not("onnxruntime", device) is not None:
        device = "cpu"
    try:
        with (
            open_engine(entry.path, artifact, device=device) if entry else open_artifact(artifact, device=device)
        ) as session:
            usual = request.profile.opt
            inputs = _inputs(session, _fitting(session, usual) if device == "cpu" else usual)
            measured: dict[str, Any] = {
                "throughput": _throughput(session, inputs),
                "throughput_batch": len(inputs),
            }
            if device != "cpu":
                measured |= _errors(bundle, item, session, inputs[:4], request.image_input)
    except Exception as error:
        # What was built is there and is said to be, whatever its trial stumbles over.
        logger.debug("%s cannot be run", item.title, exc_info=True)
        return {"not_run": _told(error)}
    return measured


def _fitting(session: Session, count: int) -> int:
    """So many images, or fewer where what one takes says that they would not fit into memory."""
    from faceanon_engine.engine.method.capacity import reduced_to_fit

    with resident_peak() as peak:
        session.run(_inputs(session, 1))
    return reduced_to_fit(count, peak.growth or 0)


def _inputs(session: Session, count: int) -> Any:
    """Random inputs of a session: noise as pictures, normal values as codes."""
    random = np.random.default_rng(0)
    shape = (count, *(int(size) for size in session.input.shape[1:]))
    if session.input.dtype == "uint8":
        return random.integers(0, 256, shape, dtype=np.uint8)
    if len(shape) == 4:
        return random.uniform(-1, 1, shape).astype(np.float32)
    return random.standard_normal(shape).astype(np.float32)


def _throughput(session: Session, inputs: Any) -> float:
    """Images a second, host to host: the median run of about half a second."""
    budget = Budget(warmup_seconds=0.05, min_seconds=0.5, min_iterations=3, max_seconds=10.0, rounds=1)
    samples = measure_interleaved({"run": host_probe(lambda: session.run(inputs))}, budget)["run"]
    return len(inputs) / (summarise(samples.milliseconds()).p50 / 1000)


def _errors(bundle: Bundle, item: Item, session: Session, inputs: Any, image_input: ImageInput) -> dict[str, Any]:
    """Differences of a session from the network in float32 Torch on the CPU."""
    with open_session(bundle, item.graph, backend="torch", device="cpu", image_input=image_input) as reference:
        difference = np.abs(session.run(inputs).astype(np.float64) - reference.run(inputs))
    about = session.describe()
    return {
        "maximum_error": float(difference.max()),
        "mean_error": float(difference.mean()),
        "measured_on": f"{about} on {about.device}, against torch in float32",
    }


def write_report(path: Path, build: Build) -> None:
    """Write what was built, and on what machine, as JSON, atomically; raises UserError when it cannot be written."""
    content = {
        "format": REPORT_FORMAT,
        "bundle": {"name": build.bundle.name, "digest": build.bundle.digest, "path": str(build.bundle.path)},
        "request": asdict(build.request),
        "machine": describe_machine(),
        "built": [asdict(each) for each in build.built],
    }
    with failures_explained(path, "give another --report"):
        write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())
