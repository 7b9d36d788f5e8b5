"""MLP: every network against plain arithmetic, how weights are drawn, order of units, choice of activations."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.random import default_rng
from scipy.special import expit

from n3.config import experiment
from n3.nn.controllers import CONTROLLERS, Auxiliary, Fixed
from n3.nn.mlp import (
    ACTIVATIONS,
    Annealing,
    Choice,
    GrowingMLP,
    annealed,
    with_rescaled_size_input,
)
from n3.nn.sized import reorder

BY_HAND = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * expit(x),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "sigmoid": expit,
    "sin": np.sin,
    "identity": lambda x: x,
}
NAMES = ("tanh", "relu", "sin")
LOGITS = np.array([[0.0, 1.0, -2.0], [0.5, 0.5, 0.3]])
MOVED = LOGITS + np.array([5.0, 0.0, 0.0])
CAPACITY, DEEP = (4, 4), (4, 4, 4)


def fixed(capacity, *sizes, mask="sine"):
    """A controller of constant sizes: all the units where none is given."""
    return Fixed(jnp.asarray(np.float32(sizes or capacity)), capacity, mask)


def build(controller, in_size=2, out_size=3, *, depth=None, **options):
    """A network whose weights NumPy draws, so that nothing is compiled for them."""
    depth = None if depth is None else jnp.float32(depth)

    def made(key):
        return GrowingMLP(in_size, out_size, controller=controller, initial_depth=depth, key=key, **options)

    shapes, draw = eqx.filter_eval_shape(made, jr.key(0)), default_rng(0)
    net = jax.tree.map(lambda leaf: draw.uniform(-1, 1, leaf.shape).astype(np.float32), shapes)
    net = eqx.tree_at(lambda n: n.controller, net, controller)
    return net if depth is None else eqx.tree_at(lambda n: n.depth_weight, net, depth)


def inputs(samples=9):
    return default_rng(1).normal(size=(2, samples))


def double(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@eqx.filter_jit
def program(net, x):
    own = net.controller
    return {
        "outputs": net.batch(x),
        "activations": net.activations(x.T),
        "masks": net.participation(),
        "gates": net.gates(),
        "sizes": own.sizes(),
        "gain": own.gain(),
    }


def seen(net, x=None):
    """All that a network says of some samples, in double precision."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, program(double(net), inputs() if x is None else np.asarray(x, float)))


def plain(net, x, said, phi):
    """Outputs and hidden layers by the equations, the masks, gates, sizes and gain being given."""
    net, hidden, every = double(net), x, []
    for index, (layer, mask) in enumerate(zip(net.layers, said["masks"], strict=True)):
        told = 0.0 if layer.size_weight is None else said["sizes"][index] * layer.size_weight
        every.append(phi(index, layer.weight @ hidden + (layer.bias + told)[:, None]))
        after = every[-1] * mask[:, None]
        is_gated = net.depth_weight is not None and index
        hidden = hidden + said["gates"][index] * (after - hidden) if is_gated else after
    return said["gain"] * (net.readout.weight @ hidden + net.readout.bias[:, None]), every


@cache
def controlled(kind):
    made = jax.jit(lambda: CONTROLLERS[kind](CAPACITY, initial_size=jnp.full(2, 1.5), key=jr.key(2)))
    return made()


NETWORKS = {
    **{kind: lambda kind=kind: build(controlled(kind), size_input=True) for kind in CONTROLLERS},
    "no size input": lambda: build(fixed((5, 3), 2.5, 3.0, mask="linear")),
    "gated": lambda: build(fixed(DEEP, 3.0, 2.5, 3.5), depth=1.6),
    "choosing": lambda: eqx.tree_at(
        lambda n: n.choice,
        build(fixed(CAPACITY, 2.5, 4.0), activation="choose:tanh,relu,sin", size_input=True),
        Choice(jnp.asarray(LOGITS, jnp.float32), jnp.float32(0.7), NAMES),
    ),
}


