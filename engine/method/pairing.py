"""Exact nearest neighbours of feature vectors, through FAISS. Source: FALCO, section 3.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.choices import Metric
from faceanon_engine.engine.errors import UserError

FloatArray = npt.NDArray[np.floating[Any]]

# FAISS expands |a - b|^2 for larger query batches and loses digits that way. It proposes this many candidates;
# the exact float64 distance decides among them, so a neighbour does not depend on the size of the query batch.
_CANDIDATES = 16


@dataclass(frozen=True)
class Neighbours:
    """For each query the nearest pool rows: ids int64 [N, k] and distances float64 [N, k], nearest first."""

    ids: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]


_LARGEST = 1e15
"""Of a feature: the squares of larger ones are beyond float32, in which the index computes."""


class NearestNeighbours:
    """An exact index over feature vectors [M, D] (any float type, memory-mapped or not)."""

    def __init__(self, features: FloatArray, metric: Metric = "euclidean") -> None:
        """Index the features; raises UserError for an unknown metric or an empty pool."""
        import faiss

        if metric not in get_args(Metric):
            raise UserError(f"unknown metric {metric!r}: use one of {', '.join(get_args(Metric))}")
        if features.ndim != 2 or not len(features):
            raise UserError(f"the pool's features have shape {features.shape}: expected at least one row [M, D]")
        self.metric: Metric = metric
        self._features = features
        rows = self._prepared(features)
        self._index = (faiss.IndexFlatL2 if metric == "euclidean" else faiss.IndexFlatIP)(rows.shape[1])
        self._index.add(rows)

    def _prepared(self, features: FloatArray) -> npt.NDArray[np.float32]:
        if features.size and not (features.max() <= _LARGEST and features.min() >= -_LARGEST):
            raise UserError(f"features beyond {_LARGEST:g}, or that are no numbers, cannot be compared: make them anew")
        rows = np.ascontiguousarray(features, dtype=np.float32)
        if self.metric == "cosine":
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return rows

    def search(self, queries: FloatArray, k: int = 1) -> Neighbours:
        """The k nearest rows of each query [N, D]; ties go to the lower row.

        Distances are Euclidean, or one minus the cosine. Raises UserError when k exceeds the pool.
        """
        total = len(self._features)
        if not 1 <= k <= total:
            raise UserError(f"{k} neighbours were asked for, the pool holds {total}: ask for at most {total}")
        if queries.ndim != 2 or queries.shape[1] != self._features.shape[1]:
            raise UserError(
                f"features have shape {queries.shape}, the pool's have {self._features.shape[1]} columns: "
                "use features and a pool of the same bundle"
            )
        wanted = min(total, max(k, _CANDIDATES))
        _, nearest = self._index.search(self._prepared(queries), wanted)
        ids = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.float64)
        for row, candidates in enumerate(nearest):
            candidates = np.sort(candidates[candidates >= 0])
            exact = self._exact(queries[row], self._features[candidates])
            order = np.argsort(exact, kind="stable")[:k]
            ids[row], distances[row] = candidates[order], exact[order]
        return Neighbours(ids, distances)

    def _exact(self, query: FloatArray, candidates: FloatArray) -> npt.NDArray[np.float64]:
        a, b = query.astype(np.float64), np.asarray(candidates, np.float64)
        if self.metric == "euclidean":
            return np.linalg.norm(b - a, axis=1)
        return 1 - b @ a / np.maximum(np.linalg.norm(b, axis=1) * np.linalg.norm(a), 1e-12)
