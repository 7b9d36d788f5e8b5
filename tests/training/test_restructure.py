"""Stages: a whole run by a script of losses, what each decision leaves, and what no decision changes."""

import importlib
import json

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
from n3.experiments.run import describe, load_splits, run
from n3.training import restructure
from n3.training.step import advance
from n3.training.sweep import sweep

STEPS, EVERY, SEEDS = 80, 10, (3, 1, 8)
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
        information=InformationConfig(every=5, settle=0.2, birth_end=0.1),
        structure=StructureConfig(**structure),
        run=RunConfig(arms=("growing", "static"), seeds=SEEDS, records=4, out=str(out), name="a"),
    ).resolved()


@pytest.fixture(scope="module")
def seen():
    """What each stage began with and ended with, and the capacities for which `advance` was traced."""
    return {"starts": [], "ends": [], "traced": []}


@pytest.fixture(scope="module")
def record(tmp_path_factory, seen):
    looks = iter(SCRIPT.T)

    def watched(recipe, *arguments, start, **settings):
        seen["starts"].append(start and jax.device_get(start[1].net))
        made = sweep(recipe, *arguments, start=start, **settings)
        seen["ends"].append(jax.device_get(made.state.net))
        return made

    def traced(recipe, *arguments):
        seen["traced"].append((recipe.controller, recipe.capacity))
        return advance(recipe, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restructure, "held_out_losses", lambda *_: next(looks))
        patch.setattr(restructure, "sweep", watched)
        patch.setattr(importlib.import_module("n3.training.sweep"), "advance", traced)
        return run(small(tmp_path_factory.mktemp("runs")), quiet=True)


@pytest.fixture(scope="module")
def log(record):
    return json.loads((record.directory / "structure.json").read_text())


def of_seed(log, seed):
    return [own for own in log["decisions"] if own["seed"] == seed]


def row(net, place):
    return jax.tree.map(lambda leaf: leaf[place], net)


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


def test_what_is_undone_is_there_again_bit_for_bit(seen):
    before, after = row(seen["ends"][1], 0), row(seen["starts"][3], 0)
    assert not np.array_equal(row(seen["starts"][2], 0).controller.weight, before.controller.weight)
    assert np.array_equal(after.controller.weight, before.controller.weight)
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
    assert not results.structure_action.sel(arm="static").any()
    assert np.all(results.structure_capacity.sel(arm="static") == 12)


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
    keys = jax.vmap(jr.key)(jnp.array(SEEDS))
    plain = sweep(recipe, hypers, arms.stack(data), keys=keys, stops=stops)
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
