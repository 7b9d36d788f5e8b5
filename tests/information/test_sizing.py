"""Drive: prices, pulls, the greedy order, births, budgets, and whole runs that find their own size."""

import dataclasses
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.config.experiment import (
    Experiment,
    InformationConfig,
    NetworkConfig,
    RunConfig,
    TaskConfig,
    TrainingConfig,
)
from n3.experiments import arms
from n3.experiments.run import load_data
from n3.information.price import price_of
from n3.information.sizing import DriveHypers, DriveState, InformationDrive
from n3.nn.losses import LossWeights, Samples
from n3.training.step import Hypers, Problem, Recipe, train
from n3.training.step import init as eager_init
from n3.training.step import step as eager_step
from n3.training.sweep import sweep

DRIVE = InformationDrive(is_classes=False, until=600, birth_until=300)
UNITS = 12
init, step = eqx.filter_jit(eager_init), eqx.filter_jit(eager_step)


@pytest.fixture(scope="module")
def layer():
    """Twelve units on 400 samples; the target is unit 5 + unit 2 / 2 + noise, and unit 7 copies unit 5."""
    active = jr.normal(jr.key(0), (UNITS, 400))
    active = active.at[7].set(active[5] + 1e-3 * active[7])
    return active, (active[5] + 0.5 * active[2] + 0.1 * jr.normal(jr.key(1), (400,)))[None]


def numbers(**changes):
    settings = dict.fromkeys((field.name for field in dataclasses.fields(DriveHypers)), 0.0)
    settings |= {"price": 0.02, "birth": 0.01, "rate": 0.1, "psi": 1.0, **changes}
    return DriveHypers(**{name: jnp.asarray(value) for name, value in settings.items()})


def recipe(drive=DRIVE, **changes):
    settings = {"in_size": 1, "out_size": 1, "capacity": (UNITS,), "controller": "information", "drive": drive}
    return Recipe(**{**settings, **changes})


def hypers(size=4.0, layers=1, **changes):
    weights = LossWeights(size=jnp.asarray(0.0), depth=jnp.asarray(0.0))
    rate, one = jnp.asarray(1e-2), jnp.asarray(1.0)
    return Hypers(rate, weights, jnp.full(layers, size), one, one, 1000.0 * one, numbers(**changes))


def problem(curve=lambda x: jnp.sin(4 * x), count=200):
    x = jr.uniform(jr.key(3), (1, count), minval=-1.0, maxval=1.0)
    side = Samples(x, curve(x) + 0.1 * jr.normal(jr.key(4), x.shape), jnp.full(count, 1.0 / count))
    return Problem(side, side, jnp.ones(1))


@eqx.filter_jit
def look(drive, state, settings, data, count):
    return drive.look(state.net, state.moments, state.drive, settings.drive, data.train, count)


def looked(drive, state, settings, data, count=0):
    return look(drive, state, settings, data, jnp.asarray(count))


@eqx.filter_jit
def worth_of(drive, *arguments):
    return drive.worth_of(*arguments)


def test_the_order_puts_what_adds_most_first_and_copies_last(layer):
    order, worth = worth_of(DRIVE, *layer, jnp.asarray(float(UNITS)))
    assert {int(order[0]), int(order[1])} in ({5, 2}, {7, 2})
    assert sorted(order.tolist()) == list(range(UNITS))
    assert worth[0] == 0.0
    np.testing.assert_allclose(worth[2], 0.5 * np.log(1.26 / 0.01), rtol=0.05)
    assert np.abs(worth[-1] - worth[2]) < 0.03


def test_units_that_do_not_take_part_fully_keep_their_place(layer):
    order, _ = worth_of(DRIVE, *layer, jnp.asarray(3.5))
    assert order.tolist()[3:] == list(range(3, UNITS))
    assert int(order[0]) == 2
    still = replace(DRIVE, reorder=False)
    assert worth_of(still, *layer, jnp.asarray(float(UNITS)))[0].tolist() == list(range(UNITS))


def test_bias_is_taken_off(layer):
    _, noise = worth_of(DRIVE, layer[0], jr.normal(jr.key(9), (1, 400)), jnp.asarray(0.0))
    raw = worth_of(replace(DRIVE, correct=False), layer[0], jr.normal(jr.key(9), (1, 400)), jnp.asarray(0.0))[1]
    assert raw[-1] > 0.008
    assert noise[-1] < raw[-1] - 0.012


