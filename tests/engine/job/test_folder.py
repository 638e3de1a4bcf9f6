"""A job's folder: with which settings it was begun, and what a killed run left in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.dry_run import plan_job
from faceanon_engine.engine.job.folder import make_folder
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.system.files import TEMPORARY_PATTERN
from tests.support.fake_worker import FakeWorker, make_inputs
from tests.support.jobs import run, stamps


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"margin": 0.9}, "margin was 0.0, now 0.9"),
        ({"steps": 3}, "steps was 2, now 3"),
        ({"format": "jpeg"}, "format was png, now jpeg; quality was unset, now 95"),
        ({"preset": "falco-released"}, "preset was falco, now falco-released"),
        ({"pool_size": 77}, "pool-size was 4, now 77"),
        ({"save_codes": True}, "save-codes was False, now True"),
    ],
)
def test_a_changed_setting_is_refused_with_the_difference(
    settings: JobSettings, change: dict[str, Any], expected: str
) -> None:
    make_inputs(settings.input, 2)
    run(settings)
    before = stamps(settings.output)
    for refused in (run, lambda changed: plan_job(changed, make_worker=FakeWorker)):
        with pytest.raises(UserError) as raised:
            refused(replace(settings, **change))
        assert expected in str(raised.value)
    assert stamps(settings.output) == before


def test_another_bundle_is_refused(settings: JobSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs(settings.input, 1)
    run(settings)
    monkeypatch.setenv("FAKE_BUNDLE", "c" * 64)
    with pytest.raises(UserError, match="bundle was bbbbbbbbbbbb, now cccccccccccc"):
        run(settings)


def test_what_does_not_change_results_may_change(settings: JobSettings) -> None:
    make_inputs(settings.input, 3)
    run(replace(settings, limit=1))
    assert run(replace(settings, batch_size=1, contact_sheet=1, device="cpu")).done == 3


def test_half_written_files_of_a_killed_run_are_removed_and_others_left(settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    make_folder(settings.folder)
    left = settings.folder.private / TEMPORARY_PATTERN.replace("*", "x")
    left.write_bytes(b"half")
    other = settings.folder.private / "notes.tmp"
    other.write_text("keep")
    run(settings)
    assert not left.exists()
    assert other.read_text() == "keep"


@pytest.mark.parametrize("where", ["in", "in/deeper", "."])
def test_output_and_input_may_not_overlap(tmp_path: Path, settings: JobSettings, where: str) -> None:
    make_inputs(settings.input, 1)
    with pytest.raises(UserError, match="INPUT"):
        run(replace(settings, output=tmp_path / where))


@pytest.mark.parametrize("place", ["input", "output"])
def test_a_path_that_leads_nowhere_is_refused_in_words(tmp_path: Path, settings: JobSettings, place: str) -> None:
    make_inputs(settings.input, 1)
    (tmp_path / "round").symlink_to("round")
    for path in (tmp_path / "round", tmp_path / ("x" * 300)):
        wrong: dict[str, Any] = {place: path}
        with pytest.raises(UserError, match=path.name):
            run(replace(settings, **wrong))


def test_no_inputs_are_refused(settings: JobSettings) -> None:
    with pytest.raises(UserError):
        run(settings)
    settings.input.mkdir()
    with pytest.raises(UserError, match="no images"):
        run(settings)
    assert not settings.output.exists()
