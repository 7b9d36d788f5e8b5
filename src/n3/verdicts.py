"""Verdicts: what the runs of a reproduction say of each claim, in numbers and in one word."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from n3.analysis import bootstrap_interval, compare, final_values
from n3.claims import NEUTRAL, Claim, Part, Reproduction
from n3.grid import label
from n3.records import Results
from n3.resampling import Estimate
from n3.scaling import power_law
from n3.tails import share_of, stuck_fraction, stuck_threshold

Word = Literal["reproduced", "not reproduced", "reversed by control", "-"]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A part of a reproduction with the last step of its runs."""

    part: Part
    values: Mapping[str, Float[np.ndarray, "cells arms seeds"]]
    """`test_loss`, `accuracy`, `final_size`, `active_parameters`: NaN in runs that diverged."""
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, part: Part, results: Results) -> "Trained":
        """The part with what `studies.run` returned for it."""
        final = final_values(results).transpose("cell", "arm", "seed")
        values = {name: each.values for name, each in final.items()}
        values["accuracy"] = values["test_metric"]
        if "confusion" in results:
            counts = (
                results["confusion"].transpose("cell", "arm", "seed", "true_class", "predicted_class").values
            )
            values["accuracy"] = np.trace(counts, axis1=-2, axis2=-1) / counts.sum(axis=(-2, -1))
        return cls(part=part, values=values, seeds=tuple(results["seed"].values.tolist()))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim, what the runs say of it, and what they say of its controls."""

    claim: Claim
    ours: Estimate
    controls: Mapping[str, Estimate]
    """The same measure with each control in place of the baseline."""
    word: Word


def verdicts(reproduction: Reproduction, trained: Sequence[Trained]) -> list[Verdict]:
    """Judge every claim of which there are runs.

    A claim is reproduced where our interval meets the reference's; if the reference's shows growing ahead or
    behind, ours must show it too. Where the reference has no interval, a comparison must be significant on the
    reference's side, and any other quantity must hold the reference in its interval. Where it has no number,
    growing must be significantly ahead. A claim is reversed by a control where it is reproduced, growing is
    ahead of the baseline, and a control is significantly ahead of growing.

    Args:
        reproduction: The experiment.
        trained: Its parts, trained.
    """
    found = []
    for claim in reproduction.claims:
        ours = measured(claim, trained, claim.of)
        if ours is None:
            continue
        controls = {name: measured(claim, trained, claim.with_baseline(name)) for name in claim.controls}
        known = {name: estimate for name, estimate in controls.items() if estimate is not None}
        found.append(Verdict(claim=claim, ours=ours, controls=known, word=judge(claim, ours, known)))
    return found


def measured(claim: Claim, trained: Sequence[Trained], of: tuple[str, ...]) -> Estimate | None:
    """The claim's measure of some contenders, with its 95 % interval; None where one of them was not run."""
    name = {"accuracy": "accuracy", "size": "final_size"}.get(claim.measure, "test_loss")
    sides = [gathered(trained, contender, name, claim.where) for contender in of]
    return _MEASURES[claim.measure](*sides) if all(sides) else None


def gathered(
    trained: Sequence[Trained], contender: str, name: str, where: Mapping[str, Any]
) -> dict[tuple[tuple[float, ...], int], float]:
    """A value of every run of a contender, by the cell's labels in the ranges of `where` and by seed."""
    found = {}
    ranges = [setting for setting, wanted in where.items() if isinstance(wanted, tuple)]
    for own in trained:
        arms = [arm for arm, called in own.part.contenders().items() if called == contender]
        for index, cell in enumerate(own.part.study.cells):
            labels = {setting: label(value) for setting, value in cell.items()}
            if not arms or not _fits(labels, where):
                continue
            key = tuple(labels[setting] for setting in ranges if setting in labels)
            row = own.values[name][index, own.part.study.base.run.arms.index(arms[0])]
            found |= {(key, seed): float(value) for seed, value in zip(own.seeds, row, strict=True)}
    return found


