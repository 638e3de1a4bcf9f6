"""A job whose images finish one by one, out of their order, and sometimes not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job import run as job_module
from faceanon_engine.engine.job import running
from faceanon_engine.engine.job.manifest import Manifest
from faceanon_engine.engine.job.report import JobObserver
from faceanon_engine.engine.job.settings import JobSettings, job_settings
from tests.support.fake_worker import GREEN, RED, FakeWorker, make_inputs


class Continuous(FakeWorker):
    """Keeps its slots full; an image of number n takes 1 + n % 3 steps."""

    under_way: list[int] = []  # noqa: RUF012
    fail_at: int | None = None

    def stream(self, images: Iterable[np.ndarray], together: int, on_step: Callable[[int, int], None]) -> Iterator[Any]:
        source, slots = iter(enumerate(images)), {}
        while True:
            while len(slots) < together:
                number, pixels = next(source, (None, None))
                if number is None:
                    break
                if number == self.fail_at:
                    type(self).fail_at = None
                    raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
                slots[number] = [0, pixels]
            if not slots:
                return
            type(self).under_way.append(len(slots))
            for slot in slots.values():
                slot[0] += 1
            on_step(len(slots), max(slot[0] for slot in slots.values()))
            done = [number for number, slot in slots.items() if slot[0] > number % 3]
            if done:
                result = self.anonymize(np.stack([slots[number][1] for number in done]), lambda _: None)
                result.steps = np.array([slots[number][0] for number in done])
                for number in done:
                    del slots[number]
                yield done, result


@pytest.fixture
def settings(tmp_path: Path) -> JobSettings:
    values = {"align": "never", "steps": 3, "contact_sheet": 0, "batch_size": 4}
    return job_settings(tmp_path / "in", tmp_path / "out", values)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Continuous.under_way, Continuous.fail_at = [], None


def run(settings: JobSettings, observer: JobObserver | None = None) -> Any:
    return job_module.run(settings, observer=observer, make_worker=Continuous)


def items(settings: JobSettings, state: str | None = None) -> list[Any]:
    with Manifest.read(settings.output / "manifest.sqlite") as manifest:
        return manifest.items(state)


def test_slots_stay_full_and_every_image_has_its_own_steps(settings: JobSettings) -> None:
    make_inputs(settings.input, 12)
    assert run(settings).done == 12
    assert [row.steps for row in items(settings)] == [1 + number % 3 for number in range(12)]
    for row in items(settings):
        assert row.neighbour_id == int(np.asarray([20 + int(row.input[6:8]), 30, 40]).mean())
    total = sum(1 + number % 3 for number in range(12))
    assert sum(Continuous.under_way) == total
    # Batches that wait for their slowest image would make 3 x 3 steps; slots that are refilled make few more than 6.
    assert len(Continuous.under_way) < 9


def test_memory_that_runs_out_in_the_middle_loses_nothing_and_halves_the_slots(settings: JobSettings) -> None:
    make_inputs(settings.input, 12)
    Continuous.fail_at = 6
    notes: list[str] = []

    class Notes(JobObserver):
        def note(self, message: str) -> None:
            notes.append(message)

    assert run(settings, Notes()).done == 12
    assert len([note for note in notes if "out of memory with 4" in note]) == 1
    assert max(Continuous.under_way[-3:]) <= 2


def test_an_image_that_fails_costs_only_itself(settings: JobSettings) -> None:
    make_inputs(settings.input, 9, {4: GREEN, 7: RED})
    result = run(settings)
    assert (result.done, result.failed) == (8, 1)
    assert [(row.input, row.reason) for row in items(settings, "failed")] == [("photo-04.png", "unexpected")]


def test_results_are_recorded_as_they_are_written_while_later_steps_go_on(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow write holds up neither the steps nor the record of what was written before it."""
    make_inputs(settings.input, 8)
    write, held = running.write_result, threading.Event()

    def slow(path: Path, content: bytes) -> None:
        if path.name == "photo-03.png":
            assert held.wait(30)
        write(path, content)

    monkeypatch.setattr(running, "write_result", slow)
    seen: list[int] = []

    class Watch(JobObserver):
        def batch(self, size: int, step: int, steps: int) -> None:
            seen.append(len(items(settings, "done")))
            if len(seen) == 5:
                held.set()

    assert run(settings, Watch()).done == 8
    assert len(seen) >= 5, "steps went on while a file was being written"
    assert len(items(settings, "done")) == 8


def test_a_write_that_fails_stops_the_job_and_what_was_recorded_has_its_file(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(settings.input, 12)
    rename = os.replace

    def fills_up(source: str, target: Path) -> None:
        if target.name >= "photo-06.png":
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fills_up)
    with pytest.raises(UserError, match="No space left on device"):
        run(settings)
    done = items(settings, "done")
    assert all((settings.output / str(row.output)).is_file() for row in done)
    monkeypatch.undo()
    assert run(settings).done == 12


def test_a_worker_that_cannot_begin_is_no_endless_loop(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)

    class Broken(FakeWorker):
        def stream(self, images: Any, together: int, on_step: Any) -> Iterator[Any]:
            raise RuntimeError("no slots")
            yield

    with pytest.raises(RuntimeError, match="no slots"):
        job_module.run(settings, make_worker=Broken)
