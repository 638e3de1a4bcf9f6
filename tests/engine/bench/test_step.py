"""The optimisation is measured as it is: its parts add up, and its outcome is the same as unmeasured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from faceanon_engine.engine.bench.measure import Budget, PeakMemory
from faceanon_engine.engine.bench.plan import Plan
from faceanon_engine.engine.bench.step import StepMarks, StepRun, Watched, measure_steps, step_parts, take_steps
from faceanon_engine.engine.method.compare import Targets
from faceanon_engine.engine.method.preset import get_preset
from faceanon_engine.engine.method.reference import optimise
from faceanon_engine.engine.models.bundle import Bundle
from tests.support.tiny_bundle import write_tiny_bundle

FALCO = get_preset("falco")
PARTS = ("forward", "backward")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bench") / "tiny")


def test_every_step_is_told_and_its_parts_add_up(bundle: Bundle) -> None:
    run = StepRun(bundle, FALCO, 2, "cpu", seed=0)
    steps = run.run(3)
    assert len(steps) == 3
    for step in steps:
        assert set(step) == {"total", "forward", "backward"}
        assert step["forward"] > 0
        assert step["backward"] > 0
        assert step["forward"] + step["backward"] == step["total"]
    assert not run.captured


def test_steps_are_those_of_the_optimisation(bundle: Bundle) -> None:
    run = StepRun(bundle, FALCO, 2, "cpu", seed=0)
    run.run(4)
    expected = optimise(
        *run.networks,
        run.first.w_plus,
        Targets(run.first.identity, run.first.tokens),
        FALCO,
        steps=4,
        schedule_steps=50,
    ).w_plus
    start, stop = FALCO.trainable_rows
    assert torch.allclose(run.state.rows, expected[:, start:stop], atol=1e-4)
    assert not torch.equal(run.state.rows, run.first.rows)


def test_every_run_begins_with_the_first_code(bundle: Bundle) -> None:
    run = StepRun(bundle, FALCO, 2, "cpu", seed=0)
    run.run(2)
    once = run.state.rows.clone()
    run.run(2)
    assert torch.equal(run.state.rows, once)
    assert run.state.updates.tolist() == [2, 2]


def test_sixteen_bits_are_stepped_in_sixteen_bits(bundle: Bundle) -> None:
    run = StepRun(bundle, FALCO, 1, "cpu", seed=0, precision="bf16")
    assert run.first.features.dtype == torch.bfloat16
    assert run.run(1)[0]["total"] > 0


def test_a_watched_network_reports_its_calls_and_passes_everything_else_on() -> None:
    class Network:
        side = 7

        def encode(self, x: int) -> int:
            return x + 1

        def __call__(self, x: int) -> int:
            return x * 2

    calls: list[str] = []
    watched = Watched(Network(), lambda: calls.append("returned"), ("encode",))
    assert watched.side == 7
    assert calls == []
    assert watched.encode(1) == 2
    assert watched(3) == 6
    assert calls == ["returned"] * 2


def test_without_marks_inside_the_whole_step_is_still_known() -> None:
    moments = iter([100, 160, 250])
    marks = StepMarks(lambda: next(moments))
    marks.begin()
    marks.end()
    marks.end()
    assert [step_parts(step) for step in marks.steps] == [{"total": 60}, {"total": 90}]


def test_the_forward_pass_ends_with_the_last_encoder() -> None:
    moments = iter([0, 10, 30, 75])
    marks = StepMarks(lambda: next(moments))
    marks.begin()
    marks.forward_ends()
    marks.forward_ends()
    marks.end()
    assert step_parts(marks.steps[0]) == {"total": 75, "forward": 30, "backward": 45}


def test_a_gpus_events_are_told_in_nanoseconds() -> None:
    class Event:
        def __init__(self, at: float) -> None:
            self.at = at

        def elapsed_time(self, other: Event) -> float:
            return other.at - self.at

    assert step_parts({"begin": Event(1.0), "end": Event(3.5)}) == {"total": 2.5e6}


def scripted(milliseconds: float, asked: list[int]) -> Any:
    """Steps of that duration, the first of every call five times as long."""

    def run(steps: int) -> list[dict[str, float]]:
        asked.append(steps)
        return [{"total": milliseconds * 1e6 * (5 if step == 0 else 1)} for step in range(steps)]

    return run


def test_steps_fill_the_budget_and_the_first_of_a_call_does_not_count() -> None:
    budget = Budget(warmup_seconds=0, min_seconds=3, min_iterations=9, max_seconds=60, rounds=3)
    quick: list[int] = []
    slow: list[int] = []
    samples = take_steps({1: scripted(10, quick), 8: scripted(2000, slow)}, budget)
    assert [len(runs) for runs in samples[1].rounds] == [100, 100, 100]
    assert samples[8].count() == 9
    assert set(samples[1].milliseconds()) == {10}
    assert quick == [2, 101] * 3
    assert not samples[8].exhausted


def test_steps_end_with_the_longest_time() -> None:
    budget = Budget(warmup_seconds=0, min_seconds=3, min_iterations=30, max_seconds=30, rounds=3)
    samples = take_steps({8: scripted(5000, [])}, budget)
    assert samples[8].count() == 6
    assert samples[8].exhausted


def test_entries_say_what_an_image_costs(bundle: Bundle, tmp_path: Path) -> None:
    plan = Plan(
        mode="optimise",
        graphs=(),
        backends=(),
        precisions=("fp32",),
        batches=(),
        step_batches=(1, 2),
        device="cpu",
        preset=FALCO,
        budget=Budget(warmup_seconds=0, min_seconds=0, min_iterations=2, rounds=2),
    )
    missing: list[Any] = []
    said: list[tuple[Any, ...]] = []
    one, two = measure_steps(bundle, plan, missing, lambda *what: said.append(what))
    assert missing == []
    assert (one["batch"], two["batch"]) == (1, 2)
    assert two["step_ms_per_image"] == pytest.approx(two["step_ms"]["p50"] / 2, abs=1e-5)
    assert two["images_per_second_of_steps"] == pytest.approx(2000 / (two["step_ms"]["mean"] * 50), rel=1e-2)
    assert two["step_ms"]["count"] == 2
    assert all(two[f"{part}_ms"]["count"] == 2 for part in PARTS)
    assert two["plain_ms"] is None
    assert not two["captured"]
    assert said[-1] == (4, 4, "optimise")


def test_a_batch_that_does_not_fit_ends_the_sweep(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    original = StepRun.run

    def run(self: StepRun, steps: int) -> list[dict[str, float]]:
        if self.batch > 1:
            raise RuntimeError("not enough memory: you tried to allocate much")
        return original(self, steps)

    monkeypatch.setattr(StepRun, "run", run)
    budget = Budget(warmup_seconds=0, min_seconds=0, min_iterations=1, rounds=1)
    plan = Plan("optimise", (), (), ("fp32",), (), (1, 2, 4), "cpu", FALCO, budget)
    missing: list[Any] = []
    entries = measure_steps(bundle, plan, missing, lambda *_: None)
    assert [entry["batch"] for entry in entries] == [1]
    assert [(entry["kind"], entry["precision"], entry["batch"]) for entry in missing] == [("optimise", "fp32", 2)]


def test_a_batch_that_would_fill_the_memory_is_not_tried(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1))
    monkeypatch.setattr(PeakMemory, "growth", 10**9)
    budget = Budget(warmup_seconds=0, min_seconds=0, min_iterations=1, rounds=1)
    missing: list[Any] = []
    entries = measure_steps(
        bundle, Plan("optimise", (), (), ("fp32",), (), (1, 2), "cpu", FALCO, budget), missing, lambda *_: None
    )
    assert [entry["batch"] for entry in entries] == [1]
    assert "2.0 GB of memory" in missing[0]["reason"]


@pytest.mark.gpu
def test_on_a_gpu_steps_are_captured_and_their_parts_are_of_plain_ones(bundle: Bundle) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no usable NVIDIA GPU here")
    run = StepRun(bundle, FALCO, 2, "cuda:0", seed=0)
    for step in run.run(3):
        assert step["forward"] + step["backward"] == pytest.approx(step["plain"], rel=1e-3)
        assert step["total"] > 0
    assert run.captured
