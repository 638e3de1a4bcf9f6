"""What a job would do: everything is validated as a run does it, every input is read, and nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from faceanon_engine.engine.datasets.folder import left_out
from faceanon_engine.engine.datasets.reader import Reader, prefetch, thread_count, threads
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.job.beginning import WorkerFactory, begin_job
from faceanon_engine.engine.job.folder import has_manifest, refuse_blocked, refuse_held
from faceanon_engine.engine.job.layout import JobFolder, released
from faceanon_engine.engine.job.listing import Listing, Rows, fail_faces, look_through, plan_faces
from faceanon_engine.engine.job.manifest import InputRow, ItemRow, Manifest
from faceanon_engine.engine.job.report import JobPlan, PlannedItem
from faceanon_engine.engine.job.rows import by_input, is_done
from faceanon_engine.engine.job.settings import JobSettings


def plan_job(settings: JobSettings, *, make_worker: WorkerFactory | None = None) -> JobPlan:
    """Validate everything, every input included, and say what `run_job` would do; writes nothing.

    Raises UserError where `run_job` would, and when the bundle's files are damaged; a full disk is not foreseen.
    """
    beginning = begin_job(settings, make_worker)
    settings = beginning.settings
    refuse_held(settings.folder)
    beginning.worker.check()
    listing, update = look_through(settings, beginning.samples, *_recorded(settings.folder))
    reader = Reader(settings.align, beginning.worker.resolution, settings.min_face)
    items = [
        *_kept(beginning.samples, listing),
        *_to_do(settings, listing, reader),
        *map(_failing, update.vanished),
    ]
    items.sort(key=lambda item: (item.input, item.face))
    return JobPlan(settings.output, beginning.about(), tuple(items), left_out(settings.input))


def _recorded(folder: JobFolder) -> tuple[Mapping[str, InputRow], Rows]:
    """What the manifest knows; nothing where there is none."""
    if not has_manifest(folder):
        return {}, {}
    with Manifest.read(folder.manifest, snapshot=True) as manifest:
        return manifest.inputs(), by_input(manifest.items())


def _kept(samples: Sequence[Sample], listing: Listing) -> list[PlannedItem]:
    """Faces of inputs of which nothing is left to do."""
    todo = {sample.key for sample in listing.todo}
    return [_keeping(row) for sample in samples if sample.key not in todo for row in listing.rows[sample.key]]


def _to_do(settings: JobSettings, listing: Listing, reader: Reader) -> list[PlannedItem]:
    """Faces of the other inputs, which are read as a run reads them."""

    def count(sample: Sample) -> int:
        return len(reader.read(sample).faces)

    items: list[PlannedItem] = []
    with threads() as executor:
        for sample, future in prefetch(executor, count, listing.todo, 2 * thread_count()):
            rows = listing.rows[sample.key]
            try:
                faces = future.result()
            except InputError as error:
                rows = fail_faces(settings.output, rows, error)
                items += [_keeping(row) if is_done(settings.output, row) else _failing(row) for row in rows]
            else:
                rows = plan_faces(settings, listing.names, sample.key, rows, faces)
                items += [_anonymizing(settings.output, row) for row in rows]
    return items


def _anonymizing(output: Path, row: ItemRow) -> PlannedItem:
    if is_done(output, row):
        return _keeping(row)
    if row.output is None:
        return _failing(row)
    refuse_blocked(output / released(row.output))
    return PlannedItem(row.input, row.face, "anonymize", row.output)


def _keeping(row: ItemRow) -> PlannedItem:
    return PlannedItem(row.input, row.face, "keep", row.output)


def _failing(row: ItemRow) -> PlannedItem:
    return PlannedItem(row.input, row.face, "fail", None, row.reason, row.message)
