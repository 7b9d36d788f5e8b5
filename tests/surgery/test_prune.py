"""Pruning: who goes and why, what is left, and what is refused."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n3.nn.losses import Samples
from n3.surgery.compact import compact
from n3.surgery.prune import prune
from networks import (
    CLOSE,
    KINDS,
    network,
    optimiser,
    quick,
    reference,
    shapes,
    silenced,
    stepped,
    task,
    trained,
)

SAMPLES = task(200)


def dead(net, layer, *units):
    """The network with units that are constant, whatever the input."""
    rows = np.array(units)
    return eqx.tree_at(
        lambda n: (n.layers[layer].weight, n.layers[layer].bias),
        net,
        (net.layers[layer].weight.at[rows].set(0.0), net.layers[layer].bias.at[rows].set(0.5)),
    )


def copied(net, layer, first, second):
    """The network with a unit that copies another's incoming weights."""
    own = net.layers[layer]
    weight = own.weight.at[second].set(own.weight[first])
    bias = own.bias.at[second].set(own.bias[first])
    net = eqx.tree_at(lambda n: (n.layers[layer].weight, n.layers[layer].bias), net, (weight, bias))
    shift = own.size_weight.at[second].set(own.size_weight[first])
    return eqx.tree_at(lambda n: n.layers[layer].size_weight, net, shift)


def gone(pruned):
    return [(one.layer, one.unit) for one in pruned.removed]


@pytest.mark.parametrize("kind", KINDS)
def test_a_dead_unit_goes_under_every_controller(kind):
    net = dead(network(kind, (5, 4), 3.3), 0, 1)
    pruned = prune(net, "entropy < 0.001", SAMPLES, is_classes=False)
    assert gone(pruned) == [(0, 1)]
    assert pruned.net.controller.capacity == (4, 4)
    assert pruned.removed[0].reason.startswith("entropy ")
    assert pruned.removed[0].values["entropy"] < 0.001
    np.testing.assert_allclose(reference(pruned.net), reference(silenced(net, 0, [1])), **CLOSE)


def test_of_two_copies_one_stays():
    net = copied(network("fixed", (4,), 4.0), 0, 0, 2)
    pruned = prune(net, "redundancy > 4", SAMPLES, is_classes=False)
    assert len(pruned.removed) == 1
    assert gone(pruned)[0] in ((0, 0), (0, 2))


def test_the_least_important_goes_first_and_the_rest_is_measured_again():
    net = copied(network("fixed", (5,), 5.0), 0, 0, 3)
    pruned = prune(net, "importance < 0.02", SAMPLES, is_classes=False)
    assert {(0, 0), (0, 3)} - set(gone(pruned))
    assert all(one.values["importance"] < 0.02 for one in pruned.removed)


def test_units_that_take_no_part_stay():
    pruned = prune(network("auxiliary", (6,), 2.0), "participation < 0.5", SAMPLES, is_classes=False)
    assert pruned.removed == ()
    assert pruned.net.controller.capacity == (6,)


@pytest.mark.parametrize("kind", ["auxiliary", "controller", "fixed", "information", "layerwise"])
def test_the_unit_at_the_frontier_can_go(kind):
    pruned = prune(network(kind, (4,), 2.3), "participation < 0.9", SAMPLES, is_classes=False)
    assert gone(pruned) == [(0, 2)]
    np.testing.assert_allclose(pruned.net.participation()[0], [1, 1, 0], atol=1e-6)


