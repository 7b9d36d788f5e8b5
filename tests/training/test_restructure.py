"""Restructure: what comes and goes around a run changes no output, and a whole run by a script of losses."""

import importlib
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import n3
from n3.config.experiment import (
    Experiment,
    InformationConfig,
    NetworkConfig,
    RunConfig,
    StructureConfig,
    TaskConfig,
    TrainingConfig,
)
from n3.experiments import arms
from n3.experiments.memory import describe
from n3.experiments.run import load_splits, run
from n3.information.measures import Pool
from n3.information.sizing import InformationDrive
from n3.training import restructure
from n3.training.step import Recipe, TrainState, advance
from n3.training.sweep import sweep
from networks import CLOSE, moments, network, reference, task

KEY = jr.key(8)
CONFIG = StructureConfig(structure_every=5, expand=2)
DRIVE = InformationDrive(is_classes=False, every=10)


def state(kind="information", capacity=(6,), sizes=3.4, name="adam"):
    """A run of some steps, with a drive that has looked once where the kind has one."""
    net, drive = network(kind, capacity, sizes), None
    if kind == "information":
        first = DRIVE.start(net)
        looked = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + 0.25), (first.gradient, first.best))
        price = jnp.asarray(np.float32(0.7))
        drive = eqx.tree_at(lambda d: (d.gradient, d.best, d.log_price), first, (*looked, price))
    empty, undiverged = np.zeros(0, np.int32), np.int32(-1)
    return TrainState(net, moments(name, net), jnp.asarray(empty), jr.key(1), jnp.asarray(undiverged), drive)


def recipe(kind="information", capacity=(6,)):
    drive = DRIVE if kind == "information" else None
    return Recipe(in_size=2, out_size=3, capacity=capacity, controller=kind, drive=drive)


def same(one, other):
    """Whether two runs are equal bit for bit, but for their keys."""
    one, other = (eqx.tree_at(lambda s: s.key, own, None) for own in (one, other))
    equal = map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other))
    return jax.tree.structure(one) == jax.tree.structure(other) and all(equal)


@pytest.mark.parametrize(
    ("kind", "capacity"),
    [
        *(("information", capacity) for capacity in [(4, 4), (8, 8), (4, 8)]),
        ("auxiliary", (4, 8)),
        ("layerwise auxiliary", (4, 8)),
    ],
)
def test_another_capacity_is_the_same_function(kind, capacity):
    own = state(kind, (6, 6))
    new = restructure.with_capacity(own, recipe(kind, (6, 6)).drive, capacity, is_changed=False, key=KEY)
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
    new = restructure.with_capacity(own, DRIVE, (6,), is_changed=False, key=KEY)
    assert same(new, own)


def test_the_drive_of_a_changed_run_begins_anew_but_for_the_price():
    new = restructure.with_capacity(state(), DRIVE, (8,), is_changed=True, key=KEY)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(new.drive.gradient))
    assert np.array_equal(new.drive.best, new.net.controller.weight)
    assert float(new.drive.log_price) == pytest.approx(0.7)


def test_units_that_meet_the_criterion_go_with_their_reason():
    own = state()
    found = restructure.pruned(
        own, Pool(task().inputs.T, task().targets), "participation < 0.5", is_classes=False
    )
    assert found.units == (-1,)
    assert found.reason == f"unit 3 of layer 0: participation {float(own.net.participation()[0][3]):.3g} < 0.5"
    assert found.state.net.controller.capacity == (5,)
    assert found.state.moments[0].mu.controller.capacity == (5,)


@pytest.mark.parametrize(
    ("criterion", "reason"),
    [("participation > 2", "no unit with participation > 2"), ("entropy < 99", "would empty hidden layer 0")],
)
def test_nothing_is_pruned_without_need_or_where_nothing_would_be_left(criterion, reason):
    found = restructure.pruned(state(), Pool(task().inputs.T, task().targets), criterion, is_classes=False)
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
    own = eqx.tree_at(lambda s: s.net.controller.weight, own, jnp.asarray(np.float32([sizes])))
    found = restructure.expanded(own, config, (bound,), key=KEY)
    assert (found.units, found.state is not None) == (units, units != (0,))
    assert found.reason.startswith(reason)


