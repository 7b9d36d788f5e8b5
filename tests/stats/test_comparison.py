"""Comparison: statistics by hand, and intervals that stay within their strata, cover the truth and repeat."""

import numpy as np
import pytest
from numpy.random import default_rng
from scipy import stats

from n3.stats.comparison import FLOOR, bootstrap_interval, compare, interquartile_mean, stratified_bootstrap


@pytest.mark.parametrize("statistic", [np.median, np.mean])
@pytest.mark.parametrize("size", [3, 20, 51])
def test_interval_holds_the_statistic_and_grows_with_the_level(statistic, size):
    values = default_rng(size).lognormal(size=size)
    narrow, wide = (bootstrap_interval(values, statistic, level=level) for level in (0.5, 0.99))
    assert wide[0] <= narrow[0] <= statistic(values) <= narrow[1] <= wide[1]


def test_interval_moves_and_scales_with_the_values():
    values = default_rng(0).normal(size=30)
    low, high = bootstrap_interval(values)
    assert bootstrap_interval(3 * values + 1) == pytest.approx((3 * low + 1, 3 * high + 1), rel=1e-9)


def test_interval_of_equal_values_has_no_width():
    assert bootstrap_interval(np.array([2.0, 2.0, 2.0])) == (2.0, 2.0)


def test_one_value_or_one_pair_has_no_interval():
    assert np.isnan(bootstrap_interval(np.array([2.0]))).all()
    found = compare(np.array([1.0, np.nan]), np.array([2.0, 1.0]))
    assert (found.ratio_of_means, found.ratio_of_medians) == (0.5, 0.5)
    assert np.isnan([*found.ci95, *found.ratio_of_means_ci95, *found.ratio_of_medians_ci95]).all()


def test_interval_under_ties_is_the_percentile_interval():
    values = np.array([1.0] * 8 + [5.0, 6.0])  # whichever value goes, the median stays 1
    low, high = bootstrap_interval(values, resamples=500)
    draws = default_rng(1).choice(values, (20_000, 10))
    assert (low, high) == tuple(np.percentile(np.median(draws, axis=1), [2.5, 97.5]))


@pytest.mark.parametrize("statistic, truth", [(np.median, 1.0), (np.mean, np.exp(0.125))])
def test_interval_covers_the_truth(statistic, truth):
    rng, trials = default_rng(2), 300
    samples = rng.lognormal(0, 0.5, (trials, 40))
    ends = np.array([bootstrap_interval(row, statistic, resamples=400) for row in samples])
    covered = np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
    assert abs(covered - 0.95) < 5 * np.sqrt(0.95 * 0.05 / trials)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf, 1.0]])
def test_interval_refuses_what_is_not_finite(values):
    with pytest.raises(ValueError, match="`values` must be finite, one or more"):
        bootstrap_interval(np.array(values))


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_interval_refuses_a_level_beyond_one(level):
    with pytest.raises(ValueError, match=r"`level` must lie in \(0, 1\)"):
        bootstrap_interval(np.array([1.0, 2.0]), level=level)


def test_interquartile_mean_by_hand():
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, 4.0])) == 3.0
    assert interquartile_mean(np.array([5.0])) == 5.0


def test_comparison_by_hand():
    found = compare(np.array([1.0, 2.0, 6.0, 5.0]), np.array([2.0, 8.0, 3.0, 5.0]))
    assert found.median_log_ratio == pytest.approx(-np.log(2) / 2)
    assert (found.wins, found.pairs, found.excluded) == (2, 4, 0)
    assert found.ratio_of_means == pytest.approx(14 / 18)
    assert found.ratio_of_medians == pytest.approx(3.5 / 4)
    assert found.geometric_mean_ratio == pytest.approx(0.25**0.25)


def test_p_value_of_ten_wins_in_ten_is_two_in_1024():
    b = default_rng(0).lognormal(size=10)
    assert compare(b * np.linspace(0.3, 0.9, 10), b).p_value == pytest.approx(2 / 2**10)


def test_swapping_the_arms_negates_logarithms_and_inverts_ratios():
    rng = default_rng(4)
    a, b = rng.lognormal(size=25), rng.lognormal(0.5, size=25)
    one, two = compare(a, b), compare(b, a)
    assert one.median_log_ratio == pytest.approx(-two.median_log_ratio)
    assert one.ci95 == pytest.approx((-two.ci95[1], -two.ci95[0]), abs=0.1)
    assert one.ratio_of_means * two.ratio_of_means == pytest.approx(1)
    assert one.ratio_of_medians * two.ratio_of_medians == pytest.approx(1)
    assert one.p_value == pytest.approx(two.p_value)
    assert one.wins + two.wins == 25


@pytest.mark.parametrize("name", ["ratio_of_means", "ratio_of_medians"])
def test_ratios_lie_in_intervals_that_know_the_pairing(name):
    b = default_rng(5).lognormal(0, 2, size=40)
    a = 0.5 * b * default_rng(6).lognormal(0, 0.01, size=40)
    found = compare(a, b)
    low, high = getattr(found, f"{name}_ci95")
    assert low <= getattr(found, name) <= high
    assert high - low < 0.02


def test_equal_arms_have_no_effect():
    found = compare(np.array([1.0, 2.0, 0.0]), np.array([1.0, 2.0, 0.0]))
    assert (found.median_log_ratio, found.ci95, found.p_value, found.wins) == (0.0, (0.0, 0.0), 1.0, 0)


def test_a_loss_of_zero_counts_as_the_floor():
    assert compare(np.array([0.0]), np.array([1.0])).median_log_ratio == pytest.approx(np.log(FLOOR))


def test_diverged_pairs_are_counted_and_left_out():
    found = compare(np.array([1.0, np.nan, 3.0, 1.0]), np.array([2.0, 1.0, np.inf, 4.0]))
    assert (found.pairs, found.excluded, found.wins) == (2, 2, 2)
    assert found.ratio_of_means == pytest.approx(2 / 6)


def test_comparison_of_nothing_is_nan():
    found = compare(np.array([np.nan]), np.array([1.0]))
    assert np.isnan([found.median_log_ratio, *found.ci95, found.p_value, found.ratio_of_means]).all()
    assert (found.pairs, found.excluded) == (0, 1)


def test_comparison_refuses_a_negative_loss():
    with pytest.raises(ValueError, match=r"`a` and `b` must be losses of zero or more; got -1\.0"):
        compare(np.array([1.0, np.nan]), np.array([-1.0, 2.0]))


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
