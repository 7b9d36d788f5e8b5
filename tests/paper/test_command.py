"""The command that reproduces: what it leaves, what it says, what it does not do again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from n3.data.dataset import DATASETS
from n3.paper.experiments import NAMES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(monkeypatch, capsys):
    """Call the command in this process: its exit code, and what it printed and complained of."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import reproduce

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *map(str, words)])
        code = reproduce.main()
        return code, capsys.readouterr()

    return call


def test_an_experiment_leaves_results_figures_and_verdicts_and_is_not_run_twice(command, tmp_path, monkeypatch):
    words = ("figure-2", "--quick", "--trials", 2, "--out", tmp_path, "--quiet", "--no-loop")
    code, said = command(*words)
    assert code == 0
    folder = tmp_path / "figure-2-quick-2"
    assert (folder / "figures" / "figure-2.png").stat().st_size > 20_000
    assert (folder / "figures" / "growth.gif").read_bytes()[:4] == b"GIF8"
    assert (folder / "main" / "results.nc").exists()
    told = json.loads((folder / "verdict.json").read_text())
    assert {row["verdict"] for row in told["verdicts"]} <= {
        "reproduced",
        "not reproduced",
        "reversed by control",
        "-",
    }
    assert told["cost"]["trainings"] == 12  # five arms and automatic sizing, two trials each
    assert {"rescaled", "warmup", "equal-size"} == set(told["verdicts"][0]["controls"])
    assert (folder / "verdict.txt").read_text() in said.out
    sums = json.loads((folder / "manifest.json").read_text())["sha256"]
    assert {"figures/figure-2.png", "verdict.json", "main/results.nc"} <= set(sums)

    monkeypatch.setattr("n3.experiments.study.train_group_cells", lambda *_, **__: pytest.fail("trained again"))
    code, again = command(*words)
    assert (code, again.out) == (0, said.out)


def test_a_folder_of_another_kind_is_refused(command, tmp_path):
    (tmp_path / "figure-2-quick" / "main").mkdir(parents=True)
    (tmp_path / "figure-2-quick" / "main" / "thesis.txt").write_text("mine")
    code, said = command("figure-2", "--quick", "--out", tmp_path)
    assert code == 2
    assert "holds something else" in said.err


def test_bad_trials_end_with_code_2_and_write_nothing(command, tmp_path):
    code, said = command("figure-2", "--trials", 900, "--out", tmp_path / "runs")
    assert code == 2
    assert "`trials` must lie in [1, 200]; got 900" in said.err
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_made_ends_with_code_73(command, tmp_path):
    (tmp_path / "file").write_text("no folder")
    code, said = command("figure-2", "--quick", "--trials", 1, "--out", tmp_path / "file", "--quiet")
    assert code == 73
    assert "cannot write" in said.err


def test_a_run_of_fewer_samples_has_a_folder_of_its_own(command, tmp_path):
    words = ("--quick", "--trials", 2, "--samples", 64, "--out", tmp_path, "--quiet", "--no-loop")
    code, said = command("controller-bessel", *words)
    assert code == 0
    assert "cut to 64 samples" in said.out
    written = json.loads(
        (tmp_path / "controller-bessel-quick-2-64-samples" / "main" / "study.json").read_text()
    )
    assert written["base"]["task"]["samples"] == 64


def test_all_runs_every_name(command, monkeypatch):
    import reproduce

    called = []
    monkeypatch.setattr(reproduce, "run", lambda name, arguments: called.append((name, arguments.quick)))
    assert command("all", "--quick")[0] == 0
    assert called == [(name, True) for name in NAMES]


@pytest.mark.parametrize("script", ["reproduce.py", "sweep.py"])
def test_help_is_grouped_and_needs_no_jax(script, tmp_path):
    (tmp_path / "jax.py").write_text("raise RuntimeError('JAX was imported')")  # found before the real one
    paths = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    environment = {k: v for k, v in os.environ.items() if k != "EAGER_IMPORT"} | {"PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--help"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    expected = {
        "reproduce.py": ("sizes-mnist1d", "computing options"),
        "sweep.py": ("--grid", "launch options"),
    }
    assert all(word in done.stdout for word in expected[script])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_runs_cut_short(name, command, tmp_path):
    if name == "sizes-mnist1d" and "mnist1d" not in DATASETS:
        pytest.skip("the data set mnist1d is not there")
    code, said = command(name, "--quick", "--trials", 3, "--out", tmp_path, "--quiet")
    assert code == 0, said.err
    told = json.loads((tmp_path / f"{name}-quick-3" / "verdict.json").read_text())
    assert told["verdicts"]
    assert told["cost"]["loop_cpu_seconds"] > 0
