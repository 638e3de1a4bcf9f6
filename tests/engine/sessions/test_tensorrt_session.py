"""Running engines: the order of calls, recordings, memory and errors, against a stand-in for the module and the GPU."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions.cuda_memory import TorchMemory
from faceanon_engine.engine.sessions.graphs import TensorSpec
from faceanon_engine.engine.sessions.session import Profile
from faceanon_engine.engine.sessions.tensorrt_session import TensorRTSession, load_module
from faceanon_engine.engine.system.cuda_driver import gpus
from faceanon_engine.engine.system.memory import OutOfMemory
from tests.support import fake_tensorrt
from tests.support.fake_tensorrt import HostMemory, Module

SPEC = TensorSpec("float32", ("N", 3))


def open_(
    folder: Path, profile: Profile, *, rtx: bool = False, content: bytes | None = None, **more: Any
) -> tuple[TensorRTSession, Module, HostMemory]:
    memory = HostMemory()
    trt = more.pop("trt", None) or Module(memory, rtx=rtx)
    memory = trt.memory
    path = folder / "mapping.plan"
    path.write_bytes(fake_tensorrt.plan(3.0, profile.max) if content is None else content)
    session = TensorRTSession(
        "tensorrt-rtx" if rtx else "tensorrt",
        path,
        graph="mapping",
        precision="fp16",
        input=("z", SPEC),
        output=("w", SPEC),
        profile=profile,
        trt=trt,
        memory=memory,
        **more,
    )
    return session, trt, memory


def values(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 3)).astype(np.float32)


def test_batches_of_changing_sizes_go_through_one_engine_and_are_split_at_its_largest(tmp_path: Path) -> None:
    session, trt, _memory = open_(tmp_path, Profile(1, 2, 4))
    kept = []
    for count in (2, 4, 1, 9):
        x = values(count)
        kept.append((session.run(x), x * 3))
    # What was given out does not change when the pinned memory is used again.
    for output, expected in kept:
        np.testing.assert_array_equal(output, expected)
    assert trt.runs == [(2, False), (4, False), (1, False), (4, False), (4, False), (1, False)]
    output = session.run(torch.from_numpy(values(3)))
    assert isinstance(output, torch.Tensor)
    np.testing.assert_array_equal(output.numpy(), values(3) * 3)


def test_a_fixed_size_is_recorded_after_its_first_run_and_replayed(tmp_path: Path) -> None:
    session, trt, _memory = open_(tmp_path, Profile(4, 4, 4))
    for number in range(5):
        x = values(4) + number
        np.testing.assert_array_equal(session.run(x), x * 3)
    # Once as it is, once recorded; from then on only the recording is launched.
    assert trt.runs == [(4, False), (4, True)]
    # Fewer images are filled up to the size there is.
    np.testing.assert_array_equal(session.run(values(2)), values(2) * 3)
    assert "CUDA graphs" in session.describe().detail


def test_a_recording_is_void_as_soon_as_another_size_runs(tmp_path: Path) -> None:
    session, trt, memory = open_(tmp_path, Profile(1, 8, 64), cuda_graphs=True)
    recordings = []
    make = memory.capture

    def capture() -> Any:
        recordings.append(make())
        return recordings[-1]

    memory.capture = capture  # type: ignore[method-assign]
    for count in (8, 8, 8, 16, 8, 8, 8):
        np.testing.assert_array_equal(session.run(values(count)), values(count) * 3)
    # The stand-in refuses to replay a recording of a context that was changed, and to record what is not prepared.
    assert trt.runs == [(8, False), (8, True), (16, False), (8, False), (8, True)]
    assert [recording.closed for recording in recordings] == [True, False]
    session.close()
    assert all(recording.closed for recording in recordings)


def test_an_engine_that_cannot_be_recorded_runs_without(tmp_path: Path) -> None:
    session, trt, _memory = open_(tmp_path, Profile(4, 4, 4))
    trt.refuse_capture = True
    for _ in range(3):
        np.testing.assert_array_equal(session.run(values(4)), values(4) * 3)
    assert trt.runs == [(4, False)] * 3
    assert "CUDA graphs refused" in session.describe().detail


def test_the_host_waits_once_a_run(tmp_path: Path) -> None:
    session, _trt, memory = open_(tmp_path, Profile(1, 4, 4))
    session.run(values(4))
    before = memory.waits
    session.run(values(4))
    assert memory.waits == before + 1


def test_rtx_keeps_its_kernels_and_is_told_not_to_answer_with_fallbacks(tmp_path: Path) -> None:
    cache = tmp_path / "kept.runtime"
    session, trt, _ = open_(tmp_path, Profile(8, 8, 8), rtx=True, runtime_cache=cache)
    assert trt.config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
    assert trt.config.cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"
    for _ in range(3):
        session.run(values(8))
    assert trt.runs == [(8, False)] * 3, "TensorRT for RTX records by itself"
    session.close()
    assert cache.read_bytes() == b"kernels of this GPU"
    _, again, _ = open_(tmp_path, Profile(1, 4, 8), rtx=True, runtime_cache=cache)
    assert again.cache == b"kernels of this GPU"
    assert again.config.cuda_graph_strategy is None


def test_a_runtime_cache_of_another_driver_is_replaced(tmp_path: Path) -> None:
    cache = tmp_path / "kept.runtime"
    cache.write_bytes(b"something else")
    session, _, _ = open_(tmp_path, Profile(), rtx=True, runtime_cache=cache)
    session.run(values(1))
    session.close()
    assert cache.read_bytes() == b"kernels of this GPU"


def test_what_really_runs_is_said(tmp_path: Path) -> None:
    about = open_(tmp_path, Profile(1, 2, 4))[0].describe()
    assert (about.backend, about.version, about.precision) == ("tensorrt", "99.1.0", "fp16")
    assert (about.device, about.detail) == ("cuda:0", "batch 1,2,4")


def test_an_engine_of_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot open .*mapping\.plan \(.*version 1.*another GPU.*build --force"):
        open_(tmp_path, Profile(), content=b"something else")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        (
            "refuse_context",
            "Cuda Runtime (out of memory)",
            r"out of memory preparing mapping .* up to 64: build it with a smaller largest --batch",
        ),
        (
            "refuse_context",
            "no kernel image is available",
            r"tensorrt 99.1.0 cannot prepare mapping on cuda:0 \(no kernel image is available\): build the engine here",
        ),
        ("refuse_start", True, r"cannot start on cuda:0 \(CUDA initialization failure with error: 35\): see 'faceanon"),
        ("refuse_run", "Cuda Runtime (out of memory)", r"out of memory running mapping on 3 images.*--batch-size"),
        ("refuse_run", "myelin failed", r"tensorrt failed running mapping on 3 images \(myelin failed\)"),
    ],
)
def test_failures_are_told_with_a_way_out(tmp_path: Path, setting: str, value: Any, message: str) -> None:
    trt = Module(HostMemory())
    setattr(trt, setting, value)
    with pytest.raises((UserError, OutOfMemory), match=message):
        open_(tmp_path, Profile(), trt=trt)[0].run(values(3))


def test_what_the_context_refuses_is_an_error_and_not_the_batch_before(tmp_path: Path) -> None:
    session, _trt, _memory = open_(tmp_path, Profile(1, 2, 4), content=fake_tensorrt.plan(3.0, most=2))
    np.testing.assert_array_equal(session.run(values(2)), values(2) * 3)
    with pytest.raises(UserError, match=r"failed running mapping on 3 images \(\(3, 3\) lies outside the profile\)"):
        session.run(values(3))


def test_an_engine_that_rtx_calls_invalid_and_opens_runs(tmp_path: Path) -> None:
    # As it does on GPUs that it does not list.
    trt = Module(HostMemory(), rtx=True)
    trt.calls_engines_invalid = True
    session, _, _ = open_(tmp_path, Profile(1, 2, 4), rtx=True, trt=trt)
    np.testing.assert_array_equal(session.run(values(2)), values(2) * 3)
    with pytest.raises(
        UserError, match=r"cannot open .*mapping\.plan \(unsupported cc\): it was built for another GPU"
    ):
        open_(tmp_path, Profile(), rtx=True, trt=trt, content=b"something else")


@pytest.mark.parametrize("closed", [True, False])
def test_the_parts_of_a_session_go_after_those_that_use_them(tmp_path: Path, closed: bool) -> None:
    cache = tmp_path / "kept.runtime"
    session, trt, memory = open_(tmp_path, Profile(1, 2, 4), rtx=True, runtime_cache=cache)
    session.run(values(2))
    trt.config = None
    waits = memory.waits
    if closed:
        session.close()
    del session
    # A cache that goes before the context takes the process with it; so does a context with work on the stream.
    assert trt.ends[0] == "context"
    assert trt.ends.index("engine") < trt.ends.index("runtime")
    assert set(trt.ends) == {"context", "cache", "engine", "runtime"}
    assert memory.waits == waits + 1
    assert cache.read_bytes() == b"kernels of this GPU"


class Stream:
    """A stream that keeps whom it waited for."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events

    def wait_stream(self, other: Stream) -> None:
        self.events.append(f"{self.name} waits for {other.name}")


