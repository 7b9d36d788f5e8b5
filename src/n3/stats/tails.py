"""Tails: final losses of which a few are far above the rest, told without letting those few speak for all."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from n3.stats.comparison import Estimate

STUCK = 10.0
"""Factor on the median above which a final loss counts as stuck."""

TRIMMED = 0.05
"""Share of the runs that the trimmed mean leaves out at either end."""

LARGEST = 0.01
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


def tail_summary(losses: Float[np.ndarray, " runs"]) -> TailSummary:
    """What is typical of heavy-tailed losses, and how much a few of them decide the mean.

    Args:
        losses: Final losses of zero or more; NaN or infinite where a run diverged.

    Raises:
        ValueError: If a loss is negative.
    """
    if (losses < 0).any():
        raise ValueError(f"`losses` must be zero or more; got {np.nanmin(losses)}.")
    known = np.sort(losses[np.isfinite(losses)].astype(float))
    names = ("mean", "median", "trimmed_mean", "geometric_mean", "log_deviation", "largest_share")
    values = _of_ranked(known) if known.size else [np.nan] * len(names)
    return TailSummary(**dict(zip(names, map(float, values), strict=True)), diverged=len(losses) - known.size)


def stuck_threshold(*arms: Float[np.ndarray, " _"]) -> float:
    """Loss above which a run counts as stuck: `STUCK` times the median of all arms' finite losses together."""
    together = np.concatenate(arms)
    return STUCK * float(np.median(together[np.isfinite(together)]))


def stuck_fraction(losses: Float[np.ndarray, " runs"], *, above: float, level: float = 0.95) -> Estimate:
    """Share of runs that ended above a loss, or diverged.

    Args:
        losses: Final losses, one or more; NaN or infinite where a run diverged.
        above: The loss above which a run counts as stuck, `stuck_threshold` for example.
        level: Coverage of the interval, in `(0, 1)`.

    Returns:
        The share and Wilson's interval of it, in `[0, 1]`.

    Raises:
        ValueError: If there is no run.

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


def _of_ranked(known):
    largest = max(1, int(LARGEST * known.size))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(known)
        deviation = np.std(logs) if known[0] > 0 else np.inf
        share = known[-largest:].sum() / known.sum() if known[-1] > 0 else 0.0
    trimmed = stats.trim_mean(known, TRIMMED)
    return known.mean(), np.median(known), trimmed, np.exp(logs.mean()), deviation, share
