"""Exported graphs run by ONNX Runtime, and what is said when they cannot be."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions.onnxruntime_session import (
    _LEAST_GRAPH,
    OnnxRuntimeSession,
    open_strictly,
    why_no_cuda,
)
from faceanon_engine.engine.sessions.opening import why_not
from faceanon_engine.engine.system.memory import OutOfMemory, says_out_of_memory
from tests.support.small_graph import WEIGHT, write, write_linear


def test_arrays_and_tensors_come_back_as_they_came(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    with OnnxRuntimeSession(write_linear(tmp_path), threads=1, max_batch=2) as session:
        np.testing.assert_allclose(session.run(x), x @ WEIGHT, rtol=1e-6)
        output = session.run(torch.from_numpy(x))
        assert isinstance(output, torch.Tensor)
        np.testing.assert_allclose(output.numpy(), x @ WEIGHT, rtol=1e-6)
        about = session.describe()
    assert (about.backend, about.provider, about.precision) == ("onnxruntime", "CPUExecutionProvider", "fp32")
    assert (about.version, about.device, about.detail) == (onnxruntime.__version__, "cpu", "1 threads")


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime knows CUDA"
)
def test_cuda_without_its_provider_is_refused_and_not_silently_run_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="onnxruntime-gpu"):
        OnnxRuntimeSession(write_linear(tmp_path), device="cuda:0")


def test_a_provider_that_falls_back_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a package with CUDA on a machine without it does: it offers the provider and gives another one.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, **_: real(path, options, ["CPUExecutionProvider"])
    )
    with pytest.raises(UserError, match="gave CPUExecutionProvider where CUDAExecutionProvider was asked for"):
        OnnxRuntimeSession(write_linear(tmp_path), device="cuda:0")


def test_a_missing_kernel_is_named_with_its_place(tmp_path: Path) -> None:
    cast = helper.make_node("Cast", ["z"], ["wide"], to=TensorProto.BFLOAT16, name="enter/Cast")
    node = helper.make_node("Relu", ["wide"], ["half"], name="layers.3/Relu")
    back = helper.make_node("Cast", ["half"], ["w"], to=TensorProto.FLOAT, name="leave/Cast")
    artifact = replace(write(tmp_path, "mapping", [cast, node, back], [], (4,), (4,)), precision="bf16")
    with pytest.raises(
        UserError, match=r"no CPUExecutionProvider kernel in bf16 for .*Relu.*layers\.3/Relu.*--precision"
    ):
        OnnxRuntimeSession(artifact)


def test_a_damaged_graph_is_named(tmp_path: Path) -> None:
    artifact = write_linear(tmp_path)
    artifact.path.write_bytes(b"\x08\x0a not a graph")
    with pytest.raises(UserError, match=r"mapping-fp32\.onnx .*--force"):
        OnnxRuntimeSession(artifact)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CUDA error: out of memory", True),
        ("[OutOfMemory] Requested size was 4 GB", True),
        ("std::bad_alloc", True),
        ("BFCArena: Failed to allocate memory for requested buffer", True),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes", True),
        ("shape mismatch", False),
    ],
)
def test_out_of_memory_is_recognised(text: str, expected: bool) -> None:
    assert says_out_of_memory(text) is expected


def test_running_out_of_memory_suggests_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = OnnxRuntimeSession(write_linear(tmp_path))

    class Full:
        def run(self, *_: object) -> None:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 1")

    monkeypatch.setattr(session, "_session", Full())
    with pytest.raises(OutOfMemory, match=r"mapping on 3 images on cpu: give a smaller --batch-size or use a 16-bit"):
        session.run(np.zeros((3, 4), np.float32))


class OnGpu:
    """A session of the CUDA provider that works in host memory, where the tensors of this test are."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.bound: dict[str, tuple[object, ...]] = {}

    def io_binding(self) -> OnGpu:
        return self

    def bind_input(self, name: str, *what: object) -> None:
        self.bound[name] = what

    bind_output = bind_input

    def run_with_iobinding(self, _binding: object) -> None:
        self.events.append("run")
        (z, shape), (w, gives) = ((self.bound[name][4], self.bound[name][3]) for name in ("z", "w"))
        x = np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(z)).reshape(shape)
        y = np.ctypeslib.as_array((ctypes.c_float * int(np.prod(gives))).from_address(w)).reshape(gives)
        y[:] = x @ WEIGHT

    def synchronize_outputs(self) -> None:
        self.events.append("outputs are there")


