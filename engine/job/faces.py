"""From the inputs that are read to the faces that are still to be done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future

from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.job.listing import fail_faces, plan_faces, remove_results
from faceanon_engine.engine.job.manifest import ItemRow
from faceanon_engine.engine.job.names import OutputNames
from faceanon_engine.engine.job.recording import PendingFace, Recorder
from faceanon_engine.engine.job.rows import is_done
from faceanon_engine.engine.job.settings import JobSettings

Listed = tuple[Sample, Sequence[ItemRow]]
"""An input that is to be done, and its rows."""


def faces_to_do(
    settings: JobSettings,
    names: OutputNames,
    reading: Iterable[tuple[Listed, Future[Sample]]],
    recorder: Recorder,
) -> Iterator[PendingFace]:
    """Faces that are still to be done, in the order of the inputs; failures are recorded on the way.

    Raises UserError when the manifest or the folder cannot be written.
    """
    for (listed, rows), future in reading:
        try:
            sample = future.result()
        except InputError as error:
            recorder.fail_input(listed.key, fail_faces(settings.output, rows, error), error)
            continue
        if len(sample.faces) != len(rows):
            rows = _replan(settings, names, sample, rows, recorder)
        pending = [row for row in rows if row.output is not None and not is_done(settings.output, row)]
        recorder.begin(sample.key, rows, len(pending))
        for row in pending:
            yield PendingFace(sample, sample.faces[row.face], row)


def _replan(
    settings: JobSettings, names: OutputNames, sample: Sample, rows: Sequence[ItemRow], recorder: Recorder
) -> list[ItemRow]:
    """Rows for as many faces as there are; they are recorded before anything of them is written."""
    with names.alone():
        planned = plan_faces(settings, names, sample.key, rows, len(sample.faces))
        remove_results(settings.output, rows[len(sample.faces) :])
        recorder.plan(sample.key, planned)
    return planned
