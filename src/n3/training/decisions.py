"""Decisions: whether a run prunes, expands or goes back at a look at its structure, and why, in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int

from n3.config.experiment import SIZED, StructureConfig
from n3.training.step import Recipe

Action = Literal["wait", "prune", "expand", "rollback"]
ACTIONS: tuple[str, ...] = get_args(Action)
UnitChange = tuple[int, ...]
"""Change of the units of each hidden layer."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What one run did at one look."""

    step: int
    seed: int
    arm: str
    action: Action
    units: UnitChange
    reason: str
    before: float
    """Validation loss at the look."""
    after: float | None = None
    """Validation loss at the next look; None at the last."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """What a run's next decision depends on."""

    losses: tuple[float, ...] = ()
    """Validation loss at each look; where a change was undone, the one before it."""
    last: Action | None = None
    """The latest change, `prune` or `expand`."""
    units: UnitChange = ()
    is_undone: bool = False
    looks: int = 0
    """Looks since a change was made or undone, this one included."""
    before: float | None = None
    """Validation loss before a change that is on trial; None: none is."""

    def seen(self, loss: float) -> "Track":
        """The track at the next look."""
        return replace(self, losses=(*self.losses, loss), looks=self.looks + 1)

    def done(self, action: Action, units: UnitChange, cooldown: int) -> "Track":
        """The track after a decision.

        A change is on trial for `cooldown` looks, beside the one at which the next may be made.
        """
        match action:
            case "wait":
                return self if self.looks <= cooldown else replace(self, before=None)
            case "rollback":
                losses = (*self.losses[:-1], self.before or 0.0)
                return replace(self, losses=losses, is_undone=True, looks=0, before=None)
        made = {"last": action, "units": units, "is_undone": False, "looks": 0}
        return replace(self, before=self.losses[-1], **made)


def decide(track: Track, config: StructureConfig, *, left: int) -> tuple[tuple[Action, ...], str]:
    """What a run should do at a look: the actions to try in order, until one finds something to do; and why.

    A change that is on trial, until the looks of its cooldown are over, is undone where the validation loss is
    above that before it by more than the margin, or is not finite. Else nothing changes at the last look,
    during a cooldown, at the first look, or while the loss still falls by more than the plateau. At rest
    pruning and expansion take turns: the one that was not the last change comes first, and the other where the
    first finds nothing to do, but none that was just undone. An expansion needs looks enough left for a pruning
    after it. The track includes the validation loss at this look; `left` looks come after it.
    """
    loss = track.losses[-1]
    if track.before is not None and not loss <= track.before * (1.0 + config.margin):
        worse = "not finite" if not math.isfinite(loss) else f"{loss:.4g}, {_percent(loss, track.before)} above"
        told = f"validation loss {worse}: {track.before:.4g} before the last change, margin {config.margin:.3g}"
        return ("rollback",), told
    if not math.isfinite(loss):
        return ("wait",), "the run has diverged"
    if left == 0:
        return ("wait",), "the run ends here"
    if track.last is not None and track.looks <= config.cooldown:
        return ("wait",), f"cooldown, look {track.looks} of {config.cooldown}"
    if len(track.losses) < 2:
        return ("wait",), "the first look has no loss to compare with"
    previous = track.losses[-2]
    if loss < previous * (1.0 - config.plateau):
        return ("wait",), f"validation loss still falls: {loss:.4g} after {previous:.4g}"
    order: tuple[Action, ...] = ("expand", "prune") if track.last == "prune" else ("prune", "expand")
    is_late = left < config.cooldown + 2
    barred = {track.last if track.is_undone else None, "expand" if is_late else None}
    tried: tuple[Action, ...] = tuple(action for action in order if action not in barred)
    rest = f"validation loss at rest: {loss:.4g} after {previous:.4g}"
    return (tried, rest) if tried else (("wait",), f"{rest}; too late to expand, and pruning was undone")


def with_next_loss(decisions: Sequence[Decision]) -> tuple[Decision, ...]:
    """The decisions of one run with the validation loss that came after each."""
    losses = [*(own.before for own in decisions[1:]), None]
    return tuple(replace(own, after=loss) for own, loss in zip(decisions, losses, strict=True))


def count_actions(decisions: Sequence[Decision]) -> Mapping[str, int]:
    """How often each change was made: `prune`, `expand` and `rollback`."""
    found = [own.action for own in decisions]
    return {action: found.count(action) for action in ACTIONS[1:]}


def _percent(loss: float, before: float) -> str:
    return f"{loss / before - 1.0:.1%}" if before > 0 else f"{loss - before:.3g}"


LEAST_CAPACITY = 8
"""Units of a layer that a program has at least, or all that are allocated."""


@dataclass(frozen=True, kw_only=True)
class Staged:
    """What became of the structure of an arm that was trained in stages."""

    decisions: tuple[Decision, ...]
    """Those of every run at every look, run after run."""
    looks: Int[np.ndarray, " looks"]
    """Steps at which there was a look; the last is the end."""
    capacity: Int[np.ndarray, "looks layers"]
    """Units of each layer in the program that trained up to each look."""
    programs: frozenset[Recipe]
    """The programs that trained."""
    most_programs: int
    """Programs that it could have been."""

    def describe(self) -> str:
        """What the arm did at its looks, as one line."""
        counts = count_actions(self.decisions)
        looks, runs = len(self.looks), len(self.decisions) // len(self.looks)
        return (
            f"{self.decisions[0].arm}: {looks} looks at {runs} runs, {counts['prune']} pruned, "
            f"{counts['expand']} expanded, {counts['rollback']} undone; {len(self.programs)} programs of "
            f"{self.most_programs} at most"
        )


def look_steps(steps: int, every: int | None) -> Int[np.ndarray, " looks"]:
    """Steps of the looks: every so many, and the end."""
    return np.append(np.arange(every or steps, steps, every or steps), steps)


def most_programs(capacity: Sequence[int]) -> int:
    """Programs that the stages of an arm need at most: a power of two each, from `LEAST` to the capacity."""
    return 1 + max(0, math.ceil(math.log2(max(capacity) / LEAST_CAPACITY)))


def describe_structure(
    config: StructureConfig, steps: int, capacity: Sequence[int], arms: Sequence[str]
) -> str:
    """What would be done to the structure of those arms that choose their size, for people."""
    looks = len(look_steps(steps, config.structure_every))
    expansions = f", expand by {config.expand} ({config.expand_method})" if config.expand else ""
    return (
        f"structure   {looks} looks at {', '.join(arm for arm in arms if arm in SIZED)}: prune {config.prune}"
        f"{expansions}; at most {most_programs(capacity)} programs an arm"
    )
