"""What became of all faces and photographs of a job, in numbers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from faceanon_engine.engine.datasets.recall import Recall
from faceanon_engine.engine.job.manifest import InputRow, ItemRow
from faceanon_engine.engine.system.printable import counted

_SIZES = (20, 28, 40, 64, 128, 256)
"""Bounds, in pixels of the longer side of a face's box, between which faces are counted."""


@dataclass(frozen=True)
class FaceCounts:
    """What became of the faces of a job. A face that was found is in exactly one of the others but `too_small`."""

    found: int
    anonymized: int
    kept: int
    redacted: Mapping[str, int]
    """By reason: blurred or black in their photographs."""
    skipped: Mapping[str, int]
    """By reason: no result was made of them."""
    failed: Mapping[str, int]
    """By reason."""
    pending: int
    sizes: Mapping[str, int]
    """Of those that were found, by the longer side of their box in pixels."""

    @property
    def too_small(self) -> int:
        """Of all, those too small to be drawn again."""
        return sum(each.get("too-small", 0) for each in (self.redacted, self.skipped, self.failed))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"too_small": self.too_small}

    def __str__(self) -> str:
        parts = [f"{counted(self.found, 'face')} found", f"{self.anonymized} anonymized"]
        parts += [f"{self.kept} kept"] if self.kept else []
        parts += [f"{self.pending} pending"] if self.pending else []
        for name, counts in (("redacted", self.redacted), ("skipped", self.skipped), ("failed", self.failed)):
            if counts:
                parts.append(f"{sum(counts.values())} {name} ({_reasons(counts)})")
        return ", ".join(parts)


@dataclass(frozen=True)
class PhotoCounts:
    """What became of photographs that were to be given back."""

    done: int
    withheld: Mapping[str, int]
    """By reason."""
    failed: Mapping[str, int]
    """By reason: those that could not be read or written."""
    pending: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [f"{counted(self.done, 'photograph')} given back"]
        for name, counts in (("withheld", self.withheld), ("failed", self.failed)):
            if counts:
                parts.append(f"{sum(counts.values())} {name} ({_reasons(counts)})")
        return ", ".join([*parts, f"{self.pending} pending"] if self.pending else parts)


@dataclass(frozen=True)
class BoxCounts:
    """How many of the faces that the person says are there the detector found by itself."""

    recall: Recall

    def to_json(self) -> dict[str, Any]:
        """Plain values: recall, null where no box was given, with its exact 95 % interval."""
        recall = self.recall
        return {
            "given": recall.faces,
            "found": recall.found,
            "recall": recall.share,
            "recall_95": list(recall.interval()),
        }

    def __str__(self) -> str:
        if self.recall.share is None:
            return "none of the given boxes lies in these inputs"
        low, high = self.recall.interval()
        return (
            f"of {counted(self.recall.faces, 'given face')} the detector found {self.recall.found} by itself: "
            f"recall {self.recall.share:.3f} [{low:.3f}, {high:.3f}]"
        )


def count_faces(rows: Iterable[ItemRow]) -> FaceCounts:
    """Counts of a job's rows: those of inputs in which nothing was found are no faces."""
    states: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {"redacted": Counter(), "skipped": Counter(), "failed": Counter()}
    sizes: Counter[int] = Counter()
    found = 0
    for row in rows:
        states[row.state] += 1
        if row.state in reasons:
            reasons[row.state][row.reason or ""] += 1
        if row.frame is not None or row.state in ("done", "kept"):
            found += 1
        box = None if row.frame is None else json.loads(row.frame)["box"]
        if box is not None:
            sizes[sum(max(box[2] - box[0], box[3] - box[1]) >= bound for bound in _SIZES)] += 1
    return FaceCounts(
        found=found,
        anonymized=states["done"],
        kept=states["kept"],
        redacted=dict(reasons["redacted"]),
        skipped=dict(reasons["skipped"]),
        failed=dict(reasons["failed"]),
        pending=states["pending"],
        sizes={_size(place): sizes[place] for place in range(len(_SIZES) + 1) if sizes[place]},
    )


def count_photos(inputs: Iterable[InputRow]) -> PhotoCounts | None:
    """Counts of a job's inputs; None where no photographs are given back."""
    rows = [row for row in inputs if row.state is not None]
    if not rows:
        return None
    withheld, failed = (
        dict(Counter(row.reason or "" for row in rows if row.state == state)) for state in ("withheld", "failed")
    )
    states = Counter(row.state for row in rows)
    return PhotoCounts(states["done"], withheld, failed, states["pending"])


def count_boxes(inputs: Iterable[InputRow]) -> BoxCounts | None:
    """Counts of a job's inputs; None where no boxes were given."""
    rows = [row for row in inputs if row.boxes is not None]
    recall = Recall(sum(row.boxes_found or 0 for row in rows), sum(row.boxes or 0 for row in rows))
    return BoxCounts(recall) if rows else None


def first_of_several(inputs: Iterable[InputRow]) -> tuple[str, ...]:
    """A line about files with several pictures, as animations are, of which the first was read; else nothing."""
    rows = [row for row in inputs if row.pictures is not None]
    if not rows:
        return ()
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    return (f"of {rows[0].path}, which holds {rows[0].pictures} pictures,{more} only the first was read",)


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _size(place: int) -> str:
    if place == 0:
        return f"<{_SIZES[0]}"
    return f"{_SIZES[-1]}+" if place == len(_SIZES) else f"{_SIZES[place - 1]}-{_SIZES[place]}"
