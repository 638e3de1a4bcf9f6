"""The manifest keeps what it was told, one transaction at a time."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pandas
import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.manifest import COLUMNS, InputRow, ItemRow, Manifest

DONE = ItemRow("a.jpg", 0, state="done", output="a.png", neighbour_id=7, identity_after=0.25, steps=50, seconds=1.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "manifest.sqlite"


def test_rows_come_back_as_they_were_recorded(path: Path) -> None:
    with Manifest.open(path) as manifest:
        inputs = [InputRow("a.jpg", 10, 20), InputRow("b.jpg", 1, 2)]
        manifest.add_inputs(inputs, [ItemRow("a.jpg", 0, output="a.png")])
        manifest.finish([DONE], faces={"a.jpg": 1})
        manifest.put({"settings": {"margin": 0.0}})
    with Manifest.read(path) as manifest:
        assert manifest.items() == [DONE]
        assert manifest.inputs() == {"a.jpg": InputRow("a.jpg", 10, 20, 1), "b.jpg": InputRow("b.jpg", 1, 2, None)}
        assert manifest.get("settings") == {"margin": 0.0}
        assert manifest.get("nothing") is None
        assert manifest.counts() == {"done": 1, "failed": 0, "pending": 0}


def test_pandas_reads_it_in_one_line(path: Path) -> None:
    with Manifest.open(path) as manifest:
        manifest.add_inputs([InputRow("a.jpg", 10, 20)], [DONE])
    rows = pandas.read_sql("select * from items", sqlite3.connect(path))
    assert tuple(rows.columns) == COLUMNS
    assert rows.identity_after.tolist() == [0.25]


def test_more_or_fewer_faces_replace_the_planned_ones(path: Path) -> None:
    with Manifest.open(path) as manifest:
        manifest.add_inputs([InputRow("a.jpg", 10, 20)], [ItemRow("a.jpg", 0, output="a.png")])
        both = [ItemRow("a.jpg", 0, output="a.png"), ItemRow("a.jpg", 1, output="a-face1.png")]
        manifest.plan_faces("a.jpg", both)
        assert manifest.items() == both
        manifest.plan_faces("a.jpg", both[:1])
        assert manifest.items() == both[:1]


def test_a_transaction_that_fails_leaves_nothing(path: Path) -> None:
    with Manifest.open(path) as manifest:
        manifest.add_inputs([InputRow("a.jpg", 10, 20)], [ItemRow("a.jpg", 0, output="a.png")])
        with pytest.raises(UserError, match="manifest"):
            manifest.finish([DONE, replace(DONE, face=1, state="nonsense", output="c.png")])
        assert manifest.items("done") == []
        manifest.finish([DONE])
        assert manifest.items("done") == [DONE]


def test_a_killed_writers_transaction_is_rolled_back_for_a_reader(path: Path) -> None:
    """A hot journal lies beside the file after a kill: reading has to roll it back, not fail and not show its half."""
    import subprocess
    import sys

    with Manifest.open(path) as manifest:
        manifest.add_inputs([InputRow("a.jpg", 10, 20)], [DONE])
    code = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('pragma cache_size = 1'); c.execute('begin immediate');"
        "[c.execute('insert into inputs (path) values (?)', (f'{i:0500d}',)) for i in range(2000)];"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert path.with_name(path.name + "-journal").exists(), "the kill came too late for this test to say anything"
    with Manifest.read(path) as manifest:
        assert list(manifest.inputs()) == ["a.jpg"]
        assert manifest.items() == [DONE]


def test_a_reader_cannot_write(path: Path) -> None:
    Manifest.open(path).close()
    with Manifest.read(path) as manifest, pytest.raises(UserError):
        manifest.put({"a": 1})


def test_a_reader_finds_none_or_one_with_its_tables(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, seen = os.replace, []

    def watched(source: Path, target: Path) -> None:
        seen.append(path.exists())
        rename(source, target)
        with Manifest.read(path) as manifest:
            seen.append(manifest.counts())

    monkeypatch.setattr(os, "replace", watched)
    Manifest.open(path).close()
    assert seen == [False, {"done": 0, "failed": 0, "pending": 0}]
    assert os.listdir(path.parent) == [path.name]


def test_what_is_no_manifest_is_refused(tmp_path: Path, path: Path) -> None:
    with pytest.raises(UserError, match="no manifest"):
        Manifest.read(path)
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match="damaged"):
        Manifest.read(path)
    with pytest.raises(UserError, match="damaged"):
        Manifest.open(path)
    other = tmp_path / "other.sqlite"
    connection = sqlite3.connect(other)
    connection.execute("pragma user_version = 99")
    connection.close()
    with pytest.raises(UserError, match="format 99"):
        Manifest.open(other)


def test_its_folder_may_have_a_name_that_is_no_text(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9 100%?#")
    folder.mkdir()
    Manifest.open(folder / "manifest.sqlite").close()
    with Manifest.read(folder / "manifest.sqlite") as manifest:
        assert manifest.items() == []


def test_no_item_ever_takes_the_output_of_another(path: Path) -> None:
    with Manifest.open(path) as manifest:
        manifest.add_inputs([InputRow("a.jpg", 1, 2), InputRow("b.jpg", 1, 2)], [DONE])
        with pytest.raises(UserError, match="UNIQUE"):
            manifest.finish([replace(DONE, input="b.jpg")])
        assert manifest.items() == [DONE]
