"""The optimisation is measured as it is: its parts add up, and its outcome is the same as unmeasured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from faceanon_engine.engine.bench.plan import Plan
from faceanon_engine.engine.bench.step import StepMarks, StepRun, _Watched, measure_steps, step_parts, take_steps
from faceanon_engine.engine.bundle import Bundle
from faceanon_engine.engine.measure import Budget
from faceanon_engine.engine.optimise import optimise
from faceanon_engine.engine.preset import get_preset

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
from tiny_bundle import write_tiny_bundle

FALCO = get_preset("falco")
PARTS = ("forward", "backward", "update")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bench") / "tiny")


def test_every_step_is_told_and_its_parts_add_up(bundle: Bundle) -> None:
    steps = StepRun(bundle, FALCO, 2, "cpu", seed=0).run(3)
    assert len(steps) == 3
    for step in steps:
        assert all(step[part] > 0 for part in PARTS)
        assert sum(step[part] for part in PARTS) == step["total"]


def test_measuring_leaves_no_hook_behind(bundle: Bundle) -> None:
    from torch.optim import optimizer

    before = len(optimizer._global_optimizer_pre_hooks)
    StepRun(bundle, FALCO, 1, "cpu", seed=0).run(1)
    assert len(optimizer._global_optimizer_pre_hooks) == before


def test_the_watched_networks_give_the_same_outcome(bundle: Bundle) -> None:
    run = StepRun(bundle, FALCO, 2, "cpu", seed=0)
    calls: list[str] = []
    watched = optimise(
        run._generator,
        _Watched(run._identity, lambda: calls.append("identity"), ()),  # type: ignore[arg-type]
        _Watched(run._attributes, lambda: calls.append("attributes"), ("encode",)),  # type: ignore[arg-type]
        run._w_plus,
        run._targets,
        FALCO,
        steps=2,
    )
    plain = optimise(run._generator, run._identity, run._attributes, run._w_plus, run._targets, FALCO, steps=2)
    assert torch.equal(watched.w_plus, plain.w_plus)
    assert not torch.equal(plain.w_plus, run._w_plus)
    # Two steps and the look at the result.
    assert calls == ["identity", "attributes"] * 3


def test_without_marks_inside_the_whole_step_is_still_known() -> None:
    moments = iter([100, 160, 250])
    marks = StepMarks(lambda: next(moments))
    marks.begin()
    marks.end(1)
    marks.end(2)
    assert [step_parts(step) for step in marks.steps] == [{"total": 60}, {"total": 90}]


def test_the_forward_pass_ends_with_the_last_encoder() -> None:
    moments = iter([0, 10, 30, 70, 75])
    marks = StepMarks(lambda: next(moments))
    marks.begin()
    marks.forward_ends()
    marks.forward_ends()
    marks.backward_ends()
    marks.end(1)
    assert step_parts(marks.steps[0]) == {"total": 75, "forward": 30, "backward": 40, "update": 5}


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
    found = take_steps({1: scripted(10, quick), 8: scripted(2000, slow)}, budget)
    assert [len(runs) for runs in found[1].rounds] == [100, 100, 100]
    assert found[8].count() == 9
    assert set(found[1].milliseconds()) == {10}
    assert quick == [2, 101] * 3
    assert not found[8].exhausted


def test_steps_end_with_the_longest_time() -> None:
    budget = Budget(warmup_seconds=0, min_seconds=3, min_iterations=30, max_seconds=30, rounds=3)
    found = take_steps({8: scripted(5000, [])}, budget)
    assert found[8].count() == 6
    assert found[8].exhausted


def test_entries_say_what_an_image_costs(bundle: Bundle, tmp_path: Path) -> None:
    plan = Plan(
        mode="optimise",
        graphs=(),
        backends=(),
        precisions=(),
        batches=(),
        step_batches=(1, 2),
        device="cpu",
        preset=FALCO,
        budget=Budget(warmup_seconds=0, min_seconds=0, min_iterations=2, rounds=2),
    )
    missing: list[Any] = []
    said: list[tuple[str, int, int]] = []
    one, two = measure_steps(bundle, plan, missing, lambda *what: said.append(what))
    assert missing == []
    assert (one["batch"], two["batch"]) == (1, 2)
    assert two["step_ms_per_image"] == pytest.approx(two["step_ms"]["p50"] / 2, abs=1e-5)
    assert two["images_per_second_of_steps"] == pytest.approx(2000 / (two["step_ms"]["mean"] * 50), rel=1e-2)
    assert two["step_ms"]["count"] == 2
    assert all(two[f"{part}_ms"]["count"] == 2 for part in PARTS)
    assert said[-1] == ("optimise", 4, 4)


def test_a_batch_that_does_not_fit_ends_the_sweep(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    original = StepRun.run

    def run(self: StepRun, steps: int) -> list[dict[str, float]]:
        if len(self._w_plus) > 1:
            raise RuntimeError("not enough memory: you tried to allocate much")
        return original(self, steps)

    monkeypatch.setattr(StepRun, "run", run)
    budget = Budget(warmup_seconds=0, min_seconds=0, min_iterations=1, rounds=1)
    plan = Plan("optimise", (), (), (), (), (1, 2, 4), "cpu", FALCO, budget)
    missing: list[Any] = []
    found = measure_steps(bundle, plan, missing, lambda *_: None)
    assert [entry["batch"] for entry in found] == [1]
    assert [(entry["kind"], entry["batch"]) for entry in missing] == [("optimise", 2)]
