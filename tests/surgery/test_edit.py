"""Surgery: every controller goes on as before for the units that stay, and so does the optimiser."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n3.nn.controllers import AbstractController, Auxiliary, Layerwise
from n3.surgery.edit import Edit, edited, full_units
from networks import CLOSE, KINDS, UNRANKED, moments, network, quick, reference, shapes, silenced, stepped, task


def without(net, *gone):
    """The edit that takes units out of each layer."""
    units = tuple(
        np.setdiff1d(np.arange(own), np.array(off, int))
        for own, off in zip(net.controller.capacity, gone, strict=True)
    )
    layers = tuple(range(len(units)))
    return Edit(layers=layers, units=units, is_new=tuple(np.zeros(len(own), bool) for own in units))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0.0, 1.0, 2.3, 4.0])
def test_units_that_stay_take_part_as_before(kind, size):
    gone = [0], [2], [1, 3], [0, 1, 2]
    net = network(kind, (4,) * 4, size)
    made, _ = edited(net, without(net, *gone))
    kept = [np.setdiff1d(np.arange(4), off) for off in gone]
    assert made.controller.capacity == tuple(own.size for own in kept)
    for after, before, own in zip(made.participation(), net.participation(), kept, strict=True):
        np.testing.assert_allclose(after, np.asarray(before)[own], atol=2e-6)


@pytest.mark.parametrize(
    "kind, size, gone, expected",
    [
        ("auxiliary", 2.25, [0], 1.25),
        ("auxiliary", 2.25, [2], 2.0),
        ("auxiliary", 2.25, [3], 2.25),
        ("auxiliary", 3.0, [0, 3], 2.0),
        ("auxiliary", -0.5, [0], -0.5),
        ("auxiliary", 5.5, [1, 2], 3.5),
        ("information", 2.25, [1, 2], 1.0),
        ("fixed", 4.0, [1], 3.0),
    ],
)
def test_size_weights_by_hand(kind, size, gone, expected):
    net = network(kind, (4,), size)
    made, _ = edited(net, without(net, gone))
    np.testing.assert_allclose(np.ravel(jax.tree.leaves(made.controller)[0]), [expected])


@pytest.mark.parametrize("kind", UNRANKED)
def test_where_all_units_take_part_alike_the_weight_stays(kind):
    net = network(kind, (4,), 1.3)
    made, _ = edited(net, without(net, [1]))
    assert jax.tree.leaves(made.controller) == jax.tree.leaves(net.controller)


@pytest.mark.parametrize("output", [0.4, -0.4, 1.6, 2.4])
def test_a_bounded_controller_stays_on_its_branch(output):
    net = network("controller", (4,))
    net = eqx.tree_at(lambda n: n.controller.weight, net, jnp.float32(output))
    made, _ = edited(net, without(net, [3]))
    np.testing.assert_allclose(made.participation()[0], net.participation()[0][:3], atol=2e-6)
    assert abs(float(made.controller.weight) - output) < 0.2


def test_one_size_weight_becomes_one_a_layer_where_they_part():
    net = network("auxiliary", (4, 4), 2.3)
    alike, _ = edited(net, without(net, [0], [1]))
    parted, _ = edited(net, without(net, [0], []))
    assert isinstance(alike.controller, Auxiliary)
    assert isinstance(parted.controller, Layerwise)
    np.testing.assert_allclose(parted.controller.sizes(), [1.3, 2.3], rtol=1e-6)


@quick
@given(shapes(), st.data())
def test_outputs_are_those_without_the_outgoing_weights(shape, data):
    net = network(**shape)
    counts = net.controller.capacity
    gone = [data.draw(st.lists(st.integers(0, own - 1), max_size=own - 1, unique=True)) for own in counts]
    gone = gone[:1] * len(gone) if net.depth_weight is not None else gone
    expected = net
    for layer, units in enumerate(gone):
        expected = silenced(expected, layer, units)
    made, _ = edited(net, without(net, *gone))
    assert made.controller.capacity == tuple(own - len(off) for own, off in zip(counts, gone, strict=True))
    np.testing.assert_allclose(reference(made), reference(expected), **CLOSE)


def test_the_next_update_of_what_stays_is_the_same():
    samples, net = task(), silenced(network("auxiliary", (4, 4), 3.3), 0, [1])
    state = moments("adam", net)
    made, carried = edited(net, without(net, [1], []), state)
    before, *_ = stepped("adam", net, state, samples)
    after, *_ = stepped("adam", made, carried, samples)
    kept = np.array([0, 2, 3])
    for own, old, rows, columns in (
        (after.layers[0], before.layers[0], kept, slice(None)),
        (after.layers[1], before.layers[1], slice(None), kept),
        (after.readout, before.readout, slice(None), slice(None)),
    ):
        np.testing.assert_allclose(own.weight, np.asarray(old.weight)[rows][:, columns], **CLOSE)
        np.testing.assert_allclose(own.bias, np.asarray(old.bias)[rows], **CLOSE)
    assert np.abs(np.asarray(before.readout.weight)).max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_moments_follow_their_units_exactly(kind):
    net = network(kind, (4, 4))
    state = moments("adam", net)
    _, carried = edited(net, without(net, [1], [0]), state)
    for own, moved in ((state[0].mu, carried[0].mu), (state[0].nu, carried[0].nu)):
        first, second, last = (np.asarray(each.weight) for each in (*own.layers, own.readout))
        np.testing.assert_array_equal(moved.layers[0].weight, first[[0, 2, 3]])
        np.testing.assert_array_equal(moved.layers[1].weight, second[1:][:, [0, 2, 3]])
        np.testing.assert_array_equal(moved.layers[1].size_weight, np.asarray(own.layers[1].size_weight)[1:])
        np.testing.assert_array_equal(moved.readout.weight, last[:, 1:])
        sizes = [
            np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(each.controller)])
            for each in (moved, own)
        ]
        np.testing.assert_array_equal(*sizes)
    assert carried[0].count == state[0].count == 3


def test_full_units_by_hand():
    assert full_units(network("auxiliary", (4, 4), 2.3)) == (2, 2)
    assert full_units(network("information", (4, 4), [4.0, 0.9])) == (4, 0)
    assert full_units(network("released", (4, 3), 0.5)) == (4, 3)


class Foreign(AbstractController):
    capacity: tuple[int, ...] = (4,)
    mask: str = "sine"

    def sizes(self):
        return jnp.ones(1)

    def participation(self):
        return (jnp.ones(4),)

    def gain(self):
        return jnp.ones(())

    def penalty(self, target_size):
        return target_size


def test_what_surgery_does_not_know_is_refused():
    net = network("fixed", (4,))
    many = jax.tree.map(lambda leaf: jnp.asarray(np.stack([leaf] * 3)), net)
    foreign = eqx.tree_at(lambda n: n.controller, net, Foreign())
    for refused, message in (
        (many, "`net` must be one network; got 3 of them, stacked"),
        (foreign, "`net` must have one of n3's own controllers; got Foreign"),
    ):
        with pytest.raises(ValueError, match=message):
            edited(refused, without(net, [0]))


def test_a_state_of_another_network_is_refused():
    net, state = network("auxiliary", (4,)), moments("adam", network("auxiliary", (3,)))
    with pytest.raises(
        ValueError, match=r"`state` must belong to `net`: `ScaleByAdamState.mu` .*capacity=\(3,\)"
    ):
        edited(net, without(net, [0]), state)
