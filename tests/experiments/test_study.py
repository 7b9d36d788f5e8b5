"""Study: what one program can train goes together, what is finished stays, and all comes back labelled."""

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest

import n3
from n3.config import grid
from n3.config.grid import Axis, Study, product, varied
from n3.experiments import study as studies
from n3.experiments.report import study_table
from n3.experiments.study import (
    CellGroup,
    collect_study,
    describe_study,
    plan_groups,
    prepare_study,
    train_group_cells,
)
from n3.training.sweep import sweep
from trials import tiny

BASE = tiny()
STUDY = product(BASE, [Axis("data_seed", (4, 2)), Axis("learning_rate", (1e-2, 1e-3))])
"""Of one program, but in two groups where `halves` bounds them."""
STATIC = tiny(arms=("static",))


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
    found = plan_groups(product(BASE, [axis]))
    assert len(found) == count
    assert sorted(cell for group in found for cell in group.cells) == list(range(len(axis.values)))


@pytest.mark.parametrize(
    ("name", "values"), [("price", (0.1, 0.2)), ("birth", (0.01, 0.02)), ("psi", (1.0, 1.2))]
)
def test_numbers_of_the_information_method_share_a_program_too(name, values):
    base = tiny(network={"method": "information"}, arms=("growing",))
    assert len(plan_groups(product(base, [Axis(name, values)]))) == 1


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 12, 99])
def test_parts_are_made_of_cells_first_and_then_of_seeds(parts):
    study = product(tiny(seeds=(5, 3, 8, 1)), [Axis("learning_rate", (1.0, 2.0, 3.0))])
    found = plan_groups(replace(study, parts=parts))
    assert len(found) == min(parts, 12)
    runs = sorted((cell, seed) for group in found for cell in group.cells for seed in group.seeds)
    assert runs == sorted((cell, seed) for cell in range(3) for seed in (5, 3, 8, 1))
    assert max(group.runs for group in found) <= 2 * min(group.runs for group in found)
    if parts == 3:
        assert cells_of(found) == [(0,), (1,), (2,)]


def test_parts_give_the_numbers_of_the_whole_to_the_bit(results, tmp_path):
    parts = studies.run_study(replace(STUDY, parts=4), tmp_path, quiet=True)
    assert len(list((tmp_path / "groups").iterdir())) == 4
    for name in ("test_loss", "size", "total_loss", "active_parameters"):
        np.testing.assert_array_equal(parts[name], results[name])


def test_other_parts_in_the_same_folder_are_refused(tmp_path):
    prepare_study(replace(STUDY, parts=4), tmp_path)
    with pytest.raises(FileExistsError, match="`parts` 4 there and 2 here"):
        prepare_study(replace(STUDY, parts=2), tmp_path)


def test_a_group_holds_no_more_runs_than_allowed(monkeypatch):
    study = product(tiny(seeds=tuple(range(4))), [Axis("learning_rate", (1.0, 2.0, 3.0))])
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
    study = product(BASE, [Axis("learning_rate", (1.0, 2.0))])
    assert cells_of(plan_groups(study)) == [(0,), (1,)]
    monkeypatch.setattr("n3.experiments.study.MOST_BYTES", 4 * one_run)
    assert cells_of(plan_groups(study)) == [(0, 1)]


def test_rows_are_the_runs_that_they_would_have_been_alone(tmp_path):
    cells = ({"learning_rate": 1e-3, "task": "bessel"}, {"learning_rate": 1e-1, "task": "cubic"})
    study = Study(base=tiny(arms=("equal-size", "growing"), training={"steps": 30}), cells=cells)
    (group,) = plan_groups(study)
    results = train_group_cells(study, group, quiet=True)
    assert results.sizes == {"arm": 2, "cell": 2, "seed": 2, "step": 3, "layer": 1}
    assert results["arm"].values.tolist() == ["equal-size", "growing"]
    for place, alone in enumerate(study.experiments()):
        alone = replace(alone, run=replace(alone.run, out=str(tmp_path), name=str(place)))
        expected = n3.run(alone, has_figures=False, quiet=True).results
        own = results.isel(cell=place)
        for name in ("test_loss", "train_loss", "size", "active_parameters", "diverged_at"):
            np.testing.assert_allclose(own[name], expected[name].sel(arm=own.arm), rtol=1e-4, err_msg=name)


