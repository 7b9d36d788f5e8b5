"""Scaling: known laws come back, the slope is the textbook's, and intervals cover the truth."""

import numpy as np
import pytest
from numpy.random import default_rng
from scipy import optimize, stats

from n3.stats.scaling_laws import power_law

SIZES = 2.0 ** np.arange(2, 11)


def losses_of(offset, factor, exponent, *, noise=0.0, seeds=4, key=0):
    clean = offset + factor * SIZES**-exponent
    return clean[:, None] * np.exp(noise * default_rng(key).normal(size=(len(SIZES), seeds)))


@pytest.mark.parametrize(
    ("offset", "factor", "exponent"), [(0.01, 2.0, 1.2), (0.3, 1.0, 0.25), (1e-4, 5.0, 2.0)]
)
def test_a_law_without_noise_comes_back(offset, factor, exponent):
    found = power_law(SIZES, losses_of(offset, factor, exponent), resamples=2)
    np.testing.assert_allclose(found.offset.value, offset, rtol=1e-3)
    np.testing.assert_allclose(found.factor.value, factor, rtol=1e-3)
    np.testing.assert_allclose(found.exponent.value, exponent, rtol=1e-3)
    np.testing.assert_allclose(found.loss(SIZES), losses_of(offset, factor, exponent)[:, 0], rtol=1e-3)


def test_without_an_offset_the_slope_is_minus_the_exponent():
    found = power_law(SIZES, losses_of(0.0, 2.0, 0.8), resamples=2)
    assert found.slope.value == pytest.approx(-0.8)
    assert found.exponent.value == pytest.approx(0.8, rel=1e-3)
    assert found.offset.value < 1e-4
    np.testing.assert_allclose(found.line(SIZES), 2.0 * SIZES**-0.8, rtol=1e-6)


def test_an_offset_flattens_the_slope_and_not_the_exponent():
    plain, lifted = (power_law(SIZES, losses_of(offset, 2.0, 1.2), resamples=2) for offset in (0.0, 0.05))
    assert lifted.slope.value > plain.slope.value + 0.3
    assert lifted.exponent.value == pytest.approx(plain.exponent.value, rel=1e-2)


def test_a_start_that_leads_to_nan_is_passed_over():
    losses = np.array(
        [
            [0.013759, 0.356917, 0.012579, 0.015066, 0.01452, 0.152411, 0.316832, 0.01603],
            [0.003331, 0.007269, 0.023534, 0.00411, 0.005219, 0.003794, 0.004559, 0.005776],
            [0.004447, 0.00322, 0.00494, 0.00614, 0.004401, 0.004837, 0.003575, 0.005488],
            [0.00345, 0.0008, 0.005932, 0.002968, 0.002073, 0.002289, 0.004168, 0.005409],
            [0.001402, 0.002907, 0.005009, 0.000323, 0.00033, 0.001834, 0.002387, 0.001556],
        ]
    )
    found = power_law(2.0 ** np.arange(1, 6), losses, resamples=330)  # such a start comes near the end of these
    assert np.isfinite([*found.offset, *found.exponent, *found.slope]).all()


def test_fits_are_those_of_scipy_on_geometric_means():
    losses = losses_of(0.02, 2.0, 1.0, noise=0.3)
    found = power_law(SIZES, losses, resamples=2)
    means = stats.gmean(losses, axis=1)
    assert found.slope.value == pytest.approx(stats.linregress(np.log(SIZES), np.log(means)).slope)

    def law(sizes, offset, factor, exponent):
        return np.log(offset + factor * sizes**-exponent)

    bounds = ([1e-9, 1e-9, 1e-9], [1.0, 100.0, 10.0])
    (offset, factor, exponent), _ = optimize.curve_fit(
        law, SIZES, np.log(means), (0.01, 1.0, 0.5), bounds=bounds
    )
    np.testing.assert_allclose(
        [found.offset.value, found.factor.value, found.exponent.value], [offset, factor, exponent], rtol=1e-3
    )


def test_intervals_cover_the_truth_and_shrink_with_seeds():
    few, many = (
        power_law(SIZES, losses_of(0.02, 2.0, 1.0, noise=0.3, seeds=n), resamples=200) for n in (5, 80)
    )
    for name, truth in (("offset", 0.02), ("factor", 2.0), ("exponent", 1.0)):
        wide, narrow = getattr(few, name), getattr(many, name)
        assert narrow.low <= truth <= narrow.high
        assert narrow.high - narrow.low < wide.high - wide.low
        assert wide.low <= wide.value <= wide.high


def test_a_seed_is_drawn_with_all_its_sizes():
    """A factor of its own on each seed, the same at all sizes, moves neither exponent nor slope."""
    own = np.array([1.0, 3.0, 10.0])
    found = power_law(SIZES, losses_of(0.0, 1.0, 0.7, seeds=3) * own, resamples=30)
    assert found.slope.high - found.slope.low < 1e-9
    assert found.factor.high - found.factor.low > 1.0


def test_lost_runs_are_left_out_of_the_mean_of_their_size():
    losses = losses_of(0.0, 2.0, 1.2, noise=0.5)
    losses[2, 0], losses[5, 1] = np.nan, np.inf
    means = np.nanmean(np.log(np.where(np.isfinite(losses), losses, np.nan)), axis=1)
    expected = stats.linregress(np.log(SIZES), means).slope
    assert power_law(SIZES, losses, resamples=5).slope.value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("sizes", "losses", "message"),
    [
        (SIZES[:3], np.ones((3, 2)), "`sizes` must hold four"),
        (SIZES[:4] * [1, 1, 1, -1], np.ones((4, 2)), "`sizes` must hold four"),
        (SIZES[:4], np.zeros((4, 2)), "`losses` must be positive"),
        (SIZES[:4], np.full((4, 2), np.nan), "`losses` must be positive"),
    ],
)
def test_what_has_no_law_is_refused(sizes, losses, message):
    with pytest.raises(ValueError, match=message):
        power_law(sizes, losses)