def test_without_redundancy_a_copy_counts_twice(layer):
    active = layer[0][jnp.array([5, 7])]
    target = (active[0] + jr.normal(jr.key(1), (400,)))[None]
    size = jnp.asarray(0.0)
    _, aware = worth_of(replace(DRIVE, correct=False), active, target, size)
    _, blind = worth_of(replace(DRIVE, correct=False, redundancy_aware=False), active, target, size)
    np.testing.assert_allclose(aware[1], blind[1], rtol=1e-4)
    assert aware[2] - aware[1] < 0.01
    assert blind[2] - blind[1] > 0.3


def test_a_users_importance_takes_the_place_of_the_built_in_one(layer):
    drive = replace(DRIVE, custom=lambda active, _: jnp.arange(active.shape[0], dtype=active.dtype))
    order, worth = worth_of(drive, *layer, jnp.asarray(4.0))
    assert order.tolist() == [3, 2, 1, 0, *range(4, UNITS)]
    assert worth.tolist()[:6] == [0, 3, 5, 6, 6, 10]


@pytest.mark.parametrize(
    ("size", "expected"), [(0.0, -1.0), (2.0, -1.0), (3.0, 0.0), (2.6, -0.4), (3.25, 0.25), (9.0, 1.0)]
)
def test_the_pull_is_towards_the_best_number_of_units(size, expected):
    worth = jnp.array([0.0, 0.1, 0.1, 0.6, 0.61, 0.62, 0.62, 0.62, 0.62, 0.62, 0.62])
    best = replace(DRIVE, look_ahead=4).best_size(jnp.asarray(size), worth, jnp.asarray(0.05))
    net = init(recipe(), hypers(size=size), problem(), key=jr.key(5)).net
    state = eqx.tree_at(lambda s: s.best, DRIVE.start(net), best[None])
    pull = DRIVE.added(DRIVE.start(net).gradient, net, state).controller.weight
    np.testing.assert_allclose(pull, [expected], atol=1e-6)


def test_looks_are_at_the_cadence_and_end():
    counts = jnp.array([0, 1, 24, 25, 575, 600, 625])
    assert [bool(DRIVE.is_due(count)) for count in counts] == [True, False, False, True, True, False, False]
    always = replace(DRIVE, terms=True)
    assert bool(always.is_due(jnp.asarray(625)))
    assert not bool(always.is_due(jnp.asarray(626)))


def test_look_ahead_sees_what_pays_only_together():
    worth, price = jnp.array([0.0, 0.0, 0.0, 1.0]), jnp.asarray(0.1)
    assert replace(DRIVE, look_ahead=1).best_size(jnp.asarray(0.0), worth, price) == 0
    assert replace(DRIVE, look_ahead=3).best_size(jnp.asarray(0.0), worth, price) == 3


def test_a_look_changes_the_order_and_not_the_function():
    settings, data = hypers(size=6.0), problem()
    state = init(recipe(), settings, data, key=jr.key(5))
    for count in range(3):
        state = step(recipe(), state, settings, data, jnp.asarray(count + 1))
    net, moments, _ = looked(DRIVE, state, settings, data)
    assert not np.array_equal(net.readout.weight, state.net.readout.weight)
    np.testing.assert_allclose(
        net.batch(data.train.inputs), state.net.batch(data.train.inputs), rtol=1e-5, atol=1e-6
    )
    order = [int(np.flatnonzero(state.net.layers[0].bias == b)[0]) for b in net.layers[0].bias]
    for old, new in zip(jax.tree.leaves(state.moments), jax.tree.leaves(moments), strict=True):
        match old.shape:
            case (12, 1) | (12,):
                assert np.array_equal(old[jnp.array(order)], new)
            case (1, 12):
                assert np.array_equal(old[:, jnp.array(order)], new)


def test_births_train_only_the_unborn_and_fade():
    settings, data = hypers(size=4.0), problem()
    state = init(recipe(), settings, data, key=jr.key(5))
    early, late = (looked(DRIVE, state, settings, data, count)[2].gradient for count in (0, 300))
    assert np.all(np.asarray(early.layers[0].weight[:4]) == 0)
    assert np.all(np.abs(np.asarray(early.layers[0].weight[4:])) > 0)
    assert np.all(np.asarray(early.readout.weight) == 0)
    assert np.all(np.asarray(late.layers[0].weight) == 0)


