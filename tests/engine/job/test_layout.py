"""What may leave the house lies apart from what may not, whatever a job is asked for and wherever it is stopped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.decode import SUFFIXES
from faceanon_engine.engine.job.dry_run import plan_job
from faceanon_engine.engine.job.layout import JobFolder, codes_name, part_of_job, stays_inside
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.system import files
from tests.support.fake_worker import FakeWorker, make_inputs
from tests.support.jobs import Told, items, run, visible


def images_below(folder: Path) -> set[str]:
    """What `datasets.load_dataset("imagefolder", data_dir=folder)` takes as rows."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES}


def test_release_holds_the_results_and_nothing_else(settings: JobSettings) -> None:
    settings = replace(settings, save_codes=True, contact_sheet=2)
    make_inputs(settings.input, 2)
    make_inputs(settings.input / "deeper", 1)
    (settings.input / "bad.png").write_bytes(b"")
    result = run(settings)
    assert sorted(path.name for path in settings.output.iterdir()) == ["private", "release"]
    assert result.release == settings.folder.release
    assert images_below(result.release) == {row.output for row in items(settings, "done")}
    assert visible(settings.output) == ["deeper/photo-00.png", "photo-00.png", "photo-01.png"]
    assert {path.relative_to(settings.folder.private).as_posix() for path in settings.folder.private.rglob("*.*")} == {
        "manifest.sqlite",
        "contact-sheet.png",
        *(codes_name(name) for name in visible(settings.output)),
    }
    assert result.manifest == settings.folder.manifest
    assert result.to_json()["release"] == str(settings.output / "release")


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_private_is_for_nobody_else_whatever_the_umask(
    settings: JobSettings, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, save_codes=True, contact_sheet=1)
    make_inputs(settings.input / "deeper", 2)
    settings.output.mkdir()
    (settings.output / "private").mkdir(mode=0o755)
    (settings.output / "release").mkdir()
    journal: set[int] = set()

    class Looking(Told):
        def input_finished(self, path: str, failed: bool) -> None:
            journal.update(path.stat().st_mode & 0o777 for path in settings.folder.private.glob("*.*"))

    monkeypatch.setattr(files, "_UMASK", 0o022)
    before = os.umask(umask)
    try:
        run(settings, Looking())
    finally:
        os.umask(before)
    private = settings.folder.private
    assert private.stat().st_mode & 0o777 == 0o700
    for path in private.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert journal == {0o600}
    assert (settings.folder.release / "deeper" / "photo-00.png").stat().st_mode & 0o777 == 0o644


