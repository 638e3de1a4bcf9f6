"""An exported graph becomes an engine of TensorRT or of TensorRT for RTX: one code, the module is a parameter.

TensorRT measures kernels on the GPU it builds for and needs one. TensorRT for RTX builds ahead of time, without a GPU
and for any named target, and compiles the kernels where the engine is first run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions import Artifact
from faceanon_engine.engine.sessions.engine_key import PORTABLE, EngineKey
from faceanon_engine.engine.sessions.graphs import BATCH
from faceanon_engine.engine.sessions.tensorrt_session import interrupts_kept, known_targets, make_logger
from faceanon_engine.engine.system import Gpu, Observer, Progress, write_atomic
from faceanon_engine.engine.system.memory import says_out_of_memory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layer:
    """A layer of the network as the engine's builder got it: its output, and the bytes of its own weights."""

    name: str
    type: str
    precision: str
    shape: tuple[int, ...]
    """Of the first output; -1 is the batch."""
    weights: int


def architectures(backend: str, targets: list[str], gpu: Gpu | None, trt: Any) -> list[str]:
    """What to build engines for, of the targets named: one engine each, "+" joining targets that share one.

    Without targets: the GPU that is here, for TensorRT for RTX a portable engine. Raises UserError
    for a target that the backend does not know or, with TensorRT, that is not here.
    """
    known = known_targets(trt)
    if backend == "tensorrt":
        if gpu is None:
            raise UserError(
                "tensorrt builds on the NVIDIA GPU that the engine is for and there is none here, see "
                "'faceanon-engine doctor': use --backend tensorrt-rtx, which builds without one, or onnxruntime"
            )
        wrong = [target for target in targets if target != gpu.architecture]
        if wrong:
            raise UserError(
                f"tensorrt builds for the GPU it runs on, {gpu.name} ({gpu.architecture}), not for {', '.join(wrong)}: "
                "leave --target out, build there, or use --backend tensorrt-rtx"
            )
        return [gpu.architecture]
    for target in targets:
        wrong = [part for part in target.split("+") if part not in known]
        if wrong and target != PORTABLE:
            raise UserError(
                f"{backend} {trt.__version__} has no target {wrong[0]!r}: use {', '.join(known)}, or {PORTABLE}"
            )
    return targets or [PORTABLE]


def build_engine(
    artifact: Artifact,
    key: EngineKey,
    trt: Any,
    *,
    progress: Progress | None = None,
    timing_cache: Path | None = None,
) -> tuple[Any, dict[str, Any]]:
    """The engine's bytes, and what is known of it: seconds, layers, versions.

    Raises UserError naming the operator and its place when the parser does not take the graph, and when memory, the GPU
    or a flag that the backend does not serve stops the build.
    """
    with interrupts_kept() as interrupted:
        return _build(artifact, key, trt, progress or Observer().progress, timing_cache, interrupted)


def _build(
    artifact: Artifact,
    key: EngineKey,
    trt: Any,
    progress: Progress,
    timing_cache: Path | None,
    interrupted: Callable[[], bool],
) -> tuple[Any, dict[str, Any]]:
    told: list[str] = []
    log = make_logger(trt, told)
    started = time.monotonic()
    try:
        builder = trt.Builder(log)
    except TypeError:
        # So the binding says that the library could not start; why is in the log.
        raise _build_error(artifact, key, told) from None
    flags = 0
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        # The graph's own types decide; TensorRT 11 knows nothing else.
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(artifact.path)):
        raise _parse_error(artifact, key, parser, trt)
    config = builder.create_builder_config()
    _configure(config, key, trt)
    profile = builder.create_optimization_profile()
    for name, spec in artifact.inputs.items():
        sizes = (key.profile.min, key.profile.opt, key.profile.max)
        profile.set_shape(name, *(tuple(size if part == BATCH else part for part in spec.shape) for size in sizes))
    config.add_optimization_profile(profile)
    monitor = make_monitor(trt, progress, interrupted)
    config.progress_monitor = monitor
    timings = _load_timings(config, key, timing_cache)
    layers = layers_of(network, trt)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _build_error(artifact, key, told)
    if timings is not None and timing_cache is not None:
        _save_timings(config, timing_cache)
    progress(1.0, 1.0)
    details = {
        "seconds": time.monotonic() - started,
        "layers": [asdict(layer) for layer in layers],
        "tools": {"backend": f"{key.backend} {trt.__version__}", "graph": artifact.tools},
        "graph_errors": artifact.reached,
        "warnings": list(dict.fromkeys(told))[:20],
    }
    return plan, details


def _configure(config: Any, key: EngineKey, trt: Any) -> None:
    options = key.options
    wanted = {
        "VERSION_COMPATIBLE": options.version_compatible,
        "REFIT": options.refittable,
        "STRIP_PLAN": options.strip_weights,
        # What is put back are the very weights that were taken out, so kernels may be tuned to them.
        "REFIT_IDENTICAL": options.strip_weights and not options.refittable,
    }
    for name, on in wanted.items():
        if not on:
            continue
        if not hasattr(trt.BuilderFlag, name):
            raise UserError(f"{key.backend} {trt.__version__} does not know {name}: leave that flag out")
        config.set_flag(getattr(trt.BuilderFlag, name))
    # fp32 means float32: TF32 would keep ten bits of the mantissa, and agree with nothing else to the digits promised.
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.hardware_compatible:
        if not hasattr(trt, "HardwareCompatibilityLevel"):
            raise UserError(f"{key.backend} {trt.__version__} has no hardware compatibility: leave that flag out")
        level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        config.hardware_compatibility_level = level
        if config.hardware_compatibility_level != level:
            # TensorRT for RTX takes the setting and forgets it.
            raise UserError(
                f"{key.backend} {trt.__version__} has no hardware compatibility; an engine without --target runs on "
                "every GPU from sm_80 on: leave --hardware-compatible out"
            )
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    # What --inspect shows of an engine on the GPU.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if known_targets(trt) and key.architecture != PORTABLE:
        targets = key.architecture.split("+")
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            if not config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{target[3:]}"), index):
                # Built all the same, the engine would be for something else.
                raise UserError(f"{key.backend} {trt.__version__} does not take the targets {key.architecture}")


