"""Plain values become the plan that is measured, and what cannot be meant is told before."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from faceanon_engine.engine.bench import run
from faceanon_engine.engine.bench.bench import bench
from faceanon_engine.engine.bench.measure import Budget
from faceanon_engine.engine.bench.plan import Plan
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions.graphs import GRAPHS
from tests.support.tiny_bundle import write_tiny_bundle

QUICK = Budget(warmup_seconds=0, min_seconds=0, min_iterations=1, rounds=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bench") / "tiny").path


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that would have been measured; nothing is."""
    plans: list[Plan] = []

    def run_plan(_bundle: Bundle, plan: Plan, *_: Any, **__: Any) -> dict[str, Any]:
        plans.append(plan)
        return {}

    monkeypatch.setattr(run, "run_plan", run_plan)
    return plans


def test_what_nobody_asked_for_is_everything_that_runs_here(bundle: Path, plans: list[Plan]) -> None:
    bench(bundle, device="cpu")
    (plan,) = plans
    assert (plan.mode, plan.graphs, plan.precisions) == ("all", tuple(GRAPHS), ("fp32",))
    assert (plan.batches, plan.step_batches) == ((1, 2, 4, 8, 16, 32), (1, 2, 4, 8))
    assert "torch" in plan.backends
    assert not [name for name in plan.backends if "tensorrt" in name]
    assert (plan.device, plan.preset.name, plan.budget, plan.memory) == ("cpu", "falco", Budget(), True)


def test_what_was_asked_for_is_measured(bundle: Path, plans: list[Plan]) -> None:
    bench(
        bundle,
        mode="latency",
        networks=["identity"],
        backends=["tensorrt", "torch"],
        precisions=["bf16", "fp32"],
        batches=[4, 1, 4],
        device="cpu",
        preset="fast",
        budget=QUICK,
        seed=3,
        memory=False,
    )
    (plan,) = plans
    assert (plan.mode, plan.graphs, plan.backends) == ("latency", ("identity",), ("tensorrt", "torch"))
    assert (plan.precisions, plan.batches, plan.step_batches) == (("bf16", "fp32"), (1, 4), (1, 4))
    assert (plan.preset.name, plan.budget, plan.seed, plan.memory) == ("fast", QUICK, 3, False)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mode": "fastest"}, "unknown mode 'fastest': use one of latency"),
        ({"networks": ["nose"]}, "unknown graph 'nose'"),
        ({"backends": ["auto"]}, "unknown backend 'auto': use one of torch"),
        ({"precisions": ["int8"]}, "unknown precision 'int8'"),
        ({"batches": [8, 0]}, "batch 0 is too small"),
        ({"device": "abacus"}, "unknown device 'abacus'"),
        ({"preset": "slow"}, "unknown preset 'slow'"),
        ({"threads": 100_000}, "ask for fewer"),
    ],
)
def test_what_cannot_be_meant_is_told(bundle: Path, plans: list[Plan], asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bench(bundle, **asked)
    assert plans == []


def test_a_result_is_measured_and_another_machines_is_refused(bundle: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"mode": "latency", "networks": ["mapping"], "backends": ["torch"], "device": "cpu"}
    result = bench(bundle, **asked, budget=QUICK, memory=False, command=["from", "python"])
    assert json.loads(json.dumps(result)) == result
    assert result["command"] == ["from", "python"]
    assert [(entry["graph"], entry["batch"]) for entry in result["sessions"]] == [("mapping", 1)]
    assert bench(bundle, **asked, budget=QUICK, memory=False, against=result)["sessions"]
    result["machine"]["cpu"]["model"] = "Another 9000"
    with pytest.raises(UserError, match="Another 9000"):
        bench(bundle, **asked, budget=QUICK, memory=False, against=result)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="a process cannot be held to processors here")
def test_without_a_plan_that_can_be_the_process_keeps_its_processors(bundle: Path, plans: list[Plan]) -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(UserError, match="unknown graph"):
        bench(bundle, networks=["nose"], threads=1)
    assert os.sched_getaffinity(0) == before
