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
from n3.information.sizing import DriveState, InformationDrive
from n3.nn.losses import Samples
from n3.nn.sized import run_of, stack_runs
from n3.surgery.edit import Edit, edited
from n3.surgery.expand import expand
from n3.surgery.prune import prune
from n3.training import decisions
from n3.training.decisions import LEAST_CAPACITY, Action, Decision, Staged, Track, look_steps, most_programs
from n3.training.step import Hypers, Problem, Recipe, TrainState, held_out_losses, pool_of
from n3.training.sweep import Swept, narrowed, sweep, tier_of, widened


@dataclass(frozen=True, kw_only=True)
class Altered:
    """What became of an attempt to change a run."""

    state: TrainState | None
    """The run afterwards, of whatever capacity, its drive still as before; None: nothing was to be changed."""
    units: tuple[int, ...]
    """Change of the units of each hidden layer."""
    reason: str


def pruned(
    state: TrainState,
    pool: Pool,
    criterion: str,
    *,
    is_classes: bool,
    importance: Importance | None = None,
) -> Altered:
    """The run without the units that meet a criterion, as `n3.prune`; none where that would empty a layer."""
    depth = len(state.net.controller.capacity)
    how = {"is_classes": is_classes, "importance": importance, "state": state.moments}
    try:
        found = prune(state.net, criterion, (pool.inputs, pool.targets.T), **how)
    except ValueError as error:
        return Altered(state=None, units=(0,) * depth, reason=f"not pruned: {error}")
    if not found.removed:
        return Altered(state=None, units=(0,) * depth, reason=f"no unit with {criterion}")
    gone = tuple(-sum(own.layer == layer for own in found.removed) for layer in range(depth))
    why = ", ".join(f"unit {own.unit} of layer {own.layer}: {own.reason}" for own in found.removed)
    return Altered(state=replace(state, net=found.net, moments=found.state), units=gone, reason=why)


def expanded(state: TrainState, config: StructureConfig, bound: Sequence[int], *, key: PRNGKeyArray) -> Altered:
    """The run with further units that take part at once, as `n3.expand`.

    Args:
        state: The run.
        config: How many units, and of what kind.
        bound: Units that each hidden layer can hold.
        key: For methods that draw.
    """
    taken = np.ceil(np.asarray(state.net.controller.sizes())).astype(int).tolist()
    units = tuple(min(config.expand, most - own) for most, own in zip(bound, taken, strict=True))
    if not max(units):
        return Altered(
            state=None, units=units, reason="no room to expand" if config.expand else "never expands"
        )
    how = {"method": config.expand_method, "is_born": config.expand_method == "zero", "state": state.moments}
    try:
        net, moments = expand(state.net, units=units, key=key, **how)
    except ValueError as error:
        return Altered(state=None, units=(0,) * len(units), reason=f"not expanded: {error}")
    return Altered(
        state=replace(state, net=net, moments=moments), units=units, reason=f"added by {config.expand_method}"
    )


