"""One process at a time, by a lock file that the system releases when its process is killed."""

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
    remove: bool = False,
    private: bool = False,
) -> Iterator[None]:
    """Hold the lock file; whoever comes second waits, after logging `waiting`, or gets `refusal` as a UserError.

    patience: seconds to wait before the refusal. remove: the file is deleted at the end. private: a new file is made
    0600. Raises OSError where the file cannot be made.
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
        yield
    finally:
        if remove:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        lock.release()
