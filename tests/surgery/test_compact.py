"""Compaction: the same outputs from a plain network of the units that take part."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given

from n3.nn.controllers import Warmup
from n3.nn.mlp import ACTIVATIONS, Choice, GrowingMLP
from n3.surgery.compact import CompactMLP, compact, compact_state
from n3.tracing.grow import grow
from networks import CLOSE, KINDS, inputs, network, optimiser, outputs, quick, shapes, stepped, task, trained


def parameters(net):
    return sum(leaf.size for leaf in jax.tree.leaves(net))


@quick
@given(shapes())
def test_the_outputs_stay(shape):
    net = network(**shape)
    plain, x = compact(net), inputs()
    assert isinstance(plain, CompactMLP)
    np.testing.assert_allclose(outputs(plain, x), outputs(net, x), **CLOSE)
    np.testing.assert_allclose(plain(x[:, 0]), net(x[:, 0]), **CLOSE)


@quick
@given(shapes())
def test_compacting_again_changes_nothing(shape):
    net = network(**shape)
    once = compact(net)
    assert eqx.tree_equal(compact(once), once)


@quick
@given(shapes(gated=False))
def test_the_parameters_are_those_of_the_units_that_take_part(shape):
    net = network(**shape)
    live = [2, *(int(np.sum(np.asarray(own) > 0)) for own in net.participation()), 3]
    by_hand = sum((before + 1) * after for before, after in pairwise(live))
    assert parameters(compact(net)) == by_hand


@pytest.mark.parametrize(
    "depth, by_hand",
    [
        (1.0, 3 * (2 + 1) + 3 * (3 + 1)),
        (1.5, 3 * (2 + 1) + 3 * (3 + 1) + 3 * (6 + 1)),
        (2.0, 3 * (2 + 1) + 3 * (3 + 1) + 3 * (3 + 1)),
        (2.5, 3 * (2 + 1) + 3 * (3 + 1) + 3 * (3 + 1) + 3 * (6 + 1)),
        (3.0, 3 * (2 + 1) + 2 * 3 * (3 + 1) + 3 * (3 + 1)),
    ],
)
def test_the_parameters_of_gated_layers_by_hand(depth, by_hand):
    plain = compact(network("fixed", (4, 4, 4), 2.5, depth=depth))
    assert parameters(plain) == by_hand
    assert len(plain.layers) == np.ceil(depth)


def test_values_by_hand():
    net = network("fixed", (3,), 1.5, mask="linear", activation="identity")
    plain = compact(net)
    first, read = net.layers[0], net.readout
    np.testing.assert_array_equal(plain.layers[0].weight, first.weight[:2])
    np.testing.assert_allclose(plain.layers[0].bias, first.bias[:2] + 1.5 * first.size_weight[:2], rtol=1e-6)
    np.testing.assert_allclose(plain.readout.weight, read.weight[:, :2] * jnp.array([[1.0, 0.5]]), rtol=1e-6)
    np.testing.assert_array_equal(plain.readout.bias, read.bias)


def test_a_partly_open_gate_by_hand():
    net = network("fixed", (2, 2), [2.0, 1.0], depth=1.25, mask="linear", activation="identity")
    weight = compact(net).readout.weight
    np.testing.assert_allclose(weight[:, :2], 0.75 * net.readout.weight, rtol=1e-6)
    np.testing.assert_allclose(weight[:, 2:], 0.25 * net.readout.weight[:, :1], rtol=1e-6)


def test_the_output_gain_is_in_the_readout():
    net = network("warmup", (3,), 3.0)
    net = eqx.tree_at(lambda n: n.controller, net, Warmup(jnp.float32(1 / 3), (3,)))
    np.testing.assert_allclose(compact(net).readout.weight, 0.25 * net.readout.weight, rtol=1e-5)
    np.testing.assert_allclose(compact(net).readout.bias, 0.25 * net.readout.bias, rtol=1e-5)


@pytest.mark.parametrize("sizes", [[0.0, 2.0], [2.0, 0.0], [0.0, 0.0]])
def test_a_layer_without_units_leaves_a_constant(sizes):
    net = network("information", (3, 3), sizes)
    plain = compact(net)
    assert [layer.bias.size for layer in plain.layers] == [int(size) for size in sizes]
    found = np.asarray(outputs(plain, inputs()))
    np.testing.assert_allclose(found, outputs(net, inputs()), **CLOSE)
    np.testing.assert_array_equal(found, np.repeat(found[:, :1], 7, axis=1))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_layer_has_its_activation(name):
    net = network("fixed", (3, 2), [2.0, 1.5], activation=name)
    assert [layer.activation for layer in compact(net).layers] == [name, name]
    np.testing.assert_allclose(outputs(compact(net), inputs()), outputs(net, inputs()), **CLOSE)


def test_a_soft_choice_becomes_the_activation_of_the_largest_share():
    net = network("fixed", (3, 2), [2.0, 1.5], activation="choose:tanh,sin,relu")
    logits = jnp.array([[0.0, 0.2, 0.1], [0.3, 0.0, 0.1]])
    soft, hard = (
        eqx.tree_at(lambda n: n.choice, net, Choice(logits, jnp.float32(t), net.choice.names)) for t in (1, 0)
    )
    assert [layer.activation for layer in compact(soft).layers] == ["sin", "tanh"]
    np.testing.assert_allclose(outputs(compact(soft), inputs()), outputs(hard, inputs()), **CLOSE)


def test_a_compact_network_can_train_and_is_jitted_as_any_module():
    plain, samples = compact(network("auxiliary", (4, 4), 2.3)), task()
    state = optimiser("adam").init(plain)
    before = np.mean((np.asarray(plain.batch(samples.inputs)) - np.asarray(samples.targets)) ** 2)
    for _ in range(20):
        _, plain, state = stepped("adam", plain, state, samples)
    after = eqx.filter_jit(eqx.filter_vmap(lambda x: plain(x), in_axes=1, out_axes=1))(samples.inputs)
    assert np.mean((np.asarray(after) - np.asarray(samples.targets)) ** 2) < 0.9 * before


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("kind", ["auxiliary", "fixed", "layerwise"])
def test_the_next_update_of_full_units_is_the_same(name, kind):
    samples = task()
    net, state = trained(name, network(kind, (4, 4), 2.0, size_input=False), samples)
    net = eqx.tree_at(lambda n: n.controller, net, network("fixed", (4, 4), 2.0).controller)
    state = jax.tree.map(
        lambda node: eqx.tree_at(lambda n: n.controller, node, net.controller) if _is_net(node) else node,
        state,
        is_leaf=_is_net,
    )
    before, *_ = stepped(name, net, state, samples)
    after, *_ = stepped(name, compact(net), compact_state(net, state), samples)
    live = [slice(None), slice(0, 2), slice(0, 2), slice(None)]
    pairs = zip((*after.layers, after.readout), (*before.layers, before.readout), strict=True)
    for index, (own, old) in enumerate(pairs):
        np.testing.assert_allclose(own.weight, old.weight[live[index + 1], live[index]], **CLOSE)
        np.testing.assert_allclose(own.bias, old.bias[live[index + 1]], **CLOSE)


def _is_net(node):
    return isinstance(node, GrowingMLP)


def test_a_state_of_another_network_is_refused():
    state = optimiser("adam").init(network("auxiliary", (5,)))
    with pytest.raises(ValueError, match="`state` must belong to `net`"):
        compact_state(network("auxiliary", (4,)), state)


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="`net` must be a GrowingMLP; got MLP"):
        compact(eqx.nn.MLP(2, 3, 4, 1, key=jr.key(0)))


@pytest.mark.parametrize("kind", KINDS)
def test_contract_with_every_controller(kind):
    net = network(kind, (4, 3), 1.6)
    np.testing.assert_allclose(outputs(compact(net), inputs()), outputs(net, inputs()), **CLOSE)


def test_a_grown_model_of_another_class_keeps_its_class():
    model = eqx.nn.MLP(2, 3, 8, 2, key=jr.key(0))
    grown = grow(model, example=jnp.ones(2), key=jr.key(1), method="auxiliary", initial_size=3.5)
    plain = compact(grown)
    assert type(plain) is eqx.nn.MLP
    assert [layer.weight.shape for layer in plain.layers] == [(4, 2), (4, 4), (3, 4)]
    np.testing.assert_allclose(plain(inputs()[:, 0]), grown(inputs()[:, 0]), **CLOSE)
