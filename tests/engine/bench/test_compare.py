"""Two results side by side: what became slower is seen, and apples are not compared with pears."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from faceanon_engine.engine.bench.compare import compare_results, obstacles, read_result
from faceanon_engine.engine.errors import UserError


def result(**medians: float) -> dict[str, Any]:
    """A result with a session of identity for every backend given, and a step of 100 ms."""
    return {
        "schema": "faceanon-engine/bench",
        "schema_version": 1,
        "mode": "all",
        "device": "cpu",
        "settings": {},
        "bundle": {"name": "demo", "digest": "d1", "resolution": 64},
        "machine": {
            "cpu": {"model": "A", "usable_cores": 2},
            "threads": {"torch": 2},
            "gpus": [],
            "driver": None,
            "python": "3.11",
            "faceanon_engine": "1",
            "versions": {"torch": "2.13.0"},
        },
        "sessions": [
            {
                "graph": "identity",
                "backend": backend,
                "precision": "fp32",
                "batch": 8,
                "queued": False,
                "total_ms": {"p50": median},
                "round_medians_ms": [median, median * 1.02],
            }
            for backend, median in medians.items()
        ],
        "steps": [
            {
                "preset": "falco",
                "precision": "fp32",
                "batch": 1,
                "step_ms": {"p50": 100.0},
                "round_medians_ms": [100.0, 110.0],
            }
        ],
        "left_out": [],
        "notes": [],
    }


def test_losses_come_first_and_are_told_as_shares() -> None:
    comparison = compare_results(result(torch=10.0, onnxruntime=10.0), result(torch=9.0, onnxruntime=12.0))
    assert [change.what for change in comparison.changes] == [
        "identity onnxruntime fp32 batch 8",
        "optimise falco fp32 batch 1",
        "identity torch fp32 batch 8",
    ]
    assert [change.slower_by for change in comparison.changes] == pytest.approx([0.2, 0, -0.1])
    assert [change.what for change in comparison.regressions(0.1)] == ["identity onnxruntime fp32 batch 8"]
    assert comparison.regressions(0.2) == ()


def test_a_change_smaller_than_the_rounds_distance_is_noise() -> None:
    def change(now: float) -> Any:
        (only,) = (c for c in compare_results(result(torch=10), result(torch=now)).changes if "torch" in c.what)
        return only

    assert change(10.1).noise == pytest.approx(0.02)
    assert change(10.1).within_noise
    assert change(9.9).within_noise
    assert not change(10.5).within_noise


def test_cases_that_only_one_result_has_are_named() -> None:
    comparison = compare_results(result(torch=10, onnxruntime=9), result(torch=10, tensorrt=1))
    assert comparison.only_old == ("identity onnxruntime fp32 batch 8",)
    assert comparison.only_new == ("identity tensorrt fp32 batch 8",)


def test_changed_versions_are_told_and_do_not_hinder() -> None:
    old, new = result(torch=10), result(torch=10)
    new["machine"]["versions"] = {"torch": "2.14.0", "onnxruntime": "1.31.1"}
    assert obstacles(old, new) == []
    assert compare_results(old, new).versions == ("onnxruntime absent -> 1.31.1", "torch 2.13.0 -> 2.14.0")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["machine"]["cpu"].update(model="B"), "cpu: A then, B now"),
        (lambda r: r["machine"]["cpu"].update(usable_cores=1), "usable cores: 2 then, 1 now"),
        (lambda r: r["machine"]["threads"].update(torch=1), "threads: 2 then, 1 now"),
        (lambda r: r["machine"].update(gpus=[{"name": "H"}]), "gpus: [] then, ['H'] now"),
        (lambda r: r.update(device="cuda:0"), "device: cpu then, cuda:0 now"),
        (lambda r: r["bundle"].update(digest="d2", name="other"), "bundle: demo then, other now, with other networks"),
    ],
)
def test_another_machine_or_other_networks_are_obstacles(change: Any, words: str) -> None:
    old, new = result(torch=10), result(torch=10)
    change(new)
    assert obstacles(old, new) == [words]


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(result(torch=10)))
    assert read_result(path) == result(torch=10)


def broken(**changes: Any) -> str:
    content = copy.deepcopy(result(torch=10))
    content.update(changes)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "no result of bench"),
        ("[]", "no result of bench"),
        (json.dumps({"schema": "another"}), "no result of bench"),
        (broken(sessions=[{"graph": "identity"}]), "no result of bench"),
        (broken(machine={}), "no result of bench"),
        (broken(schema_version=2), "schema version 2"),
        ("[" * 100_000, "no result of bench"),
        (f'{{"schema": {"9" * 5000}}}', "no result of bench"),
        (broken(schema_version="x" * 100_000), "schema version 'xxx"),
    ],
)
def test_what_is_no_result_is_refused_with_its_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_result(path)
    assert "old.json" in str(caught.value)
    assert len(str(caught.value).replace(str(path), "")) < 500


def test_a_missing_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json cannot be read"):
        read_result(tmp_path / "none.json")