def _load_timings(config: Any, key: EngineKey, path: Path | None) -> Any:
    """The timing cache the builder will use; None with TensorRT for RTX, whose own needs a GPU and has no effect."""
    if path is None or key.backend != "tensorrt":
        return None
    content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        # Of another GPU or damaged: measured again.
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=True)
    return cache


def _save_timings(config: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, bytes(config.get_timing_cache().serialize()))
    except OSError as error:
        logger.info("%s cannot be written: %s", path, error)


def _parse_error(artifact: Artifact, key: EngineKey, parser: Any, trt: Any) -> UserError:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return UserError(f"{key.backend} {trt.__version__} cannot read {artifact.path}: build it again with --force")
    # The first error names the operator; what follows repeats it for the graph around.
    error = errors[0]
    what = " ".join(str(error.desc()).split())
    place = (
        f"operator {error.node_operator()} at {error.node_name() or 'an unnamed node'}" if error.node_operator() else ""
    )
    return UserError(
        f"{key.backend} {trt.__version__} does not take {artifact.graph} ({artifact.precision})"
        f"{', ' + place if place else ''}: {what[:300]}; use --backend onnxruntime, or another version"
    )


def _build_error(artifact: Artifact, key: EngineKey, told: list[str]) -> UserError:
    text = " ".join((told[-1] if told else "no reason given").split())
    subject = f"{key.backend} {key.backend_version} cannot build {artifact.graph} ({artifact.precision})"
    if any(says_out_of_memory(line) for line in told):
        return UserError(
            f"{subject}: out of memory; give a smaller largest --batch than {key.profile.max}, a smaller "
            "--workspace, or a 16-bit --precision"
        )
    if key.options.workspace is not None and "workspace" in text:
        return UserError(f"{subject} in a workspace of {key.options.workspace} bytes; give a larger --workspace")
    if "libnvinfer_lean" in text:
        return UserError(f"{subject}: its package has no lean runtime; leave --version-compatible out")
    if (key.options.refittable or key.options.strip_weights) and "CUDA" in text:
        return UserError(f"{subject}: refittable and stripped engines need a GPU to build on; leave those flags out")
    return UserError(f"{subject}: {text[:300]}")


def layers_of(network: Any, trt: Any) -> list[Layer]:
    """The layers that compute something, in their order."""
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        output = layer.get_output(0)
        kind = layer.type.name
        if output is None:
            continue
        layers.append(
            Layer(
                name=layer.name,
                type=kind.lower(),
                precision=output.dtype.name.lower(),
                shape=_shape(output),
                weights=_weights(layer, kind, trt),
            )
        )
    return layers


def _shape(tensor: Any) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in tensor.shape)
    except ValueError:
        return ()  # known when it runs


def _weights(layer: Any, kind: str, trt: Any) -> int:
    """Bytes of a layer's own weights."""
    holders = {
        "CONSTANT": ("IConstantLayer", ("weights",)),
        "CONVOLUTION": ("IConvolutionLayer", ("kernel", "bias")),
        "DECONVOLUTION": ("IDeconvolutionLayer", ("kernel", "bias")),
        "SCALE": ("IScaleLayer", ("scale", "shift", "power")),
    }
    if kind not in holders:
        return 0
    name, parts = holders[kind]
    # The module gives out base classes; this is how it is told which one it is.
    layer.__class__ = getattr(trt, name)
    total = 0
    for part in parts:
        value = getattr(layer, part, None)
        total += int(getattr(value, "nbytes", 0) or 0)
    return total


def make_monitor(trt: Any, progress: Progress, interrupted: Callable[[], bool]) -> Any:
    """A progress monitor of that module: it tells the share of the work that is done, and ends it when interrupted."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases = Phases()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.phases.step(phase_name, step)
            progress(self.phases.share, 1.0)
            return not interrupted()

        def phase_finish(self, phase_name: str) -> None:
            self.phases.finish(phase_name)

    return Monitor()


class Phases:
    """The nested phases of a build as one share that never falls."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[str | None, int, int]] = {}
        """Phase: its parent, its number of steps, those done."""
        self.share = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins within its parent's current step."""
        self._running[name] = (parent, max(1, steps), 0)

    def step(self, name: str, step: int) -> None:
        """A phase has done the step of that number, counted from 0."""
        if name in self._running:
            parent, steps, _ = self._running[name]
            self._running[name] = (parent, steps, min(steps, step + 1))
        self.share = max(self.share, min(1.0, self._of_roots()))

    def finish(self, name: str) -> None:
        """A phase is over."""
        self._running.pop(name, None)

    def _of_roots(self) -> float:
        return max((self._of(name) for name, (parent, *_) in self._running.items() if parent is None), default=0.0)

    def _of(self, name: str) -> float:
        _, steps, done = self._running[name]
        inner = [self._of(child) for child, (parent, *_) in self._running.items() if parent == name]
        return min(1.0, (done + max(inner, default=0.0)) / steps)
