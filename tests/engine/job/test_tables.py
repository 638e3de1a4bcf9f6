"""A table comes back from its file as it was written, and a file that is none is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.folder import make_folder
from faceanon_engine.engine.job.layout import JobFolder
from faceanon_engine.engine.job.tables import TABLE_SUFFIXES, Table, check_table_name, is_table


def table(bundle: str | None = "b" * 64) -> Table:
    values = np.arange(24, dtype=np.float32).reshape(3, 8)
    # Every second column is no array of its own: what is written has to be the values, not the memory below them.
    arrays = {"attribute_embedding": values[:, ::2], "neighbour_id": np.array([[7], [1 << 40], [0]], np.int64)}
    return Table(["zoë/1.png", "zoë/1.png", "b, c.png"], [0, 1, 0], arrays, bundle)


@pytest.mark.parametrize("suffix", [*TABLE_SUFFIXES, ".NPZ", ".SafeTensors"])
@pytest.mark.parametrize("bundle", ["b" * 64, None])
def test_a_table_comes_back_as_it_was_written(tmp_path: Path, suffix: str, bundle: str | None) -> None:
    written = table(bundle)
    written.write(tmp_path / f"t{suffix}")
    read = Table.read(str(tmp_path / f"t{suffix}"))
    assert (read.inputs, read.faces, read.bundle, len(read)) == (written.inputs, [0, 1, 0], bundle, 3)
    assert set(read.arrays) == set(written.arrays)
    for name, array in written.arrays.items():
        assert read.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(read.arrays[name], array)
    assert [path.name for path in tmp_path.iterdir()] == [f"t{suffix}"], "nothing is left beside it"


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_a_file_that_was_there_is_replaced(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"t{suffix}"
    file.write_bytes(b"another file")
    table().write(file)
    assert len(Table.read(file)) == 3


@pytest.mark.parametrize("name", ["t", "t.npy", "t.npz.txt", ".npz"])
def test_another_name_is_refused_and_nothing_written(tmp_path: Path, name: str) -> None:
    assert not is_table(Path(name))
    with pytest.raises(UserError, match=r"is neither \.npz nor \.safetensors: name it one of the two"):
        table().write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_refused_and_not_made(tmp_path: Path) -> None:
    check_table_name(tmp_path / "t.npz")
    for refuse in (check_table_name, table().write):
        with pytest.raises(UserError, match=r"the folder of .*t\.npz does not exist: make it first"):
            refuse(tmp_path / "none" / "t.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
@pytest.mark.parametrize("content", ["nothing", "text", "cut short", "no rows"])
def test_a_file_that_is_none_is_one_line(tmp_path: Path, suffix: str, content: str) -> None:
    file = tmp_path / f"t{suffix}"
    table().write(file)
    if content == "no rows":
        from safetensors.numpy import save_file

        arrays = {"attribute_embedding": np.ones((3, 4), np.float32)}
        np.savez(file, allow_pickle=False, **arrays) if suffix == ".npz" else save_file(arrays, file)
    else:
        file.write_bytes({"nothing": b"", "text": b"no\nno\n", "cut short": file.read_bytes()[:100]}[content])
    with pytest.raises(UserError) as refused:
        Table.read(file)
    assert str(refused.value).startswith(f"{file} cannot be read as a file of 'extract': ")
    assert "\n" not in str(refused.value)


def test_nothing_in_a_table_is_executed(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", input=np.array([{"an": "object"}], dtype=object), face=np.array([0]))
    with pytest.raises(UserError, match="cannot be read"):
        Table.read(tmp_path / "t.npz")


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_a_missing_file_is_said_to_be_missing(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UserError) as refused:
        Table.read(tmp_path / f"t{suffix}")
    assert str(refused.value) == f"{tmp_path / f't{suffix}'} does not exist"


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_nobody_else_may_read_what_holds_biometric_data(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"t{suffix}").touch(mode=0o644)
    table().write(tmp_path / f"t{suffix}")
    assert (tmp_path / f"t{suffix}").stat().st_mode & 0o777 == 0o600


def test_a_table_lies_in_a_job_only_where_nobody_takes_it_for_a_result(tmp_path: Path) -> None:
    job = JobFolder(tmp_path / "job")
    make_folder(job)
    job.manifest.touch()
    with pytest.raises(UserError, match="nothing but its own"):
        table().write(job.release / "t.npz")
    table().write(job.private / "t.npz")


ROWS: dict[str, dict[str, Any]] = {
    "fewer faces": {"face": [0]},
    "faces that are none": {"face": [0.5, 1.5, 2.5]},
    "negative faces": {"face": [-1, 0, 0]},
    "faces that no picture has": {"face": [2**63, 0, 0]},
    "inputs that are no list": {"input": "abc"},
    "inputs that are no names": {"input": [1, 2, 3]},
    "fewer rows": {"attribute_embedding": np.ones((2, 4), np.float32)},
    "no rows at all": {"attribute_embedding": np.float32(1)},
    "no numbers": {"attribute_embedding": np.ones((3, 4), bool)},
}


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
@pytest.mark.parametrize("wrong", ROWS.values(), ids=ROWS)
def test_rows_that_do_not_fit_together_are_one_line(tmp_path: Path, suffix: str, wrong: dict[str, Any]) -> None:
    from safetensors.numpy import save_file

    content: dict[str, Any] = {"input": ["a", "b", "c"], "face": [0, 0, 0], "attribute_embedding": np.ones((3, 4))}
    content |= wrong
    file = tmp_path / f"t{suffix}"
    if suffix == ".npz":
        np.savez(file, **{name: np.array(value) for name, value in content.items()})
    else:
        rows = {name: json.dumps(content.pop(name)) for name in ("input", "face")}
        save_file({name: np.array(value) for name, value in content.items()}, file, metadata=rows)
    with pytest.raises(UserError, match="cannot be read as a file of 'extract'"):
        Table.read(file)


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    zeros = np.zeros((1, 128 * 1024 * 1024), np.uint8)
    np.savez_compressed(tmp_path / "t.npz", input=np.array(["a"]), face=np.array([0]), attribute_embedding=zeros)
    with pytest.raises(UserError, match="bytes"):
        Table.read(tmp_path / "t.npz")
