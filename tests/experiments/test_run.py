"""Run: the whole way from a configuration, or a command line, to a run directory."""

import contextlib
import hashlib
import importlib
import io
import json
import sys
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import n3
from documents import documented_variables
from n3.config.experiment import StructureConfig, TaskConfig, TrainingConfig
from n3.data.dataset import load_dataset
from n3.experiments import arms, memory
from n3.experiments.run import grid_of, load_data
from n3.training.placement import TERMS
from n3.training.step import init, observe
from n3.training.sweep import sweep
from networks import outputs as outputs_of
from trials import tiny

pipeline = importlib.import_module("n3.experiments.run")
EVERY = ("equal-size", "growing", "grown", "static", "warmup")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    training = {"steps": 30, "target_size": 2.0}
    experiment = tiny(tmp_path_factory.mktemp("runs"), training=training, arms=EVERY, seeds=(1, 4))
    return n3.run(experiment, has_figures=False, quiet=True)


def test_the_run_directory_holds_what_it_promises(record):
    path = record.directory
    assert n3.Experiment.load(path / "config.json") == record.experiment
    manifest = json.loads((path / "manifest.json").read_text())
    assert {"python", "jax", "jaxlib", "equinox", "optax", "n3"} <= set(manifest["versions"])
    assert set(manifest["seconds"]) == {"wall", "compile", "cpu"}
    networks = {f"models/{arm}.{kind}" for arm in EVERY for kind in ("json", "safetensors")}
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert (
        files
        == {"config.json", "results.nc", "summary.json", "manifest.json", ".lock", "preprocessing.json"}
        | networks
    )
    summed = files - {"manifest.json", ".lock"}
    sums = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in summed}
    assert manifest["sha256"] == sums


def test_the_summary_is_left_beside_the_results(record):
    left = json.loads((record.directory / "summary.json").read_text())
    assert left == json.loads(json.dumps(n3.summarise(record)))
    assert left["seeds"] == [1, 4]
    assert left["arms"]["grown"]["test_loss"]["values"] == pytest.approx(
        record.results["test_loss"].sel(arm="grown").isel(step=-1).values.tolist()
    )


def test_results_come_back_labelled(record):
    back = n3.read(record.directory)
    assert back.experiment == record.experiment
    assert back.results.identical(record.results)
    assert set(back.results.sizes) >= {"arm", "seed", "step", "layer"}
    assert back.results.seed.values.tolist() == [1, 4]
    assert back.results["grid"].dims == ("point", "input")
    assert back.results["prediction"].dims == ("arm", "shown_seed", "point", "output")
    for name in ("train_loss", "test_loss", "test_metric", "size", "size_penalty", "total_loss"):
        assert np.all(np.isfinite(back.results[name]))


def test_networks_come_back_and_predict_the_same(record):
    networks = n3.load(record.directory)
    data = load_data(record.experiment)
    for arm in record.experiment.run.arms:
        for seed, net, one in zip(record.experiment.run.seeds, networks[arm], data, strict=True):
            outputs = outputs_of(net, jnp.asarray(one.test_inputs.T))
            loss = np.mean((np.asarray(outputs) - one.test_targets.T) ** 2)
            final = record.results.test_loss.sel(arm=arm, seed=seed).values[-1]
            np.testing.assert_allclose(loss, final, rtol=1e-5)


def test_compacted_networks_come_back_without_the_units_that_take_no_part(record):
    small, line = n3.load(record.directory, compact=True), jnp.linspace(-1, 1, 5)[None]
    whole = n3.load(record.directory)
    for arm in ("grown", "static"):
        for net, own in zip(whole[arm], small[arm], strict=True):
            assert isinstance(own, n3.CompactMLP)
            assert own.layers[0].bias.size == np.sum(np.asarray(net.participation()[0]) > 0)
            np.testing.assert_allclose(own.batch(line), outputs_of(net, line), rtol=1e-5, atol=1e-6)
    assert [net.layers[0].bias.size for net in small["static"]] == [4, 4]
    assert max(net.layers[0].bias.size for net in small["grown"]) < 4


