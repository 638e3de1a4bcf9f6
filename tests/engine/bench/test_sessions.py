"""Rivals side by side: what is measured, what is left out and why. Durations are never looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faceanon_engine.engine.bench import sessions
from faceanon_engine.engine.bench.inputs import make_inputs
from faceanon_engine.engine.bench.measure import Budget
from faceanon_engine.engine.bench.plan import Case, Plan
from faceanon_engine.engine.bench.sessions import cases_of, measure_graph, open_for_bench
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method.preset import get_preset
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions.session import About
from tests.support.tiny_bundle import write_tiny_bundle

ONCE = Budget(warmup_seconds=0, min_seconds=0, min_iterations=1, max_seconds=60, rounds=1)
PLAN = Plan(
    mode="throughput",
    graphs=("identity",),
    backends=("torch", "onnxruntime"),
    precisions=("fp32",),
    batches=(1, 4),
    step_batches=(1,),
    device="cpu",
    preset=get_preset("falco"),
    budget=ONCE,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bench") / "tiny")


class Answer:
    """A session that answers with the same value for everybody."""

    def __init__(self, backend: str, precision: str, value: float, largest: int = 1000) -> None:
        self.backend, self.precision, self.value, self.largest = backend, precision, value, largest

    def run(self, batch: Any, /) -> Any:
        if len(batch) > self.largest:
            raise MemoryError(f"no room for {len(batch)}")
        return np.full((len(batch), 2), self.value, np.float32)

    closed = 0

    def close(self) -> None:
        Answer.closed += 1

    def describe(self) -> About:
        return About(self.backend, "1", self.backend, self.precision, "cpu", "identity")


def nobody_says(*_: Any) -> None:
    return


def measured(bundle: Bundle, plan: Plan, opener: Any) -> tuple[dict[tuple[Any, ...], dict[str, Any]], list[Any]]:
    missing: list[Any] = []
    entries = measure_graph(bundle, plan, "identity", opener, missing, nobody_says)
    return {(e["backend"], e["precision"], e["batch"]): e for e in entries}, missing


def test_inputs_are_the_same_for_the_same_seed_and_within_range(bundle: Bundle) -> None:
    images = make_inputs(bundle, "inverter", 3, seed=5)
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == np.float32
    assert -1 <= images.min() < -0.3 < 0.3 < images.max() <= 1
    assert np.array_equal(images, make_inputs(bundle, "identity", 3, seed=5))
    assert not np.array_equal(images, make_inputs(bundle, "identity", 3, seed=6))
    # Smooth, as pictures are: neighbours resemble each other.
    assert np.abs(np.diff(images, axis=3)).mean() < 0.5 * images.std()
    assert make_inputs(bundle, "synthesis", 2, seed=0).shape == (2, 8, 16)
    assert make_inputs(bundle, "mapping", 2, seed=0).shape == (2, 16)


def test_a_processor_serves_latency_and_throughput_with_one_case() -> None:
    everything = replace(PLAN, mode="all", backends=("torch",))
    assert [(c.batch, c.queued) for c in cases_of(everything, "identity", False)] == [(1, False), (4, False)]
    assert [(c.batch, c.queued) for c in cases_of(everything, "identity", True)] == [(1, False), (1, True), (4, True)]
    assert [c.batch for c in cases_of(replace(everything, mode="latency"), "identity", True)] == [1]


def test_all_rivals_of_a_batch_size_stand_together() -> None:
    cases = cases_of(replace(PLAN, precisions=("fp32", "bf16")), "identity", False)
    assert cases[:4] == [
        Case("identity", 1, "fp32", "torch"),
        Case("identity", 1, "fp32", "onnxruntime"),
        Case("identity", 1, "bf16", "torch"),
        Case("identity", 1, "bf16", "onnxruntime"),
    ]


def test_torch_is_the_baseline_and_differences_are_from_its_fp32(bundle: Bundle) -> None:
    values = {("torch", "fp32"): 2.0, ("torch", "bf16"): 2.5, ("onnxruntime", "fp32"): 2.0, ("onnxruntime", "bf16"): 1}

    def opener(_: Bundle, graph: str, *, backend: str, precision: Any, device: str, largest: int) -> Answer:
        assert (graph, device, largest) == ("identity", "cpu", 4)
        return Answer(backend, precision, values[backend, precision])

    entries, missing = measured(bundle, replace(PLAN, precisions=("fp32", "bf16")), opener)
    assert missing == []
    assert len(entries) == 8
    assert entries["torch", "fp32", 4]["speedup"] == {}
    assert entries["torch", "fp32", 4]["difference"] is None
    assert set(entries["torch", "bf16", 4]["speedup"]) == {"torch fp32"}
    assert set(entries["onnxruntime", "bf16", 4]["speedup"]) == {"torch fp32", "torch bf16"}
    assert set(entries["onnxruntime", "fp32", 4]["speedup"]) == {"torch fp32"}
    assert entries["onnxruntime", "fp32", 1]["difference"] == {"against": "torch fp32", "maximum": 0, "mean": 0}
    assert entries["onnxruntime", "bf16", 1]["difference"]["maximum"] == pytest.approx(0.5)
    entry = entries["torch", "bf16", 4]
    assert entry["images_per_second"] == pytest.approx(4000 / entry["total_ms"]["mean"], rel=1e-3)
    assert entry["input"] == {"dtype": "float32", "shape": [4, 3, 32, 32]}
    assert entry["runs_on"]["backend"] == "torch"
    assert entry["compute_ms"] is None


def test_sessions_give_back_what_they_hold(bundle: Bundle) -> None:
    before = Answer.closed
    measured(bundle, PLAN, lambda *_, backend, precision, **__: Answer(backend, precision, 1))
    assert Answer.closed == before + 2


def test_without_a_baseline_there_is_nothing_to_compare_with(bundle: Bundle) -> None:
    entries, _ = measured(
        bundle,
        replace(PLAN, backends=("onnxruntime",)),
        lambda *_, backend, precision, **__: Answer(backend, precision, 1),
    )
    assert entries["onnxruntime", "fp32", 1]["speedup"] == {}
    assert entries["onnxruntime", "fp32", 1]["difference"] is None


def test_what_cannot_be_opened_is_left_out_with_its_reason_and_the_rest_goes_on(bundle: Bundle) -> None:
    def opener(*_: Any, backend: str, precision: str, **__: Any) -> Answer:
        if backend == "onnxruntime":
            raise UserError("it is not there\nand more")
        return Answer(backend, precision, 1)

    entries, missing = measured(bundle, PLAN, opener)
    assert {key[0] for key in entries} == {"torch"}
    (entry,) = missing
    assert (entry["graph"], entry["backend"], entry["batch"]) == ("identity", "onnxruntime", None)
    assert entry["reason"] == "it is not there"


def test_a_batch_that_fails_is_left_out_alone(bundle: Bundle) -> None:
    def opener(*_: Any, backend: str, precision: str, **__: Any) -> Answer:
        return Answer(backend, precision, 1, largest=2 if backend == "onnxruntime" else 100)

    entries, missing = measured(bundle, PLAN, opener)
    assert set(entries) == {("torch", "fp32", 1), ("onnxruntime", "fp32", 1), ("torch", "fp32", 4)}
    assert [(entry["batch"], entry["reason"]) for entry in missing] == [(4, "no room for 4")]


def test_what_is_not_finite_is_left_out(bundle: Bundle) -> None:
    entries, missing = measured(
        bundle,
        PLAN,
        lambda *_, backend, precision, **__: Answer(backend, precision, 1 if backend == "torch" else float("nan")),
    )
    assert {key[0] for key in entries} == {"torch"}
    assert all("not finite" in entry["reason"] for entry in missing)
    assert len(missing) == 2


def test_a_batch_that_would_fill_the_memory_is_not_tried(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Peak:
        growth = 10**12

    class Watch:
        def __enter__(self) -> Peak:
            return Peak()

        def __exit__(self, *_: object) -> None:
            return

    monkeypatch.setattr(sessions, "resident_peak", Watch)
    entries, missing = measured(bundle, PLAN, lambda *_, backend, precision, **__: Answer(backend, precision, 1))
    assert {key[2] for key in entries} == {1}
    (entry,) = missing
    assert entry["batch"] == 4
    assert "4000.0 GB" in entry["reason"]


def test_a_real_session_of_torch_is_opened(bundle: Bundle, tmp_path: Path) -> None:
    session = open_for_bench(bundle, "identity", backend="torch", precision="fp32", device="cpu", largest=200)
    embedding = np.asarray(session.run(make_inputs(bundle, "identity", 2, 0)))
    assert embedding.shape == (2, 16)
    assert np.linalg.norm(embedding, axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.gpu
def test_on_a_gpu_the_parts_are_told_apart(bundle: Bundle) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no usable NVIDIA GPU here")
    plan = replace(PLAN, mode="all", backends=("torch",), device="cuda:0")
    missing: list[Any] = []
    entries = measure_graph(bundle, plan, "identity", open_for_bench, missing, nobody_says)
    assert missing == []
    assert [(entry["batch"], entry["queued"]) for entry in entries] == [(1, False), (1, True), (4, True)]
    waited, queued = entries[0], entries[1]
    assert all(waited[f"{part}_ms"] for part in ("compute", "enqueue", "host_to_device", "device_to_host"))
    assert waited["total_ms"]["p50"] >= waited["compute_ms"]["p50"]
    assert queued["host_to_device_ms"] is None
    assert queued["runs_on"]["device"].startswith("cuda:0")
