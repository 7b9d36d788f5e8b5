"""Read-outs: those of members against least squares, what is recorded of them, and what they must not see."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.experiments import arms
from n3.experiments.ensembles import with_best_kept, with_last_record
from n3.experiments.run import load_data
from n3.nn.members import mean_outputs
from n3.nn.sized import run_of
from n3.training import readouts
from n3.training.history import HeldOutLosses
from n3.training.sweep import sweep
from trials import tiny

SEEDS, MEMBERS, SAMPLES = (5, 3), 3, 12
EXPERIMENT = tiny(training={"members": MEMBERS, "readout": "solved"}, arms=("static",), seeds=SEEDS).resolved()
DATA = load_data(EXPERIMENT)
RECIPE = arms.recipe_of(EXPERIMENT, "static", DATA[0])
HYPERS = arms.hypers_of(EXPERIMENT, "static", data=DATA, active=None)
PROBLEM = arms.stack(DATA, members=MEMBERS, seeds=SEEDS)
FOLDS = jnp.asarray(PROBLEM.folds)


def train(problem, recipe=RECIPE):
    keys = jax.vmap(jr.key)(jnp.array(SEEDS))
    return sweep(recipe, HYPERS, problem, keys=keys, stops=arms.stops_of(EXPERIMENT))


def with_layer(swept, **values):
    """The runs with other numbers in their hidden layer."""
    for name, value in values.items():
        where = lambda state, name=name: getattr(state.net.layers[0], name)  # noqa: E731
        swept = replace(swept, state=eqx.tree_at(where, swept.state, value))
    return swept


def steeper(swept):
    """The runs with steep hidden units side by side: features that a float32 read-out resolves."""
    weight, bias = (
        jnp.full((2, MEMBERS, 4, 1), 3.0),
        jnp.tile(jnp.array([-2.0, -0.7, 0.7, 2.0]), (2, MEMBERS, 1)),
    )
    return with_layer(swept, weight=weight, bias=bias)


@pytest.fixture(scope="module")
def trained():
    return train(PROBLEM)


def with_solved_readouts(recipe, swept, problem):
    nets, strengths = readouts.with_solved_readouts(recipe, swept.state.net, problem)
    return replace(swept, state=eqx.tree_at(lambda own: own.net, swept.state, nets)), strengths


def kept(row, member):
    return np.asarray(FOLDS[row]) != member


def test_without_a_penalty_they_are_least_squares_of_what_each_member_trains_on(trained, monkeypatch):
    monkeypatch.setattr(readouts, "STRENGTHS", (0.0,))
    found, strengths = with_solved_readouts(RECIPE, steeper(trained), PROBLEM)
    assert strengths.tolist() == [0.0, 0.0]
    for row in range(2):
        inputs, targets = (np.asarray(own[row]) for own in (PROBLEM.train.inputs, PROBLEM.train.targets))
        for member in range(MEMBERS):
            net, own = run_of(run_of(found.state.net, row), member), kept(row, member)
            units = np.asarray(net.features(jnp.asarray(inputs)), np.float64).T
            design = np.concatenate([units, np.ones((SAMPLES, 1))], axis=1)
            best = np.linalg.lstsq(design[own], targets[0, own].astype(np.float64), rcond=None)[0]
            fitted = np.asarray(net.batch(jnp.asarray(inputs))[0])
            np.testing.assert_allclose(fitted[own], (design @ best)[own], rtol=1e-3, atol=1e-4)


def test_samples_of_weight_count_in_readouts_and_in_what_is_held_out_by_it(trained, monkeypatch):
    monkeypatch.setattr(readouts, "STRENGTHS", (0.0,))
    weights = np.arange(1.0, SAMPLES + 1)
    shares = jnp.asarray(np.broadcast_to(weights / weights.sum(), FOLDS.shape), jnp.float32)
    problem = eqx.tree_at(lambda own: own.train.shares, PROBLEM, shares)
    found, _ = with_solved_readouts(RECIPE, steeper(trained), problem)
    inputs, targets = (np.asarray(own[0]) for own in (problem.train.inputs, problem.train.targets))
    lost = np.zeros(SAMPLES)
    for member in range(MEMBERS):
        net, own = run_of(run_of(found.state.net, 0), member), kept(0, member)
        units = np.asarray(net.features(jnp.asarray(inputs)), np.float64).T
        root = np.sqrt(weights)[:, None]
        design = np.concatenate([units, np.ones((SAMPLES, 1))], axis=1) * root
        best = np.linalg.lstsq(design[own], (root[:, 0] * targets[0])[own].astype(np.float64), rcond=None)[0]
        fitted = np.asarray(net.batch(jnp.asarray(inputs))[0])
        np.testing.assert_allclose(fitted[own], (design / root @ best)[own], rtol=1e-3, atol=1e-4)
        lost[~own] = (fitted - targets[0])[~own] ** 2
    record = with_last_record(RECIPE, found, HYPERS, problem, 1).records
    mean = np.average(lost, weights=weights)
    number = weights.sum() ** 2 / np.sum(weights**2)
    error = np.sqrt(np.average((lost - mean) ** 2, weights=weights) / (number - 1))
    np.testing.assert_allclose(record.held_out_loss[0, -1], mean, rtol=1e-4)
    np.testing.assert_allclose(record.held_out_error[0, -1], error, rtol=1e-4)
    same = HeldOutLosses(lost, weights)
    np.testing.assert_allclose([same.mean(), same.error()], [mean, error], rtol=1e-12)


def test_the_last_record_is_of_the_solved_readouts_and_no_other(trained):
    found, strengths = with_solved_readouts(RECIPE, steeper(trained), PROBLEM)
    found = with_last_record(RECIPE, found, HYPERS, PROBLEM, 8)
    assert set(strengths) <= set(readouts.STRENGTHS)
    np.testing.assert_array_equal(found.records.test_loss[:, :-1], trained.records.test_loss[:, :-1])
    for row in range(2):
        nets, test = run_of(found.state.net, row), run_of(PROBLEM.test, row)
        outputs = jax.vmap(lambda net, x=test.inputs: net.batch(x))(nets)
        loss = float(jnp.mean((mean_outputs(outputs, is_classes=False) - test.targets) ** 2))
        np.testing.assert_allclose(found.records.test_loss[row, -1], loss, rtol=1e-4)
        assert found.records.test_loss[row, -1] != trained.records.test_loss[row, -1]


def test_a_run_that_diverged_stays_as_it_is(trained):
    bias = trained.state.net.layers[0].bias
    broken = with_layer(trained, bias=bias.at[0].set(jnp.nan))
    found, strengths = with_solved_readouts(RECIPE, broken, PROBLEM)
    assert np.isnan(strengths).tolist() == [True, False]
    before, after = (own.state.net.readout.weight for own in (broken, found))
    np.testing.assert_array_equal(after[0], before[0])
    assert not np.array_equal(after[1], before[1])


@pytest.mark.parametrize("batch", [None, 4])
def test_a_member_does_not_depend_on_the_targets_that_it_holds_out(batch, monkeypatch):
    monkeypatch.setattr(readouts, "STRENGTHS", (1e-3,))  # which all members choose together
    poison = jnp.where(FOLDS[:, None] == 0, 1e3, PROBLEM.train.targets)
    poisoned, recipe = eqx.tree_at(lambda own: own.train.targets, PROBLEM, poison), replace(RECIPE, batch=batch)
    every = (with_solved_readouts(recipe, train(own, recipe), own)[0] for own in (PROBLEM, poisoned))
    clean, other = (own.state.net for own in every)
    for row in range(2):
        one, two = run_of(clean, row), run_of(other, row)
        assert eqx.tree_equal(run_of(one, 0), run_of(two, 0))
        assert not eqx.tree_equal(run_of(one, 1), run_of(two, 1))


def test_members_are_kept_where_they_lost_least_together(trained):
    kept, last = trained.state.kept, trained.records.held_out_loss[:, -1]
    assert np.asarray(kept.loss).shape == (2, MEMBERS)
    assert np.ptp(np.asarray(kept.loss), axis=1).max() == 0.0  # of all members together
    worse, better = (
        replace(
            trained, state=eqx.tree_at(lambda s: s.kept.loss, trained.state, jnp.tile(own[:, None], MEMBERS))
        )
        for own in (jnp.asarray(last) + 1.0, jnp.asarray(last) - 1.0)
    )
    assert eqx.tree_equal(with_best_kept(worse).state.net, trained.state.net)
    assert eqx.tree_equal(with_best_kept(better).state.net, kept.net)
    lost = replace(
        better, records=eqx.tree_at(lambda r: r.held_out_loss, trained.records, np.full((2, 3), np.nan))
    )
    assert eqx.tree_equal(with_best_kept(lost).state.net, kept.net)


def test_what_is_kept_is_the_least_of_the_moments_at_the_cadence():
    recipe = replace(RECIPE, keep_every=2)
    keys = jax.vmap(jr.key)(jnp.array(SEEDS))
    run = sweep(recipe, HYPERS, PROBLEM, keys=keys, stops=np.arange(7, dtype=np.int32))
    losses = run.records.held_out_loss[:, [0, 2, 4]]  # before the steps after 0, 2 and 4
    np.testing.assert_allclose(np.asarray(run.state.kept.loss)[:, 0], losses.min(axis=1), rtol=1e-6)
