"""Atomic writes: files and folders appear under their names whole or not at all, whenever the process is killed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from faceanon_engine.engine.errors import UserError

_TEMPORARY_PREFIX = ".faceanon-tmp-"
TEMPORARY_PATTERN = _TEMPORARY_PREFIX + "*"
"""The names that a killed process may leave behind."""


@contextmanager
def atomic_file(path: Path, *, private: bool = False) -> Iterator[Path]:
    """A new empty file beside `path` to write to; it takes the name when the block ends, and stays after a power cut.

    When the block raises, it is deleted and what was at `path` stays. private: nobody else may read it, 0600, whatever
    the process's umask. Raises OSError.
    """
    with new_temporary(path.parent) as temporary:
        yield temporary
        finish(temporary, private=private)
        os.replace(temporary, path)
    flush_folder(path.parent)


@contextmanager
def new_temporary(folder: Path) -> Iterator[Path]:
    """A new empty file in a folder, 0600, to fill, to `finish` and to rename; deleted when the block raises."""
    descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY_PREFIX, dir=folder)
    try:
        os.close(descriptor)
        yield Path(name)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def finish(temporary: Path, *, private: bool) -> None:
    """Put a temporary file's content on the disk and give it the rights it is to keep: 0600, or the usual ones."""
    _flush(temporary, os.O_RDWR)
    os.chmod(temporary, 0o600 if private else 0o666 & ~_UMASK)


def flush_folder(folder: Path) -> None:
    """Put on the disk that a file was renamed into the folder."""
    with suppress(OSError):  # not every file system, and no Windows, flushes a folder; the file is there already
        _flush(folder, os.O_RDONLY)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new empty folder beside `path` to fill; it takes the place of what is at `path` when the block ends.

    When the block raises, it is deleted and what was at `path` stays. Folders above are made. Raises OSError.

    No system renames a folder over a full one, so there are two renames. A process that is killed outright between
    them, which can restore nothing, leaves nothing at `path`, and both folders whole beside it under hidden names:
    what was there as `.NAME-*/old`, the new one as `.NAME-*`.
    """
    with staging_folder(path) as temporary:
        yield temporary
        temporary.chmod(0o755)
        _replace_folder(temporary, path)


@contextmanager
def staging_folder(path: Path) -> Iterator[Path]:
    """A new empty hidden folder beside `path`, on its file system, so that what is ready can be renamed into place.

    It is deleted with all that is left in it when the block ends. Folders above are made. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(new: Path, path: Path) -> None:
    if not path.exists():
        os.replace(new, path)
        return
    with staging_folder(path) as aside:
        old = aside / "old"
        try:
            os.replace(path, old)
            os.replace(new, path)
        except BaseException:  # Ctrl-C, too, which may come between the two or just after one of them
            if os.path.lexists(old) and not os.path.lexists(path):
                os.replace(old, path)
            raise


def write_atomic(path: Path, data: bytes | memoryview, *, private: bool = False) -> None:
    """Write a file as `atomic_file` says; raises OSError."""
    with atomic_file(path, private=private) as temporary:
        temporary.write_bytes(data)


def write_result(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file that the person asked for, with the folders to it; raises UserError naming it and the remedy.

    private: as for `atomic_file`.
    """
    with failures_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data, private=private)


def refuse_unwritable(path: Path, option: str) -> None:
    """Raises UserError, naming the option that gave the file, when it could not be written.

    For before the work whose result it is to hold.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give {option} the name of a file")
    if not path.absolute().parent.is_dir():
        raise UserError(f"the folder of {path} does not exist: make it first, or give another {option}")
    try:
        with tempfile.TemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): give another {option}") from None


@contextmanager
def failures_explained(path: Path, remedy: str | None = None) -> Iterator[None]:
    """Turn an OSError of writing `path` into a UserError that names it and the remedy; None chooses it by the error."""
    try:
        yield
    except OSError as error:
        if remedy is None:
            first = "free space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the folder's rights"
            remedy = f"{first}, then run the same command again"
        raise UserError(f"{path} cannot be written ({error.strerror or error}): {remedy}") from None


def _flush(path: str | Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Read once: reading means setting it for a moment, which other threads would see.
_UMASK = _read_umask()
