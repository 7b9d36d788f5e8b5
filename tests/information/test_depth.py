"""Depth: values by hand, what is in sight, the pull, and looks that keep the function at every depth."""

from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.random import default_rng

from n3.config.experiment import Experiment, InformationConfig, NetworkConfig, RunConfig, TaskConfig
from n3.information import depth
from n3.information.measures import Pool
from n3.information.sizing import DriveHypers, InformationDrive
from n3.nn.controllers import Information
from n3.nn.mlp import GrowingMLP

DRIVE = InformationDrive(is_classes=False, until=300, birth_until=150)
CAPACITY, SAMPLES = (6, 6, 6), 150
WORTHS = np.float32([[0.0, 0.5, 0.8], [0.0, 0.9, 1.4], [0.0, 1.0, 2.0]])


def numbers(**changes):
    settings = dict.fromkeys(DriveHypers.__dataclass_fields__, 0.0)
    settings |= {"price": 0.02, "birth": 0.01, "rate": 0.1, "psi": 1.0, **changes}
    return DriveHypers(**{name: jnp.float32(value) for name, value in settings.items()})


def network(size, deep):
    """Three layers with gates; weights by NumPy."""
    controller = Information(jnp.asarray(np.full(3, size, np.float32)), CAPACITY)
    made = partial(GrowingMLP, 1, 1, controller=controller, initial_depth=jnp.float32(deep))
    shapes, draw = eqx.filter_eval_shape(lambda key: made(key=key), jr.key(0)), default_rng(0)
    net = jax.tree.map(lambda leaf: draw.uniform(-1, 1, leaf.shape).astype(np.float32), shapes)
    return eqx.tree_at(lambda n: (n.controller, n.depth_weight), net, (controller, jnp.float32(deep)))


@eqx.filter_jit
def program(drive, net, settings, samples, count):
    """A look, and the outputs before and after it."""
    state = drive.start(net)
    after, _, state = drive.look(net, (), state, settings, samples, count)
    return after, state, net.batch(samples.inputs.T), after.batch(samples.inputs.T)


def look(drive, net, count, **settings):
    draw = default_rng(1)
    x = draw.uniform(-1, 1, (1, SAMPLES))
    samples = Pool(*(jnp.asarray(np.float32(a)) for a in (x.T, x + 0.1 * draw.normal(size=x.shape))))
    return jax.tree.map(np.asarray, program(drive, net, numbers(**settings), samples, jnp.asarray(count)))


def looked(*, size=3.0, deep=1.0, count=0):
    net = network(size, deep)
    return net, *look(DRIVE, net, count)


def test_values_by_hand():
    of = jax.jit(partial(depth.values, outputs=3))
    worths, sizes = tuple(WORTHS), np.float32([2.0, 1.0, 2.0])

    def values(*numbers):
        return of(worths, sizes, *map(np.float32, numbers))

    np.testing.assert_allclose(values(0.1, 0.0, 2.0), [0.8 - 0.2, 0.9 - 0.3, 2.0 - 0.5], rtol=1e-6)
    # two inputs: (2 + 1) 2 + 2 3 parameters; then 6 + (2 + 1) 1 + 3; then 9 + (1 + 1) 2 + 2 3
    np.testing.assert_allclose(values(0.0, 0.01, 2.0), [0.8 - 0.12, 0.9 - 0.12, 2.0 - 0.19], rtol=1e-6)
    # half an input more is one parameter more, and each adds to what a unit costs
    np.testing.assert_allclose(values(0.1, 0.01, 2.5), [0.8 - 0.33, 0.9 - 0.43, 2.0 - 0.70], rtol=1e-6)


@jax.jit
def seen(gates, values):
    """Everything that follows from the gates."""
    return {
        "open": depth.number_open(gates),
        "in sight": depth.is_in_sight(gates),
        "calm": depth.is_calm(gates),
        "best": depth.best_depth(values, gates),
    }


def of_gates(gates, values=(0.0, 0.0, 0.0)):
    return jax.tree.map(np.asarray, seen(*map(np.float32, (gates, values))))


@pytest.mark.parametrize(
    ("gates", "number", "in_sight", "calm"),
    [
        ((1, 1, 1), 3, (1, 1, 1), (1, 1, 1)),
        ((1, 0.5, 0), 2, (1, 1, 1), (0, 0, 1)),
        ((1, 0, 0), 1, (1, 1, 0), (1, 1, 1)),
        ((1, 1, 0.25), 3, (1, 1, 1), (1, 0, 0)),
        ((1, 1e-9, 0), 1, (1, 1, 0), (1, 1, 1)),  # a gate next to shut is shut
    ],
)
def test_half_open_layers_do_not_reorder(gates, number, in_sight, calm):
    found = of_gates(gates)
    assert found["open"] == number
    np.testing.assert_array_equal(found["in sight"], np.bool_(in_sight))
    np.testing.assert_array_equal(found["calm"], np.bool_(calm))


