"""Depth: values by hand, what is in sight, the pull, an order that keeps the function, and whole runs."""

import dataclasses
from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.config.experiment import Experiment, InformationConfig, NetworkConfig, RunConfig, TaskConfig
from n3.experiments import arms
from n3.experiments.run import load_data
from n3.information import depth
from n3.information.sizing import DriveHypers, InformationDrive
from n3.nn.losses import LossWeights, Samples, description
from n3.nn.metrics import active_parameters, active_units, effective_size
from n3.training.step import Hypers, Problem, Recipe, init, train

DRIVE = InformationDrive(is_classes=False, until=300, birth_until=150)
RECIPE = Recipe(
    in_size=1, out_size=1, capacity=(6, 6, 6), controller="information", drive=DRIVE, depth_gates=True
)
WORTHS = [jnp.array([0.0, 0.5, 0.8]), jnp.array([0.0, 0.9, 1.4]), jnp.array([0.0, 1.0, 2.0])]


def gates(*values):
    return jnp.array(values)


def hypers(size=3.0, **changes):
    settings = dict.fromkeys((field.name for field in dataclasses.fields(DriveHypers)), 0.0)
    settings |= {"price": 0.02, "birth": 0.01, "rate": 0.1, "psi": 1.0, **changes}
    drive = DriveHypers(**{name: jnp.asarray(value) for name, value in settings.items()})
    one, nothing = jnp.asarray(1.0), LossWeights(size=jnp.asarray(0.0), depth=jnp.asarray(0.0))
    return Hypers(1e-2 * one, nothing, jnp.full(3, size), one, one, 500.0 * one, drive)


def problem(curve=lambda x: jnp.sin(4 * x)):
    x = jr.uniform(jr.key(3), (1, 150), minval=-1.0, maxval=1.0)
    side = Samples(x, curve(x) + 0.1 * jr.normal(jr.key(4), x.shape), jnp.full(150, 1.0 / 150))
    return Problem(side, side, jnp.ones(1))


@eqx.filter_jit
def started(size=3.0, deep=1.0):
    """A run before its first step, at a depth."""
    state = init(RECIPE, hypers(size=size), problem(), key=jr.key(5))
    return eqx.tree_at(lambda s: s.net.depth_weight, state, jnp.asarray(deep))


@eqx.filter_jit
def looked(state, count=0):
    """Network, moments and state of the drive after a look."""
    data, numbers = problem(), hypers().drive
    return DRIVE.look(state.net, state.moments, state.drive, numbers, data.train, jnp.asarray(count))


def test_values_by_hand():
    sizes, outputs = jnp.array([2.0, 1.0, 2.0]), 3
    found = depth.values(WORTHS, sizes, jnp.asarray(0.1), jnp.asarray(0.0), outputs)
    np.testing.assert_allclose(found, [0.8 - 0.2, 0.9 - 0.3, 2.0 - 0.5], rtol=1e-6)
    # two inputs: (2 + 1) 2 + 2 3 parameters; then 6 + (2 + 1) 1 + 3; then 9 + (1 + 1) 2 + 2 3
    found = depth.values(WORTHS, sizes, jnp.asarray(6 * 0.01), jnp.asarray(0.01), outputs)
    np.testing.assert_allclose(found, [0.8 - 0.12, 0.9 - 0.12, 2.0 - 0.19], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "opened", "expected"),
    [
        ((0.1, 0.2, 9.0), (1.0, 0.0, 0.0), 2.0),  # the third is out of sight
        ((0.1, 0.2, 9.0), (1.0, 0.3, 0.0), 3.0),
        ((0.5, 0.2, 0.1), (1.0, 1.0, 1.0), 1.0),
        ((0.2, 0.2, 0.2), (1.0, 1.0, 1.0), 1.0),  # the least of equals
        ((0.1, 0.2, 0.9), (1.0, 1e-9, 0.0), 2.0),  # a gate next to shut is shut
    ],
)
def test_the_best_depth_in_sight(values, opened, expected):
    assert float(depth.best_depth(jnp.array(values), gates(*opened))) == expected


def test_the_pull_by_hand_and_its_rate():
    assert [float(depth.pull(jnp.asarray(d), jnp.asarray(2.0))) for d in (1.0, 2.0, 2.05, 3.0)] == [
        -1.0,
        0.0,
        pytest.approx(0.5, rel=1e-5),
        1.0,
    ]
    state = started(deep=1.5)
    aim = eqx.tree_at(lambda s: s.depth, state.drive, jnp.asarray(2.0))
    task = eqx.tree_at(lambda g: g.depth_weight, state.drive.gradient, jnp.asarray(7.0))
    gradient = DRIVE.added(task, state.net, aim)
    assert float(gradient.depth_weight) == -1.0  # the task's own is left out
    moved = DRIVE.paced(gradient, gradient, hypers(rate=0.1).drive).depth_weight
    np.testing.assert_allclose(moved, 0.1 * depth.RATE, rtol=1e-6)


