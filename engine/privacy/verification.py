"""How well scores tell people apart: accepted at a threshold fixed on strangers, and first of a gallery.

Source: ISO/IEC 19795-1 (verification and identification rates), Clopper and Pearson (Biometrika 1934), Efron's
bootstrap over people, as pictures of one person are no independent observations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]

FEWEST_ABOVE = 10
"""Pairs of strangers that have to lie above a threshold: fewer leave its rate of false accepts unknown."""
RESAMPLED = 1000


@dataclass(frozen=True)
class Share:
    """A share of people with its 95 % interval."""

    value: float
    low: float
    high: float
    people: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def threshold_at(strangers: Floats, rate: float) -> float | None:
    """The score above which that share (0..1) of strangers' scores [N] lies; None where fewer than 10 would.

    Raises ValueError for scores that are not finite.
    """
    scores = np.asarray(strangers, float).ravel()
    if not np.isfinite(scores).all():
        raise ValueError("some scores are no finite numbers")
    above = int(rate * len(scores))
    if above < FEWEST_ABOVE:
        return None
    return float(np.partition(scores, len(scores) - above - 1)[len(scores) - above - 1])


def share_of(hits: Flags, seed: int = 0) -> Share:
    """The share of hits bool [N], one a person: by bootstrap, exact where there are none, or nothing else."""
    count = len(hits)
    if count == 0:
        raise ValueError("a share of nobody was asked for")
    value = float(np.mean(hits))
    if value in (0.0, 1.0):
        from scipy.stats import binomtest

        low, high = binomtest(int(np.sum(hits)), count).proportion_ci(0.95, "exact")
    else:
        drawn = np.random.default_rng(seed).integers(0, count, (RESAMPLED, count))
        low, high = np.quantile(np.asarray(hits, float)[drawn].mean(axis=1), [0.025, 0.975])
    return Share(value, float(low), float(high), count)


def accepted(scores: Floats, rate: float = 0.01) -> Share | None:
    """True accepts at that rate of false ones: scores [N, M], M at least N, person i being column i.

    The threshold is that of all pairs of different people among them; None where they are too few for it.
    """
    strangers = scores[~np.eye(scores.shape[0], scores.shape[1], dtype=np.bool_)]
    threshold = threshold_at(strangers, rate)
    return None if threshold is None else share_of(np.diagonal(scores) > threshold)


def first_ranked(scores: Floats) -> Share:
    """Who is the first in a gallery of M: scores [N, M], person i being column i; one who ties with another is not."""
    own = np.diagonal(scores)[:, None]
    others = np.where(np.eye(scores.shape[0], scores.shape[1], dtype=np.bool_), -np.inf, scores)
    return share_of((own > others.max(axis=1, keepdims=True))[:, 0])
