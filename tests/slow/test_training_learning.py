"""Learning: sizes that information finds in a real training, and Adam on any number of devices."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.config.experiment import InformationConfig
from n3.nn.losses import LossWeights, Samples
from n3.nn.mlp import Annealing
from n3.surgery.compact import compact
from n3.tracing.grow import compact_model, grow
from n3.training.fit import fit
from n3.training.step import Hypers, Problem, Recipe, advance, train
from n3.training.sweep import sweep

pytestmark = pytest.mark.slow

RUNS = 16
RECIPE = Recipe(in_size=1, out_size=1, capacity=(6,))
STOPS = np.array([0, 20, 60, 120])
KEYS = jr.split(jr.key(0), RUNS)


def constant(value, *shape):
    return jnp.full((RUNS, *shape), value, jnp.float32)


def problem(count=24):
    x = jr.uniform(jr.key(7), (RUNS, 1, count), minval=-1.0, maxval=1.0)
    side = Samples(x, jnp.sin(4 * x), constant(1.0 / count, count))
    return Problem(side, side, constant(1.0, 1))


def hypers():
    each, weights = constant(1.0), LossWeights(constant(0.3), constant(0.0))
    return Hypers(constant(1e-2), weights, constant(0.0, 1), constant(6.0), each, constant(400.0))


def on_devices(count, recipe=RECIPE):
    swept = sweep(recipe, hypers(), problem(), keys=KEYS, stops=STOPS, block=2, devices=jax.devices()[:count])
    return swept.records, swept.state.net


@pytest.mark.skipif(len(jax.devices()) < 4, reason="needs four devices")
def test_adam_on_four_devices_equals_two_exactly_and_one_to_a_rounding_of_its_quotients():
    """XLA turns Adam's `m / (1 - b**t)` into a product with a reciprocal where there is one partition only."""
    one, two, four = map(on_devices, (1, 2, 4))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, two, four)))
    for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(four[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def first_row(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


@pytest.mark.parametrize(
    "changes",
    [{}, {"batch": 8}, {"optimiser": "sgd"}, {"controller": "auxiliary", "size_input": True}, {"tile": 10}],
)
def test_a_row_equals_its_run_alone_whatever_the_recipe(changes):
    recipe = replace(RECIPE, **changes)
    records, net = on_devices(1, recipe)
    state, alone = train(
        recipe, first_row(hypers()), first_row(problem()), key=KEYS[0], stops=jnp.asarray(STOPS)
    )
    np.testing.assert_allclose(records.test_loss[0], alone.test_loss, rtol=1e-4)
    np.testing.assert_allclose(records.size[0], alone.size, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(net.readout.weight[0], state.net.readout.weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("controller", ["auxiliary", "controller"])
def test_training_lowers_the_loss_and_grows_the_network(controller):
    recipe = replace(RECIPE, controller=controller, size_input=controller == "auxiliary")
    numbers, data = first_row(hypers()), first_row(problem(40))
    _, records = train(recipe, numbers, data, key=jr.key(1), stops=jnp.array([0, 100, 200, 300]))
    assert records.train_loss[-1] < 0.5 * records.train_loss[0]
    assert np.all(np.diff(records.size[:, 0]) > 0)
    assert records.size_penalty[-1] < records.size_penalty[0]


def test_stopping_on_the_way_changes_nothing():
    numbers, data = first_row(hypers()), first_row(problem(40))
    once, _ = train(RECIPE, numbers, data, key=jr.key(5), stops=jnp.array([60]))
    state, _ = train(RECIPE, numbers, data, key=jr.key(5), stops=jnp.array([0, 20]))
    twice, records = advance(RECIPE, state, numbers, data, jnp.asarray(20), jnp.array([60, 60]))
    np.testing.assert_allclose(once.net.readout.weight, twice.net.readout.weight, rtol=1e-6)
    assert records.test_loss[0] == records.test_loss[1]


CHOOSING = replace(RECIPE, capacity=(4, 4), controller="fixed", activation="choose:tanh,relu,sin")
SOFT = replace(first_row(hypers()), initial_size=jnp.array([4.0, 4.0]), horizon=jnp.asarray(60.0))


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_choices_train_by_every_optimiser_and_their_temperature_by_none(name):
    recipe = replace(CHOOSING, optimiser=name)
    state, _ = train(recipe, SOFT, first_row(problem()), key=jr.key(0), stops=jnp.array([3]))
    assert float(state.net.choice.temperature) == 1.0
    assert np.all(np.asarray(state.net.choice.logits) != 0.0)


def test_a_run_ends_with_hard_choices_that_compacting_keeps():
    falling = Annealing(jnp.asarray(1.0), jnp.asarray(0.05), jnp.asarray(0.5))
    numbers, data = replace(SOFT, annealing=falling), first_row(problem())
    net = train(CHOOSING, numbers, data, key=jr.key(1), stops=jnp.array([60]))[0].net
    plain = compact(net)
    assert [layer.activation for layer in plain.layers] == list(net.choice.chosen())
    np.testing.assert_allclose(plain.batch(data.test.inputs), net.batch(data.test.inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method, rate", [("controller", 0.02), ("auxiliary", 0.1)])
def test_the_other_methods_approach_their_target(method, rate):
    x = np.linspace(-1.0, 1.0, 96, dtype=np.float32)[:, None]
    perceptron = eqx.nn.MLP(1, 1, 8, 1, jnp.tanh, key=jr.key(2))
    grown = grow(perceptron, example=x[0], key=jr.key(3), method=method, initial_size=1.0)
    settings = {"steps": 150, "batch": 96, "learning_rate": rate, "size_cost": 10.0, "quiet": True}
    _, history = fit(grown, (x, 0.7 * x + np.float32(0.2)), target_size=5.0, key=jr.key(4), **settings)
    np.testing.assert_allclose(history.sizes[-1], [5.0], atol=0.5)


def test_information_finds_the_size_of_a_line():
    keys = jr.split(jr.key(9), 5)
    x = np.asarray(jr.uniform(keys[0], (96, 1), minval=-1.0, maxval=1.0))
    line = 0.7 * x + 0.2 + 0.05 * np.asarray(jr.normal(keys[1], (96, 1)))
    grown = grow(eqx.nn.MLP(1, 1, 12, 1, jnp.tanh, key=keys[2]), example=x[0], key=keys[3])
    settings = {"steps": 400, "batch": 96, "learning_rate": 0.01, "key": keys[4], "quiet": True}
    model, history = fit(grown, (x, line), (x, line), information=InformationConfig(size_rate=0.1), **settings)
    assert history.layers == (".layers[0]",)
    assert history.sizes.shape == (len(history.step), 1)
    assert history.sizes[0, 0] > 8.0
    assert 1.0 <= history.sizes[-1, 0] <= 4.0
    assert history.sizes[-1, 0] == np.round(history.sizes[-1, 0])
    assert history.validation_loss[-1] < 0.01
    compacted = compact_model(model)
    np.testing.assert_allclose(jax.vmap(compacted)(x), jax.vmap(model)(x), rtol=1e-5, atol=1e-6)
    assert compacted.layers[0].out_features == int(history.sizes[-1, 0])
