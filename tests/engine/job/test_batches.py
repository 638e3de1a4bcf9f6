"""Batches through the worker: images that finish out of their order, memory that runs out, and what fails alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from faceanon_engine.engine.job.settings import JobSettings
from tests.support.fake_worker import BLUE, GREEN, RED, ContinuousWorker, FakeWorker, make_inputs
from tests.support.jobs import Told, items, run


@pytest.fixture
def three_steps(settings: JobSettings) -> JobSettings:
    """Of a preset in which images stop early, and others take their slots."""
    return replace(settings, preset="fast", steps=3, batch_size=4)


def test_slots_stay_full_and_every_image_has_its_own_steps(three_steps: JobSettings) -> None:
    make_inputs(three_steps.input, 12)
    assert run(three_steps, None, ContinuousWorker).done == 12
    assert [row.steps for row in items(three_steps)] == [1 + number % 3 for number in range(12)]
    for row in items(three_steps):
        assert row.neighbour_id == int(np.asarray([20 + int(row.input[6:8]), 30, 40]).mean())
    total = sum(1 + number % 3 for number in range(12))
    assert sum(ContinuousWorker.under_way) == total
    # Batches that wait for their slowest image would make 3 x 3 steps; slots that are refilled make few more than 6.
    assert len(ContinuousWorker.under_way) < 9


def test_memory_that_runs_out_in_the_middle_loses_nothing_and_halves_the_slots(three_steps: JobSettings) -> None:
    make_inputs(three_steps.input, 12)
    ContinuousWorker.fail_at = 6
    observer = Told()
    assert run(three_steps, observer, ContinuousWorker).done == 12
    assert len([note for note in observer.notes if "out of memory with 4" in note]) == 1
    assert max(ContinuousWorker.under_way[-3:]) <= 2


def test_an_image_that_fails_costs_only_itself(three_steps: JobSettings) -> None:
    make_inputs(three_steps.input, 9, {4: GREEN, 7: RED})
    result = run(three_steps, None, ContinuousWorker)
    assert (result.done, result.failed) == (8, 1)
    assert [(row.input, row.reason) for row in items(three_steps, "failed")] == [("photo-04.png", "unexpected")]


def test_a_worker_that_cannot_begin_is_no_endless_loop(three_steps: JobSettings) -> None:
    make_inputs(three_steps.input, 2)

    class Broken(FakeWorker):
        def stream(self, images: Any, together: int, on_step: Any) -> Iterator[Any]:
            raise RuntimeError("no slots")
            yield

    with pytest.raises(RuntimeError, match="no slots"):
        run(three_steps, None, Broken)


def test_out_of_memory_halves_the_batch_and_loses_nothing(settings: JobSettings) -> None:
    make_inputs(settings.input, 9, {2: RED})
    observer = Told()
    assert run(settings, observer).done == 9
    assert FakeWorker.batches[:3] == [4, 2, 2], "the first four are tried as two pairs"
    assert max(FakeWorker.batches[1:]) <= 2, "the smaller size is kept"
    assert any("out of memory" in note for note in observer.notes)


def test_a_batch_that_fails_costs_only_the_image_that_fails_alone(settings: JobSettings) -> None:
    make_inputs(settings.input, 8, {1: GREEN, 6: BLUE})
    result = run(settings)
    assert (result.done, result.failed) == (7, 1)
    (row,) = items(settings, "failed")
    assert (row.input, row.reason) == ("photo-01.png", "unexpected")
    assert row.message == "ValueError: this image breaks the method"
