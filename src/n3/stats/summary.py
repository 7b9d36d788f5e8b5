"""Summary: what the seeds of an experiment say together, as numbers, as a table and in warnings."""

import importlib.metadata
import math
import platform
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from scipy import stats

from n3.config.experiment import SIZED, Experiment
from n3.config.release import release
from n3.stats.comparison import FLOOR, compare, interquartile_mean, point_and_interval, value_or_nan

QUANTILE = float(stats.norm.ppf(0.975))
"""Standard errors on each side of a 95 % interval."""
FEWEST_SEEDS = 6
"""Seeds from which on the least and the most enclose the median of all in 95 % of cases."""
HIDDEN = 0.1
"""Accuracy less the mean recall of the classes, from which a run warns."""
HALF_UNIT = 0.5
"""Effective units by which a size may miss 0 or the capacity and still count as there."""
_FACTOR, _ERRORS, _SHARE = 3.0, 3.0, 0.01
"""A member disagrees whose loss is over so many times that of the others, by so many standard errors and by
this share of the constant's loss."""
GrowthEnd = Literal["resolution", "capacity", "budget", "steps", "no gain", "diverged"]

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
    packages = ("jax", "jaxlib", "equinox", "optax")
    own = {name: importlib.metadata.version(name) for name in packages} | {"n3": release()}
    return {"python": platform.python_version()} | own


