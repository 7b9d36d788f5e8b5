"""Neighbours: both estimators against loops in NumPy, closed forms, invariances, and the errors."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.special import digamma

from n3.information.nearest_neighbours import kraskov, ross

SEEDS, SAMPLES = 12, 400
each_kraskov, each_ross = jax.jit(jax.vmap(kraskov)), jax.jit(jax.vmap(ross))
one_kraskov, one_ross = (jax.jit(estimate, static_argnames="neighbours") for estimate in (kraskov, ross))


def loop_kraskov(x, y, neighbours):
    """Kraskov, Stögbauer and Grassberger's first estimator, sample by sample."""
    samples, counted = x.shape[1], []
    for i in range(samples):
        others = np.arange(samples) != i
        in_x = np.abs(x - x[:, [i]]).max(axis=0)[others]
        in_y = np.abs(y - y[:, [i]]).max(axis=0)[others]
        radius = np.sort(np.maximum(in_x, in_y))[neighbours - 1]
        counted.append(digamma((in_x < radius).sum() + 1) + digamma((in_y < radius).sum() + 1))
    return digamma(neighbours) + digamma(samples) - np.mean(counted)


def loop_ross(x, labels, neighbours):
    """Ross's estimator, sample by sample; samples alone in their class do not exist for it."""
    kept = np.array([(labels == label).sum() > 1 for label in labels])
    x, labels = x[:, kept], labels[kept]
    samples, terms = x.shape[1], []
    for i in range(samples):
        others = np.arange(samples) != i
        distance = np.abs(x - x[:, [i]]).max(axis=0)
        own = np.sort(distance[others & (labels == labels[i])])
        rank = min(neighbours, own.size)
        within = (distance[others] <= own[rank - 1]).sum()
        terms.append(digamma(rank) - digamma(own.size + 1) - digamma(within))
    return digamma(samples) + np.mean(terms)


def pairs(correlation, samples=SAMPLES, seeds=SEEDS):
    x, noise = jr.normal(jr.key(7), (2, seeds, 1, samples))
    return x, correlation * x + (1 - correlation**2) ** 0.5 * noise


@pytest.mark.parametrize("dims, dims_y, neighbours", [(1, 1, 1), (2, 1, 3), (3, 3, 5)])
def test_kraskov_equals_a_loop(dims, dims_y, neighbours):
    x, noise = jr.normal(jr.key(0), (dims, 40)), jr.normal(jr.key(1), (dims_y, 40))
    y = noise + x[0][None, :]
    expected = loop_kraskov(np.asarray(x), np.asarray(y), neighbours)
    np.testing.assert_allclose(one_kraskov(x, y, neighbours=neighbours), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dims, neighbours", [(1, 1), (2, 3), (3, 5)])
def test_ross_equals_a_loop(dims, neighbours):
    labels = jr.randint(jr.key(2), (40,), 0, 3).at[:2].set(jnp.array([7, 9]))  # two that are alone
    labels = labels.at[2:5].set(11)  # and a class smaller than most numbers of neighbours
    x = jr.normal(jr.key(3), (dims, 40)) + labels.astype(jnp.float32)[None, :]
    expected = loop_ross(np.asarray(x), np.asarray(labels), neighbours)
    np.testing.assert_allclose(one_ross(x, labels, neighbours=neighbours), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9])
def test_kraskov_of_gaussian_pairs(correlation):
    estimates = np.asarray(each_kraskov(*pairs(correlation)))
    error = estimates.std(ddof=1) / SEEDS**0.5
    assert abs(estimates.mean() + 0.5 * np.log(1 - correlation**2)) < 5 * error
    assert error < 0.02