class TensorMemory(HostMemory, TorchMemory):
    """As Torch's memory on a GPU, in host memory."""

    def __init__(self, events: list[str]) -> None:
        HostMemory.__init__(self)
        self.events = events
        self.torch_stream = Stream("ours", events)  # type: ignore[assignment]

    stream = 7  # type: ignore[assignment]

    def put(self, work: Any) -> None:
        self.events.append("work")
        super().put(work)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens on the streams; tensors of the CPU pass for tensors on cuda:0 meanwhile."""
    happened: list[str] = []
    kept: list[torch.Tensor] = []

    def record_stream(tensor: torch.Tensor, stream: Stream) -> None:
        happened.append(f"kept for {stream.name}")
        kept.append(tensor)

    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True), raising=False)
    monkeypatch.setattr(torch.Tensor, "get_device", lambda _: 0)
    monkeypatch.setattr(torch, "empty", functools.partial(_empty, torch.empty))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: Stream("theirs", happened))
    monkeypatch.setattr(torch.Tensor, "record_stream", record_stream, raising=False)
    return happened


def _empty(real: Any, shape: Any, *, dtype: torch.dtype, device: Any) -> torch.Tensor:
    empty: torch.Tensor = real(shape, dtype=dtype)
    return empty


@pytest.mark.parametrize("first", [0, 1])
def test_a_tensor_is_read_where_it_lies_and_both_streams_wait(tmp_path: Path, events: list[str], first: int) -> None:
    memory = TensorMemory(events)
    session, _, _ = open_(tmp_path, Profile(1, 2, 4), trt=Module(memory))
    x = torch.from_numpy(values(3))[first:]  # one that begins within another is not aligned
    output = session.run(x)
    memory.synchronise()
    assert events == ["ours waits for theirs", "work", "kept for ours", "kept for theirs", "theirs waits for ours"]
    np.testing.assert_array_equal(output.numpy(), values(3)[first:] * 3)
    assert memory.arrays == {}, "nothing was copied"


@pytest.mark.parametrize("rtx", [True, False])
def test_a_recorded_size_gives_tensors_their_own_results(tmp_path: Path, events: list[str], rtx: bool) -> None:
    memory = TensorMemory(events)
    session, trt, _ = open_(tmp_path, Profile(4, 4, 4), trt=Module(memory, rtx=rtx), rtx=rtx)
    given = [torch.from_numpy(values(4) + number) for number in range(4)]
    outputs = [session.run(x) for x in given]
    memory.synchronise()
    for x, y in zip(given, outputs, strict=True):
        np.testing.assert_array_equal(y.numpy(), x.numpy() * 3)
    # Recordings have the addresses in them, ours and those of TensorRT for RTX.
    assert trt.contexts[0].changes == 3, "the shape and two addresses, set once"


def test_a_tensor_of_another_gpu_is_not_read_from_this_one(tmp_path: Path, events: list[str]) -> None:
    memory = TensorMemory(events)
    session, _, _ = open_(tmp_path, Profile(1, 2, 4), trt=Module(memory), device="cuda:1")
    # It would be copied through host memory, where this stand-in's tensors already are.
    assert not session._addressable(torch.from_numpy(values(2)))
    session, _, _ = open_(tmp_path, Profile(1, 2, 4), trt=Module(memory))
    assert session._addressable(torch.from_numpy(values(2)))


def test_a_package_that_is_missing_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(UserError, match=r"tensorrt-rtx cannot be loaded .*pip install tensorrt-rtx-cu13"):
        load_module("tensorrt-rtx")


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
def test_without_a_gpu_the_real_module_is_not_even_tried(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    with pytest.raises(UserError, match="runs on an NVIDIA GPU"):
        TensorRTSession(
            "tensorrt-rtx",
            tmp_path / "x.plan",
            graph="mapping",
            precision="fp32",
            input=("z", SPEC),
            output=("w", SPEC),
            profile=Profile(),
        )
