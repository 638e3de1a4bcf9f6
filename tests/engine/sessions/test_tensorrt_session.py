"""Running engines: the order of calls, recordings, memory and errors, against a stand-in for the module and the GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import fake_tensorrt
from fake_tensorrt import HostMemory, Module

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions.cuda_driver import gpus
from faceanon_engine.engine.sessions.graphs import TensorSpec
from faceanon_engine.engine.sessions.session import Profile
from faceanon_engine.engine.sessions.tensorrt_session import TensorRTSession, load_module

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
    for found, expected in kept:
        np.testing.assert_array_equal(found, expected)
    assert trt.runs == [(2, False), (4, False), (1, False), (4, False), (4, False), (1, False)]
    found = session.run(torch.from_numpy(values(3)))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), values(3) * 3)


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


def test_recordings_are_kept_for_a_few_sizes_and_void_when_memory_grows(tmp_path: Path) -> None:
    session, _trt, memory = open_(tmp_path, Profile(1, 8, 64), cuda_graphs=True)
    recordings = []
    make = memory.capture

    def capture() -> Any:
        recordings.append(make())
        return recordings[-1]

    memory.capture = capture  # type: ignore[method-assign]
    for count in (8, 8, 8, 16, 8, 8):
        np.testing.assert_array_equal(session.run(values(count)), values(count) * 3)
    # The batch of 16 needed larger buffers: the recording with the old addresses is closed, another one is made.
    assert [recording.closed for recording in recordings] == [True, False]
    for count in (1, 2, 3, 4, 5):
        session.run(values(count))
        session.run(values(count))
    assert sum(not recording.closed for recording in recordings) == 4
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
            True,
            r"out of memory preparing mapping .* up to 64: build it with a smaller largest --batch",
        ),
        ("refuse_run", "Cuda Runtime (out of memory)", r"out of memory running mapping on 3 images.*--batch-size"),
        ("refuse_run", "myelin failed", r"tensorrt failed running mapping on 3 images \(myelin failed\)"),
    ],
)
def test_failures_are_told_with_a_way_out(tmp_path: Path, setting: str, value: Any, message: str) -> None:
    trt = Module(HostMemory())
    setattr(trt, setting, value)
    with pytest.raises(UserError, match=message):
        open_(tmp_path, Profile(), trt=trt)[0].run(values(3))


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
