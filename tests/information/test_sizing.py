"""Sizing: one drive on a network and on a grown model: orders, pulls, births, budgets, what a look leaves."""

from dataclasses import replace
from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.random import default_rng

from n3.config.experiment import InformationConfig
from n3.information.measures import Pool
from n3.information.price import Prices
from n3.information.sizing import SETTLED, DriveHypers, InformationDrive
from n3.nn.controllers import Information
from n3.nn.mlp import GrowingMLP
from n3.nn.sized import reorder
from n3.tracing.grow import grow

SETTINGS = InformationConfig(price=0.02, birth_end=0.3, size_rate=0.1)
DRIVE = InformationDrive.of(SETTINGS, steps=1_000, is_classes=False, custom=None)
TERMS = replace(DRIVE, birth_until=0, terms=True, features=True)
UNITS, INPUTS, SAMPLES = 12, 3, 200
KINDS = ("network", "grown")
"""A `GrowingMLP` and a `Grown` of the same weights: all that is not said to be of one is a law of both."""
both = pytest.mark.parametrize("kind", KINDS)


def numbers(*, price=0.02, parameter_price=0.0, prior=0.0, **changes):
    """The numbers of one run; a unit has three effective inputs."""
    rows = DriveHypers.of(
        replace(SETTINGS, **changes), [Prices(price, parameter_price, 3.0)], prior=prior, steps=1000
    )
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], rows)


def parts(tree):
    """The hidden layer and the read-out of a model, of its gradient or of its moments."""
    return (tree.layers[0], tree.readout) if isinstance(tree, GrowingMLP) else tree.model.layers


@cache
def at_first(kind):
    """Three inputs, twelve units of method `information`, one output, weights still to be set."""
    if kind == "grown":
        made = partial(eqx.nn.MLP, INPUTS, 1, UNITS, 1, jnp.tanh)
    else:
        made = partial(GrowingMLP, INPUTS, 1, controller=Information(jnp.full(1, float(UNITS)), (UNITS,)))
    drawn = eqx.filter_jit(lambda key: made(key=key))(jr.key(0))
    return grow(drawn, example=np.zeros(INPUTS, np.float32), key=jr.key(3)) if kind == "grown" else drawn


FIRST = np.float32([1.0, 0.0, 0.0])


def network(size, kind="network", *, known=False):
    """Weights by NumPy, the same of both kinds. Known: unit 5 alone sees the first input, and nothing else."""
    draw = default_rng(0)
    shapes = (UNITS, INPUTS), (UNITS,), (1, UNITS), (1,)
    weight, bias, out, offset = (draw.uniform(-1, 1, shape).astype(np.float32) for shape in shapes)
    if known:
        weight[:, 0], weight[5], bias[:] = 0.0, FIRST, 0.0
    return eqx.tree_at(
        lambda net: [leaf for own in parts(net) for leaf in (own.weight, own.bias)] + [net.controller.weight],
        at_first(kind),
        [weight, bias, out, offset, np.float32([size])],
    )


def places(*, known=False):
    """Samples whose target is a function of the first input."""
    draw = default_rng(1)
    x = draw.uniform(-1.0, 1.0, (INPUTS, SAMPLES))
    y = np.tanh(x[:1]) + 0.05 * draw.normal(size=(1, SAMPLES)) if known else np.sin(4 * x[:1])
    y = y if known else y + 0.1 * draw.normal(size=y.shape)
    return Pool(*(jnp.asarray(np.float32(a)) for a in (x.T, y)))


def outputs(net, samples):
    return jax.vmap(net)(samples.inputs).T


@eqx.filter_jit
def program(drive, net, settings, samples, count, masks, best):
    """A look, what is recorded after it, and the outputs before and after."""
    moments = (jax.tree.map(lambda leaf: 2.0 * leaf, eqx.filter(net, eqx.is_inexact_array)), count)
    state = drive.start(net)
    state = eqx.tree_at(lambda s: (s.masks, s.best), state, (masks, best))
    after, moments, state = drive.look(net, moments, state, settings, samples, count)
    recorded = drive.recorded(after, state, settings, samples)
    return after, moments, state, recorded, (outputs(net, samples), outputs(after, samples))


