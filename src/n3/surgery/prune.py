"""Pruning: units and layers that meet a criterion leave a network, each with its reason."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from n3.config.criteria import Criterion
from n3.information.measures import (
    MEASURES,
    OF_LAYERS,
    Importance,
    check_importance,
    criterion_of,
    measure_units,
)
from n3.nn import groups
from n3.nn.sized import AbstractSized, Inputs, each_input, inputs_of
from n3.surgery.compact import opened
from n3.surgery.edit import Edit, edited, is_gated
from n3.tracing.trace import key_if_taken, number_of_outputs

Selector = Callable[
    [Float[Array, "samples units"], Float[Array, "samples out_size"]],
    Bool[Array, " units"] | Float[Array, " units"],
]
"""A user's criterion: of a layer's activations and the targets, what goes (true, or below zero)."""
_Units = list[Bool[np.ndarray, " _units"]]
_Rows = Float[Array, "samples out_size"]


@dataclass(frozen=True, kw_only=True)
class Removal:
    """One unit or layer that went."""

    layer: int | None
    """Hidden layer or group, by its index in the model before; None: a unit of all layers of a stream."""
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

    net: Any
    """The model, of the class that was given."""
    state: PyTree
    """The optimiser state that belongs to `net`; None where none was given."""
    removed: tuple[Removal, ...]
    """In the order in which they went."""


def prune(
    net: eqx.Module,
    criterion: str | Selector,
    data: tuple[Any, Any],
    *,
    is_classes: bool | None = None,
    importance: Importance | None = None,
    state: PyTree = None,
) -> Pruned:
    """The model without the units, or the layers, that meet a criterion.

    The outputs are those of the same network with the outgoing weights of these units at zero, whatever the
    controller: each unit that stays takes part as before. Units that take no part are not judged and stay.

    By a text units go one by one, of those that meet it the one of least importance, and the rest is measured
    again: of two copies one stays. A layer is judged once those before it are done. Where the layers share a
    residual stream (depth gates), so do they share their units: one goes where it meets the criterion in every
    layer whose gate is open.

    A text that names layers alone removes layers: those behind depth gates but the first, and otherwise those
    without which the outputs still depend on the inputs, such as the branch of a residual sum. Such a group
    keeps one unit that counts nothing. Any Equinox model that `n3.grow` could grow is taken.

    A criterion is a text as in `n3.config.criteria`, with a unit's `importance`, `marginal`, `entropy`,
    `redundancy` and `participation`, and `layer.importance`, `layer.gain` (over the layer before),
    `layer.entropy` and `layer.redundancy`, in nats, all as `n3.information.MEASURES` says (a unit's entropy is
    0 where it is constant and 4.6 where it takes part fully; an importance without any information scatters
    around 0); or a function of a layer's activations `[samples, units]` and the targets that returns for each
    unit whether it goes, or a number that is below zero where it goes.

    The data are inputs and targets, samples first: a tuple of arrays as inputs is what a model of several
    arguments takes, `net(*inputs)`; targets `[samples]` or `[samples, outputs]`, classes as
    labels or one-hot; they are classes where they are whole numbers, unless `is_classes` says. A user's
    `importance` of each unit, times its participation, takes the place of the built-in one; units are then
    taken as additive, and a layer's importance is the sum. Of an optimiser state the moments of all that stays
    come along.

    Raises:
        ValueError: If the criterion cannot be read or would empty a layer, or samples or a function's values do
            not fit. Nothing is changed then.
    """
    inputs, targets = inputs_of(data[0]), jnp.asarray(data[1])
    given, state, close = opened(net, state, example=each_input(inputs[0]))
    is_classes = not jnp.issubdtype(targets.dtype, jnp.inexact) if is_classes is None else is_classes
    targets = _checked(given, inputs, targets, is_classes=is_classes)
    rule = criterion_of(criterion) if isinstance(criterion, str) else criterion
    named = rule.names() if isinstance(rule, Criterion) else frozenset()
    names = tuple(name for name, own in MEASURES.items() if not own.is_costly or f"layer.{name}" in named)
    by = f"by {getattr(criterion, '__name__', 'function')}"
    spelled = repr(criterion) if isinstance(criterion, str) else by
    bench = _Bench(inputs, targets, is_classes, importance, names, spelled)
    is_of_layers = isinstance(rule, Criterion) and rule.names() <= set(OF_LAYERS)
    removed, edit = (_without_layers if is_of_layers else _without_units)(bench, given, rule)
    made, state = close(*edited(given, edit, state))
    return Pruned(net=made, state=state, removed=tuple(removed))


@dataclass(frozen=True)
class _Bench:
    inputs: Inputs
    targets: Float[Array, "samples out_size"]
    is_classes: bool
    importance: Importance | None
    names: tuple[str, ...]
    """Measures to take."""
    spelled: str

    def values(self, net: AbstractSized, is_there: _Units) -> list[dict[str, np.ndarray]]:
        """The quantities of each unit of each layer, those of its layer among them."""
        found, before = [], 0.0
        how = {"is_classes": self.is_classes, "names": self.names, "custom": self.importance}
        for active, mask, there in zip(self.activations(net), _masks(net), is_there, strict=True):
            if self.importance is not None:
                check_importance(self.importance, active.T, self.targets)
            own = measure_units(active, self.targets.T, mask, jnp.asarray(there, mask.dtype), **how)
            gain, before = own.layer["importance"] - before, own.layer["importance"]
            whole = {f"layer.{name}": each for name, each in (own.layer | {"gain": gain}).items()}
            units = {name: np.asarray(each) for name, each in own.units.items()}
            found.append(units | {name: np.full(there.size, each) for name, each in whole.items()})
        return found

    def activations(self, net: AbstractSized) -> tuple[Float[Array, "_units samples"], ...]:
        """Activations of every layer, finite."""
        every = _activations(net, self.inputs)
        for layer, active in enumerate(every):
            if not jnp.all(jnp.isfinite(active)):
                raise ValueError(f"`net` must have finite activations; {net.group_names[layer]} has not.")
        return every

    def refuse_to_empty(self, name: str, reason: str) -> None:
        """Raise what says that a layer would have no unit left."""
        raise ValueError(f"`criterion` {self.spelled} would empty {name}: {reason}.")


def _without_units(bench: _Bench, net: AbstractSized, rule: Criterion | Selector) -> tuple[list[Removal], Edit]:
    """The units that go, stream after stream; a layer without depth gates is a stream of its own."""
    removed, stays = [], [np.ones(units, bool) for units in net.controller.capacity]
    is_there = [np.asarray(mask) > 0 for mask in _masks(net)]
    every = range(len(is_there))
    streams = [tuple(every)] if is_gated(net) else [(n,) for n in every]
    judge = _by_text if isinstance(rule, Criterion) else _by_function
    for stream in streams:
        for unit, values, reason in judge(bench, net, rule, is_there, stream):
            for layer in stream:
                if is_there[layer].any() and is_there[layer].sum() == is_there[layer][unit]:
                    rest = _spread(bench, net, rule, layer)
                    bench.refuse_to_empty(
                        net.group_names[layer], f"it holds for all units that take part{rest}"
                    )
                is_there[layer][unit] = stays[layer][unit] = False
            where = stream[0] if len(stream) == 1 and not is_gated(net) else None
            removed.append(Removal(layer=where, unit=unit, values=MappingProxyType(values), reason=reason))
    return removed, Edit.of([np.flatnonzero(own) for own in stays])


def _spread(bench: _Bench, net: AbstractSized, rule: Criterion | Selector, layer: int) -> str:
    """What the units of a layer have of what a text names, from the least to the most, before any goes."""
    if not isinstance(rule, Criterion):
        return ""
    is_there = [np.asarray(mask) > 0 for mask in _masks(net)]
    row = bench.values(net, is_there)[layer]
    own = {name: row[name][is_there[layer]] for name in sorted(rule.names())}
    return "".join(f"; `{name}` was {each.min():.3g} to {each.max():.3g}" for name, each in own.items())


Judged = Iterator[tuple[int, dict[str, float], str]]


def _by_text(bench: _Bench, net, rule: Criterion, is_there, stream) -> Judged:
    """Unit after unit, the least important of those that meet the criterion in every layer that has them."""
    while True:
        tables = bench.values(_muted(net, is_there), is_there)
        found = []
        for unit in range(is_there[stream[0]].size):
            rows = [tables[n] for n in stream if is_there[n][unit]]
            own = [{name: float(column[unit]) for name, column in row.items()} for row in rows]
            if own and all(map(rule.holds, own)):
                importance = [each["importance"] for each in own]
                found.append((sum(importance), unit, own[int(np.argmax(importance))]))
        if not found:
            return
        _, unit, values = min(found, key=lambda each: each[:2])
        yield unit, values, rule.reason(values)


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


def _without_layers(bench: _Bench, net: AbstractSized, rule: Criterion) -> tuple[list[Removal], Edit]:
    """The layers that go, least important first, and the edit that takes them all out."""
    removed, left, capacity = [], list(range(len(net.group_names))), net.controller.capacity
    while True:
        if is_gated(net):
            names, edit = left, Edit.of([np.arange(capacity[n]) for n in left], layers=left)
            now = edited(net, edit)[0]
            is_there = [np.asarray(mask) > 0 for mask in _masks(now)]
        else:
            names = range(len(capacity))
            edit = Edit.of([np.arange(own) if n in left else np.full(1, -1) for n, own in enumerate(capacity)])
            is_there = [(np.asarray(mask) > 0) & (n in left) for n, mask in enumerate(_masks(net))]
            now = _muted(net, is_there)
        tables, gates = bench.values(now, is_there), np.asarray(now.gates())
        own = [{name: float(table[name][0]) for name in table if name in OF_LAYERS} for table in tables]
        found = [n for n, each in enumerate(own) if gates[n] > 0 and names[n] in left and rule.holds(each)]
        if not found:
            return removed, edit
        able = [n for n in found if _can_go(bench, now, n, is_there)]
        if not able:
            able_ones = "only layers behind a depth gate, or with a path around them, can go"
            bench.refuse_to_empty(net.group_names[names[found[0]]], able_ones)
        place = min(able, key=lambda n: own[n]["layer.importance"])
        values, reason = MappingProxyType(own[place]), rule.reason(own[place])
        removed.append(Removal(layer=names[place], unit=None, values=values, reason=reason))
        left.remove(names[place])


def _can_go(bench: _Bench, net: AbstractSized, layer: int, is_there: _Units) -> bool:
    """Whether a layer is behind a depth gate, or the outputs depend on the inputs without it."""
    if is_gated(net):
        return layer > 0
    muted = _muted(net, [own & (n != layer) for n, own in enumerate(is_there)])
    outputs = np.asarray(_outputs(muted, bench.inputs))
    return bool(np.any(np.ptp(outputs, axis=0) > 1e-6 * np.abs(outputs).max()))


def _muted(net: AbstractSized, is_there: _Units) -> AbstractSized:
    """The network with the outgoing weights of absent units at zero: shapes stay, and so do programs."""
    keeps = [np.any(is_there, axis=0)] * len(is_there) if is_gated(net) else is_there
    return groups.masked(net, net.structure, [jnp.asarray(keep, jnp.float32) for keep in keeps])


def _masks(net: AbstractSized) -> list[Float[Array, " _units"]]:
    return [own * gate for own, gate in zip(net.participation(), net.gates(), strict=True)]


_activations = eqx.filter_jit(lambda net, inputs: net.activations(inputs))


@eqx.filter_jit
def _outputs(net: AbstractSized, inputs: Inputs) -> Float[Array, "samples outputs"]:
    model = eqx.nn.inference_mode(net)
    keys = key_if_taken(model, jax.random.key(0))
    outputs = jax.vmap(lambda one: model(*each_input(one), **keys))(inputs)
    return jnp.concatenate([own.reshape(len(inputs), -1) for own in jax.tree.leaves(outputs)], axis=1)


def _checked(net: AbstractSized, inputs: Inputs, targets: Array, *, is_classes: bool) -> _Rows:
    """The targets as rows of numbers, or of classes: one-hot, or 0 and 1 where the model has one output."""
    example, outs = net.structure.example, number_of_outputs(net, *net.structure.example)
    rows = targets if targets.ndim == 2 or not is_classes or outs == 1 else jax.nn.one_hot(targets, outs)
    rows = rows.reshape(len(rows), -1).astype(jnp.float32) if rows.ndim else rows
    labels, classes = np.asarray(targets), max(outs, 2)
    if is_classes and labels.ndim == 1 and labels.size and not 0 <= labels.min() <= labels.max() < classes:
        got = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"`data` must have labels in [0, {classes - 1}]; got {got}.")
    each = each_input(inputs)
    if not all(np.isfinite(np.asarray(own)).all() for own in (labels, *each)):
        raise ValueError("`data` must be finite; got NaN or an infinity.")
    wanted = [(len(inputs), *shape) for shape, _ in example]
    if [own.shape for own in each] != wanted or rows.shape != (len(inputs), outs) or len(inputs) < 2:
        sides = " and ".join(f"[{', '.join(map(str, ('samples', *shape)))}]" for shape, _ in example)
        form = f"inputs {sides} and targets [samples, {outs}]"
        got = " and ".join(str(own.shape) for own in (*each, targets))
        raise ValueError(f"`data` must be {form}, two samples or more; got {got}.")
    return rows
