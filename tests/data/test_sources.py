"""Sources: curves, spirals and moons by hand and by table, what packages hold, and scalers there and back."""

import random
import sys

import numpy as np
import pytest
from numpy.random import default_rng
from scipy.special import jv

from n3.data.sources import (
    SYNTHETIC_TASKS,
    Scaler,
    bessel,
    draw_curve,
    draw_moons,
    draw_spirals,
    gaussian_mixture,
    mnist1d_tables,
    range_scaler,
    sklearn_table,
    standard_scaler,
)


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


def test_a_set_of_scikit_learns_is_as_it_comes():
    bunch = pytest.importorskip("sklearn.datasets").load_wine()
    table = sklearn_table("wine")
    assert np.array_equal(table.samples.inputs, bunch.data)
    assert np.array_equal(table.samples.targets, bunch.target)
    assert (table.inputs[0], table.targets) == ("alcohol", ("class_0", "class_1", "class_2"))


def test_diabetes_is_a_regression_in_own_units():
    pytest.importorskip("sklearn.datasets")
    table = sklearn_table("diabetes")
    assert table.samples.targets.shape == (442, 1)
    assert table.targets == ("progression",)
    assert table.samples.inputs[:, 0].max() > 70  # years, and not scaled ones


@pytest.mark.slow
def test_mnist1d_is_what_its_generator_makes():
    data = pytest.importorskip("mnist1d.data")
    made, (train, test) = data.make_dataset(data.get_dataset_args()), mnist1d_tables()
    assert (train.samples.inputs.shape, test.samples.inputs.shape) == ((4000, 40), (1000, 40))
    for samples, inputs, labels in (
        (train.samples, made["x"], made["y"]),
        (test.samples, made["x_test"], made["y_test"]),
    ):
        assert np.array_equal(samples.inputs, inputs)
        assert np.array_equal(samples.targets, labels)
        assert set(labels) == set(range(10))
    assert (len(train.inputs), train.targets) == (40, tuple("0123456789"))


def test_mnist1d_is_made_without_moving_the_global_generators(monkeypatch):
    data = pytest.importorskip("mnist1d.data")

    def reseeds(arguments):
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002, as the package does
        made = np.random.normal(size=(3, 40))  # noqa: NPY002
        return {"x": made[:2], "y": np.array([4, 9]), "x_test": made[2:], "y_test": np.array([7])}

    monkeypatch.setattr(data, "make_dataset", reseeds)
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    train, test = (table.samples for table in mnist1d_tables.__wrapped__())
    after = random.getstate(), np.random.get_state()  # noqa: NPY002
    assert (train.inputs.shape, test.inputs.shape) == ((2, 40), (1, 40))
    assert (train.targets.tolist(), test.targets.tolist()) == ([4, 9], [7])
    assert before[0] == after[0]
    assert np.array_equal(before[1][1], after[1][1])
    assert before[1][2:] == after[1][2:]


def test_an_absent_mnist1d_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    advice = r"\(in the repository `uv sync --extra data`, or `pip install mnist1d`\)\."
    needs = r"^`mnist1d` needs mnist1d: install it with `pip install 'n3-growing\[data\]'` "
    with pytest.raises(ModuleNotFoundError, match=f"{needs}{advice}$"):
        mnist1d_tables.__wrapped__()


@pytest.mark.parametrize("fit", [range_scaler, standard_scaler])
def test_scaler_inverts(fit):
    values = default_rng(0).normal(size=(50, 3)) * [1e-3, 1, 1e3] + [1, 5, 1e4]
    scaler = fit(values)
    np.testing.assert_allclose(scaler.inverse(scaler.transform(values)), values, rtol=1e-6)


@pytest.mark.parametrize("fit", [range_scaler, standard_scaler])
def test_constant_column_has_scale_one(fit):
    scaler = fit(np.full((7, 1), 0.1))
    assert scaler.scale == 1
    np.testing.assert_allclose(scaler.offset, 0.1)