def looked(drive=DRIVE, *, kind="network", size=4.0, count=0, best=0.0, known=False, **changes):
    net, masks = network(size, kind, known=known), (np.zeros(UNITS, np.float32),)
    given = numbers(**changes), places(known=known), np.asarray(count), masks, np.float32([best])
    found = program(drive, net, *given)
    return net, *jax.tree.map(lambda leaf: np.asarray(leaf) if eqx.is_array(leaf) else leaf, found)


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
    drive = replace(DRIVE, custom=lambda active, _: jnp.arange(active.shape[1], dtype=active.dtype))
    order, worth = worth_of(*layer, 4.0, drive)
    assert order.tolist() == [3, 2, 1, 0, *range(4, UNITS)]
    assert worth.tolist()[:6] == [0, 3, 5, 6, 6, 10]


# Pull, pace, cadence.


@eqx.filter_jit
def aimed(drive, size, worth, price):
    return drive.best_size(size, worth, price)


@eqx.filter_jit
def stepped(net, best, task, drives, settings, drive=DRIVE):
    """The gradient of so much by the task and so many times the weights by the drive, and the update by it."""
    own = eqx.filter(net, eqx.is_inexact_array)
    held = jax.tree.map(lambda leaf: drives * leaf, own)
    state = eqx.tree_at(lambda s: (s.best, s.gradient), DRIVE.start(net), (best, held))
    gradient = drive.added(jax.tree.map(lambda leaf: task * jnp.ones_like(leaf), own), net, state)
    return gradient, drive.paced(own, gradient, settings)


def step(net, *, best, task=0.0, drives=0.0, drive=DRIVE, **changes):
    return stepped(net, np.float32([best]), np.float32(task), np.float32(drives), numbers(**changes), drive)


@both
@pytest.mark.parametrize(
    ("size", "expected"), [(0.0, -1.0), (2.0, -1.0), (3.0, 0.0), (2.6, -0.4), (3.25, 0.25), (9.0, 1.0)]
)
def test_the_pull_is_towards_the_best_number_of_units(kind, size, expected):
    worth = np.float32([0.0, 0.1, 0.1, 0.6, 0.61, 0.62, 0.62, 0.62, 0.62, 0.62, 0.62])
    best = aimed(replace(DRIVE, look_ahead=4), np.float32(size), worth, np.float32(0.05))
    assert best == 3.0
    net = network(size, kind)
    gradient, updates = step(net, best=best)
    np.testing.assert_allclose(gradient.controller.weight, [expected], atol=1e-6)
    np.testing.assert_allclose(updates.controller.weight, [-0.1 * expected], atol=1e-7)
    for own, optimisers in zip(parts(updates), parts(net), strict=True):
        np.testing.assert_array_equal(own.weight, optimisers.weight)


def test_look_ahead_sees_what_pays_only_together():
    given = np.float32(0.0), np.float32([0.0, 0.0, 0.0, 1.0] + [0.0] * 7), np.float32(0.1)
    assert aimed(replace(DRIVE, look_ahead=1), *given) == 0
    assert aimed(replace(DRIVE, look_ahead=3), *given) == 3


@both
def test_the_task_s_gradient_is_added_to_the_drive_s_and_cut_to_the_rate(kind):
    net = network(2.0, kind)
    for task, moved in ((0.5, -0.1), (-2.75, 0.025), (-40.0, 0.1)):
        gradient, updates = step(net, best=1.5, task=task, drives=1.0)
        np.testing.assert_allclose(gradient.controller.weight, [task + 2.0 + 0.5], rtol=1e-6)
        for total, own in zip(parts(gradient), parts(net), strict=True):
            np.testing.assert_allclose(total.weight, task + own.weight, rtol=1e-6)
        np.testing.assert_allclose(updates.controller.weight, [moved], rtol=1e-6)


@both
def test_no_gradient_however_large_moves_a_size_by_more_than_the_rate(kind):
    for task in (13.3, 1e6, -1e6):
        _, updates = step(network(2.0, kind), best=0.5, task=task, size_rate=0.05)
        np.testing.assert_allclose(updates.controller.weight, [-0.05 * np.sign(task)], rtol=1e-6)


