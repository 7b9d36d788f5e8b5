"""Trajectory: the watched run is the trained one, seen more often at the beginning."""

from dataclasses import replace

import numpy as np
import pytest

import n3
from n3.config.experiment import TaskConfig
from n3.paper.trajectory import record_trajectory
from trials import tiny

BASE = tiny(training={"steps": 100, "learning_rate": 3e-2}, arms=("growing",), seeds=(4, 9))


@pytest.fixture(scope="module")
def watched():
    return record_trajectory(BASE, frames=8)


def test_the_watched_run_is_the_first_seeds(watched, tmp_path):
    record = n3.run(
        replace(BASE, run=replace(BASE.run, out=str(tmp_path), name="a")), has_figures=False, quiet=True
    )
    results = record.results.sel(arm="growing").isel(step=-1, drop=True)
    np.testing.assert_allclose(watched.test_loss[-1], results["test_loss"][0], rtol=1e-4)
    np.testing.assert_allclose(watched.grid, results["grid"])
    np.testing.assert_allclose(watched.predictions[-1], results["prediction"][0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(watched.inputs, results["train_inputs"])
    np.testing.assert_allclose(watched.targets, results["train_targets"], rtol=1e-6)
    rmse = np.sqrt(np.mean(watched.residuals[-1] ** 2))
    np.testing.assert_allclose(rmse, results["test_metric"][0], rtol=1e-4)


def test_looks_begin_and_end_with_the_run_and_are_denser_at_first(watched):
    assert (watched.steps[0], watched.steps[-1], len(watched.steps)) == (0, 100, 8)
    gaps = np.diff(watched.steps)
    assert gaps[0] < gaps[-1]
    assert (np.diff(gaps) >= -1).all()


def test_participation_is_that_of_every_unit_of_every_layer(watched):
    assert [layer.shape for layer in watched.participation] == [(8, 4)]
    assert all(((layer >= 0) & (layer <= 1)).all() for layer in watched.participation)
    assert watched.sizes[0] < 1e-3
    assert watched.sizes[-1] > watched.sizes[2] > 0
    np.testing.assert_allclose(watched.sizes, sum(layer.sum(axis=1) for layer in watched.participation))


def test_few_steps_are_few_frames_and_classes_have_logits_on_a_square():
    task, training = TaskConfig(task="spirals-3", samples=12, test_samples=6), replace(BASE.training, steps=3)
    found = record_trajectory(replace(BASE, task=task, training=training), "static", frames=50)
    assert found.steps.tolist() == [0, 1, 2, 3]
    assert found.is_classes
    assert found.grid.shape == (4096, 2)
    assert found.predictions.shape == (4, 4096, 3)
    assert found.residuals.shape == (4, 6, 3)
    assert found.input_names == ("x", "y")


@pytest.mark.parametrize(("arm", "frames", "task"), [("equal-size", 5, "bessel"), ("growing", 1, "bessel")])
def test_what_cannot_be_watched_is_refused(arm, frames, task):
    with pytest.raises(ValueError, match=f"`frames` be 2 or more; got {arm}, 1 and {frames}"):
        record_trajectory(replace(BASE, task=TaskConfig(task=task, samples=16)), arm, frames=frames)