def test_links_count_open_layers_alone():
    sizes = jnp.array([2.0, 3.0, 4.0])
    assert depth.links(sizes, gates(1.0, 1.0, 1.0)).tolist() == [3.0, 6.0, 3.0]
    assert depth.links(sizes, gates(1.0, 0.0, 0.0)).tolist() == [0.0, 2.0, 0.0]


@pytest.mark.parametrize(
    ("opened", "expected"),
    [
        ((1.0, 1.0, 1.0), (True, True, True)),
        ((1.0, 0.5, 0.0), (False, False, True)),
        ((1.0, 0.0, 0.0), (True, True, True)),
        ((1.0, 1.0, 0.2), (True, False, False)),
    ],
)
def test_half_open_layers_and_those_before_them_do_not_reorder(opened, expected):
    assert tuple(depth.is_calm(gates(*opened)).tolist()) == expected


@pytest.mark.parametrize("deep", [1.0, 1.4, 2.0, 2.6, 3.0])
def test_a_look_keeps_the_function_at_every_depth(deep):
    state, inputs = started(size=5.0, deep=deep), problem().train.inputs
    net, _, _ = looked(state)
    np.testing.assert_allclose(net.batch(inputs), state.net.batch(inputs), rtol=1e-5, atol=1e-6)
    is_moved = [not np.array_equal(a.bias, b.bias) for a, b in zip(net.layers, state.net.layers, strict=True)]
    assert any(is_moved)
    assert is_moved[1] == (deep in (1.0, 2.0, 3.0))


def test_all_layers_are_open_at_first_and_until_births_are_over():
    state = eqx.filter_jit(init)(RECIPE, hypers(size=3.0), problem(lambda x: x), key=jr.key(5))
    assert float(state.net.depth_weight) == 3.0
    aims = [float(looked(state, count)[2].depth) for count in (0, 125, 150, 275, 300)]
    assert aims[:2] == [3.0, 3.0]
    assert aims[2] == aims[3] < 3.0
    assert aims[4] == 3.0  # nothing is looked at any more


def test_the_size_of_a_layer_out_of_sight_rests():
    assert float(looked(started(size=2.25))[2].best[2]) == 2.25
    assert float(looked(started(size=2.25, deep=2.0))[2].best[2]) != 2.25


def test_shut_layers_count_nothing():
    net = started(size=3.0).net
    alone = eqx.tree_at(lambda n: n.layers[1].weight, net, 9.0 + net.layers[1].weight)
    assert float(description(alone)) == float(description(net)) > 0
    assert effective_size(net).tolist() == [3.0, 0.0, 0.0]
    assert active_units(net).tolist() == [3, 0, 0]
    assert int(active_parameters(net)) == 2 * 3 + 4
    assert int(active_parameters(started(size=3.0, deep=2.0).net)) == 2 * 3 + 4 * 3 + 4


def test_a_line_and_noise_end_at_one_layer():
    stops = jnp.array([500])
    run = eqx.filter_jit(lambda data: train(RECIPE, hypers(size=0.5), data, key=jr.key(8), stops=stops))
    for curve in (jnp.zeros_like, lambda x: x):
        state, _ = run(problem(curve))
        np.testing.assert_allclose(state.net.depth_weight, 1.0, atol=1e-3)


def experiment(**changes):
    settings = {
        "task": TaskConfig(task="wine"),
        "network": NetworkConfig(method="information", capacity=(4, 4), depth_gates=True),
        "run": RunConfig(arms=("growing", "static"), seeds=(0,)),
    }
    return Experiment(**{**settings, **changes}).resolved()


def test_no_target_depth_and_gates_for_the_growing_arm_alone():
    data = load_data(experiment())
    assert arms.hypers_of(experiment(), "growing", data=data, active=None).weights.depth.tolist() == [0.0]
    by_target = experiment(network=replace(experiment().network, method="controller"))
    assert float(arms.hypers_of(by_target, "growing", data=data, active=None).weights.depth[0]) > 0
    assert arms.recipe_of(experiment(), "growing", data[0]).depth_gates
    assert not arms.recipe_of(experiment(), "static", data[0]).depth_gates


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"information": InformationConfig(budget=100)}, r"`budget` does not go with `depth_gates`"),
        ({"run": RunConfig(arms=("growing", "equal-size"))}, r"equal-size does not go with `depth_gates`"),
    ],
)
def test_what_does_not_go_with_gates_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        experiment(**changes)
