"""Resampling: intervals that stay within their strata, cover the truth and repeat."""

import numpy as np
import pytest
from numpy.random import default_rng
from scipy import stats

from n3.stats.comparison import stratified_bootstrap


def mean_of_means(strata):
    return float(np.mean([runs.mean() for runs in strata]))


def test_strata_are_never_mixed():
    """Each stratum holds one value: drawn again within it nothing moves, whatever lies between the strata."""
    strata = [np.full(5, 1.0), np.full(9, 100.0)]
    assert stratified_bootstrap(strata, mean_of_means, resamples=50) == (50.5, 50.5)


def test_the_interval_of_a_mean_is_that_of_its_normal_law():
    strata = [default_rng(n).normal(n, 1.0, 200) for n in range(3)]
    low, high = stratified_bootstrap(strata, mean_of_means, level=0.9)
    deviation = np.sqrt(sum(runs.var() / 200 for runs in strata)) / 3
    expected = mean_of_means(strata) + deviation * stats.norm.ppf([0.05, 0.95])
    np.testing.assert_allclose([low, high], expected, atol=0.1 * deviation)


def test_rows_are_drawn_whole():
    pairs = np.stack([np.arange(30.0), -np.arange(30.0)], axis=1)
    low, high = stratified_bootstrap([pairs], lambda strata: strata[0].sum(axis=1).max(), resamples=20)
    assert (low, high) == (0.0, 0.0)


def test_an_array_of_numbers_has_ends_of_its_shape():
    low, high = stratified_bootstrap([default_rng(0).normal(size=(20, 3))], lambda s: s[0].mean(axis=0))
    assert low.shape == high.shape == (3,)
    assert (low < high).all()


def test_equal_calls_give_equal_intervals_and_other_seeds_others():
    strata = [default_rng(0).normal(size=20)]
    first, again, other = (stratified_bootstrap(strata, mean_of_means, resamples=50, seed=n) for n in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("strata", "level", "message"),
    [
        ([], 0.95, "`strata`"),
        ([np.ones(3), np.ones(0)], 0.95, r"\[3, 0\] runs"),
        ([np.ones(2)], 1.0, "`level`"),
    ],
)
def test_what_cannot_be_drawn_is_refused(strata, level, message):
    with pytest.raises(ValueError, match=message):
        stratified_bootstrap(strata, mean_of_means, level=level)


def test_one_run_says_nothing_of_its_spread():
    """The statistic over a stratum of one run would not move, and its interval would claim certainty."""
    low, high = stratified_bootstrap(
        [np.arange(9.0), np.ones(1)], lambda s: np.array([s[0].mean(), s[1].mean()])
    )
    assert low.shape == high.shape == (2,)
    assert np.isnan([low, high]).all()
