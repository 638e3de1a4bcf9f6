"""From files to faces, prefetched by threads."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.align import SURE, faces_in
from faceanon_engine.engine.images.decode import memory_to_read, read_image
from faceanon_engine.engine.images.pixels import Pixels
from faceanon_engine.engine.system.budget import Budget
from faceanon_engine.engine.system.cores import usable_cores

if TYPE_CHECKING:
    from faceanon_engine.engine.images.detect import Detection

logger = logging.getLogger(__name__)

DOUBTFUL = 0.4
"""Lowest score of a face in a photograph that is given back: those of which the detector is not sure are redacted."""
MEMORY = 1_400_000_000
"""Bytes that pictures may take together while they are read; one that takes more is read alone."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Reader:
    """Decodes images and brings their faces to the size the networks take.

    Safe to use from several threads; pictures wait for each other where together they would take too much memory.
    """

    def __init__(
        self,
        align: str,
        resolution: int,
        min_face: float = 20,
        *,
        photos: bool = False,
        boxes: Mapping[str, npt.NDArray[np.floating[Any]]] | None = None,
        who: Callable[[Sequence[Pixels]], Sequence[str | None]] | None = None,
    ) -> None:
        """align "auto" or "never"; resolution in pixels; min_face: those of the smallest face that is looked for.

        photos: whether photographs are given back, in which every face counts. boxes: those of faces that are known,
        float [N, 4] by the key of their sample. who: of crops uint8 [S, S, 3], the names of people who stay as they
        are, None for the others. Raises UserError when the face detector or the face mesh cannot be opened.
        """
        self._photos = photos
        self._boxes = boxes
        self._who = who
        self._align = align
        self.resolution = resolution
        self._detector: Any = None
        self.mesh: Any = None
        self._memory = Budget(MEMORY)
        if align != "never":
            from faceanon_engine.engine.images.detect import FaceDetector
            from faceanon_engine.engine.images.mesh import FaceMesh

            self._detector = FaceDetector(threshold=DOUBTFUL if photos else SURE, min_face=min_face)
            self.mesh = FaceMesh()

    def room_for(self, path: Path, times: float = 1.0) -> AbstractContextManager[None]:
        """Waits, at the begin of a block, until there is memory to read that picture, or so many times as much."""
        return self._memory.taken(round(memory_to_read(path) * times))

    def faces_of(self, pixels: Pixels) -> list[Detection]:
        """Faces of a picture uint8 [H, W, 3] of which the detector is sure."""
        return [face for face in self._detector.detect(pixels) if face.score >= SURE]

    def read(self, sample: Sample) -> Sample:
        """The sample with its faces, uint8 [S, S, 3] each, and those that were found and have no crop.

        With align "never" its frames have neither box nor landmarks. Raises InputError with the reason for what is no
        picture, and, where no photographs are given back, for one without a face that can be cropped.
        """
        try:
            with self.room_for(sample.path):
                return self._read(sample)
        except InputError:
            raise
        except MemoryError:
            raise InputError("out-of-memory", "the image does not fit into memory") from None
        except Exception as error:
            # Whatever a decoder makes of a hostile file, the job goes on.
            logger.debug("%s", sample.path, exc_info=True)
            raise InputError("unexpected", f"{type(error).__name__}: {error}") from error

    def _read(self, sample: Sample) -> Sample:
        boxes = None if self._boxes is None else self._boxes.get(sample.key, np.zeros((0, 4)))
        decoded = read_image(sample.path)
        found = faces_in(
            decoded, self._align, self.resolution, self._detector, self.mesh, photo=self._photos, boxes=boxes
        )
        names = self._who([face.pixels for face in found.faces]) if self._who is not None else ()
        return replace(
            sample,
            faces=tuple(found.faces),
            kept={number: name for number, name in enumerate(names) if name is not None},
            unhandled=tuple(found.unhandled),
            pictures=decoded.pictures,
            boxes=None if boxes is None else len(boxes),
            boxes_found=found.boxes_found,
        )


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
