"""Reliability: each warning and each end of growth by hand, at its bound and beside it."""

import numpy as np
import pytest
import xarray as xr

from n3.config.experiment import Experiment, InformationConfig, NetworkConfig, RunConfig, TrainingConfig
from n3.stats.summary import (
    RunRecord,
    find_warnings,
    growth_endings,
    recalls_of,
    run_intervals,
    summarise,
    summarise_held_out,
    table,
)

ARMS, SEEDS, MEMBERS = ("growing", "static"), (3, 8), 3


def experiment(*, budget=None, capacity=(8, 6), schedule=None):
    return Experiment(
        network=NetworkConfig(method="information", capacity=capacity),
        training=TrainingConfig(members=MEMBERS, schedule=schedule),
        information=InformationConfig(criterion="held-out", resolution=1e-4, budget=budget, size_rate=0.05),
        run=RunConfig(arms=ARMS, seeds=SEEDS),
    )


def results_of(*, kind="regression"):
    """Two arms of two seeds without a fault: 3 and 2 units, losses of 0.1, a constant's of 1."""
    axes, layers = ("arm", "seed", "step"), np.broadcast_to([3.0, 2.0], (2, 2, 2, 2)).copy()
    layers[1] = [8.0, 6.0]
    of_members = ("arm", "seed", "member")
    return xr.Dataset(
        {
            "test_loss": (axes, np.full((2, 2, 2), 0.1)),
            "test_metric": (axes, np.full((2, 2, 2), 0.3)),
            "size": ((*axes, "layer"), layers),
            "held_out_loss": (axes, np.full((2, 2, 2), 0.1)),
            "held_out_error": (axes, np.full((2, 2, 2), 0.02)),
            "member_loss": (of_members, np.full((2, 2, MEMBERS), 0.1)),
            "member_error": (of_members, np.full((2, 2, MEMBERS), 0.02)),
            "constant_loss": (axes[:2], np.ones((2, 2))),
            "held_out_gain": (axes[:2], np.full((2, 2), 0.9)),
            "held_out_gain_error": (axes[:2], np.full((2, 2), 0.1)),
            "restarted": (axes[:2], np.zeros((2, 2), bool)),
            "active_parameters": (axes[:2], np.full((2, 2), 60)),
            "diverged_at": (axes[:2], np.full((2, 2), -1)),
            "compile_seconds": (("arm",), [1.0, 1.0]),
            "run_seconds": (("arm",), [1.0, 1.0]),
            "train_inputs": (("train_sample", "inputs_feature"), np.zeros((4, 2))),
            "prediction": (("output",), np.zeros(1)),
        },
        coords={"arm": list(ARMS), "seed": list(SEEDS), "step": [0, 10], "member": range(MEMBERS)},
        attrs={"task": "a", "kind": kind, "metric": "rmse", "device": "cpu", "wall_seconds": 1.0},
    )


NONE_LOST = xr.DataArray(
    np.zeros((2, 2), bool), dims=("arm", "seed"), coords={"arm": list(ARMS), "seed": list(SEEDS)}
)


def changed(**values):
    """The results with a variable of the growing arm's first seed at another value, its sizes at every step."""
    results = results_of()
    for name, value in values.items():
        place = {"arm": "growing", "seed": 3} | ({"step": 10} if name.startswith("held_out_l") else {})
        results[name].loc[place] = value
    return results


def kinds(results, *, own=None, lost=NONE_LOST):
    return [(each.kind, each.arm, each.seeds) for each in find_warnings(own or experiment(), results, lost)]


def test_runs_without_a_fault_are_not_warned_of():
    assert kinds(results_of()) == []


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"size": [3.0, 0.4], "held_out_loss": 0.121}, "no-units"),
        ({"restarted": True}, "restarted"),
        ({"size": [7.6, 2.0]}, "capacity"),
        ({"member_loss": [0.1, 0.31, 0.1]}, "members-disagree"),
        ({"held_out_gain": 0.1}, "constant"),
    ],
)
def test_a_fault_of_one_seed_is_one_warning_with_its_number(values, kind):
    assert kinds(changed(**values)) == [(kind, "growing", (3,))]
    (found,) = find_warnings(experiment(), changed(**values), NONE_LOST)
    assert found.text.startswith("growing, 1 of 2 seeds: ")
    assert "\n" not in found.text


