"""Pruning: who goes and why, what is left, and what is refused."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n3.information.measures import measure_units
from n3.surgery.compact import compact
from n3.surgery.prune import prune
from networks import CLOSE, KINDS, moments, network, quick, reference, shapes, silenced, task

DATA = tuple(np.asarray(own).T for own in (task(200).inputs, task(200).targets))


def with_rows(net, layer, **rows):
    """The network with a layer's leaves by name set to what functions of them return."""
    own = {
        name: jnp.asarray(change(np.array(getattr(net.layers[layer], name)))) for name, change in rows.items()
    }
    return eqx.tree_at(lambda n: [getattr(n.layers[layer], name) for name in own], net, list(own.values()))


def dead(net, layer, *units):
    """The network with units that are constant, whatever the input."""
    is_dead = np.isin(np.arange(4), units)
    return with_rows(
        net,
        layer,
        weight=lambda own: np.where(is_dead[:, None], np.float32(0.0), own),
        bias=lambda own: np.where(is_dead, np.float32(0.5), own),
    )


def copied(net, first, second):
    """The network with a unit of its first layer that copies another's incoming weights."""
    source = np.where(np.arange(4) == second, first, np.arange(4))
    return with_rows(net, 0, **dict.fromkeys(("weight", "bias", "size_weight"), lambda own: own[source]))


def gone(pruned):
    return [(one.layer, one.unit) for one in pruned.removed]


@pytest.mark.parametrize("kind", KINDS)
def test_a_dead_unit_goes_under_every_controller(kind):
    net = dead(network(kind, (4, 4), 3.3), 0, 1)
    pruned = prune(net, "entropy < 0.001", DATA, is_classes=False)
    assert gone(pruned) == [(0, 1)]
    assert pruned.net.controller.capacity == (3, 4)
    assert pruned.removed[0].reason.startswith("entropy ")
    assert pruned.removed[0].values["entropy"] < 0.001
    np.testing.assert_allclose(reference(pruned.net), reference(silenced(net, 0, [1])), **CLOSE)


def test_of_two_copies_one_stays():
    net = copied(network("fixed", (4,), 4.0), 0, 2)
    pruned = prune(net, "redundancy > 4", DATA, is_classes=False)
    assert len(pruned.removed) == 1
    assert gone(pruned)[0] in ((0, 0), (0, 2))


def test_of_two_important_copies_one_stays_because_the_rest_is_measured_again():
    net = copied(network("fixed", (4,), 4.0), 0, 3)
    pruned = prune(net, "importance < 0.02", DATA, is_classes=False)
    assert {(0, 0), (0, 3)} - set(gone(pruned))
    assert all(one.values["importance"] < 0.02 for one in pruned.removed)


def test_the_least_important_goes_first():
    own = jnp.asarray(np.float32([2.0, 0.0, 1.0, 3.0]))
    net = network("fixed", (4,), 4.0)
    pruned = prune(net, "importance < 2.5", DATA, importance=lambda active, targets: own, is_classes=False)
    assert gone(pruned) == [(0, 1), (0, 2), (0, 0)]


def test_units_that_take_no_part_stay():
    pruned = prune(network("auxiliary", (4,), 2.0), "participation < 0.5", DATA, is_classes=False)
    assert pruned.removed == ()
    assert pruned.net.controller.capacity == (4,)


@pytest.mark.parametrize("kind", ["auxiliary", "controller", "fixed", "information", "layerwise"])
def test_the_unit_at_the_frontier_can_go(kind):
    pruned = prune(network(kind, (4,), 2.3), "participation < 0.9", DATA, is_classes=False)
    assert gone(pruned) == [(0, 2)]
    np.testing.assert_allclose(pruned.net.participation()[0], [1, 1, 0], atol=1e-6)


@settings(quick, max_examples=4)
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
        return np.array([j in off for j in range(active.shape[1])])

    pruned = prune(net, pick, DATA, is_classes=False)
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
    pruned = prune(both, "entropy < 0.001", DATA, is_classes=False)
    assert gone(pruned) == [(None, 1)]
    assert pruned.net.controller.capacity == (3, 3)
    np.testing.assert_allclose(reference(pruned.net), reference(silenced(both, 0, [1])), **CLOSE)


def test_of_a_unit_of_all_layers_the_values_are_those_where_it_says_most():
    def own(active, targets):
        return jnp.asarray(np.arange(4, dtype=np.float32))

    net = network("fixed", (4, 4), 4.0, depth=1.6)
    pruned = prune(net, "importance < 1.5 and importance > 0.2", DATA, importance=own, is_classes=False)
    assert gone(pruned) == [(None, 1)]
    np.testing.assert_allclose(pruned.removed[0].values["importance"], 1.0, rtol=1e-6)