def with_capacity(
    state: TrainState,
    drive: InformationDrive | None,
    capacity: tuple[int, ...],
    *,
    is_changed: bool,
    key: PRNGKeyArray,
) -> TrainState:
    """The run in a program's capacity: the same function, of which no unit that takes part is left out.

    Args:
        state: The run.
        drive: Its drive; None: it has none.
        capacity: Units of each hidden layer, no fewer than take part. Others are unborn, and come or go.
        is_changed: Whether the run was altered: its drive then begins anew, but for the budget's price.
        key: For the weights of new units.
    """
    net, own = state.net, state.net.controller.capacity
    gradient = None if is_changed or state.drive is None else state.drive.gradient
    carried, kept = (state.moments, gradient), tuple(map(min, own, capacity))
    if kept != own:
        units, is_new = tuple(map(np.arange, kept)), tuple(np.zeros(count, bool) for count in kept)
        edit = Edit(layers=tuple(range(len(kept))), units=units, is_new=is_new)
        net, carried = edited(net, edit, carried)
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
        begun = DriveState(gradient, old.best, masks, old.log_price, old.prices, old.depth)
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


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a look at many runs needs to know of them."""

    bound: tuple[int, ...]
    """Units that each hidden layer or group can hold."""
    drive: InformationDrive | None
    keys: Key[jax.Array, " runs"]
    pool: Callable[[int], Pool]
    """Training samples of a run, at which units are measured."""
    rates: Float[np.ndarray, " runs"] | None
    """Units by which a step moves a size, at most; None without a drive."""
    target_sizes: Float[np.ndarray, " runs"]
    """Units that a size without a drive may reach."""


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
    began = time.perf_counter()
    bench = Bench(
        bound=recipe.capacity,
        drive=recipe.drive,
        keys=keys,
        pool=lambda row: pool_of(jax.tree.map(lambda leaf: leaf[row], problem.train)),
        rates=None if recipe.drive is None else np.asarray(hypers.drive.rate),
        target_sizes=np.asarray(hypers.target_size),
    )
    looks = look_steps(int(stops[-1]), rules.config.structure_every)
    *each, _ = np.split(stops[:-1], np.searchsorted(stops[:-1], looks, side="right"))
    runs, parts, programs, capacity, start = [Staging()] * len(keys), [], set(), [], None
    for place, (own, look) in enumerate(zip([*each, stops[-1:]], [*looks, looks[-1]], strict=True)):
        filled = np.pad(own, (0, 1 + max(map(len, each)) - len(own)), constant_values=look)  # one shape
        options = {"devices": devices, "progress": progress, "start": start, "is_tiered": False}
        swept = sweep(recipe, hypers, problem, keys=keys, stops=filled, **options)
        parts.append(_shortened(swept, len(own)))
        programs.add(recipe)
        capacity.append(recipe.capacity)
        if place == len(looks):
            break
        losses = np.asarray(held_out_losses(swept.state.net, rules.held, recipe.loss))
        context = Look(rules, bench, recipe.capacity, int(look), len(looks) - 1 - place)
        runs, units, state = context.carried_out(runs, swept.state, losses)
        recipe, start = replace(recipe, capacity=units), (int(look), state)
    compile_seconds = sum(part.compile_seconds for part in parts)
    whole = Swept(
        state=parts[-1].state,
        records=jax.tree.map(lambda *of: np.concatenate(of, axis=1), *(part.records for part in parts)),
        compile_seconds=compile_seconds,
        run_seconds=time.perf_counter() - began - compile_seconds,
    )
    staged = Staged(
        decisions=tuple(own for run in runs for own in decisions.with_next_loss(run.log)),
        looks=looks,
        capacity=np.array(capacity[: len(looks)]),
        programs=frozenset(programs),
        most_programs=most_programs(bench.bound),
    )
    return whole, staged


@dataclass(frozen=True)
class Staging:
    """A run between two looks."""

    track: Track = field(default_factory=Track)
    saved: TrainState | None = None
    """The run before its last change."""
    log: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class Look:
    """One look at the structure of many runs."""

    rules: Rules
    bench: Bench
    capacity: tuple[int, ...]
    """Units of each layer in the program so far."""
    step: int
    left: int
    """Looks that come after this one."""

    def carried_out(
        self, runs: Sequence[Staging], states: TrainState, losses: Float[np.ndarray, " runs"]
    ) -> tuple[list[Staging], tuple[int, ...], TrainState]:
        """The runs after their decisions, and the capacity and the states with which they go on.

        Args:
            runs: Each run so far.
            states: Their states, with a first axis of runs.
            losses: Loss of each on samples that it is not trained on.
        """
        before = [run_of(states, row) for row in range(len(runs))]
        rows = enumerate(zip(runs, before, losses.tolist(), strict=True))
        made = [self._decided(row, *of) for row, of in rows]
        runs, after = [run for run, _ in made], [state for _, state in made]
        is_changed = [own is not old for own, old in zip(after, before, strict=True)]
        capacity = self._capacity(after, is_changed)
        if not any(is_changed) and capacity == self.capacity:
            return runs, capacity, states
        drive = self.bench.drive
        sound = {
            row: with_capacity(own, drive, capacity, is_changed=is_changed[row], key=self._keys(row)[1])
            for row, own in enumerate(after)
            if has_finite_sizes(own)
        }
        like = next(iter(sound.values()))
        every = [sound.get(row) or shaped_as(own, like) for row, own in enumerate(after)]
        return runs, capacity, stack_runs(every)

    def _decided(self, row: int, run: Staging, state: TrainState, loss: float) -> tuple[Staging, TrainState]:
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
        units = (0,) * len(self.bench.bound) if action == "wait" or altered is None else altered.units
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
        return Staging(track, saved, (*run.log, decision)), after

    def _altered(self, action: Action, row: int, run: Staging, state: TrainState) -> Altered:
        config = self.rules.config
        if action == "prune":
            how = {"is_classes": self.rules.is_classes, "importance": self.rules.importance}
            return pruned(state, self.bench.pool(row), config.prune, **how)
        if action == "expand":
            return expanded(state, config, self.bench.bound, key=self._keys(row)[0])
        saved = run.saved
        assert saved is not None
        back = replace(state, net=saved.net, moments=saved.moments, diverged_at=saved.diverged_at)
        return Altered(state=back, units=tuple(-units for units in run.track.units), reason="undone")

    def _keys(self, row: int) -> Key[jax.Array, " two"]:
        """Keys for what a run adds at this look, and for what fills it up to a program's capacity."""
        return jr.split(jr.fold_in(jr.fold_in(self.bench.keys[row], STREAM), self.step))

    def _capacity(self, states: Sequence[TrainState], is_changed: Sequence[bool]) -> tuple[int, ...]:
        """Units of each layer with which all runs can go on to the next look; fewer only after a change."""
        rows = enumerate(zip(states, is_changed, strict=True))
        sight = [self._sight(row, *of) for row, of in rows if has_finite_sizes(of[0])]
        tier = tier_of(max(sight, default=0.0), self.bench.bound, least=LEAST_CAPACITY)
        may_shrink = any(is_changed) and self.left > 0
        return tier if may_shrink or max(tier) > max(self.capacity) else self.capacity

    def _sight(self, row: int, state: TrainState, is_changed: bool) -> float:
        """Units that a run may need until the next look; without a drive, its target and an expansion."""
        sizes, bench, config = np.asarray(state.net.controller.sizes()), self.bench, self.rules.config
        if bench.drive is None or bench.rates is None:
            return max(float(sizes.max()) + max(config.expand, 1), float(bench.target_sizes[row]))
        best = sizes if is_changed else np.asarray(state.drive.best)  # as a drive begins
        after = self.step + (config.structure_every or 0)
        return float(np.max(bench.drive.sight(sizes, best, np.asarray(bench.rates[row]), self.step, after)))


def _shortened(swept: Swept, count: int) -> Swept:
    """The first records of every run."""
    return replace(swept, records=jax.tree.map(lambda leaf: leaf[:, :count], swept.records))
