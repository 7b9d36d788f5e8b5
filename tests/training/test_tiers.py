"""Tiers: what is cut comes back, and a run in tiers is the run that it would have been."""

import dataclasses
import importlib
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.information.sizing import DriveHypers, InformationDrive
from n3.nn.losses import LossWeights, Samples
from n3.training.step import Hypers, Problem, Recipe
from n3.training.sweep import narrowed, sweep, tier_of, widened
from networks import network

module = importlib.import_module("n3.training.sweep")
DRIVE = InformationDrive(is_classes=False, every=10, look_ahead=2, until=80, birth_until=50)
RECIPE = Recipe(in_size=1, out_size=1, capacity=(16,), controller="information", drive=DRIVE)
RUNS = 3


def hypers(**changes):
    each = jnp.ones(RUNS)
    names = (field.name for field in dataclasses.fields(DriveHypers))
    drive = dict.fromkeys(names, 0.0 * each) | {
        "price": 0.001 * each,
        "birth": 0.01 * each,
        "rate": 0.05 * each,
    }
    weights = LossWeights(0.0 * each, 0.0 * each)
    first = jnp.array([[0.5], [1.0], [4.0]])
    return Hypers(1e-2 * each, weights, first, each, each, 300.0 * each, DriveHypers(**drive | changes))


def problem():
    x = jr.uniform(jr.key(3), (RUNS, 1, 100), minval=-1.0, maxval=1.0)
    side = Samples(x, jnp.sin(6 * x), jnp.full((RUNS, 100), 0.01))
    return Problem(side, side, jnp.ones((RUNS, 1)))


def run(recipe=RECIPE, **changes):
    stops = np.array([0, 40, 90])
    return sweep(recipe, hypers(**changes), problem(), keys=jr.split(jr.key(0), RUNS), stops=stops)


@pytest.mark.parametrize(
    ("sight", "capacity", "tier"),
    [
        (3.0, (64,), (32,)),
        (32.0, (64,), (32,)),
        (33.0, (64,), (64,)),
        (99.0, (80,), (80,)),
        (40.0, (100, 8), (64, 8)),
    ],
)
def test_tiers_by_hand(sight, capacity, tier):
    assert tier_of(sight, capacity, least=32) == tier


def test_what_is_cut_comes_back_and_what_changed_meanwhile_stays():
    whole = {"weight": jr.normal(jr.key(0), (2, 5, 3)), "count": jnp.arange(2)}
    like = {
        "weight": jax.ShapeDtypeStruct((2, 2, 3), jnp.float32),
        "count": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    part = narrowed(whole, like)
    assert np.array_equal(part["weight"], whole["weight"][:, :2])
    back = widened({"weight": part["weight"] + 1.0, "count": part["count"] + 7}, whole)
    assert np.array_equal(back["weight"], whole["weight"].at[:, :2].add(1.0))
    assert np.array_equal(back["count"], whole["count"] + 7)


def test_what_a_layer_chooses_by_is_no_unit_and_is_never_cut():
    whole, like = (network("information", (units,), activation="choose:tanh,sin") for units in (3, 2))
    part = narrowed(whole, like)
    assert part.choice.logits is whole.choice.logits
    assert part.layers[0].weight.shape == (2, 2)
    back = widened(eqx.tree_at(lambda n: n.choice.logits, part, part.choice.logits + 1.0), whole)
    assert np.array_equal(back.choice.logits, whole.choice.logits + 1.0)
    assert np.array_equal(back.layers[0].weight, whole.layers[0].weight)


@pytest.fixture
def tiered(monkeypatch):
    """Tiers of 8 units and more, whatever the work; the capacities that were compiled, in their order."""
    compiled = []
    monkeypatch.setattr(module, "TIERED", 0.0)
    monkeypatch.setattr(module, "STRIDE", 10)
    monkeypatch.setattr(module, "LEAST_TIER", 8)
    monkeypatch.setattr(
        module,
        "narrowed",
        lambda *own, cut=narrowed: compiled.append(own[1].net.controller.capacity) or cut(*own),
    )
    return compiled


def test_a_run_in_tiers_is_the_run_at_full_capacity(tiered):
    in_tiers = run()
    assert tiered[0] == (8,)
    assert (16,) in tiered
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TIERED", np.inf)
        whole = run()
    assert float(whole.records.size.max()) > 5.0
    assert in_tiers.records.size.shape == whole.records.size.shape == (RUNS, 3, 1)
    np.testing.assert_allclose(in_tiers.records.size, whole.records.size, rtol=1e-3)
    np.testing.assert_allclose(in_tiers.records.test_loss, whole.records.test_loss, rtol=5e-3)
    assert jax.tree.map(jnp.shape, in_tiers.state) == jax.tree.map(jnp.shape, whole.state)
    untouched = whole.state.net.layers[0].weight[0, -1]
    assert np.array_equal(in_tiers.state.net.layers[0].weight[0, -1], untouched)


def test_a_run_that_diverges_holds_no_tier(tiered):
    swept = run(rate=jnp.array([0.05, jnp.nan, 0.05]), price=jnp.full(RUNS, 10.0))
    assert set(tiered) == {(8,)}
    assert np.isfinite(swept.records.test_loss[np.array([0, 2])]).all()


def test_a_users_importance_sees_every_unit(tiered):
    run(replace(RECIPE, drive=replace(DRIVE, custom=lambda active, targets: jnp.ones(active.shape[0]))))
    assert set(tiered) == {(16,)}
