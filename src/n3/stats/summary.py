"""Analysis: what the seeds of an experiment say together, as medians, intervals and paired comparisons."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from scipy import stats

from n3.experiments.results import RunRecord, versions
from n3.stats import columns, prices, winners

FLOOR = float(np.finfo(np.float32).tiny)
"""Least loss that enters a logarithm or a ratio: a loss of zero counts as the least normal float32."""

FINAL = ("test_loss", "test_metric", "final_size", "active_parameters")
"""What is known of every run at its last step; the size is in effective units, summed over layers."""


def bootstrap_interval(
    values: Float[np.ndarray, " values"],
    statistic: Callable[..., Any] = np.median,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bias-corrected and accelerated (BCa) bootstrap interval of a statistic.

    Where ties leave BCa undefined (leaving out any one value changes nothing), it is the percentile interval
    of the same resamples. Equal values give an interval of no width, and one value alone none: NaN.

    Args:
        values: Independent values, all finite.
        statistic: Takes an array and an `axis`, as NumPy's reductions do.
        level: Coverage, in `(0, 1)`.
        resamples: Bootstrap resamples.
        seed: Seed of the resampling: equal calls give equal intervals.

    Returns:
        Lower and upper end, in the unit of the statistic.

    Raises:
        ValueError: If there is no value, a value is NaN or infinite, or `level` lies outside `(0, 1)`.

    References:
        Efron, "Better bootstrap confidence intervals", 1987, section 4.
    """
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"`values` must be finite, one or more; got {values}.")
    return _estimate(statistic, values.astype(float), level=level, resamples=resamples, seed=seed)[1]


def interquartile_mean(values: Float[np.ndarray, " values"]) -> float:
    """Mean of the middle half: a quarter of the values, rounded down, is left out at either end."""
    return float(stats.trim_mean(values, 0.25))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Losses of arm a over losses of arm b, paired; a is better below 0 (logarithms) or 1 (ratios).

    Intervals are BCa over resampled pairs; 95 % unless another level was asked for. Of no pairs all is
    NaN, of one pair the intervals are.
    """

    median_log_ratio: float
    """Median of log(a / b)."""
    ci95: tuple[float, float]
    p_value: float
    """Wilcoxon's signed-rank test (1945) of log(a / b), two-sided; 1 where all pairs are equal."""
    wins: int
    """Pairs in which a is strictly lower."""
    pairs: int
    """Pairs in which both losses are finite; all statistics are over these."""
    excluded: int
    """Pairs in which a loss is NaN or infinite: a run that diverged."""
    geometric_mean_ratio: float
    ratio_of_means: float
    ratio_of_means_ci95: tuple[float, float]
    ratio_of_medians: float
    ratio_of_medians_ci95: tuple[float, float]


