"""Files below a folder are written and deleted there, and nowhere to which a link leads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system import below
from faceanon_engine.engine.system.below import first_link, is_file_below, remove_below, write_below


@pytest.fixture(params=[True, False], ids=["relative", "by path"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with staging beside it, on systems that hold folders open and on those that do not."""
    monkeypatch.setattr(below, "_RELATIVE", request.param and below._RELATIVE)
    for name in ("root", "staging", "elsewhere"):
        (tmp_path / name).mkdir()
    return tmp_path / "root"


def test_a_file_is_written_whole_with_its_folders(root: Path) -> None:
    staging = root.with_name("staging")
    for content in (b"first", b"second"):
        write_below(root, "a/b/c.png", content, staging)
        assert (root / "a/b/c.png").read_bytes() == content
    assert is_file_below(root, "a/b/c.png")
    remove_below(root, "a/b/c.png")
    remove_below(root, "a/b/c.png")
    remove_below(root, "x/y.png")
    assert not is_file_below(root, "a/b/c.png")
    assert list(staging.iterdir()) == []


def test_what_is_private_is_for_nobody_else_whatever_the_umask(root: Path) -> None:
    before = os.umask(0)
    try:
        write_below(root, "a/b/c.npy", b"code", root, private=True)
    finally:
        os.umask(before)
    modes = [(root / name).stat().st_mode & 0o777 for name in ("a/b/c.npy", *(["a/b", "a"] if below._RELATIVE else []))]
    assert modes == [0o600, 0o700, 0o700][: len(modes)]


@pytest.mark.parametrize("name", ["out/victim.png", "deep/out/victim.png", "out/deeper/victim.png"])
def test_nothing_is_written_or_deleted_through_a_link(root: Path, name: str) -> None:
    elsewhere = root.with_name("elsewhere")
    (elsewhere / "deeper").mkdir()
    for place in ("victim.png", "deeper/victim.png"):
        (elsewhere / place).write_text("precious")
    (root / "deep").mkdir()
    for link in (root / "out", root / "deep" / "out"):
        link.symlink_to(elsewhere)
    assert first_link(root, name) == root / name[: name.index("out") + 3]
    for act in (lambda: write_below(root, name, b"mine", root.with_name("staging")), lambda: remove_below(root, name)):
        with pytest.raises(UserError, match="symbolic link"):
            act()
    assert {path.read_text() for path in elsewhere.rglob("*.png")} == {"precious"}
    assert list(root.with_name("staging").iterdir()) == []


def test_a_link_in_a_files_place_goes_and_what_it_leads_to_stays(root: Path) -> None:
    victim = root.with_name("elsewhere") / "victim.png"
    victim.write_text("precious")
    (root / "a.png").symlink_to(victim)
    assert not is_file_below(root, "a.png")
    remove_below(root, "a.png")
    (root / "a.png").symlink_to(victim)
    write_below(root, "a.png", b"mine", root.with_name("staging"))
    assert (victim.read_text(), (root / "a.png").read_text(), (root / "a.png").is_symlink()) == (
        "precious",
        "mine",
        False,
    )
