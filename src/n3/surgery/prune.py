"""Pruning: units and layers that meet a criterion leave a network, each with its reason."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from n3.config.criteria import LAYER, Criterion, parse
from n3.information.measures import Importance, Measured, check_importance, measure_units
from n3.nn.mlp import GrowingMLP
from n3.surgery.edit import Edit, check_single, check_state, edited, is_gated

Selector = Callable[
    [Float[Array, "samples units"], Float[Array, "samples out_size"]],
    Bool[Array, " units"] | Float[Array, " units"],
]
"""A user's criterion: of a layer's activations and the targets, what goes (true, or below zero)."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """One unit or layer that went."""

    layer: int | None
    """Hidden layer, by its index in the network before; None: a unit of all layers, which share a stream."""
    unit: int | None
    """Unit, by its index before; None: the whole layer."""
    values: Mapping[str, float]
    """What it was when it went: quantities by name, nats but for `participation`; along a stream, those of the
    layer in which it says most; by a function, the function's own `score`."""
    reason: str
    """Such as `importance 0.0031 < 0.01`."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What pruning leaves."""

    net: GrowingMLP
    state: PyTree
    """The optimiser state that belongs to `net`; None where none was given."""
    removed: tuple[Removal, ...]
    """In the order in which they went."""


def prune(
    net: GrowingMLP,
    criterion: str | Selector,
    data: tuple[Float[Array | np.ndarray, "samples _in"], Float[Array | np.ndarray, "samples _out"]],
    *,
    is_classes: bool,
    importance: Importance | None = None,
    state: PyTree = None,
) -> Pruned:
    """The network without the units, or the layers, that meet a criterion.

    The outputs are those of the same network with the outgoing weights of these units at zero, whatever the
    controller: each unit that stays takes part as before. Units that take no part are not judged and stay.

    By a text units go one by one, of those that meet it the one of least importance, and the rest is measured
    again: of two copies one stays. A layer is judged once those before it are done. Where the layers share a
    residual stream (depth gates), so do they share their units: one goes where it meets the criterion in every
    layer whose gate is open. A text that names layers alone removes layers, but never the first.

    Args:
        net: The network.
        criterion: A text as in `n3.config.criteria`, with a unit's `importance`, `marginal`, `entropy`,
            `redundancy` and `participation`, and `layer.importance`, `layer.gain` (over the layer before),
            `layer.entropy` and `layer.redundancy`, all as `n3.information.measures` says; or a function of a
            layer's activations `[samples, units]` and the targets that returns for each unit whether it goes,
            or a number that is below zero where it goes.
        data: Inputs and targets that the quantities are measured on, samples first.
        is_classes: Whether the targets are classes.
        importance: A user's importance of each unit in place of the built-in one, times its participation;
            units are then taken as additive, and a layer's importance is the sum.
        state: An optimiser state over `net`: the moments of all that stays come along.

    Returns:
        The network, its state, and what went and why.

    Raises:
        ValueError: If the criterion cannot be read or would empty a layer, or samples or a function's values do
            not fit. Nothing is changed then.
    """
    check_single(net)
    check_state(net, state)
    inputs, targets = _checked(net, data)
    rule = parse(criterion) if isinstance(criterion, str) else criterion
    bench = _Bench(inputs, targets, is_classes, importance, _spelled(criterion))
    if isinstance(rule, Criterion) and rule.names() <= set(LAYER):
        removed, edit = _without_layers(bench, net, rule)
    else:
        removed = _removed_units(bench, net, rule)
        edit = _without_units(net, removed)
    made, state = edited(net, edit, state)
    return Pruned(net=made, state=state, removed=tuple(removed))


