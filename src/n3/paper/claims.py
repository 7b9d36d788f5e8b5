"""Claims: what was published or measured before about a quantity, and which runs speak to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from n3.config.grid import Study

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
"""Contenders that the paper compares growing with."""


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
    """One contender, or two that are compared."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Labels of the cell; a pair of numbers takes the cells from the first to below the second."""
    reference: Reference | None = None
    """None: nothing to be compared with, the quantity is only measured."""
    controls: tuple[str, ...] = ()
    """Contenders that take the place of the baseline."""

    def with_baseline(self, contender: str) -> tuple[str, ...]:
        """The compared contenders with another one in place of the baseline."""
        return tuple(contender if each in BASELINES else each for each in self.of)

    @property
    def favours_growing_above(self) -> bool:
        """Whether growing is ahead above the neutral value: it wins more often, or the other has more loss."""
        return (self.of[0] == "growing") == (self.measure in ("probability", "wins"))


@dataclass(frozen=True, kw_only=True)
class Part:
    """A study, and what its arms are called as contenders."""

    name: str
    study: Study
    names: Mapping[str, str] = field(default_factory=dict)
    """Contender of each arm that is not called as the arm is."""

    def contenders(self) -> dict[str, str]:
        """Contender of every arm."""
        return {arm: self.names.get(arm, arm) for arm in self.study.base.run.arms}


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A published experiment: its parts, its claims, and the figure that shows it."""

    name: str
    title: str
    parts: tuple[Part, ...]
    claims: tuple[Claim, ...]
    figure: Figure
    loss_unit: str = "squared scaled units"
