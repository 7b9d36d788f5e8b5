"""Sizing: prices, pulls, the greedy order, births, budgets, and what a look leaves behind."""

import dataclasses
from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.random import default_rng

from n3.information.measures import InformationTerms, SamplesLast
from n3.information.sizing import DriveHypers, InformationDrive
from n3.nn.controllers import Information
from n3.nn.losses import Samples
from n3.nn.mlp import GrowingMLP

DRIVE = InformationDrive(is_classes=False, until=600, birth_until=300)
TERMS = replace(DRIVE, birth_until=0, terms=True, features=True)
UNITS, SAMPLES = 12, 200


def numbers(**changes):
    settings = dict.fromkeys((field.name for field in dataclasses.fields(DriveHypers)), 0.0)
    settings |= {"price": 0.02, "birth": 0.01, "rate": 0.1, "psi": 1.0, **changes}
    return DriveHypers(**{name: jnp.float32(value) for name, value in settings.items()})


def network(size):
    """One input, twelve units of method `information`, one output; weights by NumPy."""
    controller = Information(jnp.asarray(np.float32([size])), (UNITS,))
    made = partial(GrowingMLP, 1, 1, controller=controller)
    shapes, draw = eqx.filter_eval_shape(lambda key: made(key=key), jr.key(0)), default_rng(0)
    net = jax.tree.map(lambda leaf: draw.uniform(-1, 1, leaf.shape).astype(np.float32), shapes)
    return eqx.tree_at(lambda n: n.controller, net, controller)


def places():
    draw = default_rng(1)
    x = draw.uniform(-1.0, 1.0, (1, SAMPLES))
    y = np.sin(4 * x) + 0.1 * draw.normal(size=x.shape)
    return Samples(*(jnp.asarray(np.float32(a)) for a in (x, y, np.full(SAMPLES, 1 / SAMPLES))))


@eqx.filter_jit
def program(drive, net, settings, samples, count, masks, best):
    """A look, what is recorded after it, and the outputs before and after."""
    moments = (jax.tree.map(lambda leaf: 2.0 * leaf, net), count)
    state = drive.start(net)
    state = eqx.tree_at(lambda s: (s.masks, s.best), state, (masks, best))
    after, moments, state = drive.look(net, moments, state, settings, samples, count)
    recorded = drive.recorded(after, state, settings, samples)
    return after, moments, state, recorded, (net.batch(samples.inputs), after.batch(samples.inputs))


def looked(drive=DRIVE, *, size=4.0, count=0, best=0.0, **changes):
    net, masks = network(size), (jnp.zeros(UNITS),)
    found = program(
        drive, net, numbers(**changes), places(), jnp.asarray(count), masks, jnp.asarray(np.float32([best]))
    )
    return net, *jax.tree.map(np.asarray, found)


def gradient_of(drive=DRIVE, **settings):
    return looked(drive, **settings)[3].gradient


# The order of units and what they are worth.


@pytest.fixture(scope="module")
def layer():
    """Twelve units on 400 samples; the target is unit 5 + unit 2 / 2 + noise, and unit 7 copies unit 5."""
    draw = default_rng(2)
    active = draw.normal(size=(UNITS, 400))
    active[7] = active[5] + 1e-3 * active[7]
    return active, (active[5] + 0.5 * active[2] + 0.1 * draw.normal(size=400))[None]


@eqx.filter_jit
def worth_program(drive, *arguments):
    return drive.worth_of(*arguments)


def worth_of(active, targets, size, drive=DRIVE):
    given = (np.float32(array) for array in (active, targets, size))
    return map(np.asarray, worth_program(drive, *given))


def test_the_order_puts_what_adds_most_first_and_copies_last(layer):
    order, worth = worth_of(*layer, UNITS)
    assert {int(order[0]), int(order[1])} in ({5, 2}, {7, 2})
    assert sorted(order.tolist()) == list(range(UNITS))
    assert worth[0] == 0.0
    np.testing.assert_allclose(worth[2], 0.5 * np.log(1.26 / 0.01), rtol=0.05)
    assert np.abs(worth[-1] - worth[2]) < 0.03


