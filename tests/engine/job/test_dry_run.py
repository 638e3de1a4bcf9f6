"""A dry run says what a run does, and writes nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from PIL import Image

from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.dry_run import plan_job
from faceanon_engine.engine.job.folder import make_folder
from faceanon_engine.engine.job.settings import JobSettings
from tests.support.fake_worker import FakeWorker, make_inputs
from tests.support.jobs import Told, items, run
from tests.support.samples import with_two_faces


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    (settings.input / "bad.jpg").write_bytes(b"")
    plan = plan_job(settings, make_worker=FakeWorker)
    assert [(item.input, item.action, item.output) for item in plan.items] == [
        ("bad.jpg", "fail", None),
        ("photo-00.png", "anonymize", "photo-00.png"),
        ("photo-01.png", "anonymize", "photo-01.png"),
    ]
    assert plan.exit_code == 1
    assert not settings.output.exists()
    run(replace(settings, limit=2))
    (keep,) = [item for item in plan_job(settings, make_worker=FakeWorker).items if item.action == "keep"]
    assert keep.input == "photo-00.png"
    assert FakeWorker.loads == 1
    json.dumps(plan.to_json())


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
    make_folder(settings.folder)
    settings.folder.manifest.touch()
    assert [item.action for item in plan_job(settings, make_worker=FakeWorker).items] == ["anonymize"]
    assert run(settings).done == 1


# -- a plan beside what then happens ---------------------------------------------------------------------------

Outcome = tuple[str, int, str, str | None]
"""Input, face, action, and the result's name or the reason why there is none."""


def everything(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """All that lies in a folder, hidden files too, with times and contents."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, None if path.is_dir() else path.read_bytes())
        for path in folder.rglob("*")
    }


def planned(settings: JobSettings) -> list[Outcome]:
    """What a dry run says; it leaves no trace."""
    folder = settings.output.parent
    before = everything(folder)
    plan = plan_job(settings, make_worker=FakeWorker)
    assert everything(folder) == before
    return [
        (item.input, item.face, item.action, item.reason if item.action == "fail" else item.output)
        for item in plan.items
    ]


def done_then(settings: JobSettings) -> list[Outcome]:
    """What a run does."""
    try:
        earlier = {(row.input, row.face): row.finished_at for row in items(settings, "done")}
    except UserError:  # there is no manifest yet
        earlier = {}
    result = run(settings)
    outcomes: list[Outcome] = []
    for row in items(settings):
        if row.state == "failed":
            outcomes.append((row.input, row.face, "fail", row.reason))
        elif row.state == "done":
            kept = earlier.get((row.input, row.face)) == row.finished_at
            outcomes.append((row.input, row.face, "keep" if kept else "anonymize", row.output))
    assert result.exit_code == any(outcome[2] == "fail" for outcome in outcomes)
    return outcomes


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos with "pair" in their names have two faces."""
    read = Reader.read

    def read_pairs(reader: Reader, sample: Sample) -> Sample:
        return with_two_faces(read(reader, sample)) if "pair" in sample.key else read(reader, sample)

    monkeypatch.setattr(Reader, "read", read_pairs)


def picture(path: Path, colour: tuple[int, int, int] = (9, 9, 9)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), colour).save(path)


def fresh(settings: JobSettings) -> JobSettings:
    make_inputs(settings.input, 3)
    picture(settings.input / "deeper" / "photo-00.png")
    (settings.input / "bad.jpg").write_bytes(b"Dear all")
    return settings


def all_done(settings: JobSettings) -> JobSettings:
    make_inputs(settings.input, 3)
    run(settings)
    return settings


def results_lost(settings: JobSettings) -> JobSettings:
    settings = replace(settings, save_codes=True)
    make_inputs(settings.input, 3)
    run(settings)
    (settings.folder.release / "photo-00.png").unlink()
    (settings.folder.private / "codes/photo-02.w_plus.npy").unlink()
    return settings


