"""Price: parameters by hand, prices and sizes that meet a number of them, and what a unit must bring."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from n3.config.experiment import Experiment, InformationConfig, NetworkConfig, TaskConfig
from n3.data.dataset import load_task
from n3.information.price import LARGEST_STEP, ascend_price, parameter_terms, price_of, sizes_within_budget

ENDS = {"in_size": 64, "out_size": 10}


@jax.jit
def said(sizes, budget):
    """Parameters, the logarithm of a price after a look, and the sizes within the budget."""
    return (
        sum(parameter_terms(sizes, **ENDS)) + 10,
        ascend_price(jnp.float32(0.3), sizes, budget, **ENDS),
        sizes_within_budget(sizes, budget, **ENDS),
    )


def of(sizes, budget=0.0):
    return tuple(map(np.asarray, said(np.float32(sizes), np.float32(budget))))


def total(sizes):
    widths = [ENDS["in_size"], *sizes, ENDS["out_size"]]
    return sum((before + 1) * after for before, after in itertools.pairwise(widths))


@pytest.mark.parametrize("sizes", [[7.0], [3.0, 5.0], [2.0, 9.0, 4.0]])
def test_parameters_by_hand(sizes):
    np.testing.assert_allclose(of(sizes)[0], total(sizes))


@pytest.mark.parametrize(("budget", "sign"), [(100.0, 1), (10_000.0, -1), (0.0, 0), (535.0, 0)])
def test_the_price_rises_above_the_budget_and_falls_below(budget, sign):
    np.testing.assert_allclose(of([7.0], budget)[1] - 0.3, sign * LARGEST_STEP, atol=1e-6)


def test_the_price_moves_by_the_share_of_the_excess():
    np.testing.assert_allclose(of([7.0], 500.0)[1] - 0.3, 535 / 500 - 1, rtol=1e-5)


@pytest.mark.parametrize("best", [[0.0], [20.0], [5.0, 10.0], [30.0, 3.0]])
@pytest.mark.parametrize("budget", [1000.0, 3000.0])
def test_the_budget_is_met_to_half_a_unit_of_each_layer(best, budget):
    sizes = of(best, budget)[2]
    assert np.array_equal(sizes, np.round(sizes))
    half = 0.5 * sum(total(sizes + unit) - total(sizes) for unit in np.eye(sizes.size))
    assert abs(total(sizes) - budget) <= half + 0.25 * sizes.size


def test_the_layers_keep_their_proportion():
    first, second = of([4.0, 12.0], 3000.0)[2]
    assert abs(second / first - 3.0) < 0.2


def test_without_a_budget_sizes_stay():
    np.testing.assert_array_equal(of([0.0, 3.4])[2], np.float32([0.0, 3.4]))


TASK = TaskConfig(task="spirals-3", samples=200)


def experiment(**settings):
    network = NetworkConfig(method="information", capacity=(8,))
    return Experiment(task=TASK, network=network, information=InformationConfig(**settings)).resolved()


def test_prices_by_hand():
    """Of three classes, and two inputs of which one has nine times the variance: 1.22 effective ones."""
    (data,) = load_task(TASK, (0,))
    data = replace(data, train_inputs=data.train_inputs * np.float32([3.0, 1.0]))
    samples, values = len(data.train_inputs), np.linalg.eigvalsh(np.cov(data.train_inputs.T))
    assert 1.1 < values.sum() ** 2 / (values**2).sum() < 1.4
    parameters = values.sum() ** 2 / (values**2).sum() + 1 + 3
    price = parameters * np.log(samples) / (4 * samples)
    np.testing.assert_allclose(price_of(experiment(), data), price, rtol=1e-5)
    np.testing.assert_allclose(price_of(experiment(price_scale=3.0), data), 3 * price, rtol=1e-5)
    np.testing.assert_allclose(price_of(experiment(price=0.4), data), 0.4)
    by_test = price_of(experiment(price="chi-square"), data)
    np.testing.assert_allclose(by_test, 7.815 / (2 * samples), rtol=0.02)
