"""Stages: an arm trained from look to look, with units really removed and added in between.

From one look to the next all runs of an arm train in one compiled program. At a look every run decides by its
own validation loss (`n3.training.decisions`), and what it decides is carried out on the host: `n3.prune` and `n3.expand`
with the optimiser's state, or the state before the last change once more. Then all runs are laid out in one
capacity again, the least power of two that holds each of them: few programs, however many changes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import jax
import jax.random as jr
import numpy as np
from jax import Device
from jaxtyping import Int, Key

from n3.config.settings import StructureConfig
from n3.experiments.logbook import LEAST, Staged, looks_of, most_programs
from n3.experiments.path import losses_of
from n3.experiments.results import StepRecord
from n3.information.terms import Importance
from n3.nn.losses import Samples
from n3.training import alterations, decisions, tiers
from n3.training.alterations import Altered
from n3.training.decisions import Action, Decision, Track
from n3.training.step import Hypers, Problem, Recipe, TrainState
from n3.training.sweep import Swept, sweep

STREAM = 1_000_003
"""Which stream of a run's key surgery draws from: none that training uses."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """By what an arm changes its structure."""

    config: StructureConfig
    arm: str
    seeds: tuple[int, ...]
    held: Samples
    """The samples that each seed held out, with a first axis of seeds."""
    is_classes: bool
    importance: Importance | None = None
    """A user's importance of units in place of the built-in one."""


def train_in_stages(
    recipe: Recipe,
    hypers: Hypers,
    problem: Problem,
    *,
    keys: Key[jax.Array, " runs"],
    stops: Int[np.ndarray, " records"],
    rules: Rules,
    devices: Sequence[Device] | None = None,
    progress: Callable[[int], None] = lambda step: None,
) -> tuple[Swept, Staged]:
    """Train the runs of an arm and change their structure on the way.

    A run that changes nothing is what `sweep` makes of it.

    Args:
        recipe: The program; its capacity is the most that a layer can hold.
        hypers: The numbers; every leaf has a first axis of runs.
        problem: The samples; every leaf has a first axis of runs.
        keys: One key a run, shape `[runs]`.
        stops: Steps at which to record, strictly increasing; the last ends the runs.
        rules: By what the structure changes.
        devices: As for `sweep`.
        progress: As for `sweep`.

    Returns:
        Final states, in the capacity of the last stage, with the records; and what became of the structure.
    """
    began, bound = time.perf_counter(), recipe.capacity
    looks = looks_of(int(stops[-1]), rules.config.structure_every)
    *each, _ = np.split(stops[:-1], np.searchsorted(stops[:-1], looks, side="right"))
    runs, parts, programs, capacity, start = [_Run()] * len(keys), [], set(), [], None
    for place, (own, look) in enumerate(zip([*each, stops[-1:]], [*looks, looks[-1]], strict=True)):
        filled = np.pad(own, (0, 1 + max(map(len, each)) - len(own)), constant_values=look)  # one shape
        options = {"devices": devices, "progress": progress, "start": start, "is_tiered": False}
        swept = sweep(recipe, hypers, problem, keys=keys, stops=filled, **options)
        parts.append(replace(swept, records=_first(swept.records, len(own))))
        programs.add(recipe)
        capacity.append(recipe.capacity)
        if place == len(looks):
            break
        context = _Look(recipe, rules, hypers, problem, keys, bound, int(look), len(looks) - 1 - place)
        runs, recipe, state = context.carried_out(runs, swept.state)
        start = (int(look), state)
    compile_seconds = sum(part.compile_seconds for part in parts)
    whole = Swept(
        state=parts[-1].state,
        records=jax.tree.map(lambda *of: np.concatenate(of, axis=1), *(part.records for part in parts)),
        compile_seconds=compile_seconds,
        run_seconds=time.perf_counter() - began - compile_seconds,
    )
    staged = Staged(
        decisions=tuple(own for run in runs for own in decisions.followed(run.log)),
        looks=looks,
        capacity=np.array(capacity[: len(looks)]),
        programs=frozenset(programs),
        most_programs=most_programs(bound),
    )
    return whole, staged


