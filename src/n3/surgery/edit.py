"""Surgery: hidden units and layers taken out of a network or put into it, its optimiser state alike.

An `Edit` says where each layer and unit of the new network comes from, and `edited` carries it out: matrices
are gathered, sizes are moved so that every unit that stays takes part as before, and where a layer is told its
size the bias makes up for the change. Then only units with outgoing weights that went or came can change the
outputs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from n3.nn import controllers, masks
from n3.nn.controllers import AbstractController, Layerwise
from n3.nn.mlp import Dense, GrowingMLP


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


def edited(net: GrowingMLP, edit: Edit, state: PyTree = None) -> tuple[GrowingMLP, PyTree]:
    """The new network, and the optimiser state that belongs to it.

    Weights from or to units without a past are zero, and so are the moments of all new weights.

    Args:
        net: The old network.
        edit: What goes where.
        state: An optimiser state over the old network, or None.

    Returns:
        The network and the state; one size weight for all layers becomes one for each where they part.

    Raises:
        ValueError: If `net` is no single `GrowingMLP` under one of n3's controllers, or `state` is not over it.
    """
    check_single(net)
    check_state(net, state)
    controller = _resized(net.controller, edit)
    before, after = net.controller.sizes(), controller.sizes()
    made = _gathered(net, edit, controller, is_moments=False)
    for new, old in enumerate(edit.layers):
        shift = made.layers[new].size_weight
        if old >= 0 and shift is not None and before[old] != after[new]:
            bias = made.layers[new].bias + (before[old] - after[new]) * shift
            made = eqx.tree_at(lambda n, new=new: n.layers[new].bias, made, bias)
    depth = _moved_depth(net, edit)
    made = eqx.tree_at(lambda n: n.depth_weight, made, depth, is_leaf=lambda leaf: leaf is None)

    def carried(node: PyTree) -> PyTree:
        if not isinstance(node, GrowingMLP):
            return node
        blank = None if depth is None else jnp.zeros_like(depth)
        own = blank if node.depth_weight is None else node.depth_weight
        node = _gathered(node, edit, _like(controller, node.controller, edit), is_moments=True)
        return eqx.tree_at(lambda n: n.depth_weight, node, own, is_leaf=lambda leaf: leaf is None)

    return made, jax.tree.map(carried, state, is_leaf=lambda node: isinstance(node, GrowingMLP))


def full_units(net: GrowingMLP) -> tuple[int, ...]:
    """Units of each layer that take part fully, or, where none takes part by its index, all of them."""
    if isinstance(net.controller, Layerwise):
        kinds = [type(layer) for layer in net.controller.layers]
    else:
        kinds = [type(net.controller)] * len(net.layers)
    sizes = [float(size) for size in net.controller.sizes()]
    rows = zip(kinds, sizes, net.controller.capacity, strict=True)
    return tuple(units if kind in _UNRANKED else math.floor(size) for kind, size, units in rows)


def is_gated(net: GrowingMLP) -> bool:
    """Whether the layers share a residual stream, and with it their units."""
    return net.depth_weight is not None


def check_single(net: eqx.Module) -> None:
    """Refuse what surgery does not know: another model, many networks stacked, a controller from elsewhere."""
    if not isinstance(net, GrowingMLP):
        raise ValueError(f"`net` must be a GrowingMLP; got {type(net).__name__}.")
    if net.readout.bias.ndim != 1:
        raise ValueError(f"`net` must be one network; got {net.readout.bias.shape[0]} of them, stacked.")
    parts = net.controller.layers if isinstance(net.controller, Layerwise) else (net.controller,)
    for part in parts:
        if type(part) not in (*_SHARED, *_EACH):
            raise ValueError(f"`net` must have one of n3's own controllers; got {type(part).__name__}.")


def check_state(net: GrowingMLP, state: PyTree) -> None:
    """Refuse an optimiser state whose moments are not shaped like the network."""

    def shapes(tree: PyTree) -> tuple:
        return jax.tree.structure(tree), [leaf.shape for leaf in jax.tree.leaves(tree)]

    for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, GrowingMLP)):
        if isinstance(node, GrowingMLP) and shapes(node) != shapes(net):
            theirs, ours = node.controller.capacity, net.controller.capacity
            raise ValueError(
                f"`state` must belong to `net`, of capacity {ours}; its moments are of capacity {theirs}."
            )


def _gathered(net: GrowingMLP, edit: Edit, controller: AbstractController, *, is_moments: bool) -> GrowingMLP:
    """The matrices of the new network or of its moments, with zeros where there is no past."""

    def past(layer: int) -> Int[np.ndarray, " units"]:
        return np.where(edit.is_new[layer], -1, edit.units[layer]) if is_moments else edit.units[layer]

    columns, layers = np.arange(net.layers[0].weight.shape[1]), []
    for new, old in enumerate(edit.layers):
        rows = past(new) if old >= 0 else np.full_like(edit.units[new], -1)
        read = columns if old >= 0 else np.full_like(columns, -1)
        layers.append(_taken(net.layers[max(old, 0)], rows, read))
        columns = past(new)
    readout = _taken(net.readout, np.arange(net.readout.bias.shape[0]), columns)
    parts = tuple(layers), readout, controller
    made = eqx.tree_at(lambda n: (n.layers, n.readout, n.controller), net, parts)
    if net.choice is None:
        return made
    logits = [
        net.choice.logits[old] if old >= 0 else jnp.zeros_like(net.choice.logits[0]) for old in edit.layers
    ]
    return eqx.tree_at(lambda n: n.choice.logits, made, jnp.stack(logits))


def _taken(layer: Dense, rows: Int[np.ndarray, " out"], columns: Int[np.ndarray, " in"]) -> Dense:
    """Rows and columns by old index, zero where that is -1; on the host, where no shape is compiled for."""

    def taken(leaf: Array) -> Array:
        every = (rows, columns)[: leaf.ndim]
        made = np.zeros([which.size for which in every], leaf.dtype)
        there = [np.flatnonzero(which >= 0) for which in every]
        past = [which[place] for which, place in zip(every, there, strict=True)]
        made[np.ix_(*there)] = np.asarray(leaf)[np.ix_(*past)]
        return jnp.asarray(made)

    return jax.tree.map(taken, layer)


_UNRANKED = (controllers.Released, controllers.Warmup)
_SHARED = (controllers.Auxiliary, controllers.Controller, *_UNRANKED)
_EACH = (controllers.Information, controllers.Fixed)


def _resized(controller: AbstractController, edit: Edit) -> AbstractController:
    """The controller under which every unit that stays takes part as before."""
    born = (edit.born,) * len(edit.layers) if isinstance(edit.born, int) else edit.born
    weights, old = _weights(controller), controller.capacity
    moved = []
    for layer, units, own in zip(edit.layers, edit.units, born, strict=True):
        kind = type(controller.layers[layer] if isinstance(controller, Layerwise) else controller)
        change = _change(units, old[layer], own) if layer >= 0 else lambda size: size
        moved.append(_moved(kind, weights[layer], old[layer], len(units), change))
    is_shared = isinstance(controller, _SHARED) and all(float(w) == float(moved[0]) for w in moved)
    return _rebuilt(controller, edit, moved, is_shared=is_shared)


def _like(model: AbstractController, moments: AbstractController, edit: Edit) -> AbstractController:
    """The moments of the new controller's weights: those of the weights that they come from."""
    weights = _weights(moments)
    own = [weights[layer] if layer >= 0 else jnp.zeros_like(weights[0]) for layer in edit.layers]
    return _rebuilt(moments, edit, own, is_shared=type(model) is type(moments))


