"""Engines and providers on a real GPU: the numbers of Torch, tensors by address, recordings, no Torch."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions import GRAPHS, Profile, Session, Wanted, open_engine, open_session
from faceanon_engine.engine.sessions.cache import EngineCache
from faceanon_engine.engine.sessions.engine_key import EngineOptions
from faceanon_engine.engine.sessions.opening import why_not
from faceanon_engine.engine.sessions.tensorrt_session import load_module
from faceanon_engine.engine.system.cuda_driver import gpus
from faceanon_engine.export import build as building
from faceanon_engine.export.prepare import prepare, prepare_engine
from faceanon_engine.export.tensorrt import architectures
from tests.support.tiny_bundle import write_tiny_bundle

ON_GPU = ["onnxruntime", "tensorrt", "tensorrt-rtx"]
# As shares of the reference's root mean square: float32 in another order; float16 as graphs of it are held to.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    return EngineCache(tmp_path_factory.mktemp("engines"))


def open_on_gpu(bundle: Bundle, cache: EngineCache, graph: str, backend: str, precision: str, **more: Any) -> Session:
    reason = why_not(backend, "cuda:0")
    if reason is not None:
        pytest.skip(reason)
    settings = {"backend": backend, "precision": precision, "device": "cuda:0", "cache": cache, "prepare": prepare}
    return open_session(bundle, graph, **settings, **more)


def inputs(session: Session, count: int) -> np.ndarray:
    shape = tuple(int(size) for size in session.input.shape[1:])
    return np.random.default_rng(count).uniform(-1, 1, (count, *shape)).astype(np.float32)


def error(actual: Any, expected: Any) -> float:
    return float(np.abs(actual - expected).max() / np.sqrt(np.square(expected).mean()))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("graph", list(GRAPHS))
@pytest.mark.parametrize("backend", ON_GPU)
def test_every_graph_gives_what_torch_gives(
    bundle: Bundle, cache: EngineCache, backend: str, graph: str, precision: str
) -> None:
    reference = open_session(bundle, graph, backend="torch", device="cpu")
    with open_on_gpu(bundle, cache, graph, backend, precision) as session:
        for count in (1, 8, 70):
            x = inputs(session, count)
            expected = reference.run(x)
            assert error(session.run(x), expected) < TOLERANCE[precision]
            on_device = torch.from_numpy(x).cuda()
            output = session.run(on_device)
            assert output.is_cuda
            assert error(output.cpu().numpy(), expected) < TOLERANCE[precision]
        about = session.describe()
    assert (about.backend, about.precision) == (backend, precision)
    assert about.device.startswith("cuda:0")
    assert about.provider in (backend, "CUDAExecutionProvider")


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_fixed_size_is_replayed_with_new_inputs(bundle: Bundle, cache: EngineCache, backend: str) -> None:
    reference = open_session(bundle, "identity", backend="torch", device="cpu")
    with open_on_gpu(bundle, cache, "identity", backend, "fp32", profile=Profile(4, 4, 4)) as session:
        for seed in range(6):
            x = np.random.default_rng(seed).uniform(-1, 1, inputs(session, 4).shape).astype(np.float32)
            assert error(session.run(x), reference.run(x)) < TOLERANCE["fp32"]
            assert error(session.run(torch.from_numpy(x).cuda()).cpu().numpy(), reference.run(x)) < TOLERANCE["fp32"]
        assert "CUDA graphs" in session.describe().detail
        assert "refused" not in session.describe().detail


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ON_GPU)
def test_work_queued_before_and_after_is_waited_for(bundle: Bundle, cache: EngineCache, backend: str) -> None:
    with open_on_gpu(bundle, cache, "identity", backend, "fp32") as session:
        x = torch.from_numpy(inputs(session, 8)).cuda()
        expected = session.run(x).clone()
        stream = torch.cuda.Stream()
        for _ in range(20):
            with torch.cuda.stream(stream):
                # The input is made on another stream, after something long, and thrown away at once.
                torch.cuda._sleep(2_000_000)
                output = session.run(x * 2 / 2)
                doubled = output * 2
            stream.synchronize()
            torch.testing.assert_close(doubled, expected * 2, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_kernels_compiled_by_rtx_are_kept_for_the_next_process(bundle: Bundle, cache: EngineCache) -> None:
    with open_on_gpu(bundle, cache, "identity", "tensorrt-rtx", "fp32") as session:
        first = session.run(inputs(session, 8))
    kept = list(cache.root.rglob("*.runtime"))
    assert kept
    assert all(file.stat().st_size > 0 for file in kept)
    with open_on_gpu(bundle, cache, "identity", "tensorrt-rtx", "fp32") as session:
        np.testing.assert_array_equal(session.run(inputs(session, 8)), first)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ON_GPU)
def test_a_session_runs_in_threads_that_did_nothing_on_the_gpu_yet(
    bundle: Bundle, cache: EngineCache, backend: str
) -> None:
    with open_on_gpu(bundle, cache, "identity", backend, "fp32") as session:
        x = inputs(session, 8)
        expected = session.run(x)
        for _ in range(2):
            with ThreadPoolExecutor(1) as thread:
                np.testing.assert_allclose(thread.submit(session.run, x).result(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ON_GPU)
def test_a_tensor_that_begins_within_another_is_taken(bundle: Bundle, cache: EngineCache, backend: str) -> None:
    reference = open_session(bundle, "mapping", backend="torch", device="cpu")
    with open_on_gpu(bundle, cache, "mapping", backend, "fp32") as session:
        x = torch.from_numpy(inputs(session, 9)).cuda()
        assert x[1:].data_ptr() % 256, "a row of this bundle's codes is shorter than an alignment"
        expected = reference.run(x.cpu().numpy()[1:])
        assert error(session.run(x[1:]).cpu().numpy(), expected) < TOLERANCE["fp32"]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_recordings_of_an_engine_for_many_sizes_give_each_its_own_results(
    bundle: Bundle, cache: EngineCache, backend: str
) -> None:
    reference = open_session(bundle, "identity", backend="torch", device="cpu")
    open_on_gpu(bundle, cache, "identity", backend, "fp32", profile=Profile()).close()
    artifact = cache.find_graph(bundle.digest, "identity", "fp32")
    (plan,) = (cache.root / bundle.digest[:16] / backend).glob("identity-fp32-b1.8.64-*.plan")
    assert artifact is not None
    with open_engine(plan, artifact, cuda_graphs=True) as session:
        for count in (8, 8, 8, 3, 3, 3, 8, 16, 16, 8, 8):
            x = inputs(session, count)
            assert error(session.run(x), reference.run(x)) < TOLERANCE["fp32"]
            output = session.run(torch.from_numpy(x).cuda())
            assert error(output.cpu().numpy(), reference.run(x)) < TOLERANCE["fp32"]
        assert "refused" not in session.describe().detail


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_session_may_be_dropped_with_work_on_its_stream(bundle: Bundle, cache: EngineCache, backend: str) -> None:
    # What goes wrong here takes the whole process with it.
    for _ in range(3):
        session = open_on_gpu(bundle, cache, "identity", backend, "fp32")
        x = torch.from_numpy(inputs(session, 8)).cuda()
        torch.cuda._sleep(20_000_000)
        output = session.run(x)
        del session
        gc.collect()
        torch.cuda.synchronize()
        assert torch.isfinite(output).all()


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_weights_that_were_left_out_are_put_back(bundle: Bundle, cache: EngineCache, backend: str) -> None:
    reference = open_session(bundle, "identity", backend="torch", device="cpu")
    open_on_gpu(bundle, cache, "identity", backend, "fp32").close()
    artifact = cache.find_graph(bundle.digest, "identity", "fp32")
    assert artifact is not None
    wanted = Wanted("identity", backend, "fp32", "cuda:0", Profile())  # type: ignore[arg-type]
    place = architectures(backend, [], gpus()[0], load_module(backend))[0]
    try:
        whole = prepare_engine(artifact, wanted, place, cache)
        stripped = prepare_engine(artifact, wanted, place, cache, options=EngineOptions(strip_weights=True))
    except UserError as reason:
        pytest.skip(str(reason))
    assert stripped.bytes < whole.bytes
    with open_engine(stripped.path, artifact) as session:
        x = inputs(session, 8)
        assert error(session.run(x), reference.run(x)) < TOLERANCE["fp32"]


@pytest.mark.gpu
def test_what_is_built_is_tried_on_the_gpu(bundle: Bundle, tmp_path: Path) -> None:
    request = building.Request(networks=["mapping"], profile=Profile(1, 4, 8))
    built = building.run(bundle, request, building.plan(request), EngineCache(tmp_path))
    assert built
    for each in built:
        assert (each.error, each.not_run) == (None, None)
        assert each.throughput is not None
        assert each.maximum_error is not None
        assert each.maximum_error < 1e-3


WITHOUT_TORCH = """
import sys
from pathlib import Path
import numpy as np
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions.cache import EngineCache
from faceanon_engine.engine.sessions import open_session