def names_that_meet(settings: JobSettings) -> JobSettings:
    for name in ("a-pair.png", "a-pair.jpg", "a-pair-face1.png", "contact-sheet.jpg", "a-pair.png/x.jpg"):
        path = settings.input / (name if "/" in name else f"b/{name}")
        picture(path)
    return settings


def some_faces_left(settings: JobSettings) -> JobSettings:
    picture(settings.input / "pair.png")
    picture(settings.input / "other.png")
    run(settings)
    (settings.folder.release / "pair-face1.png").unlink()
    return settings


def some_faces_cannot_be_read(settings: JobSettings) -> JobSettings:
    settings = some_faces_left(settings)
    path = settings.input / "pair.png"
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # the same file, which a disk has lost
    return settings


def a_result_of_somebody_else(settings: JobSettings) -> JobSettings:
    make_inputs(settings.input, 2)
    make_folder(settings.folder)
    (settings.folder.release / "photo-01.png").write_text("a year of work")
    return settings


def a_second_face_of_somebody_else(settings: JobSettings) -> JobSettings:
    picture(settings.input / "pair.png")
    make_folder(settings.folder)
    (settings.folder.release / "pair-face1.png").write_text("a year of work")
    return settings


def codes_of_somebody_else(settings: JobSettings) -> JobSettings:
    settings = a_result_of_somebody_else(replace(settings, save_codes=True))
    (settings.folder.private / "codes").mkdir()
    (settings.folder.release / "photo-01.png").rename(settings.folder.private / "codes/photo-01.w_plus.npy")
    return settings


def somebody_moved_theirs_away(settings: JobSettings) -> JobSettings:
    settings = a_result_of_somebody_else(settings)
    run(settings)
    (settings.folder.release / "photo-01.png").unlink()
    return settings


def changed(settings: JobSettings) -> JobSettings:
    """The first name is free again, and another input that is new comes before the one that had it."""
    settings = replace(settings, save_codes=True)
    make_inputs(settings.input, 2)
    run(settings)
    picture(settings.input / "photo-00.png", (200, 0, 200))
    picture(settings.input / "photo-00.jpg")
    return settings


def changed_beside_somebody_else(settings: JobSettings) -> JobSettings:
    """A name that differs only in large letters from a result that is given up, where the file system tells them."""
    settings = changed(settings)
    (settings.folder.release / "PHOTO-00.png").write_text("a year of work")
    picture(settings.input / "PHOTO-00.jpg")
    return settings


def vanished(settings: JobSettings) -> JobSettings:
    paths = make_inputs(settings.input, 3)
    paths[1].write_bytes(b"broken")
    run(settings)
    paths[1].unlink()
    return settings


def beyond_the_limit(settings: JobSettings) -> JobSettings:
    make_inputs(settings.input, 4)
    run(replace(settings, limit=1))
    return replace(settings, limit=3)


def as_a_list(settings: JobSettings) -> JobSettings:
    make_inputs(settings.input, 1)
    listed = settings.input / "list.txt"
    listed.write_text(f"photo-00.png\nnothing.png\n../photo-00.png\n{'x' * 300}.png\n")
    return replace(settings, input=listed)


STATES = (
    fresh,
    all_done,
    results_lost,
    names_that_meet,
    some_faces_left,
    some_faces_cannot_be_read,
    a_result_of_somebody_else,
    a_second_face_of_somebody_else,
    codes_of_somebody_else,
    somebody_moved_theirs_away,
    changed,
    changed_beside_somebody_else,
    vanished,
    beyond_the_limit,
    as_a_list,
)


@pytest.mark.usefixtures("pairs")
@pytest.mark.parametrize("state", STATES)
def test_what_is_planned_happens(settings: JobSettings, state: Callable[[JobSettings], JobSettings]) -> None:
    settings = state(settings)
    plan = planned(settings)
    assert plan == done_then(settings)
    assert plan


# -- what a run refuses, a dry run refuses in the same words ---------------------------------------------------


def without_devices(settings: JobSettings) -> JobSettings:
    return replace(settings, devices=" , ")


def without_inputs(settings: JobSettings) -> JobSettings:
    return replace(settings, input=settings.input / "nothing")


