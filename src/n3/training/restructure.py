"""Restructure: many runs whose units are really removed and added between compiled stages."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import Device
from jaxtyping import Float, Int, Key, PRNGKeyArray

from n3.config.experiment import StructureConfig
from n3.information.measures import Importance, Pool
from n3.information.sizing import DriveHypers, InformationDrive
from n3.nn.losses import Samples
from n3.nn.sized import run_of, stack_runs
from n3.surgery.edit import Edit, edited
from n3.surgery.expand import expand
from n3.surgery.prune import prune
from n3.training import decisions
from n3.training.checkpoint import Checkpoints
from n3.training.decisions import LEAST_CAPACITY, Action, Decision, Staged, Track, UnitChange
from n3.training.step import Hypers, Problem, Recipe, TrainState, held_out_losses, pool_of
from n3.training.sweep import Swept, narrowed, sweep, tier_of, widened

Units = tuple[int, ...]
"""Of each hidden layer or group."""


@dataclass(frozen=True)
class Altered:
    """What became of an attempt to change a run."""

    state: TrainState | None
    """The run afterwards, of whatever capacity, its drive still as before; None: nothing was to be changed."""
    units: UnitChange
    reason: str


def pruned(
    state: TrainState, pool: Pool, criterion: str, *, is_classes: bool, importance: Importance | None = None
) -> Altered:
    """The run without the units that meet a criterion, as `n3.prune`; none where that would empty a layer."""
    depth = len(state.net.controller.capacity)
    nothing, how = (0,) * depth, {"is_classes": is_classes, "importance": importance, "state": state.moments}
    try:
        found = prune(state.net, criterion, (pool.inputs, pool.targets.T), **how)
    except ValueError as error:
        return Altered(None, nothing, f"not pruned: {error}")
    if not found.removed:
        return Altered(None, nothing, f"no unit with {criterion}")
    gone = tuple(-sum(own.layer == layer for own in found.removed) for layer in range(depth))
    why = ", ".join(f"unit {own.unit} of layer {own.layer}: {own.reason}" for own in found.removed)
    return Altered(replace(state, net=found.net, moments=found.state), gone, why)


def expanded(state: TrainState, config: StructureConfig, bound: Sequence[int], *, key: PRNGKeyArray) -> Altered:
    """The run with further units that take part at once, as `n3.expand`; no layer holds more than its bound."""
    taken = np.ceil(np.asarray(state.net.controller.sizes())).astype(int).tolist()
    units = tuple(min(config.expand, most - own) for most, own in zip(bound, taken, strict=True))
    if not max(units):
        return Altered(None, units, "no room to expand" if config.expand else "never expands")
    how = {"method": config.expand_method, "is_born": config.expand_method == "zero", "state": state.moments}
    try:
        net, moments = expand(state.net, units=units, key=key, **how)
    except ValueError as error:
        return Altered(None, (0,) * len(units), f"not expanded: {error}")
    return Altered(replace(state, net=net, moments=moments), units, f"added by {config.expand_method}")


def with_capacity(
    state: TrainState, drive: InformationDrive | None, capacity: Units, *, is_changed: bool, key: PRNGKeyArray
) -> TrainState:
    """The run in a program's capacity: the same function, of which no unit that takes part is left out.

    Others are unborn, and come or go; the key draws the weights of those that come. The drive of a run that was
    altered (`is_changed`) begins anew, but for the budget's price.
    """
    net, own = state.net, state.net.controller.capacity
    gradient = None if is_changed or state.drive is None else state.drive.gradient
    carried, kept = (state.moments, gradient), tuple(map(min, own, capacity))
    if kept != own:
        net, carried = edited(net, Edit.of(list(map(np.arange, kept))), carried)
    if kept != capacity:
        added = tuple(most - count for most, count in zip(capacity, kept, strict=True))
        net, carried = expand(net, units=added, key=key, state=carried)
    moments, gradient = carried
    made = replace(state, net=net, moments=moments)
    if drive is None:
        return made
    if is_changed:
        begun = eqx.tree_at(lambda of: of.log_price, drive.start(net), state.drive.log_price)
    else:
        old, pairs = state.drive, zip(state.drive.masks, capacity, strict=True)
        masks = tuple(jnp.pad(mask, (0, count))[:count] for mask, count in pairs)
        begun = replace(old, gradient=gradient, masks=masks)
    return replace(made, drive=begun)


def has_finite_sizes(state: TrainState) -> bool:
    """Whether the run's sizes are numbers: surgery needs them."""
    return bool(np.isfinite(np.asarray(state.net.controller.sizes())).all())


