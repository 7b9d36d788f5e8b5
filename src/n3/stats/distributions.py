"""Distributions: what many final losses look like together: histograms, profiles, heavy tails and shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float
from scipy import stats

from n3.stats.comparison import FLOOR, Estimate, Sample, Tasks, stratified_bootstrap


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Shares of the runs of several variants in bins of equal width on a logarithmic axis."""

    edges: Float[np.ndarray, " edges"]
    shares: Mapping[str, Float[np.ndarray, " bins"]]
    """Of all runs of a variant: they sum to 1 less the share that diverged."""
    medians: Mapping[str, float]


def histogram(losses: Mapping[str, Float[np.ndarray, " _"]], *, bins: int = 60) -> Histogram:
    """Bin final losses by variant, which may lie far apart, between the least and the largest of all.

    A run that diverged is NaN or infinite, all of them a ValueError; losses below `FLOOR` count as it.
    """
    finite = {name: np.maximum(values[np.isfinite(values)], FLOOR) for name, values in losses.items()}
    every = np.log10(np.concatenate(list(finite.values())))
    if not every.size:
        raise ValueError("`losses` must hold a finite loss; all runs diverged.")
    edges = np.linspace(every.min() - 1e-9, every.max() + 1e-9, bins + 1)
    counts = {name: np.histogram(np.log10(values), edges)[0] for name, values in finite.items()}
    shares = {name: own / max(1, losses[name].size) for name, own in counts.items()}
    medians = {name: float(np.median(values)) for name, values in finite.items() if values.size}
    return Histogram(edges=10**edges, shares=shares, medians=medians)


@dataclass(frozen=True, kw_only=True)
class SettingCurve:
    """Final values of an arm over the values of a setting: rows of the lower quartile, median and upper one."""

    arm: str
    setting: str
    values: tuple[int | float | str, ...]
    loss: Float[np.ndarray, "3 values"]
    """Test loss, in the unit of the task's loss; NaN where all runs diverged."""
    size: Float[np.ndarray, "3 values"]
    """Effective units, over all layers."""


Ends = Sequence[tuple[Mapping[str, int | float | str], str, Mapping[str, Float[np.ndarray, " _runs"]]]]
"""Settings of each cell of a study, an arm, and its final values by name."""


def setting_curves(ends: Ends) -> list[SettingCurve]:
    """The final values of each arm over each setting, over all seeds and all values of the other settings."""
    found = []
    for setting, arm in product(ends[0][0], dict.fromkeys(arm for _, arm, _ in ends)):
        own = [(cell[setting], final) for cell, other, final in ends if other == arm]
        values = tuple(dict.fromkeys(value for value, _ in own))
        curves = {}
        for name in ("test_loss", "final_size"):
            pooled = [np.concatenate([final[name] for value, final in own if value == here]) for here in values]
            known = [runs[np.isfinite(runs)] for runs in pooled]
            rows = [np.quantile(runs, QUARTILES) if runs.size else np.full(3, np.nan) for runs in known]
            curves[name] = np.stack(rows, axis=1)
        loss, size = curves.values()
        found.append(SettingCurve(arm=arm, setting=setting, values=values, loss=loss, size=size))
    return found


