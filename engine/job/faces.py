"""From the inputs that are read to the faces that are still to be done, with those that they are optimised with."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import groupby

from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.job.groups import Listed
from faceanon_engine.engine.job.listing import fail_faces, fits, plan_faces, remove_results
from faceanon_engine.engine.job.manifest import ItemRow
from faceanon_engine.engine.job.names import OutputNames
from faceanon_engine.engine.job.recording import PendingFace, Recorder
from faceanon_engine.engine.job.rows import has_name, is_done
from faceanon_engine.engine.job.settings import JobSettings

logger = logging.getLogger(__name__)


Reading = Iterable[tuple[Listed, Future[Sample]]]
"""Inputs in their order, whose faces are being read."""


def faces_to_do(
    settings: JobSettings, names: OutputNames, reading: Reading, recorder: Recorder, together: int | None
) -> Iterator[list[PendingFace]]:
    """Faces that share steps, in the order of the inputs: of each group so many that follow each other, None all.

    Those without a face that is still to be done are left out. Failures are recorded on the way. Raises UserError when
    the manifest or the folder cannot be written.
    """
    for _, group in groupby(reading, lambda each: each[0].group):
        faces: list[PendingFace] = []
        for face in _faces_of(settings, names, group, recorder):
            faces.append(face)
            if len(faces) == together:
                if not all(each.is_done for each in faces):
                    yield faces
                faces = []
        if not all(each.is_done for each in faces):
            yield faces


def _faces_of(settings: JobSettings, names: OutputNames, reading: Reading, recorder: Recorder) -> Iterator[PendingFace]:
    """All faces of some inputs, but for those that have no name; what is done of them is marked."""
    for listed, future in reading:
        rows, key = listed.rows, listed.sample.key
        try:
            sample = future.result()
            photo = recorder.photo_name(key)
        except InputError as error:
            if listed.is_done:
                logger.info("%s is done and cannot be read any more: %s", key, error.message)
            else:
                recorder.fail_input(key, fail_faces(settings.output, rows, error), error)
            continue
        if not listed.is_done:
            # What else is recorded of an input, an empty one's number of faces too, is recorded with its plan.
            if not rows or sample.boxes is not None or sample.pictures > 1 or not fits(sample, rows):
                rows = _replan(settings, names, sample, rows, recorder, photo)
            pending = [row for row in rows if has_name(row) and not is_done(settings.output, row)]
            recorder.begin(sample, rows, len(pending))
        for row in rows[: len(sample.faces)]:
            if has_name(row):
                face = sample.faces[row.face]
                yield PendingFace(sample, face, row, listed.is_done or is_done(settings.output, row))


def _replan(
    settings: JobSettings,
    names: OutputNames,
    sample: Sample,
    rows: Sequence[ItemRow],
    recorder: Recorder,
    photo: str | None,
) -> list[ItemRow]:
    """Rows for as many faces as there are; they are recorded before anything of them is written."""
    with names.alone():
        planned = plan_faces(settings, names, sample, rows, photo)
        remove_results(settings.output, rows[len(sample.faces) :])
        recorder.plan(sample, planned)
    return planned
