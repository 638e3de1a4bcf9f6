"""Choosing what runs a graph, and opening it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from faceanon_engine.engine.choices import BACKENDS, PRECISIONS, Backend, ImageInput, Precision
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions.graphs import Artifact, get_graph, signature
from faceanon_engine.engine.sessions.session import Profile, Session
from faceanon_engine.engine.system.cuda_driver import gpus
from faceanon_engine.engine.system.devices import gpu_of, index_of, resolve
from faceanon_engine.engine.system.packages import is_importable, version_of

if TYPE_CHECKING:
    from faceanon_engine.engine.models.bundle import Bundle
    from faceanon_engine.engine.sessions.cache import EngineCache
    from faceanon_engine.engine.sessions.engine_key import EngineKey

logger = logging.getLogger(__name__)


# The order in which `auto` tries what a machine has, fastest first. On the CPU: benchmarks/results.
_ORDER: dict[str, tuple[Backend, ...]] = {
    "cuda": ("tensorrt", "tensorrt-rtx", "onnxruntime", "torch"),
    "cpu": ("onnxruntime", "torch"),
}


@dataclass(frozen=True)
class Wanted:
    """A graph to be prepared for a backend: what `Prepare` is asked for."""

    graph: str
    backend: Backend
    precision: Precision
    device: str
    profile: Profile | None = None
    """Batch sizes of an engine; None takes any that is built, and builds the usual."""
    image_input: ImageInput = "float"


class Prepare(Protocol):
    """Puts into the cache what is wanted of a bundle: the exporter, which this room may not import, is handed in."""

    def __call__(self, bundle: Bundle, wanted: Wanted, cache: EngineCache, /) -> None: ...


@dataclass(frozen=True)
class Choice:
    """The backend that was chosen, and why those before it were not."""

    backend: Backend
    passed_over: dict[str, str] = field(default_factory=dict)


def why_not(backend: str, device: str) -> str | None:
    """Why a backend cannot run on that device of this machine, or None when it can.

    Only what is installed and comes up counts, never what has been built: the choice must not depend on a cache.
    """
    if backend in ("tensorrt", "tensorrt-rtx"):
        from faceanon_engine.engine.sessions.tensorrt_session import known_targets, load_module

        if device == "cpu":
            return "it runs on an NVIDIA GPU, use --backend onnxruntime or torch"
        try:
            trt = load_module(backend)
        except UserError as error:
            return str(error)
        # TensorRT for RTX builds for what it knows alone, anywhere; on another GPU it opens none of its engines.
        known, gpu = known_targets(trt), gpu_of(device)
        if known and gpu.architecture not in known:
            return (
                f"{backend} {trt.__version__} does not serve {gpu.name} ({gpu.architecture}), only {', '.join(known)}: "
                "use --backend tensorrt, onnxruntime or torch"
            )
        return None
    if not is_importable(backend):
        return f"{backend} is not installed"
    if backend == "onnxruntime" and device != "cpu":
        from faceanon_engine.engine.sessions.onnxruntime_session import why_no_cuda

        return why_no_cuda(index_of(device))
    if backend == "torch" and device != "cpu":
        import torch

        if not torch.cuda.is_available():
            return "torch is built without CUDA, or the driver does not fit it"
    return None


def why_not_prepared() -> str | None:
    """Why networks cannot be exported with what is installed, or None when they can."""
    missing = [name for name in ("torch", "onnx", "onnxscript") if not is_importable(name)]
    return f"exporting needs {', '.join(missing)}: pip install 'faceanon-engine[export]'" if missing else None


def choose(device: str, precision: str) -> Choice:
    """The fastest backend that this machine can run on "cpu" or "cuda:N"; raises UserError when there is none."""
    passed_over: dict[str, str] = {}
    for backend in _ORDER["cpu" if device == "cpu" else "cuda"]:
        reason = why_not(backend, device)
        if reason is None and backend == "onnxruntime" and device == "cpu" and precision != "fp32":
            reason = f"its CPU kernels convert {precision} back and forth, which is slower than fp32"
        if reason is None and backend != "torch":
            reason = why_not_prepared()
        if reason is None:
            return Choice(backend, passed_over)
        passed_over[backend] = reason
    reasons = "; ".join(f"{backend}: {reason}" for backend, reason in passed_over.items())
    raise UserError(f"nothing installed here can run networks on {device} ({reasons})")


def check_names(backend: str, precision: str) -> None:
    """Raises UserError, naming the known ones, for an unknown backend or precision."""
    if backend != "auto" and backend not in BACKENDS:
        raise UserError(f"unknown backend {backend!r}: use auto, {', '.join(BACKENDS)}")
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r}: use one of {', '.join(PRECISIONS)}")


def open_session(
    bundle: Bundle,
    graph: str,
    *,
    backend: str = "auto",
    precision: str = "fp32",
    device: str = "auto",
    profile: Profile | None = None,
    image_input: ImageInput = "float",
    cache: EngineCache | None = None,
    prepare: Prepare | None = None,
    network: Any = None,
) -> Session:
    """A session that runs a graph of a bundle.

    backend "auto" takes the fastest that the machine can run, whatever has been built. What the backend needs is taken
    from the cache; where it is missing, `prepare` makes it. `network` is the bundle's, already loaded, for "torch".

    Raises UserError when the backend cannot run here, or when something is missing and there is no `prepare`.
    """
    get_graph(graph)
    check_names(backend, precision)
    place = device_for(device, backend)
    if backend == "auto":
        choice = choose(place, precision)
        backend = choice.backend
        logger.info("auto takes %s for %s; passed over: %s", backend, graph, choice.passed_over or "none")
    if backend == "torch":
        return _open_torch(bundle, graph, precision, place, image_input, network)
    if backend != "onnxruntime":
        gpu = "cuda:0" if device == "auto" and gpus() else place
        reason = None if gpu == "cpu" else why_not(backend, gpu)
        if reason is not None:
            raise UserError(reason)
        if place == "cpu":
            raise UserError(
                f"{backend} runs on an NVIDIA GPU and none is used here, see 'faceanon-engine doctor': "
                "use --backend onnxruntime or torch"
            )
    wanted = Wanted(graph, backend, precision, place, profile, image_input)  # type: ignore[arg-type]
    from faceanon_engine.engine.sessions.cache import EngineCache

    cache = cache or EngineCache()
    session = _open_prepared(bundle.digest, wanted, cache)
    if session is None and prepare is not None:
        prepare(bundle, wanted, cache)
        session = _open_prepared(bundle.digest, wanted, cache)
    if session is None:
        raise UserError(
            f"{graph} of bundle {bundle.name!r} is not built for {backend} in {precision} here: run 'faceanon-engine "
            f"build --bundle {bundle.name} --networks {graph} --backend {backend} --precision {precision}', "
            "or use --backend torch"
        )
    return session


def open_artifact(artifact: Artifact, *, device: str = "cpu", threads: int | None = None) -> Session:
    """A session of ONNX Runtime for an exported graph, wherever it lies; raises UserError when it cannot be opened."""
    from faceanon_engine.engine.sessions.onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession(artifact, device=device, threads=threads)


def open_engine(plan: Path, artifact: Artifact, *, device: str = "cuda:0", cuda_graphs: bool | None = None) -> Session:
    """A session of TensorRT for a built engine and its graph's record; raises UserError when it cannot be opened."""
    from faceanon_engine.engine.sessions.cache import read_entry

    return _session_of(read_entry(plan), artifact, device, cuda_graphs)


