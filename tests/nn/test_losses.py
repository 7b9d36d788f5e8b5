"""Losses: values by hand and against NumPy in float64, and the laws of the terms and their weights."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.random import default_rng
from scipy.special import log_softmax

from n3.nn.controllers import Auxiliary, Controller
from n3.nn.losses import (
    LOSSES,
    LossWeights,
    Samples,
    cross_entropy,
    description,
    objective,
    penalties,
    squared_error,
    task_loss,
)
from n3.nn.mlp import GrowingMLP

TERMS = ("task", "size", "depth", "prior")


def network(out_size=1, *, depth=None, size=1.4):
    return GrowingMLP(
        2,
        out_size,
        controller=Auxiliary(jnp.float32(size), (4, 4)),
        initial_depth=None if depth is None else jnp.float32(depth),
        key=jr.key(0),
    )


def samples(out_size=1, count=8):
    inputs_key, targets_key = jr.split(jr.key(1))
    return Samples(
        jr.normal(inputs_key, (2, count)),
        (jr.uniform(targets_key, (out_size, count)) > 0.5).astype(jnp.float32),
        jnp.full(count, 1.0 / count),
    )


def weights(size, depth=0.0, prior=None):
    return LossWeights(jnp.float32(size), jnp.float32(depth), None if prior is None else jnp.float32(prior))


def terms_of(net, data, weights, loss="squared-error", target_size=3.0, target_depth=2.0):
    targets = {"target_size": jnp.float32(target_size), "target_depth": jnp.float32(target_depth)}
    return objective(net, data, weights, loss=loss, **targets)


@jax.jit
def value_and_gradient(net, data, weights, target_size, target_depth):
    def function(net):
        return terms_of(net, data, weights, target_size=target_size, target_depth=target_depth)

    return jax.value_and_grad(function, has_aux=True)(net)


def test_squared_error_by_hand():
    outputs, targets = jnp.array([[1.0, 2.0], [0.0, -1.0]]), jnp.array([[0.0, 2.0], [3.0, 1.0]])
    np.testing.assert_array_equal(squared_error(outputs, targets), [5.0, 2.0])


def test_squared_error_against_numpy():
    outputs, targets = default_rng(0).normal(size=(2, 3, 50))
    with jax.enable_x64(True):
        found = squared_error(jnp.asarray(outputs), jnp.asarray(targets))
    np.testing.assert_allclose(found, np.mean((outputs - targets) ** 2, axis=0), rtol=1e-6)


def test_cross_entropy_by_hand():
    even = cross_entropy(jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]]))
    np.testing.assert_allclose(even, np.log([2, 2]), rtol=1e-6)
    of_four = cross_entropy(jnp.zeros((4, 1)), jnp.array([[0.0], [1.0], [0.0], [0.0]]))
    np.testing.assert_allclose(of_four, [np.log(4)], rtol=1e-6)
    logit = jnp.full((1, 2), np.log(3.0), jnp.float32)  # p(1) = 3/4
    np.testing.assert_allclose(cross_entropy(logit, jnp.array([[1.0, 0.0]])), np.log([4 / 3, 4]), rtol=1e-6)


def test_cross_entropy_of_one_logit_against_numpy():
    rng = default_rng(1)
    logits, classes = 3 * rng.normal(size=60), rng.integers(2, size=60)
    probability = 1 / (1 + np.exp(-logits))
    expected = -np.log(np.where(classes == 1, probability, 1 - probability))
    with jax.enable_x64(True):
        found = cross_entropy(jnp.asarray(logits)[None], jnp.asarray(classes, jnp.float64)[None])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_cross_entropy_of_many_logits_against_scipy(classes):
    rng = default_rng(classes)
    logits, labels = 3 * rng.normal(size=(classes, 60)), rng.integers(classes, size=60)
    expected = -log_softmax(logits, axis=0)[labels, np.arange(60)]
    with jax.enable_x64(True):
        found = cross_entropy(jnp.asarray(logits), jnp.asarray(np.eye(classes)[:, labels]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_one_logit_equals_two_logits_with_a_zero():
    rng = default_rng(2)
    logits, classes = 3 * rng.normal(size=(1, 40)), rng.integers(2, size=(1, 40)).astype(float)
    with jax.enable_x64(True):
        one = cross_entropy(jnp.asarray(logits), jnp.asarray(classes))
        both = jnp.asarray(np.concatenate([np.zeros((1, 40)), logits]))
        two = cross_entropy(both, jnp.asarray(np.concatenate([1 - classes, classes])))
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_cross_entropy_stays_finite_at_large_logits():
    logits = jnp.array([[1000.0, -1000.0, 1000.0, -1000.0]])
    classes = jnp.array([[1.0, 0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(cross_entropy(logits, classes), [0, 0, 1000, 1000])
    both, hot = jnp.concatenate([-logits, logits]), jnp.concatenate([1 - classes, classes])
    np.testing.assert_array_equal(cross_entropy(both, hot), [0, 0, 2000, 2000])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("out_size", [1, 3])
def test_contract(name, out_size):
    outputs = jr.normal(jr.key(0), (out_size, 7))
    labels = jnp.arange(7) % max(2, out_size)
    targets = labels[None].astype(jnp.float32) if out_size == 1 else jax.nn.one_hot(labels, out_size).T
    each = LOSSES[name](outputs, targets)
    assert each.shape == (7,)
    assert (np.asarray(each) >= 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_agrees_with_finite_differences(name):
    rng, step = default_rng(3), 1e-6
    with jax.enable_x64(True):
        outputs, direction = jnp.asarray(rng.normal(size=(2, 3, 5)))
        targets = jnp.asarray(np.eye(3)[:, [0, 2, 1, 1, 0]])

        def loss(by):
            return jnp.sum(LOSSES[name](outputs + by * direction, targets))

        secant = (loss(jnp.float64(step)) - loss(jnp.float64(-step))) / (2 * step)
        np.testing.assert_allclose(jax.grad(loss)(jnp.float64(0.0)), secant, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_task_loss_is_the_mean_where_shares_are_equal(name):
    net, data = network(3), samples(3)
    each = LOSSES[name](net.batch(data.inputs), data.targets)
    np.testing.assert_allclose(task_loss(net, data, name), np.mean(np.asarray(each, np.float64)), rtol=1e-5)


def test_shares_weight_the_mean():
    net, data = network(), samples(count=4)
    uneven = eqx.tree_at(lambda s: s.shares, data, jnp.array([0.5, 0.25, 0.25, 0.0]))
    each = np.asarray(squared_error(net.batch(data.inputs), data.targets), np.float64)
    expected = 0.5 * each[0] + 0.25 * each[1] + 0.25 * each[2]
    np.testing.assert_allclose(task_loss(net, uneven, "squared-error"), expected, rtol=1e-5)


def test_a_function_serves_as_a_loss():
    def absolute(outputs, targets):
        return jnp.sum(jnp.abs(outputs - targets), axis=0)

    net, data = network(2), samples(2)
    expected = np.mean(np.sum(np.abs(np.asarray(net.batch(data.inputs)) - np.asarray(data.targets)), axis=0))
    np.testing.assert_allclose(task_loss(net, data, absolute), expected, rtol=1e-5)
    total, terms = terms_of(net, data, weights(0.0), loss=absolute)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    np.testing.assert_array_equal(terms.task, total)


@pytest.mark.parametrize("depth", [None, 1.3])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_total_is_the_sum_of_the_terms(depth, loss):
    total, terms = terms_of(network(depth=depth), samples(), weights(0.3, 0.2, 0.1), loss=loss)
    assert float(terms.prior) > 0
    np.testing.assert_array_equal(terms.total, total)
    np.testing.assert_allclose(total, sum(float(getattr(terms, name)) for name in TERMS), rtol=1e-6)
    np.testing.assert_array_equal(terms.task, task_loss(network(depth=depth), samples(), loss))


def test_penalties_by_hand():
    targets = {"target_size": jnp.float32(3.0), "target_depth": jnp.float32(2.0)}
    targets |= {"task": jnp.float32(0.3), "loss": "squared-error"}
    size, depth, prior = penalties(network(depth=1.5, size=1.0), weights(0.5, 0.8), **targets)
    assert float(prior) == 0
    np.testing.assert_allclose(size, 0.5 * 4, rtol=1e-6)
    np.testing.assert_allclose(depth, 0.8 * 0.25, rtol=1e-6)
    size, depth, _ = penalties(network(size=1.0), weights(0.5, 0.8), **targets)
    np.testing.assert_allclose(size, 0.5 * 4, rtol=1e-6)
    assert float(depth) == 0


def weighted(hidden, readout, *, size):
    """One input, four units of one layer, one output; the given number for every weight of a matrix."""
    net = GrowingMLP(1, 1, controller=Auxiliary(jnp.float32(size), (4,), "linear"), key=jr.key(0))
    matrices = lambda n: (n.layers[0].weight, n.readout.weight)  # noqa: E731
    return eqx.tree_at(matrices, net, (jnp.full((4, 1), hidden), jnp.full((1, 4), readout)))


@pytest.mark.parametrize(
    ("hidden", "readout", "expected"),
    [(0.5, 0.5, 0.5 * 2.5 * (0.25 + 0.25)), (3.0, 0.5, 0.5 * 2.5 * (1 + np.log(9.0) + 0.25)), (0.0, 0.0, 0.0)],
)
def test_the_description_by_hand(hidden, readout, expected):
    np.testing.assert_allclose(description(weighted(hidden, readout, size=2.5)), expected, rtol=1e-6)


def test_the_description_presses_with_the_priors_variance_on_participating_weights_alone():
    gradient = eqx.filter_grad(description)(weighted(3.0, 0.5, size=2.5))
    np.testing.assert_allclose(gradient.layers[0].weight[:, 0], [3 / 9, 3 / 9, 0.5 * 3 / 9, 0], rtol=1e-6)
    np.testing.assert_allclose(gradient.readout.weight[0], [0.5, 0.5, 0.25, 0], rtol=1e-6)
    assert float(gradient.controller.weight) == 0
    assert np.all(np.asarray(gradient.layers[0].bias) == 0)


@pytest.mark.parametrize(("loss", "unit"), [("squared-error", 0.6), ("cross-entropy", 1.0)])
def test_the_prior_counts_in_the_unit_of_the_loss(loss, unit):
    net, targets = (
        weighted(0.5, 0.5, size=4.0),
        dict.fromkeys(("target_size", "target_depth"), jnp.float32(1.0)),
    )
    prior = penalties(net, weights(0.0, 0.0, 0.1), task=jnp.float32(0.3), loss=loss, **targets)[2]
    np.testing.assert_allclose(prior, 0.1 * unit * 1.0, rtol=1e-6)


def test_the_size_penalty_is_the_controller_s():
    net = eqx.tree_at(lambda n: n.controller, network(), Controller(jnp.float32(0.25), (4, 4)))
    targets = {"target_size": jnp.float32(4.0), "target_depth": jnp.float32(2.0)}
    size, *_ = penalties(net, weights(2.0), task=jnp.float32(1.0), loss="cross-entropy", **targets)
    np.testing.assert_allclose(size, 2 * 0.75**2, rtol=1e-6)


@pytest.mark.parametrize("off", ["size", "depth"])
def test_a_zero_weight_switches_its_term_off_exactly(off):
    net, data = network(depth=1.3), samples()
    chosen = eqx.tree_at(lambda w: getattr(w, off), weights(0.3, 0.2, 0.1), jnp.float32(0.0))
    near = {"target_size": 3.0, "target_depth": 2.0}
    (near_total, terms), near_slopes = value_and_gradient(net, data, chosen, **near)
    (far_total, _), far_slopes = value_and_gradient(net, data, chosen, **{**near, f"target_{off}": 1e6})
    assert float(getattr(terms, off)) == 0
    assert all(float(getattr(terms, name)) > 0 for name in TERMS if name != off)
    np.testing.assert_array_equal(near_total, far_total)
    for left, right in zip(jax.tree.leaves(near_slopes), jax.tree.leaves(far_slopes), strict=True):
        np.testing.assert_array_equal(left, right)


def test_without_penalties_the_objective_is_the_task_loss():
    net, data = network(depth=1.3), samples()
    total, _ = terms_of(net, data, weights(0.0, 0.0))
    np.testing.assert_array_equal(total, task_loss(net, data, "squared-error"))


def test_the_weights_are_traced():
    net, data = network(depth=1.3), samples()
    slopes = jax.jit(jax.grad(lambda w: terms_of(net, data, w)[0]))(weights(0.3, 0.2))
    np.testing.assert_allclose(slopes.size, (1.4 - 3) ** 2, rtol=1e-5)
    np.testing.assert_allclose(slopes.depth, (1.3 - 2) ** 2, rtol=1e-5)


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="squared-error, cross-entropy; got"):
        task_loss(network(), samples(), "hinge")