@pytest.mark.parametrize("capacity", [4, 8])
def test_a_run_whose_size_is_lost_takes_the_shape_of_the_others(capacity):
    lost = eqx.tree_at(lambda s: s.net.controller.weight, state(), jnp.asarray(np.float32([np.nan])))
    assert not restructure.has_finite_sizes(lost)
    like = restructure.with_capacity(state(), DRIVE, (capacity,), is_changed=False, key=KEY)
    made = restructure.shaped_as(lost, like)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, like)
    assert np.isnan(made.net.controller.weight).all()


STEPS, EVERY, SEEDS, ONE = 80, 10, (3, 1, 8), jax.devices()[:1]
SCRIPT = np.array(
    [
        [1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0],  # pruned, undone, expanded, pruned in vain
        [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0],  # always better: left alone
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0],  # pruned, expanded, pruned, and that undone at the end
    ],
    np.float32,
)


def small(out="x", **changes):
    structure = {"structure_every": EVERY, "prune": "importance < 0.05", "expand": 4, "margin": 0.1, **changes}
    return Experiment(
        task=TaskConfig(task="line", samples=62, test_samples=20),
        network=NetworkConfig(method="information", capacity=(12,)),
        training=TrainingConfig(steps=STEPS, initial_size=6.0),
        information=InformationConfig(every=5, settle=0.2, birth=0.0, birth_end=0.1),
        structure=StructureConfig(**structure),
        run=RunConfig(arms=("growing",), seeds=SEEDS, records=4, out=str(out), name="a"),
    ).resolved()


@pytest.fixture(scope="module")
def seen():
    """What each stage began with and ended with, and the capacities for which `advance` was traced."""
    return {"starts": [], "ends": [], "traced": []}


@pytest.fixture(scope="module")
def record(tmp_path_factory, seen):
    looks = iter(SCRIPT.T)

    def watched(recipe, *arguments, start, **settings):
        seen["starts"].append(start and jax.device_get((start[1].net, start[1].moments)))
        made = sweep(recipe, *arguments, start=start, **settings)
        seen["ends"].append(jax.device_get((made.state.net, made.state.moments)))
        return made

    def traced(recipe, *arguments):
        seen["traced"].append((recipe.controller, recipe.capacity))
        return advance(recipe, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("n3.experiments.run"), "find_devices", lambda _: ONE)
        patch.setattr(restructure, "held_out_losses", lambda *_: next(looks))
        patch.setattr(restructure, "sweep", watched)
        patch.setattr(importlib.import_module("n3.training.sweep"), "advance", traced)
        return run(small(tmp_path_factory.mktemp("runs")), has_figures=False, quiet=True)


@pytest.fixture(scope="module")
def log(record):
    return json.loads((record.directory / "structure.json").read_text())


def of_seed(log, seed):
    return [own for own in log["decisions"] if own["seed"] == seed]


def row(run, place):
    return jax.tree.map(lambda leaf: leaf[place], run)


def test_every_run_follows_its_own_losses(log):
    actions = {seed: " ".join(own["action"] for own in of_seed(log, seed)) for seed in SEEDS}
    assert actions[3] == "wait prune rollback wait expand wait prune wait"
    assert actions[1] == " ".join(["wait"] * 8)
    assert actions[8] == "wait prune wait expand wait prune wait rollback"
    assert all(own["reason"] for own in log["decisions"])
    assert [own["step"] for own in of_seed(log, 8)] == list(range(10, 90, 10))
    pruned, undone = of_seed(log, 3)[1:3]
    assert (pruned["before"], pruned["after"], undone["before"], undone["after"]) == (1.0, 2.0, 2.0, 1.0)
    assert pruned["units"][0] < 0
    assert undone["units"] == [-pruned["units"][0]]
    assert "importance" in pruned["reason"]
    assert "100.0% above" in undone["reason"]