def test_an_experiment_is_a_study_of_one_cell(tmp_path):
    """All that a study knows of its cell, bit for bit."""
    base = tiny(tmp_path, arms=("equal-size", "warmup", "growing"), monitor=("importance",))
    own = n3.run(base, has_figures=False, quiet=True).results
    study = Study(base=base)
    cell = train_group_cells(study, plan_groups(study)[0], quiet=True).sel(cell=0, drop=True)
    assert own["arm"].values.tolist() == cell["arm"].values.tolist() == list(base.run.arms)
    shared = [name for name in cell if "seconds" not in name]
    assert {"test_loss", "size", "importance", "active_parameters", "diverged_at"} <= set(shared) <= set(own)
    assert cell[shared].equals(own[shared])
    assert own["compile_seconds"].dims == own["run_seconds"].dims == ("arm",)


def test_a_group_is_one_sweep_an_arm_for_all_its_numbers(monkeypatch):
    """That a sweep compiles once, whatever its numbers, is tested where sweeps are."""
    rows = []

    def counted(recipe, hypers, *rest, **settings):
        rows.append(hypers.learning_rate.tolist())
        return sweep(recipe, hypers, *rest, **settings)

    monkeypatch.setattr(importlib.import_module("n3.experiments.memory"), "sweep", counted)
    study = product(STATIC, [Axis("learning_rate", (1e-3, 2e-3))])
    train_group_cells(study, plan_groups(study)[0], quiet=True)
    assert rows == [pytest.approx([1e-3, 1e-3, 2e-3, 2e-3])]


def test_confusions_count_fresh_points_by_true_class():
    study = Study(base=tiny(task={"task": "sine-classes"}, arms=("static",)), points=200)
    counts = train_group_cells(study, plan_groups(study)[0], quiet=True)["confusion"]
    assert counts.dims == ("arm", "cell", "seed", "true_class", "predicted_class")
    by_truth = counts.sum("predicted_class").values.reshape(-1, 2)
    assert (by_truth.sum(axis=1) == 200).all()
    assert (by_truth == by_truth[0]).all()  # the points are the same for all seeds
    assert 0.3 < by_truth[0, 0] / 200 < 0.7


def test_confusions_need_classes():
    study = Study(base=STATIC, points=5)
    with pytest.raises(ValueError, match="`points` counts classes"):
        train_group_cells(study, plan_groups(study)[0], quiet=True)


def test_seconds_are_known_of_every_arm():
    study = Study(base=BASE)
    results = train_group_cells(study, plan_groups(study)[0], quiet=True)
    for name in ("compile_seconds", "run_seconds", "cpu_seconds"):
        assert results[name].dims == ("arm",)
        assert (results[name] > 0).all()


def test_the_plan_is_told_without_compiling():
    study = product(BASE, [Axis("capacity", ((2,), (3,))), Axis("learning_rate", (1e-3, 1e-2))])
    told = describe_study(study).splitlines()
    assert told[0] == "4 cells x 2 arms (static, growing) x 2 seeds = 16 runs"
    assert told[1].startswith("group 0000  2 cells x 2 seeds x 6 steps; capacity 2; 2 of learning_rate; about ")
    assert told[1].endswith(" MiB for samples and states, besides the program")
    assert told[-2] == "on a CPU steps take less than a second of CPU time, all units counted"
    assert told[-1] == "2 groups, 4 programs to compile"


