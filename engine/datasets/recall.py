"""How many of the faces that are known to be there were found, with an exact interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.images.overlap import overlaps

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Recall:
    """Faces that were found, of those that are there; those of several pictures can be added."""

    found: int = 0
    faces: int = 0

    def __add__(self, other: Recall) -> Recall:
        return Recall(self.found + other.found, self.faces + other.faces)

    @property
    def share(self) -> float | None:
        """0..1; None of no faces."""
        return self.found / self.faces if self.faces else None

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The exact interval (Clopper and Pearson, Biometrika 1934) of the share; 0 to 1 of no faces."""
        if not self.faces:
            return 0.0, 1.0
        from scipy.stats import binomtest

        low, high = binomtest(self.found, self.faces).proportion_ci(confidence, "exact")
        return float(low), float(high)


def recall(found: Floats, truth: Floats, iou: float = 0.4) -> Recall:
    """Of one picture: found [m, 4] and truth [n, 4] hold boxes (left, top, right, bottom), in any order.

    A face is found where a box shares at least `iou` of their union with its own. Each box finds one face at most, and
    they are matched so that as many as possible are found.
    """
    if not len(found) or not len(truth):
        return Recall(0, len(truth))
    from scipy.optimize import linear_sum_assignment

    enough = overlaps(found, truth) >= iou
    return Recall(int(enough[linear_sum_assignment(enough, maximize=True)].sum()), len(truth))