def test_predictions_are_the_networks_in_the_targets_own_unit(record):
    networks, results = n3.load(record.directory), record.results
    for row, one in enumerate(load_data(record.experiment)):
        inputs = jnp.asarray(one.input_scaler.transform(results.grid.values).T, jnp.float32)
        own = one.target_scaler.inverse(np.asarray(outputs_of(networks["static"][row], inputs), float).T)
        np.testing.assert_allclose(results.prediction.sel(arm="static")[row], own, rtol=1e-4, atol=1e-5)


def test_samples_and_metric_are_in_the_targets_own_unit(record):
    one, results = load_data(record.experiment)[0], record.results
    np.testing.assert_allclose(results.test_targets, one.target_scaler.inverse(one.test_targets))
    np.testing.assert_allclose(results.train_inputs, one.input_scaler.inverse(np.float64(one.train_inputs)))
    first = results.sel(arm="static", seed=1)
    np.testing.assert_allclose(first.test_metric, one.target_scale[0] * first.test_loss**0.5, rtol=1e-5)


@pytest.mark.parametrize("arm", ["grown", "static"])
def test_arms_are_paired_by_seed(record, arm):
    data, keys = load_data(record.experiment), jax.vmap(jr.key)(jnp.array(record.experiment.run.seeds))
    recipe = arms.recipe_of(record.experiment, arm, data[0])
    numbers = arms.hypers_of(record.experiment, arm, data=data, active=None)

    def loss(hypers, problem, key):
        return observe(recipe, init(recipe, hypers, problem, key=key), hypers, problem).test_loss

    drawn = jax.jit(jax.vmap(loss))(numbers, arms.stack(data), keys)
    np.testing.assert_allclose(record.results.test_loss.sel(arm=arm, step=0), drawn, rtol=1e-5)


def test_equal_size_has_the_growing_arms_parameters(record):
    counts = record.results.active_parameters
    assert np.array_equal(counts.sel(arm="equal-size"), counts.sel(arm="growing"))
    assert np.all(counts.sel(arm="growing") > 1)  # more than the readout's bias
    assert np.all(counts.sel(arm="growing") < counts.sel(arm="static"))


def test_the_static_arm_keeps_its_capacity(record):
    assert np.all(record.results["size"].sel(arm="static") == 4.0)
    assert np.all(record.results["size"].sel(arm="growing").isel(step=0) < 0.01)
    np.testing.assert_allclose(record.results["size"].sel(arm="grown").isel(step=0), 2.0, rtol=1e-3)


def test_a_used_run_directory_is_refused(record, tmp_path):
    with pytest.raises(FileExistsError, match="not empty"):
        n3.run(record.experiment, quiet=True, resume="never")
    with pytest.raises(FileExistsError, match="`steps` 30 there and 31 here"):
        n3.run(replace(record.experiment, training=TrainingConfig(steps=31, target_size=2.0)), quiet=True)
    with pytest.raises(FileNotFoundError, match="nothing to go on with"):
        n3.run(tiny(tmp_path), quiet=True, resume="must")


