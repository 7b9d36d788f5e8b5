"""The command that sweeps: its plan, its groups on disk, its jobs, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from n3.config import grid
from n3.config.experiment import Experiment, RunConfig, TaskConfig, TrainingConfig
from n3.experiments.results import read_results
from n3.experiments.study import prepare_study, train_group

ROOT = Path(__file__).parents[2]
SMALL = (
    "--samples",
    12,
    "--test-samples",
    6,
    "--steps",
    5,
    "--seeds",
    "0:2",
    "--arms",
    "static",
    "--records",
    1,
)
BASE = Experiment(
    task=TaskConfig(samples=12, test_samples=6),
    training=TrainingConfig(steps=5),
    run=RunConfig(arms=("static",), seeds=(0, 1), records=1),
)
"""What the command makes of `SMALL`."""
GRID = ("--grid", "learning_rate=1e-3,1e-2", "capacity=2:4:x2")


@pytest.fixture
def command(monkeypatch, capsys):
    """Call the command in this process: its exit code, and what it printed and complained of."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.delitem(sys.modules, "sweep", raising=False)
    import sweep

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, words)])
        try:
            code = sweep.main()
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr()

    return call


def test_a_dry_run_tells_the_plan_and_writes_nothing(command, tmp_path):
    code, said = command(*SMALL, *GRID, "--out", tmp_path, "--dry-run")
    assert code == 0
    lines = said.out.splitlines()
    assert lines[0] == "4 cells x 1 arms (static) x 2 seeds = 8 runs"
    assert lines[1].startswith("group 0000  2 cells x 2 seeds x 5 steps; 2 of learning_rate; capacity 2")
    assert lines[3] == "2 groups, 2 programs to compile"
    assert not list(tmp_path.iterdir())


def test_a_sweep_ends_in_labelled_results_and_the_same_command_finds_them(command, tmp_path, monkeypatch):
    code, said = command(*SMALL, *GRID, "--out", tmp_path)
    assert code == 0
    (folder,) = tmp_path.iterdir()
    results = read_results(folder)
    assert results["test_loss"].dims == ("arm", "learning_rate", "capacity", "seed", "step")
    assert results["capacity"].values.tolist() == [2, 4]
    assert np.isfinite(results["test_loss"]).all()
    assert f"results: {folder}" in said.out
    rows = said.out.split("\n\n")[1].splitlines()
    assert [row.split()[:3] for row in rows[1:3]] == [["0.001", "2", "static"], ["0.001", "4", "static"]]

    monkeypatch.setattr("n3.experiments.study.train_group_cells", lambda *_, **__: pytest.fail("trained again"))
    assert command(*SMALL, *GRID, "--out", tmp_path)[1].out == said.out


def test_a_quiet_sweep_shows_no_progress(command, tmp_path):
    settings = (*SMALL, "--grid", "learning_rate=1e-3", "--capacity", 2, "--out", tmp_path)
    loud, quiet = (command(*settings, "--name", name, *more)[1] for name, *more in (("a",), ("b", "--quiet")))
    assert "step 5/5" in loud.err
    assert not quiet.err


def test_a_job_trains_what_is_missing_and_the_results_are_joined(tmp_path):
    """The same job array as on a cluster, as processes of this machine; a finished group gets no job."""
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    study = grid.product(BASE, [grid.parse_axis(text) for text in GRID[1:]])
    folder = tmp_path / "jobs"
    prepare_study(study, folder)
    train_group(str(folder), 0, quiet=True)
    words = (*SMALL, *GRID, "--out", tmp_path, "--name", "jobs", "--launcher", "local", "--cpus", 1)
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "sweep.py", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "jobs").glob("*_result.pkl"))) == 1
    results = read_results(folder)
    assert results["test_loss"].dims == ("arm", "learning_rate", "capacity", "seed", "step")
    assert np.isfinite(results["test_loss"]).all()


def test_a_cluster_gets_one_job_a_group_with_its_settings(command, tmp_path, monkeypatch):
    """Without a cluster: what submitit is asked for, and what the command says then."""
    monkeypatch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")  # else its import takes over the logging of pytest
    submitit = pytest.importorskip("submitit", reason="the extra slurm is not installed")
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
    code, said = command(*SMALL, *GRID, "--out", tmp_path, "--name", "far", "--device", "cpu", *launch)
    assert code == 0
    folder = tmp_path / "far"
    assert (asked["folder"], asked["cluster"], asked["items"]) == (folder / "jobs", "slurm", [0, 1])
    assert asked["arguments"] == (str(folder), "cpu")
    assert (asked["slurm_partition"], asked["slurm_array_parallelism"]) == ("gpu", 2)
    assert (asked["timeout_min"], asked["gpus_per_node"], asked["cpus_per_task"]) == (30, 1, 4)
    assert "2 jobs: 77_0, 77_1" in said.out
    assert "--launcher here" in said.out
    assert not (folder / "results.nc").exists()


def test_a_launcher_without_its_extra_ends_with_code_2(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    code, said = command(*SMALL, *GRID, "--out", tmp_path, "--launcher", "slurm")
    assert code == 2
    assert "`uv sync --extra slurm`" in said.err
    assert not list(tmp_path.iterdir())


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
    code, said = command(*SMALL, *words, "--out", tmp_path / "runs")
    assert code == 2
    assert message in said.err
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_another_sweep_is_refused(command, tmp_path):
    words = (*SMALL, "--out", tmp_path, "--name", "same")
    assert command(*words, "--grid", "learning_rate=1e-3")[0] == 0
    code, said = command(*words, "--grid", "learning_rate=1e-2")
    assert code == 2
    assert "holds something else" in said.err
