"""Alterations: a run pruned, expanded, or laid out in another capacity, with its optimiser and its drive."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from n3.config.settings import StructureConfig
from n3.information.sizing import DriveState
from n3.information.terms import Importance
from n3.nn.losses import Samples
from n3.surgery.edit import Edit, edited
from n3.surgery.expand import expand
from n3.surgery.prune import prune
from n3.training import tiers
from n3.training.step import Recipe, TrainState


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
    samples: Samples,
    criterion: str,
    *,
    is_classes: bool,
    importance: Importance | None = None,
) -> Altered:
    """The run without the units that meet a criterion, as `n3.prune`; none where that would empty a layer."""
    depth = len(state.net.layers)
    how = {"is_classes": is_classes, "importance": importance, "state": state.moments}
    try:
        found = prune(state.net, criterion, samples, **how)
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


def fitted(
    state: TrainState, recipe: Recipe, capacity: tuple[int, ...], *, is_changed: bool, key: PRNGKeyArray
) -> TrainState:
    """The run in a program's capacity: the same function, of which no unit that takes part is left out.

    Args:
        state: The run.
        recipe: Its program before.
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
    if state.drive is None:
        return made
    if is_changed:
        drive = eqx.tree_at(lambda of: of.log_price, recipe.drive.start(net), state.drive.log_price)
    else:
        masks = tuple(_resized(mask, count) for mask, count in zip(state.drive.masks, capacity, strict=True))
        old = state.drive
        drive = DriveState(gradient, old.best, masks, old.log_price, old.prices, old.depth)
    return replace(made, drive=drive)


def is_sound(state: TrainState) -> bool:
    """Whether the run's sizes are numbers: surgery needs them."""
    return bool(np.isfinite(np.asarray(state.net.controller.sizes())).all())


def shaped_as(state: TrainState, like: TrainState) -> TrainState:
    """A run whose sizes are no numbers, in the shapes of another."""
    is_wider = max(state.net.controller.capacity) > max(like.net.controller.capacity)
    return tiers.cut(state, like) if is_wider else tiers.put_back(state, like)


def unstacked(states: TrainState, runs: int) -> list[TrainState]:
    """The states of all runs, one by one."""
    host = jax.device_get(states)
    return [jax.tree.map(lambda leaf, row=row: jnp.asarray(leaf[row]), host) for row in range(runs)]


def stacked(states: Sequence[TrainState]) -> TrainState:
    """The states of runs of one capacity, with a first axis of runs."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def _resized(mask: Array, count: int) -> Array:
    """The mask of the first units, zero for those that it has not."""
    return jnp.asarray(np.pad(np.asarray(mask)[:count], (0, max(0, count - mask.size))))