@pytest.mark.parametrize(
    "name, samples", [*((name, 9) for name in NETWORKS), ("auxiliary", 150), ("gated", 150)]
)
def test_a_network_is_its_equations(name, samples):
    """Many samples are arranged in another way, which is the same for all."""
    net, x = NETWORKS[name](), inputs(samples)
    said = seen(net, x)
    shares = np.eye(1) if net.choice is None else np.exp(LOGITS / 0.7) / np.exp(LOGITS / 0.7).sum(1)[:, None]

    def phi(layer, values):
        if net.choice is None:
            return np.tanh(values)
        return sum(share * BY_HAND[own](values) for share, own in zip(shares[layer], NAMES, strict=True))

    outputs, every = plain(net, x, said, phi)
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if net.choice is None else {"rtol": 1e-6, "atol": 1e-7}
    np.testing.assert_allclose(said["outputs"], outputs, **tolerance)
    for own, expected in zip(said["activations"], every, strict=True):
        np.testing.assert_allclose(own, expected, **tolerance)


@pytest.mark.parametrize("name", ["auxiliary", "no size input", "gated", "choosing"])
def test_shapes_and_single_precision(name):
    net = NETWORKS[name]()
    said = eqx.filter_eval_shape(program, net, inputs().astype(np.float32))
    assert said["outputs"].shape == (3, 9)
    assert [own.shape for own in said["activations"]] == [(units, 9) for units in net.controller.capacity]
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(said))
    assert all((layer.size_weight is None) == (name in ("no size input", "gated")) for layer in net.layers)
    assert net.readout.size_weight is None


def test_participation_is_the_controller_s():
    net = NETWORKS["information"]()
    expected = jax.jit(lambda: net.controller.participation())()
    for own, mask in zip(seen(net)["masks"], expected, strict=True):
        np.testing.assert_allclose(own, mask, rtol=1e-6)


def test_one_sample_is_a_column_of_the_batch():
    net, x = NETWORKS["auxiliary"](), inputs()
    with jax.enable_x64(True):
        alone = eqx.filter_jit(lambda net, x: net(x))(double(net), x[:, 4])
    np.testing.assert_allclose(alone, seen(net, x)["outputs"][:, 4], rtol=1e-9)


def test_values_by_hand():
    net = build(fixed((2,), 1.5, mask="linear"), 1, 1, activation="identity")
    weights = [[2.0], [-1.0]], [0.5, 3.0], [[1.0, 4.0]], [-1.0]
    net = eqx.tree_at(
        lambda n: (n.layers[0].weight, n.layers[0].bias, n.readout.weight, n.readout.bias),
        net,
        tuple(np.array(own) for own in weights),
    )
    # x = 2: h = (4.5, 1), m = (1, .5), y = 4.5 + 4 (.5) 1 - 1
    np.testing.assert_allclose(seen(net, [[2.0]])["outputs"], [[5.5]], rtol=1e-12)


