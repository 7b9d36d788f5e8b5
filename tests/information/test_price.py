"""Budget: parameters by hand, and prices and sizes that meet a number of them."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from n3.information.price import LARGEST_STEP, ascend_price, parameter_terms, sizes_within_budget

ENDS = {"in_size": 64, "out_size": 10}


def total(sizes, *, in_size, out_size):
    widths = [in_size, *sizes, out_size]
    return sum((before + 1) * after for before, after in itertools.pairwise(widths))


@pytest.mark.parametrize("sizes", [[7.0], [3.0, 5.0], [2.0, 9.0, 4.0]])
def test_parameters_by_hand(sizes):
    counted = sum(parameter_terms(jnp.array(sizes), **ENDS)) + 10
    np.testing.assert_allclose(counted, total(sizes, **ENDS))


@pytest.mark.parametrize(("budget", "sign"), [(100.0, 1), (10_000.0, -1), (0.0, 0), (535.0, 0)])
def test_the_price_rises_above_the_budget_and_falls_below(budget, sign):
    moved = float(ascend_price(jnp.asarray(0.3), jnp.array([7.0]), jnp.asarray(budget), **ENDS)) - 0.3
    np.testing.assert_allclose(moved, sign * LARGEST_STEP, atol=1e-6)


@pytest.mark.parametrize("best", [[0.0], [20.0], [5.0, 10.0], [30.0, 3.0]])
@pytest.mark.parametrize("budget", [1000.0, 3000.0])
def test_the_budget_is_met_to_half_a_unit_of_each_layer(best, budget):
    sizes = np.asarray(sizes_within_budget(jnp.array(best), jnp.asarray(budget), **ENDS))
    assert np.array_equal(sizes, np.round(sizes))
    half = 0.5 * sum(total(sizes + unit, **ENDS) - total(sizes, **ENDS) for unit in np.eye(sizes.size))
    assert abs(total(sizes, **ENDS) - budget) <= half + 0.25 * sizes.size


def test_the_layers_keep_their_proportion():
    first, second = np.asarray(sizes_within_budget(jnp.array([4.0, 12.0]), jnp.asarray(3000.0), **ENDS))
    assert abs(second / first - 3.0) < 0.2


def test_without_a_budget_sizes_stay():
    assert np.array_equal(
        sizes_within_budget(jnp.array([0.0, 3.4]), jnp.asarray(0.0), **ENDS), jnp.array([0.0, 3.4])
    )
