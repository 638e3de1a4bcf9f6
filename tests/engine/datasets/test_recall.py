"""Recall counts each face and each box once, and its interval is the exact one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceanon_engine.engine.datasets.recall import Recall, recall

SIDES = st.integers(0, 9)
BOXES = st.lists(st.tuples(SIDES, SIDES, SIDES, SIDES), max_size=6).map(
    lambda boxes: np.array([[x, y, x + w, y + h] for x, y, w, h in boxes], float).reshape(-1, 4)
)


def test_each_box_finds_one_face() -> None:
    face = np.array([[0.0, 0, 10, 10]])
    assert recall(face, face) == Recall(1, 1)
    assert recall(face, np.repeat(face, 3, axis=0)) == Recall(1, 3)
    assert recall(np.repeat(face, 3, axis=0), face) == Recall(1, 1)
    assert recall(np.empty((0, 4)), face) == Recall(0, 1)
    assert recall(face, np.empty((0, 4))) == Recall(0, 0)
    # The left box fits both faces, the right one the left face alone: whoever takes the best first finds one.
    truth = np.array([[0.0, 0, 10, 10], [4, 0, 14, 10]])
    found = np.array([[1.0, 0, 11, 10], [-4, 0, 6, 10]])
    assert recall(found, truth) == Recall(2, 2)


def test_a_box_has_to_share_enough() -> None:
    truth = np.array([[0.0, 0, 10, 10]])
    assert recall(truth + np.array([0, 0, 15, 0]), truth).found == 1  # exactly 0.4
    assert recall(truth + np.array([0, 0, 15.1, 0]), truth).found == 0
    assert recall(truth + np.array([0, 0, 15.1, 0]), truth, iou=0.39).found == 1
    assert recall(np.full((1, 4), np.nan), truth).found == 0
    assert recall(np.zeros((1, 4)), np.zeros((1, 4))).found == 0


@given(BOXES, BOXES)
def test_the_order_means_nothing(found: np.ndarray, truth: np.ndarray) -> None:
    one = recall(found, truth)
    assert one == recall(found[::-1], truth[::-1])
    assert one.found == recall(truth, found).found
    assert one.found <= min(len(found), len(truth))


def test_the_interval_is_that_of_the_tables() -> None:
    # Clopper and Pearson's intervals have closed forms at the ends: 1 - (0.025) ** (1 / n) for none of n.
    assert Recall(0, 10).interval() == pytest.approx((0, 1 - 0.025**0.1))
    assert Recall(10, 10).interval() == pytest.approx((0.025**0.1, 1))
    # R: binom.test(95, 100)$conf.int
    assert Recall(95, 100).interval() == pytest.approx((0.8871651, 0.9835681), abs=1e-6)
    assert Recall(0, 0).interval() == (0, 1)
    low, high = Recall(95, 100).interval(0.5)
    assert 0.887 < low < 0.95 < high < 0.983


def test_pictures_add_up() -> None:
    total = Recall(1, 2) + Recall(3, 3)
    assert total == Recall(4, 5)
    assert total.share == 0.8
    assert Recall().share is None