def test_what_is_half_written_never_lies_among_the_results(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(settings.input, 3)
    rename, seen = os.replace, []

    def watched(source: Path, target: str, **where: int) -> None:
        seen.append((Path(source).parent.name, visible(settings.output)))
        rename(source, target, **where)

    monkeypatch.setattr(os, "replace", watched)
    run(replace(settings, save_codes=True, contact_sheet=1))
    assert {place for place, _ in seen} == {"private"}
    assert all(name.startswith("photo-") for _, names in seen for name in names)
    assert len(seen) >= 7


def old_layout(settings: JobSettings) -> None:
    """As earlier versions left it: everything in OUTPUT itself."""
    run(replace(settings, contact_sheet=2))
    for place in (settings.folder.release, settings.folder.private):
        for path in list(place.iterdir()):
            path.rename(settings.output / path.name)
        place.rmdir()


def test_a_job_of_an_earlier_version_is_refused_and_left_as_it_is(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    old_layout(settings)
    before = {path: path.read_bytes() for path in settings.output.rglob("*")}
    for act in (lambda: run(settings), lambda: plan_job(settings, make_worker=FakeWorker)):
        with pytest.raises(UserError, match=r"earlier version.*give another OUTPUT"):
            act()
    assert {path: path.read_bytes() for path in settings.output.rglob("*")} == before


def test_a_foreign_file_beside_release_and_private_is_nobodys_business(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    settings.output.mkdir()
    (settings.output / "photo-00.png").write_text("a year of work")
    (settings.output / "private").mkdir()
    (settings.output / "private" / "notes.txt").write_text("a year of work")
    assert run(settings).done == 2
    assert (settings.output / "photo-00.png").read_text() == "a year of work"
    assert (settings.output / "private" / "notes.txt").read_text() == "a year of work"


# -- jobs as inputs ----------------------------------------------------------------------------------------------


@pytest.fixture
def job(settings: JobSettings) -> JobFolder:
    """A finished job with a contact sheet."""
    make_inputs(settings.input, 2)
    run(replace(settings, contact_sheet=2))
    return settings.folder


def refused(settings: JobSettings) -> str:
    """What both the dry run and the run say; the run leaves nothing."""
    said = []
    for act in (lambda: plan_job(settings, make_worker=FakeWorker), lambda: run(settings)):
        with pytest.raises(UserError) as raised:
            act()
        said.append(str(raised.value))
    assert said[0] == said[1]
    assert not settings.output.exists()
    return said[0]


def test_the_results_of_a_job_may_be_the_input_of_another(settings: JobSettings, job: JobFolder) -> None:
    again = replace(settings, input=job.release, output=settings.output.with_name("again"))
    assert run(again).done == 2
    assert {row.input for row in items(again)} == {"photo-00.png", "photo-01.png"}


def the_job(job: JobFolder, aside: Path) -> Path:
    return job.root


def above_the_job(job: JobFolder, aside: Path) -> Path:
    return Path(shutil.move(job.root, aside / "deep" / "jobs")).parent.parent


def its_private(job: JobFolder, aside: Path) -> Path:
    return job.private


def inside_its_private(job: JobFolder, aside: Path) -> Path:
    make_inputs(job.private / "deeper", 1)
    return job.private / "deeper"


def its_contact_sheet(job: JobFolder, aside: Path) -> Path:
    return job.contact_sheet


def a_list_with_its_contact_sheet(job: JobFolder, aside: Path) -> Path:
    (aside / "list.txt").write_text(f"{job.release / 'photo-00.png'}\n{job.contact_sheet}\n")
    return aside / "list.txt"


def a_link_to_its_contact_sheet(job: JobFolder, aside: Path) -> Path:
    make_inputs(aside, 1)
    (aside / "sheet.png").symlink_to(job.contact_sheet)
    return aside


def a_link_to_it(job: JobFolder, aside: Path) -> Path:
    (aside / "link").symlink_to(job.root)
    return aside / "link"


def a_list_through_a_link(job: JobFolder, aside: Path) -> Path:
    (aside / "link").symlink_to(job.private)
    (aside / "list.txt").write_text("link/contact-sheet.png\n")
    return aside / "list.txt"


def a_job_begun_anew(job: JobFolder, aside: Path) -> Path:
    """One whose manifest was deleted, as a damaged one's message says."""
    job.manifest.unlink()
    return job.root


def the_contact_sheet_of_a_job_begun_anew(job: JobFolder, aside: Path) -> Path:
    job.manifest.unlink()
    return job.contact_sheet


@pytest.mark.parametrize(
    "of",
    [
        the_job,
        above_the_job,
        its_private,
        inside_its_private,
        its_contact_sheet,
        a_list_with_its_contact_sheet,
        a_link_to_its_contact_sheet,
        a_link_to_it,
        a_list_through_a_link,
        a_job_begun_anew,
        the_contact_sheet_of_a_job_begun_anew,
    ],
)
def test_what_a_job_keeps_private_is_no_input(
    settings: JobSettings, job: JobFolder, tmp_path: Path, of: Callable[[JobFolder, Path], Path]
) -> None:
    (tmp_path / "aside" / "deep").mkdir(parents=True)
    source = of(job, tmp_path / "aside")
    message = refused(replace(settings, input=source, output=tmp_path / "again"))
    assert "private" in message
    assert "/release" in message


@pytest.mark.parametrize("which", ["", "contact-sheet.png", ".."])
def test_a_job_of_an_earlier_version_is_no_input(settings: JobSettings, tmp_path: Path, which: str) -> None:
    make_inputs(settings.input, 2)
    moved = replace(settings, output=tmp_path / "jobs" / "old")
    old_layout(moved)
    source = Path(os.path.normpath(moved.output / which))
    assert "earlier version" in refused(replace(settings, input=source, output=tmp_path / "again"))


def test_folders_and_files_of_these_names_that_are_no_jobs_are_inputs(settings: JobSettings) -> None:
    make_inputs(settings.input / "private", 2)
    make_inputs(settings.input / "release", 1)
    make_inputs(settings.input / "private" / "manifest.sqlite", 1)
    make_inputs(settings.input / "people" / "private", 1)
    (settings.input / "people" / "private" / "photo-00.png").rename(
        settings.input / "people" / "private" / "contact-sheet.png"
    )
    (settings.input / "manifest.sqlite").write_bytes(b"a table of our own")
    assert run(settings).done == 5


@pytest.mark.parametrize("place", ["release", "private", "release/deeper", "private/another"])
def test_no_job_is_begun_within_a_part_of_another(
    settings: JobSettings, job: JobFolder, tmp_path: Path, place: str
) -> None:
    make_inputs(tmp_path / "others", 1)
    before = sorted(job.root.rglob("*"))
    with pytest.raises(UserError, match="nothing but its own"):
        run(replace(settings, input=tmp_path / "others", output=job.root / place))
    assert sorted(job.root.rglob("*")) == before


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "/a", "a/../b", "../a", "a//b", "a/", "a/./b", "a\0b", "//a"])
def test_a_name_that_leads_out_or_is_spelled_oddly_is_told(name: str) -> None:
    assert not stays_inside(name)


@pytest.mark.parametrize("name", ["a", "a/b", ".a", "..a/b..", "a b\n", "caf\\xe9.png"])
def test_a_name_that_stays_inside_is_told(name: str) -> None:
    assert stays_inside(name)


@pytest.mark.parametrize("name", ["a\\b", "C:a.png", "..\\a", "C:/a"])
def test_on_windows_other_ways_out_are_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faceanon_engine.engine.job.layout._BACKSLASH_LEADS", True)
    assert not stays_inside(name)


def test_the_part_of_a_job_is_found_from_whatever_lies_in_it(settings: JobSettings, job: JobFolder) -> None:
    root = Path(os.path.realpath(job.root))
    assert {part_of_job(root / name) for name in ("release/photo-00.png", "release/x/y", "release")} == {
        root / "release"
    }
    assert {part_of_job(root / name) for name in ("private", "private/codes")} == {root / "private"}
    assert {part_of_job(root / name) for name in ("", "x/release", "..")} == {None}


def test_a_picture_can_be_read_from_where_the_record_says(settings: JobSettings, job: JobFolder) -> None:
    for row in items(settings):
        assert Image.open(job.release / str(row.output)).size == (32, 32)


def test_what_else_lies_in_release_is_mentioned_and_stays(settings: JobSettings, job: JobFolder) -> None:
    (job.release / "deeper").mkdir()
    (job.release / "deeper" / "original.png").write_text("a year of work")
    observer = Told()
    run(settings, observer)
    assert [note for note in observer.notes if "no result of this job: deeper/original.png" in note]
    assert (job.release / "deeper" / "original.png").exists()
