"""Results: files that appear whole, JSON without NaN, checksums that fit, and networks that come back."""

import contextlib
import hashlib
import importlib
import json
import os
import subprocess
from dataclasses import replace

import equinox as eqx
import h5py
import jax
import numpy as np
import pytest
import xarray as xr

import hostile
import n3
from hostile import fuzzed
from n3.config.experiment import Experiment, RunConfig
from n3.experiments import directory as directory_of_runs
from n3.experiments import results
from n3.experiments.arms import recipe_of
from n3.experiments.directory import RunDirectory
from n3.experiments.results import join, read, record_fits, unfold
from n3.experiments.run import load_data
from n3.stats.summary import versions
from n3.training.checkpoint import CheckpointError, read_manifest, write_manifest
from n3.training.history import History
from trials import tiny


@pytest.fixture
def directory(tmp_path):
    with RunDirectory.of(replace(Experiment(), run=RunConfig(out=str(tmp_path), name="r"))) as made:
        yield made


def test_json_has_null_for_what_json_cannot_hold(directory):
    directory.write_json("a.json", {"x": [1.0, float("nan")], "y": {"z": np.float32("inf")}, "n": np.int64(3)})
    assert json.loads((directory.path / "a.json").read_text()) == {"x": [1.0, None], "y": {"z": None}, "n": 3}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array([0.5, -np.inf]), [0.5, None]),
        ((1, float("-inf")), [1, None]),
        (np.float64("nan"), None),
        (np.bool_(True), True),
        ("NaN", "NaN"),
        (0.1 + 0.2, 0.1 + 0.2),
    ],
)
def test_json_has_plain_values_for_those_of_numpy(directory, value, written):
    directory.write_json("a.json", {"x": value})
    found = json.loads((directory.path / "a.json").read_text())["x"]
    assert found == written
    assert type(found) is type(written)


def test_a_write_replaces_the_file_and_leaves_no_scratch(directory):
    directory.write("sub/a.txt", b"1")
    directory.write("sub/a.txt", b"2")
    assert [p.name for p in (directory.path / "sub").iterdir()] == ["a.txt"]
    assert (directory.path / "sub" / "a.txt").read_bytes() == b"2"


def test_a_write_that_fails_leaves_the_old_file_and_no_scratch(directory, monkeypatch):
    directory.write("sub/a.txt", b"1")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        directory.write("sub/a.txt", b"2")
    assert [p.name for p in (directory.path / "sub").iterdir()] == ["a.txt"]
    assert (directory.path / "sub" / "a.txt").read_bytes() == b"1"


def test_a_written_file_has_the_mode_that_the_umask_asks_for(directory):
    before = os.umask(0o027)
    try:
        directory.write("a.txt", b"1")
        (directory.path / "plain.txt").write_bytes(b"1")
    finally:
        os.umask(before)
    written, plain = (directory.path / name for name in ("a.txt", "plain.txt"))
    assert written.stat().st_mode == plain.stat().st_mode


def test_the_manifest_has_the_sums_of_all_outputs(directory):
    directory.write("models/a.bin", b"abc")
    (directory.path / "models" / "mine.bin").write_bytes(b"the user's")
    for _ in range(2):  # a manifest never sums itself
        directory.seal({"device": "cpu"})
    manifest = json.loads((directory.path / "manifest.json").read_text())
    assert manifest["sha256"]["models/a.bin"] == hashlib.sha256(b"abc").hexdigest()
    assert set(manifest["sha256"]) == {"models/a.bin", "config.json"}
    assert manifest["device"] == "cpu"


def test_unnamed_runs_are_named_by_task_method_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: "20261129-120000")
    experiment, names = replace(Experiment(), run=RunConfig(out=str(tmp_path))), []
    with contextlib.ExitStack() as stack:
        for _ in range(3):  # of one second: each has a folder of its own
            names.append(stack.enter_context(RunDirectory.of(experiment)).path.name)
    assert names == [f"bessel-controller-20261129-120000{number}" for number in ("", "-2", "-3")]


def test_a_folder_without_results_is_not_a_record(directory):
    with pytest.raises(FileNotFoundError, match="is not finished"):
        read(directory.path)
    directory.seal({})
    with pytest.raises(ValueError, match=r"results\.nc is missing"):
        read(directory.path)


def test_versions_name_the_packages_that_decide_a_result():
    found = versions()
    assert set(found) == {"python", "jax", "jaxlib", "equinox", "optax", "n3"}
    for name in ("jax", "jaxlib", "equinox", "optax"):
        assert found[name] == importlib.import_module(name).__version__


def made_up(seeds, cells=(0,)):
    values = np.array([[100 * cell + seed for seed in seeds] for cell in cells], float)
    return xr.Dataset({"loss": (("cell", "seed"), values)}, coords={"cell": list(cells), "seed": list(seeds)})


