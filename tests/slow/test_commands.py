"""Commands as users start them: processes of their own, and every experiment of the paper cut short."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import n3
from n3.cli import run_command
from n3.config import grid
from n3.config.experiment import Experiment, NetworkConfig, RunConfig, TaskConfig, TrainingConfig
from n3.data.dataset import DATASETS
from n3.experiments.results import read_results
from n3.experiments.study import prepare_study, train_group
from n3.paper.experiments import NAMES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = "--samples 12 --test-samples 6 --steps 5 --records 1 --arms static"


def started(script, *words, paths=(), **settings):
    """A command in a process of its own, without type checks; `paths` are found before the real packages."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, ROOT / "scripts" / script, *words]
    return subprocess.run(
        list(map(str, words)), capture_output=True, text=True, env=environment | settings, timeout=600
    )


@pytest.fixture
def without_jax(tmp_path):
    (tmp_path / "jax.py").write_text("raise RuntimeError('JAX was imported')")
    return tmp_path


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("train_growing.py", ("--learning-rate", "task options")),
        ("sweep.py", ("--grid", "launch options")),
        ("reproduce.py", ("sizes-mnist1d", "computing options")),
    ],
)
def test_help_is_grouped_and_needs_no_jax(script, words, without_jax):
    done = started(script, "--help", paths=(without_jax,))
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in words)


@pytest.mark.parametrize("words", ["--steps 0", "--stepz 5", "--seeds 5:2", "--config nowhere.json"])
def test_mistakes_end_without_jax_and_without_a_traceback(words, without_jax):
    done = started("train_growing.py", *words.split(), paths=(without_jax,))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_command_trains_and_a_quiet_one_says_nothing_meanwhile(tmp_path):
    words = (*SMALL.split(), "growing", "--seeds", "0:3", "--out", tmp_path)
    loud, quiet = (
        started("train_growing.py", *words, "--name", n, *more) for n, *more in ("a", ("b", "--quiet"))
    )
    assert (loud.returncode, quiet.returncode, quiet.stderr) == (0, 0, "")
    assert "step 5/5" in loud.stderr
    assert "device: cpu x 2" in quiet.stdout
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["comparisons"][0]["pairs"] == 3
    assert {p.stem for p in (tmp_path / "b" / "figures").iterdir()} == {"loss", "size", "final-loss", "fit"}


def test_the_second_command_compiles_nothing_and_ends_with_the_same_numbers(tmp_path):
    runs = []
    for name in ("first", "second"):
        environment = {name: value for name, value in os.environ.items() if "CACHE" not in name}
        environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        words = [sys.executable, ROOT / "scripts/train_growing.py", *SMALL.split(), "--out", tmp_path]
        subprocess.run([*map(str, words), "--name", name], check=True, env=environment, timeout=600)
        kept = sorted(path.name for path in (tmp_path / "n3").rglob("*-cache"))
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["compilation_cache"]
        runs.append((kept, (tmp_path / name / "models/static.safetensors").read_bytes()))
    assert runs[0] == runs[1]
    assert runs[0][0]


def test_a_command_without_the_extra_it_needs_ends_with_code_2(tmp_path):
    (tmp_path / "tensorboardX.py").write_text("raise ModuleNotFoundError('absent')")
    done = started(
        "train_growing.py", "--log-dir", tmp_path / "logs", "--out", tmp_path / "r", paths=(tmp_path,)
    )
    assert done.returncode == 2
    assert "`uv sync --extra tensorboard`" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()


LOAD = """
import json, sys, jax.numpy as jnp, numpy as np, n3
nets = n3.load(sys.argv[1], compact=True)
x = jnp.linspace(-1, 1, 5)[None]
units = {arm: [net.layers[0].bias.size for net in own] for arm, own in nets.items()}
outputs = {arm: [np.asarray(net.batch(x)).tolist() for net in own] for arm, own in nets.items()}
print(json.dumps([type(nets["static"][0]).__name__, units, outputs]))
"""