def shaped_as(state: TrainState, like: TrainState) -> TrainState:
    """A run whose sizes are no numbers, in the shapes of another."""
    is_wider = max(state.net.controller.capacity) > max(like.net.controller.capacity)
    return narrowed(state, like) if is_wider else widened(state, like)


STREAM = 1_000_003
"""Which stream of a run's key surgery draws from: none that training uses."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """By what runs change their structure."""

    config: StructureConfig
    arm: str
    seeds: tuple[int, ...]
    is_classes: bool
    held: Samples | None = None
    """The samples that each seed held out, with a first axis of seeds; None: its losses come from elsewhere."""
    importance: Importance | None = None
    """A user's importance of units in place of the built-in one."""


@dataclass(frozen=True)
class _Run:
    track: Track = field(default_factory=Track)
    saved: TrainState | None = None
    """The run before its last change."""
    log: tuple[Decision, ...] = ()


@dataclass(kw_only=True)
class Stages:
    """Many runs whose structure may change at looks, between compiled stages."""

    rules: Rules
    bound: Units
    """Most that each layer can hold."""
    drive: InformationDrive | None
    hypers: DriveHypers | None
    keys: Key[jax.Array, " runs"]
    pool: Callable[[int], Pool]
    """Training samples of a run, at which units are measured."""
    target_sizes: Float[np.ndarray, " runs"]
    """Units that a size without a drive may reach."""
    steps: int

    def __post_init__(self) -> None:
        self.config, self.capacity = self.rules.config, self.bound
        self.looks = decisions.look_steps(self.steps, self.config.structure_every)
        self.runs = [_Run()] * len(self.keys)

    def decisions(self) -> tuple[Decision, ...]:
        """Those of every run at every look, run after run."""
        return tuple(own for run in self.runs for own in decisions.with_next_loss(run.log))

    def look(self, step: int, states: TrainState, losses: Float[np.ndarray, " runs"]) -> TrainState:
        """The states with which the runs go on after `step` steps, in the capacity that they need (`capacity`).

        Losses are each run's on samples that it is not trained on.
        """
        self.step, self.left = step, int(np.sum(self.looks > step))
        before = [run_of(states, row) for row in range(len(self.runs))]
        after = [self._decided(row, before[row], loss) for row, loss in enumerate(losses.tolist())]
        is_changed = [own is not old for own, old in zip(after, before, strict=True)]
        was, self.capacity = self.capacity, self._next_capacity(after, is_changed)
        if not any(is_changed) and self.capacity == was:
            return states
        rows = [row for row, own in enumerate(after) if has_finite_sizes(own)]
        how = {row: {"is_changed": is_changed[row], "key": self._keys(row)[1]} for row in rows}
        sound = {row: with_capacity(after[row], self.drive, self.capacity, **how[row]) for row in rows}
        like = next(iter(sound.values()))
        return stack_runs([sound.get(row) or shaped_as(own, like) for row, own in enumerate(after)])

    def _decided(self, row: int, state: TrainState, loss: float) -> TrainState:
        """A run after its decision, which is noted: the same object where nothing changes."""
        run = self.runs[row]
        track = run.track.seen(loss)
        tries, reason = decisions.decide(track, self.config, left=self.left)
        action, reasons, units, after = "wait", [reason], (0,) * len(self.bound), state
        for tried in (tried for tried in tries if tried != "wait"):
            altered = self._altered(tried, row, state)
            reasons.append(altered.reason)
            if altered.state is not None:
                action, units, after = tried, altered.units, altered.state
                break
        made = {"action": action, "units": units, "reason": "; ".join(reasons), "before": loss}
        decision = Decision(step=self.step, seed=self.rules.seeds[row], arm=self.rules.arm, **made)
        track = track.done(action, units, self.config.cooldown)
        saved = None if track.before is None else run.saved if action == "wait" else state
        self.runs[row] = _Run(track, saved, (*run.log, decision))
        return after

    def _altered(self, action: Action, row: int, state: TrainState) -> Altered:
        if action == "prune":
            how = {"is_classes": self.rules.is_classes, "importance": self.rules.importance}
            return pruned(state, self.pool(row), self.config.prune, **how)
        if action == "expand":
            return expanded(state, self.config, self.bound, key=self._keys(row)[0])
        run = self.runs[row]
        assert run.saved is not None
        back = {name: getattr(run.saved, name) for name in ("net", "moments", "diverged_at")}
        return Altered(replace(state, **back), tuple(-units for units in run.track.units), "undone")

    def _keys(self, row: int) -> Key[jax.Array, " two"]:
        """Keys for what a run adds at this look, and for what fills it up to a program's capacity."""
        return jr.split(jr.fold_in(jr.fold_in(self.keys[row], STREAM), self.step))

    def _next_capacity(self, states: Sequence[TrainState], is_changed: Sequence[bool]) -> Units:
        """Units of each layer with which all runs can go on to the next look; fewer only after a change."""
        rows = enumerate(zip(states, is_changed, strict=True))
        sight = [self._sight(row, *of) for row, of in rows if has_finite_sizes(of[0])]
        tier = tier_of(max(sight, default=0.0), self.bound, least=LEAST_CAPACITY)
        may_shrink = any(is_changed) and self.left > 0
        return tier if may_shrink or max(tier) > max(self.capacity) else self.capacity

    def _sight(self, row: int, state: TrainState, is_changed: bool) -> float:
        """Units that a run may need until the next look; without a drive, its target and an expansion."""
        sizes = np.asarray(state.net.controller.sizes())
        if self.drive is None or self.hypers is None:
            return max(float(sizes.max()) + max(self.config.expand, 1), float(self.target_sizes[row]))
        best = sizes if is_changed else np.asarray(state.drive.best)  # as a drive begins
        rate = np.asarray(np.broadcast_to(self.hypers.rate, len(self.runs))[row])
        after = self.step + (self.config.structure_every or 0)
        return float(np.max(self.drive.sight(sizes, best, rate, self.step, after)))


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
    checkpoint: Checkpoints | None = None,
) -> tuple[Swept, Staged]:
    """Train the runs of an arm and change their structure on the way.

    A run that changes nothing is what `sweep` makes of it, and the arguments are those of `sweep`; the recipe's
    capacity is the most that a layer can hold, and the stops increase strictly. Final states are in the
    capacity of the last stage. Each stage has checkpoints of its own; what is decided between stages follows
    from them again.
    """
    stages = Stages(
        rules=rules,
        bound=recipe.capacity,
        drive=recipe.drive,
        hypers=hypers.drive,
        keys=keys,
        pool=lambda row: pool_of(jax.tree.map(lambda leaf: leaf[row], problem)),
        target_sizes=np.asarray(hypers.target_size),
        steps=int(stops[-1]),
    )
    looks, records, programs, start, seconds = stages.looks, [], [], None, np.zeros(3)
    *each, _ = np.split(stops[:-1], np.searchsorted(stops[:-1], looks, side="right"))
    for own, look in zip([*each, stops[-1:]], [*looks, looks[-1]], strict=True):
        filled = np.pad(own, (0, 1 + max(map(len, each)) - len(own)), constant_values=look)  # one shape
        options = {"devices": devices, "progress": progress, "start": start, "is_tiered": False}
        options["checkpoint"] = checkpoint and checkpoint.part(f"stage-{len(programs):04d}")
        swept = sweep(recipe, hypers, problem, keys=keys, stops=filled, **options)
        records.append(jax.tree.map(lambda leaf, own=own: leaf[:, : len(own)], swept.records))
        programs.append(recipe)
        seconds += swept.compile_seconds, swept.run_seconds, swept.cpu_seconds
        if len(programs) > len(looks):
            break
        began = time.perf_counter()
        losses = np.asarray(held_out_losses(swept.state.net, rules.held, recipe.loss))
        start = int(look), stages.look(int(look), swept.state, losses)
        recipe = replace(recipe, capacity=stages.capacity)
        seconds[1] += time.perf_counter() - began
    whole = Swept(
        state=swept.state,
        records=jax.tree.map(lambda *of: np.concatenate(of, axis=1), *records),
        **dict(zip(("compile_seconds", "run_seconds", "cpu_seconds"), seconds.tolist(), strict=True)),
    )
    staged = Staged(
        decisions=stages.decisions(),
        looks=looks,
        capacity=np.array([program.capacity for program in programs[:-1]]),
        programs=frozenset(programs),
        most_programs=decisions.most_programs(stages.bound),
    )
    return whole, staged
