"""Step: one run, its steps by hand, its records, and what it does when it diverges."""

import importlib
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from n3.nn.losses import LossWeights, Samples, task_loss
from n3.nn.members import MEMBERS
from n3.nn.mlp import Annealing
from n3.training.batches import draw_batch
from n3.training.step import Hypers, Problem, Recipe, init, of_member, optimiser, pool_of, step, train

RECIPE = Recipe(in_size=1, out_size=1, capacity=(6,))
FIXED = {name: replace(RECIPE, controller="fixed", optimiser=name) for name in ("sgd", "adam")}
IN_BATCHES = replace(RECIPE, batch=10)
RATE, COUNT = 1e-2, 40


@pytest.fixture(autouse=True)
def no_key_is_used_twice():
    with jax.debug_key_reuse(True):
        yield


def samples(seed, count):
    x = np.random.default_rng(seed).uniform(-1.0, 1.0, (1, count)).astype(np.float32)
    return Samples(*map(jnp.asarray, (x, np.sin(4 * x), np.full(count, 1.0 / count, np.float32))))


PROBLEM = Problem(samples(7, COUNT), samples(8, 16), jnp.asarray(np.ones(1, np.float32)))


def shifted(by):
    """The problem with other targets."""
    targets = np.asarray(PROBLEM.train.targets) + np.asarray(by, np.float32)
    return eqx.tree_at(lambda p: p.train.targets, PROBLEM, jnp.asarray(targets))


def number(value):
    return jnp.asarray(np.asarray(value, np.float32))


def hypers(learning_rate=RATE, initial=(0.0,), target=6.0, target_depth=1.0, depth_cost=0.0, **others):
    weights = LossWeights(size=number(0.3), depth=number(depth_cost))
    numbers = (number(each) for each in (initial, target, target_depth, 400.0))
    return Hypers(number(learning_rate), weights, *numbers, **others)


compiled = eqx.filter_jit(train)


def run(recipe, numbers, *stops, key=1, problem=PROBLEM):
    """A whole run; every number of stops up to four is the same program."""
    every = np.pad(np.array(stops, np.int32), (0, 4 - len(stops)), mode="edge")
    state, records = compiled(recipe, numbers, problem, key=jr.key(key), stops=jnp.asarray(every))
    return state, jax.tree.map(lambda leaf: np.asarray(leaf)[: len(stops)], records)


