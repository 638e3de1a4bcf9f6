"""A manifest is somebody else's file: whatever stands in it, nothing outside the job's folder is touched."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from faceanon_engine.cli.status import status
from faceanon_engine.engine.errors import REASONS, UserError
from faceanon_engine.engine.job.dry_run import plan_job
from faceanon_engine.engine.job.layout import JobFolder
from faceanon_engine.engine.job.manifest import COLUMNS, InputRow, ItemRow, Manifest
from faceanon_engine.engine.job.settings import JobSettings, job_settings
from tests.support.fake_worker import FakeWorker, make_inputs
from tests.support.jobs import items, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[JobSettings, Path]:
    """A finished job of three pictures, of which one failed, with saved codes and a sheet, and a copy of its place."""
    place = tmp_path_factory.mktemp("jobs") / "here"
    chosen = {"align": "never", "steps": 2, "contact_sheet": 2, "save_codes": True}
    settings = job_settings(place / "in", place / "out", chosen)
    make_inputs(settings.input, 2)
    (settings.input / "bad.png").write_bytes(b"")
    run(settings)
    shutil.copytree(place, place.with_name("copy"))
    return settings, place.with_name("copy")


@pytest.fixture
def job(finished: tuple[JobSettings, Path]) -> JobSettings:
    """The finished job as it was."""
    settings, copy = finished
    shutil.rmtree(settings.output.parent)
    shutil.copytree(copy, settings.output.parent)
    return settings


def change(folder: JobFolder, *statements: str, values: tuple[Any, ...] = ()) -> None:
    """Write into the manifest as another program may, which heeds no check."""
    with closing(sqlite3.connect(folder.manifest)) as connection:
        connection.execute("pragma ignore_check_constraints = on")
        for statement in statements:
            connection.execute(statement, values)
        connection.commit()


def content(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder but for locks and the file times of SQLite."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if not path.is_dir() and path.suffix != ".lock"
    }


def refusals(job: JobSettings) -> list[str]:
    """What the status, the dry run and the run say; each is one line, and nothing is changed."""
    before = content(job.output.parent)
    said = []
    for act in (
        lambda: CliRunner().invoke(status, [str(job.output), "--json"], catch_exceptions=False, standalone_mode=False),
        lambda: plan_job(job, make_worker=FakeWorker),
        lambda: run(job),
    ):
        with pytest.raises(UserError) as raised:
            act()
        said.append(str(raised.value))
        assert len(said[-1]) < 600 + len(str(job.output))
        assert content(job.output.parent) == before
    return said


def test_what_a_record_names_outside_is_neither_deleted_nor_overwritten(job: JobSettings, tmp_path: Path) -> None:
    (tmp_path / "victim.txt").write_text("precious")
    (tmp_path / "victim.png").write_text("precious")
    change(job.folder, f"update items set codes = '{tmp_path}/victim.txt' where input = 'photo-00.png'")
    change(job.folder, "update inputs set bytes = 1 where path = 'photo-00.png'")  # changed: its results are deleted
    change(job.folder, "update items set output = '../../victim.png', state = 'pending' where input = 'photo-01.png'")
    assert all("items" in said for said in refusals(job))
    assert (tmp_path / "victim.txt").read_text() == (tmp_path / "victim.png").read_text() == "precious"


LEADING_OUT = (
    "/etc/victim.png",
    "../victim.png",
    "a/../../victim.png",
    "a\0.png",
    "",
    ".",
    "..",
    "./a.png",
    "a//b.png",
)


@pytest.mark.parametrize(
    "name", [*LEADING_OUT, "a.txt", "../private/manifest.sqlite", "x" * 40_000 + ".png", 7, b"a.png"]
)
def test_an_output_that_is_no_results_name_is_refused(job: JobSettings, name: object) -> None:
    change(job.folder, "update items set output = ? where input = 'photo-00.png'", values=(name,))
    if name == 7:
        name = "7"  # SQLite made a text of it
    assert all("output" in said for said in refusals(job))


@pytest.mark.parametrize(
    "name", [*LEADING_OUT, "manifest.sqlite", "contact-sheet.png", "codes/photo-01.w_plus.npy", "codes/photo-00.npy"]
)
def test_codes_that_are_not_the_rows_own_are_refused(job: JobSettings, name: str) -> None:
    change(job.folder, "update items set codes = ? where input = 'photo-00.png'", values=(name,))
    assert all("codes" in said for said in refusals(job))


@pytest.mark.parametrize("name", ["/etc/victim.png", "../victim.png", "a\0.png", ".", ""])
@pytest.mark.parametrize(("table", "column"), [("inputs", "path"), ("items", "input")])
def test_an_input_that_leads_out_is_refused(job: JobSettings, table: str, column: str, name: str) -> None:
    change(job.folder, f"update {table} set {column} = ? where {column} = 'photo-00.png'", values=(name,))
    assert all(column in said for said in refusals(job))


# -- links -------------------------------------------------------------------------------------------------------


def a_result(job: JobSettings, elsewhere: Path) -> None:
    (job.folder.release / "photo-00.png").unlink()
    (job.folder.release / "photo-00.png").symlink_to(elsewhere / "victim.png")


def a_code(job: JobSettings, elsewhere: Path) -> None:
    (job.folder.private / "codes/photo-00.w_plus.npy").unlink()
    (job.folder.private / "codes/photo-00.w_plus.npy").symlink_to(elsewhere / "victim.png")


def the_codes(job: JobSettings, elsewhere: Path) -> None:
    (job.folder.private / "codes").rename(elsewhere / "codes")
    (job.folder.private / "codes").symlink_to(elsewhere / "codes")


def the_results(job: JobSettings, elsewhere: Path) -> None:
    job.folder.release.rename(elsewhere / "release")
    job.folder.release.symlink_to(elsewhere / "release")


def all_that_is_private(job: JobSettings, elsewhere: Path) -> None:
    job.folder.private.rename(elsewhere / "private")
    job.folder.private.symlink_to(elsewhere / "private")


def the_manifest(job: JobSettings, elsewhere: Path) -> None:
    job.folder.manifest.rename(elsewhere / "manifest.sqlite")
    job.folder.manifest.symlink_to(elsewhere / "manifest.sqlite")


def its_journal(job: JobSettings, elsewhere: Path) -> None:
    (job.folder.private / "manifest.sqlite-journal").symlink_to(elsewhere / "victim.png")


def its_log(job: JobSettings, elsewhere: Path) -> None:
    (job.folder.private / "manifest.sqlite-wal").symlink_to(elsewhere / "victim.png")


@pytest.mark.parametrize(
    "link", [a_result, a_code, the_codes, the_results, all_that_is_private, the_manifest, its_journal, its_log]
)
def test_a_link_that_leaves_the_folder_is_refused(
    job: JobSettings, tmp_path: Path, link: Callable[[JobSettings, Path], None]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "victim.png").write_text("precious")
    link(job, tmp_path / "elsewhere")
    os.utime(job.input / "photo-00.png", ns=(1, 1))  # its results would be deleted
    assert all("symbolic link" in said for said in refusals(job))


@pytest.mark.parametrize("name", ["job.lock", "names.lock", "process-0.lock", "contact-sheet.png"])
def test_a_link_in_place_of_a_file_of_the_jobs_own_is_refused(job: JobSettings, tmp_path: Path, name: str) -> None:
    (tmp_path / "victim").write_text("precious")
    (job.folder.private / name).unlink(missing_ok=True)
    (job.folder.private / name).symlink_to(tmp_path / "victim")
    for act in (lambda: plan_job(job, make_worker=FakeWorker), lambda: run(job)):
        with pytest.raises(UserError, match="symbolic link"):
            act()
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_link_that_appears_later_is_not_followed(job: JobSettings, tmp_path: Path) -> None:
    """Between the check and the write a folder becomes a link."""
    make_inputs(job.input / "deeper", 1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "photo-00.png").write_text("precious")

    class Planting(FakeWorker):
        def load(self, progress: Any) -> None:
            (job.folder.release / "deeper").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(UserError, match="symbolic link"):
        run(job, None, Planting)
    assert content(tmp_path / "elsewhere") == {"photo-00.png": b"precious"}


def test_a_folder_that_is_a_link_before_the_job_begins_takes_no_results(settings: JobSettings, tmp_path: Path) -> None:
    make_inputs(settings.input / "deeper", 1)
    (tmp_path / "elsewhere").mkdir()
    settings.folder.release.mkdir(parents=True)
    (settings.folder.release / "deeper").symlink_to(tmp_path / "elsewhere")
    result = run(settings)
    assert [failure.reason for failure in result.failures] == ["output-exists"]
    assert content(tmp_path / "elsewhere") == {}


def test_a_journal_that_names_another_journal_deletes_nothing(job: JobSettings, tmp_path: Path) -> None:
    """SQLite deletes the journal of several databases that a journal names, once it has rolled back."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    name = os.fsencode(victim)
    total = sum(byte if byte < 128 else byte - 256 for byte in name) & 0xFFFFFFFF
    page = job.folder.manifest.stat().st_size
    header = bytes.fromhex("d9d505f920a163d7") + b"".join(
        number.to_bytes(4, "big") for number in (0, 1, page // 4096, 512, 4096)
    )
    ending = (1).to_bytes(4, "big") + name + len(name).to_bytes(4, "big") + total.to_bytes(4, "big")
    journal = header.ljust(512, b"\0") + ending + bytes.fromhex("d9d505f920a163d7")
    beside = job.folder.manifest.with_name("manifest.sqlite-journal")
    copy = tmp_path / "copy.sqlite"
    shutil.copy(job.folder.manifest, copy)
    copy.with_name("copy.sqlite-journal").write_bytes(journal)
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("select count(*) from sqlite_master").fetchone()
    assert not victim.exists(), "SQLite itself does: the test says something"
    victim.write_bytes(b"precious")
    beside.write_bytes(journal)
    assert all("journal" in said for said in refusals(job))
    assert victim.read_bytes() == b"precious"


def test_a_journal_of_another_kind_is_not_waited_for(job: JobSettings) -> None:
    os.mkfifo(job.folder.private / "manifest.sqlite-journal")
    for act in (lambda: plan_job(job, make_worker=FakeWorker), lambda: run(job)):
        with pytest.raises(UserError, match="is no file"):
            act()


# -- tables ------------------------------------------------------------------------------------------------------

TABLES = {
    "a trigger": ["create trigger t after insert on items begin delete from inputs; end"],
    "a view": ["alter table items rename to other", "create view items as select * from other"],
    "a table too many": ["create table notes (text)"],
    "a table too few": ["drop table inputs"],
    "a column too many": ["alter table items add column note text"],
    "a column too few": ["alter table items drop column bundle"],
    "another index": ["create index other on items(lower(output))"],
    "no index": ["drop index items_state"],
    "a table of another kind": [
        "drop table inputs",
        "create virtual table inputs using fts5(path, bytes, modified_ns)",
    ],
    "a computed column": [
        "drop table inputs",
        "create table inputs (path text primary key, bytes integer, modified_ns integer, faces as (bytes))",
    ],
    "a queue of another kind": ["create table queue (position integer primary key, input, process)"],
    "no tables": ["drop table items", "drop table inputs", "drop table job"],
}


@pytest.mark.parametrize("statements", TABLES.values(), ids=TABLES)
def test_tables_that_are_not_a_jobs_are_refused(job: JobSettings, statements: list[str]) -> None:
    change(job.folder, *statements)
    assert all("tables" in said for said in refusals(job))


def test_a_queue_that_may_be_missing_is_not_named_as_strange(job: JobSettings) -> None:
    change(job.folder, *TABLES["a trigger"])
    assert all("(t)" in said for said in refusals(job))


def test_a_damaged_schema_of_which_sqlite_cannot_even_speak_is_one_line(job: JobSettings) -> None:
    whole = job.folder.manifest.read_bytes()
    assert b"on items(state)" in whole
    job.folder.manifest.write_bytes(whole.replace(b"on items(state)", b"on items(stat\x89)"))
    assert all("damaged" in said for said in refusals(job))


def test_a_schema_that_is_no_text_is_one_line(job: JobSettings) -> None:
    """SQLite reads it, and Python, whose error has no code, cannot."""
    whole = job.folder.manifest.read_bytes()
    assert b"input text not null" in whole
    job.folder.manifest.write_bytes(whole.replace(b"input text not null", b"input text n\x89t null"))
    assert all("Could not decode" in said and "\n" not in said for said in refusals(job))


def test_a_queue_that_a_killed_run_left_is_a_jobs(job: JobSettings) -> None:
    with Manifest.open(job.folder.manifest) as manifest:
        manifest.fill_queue(["photo-00.png"])
    assert run(job).done == 2


# -- values ------------------------------------------------------------------------------------------------------

VALUES: dict[str, list[object]] = {
    "face": [-1, 2**40, 0.5, "x", b"0"],
    "state": ["", "DONE", b"done", "x" * 10**6],
    "reason": ["nonsense", "", 5, b"empty"],
    "message": [b"text", "x" * 10**6],
    "neighbour_id": [-1, 2**60, "x", 0.5, b""],
    "neighbour_distance": [float("inf"), float("-inf"), 1e300, "x"],
    "identity_after": [float("inf"), 1e9, -7.0, "x"],
    "attribute_before": [float("-inf"), "x", b"1"],
    "steps": [-5, 2**62, "many"],
    "seconds": [-1.0, float("inf"), 1e300, "x"],
    "bundle": [b"\xff", "x" * 10**6],
    "finished_at": ["yesterday", "2026-13-45T00:00:00+00:00", "x" * 10**5, "2026-01-01", b"2026"],
}


@pytest.mark.parametrize(("column", "value"), [(name, value) for name, values in VALUES.items() for value in values])
def test_a_value_that_a_column_cannot_have_is_one_line(job: JobSettings, column: str, value: object) -> None:
    change(job.folder, f"update items set {column} = ? where input = 'photo-01.png'", values=(value,))
    with pytest.raises(UserError, match=f"{column}|damaged") as raised, Manifest.read(job.folder.manifest) as manifest:
        manifest.items()
    assert len(str(raised.value)) < 600
    with pytest.raises(UserError):
        run(job)


@pytest.mark.parametrize("column", ["neighbour_distance", "identity_before", "identity_after", "seconds", "steps"])
def test_a_measure_that_is_not_there_is_shown_as_such(job: JobSettings, column: str) -> None:
    """What left the range of numbers is recorded as null, and so does SQLite with nan."""
    change(job.folder, f"update items set {column} = ? where state = 'done'", values=(float("nan"),))
    shown = CliRunner().invoke(status, [str(job.output)], catch_exceptions=False)
    assert "2 done, 1 failed" in shown.output
    assert " -" in shown.output


def test_release_and_private_lie_on_one_file_system(job: JobSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    stat, other = Path.stat, os.stat_result((0o40755, 1, 99, 2, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(
        Path, "stat", lambda path, **more: other if path == job.folder.release else stat(path, **more), raising=True
    )
    with pytest.raises(UserError, match="not on one file system"):
        plan_job(job, make_worker=FakeWorker)


def test_numbers_that_are_odd_and_possible_are_shown_in_few_characters(job: JobSettings) -> None:
    change(job.folder, "update items set attribute_after = 1e29, seconds = 1e11, steps = 9007199254740992")
    change(job.folder, "update items set finished_at = '9999-12-31T23:59:59+00:00'")
    shown = CliRunner().invoke(status, [str(job.output)], catch_exceptions=False, terminal_width=300)
    assert "1.0e+29" in shown.output
    assert max(map(len, shown.output.splitlines())) < 300


@pytest.mark.parametrize("change_rows", ["face = 7", "face = 1"])
def test_faces_that_leave_one_out_are_refused(job: JobSettings, change_rows: str) -> None:
    change(job.folder, f"update items set {change_rows}, state = 'pending' where input = 'photo-00.png'")
    assert all("face" in said for said in refusals(job))


def test_an_input_without_rows_is_done(job: JobSettings) -> None:
    change(job.folder, "delete from items where input = 'photo-00.png'", "update inputs set faces = 0")
    (job.folder.release / "photo-00.png").unlink()
    shutil.rmtree(job.folder.private / "codes")
    assert run(job).done == 2


def test_a_face_that_the_pool_lacks_is_not_on_the_sheet(job: JobSettings) -> None:
    class Pool(FakeWorker):
        def intermediates(self, images: Any, neighbours: Any) -> Any:
            range(16)[neighbours[0]]
            return super().intermediates(images, neighbours)

    change(job.folder, "update items set neighbour_id = 9007199254740992 where state = 'done'")
    assert run(replace(job, contact_sheet=1), None, Pool).contact_sheet is None


def test_every_reason_that_a_record_may_have_is_described() -> None:
    page = (Path(__file__).parents[3] / "docs" / "manifest.md").read_text(encoding="utf-8")
    assert [reason for reason in REASONS if f"`{reason}`" not in page] == []


SETTINGS = [
    "",
    "{",
    "[]",
    "7",
    '"text"',
    "[" * 100_000,
    '{"margin": NaN}',
    '{"steps": -1}',
    '{"pool_size": "many"}',
    '{"pool_size": 1e400}',
    '{"pool_size": 1000000000000000}',
    '{"bundle": {"a": 1}}',
    '{"input": ["a"]}',
    '{"seed": ' + "9" * 5000 + "}",
    b"{}",
    7,
]


@pytest.mark.parametrize("value", SETTINGS)
def test_settings_that_no_job_has_are_one_line(job: JobSettings, value: object) -> None:
    change(job.folder, "update job set value = ? where key = 'settings'", values=(value,))
    assert all("settings" in said for said in refusals(job))


@pytest.mark.parametrize("value", ["7", '{"a": 1}', "[7]", '[[{"a": 1}]]', "x"])
def test_a_sheet_that_no_job_made_is_one_line(job: JobSettings, value: str) -> None:
    change(job.folder, "update job set value = ? where key = 'contact_sheet'", values=(value,))
    with pytest.raises(UserError, match="contact_sheet"):
        run(job)


def test_values_beyond_what_memory_is_for_are_one_line(job: JobSettings) -> None:
    change(job.folder, "update items set message = cast(zeroblob(40000000) as text) where input = 'photo-00.png'")
    with pytest.raises(UserError, match="damaged"), Manifest.read(job.folder.manifest) as manifest:
        manifest.items()


# -- all of it at once -------------------------------------------------------------------------------------------

ANY_VALUE = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=30),
    st.binary(max_size=30),
    st.sampled_from(["../x.png", "/x", "a.png", "done", "[]", "{}", "2026-01-01T00:00:00+00:00", "x" * 40_000]),
)
ANY_COLUMN = st.sampled_from(
    [("items", name) for name in COLUMNS]
    + [("inputs", name) for name in ("path", "bytes", "modified_ns", "faces")]
    + [("job", "key"), ("job", "value"), ("queue", "input"), ("queue", "process"), ("queue", "position")]
)


@pytest.fixture(scope="module")
def begun() -> Iterator[JobFolder]:
    """A manifest with rows of every state, and a queue."""
    with tempfile.TemporaryDirectory() as folder:
        job = JobFolder(Path(folder))
        job.private.mkdir()
        with Manifest.open(job.manifest) as manifest:
            manifest.put(
                {"settings": {"margin": 0.0, "steps": 2}, "version": "1", "contact_sheet": [["a.jpg", 0, None]]}
            )
            done = ItemRow("a.jpg", 0, "done", output="a.png", codes="codes/a.w_plus.npy", seconds=1.5, steps=2)
            failed = ItemRow("b.jpg", 0, "failed", "empty", "no bytes", output="b.png")
            rows = [done, failed, ItemRow("c.jpg", 0, output="c.png")]
            manifest.add_inputs([InputRow(row.input, 1, 2, 1) for row in rows], rows)
            manifest.fill_queue(["c.jpg"])
        yield job


def assert_read_or_one_line(job: JobFolder) -> None:
    """Everything that reads a manifest gives values or one line about it, and raises nothing else."""
    refusal = ""
    try:
        with Manifest.open(job.manifest) as manifest:
            manifest.inputs(), manifest.items(), manifest.counts(), manifest.settings(), manifest.get("contact_sheet")
            manifest.claim(0, lambda path: [path])
        shown = CliRunner().invoke(status, [str(job.root)], catch_exceptions=False, standalone_mode=False)
        assert "done" in shown.output
    except UserError as error:
        refusal = str(error)
    assert len(refusal.splitlines()) <= 1
    assert len(refusal) < 600


@bounded(max_examples=40, deadline=None)
@given(changes=st.lists(st.tuples(ANY_COLUMN, ANY_VALUE), min_size=1, max_size=2))
def test_any_value_in_any_column_reads_or_is_one_line(begun: JobFolder, changes: list[Any]) -> None:
    whole = begun.manifest.read_bytes()
    try:
        for (table, column), value in changes:
            try:
                change(begun, f"update {table} set {column} = ?", values=(value,))
            except (sqlite3.Error, UnicodeEncodeError):
                return  # nobody could write that
        assert_read_or_one_line(begun)
    finally:
        begun.manifest.write_bytes(whole)


@bounded(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_damage_to_the_file_reads_or_is_one_line(begun: JobFolder, data: st.DataObject) -> None:
    whole = begun.manifest.read_bytes()
    damaged = bytearray(whole)
    try:
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(damaged) - 1))
            damaged[place : place + data.draw(st.integers(1, 8))] = data.draw(st.binary(min_size=1, max_size=8))
        begun.manifest.write_bytes(
            damaged[: data.draw(st.integers(1, len(damaged)))] if data.draw(st.booleans()) else damaged
        )
        assert_read_or_one_line(begun)
    finally:
        begun.manifest.write_bytes(whole)
        for ending in ("-journal", "-wal", "-shm"):
            begun.manifest.with_name(begun.manifest.name + ending).unlink(missing_ok=True)


# -- another program holds it ------------------------------------------------------------------------------------

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("begin exclusive")
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(job: JobSettings) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", HOLD, str(job.folder.manifest)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_status_waits_once_for_another_program_and_says_so(
    job: JobSettings, holder: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faceanon_engine.engine.job.manifest._READER_PATIENCE", 1.5)
    begun = time.monotonic()
    with pytest.raises(UserError, match="another program holds it") as raised:
        CliRunner().invoke(status, [str(job.output), "--json"], catch_exceptions=False, standalone_mode=False)
    assert 2.4 < time.monotonic() - begun < 8, "a second, then the patience, once"
    assert len(str(raised.value).splitlines()) == 1
    assert [record.getMessage() for record in caplog.records if "waiting" in record.message] == [
        f"{job.folder.manifest} is busy, another program writes it: waiting"
    ]


def test_status_goes_on_when_the_other_program_is_done(
    job: JobSettings, holder: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    threading.Timer(1.5, holder.kill).start()
    shown = CliRunner().invoke(status, [str(job.output)], catch_exceptions=False, standalone_mode=False)
    assert "2 done, 1 failed" in shown.output
    assert "waiting" in caplog.text


def test_a_reader_that_takes_its_time_holds_up_no_job(job: JobSettings) -> None:
    with Manifest.read(job.folder.manifest) as manifest:
        assert len(manifest.items()) == 3
        with closing(sqlite3.connect(job.folder.manifest, timeout=0)) as connection:
            connection.execute("begin exclusive")
    assert len(items(job)) == 3
