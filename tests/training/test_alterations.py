"""Alterations: what comes and goes around a run changes no output, and its moments and drive come along."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.config.experiment import StructureConfig
from n3.information.sizing import InformationDrive
from n3.training import restructure
from n3.training.step import Recipe, TrainState
from networks import CLOSE, network, reference, task, trained

KEY = jr.key(8)
CONFIG = StructureConfig(structure_every=5, expand=2)
DRIVE = InformationDrive(is_classes=False, every=10)


def state(kind="information", capacity=(6,), sizes=3.4, name="adam"):
    """A run of some steps, with a drive that has looked once where the kind has one."""
    net, moments = trained(name, network(kind, capacity, sizes), task())
    drive = None
    if kind == "information":
        first = DRIVE.start(net)
        looked = jax.tree.map(lambda leaf: leaf + 0.25, (first.gradient, first.best))
        drive = eqx.tree_at(lambda d: (d.gradient, d.best, d.log_price), first, (*looked, jnp.asarray(0.7)))
    return TrainState(net, moments, jnp.arange(0), jr.key(1), jnp.asarray(-1), drive)


def recipe(kind="information", capacity=(6,)):
    drive = DRIVE if kind == "information" else None
    return Recipe(in_size=2, out_size=3, capacity=capacity, controller=kind, drive=drive)


def same(one, other):
    """Whether two runs are equal bit for bit, but for their keys."""
    one, other = (eqx.tree_at(lambda s: s.key, own, None) for own in (one, other))
    equal = map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other))
    return jax.tree.structure(one) == jax.tree.structure(other) and all(equal)


@pytest.mark.parametrize("kind", ["information", "auxiliary", "layerwise auxiliary"])
@pytest.mark.parametrize("capacity", [(4, 4), (16, 16), (4, 16)])
def test_another_capacity_is_the_same_function(kind, capacity):
    own = state(kind, (6, 6))
    new = restructure.with_capacity(own, recipe(kind, (6, 6)), capacity, is_changed=False, key=KEY)
    assert new.net.controller.capacity == capacity
    np.testing.assert_allclose(reference(new.net), reference(own.net), **CLOSE)
    first = new.moments[0].mu.layers[0].weight
    np.testing.assert_array_equal(first[:4], own.moments[0].mu.layers[0].weight[:4])
    assert not np.any(first[6:])
    if own.drive is not None:
        assert np.array_equal(new.drive.best, own.drive.best)
        assert new.drive.gradient.controller.capacity == capacity
        assert [mask.size for mask in new.drive.masks] == list(capacity)
        np.testing.assert_array_equal(new.drive.masks[0][:4], own.drive.masks[0][:4])


def test_the_same_capacity_is_the_same_run_bit_for_bit():
    own = state()
    new = restructure.with_capacity(own, recipe(), (6,), is_changed=False, key=KEY)
    assert same(new, own)


def test_the_drive_of_a_changed_run_begins_anew_but_for_the_price():
    new = restructure.with_capacity(state(), recipe(), (8,), is_changed=True, key=KEY)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(new.drive.gradient))
    assert np.array_equal(new.drive.best, new.net.controller.weight)
    assert float(new.drive.log_price) == pytest.approx(0.7)


def test_units_that_meet_the_criterion_go_with_their_reason():
    own = state()
    found = restructure.pruned(own, task(), "participation < 0.5", is_classes=False)
    assert found.units == (-1,)
    assert found.reason == f"unit 3 of layer 0: participation {float(own.net.participation()[0][3]):.3g} < 0.5"
    assert found.state.net.controller.capacity == (5,)
    assert found.state.moments[0].mu.controller.capacity == (5,)


@pytest.mark.parametrize(
    ("criterion", "reason"),
    [("participation > 2", "no unit with participation > 2"), ("entropy < 99", "would empty hidden layer 0")],
)
def test_nothing_is_pruned_without_need_or_where_nothing_would_be_left(criterion, reason):
    found = restructure.pruned(state(), task(), criterion, is_classes=False)
    assert found.state is None
    assert found.units == (0,)
    assert reason in found.reason


@pytest.mark.parametrize("method", ["zero", "split", "mutate"])
def test_an_expansion_takes_part_at_once_and_changes_little(method):
    own, config = state(), StructureConfig(expand=2, expand_method=method)
    found = restructure.expanded(own, config, (6,), key=KEY)
    assert found.units == (2,)
    assert found.reason == f"added by {method}"
    size, before = (float(net.controller.sizes()[0]) for net in (found.state.net, own.net))
    assert size == pytest.approx(before + 2, rel=1e-6)
    close = {"atol": 0.2} if method == "mutate" else CLOSE
    np.testing.assert_allclose(reference(found.state.net), reference(own.net), **close)


@pytest.mark.parametrize(
    ("sizes", "config", "bound", "units", "reason"),
    [
        (4.5, CONFIG, 6, (1,), "added by zero"),
        (5.5, CONFIG, 6, (0,), "no room to expand"),
        (2.0, StructureConfig(expand=0), 6, (0,), "never expands"),
        (0.5, StructureConfig(expand_method="split"), 6, (0,), "not expanded: `units` cannot be split"),
    ],
)
def test_expansions_stay_within_the_capacity(sizes, config, bound, units, reason):
    own = state()
    own = eqx.tree_at(lambda s: s.net.controller.weight, own, jnp.array([sizes]))
    found = restructure.expanded(own, config, (bound,), key=KEY)
    assert (found.units, found.state is not None) == (units, units != (0,))
    assert found.reason.startswith(reason)


def test_runs_are_taken_apart_and_put_together():
    own = [state(sizes=size) for size in (1.5, 2.5, 3.5)]
    back = restructure.unstacked(restructure.stacked(own), 3)
    for one, other in zip(own, back, strict=True):
        assert same(one, other)


@pytest.mark.parametrize("capacity", [4, 8])
def test_a_run_whose_size_is_lost_takes_the_shape_of_the_others(capacity):
    lost = eqx.tree_at(lambda s: s.net.controller.weight, state(), jnp.array([jnp.nan]))
    assert not restructure.has_finite_sizes(lost)
    like = restructure.with_capacity(state(), recipe(), (capacity,), is_changed=False, key=KEY)
    made = restructure.shaped_as(lost, like)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, like)
    assert np.isnan(made.net.controller.weight).all()
