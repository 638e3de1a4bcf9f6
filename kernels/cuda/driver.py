"""Two ways to the CUDA driver: through PyCUDA, and directly. Both use the context that Torch made.

PyCUDA launches on streams of its own making only (`launch_stream` makes one and shows it to Torch) and on the
default stream; the driver itself launches on any.
"""

from __future__ import annotations

import atexit
import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

Shape = tuple[int, int, int]


class DriverError(RuntimeError):
    """The driver refused."""


class Driver(Protocol):
    """Loads fat binaries and launches their kernels on one device."""

    name: str

    def load(self, image: bytes) -> Any:
        """A module of the fat binary."""

    def function(self, module: Any, kernel: str) -> Any:
        """The kernel of that name."""

    def launches_on(self, stream: int) -> bool:
        """Whether kernels can be put on the stream with that handle."""

    def launch(self, function: Any, grid: Shape, block: Shape, shared: int, stream: int, arguments: bytes) -> None:
        """Put the kernel on the stream; it takes one struct, given as its bytes."""


class DirectDriver:
    """The driver's own interface, by ctypes, in the primary context of a device."""

    name = "driver"

    def __init__(self, device: int, library: str = "libcuda.so.1") -> None:
        try:
            self._cuda = ctypes.CDLL(library)
        except OSError as error:
            raise DriverError(f"{library} is not there: no NVIDIA driver is installed") from error
        self._call("cuInit", 0)
        handle = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(handle), device)
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), handle)

    def _call(self, name: str, *arguments: Any, about: str = "") -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorString(code, ctypes.byref(text))
            raise DriverError(f"{name}{about}: {(text.value or b'unknown error').decode()} ({code})")

    def enter(self) -> None:
        """Make the device's context this thread's: in a thread that has not used CUDA yet, none is."""
        self._call("cuCtxSetCurrent", self._context)

    def load(self, image: bytes) -> ctypes.c_void_p:
        module = ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), image)
        return module

    def function(self, module: ctypes.c_void_p, kernel: str) -> ctypes.c_void_p:
        function = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), module, kernel.encode(), about=f" {kernel}")
        return function

    def launches_on(self, stream: int) -> bool:
        return True

    def launch(
        self, function: ctypes.c_void_p, grid: Shape, block: Shape, shared: int, stream: int, arguments: bytes
    ) -> None:
        kept = ctypes.create_string_buffer(arguments, len(arguments))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(kept))
        self._call("cuLaunchKernel", function, *grid, *block, shared, ctypes.c_void_p(stream), pointers, None)


class PycudaDriver:
    """PyCUDA in the primary context of a device, which is Torch's."""

    name = "pycuda"

    def __init__(self, device: int) -> None:
        # Not at the top: without a driver the import fails.
        import pycuda.driver as cuda  # pyright: ignore[reportMissingImports]

        cuda.init()
        self._cuda = cuda
        self._context = cuda.Device(device).retain_primary_context()
        atexit.register(self._context.detach)  # left to the end of the process, PyCUDA would complain there
        self._streams: dict[int, Any] = {0: None}

    @contextmanager
    def _active(self) -> Iterator[None]:
        # PyCUDA makes things only in a context that it was shown; leaving it there would upset it at exit.
        self._context.push()
        try:
            yield
        except self._cuda.Error as error:
            raise DriverError(f"PyCUDA: {error}") from error
        finally:
            self._context.pop()

    def load(self, image: bytes) -> Any:
        with self._active():
            return self._cuda.module_from_buffer(image)

    def function(self, module: Any, kernel: str) -> Any:
        with self._active():
            return module.get_function(kernel)

    def new_stream(self) -> int:
        """Handle of a new stream, which lives as long as this driver."""
        with self._active():
            stream = self._cuda.Stream(1)  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def launches_on(self, stream: int) -> bool:
        return stream in self._streams

    def launch(self, function: Any, grid: Shape, block: Shape, shared: int, stream: int, arguments: bytes) -> None:
        try:
            function._launch_kernel(grid, block, arguments, shared, self._streams[stream])
        except self._cuda.Error as error:
            raise DriverError(f"PyCUDA: {error}") from error
