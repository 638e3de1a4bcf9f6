"""Peak memory comes from a process of its own; one that dies costs its own figure alone."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from faceanon_engine.engine.bench import memory
from faceanon_engine.engine.bench.measure import Budget, resident
from faceanon_engine.engine.bench.memory import add_memory, in_fresh_process, session_memory, step_memory
from faceanon_engine.engine.bench.plan import Plan
from faceanon_engine.engine.bench.sessions import open_for_bench
from faceanon_engine.engine.method.preset import get_preset
from faceanon_engine.engine.models.bundle import Bundle
from tests.support.tiny_bundle import write_tiny_bundle

KINDS = {"host_bytes", "opening_host_bytes", "device_bytes", "device_peak_bytes"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bench") / "tiny")


def plan(*, batches: tuple[int, ...]) -> Plan:
    return Plan("all", ("mapping",), ("torch",), ("fp32",), batches, (1,), "cpu", get_preset("falco"), Budget())


def test_a_large_batch_needs_more_than_a_small_one(bundle: Bundle) -> None:
    if resident() is None:
        pytest.skip("/proc does not say what is resident here")
    # In a process of its own: this one may have room left from earlier tests, which no measurement sees being taken.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        arguments = (open_for_bench, bundle.path, "synthesis", "torch", "fp32", "cpu", (1, 256), 256, 0)
        peaks = process.submit(session_memory, *arguments).result()
    assert set(peaks) == {1, 256}
    assert set(peaks[1]) == KINDS
    small, large = peaks[1]["host_bytes"], peaks[256]["host_bytes"]
    if small is None or large is None:
        pytest.skip("/proc/self/clear_refs cannot be written here")
    # The pictures alone take 3 MB.
    assert large > small + 3 * 2**20
    assert peaks[1]["device_bytes"] is None


def test_the_optimisation_is_measured_alike(bundle: Bundle) -> None:
    peaks = step_memory(bundle.path, get_preset("falco"), "fp32", "cpu", (1, 2), 0)
    assert set(peaks) == {1, 2}
    assert set(peaks[2]) == KINDS


def test_another_process_measures_and_an_entry_is_filled_in(bundle: Bundle) -> None:
    entries = [
        {"graph": "mapping", "backend": "torch", "precision": "fp32", "batch": batch, "memory": None}
        for batch in (1, 4)
    ]
    missing: list[Any] = []
    before = os.getpid()
    add_memory(bundle, plan(batches=(1, 4)), entries, [], missing, lambda *_: None)
    assert os.getpid() == before
    assert missing == []
    assert all(set(entry["memory"]) == KINDS for entry in entries)  # type: ignore[call-overload]


def test_memory_is_that_of_the_session_that_was_measured(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def measure(_call: Any, arguments: Any) -> Any:
        asked.append(arguments)
        return {1: {}}

    monkeypatch.setattr(memory, "in_fresh_process", measure)
    # The batch of 128 was left out, say for lack of memory: its engine was opened all the same.
    entries = [{"graph": "mapping", "backend": "torch", "precision": "fp32", "batch": 1, "memory": None}]
    add_memory(bundle, plan(batches=(1, 128)), entries, [], [], lambda *_: None)
    (arguments,) = asked
    _opener, path, *case, device, batches, largest, seed = arguments
    assert (path, case, device, seed) == (bundle.path, ["mapping", "torch", "fp32"], "cpu", 0)
    assert (batches, largest) == ([1], 128)


def test_what_cannot_be_opened_there_is_left_out(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # An empty cache: the other process finds no exported graph and may not make one.
    monkeypatch.setenv("FACEANON_HOME", str(tmp_path))
    entries = [{"graph": "mapping", "backend": "onnxruntime", "precision": "fp32", "batch": 1, "memory": None}]
    missing: list[Any] = []
    add_memory(bundle, plan(batches=(1,)), entries, [], missing, lambda *_: None)
    assert entries[0]["memory"] is None
    assert [(entry["kind"], entry["backend"]) for entry in missing] == [("memory", "onnxruntime")]
    assert "not built" in missing[0]["reason"]


def test_a_process_that_dies_is_an_error_and_no_hang() -> None:
    with pytest.raises(RuntimeError, match="lack of memory"):
        in_fresh_process(os.abort, ())
