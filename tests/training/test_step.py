"""Train: one run, its steps, its records, and what it does when it diverges."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from n3.nn.losses import LossWeights, Samples, task_loss
from n3.nn.mlp import Annealing
from n3.surgery.compact import compact
from n3.training.step import Hypers, Problem, Recipe, advance, train
from n3.training.step import init as eager_init
from n3.training.step import step as eager_step

RECIPE = Recipe(in_size=1, out_size=1, capacity=(6,))
init, step = eqx.filter_jit(eager_init), eqx.filter_jit(eager_step)


@pytest.fixture(autouse=True)
def no_key_is_used_twice():
    with jax.debug_key_reuse(True):
        yield


def samples(key, count):
    x = jr.uniform(key, (1, count), minval=-1.0, maxval=1.0)
    return Samples(x, jnp.sin(4 * x), jnp.full(count, 1.0 / count))


def problem(count=40):
    train_key, test_key = jr.split(jr.key(7))
    return Problem(samples(train_key, count), samples(test_key, 16), jnp.ones(1))


def hypers(learning_rate=1e-2, size=0.3, initial=0.0, target=6.0, layers=1):
    weights = LossWeights(size=jnp.asarray(size), depth=jnp.asarray(0.0))
    return Hypers(
        jnp.asarray(learning_rate),
        weights,
        jnp.full(layers, initial),
        jnp.asarray(target),
        jnp.asarray(1.0),
        jnp.asarray(400.0),
    )


def stops(*steps):
    return jnp.array(steps, jnp.int32)


def test_one_sgd_step_is_the_gradient_times_the_rate():
    recipe = replace(RECIPE, optimiser="sgd", controller="fixed")
    numbers, data = hypers(initial=6.0), problem()
    state = init(recipe, numbers, data, key=jr.key(0))
    gradient = eqx.filter_grad(task_loss)(state.net, data.train, "squared-error")
    after = step(recipe, state, numbers, data, jnp.asarray(0))
    expected = state.net.readout.weight - 1e-2 * gradient.readout.weight
    np.testing.assert_allclose(after.net.readout.weight, expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "rule"), [("sgd", optax.sgd(1e-2)), ("adam", optax.adam(1e-2))])
def test_five_steps_are_those_of_optax(name, rule):
    recipe = replace(RECIPE, optimiser=name, controller="fixed")
    numbers, data = hypers(initial=6.0), problem()
    state = init(recipe, numbers, data, key=jr.key(0))
    net, moments = state.net, rule.init(state.net)
    for count in range(5):
        state = step(recipe, state, numbers, data, jnp.asarray(count))
        gradient = eqx.filter_grad(task_loss)(net, data.train, "squared-error")
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = rule.update(gradient, moments, net)
        net = eqx.apply_updates(net, updates)
    for ours, theirs in zip(jax.tree.leaves(state.net), jax.tree.leaves(net), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("controller", ["auxiliary", "controller"])
def test_training_lowers_the_loss_and_grows_the_network(controller):
    recipe = replace(RECIPE, controller=controller, size_input=controller == "auxiliary")
    _, records = train(recipe, hypers(), problem(), key=jr.key(1), stops=stops(0, 100, 200, 300))
    assert records.train_loss[-1] < 0.5 * records.train_loss[0]
    assert records.size[0, 0] < 1e-6  # a jitter of 1e-5 in `c` is 2e-9 units
    assert np.all(np.diff(records.size[:, 0]) > 0)
    assert records.size_penalty[-1] < records.size_penalty[0]


def test_a_fixed_size_stays_and_its_penalty_is_zero():
    recipe = replace(RECIPE, controller="fixed")
    _, records = train(recipe, hypers(initial=3.5), problem(), key=jr.key(1), stops=stops(0, 50))
    assert np.all(np.asarray(records.size) == 3.5)  # between units, where the ramp has a slope
    assert np.all(np.asarray(records.size_penalty) == 0.0)


def test_the_released_control_path_does_not_depend_on_the_data():
    recipe = replace(RECIPE, controller="released")
    other = eqx.tree_at(lambda p: p.train.targets, problem(), 5.0 + problem().train.targets)
    runs = [train(recipe, hypers(), p, key=jr.key(1), stops=stops(0, 20, 200)) for p in (problem(), other)]
    assert np.array_equal(runs[0][1].size, runs[1][1].size)
    assert not np.array_equal(runs[0][1].train_loss, runs[1][1].train_loss)


def test_the_controller_of_the_described_method_does_depend_on_the_data():
    other = eqx.tree_at(lambda p: p.train.targets, problem(), 5.0 + problem().train.targets)
    runs = [train(RECIPE, hypers(), p, key=jr.key(1), stops=stops(200)) for p in (problem(), other)]
    assert not np.array_equal(runs[0][1].size, runs[1][1].size)


def test_warmup_follows_the_growing_arms_weight_when_the_task_is_silent():
    silent = hypers(size=0.3)
    ends = []
    for controller in ("controller", "warmup"):
        data = eqx.tree_at(lambda p: p.train.shares, problem(), jnp.zeros(40))
        state, _ = train(replace(RECIPE, controller=controller), silent, data, key=jr.key(1), stops=stops(30))
        ends.append(state.net.controller.weight)
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-6)


@pytest.mark.parametrize("count", [40, 41])
def test_tiles_change_only_the_rounding(count):
    numbers, data = hypers(), problem(count)
    whole, cut = (
        train(replace(RECIPE, tile=tile), numbers, data, key=jr.key(2), stops=stops(0, 60))[1]
        for tile in (64, 16)
    )
    np.testing.assert_allclose(whole.train_loss, cut.train_loss, rtol=1e-4)
    np.testing.assert_allclose(whole.size, cut.size, rtol=1e-4)


def test_minibatches_take_every_sample_once_an_epoch():
    recipe, numbers, data = replace(RECIPE, batch=10), hypers(), problem()

    def drawn_at(sample):
        """The first step whose batch holds a sample, seen by a target that is NaN."""
        targets = data.train.targets.at[0, sample].set(jnp.nan)
        marked = eqx.tree_at(lambda p: p.train.targets, data, targets)
        state, _ = train(recipe, numbers, marked, key=jr.key(3), stops=stops(4))
        return state.diverged_at

    first = jax.vmap(drawn_at)(jnp.arange(40))
    assert np.array_equal(np.sort(first), np.repeat(np.arange(4), 10))


def test_the_order_is_kept_in_an_epoch_and_fresh_in_the_next():
    recipe = replace(RECIPE, batch=10)
    state, numbers, data = init(recipe, hypers(), problem(), key=jr.key(3)), hypers(), problem()
    orders = []
    for count in range(8):
        state = step(recipe, state, numbers, data, jnp.asarray(count))
        orders.append(np.asarray(state.order))
    assert np.array_equal(orders[0], orders[3])
    assert not np.array_equal(orders[0], orders[4])
    assert np.array_equal(np.sort(orders[4]), np.arange(40))


def test_minibatches_learn():
    _, records = train(replace(RECIPE, batch=8), hypers(), problem(), key=jr.key(4), stops=stops(0, 400))
    assert records.train_loss[1] < 0.5 * records.train_loss[0]


def test_stopping_on_the_way_changes_nothing():
    numbers, data = hypers(), problem()
    once, _ = train(RECIPE, numbers, data, key=jr.key(5), stops=stops(60))
    state, _ = train(RECIPE, numbers, data, key=jr.key(5), stops=stops(0, 20))
    twice, records = advance(RECIPE, state, numbers, data, jnp.asarray(20), stops(60, 60))
    np.testing.assert_allclose(once.net.readout.weight, twice.net.readout.weight, rtol=1e-6)
    assert records.test_loss[0] == records.test_loss[1]


def test_a_diverged_run_says_when():
    recipe = replace(RECIPE, optimiser="sgd", activation="identity")
    state, records = train(recipe, hypers(learning_rate=50.0), problem(), key=jr.key(6), stops=stops(0, 200))
    assert not np.isfinite(records.train_loss[1])
    assert 0 < int(state.diverged_at) < 200


def test_a_sound_run_says_so():
    state, _ = train(RECIPE, hypers(), problem(), key=jr.key(6), stops=stops(0, 10))
    assert int(state.diverged_at) == -1


def test_the_rescaled_arm_divides_the_size_inputs_weights():
    recipe = replace(RECIPE, controller="auxiliary", size_input=True)
    plain = init(recipe, hypers(target=5.0), problem(), key=jr.key(8)).net
    scaled = init(replace(recipe, rescale_size_input=True), hypers(target=5.0), problem(), key=jr.key(8)).net
    np.testing.assert_allclose(scaled.layers[0].size_weight, plain.layers[0].size_weight / 5.0, rtol=1e-6)
    assert np.array_equal(scaled.layers[0].weight, plain.layers[0].weight)


CHOOSING = replace(RECIPE, capacity=(4, 4), controller="fixed", activation="choose:tanh,relu,sin")


def choosing(end=0.5):
    annealing = Annealing(jnp.asarray(1.0), jnp.asarray(0.05), jnp.asarray(end))
    return replace(hypers(initial=4.0, layers=2), horizon=jnp.asarray(60.0), annealing=annealing)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_choices_train_by_every_optimiser_and_their_temperature_by_none(name):
    recipe = replace(CHOOSING, optimiser=name)
    state = init(recipe, replace(choosing(), annealing=None), problem(), key=jr.key(0))
    for count in range(3):
        state = step(recipe, state, replace(choosing(), annealing=None), problem(), jnp.asarray(count))
    assert float(state.net.choice.temperature) == 1.0
    assert np.all(np.asarray(state.net.choice.logits) != 0.0)


@pytest.fixture(scope="module")
def chosen():
    return train(CHOOSING, choosing(), problem(), key=jr.key(1), stops=stops(0, 15, 30, 60))


def test_a_run_ends_with_hard_choices_that_compacting_keeps(chosen):
    state, records = chosen
    shares = np.stack([records.choice_share[name] for name in ("tanh", "relu", "sin")], -1)
    np.testing.assert_allclose(shares.sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(shares[0], 1 / 3, rtol=1e-6)
    assert np.all((shares[1] > 0) & (shares[1] < 1))
    assert set(np.unique(shares[2:])) == {0.0, 1.0}
    np.testing.assert_array_equal(shares[2], shares[3])
    plain = compact(state.net)
    x = problem().test.inputs
    assert [layer.activation for layer in plain.layers] == list(state.net.choice.winners())
    np.testing.assert_allclose(plain.batch(x), state.net.batch(x), rtol=1e-5, atol=1e-6)


def test_noise_is_fresh_in_every_step_and_only_where_it_is_asked_for():
    plain, numbers, data = replace(CHOOSING, optimiser="sgd"), replace(choosing(), annealing=None), problem()
    noisy, state = replace(plain, gumbel=True), init(plain, numbers, data, key=jr.key(0))
    one, again, later = (step(noisy, state, numbers, data, jnp.asarray(count)).net for count in (0, 0, 1))
    without = step(plain, state, numbers, data, jnp.asarray(0)).net
    assert np.array_equal(one.readout.weight, again.readout.weight)
    assert not np.array_equal(one.readout.weight, later.readout.weight)
    assert not np.array_equal(one.readout.weight, without.readout.weight)


def test_layerwise_and_depth_gates_train_together():
    recipe = replace(RECIPE, capacity=(5, 5), controller="auxiliary", layerwise=True, depth_gates=True)
    numbers = eqx.tree_at(lambda h: h.target_depth, hypers(target=4.0, layers=2), jnp.asarray(2.0))
    numbers = eqx.tree_at(lambda h: h.weights.depth, numbers, jnp.asarray(0.3))
    _, records = train(recipe, numbers, problem(), key=jr.key(9), stops=stops(0, 100, 200, 300))
    assert records.depth[1] > records.depth[0]
    assert np.all(np.diff(records.size, axis=0) > 0)
    assert records.size[-1, 0] != records.size[-1, 1]
