"""Faces that somebody else has found: a file of boxes, and which of a data set's pictures each of its names means.

COCO's JSON, WIDER FACE's text and CSV are told apart by what stands in them.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.printable import shown
from faceanon_engine.engine.system.reading import read_text

Floats = npt.NDArray[np.floating[Any]]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

_MOST_BYTES = 256 << 20
"""COCO's own file of persons in 118,000 photographs, outlines included, is a little smaller."""
_MOST_FACES = 10_000
"""In one picture: five times as many as in any of WIDER FACE."""
_FARTHEST = 1e6
"""Pixels; no picture that is read is so wide."""

_NAMES = ("path", "file", "file_name", "filename", "file_path", "filepath", "image", "image_path", "image_name", "name")
_CORNERS = (
    ("x1", "y1", "x2", "y2"),
    ("x0", "y0", "x1", "y1"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
)
_SIZES = (
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("left", "top", "w", "h"),
    ("left", "top", "width", "height"),
    ("x1", "y1", "w", "h"),
    ("x1", "y1", "width", "height"),
)
"""Columns of a CSV. Corners first: the width and height beside them are the picture's."""
_CSV_REMEDY = "name the picture in a column path, and its box in x, y, w, h or in left, top, right, bottom"
_FACE = re.compile(r"(^|[^a-z])faces?([^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Boxes:
    """What a file says, by the names of pictures as it spells them; a picture without faces has no rows."""

    file: Path
    pictures: Mapping[str, Floats]
    """float [n, 4] each: left, top, right, bottom in pixels of the upright picture."""
    flat: int
    """Boxes of no width or no height, which stand in WIDER FACE's own files; they are left out."""


@dataclass(frozen=True, eq=False)
class Assigned:
    """Boxes of a data set's pictures, and what of the file belongs to none of them."""

    pictures: Mapping[str, Floats]
    """float [n, 4] each, by the picture's key in the data set: its path below the root, with forward slashes."""
    absent: tuple[str, ...]
    """Names of the file that are no picture of the data set."""


def read_boxes(file: Path) -> Boxes:
    """The boxes of faces in a file.

    COCO: `images` with `file_name`, `annotations` with `bbox` [x, y, width, height]; of several categories the one
    named face. WIDER FACE: a line with a picture's name, one with the number of its faces, a line for each of those
    that begins with x y width height. CSV, with commas, semicolons or tabs: a header, a line a box; a line without
    numbers says that its picture has no face. Raises UserError, naming the file and the line or entry, where it is
    none of these, holds no names, or a box is none in pixels.
    """
    text = read_text(file, "the file of boxes", _MOST_BYTES)
    if "\0" in text:
        raise UserError(f"{file} is no text: give boxes as COCO JSON, WIDER FACE text or CSV")
    start = text.lstrip()[:4096]
    if start[:1] in ("{", "["):
        entries = _coco(file, text)
    elif delimiter := _delimiter(start.partition("\n")[0]):
        entries = _csv(file, text, delimiter)
    else:
        entries = _wider(file, text)
    named: dict[str, list[Box]] = {}
    flat = 0
    for place, name, box in entries:
        faces = named.setdefault(name, [])
        if box is None:
            continue
        if box[2] == box[0] or box[3] == box[1]:
            flat += 1
            continue
        faces.append(box)
        if len(faces) > _MOST_FACES:
            raise UserError(f"{file}: {place}: {shown(name)} has more than {_MOST_FACES} faces: give one box a face")
    if not named:
        raise UserError(f"{file} names no picture: give boxes as COCO JSON, WIDER FACE text or CSV")
    pictures = {name: np.array(faces, float).reshape(-1, 4) for name, faces in named.items()}
    reach = max((float(each.max()) for each in pictures.values() if len(each)), default=math.inf)
    if reach <= 1:
        raise UserError(f"{file}: every box ends within 1 pixel, as shares of a picture do: give pixels")
    return Boxes(file, pictures, flat)


def assign(boxes: Boxes, keys: Iterable[str]) -> Assigned:
    """Which of a data set's pictures, given by their keys, the file's names mean.

    A name is a picture's path below the data set's root; or it ends with that path, or that path ends with it, as
    whole names of folders and files: `a.jpg` is `holiday/a.jpg`, and so is `/home/me/photos/holiday/a.jpg`. Forward
    and backward slashes are the same, and so are the ways to spell an accent. Raises UserError where a name may mean
    several pictures, or two names one.
    """
    by_path: dict[tuple[str, ...], list[str]] = {}
    by_file: dict[str, list[tuple[str, ...]]] = {}
    for key in keys:
        parts = _parts(key)
        if parts not in by_path:
            by_file.setdefault(parts[-1], []).append(parts)
        by_path.setdefault(parts, []).append(key)
    exact: dict[str, str] = {}
    nearly: dict[str, str] = {}
    absent: list[str] = []
    for name in boxes.pictures:
        parts = _parts(name)
        same = by_path.get(parts, [])
        like = same or [key for path in by_file.get(parts[-1], ()) if _ends(parts, path) for key in by_path[path]]
        if len(like) > 1:
            raise UserError(
                f"{boxes.file}: {shown(name)} may be {shown(like[0])} or {shown(like[1])}: "
                "name pictures by their paths below the data set's folder"
            )
        if not like:
            absent.append(name)
            continue
        taken = exact if same else nearly
        if (other := taken.setdefault(like[0], name)) != name:
            raise UserError(
                f"{boxes.file}: {shown(other)} and {shown(name)} are both {shown(like[0])}: "
                "name pictures by their paths below the data set's folder"
            )
    # Beside a name that is the picture's path, one that only ends alike is another picture's.
    absent += [name for key, name in nearly.items() if key in exact]
    assigned = {key: boxes.pictures[name] for key, name in {**nearly, **exact}.items()}
    return Assigned(assigned, tuple(absent))


def notes(boxes: Boxes, assigned: Assigned) -> tuple[str, ...]:
    """What of the file is not used, in a line a reason."""
    lines = []
    if assigned.absent:
        few = shown(assigned.absent[0]) + (f" and {len(assigned.absent) - 1} more" if len(assigned.absent) > 1 else "")
        lines.append(f"{boxes.file}: {len(assigned.absent)} pictures that it names are not in the data set: {few}")
    if boxes.flat:
        lines.append(f"{boxes.file}: {boxes.flat} boxes have no width or no height, and are left out")
    return tuple(lines)


def _parts(name: str) -> tuple[str, ...]:
    """The folders and the file of a path, without those that mean nothing; never empty."""
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    return tuple(part for part in parts if part not in ("", ".", "..")) or (name,)


def _ends(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether the longer path ends with the shorter one."""
    count = min(len(one), len(other))
    return one[-count:] == other[-count:]


Entry = tuple[str, str, Box | None]
"""Where it stands in the file, the picture's name, and a box; None where the file says only that there is a picture."""


def _box(file: Path, place: str, values: Sequence[Any], corners: bool) -> Box:
    """Four numbers as a box: its corners, or its left, top, width and height."""
    try:
        if len(values) != 4 or any(isinstance(value, bool) for value in values):
            raise ValueError
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{file}: {place}: {shown(list(values))} is no box: give four numbers in pixels") from None
    left, top, right, bottom = numbers
    if not corners:
        right, bottom = left + right, top + bottom
    if not all(abs(value) <= _FARTHEST for value in (left, top, right, bottom)):  # a number that is none is not, too
        raise UserError(f"{file}: {place}: {shown(numbers)} lies in no picture: give four numbers in pixels")
    if right < left or bottom < top:
        meant = "left, top, right, bottom" if corners else "left, top, width, height"
        raise UserError(f"{file}: {place}: {shown(numbers)} ends before it begins: give {meant}")
    return left, top, right, bottom


# -- COCO ------------------------------------------------------------------------------------------------------


def _coco(file: Path, text: str) -> Iterator[Entry]:
    try:
        content = json.loads(text)
    except RecursionError:
        raise UserError(f"{file} is nested too deep for COCO's JSON: export the boxes again") from None
    except ValueError as error:
        where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "a number"
        raise UserError(f"{file}: {where} is no JSON: export the boxes again") from None
    images, annotations = (_records(file, content, name) for name in ("images", "annotations"))
    wanted = _categories(file, content)
    names: dict[str | int, str] = {}
    for number, image in enumerate(images):
        place = f"image {number}"
        identifier, name = image.get("id"), image.get("file_name")
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{file}: {place} has the file_name {shown(name)}: give the picture's path")
        names[_identifier(file, place, "id", identifier)] = name
        yield place, name, None
    if len(names) < len(images):
        raise UserError(f"{file}: {len(images) - len(names)} images have an id that others have: give each its own")
    for number, annotation in enumerate(annotations):
        if wanted is not None and annotation.get("category_id") not in wanted:
            continue
        place = f"annotation {number}"
        identifier = _identifier(file, place, "image_id", annotation.get("image_id"))
        if identifier not in names:
            raise UserError(f"{file}: {place} is of image {shown(identifier)}, which is not among the images: add it")
        values = annotation.get("bbox")
        values = values if isinstance(values, list) else [values]
        yield place, names[identifier], _box(file, place, values, corners=False)


def _records(file: Path, content: Any, name: str) -> list[dict[str, Any]]:
    records = content.get(name) if isinstance(content, dict) else None
    if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
        raise UserError(f"{file} has no list {name!r} as COCO's JSON has: export the boxes as COCO JSON")
    return records


def _identifier(file: Path, place: str, name: str, value: Any) -> str | int:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UserError(f"{file}: {place} has the {name} {shown(value)}: give a number or a text")
    return value


def _categories(file: Path, content: Any) -> list[Any] | None:
    """Identifiers of those that are faces; None where all are."""
    if not content.get("categories"):
        return None
    categories = _records(file, content, "categories")
    faces = [each for each in categories if _FACE.search(str(each.get("name")))]
    if len(categories) > 1 and not faces:
        few = ", ".join(shown(each.get("name"), 40) for each in categories[:3])
        raise UserError(f"{file} has the categories {few}, of which none is named face: leave boxes of faces alone")
    return [each.get("id") for each in faces or categories]


# -- CSV -------------------------------------------------------------------------------------------------------


def _delimiter(header: str) -> str | None:
    """What stands between the columns of a first line; None where it has too few for a box."""
    best = max(",;\t", key=header.count)
    return best if header.count(best) >= 4 else None


def _csv(file: Path, text: str, delimiter: str) -> Iterator[Entry]:
    rows = csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=delimiter, skipinitialspace=True)
    columns: tuple[int, ...] = ()
    corners = False
    try:
        for row in rows:
            place = f"line {rows.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if not columns:
                columns, corners = _columns(file, row)
                continue
            if len(row) <= max(columns):
                raise UserError(f"{file}: {place} has {len(row)} columns, and the header more: fill them")
            name, *values = (row[column].strip() for column in columns)
            if not name:
                raise UserError(f"{file}: {place} names no picture: give its path")
            yield place, name, _box(file, place, values, corners) if any(values) else None
    except csv.Error as error:
        raise UserError(f"{file}: line {rows.line_num} is no CSV ({error}): export the boxes again") from None


def _columns(file: Path, header: list[str]) -> tuple[tuple[int, ...], bool]:
    """Where a picture's name and the four numbers of its box stand, and whether these are its corners."""
    titles = [cell.strip().lower() for cell in header]
    name = next((title for title in _NAMES if title in titles), None)
    numbers = next((titled for titled in (*_CORNERS, *_SIZES) if set(titled) <= set(titles)), None)
    if name is None or numbers is None:
        raise UserError(f"{file}: the header {shown(header)} lacks columns: {_CSV_REMEDY}")
    return tuple(titles.index(title) for title in (name, *numbers)), numbers in _CORNERS


# -- WIDER FACE ------------------------------------------------------------------------------------------------


def _wider(file: Path, text: str) -> Iterator[Entry]:
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    waiting = [(number, line) for number, line in lines if line]
    place = 0
    while place < len(waiting):
        number, name = waiting[place]
        if place + 1 == len(waiting):
            raise UserError(f"{file}: line {number}, {shown(name)}, is the last: the number of its faces has to follow")
        where, count = waiting[place + 1]
        if not re.fullmatch(r"[0-9]{1,6}", count):
            raise UserError(
                f"{file}: line {where}, {shown(count)}, is no number of faces, as WIDER FACE's text has one after each "
                "name: give boxes as COCO JSON, WIDER FACE text or CSV"
            )
        yield f"line {number}", name, None
        place += 2
        faces = waiting[place : place + int(count)]
        if len(faces) < int(count):
            raise UserError(f"{file}: line {where} says {count} faces, and {len(faces)} lines follow: add the others")
        for line, values in faces:
            yield f"line {line}", name, _box(file, f"line {line}", values.split()[:4], corners=False)
        place += len(faces)
        # Of a picture without faces WIDER FACE gives one line of zeros.
        if not faces and place < len(waiting) and re.fullmatch(r"0(\s+0){3,}", waiting[place][1]):
            place += 1
