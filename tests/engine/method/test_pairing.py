"""Nearest neighbours are exact and do not depend on who else asks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method.pairing import NearestNeighbours


def brute_force(pool: np.ndarray, queries: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    pool, queries = pool.astype(np.float64), queries.astype(np.float64)
    if metric == "euclidean":
        distances = np.linalg.norm(queries[:, None] - pool[None], axis=2)
    else:
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, pool)]
        distances = 1 - unit[0] @ unit[1].T
    return distances.argmin(axis=1), distances.min(axis=1)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(2, 24), st.integers(0, 2**31), st.booleans())
def test_neighbours_are_those_of_brute_force(size: int, count: int, width: int, seed: int, cosine: bool) -> None:
    metric = "cosine" if cosine else "euclidean"
    rng = np.random.default_rng(seed)
    # A large common offset is what makes the expanded form of the distance lose digits.
    pool = (rng.normal(size=(size, width)) + 20).astype(np.float32)
    queries = (rng.normal(size=(count, width)) + 20).astype(np.float32)
    ids, distances = brute_force(pool, queries, metric)
    neighbours = NearestNeighbours(pool, metric).search(queries)
    np.testing.assert_allclose(neighbours.distances[:, 0], distances, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(neighbours.ids[:, 0], ids)


def test_a_query_gets_the_same_neighbour_alone_and_in_a_crowd() -> None:
    rng = np.random.default_rng(5)
    pool = (rng.normal(size=(4000, 64)) * 1e-3 + 30).astype(np.float32)
    queries = (rng.normal(size=(50, 64)) * 1e-3 + 30).astype(np.float32)
    index = NearestNeighbours(pool)
    together = index.search(queries, k=3)
    for row, query in enumerate(queries):
        alone = index.search(query[None], k=3)
        np.testing.assert_array_equal(alone.ids[0], together.ids[row])
        np.testing.assert_array_equal(alone.distances[0], together.distances[row])


def test_ties_go_to_the_lower_row() -> None:
    pool = np.ones((5, 4), np.float32)
    assert NearestNeighbours(pool).search(pool[:1], k=5).ids.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("pool", "metric", "word"),
    [(np.zeros((0, 4), np.float32), "euclidean", "at least one row"), (np.ones((2, 4), np.float32), "l7", "l7")],
)
def test_a_useless_pool_or_metric_is_refused(pool: np.ndarray, metric: str, word: str) -> None:
    with pytest.raises(UserError, match=word):
        NearestNeighbours(pool, metric)  # type: ignore[arg-type]


def test_features_of_another_bundle_are_refused() -> None:
    with pytest.raises(UserError, match="same bundle"):
        NearestNeighbours(np.ones((2, 4), np.float32)).search(np.ones((1, 5), np.float32))


@pytest.mark.parametrize("value", [1e300, -1e300, 1e38, np.nan, np.inf])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_features_that_cannot_be_compared_are_refused(value: float, metric: str) -> None:
    pool, queries = np.ones((3, 4)), np.ones((2, 4))
    queries[1, 2] = value
    with pytest.raises(UserError, match="cannot be compared"):
        NearestNeighbours(pool, metric).search(queries)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="cannot be compared"):
        NearestNeighbours(queries, metric)  # type: ignore[arg-type]


def test_no_queries_have_no_neighbours() -> None:
    assert NearestNeighbours(np.ones((3, 4))).search(np.ones((0, 4))).ids.shape == (0, 1)
