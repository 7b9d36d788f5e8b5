"""Analysis: statistics by hand, the laws of intervals and comparisons, and the summary of a record."""

import json

import numpy as np
import pytest
import xarray as xr
from numpy.random import default_rng

from n3.config.experiment import Experiment, RunConfig
from n3.stats.comparison import FLOOR, bootstrap_interval, compare, interquartile_mean
from n3.stats.summary import (
    RunRecord,
    bands,
    decision_classes,
    final_distribution,
    final_values,
    fit_curves,
    summarise,
    table,
)

ARMS, SEEDS, STEPS = ("growing", "static", "warmup"), (3, 5, 8, 9), (0, 10, 100)
FINAL_LOSSES = np.array([[1.0, 2.0, 3.0, 4.0], [2.0, 4.0, np.nan, 8.0], [np.nan] * 4])


def results_of(losses=FINAL_LOSSES):
    """Three arms of four seeds: one run of `static` and all of `warmup` diverged at step 10."""
    diverged = np.isnan(losses)
    over_steps = np.stack([np.full_like(losses, 16.0), losses, losses], axis=-1)
    axes, shape = ("arm", "seed", "step"), over_steps.shape
    return xr.Dataset(
        {
            "test_loss": (axes, over_steps),
            "test_metric": (axes, np.sqrt(over_steps)),
            "size": ((*axes, "layer"), np.broadcast_to([2.0, 0.5], (*shape, 2))),
            "active_parameters": (axes[:2], np.full(losses.shape, 31)),
            "diverged_at": (axes[:2], np.where(diverged, 10, -1)),
            "compile_seconds": (("arm",), [1.0, 2.0, 3.0]),
            "run_seconds": (("arm",), [2.0, 2.0, 4.0]),
        },
        coords={"arm": list(ARMS), "seed": list(SEEDS), "step": list(STEPS)},
        attrs={"kind": "regression", "metric": "rmse", "device": "cpu", "wall_seconds": 9.0},
    )


def record_of():
    experiment = Experiment(run=RunConfig(arms=ARMS, seeds=SEEDS))
    return RunRecord(experiment=experiment.resolved(), results=results_of(), directory=None)


@pytest.mark.parametrize("statistic", [np.median, np.mean])
@pytest.mark.parametrize("size", [3, 20, 51])
def test_interval_holds_the_statistic_and_grows_with_the_level(statistic, size):
    values = default_rng(size).lognormal(size=size)
    narrow, wide = (bootstrap_interval(values, statistic, level=level) for level in (0.5, 0.99))
    assert wide[0] <= narrow[0] <= statistic(values) <= narrow[1] <= wide[1]


def test_interval_moves_and_scales_with_the_values():
    values = default_rng(0).normal(size=30)
    low, high = bootstrap_interval(values)
    assert bootstrap_interval(3 * values + 1) == pytest.approx((3 * low + 1, 3 * high + 1), rel=1e-9)


def test_interval_of_equal_values_has_no_width():
    assert bootstrap_interval(np.array([2.0, 2.0, 2.0])) == (2.0, 2.0)


def test_one_value_or_one_pair_has_no_interval():
    assert np.isnan(bootstrap_interval(np.array([2.0]))).all()
    found = compare(np.array([1.0, np.nan]), np.array([2.0, 1.0]))
    assert (found.ratio_of_means, found.ratio_of_medians) == (0.5, 0.5)
    assert np.isnan([*found.ci95, *found.ratio_of_means_ci95, *found.ratio_of_medians_ci95]).all()


def test_interval_under_ties_is_the_percentile_interval():
    values = np.array([1.0] * 8 + [5.0, 6.0])  # whichever value goes, the median stays 1
    low, high = bootstrap_interval(values, resamples=500)
    draws = default_rng(1).choice(values, (20_000, 10))
    assert (low, high) == tuple(np.percentile(np.median(draws, axis=1), [2.5, 97.5]))


@pytest.mark.parametrize("statistic, truth", [(np.median, 1.0), (np.mean, np.exp(0.125))])
def test_interval_covers_the_truth(statistic, truth):
    rng, trials = default_rng(2), 300
    samples = rng.lognormal(0, 0.5, (trials, 40))
    ends = np.array([bootstrap_interval(row, statistic, resamples=400) for row in samples])
    covered = np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
    assert abs(covered - 0.95) < 5 * np.sqrt(0.95 * 0.05 / trials)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf, 1.0]])
def test_interval_refuses_what_is_not_finite(values):
    with pytest.raises(ValueError, match="`values` must be finite, one or more"):
        bootstrap_interval(np.array(values))


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_interval_refuses_a_level_beyond_one(level):
    with pytest.raises(ValueError, match=r"`level` must lie in \(0, 1\)"):
        bootstrap_interval(np.array([1.0, 2.0]), level=level)


def test_interquartile_mean_by_hand():
    assert interquartile_mean(np.array([100.0, 1.0, 2.0, 4.0])) == 3.0
    assert interquartile_mean(np.array([5.0])) == 5.0