QUARTILES = (0.25, 0.5, 0.75)
Thresholds = Float[np.ndarray, " thresholds"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Share of runs that reach each loss, with a pointwise interval."""

    thresholds: Thresholds
    """Losses, in the unit of the runs'."""
    share: Thresholds
    """In `[0, 1]`, non-decreasing where the thresholds rise."""
    low: Thresholds
    high: Thresholds


def performance_profile(
    tasks: Tasks, thresholds: Thresholds, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Profile:
    """Share of runs whose loss is at most each threshold, averaged over tasks that count alike.

    Losses of several tasks must be in one unit: divided by a reference's loss on each task, for example. A run
    that diverged (NaN or infinite) reaches no finite threshold. The bootstrap is stratified by task.

    Raises:
        ValueError: If a task has no run, or `level`, the coverage, lies outside `(0, 1)`.

    References:
        Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", 2021, equation 2
        (run-score distribution), there for scores of which more is better.
    """

    def share(strata: Sequence[np.ndarray]) -> np.ndarray:
        reached = [np.searchsorted(np.sort(runs), thresholds, side="right") / len(runs) for runs in strata]
        return np.mean(reached, axis=0)

    low, high = stratified_bootstrap(tasks, share, level=level, resamples=resamples, seed=seed)
    return Profile(thresholds=thresholds, share=share(tasks), low=low, high=high)


def probability_of_improvement(
    a: Tasks, b: Tasks, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Probability that a run of `a` ends lower than an independent run of `b` on a task drawn at random.

    `mean over tasks of P(a < b) + P(a = b) / 2`, over all pairs of runs of a task, whatever their seeds. A run
    that diverged loses to all that did not. The bootstrap is stratified by task and method.

    Raises:
        ValueError: If `a` and `b` differ in number of tasks, a task has no run, or `level` is outside `(0, 1)`.

    References:
        Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than the
        other", 1947; averaged over tasks as in Agarwal et al., 2021, section 4.3.
    """
    if len(a) != len(b):
        raise ValueError(f"`a` and `b` must have the same tasks; got {len(a)} and {len(b)}.")

    def probability(strata: Sequence[np.ndarray]) -> float:
        return float(np.mean(list(map(_lower, strata[: len(a)], strata[len(a) :]))))

    both = [*a, *b]
    low, high = stratified_bootstrap(both, probability, level=level, resamples=resamples, seed=seed)
    return Estimate(probability(both), float(low), float(high))


def _lower(own, other):
    """Share of pairs in which `own` is lower, a tie counting half: Mann and Whitney's U of `other`."""
    both = np.concatenate([own, other])
    ranks = stats.rankdata(np.where(np.isfinite(both), both, np.inf))[len(own) :]
    return (ranks.sum() - ranks.size * (ranks.size + 1) / 2) / (len(own) * len(other))


STUCK = 10.0
"""Factor on the median above which a final loss counts as stuck."""
TRIMMED = 0.05
"""Share of the runs that the trimmed mean leaves out at either end."""
LARGEST_SHARE = 0.01
"""Share of the runs that are counted as the largest, one at least."""


@dataclass(frozen=True, kw_only=True)
class TailSummary:
    """Final losses of one arm, over the runs that did not diverge; NaN where all did. In the loss's unit."""

    mean: float
    median: float
    trimmed_mean: float
    """Mean without the share `TRIMMED` of the runs, rounded down, at either end."""
    geometric_mean: float
    """0 where a loss is 0."""
    log_deviation: float
    """Standard deviation of the natural logarithm of the loss; infinite where a loss is 0."""
    largest_share: float
    """Share of the sum of all losses that the largest `LARGEST` of the runs carry, in `[0, 1]`."""
    diverged: int
    """Runs whose loss is NaN or infinite."""


def tail_summary(losses: Sample) -> TailSummary:
    """What is typical of heavy-tailed losses, and how much a few decide the mean; below 0, a ValueError."""
    if (losses < 0).any():
        raise ValueError(f"`losses` must be zero or more; got {np.nanmin(losses)}.")
    known = np.sort(losses[np.isfinite(losses)].astype(float))
    ranked = known if known.size else np.array([np.nan])
    largest = ranked[-max(1, int(LARGEST_SHARE * ranked.size)) :]
    return TailSummary(
        mean=float(ranked.mean()),
        median=float(np.median(ranked)),
        trimmed_mean=float(stats.trim_mean(ranked, TRIMMED)),
        geometric_mean=float(stats.gmean(ranked)),
        log_deviation=float(np.std(np.log(ranked))) if ranked[0] else np.inf,
        largest_share=float(largest.sum() / ranked.sum()) if ranked[-1] else 0.0,
        diverged=len(losses) - known.size,
    )


def stuck_threshold(*arms: Float[np.ndarray, " _"]) -> float:
    """Loss above which a run counts as stuck: `STUCK` times the median of all arms' finite losses together."""
    together = np.concatenate(arms)
    return STUCK * float(np.median(together[np.isfinite(together)]))


def stuck_fraction(losses: Sample, *, above: float, level: float = 0.95) -> Estimate:
    """Share of runs that ended above a loss (`stuck_threshold`, for example), or diverged; Wilson's interval.

    No run at all is a ValueError.

    References:
        Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if not losses.size:
        raise ValueError("`losses` must hold one run or more; got none.")
    return share_of(int((~(losses <= above)).sum()), losses.size, level=level)  # NaN is at most nothing


def share_of(count: int, total: int, *, level: float = 0.95) -> Estimate:
    """A count as a share of a positive total, with Wilson's interval."""
    found = stats.binomtest(count, total).proportion_ci(level, method="wilson")
    return Estimate(count / total, float(found.low), float(found.high))