@pytest.mark.parametrize("samples", [128, 129])
def test_gradient_agrees_with_finite_differences(samples):
    """In all parameters and in the inputs, for either arrangement of the product."""
    net = build(Auxiliary(jnp.float32(2.4), CAPACITY), size_input=True, depth=1.7)
    start, draw = double((net, inputs(samples))), default_rng(5)
    direction = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape), start)
    with jax.enable_x64(True):
        value = eqx.filter_jit(jax.value_and_grad(lambda both: jnp.mean(jnp.sin(both[0].batch(both[1])))))
        (_, slopes), (ahead, _), (behind, _) = (
            value(jax.tree.map(lambda leaf, along, by=by: leaf + by * along, start, direction))
            for by in (0.0, 1e-6, -1e-6)
        )
    found = sum(
        np.sum(np.asarray(a) * b) for a, b in zip(*map(jax.tree.leaves, (slopes, direction)), strict=True)
    )
    np.testing.assert_allclose(found, (float(ahead) - float(behind)) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("depth, samples", [(None, 9), (1.6, 150)])
def test_masked_units_have_no_influence(depth, samples):
    net = build(fixed(DEEP, 3.0, 2.5, 1.5), size_input=True, depth=depth)
    changed, live = (jax.tree.map(np.copy, net) for _ in range(2))
    for layer, after in zip(changed.layers, [*changed.layers[1:], changed.readout], strict=True):
        for leaf in jax.tree.leaves(layer):
            leaf[3:] += 7.0
        after.weight[:, 3:] += 3.0
    live.layers[1].weight[2] += 1.0
    own, same, other = (seen(each, inputs(samples))["outputs"] for each in (net, changed, live))
    np.testing.assert_array_equal(same, own)
    assert (own != other).any()


def test_no_unit_leaves_the_bias_alone():
    net = build(fixed(DEEP, 0.0, 0.0, 0.0), size_input=True)
    np.testing.assert_allclose(seen(net)["outputs"], np.tile(net.readout.bias[:, None], 9), rtol=1e-6)


@pytest.mark.parametrize(
    "mask, depths, expected",
    [
        (
            "linear",
            [0.3, 1.0, 1.25, 2.5, 3.0, 4.0],
            [[1, 0, 0], [1, 0, 0], [1, 0.25, 0], [1, 1, 0.5], [1, 1, 1], [1, 1, 1]],
        ),
        ("sine", [1 + 1 / 3], [[1, 0.25, 0]]),
    ],
)
def test_gates_by_hand(mask, depths, expected):
    net = build(fixed(DEEP, mask=mask), depth=1.0)
    gates = eqx.filter_jit(lambda net, depth: eqx.tree_at(lambda n: n.depth_weight, net, depth).gates())
    found = [gates(net, jnp.float32(depth)) for depth in depths]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_full_depth_is_the_network_without_gates():
    sizes = 3.0, 2.5, 1.5
    gated, without = (build(fixed(DEEP, *sizes), size_input=True, depth=depth) for depth in (3.0, None))
    np.testing.assert_allclose(seen(gated)["outputs"], seen(without)["outputs"], rtol=1e-9)


def test_activations_by_hand():
    assert set(BY_HAND) == set(ACTIVATIONS)
    assert tuple(ACTIVATIONS) == experiment.ACTIVATION_NAMES
    nets = {name: build(fixed((4,)), activation=name) for name in ACTIVATIONS}
    with jax.enable_x64(True):
        found = eqx.filter_jit(lambda nets, x: {name: net.batch(x) for name, net in nets.items()})(
            double(nets), inputs()
        )
    said = {"masks": [np.ones(4)], "gates": [1.0], "gain": 1.0}
    for name, net in nets.items():
        expected, _ = plain(net, inputs(), said, lambda _, x, name=name: BY_HAND[name](x))
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-7, err_msg=name)


def test_units_in_another_order_are_the_same_function():
    """In every network of a tree, and the read-out sees the last layer that is open."""
    net, orders = build(fixed(CAPACITY), size_input=True), [np.array([2, 0, 3, 1]), np.array([1, 0, 2, 3])]
    tree = {"net": net, "moments": (net, np.float32(7.0))}
    moved = jax.tree.map(np.asarray, eqx.filter_jit(reorder)(tree, orders, np.array(1)))
    jax.tree.map(np.testing.assert_array_equal, moved["net"], moved["moments"][0])
    assert moved["moments"][1] == 7.0
    first, second = orders
    np.testing.assert_array_equal(moved["net"].layers[0].weight, net.layers[0].weight[first])
    np.testing.assert_array_equal(moved["net"].layers[1].weight, net.layers[1].weight[second][:, first])
    np.testing.assert_array_equal(moved["net"].readout.weight, net.readout.weight[:, second])
    np.testing.assert_allclose(seen(moved["net"])["outputs"], seen(net)["outputs"], rtol=1e-9)


def test_the_rescaled_size_input_is_divided_by_the_target():
    net = build(fixed(CAPACITY), size_input=True)
    scaled = eqx.filter_jit(with_rescaled_size_input)(net, jnp.float32(4.0))
    for own, before in zip(scaled.layers, net.layers, strict=True):
        np.testing.assert_allclose(own.size_weight, before.size_weight / 4, rtol=1e-6)
        np.testing.assert_array_equal(own.weight, before.weight)


# How weights are drawn.


@eqx.filter_jit
def drawn(key):
    """Networks of one key by the options that draw their weights."""

    def made(capacity=CAPACITY, in_size=2, out_size=3, **options):
        controller = Fixed(jnp.asarray(capacity, jnp.float32), capacity)
        return GrowingMLP(in_size, out_size, controller=controller, key=key, **options)

    return {
        "usual": made(),
        "choice": made(activation="choose:tanh,relu,sin").choice,
        "fewer": made(fan_in=jnp.array([1.0, 0.25])),
        "with size": made(size_input=True),
        "unit": made(initialisation="unit-uniform"),
        "unit with size": made(initialisation="unit-uniform", size_input=True),
        "wide": made((400, 200), 3, 50),
        "wide with size": made((400, 200), 3, 50, size_input=True),
        "wide unit": made((400, 200), 3, 50, initialisation="unit-uniform"),
    }


