"""Tails: what a few large losses do to a mean, by hand and in the limits."""

import numpy as np
import pytest
from numpy.random import default_rng

from n3.stats.distributions import stuck_fraction, stuck_threshold, tail_summary


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