def test_a_finished_run_is_read_and_not_trained_again(record, monkeypatch):
    monkeypatch.setattr(pipeline, "train_cells", None)
    again = n3.run(record.experiment, quiet=True, has_figures=False)
    assert again.results.identical(record.results)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run of which all is recorded that can be, what it said meanwhile, and what the importance was given.

    The gap is put into its records by hand: estimating it is slow to compile (tested where it is made, and
    from end to end among the slow tests).
    """
    pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")
    folder, given, said = tmp_path_factory.mktemp("watched"), [], io.StringIO()
    experiment = tiny(
        folder,
        network={"mask": "linear", "activation": "choose:tanh,relu"},  # participations sum to the size
        arms=("growing",),
        monitor=("importance",),
        log_dir=str(folder / "logs"),
    )

    def importance(active, targets):
        given.append((active.shape, targets.shape))
        return 2.0 + 0.0 * active[0]

    def with_a_gap(*arguments, **settings):
        made = sweep(*arguments, **settings)
        monitor = made.records.monitor | {"gap": np.full_like(made.records.size, 5.0)}
        return replace(made, records=eqx.tree_at(lambda records: records.monitor, made.records, monitor))

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(memory, "sweep", with_a_gap)
        record = n3.run(experiment, importance=importance, has_figures=False, quiet=True)
    return record, said.getvalue(), given


def test_every_variable_is_documented_and_has_its_unit(record, watched):
    for own in (record.results, watched[0].results):
        assert set(own.data_vars) <= documented_variables()
        bare = {name for name, variable in own.data_vars.items() if "units" not in variable.attrs}
        samples = {"grid", "prediction", "train_inputs", "train_targets", "test_inputs", "test_targets"}
        assert bare == samples, "these have the units of the user's columns, or are logits"
    told = watched[0].results
    assert {told[name].attrs["units"] for name in ("importance", "gap")} == {"nats"}


def test_what_is_chosen_is_recorded_summarised_and_kept(watched):
    record = watched[0]
    shares = n3.read(record.directory).results["choice_share"]
    assert shares.dims == ("arm", "seed", "step", "layer", "choice")
    won = [net.layers[0].activation for net in n3.load(record.directory, compact=True)["growing"]]
    last = shares.sel(arm="growing").isel(step=-1, layer=0)
    assert last.choice[last.argmax("choice")].values.tolist() == won
    summary = n3.summarise(record)
    assert summary["choices"]["growing"] == [{name: won.count(name) for name in ("relu", "tanh")}]
    assert "runs that chose" in n3.table(summary)


def test_a_users_importance_is_monitored_of_samples_first(watched):
    record, _, given = watched
    np.testing.assert_allclose(record.results["importance"], 2.0 * record.results["size"], rtol=1e-5)
    assert set(given) == {((12, 1), (12, 1)), ((12, 4), (12, 1))}  # the inputs are the trial before all else


def test_what_is_monitored_is_drawn_and_written_as_events(watched):
    record = watched[0]
    made = n3.figures(record)
    assert set(made) == {"loss", "size", "final-loss", "fit", "information", "choices"}
    assert made["information"].axes[0].get_ylabel() == "importance (nats)"
    assert {path.parent.name for path in record.directory.parent.rglob("*tfevents*")} == {"growing"}


def test_a_gap_is_warned_of(watched):
    (line,) = watched[1].splitlines()
    assert line.startswith("warning: ")
    assert "growing layer 1: 5.00" in line


def test_a_used_folder_of_events_is_refused_before_anything_is_written(watched, tmp_path):
    experiment = watched[0].experiment
    elsewhere = replace(experiment, run=replace(experiment.run, out=str(tmp_path)))
    with pytest.raises(FileExistsError, match="`log_dir`"):
        n3.run(elsewhere, quiet=True)
    assert not list(tmp_path.iterdir())


def test_a_diverged_arm_is_reported(tmp_path):
    experiment = tiny(tmp_path, training={"learning_rate": 1e30}, arms=("static",))
    record = n3.run(experiment, has_figures=False, quiet=True)
    summary = n3.summarise(record)
    assert summary["arms"]["static"]["diverged_seeds"] == [5, 3]
    assert "2/2" in n3.table(summary)
    left = json.loads((record.directory / "summary.json").read_text())
    assert left["arms"]["static"]["test_loss"]["median"] is None


def test_absent_extras_are_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ModuleNotFoundError, match="uv sync --extra tensorboard"):
        n3.run(tiny(tmp_path / "runs", log_dir=str(tmp_path / "logs")), quiet=True)
    assert not list(tmp_path.iterdir())


def test_data_may_be_shared_by_all_seeds():
    data = load_data(tiny(task={"data_seed": 3}, seeds=(0, 1, 2)).resolved())
    assert len(data) == 3
    assert data[0] is data[2]
    alone = load_dataset("bessel", train_samples=12, test_samples=6, seed=3)
    assert np.array_equal(data[0].train_inputs, alone.train_inputs)


def of_file(path, out, colours):
    """An experiment on 30 rows of a user's own, of which every fifth is for tests."""
    rng = np.random.default_rng(0)
    rows = [
        (f"{x:.4f}", c, f"{x * x + (c == 'b'):.4f}")
        for x, c in zip(rng.normal(size=30), "ab" * 15, strict=True)
    ]
    header = ("x", "colour", "y")
    path.write_text("".join(",".join(row if colours else row[::2]) + "\n" for row in (header, *rows)))
    task = {"data": str(path), "target": ("y",), "samples": 12, "test_samples": 6}
    return tiny(out, task=task, arms=("static",))


