"""What a manifest may say, column by column: types and ranges, checked when a row is read.

A manifest is somebody else's file: it may be damaged, made by hand, or meant to harm. SQLite holds any type in any
column, whatever the schema says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from faceanon_engine.engine.errors import REASONS
from faceanon_engine.engine.images.encode import FORMATS_OF_SUFFIXES
from faceanon_engine.engine.job.layout import EXTENSIONS, codes_name, face_codes_name, is_face_name, stays_inside
from faceanon_engine.engine.job.settings import MOST_IN_POOL
from faceanon_engine.engine.models.domain import are_limits

LONGEST_TEXT = 32_768
"""Characters of a text, paths among them, which file systems keep below 4,096 bytes."""
STATES = ("pending", "done", "failed", "kept", "redacted", "skipped")
"""Of a face."""
PHOTO_STATES = ("pending", "done", "failed", "withheld")
"""Of a photograph that is to be given back."""
_MOST_FACES = 1_000_000
_MOST = 2**53
"""Whole numbers up to here are the same in every program that reads them."""

Check = Callable[[Any], bool]


def _whole(least: int, most: int = _MOST) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def _number(least: float, most: float) -> Check:
    return lambda value: type(value) is float and least <= value <= most  # false for nan


def _text(value: Any) -> bool:
    return type(value) is str and len(value) <= LONGEST_TEXT


def _path(value: Any) -> bool:
    return _text(value) and stays_inside(value)


def _time(value: Any) -> bool:
    if not _text(value) or len(value) > 40:
        return False
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def is_frame(value: Any) -> bool:
    """Whether a text is JSON of a face's place in its photograph, as `Frame.to_json` says it."""
    if not _text(value) or len(value) > _LONGEST_FRAME:
        return False
    try:
        frame = json.loads(value, parse_int=float, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return False
    if not isinstance(frame, dict) or set(frame) != set(_FRAME):
        return False
    return all((each is None and name in _UNDETECTED) or _FRAME[name](each) for name, each in frame.items())


def _numbers(*shape: int) -> Check:
    def check(value: Any, shape: tuple[int, ...] = shape) -> bool:
        if not shape:
            return type(value) is float and abs(value) <= _MOST  # false for nan
        return isinstance(value, list) and len(value) == shape[0] and all(check(each, shape[1:]) for each in value)

    return check


_LONGEST_FRAME = 2000
_FRAME: Mapping[str, Check] = {
    "affine": _numbers(2, 3),
    "angle": _number(-180.0, 180.0),
    "box": _numbers(4),
    "landmarks": _numbers(5, 2),
    "score": _number(0.0, 1.0),
    "warped": lambda value: type(value) is bool,
}
_UNDETECTED = frozenset({"box", "landmarks", "score"})

_face = _whole(0, _MOST_FACES)
_cosine = _number(-1.5, 1.5)  # rounding leads past 1
_measure = _number(-1e30, 1e30)


@dataclass(frozen=True)
class Columns:
    """The columns of a table in their order, with what each may hold; those in `optional` may be null, too."""

    checks: Mapping[str, Check]
    optional: frozenset[str]

    def wrong(self, values: Sequence[Any]) -> str | None:
        """The first column whose value, of a row's, it may not have; None where there is none."""
        for (column, check), value in zip(self.checks.items(), values, strict=True):
            if not (column in self.optional if value is None else check(value)):
                return column
        return None


INPUT_COLUMNS = Columns(
    {
        "path": _path,
        "bytes": _whole(0, 2**63 - 1),
        "modified_ns": _whole(-(2**63), 2**63 - 1),
        "faces": _face,
        "pictures": _whole(2),
        "boxes": _face,
        "boxes_found": _face,
        "state": lambda value: value in PHOTO_STATES,
        "reason": lambda value: value in REASONS,
        "message": _text,
        "output": _path,
    },
    optional=frozenset(
        {"bytes", "modified_ns", "faces", "pictures", "boxes", "boxes_found", "state", "reason", "message", "output"}
    ),
)
_ITEM_CHECKS: Mapping[str, Check] = {
    "input": _path,
    "face": _face,
    "state": lambda value: value in STATES,
    "reason": lambda value: value in REASONS,
    "message": _text,
    "output": _path,
    "crop": lambda value: _path(value) and is_face_name(value),
    "codes": _path,
    "frame": is_frame,
    "neighbour_id": _whole(0),
    "neighbour_distance": _measure,
    "identity_before": _cosine,
    "identity_after": _cosine,
    "attribute_before": _measure,
    "attribute_after": _measure,
    "steps": _whole(0),
    "seconds": _number(0.0, 1e12),
    "preset": _text,
    "bundle": _text,
    "finished_at": _time,
}
ITEM_COLUMNS = Columns(_ITEM_CHECKS, optional=frozenset(_ITEM_CHECKS) - {"input", "face", "state"})


def wrong_item(output: str | None, crop: str | None, codes: str | None, state: str, reason: str | None) -> str | None:
    """The first column of an item that does not agree with the others."""
    if output is None and crop is None:
        if state in ("pending", "done"):
            return "output"
    elif output is not None and not output.endswith(tuple(EXTENSIONS.values())):
        return "output"
    if crop is not None and output is not None:
        return "crop"
    name = codes_name(output) if output is not None else None if crop is None else face_codes_name(crop)
    if codes is not None and codes != name:
        return "codes"
    return "reason" if state in ("failed", "redacted", "skipped") and reason is None else None


def wrong_input(state: str | None, reason: str | None, output: str | None, faces: int | None) -> str | None:
    """The first column of an input that does not agree with the others."""
    if output is None and state in ("pending", "done"):
        return "output"
    if output is not None and PurePosixPath(output).suffix.lower() not in FORMATS_OF_SUFFIXES:
        return "output"
    if state in ("failed", "withheld") and reason is None:
        return "reason"
    return "faces" if state == "done" and faces is None else None


def _scalar(value: Any) -> bool:
    if value is None or type(value) in (bool, int):
        return True
    return _text(value) or (type(value) is float and math.isfinite(value))


def _of(*kinds: type) -> Check:
    return lambda value: type(value) in kinds


_SETTINGS: Mapping[str, Check] = {
    "input": _text,
    "preset": _text,
    "margin": _of(int, float),
    "steps": _whole(0),
    "align": _text,
    "min_face": _whole(1),
    "output": _text,
    "unhandled": _text,
    "match_colour": _of(bool),
    "boxes": _text,
    "keep": _text,
    "format": _text,
    "quality": _of(int),
    "save_codes": _of(bool),
    "metric": _text,
    "truncation": _of(int, float),
    "seed": _of(int),
    "bundle": _text,
    "pool_size": _whole(1, MOST_IN_POOL),
    "precision": _text,
    "optimise_precision": _text,
    "proxy_resolution": _whole(1),
    "stopping": _text,
}


def are_settings(value: Any) -> bool:
    """Whether a value is what a job records of its settings: plain values by name."""
    return (
        isinstance(value, dict)
        and all(_text(name) and _scalar(each) for name, each in value.items())
        and all(check(value[name]) for name, check in _SETTINGS.items() if value.get(name) is not None)
    )


def is_sheet(value: Any) -> bool:
    """Whether a value says what a contact sheet shows: rows of input, face and time; None where there is none."""
    return value is None or (
        isinstance(value, list) and all(isinstance(row, list) and all(map(_scalar, row)) for row in value)
    )


def is_together(value: Any) -> bool:
    """Whether a value says how many faces are optimised together, by the kind of device; None where nothing does."""
    return value is None or (
        isinstance(value, dict) and all(_text(kind) and _whole(1, 65_536)(size) for kind, size in value.items())
    )


JOB_CHECKS: Mapping[str, Check] = {
    "settings": are_settings,
    "version": _text,
    "contact_sheet": is_sheet,
    "together": is_together,
    "domain": are_limits,
}
"""The values of the table `job` by key."""
