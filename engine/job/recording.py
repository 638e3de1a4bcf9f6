"""From results to files and rows: encoded and written by threads, atomically, and recorded once they are there."""

from __future__ import annotations

import io
import logging
import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError, Reason, UserError
from faceanon_engine.engine.images.align import Face
from faceanon_engine.engine.images.encode import encode_image
from faceanon_engine.engine.job.layout import codes_name, face_codes_name, kept_private, released
from faceanon_engine.engine.job.manifest import ItemRow, Manifest
from faceanon_engine.engine.job.photos import Photos, Settled
from faceanon_engine.engine.job.report import JobObserver
from faceanon_engine.engine.job.rows import failed_row, frame_text, has_name, now
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.system.below import write_below

if TYPE_CHECKING:
    from faceanon_engine.engine.method.anonymized import AnonymizedBatch

logger = logging.getLogger(__name__)

MOST_UNWRITTEN = 64
"""Results that may wait for a thread to encode and write them."""


@dataclass(frozen=True, eq=False)
class PendingFace:
    """A face on its way: the sample it belongs to, which was read, and the row that its result will have."""

    sample: Sample
    face: Face
    row: ItemRow
    is_done: bool = False
    """Whether there is a result, which stays: the face is here for the sake of those with which it shares steps."""


@dataclass
class _Input:
    """An input of which faces were to be done."""

    sample: Sample
    """Without its faces, which would keep the memory."""
    rows: list[ItemRow]
    waiting: int
    """Faces that are neither done nor failed yet."""
    spoiled: bool
    """Whether something of it failed."""


