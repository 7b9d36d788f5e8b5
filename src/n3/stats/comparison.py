"""Comparison: how far apart the losses of two arms are, with intervals from resampled runs."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.random import default_rng
from scipy import stats


class Estimate(NamedTuple):
    """A number and the ends of its interval, in one unit; of one run alone the ends are NaN."""

    value: float
    low: float
    high: float


def stratified_bootstrap(
    strata: Sequence[Float[np.ndarray, "_ *_"]],
    statistic: Callable[[list[np.ndarray]], float | Float[np.ndarray, "*shape"]],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Percentile interval of a statistic whose runs are drawn again within each stratum, never across.

    Args:
        strata: Runs along the first axis, a stratum a task (or a task of one method); their lengths may differ.
        statistic: Takes the strata in their order, and returns a number or an array of numbers.
        level: Coverage, in `(0, 1)`.
        resamples: Bootstrap resamples.
        seed: Seed of the resampling: equal calls give equal intervals.

    Returns:
        Lower and upper end, in the unit and the shape of the statistic; NaN where a stratum holds one run,
        which says nothing of its spread.

    Raises:
        ValueError: If a stratum is empty, or `level` lies outside `(0, 1)`.

    References:
        Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", 2021, section
        4.1.
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
    return point_and_interval(statistic, values.astype(float), level=level, resamples=resamples, seed=seed)[1]


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
        geometric_mean_ratio=value_or_nan(stats.gmean, own / other),
        ratio_of_means=ratio_of_means,
        ratio_of_means_ci95=means_interval,
        ratio_of_medians=ratio_of_medians,
        ratio_of_medians_ci95=medians_interval,
    )


def point_and_interval(
    statistic: Callable[..., Any],
    *samples: Float[np.ndarray, " values"],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
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


def value_or_nan(statistic: Callable[..., Any], values: Float[np.ndarray, " values"]) -> float:
    """The statistic of the values; NaN where there are none."""
    return float(statistic(values)) if values.size else np.nan