def test_what_is_undone_is_there_again_bit_for_bit(record, seen):
    before, after = row(seen["ends"][1], 0), row(seen["starts"][3], 0)
    pruned = row(seen["starts"][2], 0)
    assert not np.array_equal(pruned[0].controller.weight, before[0].controller.weight)
    assert np.array_equal(after[0].controller.weight, before[0].controller.weight)
    for own, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        both = tuple(map(slice, np.minimum(own.shape, other.shape)))  # all that takes part
        assert np.array_equal(own[both], other[both])


def test_programs_are_counted_and_bounded(record, log, seen):
    found = {capacity for controller, capacity in seen["traced"] if controller == "information"}
    attributes = record.results.attrs
    assert (
        found
        == {(8,), (12,)}
        == {tuple(own) for own in record.results.structure_capacity.sel(arm="growing").values}
    )
    assert attributes["structure_programs"] == 2 == log["programs"]["growing"]["used"]
    assert log["programs"]["growing"]["most"] == 2
    names = ("prune", "expand", "rollback")
    counts = [sum(own["action"] == name for own in log["decisions"]) for name in names]
    assert [attributes[f"structure_{name}"] for name in names] == counts
    assert min(counts) > 0


def test_the_results_hold_actions_and_capacity_at_every_look(record, log):
    results = n3.read(record.directory).results
    assert results.look.values.tolist() == list(range(10, 90, 10))
    codes = results.structure_action.attrs["codes"]
    assert codes == "0 wait, 1 prune, 2 expand, 3 rollback"
    named = [pair.split()[1] for pair in codes.split(", ")]
    for place, seed in enumerate(SEEDS):
        own = results.structure_action.sel(arm="growing").values[place]
        assert [named[code] for code in own] == [found["action"] for found in of_seed(log, seed)]


def test_the_networks_come_back_with_the_capacity_that_they_have(record):
    networks = n3.load(record.directory)["growing"]
    written = json.loads((record.directory / "models" / "growing.json").read_text())["capacity"]
    data, results = load_splits(record.experiment)[0], record.results
    for place, (net, one) in enumerate(zip(networks, data, strict=True)):
        assert list(net.controller.capacity) == written
        loss = np.mean((np.asarray(net.batch(jnp.asarray(one.test_inputs.T))) - one.test_targets.T) ** 2)
        final = results.isel(seed=place, step=-1).sel(arm="growing")
        np.testing.assert_allclose(loss, final.test_loss, rtol=1e-5)
        np.testing.assert_allclose(net.controller.sizes(), final["size"], rtol=1e-6)


def test_a_run_that_changes_nothing_is_the_run_of_one_sweep(record):
    experiment = record.experiment
    data = load_splits(experiment)[0]
    recipe, stops = arms.recipe_of(experiment, "growing", data[0]), arms.stops_of(experiment)
    hypers = arms.hypers_of(experiment, "growing", data=data, active=None)
    keys = jnp.stack([jr.key(seed) for seed in SEEDS])
    plain = sweep(recipe, hypers, arms.stack(data), keys=keys, stops=stops, devices=ONE)
    own = record.results.sel(arm="growing").isel(seed=1)
    np.testing.assert_allclose(own["size"], plain.records.size[1], rtol=1e-4)
    np.testing.assert_allclose(own.test_loss, plain.records.test_loss[1], rtol=1e-4)
    np.testing.assert_allclose(own.train_loss, plain.records.train_loss[1], rtol=1e-4)
    other = record.results.sel(arm="growing").isel(seed=2)
    assert not np.allclose(other["size"], plain.records.size[2], rtol=1e-2)


def test_every_arm_trains_without_the_samples_that_judge(record):
    data, held = load_splits(record.experiment)
    assert record.results.sizes["train_sample"] == len(data[0].train_inputs) == 50
    assert [len(one.test_inputs) for one in held] == [12] * 3


def test_describe_says_what_would_be_done():
    text = describe(small())
    assert "8 looks at growing: prune importance < 0.05, expand by 4 (zero); at most 2 programs an arm" in text
