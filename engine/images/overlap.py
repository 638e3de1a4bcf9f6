"""How much boxes share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]


def overlaps(one: Floats, other: Floats) -> Floats:
    """float [m, n]: what boxes [m, 4] and [n, 4] share, as shares of their unions; 0 where either has no area."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(np.clip(each[:, 2:] - each[:, :2], 0, None), axis=-1) for each in (one, other)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared, float), where=shared > 0)
