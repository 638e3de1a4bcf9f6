"""What a bundle's networks know: how faces like those they were trained on score, and what lies outside of that.

    "domain": {"trained_on": "people whom this project draws",
               "pool": {"size": 1024, "truncation_psi": 0.7, "seed": 0},
               "quantiles": [0.0, ..., 1.0],
               "measured": [{"preset": "falco", "steps": 50, "margin": 0.0, "faces": 500, "optimised": 200,
                             "neighbour_distance": [...], "attribute_before": [...], "attribute_after": [...]}]}

An optional part of `bundle.json`; it decides no result and is not in the digest. A face lies outside where its
attribute loss is beyond that of 99 of 100 known faces: after the last step where as many steps were measured, before
the first one otherwise. The distance of the neighbour is recorded and decides nothing: it tells photographs from drawn
people badly (benchmarks/results/known_faces.json).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["inside", "outside", "unknown"]

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
LIMIT = QUANTILES.index(0.99)
"""Which of the quantiles is the limit of what is known."""
MEASURES = ("neighbour_distance", "attribute_before", "attribute_after")
SHARE = 0.25
"""Of a job's faces: so many outside, and at least two unless there is only one, and the job is outside."""
LONGEST_TEXT = 300
_MOST_MEASURED = 64
_LARGEST = 1e30


@dataclass(frozen=True)
class Limits:
    """The largest attribute losses of faces that the networks know; None where that was not measured."""

    trained_on: str
    before: float
    """Before the first step, whatever their number."""
    after: float | None = None
    """After the last of so many steps."""

    def verdict(self, before: float | None, after: float | None = None) -> Verdict:
        """Whether a face of these losses is one that the networks know; None for a loss that nobody knows."""
        value, limit = (before, self.before) if self.after is None or after is None else (after, self.after)
        if value is None or not math.isfinite(value):
            return "unknown"
        return "outside" if value > limit else "inside"


@dataclass(frozen=True)
class Known:
    """How many faces of a job the networks know, and whether they know the job's kind of faces."""

    verdict: Verdict
    faces: int
    """Those that could be judged."""
    outside: int
    trained_on: str | None
    """What the bundle says of it; None where it records nothing."""

    def __str__(self) -> str:
        if self.trained_on is None:
            return "the bundle does not record what its networks know"
        return f"{self.outside} of {self.faces} faces are unlike what the networks know ({self.trained_on})"


def known(verdicts: Iterable[Verdict], limits: Limits | None) -> Known:
    """What faces' verdicts say of them all; single odd ones among many do not make a job one of unknown faces."""
    counts = Counter(verdicts)
    faces, outside = counts["inside"] + counts["outside"], counts["outside"]
    if limits is None or not faces:
        return Known("unknown", faces, outside, None if limits is None else limits.trained_on)
    enough = max(SHARE * faces, min(2, faces))
    return Known("outside" if outside >= enough else "inside", faces, outside, limits.trained_on)


def limits_of(
    domain: Mapping[str, Any] | None, preset: str, steps: int | None, *, alike: Collection[str] = ()
) -> Limits | None:
    """The limits that a checked section gives for a preset and a number of steps; None where it has none.

    steps: None where they are made in another way than those that were measured. `alike` are presets of the same
    recipes, which see the same before the first step.
    """
    if domain is None:
        return None
    before: float | None = None
    after: float | None = None
    for entry in domain["measured"]:
        if entry["preset"] in (preset, *alike) and before is None:
            before = entry["attribute_before"][LIMIT]
        if (entry["preset"], entry["steps"]) == (preset, steps) and "attribute_after" in entry:
            after = entry["attribute_after"][LIMIT]
    return None if before is None else Limits(domain["trained_on"], before, after)


def check_domain(domain: Any) -> None:
    """Raises ValueError, saying what is wrong, for a value that is no section of this kind."""
    _record(domain, {"trained_on", "pool", "quantiles", "measured"}, "domain")
    text = domain["trained_on"]
    if type(text) is not str or not 0 < len(text) <= LONGEST_TEXT:
        raise ValueError("domain: what it says it was trained on is no text of at most 300 characters")
    _record(domain["pool"], {"size", "truncation_psi", "seed"}, "domain: pool")
    if not all(type(value) in (int, float) and abs(value) < 2**64 for value in domain["pool"].values()):
        raise ValueError("domain: a value of its pool is no number")
    if domain["quantiles"] != list(QUANTILES):
        raise ValueError(f"domain: its quantiles are not {', '.join(map(str, QUANTILES))}")
    measured = domain["measured"]
    if type(measured) is not list or not 0 < len(measured) <= _MOST_MEASURED:
        raise ValueError("domain: what was measured is no list of 1 to 64 records")
    for entry in measured:
        _check_measured(entry)


def are_limits(value: Any) -> bool:
    """Whether a value is what a job records of its limits, see `Limits`; None where there are none."""
    if value is None:
        return True
    if type(value) is not dict or {*value} != {"trained_on", "before", "after"}:
        return False
    text, after = value["trained_on"], value["after"]
    return (
        type(text) is str
        and 0 < len(text) <= LONGEST_TEXT
        and _is_number(value["before"])
        and (after is None or _is_number(after))
    )


def _check_measured(entry: Any) -> None:
    names = {"preset", "steps", "margin", "faces", "optimised", *MEASURES}
    _record(entry, names - {"attribute_after"}, "domain: measured", optional=frozenset({"attribute_after"}))
    if type(entry["preset"]) is not str or len(entry["preset"]) > LONGEST_TEXT:
        raise ValueError("domain: a preset is no name")
    for name in ("steps", "faces", "optimised"):
        if type(entry[name]) is not int or not 0 <= entry[name] < 2**53:
            raise ValueError(f"domain: {name} is no count")
    if not _is_number(entry["margin"]):
        raise ValueError("domain: margin is no number")
    for name in MEASURES:
        values = entry.get(name, [0.0] * len(QUANTILES))
        if type(values) is not list or len(values) != len(QUANTILES) or not all(map(_is_number, values)):
            raise ValueError(f"domain: {name} is not {len(QUANTILES)} numbers")
        if values != sorted(values):
            raise ValueError(f"domain: {name} does not rise")


def _record(value: Any, names: set[str], what: str, optional: frozenset[str] = frozenset()) -> None:
    if type(value) is not dict or not names <= {*value} <= names | optional:
        raise ValueError(f"{what} is not a record of {', '.join(sorted(names))}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST  # false for nan
