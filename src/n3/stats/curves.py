"""Curves: what the paper's figures draw of the runs of a reproduction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from n3.experiments.results import Results
from n3.paper.contenders import Trained, by_size, gathered, law_of
from n3.stats.scaling_laws import PowerLaw
from n3.stats.summary import FLOOR, bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Shares of the runs of several contenders in bins of equal width on a logarithmic axis."""

    edges: Float[np.ndarray, " edges"]
    shares: Mapping[str, Float[np.ndarray, " bins"]]
    """Of all runs of a contender: they sum to 1 less the share that diverged."""
    medians: Mapping[str, float]


def histogram(losses: Mapping[str, Float[np.ndarray, " _"]], *, bins: int = 60) -> Histogram:
    """Bin final losses, which may lie far apart, between the least and the largest of all.

    Args:
        losses: Final losses by contender, NaN or infinite where a run diverged; below `FLOOR` they count as it.
        bins: Number of bins.

    Raises:
        ValueError: If no loss is finite.
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


def histograms(trained: Sequence[Trained], contenders: tuple[str, ...]) -> dict[str, Histogram]:
    """A histogram of each task."""
    tasks = dict.fromkeys(cell["task"] for own in trained for cell in own.part.study.cells)
    return {
        str(task): histogram(
            {
                name: np.array(list(gathered(trained, name, "test_loss", {"task": task}).values()))
                for name in contenders
            }
        )
        for task in tasks
    }


def confusions(
    trained: Sequence[Trained], results: Sequence[Results], contenders: tuple[str, ...]
) -> dict[str, Int[np.ndarray, "classes classes"]]:
    """Counts by true class (row) and predicted class (column) over all runs of each contender."""
    found: dict[str, Any] = dict.fromkeys(contenders, 0)
    for own, whole in zip(trained, results, strict=True):
        for arm, name in own.part.contenders().items():
            if name in found:
                found[name] += whole["confusion"].sel(arm=arm).sum(("cell", "seed")).values.astype(np.int64)
    return found


@dataclass(frozen=True, kw_only=True)
class PenaltyCurve:
    """One contender over the weight of the size penalty, as means over its trials that did not diverge."""

    weights: Float[np.ndarray, " weights"]
    loss: Float[np.ndarray, " weights"]
    penalty: Float[np.ndarray, " weights"]
    """The weighted penalty, in the loss's unit."""


def penalty_curves(trained: Sequence[Trained], contenders: tuple[str, ...]) -> dict[str, PenaltyCurve]:
    """Final test loss and size penalty of each contender over the penalty's weight."""
    where, found = {"size_cost": (0.0, np.inf)}, {}
    for name in contenders:
        (weights, losses), (_, penalties) = (
            by_size(gathered(trained, name, variable, where)) for variable in ("test_loss", "size_penalty")
        )
        means = (np.nanmean(values, axis=1) for values in (losses, penalties))
        found[name] = PenaltyCurve(weights=weights, **dict(zip(("loss", "penalty"), means, strict=True)))
    return found


def loss_ratio(
    above: PenaltyCurve, below: PenaltyCurve
) -> tuple[Float[np.ndarray, " shared"], Float[np.ndarray, " shared"]]:
    """The weights that two curves share, and the ratio of their losses there."""
    shared, own, other = np.intersect1d(above.weights, below.weights, return_indices=True)
    return shared, above.loss[own] / below.loss[other]


@dataclass(frozen=True, kw_only=True)
class ScalingCurve:
    """Final losses of one contender at one learning rate over capacity."""

    contender: str
    rate: float
    sizes: Float[np.ndarray, " sizes"]
    mean: Float[np.ndarray, " sizes"]
    """Geometric, over the seeds that did not diverge."""
    low: Float[np.ndarray, " sizes"]
    """Lower quartile over the seeds."""
    high: Float[np.ndarray, " sizes"]
    law: PowerLaw | None
    """None below four sizes."""


