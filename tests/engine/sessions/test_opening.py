"""What is chosen, and what is said when it cannot be opened."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions import open_engine, open_session, opening, tensorrt_session
from faceanon_engine.engine.sessions.cache import EngineCache
from faceanon_engine.engine.sessions.graphs import GRAPHS
from faceanon_engine.engine.sessions.opening import Wanted, choose, engine_key
from faceanon_engine.engine.sessions.session import Profile
from faceanon_engine.engine.system import devices
from faceanon_engine.engine.system.cuda_driver import Gpu
from faceanon_engine.engine.system.devices import resolve
from tests.support import fake_tensorrt
from tests.support.small_graph import write_linear
from tests.support.tiny_bundle import write_tiny_bundle

ADA = Gpu(0, "a GPU", (8, 9), 2**34)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def machine(monkeypatch: pytest.MonkeyPatch, missing: dict[str, str], gpus: tuple[Gpu, ...] = ()) -> None:
    """A machine with these GPUs, on which some backends cannot run."""
    monkeypatch.setattr(devices, "gpus", lambda: gpus)
    monkeypatch.setattr(opening, "why_not", lambda backend, device: missing.get(backend))


@pytest.mark.parametrize(
    ("device", "precision", "missing", "expected"),
    [
        ("cpu", "fp32", (), "onnxruntime"),
        ("cpu", "fp32", ("onnxruntime",), "torch"),
        ("cpu", "fp16", (), "torch"),
        ("cuda:0", "fp32", (), "tensorrt"),
        ("cuda:0", "fp16", ("tensorrt",), "tensorrt-rtx"),
        ("cuda:0", "fp32", ("tensorrt", "tensorrt-rtx"), "onnxruntime"),
        ("cuda:0", "fp32", ("tensorrt", "tensorrt-rtx", "onnxruntime"), "torch"),
    ],
)
def test_auto_takes_the_fastest_that_runs_and_says_why_not_the_others(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: str, missing: tuple[str, ...], expected: str
) -> None:
    machine(monkeypatch, dict.fromkeys(missing, "not here"))
    choice = choose(device, precision)
    assert choice.backend == expected
    assert set(missing) <= set(choice.passed_over)


def test_a_gpu_that_tensorrt_for_rtx_does_not_know_is_passed_over_and_named(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle
) -> None:
    """Seen on an H200: engines were built, and opening them failed with "unsupported cc"."""
    hopper = (Gpu(0, "H200", (9, 0), 2**37),)
    for module in (devices, opening):
        monkeypatch.setattr(module, "gpus", lambda: hopper)
    trt = SimpleNamespace(__version__="1.7", ComputeCapability=SimpleNamespace(__members__={"SM86": 1, "SM120": 2}))
    monkeypatch.setattr(tensorrt_session, "load_module", lambda _backend: trt)
    said = r"tensorrt-rtx 1.7 does not serve H200 \(sm_90\), only sm_86, sm_120: use --backend tensorrt"
    for device in ("auto", "cuda:0"):
        with pytest.raises(UserError, match=said):
            open_session(bundle, "identity", backend="tensorrt-rtx", device=device)
    assert opening.why_not("tensorrt-rtx", "cuda:0") is not None
    trt.ComputeCapability.__members__["SM90"] = 3
    assert opening.why_not("tensorrt-rtx", "cuda:0") is None


def test_auto_takes_torch_where_nothing_can_be_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "is_importable", lambda module: module != "onnxscript")
    choice = choose("cpu", "fp32")
    assert choice.backend == "torch"
    assert "onnxscript" in choice.passed_over["onnxruntime"]


def test_auto_says_so_when_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, dict.fromkeys(("onnxruntime", "torch"), "not here"))
    with pytest.raises(UserError, match="nothing installed here"):
        choose("cpu", "fp32")


def test_auto_does_not_depend_on_what_has_been_built(tmp_path: Path, bundle: Bundle) -> None:
    cache = EngineCache(tmp_path)
    prepared: list[Wanted] = []

    def prepare(of: Bundle, wanted: Wanted, where: EngineCache) -> None:
        prepared.append(wanted)
        write_linear(where.graphs_folder(of.digest), bundle=of.digest)

    with pytest.raises(UserError, match=r"not built for onnxruntime.*faceanon-engine build --bundle"):
        open_session(bundle, "mapping", device="cpu", cache=cache)
    cold = open_session(bundle, "mapping", device="cpu", cache=cache, prepare=prepare)
    warm = open_session(bundle, "mapping", device="cpu", cache=cache, prepare=prepare)
    assert cold.describe() == warm.describe()
    assert [(each.graph, each.backend, each.precision) for each in prepared] == [("mapping", "onnxruntime", "fp32")]
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(cold.run(x), warm.run(x))


def test_torch_runs_every_graph_of_a_bundle(bundle: Bundle) -> None:
    for graph in GRAPHS:
        session = open_session(bundle, graph, backend="torch", device="cpu")
        shape = tuple(int(size) for size in session.input.shape[1:])
        output = session.run(np.zeros((2, *shape), np.float32))
        assert output.shape[1:] == session.output.shape[1:]
        assert session.describe().backend == "torch"


def test_pixels_may_go_in_as_they_are_read(bundle: Bundle) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    as_floats = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    expected = open_session(bundle, "identity", backend="torch", device="cpu").run(as_floats)
    output = open_session(bundle, "identity", backend="torch", device="cpu", image_input="uint8").run(pixels)
    np.testing.assert_allclose(output, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "tensorflow"}, "unknown backend 'tensorflow': use auto, torch"),
        ({"precision": "int4"}, "unknown precision 'int4'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "cuda:7"}, "no usable NVIDIA GPU here, see 'faceanon-engine doctor'; use --device cpu"),
        ({"backend": "tensorrt"}, "tensorrt runs on an NVIDIA GPU and none is used here"),
        ({"backend": "onnxruntime"}, "run 'faceanon-engine build --bundle tiny --networks identity"),
    ],
)
def test_every_error_names_the_value_and_a_way_out(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], message: str
) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: ())
    with pytest.raises(UserError, match=message):
        open_session(bundle, "identity", cache=EngineCache(tmp_path), **settings)


def test_an_unknown_graph_is_named(bundle: Bundle) -> None:
    with pytest.raises(UserError, match="unknown graph 'eyes'"):
        open_session(bundle, "eyes", backend="torch")


def test_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, {}, (ADA,))
    assert [resolve(name) for name in ("auto", "cpu", "cuda", "cuda:0")] == ["cuda:0", "cpu", "cuda:0", "cuda:0"]
    with pytest.raises(UserError, match="this machine has 1 GPUs, counted from cuda:0"):
        resolve("cuda:1")


def test_an_engine_is_built_when_it_is_first_wanted_and_found_the_next_time(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, {}, (ADA,))
    memory = fake_tensorrt.HostMemory()
    trt = fake_tensorrt.Module(memory)
    monkeypatch.setattr(tensorrt_session, "load_module", lambda _backend: trt)
    monkeypatch.setattr(tensorrt_session, "open_memory", lambda _index: memory)
    monkeypatch.setattr(tensorrt_session, "gpus", lambda: (ADA,))
    cache = EngineCache(tmp_path)
    built: list[Wanted] = []

    def prepare(of: Bundle, wanted: Wanted, where: EngineCache) -> None:
        built.append(wanted)
        artifact = write_linear(where.graphs_folder(of.digest), bundle=of.digest)
        record = engine_key(artifact, wanted, "99.1.0", "sm_89")
        where.ensure(record, lambda: (fake_tensorrt.plan(2.0), {"layers": []}))

    sessions = []
    for _ in range(2):
        session: Any = open_session(
            bundle, "mapping", backend="tensorrt", device="cuda", cache=cache, prepare=prepare, profile=Profile()
        )
        sessions.append(session)
        assert session.describe().detail == "batch 1,8,64"
    assert len(built) == 1
    artifact = cache.find_graph(bundle.digest, "mapping", "fp32")
    assert artifact is not None
    entry = cache.find_for_gpu(engine_key(artifact, built[0], "99.1.0", "sm_89"), "sm_89")
    assert entry is not None
    assert open_engine(entry.path, artifact).describe().backend == "tensorrt"
    # Another version of TensorRT does not open it: it is built again.
    trt.__version__ = "99.2.0"
    with pytest.raises(UserError, match="not built for tensorrt"):
        open_session(bundle, "mapping", backend="tensorrt", device="cuda", cache=cache)


@pytest.mark.parametrize(("precision", "most"), [("fp16", 2e-2), ("bf16", 1e-1)])
@pytest.mark.parametrize("graph", list(GRAPHS))
def test_torch_in_16_bits_stays_near_float32(bundle: Bundle, graph: str, precision: str, most: float) -> None:
    wide, narrow = (
        open_session(bundle, graph, backend="torch", precision=name, device="cpu") for name in ("fp32", precision)
    )
    x = np.random.default_rng(0).uniform(-1, 1, (2, *map(int, wide.input.shape[1:]))).astype(np.float32)
    expected, actual = wide.run(x), narrow.run(x)
    assert (actual.dtype, narrow.describe().precision) == (np.float32, precision)
    error = np.abs(actual - expected).max() / np.sqrt(np.square(expected).mean())
    # Something is narrower, and not by more than a few dozen roundings of its type.
    assert 0 < error < most