def test_a_sweep_over_tasks_is_titled_by_all_of_them(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr("n3.plotting.plot_settings", lambda title, *_, **__: titles.append(title))
    study = product(STATIC, [Axis("task", ("bessel", "cubic"))])
    studies.run_study(study, tmp_path, quiet=True)
    assert titles == ["bessel, cubic: sweep"]


def test_a_plan_makes_each_experiment_once(monkeypatch):
    made = []
    monkeypatch.setattr(grid, "varied", lambda *own: made.append(own[1]) or varied(*own))
    study = product(BASE, [Axis("learning_rate", (1e-3, 1e-2, 1e-1))])
    describe_study(study)
    assert made == list(study.cells)


def test_groups_of_one_description_share_a_line(monkeypatch):
    monkeypatch.setattr(studies, "MOST_RUNS", 2)
    told = describe_study(product(BASE, [Axis("learning_rate", (1e-3, 1e-2)), Axis("steps", (4, 6))]))
    assert [line.split(";")[0] for line in told.splitlines()[1:-2]] == [
        "group 0000  1 cells x 2 seeds x 4 steps",
        "group 0001  1 cells x 2 seeds x 4 steps",
        "group 0002  1 cells x 2 seeds x 6 steps",
        "group 0003  1 cells x 2 seeds x 6 steps",
    ]
    monkeypatch.setattr(studies, "MOST_RUNS", 1)
    lines = describe_study(product(BASE, [Axis("learning_rate", (1e-3,))])).splitlines()
    assert lines[1].startswith("groups 0000 to 0001, each 1 cells x 1 seeds x 6 steps; learning_rate 0.001; ")
    assert lines[3].startswith("2 groups")


def test_arms_of_one_program_are_counted_once():
    assert describe_study(Study(base=tiny(arms=("growing", "static", "equal-size")))).endswith(
        "2 programs to compile"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("studies") / "first"


@pytest.fixture(scope="module")
def results(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "MOST_RUNS", 4)
        return studies.run_study(STUDY, folder, quiet=True)


@pytest.fixture
def halves(monkeypatch, results):
    """The results, while a group holds no more runs than two cells of `STUDY`."""
    monkeypatch.setattr(studies, "MOST_RUNS", 4)
    return results


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_have_a_dimension_a_setting(results):
    order = ("arm", "data_seed", "learning_rate", "seed", "step")
    assert results["test_loss"].dims == order
    assert results["data_seed"].values.tolist() == [4, 2]
    assert results["learning_rate"].values.tolist() == [1e-2, 1e-3]
    assert results["seed"].values.tolist() == [5, 3]
    assert results["arm"].values.tolist() == ["static", "growing"]
    assert np.isfinite(results["test_loss"]).all()
    assert results["cpu_seconds"].dims == ("group", "arm")


def test_labels_belong_to_their_numbers(halves):
    for place, group in enumerate(plan_groups(STUDY)):
        own = train_group_cells(STUDY, group, quiet=True)
        for cell in group.cells:
            there = halves.sel(STUDY.cells[cell])
            expected = own.sel(cell=cell).transpose("arm", "seed", "step", "layer")
            np.testing.assert_allclose(
                there["train_loss"], expected["train_loss"], rtol=1e-6, err_msg=str(place)
            )


def test_a_sweeps_folder_is_read_by_its_path_and_is_no_experiment(folder, results):
    assert n3.read_results(str(folder)).identical(results)
    with pytest.raises(ValueError, match=r"holds a sweep, not one experiment: take `n3\.read_results`"):
        n3.read(folder)


def test_the_folder_holds_results_and_a_manifest(folder, results):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["seconds"]) == {"compile", "run", "cpu"}
    assert {"results.nc", "study.json"} <= set(manifest["sha256"])
    for index in range(2):
        own = json.loads((folder / f"groups/000{index}/manifest.json").read_text())
        assert "results.nc" in own["sha256"]


def test_what_is_finished_is_not_trained_again(folder, halves, monkeypatch):
    monkeypatch.setattr("n3.experiments.study.train_group_cells", lambda *_, **__: pytest.fail("trained again"))
    assert studies.run_study(STUDY, folder, quiet=True).identical(halves)


def test_what_is_missing_is_trained(folder, halves, tmp_path, monkeypatch):
    for path, content in files(folder).items():
        if path.parts[-2:] != ("0001", "manifest.json"):  # killed before the second group was sealed
            copy = tmp_path / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
    trained, train = [], train_group_cells
    monkeypatch.setattr(
        "n3.experiments.study.train_group_cells",
        lambda study, group, **k: trained.append(group) or train(study, group, **k),
    )
    with pytest.raises(FileNotFoundError, match=r"groups \[1\] are not finished"):
        collect_study(tmp_path)
    whole = studies.run_study(STUDY, tmp_path, quiet=True)
    assert trained == [plan_groups(STUDY)[1]]
    names = ["test_loss", "size", "diverged_at"]
    assert whole[names].identical(halves[names])


def test_damaged_results_are_named_and_not_used(folder, halves, tmp_path, capsys):
    for path, content in files(folder).items():
        copy = tmp_path / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    damaged = tmp_path / "groups" / "0000" / "results.nc"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    again = studies.run_study(STUDY, tmp_path, quiet=True)
    assert "0000/results.nc is damaged" in capsys.readouterr().err
    assert again["test_loss"].identical(halves["test_loss"])
    damaged.unlink()
    with pytest.raises(FileNotFoundError, match=r"groups \[0\] are not finished"):
        collect_study(tmp_path)


@pytest.mark.parametrize("change", [{"points": 3}, {"cells": ({"steps": 6},), "axes": ()}])
def test_another_study_is_refused_and_nothing_is_written(folder, halves, change):
    before = files(folder)
    with pytest.raises(FileExistsError, match="holds something else"):
        studies.run_study(replace(STUDY, **change), folder, quiet=True)
    assert files(folder) == before


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else"):
        prepare_study(STUDY, tmp_path)


def test_a_bad_study_writes_nothing(tmp_path):
    bad = product(BASE, [Axis("task", ("bessel", "besel"))])
    with pytest.raises(ValueError, match="bessel"):
        studies.run_study(bad, tmp_path / "bad", quiet=True)
    assert not (tmp_path / "bad").exists()


def test_cells_that_are_no_grid_keep_their_settings_beside_them(tmp_path):
    cells = ({"learning_rate": 1e-2, "data_seed": 4}, {"learning_rate": 1e-3, "data_seed": 9})
    study = Study(base=STATIC, cells=cells)
    results = studies.run_study(study, tmp_path, quiet=True)
    assert results["test_loss"].dims == ("arm", "cell", "seed", "step")
    assert results["data_seed"].dims == ("cell",)
    assert results["data_seed"].values.tolist() == [4, 9]


def test_seeds_in_parts_are_the_same_runs(tmp_path, monkeypatch):
    study = Study(base=tiny(arms=("static",), seeds=(5, 3, 8, 1)))
    whole = train_group_cells(study, plan_groups(study)[0], quiet=True)
    monkeypatch.setattr(studies, "MOST_RUNS", 2)
    parts = studies.run_study(study, tmp_path, quiet=True)
    assert len(list((tmp_path / "groups").iterdir())) == 2
    np.testing.assert_allclose(parts["test_loss"].squeeze(), whole["test_loss"].squeeze(), rtol=1e-6)
    assert parts["seed"].values.tolist() == [5, 3, 8, 1]


def test_numbers_of_steps_may_differ(tmp_path):
    study = product(STATIC, [Axis("steps", (4, 6))])
    results = studies.run_study(study, tmp_path, quiet=True)
    assert results["step"].values.tolist() == [0, 2, 3, 4, 6]
    assert np.isfinite(results["test_loss"].sel(steps=4).squeeze("arm").isel(seed=0)).values.tolist() == [
        1,
        1,
        0,
        1,
        0,
    ]
    rows = study_table(results, study).splitlines()
    assert [row.split()[-1] for row in rows[1:]] == ["0/2", "0/2"]


def test_the_table_has_a_row_a_cell_and_arm(results):
    rows = [row.split() for row in study_table(results, STUDY).splitlines()]
    assert len(rows) == 1 + 8
    assert rows[2][:3] == ["4", "0.01", "growing"]
    last = results["test_loss"].isel(step=-1).sel(arm="static", data_seed=2, learning_rate=1e-3)
    assert rows[7][:4] == ["2", "0.001", "static", f"{float(last.median()):.4g}"]


def test_the_table_counts_the_diverged(results):
    results = results.copy(deep=True)
    results["diverged_at"].loc[{"arm": "static", "data_seed": 2, "learning_rate": 1e-2}] = [4, -1]
    results["diverged_at"].loc[{"arm": "growing", "data_seed": 2, "learning_rate": 1e-2}] = 4
    rows = [row.split() for row in study_table(results, STUDY).splitlines()]
    assert (rows[5][-1], rows[6][-1]) == ("1/2", "2/2")
    assert rows[6][3] == "-"
