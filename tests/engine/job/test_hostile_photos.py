"""The record of photographs that are given back, damaged or meant to harm: one line, and nothing leaves the folder."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.dry_run import plan_job
from faceanon_engine.engine.job.manifest import Manifest
from faceanon_engine.engine.job.settings import JobSettings, job_settings
from tests.support.fake_worker import FakeWorker
from tests.support.jobs import run, visible
from tests.support.scenes import save, scene


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    save(folder / "in" / "a.png", scene()[0])
    run(job_settings(folder / "in", folder / "out", {"output": "photos", "steps": 1, "save_codes": True}))
    return folder


@pytest.fixture
def job(made: Path) -> Iterator[JobSettings]:
    """A job that is done, put back as it was after each test: its INPUT is recorded."""
    kept = made.with_name("kept")
    shutil.copytree(made / "out", kept)
    yield job_settings(made / "in", made / "out", {"output": "photos", "steps": 1, "save_codes": True})
    shutil.rmtree(made / "out")
    kept.rename(made / "out")


def change(job: JobSettings, statement: str, value: object = None) -> None:
    with closing(sqlite3.connect(job.folder.manifest)) as connection:
        connection.execute("pragma ignore_check_constraints = on")
        connection.execute(statement, () if value is None else (value,))
        connection.commit()


def refusals(job: JobSettings) -> list[str]:
    said = []
    for act in (lambda: plan_job(job, make_worker=FakeWorker), lambda: run(job)):
        with pytest.raises(UserError) as raised:
            act()
        said.append(str(raised.value))
        assert "\n" not in said[-1]
    return said


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/a.png", "faces/../../a.png", "faces/a.png/0.sqlite", "codes/a/0.png", "faces/0.png", ""]
)
def test_a_face_that_lies_elsewhere_is_refused(job: JobSettings, name: str) -> None:
    change(job, "update items set crop = ?", name)
    assert all("crop" in said for said in refusals(job))


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "a.sqlite", "", "a\0.png", "../private/manifest.sqlite"])
def test_a_photograph_that_lies_elsewhere_is_refused(job: JobSettings, name: str) -> None:
    change(job, "update inputs set output = ?", name)
    assert all("output" in said for said in refusals(job))


@pytest.mark.parametrize(
    ("column", "value"),
    [("state", "given"), ("reason", "because"), ("message", b"\xff"), ("boxes", -1), ("boxes_found", "many")],
)
def test_a_value_that_an_input_cannot_have_is_refused(job: JobSettings, column: str, value: object) -> None:
    change(job, f"update inputs set {column} = ?", value)
    assert all(column in said or "damaged" in said for said in refusals(job))


@pytest.mark.parametrize(
    ("change_rows", "column"),
    [
        ("update items set output = 'a.png'", "crop"),
        ("update items set codes = 'codes/a.w_plus.npy'", "codes"),
        ("update items set crop = null, codes = null", "output"),
        ("update items set state = 'redacted', reason = null", "reason"),
        ("update inputs set output = null", "output"),
        ("update inputs set faces = null", "faces"),
        ("update inputs set state = 'withheld'", "reason"),
    ],
)
def test_columns_that_do_not_agree_are_refused(job: JobSettings, change_rows: str, column: str) -> None:
    change(job, change_rows)
    assert all(column in said for said in refusals(job))


def test_a_link_in_place_of_a_photograph_or_a_face_is_refused(job: JobSettings, tmp_path: Path) -> None:
    victim = tmp_path / "victim.png"
    victim.write_text("precious")
    for place in (job.folder.release / "a.png", job.folder.private / "faces" / "a.png" / "0.png"):
        content = place.read_bytes()
        place.unlink()
        place.symlink_to(victim)
        assert all("symbolic link" in said for said in refusals(job))
        place.unlink()
        place.write_bytes(content)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("box", ["null", "[0, 0, 9, 9]"])
def test_a_face_that_is_said_to_be_redacted_and_is_nowhere_withholds_its_photograph(job: JobSettings, box: str) -> None:
    """Put together again from such a record, the photograph would show it."""
    with Manifest.read(job.folder.manifest) as manifest:
        frame = str(manifest.items()[0].frame)
    start, rest = frame.split('"box":')
    frame = f'{start}"box":{box},{rest[rest.index("]") + 2 :]}'
    change(
        job, "update items set state = 'redacted', reason = 'low-score', crop = null, codes = null, frame = ?", frame
    )
    (job.folder.release / "a.png").unlink()
    result = run(job)
    # What was found this time is no longer what the rows say, and is planned anew.
    assert (result.exit_code, visible(job.output)) in ((0, ["a.png"]), (1, []))
    with Manifest.read(job.folder.manifest) as manifest:
        assert [row.state for row in manifest.items()] == ["done"]