def test_the_prior_draws_the_unborn_towards_zero_while_births_last():
    settings, data = hypers(size=4.0, prior=0.5), problem()
    state = init(recipe(), hypers(size=4.0), data, key=jr.key(5))
    with_prior, without = (looked(DRIVE, state, one, data)[2].gradient for one in (settings, hypers(size=4.0)))
    weight = state.net.layers[0].weight
    order = looked(DRIVE, state, settings, data)[0].layers[0].weight
    added = with_prior.layers[0].weight - without.layers[0].weight
    np.testing.assert_allclose(added[4:], 0.01 * 0.5 * order[4:], rtol=1e-3, atol=1e-7)
    assert np.all(np.asarray(added[:4]) == 0)
    assert np.abs(weight).max() < 1  # so the prior's variance is one


def test_a_settled_size_is_not_pulled_and_not_reordered():
    settings, data = hypers(size=4.0), problem()
    state = init(recipe(), settings, data, key=jr.key(5))
    net, _, live = looked(DRIVE, state, settings, data, 575)
    settled_net, _, settled = looked(DRIVE, state, settings, data, 600)
    assert live.best[0] != 4
    assert settled.best[0] == 4
    assert np.array_equal(settled_net.layers[0].bias, state.net.layers[0].bias)
    assert not np.array_equal(net.layers[0].bias, state.net.layers[0].bias)


@pytest.mark.parametrize(("name", "sign"), [("importance", -1), ("redundancy", 1), ("structure", 1)])
def test_terms_reach_the_masks_and_are_off_at_zero(name, sign):
    drive = replace(DRIVE, birth_until=0, terms=True)
    data = problem()
    state = init(recipe(drive), hypers(size=4.5), data, key=jr.key(5))
    state = eqx.tree_at(lambda s: s.drive.masks[0], state, jnp.zeros(UNITS))
    off, on = (
        looked(drive, state, hypers(size=4.5, **{name: weight}), data)[2].gradient for weight in (0.0, 0.3)
    )
    pulled = float(on.controller.weight[0] - off.controller.weight[0])
    assert sign * pulled > 0
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(on.layers))
    plain = looked(replace(drive, terms=False), state, hypers(size=4.5), data)[2].gradient
    assert np.array_equal(plain.controller.weight, off.controller.weight)


def test_psi_multiplies_the_gradient_of_importance_and_no_other():
    drive, data = replace(DRIVE, birth_until=0, terms=True), problem()
    state = init(recipe(drive), hypers(size=4.5), data, key=jr.key(5))
    state = eqx.tree_at(lambda s: s.drive.masks[0], state, jnp.zeros(UNITS))

    def pull(**settings):
        return float(looked(drive, state, hypers(size=4.5, **settings), data)[2].gradient.controller.weight[0])

    assert pull(importance=0.3) < 0
    np.testing.assert_allclose(pull(importance=0.3, psi=1.2), 1.2 * pull(importance=0.3), rtol=1e-5)
    assert pull(structure=0.3, psi=1.2) == pull(structure=0.3)


def test_features_are_trained_when_asked():
    drive = replace(DRIVE, birth_until=0, terms=True, features=True)
    data, settings = problem(), hypers(size=4.5, importance=0.3)
    state = init(recipe(drive), settings, data, key=jr.key(5))
    gradient = looked(drive, state, settings, data)[2].gradient
    assert np.all(np.abs(np.asarray(gradient.layers[0].weight[:4])) > 0)


def test_a_budget_moves_the_price():
    data = problem()
    for budget, sign in ((5.0, 1), (1000.0, -1), (0.0, 0)):
        settings = hypers(size=6.0, budget=budget)
        state = init(recipe(), settings, data, key=jr.key(5))
        assert np.sign(looked(DRIVE, state, settings, data)[2].log_price) == sign


def test_the_price_goes_from_its_start_to_its_value_by_the_last_look():
    settings, data = hypers(size=4.0, log_start=float(np.log(0.01))), problem()
    state = init(recipe(), settings, data, key=jr.key(5))
    found = [looked(DRIVE, state, settings, data, count)[2] for count in (0, 300, 575)]
    prices = [float(own.prices[0]) for own in found]
    np.testing.assert_allclose(prices, [0.02 * 0.01, 0.02 * 0.1, 0.02 * 0.01 ** (25 / 600)], rtol=1e-4)
    assert found[0].best[0] > found[2].best[0]
    steady = hypers(size=4.0)
    np.testing.assert_allclose(looked(DRIVE, state, steady, data, 0)[2].prices, [0.02], rtol=1e-6)


def test_the_size_moves_at_its_own_rate():
    settings, data, still = hypers(size=2.0, rate=0.25), problem(), recipe(replace(DRIVE, reorder=False))
    state = init(still, settings, data, key=jr.key(5))
    after = step(still, state, settings, data, jnp.asarray(0))
    np.testing.assert_allclose(after.net.controller.weight - 2.0, 0.25, rtol=0.2)  # and the task's own pull
    moved = np.abs(after.net.readout.weight - state.net.readout.weight)
    np.testing.assert_allclose(moved.max(), 1e-2, rtol=0.1)


