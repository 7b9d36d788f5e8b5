"""Groups: what one program can train goes together, and every row is the run that it would have been alone."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import n3
from n3.config.experiment import (
    Experiment,
    InformationConfig,
    NetworkConfig,
    RunConfig,
    TaskConfig,
    TrainingConfig,
)
from n3.config.grid import Axis, Study, product
from n3.experiments.study import SECONDS, CellGroup, describe_study, plan_groups, train_group_cells


def base_of(*, method="controller", arms=("growing", "static"), seeds=(3, 5), samples=12, task="bessel", **run):
    return Experiment(
        task=TaskConfig(task=task, samples=samples, test_samples=6),
        network=NetworkConfig(method=method, capacity=(3,)),
        training=TrainingConfig(steps=6, learning_rate=1e-2),
        run=RunConfig(arms=arms, seeds=seeds, records=2, **run),
    )


def cells_of(groups):
    return [group.cells for group in groups]


@pytest.mark.parametrize(
    ("axis", "count"),
    [
        (Axis("learning_rate", (1e-3, 1e-2, 1e-1)), 1),
        (Axis("size_cost", (0.0, 0.1)), 1),
        (Axis("target_size", (2.0, 3.0)), 1),
        (Axis("initial_size", (0.0, 2.0)), 1),
        (Axis("data_seed", (1, 2)), 1),
        (Axis("task", ("bessel", "cubic", "quadratic")), 1),
        (Axis("capacity", ((2,), (3,))), 2),
        (Axis("samples", (8, 12)), 2),
        (Axis("steps", (4, 6)), 2),
        (Axis("mask", ("sine", "linear")), 2),
        (Axis("method", ("controller", "released")), 2),
        (Axis("weight_prior", (0.0, 1.0)), 2),
        (Axis("task", ("bessel", "sine-classes", "cubic")), 2),
    ],
)
def test_what_only_changes_a_number_or_the_data_shares_a_program(axis, count):
    found = plan_groups(product(base_of(), [axis]))
    assert len(found) == count
    assert sorted(cell for group in found for cell in group.cells) == list(range(len(axis.values)))


@pytest.mark.parametrize(
    ("name", "values"), [("price", (0.1, 0.2)), ("birth", (0.01, 0.02)), ("psi", (1.0, 1.2))]
)
def test_numbers_of_the_information_method_share_a_program_too(name, values):
    base = replace(base_of(method="information", arms=("growing",)), information=InformationConfig())
    assert len(plan_groups(product(base, [Axis(name, values)]))) == 1


def test_a_group_holds_no_more_runs_than_allowed(monkeypatch):
    study = product(base_of(seeds=tuple(range(4))), [Axis("learning_rate", (1.0, 2.0, 3.0))])
    monkeypatch.setattr("n3.experiments.study.MOST_RUNS", 8)
    assert plan_groups(study) == [
        CellGroup(cells=(0, 1), seeds=(0, 1, 2, 3)),
        CellGroup(cells=(2,), seeds=(0, 1, 2, 3)),
    ]
    monkeypatch.setattr("n3.experiments.study.MOST_RUNS", 3)
    assert plan_groups(study)[:2] == [CellGroup(cells=(0,), seeds=(0, 1)), CellGroup(cells=(0,), seeds=(2, 3))]
    assert len(plan_groups(study)) == 6


def test_a_group_holds_no_more_bytes_than_allowed(monkeypatch):
    one_run = 4 * (12 + 12 + 12 + 6 + 6 + 6 + 1)  # inputs, targets and shares of both splits, and the unit
    monkeypatch.setattr("n3.experiments.study.MOST_BYTES", 2 * one_run)
    study = product(base_of(), [Axis("learning_rate", (1.0, 2.0))])
    assert cells_of(plan_groups(study)) == [(0,), (1,)]
    monkeypatch.setattr("n3.experiments.study.MOST_BYTES", 4 * one_run)
    assert cells_of(plan_groups(study)) == [(0, 1)]


def test_rows_are_the_runs_that_they_would_have_been_alone(tmp_path):
    axes = [Axis("learning_rate", (1e-3, 1e-1)), Axis("task", ("bessel", "cubic"))]
    study = product(base_of(arms=("equal-size", "growing")), axes)
    (group,) = plan_groups(study)
    results = train_group_cells(study, group, quiet=True)
    assert results.sizes == {"arm": 2, "cell": 4, "seed": 2, "step": 3, "layer": 1}
    assert results["arm"].values.tolist() == ["equal-size", "growing"]
    for place in (1, 2):
        alone = study.experiments()[place]
        alone = replace(alone, run=replace(alone.run, out=str(tmp_path), name=str(place)))
        expected, own = n3.run(alone, quiet=True).results, results.isel(cell=place)
        for name in ("test_loss", "train_loss", "size", "active_parameters", "diverged_at"):
            np.testing.assert_allclose(own[name], expected[name].sel(arm=own.arm), rtol=1e-4, err_msg=name)


def test_a_group_compiles_once_for_all_its_numbers():
    built = []

    def listen(event, _, *, fun_name="", **_others):
        if event == "/jax/core/compile/backend_compile_duration" and fun_name in ("jit(begin)", "jit(onward)"):
            built.append(fun_name)

    base = replace(base_of(arms=("static",)), network=NetworkConfig(capacity=(4,)))  # compiled nowhere else
    study = product(base, [Axis("learning_rate", (1e-3, 2e-3, 3e-3)), Axis("size_cost", (0.0, 0.1))])
    jax.monitoring.register_event_duration_secs_listener(listen)
    train_group_cells(study, plan_groups(study)[0], quiet=True)
    jax.monitoring.unregister_event_duration_listener(listen)
    assert sorted(built) == ["jit(begin)", "jit(onward)"]


def test_confusions_count_fresh_points_by_true_class():
    base = base_of(task="sine-classes", arms=("static",))
    study = Study(base=replace(base, training=replace(base.training, steps=40)), points=200)
    counts = train_group_cells(study, plan_groups(study)[0], quiet=True)["confusion"]
    assert counts.dims == ("arm", "cell", "seed", "true_class", "predicted_class")
    by_truth = counts.sum("predicted_class").values.reshape(-1, 2)
    assert (by_truth.sum(axis=1) == 200).all()
    assert (by_truth == by_truth[0]).all()  # the points are the same for all seeds
    assert 0.3 < by_truth[0, 0] / 200 < 0.7


def test_confusions_need_classes():
    study = Study(base=base_of(arms=("static",)), points=5)
    with pytest.raises(ValueError, match="`points` counts classes"):
        train_group_cells(study, plan_groups(study)[0], quiet=True)


def test_seconds_are_known_of_every_arm():
    study = Study(base=base_of())
    results = train_group_cells(study, plan_groups(study)[0], quiet=True)
    for name in SECONDS:
        assert results[name].dims == ("arm",)
        assert (results[name] > 0).all()


def test_the_plan_is_told_without_compiling():
    study = product(base_of(), [Axis("capacity", ((2,), (3,))), Axis("learning_rate", (1e-3, 1e-2))])
    told = describe_study(study).splitlines()
    assert told[0] == "4 cells x 2 arms (growing, static) x 2 seeds = 16 runs"
    assert told[1] == "group 0000  2 cells x 2 seeds x 6 steps; capacity 2; 2 of learning_rate"
    assert told[-1] == "2 groups, 4 programs to compile"


def test_arms_of_one_program_are_counted_once():
    assert describe_study(Study(base=base_of(arms=("growing", "static", "equal-size")))).endswith(
        "2 programs to compile"
    )
