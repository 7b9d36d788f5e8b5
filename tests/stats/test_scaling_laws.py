"""Scaling laws: known laws come back, the slope is the textbook's, and intervals cover the truth."""

import numpy as np
import pytest
from numpy.random import default_rng
from scipy import optimize, stats

from n3.stats.scaling_laws import accuracy_curve, power_law

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


def test_a_start_that_leads_to_nan_is_passed_over(monkeypatch):
    plain, starts, fit = power_law(SIZES, losses_of(0.02, 2.0, 1.0), resamples=2), [], optimize.least_squares

    def first_lost(misses, start, *rest, **settings):
        found = fit(misses, start, *rest, **settings)
        starts.append(start)
        if len(starts) == 1:
            found.cost = np.subtract(np.inf, np.inf)  # invalid, as on the way to NaN
            found.x = np.full(3, np.nan)
        return found

    monkeypatch.setattr(optimize, "least_squares", first_lost)
    found = power_law(SIZES, losses_of(0.02, 2.0, 1.0), resamples=2)
    np.testing.assert_allclose([*found.exponent, *found.offset], [*plain.exponent, *plain.offset], rtol=1e-3)


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
        power_law(SIZES, losses_of(0.02, 2.0, 1.0, noise=0.3, seeds=n), resamples=100) for n in (5, 80)
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


def test_accuracy_rises_with_the_parameters_in_an_interval_of_its_mean():
    parameters = np.array([[900.0, 910.0, 905.0], [400.0, 400.0, 400.0]])
    accuracy = np.array([[0.9, 0.96, 0.99], [0.5, 0.5, 0.5]])
    curve = accuracy_curve("growing", parameters, accuracy)
    assert curve.parameters.tolist() == [400.0, 905.0]
    np.testing.assert_allclose(curve.mean, [0.5, 0.95])
    np.testing.assert_allclose([curve.low[0], curve.high[0]], 0.5)
    assert 0.9 <= curve.low[1] < 0.95 < curve.high[1] <= 0.99
    with pytest.raises(ValueError, match="`values` must be finite"):
        accuracy_curve("growing", parameters, np.full_like(accuracy, np.nan))
