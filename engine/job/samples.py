"""The inputs of a job or a stage: found, and refused where a job keeps there what is private."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from faceanon_engine.engine.datasets.boxes import Floats, assign, notes, read_boxes
from faceanon_engine.engine.datasets.folder import find_inputs, left_out
from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.keep import KnownPeople
from faceanon_engine.engine.job.layout import MANIFEST_NAME, PRIVATE, RELEASE, JobFolder, part_of_job
from faceanon_engine.engine.job.settings import JobSettings


def find_samples(settings: JobSettings) -> tuple[Sample, ...]:
    """The inputs, within the limit; raises UserError when there are none or when they and the output overlap."""
    source, output = _real(settings.input), _real(settings.output)
    if os.path.exists(output) and not output.is_dir():
        raise UserError(f"output {settings.output} is a file: give a folder")
    if os.path.isdir(source):
        if source == output:
            raise UserError(f"INPUT and OUTPUT are the same folder {settings.input}: originals are never overwritten")
        if source in output.parents:
            raise UserError(
                f"OUTPUT {settings.output} lies inside INPUT {settings.input}: results would become inputs of the "
                "next run; give a folder outside"
            )
    if output in source.parents and os.path.isdir(source):
        raise UserError(f"INPUT {settings.input} lies inside OUTPUT {settings.output}: give a folder outside of it")
    refuse_inside_job(settings.output, private_too=True)
    return inputs_of(settings.input, settings.limit)


def inputs_of(source: Path, limit: int | None) -> tuple[Sample, ...]:
    """The images of a folder, one image, or those a list names, within the limit.

    Raises UserError when there are none, and where a job's private files are, or might be taken for, inputs.
    """
    if (refusal := _job_below(source)) is not None:
        raise UserError(refusal)
    samples = tuple(find_inputs(source))
    if not samples:
        remedy = f"no images in {source}: give a folder of images, an image, or a text file of paths"
        raise UserError("; ".join([remedy, *left_out(source)]))
    for folder in _real_folders(samples):
        if (refusal := _private_at(folder) or _old_job_at(folder)) is not None:
            raise UserError(refusal)
    return samples[:limit]


@dataclass(frozen=True, eq=False)
class GivenBoxes:
    """The person's own boxes of faces."""

    pictures: Mapping[str, Floats]
    """float [N, 4]: left, top, right, bottom, by the key of their input."""
    notes: tuple[str, ...]
    """What of the file is not used, in a line a reason."""


def reader_of(
    settings: JobSettings, resolution: int, boxes: GivenBoxes | None = None, people: KnownPeople | None = None
) -> Reader:
    """What reads the inputs of a job; raises UserError when the face detector cannot be opened."""
    return Reader(
        settings.align,
        resolution,
        settings.min_face,
        photos=settings.gives_photos,
        boxes=None if boxes is None else boxes.pictures,
        who=None if people is None else people.who,
    )


def given_boxes(settings: JobSettings, samples: Sequence[Sample]) -> GivenBoxes | None:
    """The person's own boxes of the inputs; None where none are given. Raises UserError for a file that holds none."""
    if settings.boxes is None:
        return None
    boxes = read_boxes(Path(settings.boxes))
    assigned = assign(boxes, (sample.key for sample in samples))
    if not assigned.pictures:
        raise UserError(
            f"{settings.boxes} names none of the inputs: name pictures by their paths below {settings.input}"
        )
    # Of inputs beyond a limit nobody has looked whether they are there.
    return GivenBoxes(assigned.pictures, notes(boxes, assigned) if settings.limit is None else ())


def refuse_inside_job(path: Path, *, private_too: bool = False) -> None:
    """Raise UserError where what is to be written would lie among a job's results, which are alone.

    private_too: the job's `private/` is no place for it either.
    """
    part = part_of_job(_real(path))
    if part is not None and (private_too or part.name == RELEASE):
        lies = "is" if _real(path) == part else f"lies in {part},"
        raise UserError(f"{path} {lies} where a job keeps nothing but its own: give a place outside of it")


def _job_below(source: Path) -> str | None:
    """What is wrong where the source lies in a job's `private/`, is a job's folder, or holds one."""
    if not os.path.isdir(source):
        return _private_at(_real(source).parent)
    if (refusal := _private_at(_real(source))) is not None:
        return refusal
    for place, folders, files in os.walk(source):
        folders[:] = [name for name in folders if not name.startswith(".")]
        job = JobFolder(Path(place))
        if PRIVATE in folders and job.has_private():
            return _holds_private(source, job)
        if MANIFEST_NAME in files and (refusal := _old_job_at(job.root)) is not None:
            return refusal
    return None


def _private_at(folder: Path) -> str | None:
    """What is wrong with inputs in a real folder that is, or lies in, a job's `private/`."""
    part = part_of_job(folder)
    return _holds_private(folder, JobFolder(part.parent)) if part is not None and part.name == PRIVATE else None


def _old_job_at(folder: Path) -> str | None:
    """What is wrong with inputs in the folder of a job of an earlier version."""
    if not _is_manifest(folder / MANIFEST_NAME):
        return None
    return (
        f"INPUT holds the job {folder} of an earlier version, with a contact sheet of originals among its results: "
        "copy the results alone to a folder of their own, and give that"
    )


def _holds_private(source: Path, job: JobFolder) -> str:
    return (
        f"INPUT {source} holds private files of the job {job.root}, originals among them: "
        f"give its results alone, {job.release}"
    )


def _is_manifest(path: Path) -> bool:
    """Whether a file holds the tables of a job; a data set may have a file of that name, too."""
    try:
        address = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro&immutable=1"
        if not path.is_file():
            return False
        with closing(sqlite3.connect(address, uri=True)) as connection:
            connection.execute("pragma trusted_schema = off")
            names = {row[0] for row in connection.execute("select name from sqlite_master limit 100")}
    except (sqlite3.Error, OSError):
        return False
    return {"job", "inputs", "items"} <= names


def _real_folders(samples: Iterable[Sample]) -> set[Path]:
    """Where the files really lie; folders are looked at once, files where they are links."""
    folders: dict[Path, Path] = {}
    links: set[Path] = set()
    for sample in samples:
        if os.path.islink(sample.path):
            links.add(_real(sample.path).parent)
        elif sample.path.parent not in folders:
            folders[sample.path.parent] = _real(sample.path.parent)
    return links.union(folders.values())


def _real(path: Path) -> Path:
    """The path without links; unlike `resolve`, one that leads round in a circle stays as it is."""
    return Path(os.path.realpath(path))
