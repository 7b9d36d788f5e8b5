"""Curves: bins, means and quartiles by hand."""

from functools import partial

import numpy as np
import pytest
import xarray as xr

from n3.paper import variants
from n3.paper.variants import (
    confusions,
    histograms,
    loss_ratio,
    mean_ratio,
    penalty_curves,
    scaling_curves,
    size_points,
)
from n3.stats.distributions import histogram
from n3.stats.scaling_laws import accuracy_curve, power_law
from test_verdicts import trained


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals of laws are tested where laws are."""
    monkeypatch.setattr(variants, "power_law", partial(power_law, resamples=5))


def test_bins_are_equal_on_the_logarithm_and_shares_are_of_all_runs():
    found = histogram({"a": np.array([1e-4, 1e-4, 1e-2, np.nan]), "b": np.array([1.0, 0.3])}, bins=4)
    np.testing.assert_allclose(np.diff(np.log10(found.edges)), 1.0, rtol=1e-6)
    assert found.shares["a"].tolist() == [0.5, 0.0, 0.25, 0.0]
    assert found.shares["b"].tolist() == [0.0, 0.0, 0.0, 1.0]
    assert found.medians == {"a": 1e-4, "b": 0.65}


def test_every_finite_run_is_in_a_bin():
    losses = np.random.default_rng(0).lognormal(-5, 3, 1000)
    assert histogram({"a": losses}).shares["a"].sum() == pytest.approx(1.0)
    assert histogram({"a": np.full(5, 0.25), "b": np.zeros(2)}).shares["b"].sum() == 1.0


def test_no_finite_loss_is_refused():
    with pytest.raises(ValueError, match="all runs diverged"):
        histogram({"a": np.array([np.nan])})


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


def test_accuracy_rises_with_the_parameters_in_an_interval_of_its_mean():
    parameters = np.array([[900.0, 910.0, 905.0], [400.0, 400.0, 400.0]])
    accuracy = np.array([[0.9, 0.96, 0.99], [0.5, 0.5, 0.5]])
    curve = accuracy_curve("growing", parameters, accuracy)
    assert curve.parameters.tolist() == [400.0, 905.0]
    np.testing.assert_allclose(curve.mean, [0.5, 0.95])
    np.testing.assert_allclose([curve.low[0], curve.high[0]], 0.5)
    assert 0.9 <= curve.low[1] < 0.95 < curve.high[1] <= 0.99
    with pytest.raises(ValueError, match="`values` must be finite"):
        accuracy_curve("growing", parameters, np.full_like(accuracy, np.nan))
