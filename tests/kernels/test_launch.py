"""Who launches, on which stream, through which driver; without a GPU, by stand-ins for the two drivers."""

from __future__ import annotations

import atexit
import ctypes
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from faceanon_engine.kernels.cuda import launch
from faceanon_engine.kernels.cuda.compile import FatBinary
from faceanon_engine.kernels.cuda.driver import DirectDriver, DriverError, PycudaDriver
from faceanon_engine.kernels.cuda.launch import CudaLauncher, lanes_for, launcher_for, suffix


class Arguments(ctypes.Structure):
    _fields_ = [("a", ctypes.c_void_p), ("b", ctypes.c_int)]


class Recorder:
    """Stands for a driver."""

    def __init__(self, name: str, streams: set[int] | None) -> None:
        self.name, self.streams, self.calls = name, streams, list[Any]()
        self.entered = 0

    def enter(self) -> None:
        self.entered += 1

    def load(self, image: bytes) -> str:
        self.calls.append(("load", image))
        return "module"

    def function(self, module: str, kernel: str) -> str:
        self.calls.append(("function", kernel))
        return kernel

    def launches_on(self, stream: int) -> bool:
        return self.streams is None or stream in self.streams

    def launch(self, *arguments: Any) -> None:
        self.calls.append(("launch", *arguments))


@contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, current: list[int]) -> Iterator[CudaLauncher]:
    """A launcher of a machine with a GPU of capability 9.0 whose current stream is `current[0]`."""
    image = tmp_path / "x.fatbin"
    image.write_bytes(b"image")

    class Stream:
        def synchronize(self) -> None:
            pass

        @property
        def cuda_stream(self) -> int:
            return current[0]

    @contextmanager
    def device(_: torch.device) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    compiled = FatBinary("x", image, (90,), "nvcc", 0.0, ())
    monkeypatch.setattr(launch.compiler, "find_compiled", lambda name, architecture, folder: compiled)
    monkeypatch.setattr(launch.compiler, "source_names", lambda: ("x",))
    monkeypatch.setattr(launch, "DirectDriver", lambda index: Recorder("driver", None))
    monkeypatch.setattr(launch, "PycudaDriver", lambda index: Recorder("pycuda", {0, 42}))
    yield CudaLauncher(torch.device("cuda", 0), tmp_path)


def test_pycuda_launches_on_its_own_streams_and_the_driver_on_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    current = [42]
    with stand_in(monkeypatch, tmp_path, current) as launcher:
        arguments = Arguments(1, 2)
        for stream in (42, 42, 7, 0):
            current[0] = stream
            launcher.launch("x", "kernel", (1, 2, 3), (4, 5, 6), arguments, 7)
        pycuda, direct = launcher.pycuda, launcher._direct
    shape = ((1, 2, 3), (4, 5, 6), 7)
    loaded = [("load", b"image"), ("function", "kernel")]
    expected = [("launch", "kernel", *shape, stream, bytes(arguments)) for stream in (42, 42, 0)]
    assert pycuda.calls == [*loaded, *expected]  # type: ignore[union-attr]
    assert direct.calls == [*loaded, ("launch", "kernel", *shape, 7, bytes(arguments))]  # type: ignore[attr-defined]
    assert direct.entered == 5  # type: ignore[attr-defined]


def test_what_the_driver_cannot_load_is_known_before_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(_: Recorder, image: bytes) -> str:
        raise DriverError("cuModuleLoadData: the provided PTX was compiled with an unsupported toolchain (222)")

    monkeypatch.setattr(Recorder, "load", refuse)
    with pytest.raises(DriverError, match="unsupported toolchain"), stand_in(monkeypatch, tmp_path, [0]):
        pass