@pytest.fixture(scope="module")
def networks():
    return jax.tree.map(np.asarray, drawn(jr.key(0)))


@pytest.mark.parametrize(
    "name, scales",
    [
        ("wide", np.sqrt([3, 400, 200])),
        ("wide with size", np.sqrt([4, 401, 200])),
        ("wide unit", np.ones(3)),
    ],
)
def test_weights_are_uniform_in_the_scale_of_their_inputs(networks, name, scales):
    net = networks[name]
    for layer, scale in zip((*net.layers, net.readout), scales, strict=True):
        own = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(layer)]) * scale
        assert 0.97 < np.abs(own).max() <= 1 + 1e-6
        assert abs(own.mean()) < 5 / np.sqrt(3 * own.size)
        assert abs(own.var() - 1 / 3) < 5 * np.sqrt(4 / 45 / own.size)


def test_fan_in_may_count_fewer_units_but_never_less_than_one(networks):
    usual, fewer = networks["usual"], networks["fewer"]
    np.testing.assert_array_equal(fewer.layers[0].weight, usual.layers[0].weight)
    np.testing.assert_allclose(fewer.layers[1].weight, 2 * usual.layers[1].weight, rtol=1e-6)
    np.testing.assert_allclose(fewer.readout.bias, 2 * usual.readout.bias, rtol=1e-6)


@pytest.mark.parametrize("name, other, ratio", [("unit", "unit with size", 1.0), ("usual", "with size", 1.5)])
def test_the_size_input_leaves_the_draw_of_the_other_weights_alone(networks, name, other, ratio):
    without, told = networks[name], networks[other]
    for leaf in ("weight", "bias"):
        own, expected = getattr(told.layers[0], leaf), getattr(without.layers[0], leaf)
        np.testing.assert_allclose(np.sqrt(ratio) * own, expected, rtol=1e-6)
        np.testing.assert_array_equal(getattr(told.readout, leaf), getattr(without.readout, leaf))


def test_the_key_decides_the_weights(networks):
    again, other = drawn(jr.key(0)), drawn(jr.key(1))
    jax.tree.map(np.testing.assert_array_equal, again, networks)
    assert (np.asarray(other["usual"].layers[0].weight) != networks["usual"].layers[0].weight).all()


def test_many_networks_at_once_equal_one_at_a_time():
    x, said = inputs().astype(np.float32), {"masks": [np.ones(4)] * 2, "gates": [1.0] * 2, "gain": 1.0}

    def outputs(key):
        return GrowingMLP(2, 3, controller=fixed(CAPACITY), key=key).batch(jnp.asarray(x))

    keys = jr.split(jr.key(3), 3)
    for key, found in zip(keys, np.asarray(jax.jit(jax.vmap(outputs))(keys)), strict=True):
        expected, _ = plain(drawn(key)["usual"], x, said, lambda _, values: np.tanh(values))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"activation": "step"}, r"`activation` must be one of tanh, .*identity; got 'step'\."),
        ({"initialisation": "zeros"}, r"`initialisation` must be fan-in or unit-uniform; got 'zeros'\."),
        ({"depth": 1.0}, r"depth gates need hidden layers of equal capacity; got \(4, 3\)\."),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        build(fixed((4, 3)), **options)


# The choice of activations.


def choice(temperature, logits=LOGITS):
    return Choice(jnp.asarray(logits, jnp.float32), jnp.float32(temperature), NAMES)


@eqx.filter_jit
def chosen(own, x):
    """Shares, and the activations of both layers."""
    return own.shares(), own(x, 0), own(x, 1)


def shares_of(own):
    return np.asarray(chosen(own, inputs().astype(np.float32))[0])