@quick
@given(shapes(gated=False), st.data())
def test_pruned_units_are_in_no_later_layer(shape, data):
    net = network(**shape)
    masks = [np.asarray(own) for own in net.participation()]
    lists = [st.lists(st.integers(0, len(own) - 1), unique=True, max_size=len(own) - 1) for own in masks]
    chosen = [set(data.draw(own)) for own in lists]
    left = [[j for j in np.flatnonzero(own) if j not in off] for own, off in zip(masks, chosen, strict=True)]
    if any(own.any() and not rest for own, rest in zip(masks, left, strict=True)):
        return
    asked = iter(layer for layer, own in enumerate(masks) if own.any())

    def pick(active, targets):
        off = chosen[next(asked)]
        return jnp.array([j in off for j in range(active.shape[0])])

    pruned = prune(net, pick, SAMPLES, is_classes=False)
    plain, before = compact(pruned.net), compact(net)
    for layer, (own, rest) in enumerate(zip(masks, left, strict=True)):
        live = list(np.flatnonzero(own))
        places = [live.index(unit) for unit in rest]
        after = [*plain.layers[1:], plain.readout][layer]
        old = [*before.layers[1:], before.readout][layer].weight
        rows = slice(None)
        if layer + 1 < len(left):
            following = list(np.flatnonzero(masks[layer + 1]))
            rows = np.array([following.index(unit) for unit in left[layer + 1]], int)
        np.testing.assert_allclose(after.weight, np.asarray(old)[rows][:, np.array(places, int)], **CLOSE)
    expected = net
    for layer, off in enumerate(chosen):
        expected = silenced(expected, layer, sorted(off))
    np.testing.assert_allclose(reference(plain), reference(expected), **CLOSE)


def test_the_layers_of_a_residual_stream_lose_the_same_units():
    net = network("fixed", (4, 4), 4.0, depth=1.6)
    both = dead(dead(net, 0, 1), 1, 1, 2)
    pruned = prune(both, "entropy < 0.001", SAMPLES, is_classes=False)
    assert gone(pruned) == [(None, 1)]
    assert pruned.net.controller.capacity == (3, 3)
    np.testing.assert_allclose(reference(pruned.net), reference(silenced(both, 0, [1])), **CLOSE)


def test_a_layer_that_says_nothing_goes_from_a_residual_stream():
    net = dead(network("fixed", (3, 3, 3), 3.0, depth=3.0), 1, 0, 1, 2)
    pruned = prune(net, "layer.importance < 0.01", SAMPLES, is_classes=False)
    assert gone(pruned) == [(1, None)]
    assert pruned.removed[0].reason.startswith("layer.importance ")
    assert len(pruned.net.layers) == 2
    assert float(pruned.net.depth_weight) == 2.0
    np.testing.assert_array_equal(pruned.net.layers[1].weight, net.layers[2].weight)


def test_a_layer_s_gain_is_over_the_layer_before():
    net = network("fixed", (3, 3), 3.0, depth=2.0)
    found = prune(
        net, "layer.gain < 0 and layer.importance > 1e9 or importance < -9", SAMPLES, is_classes=False
    )
    assert found.removed == ()
    identity = eqx.tree_at(
        lambda n: (n.layers[1].weight, n.layers[1].bias, n.layers[1].size_weight),
        net,
        (jnp.eye(3) * 1e-2, jnp.zeros(3), jnp.zeros(3)),
    )
    pruned = prune(identity, "layer.gain < 0.05", SAMPLES, is_classes=False)
    assert gone(pruned) == [(1, None)]
    assert abs(pruned.removed[0].values["layer.gain"]) < 0.05


def test_a_function_chooses_by_truth_or_by_a_number_below_zero():
    net = network("fixed", (4,), 4.0)
    by_truth = prune(net, lambda active, targets: jnp.arange(4) == 2, SAMPLES, is_classes=False)
    by_number = prune(net, lambda active, targets: jnp.array([1.0, 0.0, -0.2, 3.0]), SAMPLES, is_classes=False)
    assert gone(by_truth) == gone(by_number) == [(0, 2)]
    assert by_number.removed[0].reason == "score -0.2 < 0"
    assert eqx.tree_equal(by_truth.net, by_number.net)


def test_a_user_s_importance_takes_the_place_of_the_built_in_one():
    def own(active, targets):
        return jnp.arange(active.shape[0], dtype=active.dtype)

    net = network("fixed", (4, 3), [4.0, 2.0])
    pruned = prune(net, "importance < 1.5 and importance > 0.5", SAMPLES, importance=own, is_classes=False)
    assert gone(pruned) == [(0, 1), (1, 1)]
    assert pruned.removed[0].values["layer.importance"] == 6.0


