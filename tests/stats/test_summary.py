"""Summary: a record, a path of prices and what was chosen, by hand, and the tables of their words."""

import dataclasses
import json
import math

import numpy as np
import pytest
import xarray as xr

from n3.config.experiment import Experiment, RunConfig
from n3.stats.summary import (
    FEWEST_SEEDS,
    RunRecord,
    _choice_lines,
    _price_lines,
    _summarise_choices,
    align_columns,
    bands,
    decision_classes,
    few_seeds,
    final_distribution,
    final_values,
    fit_curves,
    path_curves,
    summarise,
    summarise_path,
    table,
    with_interval,
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
        attrs={"task": "bessel", "kind": "regression", "metric": "rmse", "device": "cpu", "wall_seconds": 9.0},
    )


def record_of(results=None):
    experiment = Experiment(run=RunConfig(arms=ARMS, seeds=SEEDS))
    found = results_of() if results is None else results
    return RunRecord(experiment=experiment.resolved(), results=found, directory=None)


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


def test_every_price_of_a_path_is_a_run_of_the_growing_arm_more():
    record, prices = record_of(), np.zeros((2, len(SEEDS)))
    over = {f"path_{name}_loss": (("price", "seed"), prices) for name in ("test", "validation")}
    results = record.results.assign(
        over | {"path_size": (("price", "seed", "layer"), prices[..., None] + [0, 0])}
    )
    results.attrs |= {"picked_price": 1, "best_price": 0, "validation_loss_bound": 2.7}
    found = summarise(dataclasses.replace(record, results=results))
    assert found["seed_steps_per_second"] == (3 + 1) * 4 * 100 / 8  # the growing arm twice, the others once


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
    assert first["median_ratio"] == pytest.approx(math.exp(first["median_log_ratio"]))
    assert first["median_ratio_ci95"] == pytest.approx(np.exp(first["ci95"]))
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


def test_a_table_tells_how_far_sizes_differ_and_where_seeds_are_too_few():
    results = results_of()
    results["size"] = results["size"] * xr.DataArray([1.2, 0.4, 2.0, 1.6], dims="seed")
    title, arms = table(summarise(record_of(results))).split("\n\n")[:2]
    assert "3.5 [1, 5]" in arms.split("\n")[1]
    assert (
        "Of 4 seeds no interval reaches 95 %, even from the least to the most only 87.5 %: take 6"
        in " ".join(title.split())
    )
    assert few_seeds(6) == few_seeds(1) == ""
    assert 1 - 2.0 ** (1 - FEWEST_SEEDS) >= 0.95 > 1 - 2.0 ** (2 - FEWEST_SEEDS)


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
                ("arm", "shown_seed", "point", "output"),
                np.array([2 * grid, 2 * grid + 1, 2 * grid + 2])[None, ..., None],
            ),
            "grid": (("point", "input"), grid[:, None]),
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
            "prediction": (("arm", "shown_seed", "point", "output"), np.array(logits).T[None, None]),
            "grid": (("point", "input"), np.zeros((4, 2))),
        },
        coords={"arm": ["growing"]},
    )
    np.testing.assert_array_equal(decision_classes(results, "growing"), expected)


def test_decision_classes_refuse_a_grid_that_is_not_square():
    dims = ("arm", "shown_seed", "point", "output")
    results = xr.Dataset(
        {"prediction": (dims, np.zeros((1, 1, 5, 1))), "grid": (("point", "input"), np.zeros((5, 2)))},
        coords={"arm": ["growing"]},
    )
    with pytest.raises(ValueError, match=r"square of two inputs; got \(5, 2\)"):
        decision_classes(results, "growing")


def test_final_distribution_ranks_the_runs_and_keeps_the_diverged_last():
    found = final_distribution(results_of())
    np.testing.assert_array_equal(found["loss"].sel(arm="static"), [2, 4, 8, np.nan])
    np.testing.assert_array_equal(found["share"], [0.25, 0.5, 0.75, 1.0])
    assert float(found["median"].sel(arm="static")) == 4.0


def test_the_first_column_is_to_the_left_and_the_others_to_the_right():
    assert align_columns(["a|loss", "longer|1"]) == "a       loss\nlonger     1"


def test_rows_of_different_lengths_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        align_columns(["a|b", "a"])


def test_an_interval_stands_behind_its_value_where_there_is_one():
    assert with_interval(0.12345, 0.1, 0.2) == "0.123 [0.1, 0.2]"
    assert with_interval(0.12345, math.nan, math.nan, form=".1e") == "1.2e-01"


