"""Files appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.files import (
    atomic_file,
    atomic_folder,
    refuse_unwritable,
    staging_folder,
    write_result,
)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "deep" / "out.png"
    write_result(target, b"first")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"out\.png cannot be written \(No space left on device\): free space"):
        write_result(target, b"second")
    assert target.read_bytes() == b"first"
    assert os.listdir(target.parent) == ["out.png"]


def test_a_file_system_that_flushes_no_folders_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    write_result(tmp_path / "out", b"whole")
    assert (tmp_path / "out").read_bytes() == b"whole"


def test_nothing_has_the_name_before_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_file(target) as temporary:
        temporary.write_bytes(b"half")
        assert not target.exists()
        temporary.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
    with pytest.raises(TypeError), atomic_file(target) as temporary:
        temporary.write_bytes(b"half" + None)  # type: ignore[operator]
    assert target.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["out"]


def test_others_may_read_it_as_far_as_the_process_lets_them(tmp_path: Path) -> None:
    write_result(tmp_path / "ours", b"")
    (tmp_path / "usual").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "usual")]
    assert modes[0] == modes[1]


def test_what_could_not_be_written_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_unwritable(tmp_path / "new.json", "--report")
    assert os.listdir(tmp_path) == []
    with pytest.raises(UserError, match="is a folder: give --report the name of a file"):
        refuse_unwritable(tmp_path, "--report")
    with pytest.raises(UserError, match=r"the folder of .*new\.json does not exist: make it first"):
        refuse_unwritable(tmp_path / "none" / "new.json", "--report")

    def closed(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", closed)
    with pytest.raises(UserError, match=r"new\.json cannot be written \(Read-only file system\): give another --out"):
        refuse_unwritable(tmp_path / "new.json", "--out")


def test_a_folder_takes_the_place_of_another_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    for content in ("first", "second"):
        with atomic_folder(target) as temporary:
            (temporary / content).touch()
            assert content not in (os.listdir(target) if target.exists() else [])
        assert os.listdir(target) == [content]
    with pytest.raises(FileNotFoundError), atomic_folder(target) as temporary:
        os.replace(temporary / "missing", temporary / "third")
    assert os.listdir(target) == ["second"]
    assert os.listdir(target.parent) == ["out"]


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_an_interrupt_between_the_renames_of_a_folder_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    target, rename, seen = tmp_path / "out", os.replace, []
    with atomic_folder(target) as temporary:
        (temporary / "first").touch()

    def interrupted(source: Path, place: Path) -> None:
        seen.append(place)
        if len(seen) == renamed + 1:
            raise KeyboardInterrupt
        rename(source, place)
        if len(seen) == renamed == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as temporary:
        (temporary / "second").touch()
    assert os.listdir(target) == ["second" if renamed == 2 else "first"]
    assert os.listdir(tmp_path) == ["out"]


def test_what_is_ready_leaves_the_staging_folder_and_the_rest_vanishes(tmp_path: Path) -> None:
    with staging_folder(tmp_path / "deep" / "graph") as staging:
        assert staging.parent == tmp_path / "deep"
        assert staging.name.startswith(".graph-"), "hidden, and named after what it is for"
        for name in ("ready", "half"):
            (staging / name).touch()
        os.replace(staging / "ready", tmp_path / "deep" / "ready")
    assert os.listdir(tmp_path / "deep") == ["ready"]
