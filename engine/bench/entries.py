"""What a measurement becomes in a result: the layout of docs/bench.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from faceanon_engine.engine.bench.measure import Samples, notes_on, summarise, thinned

KEPT_SAMPLES = 200
"""Samples that an entry keeps; statistics are over all of them."""


def timing(samples: Samples, total: str, parts: Sequence[str]) -> dict[str, Any]:
    """The fields of an entry that come from its samples; `total` names the field of the whole, `parts` are the rest."""
    durations = samples.milliseconds()
    return {
        total: rounded(asdict(summarise(durations))),
        **{f"{part}_ms": _statistics(samples, part) for part in parts},
        "round_medians_ms": [round(value, 6) for value in samples.round_medians()],
        "samples_ms": [round(value, 6) for value in thinned(durations, KEPT_SAMPLES)],
        "notes": [rounded(asdict(note)) for note in notes_on(samples)],
    }


def _statistics(samples: Samples, part: str) -> dict[str, Any] | None:
    durations = samples.milliseconds(part)
    return rounded(asdict(summarise(durations))) if durations else None


def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}


def left_out(reason: Exception | str, **what: Any) -> dict[str, Any]:
    """An entry for what was not measured: kind "session", "optimise" or "memory", and what is known of the case."""
    line = next((line.strip() for line in str(reason).splitlines() if line.strip()), type(reason).__name__)
    empty = {"kind": "session", "graph": None, "backend": None, "precision": None, "batch": None}
    return {**empty, **what, "reason": line}
