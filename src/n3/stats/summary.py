"""Summary: what the seeds of an experiment say together, as numbers by name and as a table."""

import importlib.metadata
import math
import platform
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from scipy import stats

from n3.config.experiment import Experiment
from n3.stats.comparison import FLOOR, compare, interquartile_mean, point_and_interval, value_or_nan

Results = xr.Dataset
"""Labelled results, as `results.nc` holds them."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All results of an experiment; `results` holds what `results.nc` holds."""

    experiment: Experiment
    """Resolved: every field that the method decides is filled in."""
    results: xr.Dataset
    directory: Path | None
    """The run directory; None where nothing was written."""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    packages = ("jax", "jaxlib", "equinox", "optax", "n3")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def align_columns(lines: Sequence[str]) -> str:
    """Rows whose cells are separated by `|`, as columns: the first to the left, the others to the right."""
    rows = [line.split("|") for line in lines]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join("  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows)


def with_interval(value: float, low: float, high: float, *, form: str = ".3g") -> str:
    """`value [low, high]`, each number in a form of `format`; the value alone where the interval is NaN."""
    ends = "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{ends}"


FINAL = ("test_loss", "test_metric", "final_size", "active_parameters")
"""What is known of every run at its last step; the size is in effective units, summed over layers."""


def has_diverged(results: xr.Dataset) -> xr.DataArray:
    """Runs (arm, seed) with a loss that was NaN or infinite, in training or in the final test."""
    return (results["diverged_at"] >= 0) | ~np.isfinite(results["test_loss"].isel(step=-1))


def final_values(results: xr.Dataset) -> xr.Dataset:
    """The variables `FINAL` (arm, seed) at the last step, NaN in runs that diverged."""
    last = results.isel(step=-1)
    last["final_size"] = last["size"].sum("layer")
    return last[list(FINAL)].astype(float).where(~has_diverged(results))


def summarise(record: RunRecord) -> dict[str, Any]:
    """The contents of `summary.json`: every arm at its last step, every pair of arms, prices and choices.

    Statistics are over the runs that did not diverge; the others are NaN in `values`, and listed by seed.
    """
    results, facts = record.results, record.results.attrs
    arms, steps = results["arm"].values.tolist(), int(results["step"][-1])
    losses = final_values(results)["test_loss"]
    compiling, running = (float(results[f"{name}_seconds"].sum()) for name in ("compile", "run"))
    runs = len(losses["seed"]) * (len(arms) + results.sizes.get("price", 1) - 1)  # growing once for each price
    by_arm = zip(arms, losses.transpose("arm", ...).values, strict=True)
    pairs = [{"a": a, "b": b} | asdict(compare(own, other)) for (a, own), (b, other) in combinations(by_arm, 2)]
    return {
        "task": facts["task"],
        "method": record.experiment.network.method,
        "steps": steps,
        "seeds": results["seed"].values.tolist(),
        "loss_unit": "squared scaled units" if facts["kind"] == "regression" else "nats",
        "arms": {arm: _summarise_arm(results.sel(arm=arm)) for arm in arms},
        "comparisons": pairs,
        "seconds": {"wall": float(facts["wall_seconds"]), "compile": compiling, "run": running},
        "seed_steps_per_second": runs * steps / running if running > 0 else np.nan,
        "device": facts["device"],
        "versions": versions(),
    } | (summarise_path(results) | _summarise_choices(results, has_diverged(results)))


def table(summary: dict[str, Any]) -> str:
    """What `summarise` gives, as lines of 100 columns or fewer: a row an arm, a row a comparison, the price."""
    seeds, metric = len(summary["seeds"]), next(iter(summary["arms"].values()))["test_metric"]["name"]
    unit = "target's unit" if metric == "rmse" else "share"
    rows = [f"arm|test loss [95 % interval]|{metric} ({unit})|size (units)|parameters|diverged"]
    for name, arm in summary["arms"].items():
        loss, medians = arm["test_loss"], {key: arm[key]["median"] for key in FINAL}
        rows += [
            f"{name}|{with_interval(loss['median'], *loss['ci95'], form='.3e')}"
            f"|{medians['test_metric']:.4g}|{medians['final_size']:.2f}|{medians['active_parameters']:g}"
            f"|{len(arm['diverged_seeds'])}/{seeds}"
        ]
    pairs = ["test loss of|median ratio [95 % interval]|lower in|p-value|mean / mean|excluded"]
    for pair in summary["comparisons"]:
        ratio = with_interval(*np.exp([pair["median_log_ratio"], *pair["ci95"]]))
        pairs += [
            f"{pair['a']} / {pair['b']}|{ratio}|{pair['wins']}/{pair['pairs']}"
            f"|{pair['p_value']:.2g}|{pair['ratio_of_means']:.3g}|{pair['excluded']}"
        ]
    title = f"Medians over {seeds} seeds after {summary['steps']} steps; test loss in {summary['loss_unit']}."
    aligned = (align_columns(part) for part in (rows, pairs) if len(part) > 1)
    return "\n\n".join([title, *aligned, *_choice_lines(summary), *_price_lines(summary)])


def bands(results: xr.Dataset, variable: str, *, over: str = "seed") -> xr.Dataset:
    """Quartiles `low`, `median`, `high` of a variable over its seeds, of the runs that are finite there."""
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # all NaN: so is the answer
        found = results[variable].where(np.isfinite).quantile([0.25, 0.5, 0.75], dim=over)
    return found.assign_coords(quantile=["low", "median", "high"]).to_dataset("quantile")


def fit_curves(results: xr.Dataset) -> xr.Dataset:
    """Predictions of a regression with one input, in own units; of several outputs the first.

    Quartiles over the shown seeds: `low`, `median`, `high` (arm, point) of the prediction at `input`; and
    `residual_low` and so on (arm, test_sample) of prediction minus test target at `test_input`, which rises.
    Between grid points predictions are linear; beyond the grid, NaN.
    """
    results = results.isel(output=0, input=0, inputs_feature=0, targets_feature=0, drop=True)
    results = results.sortby("test_inputs")
    grid, inputs = results["grid"].values, results["test_inputs"].values
    at_tests = results["prediction"].assign_coords(point=grid).interp(point=results["test_inputs"])
    results["residual"] = at_tests.drop_vars("point") - results["test_targets"]
    curves, residuals = (bands(results, name, over="shown_seed") for name in ("prediction", "residual"))
    curves = curves.merge(residuals.rename({name: f"residual_{name}" for name in residuals}))
    return curves.assign(input=("point", grid), test_input=("test_sample", inputs))


def decision_classes(results: xr.Dataset, arm: str) -> Int[np.ndarray, "side side"]:
    """Classes that the first shown seed predicts on the grid, a row per second input; -1 where it diverged.

    A ValueError if the grid is not a square of two inputs.
    """
    logits, inputs = results["prediction"].sel(arm=arm).values[0], results.sizes["input"]
    side = round(len(logits) ** 0.5)
    if inputs != 2 or not side or side**2 != len(logits):
        raise ValueError(f"`grid` must be a square of two inputs; got {results['grid'].shape}.")
    return likeliest_classes(logits).reshape(side, side)


def likeliest_classes(logits: Float[np.ndarray, "samples out_size"]) -> Int[np.ndarray, " samples"]:
    """The class of each row of logits or one-hot codes; of one column 0 or 1; -1 where one is not finite."""
    classes = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(axis=1)
    return np.where(np.isfinite(logits).all(axis=1), classes, -1).astype(int)


def final_distribution(results: xr.Dataset) -> xr.Dataset:
    """Final test losses of every arm in rising order: `loss` (arm, rank), at least `FLOOR`.

    It is NaN in the last ranks for runs that diverged; `share` (rank) is of all runs up to that loss; quartiles
    `low`, `median`, `high` (arm) are of the runs that did not diverge.
    """
    found = final_values(results)["test_loss"].clip(min=FLOOR).to_dataset(name="loss")
    ranked = np.sort(found["loss"].values, axis=1)
    shares = np.arange(1, found.sizes["seed"] + 1) / found.sizes["seed"]
    return bands(found, "loss").assign(loss=(("arm", "rank"), ranked), share=("rank", shares))


def _summarise_arm(results):
    final, diverged = final_values(results), has_diverged(results).values
    arm = {
        name: {"median": value_or_nan(np.median, each.values[~diverged]), "values": each.values.tolist()}
        for name, each in final.items()
    }
    losses = final["test_loss"].values[~diverged]
    arm["test_loss"] |= {
        "ci95": point_and_interval(np.median, losses)[1],
        "mean": value_or_nan(np.mean, losses),
        "mean_ci95": point_and_interval(np.mean, losses)[1],
        "interquartile_mean": value_or_nan(interquartile_mean, losses),
        "geometric_mean": value_or_nan(stats.gmean, np.maximum(losses, FLOOR)),
    }
    arm["test_metric"]["name"] = results.attrs["metric"]
    seeds, steps = (results[name].values[diverged].tolist() for name in ("seed", "diverged_at"))
    return arm | {"diverged_seeds": seeds, "diverged_steps": steps}


def _summarise_choices(results, lost):
    """Of each arm and hidden layer, the runs, but those `lost`, whose last share is highest for each name."""
    if "choice_share" not in results:
        return {}
    shares = results["choice_share"].isel(step=-1)
    counted = ((shares == shares.max("choice")) & ~lost).sum("seed").transpose("arm", "layer", "choice")
    names, arms = (results[name].values.tolist() for name in ("choice", "arm"))
    layers = [[dict(zip(names, own, strict=True)) for own in arm] for arm in counted.values.tolist()]
    return {"choices": dict(zip(arms, layers, strict=True))}


def _choice_lines(summary):
    if "choices" not in summary:
        return []
    rows = ["|".join(["runs that chose", *next(iter(summary["choices"].values()))[0]])]
    for arm, layers in summary["choices"].items():
        rows += ["|".join([f"{arm}, layer {n}", *map(str, own.values())]) for n, own in enumerate(layers, 1)]
    return [align_columns(rows)]


def path_curves(results: xr.Dataset) -> dict[str, Float[np.ndarray, "quartiles prices"]]:
    """Low, median and high over the seeds of what became of the growing arm at each price of a path.

    `size` (effective units, summed over layers), `test_loss` and `validation_loss`, of the runs that did not
    diverge; NaN at a price at which all did.
    """
    found = results.assign(path_size=results["path_size"].sum("layer", skipna=False))
    names = ("size", "test_loss", "validation_loss")
    return {name: bands(found, f"path_{name}").to_dataarray().values for name in names}


def summarise_path(results: xr.Dataset) -> dict[str, Any]:
    """The entry `price_path` of `summary.json`, or nothing where `results` has no price path."""
    if "price" not in results.sizes:
        return {}
    sizes, test_losses, validation_losses = (own[1].tolist() for own in path_curves(results).values())
    path = {
        "prices": results["price"].values.tolist(),
        "median_sizes": sizes,
        "median_test_losses": test_losses,
        "median_validation_losses": validation_losses,
        "diverged": (~np.isfinite(results["path_validation_loss"].values)).sum(axis=1).tolist(),
        "picked": int(results.attrs["picked_price"]),
        "best": int(results.attrs["best_price"]),
        "validation_loss_bound": float(results.attrs["validation_loss_bound"]),
    }
    return {"price_path": path}


def _price_lines(summary):
    if "price_path" not in summary:
        return []
    path, form = summary["price_path"], "{:.3g} nats (size {:.2f}, validation loss {:.3e})"
    tried = list(map(form.format, path["prices"], path["median_sizes"], path["median_validation_losses"]))
    reason = "the least validation loss"
    if path["picked"] != path["best"]:
        reason = f"the highest within one standard error of the best, {tried[path['best']]}: "
        reason += f"up to {path['validation_loss_bound']:.3e}"
    text = f"Price of the growing arm, of {len(tried)} tried: {tried[path['picked']]}, {reason}."
    return [textwrap.fill(text, 100)]