@pytest.mark.parametrize(
    ("deep", "gates", "after"),
    [
        (3.0, (1, 1, 1), (3, 4, 1)),
        (2.0 + 1 / 3, (1, 1, 0.25), (3, 0.25 * 4 + 0.75, 1)),
        (1.5, (1, 0.5, 0), (0.5 * 3 + 0.5, 1, 1)),
        (1.0, (1, 0, 0), (1, 1, 1)),
    ],
)
def test_a_unit_is_linked_to_the_next_layer_as_far_as_that_is_open_and_else_to_the_outputs(deep, gates, after):
    """Of sizes 2, 3, 4, with 1.5 effective inputs and one output."""
    net = network(3.0, deep)
    found = eqx.filter_jit(lambda n, *given: (n.gates(), n.unit_parameters(*given)))(
        net, np.float32([2.0, 3.0, 4.0]), np.float32(1.5)
    )
    np.testing.assert_allclose(found[0], gates, atol=1e-6)
    np.testing.assert_allclose(found[1], np.add([2.5, 3.0, 4.0], after), rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "gates", "expected"),
    [
        ((0.1, 0.2, 9.0), (1, 0, 0), 2),  # the third is out of sight
        ((0.1, 0.2, 9.0), (1, 0.3, 0), 3),
        ((0.5, 0.2, 0.1), (1, 1, 1), 1),
        ((0.2, 0.2, 0.2), (1, 1, 1), 1),  # the least of equals
        ((0.1, 0.2, 0.9), (1, 1e-9, 0), 2),
    ],
)
def test_the_best_depth_in_sight(values, gates, expected):
    assert of_gates(gates, values)["best"] == expected


def test_the_pull_by_hand_and_its_rate():
    """The task's own gradient is left out."""

    @eqx.filter_jit
    def of(net, best):
        state = eqx.tree_at(lambda s: s.depth, DRIVE.start(net), best)
        task = eqx.tree_at(lambda g: g.depth_weight, state.gradient, jnp.float32(7.0))
        gradient = DRIVE.added(task, net, state)
        return gradient.depth_weight, DRIVE.paced(net, gradient, numbers()).depth_weight

    for deep, pull in ((1.0, -1.0), (2.0, 0.0), (2.05, 0.5), (3.0, 1.0)):
        found, moved = of(network(3.0, deep), jnp.float32(2.0))
        np.testing.assert_allclose(found, pull, rtol=1e-5)
        np.testing.assert_allclose(moved, -0.1 * depth.RATE * pull, rtol=1e-5)


@pytest.mark.parametrize("deep", [1.0, 1.4, 2.0, 2.6, 3.0])
def test_a_look_keeps_the_function_at_every_depth(deep):
    net, after, _, before, same = looked(size=5.0, deep=deep)
    np.testing.assert_allclose(same, before, rtol=1e-5, atol=1e-6)
    is_moved = [not np.array_equal(a.bias, b.bias) for a, b in zip(after.layers, net.layers, strict=True)]
    assert any(is_moved)
    assert is_moved[1] == (deep in (1.0, 2.0, 3.0))


def test_the_depth_that_is_aimed_at_stays_until_births_are_over_and_after_the_last_look():
    aims = [float(looked(deep=3.0, count=count)[2].depth) for count in (0, 125, 150, 275, 300)]
    assert aims[:2] == [3.0, 3.0]
    assert aims[2] == aims[3] < 3.0
    assert aims[4] == 3.0


def test_the_depth_follows_the_factor_on_the_price():
    """Every unit of the three layers says 0.5, 0.6 or 0.7 nats: all six of each are worth their price.

    At 0.02 each the deepest is worth most, `6 (0.7 - 3 * 0.02)`; at ten times that the first, `6 (0.5 - 0.2)`.
    """
    drive = replace(DRIVE, custom=lambda active, _: active[0])
    said = (0.5, 0.6, 0.7)
    layers = [
        jax.tree.map(
            lambda leaf, own=own: np.full_like(leaf, np.arctanh(own) if leaf.ndim == 1 else 0.0), layer
        )
        for own, layer in zip(said, network(6.0, 3.0).layers, strict=True)
    ]
    net = eqx.tree_at(lambda n: n.layers, network(6.0, 3.0), tuple(layers))
    for settings, factor, best in (({}, 1.0, 3.0), ({"log_start": np.log(100.0)}, 10.0, 1.0)):
        state = look(drive, net, 150, **settings)[1]
        np.testing.assert_allclose(state.prices, np.full(3, 0.02 * factor), rtol=1e-5)
        np.testing.assert_array_equal(state.best, [6.0] * 3)
        assert state.depth == best


def test_the_size_of_a_layer_out_of_sight_rests():
    assert looked(size=2.25)[2].best[2] == 2.25
    assert looked(size=2.25, deep=2.0)[2].best[2] != 2.25


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"information": InformationConfig(budget=100)}, r"`budget` does not go with `depth_gates`"),
        ({"run": RunConfig(arms=("growing", "equal-size"))}, r"equal-size does not go with `depth_gates`"),
    ],
)
def test_what_does_not_go_with_gates_is_refused(changes, message):
    network = NetworkConfig(method="information", capacity=(4, 4), depth_gates=True)
    with pytest.raises(ValueError, match=message):
        Experiment(task=TaskConfig(task="line"), network=network, **changes).resolved()
