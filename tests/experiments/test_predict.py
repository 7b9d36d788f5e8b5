"""Predict: raw rows through a stored run, against its networks by hand, and every refusal."""

import importlib
import json
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import n3
from n3.config.experiment import TaskConfig
from n3.experiments.predict import Predictions, outputs_of
from n3.surgery.export import write_out
from n3.training.checkpoint import read_manifest, write_manifest
from trials import tiny

ROWS = 30


def written(path, *, kind):
    """Rows of a number with holes and a colour; the target is a number, or a name."""
    rng = np.random.default_rng(0)
    x, colours = rng.normal(5, 2, ROWS).round(4), np.array(["red", "blue"] * (ROWS // 2))
    y = 100 + 10 * x if kind == "regression" else np.where(x > 5, "high", "low")
    held = ["" if row == 2 else str(own) for row, own in enumerate(x)]
    rows = zip(range(ROWS), held, colours, y, strict=True)
    path.write_text("id,x,colour,y\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return pd.DataFrame({"x": np.where(np.arange(ROWS) == 2, np.nan, x), "colour": colours})


def learnt(folder, *, kind="regression", quiet=True, **run):
    task = {"data": str(folder / "own.csv"), "target": ("y",), "drop": ("id",)}
    frame = written(folder / "own.csv", kind=kind)
    experiment = tiny(folder, task=task, arms=("static",), **run)
    return n3.run(experiment, has_figures=False, quiet=quiet).directory, frame


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    return (*learnt(folder), folder / "own.csv")


def test_a_file_a_frame_and_a_mapping_give_the_same_in_the_users_units(run):
    directory, frame, path = run
    own = n3.predict(directory, path, arm="static", seed=3)
    assert (own.names, own.labels, own.values.shape) == (("y",), None, (ROWS, 1))
    for rows in (frame, {name: frame[name].to_numpy() for name in reversed(frame.columns)}):
        assert np.array_equal(n3.predict(directory, rows, arm="static", seed=3).values, own.values)
    array = frame.to_numpy(object)
    assert np.array_equal(n3.predict(directory, array, arm="static", seed=3).values, own.values)


def test_the_numbers_are_those_of_the_network_by_hand(run):
    directory, frame, _ = run
    stored = json.loads((directory / "preprocessing.json").read_text())
    own = stored["each"][stored["places"][1]]
    x = frame["x"].to_numpy()
    whole = np.stack(
        [
            np.where(np.isnan(x), own["encoder"]["columns"][0]["median"], x),
            np.isnan(x),
            frame["colour"] == "blue",
            frame["colour"] == "red",
        ],
        axis=1,
    )
    scaled = (whole - own["input_offset"]) / own["input_scale"]
    net = n3.load(directory)["static"][1]
    outputs = np.asarray(net.batch(jnp.asarray(scaled.T, jnp.float32)).T)
    expected = outputs * own["target_scale"] + own["target_offset"]
    found = n3.predict(directory, frame, arm="static", seed=3).values
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.all(np.abs(found - 150) < 100)


def test_without_a_seed_it_is_the_mean_of_all(run):
    directory, frame, _ = run
    each = [n3.predict(directory, frame, arm="static", seed=seed).values for seed in (5, 3)]
    assert np.array_equal(n3.predict(directory, frame, arm="static").values, np.mean(each, axis=0))


def test_columns_are_missing_left_out_or_unseen(run):
    directory, frame, _ = run
    with pytest.raises(ValueError, match=r"must have the columns 'colour': not there\. Did you mean 'Colour'"):
        n3.predict(directory, frame.rename(columns={"colour": "Colour"}), arm="static")
    with pytest.warns(UserWarning, match="column `z` is not an input; ignored"):
        n3.predict(directory, frame.assign(z=1, y=2, id=3), arm="static")
    with pytest.warns(
        UserWarning, match="row 0, counted from 0, column `colour`: 'green' was not in training; co"
    ):
        green = n3.predict(directory, frame.assign(colour="green"), arm="static").values
    assert np.all(np.isfinite(green))
    with pytest.warns(UserWarning, match="column `x` has no value; each counts as"):
        n3.predict(directory, frame.assign(x=np.nan), arm="static")


def test_a_file_written_otherwise_is_read_as_it_is_said(run, tmp_path):
    directory, frame, path = run
    own, expected = tmp_path / "new.csv", n3.predict(directory, path, arm="static").values
    frame.to_csv(own, sep=";", decimal=",", index=False)
    how = {"separator": ";", "decimal": ","}
    assert np.array_equal(n3.predict(directory, own, arm="static", **how).values, expected)
    with pytest.raises(
        n3.DataError, match=r"new\.csv: row 2, column `x` must be a number with a point .*: set"
    ):
        n3.predict(directory, own, arm="static")
    with pytest.raises(ValueError, match="`separator` and `decimal` must differ; got ',' for both: save the"):
        n3.predict(directory, own, arm="static", separator=",", decimal=",")
    own.write_text("x,colour\n1,green\n2,blue\n3,green\n4,\n")
    with pytest.warns(UserWarning, match="was not in training") as found:
        n3.predict(directory, own, arm="static")
    assert [str(each.message) for each in found] == [
        "row 2, column `colour`: 'green' was not in training; counted as none (and in row 4)",
        "row 5, column `colour`: a missing value was not in training; counted as none",
    ]
    own.write_text("x,color\n1,green\n2,blue\n")
    with pytest.raises(
        n3.DataError, match=r"new\.csv must have the columns 'colour': not there\. Did you mean"
    ):
        n3.predict(directory, own, arm="static")


def test_what_a_run_does_not_have_is_refused(run):
    directory, frame, path = run
    with pytest.raises(ValueError, match="`arm` must be one of static; got 'growing'"):
        n3.predict(directory, frame)
    with pytest.raises(ValueError, match="`seed` must be one of the run that did not diverge, 5, 3; got 4"):
        n3.predict(directory, frame, arm="static", seed=4)
    with pytest.raises(FileNotFoundError):
        n3.predict(path.parent, frame)
    with pytest.raises(ValueError, match="`rows` must have 2 columns, x, colour; got 3"):
        n3.predict(directory, np.zeros((2, 3)), arm="static")


def test_a_damaged_file_is_refused(tmp_path):
    directory, frame = learnt(tmp_path)
    path = directory / "preprocessing.json"
    path.write_text(path.read_text().replace("blue", "blu"))
    with pytest.raises(ValueError, match=r"preprocessing\.json"):
        n3.predict(directory, frame, arm="static")


def test_classes_have_probabilities_and_names(tmp_path, capsys):
    directory, frame = learnt(tmp_path, kind="classification", quiet=False)
    assert "\nown: classification of y (inferred" in f"\n{capsys.readouterr().err}"
    own = n3.predict(directory, frame, arm="static")
    assert own.names == ("high", "low")
    np.testing.assert_allclose(own.values.sum(axis=1), 1.0, rtol=1e-12)
    assert own.labels == tuple(own.names[place] for place in own.values.argmax(axis=1))
    own.to_csv(tmp_path / "told" / "own.csv")
    table = pd.read_csv(tmp_path / "told" / "own.csv")
    assert list(table) == ["class", "probability of high", "probability of low"]
    assert np.array_equal(table.to_numpy()[:, 1:].astype(float), own.values)


def test_a_drawn_task_is_predicted_in_its_own_units(tmp_path):
    directory = n3.run(tiny(tmp_path), has_figures=False, quiet=True).directory
    points = np.linspace(-6, 6, 5)
    found = n3.predict(directory, points, seed=5)
    net = n3.load(directory)["growing"][0]
    (data,) = n3.data.load_task(TaskConfig(samples=12, test_samples=6), (5,))
    scaled = data.input_scaler.transform(points[:, None])
    outputs = np.asarray(net.batch(jnp.asarray(scaled.T, jnp.float32)).T)
    np.testing.assert_allclose(found.values, data.target_scaler.inverse(outputs), rtol=1e-5, atol=1e-6)
    assert np.array_equal(n3.predict(directory, {"x": points}, seed=5).values, found.values)


def test_a_rows_outputs_do_not_depend_on_others(run):
    directory, _, _ = run
    net = n3.compact(n3.load(directory)["static"][0])
    inputs = np.random.default_rng(0).normal(size=(300, 4))
    whole = outputs_of(net, inputs)
    assert whole.dtype == np.float64
    assert np.array_equal(outputs_of(net, inputs[290:]), whole[290:])
    assert outputs_of(net, inputs[:0]).shape == (0, 1)


def test_predictions_of_numbers_are_written_with_their_names(tmp_path):
    Predictions(names=("a", "b"), values=np.array([[1.5, -2.0]]), labels=None).to_csv(tmp_path / "own.csv")
    assert (tmp_path / "own.csv").read_text() == "a,b\n1.5,-2.0\n"


@pytest.mark.parametrize(
    "value", [[], {}, {"arms": 1}, {"arms": {"static": []}}, {"arms": {"static": {"diverged_seeds": 5}}}]
)
def test_a_summary_of_another_form_is_refused(value, tmp_path):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=r"summary.json must have `diverged_seeds` of arm static"):
        importlib.import_module("n3.experiments.predict")._lost_of(path, "static")


@pytest.mark.parametrize("places", [[], [0], [0, 5], [-1, 0], [0, 0, 0]])
def test_places_that_name_no_preprocessing_are_refused(places, run, tmp_path):
    folder, frame, _ = run
    copy = shutil.copytree(folder, tmp_path / "copy")
    stored = json.loads((copy / "preprocessing.json").read_text())
    (copy / "preprocessing.json").write_text(json.dumps(stored | {"places": places}))
    facts = read_manifest(copy)
    write_manifest(copy, facts, sorted(facts.pop("sha256")))
    with pytest.raises(ValueError, match="`places` must name one of `each` for every seed"):
        n3.predict(copy, frame, arm="static")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_what_is_asked_for_in_a_pipe_is_written_to_it(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_out(path, b"rows")
    assert path.is_fifo()
    assert os.read(reading, 10) == b"rows"
    os.close(reading)


def test_a_link_keeps_leading_to_its_file(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    write_out(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("out", ["", ".", "a\0b"])
def test_no_file_to_write_to_is_refused(out):
    with pytest.raises(ValueError, match="`out` must name a file"):
        write_out(out, b"rows")