def test_a_layer_that_says_nothing_goes_from_a_residual_stream():
    net = dead(network("fixed", (4, 4, 4), 4.0, depth=3.0), 2, *range(4))
    pruned = prune(net, "layer.importance < 0.01", DATA, is_classes=False)
    assert gone(pruned) == [(2, None)]
    assert pruned.removed[0].reason.startswith("layer.importance ")
    assert float(pruned.net.depth_weight) == 2.0
    for own, old in zip(pruned.net.layers, net.layers[:2], strict=True):
        np.testing.assert_array_equal(own.weight, old.weight)


def test_the_layers_behind_one_that_goes_move_up():
    net = with_rows(
        network("fixed", (4, 4, 4), 4.0, depth=3.0),
        1,
        weight=np.zeros_like,
        bias=lambda own: np.full_like(own, -9.0),
    )

    def is_high(active, targets):
        return jnp.asarray((np.asarray(active).mean(axis=0) > -0.99).astype(np.float32))

    pruned = prune(net, "layer.importance < 0.5", DATA, importance=is_high, is_classes=False)
    assert gone(pruned) == [(1, None)]
    assert len(pruned.net.layers) == 2
    assert float(pruned.net.depth_weight) == 2.0
    np.testing.assert_array_equal(pruned.net.layers[1].weight, net.layers[2].weight)


def test_a_layer_s_gain_is_over_the_layer_before():
    net = network("fixed", (4, 4), 4.0, depth=2.0)
    found = prune(net, "layer.gain < 0 and layer.importance > 1e9 or importance < -9", DATA, is_classes=False)
    assert found.removed == ()
    identity = with_rows(
        net,
        1,
        weight=lambda own: np.eye(4, dtype=np.float32) * np.float32(1e-2),
        bias=np.zeros_like,
        size_weight=np.zeros_like,
    )
    pruned = prune(identity, "layer.gain < 0.05", DATA, is_classes=False)
    assert gone(pruned) == [(1, None)]
    assert abs(pruned.removed[0].values["layer.gain"]) < 0.05
    assert pruned.removed[0].values["layer.importance"] > 0.1


def test_a_costly_measure_is_taken_where_it_is_named():
    net = dead(network("fixed", (4,), 4.0), 0, 1)
    pruned = prune(net, "layer.gap > -9 and entropy < 0.001", DATA, is_classes=False)
    assert gone(pruned) == [(0, 1)]
    assert "layer.gap" in pruned.removed[0].values
    assert "layer.gap" not in prune(net, "entropy < 0.001", DATA, is_classes=False).removed[0].values


def test_a_function_chooses_by_truth_or_by_a_number_below_zero():
    net = network("fixed", (4,), 4.0)
    by_truth = prune(net, lambda active, targets: np.arange(4) == 2, DATA, is_classes=False)
    by_number = prune(net, lambda active, targets: np.array([1.0, 0.0, -0.2, 3.0]), DATA, is_classes=False)
    assert gone(by_truth) == gone(by_number) == [(0, 2)]
    assert by_number.removed[0].reason == "score -0.2 < 0"
    assert eqx.tree_equal(by_truth.net, by_number.net)


def test_a_function_sees_activations_and_targets_samples_first():
    net, seen = network("fixed", (4,), 4.0), []

    def scores(active, targets):
        seen.extend((np.asarray(active), np.asarray(targets)))
        return np.ones(4)

    prune(net, scores, DATA, is_classes=False)
    layer = jax.tree.map(np.asarray, net.layers[0])
    by_hand = np.tanh(DATA[0] @ layer.weight.T + layer.bias + 4.0 * layer.size_weight)
    np.testing.assert_allclose(seen[0], by_hand, **CLOSE)
    np.testing.assert_array_equal(seen[1], DATA[1])


def test_a_user_s_importance_takes_the_place_of_the_built_in_one():
    def own(active, targets):
        assert (active.shape, targets.shape) == ((200, 4), (200, 3))
        return jnp.asarray(np.arange(4, dtype=np.float32))

    net = network("fixed", (4, 4), [4.0, 2.25])
    pruned = prune(net, "importance < 1.5 and importance > 0.5", DATA, importance=own, is_classes=False)
    assert gone(pruned) == [(0, 1), (1, 1)]
    found = [one.values["layer.importance"] for one in pruned.removed]
    np.testing.assert_allclose(found, [6.0, 1.0 + 2.0 * np.sin(np.pi / 8) ** 2], rtol=1e-5)


def test_classes_are_judged_as_classes():
    x, y = DATA[0].T
    labels = np.stack([x > 0, (x <= 0) & (y > 0), (x <= 0) & (y <= 0)], axis=1).astype(np.float32)
    net = dead(network("fixed", (4,), 4.0), 0, 3)
    pruned = prune(net, "importance < 1e-4", (DATA[0], labels), is_classes=True)
    assert gone(pruned)[0] == (0, 3)
    seen, every = net.activations(jnp.asarray(DATA[0]))[0], jnp.ones(4)
    own = measure_units(seen, jnp.asarray(labels.T), every, every, is_classes=True)
    found = pruned.removed[0].values["layer.importance"]
    np.testing.assert_allclose(found, own.layer["importance"], rtol=1e-5)


