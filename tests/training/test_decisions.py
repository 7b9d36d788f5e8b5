"""Decisions: every gate by hand, that no losses break the rules, and what results and words make of them."""

import json
import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from n3.config.experiment import StructureConfig
from n3.experiments.results import structure_log, with_structure
from n3.training.decisions import (
    Decision,
    Staged,
    Track,
    count_actions,
    decide,
    describe_structure,
    look_steps,
    most_programs,
    with_next_loss,
)
from n3.training.step import Recipe

CONFIG = StructureConfig(structure_every=10, cooldown=1, plateau=0.01, margin=0.1)
UNITS = {"prune": (-2,), "expand": (4,), "wait": (0,), "rollback": (0,)}
MANY = 9


def track(*losses, **known):
    return Track(losses=losses, **known)


@pytest.mark.parametrize(
    ("own", "left", "actions", "reason"),
    [
        (track(1.0), MANY, ("wait",), "the first look has no loss to compare with"),
        (track(1.0, 0.98), MANY, ("wait",), "validation loss still falls: 0.98 after 1"),
        (track(1.0, 0.995), MANY, ("prune", "expand"), "validation loss at rest: 0.995 after 1"),
        (track(1.0, 1.3), MANY, ("prune", "expand"), "validation loss at rest: 1.3 after 1"),
        (track(1.0, 1.0), 3, ("prune", "expand"), "at rest"),
        (track(1.0, 1.0), 2, ("prune",), "at rest"),  # no pruning could follow an expansion
        (track(1.0, 1.0), 0, ("wait",), "the run ends here"),
        (track(1.0, math.nan), MANY, ("wait",), "the run has diverged"),
        (track(1.0, 1.0, 1.0, last="prune", looks=1, before=1.0), MANY, ("wait",), "cooldown, look 1 of 1"),
        (track(1.0, 1.0, 1.0, last="prune", looks=2, before=1.0), MANY, ("expand", "prune"), "at rest"),
        (track(1.0, 1.0, 1.0, last="expand", looks=2), MANY, ("prune", "expand"), "at rest"),
        (track(1.0, 1.0, last="prune", looks=2, is_undone=True), MANY, ("expand",), "at rest"),
        (track(1.0, 1.0, last="expand", looks=2, is_undone=True), MANY, ("prune",), "at rest"),
        (
            track(1.0, 1.0, last="prune", looks=2, is_undone=True),
            1,
            ("wait",),
            "too late to expand, and pruning",
        ),
        (track(0.0, 0.0), MANY, ("prune", "expand"), "at rest"),
    ],
)
def test_every_gate_by_hand(own, left, actions, reason):
    found, why = decide(own, CONFIG, left=left)
    assert found == actions
    assert reason in why


@pytest.mark.parametrize(
    ("loss", "is_undone"), [(1.09, False), (1.11, True), (math.nan, True), (math.inf, True)]
)
@pytest.mark.parametrize("left", [MANY, 0])
def test_a_change_is_undone_beyond_the_margin_alone(loss, is_undone, left):
    own = track(1.2, 1.0, loss, last="expand", looks=1, before=1.0)
    found, why = decide(own, CONFIG, left=left)
    assert (found == ("rollback",)) == is_undone
    if loss == 1.11:
        assert why == "validation loss 1.11, 11.0% above: 1 before the last change, margin 0.1"


def test_what_is_not_on_trial_is_never_undone():
    assert decide(track(1.0, 5.0, last="prune", looks=2), CONFIG, left=MANY)[0] == ("expand", "prune")


def test_a_trial_lasts_as_long_as_its_cooldown():
    own = Track().seen(1.0).done("prune", (-2,), 2)
    for looks in (1, 2):
        own = own.seen(1.05).done("wait", (0,), 2)
        assert (own.looks, own.before) == (looks, 1.0)
    own = own.seen(1.05)
    assert own.before == 1.0  # judged once more, where the next change may be made
    assert own.done("wait", (0,), 2).before is None
    assert own.done("expand", (4,), 2).before == 1.05


def test_what_was_undone_leaves_the_loss_before_it():
    own = Track().seen(1.0).done("prune", (-2,), 1).seen(3.0).done("rollback", (2,), 1)
    assert own == Track(losses=(1.0, 1.0), last="prune", units=(-2,), is_undone=True, looks=0, before=None)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.floats(0.5, 2.0) | st.just(math.nan), min_size=1, max_size=12),
    st.integers(0, 3),
)
def test_no_losses_break_the_cooldown(losses, cooldown):
    config = StructureConfig(structure_every=10, cooldown=cooldown, margin=0.2)
    own, quiet = Track(), math.inf
    for place, loss in enumerate(losses):
        own = own.seen(loss)
        actions, why = decide(own, config, left=len(losses) - 1 - place)
        assert why
        if actions[0] in ("prune", "expand"):
            assert quiet >= cooldown
            assert place < len(losses) - 1
        if actions[0] == "rollback":
            assert quiet <= cooldown
        quiet = quiet + 1 if actions[0] == "wait" else 0
        own = own.done(actions[0], UNITS[actions[0]], cooldown)


def decision(**changes):
    usual = dict(step=10, seed=3, arm="growing", action="wait", units=(0,), reason="so", before=1.0)
    return Decision(**usual | changes)


def test_what_followed_is_the_loss_at_the_next_look():
    made = with_next_loss([decision(before=3.0), decision(before=2.0), decision(before=1.0)])
    assert [own.after for own in made] == [2.0, 1.0, None]


def test_counts():
    actions = ("prune", "wait", "expand", "rollback", "prune")
    assert count_actions([decision(action=action) for action in actions]) == {
        "prune": 2,
        "expand": 1,
        "rollback": 1,
    }


LOOKS = np.array([10, 20])
RECIPES = {units: Recipe(in_size=1, out_size=1, capacity=(units,)) for units in (8, 12)}


def staged(arm, actions, capacity, programs):
    """Two seeds at two looks."""
    places = [(seed, step) for seed in (4, 7) for step in LOOKS.tolist()]
    made = [
        decision(arm=arm, seed=seed, step=step, action=action, before=math.nan)
        for (seed, step), action in zip(places, actions, strict=True)
    ]
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
    assert both["growing"].describe() == told
    arms = ("growing", "static", "shrinking")
    text = describe_structure(StructureConfig(structure_every=30, expand=0), 100, (12,), arms)
    looks = "structure   4 looks at growing, shrinking: prune importance < 0.002"
    assert text == f"{looks}; at most 2 programs an arm"


@pytest.mark.parametrize(
    ("steps", "every", "looks"),
    [(100, 30, [30, 60, 90, 100]), (90, 30, [30, 60, 90]), (20, 19, [19, 20]), (20, None, [20])],
)
def test_looks_end_with_the_run(steps, every, looks):
    assert look_steps(steps, every).tolist() == looks


@pytest.mark.parametrize(
    ("capacity", "most"), [((5,), 1), ((8,), 1), ((9,), 2), ((10, 4), 2), ((64,), 4), ((65,), 5), ((1024,), 8)]
)
def test_programs_are_powers_of_two_and_the_capacity(capacity, most):
    assert most_programs(capacity) == most
