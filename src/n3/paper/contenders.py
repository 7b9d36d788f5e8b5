"""Contenders: the runs of a reproduction by what they stand for, whichever part they were trained in."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from n3.config.grid import label
from n3.experiments.results import Results
from n3.paper.claims import Part
from n3.stats.scaling_laws import PowerLaw, power_law
from n3.stats.summary import final_values

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
        """The part with what `studies.run` returned for it."""
        final = final_values(results).transpose("cell", "arm", "seed")
        values = {str(name): each.values for name, each in final.items()}
        values["size_penalty"] = results["size_penalty"].isel(step=-1).transpose("cell", "arm", "seed").values
        values["accuracy"] = values["test_metric"]
        if "confusion" in results:
            counts = (
                results["confusion"].transpose("cell", "arm", "seed", "true_class", "predicted_class").values
            )
            values["accuracy"] = np.trace(counts, axis1=-2, axis2=-1) / counts.sum(axis=(-2, -1))
        return cls(part=part, values=values, seeds=tuple(results["seed"].values.tolist()))


def gathered(
    trained: Sequence[Trained], contender: str, name: str, where: Mapping[str, Any]
) -> dict[tuple[tuple[float, ...], int], float]:
    """A value of every run of a contender, by its cell's labels in the ranges of `where`, and by seed.

    Args:
        trained: The parts of a reproduction.
        contender: As `Part` names it.
        name: Of `Trained.values`.
        where: Labels of the cells that count, or ranges of them (from the first to below the second number);
            cells without such a setting count too.
    """
    found = {}
    ranges = [setting for setting, wanted in where.items() if isinstance(wanted, tuple)]
    for own in trained:
        arms = [arm for arm, called in own.part.contenders().items() if called == contender]
        for index, cell in enumerate(own.part.study.cells):
            labels = {setting: label(value) for setting, value in cell.items()}
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