def test_the_moments_of_what_stays_come_along():
    net = dead(network("auxiliary", (4,), 3.3), 0, 1)
    state = moments("adam", net)
    pruned = prune(net, "entropy < 0.001", DATA, state=state, is_classes=False)
    kept = np.array([0, 2, 3])
    assert gone(pruned) == [(0, 1)]
    for own, past in ((pruned.state[0].mu, state[0].mu), (pruned.state[0].nu, state[0].nu)):
        np.testing.assert_array_equal(own.layers[0].weight, np.asarray(past.layers[0].weight)[kept])
        np.testing.assert_array_equal(own.readout.weight, np.asarray(past.readout.weight)[:, kept])
        np.testing.assert_array_equal(own.readout.bias, past.readout.bias)


def test_reports_are_frozen():
    pruned = prune(dead(network("fixed", (4,), 4.0), 0, 1), "entropy < 0.001", DATA, is_classes=False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        pruned.removed[0].unit = 3
    with pytest.raises(TypeError):
        pruned.removed[0].values["entropy"] = 1.0


def bad(rows, value=np.nan):
    return lambda active, targets: jnp.asarray(np.full(rows, value, np.float32))


@pytest.mark.parametrize(
    "shape, criterion, message",
    [
        ({}, "importance < 1e9", "'importance < 1e9' would empty hidden layer 0: it holds for all"),
        ({}, "importance < 1e9", r"units that take part; `importance` was [-\d.e]+ to [-\d.e]+\.$"),
        (
            {},
            "redundancy < 9 and entropy > -1",
            r"; `entropy` was \d\S* to \d\S*; `redundancy` was \S+ to \S+\.$",
        ),
        ({"depth": 2.0}, "importance < 1e9", "would empty hidden layer 0"),
        ({}, "layer.importance < 1e9", "would empty hidden layer 0: only layers behind a depth gate, or"),
        ({"depth": 2.0}, "layer.importance < 1e9", "would empty hidden layer 0: only layers behind"),
        ({}, "importanc < 1", "Did you mean 'importance'"),
        ({}, bad(3), r"`criterion` must return shape \(4,\); got \(3,\)"),
        ({}, bad(4), "`criterion` must return true or false, or finite numbers"),
        ({}, bad(4, -1.0), "would empty hidden layer 0"),
    ],
)
def test_refused(shape, criterion, message):
    with pytest.raises(ValueError, match=message):
        prune(network("fixed", (4, 4), 3.0, **shape), criterion, DATA, is_classes=False)


@pytest.mark.parametrize(
    "data, got",
    [
        ((DATA[0][:, :1], DATA[1]), r"\(200, 1\) and \(200, 3\)"),
        ((DATA[0], DATA[1][:, :2]), r"\(200, 2\) and \(200, 2\)"),
        (tuple(own[:1] for own in DATA), r"\(1, 2\) and \(1, 3\)"),
    ],
)
def test_samples_that_do_not_fit_are_refused(data, got):
    message = (
        r"`data` must be inputs \[samples, 2\] and targets \[samples, 3\], two samples or more; got " + got
    )
    with pytest.raises(ValueError, match=message):
        prune(network("fixed", (4,), 3.0), "importance < 1", data, is_classes=False)


def test_other_bad_input_is_refused():
    net = network("fixed", (4,), 3.0)
    broken = with_rows(net, 0, bias=lambda own: np.full_like(own, np.nan))
    with pytest.raises(ValueError, match="`net` must have finite activations; hidden layer 0 has not"):
        prune(broken, "importance < 1", DATA, is_classes=False)
    with pytest.raises(ValueError, match="`importance` must be zero or more; got -1"):
        prune(net, "importance < 1", DATA, importance=bad(4, -1.0), is_classes=False)
    state = moments("adam", network("fixed", (3,), 3.0))
    with pytest.raises(ValueError, match="`state` must belong to `net`"):
        prune(net, "importance < 1", DATA, state=state, is_classes=False)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.arange(200) % 3 + 1, r"`data` must have labels in \[0, 2\]; got 1 to 3"),
        (np.arange(200) % 3 - 1, r"`data` must have labels in \[0, 2\]; got -1 to 1"),
        (np.full((200, 3), np.nan, np.float32), "`data` must be finite"),
    ],
)
def test_targets_that_say_nothing_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        prune(network("fixed", (4,), 3.0), "importance < 1", (DATA[0], targets))


def test_labels_are_classes():
    labels = np.argmax(DATA[1], axis=1)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    net = dead(network("fixed", (4,), 3.0), 0, 1)
    by_label, by_row = (
        prune(net, "entropy < 0.1", (DATA[0], labels)),
        prune(net, "entropy < 0.1", (DATA[0], one_hot), is_classes=True),
    )
    assert gone(by_label) == gone(by_row) == [(0, 1)]
    assert by_label.removed[0].values == by_row.removed[0].values
