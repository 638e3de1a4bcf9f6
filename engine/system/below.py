"""Files below a folder whose content may be somebody else's: no symbolic link on the way to them is followed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.files import failures_explained, finish, flush_folder, new_temporary

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_DIRECTORY", 0)
_RELATIVE = os.open in os.supports_dir_fd and bool(_NO_LINKS)
"""Whether the system opens files relative to a folder that is held open; Windows does not."""


def first_link(root: Path, name: str) -> Path | None:
    """The first symbolic link below the root on the way to a file, the file itself included; None where there is none.

    name: relative to the root, with forward slashes.
    """
    place = root
    for part in PurePosixPath(name).parts:
        place = place / part
        if os.path.islink(place):
            return place
    return None


def is_file_below(root: Path, name: str) -> bool:
    """Whether there is a regular file, which a link at its place is not; links to its folder are followed."""
    try:
        return stat.S_ISREG(os.lstat(root / name).st_mode)
    except OSError:
        return False


def write_below(root: Path, name: str, data: bytes, staging: Path, *, private: bool = False) -> None:
    """Write a file atomically, with the folders to it; half-written it lies in the folder `staging`.

    private: the file gets 0600 and new folders 0700. Raises UserError naming the file and the remedy.
    """
    path = root / name
    with failures_explained(path), _explained(root, name):
        with new_temporary(staging) as temporary:
            temporary.write_bytes(data)
            finish(temporary, private=private)
            with _folder_of(root, name, 0o700 if private else 0o777) as folder:
                if folder is None:
                    os.replace(temporary, path)
                else:
                    os.replace(temporary, path.name, dst_dir_fd=folder)
        flush_folder(path.parent)


def remove_below(root: Path, name: str) -> None:
    """Delete a file, or a link at its place, where there is one; raises UserError when it cannot be deleted."""
    path = root / name
    try:
        with _explained(root, name), _folder_of(root, name) as folder:
            if folder is None:
                path.unlink()
            else:
                os.unlink(path.name, dir_fd=folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{path} cannot be removed ({error.strerror or error}): check the folder's rights") from None


@contextmanager
def _folder_of(root: Path, name: str, make: int | None = None) -> Iterator[int | None]:
    """The folder in which the file lies, held open; None where the system cannot. Raises OSError at a link.

    make: the mode of folders that are made where there are none; None makes none.
    """
    parts = PurePosixPath(name).parent.parts
    if not _RELATIVE:
        if (link := first_link(root, str(PurePosixPath(name).parent))) is not None:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(link))
        if make is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
        yield None
        return
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts:
            deeper = _open_folder(part, descriptor, make)
            os.close(descriptor)
            descriptor = deeper
        yield descriptor
    finally:
        os.close(descriptor)


def _open_folder(name: str, inside: int, make: int | None) -> int:
    try:
        return os.open(name, os.O_RDONLY | _NO_LINKS, dir_fd=inside)
    except FileNotFoundError:
        if make is None:
            raise
    with suppress(FileExistsError):  # another thread made it
        os.mkdir(name, make, dir_fd=inside)
    return os.open(name, os.O_RDONLY | _NO_LINKS, dir_fd=inside)


@contextmanager
def _explained(root: Path, name: str) -> Iterator[None]:
    """Say that a link is in the way where one is: the system calls it a circle, or no folder."""
    try:
        yield
    except OSError as error:
        link = first_link(root, str(PurePosixPath(name).parent))
        if link is None or error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise UserError(f"{link} is a symbolic link, by which results would leave {root}: move it away") from None
