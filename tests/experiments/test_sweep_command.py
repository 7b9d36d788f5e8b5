"""The command that sweeps: its plan, its groups on disk, its jobs, and what it refuses."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from n3.cli import run_command
from n3.experiments.results import read_results

SMALL = "--samples 12 --test-samples 6 --steps 5 --seeds 0:2 --arms static --records 1 --capacity 4"
GRID = ("--grid", "learning_rate=1e-3,1e-2", "steps=4,5")
"""Two groups of one program."""


@pytest.fixture
def command(monkeypatch, capsys):
    """Call the command in this process: its exit code, and what it printed and complained of."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["n3", "sweep", *map(str, words)])
        try:
            code = run_command(sys.argv[1:])
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr()

    return call


def test_a_dry_run_tells_the_plan_and_writes_nothing(command, tmp_path):
    code, said = command(*SMALL.split(), *GRID, "--out", tmp_path, "--dry-run")
    assert code == 0
    lines = said.out.splitlines()
    assert lines[0] == "4 cells x 1 arms (static) x 2 seeds = 8 runs"
    assert lines[1].startswith("group 0000  2 cells x 2 seeds x 4 steps; 2 of learning_rate; steps 4")
    assert lines[1].endswith(" MiB for samples and states, besides the program")
    assert lines[3] == "on a CPU steps take less than a second of CPU time, all units counted"
    assert lines[4] == "2 groups, 1 programs to compile"
    assert not list(tmp_path.iterdir())


def test_a_sweep_ends_in_labelled_results_and_the_same_command_finds_them(command, tmp_path, monkeypatch):
    code, said = command(*SMALL.split(), *GRID, "--out", tmp_path)
    assert code == 0
    (folder,) = tmp_path.iterdir()
    results = read_results(folder)
    assert results["test_loss"].dims == ("arm", "learning_rate", "steps", "seed", "step")
    assert results["steps"].values.tolist() == [4, 5]
    assert np.isfinite(results["test_loss"]).sum() == 4 * 2 * 2  # NaN where a run of other steps was recorded
    assert "step 5/5" in said.err
    assert f"results: {folder}" in said.out
    assert "group 1 of 2\n" in said.err
    assert said.out.startswith(
        "\nMedians over 2 seeds at the last step; test loss in squared scaled units.\n\n"
    )
    rows = said.out.split("\n\n")[1].splitlines()
    assert "rmse (unit of the target)" in rows[0]
    assert {own: results[own].attrs.get("units") for own in ("test_loss", "size", "step", "run_seconds")} == {
        "test_loss": "squared scaled units",
        "size": "effective units",
        "step": "optimiser steps",
        "run_seconds": "s",
    }
    summary = json.loads((folder / "summary.json").read_text())
    own = summary["cells"][1]
    assert (own["settings"], list(own["arms"])) == ({"learning_rate": 0.001, "steps": 5}, ["static"])
    values = own["arms"]["static"]["test_loss"]
    final = results["test_loss"].sel(arm="static", learning_rate=0.001, steps=5, step=5).values
    assert values == {"median": np.median(final), "values": final.tolist()}
    assert (summary["steps"], summary["loss_unit"]) == (5, "squared scaled units")
    assert [row.split()[:3] for row in rows[1:3]] == [["0.001", "4", "static"], ["0.001", "5", "static"]]

    monkeypatch.setattr("n3.experiments.study.train_group_cells", lambda *_, **__: pytest.fail("trained again"))
    assert command(*SMALL.split(), *GRID, "--out", tmp_path)[1].out == said.out


@pytest.fixture
def submitit(monkeypatch):
    """The package, without its hold on the logging of pytest, as on a cluster."""
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    return pytest.importorskip("submitit", reason="the extra slurm is not installed")


def test_jobs_of_this_machine_train_what_is_missing_and_the_results_are_joined(
    command, submitit, tmp_path, monkeypatch
):
    """The jobs run in this process here, and as processes of their own in the slow tests."""
    asked = {}

    class Executor:
        def __init__(self, folder, cluster):
            asked.update(folder=Path(folder), cluster=cluster)

        def update_parameters(self, **settings):
            asked.update(settings)

        def map_array(self, function, items):
            asked.update(items=items)
            jobs = [{"wait": lambda _, item=item: function(item), "job_id": f"77_{item}"} for item in items]
            return [type("Job", (), job)() for job in jobs]

    monkeypatch.setattr(submitit, "AutoExecutor", Executor)
    words = (*SMALL.split(), *GRID, "--out", tmp_path, "--name", "jobs", "--cpus", 1, "--quiet")
    code, said = command(*words, "--launcher", "local")
    folder = tmp_path / "jobs"
    assert (code, said.err) == (0, "")
    assert (asked["folder"], asked["cluster"], asked["items"]) == (folder / "jobs", "local", [0, 1])
    assert (asked["cpus_per_task"], "slurm_partition" in asked) == (1, False)
    assert read_results(folder)["test_loss"].dims == ("arm", "learning_rate", "steps", "seed", "step")
    assert f"results: {folder}" in said.out
    (folder / "groups" / "0001" / "manifest.json").unlink()
    assert "1 jobs: 77_1" in command(*words, "--launcher", "slurm")[1].out
    assert asked["items"] == [1]


