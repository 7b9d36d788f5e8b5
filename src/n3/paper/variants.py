"""Variants: the runs of a reproduction by what they stand for, and what its figures draw of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from n3.config import setting_label
from n3.paper.claims import Part
from n3.stats import (
    Histogram,
    PowerLaw,
    Results,
    ScalingCurve,
    final_values,
    histogram,
    power_law,
    scaling_curve,
)

Runs = Mapping[tuple[tuple[float, ...], int], float]
"""A number of each run, by the labels that tell its cell from others, and by its seed."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A part of a reproduction with the last step of its runs."""

    part: Part
    values: Mapping[str, Float[np.ndarray, "cells arms seeds"]]
    """`test_loss`, `accuracy`, `final_size`, `active_parameters`, `size_penalty`: NaN in runs that diverged."""
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, part: Part, results: Results) -> "Trained":
        """The part with what `run_study` returned for it."""
        final = final_values(results).transpose("cell", "arm", "seed")
        values = {str(name): each.values for name, each in final.items()}
        values["size_penalty"] = results["size_penalty"].isel(step=-1).transpose("cell", "arm", "seed").values
        values["accuracy"] = values["test_metric"]
        if "confusion" in results:
            counts = (
                results["confusion"].transpose("cell", "arm", "seed", "true_class", "predicted_class").values
            )
            values["accuracy"] = np.trace(counts, axis1=-2, axis2=-1) / counts.sum(axis=(-2, -1))
        is_lost = np.isnan(values["test_loss"])
        values = {name: np.where(is_lost, np.nan, own) for name, own in values.items()}
        return cls(part=part, values=values, seeds=tuple(results["seed"].values.tolist()))


def gather(
    trained: Sequence[Trained], variant: str, name: str, where: Mapping[str, Any]
) -> dict[tuple[tuple[float, ...], int], float]:
    """A value of every run of a variant, by its cell's labels in the ranges of `where`, and by seed.

    Args:
        trained: The parts of a reproduction.
        variant: As `Part` names it.
        name: Of `Trained.values`.
        where: Labels of the cells that count, or ranges of them (from the first to below the second number);
            cells without such a setting count too.
    """
    found = {}
    ranges = [setting for setting, wanted in where.items() if isinstance(wanted, tuple)]
    for own in trained:
        arms = [arm for arm, called in own.part.variants().items() if called == variant]
        for index, cell in enumerate(own.part.study.cells):
            labels = {setting: setting_label(value) for setting, value in cell.items()}
            if not arms or not _fits(labels, where):
                continue
            key = tuple(float(labels[setting]) for setting in ranges if setting in labels)
            row = own.values[name][index, own.part.study.base.run.arms.index(arms[0])]
            found |= {(key, seed): float(value) for seed, value in zip(own.seeds, row, strict=True)}
    return found


def by_size(runs: Runs) -> tuple[Float[np.ndarray, " sizes"], Float[np.ndarray, "sizes seeds"]]:
    """Runs whose cells differ in one label as an array over that label, rising, and the seeds.

    Entries are NaN where a seed was not run.
    """
    sizes, seeds = sorted({cell for cell, _ in runs}), sorted({seed for _, seed in runs})
    matrix = np.array([[runs.get((size, seed), math.nan) for seed in seeds] for size in sizes], float)
    return np.array([size[0] for size in sizes], float), matrix


def law_of(runs: Runs) -> PowerLaw | None:
    """The power law of losses over the label in which their cells differ; None below four of its values."""
    sizes, losses = by_size(runs)
    return _law(tuple(sizes.tolist()), tuple(map(tuple, losses.tolist()))) if len(sizes) >= 4 else None


@lru_cache(maxsize=64)
def _law(sizes, losses):
    return power_law(np.array(sizes), np.array(losses))


def _fits(labels, where):
    for setting, wanted in where.items():
        own = labels.get(setting, None)
        if own is None:
            continue
        if not (wanted[0] <= own < wanted[1] if isinstance(wanted, tuple) else own == wanted):
            return False
    return True


