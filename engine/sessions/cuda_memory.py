"""Memory on the GPU, pinned memory on the host and a stream, from PyTorch or from PyCUDA.

An engine needs addresses, copies and a stream and no more. With Torch in the process its allocator and its current
stream are used; without it PyCUDA gives the same, so that nothing has to load Torch.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.cuda_driver import CapturedWork, call, working_on
from faceanon_engine.engine.system.printable import first_line

Array = npt.NDArray[Any]

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING in cuda.h


class Captured(Protocol):
    """Recorded work: see `cuda_driver.CapturedWork`."""

    def finish(self) -> None: ...

    def launch(self) -> None: ...

    def close(self) -> None: ...


class DeviceMemory(Protocol):
    """What a session asks of the device; addresses are whole numbers, copies are put on the stream."""

    @property
    def stream(self) -> int:
        """Handle of the stream that everything is put on; never the default stream."""

    def active(self) -> Any:
        """A context in which this thread works on the device."""

    def allocate(self, size: int) -> tuple[int, Any]:
        """Address of so many bytes on the device, and what keeps them."""

    def pinned(self, shape: tuple[int, ...], dtype: str) -> Array:
        """An array in host memory that the device can copy from and to while the host goes on."""

    def to_device(self, address: int, values: Array) -> None:
        """Copy a contiguous array there."""

    def to_host(self, values: Array, address: int) -> None:
        """Copy from there into a contiguous array."""

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy from one address on the device to another."""

    def synchronise(self) -> None:
        """Wait until everything on the stream is done."""

    def capture(self) -> Captured:
        """Begin to record what is put on the stream."""


class TorchMemory:
    """Through Torch, on a stream of its own of that GPU."""

    def __init__(self, index: int) -> None:
        import torch

        self._torch = torch
        self._index = index
        self._device = torch.device("cuda", index)
        self.torch_stream = torch.cuda.Stream(self._device)

    @property
    def stream(self) -> int:
        return int(self.torch_stream.cuda_stream)

    @contextmanager
    def active(self) -> Iterator[None]:
        cuda = self._torch.cuda
        with working_on(self._index), cuda.device(self._device), cuda.stream(self.torch_stream):
            yield

    def allocate(self, size: int) -> tuple[int, Any]:
        tensor = self._torch.empty(size, dtype=self._torch.uint8, device=self._device)
        return int(tensor.data_ptr()), tensor

    def pinned(self, shape: tuple[int, ...], dtype: str) -> Array:
        # The array keeps the tensor, whose memory it is.
        array: Array = self._torch.empty(shape, dtype=getattr(self._torch, dtype), pin_memory=True).numpy()
        return array

    def to_device(self, address: int, values: Array) -> None:
        _copy("cuMemcpyHtoDAsync_v2", address, values.ctypes.data, values.nbytes, self.stream)

    def to_host(self, values: Array, address: int) -> None:
        _copy("cuMemcpyDtoHAsync_v2", values.ctypes.data, address, values.nbytes, self.stream)

    def copy(self, target: int, source: int, size: int) -> None:
        _copy("cuMemcpyDtoDAsync_v2", target, source, size, self.stream)

    def synchronise(self) -> None:
        self.torch_stream.synchronize()

    def capture(self) -> Captured:
        return CapturedWork(self.stream)


class PyCudaMemory:
    """Through PyCUDA, in the GPU's primary context, which other libraries of the process share."""

    def __init__(self, index: int) -> None:
        try:
            import pycuda.driver as cuda  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(
                f"PyCUDA cannot be loaded ({first_line(error)}): pip install pycuda, which an "
                "engine needs in a program without Torch"
            ) from None
        cuda.init()
        self._cuda = cuda
        self._context = cuda.Device(index).retain_primary_context()
        with self.active():
            # As Torch's are: one that waits for the default stream cannot be recorded while anybody works on that.
            self._stream = cuda.Stream(_NON_BLOCKING)

    @property
    def stream(self) -> int:
        return int(self._stream.handle)

    @contextmanager
    def active(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def allocate(self, size: int) -> tuple[int, Any]:
        allocation = self._cuda.mem_alloc(size)
        return int(allocation), allocation

    def pinned(self, shape: tuple[int, ...], dtype: str) -> Array:
        array: Array = self._cuda.pagelocked_empty(shape, np.dtype(dtype))
        return array

    def to_device(self, address: int, values: Array) -> None:
        self._cuda.memcpy_htod_async(address, values, self._stream)

    def to_host(self, values: Array, address: int) -> None:
        self._cuda.memcpy_dtoh_async(values, address, self._stream)

    def copy(self, target: int, source: int, size: int) -> None:
        self._cuda.memcpy_dtod_async(target, source, size, self._stream)

    def synchronise(self) -> None:
        self._stream.synchronize()

    def capture(self) -> Captured:
        return CapturedWork(self.stream)


def open_memory(index: int) -> DeviceMemory:
    """Torch's memory where Torch is loaded with CUDA, PyCUDA's otherwise; raises UserError where that is missing."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return TorchMemory(index)
    return PyCudaMemory(index)


def _copy(name: str, target: int, source: int, size: int, stream: int) -> None:
    call(name, ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(size), ctypes.c_void_p(stream))
