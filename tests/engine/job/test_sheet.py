"""The contact sheet follows the job, and nobody else's picture is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.job.settings import JobSettings
from tests.support.fake_worker import FakeWorker, make_inputs
from tests.support.jobs import Told, run


def test_the_contact_sheet_grows_with_the_job_and_can_be_left_out(settings: JobSettings) -> None:
    make_inputs(settings.input, 3)
    sheet = settings.folder.contact_sheet
    assert run(settings).contact_sheet is None
    assert not settings.folder.contact_sheet.exists()
    assert run(replace(settings, contact_sheet=1)).contact_sheet == sheet
    small = Image.open(sheet).size
    run(replace(settings, contact_sheet=3))
    assert Image.open(sheet).size[1] > small[1]
    assert FakeWorker.batches == [3], "the results themselves are not made again"


def test_a_sheet_of_originals_goes_when_none_is_wanted(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    assert run(replace(settings, contact_sheet=2)).contact_sheet is not None
    assert run(settings).contact_sheet is None
    assert not settings.folder.contact_sheet.exists()
    assert run(replace(settings, contact_sheet=2)).contact_sheet is not None


def test_a_sheet_that_is_not_ours_is_left_alone(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    theirs = settings.folder.contact_sheet
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"a year of work")
    observer = Told()
    result = run(replace(settings, contact_sheet=2), observer)
    assert (result.done, result.contact_sheet, theirs.read_bytes()) == (2, None, b"a year of work")
    assert any("contact-sheet.png is already" in note for note in observer.notes)
    run(settings)
    assert theirs.read_bytes() == b"a year of work"


def test_originals_that_cannot_be_read_any_more_are_not_on_the_sheet(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(settings.input, 2)
    run(settings)
    read, closed = Reader.read, {"photo-00.png"}

    def partly(reader: Reader, sample: Sample) -> Sample:
        if sample.key in closed:
            raise InputError("unreadable", "it may not be read")
        return read(reader, sample)

    monkeypatch.setattr(Reader, "read", partly)
    assert run(replace(settings, contact_sheet=2)).contact_sheet is not None
    closed.add("photo-01.png")
    assert run(replace(settings, contact_sheet=1)).contact_sheet is None
