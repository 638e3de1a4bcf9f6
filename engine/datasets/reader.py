"""From files to faces, prefetched by threads."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.align import faces_in
from faceanon_engine.engine.images.decode import memory_to_read, read_image
from faceanon_engine.engine.system.budget import Budget
from faceanon_engine.engine.system.cores import usable_cores

logger = logging.getLogger(__name__)

MEMORY = 1_400_000_000
"""Bytes that pictures may take together while they are read; one that takes more is read alone."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Reader:
    """Decodes images and brings their faces to the size the networks take.

    Safe to use from several threads; pictures wait for each other where together they would take too much memory.
    """

    def __init__(self, align: str, resolution: int, min_face: float = 20) -> None:
        """align "auto" or "never"; resolution in pixels; min_face: those of the smallest face that is looked for.

        Raises UserError when the face detector or the face mesh cannot be opened.
        """
        self._align = align
        self._resolution = resolution
        self._detector: Any = None
        self._mesh: Any = None
        self._memory = Budget(MEMORY)
        if align != "never":
            from faceanon_engine.engine.images.detect import FaceDetector
            from faceanon_engine.engine.images.mesh import FaceMesh

            self._detector = FaceDetector(min_face=min_face)
            self._mesh = FaceMesh()

    def read(self, sample: Sample) -> Sample:
        """The sample with its faces, uint8 [S, S, 3] each, at least one; raises InputError with the reason otherwise.

        With align "never" its frames have neither box nor landmarks.
        """
        try:
            with self._memory.taken(memory_to_read(sample.path)):
                read = self._read(sample)
        except InputError:
            raise
        except MemoryError:
            raise InputError("out-of-memory", "the image does not fit into memory") from None
        except Exception as error:
            # Whatever a decoder makes of a hostile file, the job goes on.
            logger.debug("%s", sample.path, exc_info=True)
            raise InputError("unexpected", f"{type(error).__name__}: {error}") from error
        if not read.faces:
            raise InputError("no-face", "no face was found")
        return read

    def _read(self, sample: Sample) -> Sample:
        decoded = read_image(sample.path)
        faces = faces_in(decoded, self._align, self._resolution, self._detector, self._mesh)
        return replace(sample, faces=tuple(faces), pictures=decoded.pictures)


def prefetch(
    executor: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Each item with the future of its result, in order, at most `count` of them begun ahead of whoever asks."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, executor.submit(work, item)))
        if len(waiting) >= count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """A few threads for files; what was not begun is dropped at the end, what was begun is finished."""
    executor = ThreadPoolExecutor(thread_count(), thread_name_prefix="faceanon")
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def thread_count() -> int:
    """How many files are worked on at once."""
    return max(1, min(16, usable_cores()))
