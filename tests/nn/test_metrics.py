"""Metrics: values by hand, the laws that tie them together, and the threshold of an active unit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.random import default_rng

from n3.nn.controllers import Auxiliary, Fixed, Warmup
from n3.nn.metrics import (
    ACTIVE,
    accuracy,
    active_parameters,
    active_units,
    choice_shares,
    confusion_matrix,
    effective_size,
    flops,
    hits,
    predicted_class,
    rmse,
)
from n3.nn.mlp import Choice, GrowingMLP

ONE_LOGIT = np.float32([[2.0, -1.0, 0.0, 0.5, -3.0]])
CLASSES = np.float32([[1.0, 1.0, 0.0, 0.0, 0.0]])
LOGITS = np.float32([[3.0, 0.0, 1.0, 0.0, 2.0], [1.0, 2.0, 0.0, 0.5, 1.0], [0.0, 1.0, 0.5, 4.0, 3.0]])
ONE_HOT = np.eye(3, dtype=np.float32)[:, [0, 1, 1, 2, 2]]
EVEN = np.full(5, 0.2, np.float32)
root_mean_square = jax.jit(rmse)


def network(capacity, *sizes, size_input=False, depth=None):
    return with_controller(
        Fixed(jnp.asarray(np.float32(sizes)), capacity, "linear"), size_input=size_input, depth=depth
    )


def with_controller(controller, *, size_input=False, depth=None):
    """A network of three inputs and two outputs whose weights are zero: no metric reads them."""
    depth = None if depth is None else jnp.float32(depth)

    def build(key):
        return GrowingMLP(3, 2, controller=controller, size_input=size_input, initial_depth=depth, key=key)

    shapes = eqx.filter_eval_shape(build, jr.key(0))
    net = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    net = eqx.tree_at(lambda n: n.controller, net, controller)
    return net if depth is None else eqx.tree_at(lambda n: n.depth_weight, net, depth)


@eqx.filter_jit
def counts(net):
    return {f.__name__: f(net) for f in (active_units, active_parameters, flops, effective_size)}


@jax.jit
def of_classes(outputs, targets, shares):
    matrix = confusion_matrix(outputs, targets)
    return predicted_class(outputs), hits(outputs, targets), accuracy(outputs, targets, shares), matrix


def judged(outputs, targets, shares=EVEN):
    return map(np.asarray, of_classes(outputs, targets, shares))


@pytest.mark.parametrize(
    "outputs, targets, classes, is_hit, matrix",
    [
        (ONE_LOGIT, CLASSES, [1, 0, 0, 1, 0], [1, 0, 1, 0, 1], [[2, 1], [1, 1]]),
        (LOGITS, ONE_HOT, [0, 1, 0, 2, 2], [1, 1, 0, 1, 1], [[1, 0, 0], [1, 1, 0], [0, 0, 2]]),
        # of two classes in one row, one never occurs
        (np.ones((1, 5), np.float32), np.ones((1, 5), np.float32), [1] * 5, [1] * 5, [[0, 0], [0, 5]]),
    ],
)
def test_classes_by_hand(outputs, targets, classes, is_hit, matrix):
    predicted, hit, share, counted = judged(outputs, targets)
    np.testing.assert_array_equal(predicted, classes)
    np.testing.assert_array_equal(hit, is_hit)
    assert hit.dtype == np.float32
    np.testing.assert_array_equal(counted, matrix)
    np.testing.assert_allclose(share, np.mean(is_hit), rtol=1e-6)


def test_accuracy_weights_samples_by_their_shares():
    shares = np.float32([0.125, 0.125, 0.75, 0.0, 0.0])
    np.testing.assert_allclose(list(judged(LOGITS, ONE_HOT, shares))[2], 0.25, rtol=1e-6)


def test_confusion_matrix_agrees_with_accuracy():
    draw = default_rng(7)
    labels, logits = draw.integers(0, 7, 100), draw.normal(size=(7, 100)).astype(np.float32)
    targets, shares = np.eye(7, dtype=np.float32)[:, labels], np.full(100, 0.01, np.float32)
    predicted, _, share, matrix = judged(logits, targets, shares)
    np.testing.assert_array_equal(matrix.sum(axis=1), np.bincount(labels, minlength=7))
    np.testing.assert_array_equal(matrix.sum(axis=0), np.bincount(predicted, minlength=7))
    np.testing.assert_allclose(share, np.trace(matrix) / 100, rtol=1e-5)


def test_rmse_by_hand_of_two_outputs_in_their_own_units():
    outputs, targets = np.float32([[1.0, 1.0], [0.0, 2.0]]), np.zeros((2, 2), np.float32)
    # squares in units: 4 4 and 0 36, shares 3/4 and 1/4: (4 + 9) / 2
    shares, units = np.float32([0.75, 0.25]), np.float32([2.0, 3.0])
    np.testing.assert_allclose(root_mean_square(outputs, targets, shares, units), np.sqrt(6.5), rtol=1e-6)
    assert float(root_mean_square(outputs, outputs, shares, units)) == 0


def test_effective_size_is_the_controller_s_as_far_as_gates_are_open():
    np.testing.assert_array_equal(counts(network((7, 9), 1.5, 3.0))["effective_size"], [1.5, 3.0])
    gated = counts(network((4, 4, 4), 4.0, 3.0, 2.0, depth=2.25))
    np.testing.assert_allclose(gated["effective_size"], [4.0, 3.0, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    "size, expected",
    [(0.0, 0), (0.9 * ACTIVE, 0), (ACTIVE, 1), (1.1 * ACTIVE, 1), (1.0, 1), (1.0009, 1), (1.0011, 2), (7.0, 7)],
)
def test_a_unit_is_active_from_the_threshold(size, expected):
    assert counts(network((7,), size))["active_units"].tolist() == [expected]


def test_active_units_of_every_layer():
    found = counts(network((7, 9), 1.5, 9.0))["active_units"]
    assert found.tolist() == [2, 9]
    assert jnp.issubdtype(found.dtype, jnp.integer)
    assert counts(with_controller(Warmup(jnp.float32(0.0), (4, 6))))["active_units"].tolist() == [4, 6]


@pytest.mark.parametrize("size_input", [False, True])
@pytest.mark.parametrize("size, active", [(0.0, 0), (1.0, 1), (2.5, 3), (7.0, 7)])
def test_parameters_and_operations_of_one_layer_by_hand(size, active, size_input):
    found = counts(network((7,), size, size_input=size_input))
    assert int(found["active_parameters"]) == (3 + 1) * active + (active + 1) * 2
    assert int(found["flops"]) == 2 * (3 * active + active * 2)


def test_parameters_and_operations_of_two_layers_by_hand():
    found = counts(network((7, 9), 2.0, 4.5))
    assert int(found["active_parameters"]) == 4 * 2 + 3 * 5 + 6 * 2
    assert int(found["flops"]) == 2 * (3 * 2 + 2 * 5 + 5 * 2)


def test_behind_shut_gates_the_last_open_layer_is_read():
    found = counts(network((4, 4, 4), 3.0, 2.0, 4.0, depth=1.0))
    assert found["active_units"].tolist() == [3, 0, 0]
    assert int(found["active_parameters"]) == 4 * 3 + 4 * 2
    assert int(counts(network((4, 4, 4), 3.0, 2.0, 4.0, depth=2.0))["flops"]) == 2 * (3 * 3 + 3 * 2 + 2 * 2)


def test_a_full_network_counts_every_leaf_but_the_controller_s():
    net = network((7, 9), 7.0, 9.0)
    leaves = jax.tree.leaves((net.layers, net.readout))
    assert int(counts(net)["active_parameters"]) == sum(leaf.size for leaf in leaves)


def test_a_choice_of_activations_has_shares_by_name_and_no_parameters():
    net = network((7, 9), 2.0, 4.0)
    assert choice_shares(net) == {}
    logits = np.log(np.float32([[1.0, 4.0], [4.0, 1.0]]))
    choice = Choice(jnp.asarray(logits), jnp.float32(1.0), ("relu", "sin"))
    chosen = eqx.tree_at(lambda n: n.choice, net, choice, is_leaf=lambda leaf: leaf is None)
    shares, parameters = eqx.filter_jit(lambda n: (choice_shares(n), active_parameters(n)))(chosen)
    np.testing.assert_allclose(shares["sin"], [0.8, 0.2], rtol=1e-6)
    np.testing.assert_allclose(shares["relu"], [0.2, 0.8], rtol=1e-6)
    assert int(parameters) == int(counts(net)["active_parameters"])


def test_metrics_of_a_growing_size_never_fall():
    net = with_controller(Auxiliary(jnp.float32(1.0), (7,)))
    grown = [eqx.tree_at(lambda n: n.controller.weight, net, jnp.float32(s)) for s in np.linspace(-1, 8, 19)]
    found = [counts(each) for each in grown]
    for name in ("active_parameters", "flops"):
        assert (np.diff([int(own[name]) for own in found]) >= 0).all()
