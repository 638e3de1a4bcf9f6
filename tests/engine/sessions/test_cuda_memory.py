"""Memory on the GPU from any thread, against stand-ins for the driver and for PyCUDA that want a current context."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from faceanon_engine.engine.sessions.cuda_memory import DeviceMemory, PyCudaMemory, TorchMemory
from faceanon_engine.engine.system import cuda_driver
from faceanon_engine.engine.system.cuda_driver import CapturedWork, DriverError, working_on

INVALID_CONTEXT, INVALIDATED = 201, 901


class Driver:
    """libcuda: contexts belong to threads, copies need one, and it says what it was asked."""

    def __init__(self) -> None:
        self._of_thread = threading.local()
        self.calls: list[str] = []
        self.refuse: dict[str, int] = {}

    @property
    def stack(self) -> list[int]:
        if not hasattr(self._of_thread, "stack"):
            self._of_thread.stack = []
        contexts: list[int] = self._of_thread.stack
        return contexts

    def __getattr__(self, name: str) -> Callable[..., int]:
        def asked(*_arguments: Any) -> int:
            self.calls.append(name)
            return self.refuse.get(name, 0)

        return asked

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: ctypes.c_int) -> int:
        context._obj.value = 1000 + device.value
        return 0

    def cuCtxPushCurrent_v2(self, context: ctypes.c_void_p) -> int:
        self.stack.append(context.value or 0)
        return 0

    def cuCtxPopCurrent_v2(self, context: Any) -> int:
        context._obj.value = self.stack.pop()
        return 0

    def _copied(self, target: ctypes.c_void_p, source: ctypes.c_void_p, size: ctypes.c_size_t, _stream: Any) -> int:
        if not self.stack:
            return INVALID_CONTEXT
        ctypes.memmove(target, source, size.value)
        return 0

    cuMemcpyHtoDAsync_v2 = cuMemcpyDtoHAsync_v2 = cuMemcpyDtoDAsync_v2 = _copied

    def cuGetErrorName(self, _code: int, text: Any) -> int:
        text._obj.value = b"CUDA_ERROR"
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    stand_in = Driver()
    monkeypatch.setattr(cuda_driver, "_library", lambda: stand_in)
    cuda_driver._primary_context.cache_clear()
    yield stand_in
    cuda_driver._primary_context.cache_clear()


def there_and_back(memory: DeviceMemory) -> None:
    with memory.active():
        values = memory.pinned((2, 3), "float32")
        values[:] = np.arange(6).reshape(2, 3)
        back = memory.pinned((2, 3), "float32")
        (first, _one), (second, _two) = memory.allocate(values.nbytes), memory.allocate(values.nbytes)
        memory.to_device(first, values[:1])
        memory.to_device(first, values)
        memory.copy(second, first, values.nbytes)
        memory.to_host(back, second)
        memory.synchronise()
    np.testing.assert_array_equal(values, back)


def in_another_thread(work: Callable[[], None]) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def test_torchs_memory_works_in_threads_that_did_nothing_on_the_device_yet(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[str] = []
    stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: waited.append("once"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: stream)
    # Torch calls the runtime, which binds a context, only where the device is another one than the thread's.
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda _stream: contextlib.nullcontext())
    real = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, dtype, **_: real(*shape, dtype=dtype))
    memory = TorchMemory(1)
    there_and_back(memory)
    in_another_thread(lambda: there_and_back(memory))
    assert waited == ["once", "once"]
    assert memory.stream == 7
    assert driver.stack == []


def test_a_thread_has_the_context_that_it_had_before(driver: Driver) -> None:
    driver.stack.append(5)
    seen = []

    def work() -> None:
        with working_on(2):
            seen.extend(driver.stack)
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert (seen, driver.stack) == ([5, 1002], [5])


def test_what_cannot_be_recorded_leaves_nothing_behind(driver: Driver) -> None:
    driver.refuse["cuStreamEndCapture"] = INVALIDATED
    work = CapturedWork(7)
    with pytest.raises(DriverError, match="cuStreamEndCapture failed with CUDA_ERROR"):
        work.finish()
    work.close()
    assert "cuGraphInstantiateWithFlags" not in driver.calls
    assert "cuGraphExecDestroy" not in driver.calls
    driver.refuse.clear()
    work = CapturedWork(7)
    work.finish()
    work.launch()
    work.close()
    work.close()
    assert driver.calls[-4:] == ["cuGraphInstantiateWithFlags", "cuGraphDestroy", "cuGraphLaunch", "cuGraphExecDestroy"]


class PyCuda(ModuleType):
    """`pycuda.driver`: contexts are pushed and popped, and all it makes is made and used while one is current."""

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        stack = threading.local()

        def current() -> None:
            assert getattr(stack, "depth", 0), "nothing is pushed in this thread"

        class Context:
            def push(self) -> None:
                stack.depth = getattr(stack, "depth", 0) + 1

            @staticmethod
            def pop() -> None:
                stack.depth -= 1

        class Device:
            def __init__(self, index: int) -> None: ...

            def retain_primary_context(self) -> Context:
                return Context()

        class Stream:
            handle = 7

            def __init__(self, flags: int = 0) -> None:
                current()
                assert flags == 1, "it would wait for the default stream"

            def synchronize(self) -> None:
                current()

        class DeviceAllocation:
            def __init__(self, size: int) -> None:
                current()
                self.held = np.zeros(size, np.uint8)

            def __int__(self) -> int:
                return self.held.ctypes.data

        def pagelocked_empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
            current()
            return np.zeros(shape, dtype)

        def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream) -> None:
            current()
            ctypes.memmove(dest, src.ctypes.data, src.nbytes)

        def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream) -> None:
            current()
            ctypes.memmove(dest.ctypes.data, src, dest.nbytes)

        def memcpy_dtod_async(dest: int, src: int, size: int, stream: Stream) -> None:
            current()
            ctypes.memmove(dest, src, size)

        self.init = lambda: None
        self.Context, self.Device, self.Stream, self.mem_alloc = Context, Device, Stream, DeviceAllocation
        self.pagelocked_empty = pagelocked_empty
        self.memcpy_htod_async, self.memcpy_dtoh_async = memcpy_htod_async, memcpy_dtoh_async
        self.memcpy_dtod_async = memcpy_dtod_async


def test_pycudas_memory_works_in_any_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    pycuda, driver = ModuleType("pycuda"), PyCuda()
    pycuda.driver = driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", pycuda)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    memory = PyCudaMemory(0)
    there_and_back(memory)
    in_another_thread(lambda: there_and_back(memory))
    assert memory.stream == 7
