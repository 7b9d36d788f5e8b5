"""Generators: curves, spirals and moons by hand, by table and by their noise."""

import numpy as np
import pytest
from numpy.random import default_rng
from scipy.special import jv

from n3.data.sources import SYNTHETIC_TASKS, bessel, draw_curve, draw_moons, draw_spirals, gaussian_mixture


def function_of(name):
    return SYNTHETIC_TASKS[name].draw.keywords["curve"]


def test_the_sine_has_three_half_waves_a_side_and_the_line_slope_one():
    np.testing.assert_allclose(function_of("sine")(np.array([0, 1 / 6, 1 / 2])), [0, 1, -1], atol=1e-12)
    np.testing.assert_allclose(function_of("line")(np.array([-1.0, 0.5])), [-1.0, 0.5])


def test_intervals():
    for name, low, high in (("bessel", -2 * np.pi, 2 * np.pi), ("narrow-bessel", 0.1, 0.2), ("cubic", -1, 1)):
        x = SYNTHETIC_TASKS[name].draw(default_rng(0), 4000).inputs
        assert low <= x.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < x.max() <= high


@pytest.mark.parametrize(
    "name, values, stationary",
    [
        ("cubic", {-1: 1, 1: 1, 1 / 3: -2 / 3}, [1 / 3]),
        ("cubic-negative", {-1: -1, 1: -1, 1 / 3: 2 / 3}, [1 / 3]),
        ("quadratic", {-1: 1, 1: -1, 0: -1 / 5}, []),
        ("quadratic-2", {-1: 1, 1: -1 / 2}, [1 / 2]),
    ],
)
def test_polynomials_meet_their_conditions(name, values, stationary):
    polynomial = function_of(name)
    assert polynomial.degree() == len(values) + len(stationary) - 1
    for x, y in values.items():
        assert polynomial(x) == pytest.approx(y, abs=1e-12)
    for x in stationary:
        assert polynomial.deriv()(x) == pytest.approx(0, abs=1e-12)


def test_bessel_by_table():
    # Abramowitz and Stegun, Handbook of Mathematical Functions, table 9.1: J0, J1, J2 at 1 and 2
    expected = [1, 0.7651976866 + 0.4400505857 + 0.1149034849, 0.2238907791 + 0.5767248078 + 0.3528340286]
    np.testing.assert_allclose(bessel(np.array([0.0, 1.0, 2.0])), expected, rtol=1e-9)
    np.testing.assert_allclose(function_of("narrow-bessel")(np.array([0.15])), jv(0, 0.15))


def test_gaussian_mixture_at_its_centres():
    expected = [1 + 1.5 * np.exp(-3.125), 1.5 + np.exp(-8), 0.8 + 1.5 * np.exp(-3.125)]
    np.testing.assert_allclose(gaussian_mixture(np.array([-2.0, 0.0, 2.0])), expected, atol=1e-8)


@pytest.mark.parametrize("name, noise", [("", 0.1), ("-low", 0.01), ("-high", 0.5)])
def test_gaussian_mixture_noise(name, noise):
    x, y = SYNTHETIC_TASKS["gaussian-mixture" + name].draw(default_rng(0), 4000)
    residual = y[:, 0] - gaussian_mixture(x[:, 0])
    assert residual.std() == pytest.approx(noise, rel=5 / np.sqrt(2 * 4000))
    assert abs(residual.mean()) < 5 * noise / np.sqrt(4000)


@pytest.mark.parametrize("arms", [3, 5, 7, 9])
def test_spirals_wind_as_stated(arms):
    points, labels = draw_spirals(default_rng(0), 3600, arms=arms)
    radius, angle = np.hypot(*points.T), np.arctan2(points[:, 1], points[:, 0])
    residual = np.angle(np.exp(1j * (angle - 4 * (labels + radius / 5))))
    assert 4.9 < radius.max() <= 5
    assert residual.std() == pytest.approx(0.2, rel=5 / np.sqrt(2 * 3600))
    assert abs(residual.mean()) < 5 * 0.2 / np.sqrt(3600)


def test_moons_lie_on_scikit_learns_arcs():
    points, labels = draw_moons(default_rng(0), 4000)
    centres = np.array([[0.0, 0.0], [1.0, 0.5]])[labels]
    distance = np.hypot(*(points - centres).T)
    reference, classes = pytest.importorskip("sklearn.datasets").make_moons(4000, noise=0.2, random_state=0)
    expected = np.hypot(*(reference - np.array([[0.0, 0.0], [1.0, 0.5]])[classes]).T)
    assert distance.std() == pytest.approx(expected.std(), rel=5 / np.sqrt(4000))
    for label in (0, 1):
        error = 5 * np.sqrt(2) * reference[classes == label].std(axis=0) / np.sqrt(2000)
        assert np.all(
            np.abs(points[labels == label].mean(axis=0) - reference[classes == label].mean(axis=0)) < error
        )


def test_curve_without_noise_is_exact():
    x, y = draw_curve(default_rng(0), 10, curve=np.cos, low=2.0, high=3.0)
    assert np.array_equal(y, np.cos(x))
