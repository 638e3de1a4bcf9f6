"""The contact sheet of a job: its first results beside their originals. `engine/images/sheet.py` draws it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.decode import read_image
from faceanon_engine.engine.images.encode import encode_image
from faceanon_engine.engine.images.sheet import SheetRow, draw_sheet
from faceanon_engine.engine.job.domain import known_in, limits_in, verdict_of
from faceanon_engine.engine.job.layout import CONTACT_SHEET_NAME, kept_private
from faceanon_engine.engine.job.manifest import ItemRow, Manifest
from faceanon_engine.engine.job.names import foreign_file
from faceanon_engine.engine.job.report import JobObserver
from faceanon_engine.engine.job.rows import by_input, result_files
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.job.workers.worker import Worker
from faceanon_engine.engine.models.domain import Limits
from faceanon_engine.engine.system.below import remove_below, write_below

Load = Callable[[], tuple[Worker, Reader]]
"""Opens the worker and the reader at the first call (lazy), and gives them."""


def contact_sheet(
    settings: JobSettings, samples: Sequence[Sample], manifest: Manifest, observer: JobObserver, load: Load
) -> Path | None:
    """Draw the first results, in the order of the samples; nothing is opened when the sheet already shows them.

    A sheet of an earlier run is taken away when none is wanted: it shows originals. Returns the sheet's path, None
    where there is none. Raises UserError when it, or the manifest, cannot be written.
    """
    path, name = settings.folder.contact_sheet, kept_private(CONTACT_SHEET_NAME)
    shown = _first_results(settings, samples, manifest)
    ours = manifest.get("contact_sheet")  # what it shows, None when this job has not made one
    if not shown:
        if ours is not None:
            remove_below(settings.output, name)
            manifest.put({"contact_sheet": None})
        return None
    content = [[row.input, row.face, row.finished_at] for row in shown]
    if path.exists() and ours == content:
        return path
    problem = foreign_file(settings.output, name) if ours is None else None
    if problem:
        observer.note(problem)
        return None
    manifest.put({"contact_sheet": []})  # ours from now on, also when it is killed on the way
    rows = _sheet_rows(settings.output, samples, shown, *load(), limits_in(manifest))
    if not rows:
        return None
    title = f"{settings.preset}, margin {settings.margin:g}, {settings.resolved_steps} steps"
    judged = known_in(manifest)
    sheet = encode_image(draw_sheet(rows, title, str(judged) if judged.verdict == "outside" else ""), "png", 95)
    write_below(settings.output, name, sheet, settings.folder.private, private=True)
    manifest.put({"contact_sheet": content})
    return path


def _first_results(settings: JobSettings, samples: Sequence[Sample], manifest: Manifest) -> list[ItemRow]:
    if not settings.contact_sheet:
        return []
    done = by_input(manifest.items("done"))
    return [row for sample in samples for row in done.get(sample.key, [])][: settings.contact_sheet]


def _sheet_rows(
    output: Path,
    samples: Sequence[Sample],
    shown: Sequence[ItemRow],
    worker: Worker,
    reader: Reader,
    limits: Limits | None,
) -> list[SheetRow]:
    by_key = {sample.key: sample for sample in samples}
    read: dict[str, Sample] = {}  # the last one: the faces of a photo follow each other
    rows: list[SheetRow] = []
    for row in shown:
        try:
            if row.input not in read:
                read = {row.input: reader.read(by_key[row.input])}
            original = read[row.input].faces[row.face].pixels
            result = read_image(output / result_files(row)[0]).pixels
            inversion, neighbour = worker.intermediates(original[None], [int(row.neighbour_id or 0)])
        except (InputError, IndexError):
            # Taken away since it was anonymized, or paired with a face that the pool lacks: the sheet shows the others.
            continue
        rows.append(
            SheetRow(
                original=original,
                neighbour=neighbour[0],
                inversion=inversion[0],
                anonymized=result,
                label=row.input if row.face == 0 else f"{row.input} face {row.face}",
                identity_before=row.identity_before or 0.0,
                identity_after=row.identity_after or 0.0,
                neighbour_distance=row.neighbour_distance or 0.0,
                unknown=verdict_of(row, limits) == "outside",
            )
        )
    return rows