def compare(
    a: Float[np.ndarray, " pairs"],
    b: Float[np.ndarray, " pairs"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two arms whose runs are paired by their index; swapping them inverts every ratio.

    Args:
        a: Final losses, zero or more, NaN or infinite where a run diverged; below `FLOOR` they count as it.
        b: Final losses of the other arm, in the same order.
        level: Coverage of the intervals, in `(0, 1)`.
        resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        Statistics over the pairs in which both losses are finite, and the number of the other pairs.

    Raises:
        ValueError: If a loss is negative, or `level` lies outside `(0, 1)`.
    """
    if (a < 0).any() or (b < 0).any():
        raise ValueError(f"`a` and `b` must be losses of zero or more; got {np.nanmin([a, b])}.")
    kept = np.isfinite(a) & np.isfinite(b)
    own, other = (np.maximum(side[kept].astype(float), FLOOR) for side in (a, b))
    logs, how = np.log(own / other), {"level": level, "resamples": resamples, "seed": seed}
    median_log_ratio, interval = _estimate(np.median, logs, **how)
    ratio_of_means, means_interval = _estimate(_ratio_of(np.mean), own, other, **how)
    ratio_of_medians, medians_interval = _estimate(_ratio_of(np.median), own, other, **how)
    return Comparison(
        median_log_ratio=median_log_ratio,
        ci95=interval,
        p_value=_over(_signed_rank_p, logs),
        wins=int((own < other).sum()),
        pairs=int(kept.sum()),
        excluded=int((~kept).sum()),
        geometric_mean_ratio=_over(stats.gmean, own / other),
        ratio_of_means=ratio_of_means,
        ratio_of_means_ci95=means_interval,
        ratio_of_medians=ratio_of_medians,
        ratio_of_medians_ci95=medians_interval,
    )


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
    pairs = [
        {"a": a, "b": b} | asdict(compare(losses.sel(arm=a).values, losses.sel(arm=b).values))
        for a, b in combinations(arms, 2)
    ]
    return {
        "task": record.experiment.task.task,
        "method": record.experiment.network.method,
        "steps": steps,
        "seeds": results["seed"].values.tolist(),
        "loss_unit": "squared scaled units" if facts["kind"] == "regression" else "nats",
        "arms": {arm: _summarise_arm(results.sel(arm=arm)) for arm in arms},
        "comparisons": pairs,
        "seconds": {"wall": float(facts["wall_seconds"]), "compile": compiling, "run": running},
        "seed_steps_per_second": prices.runs_in(results) * steps / running if running > 0 else np.nan,
        "device": facts["device"],
        "versions": versions(),
    } | (prices.summarise_path(results) | winners.summarise_choices(results, has_diverged(results)))


def table(summary: dict[str, Any]) -> str:
    """What `summarise` gives, as lines of 100 columns or fewer: a row an arm, a row a comparison, the price."""
    seeds, metric = len(summary["seeds"]), next(iter(summary["arms"].values()))["test_metric"]["name"]
    unit = "target's unit" if metric == "rmse" else "share"
    rows = [f"arm|test loss [95 % interval]|{metric} ({unit})|size (units)|parameters|diverged"]
    for name, arm in summary["arms"].items():
        loss, medians = arm["test_loss"], {key: arm[key]["median"] for key in FINAL}
        rows += [
            f"{name}|{columns.with_interval(loss['median'], *loss['ci95'], form='.3e')}"
            f"|{medians['test_metric']:.4g}|{medians['final_size']:.2f}|{medians['active_parameters']:g}"
            f"|{len(arm['diverged_seeds'])}/{seeds}"
        ]
    pairs = ["test loss of|median ratio [95 % interval]|lower in|p-value|mean / mean|excluded"]
    for pair in summary["comparisons"]:
        ratio = columns.with_interval(*np.exp([pair["median_log_ratio"], *pair["ci95"]]))
        pairs += [
            f"{pair['a']} / {pair['b']}|{ratio}|{pair['wins']}/{pair['pairs']}"
            f"|{pair['p_value']:.2g}|{pair['ratio_of_means']:.3g}|{pair['excluded']}"
        ]
    title = f"Medians over {seeds} seeds after {summary['steps']} steps; test loss in {summary['loss_unit']}."
    aligned = (columns.aligned(part) for part in (rows, pairs) if len(part) > 1)
    return "\n\n".join([title, *aligned, *winners.told(summary), *prices.told(summary)])


def bands(results: xr.Dataset, variable: str, *, over: str = "seed") -> xr.Dataset:
    """Quartiles `low`, `median`, `high` of a variable over its seeds, of the runs that are finite there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)  # NaN is the answer there
        found = results[variable].where(np.isfinite).quantile([0.25, 0.5, 0.75], dim=over)
    return xr.Dataset({n: found.isel(quantile=i, drop=True) for i, n in enumerate(("low", "median", "high"))})


def fit_curves(results: xr.Dataset) -> xr.Dataset:
    """Predictions of a regression with one input, in own units; of several outputs the first.

    Returns:
        Quartiles over the shown seeds: `low`, `median`, `high` (arm, point) of the prediction at `input`; and
        `residual_low`, `residual_median`, `residual_high` (arm, test_sample) of prediction minus test target
        at `test_input`, which rises. Between grid points predictions are linear; beyond the grid, NaN.
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

    Raises:
        ValueError: If the grid is not a square of two inputs.
    """
    logits, inputs = results["prediction"].sel(arm=arm).values[0], results.sizes["input"]
    side = round(logits.shape[1] ** 0.5)
    if inputs != 2 or not side or side**2 != logits.shape[1]:
        raise ValueError(f"`grid` must be a square of two inputs; got {results['grid'].shape}.")
    classes = logits[0] > 0 if len(logits) == 1 else logits.argmax(axis=0)
    return np.where(np.isfinite(logits).all(axis=0), classes, -1).astype(int).reshape(side, side)


def final_distribution(results: xr.Dataset) -> xr.Dataset:
    """Final test losses of every arm in rising order.

    Returns:
        `loss` (arm, rank), at least `FLOOR`, and NaN in the last ranks for runs that diverged; `share` (rank)
        of all runs up to that loss; quartiles `low`, `median`, `high` (arm) of the runs that did not diverge.
    """
    found = final_values(results)["test_loss"].clip(min=FLOOR).to_dataset(name="loss")
    ranked = np.sort(found["loss"].values, axis=1)
    shares = np.arange(1, found.sizes["seed"] + 1) / found.sizes["seed"]
    return bands(found, "loss").assign(loss=(("arm", "rank"), ranked), share=("rank", shares))


def _estimate(statistic, *samples: np.ndarray, level=0.95, resamples=2000, seed=0):
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie in (0, 1); got {level}.")
    point = float(statistic(*samples, axis=-1)) if samples[0].size else np.nan
    if len(samples[0]) < 2:
        return point, (np.nan, np.nan)
    if all(len(np.unique(sample)) < 2 for sample in samples):
        return point, (point, point)
    options = {"confidence_level": level, "paired": len(samples) > 1, "vectorized": True}
    options["batch"] = max(1, 250_000 // len(samples[0]))  # numbers held at once
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # ties: by percentiles below
        found = stats.bootstrap(samples, statistic, n_resamples=resamples, rng=seed, **options)
    if not np.isfinite(found.confidence_interval).all():
        options |= {"n_resamples": 0, "bootstrap_result": found, "method": "percentile"}
        found = stats.bootstrap(samples, statistic, **options)
    return point, (float(found.confidence_interval.low), float(found.confidence_interval.high))


def _ratio_of(reduce):
    return lambda a, b, axis: reduce(a, axis=axis) / reduce(b, axis=axis)


def _over(statistic, values):
    return float(statistic(values)) if values.size else np.nan


def _signed_rank_p(differences):
    return float(np.asarray(stats.wilcoxon(differences))[1]) if differences.any() else 1.0


def _summarise_arm(results):
    final, diverged = final_values(results), has_diverged(results).values
    arm = {
        name: {"median": _over(np.median, each.values[~diverged]), "values": each.values.tolist()}
        for name, each in final.items()
    }
    losses = final["test_loss"].values[~diverged]
    arm["test_loss"] |= {
        "ci95": _estimate(np.median, losses)[1],
        "mean": _over(np.mean, losses),
        "mean_ci95": _estimate(np.mean, losses)[1],
        "interquartile_mean": _over(interquartile_mean, losses),
        "geometric_mean": _over(stats.gmean, np.maximum(losses, FLOOR)),
    }
    arm["test_metric"]["name"] = results.attrs["metric"]
    seeds, steps = (results[name].values[diverged].tolist() for name in ("seed", "diverged_at"))
    return arm | {"diverged_seeds": seeds, "diverged_steps": steps}
