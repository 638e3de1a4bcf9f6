"""What is to be done: the inputs as they are now, beside what the manifest knows of them.

A run and a dry run look through the inputs and plan rows by the same code; only a run writes down what it says.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.encode import photo_suffix
from faceanon_engine.engine.job.layout import EXTENSIONS, codes_name, face_name, kept_private, released
from faceanon_engine.engine.job.manifest import InputRow, ItemRow, Manifest
from faceanon_engine.engine.job.names import OutputNames, foreign_file, taken_names
from faceanon_engine.engine.job.rows import (
    all_done,
    by_input,
    failed_row,
    has_changed,
    has_name,
    is_done,
    is_given_back,
    kept_row,
    left_row,
    result_files,
    stamp,
)
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.system.below import remove_below
from faceanon_engine.engine.system.locks import locked

logger = logging.getLogger(__name__)

Rows = Mapping[str, Sequence[ItemRow]]
"""The rows of every input, by its key."""


@dataclass(frozen=True)
class Listing:
    """The inputs that are not done, what the manifest says of all inputs, and the names that are taken."""

    todo: tuple[Sample, ...]
    rows: Rows
    names: OutputNames


@dataclass(frozen=True)
class Update:
    """What the manifest does not say yet."""

    inputs: tuple[InputRow, ...]
    """Inputs that are new, or other pictures than those that were listed, and photos that had no name for their result,
    or are not there any more."""
    items: tuple[ItemRow, ...]
    """Rows of theirs, and of earlier inputs that had no name for their result."""
    changed: tuple[str, ...]
    """Inputs to forget: they are other pictures than those that were anonymized."""
    given_up: tuple[str, ...]
    """Files of those in the job's folder, which are of no use."""
    vanished: tuple[ItemRow, ...]
    """Rows of inputs that were listed, not finished, and are not there any more."""


def bring_up_to_date(
    settings: JobSettings, samples: Sequence[Sample], manifest: Manifest, inputs: Mapping[str, InputRow], rows: Rows
) -> Listing:
    """Bring the manifest, which holds `inputs` and `rows`, up to date; results of inputs that have changed are deleted.

    Raises UserError when the folder or the manifest cannot be written.
    """
    listing, update = look_through(settings, samples, inputs, rows)
    for key in update.changed:
        logger.info("%s has changed since it was listed: done again", key)
    for name in update.given_up:
        remove_below(settings.output, name)
    manifest.add_inputs(update.inputs, (*update.items, *update.vanished), forget=update.changed)
    # Those files are gone: whatever gets one of their names from now on is somebody else's.
    return replace(listing, names=replace(listing.names, given_up={}))


def look_through(
    settings: JobSettings, samples: Sequence[Sample], inputs: Mapping[str, InputRow], rows: Rows
) -> tuple[Listing, Update]:
    """What is to be done, and what the manifest, of which `inputs` and `rows` are, does not say yet; writes nothing."""
    known, planned = dict(inputs), dict(rows)
    changed = tuple(sample.key for sample in samples if has_changed(known.get(sample.key), sample))
    given_up = tuple(name for key in changed for name in _files(known.pop(key), planned.pop(key, ())))
    names = taken_names(settings, samples, known.values(), planned, given_up)
    if settings.gives_photos:
        return _look_through_photos(settings, samples, known, planned, names, changed, given_up)
    new_inputs: list[InputRow] = []
    new_items: list[ItemRow] = []
    todo: list[Sample] = []
    for sample in samples:
        earlier = planned.get(sample.key, ())
        if sample.key not in known:
            new_inputs.append(InputRow(sample.key, *stamp(sample)))
            planned[sample.key] = [plan_row(settings, names, sample.key, 0)]
            new_items += planned[sample.key]
        elif not earlier:  # as no run of ours leaves it
            planned[sample.key] = [plan_row(settings, names, sample.key, 0)]
            new_items += planned[sample.key]
        elif all_done(settings.output, known[sample.key], earlier):
            continue
        elif any(row.output is None for row in earlier):
            # Another file had its name: perhaps it was moved away since.
            planned[sample.key] = [
                row if row.output else plan_row(settings, names, sample.key, row.face) for row in earlier
            ]
            new_items += planned[sample.key]
        todo.append(sample)
    # Of inputs beyond a limit nobody has looked whether they are there.
    vanished = _vanished(samples, planned) if settings.limit is None else ()
    update = Update(tuple(new_inputs), tuple(new_items), changed, given_up, vanished)
    return Listing(tuple(todo), planned, names), update


def _vanished(samples: Sequence[Sample], rows: Rows) -> tuple[ItemRow, ...]:
    present = {sample.key for sample in samples}
    return tuple(
        failed_row(row, "missing", "it is no longer there")
        for key, known in rows.items()
        if key not in present
        for row in known
        if row.state != "done"
    )