def test_shares_by_hand():
    found = shares_of(choice(1.0, np.log([[2.0, 3.0, 5.0], [1.0, 1.0, 2.0]])))
    np.testing.assert_allclose(found, [[0.2, 0.3, 0.5], [0.25, 0.25, 0.5]], rtol=1e-6)
    warm = shares_of(choice(2.0, np.log([[1.0, 9.0, 36.0], [1.0, 1.0, 1.0]])))
    np.testing.assert_allclose(warm, [[0.1, 0.3, 0.6], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


def test_a_choice_starts_undecided(networks):
    np.testing.assert_allclose(shares_of(networks["choice"]), np.full((2, 3), 1 / 3), rtol=1e-6)


def test_cold_shares_tend_to_the_hard_ones():
    hard = shares_of(choice(0.0))
    np.testing.assert_array_equal(hard, [[0, 1, 0], [1, 0, 0]])  # of equals the first
    np.testing.assert_allclose(shares_of(choice(0.02))[0], hard[0], atol=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 30.0])
def test_shares_sum_to_one_and_keep_the_order_of_the_logits(temperature):
    shares = shares_of(choice(temperature))
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-6)
    assert shares[0, 1] > shares[0, 0] >= shares[0, 2]


def test_a_hard_choice_is_the_plain_network_to_the_bit():
    assert choice(0.0).chosen() == choice(1.0).chosen() == ("relu", "tanh")
    net = NETWORKS["choosing"]()
    logits = np.float32([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    hard = eqx.tree_at(lambda n: n.choice, net, choice(0.0, logits))
    sine = build(fixed(CAPACITY, 2.5, 4.0), activation="sin", size_input=True)
    np.testing.assert_array_equal(seen(hard)["outputs"], seen(sine)["outputs"])


def test_without_a_choice_nothing_is_stored_or_computed_for_one():
    net = build(fixed(CAPACITY))
    leaves = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(net)]
    own = [f".layers[{n}].{part}" for n in (0, 1) for part in ("weight", "bias")]
    assert leaves == [*own, ".readout.weight", ".readout.bias", ".controller.size"]
    found = jax.make_jaxpr(lambda net, x: net.batch(x))(net, inputs().astype(np.float32))
    primitives = [equation.primitive.name for equation in found.eqns]
    assert primitives.count("tanh") == 2
    assert not {"exp", "argmax", "select_n"} & set(primitives)


def loss(own):
    x = jnp.asarray(inputs(), own.logits.dtype)
    return jnp.mean(jnp.cos(own(x, 0) + 2.0 * own(x, 1)))


def test_the_gradient_of_the_logits_agrees_with_finite_differences():
    with jax.enable_x64(True):
        value = jax.jit(jax.value_and_grad(loss))
        soft, step = double(choice(0.7)), 1e-6
        at = lambda logits: eqx.tree_at(lambda own: own.logits, soft, logits)  # noqa: E731
        gradient = value(soft)[1]
        assert float(gradient.temperature) == 0.0
        for place in np.ndindex(2, 3):
            move = np.zeros((2, 3))
            move[place] = step
            ahead, behind = (float(value(at(soft.logits + side))[0]) for side in (move, -move))
            secant = (ahead - behind) / (2 * step)
            np.testing.assert_allclose(np.asarray(gradient.logits)[place], secant, rtol=1e-6, atol=1e-9)


def test_nothing_trains_a_hard_choice():
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(choice(0.0)).logits, np.zeros((2, 3)))
    net, step = NETWORKS["choosing"](), jax.jit(annealed)

    def after(temperature, following):
        before = eqx.tree_at(lambda n: n.choice, net, choice(temperature))
        moved = eqx.tree_at(lambda n: n.choice, net, choice(temperature, MOVED))
        return step(moved, before, jnp.float32(following)).choice

    np.testing.assert_array_equal(after(0.0, 0.0).logits, np.float32(LOGITS))
    soft = after(0.3, 0.2)
    np.testing.assert_array_equal(soft.logits, np.float32(MOVED))
    assert float(soft.temperature) == np.float32(0.2)


def test_temperatures_by_hand():
    annealing = Annealing(*map(jnp.float32, (4.0, 0.25, 0.5)))
    of = jax.jit(lambda own, count: own.temperature(count, jnp.float32(100.0)))
    found = [of(annealing, count) for count in (0, 25, 49, 50, 99)]
    np.testing.assert_allclose(found, [4.0, 1.0, 4.0 * 16**-0.98, 0.0, 0.0], rtol=1e-5)
    whole = Annealing(*map(jnp.float32, (4.0, 0.25, 1.0)))
    np.testing.assert_allclose([of(whole, 99), of(whole, 100)], [4.0 * 16**-0.99, 0.0], rtol=1e-5)
