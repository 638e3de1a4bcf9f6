"""What the method gives back for a batch of originals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.images.pixels import Floats, Pixels


@dataclass(frozen=True)
class AnonymizedBatch:
    """Results of N originals; images are uint8 [N, R, R, 3], scalars are float32 [N]."""

    images: Pixels
    codes: Floats
    neighbour_id: npt.NDArray[np.int64]
    neighbour_distance: npt.NDArray[np.float64]
    identity_before: Floats
    identity_after: Floats
    attribute_before: Floats
    attribute_after: Floats
    finite: npt.NDArray[np.bool_]
    """False where the optimisation left the range of numbers; such an image must not be used."""
    steps: npt.NDArray[np.int64]
    seconds: npt.NDArray[np.float64]
    """Wall time of everything that was done for the image, each time divided by the number it was done for."""
    inversions: Pixels | None = None
    neighbours: Pixels | None = None


Results = Iterator[tuple[list[int], AnonymizedBatch]]
"""Numbers of originals that finished together, counted from 0 as they came, with their results."""


def joined(results: list[AnonymizedBatch], order: npt.NDArray[np.integer]) -> AnonymizedBatch:
    """Several batches as one, in another order; without intermediates."""
    names = [name for name, value in vars(results[0]).items() if value is not None]
    return AnonymizedBatch(**{name: np.concatenate([getattr(part, name) for part in results])[order] for name in names})
