"""Logbook: what the looks of some arms were, by hand, in results, in JSON and in words."""

import json

import numpy as np
import pytest
import xarray as xr

from n3.config.experiment import StructureConfig
from n3.experiments.results import structure_log, with_structure
from n3.training import decisions
from n3.training.decisions import Decision, Staged
from n3.training.step import Recipe

LOOKS = np.array([10, 20])
RECIPES = {units: Recipe(in_size=1, out_size=1, capacity=(units,)) for units in (8, 12)}


def decision(arm, seed, step, action):
    return Decision(step=step, seed=seed, arm=arm, action=action, units=(0,), reason="so", before=float("nan"))


def staged(arm, actions, capacity, programs):
    """Two seeds at two looks."""
    places = [(seed, step) for seed in (4, 7) for step in LOOKS.tolist()]
    made = [decision(arm, *place, action) for place, action in zip(places, actions, strict=True)]
    return Staged(
        decisions=tuple(made),
        looks=LOOKS,
        capacity=np.array(capacity)[:, None],
        programs=frozenset(RECIPES[units] for units in programs),
        most_programs=2,
    )


@pytest.fixture
def both():
    return {
        "growing": staged("growing", ("prune", "rollback", "wait", "expand"), (12, 8), (8, 12)),
        "shrinking": staged("shrinking", ("wait", "prune", "wait", "wait"), (12, 12), (12,)),
    }


def test_results_by_hand(both):
    arms = {"arm": ["static", "shrinking", "growing"], "seed": [4, 7], "layer": [0]}
    results = with_structure(xr.Dataset(coords=arms), both, (12,))
    actions = results.structure_action
    assert actions.dims == ("arm", "seed", "look")
    assert actions.values.tolist() == [[[0, 0], [0, 0]], [[0, 1], [0, 0]], [[1, 3], [0, 2]]]
    assert results.structure_capacity.values[..., 0].tolist() == [[12, 12], [12, 12], [12, 8]]
    assert results.look.values.tolist() == [10, 20]
    counts = {"structure_prune": 2, "structure_expand": 1, "structure_rollback": 1, "structure_programs": 2}
    assert results.attrs == counts  # a program that both arms use counts once


def test_results_without_stages_stay_as_they_are():
    results = xr.Dataset(attrs={"task": "sine"})
    assert with_structure(results, {}, (12,)) is results


def test_the_log_holds_every_decision(both):
    log = json.loads(json.dumps(structure_log(both)))
    assert log["programs"] == {"growing": {"used": 2, "most": 2}, "shrinking": {"used": 1, "most": 2}}
    assert [own["action"] for own in log["decisions"][:4]] == ["prune", "rollback", "wait", "expand"]
    assert set(log["decisions"][0]) == {
        *("step", "seed", "arm", "action", "units", "reason", "before", "after"),
    }


def test_words(both):
    told = "growing: 2 looks at 2 runs, 1 pruned, 1 expanded, 1 undone; 2 programs of 2 at most"
    assert both["growing"].told() == told
    arms = ("growing", "static", "shrinking")
    text = decisions.describe_structure(StructureConfig(structure_every=30, expand=0), 100, (12,), arms)
    looks = "structure   4 looks at growing, shrinking: prune importance < 0.002"
    assert text == f"{looks}; at most 2 programs an arm"


@pytest.mark.parametrize(
    ("steps", "every", "looks"),
    [(100, 30, [30, 60, 90, 100]), (90, 30, [30, 60, 90]), (20, 19, [19, 20]), (20, None, [20])],
)
def test_looks_end_with_the_run(steps, every, looks):
    assert decisions.look_steps(steps, every).tolist() == looks


@pytest.mark.parametrize(
    ("capacity", "most"), [((5,), 1), ((8,), 1), ((9,), 2), ((10, 4), 2), ((64,), 4), ((65,), 5), ((1024,), 8)]
)
def test_programs_are_powers_of_two_and_the_capacity(capacity, most):
    assert decisions.most_programs(capacity) == most
