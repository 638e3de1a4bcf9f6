"""Exported graphs run by ONNX Runtime, and what is said when they cannot be."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
from small_graph import WEIGHT, write, write_linear

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions.onnxruntime_session import OnnxRuntimeSession, says_out_of_memory


def test_arrays_and_tensors_come_back_as_they_came(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    with OnnxRuntimeSession(write_linear(tmp_path), threads=1, max_batch=2) as session:
        np.testing.assert_allclose(session.run(x), x @ WEIGHT, rtol=1e-6)
        found = session.run(torch.from_numpy(x))
        assert isinstance(found, torch.Tensor)
        np.testing.assert_allclose(found.numpy(), x @ WEIGHT, rtol=1e-6)
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
        onnxruntime, "InferenceSession", lambda path, options, providers: real(path, options, ["CPUExecutionProvider"])
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
    with pytest.raises(UserError, match=r"mapping on 3 images on cpu: give a smaller --batch-size or a 16-bit"):
        session.run(np.zeros((3, 4), np.float32))
