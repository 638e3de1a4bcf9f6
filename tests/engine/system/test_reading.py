"""Files of somebody else are read without waiting, and only as far as they may reach."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.reading import open_file, read_text


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf1234")
    with open_file(tmp_path / "a") as file:
        assert file.read() == b"\xef\xbb\xbf1234"
    (tmp_path / "link").symlink_to("a")
    assert read_text(tmp_path / "link", "list", 7) == "1234"
    with pytest.raises(UserError, match=f"list {tmp_path / 'a'} has more than 0 KiB"):
        read_text(tmp_path / "a", "list", 6)
    (tmp_path / "a").write_bytes(b"\xff")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_text(tmp_path / "a", "list", 6)


def test_nothing_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    for path in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="it is a"):
            open_file(path)
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "none")


def test_texts_of_windows_are_read(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "a").write_bytes("a: \u00e9\r\n".encode(encoding))
        assert read_text(tmp_path / "a", "list", 100) == "a: \u00e9\r\n"
    (tmp_path / "a").write_bytes("ab".encode("utf-16")[:-1])
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_text(tmp_path / "a", "list", 100)
