"""The images of a folder, of a list of paths, and one alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from faceanon_engine.engine.datasets.folder import find_inputs, left_out
from faceanon_engine.engine.errors import InputError, UserError
from faceanon_engine.engine.images.decode import read_image


def test_inputs_are_found_sorted_and_below_the_root(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.JPG", "a/.hidden.png", ".git/x.png", "notes.txt", "a/b/c.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [str(f.relative) for f in find_inputs(tmp_path)] == ["b.png", "a/z.JPG", "a/b/c.webp"]
    assert [str(f.relative) for f in find_inputs(tmp_path / "b.png")] == ["b.png"]
    (tmp_path / "list.txt").write_text("# ours\nb.png\n\na/z.JPG\nb.png\n../outside.png\n/absolute/path.png\n")
    listed = [str(f.relative) for f in find_inputs(tmp_path / "list.txt")]
    assert listed == ["b.png", "a/z.JPG", "outside.png", "absolute/path.png"]
    with pytest.raises(UserError, match="does not exist"):
        list(find_inputs(tmp_path / "nothing"))


def test_lists_come_from_every_editor_and_every_name(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes("\ufefffirst.png\r\n\r\nth\u2028ird.png\r\nfou\x0crth.png".encode())
    listed = [str(file.relative) for file in find_inputs(tmp_path / "list.txt")]
    assert listed == ["first.png", "th\u2028ird.png", "fou\x0crth.png"]
    for content in ("a.png\n".encode("utf-16"), b"a\0.png\n"):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(UserError, match="not a text file"):
            list(find_inputs(tmp_path / "list.txt"))


def test_a_telephones_pictures_are_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    (sample,) = find_inputs(tmp_path)
    with pytest.raises(InputError, match="convert") as caught:
        read_image(sample.path)
    assert caught.value.reason == "not-an-image"


def test_files_of_one_name_get_keys_that_differ(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.png\n../a.png\n/elsewhere/../a.png\na~2.png\n")
    samples = list(find_inputs(tmp_path / "list.txt"))
    keys = [sample.key for sample in samples]
    assert keys == ["a.png", "a~2.png", "elsewhere/a.png", "a~2~2.png"]
    assert [str(sample.relative) for sample in samples] == keys
    assert samples[1].path == tmp_path / ".." / "a.png", "what is read stays what was listed"


def test_what_is_left_out_is_said_in_a_line_a_reason(tmp_path: Path) -> None:
    for name in ("a.png", "notes.txt", "more/other.csv", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert left_out(tmp_path) == (
        "left out, having no image's suffix: notes.txt and 1 more",
        "left out, being a link to a folder: loop",
    )
    assert left_out(tmp_path / "a.png") == ()


def test_a_line_that_names_only_folders_above_has_a_name_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("..\n/\n.\n")
    assert [sample.key for sample in find_inputs(tmp_path / "list.txt")] == ["folder", "folder~2", "folder~3"]


def test_a_line_that_is_no_path_on_any_system_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a" * 20_000)
    with pytest.raises(UserError, match="no list of paths") as raised:
        list(find_inputs(tmp_path / "list.txt"))
    assert len(str(raised.value)) < 200 + len(str(tmp_path))
