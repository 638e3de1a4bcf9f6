"""The few questions and calls that need no more than NVIDIA's driver, asked directly: no framework is loaded."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

# From the driver's interface (cuda.h): attributes of a device.
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76
_CAPTURE_THREAD_LOCAL = 1


class DriverError(RuntimeError):
    """The driver is missing or refused; the message says which call and why."""


@dataclass(frozen=True)
class Gpu:
    """One GPU: its name, compute capability (9, 0), memory in bytes, place on the bus such as 0000:3b:00.0, processors.

    CUDA counts the fastest one first, and only those it may use; nvidia-smi counts all, by their place.
    """

    index: int
    name: str
    capability: tuple[int, int]
    total: int
    bus: str = ""
    multiprocessors: int = 0

    @property
    def architecture(self) -> str:
        """The capability as compilers spell it, such as sm_90."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


@cache
def _library() -> Any:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise DriverError("libcuda.so.1 is not there: no NVIDIA driver is installed") from None
    code = library.cuInit(0)
    if code:
        raise DriverError(f"the driver answers with error {code}: no usable GPU")
    return library


def call(name: str, *arguments: Any) -> None:
    """Call a function of the driver; raises DriverError with the name of the error it returns."""
    library = _library()
    code = getattr(library, name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        library.cuGetErrorName(code, ctypes.byref(text))
        raise DriverError(f"{name} failed with {(text.value or b'').decode() or code}")


def driver_version() -> str:
    """The newest CUDA the driver serves, such as "13.0"; raises DriverError without a usable driver."""
    version = ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


@cache
def gpus() -> tuple[Gpu, ...]:
    """All GPUs that the driver shows; empty without a usable driver."""
    count = ctypes.c_int()
    try:
        call("cuDeviceGetCount", ctypes.byref(count))
        return tuple(_gpu(index) for index in range(count.value))
    except DriverError:
        return ()


def _gpu(index: int) -> Gpu:
    device, total = ctypes.c_int(), ctypes.c_size_t()
    name, bus = ctypes.create_string_buffer(256), ctypes.create_string_buffer(32)
    call("cuDeviceGet", ctypes.byref(device), index)
    call("cuDeviceGetName", name, len(name), device)
    call("cuDeviceTotalMem_v2", ctypes.byref(total), device)
    call("cuDeviceGetPCIBusId", bus, len(bus), device)

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
        return value.value

    return Gpu(
        index,
        name.value.decode(errors="replace"),
        (attribute(_MAJOR), attribute(_MINOR)),
        total.value,
        bus.value.decode(),
        attribute(_MULTIPROCESSORS),
    )


@cache
def _primary_context(index: int) -> ctypes.c_void_p:
    # Never given back: it would end with its last user, and everything in it.
    device, context = ctypes.c_int(), ctypes.c_void_p()
    call("cuDeviceGet", ctypes.byref(device), index)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    return context


@contextmanager
def working_on(index: int) -> Iterator[None]:
    """Let this thread work on that GPU meanwhile, in its primary context, which CUDA's libraries share.

    Those that use CUDA's runtime, such as Torch and TensorRT, find a context by themselves. Calls of the driver need
    one to be the thread's, which a thread does not have that nothing on the device was done in.
    """
    call("cuCtxPushCurrent_v2", _primary_context(index))
    try:
        yield
    finally:
        # Whatever it answers: an error that led here must not be hidden by another one.
        _library().cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


class CapturedWork:
    """Work on a stream that was recorded once and is replayed with one call: a CUDA graph."""

    def __init__(self, stream: int) -> None:
        """Begin to record what is put on the stream, by its handle; nothing of it is executed yet."""
        self._stream = ctypes.c_void_p(stream)
        self._executable: ctypes.c_void_p | None = None
        call("cuStreamBeginCapture_v2", self._stream, _CAPTURE_THREAD_LOCAL)

    def finish(self) -> None:
        """End the recording; raises DriverError when the work cannot be replayed."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            _library().cuGraphDestroy(graph)
        self._executable = executable

    def launch(self) -> None:
        """Put the recorded work on the stream."""
        call("cuGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        """Give back the recording."""
        if self._executable is not None:
            _library().cuGraphExecDestroy(self._executable)
            self._executable = None
