"""Thresholds are those of strangers, and shares know how sure they are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from faceanon_engine.engine.privacy.verification import accepted, first_ranked, share_of, threshold_at


def test_a_threshold_lets_its_share_of_strangers_pass() -> None:
    scores = np.random.default_rng(1).permutation(np.arange(10_000.0))
    for rate in (0.01, 0.1, 0.5):
        threshold = threshold_at(scores, rate)
        assert threshold is not None
        assert (scores > threshold).mean() == pytest.approx(rate)
    assert threshold_at(scores[:999], 0.01) is None, "nine strangers tell nothing"
    with pytest.raises(ValueError, match="finite"):
        threshold_at(np.array([1.0, np.nan]), 0.5)


def test_equal_scores_pass_no_threshold() -> None:
    threshold = threshold_at(np.ones(1000), 0.05)
    assert threshold == 1
    share = accepted(np.ones((40, 60)), 0.05)
    assert share is not None
    assert share.value == 0


def test_a_share_has_an_interval_also_where_it_is_none_or_all() -> None:
    none = share_of(np.zeros(50, bool))
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(binomtest(0, 50).proportion_ci(0.95, "exact").high)
    assert share_of(np.ones(50, bool)).low == pytest.approx(1 - none.high)
    some = share_of(np.arange(400) % 4 == 0)
    assert some.value == 0.25
    assert some.high - some.low == pytest.approx(2 * 1.96 * np.sqrt(0.25 * 0.75 / 400), rel=0.15)
    with pytest.raises(ValueError, match="nobody"):
        share_of(np.zeros(0, bool))


def test_own_columns_count_and_the_others_are_strangers() -> None:
    scores = np.random.default_rng(2).normal(size=(200, 300))
    scores[np.arange(100), np.arange(100)] += 10
    share = accepted(scores, 0.01)
    assert share is not None
    assert share.value == pytest.approx(0.5, abs=0.02)
    assert first_ranked(scores).value == pytest.approx(0.5, abs=0.02)
    assert first_ranked(np.zeros((9, 9))).value == 0, "a tie finds nobody"
    assert accepted(scores[:5, :5]) is None
