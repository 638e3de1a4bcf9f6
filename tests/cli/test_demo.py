"""`faceanon-engine demo render` writes the same files for the same options, and never among others' files."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from faceanon_engine.cli.demo import demo
from faceanon_engine.engine.errors import UserError

OPTIONS = ["render", "--people", "2", "--per-person", "2", "--size", "16"]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_options_write_the_same_files(tmp_path: Path) -> None:
    for name, more in (("a", []), ("b", ["--processes", "2"]), ("c", ["--seed", "7"])):
        result = CliRunner().invoke(demo, [*OPTIONS, *more, str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        assert "4 pictures of 2 people" in result.output
    first = files(tmp_path / "a")
    assert sorted(first) == ["000000-00.png", "000000-01.png", "000001-00.png", "000001-01.png", "labels.parquet"]
    assert files(tmp_path / "b") == first
    assert files(tmp_path / "c")["000000-00.png"] != first["000000-00.png"]


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        demo.main([*OPTIONS, str(tmp_path)], standalone_mode=False)
    assert list(files(tmp_path)) == ["mine.txt"]


def test_nothing_is_drawn_among_the_results_of_a_job(tmp_path: Path) -> None:
    (tmp_path / "job" / "private").mkdir(parents=True)
    (tmp_path / "job" / "private" / "manifest.sqlite").touch()
    with pytest.raises(UserError, match="nothing but its own"):
        demo.main([*OPTIONS, str(tmp_path / "job" / "release" / "drawn")], standalone_mode=False)
    assert not (tmp_path / "job" / "release").exists()


@pytest.mark.parametrize("wrong", [["--people", "0"], ["--size", "3"], ["--seed", "-1"], ["--per-person", "many"]])
def test_impossible_options_are_refused(wrong: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(demo, ["render", *wrong, str(tmp_path / "out")])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()