class FakePycuda(types.ModuleType):
    """`pycuda.driver` as its source has it: modules, functions and streams are made in a context that was pushed."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        fake = self
        self.stack: list[Any] = []
        self.calls: list[Any] = []
        self.detached = 0

        class Context:
            def push(self) -> None:
                fake.stack.append(self)

            def pop(self) -> None:
                assert fake.stack.pop() is self

            def detach(self) -> None:
                fake.detached += 1

        class Function:
            def _launch_kernel(self, grid: Any, block: Any, arguments: Any, shared: Any, stream: Any) -> None:
                assert type(grid) is tuple
                assert type(block) is tuple
                assert stream is None or isinstance(stream, Stream)
                if shared > 48 * 1024:
                    raise fake.Error("cuLaunchKernel failed: invalid argument")
                fake.calls.append((grid, block, bytes(memoryview(arguments)), shared, getattr(stream, "handle", 0)))

        class Module:
            def get_function(self, name: str) -> Function:
                fake.active()
                return Function()

        class Stream:
            def __init__(self, flags: int = 0) -> None:
                fake.active()
                self.handle, self.flags = 0x7000 + flags, flags

        class Device:
            def __init__(self, index: int) -> None:
                assert fake.ready

            def retain_primary_context(self) -> Context:
                return Context()

        def module_from_buffer(image: bytes) -> Module:
            fake.active()
            if image == b"bad":
                raise fake.Error("cuModuleLoadDataEx failed: device kernel image is invalid")
            return Module()

        self.ready = False
        self.Device, self.Stream, self.module_from_buffer = Device, Stream, module_from_buffer

    def init(self) -> None:
        self.ready = True

    def active(self) -> None:
        assert self.stack, "no currently active context?"


def test_pycuda_makes_things_in_torchs_context_and_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pycuda, ends = FakePycuda(), list[Any]()
    monkeypatch.setitem(sys.modules, "pycuda", types.ModuleType("pycuda"))
    monkeypatch.setattr(sys.modules["pycuda"], "driver", pycuda, raising=False)
    monkeypatch.setitem(sys.modules, "pycuda.driver", pycuda)
    monkeypatch.setattr(atexit, "register", ends.append)
    driver = PycudaDriver(0)
    function = driver.function(driver.load(b"image"), "kernel")
    stream = driver.new_stream()
    assert stream == 0x7001, "it does not wait for the default stream"
    assert [driver.launches_on(each) for each in (0, stream, 0x7002)] == [True, True, False]
    for each in (stream, 0):
        driver.launch(function, (1, 2, 3), (4, 5, 6), 7, each, bytes(Arguments(1, 2)))
    packed = ((1, 2, 3), (4, 5, 6), bytes(Arguments(1, 2)), 7)
    assert pycuda.calls == [(*packed, stream), (*packed, 0)]
    with pytest.raises(DriverError, match="kernel image is invalid"):
        driver.load(b"bad")
    with pytest.raises(DriverError, match="invalid argument"):
        driver.launch(function, (1, 1, 1), (1, 1, 1), 2**20, 0, b"")
    assert not pycuda.stack
    (end,) = ends
    end()
    assert pycuda.detached == 1


FAKE_DRIVER = r"""
#include <stdio.h>
#include <string.h>
static char said[4096];
static void note(const char* text) { strcat(said, text); strcat(said, ";"); }
const char* said_so_far(void) { return said; }
int cuInit(unsigned flags) { note("init"); return 0; }
int cuDeviceGet(int* device, int index) { *device = index + 100; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { *context = (void*)(0x700000000000 + device); return 0; }
int cuCtxSetCurrent(void* context) { return context == (void*)(0x700000000000 + 103) ? 0 : 201; }
int cuModuleLoadData(void** module, const void* image) {
  note((const char*)image);
  *module = (void*)0x7fff12345678;
  return 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  if (module != (void*)0x7fff12345678 || strcmp(name, "kernel")) return 500;
  *function = (void*)0x7fff87654321;
  return 0;
}
int cuGetErrorString(int code, const char** text) { *text = code == 500 ? "not found" : 0; return 0; }
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void* stream, void** arguments, void** extra) {
  char text[256];
  struct { void* a; int b; } s;
  memcpy(&s, arguments[0], sizeof s);
  snprintf(text, sizeof text, "%p %u %u %u %u %u %u %u %p %p %d %d", function, gx, gy, gz, bx, by, bz, shared, stream,
           s.a, s.b, extra == 0);
  note(text);
  return 0;
}
"""


def test_the_driver_is_called_as_it_is_declared(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed: it makes the stand-in for the driver")
    library = tmp_path / "libcuda.so.1"
    command = [compiler, "-w", "-fPIC", "-shared", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=FAKE_DRIVER, text=True, check=True)
    driver = DirectDriver(3, str(library))
    driver.enter()
    module = driver.load(b"image")
    function = driver.function(module, "kernel")
    arguments = bytes(Arguments(0x7F0011223344, -5))
    driver.launch(function, (70000, 2, 3), (4, 5, 6), 7, 0x7F5566778899, arguments)
    driver.launch(function, (1, 1, 1), (1, 1, 1), 0, 0, arguments)
    said = ctypes.CDLL(str(library)).said_so_far
    said.restype = ctypes.c_char_p
    assert said().decode().split(";") == [
        "init",
        "image",
        "0x7fff87654321 70000 2 3 4 5 6 7 0x7f5566778899 0x7f0011223344 -5 1",
        "0x7fff87654321 1 1 1 1 1 1 0 (nil) 0x7f0011223344 -5 1",
        "",
    ]
    with pytest.raises(DriverError, match=r"cuModuleGetFunction other: not found \(500\)"):
        driver.function(module, "other")
    with pytest.raises(DriverError, match=r"unknown error \(201\)"):
        DirectDriver(4, str(library)).enter()


def test_without_pycuda_the_driver_launches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with stand_in(monkeypatch, tmp_path, [42]) as launcher:
        pass

    def missing(_: int) -> None:
        raise ImportError("no PyCUDA")

    monkeypatch.setattr(launch, "PycudaDriver", missing)
    assert CudaLauncher(launcher.device, tmp_path).driver_for(42).name == "driver"
    assert CudaLauncher(launcher.device, tmp_path, pycuda=False).driver_for(0).name == "driver"
    with pytest.raises(DriverError, match="no PyCUDA"):
        CudaLauncher(launcher.device, tmp_path, pycuda=True)


def test_the_cpu_has_no_launcher(tmp_path: Path) -> None:
    assert launcher_for(torch.device("cpu"), tmp_path) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: the driver loads")
def test_without_a_gpu_nothing_is_loaded_at_import() -> None:
    code = "import sys, faceanon_engine.kernels.cuda.launch; sys.exit('pycuda' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    for driver in (DirectDriver, PycudaDriver):
        with pytest.raises((DriverError, ImportError)):
            driver(0)


def test_a_gpu_without_kernels_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_device: torch.device, _folder: Path) -> None:
        raise DriverError("libcuda.so.1 is not there\nand more")

    monkeypatch.setattr(launch, "CudaLauncher", fails)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    launch._cuda_launcher.cache_clear()
    with pytest.warns(UserWarning, match=r"fused kernels are not used.*libcuda\.so\.1 is not there$"):
        assert launcher_for(torch.device("cuda", 5), tmp_path) is None
    assert launcher_for(torch.device("cuda", 5), tmp_path) is None
    launch._cuda_launcher.cache_clear()


def test_a_pixels_channels_are_spread_over_a_power_of_two_of_threads() -> None:
    assert [lanes_for(c) for c in (1, 8, 9, 24, 32, 256, 264, 512)] == [1, 1, 2, 4, 4, 32, 32, 32]


def test_what_is_not_whole_takes_the_careful_kernel() -> None:
    x = torch.zeros(17, dtype=torch.float16)
    assert suffix(torch.float16, 16, x, None) == "f16"
    assert suffix(torch.float16, 12, x) == "f16_any"
    assert suffix(torch.float16, 16, x[1:]) == "f16_any"
