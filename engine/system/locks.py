"""One process at a time, by a lock file that the system releases when its process is killed.

The file goes when its lock is given up: it is deleted by whoever holds it, and who gets the lock of a file that was
deleted meanwhile starts over with the one that is there (filelock sees to that). Windows deletes no open file: there it
stays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from faceanon_engine.engine.errors import UserError

logger = logging.getLogger(__name__)


@contextmanager
def locked(
    path: Path,
    *,
    refusal: str | None = None,
    waiting: str | None = None,
    patience: float = 0.0,
    remove: bool = True,
    private: bool = False,
) -> Iterator[None]:
    """Hold the lock file; whoever comes second waits, after logging `waiting`, or gets `refusal` as a UserError.

    patience: seconds to wait before the refusal. remove: the file is deleted at the end, whatever the end. private: a
    new file is made 0600. Raises OSError where the file cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, mode=0o600) if private else FileLock(path)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        if refusal is not None:
            raise UserError(refusal) from None
        if waiting is not None:
            logger.warning("%s", waiting)
        lock.acquire()
    try:
        ours = _file_at(path)
        yield
    finally:
        if remove and ours is not None and _file_at(path) == ours:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        lock.release()


def _file_at(path: Path) -> tuple[int, int] | None:
    """Which file lies there; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
