"""Kernels by the name of their source and their own, launched on the stream that Torch uses now."""

from __future__ import annotations

import ctypes
import functools
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from faceanon_engine.kernels.cuda import compile as compiler
from faceanon_engine.kernels.cuda.driver import DirectDriver, Driver, DriverError, PycudaDriver, Shape

THREADS = 256
GROUP = 8
"""Threads of a block and neighbouring channels of a thread, as in common.cuh."""

SUFFIX = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
"""What a kernel's name ends with, by the type of its activations."""


class Launcher(Protocol):
    """Runs kernels on the memory of one device; the tests have one that runs the same sources on the host."""

    def launch(
        self, source: str, kernel: str, grid: Shape, block: Shape, arguments: ctypes.Structure, shared: int = 0
    ) -> None:
        """Run a kernel of that source over `grid` blocks of `block` threads with `shared` bytes of shared memory."""


class CudaLauncher:
    """Launches on one GPU; each source is compiled or read when it is first used."""

    def __init__(self, device: torch.device, folder: Path, *, pycuda: bool | None = None) -> None:
        """`folder` is where compiled kernels are kept.

        `pycuda`: True asks for it, False does without it, None takes it where it can be imported.

        Raises CompileError when a source is neither compiled nor compilable, DriverError when the driver refuses.
        """
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self.folder = folder
        major, minor = torch.cuda.get_device_capability(self.device)
        self.architecture = 10 * major + minor
        with torch.cuda.device(self.device):
            torch.cuda.current_stream().synchronize()  # makes Torch's context, where there is none yet
        self._direct = DirectDriver(self.device.index)
        self.pycuda = self._pycuda(pycuda)
        self._images: dict[str, bytes] = {}
        self._functions: dict[tuple[str, str, str], Any] = {}
        self._modules: dict[tuple[str, str], Any] = {}
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._image, compiler.source_names()))
        with torch.cuda.device(self.device):
            # All at once, and not while a graph is captured: what this driver cannot load is known before it is needed.
            self._direct.enter()
            for source in compiler.source_names():
                self._module(self._direct, source)

    def _pycuda(self, wanted: bool | None) -> PycudaDriver | None:
        if wanted is False:
            return None
        try:
            return PycudaDriver(self.device.index)
        except Exception as error:
            if wanted:
                raise DriverError(f"PyCUDA cannot be used: {error}") from error
            return None

    def _image(self, source: str) -> bytes:
        if source not in self._images:
            binary = compiler.find_compiled(source, self.architecture, self.folder)
            if binary is None:
                try:
                    binary = compiler.compile_source(source, [self.architecture], folder=self.folder)
                except compiler.CompileError:
                    binary = compiler.find_compiled(source, self.architecture, self.folder, least=1)
                    if binary is None:
                        raise
            self._images[source] = binary.path.read_bytes()
        return self._images[source]

    def _function(self, driver: Driver, source: str, kernel: str) -> Any:
        key = (driver.name, source, kernel)
        if key not in self._functions:
            self._functions[key] = driver.function(self._module(driver, source), kernel)
        return self._functions[key]

    def _module(self, driver: Driver, source: str) -> Any:
        key = (driver.name, source)
        if key not in self._modules:
            self._modules[key] = driver.load(self._image(source))
        return self._modules[key]

    def driver_for(self, stream: int) -> Driver:
        """PyCUDA where it can launch on that stream, else the driver itself."""
        return self.pycuda if self.pycuda is not None and self.pycuda.launches_on(stream) else self._direct

    def launch(
        self, source: str, kernel: str, grid: Shape, block: Shape, arguments: ctypes.Structure, shared: int = 0
    ) -> None:
        with torch.cuda.device(self.device):
            stream = torch.cuda.current_stream().cuda_stream
            self._direct.enter()
            driver = self.driver_for(stream)
            function = self._function(driver, source, kernel)
            driver.launch(function, grid, block, shared, stream, bytes(arguments))

    def new_stream(self) -> torch.cuda.Stream:
        """A stream for Torch and for these kernels, made by PyCUDA where it is used; also fit for graph capture."""
        if self.pycuda is None:
            return torch.cuda.Stream(self.device)
        return torch.cuda.ExternalStream(self.pycuda.new_stream(), device=self.device)


@functools.cache
def _cuda_launcher(index: int, folder: Path) -> CudaLauncher | None:
    try:
        return CudaLauncher(torch.device("cuda", index), folder)
    except (compiler.CompileError, DriverError, OSError) as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"the fused kernels are not used, Torch's own operations are: {reason}", stacklevel=3)
        return None


def launcher_for(device: torch.device, folder: Path) -> CudaLauncher | None:
    """What launches kernels on that device; None where the reference is to be computed instead.

    `folder` is where compiled kernels are kept.
    The first call for a GPU compiles what was not compiled before, and warns when that cannot be done.
    """
    if device.type != "cuda" or torch.version.cuda is None:
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    return _cuda_launcher(index, folder)


def launcher_of(x: Tensor, launcher: Launcher | None) -> Launcher | None:
    """What runs kernels on these activations; None where the definition is to be computed."""
    return launcher if x.dtype in SUFFIX and x.numel() else None


def pointer(tensor: Tensor | None) -> int | None:
    """Address of a tensor's first value."""
    return None if tensor is None else tensor.data_ptr()


def suffix(dtype: torch.dtype, values: int, *tensors: Tensor | None) -> str:
    """What a kernel's name ends with for rows of that many values; `_any`: they are not read 16 bytes at a time."""
    aligned = all(tensor is None or tensor.data_ptr() % 16 == 0 for tensor in tensors)
    return SUFFIX[dtype] + ("" if aligned and values % GROUP == 0 else "_any")


def channels_last(x: Tensor) -> Tensor:
    """[N, C, H, W] with the channels of a pixel side by side in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def float32(x: Tensor | None) -> Tensor | None:
    """Constants as the kernels read them: contiguous float32."""
    return None if x is None else x.detach().to(torch.float32).contiguous()


def ceil_div(a: int, b: int) -> int:
    """Quotient rounded up."""
    return -(-a // b)


def lanes_for(channels: int) -> int:
    """Neighbouring threads that share a pixel: a power of two, at most a warp, one a group of channels if they fit."""
    groups = ceil_div(channels, GROUP)
    return min(32, 1 << (groups - 1).bit_length())