def test_units_that_do_not_take_part_fully_keep_their_place(layer):
    order, _ = worth_of(*layer, 3.5)
    assert order.tolist()[3:] == list(range(3, UNITS))
    assert int(order[0]) == 2


def test_bias_is_taken_off(layer):
    """And without reordering the units stay in place."""
    still = replace(DRIVE, reorder=False, correct=False)
    noise = default_rng(9).normal(size=(1, 400))
    order, raw = worth_of(layer[0], noise, UNITS, still)
    assert order.tolist() == list(range(UNITS))
    corrected = list(worth_of(layer[0], noise, 0))[1]
    bias = 0.5 * np.log(1 - np.arange(UNITS + 1) / 399)
    np.testing.assert_allclose(corrected, raw + bias, rtol=1e-4, atol=1e-5)


def test_without_redundancy_a_copy_counts_twice(layer):
    active, blind = layer[0], replace(DRIVE, redundancy_aware=False)
    target = (active[5] + default_rng(3).normal(size=400))[None]
    swapped = active[[5, 7, *range(2, 5), 0, 6, 1, *range(8, UNITS)]]
    (_, aware), (_, unaware) = (list(worth_of(swapped, target, 0, drive)) for drive in (DRIVE, blind))
    np.testing.assert_allclose(aware[1], unaware[1], rtol=1e-4)
    assert aware[2] - aware[1] < 0.01
    assert unaware[2] - unaware[1] > 0.3
    order, _ = worth_of(swapped, target, UNITS, blind)
    assert {*order.tolist()[:2]} == {0, 1}


def test_a_users_importance_takes_the_place_of_the_built_in_one(layer):
    """It is called with the samples first, and taken as additive."""
    drive = replace(
        DRIVE, custom=SamplesLast(lambda active, _: jnp.arange(active.shape[1], dtype=active.dtype))
    )
    order, worth = worth_of(*layer, 4.0, drive)
    assert order.tolist() == [3, 2, 1, 0, *range(4, UNITS)]
    assert worth.tolist()[:6] == [0, 3, 5, 6, 6, 10]


# Pull, pace, cadence.


@eqx.filter_jit
def aimed(drive, size, worth, price):
    return drive.best_size(size, worth, price)


@eqx.filter_jit
def pulled(net, best, rate):
    """The pull on the size, and the update by it."""
    state = eqx.tree_at(lambda s: s.best, DRIVE.start(net), best)
    gradient = DRIVE.added(state.gradient, net, state)
    updates = DRIVE.paced(net, gradient, eqx.tree_at(lambda n: n.rate, numbers(), rate))
    return gradient.controller.weight, updates


@pytest.mark.parametrize(
    ("size", "expected"), [(0.0, -1.0), (2.0, -1.0), (3.0, 0.0), (2.6, -0.4), (3.25, 0.25), (9.0, 1.0)]
)
def test_the_pull_is_towards_the_best_number_of_units(size, expected):
    worth = np.float32([0.0, 0.1, 0.1, 0.6, 0.61, 0.62, 0.62, 0.62, 0.62, 0.62, 0.62])
    best = aimed(replace(DRIVE, look_ahead=4), np.float32(size), worth, np.float32(0.05))
    assert best == 3.0
    net = network(size)
    gradient, updates = pulled(net, np.float32([best]), jnp.float32(0.1))
    np.testing.assert_allclose(gradient, [expected], atol=1e-6)
    np.testing.assert_allclose(updates.controller.weight, [-0.1 * expected], atol=1e-7)
    np.testing.assert_array_equal(updates.readout.weight, net.readout.weight)  # the optimiser's own


def test_look_ahead_sees_what_pays_only_together():
    given = np.float32(0.0), np.float32([0.0, 0.0, 0.0, 1.0] + [0.0] * 7), np.float32(0.1)
    assert aimed(replace(DRIVE, look_ahead=1), *given) == 0
    assert aimed(replace(DRIVE, look_ahead=3), *given) == 3