def inside_the_input(settings: JobSettings) -> JobSettings:
    return replace(settings, output=settings.input / "out")


def a_link_to_nothing(settings: JobSettings) -> JobSettings:
    settings.output.symlink_to("nowhere")
    return settings


def a_link_in_a_circle(settings: JobSettings) -> JobSettings:
    settings.output.symlink_to(settings.output.name)
    return settings


def a_name_that_is_too_long(settings: JobSettings) -> JobSettings:
    return replace(settings, output=settings.output / ("x" * 300) / "y")


def below_a_file(settings: JobSettings) -> JobSettings:
    settings.output.write_text("a year of work")
    return replace(settings, output=settings.output / "deeper" / "still")


def a_file_where_a_folder_has_to_be(settings: JobSettings) -> JobSettings:
    make_folder(settings.folder)
    (settings.folder.release / "deeper").write_text("a year of work")
    picture(settings.input / "deeper" / "photo-00.png")
    return settings


def a_file_above_a_folder_that_has_to_be(settings: JobSettings) -> JobSettings:
    settings = a_file_where_a_folder_has_to_be(settings)
    (settings.input / "deeper" / "photo-00.png").unlink()
    picture(settings.input / "deeper" / "still" / "photo-00.png")
    return settings


def another_margin(settings: JobSettings) -> JobSettings:
    run(settings)
    return replace(settings, margin=0.5)


def no_manifest(settings: JobSettings) -> JobSettings:
    make_folder(settings.folder)
    settings.folder.manifest.write_bytes(b"no database at all" * 100)
    return settings


def a_folder_as_manifest(settings: JobSettings) -> JobSettings:
    settings.folder.manifest.mkdir(parents=True)
    return settings


REFUSED = (
    without_devices,
    without_inputs,
    inside_the_input,
    a_link_to_nothing,
    a_link_in_a_circle,
    a_name_that_is_too_long,
    below_a_file,
    a_file_where_a_folder_has_to_be,
    a_file_above_a_folder_that_has_to_be,
    another_margin,
    no_manifest,
    a_folder_as_manifest,
)


def refusals(settings: JobSettings) -> list[str]:
    """What the dry run says, then the run."""
    said = []
    for refused in (lambda: plan_job(settings, make_worker=FakeWorker), lambda: run(settings)):
        with pytest.raises(UserError) as raised:
            refused()
        said.append(str(raised.value))
    return said


@pytest.mark.parametrize("state", REFUSED)
def test_both_refuse_in_the_same_words(settings: JobSettings, state: Callable[[JobSettings], JobSettings]) -> None:
    make_inputs(settings.input, 1)
    settings = state(settings)
    before, after = refusals(settings)
    assert before == after


def test_both_refuse_a_folder_in_which_another_run_works(settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    with Popen([sys.executable, "-c", HOLD, str(settings.folder.lock)], stdin=PIPE, stdout=PIPE) as other:
        assert other.stdout is not None
        make_folder(settings.folder)
        assert other.stdin is not None
        other.stdin.write(b"\n")
        other.stdin.flush()
        assert other.stdout.readline() == b"held\n"
        before, after = refusals(settings)
        other.kill()
    assert before == after
    assert before.startswith("another run is working on")
    assert [outcome[2] for outcome in planned(settings)] == ["anonymize"], "a killed run's lock does not stay"


HOLD = """
import sys
from faceanon_engine.engine.system.locks import locked
from pathlib import Path
sys.stdin.readline()
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("name", ["", "release", "private", "private/manifest.sqlite", "private/job.lock"])
def test_both_refuse_what_may_not_be_written(settings: JobSettings, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make_inputs(settings.input, 1)
    run(settings)
    (settings.folder.lock).touch()  # as a killed run leaves it
    closed, may = settings.output / name, os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed and may(path, mode))
    before, after = refusals(settings)
    assert before == after
    assert "Permission denied" in before


def test_a_plan_names_the_devices_that_share_a_job(settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    assert plan_job(replace(settings, devices="cpu,cpu"), make_worker=FakeWorker).about["device"] == "cpu, cpu"
