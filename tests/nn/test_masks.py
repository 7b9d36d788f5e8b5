"""Masks: every registered ramp against one contract, values and derivatives by hand, and the errors."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from n3.nn.masks import MASKS, capacity_share, output_for_share, participation

CAPACITIES = (1, 4)
SIZES = np.concatenate([np.linspace(-1.5, 5.5, 57), [1 / 3, 3 + 2 / 3]]).astype(np.float32)
"""Steps of an eighth, with every integer and every half, and two at which sine is a quarter or three."""
BESIDE_KINKS = np.array([-1.3, -1e-3, 1e-3, 0.25, 0.5, 0.8, 1 - 1e-3, 1 + 1e-3, 2.7])
SLOPES_BY_HAND = {"sine": [0, np.pi / 2, 0], "linear": [1, 1, 0], "hard": [1, 1, 0]}
"""Derivatives at 0, one half and 1."""


@cache
def ramped(name):
    """Weights of every size and capacity, and their derivatives forward and backward."""

    def of(size):
        return [participation(size, units, name) for units in CAPACITIES]

    each = jax.jit(jax.vmap(lambda size: (of(size), jax.jacfwd(of)(size), jax.jacrev(of)(size))))
    return jax.tree.map(np.asarray, each(jnp.asarray(SIZES)))


def at(name, size, which=0):
    """Weights of four units at a size, or with `which` at 1 their derivatives."""
    return ramped(name)[which][1][np.flatnonzero(np.float32(size) == SIZES)[0]]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("place, capacity", list(enumerate(CAPACITIES)))
def test_contract(name, place, capacity):
    weights, forward, backward = (part[place] for part in ramped(name))
    units, sizes = np.arange(capacity), SIZES[:, None]
    assert weights.shape == (SIZES.size, capacity)
    assert weights.dtype == np.float32
    assert ((weights >= 0) & (weights <= 1)).all()
    assert (np.diff(weights, axis=1) <= 0).all()
    assert (np.diff(weights[np.argsort(SIZES)], axis=0) >= 0).all()
    assert (weights[np.broadcast_to(units >= sizes, weights.shape)] == 0).all()
    assert (weights[np.broadcast_to(units + 1 <= sizes, weights.shape)] == 1).all()
    np.testing.assert_array_equal(forward, backward)
    is_frontier = units == np.floor(sizes)
    assert (forward[~is_frontier] == 0).all()
    assert (forward[is_frontier & (sizes != units)] > 0).all()


@pytest.mark.parametrize(
    "name, size, expected",
    [
        ("sine", 2.5, [1, 1, 0.5, 0]),
        ("sine", 1 / 3, [0.25, 0, 0, 0]),
        ("sine", 3 + 2 / 3, [1, 1, 1, 0.75]),
        ("linear", 2.25, [1, 1, 0.25, 0]),
        ("linear", -1.0, [0, 0, 0, 0]),
        ("hard", 2.25, [1, 1, 1, 0]),
        ("hard", 2.0, [1, 1, 0, 0]),
        ("hard", 0.0, [0, 0, 0, 0]),
    ],
)
def test_values_by_hand(name, size, expected):
    np.testing.assert_allclose(at(name, size), expected, rtol=1e-6)


def test_the_default_ramp_is_sine():
    found = jax.jit(lambda size: participation(size, 4))(jnp.float32(2.5))
    np.testing.assert_allclose(found, at("sine", 2.5), rtol=1e-6)


def test_linear_sums_to_the_size():
    np.testing.assert_allclose(ramped("linear")[0][1].sum(axis=1), np.clip(SIZES, 0, 4), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["sine", "linear"])
def test_derivative_agrees_with_finite_differences_beside_the_kinks(name):
    with jax.enable_x64(True):
        each = jax.jit(jax.vmap(jax.value_and_grad(MASKS[name])))
        ahead, behind = (each(BESIDE_KINKS + step)[0] for step in (1e-6, -1e-6))
        slopes = each(BESIDE_KINKS)[1]
    secants = (np.asarray(ahead) - np.asarray(behind)) / 2e-6
    np.testing.assert_allclose(slopes, secants, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", SLOPES_BY_HAND)
def test_derivatives_at_the_kinks_and_between(name):
    """A size at an integer feels the next unit or none."""
    found = [at(name, size, which=1) for size in (2.0, 2.5, 3.0)]
    expected = np.zeros((3, 4))
    start, middle, end = SLOPES_BY_HAND[name]
    expected[0, 2], expected[1, 2], expected[2, 3] = start, middle, start
    expected[2, 2] = end
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_hard_passes_the_derivative_of_linear_straight_through():
    np.testing.assert_array_equal(ramped("hard")[1][1], ramped("linear")[1][1])
    assert set(np.unique(ramped("hard")[0][1])) == {0.0, 1.0}


def test_share_by_hand_and_its_inverse():
    outputs, shares = np.array([0, 1 / 3, 0.5, 2 / 3, 1.0]), np.array([0, 0.25, 0.5, 0.75, 1.0])
    with jax.enable_x64(True):
        both = jax.jit(jax.vmap(lambda output, share: (capacity_share(output), output_for_share(share))))
        found = both(outputs, shares)
    np.testing.assert_allclose(found[0], shares, rtol=1e-12)
    np.testing.assert_allclose(found[1], outputs, rtol=1e-12)


@pytest.mark.parametrize("capacity", [0, -3])
def test_a_capacity_that_is_not_positive_is_refused(capacity):
    with pytest.raises(ValueError, match=rf"`capacity` must be positive; got {capacity}\."):
        participation(jnp.float32(1.0), capacity)


def test_an_unknown_mask_is_refused():
    with pytest.raises(ValueError, match=r"`mask` must be one of sine, linear, hard; got 'step'\."):
        participation(jnp.float32(1.0), 3, "step")
