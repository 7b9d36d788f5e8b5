"""Studies: what is finished stays, what is damaged or foreign is refused, and all comes back labelled."""

import json
from dataclasses import replace

import numpy as np
import pytest

import n3
from n3.config.experiment import Experiment, NetworkConfig, RunConfig, TaskConfig, TrainingConfig
from n3.config.grid import Axis, Study, product
from n3.experiments import study as studies
from n3.experiments.study import collect_study, plan_groups, prepare_study, study_table, train_group_cells

BASE = Experiment(
    task=TaskConfig(samples=12, test_samples=6),
    network=NetworkConfig(capacity=(3,)),
    training=TrainingConfig(steps=6),
    run=RunConfig(arms=("static", "growing"), seeds=(5, 3), records=2),
)
STUDY = product(BASE, [Axis("capacity", ((3,), (2,))), Axis("learning_rate", (1e-2, 1e-3, 1e-4))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "first"
    studies.run_study(STUDY, folder, quiet=True)
    return folder


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_have_a_dimension_a_setting(folder):
    results = collect_study(folder)
    order = ("arm", "capacity", "learning_rate", "seed", "step")
    assert results["test_loss"].dims == order
    assert results["capacity"].values.tolist() == [3, 2]
    assert results["learning_rate"].values.tolist() == [1e-2, 1e-3, 1e-4]
    assert results["seed"].values.tolist() == [5, 3]
    assert results["arm"].values.tolist() == ["static", "growing"]
    assert np.isfinite(results["test_loss"]).all()
    assert results["cpu_seconds"].dims == ("group", "arm")


def test_labels_belong_to_their_numbers(folder):
    results = collect_study(folder)
    for place, group in enumerate(plan_groups(STUDY)):
        own = train_group_cells(STUDY, group, quiet=True)
        capacity = STUDY.cells[group.cells[0]]["capacity"][0]
        for cell in group.cells:
            there = results.sel(capacity=capacity, learning_rate=STUDY.cells[cell]["learning_rate"])
            expected = own.sel(cell=cell).transpose("arm", "seed", "step", "layer")
            np.testing.assert_allclose(
                there["train_loss"], expected["train_loss"], rtol=1e-6, err_msg=str(place)
            )


def test_a_sweeps_folder_is_read_by_its_path_and_is_no_experiment(folder):
    assert n3.read_results(str(folder)).identical(collect_study(folder))
    with pytest.raises(ValueError, match=r"holds a sweep, not one experiment: take `n3\.read_results`"):
        n3.read(folder)


def test_the_folder_holds_results_and_a_manifest(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["seconds"]) == {"compile", "run", "cpu"}
    assert {"results.nc", "study.json", "groups/0000/results.nc", "groups/0001/results.nc"} <= set(
        manifest["sha256"]
    )


def test_what_is_finished_is_not_trained_again(folder, monkeypatch):
    monkeypatch.setattr("n3.experiments.study.train_group_cells", lambda *_, **__: pytest.fail("trained again"))
    before = collect_study(folder)
    assert studies.run_study(STUDY, folder, quiet=True).identical(before)


def test_what_is_missing_is_trained(folder, tmp_path, monkeypatch):
    for path, content in files(folder).items():
        if (
            "0001" not in path.parts or path.name != "manifest.json"
        ):  # killed before the second group was sealed
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
    results = studies.run_study(STUDY, tmp_path, quiet=True)
    assert trained == [plan_groups(STUDY)[1]]
    names = ["test_loss", "size", "diverged_at"]
    assert results[names].identical(collect_study(folder)[names])


def test_damaged_results_are_named_and_not_used(folder, tmp_path):
    for path, content in files(folder).items():
        copy = tmp_path / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    damaged = tmp_path / "groups" / "0000" / "results.nc"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"0000/results.nc is damaged"):
        studies.run_study(STUDY, tmp_path, quiet=True)
    damaged.unlink()
    with pytest.raises(ValueError, match=r"damaged or missing"):
        collect_study(tmp_path)


@pytest.mark.parametrize("change", [{"points": 3}, {"cells": ({"steps": 6},), "axes": ()}])
def test_another_study_is_refused_and_nothing_is_written(folder, change):
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
    study = Study(base=replace(BASE, run=replace(BASE.run, arms=("static",))), cells=cells)
    results = studies.run_study(study, tmp_path, quiet=True)
    assert results["test_loss"].dims == ("arm", "cell", "seed", "step")
    assert results["data_seed"].dims == ("cell",)
    assert results["data_seed"].values.tolist() == [4, 9]


def test_seeds_in_parts_are_the_same_runs(tmp_path, monkeypatch):
    run = replace(BASE.run, arms=("static",), seeds=(5, 3, 8))
    study = product(replace(BASE, run=run), [Axis("learning_rate", (1e-2, 1e-3))])
    whole = studies.run_study(study, tmp_path / "whole", quiet=True)
    monkeypatch.setattr("n3.experiments.study.MOST_RUNS", 2)
    parts = studies.run_study(study, tmp_path / "parts", quiet=True)
    assert len(list((tmp_path / "parts" / "groups").iterdir())) == 4
    np.testing.assert_allclose(parts["test_loss"], whole["test_loss"], rtol=1e-6)
    assert parts["seed"].values.tolist() == [5, 3, 8]


def test_numbers_of_steps_may_differ(tmp_path):
    study = product(replace(BASE, run=replace(BASE.run, arms=("static",))), [Axis("steps", (4, 6))])
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


def test_the_table_has_a_row_a_cell_and_arm(folder):
    results = collect_study(folder)
    rows = [row.split() for row in study_table(results, STUDY).splitlines()]
    assert len(rows) == 1 + 12
    assert rows[2][:3] == ["3", "0.01", "growing"]
    last = results["test_loss"].isel(step=-1).sel(arm="static", capacity=2, learning_rate=1e-4)
    assert rows[11][:4] == ["2", "0.0001", "static", f"{float(last.median()):.4g}"]


def test_the_table_counts_the_diverged(folder):
    results = collect_study(folder)
    results["diverged_at"].loc[{"arm": "static", "capacity": 2, "learning_rate": 1e-2}] = [4, -1]
    results["diverged_at"].loc[{"arm": "growing", "capacity": 2, "learning_rate": 1e-2}] = 4
    rows = [row.split() for row in study_table(results, STUDY).splitlines()]
    assert (rows[7][-1], rows[8][-1]) == ("1/2", "2/2")
    assert rows[8][3] == "-"
