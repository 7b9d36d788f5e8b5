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
from n3.nn.members import Ensemble
from n3.nn.mlp import ACTIVATIONS, Choice
from n3.nn.sized import stack_runs
from n3.surgery.compact import compact, compact_state
from n3.tracing.grow import grow
from networks import (
    CLOSE,
    KINDS,
    grown_perceptron,
    inputs,
    moments,
    network,
    optimiser,
    quick,
    reference,
    shapes,
    stepped,
    task,
)


def parameters(net):
    return sum(leaf.size for leaf in jax.tree.leaves(net))


@quick
@given(shapes())
def test_the_outputs_stay_and_only_the_units_that_take_part(shape):
    net = network(**shape)
    plain = compact(net)
    np.testing.assert_allclose(reference(plain), reference(net), **CLOSE)
    if net.depth_weight is None:
        live = [2, *(int(np.sum(np.asarray(own) > 0)) for own in net.participation()), 3]
        assert parameters(plain) == sum((before + 1) * after for before, after in pairwise(live))
    assert compact(plain) is plain


@pytest.mark.parametrize(
    "shape",
    [
        {"kind": "auxiliary", "capacity": (4, 3), "sizes": 1.6},
        {"kind": "fixed", "depth": 1.25, "activation": "choose:tanh,softplus,identity"},
    ],
)
def test_the_compiled_outputs_are_those_by_hand(shape):
    net, x = network(**shape), inputs()
    plain = compact(net)
    found = compiled((net, plain), x)
    for each, (batch, alone) in zip((net, plain), found, strict=True):
        np.testing.assert_allclose(batch, reference(net), **CLOSE)
        np.testing.assert_allclose(alone, reference(each)[:, 0], **CLOSE)


@eqx.filter_jit
def compiled(models, x):
    """Of each model its outputs, of all samples and of the first alone."""
    return [(model.batch(x), model(x[:, 0])) for model in models]


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
    np.testing.assert_array_equal(plain.layers[0].weight, np.asarray(first.weight)[:2])
    np.testing.assert_allclose(
        plain.layers[0].bias, (np.asarray(first.bias) + 1.5 * np.asarray(first.size_weight))[:2], rtol=1e-6
    )
    np.testing.assert_allclose(plain.readout.weight, np.asarray(read.weight)[:, :2] * [[1.0, 0.5]], rtol=1e-6)
    np.testing.assert_array_equal(plain.readout.bias, read.bias)


def test_a_partly_open_gate_by_hand():
    net = network("fixed", (2, 2), [2.0, 1.0], depth=1.25, mask="linear", activation="identity")
    weight, before = (np.asarray(each.readout.weight) for each in (compact(net), net))
    np.testing.assert_allclose(weight[:, :2], 0.75 * before, rtol=1e-6)
    np.testing.assert_allclose(weight[:, 2:], 0.25 * before[:, :1], rtol=1e-6)


def test_the_output_gain_is_in_the_readout():
    net = network("warmup", (3,), 3.0)
    net = eqx.tree_at(lambda n: n.controller, net, Warmup(jnp.asarray(np.float32(1 / 3)), (3,)))
    plain = compact(net)
    np.testing.assert_allclose(plain.readout.weight, 0.25 * np.asarray(net.readout.weight), rtol=1e-5)
    np.testing.assert_allclose(plain.readout.bias, 0.25 * np.asarray(net.readout.bias), rtol=1e-5)


@pytest.mark.parametrize("sizes", [[0.0, 2.0], [2.0, 0.0], [0.0, 0.0]])
def test_a_layer_without_units_leaves_a_constant(sizes):
    net = network("information", (3, 3), sizes)
    plain = compact(net)
    assert [layer.bias.size for layer in plain.layers] == [int(size) for size in sizes]
    found = reference(plain)
    np.testing.assert_allclose(found, reference(net), **CLOSE)
    np.testing.assert_array_equal(found, np.repeat(found[:, :1], 7, axis=1))


def test_every_layer_has_its_activation():
    nets = [network("fixed", (3, 2), [2.0, 1.5], activation=name) for name in ACTIVATIONS]
    plain = [compact(net) for net in nets]
    assert [[layer.activation for layer in each.layers] for each in plain] == [
        [name] * 2 for name in ACTIVATIONS
    ]
    for net, (found, _) in zip(nets, compiled(plain, inputs()), strict=True):
        np.testing.assert_allclose(found, reference(net), **CLOSE)


def test_a_soft_choice_becomes_the_activation_of_the_largest_share():
    net = network("fixed", (3, 2), [2.0, 1.5], activation="choose:tanh,sin,relu")
    logits = jnp.asarray(np.float32([[0.0, 0.2, 0.1], [0.3, 0.0, 0.1]]))
    soft, hard = (
        eqx.tree_at(lambda n: n.choice, net, Choice(logits, jnp.asarray(np.float32(t)), net.choice.names))
        for t in (1, 0)
    )
    assert [layer.activation for layer in compact(soft).layers] == ["sin", "tanh"]
    np.testing.assert_allclose(reference(compact(soft)), reference(hard), **CLOSE)


