"""Distributions: by hand, against values of another implementation, and in the cases of ties and lost runs."""

import numpy as np
import pytest
from numpy.random import default_rng

from n3.stats.comparison import interquartile_mean
from n3.stats.distributions import (
    histogram,
    performance_profile,
    probability_of_improvement,
    setting_curves,
    stuck_fraction,
    stuck_threshold,
    tail_summary,
)

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


def test_summary_by_hand():
    found = tail_summary(np.array([1.0, np.e**2, np.nan, np.inf]))
    assert (found.diverged, found.mean) == (2, pytest.approx((1 + np.e**2) / 2))
    assert found.geometric_mean == pytest.approx(np.e)
    assert found.log_deviation == pytest.approx(1.0)
    assert found.largest_share == pytest.approx(np.e**2 / (1 + np.e**2))


def test_one_stuck_run_moves_the_mean_alone():
    losses = default_rng(0).lognormal(-7.0, 0.5, 200)
    before = tail_summary(losses)
    after = tail_summary(np.where(losses == losses.max(), 1.0, losses))
    assert after.mean > 4 * before.mean
    assert after.largest_share > 0.8
    assert after.median == before.median
    assert after.trimmed_mean == pytest.approx(before.trimmed_mean)
    assert after.geometric_mean == pytest.approx(before.geometric_mean, rel=0.05)


def test_the_trimmed_mean_leaves_out_a_twentieth_at_either_end():
    assert tail_summary(np.array([*[0.0] * 2, *[3.0] * 36, *[900.0] * 2])).trimmed_mean == 3.0


def test_geometric_mean_scales_with_the_loss_and_log_deviation_does_not():
    losses = default_rng(1).lognormal(size=50)
    one, ten = tail_summary(losses), tail_summary(10 * losses)
    assert ten.geometric_mean == pytest.approx(10 * one.geometric_mean)
    assert ten.log_deviation == pytest.approx(one.log_deviation)


def test_a_loss_of_zero_and_no_loss_at_all():
    zero = tail_summary(np.array([0.0, 1.0]))
    assert (zero.geometric_mean, zero.log_deviation) == (0.0, np.inf)
    assert tail_summary(np.zeros(3)).largest_share == 0.0
    assert np.isnan(tail_summary(np.array([np.nan])).mean)


def test_a_negative_loss_is_refused():
    with pytest.raises(ValueError, match=r"`losses` must be zero or more; got -1\.0"):
        tail_summary(np.array([-1.0, 1.0]))


def test_stuck_fraction_by_hand():
    """Wilson's interval of 2 in 20: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    losses = np.array([1.0] * 18 + [50.0, np.nan])
    found = stuck_fraction(losses, above=10.0)
    assert found.value == 0.1
    np.testing.assert_allclose(found[1:], [0.027866, 0.301033], atol=2e-5)


def test_a_stuck_run_lies_ten_times_above_the_median_of_all_arms():
    threshold = stuck_threshold(np.array([1.0, 2.0, np.inf]), np.array([3.0]))
    assert threshold == 20.0
    assert stuck_fraction(np.array([20.0, 20.1]), above=threshold).value == 0.5


def test_none_stuck_still_leaves_an_upper_end():
    found = stuck_fraction(np.ones(100), above=10.0)
    assert (found.value, found.low) == (0.0, 0.0)
    assert 0.03 < found.high < 0.04


def test_no_run_has_no_stuck_fraction():
    with pytest.raises(ValueError, match="one run or more"):
        stuck_fraction(np.ones(0), above=1.0)


def test_bins_are_equal_on_the_logarithm_and_shares_are_of_all_runs():
    found = histogram({"a": np.array([1e-4, 1e-4, 1e-2, np.nan]), "b": np.array([1.0, 0.3])}, bins=4)
    np.testing.assert_allclose(np.diff(np.log10(found.edges)), 1.0, rtol=1e-6)
    assert found.shares["a"].tolist() == [0.5, 0.0, 0.25, 0.0]
    assert found.shares["b"].tolist() == [0.0, 0.0, 0.0, 1.0]
    assert found.medians == {"a": 1e-4, "b": 0.65}


def test_every_finite_run_is_in_a_bin():
    losses = np.random.default_rng(0).lognormal(-5, 3, 1000)
    assert histogram({"a": losses}).shares["a"].sum() == pytest.approx(1.0)
    assert histogram({"a": np.full(5, 0.25), "b": np.zeros(2)}).shares["b"].sum() == 1.0


def test_no_finite_loss_is_refused():
    with pytest.raises(ValueError, match="all runs diverged"):
        histogram({"a": np.array([np.nan])})


def test_curves_over_a_setting_pool_all_runs_that_have_its_value():
    final = lambda *losses: {"test_loss": np.array(losses), "final_size": np.array(losses) + 1.0}  # noqa: E731
    ends = [
        ({"rate": 0.1, "kind": "tanh"}, "static", final(1.0, 2.0, 3.0)),
        ({"rate": 0.1, "kind": "relu"}, "static", final(5.0, np.nan)),
        ({"rate": 0.2, "kind": "tanh"}, "static", final(7.0)),
        ({"rate": 0.2, "kind": "relu"}, "static", final(np.nan)),
    ]
    rate, kind = setting_curves(ends)
    assert (rate.setting, rate.values, kind.values) == ("rate", (0.1, 0.2), ("tanh", "relu"))
    np.testing.assert_allclose(rate.loss, [[1.75, 7.0], [2.5, 7.0], [3.5, 7.0]])
    np.testing.assert_allclose(rate.size, rate.loss + 1.0)
    np.testing.assert_allclose(kind.loss[1], [2.5, 5.0])
    assert np.isnan(setting_curves(ends[3:])[0].loss).all()