bundle, root, backend, given, out = sys.argv[1:]
settings = {"backend": backend, "device": "cuda", "cache": EngineCache(Path(root))}
with open_session(Bundle.open(bundle), "identity", **settings) as session:
    x = np.load(given)
    np.save(out, np.stack([session.run(x), session.run(x)]))
print("torch" in sys.modules)
"""


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ON_GPU)
def test_engines_run_without_torch(bundle: Bundle, cache: EngineCache, backend: str, tmp_path: Path) -> None:
    if backend != "onnxruntime" and importlib.util.find_spec("pycuda") is None:
        pytest.skip("pycuda is not installed")
    with open_on_gpu(bundle, cache, "identity", backend, "fp32") as session:
        x = inputs(session, 8)
        expected = session.run(x)
    np.save(tmp_path / "x.npy", x)
    arguments = [bundle.path, cache.root, backend, tmp_path / "x.npy", tmp_path / "y.npy"]
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout.strip()) == (0, "False"), run.stderr
    for output in np.load(tmp_path / "y.npy"):
        assert error(output, expected) < TOLERANCE["fp32"]


@pytest.mark.gpu
def test_auto_takes_what_runs_here(bundle: Bundle, cache: EngineCache) -> None:
    with open_session(bundle, "identity", cache=cache, prepare=prepare) as session:
        about = session.describe()
        assert about.device.startswith("cuda")
        session.run(inputs(session, 3))
