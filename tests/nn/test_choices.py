"""Choices: shares by hand and in the limit, their gradient, the fall of the temperature, and the noise."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.config import experiment
from n3.nn.mlp import ACTIVATIONS, Annealing, Choice, undecided

LOGITS = jnp.array([[0.0, 1.0, -2.0], [0.5, 0.5, 0.3]])
NAMES = ("tanh", "relu", "sin")
X = jnp.linspace(-2.0, 2.0, 12).reshape(3, 4)


def choice(temperature, logits=LOGITS, names=NAMES):
    return Choice(logits, jnp.asarray(temperature, logits.dtype), names)


def test_settings_name_the_same_activations():
    assert tuple(ACTIVATIONS) == experiment.ACTIVATION_NAMES


def test_shares_by_hand():
    found = choice(1.0, jnp.log(jnp.array([[1.0, 3.0], [2.0, 2.0]])), ("tanh", "sin")).shares()
    np.testing.assert_allclose(found, [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6)
    warm = choice(2.0, jnp.log(jnp.array([[1.0, 9.0]])), ("tanh", "sin")).shares()
    np.testing.assert_allclose(warm, [[0.25, 0.75]], rtol=1e-6)


def test_an_undecided_choice_is_the_mean():
    fresh = undecided(NAMES, 2)
    np.testing.assert_allclose(fresh.shares(), np.full((2, 3), 1 / 3), rtol=1e-6)
    mean = (np.tanh(X) + np.maximum(X, 0) + np.sin(X)) / 3
    np.testing.assert_allclose(fresh(1, X), mean, rtol=1e-5, atol=1e-7)


def test_cold_shares_tend_to_the_hard_ones():
    hard = choice(0.0).shares()
    np.testing.assert_array_equal(hard, [[0, 1, 0], [1, 0, 0]])  # of equals the first
    np.testing.assert_allclose(choice(0.02, LOGITS[:1]).shares(), hard[:1], atol=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 30.0])
def test_shares_sum_to_one_and_keep_the_order_of_the_logits(temperature):
    shares = np.asarray(choice(temperature).shares())
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-6)
    assert shares[0, 1] > shares[0, 0] >= shares[0, 2]


def test_a_hard_choice_is_its_activation_to_the_bit():
    hard = choice(0.0)
    assert hard.winners() == choice(1.0).winners() == ("relu", "tanh")
    for layer, name in enumerate(hard.winners()):
        np.testing.assert_array_equal(hard(layer, X), ACTIVATIONS[name](X))


def loss(own):
    return jnp.mean(jnp.cos(own(0, X.astype(own.logits.dtype)) + 2.0 * own(1, X.astype(own.logits.dtype))))


def test_the_gradient_of_the_logits_agrees_with_finite_differences():
    with jax.enable_x64(True):
        net, step = choice(0.7, LOGITS.astype(jnp.float64)), 1e-6
        gradient = eqx.filter_jit(eqx.filter_grad(loss))(net)
        assert float(gradient.temperature) == 0.0
        for place in np.ndindex(2, 3):
            ends = [choice(0.7, net.logits.at[place].add(by)) for by in (step, -step)]
            secant = (loss(ends[0]) - loss(ends[1])) / (2 * step)
            np.testing.assert_allclose(gradient.logits[place], secant, rtol=1e-6, atol=1e-10)


def test_nothing_trains_a_hard_choice():
    gradient = eqx.filter_grad(loss)(choice(0.0))
    np.testing.assert_array_equal(gradient.logits, np.zeros((2, 3)))
    moved = choice(0.0, LOGITS + jnp.array([[5.0, 0.0, 0.0]])).annealed(choice(0.0), jnp.zeros(()))
    np.testing.assert_array_equal(moved.logits, LOGITS)
    soft = choice(0.3, LOGITS + 1.0).annealed(choice(0.3), jnp.zeros(()))
    np.testing.assert_array_equal(soft.logits, LOGITS + 1.0)
    assert float(soft.temperature) == 0.0


@pytest.mark.parametrize(
    ("count", "end", "temperature"), [(0, 0.5, 4.0), (25, 0.5, 1.0), (50, 0.5, 0.0), (99, 1, 0.26), (100, 1, 0)]
)
def test_temperatures_by_hand(count, end, temperature):
    annealing = Annealing(jnp.float32(4.0), jnp.float32(0.25), jnp.float32(end))
    found = annealing.temperature(jnp.asarray(count), jnp.float32(100.0))
    np.testing.assert_allclose(found, temperature, rtol=0.05 if count == 99 else 1e-6)


def test_noise_follows_its_key_and_leaves_a_hard_choice_alone():
    soft = choice(0.5)
    one, again, other = (soft.perturbed(key=jr.key(seed)).shares() for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.all(np.asarray(one) != np.asarray(other))
    np.testing.assert_allclose(one.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(choice(0.0).perturbed(key=jr.key(0)).shares(), choice(0.0).shares())


def test_noise_draws_each_activation_as_often_as_its_share_at_temperature_one():
    """The largest perturbed logit is a draw from the softmax (Gumbel-max); within 5 standard errors."""
    draws, expected = 4000, np.asarray(choice(1.0).shares())
    keys = jr.split(jr.key(3), draws)
    largest = jax.vmap(lambda key: jnp.argmax(choice(1.0).perturbed(key=key).logits, axis=1))(keys)
    for layer, shares in enumerate(expected):
        found = np.bincount(np.asarray(largest)[:, layer], minlength=3) / draws
        assert np.all(np.abs(found - shares) < 5 * np.sqrt(shares * (1 - shares) / draws))
