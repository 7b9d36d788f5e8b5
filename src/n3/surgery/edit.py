"""Edit: hidden units and layers taken out of a sized model or put into it, its optimiser state alike.

An `Edit` says where each layer and unit of the new network comes from, and `edited` carries it out: matrices
are gathered, sizes are moved so that every unit that stays takes part as before, and where a layer is told its
size the bias makes up for the change. Then only units with outgoing weights that went or came can change the
outputs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from n3.nn import controllers, groups, masks
from n3.nn.controllers import AbstractController, Layerwise
from n3.nn.members import Ensemble
from n3.nn.mlp import GrowingMLP
from n3.nn.sized import AbstractSized, Sized
from n3.surgery.optimiser_state import carried, moved_leaves


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Where the hidden layers and units of a new network come from."""

    layers: tuple[int, ...]
    """Old index of each layer, rising; -1, at the end: a layer without a past."""
    units: tuple[Int[np.ndarray, " _units"], ...]
    """Old index of each unit of each layer; -1: a unit without a past. In a layer that has none itself, of the
    units of the residual stream that goes by it."""
    is_new: tuple[Bool[np.ndarray, " _units"], ...]
    """Which units have no moments yet: those without a past, and copies; none in a layer without a past, where
    the stream's units count."""
    born: int | tuple[int, ...] = 0
    """New units of each layer that take part fully."""

    @classmethod
    def of(
        cls,
        units: Sequence[Int[np.ndarray, " _units"]],
        *,
        layers: Sequence[int] | None = None,
        is_new: Sequence[Bool[np.ndarray, " _units"]] | None = None,
        born: int | tuple[int, ...] = 0,
    ) -> "Edit":
        """An edit in which all layers stay, and all units that are there have a past, but for what is said."""
        layers = range(len(units)) if layers is None else layers
        is_new = [np.zeros(len(own), bool) for own in units] if is_new is None else is_new
        return cls(layers=tuple(layers), units=tuple(units), is_new=tuple(is_new), born=born)


def edited(
    net: Sized, edit: Edit, state: PyTree = None, finish: Callable[[Sized], Sized] = lambda net: net
) -> tuple[Sized, PyTree]:
    """The new network, and the optimiser state that belongs to it.

    Weights from or to units without a past are zero, and so are the averages of all new weights. `finish` is
    what else becomes of the new network's parameters, and of an optimiser's copies of them. One size weight for
    all layers becomes one for each where they part.

    Raises:
        ValueError: If `net` is no single network under one of n3's controllers, or `state` is not over it.
    """
    check_single(net)
    controller, depth = _resized(net.controller, edit), _moved_depth(net, edit)
    layered = _with_layers(net, edit.layers, depth)
    made = groups.gathered(layered, layered.structure, edit.units).resized(controller)
    made = finish(_retold(made, net, edit, controller))
    past = [np.where(new, -1, own) for new, own in zip(edit.is_new, edit.units, strict=True)]

    def changed(node: PyTree, is_copy: bool) -> PyTree:
        own, deep = _like(controller, node.controller, edit), depth if is_copy else node.depth_weight
        deep = jnp.zeros_like(depth) if deep is None and depth is not None else deep
        if is_copy:  # as far from the network's own as before
            moved = _like(controller, net.controller, edit)
            own = jax.tree.map(lambda a, b, c: a + b - c, own, controller, moved)
            if deep is not None and net.depth_weight is not None:
                deep = deep + node.depth_weight - net.depth_weight
        node = _with_layers(node, edit.layers, deep)
        node = moved_leaves(node, layered, made, edit.units if is_copy else past)
        node = eqx.tree_at(lambda n: n.controller, node, own)
        return finish(_retold(node, net, edit, controller)) if is_copy else node

    return made, carried(state, net, changed)


def _with_layers(tree: PyTree, layers: tuple[int, ...], depth: Float[Array, ""] | None) -> PyTree:
    """A network, or a tree of its form, with other hidden layers, those without a past being zero."""
    if not isinstance(tree, GrowingMLP):
        return tree
    tree = eqx.tree_at(lambda n: n.depth_weight, tree, depth, is_leaf=lambda leaf: leaf is None)
    if layers == tuple(range(len(tree.layers))):
        return tree
    blank = jax.tree.map(jnp.zeros_like, tree.layers[0])
    if eqx.is_array(blank.weight):  # a further layer reads the stream, and not the inputs
        square = jnp.zeros((len(blank.weight),) * 2, blank.weight.dtype)
        blank = eqx.tree_at(lambda own: own.weight, blank, square)
    parts = tuple(tree.layers[old] if old >= 0 else blank for old in layers)
    made = eqx.tree_at(lambda n: n.layers, tree, parts)
    if tree.choice is None:
        return made
    own = tree.choice.logits
    rows = [own[old] if old >= 0 else jnp.zeros_like(own[0]) for old in layers]
    return eqx.tree_at(lambda n: n.choice.logits, made, jnp.stack(rows))


def _retold(made: PyTree, net: AbstractSized, edit: Edit, controller: AbstractController) -> PyTree:
    if not isinstance(made, GrowingMLP):
        return made
    before, after = net.controller.sizes(), controller.sizes()
    for new, old in enumerate(edit.layers):
        shift = made.layers[new].size_weight
        if old >= 0 and shift is not None and before[old] != after[new]:
            bias = made.layers[new].bias + (before[old] - after[new]) * shift
            made = eqx.tree_at(lambda n, new=new: n.layers[new].bias, made, bias)
    return made


def full_units(net: AbstractSized) -> tuple[int, ...]:
    """Units of each group that take part fully, or, where none takes part by its index, all of them."""
    rows = zip(_weights(net.controller), net.sizes(), net.controller.capacity, strict=True)
    return tuple(units if kind in _UNRANKED else math.floor(float(size)) for (kind, _), size, units in rows)


