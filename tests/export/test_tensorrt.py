"""Engines built ahead of time, without a GPU, by TensorRT for RTX."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from faceanon_engine.engine.choices import Precision
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions.cache import EngineCache, read_entry
from faceanon_engine.engine.sessions.engine_key import EngineKey, EngineOptions
from faceanon_engine.engine.sessions.graphs import GRAPHS, Artifact
from faceanon_engine.engine.sessions.session import Profile
from faceanon_engine.engine.sessions.tensorrt_session import known_targets
from faceanon_engine.engine.system.cuda_driver import Gpu, gpus
from faceanon_engine.export.inspect import inspect
from faceanon_engine.export.onnx_export import export_graph
from faceanon_engine.export.tensorrt import Phases, architectures, build_engine
from tests.golden import stand_ins
from tests.support.export_network import export_network
from tests.support.fake_tensorrt import HostMemory, Module
from tests.support.small_graph import WEIGHT, write, write_linear

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install tensorrt-rtx-cu13")

ADA = Gpu(0, "a GPU", (8, 9), 2**34)


def key_of(artifact: Artifact, **changes: Any) -> EngineKey:
    key = EngineKey(
        bundle=artifact.bundle_digest or "0" * 64,
        graph=artifact.graph,
        graph_digest=artifact.sha256,
        precision=artifact.precision,
        profile=Profile(1, 4, 8),
        backend="tensorrt-rtx",
        backend_version=str(trt.__version__),
        architecture="sm_89",
        image_input=artifact.image_input,
    )
    return replace(key, **changes)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_every_graph_of_the_demo_bundle_becomes_an_engine(
    demo: Bundle, traced: Any, tmp_path: Path, graph: str, precision: Precision
) -> None:
    artifact = export_graph(demo, graph, precision, tmp_path, traced=traced(demo, graph), check=False)
    shares: list[float] = []

    def progress(done: float, total: float | None, what: str = "") -> None:
        assert total == 1.0
        shares.append(done)

    entry = EngineCache(tmp_path).ensure(
        key_of(artifact), lambda: build_engine(artifact, key_of(artifact), trt, progress=progress)
    )
    assert shares == sorted(shares)
    assert (shares[-1], len(shares) > 10) == (1.0, True)
    layers = entry.details["layers"]
    kinds = {layer["precision"] for layer in layers}
    assert {"fp32": "float", "fp16": "half", "bf16": "bf16"}[precision] in kinds
    # A strongly typed network keeps what the graph says: nothing of an fp32 graph becomes narrower.
    assert precision != "fp32" or kinds <= {"float", "int64", "int32", "bool"}
    # The engine holds the graph's weights, in the types the graph has them in.
    in_graph = sum(numpy_helper.to_array(each).nbytes for each in _weights(artifact) if each.dims)
    in_network = sum(layer["weights"] for layer in layers)
    assert 0.95 * in_graph < in_network < 1.2 * in_graph + 4096
    assert entry.bytes > 0.9 * in_graph


def _weights(artifact: Artifact) -> Any:
    import onnx

    return onnx.load(str(artifact.path)).graph.initializer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "graph"),
    [
        ("stylegan2-genforce-1024", "synthesis"),
        ("arcface-irse50-112", "identity"),
        ("farl-vit-b16", "attributes"),
        ("e4e-encoder-1024", "inverter"),
    ],
)
def test_networks_of_the_official_shapes_become_engines(tmp_path: Path, name: str, graph: str) -> None:
    network = stand_ins.network(name)
    stand_ins.imported.cache_clear()
    artifact = export_network(network, graph, "fp32", tmp_path, side=1024, check=False)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    del network
    plan, details = build_engine(artifact, key_of(artifact, architecture="sm_89+sm_120"), trt)
    assert plan.nbytes > 4 * 0.9 * (parameters if graph != "synthesis" else parameters - 2_100_000)
    assert len(details["layers"]) > 100


def test_an_engine_can_be_looked_into_without_a_gpu(tmp_path: Path) -> None:
    artifact = write_linear(tmp_path)
    cache, key = EngineCache(tmp_path), key_of(artifact)
    entry = cache.ensure(key, lambda: build_engine(artifact, key, trt))
    contents = inspect(entry.path)
    assert contents.facts["architecture"] == "sm_89"
    assert contents.facts["backend"] == f"tensorrt-rtx {trt.__version__}"
    if not gpus():
        (product,) = [layer for layer in contents.layers if layer.type == "matrix_multiply"]
        assert (product.name, product.precision, product.shape) == ("layers.0/MatMul", "float", (-1, 3))
        assert sum(layer.weights for layer in contents.layers) == WEIGHT.nbytes
    graph = inspect(artifact.path)
    assert [(layer.name, layer.type, layer.precision, layer.shape, layer.weights) for layer in graph.layers] == [
        ("layers.0/MatMul", "MatMul", "float", (-1, 3), WEIGHT.nbytes)
    ]
    entry.path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="is damaged"):
        inspect(entry.path)
    with pytest.raises(UserError, match="neither an engine"):
        inspect(tmp_path / "x.txt")


def test_a_record_says_how_an_engine_was_made(tmp_path: Path) -> None:
    artifact = write_linear(tmp_path)
    key = key_of(artifact, options=EngineOptions(optimization_level=1, workspace=2**28))
    path = EngineCache(tmp_path).ensure(key, lambda: build_engine(artifact, key, trt)).path
    entry = read_entry(path)
    assert entry.key == key
    assert entry.details["tools"]["backend"] == f"tensorrt-rtx {trt.__version__}"
    assert entry.details["seconds"] > 0


def test_an_operator_that_the_parser_does_not_know_is_named_with_its_place(tmp_path: Path) -> None:
    node = helper.make_node("Frobnicate", ["z"], ["w"], name="layers.7/Frobnicate", domain="strange")
    artifact = write(tmp_path, "mapping", [node], [], (4,), (4,), opsets=(("", 20), ("strange", 1)))
    with pytest.raises(UserError, match=r"does not take mapping \(fp32\), operator Frobnicate at layers\.7/Frobnicate"):
        build_engine(artifact, key_of(artifact), trt)


def test_a_graph_that_is_none_is_named(tmp_path: Path) -> None:
    artifact = write_linear(tmp_path)
    artifact.path.write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"mapping"):
        build_engine(artifact, key_of(artifact), trt)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions(version_compatible=True), "leave --version-compatible out"),
        (EngineOptions(workspace=0), "in a workspace of 0 bytes; give a larger --workspace"),
        (EngineOptions(hardware_compatible=True), "leave --hardware-compatible out"),
        (EngineOptions(refittable=True), "need a GPU to build on"),
        (EngineOptions(strip_weights=True), "need a GPU to build on"),
    ],
)
@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here, on which these may be built")
def test_flags_that_cannot_be_served_here_are_named(tmp_path: Path, options: EngineOptions, message: str) -> None:
    weight = np.ones((8, 3, 3, 3), np.float32)
    node = helper.make_node("Conv", ["image", "weight"], ["embedding"], name="conv", pads=[1, 1, 1, 1])
    weights = [numpy_helper.from_array(weight, "weight")]
    artifact = write(tmp_path, "identity", [node], weights, (3, 16, 16), (8, 16, 16))
    with pytest.raises(UserError, match=message):
        build_engine(artifact, key_of(artifact, options=options), trt)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as at a terminal: what a shell starts in the background is told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupting_a_build_stops_it(tmp_path: Path) -> None:
    artifact = write_linear(tmp_path)
    shares: list[float] = []

    def interrupt(share: float, total: float | None, what: str = "") -> None:
        shares.append(share)
        # As a person does, while the library is at work: Python raises it wherever it is by then.
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_engine(artifact, key_of(artifact), trt, progress=interrupt)
    assert shares[-1] < 1
    # The next one is not interrupted by it, and Ctrl-C works as before.
    build_engine(artifact, key_of(artifact), trt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_targets_are_checked_before_anything_is_built() -> None:
    assert {"sm_86", "sm_89", "sm_120"} <= set(known_targets(trt))
    assert architectures("tensorrt-rtx", [], None, trt) == ["portable"]
    assert architectures("tensorrt-rtx", ["sm_89", "sm_86+sm_120"], None, trt) == ["sm_89", "sm_86+sm_120"]
    with pytest.raises(UserError, match="no target 'sm_42': use sm_"):
        architectures("tensorrt-rtx", ["sm_89+sm_42"], None, trt)
    plain = Module(HostMemory())
    assert known_targets(plain) == []
    assert architectures("tensorrt", [], ADA, plain) == ["sm_89"]
    with pytest.raises(UserError, match=r"builds for the GPU it runs on, a GPU \(sm_89\), not for sm_120"):
        architectures("tensorrt", ["sm_120"], ADA, plain)
    with pytest.raises(UserError, match="there is none here"):
        architectures("tensorrt", ["sm_89"], None, plain)


def test_nested_phases_become_one_share() -> None:
    phases, shares = Phases(), []

    def step(name: str, number: int) -> None:
        phases.step(name, number)
        shares.append(phases.share)

    phases.start("build", None, 4)
    step("build", 0)
    phases.start("tactics", "build", 2)
    step("tactics", 0)
    phases.finish("tactics")
    step("build", 1)
    phases.start("another root", None, 10)
    step("another root", 0)
    phases.finish("another root")
    step("build", 2)
    step("build", 3)
    assert shares == pytest.approx([0.25, 0.375, 0.5, 0.5, 0.75, 1.0])
