"""Expansion: further units and layers for a model that goes on computing the same function, or nearly so."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from n3.config.experiment import ExpandMethod
from n3.config.validation import suggestion
from n3.nn import groups
from n3.nn.groups import Leaf
from n3.nn.mlp import Dense, GrowingMLP
from n3.nn.norms import whole_shares
from n3.nn.sized import AbstractSized
from n3.surgery.compact import opened
from n3.surgery.edit import Edit, edited, full_units, is_gated
from n3.tracing.grow import Example, Grown, difference, perturbed
from n3.tracing.trace import is_layer

EXPANSION_METHODS: tuple[str, ...] = (*get_args(ExpandMethod), "identity")


def expand(
    net: eqx.Module,
    *,
    units: int | np.integer | tuple[int, ...] = 0,
    layers: int = 0,
    method: str = "zero",
    is_born: bool = False,
    scale: float = 0.01,
    key: PRNGKeyArray | None = None,
    state: PyTree = None,
    example: Example | tuple[Example, ...] | None = None,
) -> tuple[Any, PyTree]:
    """A model with more room, and the optimiser state that belongs to it.

    * `zero`: units whose incoming weights are drawn and whose outgoing weights are zero. They come last, and
      the size stays, so that growth may bear them; or they take part at once (`is_born`, and wherever all units
      always do). Same outputs.
    * `split`: copies of the fully participating units with the largest outgoing weights; a unit and its copy
      have half of those weights each, and count half in a norm. They take part at once. Same outputs.
    * `mutate`: as `split`, with normal noise on the incoming weights of the copies.
    * `identity`: layers at the end of a residual stream, behind a shut gate. A `GrowingMLP` without depth gates
      gets them; other models have no place for layers. Same outputs.

    "Same outputs" means but for the order in which a sum is rounded (rtol 1e-5, atol 1e-6 in float32). Where a
    layer is told its size, its biases make up for what it is told now. Any Equinox model that `n3.grow` could
    grow is taken; one that was not grown is traced on `example`, a sample or its shape and data type (a tuple
    of them for several inputs).

    Units are added to each hidden layer or group, one number for all or one for each; layers by `identity`
    alone. With `is_born` units of method `zero` take part before the unit at the frontier. `scale` is the
    standard deviation of the noise of `mutate`, in the weights' own unit; all methods but `split` draw by the
    key. Of an optimiser state over `net` the moments of its weights stay, and those of new ones are zero.

    Returns:
        The model, of the class that was given, and its state (None where there was none). One size weight for
        all layers becomes one for each where their sizes part; a norm over copies becomes a
        `n3.nn.ParticipatingNorm`, which has Equinox's as its field `norm`.

    Raises:
        ValueError: If a value is out of its range, nothing is to be added, `key` is missing, no unit takes part
            fully that could be split, or the residual stream of a network with depth gates would tear.
    """
    is_plain = not isinstance(net, AbstractSized)
    given, state, close = opened(net, state, example=example)
    added = _checked(given, units, layers, method, scale, key)
    if method == "identity":
        edit, finish = _deepened(given, layers, key)
    else:
        if is_gated(given):
            _check_stream(given, added, takes_part=is_born or method != "zero")
        if method == "zero":
            edit, finish = _widened(given, added, is_born or is_plain, key)
        else:
            edit, finish = _split(given, added, scale if method == "mutate" else 0.0, key)
            _check_copies(given, edit, finish)
    return close(*edited(given, edit, state, finish))


def _check_copies(net: Any, edit: Edit, finish: Callable[..., Any]) -> None:
    """Refuse copies that do not add up to their unit: something is not linear in the weights that read it."""
    if not isinstance(net, Grown):
        return
    key = jr.key(0)
    net = eqx.tree_at(lambda own: own.model, net, perturbed(net.model, key=key))
    made: Any = edited(net, edit, None, partial(finish, noise=0.0))[0]
    reason = difference(net.masked(), made.masked, net.structure.example, key=key)
    if reason is not None:
        raise ValueError(f"`method` must be zero for this model: with copies that share weights {reason}.")


Finished = tuple[Edit, Callable[[Any], Any]]
_Chosen = tuple[Bool[np.ndarray, " _units"], ...]


def _checked(net: AbstractSized, units, layers, method, scale, key) -> tuple[int, ...]:
    depth = len(net.group_names)
    added = (int(units),) * depth if isinstance(units, (int, np.integer)) else units
    known, is_deeper = ", ".join(EXPANSION_METHODS), method == "identity"
    if method not in EXPANSION_METHODS:
        near = suggestion(method, EXPANSION_METHODS)
        raise ValueError(f"`method` must be one of {known}; got {method!r}.{near}")
    if len(added) != depth or min(added) < 0:
        every = f"zero or more, one number or one for each of {depth} layers"
        raise ValueError(f"`units` must be {every}; got {units}.")
    if layers < 0:
        raise ValueError(f"`layers` must be zero or more; got {layers}.")
    if (layers > 0) != is_deeper or (max(added) > 0) == is_deeper:
        got = f"{method} for `units` {units} and `layers` {layers}"
        raise ValueError(f"`method` must be identity to add layers and another to add units; got {got}.")
    if not (np.isfinite(scale) and scale >= 0):
        raise ValueError(f"`scale` must be zero or more, and finite; got {scale}.")
    if key is None and method != "split":
        raise ValueError(f"`key` must be given for method {method}, which draws weights.")
    return added


def _check_stream(net: AbstractSized, added: tuple[int, ...], *, takes_part: bool) -> None:
    """Refuse units that would not be the same ones in every layer of a residual stream."""
    if len(set(added)) > 1:
        raise ValueError(f"`units` must be one number where there are depth gates; got {added}.")
    full = full_units(net)
    if takes_part and len(set(full)) > 1:
        text = "depth gates let new units take part only where all layers have as many full units"
        raise ValueError(f"{text}; got {full}.")


def _deepened(net: AbstractSized, layers: int, key) -> Finished:
    if not isinstance(net, GrowingMLP):
        text = "`layers` can be added to a GrowingMLP alone"
        raise ValueError(f"{text}: no other model says where they would go.")
    depth, sizes = len(net.layers), net.controller.capacity
    if len(set(sizes)) > 1:
        raise ValueError(f"`layers` needs hidden layers of equal capacity; got {sizes}.")
    edit = Edit.of((np.arange(sizes[0]),) * (depth + layers), layers=(*range(depth), *(-1,) * layers))
    has_size = net.layers[0].size_weight is not None
    how = {"size_input": has_size, "bound": 1.0 / jnp.sqrt(jnp.asarray(float(sizes[0] + has_size)))}
    drawn = tuple(Dense(sizes[0], sizes[0], key=own, **how) for own in jr.split(key, layers))
    return edit, (lambda made: eqx.tree_at(lambda n: n.layers[depth:], made, drawn))


def _widened(net: AbstractSized, added, is_born: bool, key) -> Finished:
    capacity = net.controller.capacity
    rows = zip(capacity, full_units(net) if is_born else capacity, added, strict=True)
    units = tuple(np.insert(np.arange(own), [end] * extra, -1) for own, end, extra in rows)
    is_new = tuple(own < 0 for own in units)
    edit = Edit.of(units, is_new=is_new, born=added if is_born else 0)
    return edit, partial(_with_drawn, is_new=is_new, counts=not is_born, key=key)


def _with_drawn(net: AbstractSized, *, is_new: _Chosen, counts: bool, key: PRNGKeyArray) -> AbstractSized:
    """A model whose units without a past have incoming weights, uniform on `1 / sqrt(inputs)`.

    What is no weight of a layer, such as the scale of a norm, is drawn from the other units of its group. In
    norms units without a past count where `counts` says so. Their parameters are all zero in `net`.
    """
    drawn, numbers = _drawn_layers(net, key), {own.path: n for n, own in enumerate(net.structure.leaves)}

    def filled(leaf: Leaf, array: Array) -> Array:
        is_read = _places_of(leaf, is_new, is_read=True)
        if not leaf.is_trained:
            shares = np.where(is_read & counts, np.max(np.asarray(array), initial=1), np.asarray(array))
            return jnp.asarray(shares.astype(array.dtype))
        is_blank, made = _places_of(leaf, is_new, is_read=False), np.array(array)
        own = drawn.get(leaf.path)
        if own is None:
            past = made[~is_blank] if (~is_blank).any() else np.ones(1)
            own = jr.choice(jr.fold_in(key, numbers[leaf.path]), jnp.asarray(past), array.shape)
        made[is_blank] = np.asarray(own).astype(made.dtype)[is_blank]
        return jnp.asarray(np.where(is_read, 0.0, made).astype(made.dtype))

    return groups.over_leaves(net, net.structure, filled)


def _drawn_layers(net: AbstractSized, key: PRNGKeyArray) -> dict[str, Float[Array, "..."]]:
    """Fresh parameters of every layer that makes units, by path: a unit's weights and bias in one draw."""
    leaves = {leaf.path: leaf for leaf in net.structure.leaves}
    keys, layers = jr.split(key, len(net.structure.groups)), dict[int, int]()
    is_leaf = lambda node: is_layer(node) or isinstance(node, Dense)  # noqa: E731
    found = {}
    for path, node in jax.tree_util.tree_leaves_with_path(net, is_leaf=is_leaf):
        name = jax.tree_util.keystr(path)
        leaf = leaves.get(f"{name}.weight") if is_leaf(node) else None
        made = () if leaf is None else sorted(set(leaf.layouts[0].groups()) - leaf.reads[0])
        if not made:
            continue
        place = layers[made[0]] = layers.get(made[0], -1) + 1
        own = jr.fold_in(keys[made[0]], place) if place else keys[made[0]]
        (out, *rest), told = node.weight.shape, getattr(node, "size_weight", None)
        inputs = math.prod(rest)
        bound = 1.0 / jnp.sqrt(jnp.asarray(float(inputs + (told is not None))))
        rows = bound * jr.uniform(own, (out, inputs + 2), minval=-1.0, maxval=1.0)
        found[f"{name}.weight"] = rows[:, :inputs].reshape(node.weight.shape)
        if f"{name}.bias" in leaves and node.bias is not None:  # one that the call reads not stays as it is
            found[f"{name}.bias"] = rows[:, inputs].reshape(node.bias.shape)
        found[f"{name}.size_weight"] = rows[:, inputs + 1]
    return found


