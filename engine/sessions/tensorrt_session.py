"""A built engine run by TensorRT or by TensorRT for RTX: one code, the module is a parameter.

Inputs and outputs stay on the device where they are tensors; arrays go through pinned memory. Everything is put on one
stream, and the host waits only for what it has to hand back.

Where a run is recorded as a CUDA graph, by us or by TensorRT for RTX, inputs and outputs are copied to and from buffers
that stay where they are: a recording has the addresses in it. It also is of the execution context as it was, which must
not be changed under it, so there is one recording at a time, of the size that was run last.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions.cuda_memory import Captured, DeviceMemory, TorchMemory, open_memory
from faceanon_engine.engine.sessions.graphs import TensorSpec
from faceanon_engine.engine.sessions.session import About, Profile, Session
from faceanon_engine.engine.system.cuda_driver import DriverError, gpus
from faceanon_engine.engine.system.files import write_atomic
from faceanon_engine.engine.system.memory import OutOfMemory, is_out_of_memory, says_out_of_memory
from faceanon_engine.engine.system.printable import first_line
from faceanon_engine.engine.system.tensors import as_array, is_tensor, like

logger = logging.getLogger(__name__)

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
INSTALL = {
    "tensorrt": "install NVIDIA's tensorrt wheels for CUDA 13",
    "tensorrt-rtx": "pip install tensorrt-rtx-cu13",
}
_ALIGNMENT = 256
"""Bytes that an address given to an engine has to be a multiple of: IExecutionContext::setTensorAddress."""


def load_module(backend: str) -> Any:
    """The Python module of a TensorRT backend; raises UserError saying how to install it."""
    try:
        return importlib.import_module(MODULES[backend])
    except Exception as error:
        # Its loader raises more than ImportError when a library is missing.
        raise UserError(
            f"{backend} cannot be loaded ({first_line(error)}): {INSTALL[backend]}, or use another --backend"
        ) from None


def known_targets(trt: Any) -> list[str]:
    """The architectures that a module builds for ahead of time; empty where it builds for its own GPU alone."""
    names = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    return [f"sm_{name[2:]}" for name in names if re.fullmatch(r"SM\d+", name)]


def make_logger(trt: Any, told: list[str]) -> Any:
    """A logger of that module: errors and warnings are appended to `told`, everything goes to our own log."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.INFO,
    }

    class Forwarding(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level >= logging.WARNING:
                told.append(message)
            # The person is told of errors by an exception: here they are for whoever looks for causes.
            logger.log(min(level, logging.INFO) if level >= logging.WARNING else logging.DEBUG, "%s", message)

    return Forwarding()


@contextlib.contextmanager
def interrupts_kept() -> Iterator[Callable[[], bool]]:
    """Keep Ctrl-C until TensorRT has returned; yields what says whether it was pressed.

    Python raises it in the next of our methods that TensorRT calls, where its binding prints and forgets it.
    """
    if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGINT)):
        yield lambda: False
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            signal.raise_signal(signal.SIGINT)