@pytest.mark.parametrize(
    "values",
    [
        {"size": [3.0, 0.6], "held_out_loss": 0.121},
        {"size": [3.0, 0.4], "held_out_loss": 0.119},  # static's is not lower by its standard error
        {"size": [7.4, 5.4]},
        {"member_loss": [0.1, 0.29, 0.1]},
        {"member_loss": [0.1, 0.31, 0.1], "member_error": [0.02, 0.08, 0.02]},
        {"member_loss": [0.001, 0.0105, 0.001], "member_error": [0.0, 0.0, 0.0]},
        {"held_out_gain": 0.11},
    ],
)
def test_what_misses_a_bound_is_no_fault(values):
    assert kinds(changed(**values)) == []


def of_classes(rare):
    """Results of 90 usual and 10 rare test samples, of which the growing arm's first seed finds some."""
    counts = np.tile([[90, 0], [0, 10]], (2, 2, 1, 1))
    counts[0, 0, 1] = [10 - rare, rare]
    right = np.trace(counts, axis1=-2, axis2=-1)[..., None] / 100 * np.ones(2)
    names = {name: ["usual", "rare"] for name in ("true_class", "predicted_class")}
    results = results_of(kind="classification").assign(test_metric=(("arm", "seed", "step"), right))
    dims = ("arm", "seed", "true_class", "predicted_class")
    return results.assign(confusion=(dims, counts)).assign_coords(names)


def test_an_accuracy_that_hides_a_class_is_warned_of_and_recalls_are_summarised():
    assert kinds(of_classes(8)) == []  # 0.98 less (1 + 0.8) / 2 is 0.08
    assert kinds(of_classes(7)) == [("recall", "growing", (3,))]  # 0.97 less 0.85 is 0.12
    (found,) = find_warnings(experiment(), of_classes(7), NONE_LOST)
    assert (
        "the recall of class rare is 0.85 where the accuracy is 0.98, medians over the seeds; `class_w"
        in found.text
    )
    arms = summarise(RunRecord(experiment=experiment(), results=of_classes(7), directory=None))["arms"]
    assert arms["growing"]["recall"] == {"usual": 1.0, "rare": pytest.approx(0.85)}
    assert arms["growing"]["balanced_accuracy"]["values"] == pytest.approx([0.85, 1.0])
    without = RunRecord(experiment=experiment(), results=results_of(), directory=None)
    assert "recall" not in summarise(without)["arms"]["growing"]


def test_a_class_without_a_test_sample_has_no_recall():
    results = of_classes(7)
    results["confusion"][{"true_class": 1}] = 0
    recalls = recalls_of(results.sel(arm="growing"))
    assert np.isnan(recalls.sel(true_class="rare")).all()
    assert kinds(results) == []
    own = RunRecord(experiment=experiment(), results=results, directory=None)
    recall = summarise(own)["arms"]["growing"]["recall"]
    assert np.isnan(recall["rare"])
    assert recall["usual"] == 1.0


def test_seeds_are_counted_and_lost_ones_are_not():
    results = results_of()
    results["held_out_gain"][:] = 0.0
    found = find_warnings(experiment(), results, NONE_LOST)
    assert [(each.arm, each.seeds) for each in found] == [("growing", SEEDS), ("static", SEEDS)]
    assert "2 of 2 seeds" in found[0].text
    lost = NONE_LOST.copy()
    lost.loc[{"arm": "growing", "seed": 8}] = True
    assert kinds(results, lost=lost)[0] == ("constant", "growing", (3,))


def test_an_arm_that_is_lost_is_no_better_one():
    lost = NONE_LOST.copy()
    lost.loc[{"arm": "static"}] = True
    assert kinds(changed(size=[3.0, 0.4], held_out_loss=0.5), lost=lost) == []


def test_a_single_arm_without_units_is_still_compared_with_the_constant():
    results = changed(size=[0.0, 0.0], held_out_gain=-0.01).sel(arm=["growing"])
    assert kinds(results, lost=NONE_LOST.sel(arm=["growing"])) == [("constant", "growing", (3,))]


def test_members_do_not_disagree_where_there_is_one():
    results = changed(member_loss=[0.1, 5.0, 0.1])
    assert kinds(results.sel(member=[1])) == []