def is_gated(net: AbstractSized) -> bool:
    """Whether the groups are layers of a residual stream, and share their units."""
    return net.depth_weight is not None


def check_single(net: eqx.Module) -> None:
    """Refuse what surgery does not know: another model, many networks stacked, a controller from elsewhere."""
    if isinstance(net, Ensemble):
        one = "take a member by `net.each()`, or train with `refit`, which leaves one network"
        raise ValueError(f"`net` must be one network; got an ensemble: {one}.")
    if not isinstance(net, AbstractSized):
        raise ValueError(f"`net` must be a sized model; got {type(net).__name__}.")
    runs = []
    noted = lambda leaf, own: runs.append(own.shape[: own.ndim - len(leaf.layouts)]) or own  # noqa: E731
    groups.over_leaves(net, net.structure, noted)
    if any(runs):
        one = "take one by `n3.nn.run_of(net, 0)`"
        raise ValueError(f"`net` must be one network; got {runs[0][0]} of them, stacked: {one}.")
    parts = net.controller.layers if isinstance(net.controller, Layerwise) else (net.controller,)
    for part in parts:
        if type(part) not in (*_SHARED, *_EACH):
            raise ValueError(f"`net` must have one of n3's own controllers; got {type(part).__name__}.")


_UNRANKED = (controllers.Released, controllers.Warmup)
_SHARED = (controllers.Auxiliary, controllers.Controller, *_UNRANKED)
_EACH = (controllers.Information, controllers.Fixed)


def _resized(controller: AbstractController, edit: Edit) -> AbstractController:
    born = (edit.born,) * len(edit.layers) if isinstance(edit.born, int) else edit.born
    weights, old = _weights(controller), controller.capacity
    moved = []
    for layer, units, own in zip(edit.layers, edit.units, born, strict=True):
        kind, weight = weights[layer]
        change = _change(units, old[layer], own) if layer >= 0 else lambda size: size
        moved.append(_moved(kind, weight, old[layer], len(units), change))
    return _rebuilt(controller, edit, moved, is_shared=all(float(own) == float(moved[0]) for own in moved))


def _like(model: AbstractController, moments: AbstractController, edit: Edit) -> AbstractController:
    """The moments of the new controller's weights: those of the weights that they come from."""
    if not jax.tree.leaves(moments):  # masked: the optimiser keeps nothing of it
        return jax.tree.map(lambda _: optax.MaskedNode(), model)
    weights = [weight for _, weight in _weights(moments)]
    own = [weights[layer] if layer >= 0 else jnp.zeros_like(weights[0]) for layer in edit.layers]
    return _rebuilt(moments, edit, own, is_shared=type(model) is type(moments))


def _weights(controller: AbstractController) -> list[tuple[type, Float[Array, ""]]]:
    if isinstance(controller, Layerwise):
        return [own for layer in controller.layers for own in _weights(layer)]
    weight = controller.size if isinstance(controller, controllers.Fixed) else cast(Any, controller).weight
    each = weight if isinstance(controller, _EACH) else [weight] * len(controller.capacity)
    return [(type(controller), own) for own in each]


def _rebuilt(
    controller: AbstractController, edit: Edit, weights: list[Float[Array, ""]], *, is_shared: bool
) -> AbstractController:
    kind, capacity, mask = type(controller), tuple(map(len, edit.units)), controller.mask
    if kind in _EACH or (kind in _SHARED and is_shared):
        return kind(jnp.stack(weights) if kind in _EACH else weights[0], capacity=capacity, mask=mask)
    kinds = [own for own, _ in _weights(controller)]
    layers = []
    for layer, units, weight in zip(edit.layers, capacity, weights, strict=True):
        own = weight[None] if kinds[layer] in _EACH else weight
        layers.append(kinds[layer](own, capacity=(units,), mask=mask))
    return Layerwise(layers=tuple(layers), capacity=capacity, mask=mask)


def _change(past: Int[np.ndarray, " units"], capacity: int, born: int) -> Callable[[float], float]:
    """How a size moves so that the units that stay take part as before, and new ones if they are born."""
    kept = past[past >= 0]

    def change(size: float) -> float:
        full = math.floor(min(max(size, 0.0), capacity))
        left = float(len(np.unique(kept[kept < full])) + born)
        if size < 0:
            return left or size
        is_beyond = full == capacity and len(past) > len(kept)
        has_frontier = full in (capacity, size) or full in kept
        return left if is_beyond or not has_frontier else size + (left - full)

    return change


def _moved(
    kind: type, weight: Float[Array, ""], old: int, new: int, change: Callable[[float], float]
) -> Float[Array, ""]:
    own = float(weight)
    if kind in _UNRANKED:
        return weight
    if kind is not controllers.Controller:
        return jnp.asarray(change(own), weight.dtype)
    size = old * float(masks.capacity_share(weight))
    after = change(size)
    if (after, new) == (size, old):
        return weight
    turn = 2.0 * round(own / 2.0)  # the share repeats itself: the output stays on its branch
    output = 2.0 / math.pi * math.asin(math.sqrt(min(max(after / new, 0.0), 1.0)))
    return jnp.asarray(turn + math.copysign(output, own - turn), weight.dtype)


def _moved_depth(net: AbstractSized, edit: Edit) -> Float[Array, ""] | None:
    depth = len(net.controller.capacity)
    if net.depth_weight is None:
        return jnp.asarray(float(depth)) if -1 in edit.layers else None
    change = _change(np.array(edit.layers), depth, 0)
    return jnp.asarray(change(float(net.depth_weight)), net.depth_weight.dtype)