def _places_of(leaf: Leaf, chosen: _Chosen, *, is_read: bool) -> np.ndarray:
    """Where a parameter belongs to one of the chosen units, by axes that read or by those that make them."""
    found = np.zeros((1,) * len(leaf.layouts), bool)
    for axis, (layout, reads) in enumerate(zip(leaf.layouts, leaf.reads, strict=True)):
        for group in set(layout.groups()):
            if (group in reads) == is_read:
                own = np.append(chosen[group], False)[groups.owners(layout, group)]
                found = found | np.asarray(groups.on_axis(own, axis, found.ndim))
    return np.broadcast_to(found, [layout.size for layout in leaf.layouts])


def _split(net: AbstractSized, added, noise: float, key) -> Finished:
    full, units, is_new, factors = full_units(net), [], [], []
    norms = _outgoing(net)
    for layer, extra in enumerate(added):
        if extra and not full[layer]:
            raise ValueError(f"`units` cannot be split in {net.group_names[layer]}: none takes part fully.")
        copies, shares = _copies(norms[layer][: full[layer]], extra)
        rest = np.arange(full[layer], net.controller.capacity[layer])
        units.append(np.concatenate([np.arange(full[layer]), copies, rest]))
        factors.append(np.concatenate([shares, np.ones(rest.size)]))
        is_new.append(np.isin(np.arange(units[-1].size), full[layer] + np.arange(extra)))
    edit = Edit.of(units, is_new=is_new, born=added)
    return edit, partial(_with_shares, factors=factors, is_new=tuple(is_new), noise=noise, key=key)


