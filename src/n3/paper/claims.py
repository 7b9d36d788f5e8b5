"""Claims: what is said of the paper's experiments, what was measured before, and what a reproduction is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from n3.config import Study

Measure = Literal[
    "ratio of means",
    "ratio of medians",
    "probability",
    "wins",
    "geometric ratio",
    "mean",
    "accuracy",
    "stuck",
    "size",
    "slope",
    "exponent",
]
Figure = Literal["histories", "histograms", "classes", "penalty", "bands", "scaling", "sizes"]
NEUTRAL: Mapping[str, float] = {
    "ratio of means": 1.0,
    "ratio of medians": 1.0,
    "geometric ratio": 1.0,
    "probability": 0.5,
    "wins": 0.5,
}
"""Value at which neither side is ahead, of the measures that compare two."""
BASELINES = ("grown", "static")
"""Variants that the paper compares growing with."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a quantity was found to be before; without a value, that growing is ahead."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    """Ends of its 95 % interval; None where none is known."""
    source: str = "the paper's claim"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A quantity, its reference, and the controls that it must stand against."""

    quantity: str
    measure: Measure
    of: tuple[str, ...]
    """One variant, or two that are compared."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Labels of the cell; a pair of numbers takes the cells from the first to below the second."""
    reference: Reference | None = None
    """None: nothing to be compared with, the quantity is only measured."""
    controls: tuple[str, ...] = ()
    """Variants that take the place of the baseline."""

    def with_baseline(self, variant: str) -> tuple[str, ...]:
        """The compared variants with another one in place of the baseline."""
        return tuple(variant if each in BASELINES else each for each in self.of)

    @property
    def favours_growing_above(self) -> bool:
        """Whether growing is ahead above the neutral value: it wins more often, or the other has more loss."""
        return (self.of[0] == "growing") == (self.measure in ("probability", "wins"))


@dataclass(frozen=True, kw_only=True)
class Part:
    """A study, and what its arms are called as variants."""

    name: str
    study: Study
    names: Mapping[str, str] = field(default_factory=dict)
    """Variant of each arm that is not called as the arm is."""

    def variants(self) -> dict[str, str]:
        """Variant of every arm."""
        return {arm: self.names.get(arm, arm) for arm in self.study.base.run.arms}


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A published experiment: its parts, its claims, and the figure that shows it."""

    name: str
    title: str
    """With `{steps}`, `{samples}`, `{points}` and `{units}` for the most of any part, until these are known."""
    parts: tuple[Part, ...]
    claims: tuple[Claim, ...]
    figure: Figure
    loss_unit: str = "squared scaled units"
    is_cut_short: bool = False
    """Whether nothing is learnt, so that claims have no verdict."""


BOTH = ("growing", "grown")
"""The two arms of the paper's figures."""
CONTROLS = ("rescaled", "warmup", "equal-size")
"""What must not do as well as growing, if growing is what helps."""
RATES = (1e-4, 3e-4, 1e-3)
"""Learning rates of the scaling experiments."""
_REPLICATED = "replication, 1,000 trials"
_RATIOS: dict[tuple[str, str], tuple[tuple[float, ...], tuple[float, ...], float]] = {
    ("figure-3", "quadratic"): ((7.9, 4.4, 15.7), (1.34, 1.19, 1.52), 0.58),
    ("figure-3", "bessel"): ((1.18, 1.10, 1.27), (1.36, 1.16, 1.54), 0.55),
    ("figure-3", "cubic"): ((1.31, 1.17, 1.47), (1.44, 1.13, 1.78), 0.55),
    ("figure-4", "cubic-negative"): ((1.10, 1.01, 1.19), (1.09, 0.95, 1.23), 0.51),
    ("figure-4", "quadratic-2"): ((1.86, 1.45, 2.37), (0.715, 0.64, 0.81), 0.41),
    ("figure-5", "sine-classes"): ((1.16, 1.07, 1.26), (1.21, 1.06, 1.47), 0.54),
}
"""Of final test losses: grown / growing of means and of medians, with intervals; P(growing < grown)."""
_RESCALED = {"quadratic": (0.91, 0.60, 1.46), "cubic": (0.66, 0.52, 0.86), "bessel": (0.78, 0.67, 0.90)}
_STUCK = {"grown": 35, "growing": 3}
_HALF_DECADES = (9.79, 2.02, 0.316, 0.517, 0.642, 0.863, 0.960, 0.897)
_RERUN = {
    "controller-bessel": {"released": (1.60e-4, 1.8e-4, 10), "static": (1.29e-3, 1.3e-3, 10)},
    "controller-spirals": {"released": (0.864, 0.004, 5), "static": (0.831, 0.016, 5)},
    "controller-gaussian": {"released": (0.0364, None, 3), "static": (0.0380, None, 3)},
}
"""The published code run again: mean over seeds of losses (spirals: accuracies), deviation, seeds."""
_SLOPES = {"bessel": {"static": -1.31, "growing": -0.79}, "spirals": {"static": -0.24, "growing": -0.25}}
_MLP = {8: 0.343, 32: 0.487, 128: 0.567}