def scaling_curve(
    contender: str,
    sizes: Float[np.ndarray, " sizes"],
    losses: Float[np.ndarray, "sizes seeds"],
    *,
    rate: float,
    law: PowerLaw | None,
) -> ScalingCurve:
    """The curve of one contender at one learning rate.

    Args:
        contender: Its name.
        sizes: Units, rising.
        losses: Final losses, positive; NaN where a run diverged or a seed was not run.
        rate: The learning rate.
        law: What `n3.power_law` fitted; None below four sizes.
    """
    low, high = np.nanquantile(losses, [0.25, 0.75], axis=1)
    mean = np.exp(np.nanmean(np.log(losses), axis=1))
    return ScalingCurve(contender=contender, rate=rate, sizes=sizes, mean=mean, low=low, high=high, law=law)


def scaling_curves(trained: Sequence[Trained], contenders: tuple[str, ...]) -> list[ScalingCurve]:
    """A curve for each contender and each learning rate that it was trained with, the fastest rate first."""
    rates = sorted(
        {float(cell["learning_rate"]) for own in trained for cell in own.part.study.cells}, reverse=True
    )
    found = []
    for rate in rates:
        for name in contenders:
            runs = gathered(trained, name, "test_loss", {"learning_rate": rate, "capacity": (0, np.inf)})
            if runs:
                found.append(scaling_curve(name, *by_size(runs), rate=rate, law=law_of(runs)))
    return found


def mean_ratio(results: Results, above: str, below: str) -> Float[np.ndarray, " steps"]:
    """Ratio of two arms' mean test losses at each recorded step, over runs that are finite there."""
    means = (results["test_loss"].sel(arm=arm).where(np.isfinite).mean("seed") for arm in (above, below))
    return np.divide(*(mean.transpose("step", ...).values.reshape(-1) for mean in means))


@dataclass(frozen=True, kw_only=True)
class SizePoint:
    """A contender in one cell: quartiles over its runs that did not diverge, lower, median, upper."""

    contender: str
    size: tuple[float, float, float]
    """Effective units, summed over layers."""
    accuracy: tuple[float, float, float]


def size_points(trained: Sequence[Trained]) -> list[SizePoint]:
    """A point for each contender and cell of which a run did not diverge."""
    found = []
    for own in trained:
        names = list(own.part.contenders().values())
        for cell, arm in np.ndindex(own.values["final_size"].shape[:2]):
            pair = np.stack([own.values[name][cell, arm] for name in ("final_size", "accuracy")])
            pair = pair[:, np.isfinite(pair).all(axis=0)]
            if pair.size:
                size, accuracy = (
                    tuple(map(float, row)) for row in np.quantile(pair, [0.25, 0.5, 0.75], axis=1).T
                )
                found.append(SizePoint(contender=names[arm], size=size, accuracy=accuracy))
    return found


@dataclass(frozen=True, kw_only=True)
class AccuracyCurve:
    """One contender's accuracy over the parameters that it uses, in rising order of these."""

    contender: str
    parameters: Float[np.ndarray, " points"]
    """Median over the seeds."""
    mean: Float[np.ndarray, " points"]
    """Share of test samples whose class is predicted, over the seeds."""
    low: Float[np.ndarray, " points"]
    """Lower end of the mean's 95 % interval (BCa over the seeds)."""
    high: Float[np.ndarray, " points"]


def accuracy_curve(
    contender: str, parameters: Float[np.ndarray, "points seeds"], accuracy: Float[np.ndarray, "points seeds"]
) -> AccuracyCurve:
    """The curve of runs in any order of their points.

    Raises:
        ValueError: If a value is NaN or infinite.
    """
    order = np.argsort(np.median(parameters, axis=1), kind="stable")
    low, high = np.array([bootstrap_interval(accuracy[point], np.mean) for point in order]).T
    return AccuracyCurve(
        contender=contender,
        parameters=np.median(parameters, axis=1)[order],
        mean=accuracy.mean(axis=1)[order],
        low=low,
        high=high,
    )
