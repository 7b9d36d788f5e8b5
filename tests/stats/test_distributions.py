"""Profiles: by hand, against values of another implementation, and in the cases of ties and lost runs."""

import numpy as np
import pytest
from numpy.random import default_rng

from n3.stats.comparison import interquartile_mean
from n3.stats.distributions import performance_profile, probability_of_improvement

OWN = (np.arange(1, 41) ** 1.7 % 13).reshape(10, 4)
OTHER = (np.arange(1, 33) ** 1.3 % 11).reshape(8, 4)
"""Two made-up methods on four tasks. The values expected of them below were computed once by rliable 1.2.0
(scores negated, 20,000 stratified resamples)."""


def test_interquartile_means_over_all_tasks_are_those_of_the_reference():
    assert interquartile_mean(OWN.ravel()) == pytest.approx(6.733682881239292, rel=1e-12)
    assert interquartile_mean(OTHER.ravel()) == pytest.approx(5.212325017430095, rel=1e-12)


def test_probability_of_improvement_is_that_of_the_reference():
    found = probability_of_improvement([*OWN.T], [*OTHER.T], resamples=4000)
    assert found.value == pytest.approx(0.3953125, rel=1e-12)
    np.testing.assert_allclose(found[1:], [0.2671875, 0.5234375], atol=0.01)


def test_profile_is_that_of_the_reference():
    found = performance_profile([*OWN.T], np.array([2.0, 5.0, 8.0]), resamples=4000)
    np.testing.assert_allclose(found.share, [0.125, 0.325, 0.625])
    np.testing.assert_allclose(found.low, [0.025, 0.2, 0.475], atol=0.03)
    np.testing.assert_allclose(found.high, [0.225, 0.45, 0.75], atol=0.03)


def test_profile_by_hand():
    found = performance_profile(
        [np.array([1.0, 2.0]), np.array([3.0, 3.0, 3.0, 9.0])], np.array([1.0, 3.0]), resamples=10
    )
    np.testing.assert_allclose(found.share, [0.25, (1 + 0.75) / 2])


def test_profiles_rise_within_their_bands_and_end_at_the_runs_that_did_not_diverge():
    losses = default_rng(0).lognormal(size=40)
    losses[:4] = np.nan, np.inf, np.nan, np.inf
    found = performance_profile([losses], np.geomspace(1e-3, 1e9, 30), resamples=200)
    assert (np.diff(found.share) >= 0).all()
    assert ((found.low <= found.share) & (found.share <= found.high)).all()
    assert (found.share[0], found.share[-1]) == (0.0, 0.9)


def test_probability_by_hand_with_a_tie():
    found = probability_of_improvement([np.array([1.0, 4.0])], [np.array([2.0, 4.0])], resamples=10)
    assert found.value == pytest.approx((1 + 1 + 0 + 0.5) / 4)


def test_the_two_probabilities_sum_to_one_and_a_method_ties_with_itself():
    a, b = [*OWN.T], [*OTHER.T]
    found, back = (probability_of_improvement(*sides, resamples=10) for sides in ((a, b), (b, a)))
    assert found.value + back.value == pytest.approx(1.0)
    assert probability_of_improvement(a, a, resamples=10).value == pytest.approx(0.5)


def test_a_lost_run_loses_to_every_other_and_ties_with_the_lost():
    found = probability_of_improvement([np.array([np.nan])], [np.array([1.0, np.inf])], resamples=10)
    assert found.value == 0.25


def test_methods_must_have_the_same_tasks():
    with pytest.raises(ValueError, match="`a` and `b` must have the same tasks; got 2 and 1"):
        probability_of_improvement([np.ones(2), np.ones(2)], [np.ones(2)])


def test_a_task_without_runs_is_refused():
    with pytest.raises(ValueError, match="one run or more"):
        performance_profile([np.ones(0)], np.array([1.0]))
