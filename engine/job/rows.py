"""What the manifest's rows mean for a run: what is done, what has changed, what belongs together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import Reason
from faceanon_engine.engine.images.align import Frame
from faceanon_engine.engine.job.layout import kept_private, released
from faceanon_engine.engine.job.manifest import InputRow, ItemRow
from faceanon_engine.engine.system.below import is_file_below

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
        frame=None if frame is None else frame_text(frame),
        finished_at=now(),
    )


def by_input(items: Iterable[ItemRow]) -> dict[str, list[ItemRow]]:
    """The rows of every input, in their order."""
    grouped: dict[str, list[ItemRow]] = {}
    for item in items:
        grouped.setdefault(item.input, []).append(item)
    return grouped


def result_files(row: ItemRow) -> tuple[str, ...]:
    """The files of a result, by their names in the job's folder."""
    output = () if row.output is None else (released(row.output),)
    return output if row.codes is None else (*output, kept_private(row.codes))


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
    """Whether a face is recorded as done and its files are there."""
    return (
        row.state == "done"
        and row.output is not None
        and all(is_file_below(output, name) for name in result_files(row))
    )


def is_lost(output: Path, row: ItemRow) -> bool:
    """Whether a face is recorded as done and its files are not there."""
    return row.state == "done" and not is_done(output, row)


def all_done(output: Path, known: InputRow, rows: Sequence[ItemRow]) -> bool:
    """Whether an input was looked at and all its faces are done."""
    return known.faces is not None and len(rows) == known.faces and all(is_done(output, row) for row in rows)


def now() -> str:
    """The time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