def _look_through_photos(
    settings: JobSettings,
    samples: Sequence[Sample],
    known: Mapping[str, InputRow],
    planned: dict[str, Sequence[ItemRow]],
    names: OutputNames,
    changed: tuple[str, ...],
    given_up: tuple[str, ...],
) -> tuple[Listing, Update]:
    """As `look_through`, where photographs are given back: an input has a name, and rows once it was looked at."""
    inputs: list[InputRow] = []
    todo: list[Sample] = []
    for sample in samples:
        row = known.get(sample.key)
        planned.setdefault(sample.key, ())
        if row is None or row.output is None:
            inputs.append(_plan_photo(settings, names, sample, row))
        elif is_given_back(settings.output, row, settings.allow_faceless):
            continue
        todo.append(sample)
    present = {sample.key for sample in samples}
    if settings.limit is None:
        inputs += [
            replace(row, state="failed", reason="missing", message="it is no longer there")
            for row in known.values()
            if row.path not in present and row.state != "done"
        ]
    return Listing(tuple(todo), planned, names), Update(tuple(inputs), (), changed, given_up, ())


def _plan_photo(settings: JobSettings, names: OutputNames, sample: Sample, known: InputRow | None) -> InputRow:
    """A photograph that is to be given back, with its name, or a failed one where a file that is not ours has that."""
    row = known or InputRow(sample.key, *stamp(sample))
    extension = photo_suffix(sample.relative.suffix) if settings.format is None else EXTENSIONS[settings.format]
    output = names.choose(sample.key, extension=extension)
    problem = foreign_file(settings.output, released(output), names.given_up)
    if problem:
        return replace(row, state="failed", reason="output-exists", message=problem)
    return replace(row, state="pending", reason=None, message=None, output=output)


def _files(known: InputRow, rows: Sequence[ItemRow]) -> list[str]:
    """What there may be of an input's results, by the names in the job's folder."""
    photo = [] if known.output is None else [released(known.output)]
    return [*photo, *(name for row in rows for name in result_files(row))]


def plan_row(settings: JobSettings, names: OutputNames, key: str, face: int) -> ItemRow:
    """A new pending row with a name for its result, or a failed one where a file that is not ours has the name."""
    output = names.choose(key, face)
    problem = foreign_file(settings.output, released(output), names.given_up)
    if not problem and settings.save_codes:
        problem = foreign_file(settings.output, kept_private(codes_name(output)), names.given_up)
    if problem:
        return ItemRow(key, face, state="failed", reason="output-exists", message=problem)
    return ItemRow(key, face, output=output)


def fits(sample: Sample, rows: Sequence[ItemRow]) -> bool:
    """Whether the rows are those of the faces that were found in an input."""
    count = len(sample.faces)
    return (
        len(rows) == count + len(sample.unhandled)
        and not any(map(has_name, rows[count:]))
        and all((row.state == "kept") == (face in sample.kept) for face, row in enumerate(rows[:count]))
        and all(has_name(row) or row.state in ("failed", "kept") for row in rows[:count])
    )


def plan_faces(
    settings: JobSettings, names: OutputNames, sample: Sample, rows: Sequence[ItemRow], photo: str | None = None
) -> list[ItemRow]:
    """The rows of an input that was read: those that there were, and new ones for the rest.

    photo: its name, where photographs are given back.
    """
    key, count = sample.key, len(sample.faces)
    planned = list(rows[:count])
    for face in range(count):
        if face in sample.kept:
            planned[face : face + 1] = [kept_row(key, face, sample.kept[face], sample.faces[face].frame)]
            continue
        if face < len(planned) and (has_name(planned[face]) or (planned[face].state == "failed" and photo is None)):
            continue
        row = plan_row(settings, names, key, face) if photo is None else ItemRow(key, face, crop=face_name(photo, face))
        planned[face : face + 1] = [row]
    state = "skipped" if photo is None else "failed" if settings.unhandled == "fail" else "redacted"
    for face, left in enumerate(sample.unhandled, count):
        planned.append(left_row(ItemRow(key, face), state, left.reason, left.message, left.frame))
    return planned


def fail_faces(output: Path, rows: Sequence[ItemRow], error: InputError) -> list[ItemRow]:
    """The rows of an input that cannot be used; what is done stays done."""
    return [row if is_done(output, row) else failed_row(row, error.reason, error.message) for row in rows]


def remove_results(output: Path, rows: Iterable[ItemRow]) -> None:
    """Delete results that belong to no row any more."""
    for row in rows:
        for name in result_files(row):
            remove_below(output, name)


# -- several processes on one job ------------------------------------------------------------------------------


def shared_names(settings: JobSettings, samples: Sequence[Sample], manifest: Manifest) -> OutputNames:
    """The names that are taken, for one of several processes: the others may give more of them meanwhile."""
    return taken_names(
        settings,
        samples,
        manifest.inputs().values(),
        by_input(manifest.items()),
        given_by_others=manifest.has_output,
        alone=lambda: locked(settings.folder.names_lock, private=True),
    )
