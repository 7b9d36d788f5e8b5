"""Expansion: further units and layers for a network that go on computing the same function, or nearly so."""

from typing import get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from n3.config.experiment import ExpandMethod
from n3.config.validation import suggestion
from n3.nn.mlp import Dense, GrowingMLP
from n3.surgery.edit import Edit, check_single, edited, full_units, is_gated

EXPANSION_METHODS: tuple[str, ...] = (*get_args(ExpandMethod), "identity")


def expand(
    net: GrowingMLP,
    *,
    units: int | tuple[int, ...] = 0,
    layers: int = 0,
    method: str = "zero",
    is_born: bool = False,
    scale: float = 0.01,
    key: PRNGKeyArray | None = None,
    state: PyTree = None,
) -> tuple[GrowingMLP, PyTree]:
    """A network with more room, and the optimiser state that belongs to it.

    * `zero`: units whose incoming weights are drawn and whose outgoing weights are zero. They come last, and
      the size stays, so that growth may bear them; or they take part at once (`is_born`, and wherever all units
      always do). Same outputs.
    * `split`: copies of the fully participating units with the largest outgoing weights; a unit and its copy
      have half of those weights each. They take part at once. Same outputs.
    * `mutate`: as `split`, with normal noise on the incoming weights of the copies.
    * `identity`: layers at the end of a residual stream, behind a shut gate. A network without depth gates gets
      them. Same outputs.

    "Same outputs" means but for the order in which a sum is rounded (rtol 1e-5, atol 1e-6 in float32). Where a
    layer is told its size, its biases make up for what it is told now.

    Args:
        net: The network.
        units: Units to add to each hidden layer, one number for all or one for each.
        layers: Layers to add, by method `identity`.
        method: `zero`, `split`, `mutate` or `identity`.
        is_born: Whether units of method `zero` take part fully, before the unit at the frontier.
        scale: Standard deviation of the noise of method `mutate`, in the weights' own unit.
        key: For methods that draw: all but `split`.
        state: An optimiser state over `net`; the moments of its weights stay, those of new ones are zero.

    Returns:
        The network and its state (None where there was none). One size weight for all layers becomes one for
        each where their sizes part.

    Raises:
        ValueError: If a value is out of its range, nothing is to be added, `key` is missing, no unit takes part
            fully that could be split, or the residual stream of a network with depth gates would tear.
    """
    check_single(net)
    added = _checked(net, units, layers, method, scale, key)
    if method == "identity":
        capacity = net.controller.capacity
        if len(set(capacity)) > 1:
            raise ValueError(f"`layers` needs hidden layers of equal capacity; got {capacity}.")
        return _deepened(net, layers, key, state)
    if is_gated(net):
        _check_stream(net, added, takes_part=is_born or method != "zero")
    if method == "zero":
        return _widened(net, added, is_born, key, state)
    return _split(net, added, scale if method == "mutate" else 0.0, key, state)


def _checked(net: GrowingMLP, units, layers, method, scale, key) -> tuple[int, ...]:
    """The units to add to each layer."""
    depth = len(net.layers)
    added = (units,) * depth if isinstance(units, int) else units
    if method not in EXPANSION_METHODS:
        known = ", ".join(EXPANSION_METHODS)
        raise ValueError(
            f"`method` must be one of {known}; got {method!r}.{suggestion(method, EXPANSION_METHODS)}"
        )
    if len(added) != depth or min(added) < 0:
        raise ValueError(
            f"`units` must be zero or more, one number or one for each of {depth} layers; got {units}."
        )
    if layers < 0:
        raise ValueError(f"`layers` must be zero or more; got {layers}.")
    if (layers > 0) != (method == "identity") or (max(added) > 0) == (method == "identity"):
        raise ValueError(
            f"`method` must be identity to add layers and another to add units; got {method} for "
            f"`units` {units} and `layers` {layers}."
        )
    if not (np.isfinite(scale) and scale >= 0):
        raise ValueError(f"`scale` must be zero or more, and finite; got {scale}.")
    if key is None and method != "split":
        raise ValueError(f"`key` must be given for method {method}, which draws weights.")
    return added


def _check_stream(net: GrowingMLP, added: tuple[int, ...], *, takes_part: bool) -> None:
    """Refuse units that would not be the same ones in every layer of a residual stream."""
    if len(set(added)) > 1:
        raise ValueError(f"`units` must be one number where there are depth gates; got {added}.")
    full = full_units(net)
    if takes_part and len(set(full)) > 1:
        raise ValueError(
            f"depth gates let new units take part only where all layers have as many full units; got {full}."
        )


def _deepened(net: GrowingMLP, layers: int, key, state: PyTree) -> tuple[GrowingMLP, PyTree]:
    depth, capacity = len(net.layers), net.controller.capacity[0]
    edit = Edit(
        layers=(*range(depth), *(-1,) * layers),
        units=(np.arange(capacity),) * (depth + layers),
        is_new=(np.zeros(capacity, bool),) * (depth + layers),
    )
    made, state = edited(net, edit, state)
    has_size = net.layers[0].size_weight is not None
    drawn = [_draw(capacity, capacity, has_size, own) for own in jr.split(key, layers)]
    return eqx.tree_at(lambda n: n.layers[depth:], made, tuple(drawn)), state