def test_the_state_begins_without_a_gradient():
    state = init(recipe(), hypers(), problem(), key=jr.key(5)).drive
    assert isinstance(state, DriveState)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(state.gradient))


def ends(curve, *, first=0.5, price=0.02, drive=DRIVE, seeds=3):
    """Final sizes of some seeds, trained side by side."""
    many = lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf] * seeds), tree)  # noqa: E731
    swept = sweep(
        recipe(drive, schedule="cosine"),
        many(hypers(size=first, price=price)),
        many(problem(curve)),
        keys=jr.split(jr.key(6), seeds),
        stops=np.array([0, 500, 1000]),
        devices=jax.devices()[:1],
    )
    return np.asarray(swept.records.size[:, -1, 0])


def test_noise_ends_small_a_line_ends_at_three_or_less_and_more_structure_takes_more():
    noise, line, wave = ends(jnp.zeros_like), ends(lambda x: x), ends(lambda x: jnp.sin(8 * x))
    assert np.median(noise) < 0.5
    assert 1 <= np.median(line) <= 3
    assert np.median(wave) > np.median(line)


def test_shrinking_comes_down_from_the_capacity():
    assert np.median(ends(lambda x: x, first=float(UNITS))) < UNITS / 2


@pytest.mark.parametrize(("gradient", "moved"), [(-0.5, 0.05), (-40.0, 0.1), (3.0, -0.1)])
def test_a_step_moves_the_size_by_the_rate_at_most(gradient, moved):
    one = jax.jit(lambda: init(recipe(), hypers(), problem(), key=jr.key(0)).net)()
    steep = eqx.tree_at(lambda net: net.controller.weight, one, jnp.full(1, gradient))
    updates = DRIVE.paced(one, steep, numbers(rate=0.1))
    np.testing.assert_allclose(updates.controller.weight, moved, rtol=1e-6)


def test_the_sight_by_hand():
    sizes, best, rate = np.array([[2.5], [7.0]]), np.array([[4.0], [1.0]]), np.array([[0.1], [0.2]])
    ahead = DRIVE.look_ahead + 1
    assert DRIVE.sight(sizes, best, rate, 100, 120).tolist() == [[5.0 + ahead], [11.0 + ahead]]
    assert DRIVE.sight(sizes, best, rate, 600, 620).tolist() == [[4.0], [7.0]]  # nothing is looked at any more


def test_two_layers_each_find_a_size():
    two = recipe(capacity=(6, 3))
    state, _ = train(two, hypers(size=0.5, layers=2), problem(), key=jr.key(8), stops=jnp.array([600]))
    first, second = np.asarray(state.net.controller.weight)
    assert first > 3.5
    assert 1.0 < second < 3.5


def experiment(**information):
    return Experiment(
        task=TaskConfig(task="wine"),
        network=NetworkConfig(method="information", capacity=(8,)),
        training=TrainingConfig(steps=20),
        information=InformationConfig(**information),
        run=RunConfig(arms=("growing", "shrinking"), seeds=(0, 1)),
    ).resolved()


def test_prices_by_hand():
    data = load_data(experiment())[0]
    samples, covariance = len(data.train_inputs), np.cov(data.train_inputs.T)
    values = np.linalg.eigvalsh(covariance)
    parameters = values.sum() ** 2 / (values**2).sum() + 1 + 3
    price = parameters * np.log(samples) / (4 * samples)
    np.testing.assert_allclose(price_of(experiment(), data), price, rtol=1e-5)
    np.testing.assert_allclose(price_of(experiment(price_scale=3.0), data), 3 * price, rtol=1e-5)
    np.testing.assert_allclose(price_of(experiment(price=0.4), data), 0.4)
    by_test = price_of(experiment(price="chi-square"), data)
    np.testing.assert_allclose(by_test, 7.815 / (2 * samples), rtol=0.02)


def test_arms_of_the_method_start_where_they_should():
    data = load_data(experiment())
    for arm, size in (("growing", 0.5), ("shrinking", 8.0)):
        made = arms.hypers_of(experiment(), arm, data=data, active=None)
        assert np.all(np.asarray(made.initial_size) == size)
        assert made.drive.price.shape == (2,)
    assert arms.recipe_of(experiment(), "growing", data[0]).drive.is_classes
    assert arms.recipe_of(experiment(), "static", data[0]).drive is None
