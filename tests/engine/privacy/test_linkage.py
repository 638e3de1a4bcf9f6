"""The fitted attack finds what is there, nothing where there is nothing, and never learns from whom it looks for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from faceanon_engine.engine.privacy.linkage import PairModel, fitted, fused, halves, held_out_scores
from faceanon_engine.engine.privacy.verification import accepted, first_ranked

PEOPLE = 240


def pairs(shared: int, seed: int = 0, people: int = PEOPLE) -> tuple[np.ndarray, np.ndarray]:
    """Features of results [N, 40] and of originals [N, 50] that have so many hidden values in common, and noise."""
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(people, 8))
    ways = random.normal(size=(8, 40)), random.normal(size=(8, 50))
    results = hidden[:, :shared] @ ways[0][:shared] + 0.3 * random.normal(size=(people, 40))
    return results, hidden @ ways[1] + 0.3 * random.normal(size=(people, 50))


def linked(results: np.ndarray, originals: np.ndarray, distractors: np.ndarray) -> float:
    shares = []
    for train, test in halves(PEOPLE):
        share = accepted(held_out_scores(results, originals, distractors, train, test), 0.01)
        assert share is not None
        shares.append(share.value)
    return float(np.mean(shares))


def test_the_more_a_result_shares_with_its_original_the_more_are_linked() -> None:
    _, distractors = pairs(8, seed=9, people=100)
    shares = [linked(*pairs(shared), distractors) for shared in (1, 3, 8)]
    assert shares == sorted(shares)
    assert shares[0] < 0.4
    assert shares[2] > 0.95


def test_shuffled_pairs_teach_nothing() -> None:
    results, originals = pairs(8)
    shuffled = np.random.default_rng(5).permutation(PEOPLE)
    assert linked(results[shuffled], originals, originals[:0]) < 0.06


def test_scores_are_the_likelihood_ratio_of_the_fitted_gaussians() -> None:
    results, originals = pairs(4)
    model = PairModel.fit(results, originals, 5)
    x = model.results(results[:3]) @ model.left
    y = model.originals(originals[:4]) @ model.right
    cross = np.diag(model.correlations)
    joint = multivariate_normal(np.zeros(10), np.block([[np.eye(5), cross], [cross, np.eye(5)]]))
    alone = multivariate_normal(np.zeros(5), np.eye(5))
    expected = [[joint.logpdf([*one, *two]) - alone.logpdf(one) - alone.logpdf(two) for two in y] for one in x]
    np.testing.assert_allclose(model.scores(results[:3], originals[:4]), expected, atol=1e-8)


def test_halves_share_nobody_and_have_everybody() -> None:
    (one, other), (again, first) = halves(11)
    assert not set(one) & set(other)
    assert sorted([*one, *other]) == list(range(11))
    np.testing.assert_array_equal(one, first)
    np.testing.assert_array_equal(other, again)


def test_two_attacks_together_are_better_than_either() -> None:
    random = np.random.default_rng(3)

    def scores(strength: float) -> np.ndarray:
        return random.normal(size=(200, 200)) + strength * np.eye(200)

    train, test = [scores(2), scores(2), scores(0)], [scores(2), scores(2), scores(0)]
    together = first_ranked(fused(train, test)).value
    assert together > max(first_ranked(each).value for each in test) + 0.1


@pytest.mark.parametrize("spoil", ["few", "nan", "lengths"])
def test_pairs_that_tell_nothing_are_refused(spoil: str) -> None:
    results, originals = pairs(2)
    if spoil == "few":
        results, originals = results[:5], originals[:5]
    elif spoil == "nan":
        results[3, 3] = np.nan
    else:
        results = results[:-1]
    with pytest.raises(ValueError, match=r"people|finite"):
        PairModel.fit(results, originals, 4)


def test_features_that_never_change_do_no_harm() -> None:
    results, originals = pairs(8)
    results = np.concatenate([results, np.ones((PEOPLE, 3))], axis=1)
    model = fitted(results, originals)
    assert np.isfinite(model.scores(results, originals)).all()
    flat = PairModel.fit(np.ones((20, 4)), originals[:20], 4)
    assert np.isfinite(flat.scores(np.ones((3, 4)), originals[:3])).all()
