"""A dry run says what a run does, and writes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from faceanon_engine.engine.job.dry_run import plan_job
from faceanon_engine.engine.job.settings import JobSettings
from tests.support.fake_worker import FakeWorker, make_inputs
from tests.support.jobs import Told, run


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    (settings.input / "bad.jpg").write_bytes(b"")
    planned = plan_job(settings, make_worker=FakeWorker)
    assert [(item.input, item.action, item.output) for item in planned.items] == [
        ("bad.jpg", "fail", None),
        ("photo-00.png", "anonymize", "photo-00.png"),
        ("photo-01.png", "anonymize", "photo-01.png"),
    ]
    assert planned.exit_code == 1
    assert not settings.output.exists()
    run(replace(settings, limit=2))
    (keep,) = [item for item in plan_job(settings, make_worker=FakeWorker).items if item.action == "keep"]
    assert keep.input == "photo-00.png"
    assert FakeWorker.loads == 1
    json.dumps(planned.to_json())


def test_links_to_folders_are_mentioned_also_before_the_job(tmp_path: Path, settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    make_inputs(tmp_path / "elsewhere", 1)
    (settings.input / "linked").symlink_to(tmp_path / "elsewhere")
    said = ("left out, being a link to a folder: linked",)
    assert plan_job(settings, make_worker=FakeWorker).left_out == said
    observer = Told()
    assert run(settings, observer).inputs == 1
    assert tuple(observer.notes) == said


def test_an_empty_manifest_is_as_good_as_none(settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    settings.output.mkdir()
    (settings.output / "manifest.sqlite").touch()
    assert [item.action for item in plan_job(settings, make_worker=FakeWorker).items] == ["anonymize"]
    assert run(settings).done == 1