def _widened(net: GrowingMLP, added: tuple[int, ...], is_born: bool, key, state) -> tuple[GrowingMLP, PyTree]:
    full, capacity = full_units(net), net.controller.capacity
    ends = full if is_born else capacity
    units = tuple(
        np.insert(np.arange(own), [end] * extra, -1)
        for own, end, extra in zip(capacity, ends, added, strict=True)
    )
    is_new = tuple(own < 0 for own in units)
    edit = Edit(layers=_all(net), units=units, is_new=is_new, born=added if is_born else 0)
    made, state = edited(net, edit, state)
    read, layers = np.zeros(net.layers[0].weight.shape[1], bool), []
    for layer, own, rows in zip(made.layers, jr.split(key, len(is_new)), is_new, strict=True):
        has_size = layer.size_weight is not None
        drawn = _draw(layer.weight.shape[1], len(rows), has_size, own)
        drawn = eqx.tree_at(lambda d: d.weight, drawn, jnp.where(read[None], 0.0, drawn.weight))
        layers.append(_with_rows(layer, drawn, rows))
        read = rows
    return eqx.tree_at(lambda n: n.layers, made, tuple(layers)), state


def _split(net: GrowingMLP, added: tuple[int, ...], noise: float, key, state) -> tuple[GrowingMLP, PyTree]:
    full, units, is_new, factors = full_units(net), [], [], []
    norms = _outgoing(net)
    for layer, extra in enumerate(added):
        if extra and not full[layer]:
            raise ValueError(f"`units` cannot be split in hidden layer {layer}: none takes part fully.")
        copies, shares = _copies(norms[layer][: full[layer]], extra)
        rest = np.arange(full[layer], net.controller.capacity[layer])
        units.append(np.concatenate([np.arange(full[layer]), copies, rest]))
        factors.append(np.concatenate([shares, np.ones(rest.size)]))
        is_new.append(np.isin(np.arange(units[-1].size), full[layer] + np.arange(extra)))
    edit = Edit(layers=_all(net), units=tuple(units), is_new=tuple(is_new), born=added)
    made, state = edited(net, edit, state)
    for layer, factor in enumerate(factors):
        after = [*made.layers[1:], made.readout][layer]
        weight = after.weight * jnp.asarray(factor, after.weight.dtype)[None]
        made = eqx.tree_at(lambda n, at=layer: [*n.layers[1:], n.readout][at].weight, made, weight)
    if noise:
        keys = jr.split(key, len(is_new))
        layers = (_mutated(*each, noise) for each in zip(made.layers, is_new, keys, strict=True))
        made = eqx.tree_at(lambda n: n.layers, made, tuple(layers))
    return made, state


def _outgoing(net: GrowingMLP) -> list[Float[np.ndarray, " _units"]]:
    """Norm of the outgoing weights of each unit of each layer; along a residual stream, of all that read it."""
    squares = [np.sum(np.asarray(after.weight) ** 2, axis=0) for after in (*net.layers[1:], net.readout)]
    return [np.sqrt(sum(squares))] * len(squares) if is_gated(net) else [np.sqrt(own) for own in squares]


def _copies(
    norms: Float[np.ndarray, " full"], extra: int
) -> tuple[Int[np.ndarray, " extra"], Float[np.ndarray, " total"]]:
    """Which units the copies are of, and the share of its outgoing weights that each old and new unit has."""
    source, share = list(range(len(norms))), [1.0] * len(norms)
    for _ in range(extra):
        most = int(np.argmax(norms[source] * share))
        share[most] /= 2.0  # halves of halves: exact in floating point
        source.append(source[most])
        share.append(share[most])
    return np.array(source[len(norms) :], int), np.array(share)


def _mutated(layer: Dense, rows: Bool[np.ndarray, " units"], key, noise: float) -> Dense:
    weight_key, bias_key = jr.split(key)
    weight = layer.weight + noise * jr.normal(weight_key, layer.weight.shape, layer.weight.dtype)
    bias = layer.bias + noise * jr.normal(bias_key, layer.bias.shape, layer.bias.dtype)
    noisy = eqx.tree_at(lambda part: (part.weight, part.bias), layer, (weight, bias))
    return _with_rows(layer, noisy, rows)


def _with_rows(layer: Dense, other: Dense, rows: Bool[np.ndarray, " units"]) -> Dense:
    """The layer with some of its rows taken from another."""

    def mixed(own: Array, new: Array) -> Array:
        made = np.array(own)
        made[rows] = np.asarray(new)[rows]
        return jnp.asarray(made)

    return jax.tree.map(mixed, layer, other)


def _draw(in_size: int, units: int, has_size: bool, key) -> Dense:
    """New weights, uniform on `1 / sqrt(inputs)`."""
    bound = 1.0 / jnp.sqrt(jnp.asarray(float(in_size + has_size)))
    return Dense(in_size, units, size_input=has_size, bound=bound, key=key)


def _all(net: GrowingMLP) -> tuple[int, ...]:
    return tuple(range(len(net.layers)))