@dataclass(frozen=True)
class _Bench:
    """What every measurement shares."""

    inputs: Float[Array, "samples in_size"]
    targets: Float[Array, "samples out_size"]
    is_classes: bool
    importance: Importance | None
    spelled: str

    def values(
        self, net: GrowingMLP, is_there: list[Bool[np.ndarray, " _units"]]
    ) -> list[dict[str, np.ndarray]]:
        """The quantities of each unit of each layer, those of its layer among them."""
        found, before = [], 0.0
        for layer, active in enumerate(self.activations(net)):
            own = self._of_layer(active, _masks(net)[layer], is_there[layer])
            gain, before = own.layer["layer.importance"] - before, own.layer["layer.importance"]
            whole = {**own.layer, "layer.gain": gain}
            units = {name: np.asarray(each) for name, each in own.units.items()}
            found.append(units | {name: np.full(is_there[layer].size, each) for name, each in whole.items()})
        return found

    def activations(self, net: GrowingMLP) -> tuple[Float[Array, "_units samples"], ...]:
        """Activations of every layer, finite."""
        every = _activations(net, self.inputs.T)
        for layer, active in enumerate(every):
            if not jnp.all(jnp.isfinite(active)):
                raise ValueError(f"`net` must have finite activations; hidden layer {layer} has not.")
        return every

    def _of_layer(self, active, mask, is_there) -> Measured:
        own = measure_units(
            active, self.targets.T, mask, jnp.asarray(is_there, mask.dtype), is_classes=self.is_classes
        )
        if self.importance is None:
            return own
        check_importance(self.importance, active.T, self.targets)
        each = self.importance(active.T, self.targets) * mask * is_there.astype(mask.dtype)
        units, layer = {**own.units, "importance": each}, {**own.layer, "layer.importance": jnp.sum(each)}
        return Measured(units, layer)


def _removed_units(bench: _Bench, net: GrowingMLP, rule: Criterion | Selector) -> list[Removal]:
    """The units that go, stream after stream; a layer without depth gates is a stream of its own."""
    removed = []
    is_there = [np.asarray(mask) > 0 for mask in _masks(net)]
    streams = [tuple(range(len(net.layers)))] if is_gated(net) else [(n,) for n in range(len(net.layers))]
    judge = _by_text if isinstance(rule, Criterion) else _by_function
    for stream in streams:
        for unit, values, reason in judge(bench, net, rule, is_there, stream):
            for layer in stream:
                if is_there[layer].any() and is_there[layer].sum() == is_there[layer][unit]:
                    raise ValueError(
                        f"`criterion` {bench.spelled} would empty hidden layer {layer}: it holds for all "
                        "units that take part."
                    )
                is_there[layer][unit] = False
            where = stream[0] if len(stream) == 1 and not is_gated(net) else None
            removed.append(Removal(layer=where, unit=unit, values=MappingProxyType(values), reason=reason))
    return removed


Judged = Iterator[tuple[int, dict[str, float], str]]


def _by_text(bench: _Bench, net, rule: Criterion, is_there, stream) -> Judged:
    """Unit after unit, the least important of those that meet the criterion in every layer that has them."""
    while True:
        tables = bench.values(_muted(net, is_there), is_there)
        best = None
        for unit in range(is_there[stream[0]].size):
            rows = [tables[n] for n in stream if is_there[n][unit]]
            own = [{name: float(column[unit]) for name, column in row.items()} for row in rows]
            if own and all(rule.holds(each) for each in own):
                least = sum(each["importance"] for each in own)
                most = max(own, key=lambda each: each["importance"])
                best = min(best or (least, unit, most), (least, unit, most), key=lambda found: found[:2])
        if best is None:
            return
        yield best[1], best[2], rule.reason(best[2])


def _by_function(bench: _Bench, net, rule: Selector, is_there, stream) -> Judged:
    """All units that a function picks in every layer that has them, at once."""
    every = bench.activations(_muted(net, is_there))
    scores = {n: _scores(rule, every[n].T, bench.targets) for n in stream if is_there[n].any()}
    has = {n: is_there[n].copy() for n in scores}
    for unit in range(is_there[stream[0]].size):
        own = [scores[n][unit] for n in scores if has[n][unit]]
        if own and all(score < 0 for score in own):
            yield unit, {"score": float(max(own))}, f"score {max(own):.3g} < 0"