SHARES = np.zeros((2, 3, 2, 1, 2))


SHARES[:, :, 0] = 0.5


SHARES[0, :, 1, 0] = [[1, 0], [0, 1], [0, 1]]


SHARES[1, :, 1, 0] = [[1, 0], [1, 0], [1, 0]]


RESULTS = xr.Dataset(
    {"choice_share": (("arm", "seed", "step", "layer", "choice"), SHARES)},
    coords={"arm": ["growing", "static"], "seed": [4, 5, 6], "step": [0, 9], "choice": ["sin", "tanh"]},
)


LOST = xr.DataArray(np.zeros((2, 3), bool), dims=("arm", "seed"))


def test_chosen_activations_by_hand():
    counts = _summarise_choices(RESULTS, LOST)["choices"]
    assert counts == {"growing": [{"sin": 1, "tanh": 2}], "static": [{"sin": 3, "tanh": 0}]}


def test_a_run_that_diverged_chose_nothing():
    lost = LOST.copy(deep=True)
    lost[0, 1] = True
    assert _summarise_choices(RESULTS, lost)["choices"]["growing"] == [{"sin": 1, "tanh": 1}]


def test_the_table_has_a_row_for_each_layer():
    (text,) = _choice_lines(_summarise_choices(RESULTS, LOST))
    assert [line.split() for line in text.splitlines()] == [
        ["runs", "that", "chose", "sin", "tanh"],
        ["growing,", "layer", "1", "1", "2"],
        ["static,", "layer", "1", "3", "0"],
    ]


def test_where_nothing_was_chosen_nothing_is_said():
    assert _summarise_choices(RESULTS.drop_vars(["choice_share", "choice"]), LOST) == {}
    assert _choice_lines({}) == []


NAN = np.nan


def test_without_a_path_nothing_is_said():
    xr = pytest.importorskip("xarray")
    plain = xr.Dataset({"a": (("arm", "seed"), np.zeros((2, 3)))})
    assert summarise_path(plain) == {}
    assert _price_lines({"arms": {}}) == []


def path_of(lost=()):
    xr = pytest.importorskip("xarray")
    sizes = np.array([[[8.0, 1.0], [6.0, 1.0], [7.0, 1.0]], [[3.0, 0.5], [3.0, 0.0], [4.0, 0.0]]])
    validation = np.array([[1.0, 2.0, 3.0], [2.0, 2.5, 3.0]])
    for place in lost:
        sizes[place], validation[place] = NAN, NAN
    return xr.Dataset(
        {
            "a": (("arm", "seed"), np.zeros((2, 3))),
            "path_size": (("price", "seed", "layer"), sizes),
            "path_test_loss": (("price", "seed"), 2 * validation),
            "path_validation_loss": (("price", "seed"), validation),
        },
        coords={"price": [0.1, 0.4]},
        attrs={"picked_price": 1, "best_price": 0, "validation_loss_bound": 2.7},
    )


def test_a_path_is_summarised_by_medians_of_the_summed_layers():
    results = path_of(lost=[(0, 0)])
    assert summarise_path(results)["price_path"] == {
        "prices": [0.1, 0.4],
        "median_sizes": [7.5, 3.5],
        "median_test_losses": [5.0, 5.0],
        "median_validation_losses": [2.5, 2.5],
        "diverged": [1, 0],
        "picked": 1,
        "best": 0,
        "validation_loss_bound": 2.7,
    }


def test_curves_are_quartiles_and_nan_where_all_diverged():
    curves = path_curves(path_of(lost=[(0, slice(None))]))
    assert np.isnan(curves["size"][:, 0]).all()
    np.testing.assert_allclose(curves["size"][:, 1], [3.25, 3.5, 3.75])
    np.testing.assert_allclose(curves["test_loss"][:, 1], [4.5, 5.0, 5.5])


def test_the_words_name_the_pick_and_the_best():
    (text,) = _price_lines(summarise_path(path_of()))
    assert all(len(line) <= 100 for line in text.splitlines())
    flat = " ".join(text.split())
    assert "of 2 tried: 0.4 nats (size 3.50, validation loss 2.500e+00)" in flat
    assert "within one standard error of the best, 0.1 nats (size 8.00, validation loss 2.000e+00)" in flat
    assert "up to 2.700e+00." in flat
    same = path_of().assign_attrs(picked_price=0)
    assert " ".join(_price_lines(summarise_path(same))[0].split()).endswith(", the least validation loss.")
