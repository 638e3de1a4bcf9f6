"""Faces through the worker, many at once, fewer when out of memory (backoff), one by one after a failure (retry)."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from faceanon_engine.engine.errors import InputError, UserError
from faceanon_engine.engine.images.pixels import Pixels
from faceanon_engine.engine.job.recording import PendingFace, Recorder
from faceanon_engine.engine.job.report import JobObserver
from faceanon_engine.engine.job.workers.worker import Worker
from faceanon_engine.engine.system.memory import is_out_of_memory

if TYPE_CHECKING:
    from faceanon_engine.engine.method.anonymized import AnonymizedBatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Trouble:
    """What is kept of an exception of the worker's: not itself, whose frames hold the batch's memory."""

    out_of_memory: bool
    text: str

    @classmethod
    def of(cls, error: Exception) -> _Trouble:
        logger.debug("the worker failed", exc_info=error)
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return cls(is_out_of_memory(error), text)


class Batches:
    """Sends faces through a loaded worker and hands results, and faces that fail alone, to the recorder."""

    def __init__(self, worker: Worker, recorder: Recorder, observer: JobObserver, steps: int) -> None:
        """steps: optimisation steps of an image, which the observer is told of."""
        self._worker = worker
        self._recorder = recorder
        self._observer = observer
        self._steps = steps
        self._begun: deque[PendingFace] = deque()
        """Faces that share steps with some that the worker has, and that it has not asked for yet."""

    def anonymize(self, faces: Iterator[Sequence[PendingFace]], size: int) -> None:
        """Anonymize faces as they come, those of one sequence sharing steps, at most `size` at once.

        Raises UserError when results cannot be written or recorded, and what the worker raises where it has no face.
        """
        left: int | None = size
        while left is not None:
            left = self._stream(faces, left)

    def _stream(self, faces: Iterator[Sequence[PendingFace]], size: int) -> int | None:
        """Anonymize faces as they come; None when all are done, or the size to go on with after a failure."""
        under_way: dict[int, PendingFace] = {}

        places = itertools.count()

        def groups() -> Iterator[Iterator[Pixels]]:
            if self._begun:
                yield originals()
            for group in faces:
                self._begun.extend(group)
                yield originals()

        def originals() -> Iterator[Pixels]:
            while self._begun:
                face = self._begun.popleft()
                under_way[next(places)] = face
                yield face.face.pixels

        def on_step(together: int, step: int) -> None:
            self._observer.batch(together, step, self._steps)
            self._recorder.record_written()

        results = self._worker.stream(groups(), size, on_step)
        while True:
            try:
                group = next(results, None)
            except (UserError, InputError):
                raise
            except Exception as error:
                if not under_way:
                    raise
                trouble = _Trouble.of(error)
            else:
                if group is None:
                    return None
                numbers, result = group
                self._recorder.write([under_way.pop(number) for number in numbers], result)
                continue
            # Out here the exception is gone, and with it what its frames held in memory.
            del results
            waiting = list(under_way.values())
            size = min(size, len(waiting))
            parts = self._smaller(trouble, waiting, size)
            if trouble.out_of_memory and parts:
                size = len(parts[0])
            for part in parts:
                size = min(size, self._retry(part))
            return size

    def _retry(self, faces: Sequence[PendingFace]) -> int:
        """Anonymize, write and record some faces after a failure; return the batch size to go on with."""
        size = len(faces)
        queue = deque([faces])
        while queue:
            part = queue.popleft()
            if all(face.is_done for face in part):
                continue
            if len(part) > size:
                queue.extendleft(reversed(_split(part, size)))
                continue
            try:
                result = self._together(part)
            except (UserError, InputError):
                raise
            except Exception as error:
                trouble = _Trouble.of(error)
            else:
                self._recorder.write(part, result)
                continue
            parts = self._smaller(trouble, part, len(part))
            if trouble.out_of_memory and parts:
                size = len(parts[0])
            queue.extendleft(reversed(parts))
        return size

    def _together(self, part: Sequence[PendingFace]) -> AnonymizedBatch:
        self._observer.batch(len(part), 0, self._steps)
        pixels = np.stack([face.face.pixels for face in part])
        return self._worker.anonymize(pixels, lambda step: self._observer.batch(len(part), step, self._steps))

    def _smaller(self, trouble: _Trouble, part: Sequence[PendingFace], size: int) -> list[Sequence[PendingFace]]:
        """Smaller parts to try instead of one that failed; a face that failed alone is recorded as failed."""
        self._worker.release_memory()
        if len(part) == 1:
            if trouble.out_of_memory:
                self._recorder.fail(part[0], "out-of-memory", "one image does not fit into memory")
            else:
                self._recorder.fail(part[0], "unexpected", trouble.text)
            return []
        if trouble.out_of_memory:
            smaller = max(1, size // 2)
            self._observer.note(f"out of memory with {size} images at once: going on with {smaller}")
            return _split(part, smaller)
        self._observer.note("a batch failed: its images are tried one by one")
        return _split(part, 1)


def _split(faces: Sequence[PendingFace], size: int) -> list[Sequence[PendingFace]]:
    return [faces[start : start + size] for start in range(0, len(faces), size)]