class TensorRTSession(Session):
    """An engine with one execution context."""

    def __init__(
        self,
        backend: str,
        plan: Path,
        *,
        graph: str,
        precision: str,
        input: tuple[str, TensorSpec],
        output: tuple[str, TensorSpec],
        profile: Profile,
        device: str = "cuda:0",
        cuda_graphs: bool | None = None,
        runtime_cache: Path | None = None,
        trt: Any = None,
        memory: DeviceMemory | None = None,
        refit: Path | None = None,
    ) -> None:
        """Open an engine file on a GPU.

        cuda_graphs: replay a batch size that is run again and again; None does where the profile has one size only.
        runtime_cache: where TensorRT for RTX keeps the kernels it compiles for this GPU. refit: the ONNX file that
        holds the weights of an engine that was built without them. trt and memory stand in for the module and the GPU.

        Raises UserError without a GPU or the package, for an engine of another version or GPU, and without memory.
        """
        super().__init__(input[1], output[1], profile.max, profile.min)
        self._context: Any = None
        self._backend, self._graph, self._precision, self._profile = backend, graph, precision, profile
        self._names = (input[0], output[0])
        self._device = device
        self._index = int(device.partition(":")[2] or 0)
        self._trt = trt or load_module(backend)
        if memory is None:
            if self._index >= len(gpus()):
                raise UserError(
                    f"{backend} runs on an NVIDIA GPU and {device} is not there, see 'faceanon-engine doctor': "
                    "use --backend onnxruntime or torch"
                )
            memory = open_memory(self._index)
        self._memory = memory
        self._told: list[str] = []
        self._logger = make_logger(self._trt, self._told)
        self._runtime_cache = runtime_cache
        self._kept: Any = None
        self._buffers: dict[str, tuple[int, Any, int]] = {}
        self._pinned: dict[str, Any] = {}
        self._recording: tuple[int, Captured] | None = None
        self._last = 0
        graphs = profile.fixed if cuda_graphs is None else cuda_graphs
        records_itself = hasattr(self._trt, "CudaGraphStrategy")
        self._cuda_graphs = graphs and not records_itself
        self._fixed_addresses = graphs
        self._graph_note = "CUDA graphs by TensorRT" if graphs and records_itself else ""
        with interrupts_kept(), self._memory.active():
            self._engine = self._deserialise(plan, refit)
            self._context = self._make_context(graphs)

    # -- opening -----------------------------------------------------------------------------------------------

    def _deserialise(self, plan: Path, refit: Path | None) -> Any:
        content = plan.read_bytes()
        try:
            runtime = self._trt.Runtime(self._logger)
        except TypeError:
            # So the binding says that the library could not start; why is in the log.
            raise UserError(
                f"{self._backend} {self._trt.__version__} cannot start on {self._device} ({self._reason()}): see "
                "'faceanon-engine doctor'; use --backend onnxruntime or torch"
            ) from None
        if hasattr(runtime, "engine_host_code_allowed"):
            # Version-compatible engines carry a lean runtime. The file is ours: its checksum was compared.
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise self._refused(plan, self._invalidity(runtime, content) or self._reason())
        self._runtime = runtime  # has to outlive the engine
        if refit is not None:
            self._refit(engine, refit)
        return engine

    def _invalidity(self, runtime: Any, content: bytes) -> str:
        """What TensorRT for RTX says is wrong with an engine that it did not open; empty where it says nothing.

        It is not asked beforehand: on GPUs that it does not list it calls engines invalid that it opens and runs.
        """
        if not hasattr(runtime, "get_engine_validity"):
            return ""
        validity, diagnostics = runtime.get_engine_validity(content)
        if validity != self._trt.EngineValidity.INVALID:
            return ""
        kinds = getattr(self._trt.EngineInvalidityDiagnostics, "__members__", {})
        wrong = [name for name, kind in kinds.items() if int(diagnostics) & int(kind)]
        return ", ".join(wrong).lower().replace("_", " ") or f"diagnostics {int(diagnostics)}"

    def _reason(self) -> str:
        """What the backend said last, on one line."""
        return " ".join(self._told[-1].split()) if self._told else "no reason given"

    def _refused(self, plan: Path, reason: str) -> UserError:
        if says_out_of_memory(reason):
            return UserError(
                f"out of memory opening the engine {plan.name} on {self._device}: build it with a smaller largest "
                "--batch, or use a 16-bit --precision"
            )
        return UserError(
            f"{self._backend} {self._trt.__version__} on {self._device} cannot open {plan} ({reason}): "
            "it was built for another GPU or by another version; build it here with 'faceanon-engine build --force'"
        )

    def _refit(self, engine: Any, weights: Path) -> None:
        refitter = self._trt.Refitter(engine, self._logger)
        parser = self._trt.OnnxParserRefitter(refitter, self._logger)
        if not parser.refit_from_file(str(weights)) or not refitter.refit_cuda_engine():
            raise UserError(
                f"the weights of {weights} do not fit the engine of {self._graph} ({self._reason()}): build it again "
                "with --force"
            )

    def _make_context(self, graphs: bool) -> Any:
        self._told.clear()
        settings = [self._runtime_config(graphs)] if hasattr(self._trt, "CudaGraphStrategy") else []
        context = self._engine.create_execution_context(*settings)
        if context is not None:
            return context
        if self._told and not any(says_out_of_memory(line) for line in self._told):
            raise UserError(
                f"{self._backend} {self._trt.__version__} cannot prepare {self._graph} on {self._device} "
                f"({self._reason()}): build the engine here with 'faceanon-engine build --force'"
            )
        raise UserError(
            f"out of memory preparing {self._graph} on {self._device} for batches of up to {self._profile.max}: "
            "build it with a smaller largest --batch, or use a 16-bit --precision"
        )

    def _runtime_config(self, graphs: bool) -> Any:
        """How TensorRT for RTX is to run; TensorRT has nothing to set."""
        config = self._engine.create_runtime_config()
        strategies = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is not None:
            # Lazily, a fallback kernel answers until the right one is compiled, and results would depend on the time
            # and on what earlier runs left in the runtime cache.
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        if graphs:
            config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        if self._runtime_cache is not None and hasattr(config, "create_runtime_cache"):
            self._kept = config.create_runtime_cache()  # has to outlive the context
            if self._runtime_cache.is_file() and not self._kept.deserialize(self._runtime_cache.read_bytes()):
                logger.info("%s is of another driver or version: kernels are compiled again", self._runtime_cache)
            config.set_runtime_cache(self._kept)
        return config

    # -- running -----------------------------------------------------------------------------------------------

    def _run(self, batch: Any) -> Any:
        shape = (len(batch), *(int(size) for size in self.output.shape[1:]))
        try:
            with interrupts_kept():
                if self._addressable(batch):
                    return self._run_tensor(batch, shape)
                with self._memory.active():
                    output = self._run_array(as_array(batch), shape)
            return like(output, batch)
        except (UserError, OutOfMemory):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(self._graph, len(batch), self._device) from None
            raise

    def _addressable(self, batch: Any) -> bool:
        """Whether a batch is a tensor that this GPU reads where it lies."""
        return (
            is_tensor(batch)
            and batch.is_cuda
            and batch.get_device() == self._index
            and isinstance(self._memory, TorchMemory)
        )

    def _run_array(self, batch: Any, shape: tuple[int, ...]) -> Any:
        """Host to device, run, device to host: three things put on the stream, then one wait."""
        memory = self._memory
        source, target = self._pinned_view("input", batch.shape), self._pinned_view("output", shape)
        taken, given = self._buffer("input", source.nbytes), self._buffer("output", target.nbytes)
        np.copyto(source, batch)
        memory.to_device(taken, source)
        self._execute(len(batch), taken, given)
        memory.to_host(target, given)
        memory.synchronise()
        # The pinned memory is used again by the next run.
        return target.copy()

    def _run_tensor(self, batch: Any, shape: tuple[int, ...]) -> Any:
        """Nothing leaves the device and the host waits for nothing; the caller's stream waits for ours."""
        import torch

        memory = self._memory
        assert isinstance(memory, TorchMemory)
        if batch.data_ptr() % _ALIGNMENT:
            batch = batch.clone()  # a part of a larger tensor may begin anywhere
        ours, theirs = memory.torch_stream, torch.cuda.current_stream(batch.device)
        ours.wait_stream(theirs)
        with memory.active():
            output = torch.empty(shape, dtype=getattr(torch, self.output.dtype), device=batch.device)
            if self._fixed_addresses:
                taken, given = self._buffer("input", batch.nbytes), self._buffer("output", output.nbytes)
                memory.copy(taken, batch.data_ptr(), batch.nbytes)
                self._execute(len(batch), taken, given)
                memory.copy(output.data_ptr(), given, output.nbytes)
            else:
                self._execute(len(batch), batch.data_ptr(), output.data_ptr())
        # The allocator must not hand either out again while the other stream still uses it.
        batch.record_stream(ours)
        output.record_stream(theirs)
        theirs.wait_stream(ours)
        return output

    def _execute(self, count: int, taken: int, given: int) -> None:
        """Put one run on the stream, from and to these addresses."""
        if self._recording is not None and self._recording[0] == count:
            self._recording[1].launch()
            return
        self._forget_recording()
        self._told.clear()
        context, (source, target) = self._context, self._names
        # What is refused here leaves the context as it was: it would run on the batch before.
        if not (
            context.set_input_shape(source, (count, *(int(size) for size in self.input.shape[1:])))
            and context.set_tensor_address(source, taken)
            and context.set_tensor_address(target, given)
        ):
            raise self._failed(count)
        # The first run of a shape prepares, and may allocate, which cannot be recorded.
        if self._cuda_graphs and count == self._last and self._record(count):
            return
        self._last = 0
        self._enqueue(count)
        self._last = count

    def _enqueue(self, count: int) -> None:
        if not self._context.execute_async_v3(self._memory.stream):
            raise self._failed(count)

    def _failed(self, count: int) -> Exception:
        reason = self._reason()
        if says_out_of_memory(reason):
            return OutOfMemory(self._graph, count, self._device)
        return UserError(
            f"{self._backend} failed running {self._graph} on {count} images ({reason}): build the engine again with "
            "--force"
        )

    def _record(self, count: int) -> bool:
        """Record a run of that size and launch it; when this engine cannot be recorded, go on without."""
        recording = self._memory.capture()
        try:
            try:
                self._enqueue(count)
            finally:
                recording.finish()
        except (UserError, OutOfMemory, DriverError) as error:
            logger.info("%s: no CUDA graph for batches of %d: %s", self._graph, count, error)
            self._cuda_graphs = self._fixed_addresses = False
            self._graph_note = "CUDA graphs refused"
            return False
        self._recording = count, recording
        recording.launch()
        return True

    def _buffer(self, name: str, size: int) -> int:
        """Address of a buffer of at least that size on the device; a larger one than before makes a recording void."""
        address, _, held = self._buffers.get(name, (0, None, 0))
        if held < size:
            self._memory.synchronise()
            self._forget_recording()
            self._buffers.pop(name, None)
            address, keeper = self._memory.allocate(size)
            self._buffers[name] = (address, keeper, size)
        return address

    def _pinned_view(self, name: str, shape: tuple[int, ...]) -> Any:
        held = self._pinned.get(name)
        if held is None or len(held) < shape[0]:
            spec = self.input if name == "input" else self.output
            self._pinned[name] = held = self._memory.pinned(shape, spec.dtype)
        return held[: shape[0]]

    def _forget_recording(self) -> None:
        if self._recording is not None:
            self._recording[1].close()
            self._recording = None

    # -- what it is, and its end -------------------------------------------------------------------------------

    def describe(self) -> About:
        notes = [f"batch {self._profile}", self._graph_note or ("CUDA graphs" if self._cuda_graphs else "")]
        if isinstance(self._memory, TorchMemory):
            notes.append("buffers of torch")
        return About(
            backend=self._backend,
            version=str(self._trt.__version__),
            provider=self._backend,
            precision=self._precision,
            device=self._device,
            graph=self._graph,
            detail=", ".join(note for note in notes if note),
        )

    def save_runtime_cache(self) -> None:
        """Keep the kernels that TensorRT for RTX compiled, where it did and the folder can be written."""
        if self._kept is None or self._runtime_cache is None:
            return
        serialised = self._kept.serialize()
        content = b"" if serialised is None else bytes(serialised)
        if content and not (self._runtime_cache.is_file() and self._runtime_cache.read_bytes() == content):
            try:
                write_atomic(self._runtime_cache, content)
            except OSError as error:
                logger.info("%s cannot be written: %s", self._runtime_cache, error)

    def close(self) -> None:
        if self._context is None:
            return
        with self._memory.active():
            self._memory.synchronise()
            self.save_runtime_cache()
            self._forget_recording()
            # In this order: each is used by those before it.
            self._context = None
            self._kept = self._engine = self._runtime = None
            self._buffers.clear()
            self._pinned.clear()

    def __del__(self) -> None:
        # Left to themselves, the parts would go in any order, and while work is still on the stream.
        with contextlib.suppress(Exception):
            self.close()