def test_classes_are_judged_as_classes():
    x = SAMPLES.inputs
    labels = jnp.stack([x[0] > 0, (x[0] <= 0) & (x[1] > 0), (x[0] <= 0) & (x[1] <= 0)]).astype(x.dtype)
    classes = Samples(x, labels, SAMPLES.shares)
    net = dead(network("fixed", (5,), 5.0), 0, 3)
    assert gone(prune(net, "importance < 1e-4", classes, is_classes=True))[0] == (0, 3)


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("kind", ["auxiliary", "controller", "information"])
def test_the_next_update_of_what_stays_is_the_same(name, kind):
    net, state = trained(name, network(kind, (4,), 3.3), SAMPLES)
    net = silenced(dead(net, 0, 1), 0, [1])
    pruned = prune(net, "entropy < 0.001", SAMPLES, state=state, is_classes=False)
    before, *_ = stepped(name, net, state, SAMPLES)
    after, *_ = stepped(name, pruned.net, pruned.state, SAMPLES)
    kept = np.array([0, 2, 3])
    assert gone(pruned) == [(0, 1)]
    np.testing.assert_allclose(after.layers[0].weight, before.layers[0].weight[kept], **CLOSE)
    np.testing.assert_allclose(after.readout.weight, before.readout.weight[:, kept], **CLOSE)
    np.testing.assert_allclose(after.readout.bias, before.readout.bias, **CLOSE)


def test_reports_are_frozen():
    pruned = prune(dead(network("fixed", (4,), 4.0), 0, 1), "entropy < 0.001", SAMPLES, is_classes=False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        pruned.removed[0].unit = 3
    with pytest.raises(TypeError):
        pruned.removed[0].values["entropy"] = 1.0


def bad(rows, value=jnp.nan):
    return lambda active, targets: jnp.full(rows, value)


@pytest.mark.parametrize(
    "shape, criterion, message",
    [
        ({}, "importance < 1e9", "'importance < 1e9' would empty hidden layer 0: it holds for all"),
        ({"depth": 2.0}, "importance < 1e9", "would empty hidden layer 0"),
        ({}, "layer.importance < 1e9", "would empty hidden layer 0: only layers behind a depth gate can go"),
        (
            {"depth": 2.0},
            "layer.importance < 1e9",
            "would empty hidden layer 0: only layers behind",
        ),
        ({}, "importanc < 1", "Did you mean 'importance'"),
        ({}, bad(3), r"`criterion` must return shape \(4,\); got \(3,\)"),
        ({}, bad(4), "`criterion` must return true or false, or finite numbers"),
        ({}, bad(4, -1.0), "would empty hidden layer 0"),
    ],
)
def test_refused_with_nothing_changed(shape, criterion, message):
    net = network("fixed", (4, 4), 3.0, **shape)
    state = optimiser("adam").init(net)
    with pytest.raises(ValueError, match=message):
        prune(net, criterion, SAMPLES, state=state, is_classes=False)
    assert eqx.tree_equal(net, network("fixed", (4, 4), 3.0, **shape))
    assert eqx.tree_equal(state, optimiser("adam").init(net))


def test_other_bad_input_is_refused():
    net = network("fixed", (4,), 3.0)
    few = Samples(SAMPLES.inputs[:1], SAMPLES.targets, SAMPLES.shares)
    with pytest.raises(ValueError, match=r"`samples` must be inputs \[2, samples\].*got \(1, 200\) and"):
        prune(net, "importance < 1", few, is_classes=False)
    broken = eqx.tree_at(lambda n: n.layers[0].bias, net, jnp.full(4, jnp.nan))
    with pytest.raises(ValueError, match="`net` must have finite activations; hidden layer 0 has not"):
        prune(broken, "importance < 1", SAMPLES, is_classes=False)
    with pytest.raises(ValueError, match="`importance` must be zero or more; got -1"):
        prune(net, "importance < 1", SAMPLES, importance=bad(4, -1.0), is_classes=False)
    state = optimiser("adam").init(network("fixed", (5,), 3.0))
    with pytest.raises(ValueError, match="`state` must belong to `net`"):
        prune(net, "importance < 1", SAMPLES, state=state, is_classes=False)