def test_a_cluster_gets_one_job_a_group_with_its_settings(command, submitit, tmp_path, monkeypatch):
    """Without a cluster: what submitit is asked for, and what the command says then."""
    asked = {}

    class Executor:
        def __init__(self, folder, cluster):
            asked.update(folder=Path(folder), cluster=cluster)

        def update_parameters(self, **settings):
            asked.update(settings)

        def map_array(self, function, items):
            asked.update(items=items, arguments=(*function.args, function.keywords["device"]))
            return [type("Job", (), {"job_id": f"77_{item}"})() for item in items]

    monkeypatch.setattr(submitit, "AutoExecutor", Executor)
    launch = ("--launcher", "slurm", "--partition", "gpu", "--minutes", 30, "--gpus", 1, "--most-jobs", 2)
    code, said = command(*SMALL.split(), *GRID, "--out", tmp_path, "--name", "far", "--device", "cpu", *launch)
    assert code == 0
    folder = tmp_path / "far"
    assert (asked["folder"], asked["cluster"], asked["items"]) == (folder / "jobs", "slurm", [0, 1])
    assert asked["arguments"] == (str(folder), "cpu")
    assert (asked["slurm_partition"], asked["slurm_array_parallelism"]) == ("gpu", 2)
    assert (asked["timeout_min"], asked["gpus_per_node"], asked["cpus_per_task"]) == (30, 1, 4)
    assert "2 jobs: 77_0, 77_1" in said.out
    assert "--launcher here" in said.out
    assert not (folder / "results.nc").exists()


@pytest.mark.parametrize(
    ("launcher", "is_there", "message"),
    [
        ("slurm", False, "`uv sync --extra slurm`"),
        ("local", False, "`uv sync --extra slurm`"),
        ("slurm", True, "needs Slurm, and there is no `srun` here"),
    ],
)
def test_a_launcher_that_cannot_start_jobs_ends_with_code_2(
    launcher, is_there, message, command, tmp_path, monkeypatch
):
    monkeypatch.setattr("n3.cli.sweep.importlib.util.find_spec", lambda _: is_there or None)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("n3.cli.sweep.ended", lambda _: pytest.fail("not seen with the flags"))
    code, said = command(*SMALL.split(), *GRID, "--out", tmp_path, "--launcher", launcher)
    assert code == 2
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--process 0", "`coordinator`, `processes` and `process` go with `distributed`: set it too"),
        ("--distributed --process 0", "are set together, or none of them"),
        ("--distributed --launcher local", "`distributed` does not go with `launcher` local"),
        ("--distributed --coordinator node1 --processes 2 --process 0", "must be HOST:PORT.*got 'node1'"),
        ("--distributed --coordinator node1:99999 --processes 2 --process 0", "must be HOST:PORT"),
        ("--distributed --coordinator node1:7777 --processes 2 --process 2", "got 2 of 2 `processes`"),
        ("--parts 0", "`parts` must be 1 or more; got 0"),
    ],
)
def test_settings_of_processes_that_do_not_go_together_end_with_code_2(flags, message, command, tmp_path):
    code, said = command(*SMALL.split(), *GRID, "--out", tmp_path, *flags.split())
    assert code == 2
    assert re.search(message, said.err)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_what_a_cluster_would_be_asked_for(command, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    launch = ("--launcher", "slurm", "--partition", "gpu", "--minutes", 30, "--gpus", 1, "--most-jobs", 2)
    code, said = command(*SMALL.split(), *GRID, "--out", tmp_path, "--dry-run", *launch)
    assert code == 0
    assert said.out.splitlines()[-1] == (
        "slurm: an array of 2 jobs, at most 2 at once, in partition gpu; 30 minutes, 4 cores and 1 GPUs each"
    )


def test_a_dry_run_of_too_much_tells_the_plan_and_what_would_fit(command, tmp_path, monkeypatch):
    monkeypatch.setattr("n3.experiments.memory.free_bytes", lambda _: 10_000)
    code, said = command(*SMALL.replace("0:2", "0:500").split(), *GRID, "--out", tmp_path, "--dry-run")
    assert code == 2
    assert said.out.startswith("4 cells x 1 arms (static) x 500 seeds = 2000 runs")
    assert re.search(r"`seeds`.* must be less: .*; \d seeds fit\.", said.err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--grid", "learning_rte=1"), "Did you mean 'learning_rate'"),
        (("--grid", "learning_rate=fast"), "learning_rate=fast"),
        (("--grid", "steps=5", "steps=6"), "distinct"),
        (("--log-dir", "logs"), "`log_dir`"),
        (("--method", "information", "--price", "0.1:1:3"), "`price` as a path"),
        (("--grid", "task=bessel,besel"), "bessel"),
    ],
)
def test_mistakes_end_with_code_2_and_write_nothing(words, message, command, tmp_path):
    code, said = command(*SMALL.split(), *words, "--out", tmp_path / "runs")
    assert code == 2
    assert message in said.err
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_another_sweep_is_refused(command, tmp_path):
    words = (*SMALL.split(), "--out", tmp_path, "--name", "same")
    assert command(*words, "--grid", "learning_rate=1e-3")[0] == 0
    code, said = command(*words, "--grid", "learning_rate=1e-2")
    assert code == 2
    assert "holds something else" in said.err