@both
def test_a_size_rests_at_just_its_aim_once_it_is_there_and_looks_are_over(kind):
    @eqx.filter_jit
    def of(net, best, count):
        return DRIVE.settled(net, eqx.tree_at(lambda s: s.best, DRIVE.start(net), best), count)

    net = network(3.5, kind)
    for best, is_near in (
        (3.5 + 0.9 * SETTLED, True),
        (3.5 - 0.9 * SETTLED, True),
        (3.5 + 1.1 * SETTLED, False),
    ):
        for count, is_over in ((0, False), (599, False), (600, True), (1_000, True)):
            settled = of(net, np.float32([best]), jnp.asarray(count))
            expected = np.float32(best if is_near and is_over else 3.5)
            np.testing.assert_array_equal(settled.controller.weight, [expected])
    np.testing.assert_array_equal(parts(settled)[0].weight, parts(net)[0].weight)


@both
def test_by_held_out_samples_neither_the_task_nor_a_term_holds_a_size_against_the_pull(kind):
    drive = replace(DRIVE, criterion="held-out")
    gradient, updates = step(network(2.0, kind), best=1.5, task=-40.0, drives=1.0, drive=drive)
    np.testing.assert_allclose(gradient.controller.weight, [0.5], rtol=1e-6)
    np.testing.assert_allclose(updates.controller.weight, [-0.05], rtol=1e-6)
    for total, own in zip(parts(gradient), parts(network(2.0, kind)), strict=True):
        np.testing.assert_allclose(total.weight, -40.0 + own.weight, rtol=1e-6)


def test_looks_are_at_the_cadence_and_end():
    counts = np.array([0, 1, 24, 25, 575, 600, 625, 626], np.int32)
    due = [np.asarray(jax.jit(jax.vmap(drive.is_due))(counts)).tolist() for drive in (DRIVE, TERMS)]
    assert due[0] == [True, False, False, True, True, False, False, False]
    assert due[1] == [True, False, False, True, True, True, True, False]
    assert [DRIVE.is_due(int(count)) for count in counts] == due[0]


def test_the_sight_by_hand():
    sizes, best, rate = np.array([[2.5], [7.0]]), np.array([[4.0], [1.0]]), np.array([[0.1], [0.2]])
    ahead = DRIVE.look_ahead + 1
    assert DRIVE.sight(sizes, best, rate, 100, 120).tolist() == [[5.0 + ahead], [11.0 + ahead]]
    assert DRIVE.sight(sizes, best, rate, 600, 620).tolist() == [[4.0], [7.0]]  # nothing is looked at any more


# Looks.


@both
def test_a_look_changes_the_order_and_not_the_function(kind):
    net, after, (moments, count), state, _, (before, same) = looked(kind=kind, size=6.0)
    np.testing.assert_allclose(same, before, rtol=1e-5, atol=1e-6)
    (hidden, readout), (own, out) = parts(after), parts(net)
    order = [int(np.flatnonzero(own.bias == bias)[0]) for bias in hidden.bias]
    assert order != list(range(UNITS))
    assert order[6:] == list(range(6, UNITS))
    np.testing.assert_array_equal(hidden.weight, own.weight[order])
    np.testing.assert_array_equal(readout.weight, out.weight[:, order])
    for moment, layer in zip(parts(moments), parts(after), strict=True):
        np.testing.assert_array_equal(moment.weight, 2 * layer.weight)
    assert count == 0
    np.testing.assert_array_equal(state.masks[0], np.arange(UNITS) < 6)


def test_a_look_is_the_same_at_both_kinds_of_model():
    for count in (0, 150, 300):
        (first, own), (second, others) = (looked(kind=kind, size=3.4, count=count)[1:4:2] for kind in KINDS)
        np.testing.assert_array_equal(own.best, others.best)
        np.testing.assert_allclose(own.prices, others.prices, rtol=1e-6)
        np.testing.assert_allclose(own.masks, others.masks, rtol=1e-6)
        np.testing.assert_array_equal(parts(first)[0].weight, parts(second)[0].weight)
        for one, two in zip(parts(own.gradient), parts(others.gradient), strict=True):
            np.testing.assert_allclose(one.weight, two.weight, rtol=1e-4, atol=1e-7)
            np.testing.assert_allclose(one.bias, two.bias, rtol=1e-4, atol=1e-7)