def test_one_step_of_descent_by_hand():
    numbers = hypers(initial=[6.0])
    before, after = (run(FIXED["sgd"], numbers, count)[0].net for count in (0, 1))
    x, y = (np.asarray(side, float) for side in (PROBLEM.train.inputs, PROBLEM.train.targets))
    layer, readout = before.layers[0], before.readout
    hidden = np.tanh(np.asarray(layer.weight, float) @ x + np.asarray(layer.bias, float)[:, None])
    error = np.asarray(readout.weight, float) @ hidden + np.asarray(readout.bias, float)[:, None] - y
    pull = np.asarray(readout.weight, float).T * error * (1 - hidden**2)
    expected = {
        "readout": (
            readout.weight - RATE * 2 * error @ hidden.T / COUNT,
            readout.bias - RATE * 2 * error.mean(),
        ),
        "layer": (
            layer.weight - RATE * 2 * pull @ x.T / COUNT,
            layer.bias - RATE * 2 * pull.mean(axis=1),
        ),
    }
    for made, (weight, bias) in zip((after.readout, after.layers[0]), expected.values(), strict=True):
        np.testing.assert_allclose(made.weight, weight, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(made.bias, bias, rtol=1e-6, atol=1e-8)


@eqx.filter_jit
def by_optax(name, net, data):
    """Five steps of the plain task loss."""
    rule = {"sgd": optax.sgd, "adam": optax.adam}[name](RATE)

    def one(carry, _):
        net, moments = carry
        gradient = eqx.filter_grad(task_loss)(net, data, "squared-error")
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = rule.update(gradient, moments, net)
        return (eqx.apply_updates(net, updates), moments), None

    return jax.lax.scan(one, (net, rule.init(net)), length=5)[0][0]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_five_steps_are_those_of_optax(name):
    first, last = (run(FIXED[name], hypers(initial=[6.0]), count, key=0)[0].net for count in (0, 5))
    expected = by_optax(name, first, PROBLEM.train)
    assert not np.array_equal(first.readout.weight, last.readout.weight)
    for ours, theirs in zip(jax.tree.leaves(last), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_training_lowers_the_loss_and_grows_the_network():
    state, records = run(RECIPE, hypers(), 0, 100, 200, 300)
    assert records.train_loss[-1] < 0.5 * records.train_loss[0]
    assert records.size[0, 0] < 1e-6  # a jitter of 1e-5 in `c` is 2e-9 units
    assert np.all(np.diff(records.size[:, 0]) > 0)
    assert records.size_penalty[-1] < records.size_penalty[0]
    assert int(state.diverged_at) == -1


def test_records_are_of_the_network_as_it_stands_and_training_has_not_seen_the_test():
    state, records = run(RECIPE, hypers(), 0, 30)
    for side, loss in (("train", records.train_loss), ("test", records.test_loss)):
        own = getattr(PROBLEM, side)
        error = np.asarray(jax.jit(lambda net, x: net.batch(x))(state.net, own.inputs)) - own.targets
        np.testing.assert_allclose(loss[-1], np.mean(np.square(error)), rtol=1e-5)
    np.testing.assert_allclose(records.test_metric, np.sqrt(records.test_loss), rtol=1e-5)
    np.testing.assert_allclose(records.total_loss, records.train_loss + records.size_penalty, rtol=1e-6)
    other = eqx.tree_at(lambda p: p.test.targets, PROBLEM, jnp.zeros((1, 16)))
    blind, seen = run(RECIPE, hypers(), 0, 30, problem=other)
    assert np.array_equal(blind.net.readout.weight, state.net.readout.weight)
    assert seen.test_loss[-1] != records.test_loss[-1]


def test_a_fixed_size_stays_and_its_penalty_is_zero():
    _, records = run(FIXED["sgd"], hypers(initial=[3.5]), 0, 50)
    assert np.all(records.size == 3.5)  # between units, where the ramp has a slope
    assert np.all(records.size_penalty == 0.0)


@pytest.mark.parametrize("controller, depends", [("released", False), ("controller", True)])
def test_only_the_described_method_takes_its_size_from_the_data(controller, depends):
    recipe = replace(RECIPE, controller=controller)
    one, other = (run(recipe, hypers(), 0, 20, 200, problem=shifted(by))[1] for by in (0.0, 5.0))
    assert np.array_equal(one.size, other.size) != depends
    assert not np.array_equal(one.train_loss, other.train_loss)
    assert one.size[-1] > one.size[0]


def test_warmup_follows_the_growing_arms_weight_when_the_task_is_silent():
    silent = eqx.tree_at(lambda p: p.train.shares, PROBLEM, jnp.zeros(COUNT))
    kinds = ("controller", "warmup")
    ends = [run(replace(RECIPE, controller=kind), hypers(), 0, 30, problem=silent)[0].net for kind in kinds]
    np.testing.assert_allclose(*(net.controller.weight for net in ends), rtol=1e-6)
    assert float(ends[0].controller.weight) > 0.01


def test_tiles_change_only_the_rounding():
    whole, cut = (run(replace(RECIPE, tile=tile), hypers(), 0, 60, key=2)[1] for tile in (RECIPE.tile, 16))
    np.testing.assert_allclose(whole.train_loss, cut.train_loss, rtol=1e-4)
    np.testing.assert_allclose(whole.size, cut.size, rtol=1e-4)


def test_minibatches_take_every_sample_once_an_epoch():
    """The first step whose batch holds a sample is seen by a target that is NaN."""
    marks = np.where(np.eye(COUNT, dtype=bool), np.float32(np.nan), 0.0)
    first = [run(IN_BATCHES, hypers(), 4, key=3, problem=shifted(mark))[0].diverged_at for mark in marks]
    assert np.array_equal(np.sort(first), np.repeat(np.arange(4), 10))


def test_the_order_is_kept_in_an_epoch_and_fresh_in_the_next():
    orders = [run(IN_BATCHES, hypers(), count, key=3)[0].order for count in (1, 4, 5, 8)]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert np.array_equal(orders[2], orders[3])
    assert np.array_equal(np.sort(orders[2]), np.arange(COUNT))


def test_minibatches_learn():
    _, records = run(IN_BATCHES, hypers(), 0, 400, key=4)
    assert records.train_loss[1] < 0.5 * records.train_loss[0]


def test_a_diverged_run_says_when():
    state, records = run(RECIPE, hypers(learning_rate=1e30), 0, 200)
    assert np.isfinite(records.train_loss[0])
    assert not np.isfinite(records.train_loss[1])
    assert int(state.diverged_at) == 1  # the first step is that of a finite loss


def test_a_run_that_diverges_in_its_last_step_says_so():
    state, records = run(RECIPE, hypers(learning_rate=1e30), 0, 1)
    assert not np.isfinite(records.train_loss[1])
    assert int(state.diverged_at) == 1


def test_the_rescaled_arm_divides_the_size_inputs_weights():
    recipe, begin = replace(RECIPE, controller="auxiliary", size_input=True), eqx.filter_jit(init)
    plain, scaled = (
        begin(replace(recipe, rescale_size_input=is_scaled), hypers(target=5.0), PROBLEM, key=jr.key(8)).net
        for is_scaled in (False, True)
    )
    np.testing.assert_allclose(
        scaled.layers[0].size_weight, np.asarray(plain.layers[0].size_weight) / 5.0, rtol=1e-6
    )
    assert np.array_equal(scaled.layers[0].weight, plain.layers[0].weight)


CHOOSING = replace(RECIPE, capacity=(4, 4), controller="fixed", activation="choose:tanh,relu,sin")
SOFT = hypers(initial=[4.0, 4.0])
HARDENING = replace(SOFT, horizon=number(60.0), annealing=Annealing(number(1.0), number(0.05), number(0.5)))


def test_a_run_ends_with_hard_choices():
    state, records = run(CHOOSING, HARDENING, 0, 15, 30, 60)
    shares = np.stack([records.choice_share[name] for name in ("tanh", "relu", "sin")], -1)
    np.testing.assert_allclose(shares.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(shares[0], 1 / 3, rtol=1e-6)
    assert np.all((shares[1] > 0) & (shares[1] < 1))
    assert set(np.unique(shares[2:])) == {0.0, 1.0}
    np.testing.assert_array_equal(shares[2], shares[3])
    named = [("tanh", "relu", "sin")[place] for place in np.argmax(shares[3], axis=-1)]
    assert list(state.net.choice.chosen()) == named


one_step = eqx.filter_jit(step)


@pytest.fixture
def soft():
    """A run of a few steps whose choices stay soft."""
    state = run(CHOOSING, HARDENING, 0, key=0)[0]
    for count in range(3):
        state = one_step(CHOOSING, state, SOFT, PROBLEM, jnp.asarray(count))
    return state


def test_choices_train_and_their_temperature_does_not(soft):
    assert float(soft.net.choice.temperature) == 1.0
    assert np.all(np.asarray(soft.net.choice.logits) != 0.0)


def test_layerwise_sizes_and_depth_gates_train_together():
    kinds = {"controller": "auxiliary", "layerwise": True, "depth_gates": True, "size_input": True}
    recipe = replace(RECIPE, capacity=(5, 5), **kinds)
    numbers = hypers(initial=[0.0, 0.0], target=4.0, target_depth=2.0, depth_cost=0.3)
    _, records = run(recipe, numbers, 0, 100, 200, 300, key=9)
    assert records.train_loss[-1] < 0.5 * records.train_loss[0]
    assert records.depth[1] > records.depth[0]
    assert np.all(np.diff(records.size, axis=0) > 0)
    assert np.all(records.size_penalty[1:] < records.size_penalty[0])
    assert records.size[-1, 0] != records.size[-1, 1]


@pytest.mark.parametrize(("horizon", "factor"), [(1, 0.0), (2, 0.5), (3, 0.75), (6, (2 + 3**0.5) / 4)])
def test_the_cosine_schedule_by_hand(horizon, factor):
    """The first step is a whole one; the second is `(1 + cos(pi / horizon)) / 2` of one."""
    numbers = replace(hypers(initial=[6.0]), horizon=number(horizon))
    scheduled = replace(FIXED["sgd"], schedule="cosine")

    def second_step(recipe):
        one, two = (run(recipe, numbers, count)[0].net.readout.weight for count in (1, 2))
        return np.asarray(two) - np.asarray(one)

    np.testing.assert_allclose(second_step(scheduled), factor * second_step(FIXED["sgd"]), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16])
def test_adam_keeps_the_moments_of_16_bits_in_float32(kind):
    rule, params = optimiser("adam", 0.5), {"weight": jnp.ones(3, kind)}
    gradient = {"weight": jnp.full(3, 1e-4, kind)}  # its square is 0 in float16
    state = rule.init(params)
    with jax.numpy_dtype_promotion("standard"):  # as a step has it
        updates, state = rule.update(gradient, state, params)
    moments = [leaf for leaf in jax.tree.leaves(state) if jnp.ndim(leaf)]
    assert {leaf.dtype for leaf in moments} == {jnp.dtype(jnp.float32)}
    assert updates["weight"].dtype == kind
    np.testing.assert_allclose(np.asarray(updates["weight"], np.float32), -0.5, rtol=1e-2)
    assert min(float(jnp.min(leaf)) for leaf in moments) > 0


def test_a_look_takes_a_sample_of_many_samples(monkeypatch):
    monkeypatch.setattr(importlib.import_module("n3.training.step"), "SEEN", 4)
    row, shares = jnp.arange(10.0)[None], jnp.full(10, 0.1)
    train = Samples(row, 2 * row, shares)
    held = Samples(-row, row, jnp.asarray([0.0] + [1.0] * 9))
    pool = pool_of(Problem(train, train, jnp.ones(1), held=held))
    np.testing.assert_array_equal(pool.inputs[:, 0], [0, 3, 6, 9])
    np.testing.assert_array_equal(pool.targets[0], [0, 6, 12, 18])
    np.testing.assert_array_equal(pool.held.inputs[:, 0], [0, -3, -6, -9])
    np.testing.assert_array_equal(pool.held.weights, [0, 1, 1, 1])
    np.testing.assert_array_equal(pool.held.fit, np.ones(4))
    assert pool_of(Problem(train, train, jnp.ones(1))).held is None
    monkeypatch.undo()
    assert pool_of(Problem(train, train, jnp.ones(1), held=held)).inputs.shape == (10, 1)


def test_a_member_in_batches_takes_the_samples_that_it_trains_on_and_no_others():
    folds = jnp.arange(COUNT) % 4
    problem, recipe = replace(PROBLEM, folds=folds), replace(IN_BATCHES, members=4, held=10)
    every = jax.vmap(lambda _: of_member(recipe, problem), axis_name=MEMBERS)(jnp.arange(4))
    for fold in range(4):
        own = jax.tree.map(lambda leaf, fold=fold: leaf[fold], every)
        assert sorted(own.places(slice(None)).tolist()) == np.flatnonzero(folds != fold).tolist()
        np.testing.assert_allclose(own.train.shares, np.where(folds == fold, 0.0, 1 / 30), rtol=1e-6)
        drawn = [draw_batch(own.places(slice(None)), jnp.asarray(count), 10, own.train) for count in range(3)]
        seen = np.concatenate([np.asarray(each.inputs[0]) for each in drawn])
        assert sorted(seen.tolist()) == sorted(np.asarray(PROBLEM.train.inputs)[0, folds != fold].tolist())
        np.testing.assert_allclose([float(each.shares.sum()) for each in drawn], 1.0, rtol=1e-6)
    pools = jax.vmap(lambda own: pool_of(own).inputs)(every)
    assert sorted(pools[1, :, 0].tolist()) == sorted(np.asarray(PROBLEM.train.inputs)[0, folds != 1].tolist())
