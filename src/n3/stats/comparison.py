"""Resampling: how far a statistic over several groups of runs would move with other runs of each group."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.random import default_rng


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
    found = [statistic([_drawn(rng, runs) for runs in strata]) for _ in range(resamples)]
    ends = np.quantile(np.array(found, float), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(ends[0]), np.asarray(ends[1])


def _drawn(rng, runs):
    return runs[rng.integers(len(runs), size=len(runs))]
