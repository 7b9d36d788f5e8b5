"""Expansion: more room and the same outputs, for every controller, and an optimiser that goes on as before."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n3.nn.controllers import Layerwise
from n3.surgery.compact import compact
from n3.surgery.edit import full_units
from n3.surgery.expand import expand
from networks import (
    CLOSE,
    KINDS,
    UNRANKED,
    filled,
    grown_perceptron,
    moments,
    network,
    quick,
    reference,
    shapes,
    stepped,
    task,
)

KEY = jr.key(11)


@quick
@given(shapes(), st.booleans())
def test_units_without_outgoing_weights_leave_the_outputs_alone(shape, is_born):
    net = network(**shape)
    made, _ = expand(net, units=2, is_born=is_born and len(set(full_units(net))) == 1, key=KEY)
    assert made.controller.capacity == tuple(own + 2 for own in net.controller.capacity)
    np.testing.assert_allclose(reference(made), reference(net), **CLOSE)
    np.testing.assert_allclose(reference(compact(made)), reference(compact(net)), **CLOSE)


@quick
@given(shapes(kinds=("fixed", "warmup", "released"), gated=False))
def test_split_units_leave_the_outputs_alone(shape):
    net = network(**shape)
    added = tuple(2 if full else 0 for full in full_units(net))
    if any(added):
        made, _ = expand(net, units=added, method="split")
        np.testing.assert_allclose(reference(made), reference(net), **CLOSE)
        np.testing.assert_allclose(reference(compact(made)), reference(compact(net)), **CLOSE)


@quick
@given(shapes())
def test_identity_layers_leave_the_outputs_alone(shape):
    shape |= {"capacity": (4,) * len(shape["capacity"])}
    net = network(**shape)
    made, _ = expand(net, layers=1, method="identity", key=KEY)
    assert len(made.layers) == len(net.layers) + 1
    np.testing.assert_allclose(reference(made), reference(net), **CLOSE)
    # a shut layer vanishes: the very same network
    assert eqx.tree_equal(compact(made), compact(net), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_further_capacity_compacts_to_the_very_same_network(kind):
    net = network(kind, (4, 3), 1.6)
    made, _ = expand(net, units=2, key=KEY)
    plain, before = compact(made), compact(net)
    if kind in UNRANKED:
        assert [layer.bias.size for layer in plain.layers] == [6, 5]
        np.testing.assert_array_equal(plain.readout.weight[:, 3:], 0)
    else:
        assert eqx.tree_equal(plain, before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["zero", "split"])
@pytest.mark.parametrize("depth", [None, 1.5])
def test_new_units_that_take_part_keep_the_outputs_under_every_controller(kind, method, depth):
    net = network(kind, (4, 4), 2.3, depth=depth)
    made, _ = expand(net, units=3, method=method, is_born=True, key=KEY)
    np.testing.assert_allclose(reference(made), reference(net), **CLOSE)
    if kind not in UNRANKED:
        np.testing.assert_allclose(made.controller.sizes(), np.asarray(net.controller.sizes()) + 3, rtol=1e-6)
        np.testing.assert_allclose(made.participation()[0][5], net.participation()[0][2], atol=1e-5)


def test_growth_reaches_capacity_that_was_added():
    net = network("auxiliary", (4,), 6.0)
    made, _ = expand(net, units=2, key=KEY)
    assert float(made.controller.weight) == 4.0
    grown = eqx.tree_at(lambda n: n.controller.weight, made, net.controller.weight)
    np.testing.assert_array_equal(grown.participation()[0], np.ones(6))


def test_a_split_by_hand():
    net = network("fixed", (3,), 2.0, size_input=False)
    net = eqx.tree_at(lambda n: n.readout.weight, net, jnp.asarray(np.float32([[2, 3, 9]] * 3)))
    made, _ = expand(net, units=3, method="split")
    np.testing.assert_array_equal(made.readout.weight[0], [1.0, 0.75, 1.5, 1.0, 0.75, 9.0])
    np.testing.assert_array_equal(made.layers[0].weight, np.asarray(net.layers[0].weight)[[0, 1, 1, 0, 1, 2]])
    assert made.controller.size.tolist() == [5.0]


def test_one_size_weight_becomes_one_a_layer_where_births_part():
    made, _ = expand(network("auxiliary", (4, 4), 2.3), units=(0, 2), is_born=True, key=KEY)
    assert isinstance(made.controller, Layerwise)
    np.testing.assert_allclose(made.controller.sizes(), [2.3, 4.3], rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 0.01, 0.2])
def test_mutation_moves_the_outputs_by_its_scale(scale):
    net = network("fixed", (4,), 4.0)
    made, _ = expand(net, units=2, method="mutate", scale=scale, key=KEY)
    plain, _ = expand(net, units=2, method="split")
    change = np.abs(reference(made) - reference(net)).max()
    assert change < 1e-6 if scale == 0 else 0.02 * scale < change < 20 * scale
    for own, copied in (
        (made.layers[0].weight, plain.layers[0].weight),
        (made.layers[0].bias, plain.layers[0].bias),
    ):
        noise = np.asarray(own) - np.asarray(copied)
        np.testing.assert_array_equal(noise[:4], 0)
        assert (np.abs(noise[4:]) < 5 * scale + 1e-9).all()
        assert (np.abs(noise[4:]) > 0).all() == (scale > 0)
    np.testing.assert_array_equal(made.readout.weight, plain.readout.weight)


def test_the_next_update_of_what_was_there_is_the_same_and_a_new_unit_learns():
    samples, net = task(), network("auxiliary", (4, 4), 3.3)
    state = moments("adam", net)
    made, carried = expand(net, units=2, is_born=True, key=KEY, state=state)
    before, *_ = stepped("adam", net, state, samples)
    after, *_ = stepped("adam", made, carried, samples)
    old = np.array([0, 1, 2, 5])
    for own, past, rows, columns in (
        (after.layers[0], before.layers[0], old, slice(None)),
        (after.layers[1], before.layers[1], old, old),
        (after.readout, before.readout, slice(None), old),
    ):
        np.testing.assert_allclose(np.asarray(own.weight)[rows][:, columns], past.weight, **CLOSE)
        np.testing.assert_allclose(np.asarray(own.bias)[rows], past.bias, **CLOSE)
    assert np.abs(np.asarray(before.readout.weight)).max() > 1e-4
    assert np.abs(np.asarray(after.readout.weight)[:, 3:5]).min() > 1e-5


@pytest.mark.parametrize("method", ["zero", "split", "identity"])
def test_new_weights_have_no_moments_and_old_ones_keep_theirs(method):
    net = network("fixed", (4,), 4.0)
    state = moments("adam", net)
    number = {"layers": 1} if method == "identity" else {"units": 2, "is_born": method == "zero"}
    _, carried = expand(net, **number, method=method, key=KEY, state=state)
    for own, past in ((carried[0].mu, state[0].mu), (carried[0].nu, state[0].nu)):
        first, second = np.asarray(own.layers[0].weight), np.asarray(own.readout.weight)
        np.testing.assert_array_equal(first[:4], past.layers[0].weight)
        np.testing.assert_array_equal(first[4:], 0)
        np.testing.assert_array_equal(second[:, :4], past.readout.weight)
        np.testing.assert_array_equal(second[:, 4:], 0)
        assert not any(np.any(leaf) for layer in own.layers[1:] for leaf in jax.tree.leaves(layer))


@pytest.mark.parametrize(
    "shape, options, message",
    [
        (
            {},
            {"units": 1, "method": "splitt"},
            r"`method` must be one of zero, .*'splitt'\. Did you mean 'split'\?",
        ),
        ({}, {"units": (1, 2, 3)}, r"`units` must be .* one for each of 2 layers; got \(1, 2, 3\)"),
        ({}, {"units": -1}, r"`units` must be zero or more, .*; got -1"),
        ({}, {"layers": -1}, r"`layers` must be zero or more; got -1"),
        ({}, {}, r"`method` must be identity to add layers and another to add units; got zero for `units` 0"),
        ({}, {"units": 1, "layers": 1, "method": "identity"}, "`method` must be identity to add layers"),
        (
            {},
            {"units": 1, "method": "mutate", "scale": -1.0},
            r"`scale` must be zero or more, .*got -1",
        ),
        ({}, {"units": 1, "key": None}, "`key` must be given for method zero"),
        ({"sizes": 0.5}, {"units": 1, "method": "split"}, "`units` cannot be split in hidden layer 0"),
        ({"capacity": (4, 3)}, {"layers": 1, "method": "identity"}, r"equal capacity; got \(4, 3\)"),
        (
            {"depth": 1.5},
            {"units": (1, 2)},
            r"`units` must be one number where there .*; got \(1, 2\)",
        ),
        (
            {"depth": 1.5, "kind": "fixed", "sizes": [1.0, 2.0]},
            {"units": 1, "is_born": True},
            r"take part only where all layers have as many full units; got \(1, 2\)",
        ),
    ],
)
def test_refused(shape, options, message):
    with pytest.raises(ValueError, match=message):
        expand(network(**shape), **{"key": KEY, **options})


def test_layers_have_a_place_in_the_built_in_network_alone():
    with pytest.raises(ValueError, match="`layers` can be added to a GrowingMLP alone"):
        expand(grown_perceptron(), layers=1, method="identity", key=KEY)


class Tied(eqx.Module):
    """An autoencoder whose decoder has the encoder's weights: it is not linear in them."""

    encoder: eqx.nn.Linear

    def __call__(self, x):
        return self.encoder.weight.T @ jnp.tanh(self.encoder(x))


def test_copies_that_would_not_add_up_are_refused():
    model = Tied(filled(lambda: eqx.nn.Linear(2, 8, key=KEY)))
    for method in ("split", "mutate"):
        with pytest.raises(
            ValueError, match="`method` must be zero for this model: with copies that share weights"
        ):
            expand(model, units=2, method=method, key=KEY, example=np.zeros(2, np.float32))
    made, _ = expand(model, units=2, key=KEY, example=np.zeros(2, np.float32))
    assert made.encoder.weight.shape == (10, 2)


class Unbiased(eqx.Module):
    """A model that does not use a layer's bias."""

    layers: list

    def __call__(self, x):
        first, second, last = self.layers
        return last(jnp.tanh(second.weight @ jnp.tanh(first(x))))


def test_a_bias_that_is_not_used_stays():
    sizes = ((2, 4), (4, 3), (3, 1))
    model = Unbiased(filled(lambda: [eqx.nn.Linear(*own, key=KEY) for own in sizes]))
    made, _ = expand(model, units=np.int64(2), key=KEY, example=np.zeros(2, np.float32))
    assert [layer.weight.shape for layer in made.layers] == [(6, 2), (5, 6), (1, 5)]
    assert made.layers[1].bias.shape == (3,)
