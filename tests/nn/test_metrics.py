"""Metrics: values by hand, the laws that tie them together, and the threshold of an active unit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

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

ONE_LOGIT = jnp.array([[2.0, -1.0, 0.0, 0.5, -3.0]])
CLASSES = jnp.array([[1.0, 1.0, 0.0, 0.0, 0.0]])
LOGITS = jnp.array([[3.0, 0.0, 1.0, 0.0], [1.0, 2.0, 0.0, 0.5], [0.0, 1.0, 0.5, 4.0]])
ONE_HOT = jnp.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])


def network(capacity, *sizes, size_input=False):
    controller = Fixed(jnp.array(sizes, jnp.float32), capacity, "linear")
    return with_controller(controller, size_input=size_input)


def with_controller(controller, *, size_input=False):
    """A network of three inputs and two outputs: shapes in place of its weights, which no metric reads."""

    def build(key):
        return GrowingMLP(3, 2, controller=controller, size_input=size_input, key=key)

    shapes = eqx.filter_eval_shape(build, jr.key(0))
    return eqx.tree_at(lambda net: net.controller, shapes, controller)


def even(samples):
    return jnp.full(samples, 1.0 / samples)


def test_predicted_class_by_hand():
    np.testing.assert_array_equal(predicted_class(ONE_LOGIT), [1, 0, 0, 1, 0])
    np.testing.assert_array_equal(predicted_class(LOGITS), [0, 1, 0, 2])


def test_hits_by_hand():
    np.testing.assert_array_equal(hits(ONE_LOGIT, CLASSES), [1, 0, 1, 0, 1])
    np.testing.assert_array_equal(hits(LOGITS, ONE_HOT), [1, 1, 0, 1])
    assert hits(LOGITS, ONE_HOT).dtype == jnp.float32


def test_accuracy_by_hand():
    np.testing.assert_allclose(accuracy(ONE_LOGIT, CLASSES, even(5)), 0.6, rtol=1e-6)
    np.testing.assert_allclose(accuracy(LOGITS, ONE_HOT, even(4)), 0.75, rtol=1e-6)
    shares = jnp.array([0.125, 0.125, 0.75, 0.0])
    np.testing.assert_allclose(accuracy(LOGITS, ONE_HOT, shares), 0.25, rtol=1e-6)


def test_rmse_by_hand_in_the_target_s_own_unit():
    outputs, targets = jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])
    np.testing.assert_allclose(rmse(outputs, targets, even(2), jnp.array([1.0])), np.sqrt(2.5), rtol=1e-6)
    np.testing.assert_allclose(rmse(outputs, targets, even(2), jnp.array([4.0])), 4 * np.sqrt(2.5), rtol=1e-6)


def test_rmse_by_hand_of_two_outputs_with_their_own_units():
    outputs, targets = jnp.array([[1.0, 1.0], [0.0, 2.0]]), jnp.zeros((2, 2))
    # squares in units: 4 4 and 0 36, shares 3/4 and 1/4: (4 + 9) / 2
    found = rmse(outputs, targets, jnp.array([0.75, 0.25]), jnp.array([2.0, 3.0]))
    np.testing.assert_allclose(found, np.sqrt(6.5), rtol=1e-6)


def test_rmse_is_zero_for_a_perfect_fit():
    assert float(rmse(LOGITS, LOGITS, even(4), jnp.ones(3))) == 0


def test_confusion_matrix_by_hand():
    np.testing.assert_array_equal(confusion_matrix(ONE_LOGIT, CLASSES), [[2, 1], [1, 1]])
    np.testing.assert_array_equal(confusion_matrix(LOGITS, ONE_HOT), [[1, 0, 0], [1, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_confusion_matrix_agrees_with_accuracy(classes):
    logits_key, labels_key = jr.split(jr.key(classes))
    labels = jr.randint(labels_key, 100, 0, classes)
    logits = jr.normal(logits_key, (classes, 100))
    targets = jax.nn.one_hot(labels, classes).T
    counts = np.asarray(confusion_matrix(logits, targets))
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(labels, minlength=classes))
    np.testing.assert_array_equal(counts.sum(axis=0), np.bincount(predicted_class(logits), minlength=classes))
    np.testing.assert_allclose(accuracy(logits, targets, even(100)), np.trace(counts) / 100, rtol=1e-5)


def test_confusion_matrix_has_a_row_for_a_class_that_never_occurs():
    np.testing.assert_array_equal(confusion_matrix(jnp.ones((1, 3)), jnp.ones((1, 3))), [[0, 0], [0, 3]])


def test_effective_size_is_the_controller_s():
    np.testing.assert_array_equal(effective_size(network((4, 5), 1.5, 3.0)), [1.5, 3.0])


@pytest.mark.parametrize(
    "size, expected",
    [(0.0, 0), (0.9 * ACTIVE, 0), (ACTIVE, 1), (1.1 * ACTIVE, 1), (1.0, 1), (1.0009, 1), (1.0011, 2), (4.0, 4)],
)
def test_a_unit_is_active_from_the_threshold(size, expected):
    assert active_units(network((4,), size)).tolist() == [expected]


def test_active_units_of_every_layer():
    net = network((4, 6, 5), 1.5, 6.0, 0.0)
    assert active_units(net).tolist() == [2, 6, 0]
    assert jnp.issubdtype(active_units(net).dtype, jnp.integer)


def test_units_of_a_warmup_are_all_active():
    net = with_controller(Warmup(jnp.float32(0.0), (4, 6)))
    assert active_units(net).tolist() == [4, 6]


@pytest.mark.parametrize("size_input", [False, True])
@pytest.mark.parametrize("size, active", [(0.0, 0), (1.0, 1), (2.5, 3), (7.0, 7)])
def test_parameters_and_operations_of_one_layer_by_hand(size, active, size_input):
    net = network((7,), size, size_input=size_input)
    assert int(active_parameters(net)) == (3 + 1) * active + (active + 1) * 2
    assert int(flops(net)) == 2 * (3 * active + active * 2)


def test_parameters_and_operations_of_two_layers_by_hand():
    net = network((7, 9), 2.0, 4.5)
    assert int(active_parameters(net)) == 4 * 2 + 3 * 5 + 6 * 2
    assert int(flops(net)) == 2 * (3 * 2 + 2 * 5 + 5 * 2)


def test_a_full_network_counts_every_leaf_but_the_controller_s():
    net = network((7, 9), 7.0, 9.0)
    leaves = jax.tree.leaves((net.layers, net.readout))
    assert int(active_parameters(net)) == sum(leaf.size for leaf in leaves)


def test_a_choice_of_activations_has_shares_by_name_and_no_parameters():
    chosen = GrowingMLP(3, 2, controller=Fixed(jnp.array([2.0, 4.0]), (7, 9), "linear"), key=jr.key(0))
    plain = int(active_parameters(chosen))
    assert choice_shares(chosen) == {}
    logits = jnp.log(jnp.array([[1.0, 4.0], [4.0, 1.0]]))
    choice = Choice(logits, jnp.ones(()), ("relu", "sin"))
    chosen = eqx.tree_at(lambda n: n.choice, chosen, choice, is_leaf=lambda leaf: leaf is None)
    np.testing.assert_allclose(choice_shares(chosen)["sin"], [0.8, 0.2], rtol=1e-6)
    np.testing.assert_allclose(choice_shares(chosen)["relu"], [0.2, 0.8], rtol=1e-6)
    assert int(active_parameters(chosen)) == plain


def test_metrics_of_a_growing_size_never_fall():
    def of(size):
        net = with_controller(Auxiliary(jnp.float32(size), (7,)))
        return int(active_parameters(net)), int(flops(net))

    counts = np.array([of(size) for size in np.linspace(-1, 8, 19)])
    assert (np.diff(counts, axis=0) >= 0).all()
