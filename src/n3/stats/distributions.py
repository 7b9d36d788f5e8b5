"""Profiles: how often the runs of several tasks reach each loss, and how often one method beats another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from n3.stats.comparison import Estimate, stratified_bootstrap


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Share of runs that reach each loss, with a pointwise interval."""

    thresholds: Float[np.ndarray, " thresholds"]
    """Losses, in the unit of the runs'."""
    share: Float[np.ndarray, " thresholds"]
    """In `[0, 1]`, non-decreasing where the thresholds rise."""
    low: Float[np.ndarray, " thresholds"]
    high: Float[np.ndarray, " thresholds"]


def performance_profile(
    tasks: Sequence[Float[np.ndarray, " _"]],
    thresholds: Float[np.ndarray, " thresholds"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Profile:
    """Share of runs whose loss is at most each threshold, averaged over tasks that count alike.

    Losses of several tasks must be in one unit: divided by a reference's loss on each task, for example.

    Args:
        tasks: Final losses of the runs of each task; one that diverged (NaN or infinite) reaches no threshold.
        thresholds: Losses to be reached, finite.
        level: Coverage of the pointwise interval, in `(0, 1)`.
        resamples: Bootstrap resamples, stratified by task.
        seed: Seed of the resampling.

    Raises:
        ValueError: If a task has no run, or `level` lies outside `(0, 1)`.

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
    a: Sequence[Float[np.ndarray, " _"]],
    b: Sequence[Float[np.ndarray, " _"]],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Probability that a run of `a` ends lower than an independent run of `b` on a task drawn at random.

    `mean over tasks of P(a < b) + P(a = b) / 2`, over all pairs of runs of a task, whatever their seeds; the
    probability of `b` over `a` is one minus it.

    Args:
        a: Final losses of the runs of each task; a run that diverged loses to all that did not.
        b: Final losses of the other method, task by task.
        level: Coverage of the interval, in `(0, 1)`.
        resamples: Bootstrap resamples, stratified by task and method.
        seed: Seed of the resampling.

    Returns:
        The probability and its interval, in `[0, 1]`.

    Raises:
        ValueError: If `a` and `b` differ in their number of tasks, a task has no run, or `level` lies outside
            `(0, 1)`.

    References:
        Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than the
        other", 1947; averaged over tasks as in Agarwal et al., 2021, section 4.3.
    """
    if len(a) != len(b):
        raise ValueError(f"`a` and `b` must have the same tasks; got {len(a)} and {len(b)}.")

    def probability(strata: Sequence[np.ndarray]) -> float:
        pairs = zip(strata[: len(a)], strata[len(a) :], strict=True)
        return float(np.mean([_lower(own, other) for own, other in pairs]))

    both = [*a, *b]
    low, high = stratified_bootstrap(both, probability, level=level, resamples=resamples, seed=seed)
    return Estimate(probability(both), float(low), float(high))


def _lower(own, other):
    """Share of pairs in which `own` is lower, a tie counting half."""
    own, other = (np.where(np.isfinite(side), side, np.inf) for side in (own, other))
    ranked = np.sort(other)
    above, from_tie = (len(other) - np.searchsorted(ranked, own, side=side) for side in ("right", "left"))
    return np.mean(above + from_tie) / (2 * len(other))