@dataclass(frozen=True)
class _Run:
    """A run between two looks."""

    track: Track = field(default_factory=Track)
    saved: TrainState | None = None
    """The run before its last change."""
    log: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class _Look:
    """One look at all runs of an arm."""

    recipe: Recipe
    rules: Rules
    hypers: Hypers
    problem: Problem
    keys: Key[jax.Array, " runs"]
    bound: tuple[int, ...]
    step: int
    left: int
    """Looks that come after this one."""

    def carried_out(self, runs: Sequence[_Run], states: TrainState) -> tuple[list[_Run], Recipe, TrainState]:
        """The runs after their decisions, and the program and the states with which they go on."""
        losses = np.asarray(losses_of(states.net, self.rules.held, self.recipe.loss)).tolist()
        before = alterations.unstacked(states, len(runs))
        made = [self._decided(row, *of) for row, of in enumerate(zip(runs, before, losses, strict=True))]
        runs, after = [run for run, _ in made], [state for _, state in made]
        is_changed = [own is not old for own, old in zip(after, before, strict=True)]
        capacity = self._capacity(after, is_changed)
        if not any(is_changed) and capacity == self.recipe.capacity:
            return runs, self.recipe, states
        sound = {
            row: alterations.fitted(
                own, self.recipe, capacity, is_changed=is_changed[row], key=self._keys(row)[1]
            )
            for row, own in enumerate(after)
            if alterations.is_sound(own)
        }
        like = next(iter(sound.values()))
        every = [sound.get(row) or alterations.shaped_as(own, like) for row, own in enumerate(after)]
        return runs, replace(self.recipe, capacity=capacity), alterations.stacked(every)

    def _decided(self, row: int, run: _Run, state: TrainState, loss: float) -> tuple[_Run, TrainState]:
        """What a run does, and its state afterwards: the same object where nothing changes."""
        track, config = run.track.seen(loss), self.rules.config
        tries, reason = decisions.decide(track, config, left=self.left)
        action, reasons, altered = "wait", [reason], None
        for tried in (tried for tried in tries if tried != "wait"):
            altered = self._altered(tried, row, run, state)
            reasons.append(altered.reason)
            if altered.state is not None:
                action = tried
                break
        units = (0,) * len(self.bound) if action == "wait" or altered is None else altered.units
        decision = Decision(
            step=self.step,
            seed=self.rules.seeds[row],
            arm=self.rules.arm,
            action=action,
            units=units,
            reason="; ".join(reasons),
            before=loss,
        )
        track = track.done(action, units, config.cooldown)
        saved = None if track.before is None else run.saved if action == "wait" else state
        after = state if altered is None or altered.state is None else altered.state
        return _Run(track, saved, (*run.log, decision)), after

    def _altered(self, action: Action, row: int, run: _Run, state: TrainState) -> Altered:
        config = self.rules.config
        if action == "prune":
            samples = jax.tree.map(lambda leaf: leaf[row], self.problem.train)
            how = {"is_classes": self.rules.is_classes, "importance": self.rules.importance}
            return alterations.pruned(state, samples, config.prune, **how)
        if action == "expand":
            return alterations.expanded(state, config, self.bound, key=self._keys(row)[0])
        saved = run.saved
        assert saved is not None
        back = replace(state, net=saved.net, moments=saved.moments, diverged_at=saved.diverged_at)
        return Altered(state=back, units=tuple(-units for units in run.track.units), reason="undone")

    def _keys(self, row: int) -> Key[jax.Array, " two"]:
        """Keys for what a run adds at this look, and for what fills it up to a program's capacity."""
        return jr.split(jr.fold_in(jr.fold_in(self.keys[row], STREAM), self.step))

    def _capacity(self, states: Sequence[TrainState], is_changed: Sequence[bool]) -> tuple[int, ...]:
        """Units of each layer with which all runs can go on to the next look; fewer only after a change."""
        rows = enumerate(zip(states, is_changed, strict=True))
        sight = [self._sight(row, *of) for row, of in rows if alterations.is_sound(of[0])]
        tier = tiers.tier_of(max(sight, default=0.0), self.bound, least=LEAST)
        may_shrink = any(is_changed) and self.left > 0
        return tier if may_shrink or max(tier) > max(self.recipe.capacity) else self.recipe.capacity

    def _sight(self, row: int, state: TrainState, is_changed: bool) -> float:
        """Units that a run may need until the next look; without a drive, its target and an expansion."""
        sizes, config = np.asarray(state.net.controller.sizes()), self.rules.config
        if self.recipe.drive is None:
            return max(float(sizes.max()) + max(config.expand, 1), float(self.hypers.target_size[row]))
        best = sizes if is_changed else np.asarray(state.drive.best)  # as a drive begins
        rate, after = np.asarray(self.hypers.drive.rate[row]), self.step + (config.structure_every or 0)
        return float(np.max(self.recipe.drive.sight(sizes, best, rate, self.step, after)))


def _first(records: StepRecord, count: int) -> StepRecord:
    """The first records of every run."""
    return jax.tree.map(lambda leaf: leaf[:, :count], records)