def device_for(device: str, backend: str) -> str:
    """The device that a backend is to run on: "cpu" or "cuda:N"; raises UserError when it is not there.

    "auto" is the GPU where the backend can use it; of backend "auto", where anything installed can.
    """
    candidates = _ORDER["cuda"] if backend == "auto" else (backend,)
    return resolve(device, lambda place: any(why_not(name, place) is None for name in candidates))


def provider_of(backend: str, device: str) -> str:
    """A backend with its version and the part of it that computes on that device, such as "torch 2.13.0"."""
    names = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu"), "tensorrt-rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx")}
    version = version_of(*names.get(backend, (backend, f"{backend}-cu13", f"{backend}-cu12")))
    provider = ""
    if backend == "onnxruntime":
        provider = "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"
    return " ".join(part for part in (backend, version, provider) if part)


def engine_key(artifact: Artifact, wanted: Wanted, version: str, architecture: str) -> EngineKey:
    """The key of the engine wanted of an exported graph, with the default options."""
    from faceanon_engine.engine.sessions.engine_key import EngineKey

    return EngineKey(
        bundle=artifact.bundle_digest,
        graph=artifact.graph,
        graph_digest=artifact.sha256,
        precision=artifact.precision,
        profile=wanted.profile or Profile(),
        backend=wanted.backend,
        backend_version=version,
        architecture=architecture,
        image_input=artifact.image_input,
    )


def _open_prepared(bundle: str, wanted: Wanted, cache: EngineCache) -> Session | None:
    artifact = cache.find_graph(bundle, wanted.graph, wanted.precision, wanted.image_input)
    if artifact is None:
        return None
    if wanted.backend == "onnxruntime":
        return open_artifact(artifact, device=wanted.device)
    from faceanon_engine.engine.sessions.tensorrt_session import load_module

    trt = load_module(wanted.backend)
    architecture = gpu_of(wanted.device).architecture
    key = engine_key(artifact, wanted, str(trt.__version__), architecture)
    entry = cache.find_for_gpu(key, architecture, any_profile=wanted.profile is None)
    return None if entry is None else _session_of(entry, artifact, wanted.device, None)


def _session_of(entry: Any, artifact: Artifact, device: str, cuda_graphs: bool | None) -> Session:
    from faceanon_engine.engine.sessions.tensorrt_session import TensorRTSession

    index = index_of(device)
    architecture = gpus()[index].architecture if index < len(gpus()) else "none"
    return TensorRTSession(
        entry.key.backend,
        entry.path,
        graph=entry.key.graph,
        precision=entry.key.precision,
        input=next(iter(artifact.inputs.items())),
        output=next(iter(artifact.outputs.items())),
        profile=entry.key.profile,
        device=device,
        cuda_graphs=cuda_graphs,
        runtime_cache=entry.runtime_cache(architecture) if entry.key.backend == "tensorrt-rtx" else None,
        refit=artifact.path if entry.key.options.strip_weights else None,
    )


def _open_torch(
    bundle: Bundle, graph: str, precision: str, device: str, image_input: ImageInput, network: Any
) -> Session:
    import torch

    from faceanon_engine.engine.sessions.torch_session import TorchSession

    configs = {role: entry["config"] for role, entry in bundle.networks.items()}
    takes, gives = signature(configs, graph, image_input)
    place = torch.device(device)
    if network is None:
        network = bundle.load(get_graph(graph).role, place)
    return TorchSession(network, graph, takes, gives, precision=precision, device=place)