@both
def test_a_look_puts_the_one_unit_that_says_all_first_and_is_drawn_to_it_alone(kind):
    _, after, (moments, _), state, *_ = looked(kind=kind, size=float(UNITS), known=True)
    np.testing.assert_array_equal(state.best, [1.0])
    np.testing.assert_array_equal(parts(after)[0].weight[0], FIRST)
    np.testing.assert_array_equal(parts(moments)[0].weight[0], 2 * FIRST)


@both
def test_units_beyond_the_size_keep_their_places(kind):
    net, after, _, state, *_ = looked(kind=kind, size=3.0, known=True)
    np.testing.assert_array_equal(parts(after)[0].weight[3:], parts(net)[0].weight[3:])
    assert state.best[0] == 6.0  # within sight, and worth the five that come before it


@both
def test_a_unit_must_bring_its_price_and_that_of_its_parameters(kind):
    """Three effective inputs, a bias and one output: five parameters."""
    samples = places(known=True)
    gain = -0.5 * np.log(1 - np.corrcoef(np.tanh(samples.inputs[:, 0]), samples.targets[0])[0, 1] ** 2)
    for unit, parameter, best in (
        (9.0, 0.0, 0.0),
        (0.0, 9.0, 0.0),
        (0.9 * gain, 0.0, 1.0),
        (1.1 * gain, 0.0, 0.0),
        (0.0, 0.9 * gain / 5, 1.0),
        (0.0, 1.1 * gain / 5, 0.0),
    ):
        given = {"kind": kind, "size": float(UNITS), "price": unit, "parameter_price": parameter}
        state = looked(known=True, **given)[3]
        np.testing.assert_allclose(state.prices, [unit + 5 * parameter], rtol=1e-6)
        assert state.best[0] == best


@both
def test_births_train_only_the_makers_of_the_unborn_in_sight_and_fade(kind):
    """Nine from the frontier are in sight: the next, and eight that it may take with it."""
    gradients = [gradient_of(kind=kind, size=2.0, count=count) for count in (0, 150, 300)]
    (early, readout), (half, _), _ = map(parts, gradients)
    for leaf in (early.weight, early.bias[:, None]):
        assert (np.abs(leaf) > 0).all(axis=1).tolist() == [False] * 2 + [True] * 9 + [False]
        assert not np.any(leaf[[0, 1, 11]])
    np.testing.assert_allclose(half.weight, early.weight / 2, rtol=1e-4)
    rest = readout.weight, readout.bias, gradients[0].controller.weight, gradients[2]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(rest))


@both
def test_a_step_downhill_on_the_births_raises_what_units_in_sight_promise(kind):
    _, after, _, state, *_ = looked(kind=kind, size=2.0)
    samples, ahead = jax.tree.map(np.asarray, places()), np.arange(UNITS) < 11

    def promise(weight, bias):
        units = np.tanh(weight @ samples.inputs.T + bias[:, None])[ahead].astype(float)
        units = (units - units.mean(1, keepdims=True)) / np.sqrt(units.var(1, keepdims=True) + 1e-6)
        target = (samples.targets - samples.targets.mean()) / samples.targets.std()
        cross = units @ target.T / SAMPLES
        covariance = units @ units.T / SAMPLES + 1e-3 * np.eye(len(units))
        return -0.5 * np.log(1.01 - cross.T @ np.linalg.solve(covariance, cross)).item()

    here, slope = parts(after)[0], parts(state.gradient)[0]
    step, squares = 1e-2, np.sum(slope.weight**2) + np.sum(slope.bias**2)
    moved = promise(here.weight - step * slope.weight, here.bias - step * slope.bias)
    np.testing.assert_allclose(moved - promise(here.weight, here.bias), step * squares / 0.01, rtol=0.1)


