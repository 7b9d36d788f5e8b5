"""Model: outputs against plain arithmetic, what the masks and the gates do, and how the weights are drawn."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.random import default_rng
from scipy.special import expit, ndtr

from n3.nn.controllers import CONTROLLERS, Auxiliary, Fixed, Warmup
from n3.nn.mlp import ACTIVATIONS, Choice, GrowingMLP

BY_HAND = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * ndtr(x),
    "silu": lambda x: x * expit(x),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "sigmoid": expit,
    "sin": np.sin,
    "identity": lambda x: x,
}


def fixed(capacity, *sizes, mask="sine"):
    """A controller of constant sizes: all the units where none is given."""
    return Fixed(jnp.array(sizes or capacity, jnp.float32), capacity, mask)


def build(controller, in_size=2, out_size=3, *, seed=0, **options):
    return GrowingMLP(in_size, out_size, controller=controller, key=jr.key(seed), **options)


def inputs(in_size=2, samples=9, seed=1):
    return jr.normal(jr.key(seed), (in_size, samples))


def float64(tree):
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)


def dense(net, x, phi=jnp.tanh):
    """Outputs and hidden layers of a plain dense pass through the same weights."""
    hidden, every = x, []
    for layer in net.layers:
        hidden = phi(layer.weight @ hidden + layer.bias[:, None])
        every.append(hidden)
    return net.readout.weight @ hidden + net.readout.bias[:, None], every


@pytest.mark.parametrize(
    "capacity, samples", [((4,), 9), ((5, 3), 9), ((4, 4, 4), 9), ((4, 4), 1), ((4, 4), 150)]
)
def test_full_participation_is_a_plain_dense_pass(capacity, samples):
    net, x = build(fixed(capacity)), inputs(samples=samples)
    with jax.enable_x64(True):
        net, x = float64((net, x))
        outputs, every = dense(net, x)
        np.testing.assert_allclose(net.batch(x), outputs, rtol=1e-6)
        for own, expected in zip(net.activations(x), every, strict=True):
            np.testing.assert_allclose(own, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", CONTROLLERS)
@pytest.mark.parametrize("size_input", [False, True])
def test_contract_with_every_controller(kind, size_input):
    controller = CONTROLLERS[kind]((4, 4), initial_size=jnp.array([1.5, 1.5]), key=jr.key(2))
    net = build(controller, size_input=size_input)
    outputs = net.batch(inputs())
    assert outputs.shape == (3, 9)
    assert outputs.dtype == jnp.float32
    assert np.isfinite(np.asarray(outputs)).all()
    assert [own.shape for own in net.activations(inputs())] == [(4, 9), (4, 9)]
    for own, expected in zip(net.participation(), controller.participation(), strict=True):
        np.testing.assert_array_equal(own, expected)
    np.testing.assert_array_equal(net.gates(), [1, 1])


def test_one_sample_is_a_column_of_the_batch():
    net, x = build(fixed((4, 4), 2.5, 1.5), size_input=True), inputs()
    outputs = net.batch(x)
    for column in range(x.shape[1]):
        assert net(x[:, column]).shape == (3,)
        np.testing.assert_allclose(net(x[:, column]), outputs[:, column], rtol=1e-5, atol=1e-6)


def test_values_by_hand():
    net = build(fixed((2,), 1.5, mask="linear"), 1, 1, activation="identity")
    first, last = net.layers[0], net.readout
    net = eqx.tree_at(
        lambda n: (n.layers[0].weight, n.layers[0].bias, n.readout.weight, n.readout.bias),
        net,
        (jnp.array([[2.0], [-1.0]]), jnp.array([0.5, 3.0]), jnp.array([[1.0, 4.0]]), jnp.array([-1.0])),
    )
    assert (first.weight.shape, last.weight.shape) == ((2, 1), (1, 2))
    # x = 2: h = (4.5, 1), m = (1, .5), y = 4.5 + 4 (.5) 1 - 1
    np.testing.assert_allclose(net(jnp.array([2.0])), [5.5], rtol=1e-6)


def test_many_samples_equal_few_in_value_and_gradient():
    net = build(Auxiliary(jnp.float32(2.4), (4, 4)), size_input=True)
    x = inputs(samples=200)

    @jax.jit
    def gradient(net, x):
        return jax.grad(lambda net, x: jnp.sum(jnp.sin(net.batch(x))), argnums=(0, 1))(net, x)

    with jax.enable_x64(True):
        net, x = float64((net, x))
        parts = (x[:, :100], x[:, 100:])
        np.testing.assert_allclose(net.batch(x), np.concatenate([net.batch(p) for p in parts], 1), rtol=1e-9)
        many = gradient(net, x)
        few = [gradient(net, part) for part in parts]
        for left, one, two in zip(
            jax.tree.leaves(many[0]), jax.tree.leaves(few[0][0]), jax.tree.leaves(few[1][0]), strict=True
        ):
            np.testing.assert_allclose(left, one + two, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(many[1], np.concatenate([few[0][1], few[1][1]], 1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("samples", [128, 129])
def test_gradient_agrees_with_finite_differences(samples):
    net = build(Auxiliary(jnp.float32(2.4), (4, 4, 4)), size_input=True, initial_depth=jnp.float32(1.7))
    x, step = inputs(samples=samples), 1e-6
    with jax.enable_x64(True):
        net, x = float64((net, x))
        rng = default_rng(5)
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), net)

        @jax.jit
        def moved(by):
            there = jax.tree.map(lambda leaf, along: leaf + by * along, net, direction)
            return jnp.mean(jnp.sin(there.batch(x)))

        secant = (moved(jnp.float64(step)) - moved(jnp.float64(-step))) / (2 * step)
        np.testing.assert_allclose(jax.jit(jax.grad(moved))(jnp.float64(0.0)), secant, rtol=1e-6)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("samples", [9, 150])
def test_masked_units_have_no_influence(gated, samples):
    depth = {"initial_depth": jnp.float32(1.6)} if gated else {}
    net, x = build(fixed((4, 4), 3.0, 2.5), size_input=True, **depth), inputs(samples=samples)
    shifted = tuple(jax.tree.map(lambda leaf: leaf.at[3:].add(7.0), layer) for layer in net.layers)
    changed = eqx.tree_at(lambda n: n.layers, net, shifted)
    changed = eqx.tree_at(lambda n: n.layers[1].weight, changed, changed.layers[1].weight.at[:, 3:].add(3.0))
    changed = eqx.tree_at(lambda n: n.readout.weight, changed, changed.readout.weight.at[:, 3:].add(4.0))
    np.testing.assert_array_equal(changed.batch(x), net.batch(x))
    live = eqx.tree_at(lambda n: n.layers[1].weight, net, net.layers[1].weight.at[2].add(1.0))
    assert (np.asarray(live.batch(x)) != np.asarray(net.batch(x))).any()


def test_no_unit_leaves_the_bias_alone():
    net = build(fixed((4,), 0.0))
    np.testing.assert_allclose(
        net.batch(inputs()), np.tile(np.asarray(net.readout.bias)[:, None], 9), rtol=1e-6
    )


def test_the_size_input_reaches_every_hidden_layer():
    net, x = build(fixed((4, 4), 1.5, 2.0, mask="linear"), size_input=True), inputs()
    one, two = net.layers
    assert net.readout.size_weight is None
    with jax.enable_x64(True):
        net, one, two, x = float64((net, one, two, x))
        first = jnp.tanh(one.weight @ x + one.bias[:, None] + 1.5 * one.size_weight[:, None])
        masked = first * jnp.array([1.0, 0.5, 0.0, 0.0])[:, None]
        second = jnp.tanh(two.weight @ masked + two.bias[:, None] + 2.0 * two.size_weight[:, None])
        expected = net.readout.weight[:, :2] @ second[:2] + net.readout.bias[:, None]
        np.testing.assert_allclose(net.batch(x), expected, rtol=1e-6)


def test_without_a_size_input_the_layers_have_no_weight_for_it():
    net = build(fixed((4, 4)))
    assert all(layer.size_weight is None for layer in (*net.layers, net.readout))


def test_the_gain_scales_the_output_bias_included():
    net = build(Warmup(jnp.float32(1 / 3), (4,)))
    full = eqx.tree_at(lambda n: n.controller, net, Warmup(jnp.float32(1.0), (4,)))
    np.testing.assert_allclose(net.batch(inputs()), 0.25 * np.asarray(full.batch(inputs())), rtol=1e-5)


def test_activations_are_before_the_mask():
    full, x = build(fixed((4, 4))), inputs()
    cut_last = eqx.tree_at(lambda n: n.controller, full, fixed((4, 4), 4.0, 1.0))
    none = eqx.tree_at(lambda n: n.controller, full, fixed((4, 4), 0.0, 0.0))
    for own, expected in zip(cut_last.activations(x), full.activations(x), strict=True):
        np.testing.assert_array_equal(own, expected)
    np.testing.assert_array_equal(none.activations(x)[0], full.activations(x)[0])
    bias = np.tanh(np.asarray(none.layers[1].bias))[:, None]
    np.testing.assert_allclose(none.activations(x)[1], np.tile(bias, 9), rtol=1e-6)


@pytest.mark.parametrize(
    "depth, expected",
    [
        (0.3, [1, 0, 0]),
        (1.0, [1, 0, 0]),
        (1.25, [1, 0.25, 0]),
        (2.5, [1, 1, 0.5]),
        (3.0, [1, 1, 1]),
        (4, [1, 1, 1]),
    ],
)
def test_gates_by_hand(depth, expected):
    net = build(fixed((4, 4, 4), mask="linear"), initial_depth=jnp.float32(depth))
    np.testing.assert_allclose(net.gates(), expected, rtol=1e-6)


def test_gates_follow_the_controller_s_ramp():
    net = build(fixed((4, 4, 4), mask="sine"), initial_depth=jnp.float32(1 + 1 / 3))
    np.testing.assert_allclose(net.gates(), [1, 0.25, 0], rtol=1e-6)


def test_depth_one_is_the_first_layer_alone():
    net, x = build(fixed((4, 4, 4), 2.0, 3.0, 4.0), initial_depth=jnp.float32(1.0)), inputs()
    first = np.tanh(np.asarray(net.layers[0].weight) @ x + np.asarray(net.layers[0].bias)[:, None])
    weight, bias = np.asarray(net.readout.weight), np.asarray(net.readout.bias)[:, None]
    np.testing.assert_allclose(net.batch(x), weight[:, :2] @ first[:2] + bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(4.0, 4.0, 4.0), (3.0, 2.5, 1.5)])
def test_full_depth_is_the_network_without_gates(sizes):
    gated = build(fixed((4, 4, 4), *sizes), initial_depth=jnp.float32(3.0))
    plain, x = build(fixed((4, 4, 4), *sizes)), inputs()
    np.testing.assert_allclose(gated.batch(x), plain.batch(x), rtol=1e-5, atol=1e-6)


def test_a_depth_in_between_moves_a_part_of_the_way():
    net, x = build(fixed((4, 4, 4), mask="linear"), initial_depth=jnp.float32(1.5)), inputs()
    with jax.enable_x64(True):
        net, x = float64((net, x))
        one, two, _ = net.layers
        first = jnp.tanh(one.weight @ x + one.bias[:, None])
        second = jnp.tanh(two.weight @ first + two.bias[:, None])
        expected = net.readout.weight @ (0.5 * first + 0.5 * second) + net.readout.bias[:, None]
        np.testing.assert_allclose(net.batch(x), expected, rtol=1e-6)


def test_every_activation_has_a_value_by_hand():
    assert set(BY_HAND) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_by_hand(name):
    net, x = build(fixed((4,)), activation=name), inputs()
    expected, _ = dense(jax.tree.map(np.asarray, net), np.asarray(x), BY_HAND[name])
    # jax's gelu is the approximation by tanh: within 1e-3 of the exact one
    loose = {"rtol": 0, "atol": 5e-3} if name == "gelu" else {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(net.batch(x), expected, **loose)


def test_a_hard_choice_is_the_plain_network_to_the_bit():
    net, x = build(fixed((4, 4), 2.5, 4.0), activation="choose:tanh,sin,relu", size_input=True), inputs()
    logits = jnp.array([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0]])
    hard = eqx.tree_at(lambda n: n.choice, net, Choice(logits, jnp.zeros(()), net.choice.names))
    plain = build(fixed((4, 4), 2.5, 4.0), activation="sin", size_input=True)
    np.testing.assert_array_equal(hard.batch(x), plain.batch(x))
    assert (np.asarray(net.batch(x)) != np.asarray(plain.batch(x))).any()


def test_without_a_choice_nothing_is_stored_or_computed_for_one():
    net = build(fixed((4, 4)))
    leaves = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(net)]
    own = [f".layers[{n}].{part}" for n in (0, 1) for part in ("weight", "bias")]
    assert leaves == [*own, ".readout.weight", ".readout.bias", ".controller.size"]
    primitives = [equation.primitive.name for equation in jax.make_jaxpr(net.batch)(inputs()).eqns]
    assert primitives.count("tanh") == 2
    assert not {"exp", "argmax", "select_n"} & set(primitives)


def spread(weights):
    return float(np.abs(np.asarray(weights)).max())


@pytest.mark.parametrize("size_input", [False, True])
def test_fan_in_scales_the_first_weights(size_input):
    net = build(fixed((400, 200)), 3, 50, size_input=size_input)
    extra = int(size_input)
    for layer, count in ((net.layers[0], 3 + extra), (net.layers[1], 400 + extra), (net.readout, 200)):
        drawn = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(layer)]) * np.sqrt(count)
        assert 0.97 < spread(drawn) <= 1 + 1e-6
        assert abs(drawn.mean()) < 5 / np.sqrt(3 * drawn.size)
        assert abs(drawn.var() - 1 / 3) < 5 * np.sqrt(4 / 45 / drawn.size)


def test_unit_uniform_ignores_the_inputs():
    net = build(fixed((400, 200)), 3, 50, initialisation="unit-uniform")
    for layer in (*net.layers, net.readout):
        assert 0.97 < spread(layer.weight) <= 1


def test_fan_in_may_count_fewer_units_but_never_less_than_one():
    usual = build(fixed((4, 4)))
    fewer = build(fixed((4, 4)), fan_in=jnp.array([1.0, 0.25]))
    np.testing.assert_array_equal(fewer.layers[0].weight, usual.layers[0].weight)
    np.testing.assert_allclose(fewer.layers[1].weight, 2 * np.asarray(usual.layers[1].weight), rtol=1e-6)
    np.testing.assert_allclose(fewer.readout.bias, 2 * np.asarray(usual.readout.bias), rtol=1e-6)


@pytest.mark.parametrize("initialisation, ratio", [("unit-uniform", 1.0), ("fan-in", np.sqrt(3 / 2))])
def test_the_size_input_leaves_the_draw_of_the_other_weights_alone(initialisation, ratio):
    without = build(fixed((4, 4)), initialisation=initialisation)
    with_size = build(fixed((4, 4)), initialisation=initialisation, size_input=True)
    np.testing.assert_allclose(
        ratio * np.asarray(with_size.layers[0].weight), without.layers[0].weight, rtol=1e-6
    )
    np.testing.assert_allclose(ratio * np.asarray(with_size.layers[0].bias), without.layers[0].bias, rtol=1e-6)
    np.testing.assert_array_equal(with_size.readout.weight, without.readout.weight)
    np.testing.assert_array_equal(with_size.readout.bias, without.readout.bias)


def test_the_key_decides_the_weights():
    one, same, other = build(fixed((4,))), build(fixed((4,))), build(fixed((4,)), seed=1)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (np.asarray(one.layers[0].weight) != np.asarray(other.layers[0].weight)).all()


def test_many_networks_at_once_equal_one_at_a_time():
    keys, x = jr.split(jr.key(3), 4), inputs()
    many = eqx.filter_vmap(lambda key: GrowingMLP(2, 3, controller=fixed((4,), 2.5), key=key))(keys)
    together = eqx.filter_vmap(lambda net: net.batch(x))(many)
    alone = [GrowingMLP(2, 3, controller=fixed((4,), 2.5), key=key).batch(x) for key in keys]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"activation": "step"}, r"`activation` must be one of tanh, .*identity; got 'step'\."),
        ({"initialisation": "zeros"}, r"`initialisation` must be fan-in or unit-uniform; got 'zeros'\."),
        ({"initial_depth": 1.0}, r"depth gates need hidden layers of equal capacity; got \(4, 3\)\."),
    ],
)
def test_refused_options(options, message):
    options = {name: jnp.float32(v) if isinstance(v, float) else v for name, v in options.items()}
    with pytest.raises(ValueError, match=message):
        build(fixed((4, 3)), **options)