def judge(claim: Claim, ours: Estimate, controls: Mapping[str, Estimate]) -> Word:
    """One word for a claim, by the rule of `verdicts`; a dash where there is no reference."""
    if claim.reference is None:
        return "-"
    neutral = NEUTRAL.get(claim.measure)
    if not _agrees(claim.reference, ours, side(claim, ours), neutral, claim.favours_growing_above):
        return "not reproduced"
    is_reversed = side(claim, ours) > 0 and any(side(claim, control) < 0 for control in controls.values())
    return "reversed by control" if is_reversed else "reproduced"


def side(claim: Claim, estimate: Estimate) -> int:
    """1 where growing is significantly ahead, -1 where it is behind, 0 where neither or nothing is compared."""
    neutral = NEUTRAL.get(claim.measure, math.nan)
    above = int(estimate.low > neutral) - int(estimate.high < neutral)
    return above if claim.favours_growing_above else -above


def _agrees(reference, ours, ours_side, neutral, favours_above):
    if reference.value is None:
        return ours_side > 0
    if reference.low is None and neutral is None:
        return ours.low <= reference.value <= ours.high
    low, high = (reference.value,) * 2 if reference.low is None else (reference.low, reference.high)
    known = 0 if neutral is None else (int(low > neutral) - int(high < neutral)) * (1 if favours_above else -1)
    meets = reference.low is None or (ours.low <= high and low <= ours.high)
    return meets and (not known or known == ours_side)


def _fits(labels, where):
    for setting, wanted in where.items():
        own = labels.get(setting, None)
        if own is None:
            continue
        if not (wanted[0] <= own < wanted[1] if isinstance(wanted, tuple) else own == wanted):
            return False
    return True


def _paired(a, b):
    keys = sorted(a.keys() & b.keys())
    return np.array([a[key] for key in keys]), np.array([b[key] for key in keys])


def _of_comparison(name):
    def measure(a, b):
        found = compare(*_paired(a, b))
        return Estimate(getattr(found, name), *getattr(found, f"{name}_ci95"))

    return measure


def _wins(a, b):
    own, other = _paired(a, b)
    known = np.isfinite(own) & np.isfinite(other)
    return share_of(int((own < other)[known].sum()), int(known.sum())) if known.any() else None


def _geometric_ratio(a, b):
    """Over cells, of the ratio of mean losses in each: a cell's trials may share their data."""
    means = [_means_by_cell(side) for side in (a, b)]
    cells = sorted(means[0].keys() & means[1].keys())
    logs = np.log([means[0][cell] / means[1][cell] for cell in cells])
    return Estimate(*map(float, np.exp([logs.mean(), *bootstrap_interval(logs, np.mean)]))) if cells else None


def _means_by_cell(side):
    known: dict[Any, list[float]] = {}
    for (cell, _), value in side.items():
        if math.isfinite(value):
            known.setdefault(cell, []).append(value)
    return {cell: np.mean(values) for cell, values in known.items()}


def _statistic(function):
    def measure(values, *_):
        known = np.array([value for value in values.values() if math.isfinite(value)])
        return Estimate(float(function(known)), *bootstrap_interval(known, function)) if known.size else None

    return measure


def _stuck(losses, other):
    own, others = (np.array(list(side.values())) for side in (losses, other))
    return stuck_fraction(own, above=stuck_threshold(own, others))


def _of_law(name):
    def measure(losses):
        sizes, seeds = (sorted({key[place] for key in losses}) for place in (0, 1))
        if len(sizes) < 4:
            return None
        matrix = np.array([[losses.get((size, seed), math.nan) for seed in seeds] for size in sizes])
        return getattr(power_law(np.array(sizes, float)[:, 0], matrix), name)

    return measure


_MEASURES: Mapping[str, Callable[..., Estimate | None]] = {
    "ratio of means": _of_comparison("ratio_of_means"),
    "ratio of medians": _of_comparison("ratio_of_medians"),
    "wins": _wins,
    "geometric ratio": _geometric_ratio,
    "mean": _statistic(np.mean),
    "accuracy": _statistic(np.mean),
    "size": _statistic(np.median),
    "stuck": _stuck,
    "slope": _of_law("slope"),
    "exponent": _of_law("exponent"),
}
