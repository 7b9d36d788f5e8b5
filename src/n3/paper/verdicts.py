"""Verdicts: what the runs of a reproduction say of each claim, in numbers and in one word."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np

from n3.paper.claims import NEUTRAL, Claim, Reproduction
from n3.paper.variants import Trained, gather, law_of
from n3.stats import (
    Estimate,
    bootstrap_interval,
    compare,
    probability_of_improvement,
    share_of,
    stuck_fraction,
    stuck_threshold,
)

Word = Literal["reproduced", "not reproduced", "cannot tell", "reversed by control", "cut short", "-"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim, what the runs say of it, and what they say of its controls."""

    claim: Claim
    ours: Estimate
    controls: Mapping[str, Estimate]
    """The same measure with each control in place of the baseline."""
    word: Word


def judge_claims(reproduction: Reproduction, trained: Sequence[Trained]) -> list[Verdict]:
    """Judge every claim of which there are runs.

    A claim is reproduced where our interval meets the reference's; if the reference's shows growing ahead or
    behind, ours must show it too. Where the reference has no interval, a comparison must be significant on the
    reference's side, and any other quantity must hold the reference in its interval. Where it has no number,
    growing must be significantly ahead. Where ours meets the reference, and only shows neither side ahead, the
    runs are too few and `cannot tell`. A claim is reversed by a control where it is reproduced, growing is
    ahead of the baseline, and a control is significantly ahead of growing. One trial alone has no
    interval and decides nothing, but for shares of trials, whose intervals are binomial. Nothing is judged
    where the experiment was cut short.

    Args:
        reproduction: The experiment.
        trained: Its parts, trained.
    """
    found = []
    for claim in reproduction.claims:
        ours = measured_value(claim, trained, claim.of)
        if ours is None:
            continue
        controls = {name: measured_value(claim, trained, claim.with_baseline(name)) for name in claim.controls}
        known = {name: estimate for name, estimate in controls.items() if estimate is not None}
        word = "cut short" if reproduction.is_cut_short else judge(claim, ours, known)
        found.append(Verdict(claim=claim, ours=ours, controls=known, word=word))
    return found


def measured_value(claim: Claim, trained: Sequence[Trained], of: tuple[str, ...]) -> Estimate | None:
    """The claim's measure of some variants, with its 95 % interval; None where one of them was not run."""
    name = {"accuracy": "accuracy", "size": "final_size"}.get(claim.measure, "test_loss")
    sides = [gather(trained, variant, name, claim.where) for variant in of]
    return _MEASURES[claim.measure](*sides) if all(sides) else None


def judge(claim: Claim, ours: Estimate, controls: Mapping[str, Estimate]) -> Word:
    """One word for a claim, by the rule of `verdicts`; a dash where there is no reference or one run alone."""
    if claim.reference is None or (math.isfinite(ours.value) and math.isnan(ours.low)):
        return "-"
    neutral = NEUTRAL.get(claim.measure)
    word = _agreement(claim.reference, ours, side(claim, ours), neutral, claim.favours_growing_above)
    if word != "reproduced":
        return word
    is_reversed = side(claim, ours) > 0 and any(side(claim, control) < 0 for control in controls.values())
    return "reversed by control" if is_reversed else word


def side(claim: Claim, estimate: Estimate) -> int:
    """1 where growing is significantly ahead, -1 where it is behind, 0 where neither or nothing is compared."""
    neutral = NEUTRAL.get(claim.measure, math.nan)
    above = int(estimate.low > neutral) - int(estimate.high < neutral)
    return above if claim.favours_growing_above else -above


def _agreement(reference, ours, ours_side, neutral, favours_above) -> Word:
    if reference.value is None:
        return "reproduced" if ours_side > 0 else "not reproduced"
    low, high = (reference.value,) * 2 if reference.low is None else (reference.low, reference.high)
    meets = ours.low <= high and low <= ours.high
    known = 0 if neutral is None else (int(low > neutral) - int(high < neutral)) * (1 if favours_above else -1)
    if known and ours_side == 0 and meets:
        return "cannot tell"
    if known and reference.low is None:
        return "reproduced" if known == ours_side else "not reproduced"
    return "reproduced" if meets and (not known or known == ours_side) else "not reproduced"


def _paired(a, b):
    keys = sorted(a.keys() & b.keys())
    return np.array([a[key] for key in keys]), np.array([b[key] for key in keys])


def _compared(name, a, b):
    found = _comparison(*(side.tobytes() for side in _paired(a, b)))
    return Estimate(getattr(found, name), *getattr(found, f"{name}_ci95"))


@lru_cache(maxsize=64)
def _comparison(a: bytes, b: bytes):
    """All measures of a pair at once: several claims ask for one each, and the intervals take their time."""
    return compare(np.frombuffer(a), np.frombuffer(b))


def _wins(a, b):
    own, other = _paired(a, b)
    known = np.isfinite(own) & np.isfinite(other)
    return share_of(int((own < other)[known].sum()), int(known.sum())) if known.any() else None


def _probability(a, b):
    """Over all pairs of runs, whatever their seeds: `wins` is that of runs with the same seed."""
    return probability_of_improvement(*([np.array(list(side.values()))] for side in (a, b)), resamples=1000)


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


def _over_runs(statistic, values):
    known = np.array([value for value in values.values() if math.isfinite(value)])
    return Estimate(float(statistic(known)), *bootstrap_interval(known, statistic)) if known.size else None


def _stuck(losses, other):
    own, others = (np.array(list(side.values())) for side in (losses, other))
    return stuck_fraction(own, above=stuck_threshold(own, others))


def _of_law(name, losses):
    law = law_of(losses)
    return None if law is None else getattr(law, name)


_MEASURES: Mapping[str, Callable[..., Estimate | None]] = {
    "ratio of means": partial(_compared, "ratio_of_means"),
    "ratio of medians": partial(_compared, "ratio_of_medians"),
    "probability": _probability,
    "wins": _wins,
    "geometric ratio": _geometric_ratio,
    "mean": partial(_over_runs, np.mean),
    "accuracy": partial(_over_runs, np.mean),
    "size": partial(_over_runs, np.median),
    "stuck": _stuck,
    "slope": partial(_of_law, "slope"),
    "exponent": partial(_of_law, "exponent"),
}
