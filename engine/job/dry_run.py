"""What a job would do: everything is validated as a run does it, every input is read, and nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from faceanon_engine.engine.datasets.folder import left_out
from faceanon_engine.engine.datasets.reader import Reader, prefetch, thread_count, threads
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.align import Face
from faceanon_engine.engine.job.beginning import WorkerFactory, begin_job
from faceanon_engine.engine.job.folder import has_manifest, refuse_blocked, refuse_held
from faceanon_engine.engine.job.layout import JobFolder, released
from faceanon_engine.engine.job.listing import Listing, Rows, fail_faces, fits, look_through, plan_faces
from faceanon_engine.engine.job.manifest import InputRow, ItemRow, Manifest
from faceanon_engine.engine.job.report import JobPlan, PlannedItem
from faceanon_engine.engine.job.rows import by_input, has_name, is_done
from faceanon_engine.engine.job.samples import reader_of
from faceanon_engine.engine.job.settings import JobSettings

_LEFT = {"redacted": "redact", "skipped": "skip", "kept": "leave"}
"""What is said of faces that no other takes the place of."""
_NONE = np.zeros((0, 0, 3), np.uint8)


def plan_job(settings: JobSettings, *, make_worker: WorkerFactory | None = None) -> JobPlan:
    """Validate everything, every input included, and say what `run_job` would do; writes nothing.

    Raises UserError where `run_job` would, and when the bundle's files are damaged; a full disk is not foreseen.
    """
    beginning = begin_job(settings, make_worker)
    settings = beginning.settings
    refuse_held(settings.folder)
    beginning.worker.check()
    inputs, rows = _recorded(settings.folder)
    listing, update = look_through(settings, beginning.samples, inputs, rows)
    photos = {row.path: row for row in (*inputs.values(), *update.inputs)} if settings.gives_photos else {}
    reader = reader_of(settings, beginning.worker.resolution, beginning.boxes)
    items = [
        *_kept(beginning.samples, listing, photos),
        *_to_do(settings, listing, reader, photos),
        *map(_failing, update.vanished),
        *(_failing_photo(row) for row in update.inputs if row.reason == "missing"),
    ]
    unsaid = () if settings.keep is None else ("who is kept is not said: that takes the networks",)
    left = (*unsaid, *left_out(settings.input), *(beginning.boxes.notes if beginning.boxes else ()))
    items.sort(key=lambda item: (item.input, item.face))
    return JobPlan(settings.output, beginning.about(), tuple(items), left)


def _recorded(folder: JobFolder) -> tuple[Mapping[str, InputRow], Rows]:
    """What the manifest knows; nothing where there is none."""
    if not has_manifest(folder):
        return {}, {}
    with Manifest.read(folder.manifest, snapshot=True) as manifest:
        return manifest.inputs(), by_input(manifest.items())


def _kept(samples: Sequence[Sample], listing: Listing, photos: Mapping[str, InputRow]) -> list[PlannedItem]:
    """Faces of inputs of which nothing is left to do."""
    todo = {sample.key for sample in listing.todo}
    done = [sample.key for sample in samples if sample.key not in todo]
    names = {key: photos[key].output if key in photos else None for key in done}
    return [_keeping(row, names[key]) for key in done for row in listing.rows[key]]


def _to_do(
    settings: JobSettings, listing: Listing, reader: Reader, photos: Mapping[str, InputRow]
) -> list[PlannedItem]:
    """Faces of the other inputs, which are read as a run reads them."""

    def without_pixels(sample: Sample) -> Sample:
        read = reader.read(sample)
        return replace(read, faces=tuple(Face(_NONE, face.frame) for face in read.faces))

    items: list[PlannedItem] = []
    with threads() as executor:
        for sample, future in prefetch(executor, without_pixels, listing.todo, 2 * thread_count()):
            rows, photo = listing.rows[sample.key], photos.get(sample.key)
            if photo is not None and photo.output is None:
                items.append(_failing_photo(photo))
                continue
            output = None if photo is None else photo.output
            try:
                read = future.result()
            except InputError as error:
                if photo is not None:
                    items.append(PlannedItem(sample.key, 0, "fail", None, error.reason, error.message))
                    continue
                rows = fail_faces(settings.output, rows, error)
                items += [_keeping(row) if is_done(settings.output, row) else _failing(row) for row in rows]
                continue
            if not fits(read, rows):
                rows = plan_faces(settings, listing.names, read, rows, output)
            if photo is not None and not rows:
                items.append(_faceless(settings, photo))
            items += [_anonymizing(settings.output, row, output) for row in rows]
    return items


def _anonymizing(folder: Path, row: ItemRow, photo: str | None) -> PlannedItem:
    """photo: the name of what it will be in, where photographs are given back."""
    if row.state in _LEFT:
        return PlannedItem(row.input, row.face, _LEFT[row.state], photo, row.reason, row.message)
    if is_done(folder, row):
        return _keeping(row, photo)
    if not has_name(row):
        return _failing(row)
    output = row.output or photo
    refuse_blocked(folder / released(str(output)))
    return PlannedItem(row.input, row.face, "anonymize", output)


def _keeping(row: ItemRow, photo: str | None = None) -> PlannedItem:
    return PlannedItem(row.input, row.face, "keep", row.output or photo)


def _faceless(settings: JobSettings, photo: InputRow) -> PlannedItem:
    if settings.allow_faceless:
        return PlannedItem(photo.path, 0, "give back", photo.output, "no-face", "no face was found")
    return PlannedItem(photo.path, 0, "fail", None, "no-face", "no face was found: --allow-faceless gives it back")


def _failing_photo(photo: InputRow) -> PlannedItem:
    return PlannedItem(photo.path, 0, "fail", None, photo.reason, photo.message)


def _failing(row: ItemRow) -> PlannedItem:
    return PlannedItem(row.input, row.face, "fail", None, row.reason, row.message)