def _with_shares(net: AbstractSized, *, factors, is_new, noise: float, key) -> AbstractSized:
    keys, noised = jr.split(key, len(is_new)) if noise else (), dict[int, int]()

    def shared(leaf: Leaf, array: Array) -> Array:
        made, makes = np.asarray(array), set[int]()
        for axis, (layout, reads) in enumerate(zip(leaf.layouts, leaf.reads, strict=True)):
            makes |= set(layout.groups()) - reads
            if reads:
                own = groups.along_axis(layout, {g: jnp.asarray(factors[g], jnp.float32) for g in reads})
                made = made * np.asarray(groups.on_axis(own, axis, made.ndim))
        if not leaf.is_trained:
            return array if np.array_equal(made, array) else whole_shares(made)
        if noise and makes and not leaf.path.endswith(".size_weight"):
            group = min(makes)
            place = noised[group] = noised.get(group, -1) + 1
            own = jr.split(keys[group], max(2, place + 1))[place]
            drawn = np.asarray(noise * jr.normal(own, made.shape, array.dtype))
            made = np.where(_places_of(leaf, is_new, is_read=False), made + drawn, made)
        return jnp.asarray(made.astype(array.dtype))

    return groups.over_leaves(net, net.structure, shared)


def _outgoing(net: AbstractSized) -> list[Float[np.ndarray, " _units"]]:
    """Norm of the outgoing weights of each unit of each group; along a residual stream, of all that read it."""
    squares = [np.zeros(units) for units in net.controller.capacity]

    def added(leaf: Leaf, array: Array) -> Array:
        for axis, (layout, reads) in enumerate(zip(leaf.layouts, leaf.reads, strict=True)):
            others = tuple(other for other in range(array.ndim) if other != axis)
            own = np.sum(np.asarray(array, float) ** 2, axis=others)
            for group in reads if leaf.is_trained else ():
                owner = groups.owners(layout, group)
                np.add.at(squares[group], owner[owner >= 0], own[owner >= 0])
        return array

    groups.over_leaves(net, net.structure, added)
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