def histograms(trained: Sequence[Trained], variants: tuple[str, ...]) -> dict[str, Histogram]:
    """A histogram of each task."""
    tasks = dict.fromkeys(cell["task"] for own in trained for cell in own.part.study.cells)
    return {
        str(task): histogram(
            {
                name: np.array(list(gather(trained, name, "test_loss", {"task": task}).values()))
                for name in variants
            }
        )
        for task in tasks
    }


def confusions(
    trained: Sequence[Trained], results: Sequence[Results], variants: tuple[str, ...]
) -> dict[str, Int[np.ndarray, "classes classes"]]:
    """Counts by true class (row) and predicted class (column) over all runs of each variant."""
    found: dict[str, Any] = dict.fromkeys(variants, 0)
    for own, whole in zip(trained, results, strict=True):
        for arm, name in own.part.variants().items():
            if name in found:
                found[name] += whole["confusion"].sel(arm=arm).sum(("cell", "seed")).values.astype(np.int64)
    return found


@dataclass(frozen=True, kw_only=True)
class PenaltyCurve:
    """One variant over the weight of the size penalty, as means over its trials that did not diverge."""

    weights: Float[np.ndarray, " weights"]
    loss: Float[np.ndarray, " weights"]
    penalty: Float[np.ndarray, " weights"]
    """The weighted penalty, in the loss's unit."""


def penalty_curves(trained: Sequence[Trained], variants: tuple[str, ...]) -> dict[str, PenaltyCurve]:
    """Final test loss and size penalty of each variant over the penalty's weight."""
    where, found = {"size_cost": (0.0, np.inf)}, {}
    for name in variants:
        (weights, losses), (_, penalties) = (
            by_size(gather(trained, name, variable, where)) for variable in ("test_loss", "size_penalty")
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


def scaling_curves(trained: Sequence[Trained], variants: tuple[str, ...]) -> list[ScalingCurve]:
    """A curve for each variant and each learning rate that it was trained with, the fastest rate first."""
    rates = sorted(
        {float(cell["learning_rate"]) for own in trained for cell in own.part.study.cells}, reverse=True
    )
    found = []
    for rate in rates:
        for name in variants:
            runs = gather(trained, name, "test_loss", {"learning_rate": rate, "capacity": (0, np.inf)})
            if runs:
                found.append(scaling_curve(name, *by_size(runs), rate=rate, law=law_of(runs)))
    return found


def mean_ratio(results: Results, above: str, below: str) -> Float[np.ndarray, " steps"]:
    """Ratio of two arms' mean test losses at each recorded step, over runs that are finite there."""
    means = (results["test_loss"].sel(arm=arm).where(np.isfinite).mean("seed") for arm in (above, below))
    return np.divide(*(mean.transpose("step", ...).values.reshape(-1) for mean in means))


@dataclass(frozen=True, kw_only=True)
class SizePoint:
    """A variant in one cell: quartiles over its runs that did not diverge, lower, median, upper."""

    variant: str
    size: tuple[float, float, float]
    """Effective units, summed over layers."""
    accuracy: tuple[float, float, float]


def size_points(trained: Sequence[Trained]) -> list[SizePoint]:
    """A point for each variant and cell of which a run did not diverge."""
    found = []
    for own in trained:
        names = list(own.part.variants().values())
        for cell, arm in np.ndindex(own.values["final_size"].shape[:2]):
            pair = np.stack([own.values[name][cell, arm] for name in ("final_size", "accuracy")])
            pair = pair[:, np.isfinite(pair).all(axis=0)]
            if pair.size:
                size, accuracy = (
                    tuple(map(float, row)) for row in np.quantile(pair, [0.25, 0.5, 0.75], axis=1).T
                )
                found.append(SizePoint(variant=names[arm], size=size, accuracy=accuracy))
    return found