def test_a_dimension_unfolds_into_several_in_its_place():
    flat = xr.Dataset(
        {"loss": (("arm", "row", "step"), np.arange(24.0).reshape(2, 6, 2)), "seconds": (("arm",), [1.0, 2.0])},
        coords={"arm": ["a", "b"], "row": range(6), "step": [0, 9]},
    )
    folded = unfold(flat, "row", {"cell": (4, 7), "seed": (1, 2, 3)})
    assert folded["loss"].dims == ("arm", "cell", "seed", "step")
    assert float(folded["loss"].sel(arm="b", cell=7, seed=2, step=9)) == float(flat["loss"][1, 4, 1])
    assert folded["seconds"].identical(flat["seconds"])
    assert folded["step"].values.tolist() == [0, 9]


def test_a_dimension_may_unfold_into_one_of_its_own_name():
    folded = unfold(made_up(range(4)), "seed", {"half": ("first", "second"), "seed": (8, 9)})
    assert float(folded["loss"].sel(cell=0, half="second", seed=8)) == 2.0


def test_joined_parts_are_nan_where_none_has_a_number():
    whole = join([made_up((1, 2)), made_up((3,)), made_up((1,), cells=(5,))])
    assert float(whole["loss"].sel(cell=0, seed=3)) == 3.0
    assert float(whole["loss"].sel(cell=5, seed=1)) == 501.0
    assert np.isnan(float(whole["loss"].sel(cell=5, seed=3)))


def test_parts_that_contradict_each_other_are_refused():
    with pytest.raises(xr.MergeError, match="conflicting values"):
        join([made_up((1,)), made_up((1,)) + 1])


def test_the_networks_own_capacity_counts(tmp_path):
    run = n3.run(tiny(tmp_path, arms=("static",)), has_figures=False, quiet=True)
    recipe = recipe_of(run.experiment, "static", load_data(run.experiment)[0])
    nets = n3.load(run.directory)["static"]
    whole = jax.tree.map(lambda *leaves: np.stack(leaves), *nets)
    with RunDirectory.of(replace(run.experiment, run=replace(run.experiment.run, name="b"))) as directory:
        results.write_models(directory, "static", replace(recipe, capacity=(9,)), whole)
        directory.seal({})
    assert json.loads((tmp_path / "b" / "models" / "static.json").read_text())["capacity"] == [4]
    for own, other in zip(nets, n3.load(tmp_path / "b")["static"], strict=True):
        assert eqx.tree_equal(own, other)


def test_a_damaged_network_is_named(tmp_path):
    run = n3.run(tiny(tmp_path, arms=("static",)), has_figures=False, quiet=True)
    file = run.directory / "models" / "static.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"static\.safetensors"):
        n3.load(run.directory)


def test_results_whose_numbers_lie_elsewhere_are_not_opened(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(80))
    own = {
        "external": lambda file: file.create_dataset(
            "x", (10,), "f8", external=[(str(tmp_path / "secret"), 0, 80)]
        ),
        "soft": lambda file: file.__setitem__("x", h5py.SoftLink("/y")),
        "link": lambda file: file.__setitem__("x", h5py.ExternalLink(str(tmp_path / "secret"), "/")),
        "group": lambda file: file.create_group("x"),
        "virtual": lambda file: file.create_virtual_dataset("x", virtual_from(tmp_path / "secret")),
    }
    for name, write in own.items():
        (tmp_path / name).mkdir()
        with h5py.File(tmp_path / name / "results.nc", "w") as file:
            write(file)
        write_manifest(tmp_path / name, {}, ["results.nc"])
        with pytest.raises(ValueError, match=r"results\.nc is .*: `x` must be a variable whose numbers are in"):
            results.read_results(tmp_path / name)


def virtual_from(path):
    layout = h5py.VirtualLayout((10,), "f8")
    layout[:] = h5py.VirtualSource(path, "x", (10,))
    return layout


def test_results_larger_than_their_file_are_refused_before_they_are_read(tmp_path):
    with h5py.File(tmp_path / "results.nc", "w") as file:
        file.create_dataset("x", (10**12,), "f8", chunks=(1000,), compression="gzip")
    write_manifest(tmp_path, {}, ["results.nc"])
    with pytest.raises(ValueError, match="have 8000000000000 bytes, more than a file of"):
        results.read_results(tmp_path)


def test_what_leads_out_of_the_folder_is_not_read(directory, tmp_path):
    (tmp_path / "elsewhere.json").write_text(Experiment().to_json())
    (directory.path / "config.json").unlink()
    (directory.path / "config.json").symlink_to("../elsewhere.json")
    with pytest.raises(ValueError, match=r"config\.json must lie in its folder"):
        read(directory.path)