def test_tensors_on_the_gpu_go_in_and_out_by_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, events = OnnxRuntimeSession(write_linear(tmp_path)), []
    fake = OnGpu(events)
    for name, value in (("_session", fake), ("_provider", "CUDAExecutionProvider")):
        monkeypatch.setattr(session, name, value)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True), raising=False)
    monkeypatch.setattr(torch.Tensor, "get_device", lambda _: 0)
    stream = SimpleNamespace(synchronize=lambda: events.append("the input is there"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: stream)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32))
    np.testing.assert_allclose(session.run(x).numpy(), x.numpy() @ WEIGHT, rtol=1e-6)
    # Its stream is another one than Torch's: both are waited for.
    assert events == ["the input is there", "run", "outputs are there"]
    assert fake.bound["z"][:4] == ("cuda", 0, np.dtype("float32"), (5, 4))
    assert fake.bound["w"][:4] == ("cuda", 0, np.dtype("float32"), (5, 3))
    # Addresses of another GPU mean nothing to this one.
    monkeypatch.setattr(torch.Tensor, "get_device", lambda _: 1)
    monkeypatch.setattr(fake, "run", lambda _names, feed: [feed["z"] @ WEIGHT], raising=False)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: tensor)
    np.testing.assert_allclose(session.run(x).numpy(), x.numpy() @ WEIGHT, rtol=1e-6)
    assert len(events) == 3


def test_cudas_libraries_are_loaded_and_nothing_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = []

    def preload_dlls() -> None:
        print("Failed to load libcudnn.so.9")
        loaded.append(True)

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload_dlls)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, **_: real(path, options, ["CPUExecutionProvider"])
    )
    with pytest.raises(UserError, match="its CUDA libraries or the driver do not fit"):
        OnnxRuntimeSession(write_linear(tmp_path), device="cuda:0")
    assert loaded == [True]
    # And `auto` takes another: what is built with CUDA is asked whether CUDA comes up.
    why_no_cuda.cache_clear()
    assert "its CUDA libraries or the driver do not fit" in str(why_not("onnxruntime", "cuda:0"))
    why_no_cuda.cache_clear()
    assert loaded == [True, True]
    assert capsys.readouterr().out == ""


def test_the_least_graph_is_what_is_said() -> None:
    model = onnx.load_from_string(_LEAST_GRAPH)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Identity"]
    session = open_strictly(_LEAST_GRAPH, onnxruntime.SessionOptions(), "CPUExecutionProvider")
    np.testing.assert_array_equal(session.run(None, {"x": np.array([3], np.float32)})[0], [3])


def test_a_provider_that_fails_is_not_replaced_by_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default ONNX Runtime says so on stdout, where JSON goes, and runs on the CPU."""
    failure = onnxruntime.capi.onnxruntime_pybind11_state.EPFail
    x = {"x": np.array([3], np.float32)}

    class Fails:
        def __init__(self, real: Any) -> None:
            self.real, self.failed = real, False

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def run(self, *arguments: Any) -> Any:
            if self.failed:
                return self.real.run(*arguments)
            self.failed = True
            raise failure("CUDA failure 700")

    usual = onnxruntime.InferenceSession(_LEAST_GRAPH, providers=["CPUExecutionProvider"])
    monkeypatch.setattr(usual, "set_providers", lambda _: None)
    usual._sess = Fails(usual._sess)
    assert usual.run(None, x)[0] == [3]
    assert "Falling back to" in capsys.readouterr().out
    ours = open_strictly(_LEAST_GRAPH, onnxruntime.SessionOptions(), "CPUExecutionProvider")
    ours._sess = Fails(ours._sess)
    with pytest.raises(failure, match="CUDA failure 700"):
        ours.run(None, x)
    with pytest.warns(UserWarning, match="NoSuchProvider"), pytest.raises(RuntimeError, match="NoSuchProvider"):
        open_strictly(_LEAST_GRAPH, onnxruntime.SessionOptions(), "NoSuchProvider")
    assert capsys.readouterr().out == ""
