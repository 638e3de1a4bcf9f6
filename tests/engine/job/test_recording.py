"""Results are written whole and recorded once they are there, whatever stops the job."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faceanon_engine.engine.datasets.sample import sample_at
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job import recording as recording_module
from faceanon_engine.engine.job.folder import make_folder
from faceanon_engine.engine.job.manifest import InputRow, ItemRow, Manifest
from faceanon_engine.engine.job.recording import PendingFace, Recorder
from faceanon_engine.engine.job.report import JobObserver
from faceanon_engine.engine.job.settings import JobSettings
from tests.support.fake_worker import WHITE, ContinuousWorker, FakeWorker, make_inputs
from tests.support.jobs import Told, items, run, stamps, visible
from tests.support.samples import with_faces


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
    assert Image.open(settings.folder.release / ("photo-00" + suffix)).format == format


def test_codes_are_kept_private(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    run(replace(settings, save_codes=True))
    for row in items(settings):
        codes = np.load(settings.folder.private / str(row.codes))
        assert codes.shape == (1, 8)
        assert int(codes[0, 0]) == row.neighbour_id


def test_a_full_disk_stops_the_job_and_what_was_done_stays(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(settings.input, 8)
    rename, count = os.replace, itertools.count(1)  # threads call it, in any order

    def fills_up(source: Path, target: str, **where: int) -> None:
        if str(target).endswith(".png") and next(count) > 6:
            raise OSError(28, "No space left on device")
        rename(source, target, **where)

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

    def slowly(source: Path, target: str, **where: int) -> None:
        if str(target).endswith(".png"):
            begun.set()
            time.sleep(0.05)
        rename(source, target, **where)

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
    write, held = recording_module.write_below, threading.Event()

    def slow(root: Path, name: str, content: bytes, staging: Path) -> None:
        if name == "release/photo-03.png":
            assert held.wait(30)
        write(root, name, content, staging)

    monkeypatch.setattr(recording_module, "write_below", slow)
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

    def fills_up(source: Path, target: str, **where: int) -> None:
        if str(target) >= "photo-06.png":
            raise OSError(28, "No space left on device")
        rename(source, target, **where)

    monkeypatch.setattr(os, "replace", fills_up)
    with pytest.raises(UserError, match="No space left on device"):
        run(settings, None, ContinuousWorker)
    done = items(settings, "done")
    assert all((settings.folder.release / str(row.output)).is_file() for row in done)
    monkeypatch.undo()
    assert run(settings, None, ContinuousWorker).done == 12


# -- the recorder alone ----------------------------------------------------------------------------------------


@pytest.fixture
def recorder(settings: JobSettings) -> Iterator[Callable[[JobObserver], Recorder]]:
    """Makes a recorder for a manifest in which two.png has two faces and one.png one."""
    make_folder(settings.folder)
    rows = [ItemRow("two.png", 0, output="two.png"), ItemRow("two.png", 1, output="two-face1.png")]
    rows.append(ItemRow("one.png", 0, output="one.png"))
    with (
        ThreadPoolExecutor(2) as executor,
        Manifest.open(settings.folder.manifest) as manifest,
    ):
        manifest.add_inputs([InputRow("two.png", 1, 1), InputRow("one.png", 1, 1)], rows)

        def make(observer: JobObserver) -> Recorder:
            made = Recorder(settings, "b" * 64, manifest, observer, executor)
            made.begin(sample_at(Path("two.png")), rows[:2], 2)
            made.begin(sample_at(Path("one.png")), rows[2:], 1)
            return made

        yield make


def pending(settings: JobSettings, key: str, face: int = 0, colour: int = 9) -> PendingFace:
    (row,) = [row for row in items(settings) if (row.input, row.face) == (key, face)]
    read = with_faces(sample_at(Path(key)), *[np.full((32, 32, 3), colour, np.uint8)] * (face + 1))
    return PendingFace(read, read.faces[face], row)


def results(settings: JobSettings, faces: list[PendingFace]) -> Any:
    return FakeWorker(settings, {}, 1).anonymize(np.stack([face.face.pixels for face in faces]), lambda _: None)


def test_an_input_is_finished_when_its_last_face_is(
    settings: JobSettings, recorder: Callable[[JobObserver], Recorder]
) -> None:
    observer = Told()
    recording = recorder(observer)
    first = [pending(settings, "two.png"), pending(settings, "one.png")]
    recording.write(first, results(settings, first))
    recording.record_written(wait=True)
    assert observer.finished == [("one.png", False)]
    recording.fail(pending(settings, "two.png", 1), "unexpected", "it broke")
    assert observer.finished == [("one.png", False), ("two.png", True)]
    assert [(row.input, row.face, row.state) for row in items(settings)] == [
        ("one.png", 0, "done"),
        ("two.png", 0, "done"),
        ("two.png", 1, "failed"),
    ]


def test_an_input_with_nothing_left_is_finished_at_once(
    settings: JobSettings, recorder: Callable[[JobObserver], Recorder]
) -> None:
    observer = Told()
    recording = recorder(observer)
    taken = ItemRow("taken.png", 0, state="failed", reason="output-exists")
    recording.begin(sample_at(Path("taken.png")), [taken], 0)
    recording.begin(sample_at(Path("done.png")), [ItemRow("done.png", 0, state="done", output="done.png")], 0)
    assert observer.finished == [("taken.png", True), ("done.png", False)]


def test_what_is_written_later_is_recorded_in_the_order_in_which_it_finished(
    settings: JobSettings, recorder: Callable[[JobObserver], Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, held = recording_module.write_below, threading.Event()

    def slow(root: Path, name: str, content: bytes, staging: Path) -> None:
        if name == "release/two.png":
            assert held.wait(30)
        write(root, name, content, staging)

    monkeypatch.setattr(recording_module, "write_below", slow)
    observer = Told()
    recording = recorder(observer)
    for face in (pending(settings, "two.png"), pending(settings, "one.png")):
        recording.write([face], results(settings, [face]))
    until = time.monotonic() + 30
    while not (settings.folder.release / "one.png").exists() and time.monotonic() < until:
        time.sleep(0.01)
    recording.record_written()
    assert items(settings, "done") == [], "the first is not written yet"
    held.set()
    recording.record_written(wait=True)
    assert [row.input for row in items(settings, "done")] == ["one.png", "two.png"]
    assert observer.finished == [("one.png", False)]


def test_results_that_wait_are_few_for_they_are_held_in_memory(
    settings: JobSettings, recorder: Callable[[JobObserver], Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, held = recording_module.write_below, threading.Event()
    monkeypatch.setattr(recording_module, "MOST_UNWRITTEN", 1)

    def slow(root: Path, name: str, content: bytes, staging: Path) -> None:
        assert held.wait(30)
        write(root, name, content, staging)

    monkeypatch.setattr(recording_module, "write_below", slow)
    recording = recorder(Told())
    first, second = pending(settings, "two.png"), pending(settings, "one.png")
    recording.write([first], results(settings, [first]))
    threading.Timer(0.2, held.set).start()
    recording.write([second], results(settings, [second]))
    assert held.is_set(), "the second waited for the first"
    assert [row.input for row in items(settings, "done")][-1:] == ["two.png"]
    recording.record_written(wait=True)


def test_stopped_twice_over_what_is_recorded_stays_so(
    settings: JobSettings, recorder: Callable[[JobObserver], Recorder]
) -> None:
    """Ctrl-C may fall between recording a result and forgetting that it waits."""
    observer = Told()
    recording = recorder(observer)
    face = pending(settings, "one.png")
    recording.write([face], results(settings, [face]))
    recording.record_written(wait=True)
    (before,) = items(settings, "done")
    recording._written.append([(before, None)])
    recording.stop()
    assert items(settings, "done") == [before]
    assert observer.finished == [("one.png", False)]


def test_an_input_that_is_finished_is_forgotten(
    settings: JobSettings, recorder: Callable[[JobObserver], Recorder]
) -> None:
    """What a recorder holds does not grow with the data set."""
    recording = recorder(Told())
    first = [pending(settings, "two.png"), pending(settings, "one.png")]
    recording.write(first, results(settings, first))
    recording.record_written(wait=True)
    assert list(recording._inputs) == ["two.png"], "its second face is still to come"
    recording.fail(pending(settings, "two.png", 1), "unexpected", "it broke")
    assert not recording._inputs
