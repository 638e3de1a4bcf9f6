"""What becomes of a folder of images, with a worker that has no networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from faceanon_engine.engine.job import beginning
from faceanon_engine.engine.job.settings import JobSettings
from tests.support.fake_worker import FakeWorker, make_inputs
from tests.support.jobs import Told, items, run, stamps, visible


def test_every_input_becomes_an_output_at_the_same_place_and_a_full_row(settings: JobSettings) -> None:
    make_inputs(settings.input, 5)
    make_inputs(settings.input / "deeper" / "still", 2)
    observer = Told()
    result = run(settings, observer)
    assert (result.inputs, result.done, result.failed, result.exit_code) == (7, 7, 0, 0)
    expected = [f"deeper/still/photo-0{n}.png" for n in range(2)] + [f"photo-0{n}.png" for n in range(5)]
    assert visible(settings.output) == expected
    assert sorted(path for path, failed in observer.finished if not failed) == expected
    assert FakeWorker.batches == [4, 3]
    for row in items(settings):
        missing = [name for name in ("reason", "message", "codes") if getattr(row, name) is not None]
        assert missing == []
        empty = [name for name, value in vars(row).items() if value is None]
        assert empty == ["reason", "message", "crop", "codes"]
        assert (row.state, row.steps, row.preset, row.bundle) == ("done", 2, "falco", "b" * 64)
        original = np.asarray(Image.open(settings.input / row.input))
        np.testing.assert_array_equal(np.asarray(Image.open(settings.folder.release / str(row.output))), 255 - original)
        assert row.neighbour_id == int(original.mean())


def test_a_second_run_touches_nothing_and_opens_no_network(settings: JobSettings) -> None:
    settings = replace(settings, contact_sheet=2, save_codes=True)
    make_inputs(settings.input, 3)
    run(settings)
    before = stamps(settings.output)
    private = {path: path.stat().st_mtime_ns for path in settings.folder.private.rglob("*") if path.is_file()}
    assert {"contact-sheet.png", "photo-02.w_plus.npy"} <= {path.name for path in private}
    observer = Told()
    result = run(settings, observer)
    assert (result.done, result.done_before, observer.already) == (3, 3, 3)
    assert stamps(settings.output) == before
    del private[settings.folder.manifest]
    assert {path: path.stat().st_mtime_ns for path in private} == private
    assert FakeWorker.loads == 1


def test_an_automatic_pool_stays_as_it_was(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    run(settings)
    make_inputs(settings.input, 6)
    assert run(settings).done == 6


def test_the_python_api_is_the_same_job(settings: JobSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    import faceanon_engine

    monkeypatch.setattr(beginning, "FalcoWorker", FakeWorker)
    make_inputs(settings.input, 2)
    result = faceanon_engine.anonymize(settings.input, str(settings.output), align="never", steps=2, contact_sheet=0)
    assert result.done == 2
    assert run(settings).done_before == 2
    with pytest.raises(faceanon_engine.UserError, match="margin"):
        faceanon_engine.anonymize(settings.input, settings.output, margin=2)


def test_files_that_are_no_inputs_are_mentioned(settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    for name in ("labels.csv", "README", ".hidden"):
        (settings.input / name).write_text("x")
    observer = Told()
    assert run(settings, observer).inputs == 1
    assert observer.notes == ["left out, having no image's suffix: README and 1 more"]
