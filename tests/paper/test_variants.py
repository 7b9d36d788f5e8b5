"""Variants: runs found by name, cell and seed, and what is made of their ends by hand."""

import numpy as np
import pytest
import xarray as xr

from n3.config.grid import Study
from n3.experiments import study
from n3.paper.claims import Part
from n3.paper.variants import (
    Trained,
    by_size,
    confusions,
    gather,
    histograms,
    law_of,
    loss_ratio,
    mean_ratio,
    penalty_curves,
    scaling_curves,
    size_points,
)
from trials import tiny, trained


@pytest.fixture(scope="module")
def part():
    base = tiny(task={"task": "sine-classes"}, arms=("static", "growing"), seeds=(7, 2))
    cells = ({"learning_rate": 1e-3, "task": "sine-classes"}, {"learning_rate": 1e-2, "task": "sine-classes"})
    return Part(name="main", study=Study(base=base, cells=cells, points=50), names={"static": "baseline"})


@pytest.fixture(scope="module")
def results(part):
    return study.train_group_cells(part.study, study.plan_groups(part.study)[0], quiet=True)


def test_the_last_step_of_every_run_is_found_by_its_labels(part, results):
    runs = gather([Trained.of(part, results)], "baseline", "test_loss", {"learning_rate": (0, 1)})
    assert set(runs) == {((rate,), seed) for rate in (1e-3, 1e-2) for seed in (7, 2)}
    expected = results["test_loss"].sel(arm="static", cell=1, seed=2).isel(step=-1)
    assert runs[(1e-2,), 2] == float(expected)


@pytest.mark.parametrize(
    ("where", "count"),
    [({}, 2), ({"learning_rate": 1e-3}, 2), ({"learning_rate": (1e-3, 1e-2)}, 2), ({"learning_rate": 5.0}, 0),
     ({"capacity": 9}, 2), ({"task": "bessel"}, 0)],
)  # fmt: skip
def test_cells_are_chosen_by_label_or_range_and_by_what_they_have(part, results, where, count):
    assert len(gather([Trained.of(part, results)], "growing", "test_loss", where)) == count


def test_an_arm_that_goes_by_another_name_is_not_found_by_its_own(part, results):
    assert gather([Trained.of(part, results)], "static", "test_loss", {}) == {}


def test_accuracy_is_that_on_the_fresh_points_where_they_were_counted(part, results):
    own = Trained.of(part, results).values["accuracy"]
    counts = results["confusion"].sel(arm="growing", cell=1, seed=7).values
    assert own[1, 1, 0] == np.trace(counts) / 50
    without = Trained.of(part, results.drop_vars("confusion")).values["accuracy"]
    np.testing.assert_array_equal(
        without[1, 1, 0], results["test_metric"].sel(arm="growing", cell=1, seed=7)[-1]
    )


def test_diverged_runs_are_nan(part, results):
    lost = results.copy(deep=True)
    lost["diverged_at"].loc[{"arm": "growing", "cell": 0, "seed": 2}] = 3
    runs = gather([Trained.of(part, lost)], "growing", "test_loss", {"learning_rate": 1e-3})
    assert np.isnan(runs[(), 2])
    assert np.isfinite(runs[(), 7])


def test_sizes_rise_and_seeds_that_were_not_run_are_nan():
    sizes, losses = by_size({((8.0,), 1): 3.0, ((4.0,), 1): 1.0, ((4.0,), 5): 2.0})
    assert sizes.tolist() == [4.0, 8.0]
    np.testing.assert_array_equal(losses, [[1.0, 2.0], [3.0, np.nan]])


def test_a_law_needs_four_sizes():
    runs = {((float(size),), seed): 2.0 / size for size in (4, 8, 16, 32) for seed in (0, 1)}
    assert law_of(runs).slope.value == pytest.approx(-1.0)
    assert law_of({key: loss for key, loss in runs.items() if key[0][0] > 4}) is None


def test_a_histogram_a_task_over_all_parts():
    cells = [{"task": "cubic"}, {"task": "bessel"}]
    parts = [trained({"growing": np.array([[1.0, 2.0], [30.0, 40.0]])}, cells=cells) for _ in range(2)]
    found = histograms(parts, ("growing",))
    assert list(found) == ["cubic", "bessel"]
    assert found["bessel"].medians["growing"] == 35.0


