"""Masks: every registered ramp against one contract, values and derivatives by hand, and the errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from n3.nn.masks import MASKS, hard, linear, participation, sine

SMOOTH = ["sine", "linear"]
BESIDE_KINKS = (-1.3, -1e-3, 1e-3, 0.25, 0.5, 0.8, 1 - 1e-3, 1 + 1e-3, 2.7)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("capacity", [1, 2, 7])
def test_contract(name, capacity):
    for size in np.linspace(-1.5, capacity + 1.5, 41):
        weights = np.asarray(participation(jnp.float32(size), capacity, name))
        units = np.arange(capacity)
        assert weights.shape == (capacity,)
        assert weights.dtype == np.float32
        assert ((weights >= 0) & (weights <= 1)).all()
        assert (np.diff(weights) <= 0).all()
        assert (weights[units >= np.float32(size)] == 0).all()
        assert (weights[units + 1 <= np.float32(size)] == 1).all()


@pytest.mark.parametrize("name", MASKS)
def test_non_decreasing_in_the_size(name):
    sizes = jnp.linspace(-1.0, 6.0, 141)
    weights = jax.vmap(lambda size: participation(size, 5, name))(sizes)
    assert (np.diff(np.asarray(weights), axis=0) >= 0).all()


@pytest.mark.parametrize("name", MASKS)
def test_only_the_frontier_unit_has_a_derivative(name):
    slope = jax.jacfwd(lambda size: participation(size, 5, name))(jnp.float32(2.5))
    assert np.flatnonzero(np.asarray(slope)).tolist() == [2]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("size", [-2.0, 5.0, 7.5])
def test_no_derivative_outside_the_layer(name, size):
    slope = jax.jacrev(lambda size: participation(size, 5, name))(jnp.float32(size))
    np.testing.assert_array_equal(slope, np.zeros(5))


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
    np.testing.assert_allclose(participation(jnp.float32(size), 4, name), expected, rtol=1e-6)


def test_the_default_ramp_is_sine():
    size = jnp.float32(1.3)
    np.testing.assert_array_equal(participation(size, 4), participation(size, 4, "sine"))


@pytest.mark.parametrize("size", [0.0, 0.3, 1.0, 2.75, 5.999, 6.0])
def test_linear_sums_to_the_size(size):
    with jax.enable_x64(True):
        weights = participation(jnp.float64(size), 6, "linear")
        np.testing.assert_allclose(np.sum(weights), size, rtol=1e-12)


@pytest.mark.parametrize("name", SMOOTH)
def test_derivative_agrees_with_finite_differences_beside_the_kinks(name):
    ramp, step = MASKS[name], 1e-6
    with jax.enable_x64(True):
        for distance in BESIDE_KINKS:
            forward = jax.jvp(ramp, (jnp.float64(distance),), (jnp.float64(1.0),))[1]
            backward = jax.grad(ramp)(jnp.float64(distance))
            secant = (ramp(jnp.float64(distance + step)) - ramp(jnp.float64(distance - step))) / (2 * step)
            np.testing.assert_allclose(forward, secant, rtol=1e-6, atol=1e-9)
            np.testing.assert_array_equal(backward, forward)


@pytest.mark.parametrize(
    "ramp, kink, slope",
    [
        (sine, 0.0, 0.0),
        (sine, 1.0, 0.0),
        (linear, 0.0, 1.0),
        (linear, 1.0, 0.0),
        (hard, 0.0, 1.0),
        (hard, 1.0, 0.0),
    ],
)
def test_derivative_at_the_kinks(ramp, kink, slope):
    assert float(jax.grad(ramp)(jnp.float32(kink))) == slope


@pytest.mark.parametrize(
    "name, expected", [("sine", [0, 0, 0, 0]), ("linear", [0, 0, 1, 0]), ("hard", [0, 0, 1, 0])]
)
def test_a_size_at_an_integer_feels_the_next_unit_or_none(name, expected):
    slope = jax.jacfwd(lambda size: participation(size, 4, name))(jnp.float32(2.0))
    np.testing.assert_array_equal(slope, expected)


def test_derivative_of_sine_at_half_a_unit():
    np.testing.assert_allclose(jax.grad(sine)(jnp.float32(0.5)), np.pi / 2, rtol=1e-6)


def test_hard_passes_the_derivative_of_linear_straight_through():
    distances = jnp.linspace(-1.0, 2.0, 61)
    straight, ramp = jax.vmap(jax.grad(hard))(distances), jax.vmap(jax.grad(linear))(distances)
    np.testing.assert_array_equal(straight, ramp)
    assert set(np.asarray(hard(distances)).tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("name", MASKS)
def test_many_sizes_at_once_equal_one_at_a_time(name):
    sizes = jnp.array([-0.5, 0.0, 0.4, 2.0, 2.9, 9.0])
    together = jax.jit(jax.vmap(lambda size: participation(size, 3, name)))(sizes)
    alone = np.stack([participation(size, 3, name) for size in sizes])
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@pytest.mark.parametrize("capacity", [0, -3])
def test_a_capacity_that_is_not_positive_is_refused(capacity):
    with pytest.raises(ValueError, match=rf"`capacity` must be positive; got {capacity}\."):
        participation(jnp.float32(1.0), capacity)


def test_an_unknown_mask_is_refused():
    with pytest.raises(ValueError, match=r"`mask` must be one of sine, linear, hard; got 'step'\."):
        participation(jnp.float32(1.0), 3, "step")