@both
def test_the_prior_draws_the_unborn_of_a_network_towards_zero_while_births_last(kind):
    """`fit` puts none on the weights of a grown model."""
    net, after, _, with_prior, *_ = looked(kind=kind, prior=0.5)
    added = parts(with_prior.gradient)[0].weight - parts(gradient_of(kind=kind))[0].weight
    expected = 0.01 * 0.5 * parts(after)[0].weight[4:] * (kind == "network")
    np.testing.assert_allclose(added[4:], expected, rtol=1e-3, atol=1e-7)
    assert np.all(added[:4] == 0)
    assert np.abs(parts(net)[0].weight).max() < 1  # so the prior's variance is one


@both
def test_a_settled_size_is_not_pulled_and_not_reordered(kind):
    net, after, _, live, *_ = looked(kind=kind, count=575, best=9.0)
    _, settled_net, _, settled, *_ = looked(kind=kind, count=600, best=9.0)
    assert live.best[0] != 9
    assert settled.best[0] == 9
    np.testing.assert_array_equal(parts(settled_net)[0].bias, parts(net)[0].bias)
    assert not np.array_equal(parts(after)[0].bias, parts(net)[0].bias)


@both
def test_a_budget_moves_the_price_and_sets_the_size(kind):
    """Parameters are 5 a unit, and one bias; a budget larger than the network's 61 keeps all of it."""
    states = [looked(kind=kind, size=6.0, budget=budget)[3] for budget in (11, 41, 1_000, None)]
    assert np.sign([state.log_price for state in states]).tolist() == [1, -1, -1, 0]
    assert [float(state.best[0]) for state in states[:3]] == [2.0, 8.0, UNITS]


@both
def test_the_price_goes_from_its_start_to_its_value_by_the_last_look(kind):
    states = [looked(kind=kind, count=count, price=0.1, price_start=0.01)[3] for count in (0, 300, 575)]
    prices = [float(state.prices[0]) for state in states]
    np.testing.assert_allclose(prices, 0.1 * np.array([0.01, 0.1, 0.01 ** (25 / 600)]), rtol=1e-4)
    assert states[0].best[0] > states[2].best[0]
    np.testing.assert_allclose(looked(kind=kind)[3].prices, [0.02], rtol=1e-6)


@both
def test_sizes_that_rest_from_the_first_step_have_finite_prices_and_stay(kind):
    settings = replace(SETTINGS, settle=0.0, birth_end=0.0)
    drive = InformationDrive.of(settings, steps=1_000, is_classes=False, custom=None)
    assert (drive.until, drive.is_due(0)) == (0, False)
    net, after, _, state, (_, recorded), _ = looked(drive, kind=kind, best=2.0, price_start=0.01)
    given = jax.tree.leaves((state, recorded))
    assert all(np.isfinite(leaf).all() for leaf in given)
    assert 0.0 < state.prices[0] <= 0.02
    assert state.best[0] == 2.0
    np.testing.assert_array_equal(parts(after)[0].weight, parts(net)[0].weight)


@both
@pytest.mark.parametrize(("name", "sign"), [("importance", -1), ("redundancy", 1), ("structure", 1)])
def test_terms_reach_the_masks_and_are_off_at_zero(kind, name, sign):
    off, on = (gradient_of(TERMS, kind=kind, size=4.5, **{name: weight}) for weight in (0.0, 0.3))
    assert sign * on.controller.weight[0] > 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(off))
    is_moved = np.any(parts(on)[0].weight[:4])  # features are trained as well, by all that they are in
    assert is_moved == (name != "structure")


def test_psi_multiplies_the_gradient_of_importance_and_no_other():
    def pull(**settings):
        return float(gradient_of(TERMS, size=4.5, **settings).controller.weight[0])

    np.testing.assert_allclose(pull(importance=0.3, psi=1.2), 1.2 * pull(importance=0.3), rtol=1e-5)
    assert pull(structure=0.3, psi=1.2) == pull(structure=0.3)


