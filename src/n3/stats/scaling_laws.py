"""Scaling laws: how a loss falls with a network's size."""

import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float
from scipy import optimize

from n3.stats.comparison import Estimate, bootstrap_interval, stratified_bootstrap

Sizes = Float[np.ndarray, " sizes"]
Losses = Float[np.ndarray, "sizes seeds"]


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """`loss = offset + factor * size ** -exponent`, and the straight line through the logarithms beside it."""

    offset: Estimate
    """Loss that no size falls below, in the loss's unit; 0 or more."""
    factor: Estimate
    """Loss above the offset at size 1."""
    exponent: Estimate
    """Positive; of a law with an offset, so it need not be minus the slope."""
    slope: Estimate
    """Of `ln loss` over `ln size`, by least squares, without an offset."""
    intercept: float
    """Loss of that straight line at size 1."""

    def loss(self, sizes: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
        """Loss at each size by the power law."""
        return self.offset.value + self.factor.value * sizes**-self.exponent.value

    def line(self, sizes: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
        """Loss at each size by the straight line through the logarithms."""
        return self.intercept * sizes**self.slope.value


def power_law(
    sizes: Sizes, losses: Losses, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> PowerLaw:
    """Fit both laws to the geometric mean over the seeds, by least squares of the logarithms.

    Intervals are by percentiles over resampled seeds: a seed is drawn with its losses at all sizes, because its
    runs share their data. Runs that diverged (NaN or infinite) are left out of their size's mean.

    Raises:
        ValueError: If there are fewer than four different sizes (units or parameters), a size or a loss is not
            positive, every run of a size diverged, or `level`, the coverage, lies outside `(0, 1)`.
    """
    if len(set(sizes.tolist())) < 4 or not (sizes > 0).all():
        raise ValueError(f"`sizes` must hold four or more different positive numbers; got {sizes.tolist()}.")
    if (losses <= 0).any() or not np.isfinite(losses).any(axis=1).all():
        raise ValueError("`losses` must be positive, and finite in one run or more of each size.")
    logs = np.log(np.where(np.isfinite(losses), losses, np.nan)).T.astype(float)
    found = _fitted(np.log(sizes), logs, ())
    nearby = (found[:3], next(_guesses(np.log(sizes), np.nanmean(logs, axis=0), found[3])))
    interval = partial(stratified_bootstrap, [logs], level=level, resamples=resamples, seed=seed)
    ends = np.array([found, *interval(lambda strata: _fitted(np.log(sizes), strata[0], nearby))])
    ends[:, [0, 1, 2, 4]] = np.exp(ends[:, [0, 1, 2, 4]])
    offset, factor, exponent, slope, height = (Estimate(*map(float, own)) for own in ends.T)
    return PowerLaw(offset=offset, factor=factor, exponent=exponent, slope=slope, intercept=height.value)


def _fitted(steps, logs, starts):
    """Logarithms of offset, factor and exponent, then slope and height of the line, of `logs` (seed, size)."""
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # a size whose drawn seeds are lost
        means = np.nanmean(logs, axis=0)
    x, y = steps[np.isfinite(means)], means[np.isfinite(means)]
    if len(x) < 3:
        return [np.nan] * 5
    slope, height = np.polyfit(x, y, 1)

    def misses(law: np.ndarray) -> np.ndarray:
        return np.logaddexp(law[0], law[1] - np.exp(law[2]) * x) - y

    def slopes(law: np.ndarray) -> np.ndarray:
        from_offset = np.exp(law[0] - misses(law) - y)  # its share of the fitted loss
        return np.stack([from_offset, 1 - from_offset, (from_offset - 1) * np.exp(law[2]) * x], axis=1)

    begun = starts or _guesses(x, y, slope)
    with np.errstate(invalid="ignore"):  # from some starts the steps lead to NaN
        fits = [optimize.least_squares(misses, one, slopes, method="lm", max_nfev=200) for one in begun]
    return [*min(fits, key=lambda fit: (np.isnan(fit.cost), fit.cost)).x, slope, height]


def _guesses(x, y, slope):
    """Laws to start from: nearly no offset, or an offset just below the least loss."""
    steep = max(-slope, 0.05)
    for below, exponent in ((7.0, steep), (0.3, 2.0 * steep), (0.05, 6.0 * steep)):
        yield np.array([y.min() - below, y[0] + exponent * x[0], np.log(exponent)])


@dataclass(frozen=True, kw_only=True)
class ScalingCurve:
    """Final losses of one variant at one learning rate over capacity."""

    variant: str
    rate: float
    sizes: Sizes
    mean: Sizes
    """Geometric, over the seeds that did not diverge."""
    low: Sizes
    """Lower quartile over the seeds."""
    high: Sizes
    law: PowerLaw | None
    """None below four sizes."""


def scaling_curve(
    variant: str, sizes: Sizes, losses: Losses, *, rate: float, law: PowerLaw | None
) -> ScalingCurve:
    """The curve of positive losses, NaN where a run diverged or a seed was not run, over rising units."""
    low, high = np.nanquantile(losses, [0.25, 0.75], axis=1)
    mean = np.exp(np.nanmean(np.log(losses), axis=1))
    return ScalingCurve(variant=variant, rate=rate, sizes=sizes, mean=mean, low=low, high=high, law=law)


@dataclass(frozen=True, kw_only=True)
class AccuracyCurve:
    """One variant's accuracy over the parameters that it uses, in rising order of these."""

    variant: str
    parameters: Float[np.ndarray, " points"]
    """Median over the seeds."""
    mean: Float[np.ndarray, " points"]
    """Share of test samples whose class is predicted, over the seeds."""
    low: Float[np.ndarray, " points"]
    """Lower end of the mean's 95 % interval (BCa over the seeds)."""
    high: Float[np.ndarray, " points"]


def accuracy_curve(
    variant: str, parameters: Float[np.ndarray, "points seeds"], accuracy: Float[np.ndarray, "points seeds"]
) -> AccuracyCurve:
    """The curve of runs in any order of their points; a ValueError if a value is NaN or infinite."""
    medians = np.median(parameters, axis=1)
    order = np.argsort(medians, kind="stable")
    low, high = np.array([bootstrap_interval(own, np.mean) for own in accuracy[order]]).T
    mean = accuracy.mean(axis=1)[order]
    return AccuracyCurve(variant=variant, parameters=medians[order], mean=mean, low=low, high=high)