@pytest.mark.parametrize("distance", [0.0, 2.0, 20.0])
def test_ross_of_two_gaussians(distance):
    noise = jr.normal(jr.key(4), (SEEDS, 1, SAMPLES))
    labels = jr.bernoulli(jr.key(5), 0.5, (SEEDS, SAMPLES)).astype(jnp.int32)
    estimates = np.asarray(each_ross(noise + distance * labels.astype(jnp.float32)[:, None, :], labels))
    grid = np.linspace(-8, distance + 8, 20001)
    low, high = (np.exp(-0.5 * (grid - centre) ** 2) / (2 * np.pi) ** 0.5 for centre in (0, distance))
    mixture = 0.5 * (low + high)
    truth = -np.trapezoid(mixture * np.log(mixture), grid) - 0.5 * np.log(2 * np.pi * np.e)
    error = estimates.std(ddof=1) / SEEDS**0.5
    assert abs(estimates.mean() - truth) < 5 * error + 1e-3
    assert error < 0.02


def test_both_see_what_second_moments_do_not():
    x, noise = jr.normal(jr.key(6), (2, SEEDS, 1, SAMPLES))
    assert each_kraskov(x, x**2 + 0.1 * noise).mean() > 0.8
    assert each_ross(x, (jnp.abs(x[:, 0]) > 0.67).astype(jnp.int32)).mean() > 0.6


def test_neither_moves_with_the_unit_or_the_order_of_samples():
    x, y = (array[0] for array in pairs(0.8))
    order = jr.permutation(jr.key(8), SAMPLES)
    labels = (y[0] > 0).astype(jnp.int32)
    plain, plain_classes = one_kraskov(x, y), one_ross(x, labels)
    np.testing.assert_allclose(one_kraskov(4.0 * x, 4.0 * y), plain, rtol=1e-6)
    np.testing.assert_allclose(one_kraskov(y[:, order], x[:, order]), plain, rtol=1e-4)
    np.testing.assert_allclose(one_ross(x[:, order] * 0.25, 5 - labels[order]), plain_classes, rtol=1e-4)


def test_many_at_once_equal_one_at_a_time():
    x, y = pairs(0.8)
    labels = (y[:, 0] > 0).astype(jnp.int32)
    np.testing.assert_allclose(each_kraskov(x, y)[1], one_kraskov(x[1], y[1]), rtol=1e-5)
    np.testing.assert_allclose(each_ross(x, labels)[1], one_ross(x[1], labels[1]), rtol=1e-5)


def test_double_precision_stays_double():
    with jax.enable_x64(True):
        x, y = (array[0, :, :40].astype(jnp.float64) for array in pairs(0.8))
        labels = (y[0] > 0).astype(jnp.int32)
        found = one_kraskov(x, y), one_ross(x, labels)
        expected = (
            loop_kraskov(np.asarray(x), np.asarray(y), 3),
            loop_ross(np.asarray(x), np.asarray(labels), 3),
        )
        assert [value.dtype for value in found] == [jnp.float64] * 2
        np.testing.assert_allclose(jnp.stack(found), expected, rtol=1e-10)


def test_classes_that_are_all_alone_tell_nothing():
    assert one_ross(jnp.arange(6.0)[None, :], jnp.arange(6)) == 0.0


def test_more_than_three_dimensions_are_refused():
    narrow, wide = jnp.zeros((3, 9)), jnp.zeros((4, 9))
    with pytest.raises(ValueError, match=r"`x` must have at most 3 dimensions; got 4\."):
        kraskov(wide, narrow)
    with pytest.raises(ValueError, match=r"`y` must have at most 3 dimensions; got 4\."):
        kraskov(narrow, wide)
    with pytest.raises(ValueError, match=r"`x` must have at most 3 dimensions; got 4\."):
        ross(wide, jnp.zeros(9, jnp.int32))


@pytest.mark.parametrize("neighbours", [0, 9])
@pytest.mark.parametrize(
    "estimate", [partial(kraskov, y=jnp.zeros((1, 9))), partial(ross, labels=jnp.zeros(9, jnp.int32))]
)
def test_a_number_of_neighbours_that_samples_do_not_have_is_refused(estimate, neighbours):
    with pytest.raises(ValueError, match=rf"`neighbours` must be in 1 \.\.\. 8; got {neighbours}\."):
        estimate(jnp.zeros((1, 9)), neighbours=neighbours)
