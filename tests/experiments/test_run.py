"""Experiment: the whole way from a configuration, or a command line, to a run directory."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
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
from n3.data.dataset import load_dataset
from n3.experiments import arms
from n3.experiments.run import grid_of, load_data
from n3.information import gaussian
from n3.training.step import init, observe

ROOT = Path(__file__).parents[2]


def small(out, *, task="bessel", samples=24, steps=30, network=None, **run):
    run = {"arms": ("growing", "static"), "seeds": (0, 1, 2), "records": 5, "out": str(out), "name": "a", **run}
    return Experiment(
        task=TaskConfig(task=task, samples=samples, test_samples=12),
        network=network or NetworkConfig(capacity=(5,)),
        training=TrainingConfig(steps=steps),
        run=RunConfig(**run),
    )


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    every = ("equal-size", "growing", "grown", "static", "warmup")
    experiment = small(tmp_path_factory.mktemp("runs"), arms=every, seeds=(1, 4, 9))
    training = TrainingConfig(steps=30, learning_rate=1e-2, target_size=3.0)
    return n3.run(replace(experiment, training=training), quiet=True)


def test_the_run_directory_holds_what_it_promises(record):
    path = record.directory
    assert n3.Experiment.load(path / "config.json") == record.experiment
    manifest = json.loads((path / "manifest.json").read_text())
    assert {"python", "jax", "jaxlib", "equinox", "optax", "n3"} <= set(manifest["versions"])
    assert set(manifest["seconds"]) == {"wall", "compile", "cpu"}
    assert "results.nc" in manifest["sha256"]
    assert not list(path.rglob("*.part"))


def test_results_come_back_labelled(record):
    back = n3.read(record.directory)
    assert back.experiment == record.experiment
    assert back.results.identical(record.results)
    assert set(back.results.sizes) >= {"arm", "seed", "step", "layer"}
    assert back.results.seed.values.tolist() == [1, 4, 9]
    for name in ("train_loss", "test_loss", "test_metric", "size", "size_penalty", "total_loss"):
        assert np.all(np.isfinite(back.results[name]))


def test_networks_come_back_and_predict_the_same(record):
    networks = n3.load(record.directory)
    data = load_data(record.experiment)
    for arm in record.experiment.run.arms:
        for seed, net, one in zip(record.experiment.run.seeds, networks[arm], data, strict=True):
            outputs = net.batch(jnp.asarray(one.test_inputs.T))
            loss = np.mean((np.asarray(outputs) - one.test_targets.T) ** 2)
            final = record.results.test_loss.sel(arm=arm, seed=seed).values[-1]
            np.testing.assert_allclose(loss, final, rtol=1e-5)


_LOAD = """
import json, sys, jax.numpy as jnp, numpy as np, n3
nets = n3.load(sys.argv[1], compact=True)
x = jnp.linspace(-1, 1, 5)[None]
units = {arm: [net.layers[0].bias.size for net in own] for arm, own in nets.items()}
outputs = {arm: [np.asarray(net.batch(x)).tolist() for net in own] for arm, own in nets.items()}
print(json.dumps([type(nets["static"][0]).__name__, units, outputs]))
"""


def test_compacted_networks_come_back_in_a_fresh_process(record):
    path = record.directory
    done = subprocess.run([sys.executable, "-c", _LOAD, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kind, units, outputs = json.loads(done.stdout)
    assert kind == "CompactMLP"
    for arm, nets in n3.load(path).items():
        assert units[arm] == [int(np.sum(np.asarray(net.participation()[0]) > 0)) for net in nets]
        expected = [net.batch(jnp.linspace(-1, 1, 5)[None]) for net in nets]
        np.testing.assert_allclose(outputs[arm], np.stack(expected), rtol=1e-5, atol=1e-6)
    assert units["static"] == [5, 5, 5]
    assert max(units["grown"]) < 5


def test_predictions_are_the_networks_in_the_targets_own_unit(record):
    networks, results = n3.load(record.directory), record.results
    for row, one in enumerate(load_data(record.experiment)):
        inputs = jnp.asarray(one.input_scaler.transform(results.grid.values.T).T, jnp.float32)
        own = one.target_scaler.inverse(np.asarray(networks["static"][row].batch(inputs), float).T).T
        np.testing.assert_allclose(results.prediction.sel(arm="static")[row], own, rtol=1e-4, atol=1e-5)


def test_samples_and_metric_are_in_the_targets_own_unit(record):
    one, results = load_data(record.experiment)[0], record.results
    np.testing.assert_allclose(results.test_targets, one.target_scaler.inverse(one.test_targets))
    np.testing.assert_allclose(results.train_inputs, one.input_scaler.inverse(np.float64(one.train_inputs)))
    first = results.sel(arm="static", seed=1)
    np.testing.assert_allclose(first.test_metric, one.target_scale[0] * first.test_loss**0.5, rtol=1e-5)


def test_arms_are_paired_by_seed(record):
    data, keys = load_data(record.experiment), jax.vmap(jr.key)(jnp.array(record.experiment.run.seeds))
    for arm in ("grown", "static"):
        recipe = arms.recipe_of(record.experiment, arm, data[0])
        numbers = arms.hypers_of(record.experiment, arm, data=data, active=None)

        def loss(hypers, problem, key, recipe=recipe):
            return observe(recipe, init(recipe, hypers, problem, key=key), hypers, problem).test_loss

        drawn = jax.jit(jax.vmap(loss))(numbers, arms.stack(data), keys)
        np.testing.assert_allclose(record.results.test_loss.sel(arm=arm, step=0), drawn, rtol=1e-5)


def test_equal_size_has_the_growing_arms_parameters(record):
    counts = record.results.active_parameters
    assert np.array_equal(counts.sel(arm="equal-size"), counts.sel(arm="growing"))
    assert np.all(counts.sel(arm="growing") > 1)  # more than the readout's bias
    assert np.all(counts.sel(arm="growing") < counts.sel(arm="static"))


def test_the_static_arm_keeps_its_capacity(record):
    assert np.all(record.results["size"].sel(arm="static") == 5.0)
    assert np.all(record.results["size"].sel(arm="growing").isel(step=0) < 0.01)
    np.testing.assert_allclose(record.results["size"].sel(arm="grown").isel(step=0), 3.0, rtol=1e-3)


def test_classes_are_learnt_by_activations_that_are_chosen_and_drawn(tmp_path):
    network = NetworkConfig(capacity=(5,), activation="choose:tanh,relu")
    record = n3.run(small(tmp_path, task="spirals", steps=300, network=network), quiet=True)
    accuracy = record.results.test_metric
    assert record.results.attrs["metric"] == "accuracy"
    assert float(accuracy.isel(step=-1).mean()) > float(accuracy.isel(step=0).mean())
    assert set(n3.figures(record)) == {"loss", "size", "final-loss", "regions", "choices"}
    shares = n3.read(record.directory).results["choice_share"]
    assert shares.dims == ("arm", "seed", "step", "layer", "choice")
    for arm, nets in n3.load(record.directory, compact=True).items():
        won = [net.layers[0].activation for net in nets]
        last = shares.sel(arm=arm).isel(step=-1, layer=0)
        assert last.choice[last.argmax("choice")].values.tolist() == won
        counts = n3.summarise(record)["choices"][arm]
        assert counts == [{name: won.count(name) for name in ("relu", "tanh")}]
    assert "runs that chose" in n3.table(n3.summarise(record))


def test_what_is_monitored_is_recorded_warned_of_and_written_as_events(tmp_path, capsys):
    """Straight units see a spiral no better than its inputs; units that are masked away have nothing to see."""
    pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")
    network = NetworkConfig(capacity=(5,), activation="identity")
    watching = {"monitor": ("gap", "importance"), "log_dir": str(tmp_path / "logs"), "records": 2}
    blind = n3.run(
        small(tmp_path, task="spirals", samples=200, steps=2, network=network, **watching), quiet=True
    )
    (line,) = capsys.readouterr().err.splitlines()
    median = blind.results["gap"].isel(step=-1, layer=0).median("seed")
    assert f"static layer 1: {float(median.sel(arm='static')):.2f}" in line
    assert "growing" not in line
    assert n3.read(blind.directory).results["gap"].dims == ("arm", "seed", "step", "layer")
    assert n3.figures(blind)["information"].axes[0].get_ylabel() == "gap (nats)"
    assert {path.parent.name for path in (tmp_path / "logs").rglob("*tfevents*")} == {"growing", "static"}
    assert set(n3.load(blind.directory)) == {"growing", "static"}
    with pytest.raises(FileExistsError, match="`log_dir`"):
        n3.run(small(tmp_path, name="b", **watching), quiet=True)
    assert not (tmp_path / "b").exists()


def test_no_warning_where_the_gaussian_estimate_sees_all(tmp_path, capsys):
    n3.run(small(tmp_path, task="line", steps=2, monitor=("gap",), records=1), quiet=True)
    assert capsys.readouterr().err == ""


def test_a_users_importance_is_monitored_in_every_arm(tmp_path):
    network = NetworkConfig(capacity=(5,), mask="linear")  # of which the participations sum to the size
    experiment = small(tmp_path, steps=2, records=1, network=network, monitor=("importance",))
    results = n3.run(
        experiment, importance=lambda active, targets: 2.0 + 0.0 * active[:, 0], quiet=True
    ).results
    np.testing.assert_allclose(results["importance"], 2.0 * results["size"], rtol=1e-5)


@pytest.mark.parametrize(("psi", "expected"), [(0.5, 0.5), *gaussian.PSI.items()])
def test_psi_by_number_and_by_name(psi, expected):
    experiment = small("x", network=NetworkConfig(method="information", capacity=(5,)), monitor=("importance",))
    experiment = replace(experiment, information=InformationConfig(psi=psi)).resolved()
    data = load_data(experiment)
    assert arms.recipe_of(experiment, "growing", data[0]).monitor.psi == expected
    drive = arms.hypers_of(experiment, "growing", data=data, active=None).drive
    np.testing.assert_allclose(drive.psi, [expected] * 3, rtol=1e-6)


def test_absent_extras_are_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ModuleNotFoundError, match="uv sync --extra tensorboard"):
        n3.run(small(tmp_path / "runs", log_dir=str(tmp_path / "logs")), quiet=True)
    assert not list(tmp_path.iterdir())


def test_data_may_be_shared_by_all_seeds():
    experiment = replace(small("x"), task=TaskConfig(samples=8, test_samples=4, data_seed=3)).resolved()
    data = load_data(experiment)
    assert len(data) == 3
    assert data[0] is data[2]
    alone = load_dataset("bessel", train_samples=8, test_samples=4, seed=3)
    assert np.array_equal(data[0].train_inputs, alone.train_inputs)


def test_a_diverged_arm_is_reported(tmp_path):
    experiment = small(tmp_path, network=NetworkConfig(capacity=(5,), activation="identity"), steps=200)
    experiment = replace(experiment, training=TrainingConfig(steps=200, optimiser="sgd", learning_rate=80.0))
    summary = n3.summarise(n3.run(experiment, quiet=True))
    assert summary["arms"]["static"]["diverged_seeds"] == [0, 1, 2]
    assert "3/3" in n3.table(summary)


def test_a_used_run_directory_is_refused(record, tmp_path):
    with pytest.raises(FileExistsError, match="not empty"):
        n3.run(record.experiment, quiet=True)


def of_file(path, out, **task):
    rng = np.random.default_rng(0)
    rows = "".join(
        f"{x:.4f},{c},{x * x + (c == 'b'):.4f}\n" for x, c in zip(rng.normal(size=40), "ab" * 20, strict=True)
    )
    path.write_text("x,colour,y\n" + rows)
    return replace(small(out, steps=20, records=2), task=TaskConfig(data=str(path), target=("y",), **task))


def test_the_users_own_file_is_learnt_and_its_kind_is_told(tmp_path, capsys):
    experiment = of_file(tmp_path / "own.csv", tmp_path / "runs")
    assert "own: regression of y (inferred; `kind` overrides it), 3 inputs, 1 outputs" in n3.describe(
        experiment
    )
    record = n3.run(experiment)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{tmp_path / 'own.csv'}: own: regression of y (inferred; `kind` overrides it)"
    assert n3.read(record.directory).experiment == record.experiment == experiment.resolved()
    assert record.results["inputs_feature"].values.tolist() == ["x", "colour=a", "colour=b"]
    assert record.results.sizes["train_sample"] == 32
    assert record.results["test_targets"].values.max() > 1  # in its own unit
    assert n3.summarise(record)["task"] == "own"
    assert len(n3.load(record.directory)["static"]) == 3


def has_gpu():
    try:
        return bool(jax.devices("gpu"))
    except RuntimeError:
        return False


def test_bad_values_are_refused_before_anything_is_written(tmp_path):
    bad = [
        (small(tmp_path, task="besel"), "bessel"),
        (replace(small(tmp_path), task=TaskConfig(), training=TrainingConfig(batch=2000)), "batch"),
        (replace(small(tmp_path, monitor=("gap",)), task=TaskConfig(samples=3)), "more than three"),
    ]
    for experiment, message in bad if has_gpu() else [*bad, (small(tmp_path, device="gpu"), "--extra cuda13")]:
        with pytest.raises(ValueError, match=message):
            n3.run(experiment, quiet=True)
    assert not list(tmp_path.iterdir())


def test_describe_tells_what_is_chosen_and_until_when(tmp_path):
    network = NetworkConfig(capacity=(5,), activation="choose:tanh,relu")
    text = n3.describe(small(tmp_path, network=network, steps=31))
    assert "each layer chooses among tanh, relu, for good at step 19" in text


def test_describe_writes_nothing(tmp_path):
    text = n3.describe(small(tmp_path, arms=("growing", "static")))
    assert "2 arms x 3 seeds = 6 runs" in text
    assert "1 -> 5 -> 1" in text
    assert not list(tmp_path.iterdir())


def test_stops_begin_at_zero_and_end_at_the_last_step():
    stops = arms.stops_of(replace(small("x"), training=TrainingConfig(steps=7)).resolved())
    assert list(stops) == sorted(set(stops))
    assert (stops[0], stops[-1], len(stops)) == (0, 7, 6)


@pytest.mark.parametrize(
    ("method", "arm", "controller", "first", "size_input", "rescaled"),
    [
        ("auxiliary", "growing", "auxiliary", 1.0, True, False),
        ("auxiliary", "grown", "auxiliary", 3.0, True, False),
        ("auxiliary", "rescaled", "auxiliary", 3.0, True, True),
        ("auxiliary", "warmup", "warmup", 1.0, False, False),
        ("auxiliary", "static", "fixed", 5.0, False, False),
        ("auxiliary", "equal-size", "fixed", 2.0, False, False),
        ("information", "growing", "information", 1.0, False, False),
        ("information", "shrinking", "information", 5.0, False, False),
    ],
)
def test_each_arm_has_its_controller_and_its_first_size(method, arm, controller, first, size_input, rescaled):
    training = TrainingConfig(steps=7, learning_rate=0.01, size_cost=0.2, target_size=3.0, initial_size=1.0)
    experiment = small("x", network=NetworkConfig(method=method, capacity=(5,)))
    experiment = replace(experiment, training=training).resolved()
    data = load_data(experiment)
    recipe = arms.recipe_of(experiment, arm, data[0])
    fixed = (recipe.controller, recipe.size_input, recipe.rescale_size_input)
    assert fixed == (controller, size_input, rescaled)
    assert (recipe.drive is not None) == (controller == "information")
    numbers = arms.hypers_of(experiment, arm, data=data, active=np.full((3, 1), 2))
    assert numbers.initial_size.tolist() == [[first]] * 3
    for values, value in (
        (numbers.learning_rate, 0.01),
        (numbers.weights.size, 0.2),
        (numbers.target_size, 3.0),
        (numbers.target_depth, 1.0),
        (numbers.horizon, 7.0),
    ):
        np.testing.assert_allclose(values, [value] * 3, rtol=1e-6)


def test_the_grid_covers_the_training_inputs():
    data = load_data(small("x").resolved())[0]
    own = data.input_scaler.inverse(data.train_inputs)
    grid = grid_of(data)
    assert grid.shape == (1, 256)
    np.testing.assert_allclose([grid.min(), grid.max()], [own.min(), own.max()])


def command(tmp_path, *words):
    environment = {**os.environ, "EAGER_IMPORT": "", "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "train_growing.py", "--out", tmp_path / "runs", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )


def test_the_command_ends_in_the_table_and_the_run_directory(tmp_path):
    words = ["--seeds", "0:3", "--steps", "20", "--samples", "16", "--arms", "growing", "static", "--name", "b"]
    done = command(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "growing / static" in done.stdout
    assert "device: cpu" in done.stdout
    assert "step 20/20" in done.stderr
    path = tmp_path / "runs" / "b"
    summary = json.loads((path / "summary.json").read_text())
    assert summary["seeds"] == [0, 1, 2]
    assert summary["comparisons"][0]["pairs"] == 3
    assert {p.stem for p in (path / "figures").iterdir()} == {"loss", "size", "final-loss", "fit"}
    sums = json.loads((path / "manifest.json").read_text())["sha256"]
    files = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert set(sums) == files - {"manifest.json"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--steps 0", "`steps` must be positive"),
        ("--stepz 5", "--steps"),
        ("--seeds 5:2", "0:100"),
        ("--seeds 1 1", "distinct"),
        ("--name ../x", "`name`"),
        ("--task bessle", "bessel"),
        ("--data nowhere.csv --target y", "nowhere.csv"),
        ("--target y", "`data`"),
        ("--arms equal-size", "growing"),
        ("--capacity 4 --initial-size 9", "initial_size"),
        ("--config nowhere.json", "nowhere.json"),
        ("--structure-every 5", "`structure_every` needs `method`"),
    ],
)
def test_mistakes_end_with_code_2_and_name_the_field(tmp_path, words, message):
    done = command(tmp_path, *words.split())
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_command_without_the_extra_it_needs_ends_with_code_2(tmp_path, monkeypatch):
    (tmp_path / "tensorboardX.py").write_text(
        "raise ModuleNotFoundError('absent')"
    )  # found before the real one
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    done = command(tmp_path, "--log-dir", tmp_path / "logs", "--psi", "generation")
    assert done.returncode == 2
    assert "`uv sync --extra tensorboard`" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_file_from_the_command_line(tmp_path):
    of_file(tmp_path / "own.csv", tmp_path)
    words = ["--data", tmp_path / "own.csv", "--target", "y", "--seeds", "0:2"]
    done = command(tmp_path, *words, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "own: regression of y" in done.stdout
    assert "32 training and 8 test samples" in done.stdout
    (tmp_path / "own.csv").write_text("x,y\n1,2\n,3\n")
    done = command(tmp_path, *words)
    assert (done.returncode, "Traceback" in done.stderr) == (65, False)
    assert "row 3, column `x` must have a value" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_quiet_command_shows_no_progress(tmp_path):
    done = command(tmp_path, "--steps", "5", "--samples", "8", "--seeds", "0", "--arms", "static", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")


def test_flags_win_over_the_file(tmp_path):
    (tmp_path / "c.json").write_text(small("x", steps=7).resolved().to_json())
    done = command(tmp_path, "--config", tmp_path / "c.json", "--seeds", "0:4", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "2 arms x 4 seeds = 8 runs of 7 steps" in done.stdout
