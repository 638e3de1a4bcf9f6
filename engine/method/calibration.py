"""How faces that a bundle's networks know score: the section "domain" of its record, measured on such faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import Pixels
from faceanon_engine.engine.method.anonymized import AnonymizedBatch, joined
from faceanon_engine.engine.method.falco import Falco
from faceanon_engine.engine.models.domain import LONGEST_TEXT, QUANTILES
from faceanon_engine.engine.system.progress import Progress

LEAST_FACES = 100
"""Of fewer nobody can say what 99 of 100 have."""
_TOGETHER = 16


def measure_domain(
    trained_on: str,
    faces: Pixels,
    optimised: int,
    presets: Sequence[str],
    opened: Callable[[str], Falco],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The section for `bundle.json`, as `models/domain.py` describes it.

    faces: aligned, uint8 [N, S, S, 3], which the networks know and were not trained on. So many of them, evenly
    spread, are also optimised to the end; 0 leaves that out. `opened` gives the method of a preset by its name, all
    with one pool. Raises UserError for fewer faces than tell anything, and where a loss is not finite.
    """
    if not 0 < len(trained_on) <= LONGEST_TEXT:
        raise UserError(f"what the networks were trained on takes 1 to {LONGEST_TEXT} characters: say it shorter")
    if len(faces) < LEAST_FACES or 0 < optimised < LEAST_FACES:
        raise UserError(
            f"{len(faces)} faces, {optimised} of them optimised: at least {LEAST_FACES} are needed to know what 99 of "
            "100 have; optimising none is possible, too"
        )
    chosen = faces[np.linspace(0, len(faces) - 1, min(optimised, len(faces))).round().astype(int)]
    measured = []
    for preset in presets:
        falco = opened(preset)
        entry, pool = _measured(falco, preset, faces, chosen, progress), falco.pool.spec
        measured.append(entry)
    return {
        "trained_on": trained_on,
        "pool": {"size": pool.size, "truncation_psi": pool.truncation_psi, "seed": pool.seed},
        "quantiles": list(QUANTILES),
        "measured": measured,
    }


def _measured(falco: Falco, preset: str, faces: Pixels, chosen: Pixels, progress: Progress | None) -> dict[str, Any]:
    what = f"measuring known faces, {preset}"
    total = len(faces) + len(chosen)
    before = _in_parts(falco.before_steps, faces, 0, total, what, progress)
    entry: dict[str, Any] = {
        "preset": preset,
        "steps": falco.preset.steps,
        "margin": falco.settings.margin,
        "faces": len(faces),
        "optimised": len(chosen),
        "neighbour_distance": _quantiles(before.neighbour_distance),
        "attribute_before": _quantiles(before.attribute_before),
    }
    if len(chosen):
        after = _in_parts(falco.anonymize, chosen, len(faces), total, what, progress)
        entry["attribute_after"] = _quantiles(after.attribute_after)
    return entry


def _in_parts(
    work: Callable[[Pixels], AnonymizedBatch],
    faces: Pixels,
    done: int,
    total: int,
    what: str,
    progress: Progress | None,
) -> AnonymizedBatch:
    parts = []
    for first in range(0, len(faces), _TOGETHER):
        parts.append(work(faces[first : first + _TOGETHER]))
        if progress is not None:
            progress(done + min(len(faces), first + _TOGETHER), total, what)
    return joined(parts, np.arange(len(faces)))


def _quantiles(values: npt.NDArray[np.floating[Any]]) -> list[float]:
    if not np.isfinite(values).all():
        raise UserError("a known face leaves the range of numbers: these networks cannot be measured")
    return [round(float(value), 4) for value in np.quantile(values.astype(np.float64), QUANTILES)]