def test_scaler_by_hand():
    values = np.array([[0.0], [2.0], [10.0]])
    assert np.array_equal(range_scaler(values).transform(values), [[-1], [-0.6], [1]])
    np.testing.assert_allclose(standard_scaler(values).scale, np.sqrt(56 / 3))


def test_scaler_refuses_a_scale_of_zero():
    with pytest.raises(ValueError, match="`scale` must be positive and finite"):
        Scaler(offset=np.zeros(2), scale=np.array([1.0, 0.0]))


def drawn(name, samples=4000):
    return SYNTHETIC_TASKS[name].draw(default_rng(0), samples)


def test_the_checkerboard_has_sixteen_fields_and_one_label_in_twenty_flipped():
    x, y = drawn("checkerboard")
    colours = (np.floor(4 * x[:, 0]) + np.floor(4 * x[:, 1])) % 2
    assert abs(np.mean(y != colours) - 0.05) < 5 * np.sqrt(0.05 * 0.95 / 4000)
    assert {tuple(field) for field in np.floor(4 * x).astype(int)} == {
        (a, b) for a in range(4) for b in range(4)
    }


def test_one_sample_of_a_hundred_is_rare_and_lies_higher_in_four_inputs():
    x, y = drawn("rare-class")
    assert y.sum() == 40
    moved = x[y == 1].mean(axis=0) - x[y == 0].mean(axis=0)
    np.testing.assert_allclose(moved, [1.5] * 4 + [0.0] * 16, atol=5 / np.sqrt(40))


def test_friedmans_function_leaves_unit_noise_and_copies_are_equal():
    x, y = drawn("friedman-copies")
    assert x.shape == (4000, 100)
    for copy in range(1, 10):
        np.testing.assert_array_equal(x[:, :10], x[:, 10 * copy : 10 * copy + 10])
    np.testing.assert_array_equal(drawn("friedman").inputs, x[:, :10])
    u = x[:, :10]
    clean = 10 * np.sin(np.pi * u[:, 0] * u[:, 1]) + 20 * (u[:, 2] - 0.5) ** 2 + 10 * u[:, 3] + 5 * u[:, 4]
    assert np.std(y[:, 0] - clean) == pytest.approx(1.0, rel=5 / np.sqrt(8000))


def test_the_smooth_target_leaves_noise_of_a_tenth():
    x, y = drawn("smooth")
    assert np.std(y[:, 0] - np.sin(3 * x[:, 0]) - x[:, 0] * x[:, 1]) == pytest.approx(
        0.1, rel=5 / np.sqrt(8000)
    )


def test_the_sine_of_the_study_has_five_half_waves_a_side():
    for name, noise in (("sine-5", 0.1), ("sine-5-clean", 0.0)):
        x, y = drawn(name)
        left = y - np.sin(5 * np.pi * x)
        assert np.std(left) == pytest.approx(noise, rel=5 / np.sqrt(8000), abs=1e-12)


def test_labels_at_random_say_nothing_and_separable_ones_have_a_margin():
    x, y = drawn("random-labels")
    assert y.sum() == 2000
    assert np.abs(x[y == 1].mean(axis=0) - x[y == 0].mean(axis=0)).max() < 5 * np.sqrt(2 / 2000)
    x, y = drawn("separable")
    distance = x @ np.array([2.0, -1.0, 1.0, 0.0, 0.0]) / np.sqrt(6.0)
    assert distance[y == 1].min() >= 0.2 - 1e-9
    assert distance[y == 0].max() <= -0.2 + 1e-9


@pytest.mark.parametrize("unit", [1e-300, 1e-160, 1e160])
def test_a_scale_whose_square_is_no_number_is_found(unit):
    values = np.array([[1.0], [2.0], [6.0]])
    np.testing.assert_allclose(standard_scaler(values * unit).scale, standard_scaler(values).scale * unit)