def test_confusions_add_up_over_runs_and_parts():
    parts = [trained({"grown": np.ones((1, 3)), "growing": np.ones((1, 3))}) for _ in range(2)]
    counts = xr.DataArray(
        np.arange(24).reshape(2, 1, 3, 2, 2),
        dims=("arm", "cell", "seed", "true_class", "predicted_class"),
        coords={"arm": ["grown", "growing"]},
    )
    found = confusions(parts, [xr.Dataset({"confusion": counts})] * 2, ("growing", "grown"))
    assert list(found) == ["growing", "grown"]
    np.testing.assert_array_equal(found["grown"], 2 * counts.values[0, 0].sum(axis=0))


def test_penalties_are_means_over_the_trials_by_rising_weight():
    cells = [{"size_cost": 10.0}, {"size_cost": 0.1}]
    losses = {"growing": np.array([[1.0, 3.0], [5.0, np.nan]]), "grown": np.array([[4.0, 4.0], [8.0, 12.0]])}
    own = trained(losses, cells=cells, size_penalty=np.arange(8.0).reshape(2, 2, 2))
    found = penalty_curves([own], ("growing", "grown"))
    assert found["growing"].weights.tolist() == [0.1, 10.0]
    assert found["growing"].loss.tolist() == [5.0, 2.0]
    assert found["growing"].penalty.tolist() == [4.5, 0.5]
    weights, ratio = loss_ratio(found["growing"], found["grown"])
    assert (weights.tolist(), ratio.tolist()) == ([0.1, 10.0], [0.5, 0.5])


def test_scaling_has_a_curve_a_rate_and_variant():
    sizes = (4, 8, 16, 32)
    cells = [{"capacity": (size,), "learning_rate": rate} for rate in (1e-4, 1e-3) for size in sizes]
    static = np.array([[2.0 / size, 8.0 / size] for _ in range(2) for size in sizes])
    parts = [trained({"static": static}, cells=cells), trained({"warmup": static[4:]}, cells=cells[4:])]
    found = scaling_curves(parts, ("static", "growing", "warmup"))
    assert [(curve.rate, curve.variant) for curve in found] == [
        (1e-3, "static"),
        (1e-3, "warmup"),
        (1e-4, "static"),
    ]
    np.testing.assert_allclose(found[0].mean, 4.0 / np.array(sizes))
    np.testing.assert_allclose(found[0].low, 3.5 / np.array(sizes))
    np.testing.assert_allclose(found[0].high, 6.5 / np.array(sizes))
    assert found[0].law.slope.value == pytest.approx(-1.0)


def test_mean_ratio_by_hand_without_the_diverged():
    losses = np.array([[[1.0, 2.0], [3.0, 2.0]], [[2.0, 8.0], [6.0, np.inf]]])
    results = xr.Dataset({"test_loss": (("arm", "seed", "step"), losses)}, coords={"arm": ["growing", "grown"]})
    np.testing.assert_allclose(mean_ratio(results, "grown", "growing"), [2.0, 4.0])


def test_size_points_are_quartiles_of_the_runs_that_ended():
    others = {
        "final_size": np.array([[[1.0, 2.0, 3.0, np.nan]], [[np.nan] * 4]]),
        "accuracy": np.array([[[0.1, 0.2, 0.3, 0.9]], [[0.5] * 4]]),
    }
    own = trained(
        {"growing": np.ones((2, 4))}, cells=[{"steps": 1}, {"steps": 2}], names={"growing": "x"}, **others
    )
    (point,) = size_points([own])
    assert (point.variant, point.size) == ("x", (1.5, 2.0, 2.5))
    np.testing.assert_allclose(point.accuracy, (0.15, 0.2, 0.25))


def test_a_run_that_diverged_counts_in_nothing():
    values = {"test_loss": [0.1, np.nan], "test_metric": [0.9, 0.4], "size_penalty": [0.2, 7.0]}
    names = ("final_size", "active_parameters")
    found = xr.Dataset(
        {
            name: (("cell", "arm", "seed", "step"), np.array(own)[None, None, :, None])
            for name, own in values.items()
        }
        | {"size": (("cell", "arm", "seed", "step", "layer"), np.ones((1, 1, 2, 1, 1)))}
        | {name: (("cell", "arm", "seed"), np.array([[[-1, 3]]])) for name in ("diverged_at", names[1])},
        coords={"arm": ["growing"], "seed": [0, 1], "cell": [0], "step": [9]},
    )
    part = trained({"growing": np.array([0.1, 0.2])}).part
    own = Trained.of(part, found).values
    assert all(np.isnan(own[name][0, 0, 1]) for name in own)
    assert own["accuracy"][0, 0, 0] == 0.9
    assert own["size_penalty"][0, 0, 0] == 0.2
