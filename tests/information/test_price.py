"""Price: parameters by hand, prices and sizes that meet a number of them, and what a unit must bring."""

import itertools
from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.random import default_rng
from scipy import stats

from n3.config.experiment import InformationConfig, TaskConfig
from n3.data.dataset import load_task
from n3.information.price import LARGEST_STEP, ascend_price, degrees_of, prices_of, sizes_within_budget
from n3.nn.controllers import Information
from n3.nn.mlp import GrowingMLP

IN_SIZE, OUT_SIZE, CAPACITY = 64, 10, 64


def network(depth):
    """The shapes of a network: its parameters are counted by them alone."""
    controller = Information(jnp.asarray(np.zeros(depth, np.float32)), (CAPACITY,) * depth)
    made = partial(GrowingMLP, IN_SIZE, OUT_SIZE, controller=controller)
    return eqx.filter_eval_shape(lambda key: made(key=key), jr.key(0))


@jax.jit
def said(sizes, budget, inputs):
    """Parameters, those of a further unit, the price's logarithm after a look, and the sizes of a budget."""
    net = network(sizes.size)
    return (
        net.parameter_count(sizes),
        net.unit_parameters(sizes, inputs),
        ascend_price(jnp.float32(0.3), net.parameter_count(sizes), budget),
        sizes_within_budget(sizes, budget, jnp.full_like(sizes, CAPACITY), net.parameter_count),
    )


def of(sizes, budget=0.0, inputs=IN_SIZE):
    return tuple(map(np.asarray, said(*map(np.float32, (sizes, budget, inputs)))))


def total(sizes):
    widths = [IN_SIZE, *sizes, OUT_SIZE]
    return sum((before + 1) * after for before, after in itertools.pairwise(widths))


# Parameters.


@pytest.mark.parametrize("sizes", [[7.0], [3.0, 5.0], [2.0, 9.0, 4.0]])
def test_parameters_by_hand(sizes):
    np.testing.assert_allclose(of(sizes)[0], total(sizes))
    more = [total(sizes + unit) - total(sizes) for unit in np.eye(len(sizes))]
    np.testing.assert_allclose(of(sizes)[1], more)


def test_a_unit_is_charged_for_the_effective_inputs_and_for_the_layers_beside_its_own():
    """64-8-8-10: 20.16 inputs, a bias and 8 units after; then 8 units before, a bias and 10 outputs."""
    np.testing.assert_allclose(of([8.0, 8.0], inputs=20.16)[1], [29.16, 19.0], rtol=1e-6)
    np.testing.assert_allclose(of([8.0], inputs=20.16)[1], [31.16], rtol=1e-6)


# A budget.


@pytest.mark.parametrize(("budget", "sign"), [(100.0, 1), (10_000.0, -1), (0.0, 0), (535.0, 0)])
def test_the_price_rises_above_the_budget_and_falls_below(budget, sign):
    np.testing.assert_allclose(of([7.0], budget)[2] - 0.3, sign * LARGEST_STEP, atol=1e-6)


def test_the_price_moves_by_the_share_of_the_excess():
    np.testing.assert_allclose(of([7.0], 500.0)[2] - 0.3, 535 / 500 - 1, rtol=1e-5)


@pytest.mark.parametrize("best", [[0.0], [20.0], [5.0, 10.0], [30.0, 3.0]])
@pytest.mark.parametrize("budget", [1000.0, 3000.0])
def test_the_budget_is_met_to_half_a_unit_of_each_layer(best, budget):
    sizes = of(best, budget)[3]
    assert np.array_equal(sizes, np.round(sizes))
    half = 0.5 * sum(total(sizes + unit) - total(sizes) for unit in np.eye(sizes.size))
    assert abs(total(sizes) - budget) <= half + 0.25 * sizes.size


def test_the_layers_keep_their_proportion():
    first, second = of([4.0, 12.0], 3000.0)[3]
    assert abs(second / first - 3.0) < 0.2