def align_columns(lines: Sequence[str]) -> str:
    """Rows whose cells are separated by `|`, as columns: the first to the left, the others to the right."""
    rows = [line.split("|") for line in lines]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join("  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows)


def with_interval(value: float, low: float, high: float, *, form: str = ".3g") -> str:
    """`value [low, high]`, each number in a form of `format`; the value alone where the interval is NaN."""
    ends = "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{ends}"


LOSS_UNITS = {"regression": "squared scaled units", "classification": "nats"}
"""Unit of the task's loss, by kind."""
METRICS = {"regression": ("rmse", "unit of the target"), "classification": ("accuracy", "share")}
"""Name of the metric and its unit, by kind."""
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

    Statistics are over the runs that did not diverge; the others are NaN in `values`, and listed by seed. Arms
    whose runs have members have `held_out_loss`, and the one that grew by held-out samples `ended_by`, why each
    run has no more units. `warnings` lists what speaks against some runs.
    """
    results, facts = record.results, record.results.attrs
    lost = has_diverged(results)
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
        "loss_unit": LOSS_UNITS[facts["kind"]],
        "arms": {arm: _summarise_arm(record.experiment, results.sel(arm=arm)) for arm in arms},
        "comparisons": pairs,
        "seconds": {"wall": float(facts["wall_seconds"]), "compile": compiling, "run": running},
        "seed_steps_per_second": runs * steps / running if running > 0 else np.nan,
        "device": facts["device"],
        "versions": versions(),
        "warnings": [asdict(own) for own in find_warnings(record.experiment, results, lost)],
    } | (summarise_path(results) | _summarise_choices(results, lost))


def table(summary: dict[str, Any]) -> str:
    """What `summarise` gives, as lines of 100 columns or fewer: a row an arm, a row a comparison, the price."""
    rows, seeds = _arm_rows(summary), len(summary["seeds"])
    pairs = ["test loss of|median ratio [95 % interval]|lower in|p-value|mean / mean|excluded"]
    for pair in summary["comparisons"]:
        ratio = with_interval(pair["median_ratio"], *pair["median_ratio_ci95"])
        pairs += [
            f"{pair['a']} / {pair['b']}|{ratio}|{pair['wins']}/{pair['pairs']}"
            f"|{pair['p_value']:.2g}|{pair['ratio_of_means']:.3g}|{pair['excluded']}"
        ]
    title = f"Medians over {seeds} seeds after {summary['steps']} steps; test loss in {summary['loss_unit']}."
    title += " Brackets are 95 % intervals of the median; of sizes the least and the most."
    if "held_out_loss" in next(iter(summary["arms"].values())):
        title += " ± is the 95 % interval of one run's held-out loss."
    title = textwrap.fill(f"{title} {few_seeds(seeds)}", 100, break_on_hyphens=False)
    aligned = (align_columns(part) for part in (rows, pairs) if len(part) > 1)
    return "\n\n".join([title, *aligned, *_choice_lines(summary), *_price_lines(summary), *_end_lines(summary)])


def few_seeds(seeds: int) -> str:
    """A sentence where so few seeds have no 95 % interval of their median, else nothing.

    The median lies between the least and the most of `n` values with probability `1 - 2^(1 - n)`.
    """
    if not 1 < seeds < FEWEST_SEEDS:
        return ""
    reach = f"even from the least to the most only {100 - 100 * 2.0 ** (1 - seeds):.3g} %"
    return f"Of {seeds} seeds no interval reaches 95 %, {reach}: take {FEWEST_SEEDS} or more."


def _arm_rows(summary):
    """A row an arm; where runs have members with their held-out loss, and the other columns narrower."""
    first, seeds = next(iter(summary["arms"].values())), len(summary["seeds"])
    metric, is_narrow = first["test_metric"]["name"], "held_out_loss" in first
    unit = "target's unit" if metric == "rmse" else "share"
    names = f"test loss [95 % interval]|{metric} ({unit})|size (units)|parameters"
    if is_narrow:
        names = f"test loss|held-out loss|{metric}|units|parameters"
    rows = [f"arm|{names}|diverged"]
    for name, arm in summary["arms"].items():
        loss, medians = arm["test_loss"], {key: arm[key]["median"] for key in FINAL}
        cells = [name, with_interval(loss["median"], *loss["ci95"], form=".3g" if is_narrow else ".3e")]
        if is_narrow:
            own = arm["held_out_loss"]
            errors = np.array(own["standard_errors"])
            error = value_or_nan(np.median, errors[np.isfinite(errors)])
            cells += [f"{own['median']:.3g} ± {QUANTILE * error:.1g}"]
        sizes = np.array(arm["final_size"]["values"], float)
        least, most = (value_or_nan(end, sizes[np.isfinite(sizes)]) for end in (np.min, np.max))
        size = with_interval(medians["final_size"], least, most, form=".3g") if most > least else ""
        cells += [f"{medians['test_metric']:.4g}", size or f"{medians['final_size']:.2f}"]
        rows += [
            "|".join([*cells, f"{medians['active_parameters']:g}", f"{len(arm['diverged_seeds'])}/{seeds}"])
        ]
    return rows


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


def _summarise_arm(experiment, results):
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
    if "confusion" in results:
        recalls, known = recalls_of(results), ~diverged
        each = recalls.mean("true_class").values
        arm["balanced_accuracy"] = {"median": value_or_nan(np.median, each[known]), "values": each.tolist()}
        arm["recall"] = _median_recalls(recalls, known)
    seeds, steps = (results[name].values[diverged].tolist() for name in ("seed", "diverged_at"))
    if has_members(results):
        arm["held_out_loss"] = summarise_held_out(results, diverged)
        if str(results["arm"].item()) == "growing" and experiment.information.criterion == "held-out":
            arm["ended_by"] = growth_endings(experiment, results, diverged)
    return arm | {"diverged_seeds": seeds, "diverged_steps": steps}


def recalls_of(results: xr.Dataset) -> xr.DataArray:
    """Share of the test samples of each class (..., true_class) that is predicted; NaN where it has none."""
    counts = results["confusion"].transpose(..., "true_class", "predicted_class")
    right = np.diagonal(counts.values, axis1=-2, axis2=-1)
    total = counts.sum("predicted_class")
    return total.copy(data=right) / total.where(total > 0)


def _median_recalls(recalls, known):
    """The recall of each class (seed, true_class), the median over the known seeds that have samples of it."""
    of_classes = zip(recalls["true_class"].values.tolist(), recalls.values.T, strict=True)
    return {name: value_or_nan(np.median, own[known & np.isfinite(own)]) for name, own in of_classes}


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


def _end_lines(summary):
    ends = summary["arms"].get("growing", {}).get("ended_by")
    if ends is None:
        return []
    counts = [f"{end} ({ends.count(end)} of {len(ends)} seeds)" for end in dict.fromkeys(ends)]
    return [textwrap.fill(f"What ended growth: {', '.join(counts)}.", 100)]


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


@dataclass(frozen=True, kw_only=True)
class RunWarning:
    """Something that a user should know of some runs of an arm."""

    kind: Literal["no-units", "restarted", "capacity", "members-disagree", "constant", "recall"]
    arm: str
    seeds: tuple[int, ...]
    text: str
    """One line, with the number of seeds and what to do."""


def has_members(results: xr.Dataset) -> bool:
    """Whether the runs have members, whose held-out samples estimate the loss on new ones."""
    return "held_out_loss" in results


def run_intervals(loss: np.ndarray, error: np.ndarray) -> np.ndarray:
    """The 95 % interval of each run by the standard error of its held-out loss; no end is below zero."""
    return np.stack([np.maximum(loss - QUANTILE * error, 0.0), loss + QUANTILE * error], axis=-1)


def summarise_held_out(arm: xr.Dataset, lost: np.ndarray) -> dict[str, Any]:
    """The entry `held_out_loss` of an arm in `summary.json`: NaN in the runs that are lost."""
    last = arm[["held_out_loss", "held_out_error"]].isel(step=-1).astype(float)
    losses, errors = (np.where(lost, np.nan, last[name].values) for name in last)
    return {
        "median": value_or_nan(np.median, losses[~lost]),
        "values": losses.tolist(),
        "standard_errors": errors.tolist(),
        "run_ci95": run_intervals(losses, errors).tolist(),
    }


def growth_endings(experiment: Experiment, arm: xr.Dataset, lost: np.ndarray) -> list[GrowthEnd]:
    """Why each run of the growing arm, sized by held-out samples, has no more units.

    `resolution`: the held-out loss is below that share of the target's variance (of a nat, for classes);
    `capacity`: every layer is full; `budget`: a further unit would exceed it; `steps`: a size still rose, at
    half the rate or more, over the last tenth of the steps before sizes rest; else `no gain`: no unit in sight
    lowered the held-out loss.
    """
    last, information = arm.isel(step=-1), experiment.information
    unit = arm["constant_loss"].values if arm.attrs["kind"] == "regression" else 1.0
    is_fine = last["held_out_loss"].values <= information.resolution * unit
    is_full = np.all(last["size"].values >= _capacity(experiment) - HALF_UNIT, axis=-1)
    is_spent = np.zeros(len(lost), bool)
    if information.budget is not None:
        networks = 1 if experiment.training.refit else experiment.training.members or 1
        units = np.ceil(last["size"].values)
        ends = [np.full((len(units), 1), float(arm.sizes[name])) for name in ("inputs_feature", "output")]
        widths = np.concatenate([ends[0], units, ends[1]], axis=1)
        further = np.min(widths[:, :-2] + 1 + widths[:, 2:], axis=1)
        is_spent = last["active_parameters"].values / networks + further > information.budget
    steps = int(arm["step"][-1])
    until = information.settle * steps
    rate = information.pace(steps)
    sizes = arm["size"].interp(step=[0.9 * until, until]).transpose("step", "seed", "layer").values
    is_rising = np.any(sizes[1] - sizes[0] >= 0.05 * until * rate, axis=-1)
    rules = {
        "diverged": lost,
        "resolution": is_fine,
        "capacity": is_full,
        "budget": is_spent,
        "steps": is_rising,
    }
    return np.select(list(rules.values()), list(rules), "no gain").tolist()


def find_warnings(experiment: Experiment, results: xr.Dataset, lost: xr.DataArray) -> list[RunWarning]:
    """What speaks against the runs of each arm that are not lost, one warning for all seeds that share it.

    `no-units`: the network, or one of its layers, has no unit, while another arm of the seed has a held-out
    loss that is lower by more than its standard error. `restarted`: its size was in doubt (it had none,
    overfitted, or came close to a target without noise), and a second start from all units did better.
    `capacity`: a layer of an arm that method information sizes is full. `members-disagree`: the held-out loss
    of one member is over three times the median of the others, by three of its standard errors and by a
    hundredth of the constant's loss. One alone would warn of nothing: the factor, where a few samples make up a
    loss; the errors, of folds that differ a little; and where a target has no noise, all losses are small and
    far apart. `constant`: the held-out loss is not below that of the best constant by more than the standard
    error of the difference. `recall`: the mean recall of the classes is below the accuracy by over `HIDDEN`, so
    that the accuracy hides a class.
    """
    every = results["arm"].values.tolist()
    found = [each for arm in every for each in _of_arm(experiment, results, lost, arm)]
    return [each for each in found if each.seeds]


def _of_arm(experiment: Experiment, results: xr.Dataset, lost: xr.DataArray, arm: str) -> Iterator[RunWarning]:
    own, known = results.sel(arm=arm).isel(step=-1), ~lost.sel(arm=arm).values
    seeds, network = own["seed"].values, experiment.network

    def warning(kind: Any, is_so: np.ndarray, text: str) -> RunWarning:
        where = tuple(seeds[is_so & known].tolist())
        return RunWarning(
            kind=kind, arm=arm, seeds=where, text=f"{arm}, {len(where)} of {len(seeds)} seeds: {text}"
        )

    if has_members(results):
        none = np.any(own["size"].values < HALF_UNIT, axis=-1) & (not network.depth_gates)
        better, other = _better_arm(results.isel(step=-1), lost, arm)
        what = "no hidden unit" if own.sizes["layer"] == 1 else "a layer without a unit"
        remedy = f"while {other} has a lower held-out loss; raise `steps` or lower `errors`"
        yield warning("no-units", none & better, f"{what}, {remedy}")
        why = "the first had none, overfitted, or came close to a target without noise"
        again = f"this is a second start, from all units: {why}"
        yield warning("restarted", own["restarted"].values.astype(bool), again)
    if network.method == "information" and arm in SIZED:
        full = np.any(own["size"].values >= _capacity(experiment) - HALF_UNIT, axis=-1)
        units = ", ".join(map(str, network.capacity or ()))
        yield warning("capacity", full, f"the size is at the capacity, {units} units; raise `capacity`")
    if has_members(results):
        text = f"the held-out loss of one member is over {_FACTOR:g} times that of the others; raise `steps`"
        yield warning("members-disagree", _disagree(own), text)
        is_constant = own["held_out_gain"].values <= own["held_out_gain_error"].values
        text = (
            "the held-out loss is no better than that of a constant; the inputs may say nothing of the target"
        )
        yield warning("constant", is_constant, text)
    if "confusion" in own:
        recalls, accuracy = recalls_of(own), own["test_metric"].values
        hides = (accuracy - recalls.mean("true_class").values > HIDDEN) & known
        if np.any(hides):
            medians, usual = _median_recalls(recalls, known), np.median(accuracy[known])
            name = min(medians, key=lambda each: np.nan_to_num(medians[each], nan=1.0))
            text = (
                f"the recall of class {name} is {medians[name]:.2f} where the accuracy is {usual:.2f}, medians"
            )
            remedy = "; `class_weight` balanced gives classes equal weight" * (
                experiment.task.class_weight is None
            )
            yield warning("recall", hides, f"{text} over the seeds{remedy}")


def _capacity(experiment: Experiment) -> np.ndarray:
    return np.array(experiment.network.capacity, float)


def _better_arm(last: xr.Dataset, lost: xr.DataArray, arm: str) -> tuple[np.ndarray, str]:
    """Whether another arm of each seed has a lower held-out loss than one arm, and the name of the best one."""
    upper = (last["held_out_loss"] + last["held_out_error"]).where(~lost)
    others = upper.drop_sel(arm=arm)
    if not others.sizes["arm"]:
        return np.zeros(last.sizes["seed"], bool), ""
    is_better = others < last["held_out_loss"].sel(arm=arm)
    best = others["arm"].values[int(np.argmax(is_better.sum("seed").values))]
    return is_better.any("arm").values, str(best)


def _disagree(own: xr.Dataset) -> np.ndarray:
    losses, errors = own["member_loss"].values, own["member_error"].values
    unit, found = _SHARE * own["constant_loss"].values, np.zeros(len(losses), bool)
    for member in range(losses.shape[1] if losses.shape[1] > 1 else 0):
        usual = np.median(np.delete(losses, member, axis=1), axis=1)
        excess = np.maximum(_ERRORS * errors[:, member], unit)
        found |= losses[:, member] > np.maximum(_FACTOR * usual, usual + excess)
    return found