def test_the_users_own_file_is_learnt_and_its_kind_is_told(tmp_path, capsys):
    experiment = of_file(tmp_path / "own.csv", tmp_path / "runs", colours=False)
    record = n3.run(experiment, has_figures=False)
    lines = capsys.readouterr().err.splitlines()
    path = tmp_path / "own.csv"
    assert lines[:2] == [f"reading {path}", "own: regression of y (inferred; `kind` overrides it)"]
    assert lines[-1].startswith("static x 2: step 6/6, ")
    assert n3.read(record.directory).experiment == record.experiment == experiment.resolved()
    assert record.results["inputs_feature"].values.tolist() == ["x"]
    assert record.results.sizes["train_sample"] == 12
    assert record.results["test_targets"].values.max() > 1  # in its own unit
    assert n3.summarise(record)["task"] == "own"


@pytest.mark.parametrize("unit", [1e-22, 1.6e-19, 2e30])
def test_the_error_is_in_the_targets_own_unit_whatever_that_is(tmp_path, unit):
    x = np.random.default_rng(0).normal(size=(30, 1))
    errors = []
    for name, own in {"one": 1.0, "other": unit}.items():
        np.savez(tmp_path / f"{name}.npz", inputs=x, targets=x[:, 0] ** 2 * own)
        task = {"data": str(tmp_path / f"{name}.npz"), "samples": 12, "test_samples": 6}
        record = n3.run(tiny(tmp_path, task=task, arms=("static",), name=name), has_figures=False, quiet=True)
        errors.append(record.results["test_metric"].values / own)
    assert errors[0].dtype == np.float64
    np.testing.assert_allclose(*errors, rtol=1e-5)


def test_words_of_a_file_are_an_input_each(tmp_path):
    experiment = of_file(tmp_path / "own.csv", tmp_path / "runs", colours=True)
    text = n3.describe(experiment)
    assert "own: regression of y (inferred; `kind` overrides it), 3 inputs, 1 outputs" in text
    (first, _) = load_data(experiment.resolved())
    assert first.input_names == ("x", "colour=a", "colour=b")
    assert grid_of(first).shape == (0, 3)


def has_gpu():
    try:
        return bool(jax.devices("gpu"))
    except RuntimeError:
        return False


def test_bad_values_are_refused_before_anything_is_written(tmp_path):
    informed = tiny(tmp_path, network={"method": "information"})
    bad = [
        (tiny(tmp_path, task={"task": "besel"}), "bessel"),
        (replace(tiny(tmp_path), task=TaskConfig(), training=TrainingConfig(batch=2000)), "batch"),
        (tiny(tmp_path, task={"samples": 3}, monitor=("gap",)), "more than three"),
        (
            tiny(tmp_path, monitor=("entropi",)),
            "`monitor` must be one of .* got 'entropi'. Did you mean 'entropy'",
        ),
        *(
            (replace(informed, structure=StructureConfig(structure_every=5, prune=text)), message)
            for text, message in (
                ("layer.gain < 1", r"`prune` must name units, .* got 'layer\.gain < 1'"),
                ("importence < 1", r"`prune` must be a criterion of units: .* Did you mean 'importance'"),
            )
        ),
    ]
    for experiment, message in bad if has_gpu() else [*bad, (tiny(tmp_path, device="gpu"), "--extra cuda13")]:
        with pytest.raises(ValueError, match=message):
            n3.run(experiment, quiet=True)
    assert not list(tmp_path.iterdir())


