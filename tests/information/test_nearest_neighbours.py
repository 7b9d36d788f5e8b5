"""Neighbours: both estimators against loops in NumPy, closed forms, invariances, and the errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.random import default_rng
from scipy.special import digamma

from n3.information.nearest_neighbours import kraskov, ross

SEEDS, SAMPLES, NEIGHBOURS = 12, 400, 3
each_kraskov, each_ross = jax.jit(jax.vmap(kraskov)), jax.jit(jax.vmap(ross))
one_kraskov, one_ross = (jax.jit(estimate, static_argnames="neighbours") for estimate in (kraskov, ross))


def loop_kraskov(x, y, neighbours=NEIGHBOURS):
    """Kraskov, Stögbauer and Grassberger's first estimator, sample by sample."""
    samples, counted = x.shape[1], []
    for i in range(samples):
        others = np.arange(samples) != i
        in_x = np.abs(x - x[:, [i]]).max(axis=0)[others]
        in_y = np.abs(y - y[:, [i]]).max(axis=0)[others]
        radius = np.sort(np.maximum(in_x, in_y))[neighbours - 1]
        counted.append(digamma((in_x < radius).sum() + 1) + digamma((in_y < radius).sum() + 1))
    return digamma(neighbours) + digamma(samples) - np.mean(counted)


def loop_ross(x, labels, neighbours=NEIGHBOURS):
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


def normal(seed, *shape):
    return default_rng(seed).normal(size=shape).astype(np.float32)


def pairs(correlation):
    x, noise = normal(7, 2, SEEDS, 1, SAMPLES)
    return x, np.float32(correlation) * x + np.float32((1 - correlation**2) ** 0.5) * noise


def spread(rows):
    """Rows repeated up to three: copies change no distance, and all dimensions share a program."""
    return np.resize(rows, (3, rows.shape[1])).astype(float)


@pytest.mark.parametrize("neighbours, dims, dims_y", [(1, 1, 1), (4, 2, 1), (4, 3, 3)])
def test_kraskov_equals_a_loop(neighbours, dims, dims_y):
    x = default_rng(0).normal(size=(dims, 40))
    y = default_rng(1).normal(size=(dims_y, 40)) + x[0]
    with jax.enable_x64(True):
        found = one_kraskov(spread(x), spread(y), neighbours=neighbours)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, loop_kraskov(x, y, neighbours), rtol=1e-10)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_ross_equals_a_loop(dims):
    labels = default_rng(2).integers(0, 3, 40).astype(np.int32)
    labels[:2], labels[2:5] = (7, 9), 11  # two that are alone, and a class of fewer than the neighbours
    x = default_rng(3).normal(size=(dims, 40)) + labels
    with jax.enable_x64(True):
        found = one_ross(spread(x), labels, neighbours=4)
        alone = float(one_ross(spread(x), np.arange(40, dtype=np.int32), neighbours=4))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, loop_ross(x, labels, 4), rtol=1e-10)
    assert alone == 0.0


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9])
def test_kraskov_of_gaussian_pairs(correlation):
    estimates = np.asarray(each_kraskov(*pairs(correlation)))
    error = estimates.std(ddof=1) / SEEDS**0.5
    assert abs(estimates.mean() + 0.5 * np.log(1 - correlation**2)) < 5 * error
    assert error < 0.02


@pytest.mark.parametrize("distance", [0.0, 2.0, 20.0])
def test_ross_of_two_gaussians(distance):
    labels = default_rng(5).integers(0, 2, (SEEDS, SAMPLES)).astype(np.int32)
    moved = normal(4, SEEDS, 1, SAMPLES) + (distance * labels).astype(np.float32)[:, None]
    estimates = np.asarray(each_ross(moved, labels))
    grid = np.linspace(-8, distance + 8, 20001)
    low, high = (np.exp(-0.5 * (grid - centre) ** 2) / (2 * np.pi) ** 0.5 for centre in (0, distance))
    mixture = 0.5 * (low + high)
    truth = -np.trapezoid(mixture * np.log(mixture), grid) - 0.5 * np.log(2 * np.pi * np.e)
    error = estimates.std(ddof=1) / SEEDS**0.5
    assert abs(estimates.mean() - truth) < 5 * error + 1e-3
    assert error < 0.02


def test_both_see_what_second_moments_do_not():
    x, noise = normal(6, 2, SEEDS, 1, SAMPLES)
    assert np.mean(each_kraskov(x, x**2 + np.float32(0.1) * noise)) > 0.8
    assert np.mean(each_ross(x, (np.abs(x[:, 0]) > 0.67).astype(np.int32))) > 0.6


def test_neither_moves_with_the_unit_or_the_order_of_samples():
    """The first of many at once is as given, and equals a loop; the others are the same in other words."""
    x, y = (array.copy() for array in pairs(0.8))
    order, labels = default_rng(8).permutation(SAMPLES), np.repeat(y[:1, 0] > 0, SEEDS, axis=0).astype(np.int32)
    x[1], y[1] = 4 * x[0], 4 * y[0]
    x[2], y[2] = y[0][:, order], x[0][:, order]
    found = np.asarray(each_kraskov(x, y))
    np.testing.assert_allclose(found[0], loop_kraskov(x[0], y[0]), rtol=1e-4)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4)
    x[2], labels[2] = np.float32(0.25) * x[0][:, order], 5 - labels[0][order]
    found = np.asarray(each_ross(x, labels))
    np.testing.assert_allclose(found[0], loop_ross(x[0], labels[0]), rtol=1e-4)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4)


def test_more_than_three_dimensions_are_refused():
    narrow, wide = jnp.zeros((3, 9)), jnp.zeros((4, 9))
    with pytest.raises(ValueError, match=r"`x` must have at most 3 dimensions; got 4\."):
        kraskov(wide, narrow)
    with pytest.raises(ValueError, match=r"`y` must have at most 3 dimensions; got 4\."):
        kraskov(narrow, wide)
    with pytest.raises(ValueError, match=r"`x` must have at most 3 dimensions; got 4\."):
        ross(wide, jnp.zeros(9, jnp.int32))


@pytest.mark.parametrize("neighbours", [0, 9])
@pytest.mark.parametrize("estimate, name, other", [(kraskov, "y", (1, 9)), (ross, "labels", (9,))])
def test_a_number_of_neighbours_that_samples_do_not_have_is_refused(estimate, name, other, neighbours):
    given = {name: jnp.zeros(other, jnp.float32 if name == "y" else jnp.int32)}
    with pytest.raises(ValueError, match=rf"`neighbours` must be in 1 \.\.\. 8; got {neighbours}\."):
        partial(estimate, **given)(jnp.zeros((1, 9)), neighbours=neighbours)