def ratios(name: str = "", task: str = "") -> tuple[Claim, ...]:
    """Grown against growing by four measures; where nothing was measured before, that growing is better.

    Args:
        name: The experiment.
        task: Its target; empty where there is one only.
    """
    measures: tuple[Measure, ...] = ("ratio of means", "ratio of medians", "probability")
    known, prefix = _RATIOS.get((name, task)), f"{task}: " if task else ""
    shared: dict[str, Any] = {"where": {"task": task} if task else {}, "controls": CONTROLS}
    told = {"probability": "P(growing < grown)", "wins": "trials in which growing is lower"}
    claims = [
        Claim(
            quantity=prefix + told.get(measure, f"grown / growing, {measure}"),
            measure=measure,
            of=BOTH if measure in told else BOTH[::-1],
            reference=_reference(known[place], _REPLICATED) if known else Reference(),
            **shared,
        )
        for place, measure in enumerate(measures)
    ]
    return (*claims, Claim(quantity=prefix + told["wins"], measure="wins", of=BOTH, **shared))


def rescaled() -> tuple[Claim, ...]:
    """The rescaled arm against growing, as ratio of means."""
    return tuple(
        Claim(
            quantity=f"{task}: rescaled / growing, ratio of means (before: both rescaled)",
            measure="ratio of means",
            of=("rescaled", "growing"),
            where={"task": task},
            reference=_reference(ends, "replication, 200 trials"),
        )
        for task, ends in _RESCALED.items()
    )


def stuck() -> tuple[Claim, ...]:
    """Share of trials on the quadratic that end far above the rest."""
    return tuple(
        Claim(
            quantity=f"quadratic: stuck trials, {arm}",
            measure="stuck",
            of=(arm, *(other for other in BOTH if other != arm)),
            where={"task": "quadratic"},
            reference=_share(count, 1_000),
        )
        for arm, count in _STUCK.items()
    )


def half_decades() -> tuple[Claim, ...]:
    """Growing against grown over the penalty's weight, in half-decades from 0.01 to 100."""

    def edge(place: int) -> float:
        return 10 ** (place / 2 - 2) * (1 - 1e-9)  # below the weight that lies on it

    return tuple(
        Claim(
            quantity=f"growing / grown, lambda {10 ** (place / 2 - 2):.2g} to {10 ** (place / 2 - 1.5):.2g}",
            measure="geometric ratio",
            of=BOTH,
            where={"size_cost": (edge(place), edge(place + 1))},
            reference=Reference(value=value, source="replication, by half-decades"),
            controls=CONTROLS,
        )
        for place, value in enumerate(_HALF_DECADES)
    )