def test_comparison_by_hand():
    found = compare(np.array([1.0, 2.0, 6.0, 5.0]), np.array([2.0, 8.0, 3.0, 5.0]))
    assert found.median_log_ratio == pytest.approx(-np.log(2) / 2)
    assert (found.wins, found.pairs, found.excluded) == (2, 4, 0)
    assert found.ratio_of_means == pytest.approx(14 / 18)
    assert found.ratio_of_medians == pytest.approx(3.5 / 4)
    assert found.geometric_mean_ratio == pytest.approx(0.25**0.25)


def test_p_value_of_ten_wins_in_ten_is_two_in_1024():
    b = default_rng(0).lognormal(size=10)
    assert compare(b * np.linspace(0.3, 0.9, 10), b).p_value == pytest.approx(2 / 2**10)


def test_swapping_the_arms_negates_logarithms_and_inverts_ratios():
    rng = default_rng(4)
    a, b = rng.lognormal(size=25), rng.lognormal(0.5, size=25)
    one, two = compare(a, b), compare(b, a)
    assert one.median_log_ratio == pytest.approx(-two.median_log_ratio)
    assert one.ci95 == pytest.approx((-two.ci95[1], -two.ci95[0]), abs=0.1)
    assert one.ratio_of_means * two.ratio_of_means == pytest.approx(1)
    assert one.ratio_of_medians * two.ratio_of_medians == pytest.approx(1)
    assert one.p_value == pytest.approx(two.p_value)
    assert one.wins + two.wins == 25


@pytest.mark.parametrize("name", ["ratio_of_means", "ratio_of_medians"])
def test_ratios_lie_in_intervals_that_know_the_pairing(name):
    b = default_rng(5).lognormal(0, 2, size=40)
    a = 0.5 * b * default_rng(6).lognormal(0, 0.01, size=40)
    found = compare(a, b)
    low, high = getattr(found, f"{name}_ci95")
    assert low <= getattr(found, name) <= high
    assert high - low < 0.02


def test_equal_arms_have_no_effect():
    found = compare(np.array([1.0, 2.0, 0.0]), np.array([1.0, 2.0, 0.0]))
    assert (found.median_log_ratio, found.ci95, found.p_value, found.wins) == (0.0, (0.0, 0.0), 1.0, 0)


def test_a_loss_of_zero_counts_as_the_floor():
    assert compare(np.array([0.0]), np.array([1.0])).median_log_ratio == pytest.approx(np.log(FLOOR))


def test_diverged_pairs_are_counted_and_left_out():
    found = compare(np.array([1.0, np.nan, 3.0, 1.0]), np.array([2.0, 1.0, np.inf, 4.0]))
    assert (found.pairs, found.excluded, found.wins) == (2, 2, 2)
    assert found.ratio_of_means == pytest.approx(2 / 6)


def test_comparison_of_nothing_is_nan():
    found = compare(np.array([np.nan]), np.array([1.0]))
    assert np.isnan([found.median_log_ratio, *found.ci95, found.p_value, found.ratio_of_means]).all()
    assert (found.pairs, found.excluded) == (0, 1)


def test_comparison_refuses_a_negative_loss():
    with pytest.raises(ValueError, match=r"`a` and `b` must be losses of zero or more; got -1\.0"):
        compare(np.array([1.0, np.nan]), np.array([-1.0, 2.0]))


def test_summary_has_the_promised_layout():
    summary = summarise(record_of())
    promised = {"task", "method", "steps", "seeds", "arms", "comparisons", "seconds", "device", "versions"}
    assert promised | {"seed_steps_per_second"} <= set(summary)
    assert (summary["task"], summary["method"], summary["steps"]) == ("bessel", "controller", 100)
    assert (summary["seeds"], list(summary["arms"])) == (list(SEEDS), list(ARMS))
    assert summary["seconds"] == {"wall": 9.0, "compile": 6.0, "run": 8.0}
    assert summary["seed_steps_per_second"] == 3 * 4 * 100 / 8
    assert [(c["a"], c["b"]) for c in summary["comparisons"]] == [
        ("growing", "static"),
        ("growing", "warmup"),
        ("static", "warmup"),
    ]
    json.dumps(summary)


def test_summary_of_an_arm_by_hand():
    arm = summarise(record_of())["arms"]["growing"]
    assert arm["test_loss"]["values"] == [1.0, 2.0, 3.0, 4.0]
    assert (arm["test_loss"]["median"], arm["test_loss"]["mean"]) == (2.5, 2.5)
    assert 1.0 <= arm["test_loss"]["ci95"][0] <= 2.5 <= arm["test_loss"]["ci95"][1] <= 4.0
    assert arm["test_loss"]["geometric_mean"] == pytest.approx(24**0.25)
    assert arm["test_metric"]["name"] == "rmse"
    assert (arm["final_size"]["median"], arm["active_parameters"]["median"]) == (2.5, 31)
    assert arm["diverged_seeds"] == []