@both
def test_what_is_recorded_is_the_terms_and_what_units_cost(kind):
    """Without terms of the objective it is the cost alone, and the sum, which is descended, is zero."""
    given = {"kind": kind, "size": 3.4}
    (sum_, loud), (nothing, quiet) = (looked(drive, importance=0.5, **given)[4] for drive in (TERMS, DRIVE))
    for found in (loud, quiet):
        assert {*found} == {"importance_term", "redundancy_term", "structure_term", "price_term"}
        np.testing.assert_allclose(found["price_term"], [0.02 * 3.4], rtol=1e-5)
    assert loud["importance_term"][0] < 0
    twice = looked(TERMS, importance=1.0, **given)[4][1]["importance_term"]
    np.testing.assert_allclose(twice, 2 * loud["importance_term"], rtol=1e-5)
    np.testing.assert_allclose(sum_, loud["importance_term"][0], rtol=1e-6)
    assert nothing == quiet["importance_term"][0] == loud["redundancy_term"][0] == 0


@both
def test_the_state_begins_without_a_gradient_at_its_own_size(kind):
    net = network(2.25, kind)
    state = eqx.filter_jit(DRIVE.start)(net)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.gradient))
    np.testing.assert_array_equal(state.best, net.controller.weight)
    assert (float(state.log_price), float(state.prices[0]), state.depth) == (0.0, 0.0, None)


@both
def test_everything_that_holds_a_sized_model_is_reordered(kind):
    net, order = network(4.0, kind), np.array([1, 0, *range(2, UNITS)])
    tree = {"moments": [eqx.filter(net, eqx.is_inexact_array)], "count": jnp.asarray(3)}
    moved = eqx.filter_jit(lambda tree, order: reorder(tree, (order,), jnp.zeros((), int)))(tree, order)
    (hidden, readout), (own, out) = parts(moved["moments"][0]), parts(net)
    np.testing.assert_array_equal(hidden.weight, own.weight[order])
    np.testing.assert_array_equal(readout.weight, out.weight[:, order])
    assert moved["count"] == 3


# Settings.


def test_settings_reach_the_drive():
    settings = InformationConfig(every=7, look_ahead=3, settle=0.5, birth=0.0, reorder=False, structure=0.1)
    drive = InformationDrive.of(settings, steps=11, is_classes=True, custom=None)
    assert (drive.every, drive.look_ahead, drive.until, drive.birth_until) == (7, 3, 6, 0)
    assert (drive.reorder, drive.is_classes, drive.terms, drive.features) == (False, True, True, False)
    assert (DRIVE.until, DRIVE.birth_until, DRIVE.terms) == (600, 300, False)
    judged = InformationConfig(criterion="held-out")
    own = InformationDrive.of(judged, steps=11, is_classes=True, custom=None, has_members=True)
    assert (own.criterion, own.has_members) == ("held-out", True)
    assert own.every == 1


def test_settings_and_prices_reach_the_numbers_of_every_run():
    settings = InformationConfig(price_start=0.1, budget=50, birth=0.3, size_rate=0.2, psi="generation")
    settings = replace(settings, importance=0.4, redundancy=0.5, structure=0.6)
    found = DriveHypers.of(settings, [Prices(0.1, 0.2, 3.0), Prices(0.4, 0.5, 6.0)], prior=0.7, steps=1000)
    expected = {"price": [0.1, 0.4], "parameter_price": [0.2, 0.5], "inputs": [3.0, 6.0]}
    expected |= {"log_start": [np.log(0.1)] * 2, "budget": [50] * 2, "birth": [0.3] * 2, "prior": [0.7] * 2}
    expected |= {"rate": [0.2] * 2, "importance": [0.4] * 2, "psi": [0.8] * 2}
    expected |= {"redundancy": [0.5] * 2, "structure": [0.6] * 2}
    expected |= {"errors": [0.5] * 2, "resolution": [1e-8] * 2}
    assert {*expected} == {*vars(found)}
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-6, err_msg=name)
    plain = DriveHypers.of(InformationConfig(psi=1.3), [Prices(0.0, 0.0, 1.0)], prior=0.0, steps=1000)
    np.testing.assert_allclose([plain.log_start[0], plain.budget[0], plain.psi[0]], [0, 0, 1.3], rtol=1e-6)
    judged = InformationConfig(criterion="held-out", errors=0.7, resolution=1e-3)
    own = DriveHypers.of(judged, [Prices(0.0, 0.0, 1.0)], prior=0.0, steps=1000)
    np.testing.assert_allclose([own.errors[0], own.resolution[0], own.rate[0]], [0.7, 1e-3, 0.25], rtol=1e-6)