def test_without_a_budget_sizes_stay():
    np.testing.assert_array_equal(of([0.0, 3.4])[3], np.float32([0.0, 3.4]))


@pytest.mark.parametrize("best", [[0.0], [20.0], [5.0, 10.0], [30.0, 3.0]])
def test_a_budget_larger_than_the_network_keeps_all_of_it_and_no_more(best):
    np.testing.assert_array_equal(of(best, 1e6)[3], np.full(len(best), CAPACITY))


def test_no_size_of_any_budget_exceeds_the_capacity():
    draw = default_rng(0)
    for best in draw.uniform(0.0, CAPACITY, (20, 2)):
        sizes = of(best, 10.0 ** draw.uniform(1, 6))[3]
        assert np.all((sizes >= 0) & (sizes <= CAPACITY))


# What a unit must bring.

DATA = load_task(TaskConfig(task="spirals-3", samples=200), (0,))[0]
DATA = replace(DATA, train_inputs=DATA.train_inputs * np.float32([3.0, 1.0]))


def prices(samples=100, outputs=2, inputs=DATA.train_inputs, **settings):
    return prices_of(InformationConfig(**settings), inputs, samples=samples, outputs=outputs)


def test_prices_by_hand():
    """Of two inputs, of which one has nine times the variance: 1.22 effective ones."""
    values = np.linalg.eigvalsh(np.cov(DATA.train_inputs.T))
    assert 1.1 < values.sum() ** 2 / (values**2).sum() < 1.4
    plain = prices()
    np.testing.assert_allclose(
        plain, [0.0, np.log(100) / 400, values.sum() ** 2 / (values**2).sum()], rtol=1e-5
    )
    np.testing.assert_allclose(prices(price_scale=3.0)[:2], np.multiply(3, plain[:2]), rtol=1e-6)
    assert prices(price=0.4) == (0.4, 0.0, plain.inputs)
    np.testing.assert_allclose(prices(price=0.3, price_scale=0.5)[:2], [0.15, 0.0], rtol=1e-6)


def test_degrees_of_freedom_are_the_numbers_or_the_classes_less_one():
    assert degrees_of(DATA) == 2
    (two,), (numbers,) = (load_task(TaskConfig(task=name, samples=50), (0,)) for name in ("moons", "line"))
    assert (two.num_classes, degrees_of(two)) == (2, 1)
    assert (numbers.num_classes, degrees_of(numbers)) == (None, numbers.out_size)


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 3.8415), (2, 5.991), (3, 7.815), (9, 16.919)])
def test_by_chi_square_a_unit_brings_the_quantile_of_its_degrees_of_freedom(degrees, quantile):
    found = prices(samples=150, outputs=degrees, price="chi-square")
    np.testing.assert_allclose(found[:2], [quantile / 300, 0.0], rtol=1e-4)
    np.testing.assert_allclose(found.unit, stats.chi2.ppf(0.95, degrees) / 300, rtol=1e-9)


def test_by_chi_square_three_classes_have_two_degrees_of_freedom():
    found = prices(samples=150, outputs=degrees_of(DATA), price="chi-square").unit
    np.testing.assert_allclose(2 * 150 * found, 5.991, rtol=1e-4)


@pytest.mark.parametrize("samples, width", [(50, 4), (4, 50)])
def test_effective_inputs_are_the_participation_ratio(samples, width):
    inputs = default_rng(4).normal(size=(samples, 2, width // 2))
    covariance = np.cov(inputs.reshape(samples, -1).T, bias=True)
    expected = np.trace(covariance) ** 2 / np.sum(covariance**2)
    found = [prices(inputs=np.float32(own)).inputs for own in (inputs, np.repeat(inputs[:, :1, :1], 7, axis=1))]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)
    np.testing.assert_allclose(found[1], 1.0, rtol=1e-5)  # of copies
    assert prices(inputs=np.ones((5, 3))).inputs == 0.0  # of constants