@pytest.mark.parametrize("text", ["{}", "[]", '{"sha256": 1}', '{"sha256": {"results.nc": 1}}', "[" * 2000])
def test_a_manifest_that_is_none_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("in_size", 10**9, "is too small for it"),
        ("capacity", [10**9], "is too small for it"),
        ("members", 10**9, "is too small for it"),
        ("in_size", 0, "must be positive"),
        ("in_size", [], "`in_size` must be int"),
        ("mask", "x", "`mask` must be one of"),
        ("optimiser", "x", "`optimiser` must be one of"),
        ("activation", "x", "activation"),
        ("further", 1, "unknown field `further`"),
    ],
)
def test_a_recipe_of_another_network_is_refused_before_anything_is_allocated(tmp_path, field, value, message):
    run = n3.run(tiny(tmp_path, arms=("static",)), has_figures=False, quiet=True)
    path = run.directory / "models" / "static.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    facts = read_manifest(run.directory)
    write_manifest(run.directory, facts, list(facts["sha256"]))
    with pytest.raises(ValueError, match=rf"static\.json.*{message}"):
        n3.load(run.directory)


def test_the_folder_of_a_compact_network_is_no_run_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is not there .*`n3\.surgery\.load_compact`"):
        n3.load(tmp_path)


def test_git_is_asked_about_the_package_alone_and_runs_nothing(tmp_path, monkeypatch):
    before = directory_of_runs._git_state()
    for words in (["init", "-q"], ["config", "core.fsmonitor", f"touch {tmp_path / 'ran'}"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    assert directory_of_runs._git_state() == before
    monkeypatch.setattr(directory_of_runs, "__file__", str(tmp_path / "src" / "n3" / "experiments" / "a.py"))
    assert directory_of_runs._git_state() == {"commit": None, "dirty": False}
    assert not (tmp_path / "ran").exists()


def history(loss, sizes, *, sizes_of=2, **changes):
    """What four runs of a fit might have recorded at two steps."""
    own = {
        "step": np.array([50, 100]),
        "train_loss": np.full((4, 2), 2.0),
        "validation_loss": loss * np.array([[2.0, 1.0]] * 4),
        "validation_accuracy": None,
        "sizes": np.broadcast_to(sizes, (4, 2, 2)).astype(float)[..., :sizes_of],
        "monitor": {"entropy": np.ones((4, 2, 2))},
        "parameters": np.full(4, 30.0),
        "layers": (".first", ".second"),
        "diverged_at": np.array([-1, -1, -1, 70]),
    }
    return History(**own | changes)


def test_fits_have_the_statistics_and_figures_of_experiments():
    histories = {"growing": history(0.5, (3.0, 4.0)), "static": history(1.0, (8.0, 8.0))}
    record = record_fits(histories, task="own", capacity=(8, 8))
    summary = n3.summarise(record)
    assert summary["task"] == "own"
    assert summary["arms"]["growing"]["test_loss"]["median"] == 0.5
    assert summary["arms"]["growing"]["final_size"]["median"] == 7.0
    assert summary["arms"]["static"]["diverged_seeds"] == [3]
    np.testing.assert_allclose(summary["arms"]["static"]["test_metric"]["median"], 1.0)
    assert summary["comparisons"][0]["wins"] == 3
    assert "growing / static" in n3.table(summary)
    assert set(n3.figures(record)) == {"loss", "size", "final-loss", "information"}


def test_a_model_that_was_not_grown_is_a_control_with_all_units():
    plain = history(1.0, (8.0, 8.0), sizes_of=0, monitor={}, layers=())
    record = record_fits({"static": plain, "growing": history(0.5, (3.0, 4.0))}, task="own", capacity=(8, 6))
    assert n3.summarise(record)["arms"]["static"]["final_size"]["median"] == 14.0
    assert np.isnan(record.results["entropy"].sel(arm="static")).all()
    assert set(n3.figures(record)) == {"loss", "size", "final-loss", "information"}


def test_unknown_arms_and_runs_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match=r"`histories` must be of arms growing, .*; got 'mine'"):
        record_fits({"mine": history(0.5, 1.0)}, task="own", capacity=(8, 8))
    fewer = {name: getattr(history(0.5, 1.0), name)[:2] for name in ("train_loss", "sizes", "validation_loss")}
    few = replace(history(0.5, 1.0), **fewer, parameters=np.ones(2), diverged_at=np.full(2, -1), monitor={})
    with pytest.raises(ValueError, match="`histories` must be of as many runs and records each"):
        record_fits({"growing": history(0.5, 1.0), "static": few}, task="own", capacity=(8, 8))


OF_RUNS = ("train_loss", "validation_loss", "sizes", "parameters")


def test_a_single_fit_has_no_statistics():
    single = replace(
        history(0.5, 1.0),
        **{name: np.asarray(getattr(history(0.5, 1.0), name)[0]) for name in OF_RUNS},
        monitor={},
    )
    for refused in (single, history(0.5, 1.0, validation_loss=None)):
        with pytest.raises(ValueError, match="`histories` must be of many runs each, with validation data"):
            record_fits({"growing": refused}, task="own", capacity=(8, 8))


def test_a_damaged_run_directory_is_read_or_named(tmp_path):
    run = hostile.trained(tmp_path)
    fuzzed(hostile.DAMAGES, lambda damage: hostile.check_damage(run, tmp_path, damage), examples=15)