class Recorder:
    """Writes results and records them, in the order in which they finished; tells the observer of finished inputs."""

    def __init__(
        self,
        settings: JobSettings,
        bundle: str,
        manifest: Manifest,
        observer: JobObserver,
        executor: ThreadPoolExecutor,
        photos: Photos | None = None,
    ) -> None:
        """bundle: its digest, which goes into the rows. The executor's threads encode and write.

        photos: gives back photographs whose faces are all settled; None where the faces are the results.
        """
        self._photos = photos
        self._given: deque[tuple[str, Future[Settled]]] = deque()
        """Photographs that are being given back."""
        self._stopping = False
        self._settings = settings
        self._bundle = bundle
        self._manifest = manifest
        self._observer = observer
        self._executor = executor
        self._inputs: dict[str, _Input] = {}
        self._written: deque[list[tuple[ItemRow, Future[None] | None]]] = deque()
        """Results whose files are being written, in the order in which they finished; None where there is no file."""

    # -- inputs ------------------------------------------------------------------------------------------------

    def photo_name(self, key: str) -> str | None:
        """The name of a photograph that is given back, None where the faces are the results.

        Raises InputError where it can have none.
        """
        return None if self._photos is None else self._photos.name(key)

    def plan(self, sample: Sample, rows: Sequence[ItemRow]) -> None:
        """Record that an input has these rows, before anything of it is written."""
        about = {"boxes": sample.boxes, "boxes_found": sample.boxes_found}
        about["pictures"] = sample.pictures if sample.pictures > 1 else None
        self._manifest.plan_faces(sample.key, rows, about)

    def begin(self, sample: Sample, rows: Sequence[ItemRow], waiting: int) -> None:
        """So many faces of an input will come; the others are done, or nothing can be done with them."""
        spoiled = any(row.state == "failed" and not has_name(row) for row in rows)
        about = _Input(replace(sample, faces=(), unhandled=()), list(rows), waiting, spoiled)
        if waiting:
            self._inputs[sample.key] = about
        else:
            self._finish(about)

    def fail_input(self, key: str, rows: Sequence[ItemRow], error: InputError) -> None:
        """Record that an input cannot be used; its rows say why."""
        logger.info("%s: %s: %s", key, error.reason, error.message)
        self._manifest.plan_faces(key, rows)
        if self._photos is not None:
            self._manifest.settle_photo(key, "failed", error.reason, error.message)
        self._observer.input_finished(key, failed=True)

    def _finish(self, about: _Input) -> None:
        """Every face of an input is settled: where it is to be given back, a thread does that."""
        if self._photos is None:
            self._observer.input_finished(about.sample.key, about.spoiled)
        elif not self._stopping:  # else the next run does it
            future = self._executor.submit(self._photos.give_back, about.sample, about.rows)
            self._given.append((about.sample.key, future))

    # -- faces -------------------------------------------------------------------------------------------------

    def fail(self, face: PendingFace, reason: Reason, message: str) -> None:
        """Record that a face could not be anonymized, which it need not be where it is done."""
        if face.is_done:
            return
        logger.info("%s: %s: %s", face.sample.key, reason, message)
        self._record([self._failed(face, reason, message)])

    def write(self, faces: Sequence[PendingFace], result: AnonymizedBatch) -> None:
        """Let threads give the results of faces, in their order, their final names; they are recorded afterwards.

        Faces that are done already are passed over.
        Raises UserError when an earlier result could not be written or recorded.
        """
        finished: list[tuple[ItemRow, Future[None] | None]] = []
        for number, face in enumerate(faces):
            if face.is_done:
                continue
            if not result.finite[number]:
                finished.append((self._failed(face, "not-finite", "the optimisation left the range of numbers"), None))
                continue
            row = self._done(face, result, number)
            finished.append((row, self._executor.submit(self._write_files, row, result, number)))
        self._written.append(finished)
        self.record_written()

    def record_written(self, *, wait: bool = False) -> None:
        """Record results whose files are there, in their order; wait for all when asked, and when many are left.

        Raises UserError when one could not be written or recorded.
        """
        self._record_given(wait=False)
        while self._written:
            writes = [write for _, write in self._written[0] if write is not None]
            # What waits to be written is held in memory.
            many = sum(map(len, self._written)) > MOST_UNWRITTEN and len(self._written) > 1
            if not (wait or many) and not all(write.done() for write in writes):
                return
            for write in writes:
                write.result()
            self._record([row for row, _ in self._written[0]])
            self._written.popleft()
        self._record_given(wait=wait)

    def _record_given(self, *, wait: bool) -> None:
        """Record what became of photographs; wait for all when asked."""
        for key, future in list(self._given):
            if not (wait or future.done()):
                continue
            settled = future.result()
            self._manifest.settle_photo(key, settled.state, settled.reason, settled.message)
            self._given.remove((key, future))
            self._observer.input_finished(key, failed=settled.state != "done")

    def stop(self) -> None:
        """Finish the writes that have begun and record the results whose files lie there: they are not made again.

        Those that could not be written, and those that were not begun, stay pending. What the job stops for matters
        more than a manifest that cannot be written either.
        """
        self._stopping = True
        self._executor.shutdown(wait=True, cancel_futures=True)
        rows = [
            row
            for finished in self._written
            for row, write in finished
            # Stopped between recording a result and forgetting that it waits, its input may be finished already.
            if row.input in self._inputs and (write is None or not (write.cancelled() or write.exception()))
        ]
        self._written.clear()
        try:
            self._record(rows)
            for key, future in self._given:
                if not future.cancelled() and not future.exception():
                    settled = future.result()
                    self._manifest.settle_photo(key, settled.state, settled.reason, settled.message)
        except UserError as error:
            logger.debug("%d results are written and not recorded: %s", len(rows), error)

    def _done(self, face: PendingFace, result: AnonymizedBatch, number: int) -> ItemRow:
        planned = face.row
        codes = codes_name(str(planned.output)) if planned.crop is None else face_codes_name(planned.crop)
        return ItemRow(
            input=planned.input,
            face=planned.face,
            state="done",
            output=planned.output,
            crop=planned.crop,
            codes=codes if self._settings.save_codes else None,
            frame=frame_text(face.face.frame),
            neighbour_id=int(result.neighbour_id[number]),
            neighbour_distance=_finite(result.neighbour_distance[number]),
            identity_before=_finite(result.identity_before[number]),
            identity_after=_finite(result.identity_after[number]),
            attribute_before=_finite(result.attribute_before[number]),
            attribute_after=_finite(result.attribute_after[number]),
            steps=int(result.steps[number]),
            seconds=float(result.seconds[number]),
            preset=self._settings.resolved_preset.name,
            bundle=self._bundle,
            finished_at=now(),
        )

    def _write_files(self, row: ItemRow, result: AnonymizedBatch, number: int) -> None:
        folder = self._settings.folder
        if row.codes is not None:
            stream = io.BytesIO()
            np.save(stream, np.asarray(result.codes[number], np.float32))
            name = kept_private(row.codes)
            write_below(folder.root, name, stream.getvalue(), folder.private, private=True)
        if row.crop is not None:
            # What goes into a photograph loses nothing on the way.
            face = encode_image(result.images[number], "png")
            write_below(folder.root, kept_private(row.crop), face, folder.private, private=True)
        else:
            kind, quality = self._settings.resolved_format, self._settings.resolved_quality
            encoded = encode_image(result.images[number], kind, quality)
            write_below(folder.root, released(str(row.output)), encoded, folder.private)

    def _failed(self, face: PendingFace, reason: Reason, message: str) -> ItemRow:
        """The row of a face that could not be anonymized; in a photograph it is redacted, if that is what was asked."""
        row = failed_row(face.row, reason, message, face.face.frame)
        redacts = self._photos is not None and self._settings.unhandled != "fail"
        return replace(row, state="redacted") if redacts else row

    def _record(self, finished: Sequence[ItemRow]) -> None:
        """Record results in one transaction."""
        self._manifest.finish(finished, faces={row.input: len(self._inputs[row.input].rows) for row in finished})
        for row in finished:
            about = self._inputs[row.input]
            about.rows[row.face] = row
            about.spoiled |= row.state == "failed"
            about.waiting -= 1
            if not about.waiting:
                del self._inputs[row.input]
                self._finish(about)


def _finite(value: float) -> float | None:
    """A measure as it is recorded: null where it left the range of numbers."""
    return float(value) if math.isfinite(value) else None


@contextmanager
def recording(
    settings: JobSettings,
    bundle: str,
    manifest: Manifest,
    observer: JobObserver,
    executor: ThreadPoolExecutor,
    photos: Photos | None = None,
) -> Iterator[Recorder]:
    """A recorder for the block; at its end everything is written and recorded, or what can be when the block raises."""
    recorder = Recorder(settings, bundle, manifest, observer, executor, photos)
    try:
        yield recorder
        recorder.record_written(wait=True)
    except BaseException:
        recorder.stop()
        raise
