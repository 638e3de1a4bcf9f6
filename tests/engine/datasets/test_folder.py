"""The images of a folder, of a list of paths, and one alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    for content in ("a.png\n".encode("utf-16-le"), "a.png".encode("utf-16")[:-1], b"a\0.png\n"):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(UserError, match="not a text file"):
            list(find_inputs(tmp_path / "list.txt"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_windows_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x").mkdir()
    for name in ("x/a.png", "x/\u00e9.png", "two words.png", "it's.png", '"so".png', "back\\slash.png"):
        (tmp_path / name).touch()
    lines = ["x\\a.png", ".\\x\\\u00e9.png", '"two words.png"', "it's.png", '"so".png', "back\\slash.png"]
    lines += ["'x\\a.png'", "..\\none.png", '"', "''"]
    (tmp_path / "list.txt").write_bytes("\r\n".join(lines).encode(encoding))
    samples = list(find_inputs(tmp_path / "list.txt"))
    assert [str(each.relative) for each in samples] == [
        "x/a.png", "x/\u00e9.png", "two words.png", "it's.png", '"so".png', "back\\slash.png", "none.png", '"', "''",
    ]  # fmt: skip
    assert all(each.path.exists() for each in samples[:6])


@pytest.mark.skipif(os.name == "nt", reason="Windows knows its drives")
@pytest.mark.parametrize("name", ["C:\\me\\a.png", '"D:\\a.png"', "c:/me/a.png", "\\\\server\\photos\\a.png"])
def test_a_drive_is_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "list.txt").write_text(f"b.png\n{name}\n")
    with pytest.raises(
        UserError, match=r"line 2, .* is on a drive of Windows.*: give paths relative to the list"
    ) as caught:
        list(find_inputs(tmp_path / "list.txt"))
    assert "\n" not in str(caught.value)
    (tmp_path / "c:" / "me").mkdir(parents=True)
    (tmp_path / "c:" / "me" / "a.png").touch()
    (tmp_path / "list.txt").write_text("c:/me/a.png")
    assert [each.key for each in find_inputs(tmp_path / "list.txt")] == ["c:/me/a.png"]


def test_a_video_is_called_one(tmp_path: Path) -> None:
    for name in ("a.MP4", "b.mov", "c.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [each.key for each in find_inputs(tmp_path)] == ["c.png"]
    videos, others = left_out(tmp_path)
    assert videos.startswith("left out, being videos (extract frames first, for example with ffmpeg -i VIDEO ")
    assert videos.endswith(": a.MP4 and 1 more")
    assert others == "left out, having no image's suffix: notes.txt"
    with pytest.raises(UserError, match=r"a.MP4 is a video: extract frames first, .*ffmpeg -i"):
        list(find_inputs(tmp_path / "a.MP4"))


def test_a_telephones_pictures_are_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    (sample,) = find_inputs(tmp_path)
    with pytest.raises(InputError, match=r"convert it to JPEG|copy it again"):
        read_image(sample.path)


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


def test_a_list_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    for name in ("zeros.txt", "late.txt"):
        with open(tmp_path / name, "wb") as file:
            file.write(b"a.png\n" * (name == "late.txt"))
            file.truncate(2**40)
    (tmp_path / "line.txt").write_text("x" * 10**6)
    (tmp_path / "here.txt").write_text("a.png\n.\n")
    (tmp_path / "root.txt").write_text("//\n")
    for name, expected in {
        "pipe": "it is a pipe or a device",
        "device": "it is a pipe or a device",
        "zeros": "holds zero bytes",
        "late": "holds zero bytes",
        "line": "longer than any path",
        "here": "line 2, '.', is a folder",
        "root": "line 1, '//', is a folder",
    }.items():
        with pytest.raises(UserError, match=expected):
            list(find_inputs(tmp_path / f"{name}.txt"))


def test_many_files_of_one_name_take_no_time(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{'../' * number}a.png\n" for number in range(1, 1200)))
    keys = [sample.key for sample in find_inputs(tmp_path / "list.txt")]
    assert keys[:2] + keys[-1:] == ["a.png", "a~2.png", "a~1199.png"]


def test_a_folder_is_searched_to_any_depth(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    depth = 1100  # deeper than Python calls itself, and no longer than a path may be
    for _ in range(depth):
        os.mkdir("a", dir_fd=here)
        below = os.open("a", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("a.png", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    (sample,) = find_inputs(tmp_path)
    assert sample.key == "a/" * depth + "a.png"
    assert left_out(tmp_path) == ()
    # pytest cannot delete what is so deep.
    for level in range(depth, 0, -1):
        folder = tmp_path / ("a/" * level)
        if level == depth:
            (folder / "a.png").unlink()
        folder.rmdir()


def test_names_of_every_kind_are_found_and_told_apart(tmp_path: Path) -> None:
    names = [
        b"\xff.png",
        b"\\xff.png",
        b"two\nlines.png",
        b"\x1b[31m.png",
        b" .png",
        "\u202egnp.png".encode(),
        b"~2.png",
    ]
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
            pass
    (tmp_path / "round.png").symlink_to("round.png")
    (tmp_path / "nowhere.png").symlink_to("nothing")
    (tmp_path / "up").symlink_to("..")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    samples = list(find_inputs(tmp_path))
    assert len({sample.key for sample in samples}) == len(samples) == len(names) + 3
    for sample in samples:
        sample.key.encode()
        with pytest.raises(InputError):
            read_image(sample.path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary()
    | st.lists(st.text() | st.sampled_from([".", "..", "/", "//", "a/..", "~", "a.png", "../a.png", "a~2.png", "#"]))
    .map("\n".join)
    .map(lambda text: text.encode("utf-8", "replace"))
)
def test_any_bytes_are_a_list_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    try:
        samples = list(find_inputs(tmp_path / "list.txt"))
    except UserError:
        return
    assert len({sample.key for sample in samples}) == len(samples)
    for sample in samples:
        assert not sample.relative.is_absolute()
        assert ".." not in sample.relative.parts
        with pytest.raises(InputError):
            read_image(sample.path)
