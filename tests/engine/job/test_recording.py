"""Results are written whole and recorded once they are there, whatever stops the job."""

from __future__ import annotations

import itertools
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job import recording as recording_module
from faceanon_engine.engine.job.report import JobObserver
from faceanon_engine.engine.job.settings import JobSettings
from tests.support.fake_worker import WHITE, ContinuousWorker, FakeWorker, make_inputs
from tests.support.jobs import items, run, stamps, visible


def test_values_that_are_not_finite_are_not_written(settings: JobSettings) -> None:
    make_inputs(settings.input, 3, {1: WHITE})
    result = run(settings)
    assert [failure.reason for failure in result.failures] == ["not-finite"]
    assert visible(settings.output) == ["photo-00.png", "photo-02.png"]


@pytest.mark.parametrize(("suffix", "format"), [(".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP")])
def test_the_format_asked_for_is_written(settings: JobSettings, suffix: str, format: str) -> None:
    make_inputs(settings.input, 1)
    run(replace(settings, format=format.lower()))
    assert visible(settings.output) == ["photo-00" + suffix]
    assert Image.open(settings.output / ("photo-00" + suffix)).format == format


def test_codes_lie_beside_their_image(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    run(replace(settings, save_codes=True))
    for row in items(settings):
        codes = np.load(settings.output / str(row.codes))
        assert codes.shape == (1, 8)
        assert int(codes[0, 0]) == row.neighbour_id


def test_a_full_disk_stops_the_job_and_what_was_done_stays(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(settings.input, 8)
    rename, count = os.replace, itertools.count(1)  # threads call it, in any order

    def fills_up(source: str, target: Path) -> None:
        if target.suffix == ".png" and next(count) > 6:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fills_up)
    with pytest.raises(UserError, match="No space left on device"):
        run(settings)
    first = [str(row.output) for row in items(settings, "done")]
    assert len(first) == 6
    assert visible(settings.output) == first, "what is recorded is there, and what is there is recorded"
    before = stamps(settings.output)
    monkeypatch.undo()
    assert run(settings).done == 8
    assert before.items() <= stamps(settings.output).items()


def test_an_interrupted_job_records_what_is_being_written(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(settings.input, 8)
    rename, begun = os.replace, threading.Event()

    def slowly(source: str, target: Path) -> None:
        if target.suffix == ".png":
            begun.set()
            time.sleep(0.05)
        rename(source, target)

    class Impatient(JobObserver):
        def batch(self, size: int, step: int, steps: int) -> None:
            if len(FakeWorker.batches) == 2:
                assert begun.wait(60)
                raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", slowly)
    with pytest.raises(KeyboardInterrupt):
        run(settings, Impatient())
    first = [str(row.output) for row in items(settings, "done")]
    assert first
    assert visible(settings.output) == first
    before = stamps(settings.output)
    assert run(settings).done == 8
    assert before.items() <= stamps(settings.output).items()


def test_results_are_recorded_as_they_are_written_while_later_steps_go_on(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow write holds up neither the steps nor the record of what was written before it."""
    settings = replace(settings, steps=3, batch_size=4)
    make_inputs(settings.input, 8)
    write, held = recording_module.write_result, threading.Event()

    def slow(path: Path, content: bytes) -> None:
        if path.name == "photo-03.png":
            assert held.wait(30)
        write(path, content)

    monkeypatch.setattr(recording_module, "write_result", slow)
    seen: list[int] = []

    class Watch(JobObserver):
        def batch(self, size: int, step: int, steps: int) -> None:
            seen.append(len(items(settings, "done")))
            if len(seen) == 5:
                held.set()

    assert run(settings, Watch(), ContinuousWorker).done == 8
    assert len(seen) >= 5, "steps went on while a file was being written"
    assert len(items(settings, "done")) == 8


def test_a_write_that_fails_stops_the_job_and_what_was_recorded_has_its_file(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, steps=3, batch_size=4)
    make_inputs(settings.input, 12)
    rename = os.replace

    def fills_up(source: str, target: Path) -> None:
        if target.name >= "photo-06.png":
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fills_up)
    with pytest.raises(UserError, match="No space left on device"):
        run(settings, None, ContinuousWorker)
    done = items(settings, "done")
    assert all((settings.output / str(row.output)).is_file() for row in done)
    monkeypatch.undo()
    assert run(settings, None, ContinuousWorker).done == 12
