"""A stand-in for TensorRT's Python module and for the GPU: engines that compute y = scale * x in host memory.

It keeps the real module's order of calls and refuses what the real one refuses: running before shapes and addresses
are set, shapes outside the profile, addresses that are not aligned, capturing the first run after a change of shape,
replaying a recording of a context that was changed since, memory that was given back, parts that go in a wrong order.
"""

from __future__ import annotations

import ctypes
import enum
import json
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__version__ = "99.1.0"
ALIGNMENT = 64
"""Of addresses; the real module asks for 256, which host memory seldom has."""


def plan(scale: float, most: int = 64, width: int = 3) -> bytes:
    """The bytes of an engine for x [1..most, width]."""
    return json.dumps({"scale": scale, "most": most, "width": width}).encode()


class HostMemory:
    """Addresses are those of NumPy arrays, the stream is a list of what was put on it, done when waited for."""

    def __init__(self) -> None:
        self.stream = 7
        self.arrays: dict[int, np.ndarray] = {}
        self.queue: list[Any] = []
        self.recording: Recording | None = None
        self.waits = 0
        self.depth = 0

    @contextmanager
    def active(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def put(self, work: Any) -> None:
        assert self.depth, "work was put on the stream outside of the device's context"
        (self.queue if self.recording is None else self.recording.work).append(work)

    def allocate(self, size: int) -> tuple[int, Any]:
        array = np.full(size + ALIGNMENT, 0xAA, np.uint8)
        array = array[-array.ctypes.data % ALIGNMENT :][:size]
        self.arrays[array.ctypes.data] = array
        return array.ctypes.data, array

    def pinned(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        return np.full(shape, 77, dtype)

    def to_device(self, address: int, values: np.ndarray) -> None:
        assert values.flags.c_contiguous
        self.put(lambda: ctypes.memmove(address, values.ctypes.data, values.nbytes))

    def to_host(self, values: np.ndarray, address: int) -> None:
        self.put(lambda: ctypes.memmove(values.ctypes.data, address, values.nbytes))

    def copy(self, target: int, source: int, size: int) -> None:
        self.put(lambda: ctypes.memmove(target, source, size))

    def synchronise(self) -> None:
        self.waits += 1
        for work in self.queue:
            work()
        self.queue.clear()

    def capture(self) -> Recording:
        self.recording = Recording(self)
        return self.recording


class Recording:
    def __init__(self, memory: HostMemory) -> None:
        self.memory, self.work, self.launches, self.closed = memory, [], 0, False
        self.of: tuple[Any, int] | None = None
        """The context that was recorded, and how often it had been changed by then."""

    def finish(self) -> None:
        self.memory.recording = None

    def launch(self) -> None:
        assert not self.closed, "a recording was launched after its memory was given back"
        assert self.of is not None, "a recording was launched that nothing was recorded in"
        context, changes = self.of
        assert context.changes == changes, "a recording was launched whose context was changed since"
        self.launches += 1
        for work in self.work:
            self.memory.put(work)

    def close(self) -> None:
        self.closed, self.of = True, None


class Module:
    """One `import tensorrt`: what it does can be changed for a test."""

    def __init__(self, memory: HostMemory, *, rtx: bool = False) -> None:
        self.__version__ = __version__
        self.memory = memory
        self.runs: list[tuple[int, bool]] = []
        """Batch size of each run, and whether it was being recorded."""
        self.messages: list[str] = []
        self.refuse_context = ""
        self.refuse_capture = False
        self.refuse_run = ""
        self.refuse_start = False
        self.calls_engines_invalid = False
        self.contexts: list[Any] = []
        self.ends: list[str] = []
        """Parts in the order in which they went."""
        self.cache: bytes = b""
        module = self

        class Severity(enum.IntEnum):
            INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        class ILogger:
            INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

            def log(self, severity: Any, message: str) -> None: ...

        class Context:
            def __init__(self, scale: float, most: int, width: int) -> None:
                self.scale, self.most, self.width = scale, most, width
                self.shape: tuple[int, ...] | None = None
                self.addresses: dict[str, int] = {}
                self.changes = 0
                self.prepared = False
                module.contexts.append(weakref.proxy(self))
                weakref.finalize(self, module.ends.append, "context")

            def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
                assert name == "z"
                if not 1 <= shape[0] <= self.most:
                    module.logger.log(ILogger.ERROR, f"{shape} lies outside the profile")
                    return False
                if shape != self.shape:
                    self.shape, self.prepared = shape, False
                    self.changes += 1
                return True

            def set_tensor_address(self, name: str, address: int) -> bool:
                if address % ALIGNMENT:
                    module.logger.log(ILogger.ERROR, f"{address} is not aligned")
                    return False
                if self.addresses.get(name) != address:
                    self.addresses[name] = address
                    self.changes += 1
                return True

            def execute_async_v3(self, stream: int) -> bool:
                assert stream == module.memory.stream
                assert self.shape is not None
                assert set(self.addresses) == {"z", "w"}
                recording = module.memory.recording is not None
                count = self.shape[0]
                assert not recording or self.prepared, "the first run after a change of shape prepares and allocates"
                if module.memory.recording is not None:
                    module.memory.recording.of = self, self.changes
                if module.refuse_run or (recording and module.refuse_capture):
                    module.logger.log(ILogger.ERROR, module.refuse_run or "not capturable")
                    return False
                self.prepared = True
                module.runs.append((count, recording))
                size = count * self.width
                x, y = self.addresses["z"], self.addresses["w"]

                def work() -> None:
                    given = np.ctypeslib.as_array((ctypes.c_float * size).from_address(x))
                    taken = np.ctypeslib.as_array((ctypes.c_float * size).from_address(y))
                    taken[:] = given * self.scale

                module.memory.put(work)
                return True

        class Cache:
            def __init__(self) -> None:
                weakref.finalize(self, module.ends.append, "cache")

            def deserialize(self, content: bytes) -> bool:
                module.cache = content
                return content.startswith(b"kernels")

            def serialize(self) -> bytes:
                assert module.memory.depth, "the cache was asked outside of the device's context"
                return b"kernels of this GPU"

        class Config:
            dynamic_shapes_kernel_specialization_strategy: Any = None
            cuda_graph_strategy: Any = None

            def create_runtime_cache(self) -> Cache:
                return Cache()

            def set_runtime_cache(self, cache: Cache) -> bool:
                return True

        class Engine:
            def __init__(self, content: dict[str, Any]) -> None:
                self.content = content
                weakref.finalize(self, module.ends.append, "engine")

            def create_execution_context(self, config: Any = None) -> Context | None:
                module.config = config
                if module.refuse_context:
                    module.logger.log(ILogger.ERROR, module.refuse_context)
                    return None
                return Context(**self.content)

        if rtx:

            class CudaGraphStrategy(enum.Enum):
                DISABLED, WHOLE_GRAPH_CAPTURE = range(2)

            class DynamicShapesKernelSpecializationStrategy(enum.Enum):
                LAZY, EAGER, NONE = range(3)

            Engine.create_runtime_config = lambda self: Config()  # type: ignore[attr-defined]

            class EngineValidity(enum.Enum):
                VALID, SUBOPTIMAL, INVALID = range(3)

            class EngineInvalidityDiagnostics(enum.IntFlag):
                VERSION_MISMATCH, UNSUPPORTED_CC = 1, 2

            self.EngineValidity, self.EngineInvalidityDiagnostics = EngineValidity, EngineInvalidityDiagnostics
            self.CudaGraphStrategy = CudaGraphStrategy
            self.DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy

        class Runtime:
            engine_host_code_allowed = False

            def __init__(self, logger: Any) -> None:
                module.logger = logger
                if module.refuse_start:
                    logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
                    raise TypeError("pybind11::init(): factory function returned nullptr")
                weakref.finalize(self, module.ends.append, "runtime")

            def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
                try:
                    return Engine(json.loads(content))
                except ValueError:
                    module.logger.log(ILogger.ERROR, "Error Code 6: the engine plan file is of version 1, expected 2")
                    return None

        if rtx:

            def get_engine_validity(_self: Runtime, _content: bytes) -> tuple[Any, int]:
                return (EngineValidity.INVALID, 2) if module.calls_engines_invalid else (EngineValidity.VALID, 0)

            Runtime.get_engine_validity = get_engine_validity  # type: ignore[attr-defined]

        self.ILogger, self.Runtime = ILogger, Runtime
        self.config: Any = None
        self.logger: Any = None