def test_describe_tells_what_is_chosen_and_until_when():
    text = n3.describe(tiny(network={"activation": "choose:tanh,relu"}, training={"steps": 31}))
    assert "each layer chooses among tanh, relu, for good at step 19" in text


def test_describe_says_how_runs_lie_on_the_cpu_and_what_steps_cost():
    """By hand: 60 runs of 1,000 steps, in blocks of 4 on each of four devices, 40 units and 1,024 samples."""
    settings = {"capacity": (40,), "method": "controller"}
    wide = tiny(task={"samples": 1024}, network=settings, training={"steps": 1000}, seeds=tuple(range(20)))
    text = n3.describe(replace(wide, run=replace(wide.run, arms=("growing", "static", "warmup"))))
    assert (
        f"computing   {len(jax.local_devices())} devices; 2 runs at once on each, tiles of 400 samples; "
        in text
    )
    each = np.array([20 / 2, *(20 * np.array([40 * 3, 1024 * 40, 1024 * 40, 1024]))])
    seconds = 3 * 1000 * each @ np.array([*TERMS.values()])
    assert f"steps take about {seconds:.2g} seconds of CPU time, all units counted" in text


def test_describe_writes_nothing(tmp_path):
    text = n3.describe(tiny(tmp_path))
    assert "2 arms x 2 seeds = 4 runs of 6 steps" in text
    assert "1 -> 4 -> 1" in text
    assert not list(tmp_path.iterdir())


def test_the_grid_covers_the_training_inputs():
    data = load_data(tiny().resolved())[0]
    own = data.input_scaler.inverse(data.train_inputs)
    grid = grid_of(data)
    assert grid.shape == (256, 1)
    np.testing.assert_allclose([grid.min(), grid.max()], [own.min(), own.max()])
    square = load_dataset("spirals", train_samples=12, test_samples=6, seed=0)
    own = square.input_scaler.inverse(square.train_inputs)
    grid = grid_of(square)
    assert grid.shape == (64 * 64, 2)
    np.testing.assert_allclose([grid[0], grid[-1]], [own.min(axis=0), own.max(axis=0)])
    assert grid[1, 1] == grid[0, 1] != grid[64, 1]  # the first input moves fastest


@pytest.mark.slow
def test_a_run_counts_its_test_samples_by_class_and_reports_recalls(tmp_path, record):
    own = n3.run(tiny(tmp_path, task={"task": "spirals"}), quiet=True)
    found = n3.read(own.directory).results
    counts = found["confusion"]
    assert counts.dims == ("arm", "seed", "true_class", "predicted_class")
    assert (counts.sum(("true_class", "predicted_class")) == 6).all()
    right = np.trace(counts.values, axis1=2, axis2=3) / 6
    np.testing.assert_allclose(right, found["test_metric"].isel(step=-1).values, atol=1e-6)
    recall = json.loads((own.directory / "summary.json").read_text())["arms"]["growing"]["recall"]
    assert list(recall) == counts["true_class"].values.tolist()
    assert "balanced accuracy" in (own.directory / "report.html").read_text()
    assert "confusion" not in record.results


GATED = {"method": "information", "depth_gates": True, "capacity": (4, 4)}


@pytest.mark.parametrize("network", [{}, {"method": "information"}, GATED])
def test_an_experiment_runs_under_64_bits(network, tmp_path):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        record = n3.run(tiny(tmp_path, network=network, arms=("growing",)), has_figures=False, quiet=True)
    assert np.isfinite(record.results["test_loss"]).all()