def _weights(controller: AbstractController) -> list[Float[Array, ""]]:
    """The size weight of each layer."""
    if isinstance(controller, Layerwise):
        return [_weights(layer)[0] for layer in controller.layers]
    if isinstance(controller, _EACH):
        return list(jax.tree.leaves(controller)[0])
    return [cast(controllers.Auxiliary, controller).weight] * len(controller.capacity)


def _rebuilt(
    controller: AbstractController, edit: Edit, weights: list[Float[Array, ""]], *, is_shared: bool
) -> AbstractController:
    capacity, mask = tuple(len(units) for units in edit.units), controller.mask
    if isinstance(controller, _EACH):
        return type(controller)(jnp.stack(weights), capacity=capacity, mask=mask)
    if isinstance(controller, _SHARED) and is_shared:
        return type(controller)(weights[0], capacity=capacity, mask=mask)
    layers = []
    for layer, units, weight in zip(edit.layers, capacity, weights, strict=True):
        kind = type(controller.layers[layer] if isinstance(controller, Layerwise) else controller)
        layers.append(kind(weight[None] if kind in _EACH else weight, capacity=(units,), mask=mask))
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
    """The size weight after a change of size, on its own scale."""
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


def _moved_depth(net: GrowingMLP, edit: Edit) -> Float[Array, ""] | None:
    depth = len(net.layers)
    if net.depth_weight is None:
        return jnp.asarray(float(depth)) if -1 in edit.layers else None
    change = _change(np.array(edit.layers), depth, 0)
    return jnp.asarray(change(float(net.depth_weight)), net.depth_weight.dtype)
