"""An adversary who learns from the tool's own results: which features of an original does its result still tell?

Originals and results of other people are pairs, and both are features of some kind (an embedding, rows of a code, a few
pixels). The model is the log likelihood ratio of two Gaussians: a result and an original that belong together, against
two that do not. Source: "two-covariance" scoring in speaker verification (Bruemmer and de Villiers, 2010), with the
features of results and of originals told apart, as they are not alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.intp]

SIZES = (4, 8, 16, 32, 64)
"""Principal components that are tried: as many as the pairs bear."""
_LARGEST = 0.999


@dataclass(frozen=True, eq=False)
class _Whitened:
    """Features [N, d] as principal components [N, k] of mean 0 and variance 1."""

    mean: Floats
    axes: Floats

    @classmethod
    def of(cls, features: Floats, size: int) -> _Whitened:
        mean = features.mean(axis=0)
        _, spread, axes = np.linalg.svd(features - mean, full_matrices=False)
        spread = spread[:size] / np.sqrt(max(1, len(features) - 1))
        kept = spread > 1e-6 * max(spread[0], 1e-12)
        return cls(mean, (axes[:size][kept] / spread[kept][:, None]).T)

    def __call__(self, features: Floats) -> Floats:
        return np.asarray((features - self.mean) @ self.axes)


@dataclass(frozen=True, eq=False)
class PairModel:
    """How results and originals of one person go together; `fit` makes one."""

    results: _Whitened
    originals: _Whitened
    left: Floats
    right: Floats
    correlations: Floats
    """[k]: canonical correlations of the whitened features, by their directions [., k] on either side."""

    @classmethod
    def fit(cls, results: Floats, originals: Floats, size: int) -> PairModel:
        """results [N, d] and originals [N, e] of N people; size: principal components of either.

        Raises ValueError for fewer than 8 people, and for features that are not finite.
        """
        if len(results) != len(originals) or len(results) < 8:
            raise ValueError(f"{len(results)} results and {len(originals)} originals: give those of 8 people or more")
        if not (np.isfinite(results).all() and np.isfinite(originals).all()):
            raise ValueError("some features are no finite numbers")
        size = min(size, len(results) - 2)
        of_results, of_originals = _Whitened.of(results, size), _Whitened.of(originals, size)
        x, y = of_results(results), of_originals(originals)
        left, correlations, right = np.linalg.svd(x.T @ y / (len(x) - 1), full_matrices=False)
        return cls(of_results, of_originals, left, right.T, np.clip(correlations, 0, _LARGEST))

    def scores(self, results: Floats, originals: Floats) -> Floats:
        """Log likelihood ratios [N, M] of results [N, d] and originals [M, e]: the higher, the rather of one person."""
        x, y = self.results(results) @ self.left, self.originals(originals) @ self.right
        square = self.correlations**2
        alone = square / (2 * (1 - square))
        constant = -0.5 * np.log(1 - square).sum()
        together = (x * (self.correlations / (1 - square))) @ y.T
        return np.asarray(together - (x**2 @ alone)[:, None] - (y**2 @ alone)[None] + constant)


def fitted(results: Floats, originals: Floats, seed: int = 0) -> PairModel:
    """The model of pairs [N, d], [N, e] whose size tells held-out pairs apart best, by two halves of the people."""
    order = np.random.default_rng(seed).permutation(len(results))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    sizes = [size for size in SIZES if size <= max(SIZES[0], len(results) // 4)]

    def told_apart(size: int) -> float:
        shares = []
        for train, test in (halves, halves[::-1]):
            scores = PairModel.fit(results[train], originals[train], size).scores(results[test], originals[test])
            # How often a stranger scores lower: the area under the ROC curve of every probe.
            shares.append(float((np.diagonal(scores)[:, None] > scores).sum() / (scores.size - len(scores))))
        return float(np.mean(shares))

    return PairModel.fit(results, originals, max(sizes, key=told_apart))


def fused(train: Sequence[Floats], test: Sequence[Floats]) -> Floats:
    """Scores [N, M] of several attacks as one: Fisher's linear discriminant of matching and other pairs.

    train: scores [K, K] of people on whom nothing was fitted, whose pairs stand on the diagonal; test: [N, M] each.
    """
    own = np.eye(len(train[0]), dtype=bool)
    scale = [(np.mean(each[~own]), np.std(each[~own]) + 1e-12) for each in train]

    def columns(scores: Sequence[Floats], where: npt.NDArray[np.bool_]) -> Floats:
        parts = [(each[where] - mean) / deviation for each, (mean, deviation) in zip(scores, scale, strict=True)]
        return np.stack(parts, axis=1)

    matching, others = columns(train, own), columns(train, ~own)
    within = np.cov(matching.T) + np.cov(others.T)
    within = np.atleast_2d(within) + 1e-3 * np.eye(len(train))
    weights = np.linalg.solve(within, matching.mean(axis=0) - others.mean(axis=0))
    return np.asarray(
        sum(
            weight * (each - mean) / deviation
            for weight, each, (mean, deviation) in zip(weights, test, scale, strict=True)
        )
    )


def halves(people: int, seed: int = 0) -> Iterator[tuple[Indices, Indices]]:
    """People who are learnt from, and people who are then looked for: two halves by chance, and the other way round."""
    order = np.random.default_rng(seed).permutation(people)
    one, other = np.sort(order[: people // 2]), np.sort(order[people // 2 :])
    yield one, other
    yield other, one


def held_out_scores(results: Floats, originals: Floats, gallery: Floats, train: Indices, test: Indices) -> Floats:
    """Scores [T, T + D] of the people `test` by a model fitted on the people `train`.

    results [N, d], originals [N, e]: of N people, the originals being those that the adversary looks among, followed by
    `gallery` [D, e], of people of whom there are no results.
    """
    model = fitted(results[train], originals[train])
    return model.scores(results[test], np.concatenate([originals[test], gallery]))
