"""Files that somebody else wrote, opened without waiting for anybody and read without filling the memory."""

from __future__ import annotations

import codecs
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from faceanon_engine.engine.errors import UserError


class NoFileError(OSError):
    """What is there is a folder, a pipe or a device; `strerror` says which."""


def open_file(path: Path) -> BinaryIO:
    """The file to read; raises OSError where it cannot be opened, NoFileError for a folder, a pipe and a device.

    Opening a pipe waits until somebody writes into it, reading a device may never end.
    """
    # Looked at before as well: merely opening a device may set it going.
    _refuse_others(os.stat(path))
    file = open(path, "rb", opener=_opener)  # noqa: SIM115
    try:
        _refuse_others(os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    return file


def read_text(path: Path, what: str, most: int) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark, which is left out.

    `what` names its kind in messages. Raises UserError, naming the file, where it cannot be read, has more than `most`
    bytes, or is no text.
    """
    try:
        with open_file(path) as file:
            content = file.read(most + 1)
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror or error}") from None
    if len(content) > most:
        raise UserError(f"{what} {path} has more than {most // 1024} KiB: it is something else")
    try:
        return content.decode(encoding_of(content[:2]))
    except UnicodeDecodeError:
        raise UserError(f"{what} {path} cannot be read: it is not UTF-8 text") from None


def encoding_of(beginning: bytes) -> str:
    """The encoding of a text that begins with these two bytes: UTF-16, as some programs on Windows write, or UTF-8."""
    return "utf-16" if beginning in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def read_record(path: Path, most: int = 16 << 20) -> dict[str, Any]:
    """The JSON object in a file that a program wrote; raises OSError, and ValueError where it is none.

    It is bounded, as somebody else may have written it: `most` bytes, and no deeper than Python reads.
    """
    with open_file(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most >> 20} MiB")
    try:
        record = json.loads(content.decode("utf-8"), parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("no text") from None
    if not isinstance(record, dict):
        raise ValueError("no record")
    return record


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refuse_others(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise NoFileError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise NoFileError(errno.EINVAL, "it is a pipe or a device, not a file")