def _scores(rule: Selector, active, targets) -> Float[np.ndarray, " units"]:
    """A user's numbers, with -1 for true and 0 for false."""
    found = np.asarray(rule(active, targets))
    if found.shape != active.shape[1:]:
        raise ValueError(f"`criterion` must return shape {active.shape[1:]}; got {found.shape}.")
    found = -1.0 * found if found.dtype == bool else found
    if not np.all(np.isfinite(found)):
        raise ValueError("`criterion` must return true or false, or finite numbers; got NaN or an infinity.")
    return found


def _without_layers(bench: _Bench, net: GrowingMLP, rule: Criterion) -> tuple[list[Removal], Edit]:
    """The layers that go, least important first, and the edit that takes them all out."""
    removed, left = [], list(range(len(net.layers)))
    while True:
        edit = _edit(net, [np.arange(units) for units in net.controller.capacity], left)
        now = edited(net, edit)[0]
        tables = bench.values(now, [np.asarray(mask) > 0 for mask in _masks(now)])
        own = [{name: float(table[name][0]) for name in LAYER} for table in tables]
        gates = np.asarray(now.gates())
        found = [n for n, each in enumerate(own) if gates[n] > 0 and rule.holds(each)]
        if not found:
            return removed, edit
        if found == [0] or not is_gated(net):
            raise ValueError(
                f"`criterion` {bench.spelled} would empty hidden layer {left[found[0]]}: only layers behind "
                "a depth gate can go, and the first has none."
            )
        place = min((n for n in found if n), key=lambda n: own[n]["layer.importance"])
        values = MappingProxyType(own[place])
        reason = rule.reason(own[place])
        removed.append(Removal(layer=left.pop(place), unit=None, values=values, reason=reason))


def _without_units(net: GrowingMLP, removed: list[Removal]) -> Edit:
    def kept(layer: int, capacity: int):
        gone = [one.unit for one in removed if one.layer in (layer, None)]
        return np.setdiff1d(np.arange(capacity), np.array(gone, int))

    units = [kept(layer, capacity) for layer, capacity in enumerate(net.controller.capacity)]
    return _edit(net, units, list(range(len(net.layers))))


def _edit(net: GrowingMLP, units: list, layers: list[int]) -> Edit:
    kept = tuple(units[layer] for layer in layers)
    return Edit(layers=tuple(layers), units=kept, is_new=tuple(np.zeros(len(own), bool) for own in kept))


def _muted(net: GrowingMLP, is_there: list[Bool[np.ndarray, " _units"]]) -> GrowingMLP:
    """The network with the outgoing weights of absent units at zero: shapes stay, and so do programs."""
    keeps = [np.any(is_there, axis=0)] * len(is_there) if is_gated(net) else is_there
    afters = [*net.layers[1:], net.readout]
    weights = [jnp.where(keep[None], after.weight, 0.0) for keep, after in zip(keeps, afters, strict=True)]
    return eqx.tree_at(lambda n: [after.weight for after in (*n.layers[1:], n.readout)], net, weights)


def _masks(net: GrowingMLP) -> list[Float[Array, " _units"]]:
    """How much each unit takes part, its layer's gate included."""
    return [own * gate for own, gate in zip(net.participation(), net.gates(), strict=True)]


@eqx.filter_jit
def _activations(net: GrowingMLP, inputs: Float[Array, "in_size samples"]):
    return net.activations(inputs)


def _spelled(criterion: str | Selector) -> str:
    return repr(criterion) if isinstance(criterion, str) else f"by {getattr(criterion, '__name__', 'function')}"


def _checked(net: GrowingMLP, data: tuple[Any, Any]) -> tuple[Array, Array]:
    """The inputs and the targets as JAX arrays."""
    inputs, targets = map(jnp.asarray, data)
    ins, outs = net.layers[0].weight.shape[1], net.readout.bias.shape[0]
    if (inputs.shape, targets.shape) != ((len(inputs), ins), (len(inputs), outs)) or len(inputs) < 2:
        raise ValueError(
            f"`data` must be inputs [samples, {ins}] and targets [samples, {outs}], two samples or more; "
            f"got {inputs.shape} and {targets.shape}."
        )
    return inputs, targets
