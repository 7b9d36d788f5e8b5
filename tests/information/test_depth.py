"""Depth: values by hand, what is in sight, the pull, and looks that keep the function at every depth."""

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
from n3.information.sizing import DriveHypers, InformationDrive
from n3.nn.controllers import Information
from n3.nn.losses import Samples
from n3.nn.mlp import GrowingMLP

DRIVE = InformationDrive(is_classes=False, until=300, birth_until=150)
CAPACITY, SAMPLES = (6, 6, 6), 150
WORTHS = np.float32([[0.0, 0.5, 0.8], [0.0, 0.9, 1.4], [0.0, 1.0, 2.0]])


def numbers():
    settings = dict.fromkeys(DriveHypers.__dataclass_fields__, 0.0)
    settings |= {"price": 0.02, "birth": 0.01, "rate": 0.1, "psi": 1.0}
    return DriveHypers(**{name: jnp.float32(value) for name, value in settings.items()})


def network(size, deep):
    """Three layers with gates; weights by NumPy."""
    controller = Information(jnp.asarray(np.full(3, size, np.float32)), CAPACITY)
    made = partial(GrowingMLP, 1, 1, controller=controller, initial_depth=jnp.float32(deep))
    shapes, draw = eqx.filter_eval_shape(lambda key: made(key=key), jr.key(0)), default_rng(0)
    net = jax.tree.map(lambda leaf: draw.uniform(-1, 1, leaf.shape).astype(np.float32), shapes)
    return eqx.tree_at(lambda n: (n.controller, n.depth_weight), net, (controller, jnp.float32(deep)))


@eqx.filter_jit
def program(net, samples, count):
    """A look, and the outputs before and after it."""
    state = DRIVE.start(net)
    after, _, state = DRIVE.look(net, (), state, numbers(), samples, count)
    return after, state, net.batch(samples.inputs), after.batch(samples.inputs)


def looked(*, size=3.0, deep=1.0, count=0):
    draw = default_rng(1)
    x = draw.uniform(-1, 1, (1, SAMPLES))
    samples = Samples(*(jnp.asarray(np.float32(a)) for a in (x, x + 0.1 * draw.normal(size=x.shape), x[0] * 0)))
    net = network(size, deep)
    return net, *jax.tree.map(np.asarray, program(net, samples, jnp.asarray(count)))


def test_values_by_hand():
    of = jax.jit(partial(depth.values, outputs=3))
    worths, sizes = tuple(WORTHS), np.float32([2.0, 1.0, 2.0])
    found = of(worths, sizes, np.float32(0.1), np.float32(0.0))
    np.testing.assert_allclose(found, [0.8 - 0.2, 0.9 - 0.3, 2.0 - 0.5], rtol=1e-6)
    # two inputs: (2 + 1) 2 + 2 3 parameters; then 6 + (2 + 1) 1 + 3; then 9 + (1 + 1) 2 + 2 3
    found = of(worths, sizes, np.float32(6 * 0.01), np.float32(0.01))
    np.testing.assert_allclose(found, [0.8 - 0.12, 0.9 - 0.12, 2.0 - 0.19], rtol=1e-6)


@jax.jit
def seen(gates, values, sizes):
    """Everything that follows from the gates."""
    return {
        "open": depth.number_open(gates),
        "in sight": depth.is_in_sight(gates),
        "calm": depth.is_calm(gates),
        "best": depth.best_depth(values, gates),
        "links": depth.links(sizes, gates),
    }


def of_gates(gates, values=(0.0, 0.0, 0.0)):
    return jax.tree.map(np.asarray, seen(*map(np.float32, (gates, values, [2.0, 3.0, 4.0]))))


@pytest.mark.parametrize(
    ("gates", "number", "in_sight", "calm", "links"),
    [
        ((1, 1, 1), 3, (1, 1, 1), (1, 1, 1), (3, 6, 3)),
        ((1, 0.5, 0), 2, (1, 1, 1), (0, 0, 1), (1.5, 2, 1.5)),
        ((1, 0, 0), 1, (1, 1, 0), (1, 1, 1), (0, 2, 0)),
        ((1, 1, 0.25), 3, (1, 1, 1), (1, 0, 0), (3, 3, 3)),
        ((1, 1e-9, 0), 1, (1, 1, 0), (1, 1, 1), (0, 2, 0)),  # a gate next to shut is shut
    ],
)
def test_half_open_layers_do_not_reorder_and_links_count_open_ones(gates, number, in_sight, calm, links):
    found = of_gates(gates)
    assert found["open"] == number
    np.testing.assert_array_equal(found["in sight"], np.bool_(in_sight))
    np.testing.assert_array_equal(found["calm"], np.bool_(calm))
    np.testing.assert_allclose(found["links"], links, atol=1e-6)


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
