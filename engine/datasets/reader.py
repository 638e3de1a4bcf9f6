"""From files to faces, a little ahead of whoever uses them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.datasets.folder import InputFile
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.decode import is_large, read_image
from faceanon_engine.engine.system.cores import usable_cores

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Reader:
    """Decodes images and brings their faces to the size the networks take.

    Safe to use from several threads; large pictures wait for each other, as together they may not fit into memory.
    """

    def __init__(self, align: str, resolution: int) -> None:
        """align "auto" or "never"; resolution in pixels. Raises UserError when the face detector cannot be opened."""
        self._align = align
        self._resolution = resolution
        self._detector: Any = None
        self._one_large = Lock()
        if align != "never":
            from faceanon_engine.engine.images.detect import FaceDetector

            self._detector = FaceDetector()

    def faces_of(self, file: InputFile) -> list[npt.NDArray[np.uint8]]:
        """The faces of an input, each uint8 [S, S, 3], at least one; raises InputError with the reason otherwise."""
        from faceanon_engine.engine.images.align import prepare

        try:
            with self._one_large if is_large(file.path) else nullcontext():
                faces = prepare(read_image(file.path), self._align, self._resolution, self._detector)
        except InputError:
            raise
        except MemoryError:
            raise InputError("out-of-memory", "the image does not fit into memory") from None
        except Exception as error:
            # Whatever a decoder makes of a hostile file, the job goes on.
            logger.debug("%s", file.path, exc_info=True)
            raise InputError("unexpected", f"{type(error).__name__}: {error}") from error
        if not faces:
            raise InputError("no-face", "no face was found")
        return [face.pixels for face in faces]


def ahead(
    executor: ThreadPoolExecutor, work: Callable[[InputFile], Result], files: Iterable[InputFile], count: int
) -> Iterator[tuple[InputFile, Future[Result]]]:
    """Each file with the future of its result, in order, never more than `count` begun before they are asked for."""
    waiting: deque[tuple[InputFile, Future[Result]]] = deque()
    for file in files:
        waiting.append((file, executor.submit(work, file)))
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