def test_the_task_s_gradient_is_added_to_the_drive_s_and_cut_to_the_rate():
    @eqx.filter_jit
    def of(net, task):
        state = DRIVE.start(net)
        own = eqx.tree_at(lambda s: (s.best, s.gradient), state, (state.best - 0.5, net))
        gradient = DRIVE.added(jax.tree.map(lambda leaf: task * jnp.ones_like(leaf), net), net, own)
        return gradient, DRIVE.paced(net, gradient, numbers())

    net = network(2.0)
    for task, moved in ((0.5, -0.1), (-2.75, 0.025), (-40.0, 0.1)):
        gradient, updates = of(net, jnp.float32(task))
        np.testing.assert_allclose(gradient.controller.weight, [task + 2.0 + 0.5], rtol=1e-6)
        np.testing.assert_allclose(gradient.readout.weight, task + net.readout.weight, rtol=1e-6)
        np.testing.assert_allclose(updates.controller.weight, [moved], rtol=1e-6)


def test_looks_are_at_the_cadence_and_end():
    counts = np.array([0, 1, 24, 25, 575, 600, 625, 626], np.int32)
    due = [np.asarray(jax.jit(jax.vmap(drive.is_due))(counts)).tolist() for drive in (DRIVE, TERMS)]
    assert due[0] == [True, False, False, True, True, False, False, False]
    assert due[1] == [True, False, False, True, True, True, True, False]


def test_the_sight_by_hand():
    sizes, best, rate = np.array([[2.5], [7.0]]), np.array([[4.0], [1.0]]), np.array([[0.1], [0.2]])
    ahead = DRIVE.look_ahead + 1
    assert DRIVE.sight(sizes, best, rate, 100, 120).tolist() == [[5.0 + ahead], [11.0 + ahead]]
    assert DRIVE.sight(sizes, best, rate, 600, 620).tolist() == [[4.0], [7.0]]  # nothing is looked at any more


# Looks.


def test_a_look_changes_the_order_and_not_the_function():
    net, after, (moments, count), state, _, (before, same) = looked(size=6.0)
    np.testing.assert_allclose(same, before, rtol=1e-5, atol=1e-6)
    order = [int(np.flatnonzero(net.layers[0].bias == bias)[0]) for bias in after.layers[0].bias]
    assert order != list(range(UNITS))
    assert order[6:] == list(range(6, UNITS))
    np.testing.assert_array_equal(after.layers[0].weight, net.layers[0].weight[order])
    np.testing.assert_array_equal(after.readout.weight, net.readout.weight[:, order])
    np.testing.assert_array_equal(moments.layers[0].weight, 2 * after.layers[0].weight)
    np.testing.assert_array_equal(moments.readout.weight, 2 * after.readout.weight)
    assert count == 0
    np.testing.assert_array_equal(state.masks[0], np.arange(UNITS) < 6)


def test_births_train_only_the_unborn_in_sight_and_fade():
    """Nine from the frontier are in sight: the next, and eight that it may take with it."""
    early, half, late = (gradient_of(size=2.0, count=count) for count in (0, 150, 300))
    moved = np.abs(early.layers[0].weight[:, 0]) > 0
    assert moved.tolist() == [False] * 2 + [True] * 9 + [False]
    np.testing.assert_allclose(half.layers[0].weight, early.layers[0].weight / 2, rtol=1e-4)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((early.readout, late.layers)))


def test_a_step_downhill_on_the_births_raises_what_units_in_sight_promise():
    _, after, _, state, *_ = looked(size=2.0)
    samples, ahead = jax.tree.map(np.asarray, places()), np.arange(UNITS) < 11

    def promise(layer):
        units = np.tanh(layer.weight @ samples.inputs + layer.bias[:, None])[ahead].astype(float)
        units = (units - units.mean(1, keepdims=True)) / np.sqrt(units.var(1, keepdims=True) + 1e-6)
        target = (samples.targets - samples.targets.mean()) / samples.targets.std()
        cross = units @ target.T / SAMPLES
        covariance = units @ units.T / SAMPLES + 1e-3 * np.eye(len(units))
        return -0.5 * np.log(1.01 - cross.T @ np.linalg.solve(covariance, cross)).item()

    here, slope = after.layers[0], state.gradient.layers[0]
    moved = jax.tree.map(lambda leaf, own: leaf - 0.1 * own, here, slope)
    squares = sum(np.sum(leaf**2) for leaf in jax.tree.leaves(slope))
    np.testing.assert_allclose(promise(moved) - promise(here), 0.1 * squares / 0.01, rtol=0.1)