def means(name: str) -> tuple[Claim, ...]:
    """Mean final losses, or accuracies, of the published code and of a static network."""
    measure: Measure = "accuracy" if name == "controller-spirals" else "mean"
    return tuple(
        Claim(
            quantity=f"{arm}: {'mean test loss' if measure == 'mean' else measure}",
            measure=measure,
            of=(arm,),
            reference=_of_deviation(value, deviation, seeds),
        )
        for arm, (value, deviation, seeds) in _RERUN[name].items()
    )


def advantages() -> tuple[Claim, ...]:
    """Static against growing, as released and by the mask of each unit."""
    measures: tuple[Measure, ...] = ("ratio of means", "ratio of medians")
    return tuple(
        Claim(
            quantity=f"static / {arm}, {measure}",
            measure=measure,
            of=("static", arm),
            reference=Reference(),
            controls=("warmup", "equal-size"),
        )
        for arm in ("released", "growing")
        for measure in measures
    )


def slopes(task: str) -> tuple[Claim, ...]:
    """Slope of the logarithms, and exponent of the law with an offset, by arm and learning rate."""
    kinds: tuple[Measure, ...] = ("slope", "exponent")
    published = {arm: Reference(value=value, source="published slope") for arm, value in _SLOPES[task].items()}
    return tuple(
        Claim(
            quantity=f"{arm} at rate {rate:g}: {kind}",
            measure=kind,
            of=(arm,),
            where={"learning_rate": rate, "capacity": (1, math.inf)},
            reference=published.get(arm) if kind == "slope" and rate == RATES[-1] else None,
        )
        for rate in reversed(RATES)
        for arm in ("static", "growing", "warmup")[: 3 if rate == RATES[-1] else 2]
        for kind in kinds
    )


def widths() -> tuple[Claim, ...]:
    """Accuracy on MNIST-1D of static networks by their width."""
    return tuple(
        Claim(
            quantity=f"static, {width} units: accuracy",
            measure="accuracy",
            of=("static",),
            where={"capacity": width},
            reference=Reference(value=value, source="scikit-learn's network"),
        )
        for width, value in _MLP.items()
    )


def against(baseline: str, other: str, **where: Any) -> Claim:
    """One variant over another by their medians: measured, with nothing to compare."""
    quantity = f"{baseline} / {other}, ratio of medians"
    return Claim(quantity=quantity, measure="ratio of medians", of=(baseline, other), where=where)


def found_size(variant: str = "information") -> Claim:
    """Median size that a variant found without a target: measured, with nothing to compare."""
    return Claim(quantity=f"{variant}: median size (units)", measure="size", of=(variant,))


def sized(baseline: str, task: str = "") -> tuple[Claim, ...]:
    """Automatic sizing against a baseline, and the size that it found: measured, with nothing to compare.

    Args:
        baseline: The variant.
        task: The target; empty where there is one only.
    """
    where, prefix = ({"task": task}, f"{task}: ") if task else ({}, "")
    claims = against(baseline, "information", **where), found_size()
    return tuple(replace(claim, quantity=prefix + claim.quantity, where=where) for claim in claims)


def accuracy_claim(variant: str) -> Claim:
    """Mean accuracy of a variant: measured, with nothing to compare."""
    return Claim(quantity=f"{variant}: accuracy", measure="accuracy", of=(variant,))


def _reference(ends, source):
    value, low, high = ends if isinstance(ends, tuple) else (ends, None, None)
    return Reference(value=value, low=low, high=high, source=source)


def _of_deviation(value, deviation, seeds):
    """A mean over seeds with the normal interval that their deviation, where it is known, gives it."""
    source = f"published code, {seeds} seeds"
    if deviation is None:
        return Reference(value=value, source=source)
    half = 1.96 * deviation / math.sqrt(seeds)
    return Reference(value=value, low=value - half, high=value + half, source=source)


def _share(count, trials):
    """A share with Wilson's interval."""
    share, z = count / trials, 1.96
    middle, spread = (
        share + z**2 / (2 * trials),
        z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2),
    )
    low, high = ((middle + sign * spread) / (1 + z**2 / trials) for sign in (-1, 1))
    return Reference(value=share, low=low, high=high, source=_REPLICATED)