def test_the_next_update_of_full_units_is_the_same_and_a_compact_network_can_train():
    samples = task()
    net = network("fixed", (4, 4), 2.0, size_input=False)
    state = moments("adam", net)
    plain, own = compact(net), compact_state(net, state)
    before, *_ = stepped("adam", net, state, samples)
    after, *_ = stepped("adam", plain, own, samples)
    live = [slice(None), slice(0, 2), slice(0, 2), slice(None)]
    pairs = zip((*after.layers, after.readout), (*before.layers, before.readout), strict=True)
    for index, (new, old) in enumerate(pairs):
        expected = np.asarray(old.weight)[live[index + 1], live[index]]
        np.testing.assert_allclose(new.weight, expected, **CLOSE)
        np.testing.assert_allclose(new.bias, np.asarray(old.bias)[live[index + 1]], **CLOSE)
    assert own[0].count == 3
    losses, own = [], optimiser("adam").init(plain)
    for _ in range(21):
        found = compiled((plain,), samples.inputs)[0][0]
        losses.append(np.mean((np.asarray(found) - np.asarray(samples.targets)) ** 2))
        _, plain, own = stepped("adam", plain, own, samples)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_gathered_exactly(kind):
    net = network(kind, (4, 3), 1.6)
    state = moments("adam", net)
    found = compact_state(net, state)
    live = [np.arange(2), *(np.flatnonzero(np.asarray(own)) for own in net.participation()), np.arange(3)]
    for old, new in ((state[0].mu, found[0].mu), (state[0].nu, found[0].nu)):
        pairs = zip((*old.layers, old.readout), (*new.layers, new.readout), strict=True)
        for index, (before, after) in enumerate(pairs):
            rows, columns = live[index + 1], live[index]
            np.testing.assert_array_equal(after.weight, np.asarray(before.weight)[rows][:, columns])
            np.testing.assert_array_equal(after.bias, np.asarray(before.bias)[rows])


def test_a_state_of_another_network_is_refused():
    state = moments("adam", network("auxiliary", (3,)))
    with pytest.raises(ValueError, match="`state` must belong to `net`"):
        compact_state(network("auxiliary", (4,)), state)


def test_a_plain_model_comes_back_as_it_is():
    plain = eqx.filter_eval_shape(eqx.nn.MLP, 2, 3, 4, 1, key=jr.key(0))
    assert compact(plain) is plain


@pytest.mark.parametrize("kind", KINDS)
def test_contract_with_every_controller(kind):
    net = network(kind, (4, 3), 1.6)
    np.testing.assert_allclose(reference(compact(net)), reference(net), **CLOSE)


def test_a_grown_model_of_another_class_keeps_its_class():
    grown, x = grown_perceptron(), inputs()[:, 0]
    plain = compact(grown)
    assert type(plain) is eqx.nn.MLP
    assert [layer.weight.shape for layer in plain.layers] == [(4, 2), (4, 4), (3, 4)]
    both = eqx.filter_jit(lambda models: [model(x) for model in models])((plain, grown))
    np.testing.assert_allclose(*both, **CLOSE)


@pytest.mark.parametrize("size, units", [(1.000001, 1), (8.00001, 8), (8.01, 9)])
def test_a_unit_that_takes_part_by_less_than_rounding_is_none(size, units):
    net = network("information", (10,), size)
    assert compact(net).layers[0].bias.size == units
    model = eqx.nn.MLP(2, 3, 10, 1, key=jr.key(0))
    grown = grow(model, example=np.zeros(2, np.float32), key=jr.key(1), initial_size=size)
    assert compact(grown).layers[0].out_features == units


def test_members_of_other_sizes_are_compacted_to_the_largest():
    members = [network("fixed", (4, 3), size, seed=seed) for seed, size in enumerate(((2.0, 3.0), (3.0, 1.0)))]
    found = compact(Ensemble(stack_runs(members), False))
    assert [layer.bias.shape for layer in found.members.layers] == [(2, 3), (2, 3)]
    by_hand = np.mean([reference(own) for own in members], axis=0)
    np.testing.assert_allclose(found.batch(inputs(7)), by_hand, **CLOSE)


def test_members_of_other_depths_are_refused():
    members = [network("fixed", (4, 4), 2.0, depth=depth, seed=2) for depth in (2.0, 1.5)]
    with pytest.raises(ValueError, match=r"`net` must have members of one shape; .* by `net.each\(\)`"):
        compact(Ensemble(stack_runs(members), False))


@pytest.mark.parametrize(
    "make", [lambda: network(kind="auxiliary", capacity=(4,), sizes=2.0), grown_perceptron]
)
def test_sizes_that_are_not_finite_are_refused(make):
    lost = make()
    controller = jax.tree.map(lambda leaf: leaf * jnp.nan, lost.controller)
    lost = eqx.tree_at(lambda own: own.controller, lost, controller)
    with pytest.raises(ValueError, match=r"`net` must have finite sizes; got \[nan"):
        compact(lost)