def test_the_prior_draws_the_unborn_towards_zero_while_births_last():
    net, after, _, with_prior, *_ = looked(prior=0.5)
    added = with_prior.gradient.layers[0].weight - gradient_of().layers[0].weight
    np.testing.assert_allclose(added[4:], 0.01 * 0.5 * after.layers[0].weight[4:], rtol=1e-3, atol=1e-7)
    assert np.all(added[:4] == 0)
    assert np.abs(net.layers[0].weight).max() < 1  # so the prior's variance is one


def test_a_settled_size_is_not_pulled_and_not_reordered():
    net, after, _, live, *_ = looked(count=575, best=9.0)
    _, settled_net, _, settled, *_ = looked(count=600, best=9.0)
    assert live.best[0] != 9
    assert settled.best[0] == 9
    np.testing.assert_array_equal(settled_net.layers[0].bias, net.layers[0].bias)
    assert not np.array_equal(after.layers[0].bias, net.layers[0].bias)


def test_a_budget_moves_the_price_and_sets_the_size():
    states = [looked(size=6.0, budget=budget)[3] for budget in (5.0, 100.0, 0.0)]
    assert np.sign([state.log_price for state in states]).tolist() == [1, -1, 0]
    assert states[1].best[0] == 33 == round((100 - 1) / 3)  # parameters: 3 a unit, and one bias


def test_the_price_goes_from_its_start_to_its_value_by_the_last_look():
    states = [looked(count=count, price=0.1, log_start=float(np.log(0.01)))[3] for count in (0, 300, 575)]
    prices = [float(state.prices[0]) for state in states]
    np.testing.assert_allclose(prices, 0.1 * np.array([0.01, 0.1, 0.01 ** (25 / 600)]), rtol=1e-4)
    assert states[0].best[0] > states[2].best[0]
    np.testing.assert_allclose(looked()[3].prices, [0.02], rtol=1e-6)


@pytest.mark.parametrize(("name", "sign"), [("importance", -1), ("redundancy", 1), ("structure", 1)])
def test_terms_reach_the_masks_and_are_off_at_zero(name, sign):
    off, on = (gradient_of(TERMS, size=4.5, **{name: weight}) for weight in (0.0, 0.3))
    assert sign * on.controller.weight[0] > 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(off))
    is_moved = np.any(on.layers[0].weight[:4])  # features are trained as well, by all that they are in
    assert is_moved == (name != "structure")


def test_psi_multiplies_the_gradient_of_importance_and_no_other():
    def pull(**settings):
        return float(gradient_of(TERMS, size=4.5, **settings).controller.weight[0])

    np.testing.assert_allclose(pull(importance=0.3, psi=1.2), 1.2 * pull(importance=0.3), rtol=1e-5)
    assert pull(structure=0.3, psi=1.2) == pull(structure=0.3)


def test_what_is_recorded_is_the_terms_and_what_units_cost():
    """Without terms of the objective it is the cost alone."""
    *_, loud, _ = looked(TERMS, size=3.4, importance=0.5)
    *_, quiet, _ = looked(size=3.4, importance=0.5)
    for found in (loud, quiet):
        assert isinstance(found, InformationTerms)
        np.testing.assert_allclose(found.price, [0.02 * 3.4], rtol=1e-5)
    assert loud.importance[0] < 0
    np.testing.assert_allclose(
        looked(TERMS, size=3.4, importance=1.0)[4].importance, 2 * loud.importance, rtol=1e-5
    )
    assert quiet.importance[0] == loud.redundancy[0] == 0


def test_the_state_begins_without_a_gradient_at_its_own_size():
    net = network(2.25)
    state = eqx.filter_jit(DRIVE.start)(net)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.gradient))
    np.testing.assert_array_equal(state.best, net.controller.weight)
    assert (float(state.log_price), state.depth) == (0.0, None)