def test_without_members_the_capacity_alone_is_warned_of():
    names = [name for name in map(str, results_of()) if name.startswith(("held", "member_", "constant"))]
    results = changed(size=[8.0, 0.0]).drop_vars(names)
    assert kinds(results) == [("capacity", "growing", (3,))]
    other = Experiment(
        network=NetworkConfig(method="controller", capacity=(8, 6)), run=RunConfig(arms=ARMS, seeds=SEEDS)
    )
    assert kinds(results, own=other) == []


@pytest.mark.parametrize(
    ("values", "budget", "end"),
    [
        ({}, None, "no gain"),
        ({"held_out_loss": 1e-4}, None, "resolution"),
        ({"held_out_loss": 1.1e-4}, None, "no gain"),
        ({"size": [8.0, 5.6]}, None, "capacity"),
        ({"size": [8.0, 5.4]}, None, "no gain"),
        ({"size": [2.0, 2.0]}, 23, "budget"),  # 20 parameters a member, and 4 of a unit of the second layer
        ({"size": [2.0, 2.0]}, 24, "no gain"),
    ],
)
def test_what_ended_growth(values, budget, end):
    arm = changed(**values).sel(arm="growing")
    assert growth_endings(experiment(budget=budget), arm, np.zeros(2, bool))[0] == end


@pytest.mark.parametrize(
    ("last", "schedule", "end"),
    [
        (3.16, "constant", "steps"),
        (3.14, "constant", "no gain"),
        (3.16, "cosine", "steps"),  # which slows the weights alone down
        (3.14, "cosine", "no gain"),
    ],
)
def test_growth_that_still_rose_when_sizes_came_to_rest_ended_by_the_steps(last, schedule, end):
    results = results_of().isel(step=[0, 0, 0, 1]).assign_coords(step=[0, 54, 60, 100])
    results["size"].loc[{"arm": "growing", "seed": 3, "step": [60, 100], "layer": 0}] = last
    arm = results.sel(arm="growing")  # 3 units at first, and 0.05 a step would make 0.3 in 6 steps
    assert growth_endings(experiment(schedule=schedule), arm, np.zeros(2, bool))[0] == end


def test_of_classes_the_resolution_is_a_share_of_a_nat():
    results = changed(held_out_loss=1e-4, constant_loss=0.5)
    assert growth_endings(experiment(), results.sel(arm="growing"), np.zeros(2, bool))[0] == "no gain"
    results.attrs["kind"] = "classification"
    ends = growth_endings(experiment(), results.sel(arm="growing"), np.array([False, True]))
    assert ends == ["resolution", "diverged"]


def test_the_interval_of_a_run_by_hand():
    low, high = run_intervals(np.array([0.1, 0.01]), np.array([0.01, 0.01])).T
    np.testing.assert_allclose([*low, *high], [0.1 - 0.0196, 0.0, 0.1196, 0.0296], atol=1e-5)
    found = summarise_held_out(changed(held_out_loss=0.3).sel(arm="growing"), np.array([False, True]))
    assert (found["median"], found["values"][0]) == (0.3, 0.3)
    assert np.isnan([found["values"][1], found["standard_errors"][1], *found["run_ci95"][1]]).all()


def test_the_summary_and_the_table_have_the_estimate():
    record = RunRecord(experiment=experiment(), results=changed(held_out_gain=0.0), directory=None)
    summary = summarise(record)
    assert summary["warnings"] == [
        {"kind": "constant", "arm": "growing", "seeds": (3,), "text": summary["warnings"][0]["text"]}
    ]
    assert summary["arms"]["growing"]["ended_by"] == ["no gain", "no gain"]
    text = table(summary)
    assert "0.1 ± 0.04" in text
    assert text.endswith("What ended growth: no gain (2 of 2 seeds).")
    assert max(map(len, text.splitlines())) <= 100


def test_without_members_the_table_is_as_it_was():
    names = [name for name in map(str, results_of()) if name.startswith(("held", "member_", "constant"))]
    record = RunRecord(experiment=experiment(), results=results_of().drop_vars(names), directory=None)
    summary = summarise(record)
    assert "held_out_loss" not in summary["arms"]["growing"]
    assert "held-out" not in table(summary)