def test_summary_counts_diverged_runs():
    summary = summarise(record_of())
    static, warmup = summary["arms"]["static"], summary["arms"]["warmup"]
    assert (static["diverged_seeds"], static["diverged_steps"]) == ([8], [10])
    np.testing.assert_array_equal(static["test_loss"]["values"], [2, 4, np.nan, 8])
    np.testing.assert_array_equal(static["active_parameters"]["values"], [31, 31, np.nan, 31])
    assert static["test_loss"]["median"] == 4.0
    assert warmup["diverged_seeds"] == list(SEEDS)
    assert np.isnan([warmup["test_loss"]["median"], *warmup["test_loss"]["ci95"]]).all()
    first = summary["comparisons"][0]
    assert (first["wins"], first["pairs"], first["excluded"]) == (3, 3, 1)
    assert first["median_log_ratio"] == pytest.approx(np.log(0.5))


def test_a_run_that_diverged_and_came_back_is_not_counted_as_well():
    results = results_of()
    results["diverged_at"].loc[{"arm": "growing", "seed": 3}] = 10
    np.testing.assert_array_equal(final_values(results)["test_loss"].values[0], [np.nan, 2, 3, 4])


def test_table_is_aligned_and_narrow():
    arms, pairs = table(summarise(record_of())).split("\n\n")[1:]
    for block, rows in ((arms, 4), (pairs, 4)):
        lines = block.split("\n")
        assert len(lines) == rows
        assert len({len(line) for line in lines}) == 1
        assert len(lines[0]) <= 100
    assert "growing / static" in pairs
    assert "0.5 [0.5, 0.5]" in pairs.split("\n")[1]
    assert arms.split("\n")[2].endswith("1/4")


def test_bands_are_quartiles_of_the_finite_runs():
    found = bands(results_of(), "test_loss")
    assert found["median"].dims == ("arm", "step")
    final = found.isel(step=-1)
    assert [float(final[name].sel(arm="growing")) for name in ("low", "median", "high")] == [1.75, 2.5, 3.25]
    assert float(final["median"].sel(arm="static")) == 4.0
    assert np.isnan(final["median"].sel(arm="warmup"))


def test_fit_curves_and_residuals_of_a_line_by_hand():
    grid = np.array([0.0, 1.0, 2.0])
    results = xr.Dataset(
        {
            "prediction": (
                ("arm", "shown_seed", "output", "point"),
                np.array([2 * grid, 2 * grid + 1, 2 * grid + 2])[None, :, None],
            ),
            "grid": (("input", "point"), grid[None]),
            "test_inputs": (("test_sample", "inputs_feature"), [[1.5], [0.5], [3.0]]),
            "test_targets": (("test_sample", "targets_feature"), [[3.0], [0.0], [0.0]]),
        },
        coords={"arm": ["growing"], "shown_seed": [0, 1, 2]},
    )
    found = fit_curves(results).sel(arm="growing")
    np.testing.assert_allclose(found["median"], 2 * grid + 1)
    np.testing.assert_allclose(found["high"] - found["low"], 1.0)
    np.testing.assert_allclose(found["test_input"], [0.5, 1.5, 3.0])
    np.testing.assert_allclose(found["residual_median"], [2.0, 1.0, np.nan])


@pytest.mark.parametrize(
    "logits, expected",
    [
        ([[-1.0, 1.0, np.nan, 0.0]], [[0, 1], [-1, 0]]),
        ([[1, 0, 0, 1.0], [0, 1, 0, np.inf], [0, 0, 1, 0]], [[0, 1], [2, -1]]),
    ],
)
def test_decision_classes_by_hand(logits, expected):
    results = xr.Dataset(
        {
            "prediction": (("arm", "shown_seed", "output", "point"), np.array(logits)[None, None]),
            "grid": (("input", "point"), np.zeros((2, 4))),
        },
        coords={"arm": ["growing"]},
    )
    np.testing.assert_array_equal(decision_classes(results, "growing"), expected)


def test_decision_classes_refuse_a_grid_that_is_not_square():
    dims = ("arm", "shown_seed", "output", "point")
    results = xr.Dataset(
        {"prediction": (dims, np.zeros((1, 1, 1, 5))), "grid": (("input", "point"), np.zeros((2, 5)))},
        coords={"arm": ["growing"]},
    )
    with pytest.raises(ValueError, match=r"square of two inputs; got \(2, 5\)"):
        decision_classes(results, "growing")


def test_final_distribution_ranks_the_runs_and_keeps_the_diverged_last():
    found = final_distribution(results_of())
    np.testing.assert_array_equal(found["loss"].sel(arm="static"), [2, 4, 8, np.nan])
    np.testing.assert_array_equal(found["share"], [0.25, 0.5, 0.75, 1.0])
    assert float(found["median"].sel(arm="static")) == 4.0