def test_compacted_networks_come_back_in_a_fresh_process(tmp_path):
    experiment = Experiment(
        task=TaskConfig(samples=24, test_samples=12),
        network=NetworkConfig(capacity=(5,)),
        training=TrainingConfig(steps=30, learning_rate=1e-2, target_size=3.0),
        run=RunConfig(arms=("growing", "grown", "static"), seeds=(1, 4, 9), out=str(tmp_path), name="a"),
    )
    path = n3.run(experiment, has_figures=False, quiet=True).directory
    done = subprocess.run([sys.executable, "-c", LOAD, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kind, units, outputs = json.loads(done.stdout)
    assert kind == "CompactMLP"
    for arm, nets in n3.load(path).items():
        assert units[arm] == [int(np.sum(np.asarray(net.participation()[0]) > 0)) for net in nets]
        expected = [net.batch(jnp.linspace(-1, 1, 5)[None]) for net in nets]
        np.testing.assert_allclose(outputs[arm], np.stack(expected), rtol=1e-5, atol=1e-6)
    assert units["static"] == [5, 5, 5]
    assert max(units["grown"]) < 5


def test_a_job_trains_what_is_missing_and_the_results_are_joined(tmp_path):
    """The same job array as on a cluster, as processes of this machine; a finished group gets no job."""
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    base = Experiment(
        task=TaskConfig(samples=12, test_samples=6),
        training=TrainingConfig(steps=5),
        run=RunConfig(arms=("static",), seeds=(0, 1), records=1),
    )
    settings = ("learning_rate=1e-3,1e-2", "capacity=2:4:x2")
    folder = tmp_path / "jobs"
    prepare_study(grid.product(base, map(grid.parse_axis, settings)), folder)
    train_group(str(folder), 0, quiet=True)
    launch = ("--out", tmp_path, "--name", "jobs", "--launcher", "local", "--cpus", 1)
    done = started("sweep.py", *SMALL.split(), "--seeds", "0:2", "--grid", *settings, *launch)
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "jobs").glob("*_result.pkl"))) == 1
    results = read_results(folder)
    assert results["test_loss"].dims == ("arm", "learning_rate", "capacity", "seed", "step")
    assert np.isfinite(results["test_loss"]).all()


@pytest.fixture
def reproduce(monkeypatch, capsys):
    """Call `reproduce.py` in this process: its exit code, and what it printed and complained of."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["n3", "reproduce", *map(str, words)])
        code = run_command(sys.argv[1:])
        return code, capsys.readouterr()

    return call


def test_histories_leave_results_figures_and_verdicts(reproduce, tmp_path):
    words = ("figure-2", "--quick", "--trials", 2, "--out", tmp_path, "--quiet", "--no-loop")
    code, said = reproduce(*words)
    assert code == 0
    folder = tmp_path / "figure-2-quick-2"
    assert (folder / "figures" / "figure-2.png").stat().st_size > 20_000
    assert (folder / "figures" / "growth.gif").read_bytes()[:4] == b"GIF8"
    told = json.loads((folder / "verdict.json").read_text())
    assert {row["verdict"] for row in told["verdicts"]} == {"cut short"}
    assert told["cost"]["trainings"] == 12  # five arms and automatic sizing, two trials each
    assert {"rescaled", "warmup", "equal-size"} == set(told["verdicts"][0]["controls"])
    assert (folder / "verdict.txt").read_text() in said.out


def test_a_run_of_fewer_samples_has_a_folder_of_its_own(reproduce, tmp_path):
    words = ("--quick", "--trials", 2, "--samples", 64, "--out", tmp_path, "--quiet", "--no-loop")
    code, said = reproduce("controller-bessel", *words)
    assert code == 0
    assert "cut to 64 samples" in said.out
    written = json.loads((tmp_path / "controller-bessel-quick-2-64-samples/main/study.json").read_text())
    assert written["base"]["task"]["samples"] == 64


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_runs_cut_short(name, reproduce, tmp_path):
    if name == "sizes-mnist1d" and "mnist1d" not in DATASETS:
        pytest.skip("the data set mnist1d is not there")
    code, said = reproduce(name, "--quick", "--trials", 3, "--out", tmp_path, "--quiet")
    assert code == 0, said.err
    told = json.loads((tmp_path / f"{name}-quick-3" / "verdict.json").read_text())
    assert told["verdicts"]
    assert told["cost"]["loop_cpu_seconds"] > 0


PAGES = "".join((ROOT / "docs" / page).read_text() for page in ("get-started.md", "how-to/model.md"))
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGES, flags=re.S)


def test_the_first_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[0], "get-started.md", "exec"), {})
    assert "growing / static" in capsys.readouterr().out


def test_a_model_of_the_readers_becomes_smaller(capsys):
    names = {}
    exec(compile(EXAMPLES[1], "model.md", "exec"), names)
    assert type(names["smaller"]) is type(names["model"])
    shapes = [layer.weight.shape for layer in names["smaller"].layers]
    assert str(shapes) in capsys.readouterr().out
    assert 1 <= shapes[0][0] < 32
    assert 1 <= shapes[1][0] < 32
    (many,) = (own for own in EXAMPLES if "models, history = n3.fit(" in own)
    exec(compile(many, "model.md", "exec"), names)
    assert names["history"].sizes.shape[0] == 5
    assert "Medians over 5 seeds" in capsys.readouterr().out
