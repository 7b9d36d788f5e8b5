"""Comparison: how far apart the losses of two arms are, with intervals from resampled runs."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.random import default_rng
from scipy import stats

Sample = Float[np.ndarray, " runs"]
Tasks = Sequence[Float[np.ndarray, "_ *_"]]
"""Runs along the first axis, by task (or by task and method); tasks may differ in their number of runs."""
Statistic = Callable[..., Any]


class Estimate(NamedTuple):
    """A number and the ends of its interval, in one unit; of one run alone the ends are NaN."""

    value: float
    low: float
    high: float


def stratified_bootstrap(
    strata: Tasks, statistic: Statistic, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Percentile interval of a statistic whose runs are drawn again within each stratum, never across.

    The statistic takes the list of strata and returns a number or an array; the ends have its unit and shape.
    They are NaN where a stratum holds one run, which says nothing of its spread. Equal calls give equal ends.

    Raises:
        ValueError: If a stratum is empty, or `level`, the coverage, lies outside `(0, 1)`.

    References:
        Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", 2021, sec. 4.1.
    """
    if not strata or not all(len(runs) for runs in strata):
        raise ValueError(f"`strata` must hold one run or more each; got {[len(runs) for runs in strata]} runs.")
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie in (0, 1); got {level}.")
    if min(map(len, strata)) < 2:
        unknown = np.full(np.shape(statistic(list(strata))), np.nan)
        return unknown, unknown
    rng = default_rng(seed)
    found = [statistic([rng.choice(runs, len(runs)) for runs in strata]) for _ in range(resamples)]
    low, high = np.quantile(np.array(found, float), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


FLOOR = float(np.finfo(np.float32).tiny)
"""Least loss that enters a logarithm or a ratio: a loss of zero counts as the least normal float32."""


def bootstrap_interval(
    values: Sample,
    statistic: Statistic = np.median,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bias-corrected and accelerated (BCa) bootstrap interval of a statistic.

    Where ties leave BCa undefined (leaving out any one value changes nothing), it is the percentile interval
    of the same resamples. Equal values give an interval of no width, and one value alone none: NaN. The
    statistic takes an array and an `axis`, as NumPy's reductions do. Equal calls give equal intervals.

    Raises:
        ValueError: If there is no value, one is NaN or infinite, or `level`, the coverage, is outside `(0, 1)`.

    References:
        Efron, "Better bootstrap confidence intervals", 1987, section 4.
    """
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"`values` must be finite, one or more; got {values}.")
    return point_and_interval(statistic, values.astype(float), level=level, resamples=resamples, seed=seed)[1]


def interquartile_mean(values: Sample) -> float:
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
    median_ratio: float
    """Median of a / b."""
    median_ratio_ci95: tuple[float, float]
    geometric_mean_ratio: float
    ratio_of_means: float
    ratio_of_means_ci95: tuple[float, float]
    ratio_of_medians: float
    ratio_of_medians_ci95: tuple[float, float]


def compare(a: Sample, b: Sample, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Compare final losses of two arms, paired by their index; swapping the arms inverts every ratio.

    A run that diverged is NaN or infinite; losses below `FLOOR` count as it.

    Raises:
        ValueError: If a loss is negative, or `level`, the coverage of the intervals, lies outside `(0, 1)`.
    """
    if (a < 0).any() or (b < 0).any():
        raise ValueError(f"`a` and `b` must be losses of zero or more; got {np.nanmin([a, b])}.")
    kept = np.isfinite(a) & np.isfinite(b)
    own, other = (np.maximum(side[kept].astype(float), FLOOR) for side in (a, b))
    logs, how = np.log(own / other), {"level": level, "resamples": resamples, "seed": seed}
    median_log_ratio, interval = point_and_interval(np.median, logs, **how)
    ratio_of_means, means_interval = point_and_interval(_ratio_of(np.mean), own, other, **how)
    ratio_of_medians, medians_interval = point_and_interval(_ratio_of(np.median), own, other, **how)
    return Comparison(
        median_log_ratio=median_log_ratio,
        ci95=interval,
        p_value=value_or_nan(lambda own: np.asarray(stats.wilcoxon(own))[1] if own.any() else 1.0, logs),
        wins=int((own < other).sum()),
        pairs=int(kept.sum()),
        excluded=int((~kept).sum()),
        median_ratio=float(np.exp(median_log_ratio)),
        median_ratio_ci95=(float(np.exp(interval[0])), float(np.exp(interval[1]))),
        geometric_mean_ratio=value_or_nan(stats.gmean, own / other),
        ratio_of_means=ratio_of_means,
        ratio_of_means_ci95=means_interval,
        ratio_of_medians=ratio_of_medians,
        ratio_of_medians_ci95=medians_interval,
    )


def point_and_interval(
    statistic: Statistic, *samples: Sample, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """A statistic of one sample, or of several paired ones, and its interval as of `bootstrap_interval`."""
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


def value_or_nan(statistic: Statistic, values: Sample) -> float:
    """The statistic of the values; NaN where there are none."""
    return float(statistic(values)) if values.size else np.nan
