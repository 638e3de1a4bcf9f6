"""What the manifest's rows mean for a run: what is done, what has changed, what belongs together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import Reason
from faceanon_engine.engine.images.align import Frame
from faceanon_engine.engine.job.layout import kept_private, released
from faceanon_engine.engine.job.manifest import InputRow, ItemRow
from faceanon_engine.engine.system.below import is_file_below

_LEFT = frozenset({"kept", "redacted", "skipped"})
"""States of faces that no other takes the place of."""
LONGEST_MESSAGE = 1000
"""Characters of what a decoder or a network says that are kept."""


def frame_text(frame: Frame) -> str:
    """What a row says of where the face lies in its photograph: JSON."""
    return json.dumps(frame.to_json(), separators=(",", ":"))


def failed_row(row: ItemRow, reason: Reason, message: str, frame: Frame | None = None) -> ItemRow:
    """The row of a face that could not be anonymized; what an earlier result said of it is forgotten."""
    return ItemRow(
        row.input,
        row.face,
        state="failed",
        reason=reason,
        message=message[:LONGEST_MESSAGE],
        output=row.output,
        crop=row.crop,
        frame=None if frame is None else frame_text(frame),
        finished_at=now(),
    )


def left_row(row: ItemRow, state: str, reason: Reason, message: str, frame: Frame) -> ItemRow:
    """The row of a face that no other takes the place of: "redacted" in its photograph, or "skipped"."""
    return replace(failed_row(row, reason, message, frame), state=state)


def kept_row(key: str, face: int, name: str, frame: Frame) -> ItemRow:
    """The row of a face that stays as it is in its photograph, as it is that of somebody who said so."""
    message = f"taken for {name}"[:LONGEST_MESSAGE]
    return ItemRow(key, face, state="kept", message=message, frame=frame_text(frame), finished_at=now())


def by_input(items: Iterable[ItemRow]) -> dict[str, list[ItemRow]]:
    """The rows of every input, in their order."""
    grouped: dict[str, list[ItemRow]] = {}
    for item in items:
        grouped.setdefault(item.input, []).append(item)
    return grouped


def result_files(row: ItemRow) -> tuple[str, ...]:
    """The files of a result, by their names in the job's folder."""
    names = [] if row.output is None else [released(row.output)]
    return (*names, *(kept_private(name) for name in (row.crop, row.codes) if name is not None))


def stamp(sample: Sample) -> tuple[int | None, int | None]:
    """Size and modification time, by which a changed input is recognised."""
    try:
        status = sample.path.stat()
    except OSError:
        return None, None
    return status.st_size, status.st_mtime_ns


def has_changed(known: InputRow | None, sample: Sample) -> bool:
    """Whether an input is another file than the one that was listed."""
    return known is not None and (known.bytes, known.modified_ns) != stamp(sample)


def is_done(output: Path, row: ItemRow) -> bool:
    """Whether a face is recorded as done and its files are there, or nothing is to be done with it."""
    if not has_name(row):
        return row.state in _LEFT
    return row.state == "done" and all(is_file_below(output, name) for name in result_files(row))


def has_name(row: ItemRow) -> bool:
    """Whether the row is that of a face that gets a result; the others have no name, or nothing is done with them."""
    return row.output is not None or row.crop is not None


def is_given_back(output: Path, known: InputRow, allow_faceless: bool) -> bool:
    """Whether a photograph is recorded as given back and lies there, and may: an earlier run may have allowed more."""
    if known.faces == 0 and not allow_faceless:
        return False
    return known.state == "done" and known.output is not None and is_file_below(output, released(known.output))


def is_lost(output: Path, row: ItemRow) -> bool:
    """Whether a face is recorded as done and its files are not there."""
    return row.state == "done" and not is_done(output, row)


def all_done(output: Path, known: InputRow, rows: Sequence[ItemRow]) -> bool:
    """Whether an input was looked at and all its faces are done."""
    return known.faces is not None and len(rows) == known.faces and all(is_done(output, row) for row in rows)


def now() -> str:
    """The time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
