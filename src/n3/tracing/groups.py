"""Structure: which parameters of a model belong to which groups of channels, and what follows from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from n3.nn.masks import PRESENT
from n3.tracing.axes import Layout


@dataclass(frozen=True)
class Group:
    """Channels that come and go together, since layers that are added to each other share them."""

    layers: tuple[str, ...]
    """Paths of the layers that make them, in the order of the model's fields."""
    units: int
    """Channels, or blocks of them where an operation binds channels in blocks (the groups of a norm)."""


@dataclass(frozen=True)
class Leaf:
    """A parameter that has units of groups along some axes."""

    path: str
    layouts: tuple[Layout, ...]
    reads: tuple[frozenset[int], ...]
    """For each axis the groups whose participation multiplies the parameter."""
    is_trained: bool


@dataclass(frozen=True)
class Tap:
    """Where a group's units can be seen as their last reader sees them: an axis of an operand."""

    place: int
    """Number of the operation among those of the program that sum."""
    operand: int
    axis: int
    layout: Layout


@dataclass(frozen=True)
class Structure:
    """What of a model belongs to which group; hashable, static under `jit`."""

    groups: tuple[Group, ...]
    leaves: tuple[Leaf, ...]
    taps: tuple[Tap, ...]
    """One for each group."""
    example: tuple[tuple[tuple[int, ...], Any], ...]
    """Shape and data type of each input of one sample."""

    @property
    def capacity(self) -> tuple[int, ...]:
        """Units of each group."""
        return tuple(group.units for group in self.groups)


Participation = Sequence[Float[Array, " _units"]]
"""Of the units of each group, in `[0, 1]`."""


def masked(model: PyTree, structure: Structure, participation: Participation) -> PyTree:
    """The model with the parameters that read a group multiplied by its units' participation.

    Every reader of a channel sees it multiplied by its participation, after all activations, norms and pooling.
    """

    def scaled(leaf: Leaf, array: Array) -> Array:
        for axis, (layout, reads) in enumerate(zip(leaf.layouts, leaf.reads, strict=True)):
            if reads:
                own = along_axis(layout, {group: participation[group] for group in reads})
                own = own.astype(array.dtype) if leaf.is_trained else own
                array = array.astype(own.dtype) * _on_axis(own, axis, array.ndim)
        return array

    return _mapped(model, structure, scaled)


def cut(model: PyTree, structure: Structure, participation: Participation) -> PyTree:
    """The masked model without the units that do not take part; of a group with none, one stays.

    Only arrays change: modules keep the sizes that they were told.
    """
    kept = {}
    for group, mask in enumerate(participation):
        is_in = np.asarray(mask) >= PRESENT
        kept[group] = is_in if is_in.any() else np.arange(is_in.size) == 0

    def shortened(leaf: Leaf, array: Array) -> Array:
        short = np.asarray(array)
        for axis, layout in enumerate(leaf.layouts):
            is_kept = layout.fold(
                lambda part: kept.get(part.group, np.ones(part.size, bool)),
                lambda a, b: (a[:, None] & b[None, :]).reshape(-1),
                np.concatenate,
            )
            short = np.compress(is_kept, short, axis=axis)
        return jnp.asarray(short)

    return _mapped(masked(model, structure, participation), structure, shortened)


def permute_channels(tree: PyTree, structure: Structure, group: int, order: Int[Array, " units"]) -> PyTree:
    """A model, or its moments, with the units of a group in another order: the same function.

    Args:
        tree: The model, or a tree of the same form that may lack some of its leaves.
        structure: Of the model.
        group: Number of the group.
        order: Old index of the unit at each place.
    """

    def reordered(leaf: Leaf, array: Array) -> Array:
        for axis, layout in enumerate(leaf.layouts):
            if group in layout.groups():
                array = jnp.take(array, _places(layout, group, order), axis=axis)
        return array

    return _mapped(tree, structure, reordered)


def made_by(gradient: PyTree, structure: Structure, shares: Participation) -> PyTree:
    """A gradient of the parameters that make units, each times its unit's share; zero for all others."""

    def own(leaf: Leaf, array: Array) -> Array:
        total = jnp.zeros_like(array)
        for axis, (layout, reads) in enumerate(zip(leaf.layouts, leaf.reads, strict=True)):
            for group in set(layout.groups()) - reads:
                share = jnp.append(shares[group], 0.0)[_owners(layout, group)].astype(array.dtype)
                total += array * _on_axis(share, axis, array.ndim)
        return total

    return _mapped(jax.tree.map(jnp.zeros_like, gradient), structure, own, source=gradient)


def parameter_count(
    structure: Structure, sizes: Float[Array, " groups"], inputs: Float[Array, ""] | None = None
) -> Float[Array, ""]:
    """Parameters of all that belongs to groups, each, or what is strongly correlated counted once.

    Args:
        structure: Of a model.
        sizes: Effective units of each group.
        inputs: Effective inputs of the model, where effective parameters count: of `n` positions of an image or
            a kernel then `sqrt(n)`. None: every parameter counts.
    """

    def count(part: Layout) -> Array | float:
        if part.group >= 0:
            return sizes[part.group]
        if inputs is None or part.role not in ("input", "position"):
            return float(part.size)
        return jnp.minimum(inputs, float(part.size)) if part.role == "input" else part.size**0.5

    total = jnp.zeros((), sizes.dtype)
    for leaf in structure.leaves:
        number = jnp.full((), float(leaf.is_trained), sizes.dtype)
        for layout in leaf.layouts:
            number = number * layout.fold(count, lambda a, b: a * b, sum)
        total += number
    return total


def mean_of_units(value: Array, tap: Tap, group: int) -> Float[Array, " units"]:
    """Mean of each unit of a group over everything else in the array that a tap shows."""
    owners = _owners(tap.layout, group)
    is_own = owners[None, :] == np.arange(owners.max() + 1)[:, None]
    means = jnp.mean(jnp.moveaxis(value, tap.axis, -1).reshape(-1, owners.size), axis=0)
    return jnp.asarray(is_own / is_own.sum(1, keepdims=True), means.dtype) @ means


def along_axis(layout: Layout, masks: Mapping[int, Array]) -> Float[Array, " places"]:
    """The values of a place's units multiplied, at every place of an axis; 1 where there are none."""
    return layout.fold(
        lambda part: masks[part.group] if part.group in masks else jnp.ones(part.size),
        lambda a, b: (a[:, None] * b[None, :]).reshape(-1),
        jnp.concatenate,
    )


def _owners(layout: Layout, group: int) -> Int[np.ndarray, " places"]:
    """The unit of a group at each place of an axis; -1 at those of others."""
    return layout.fold(
        lambda part: np.arange(part.size) if part.group == group else np.full(part.size, -1),
        lambda a, b: np.maximum(a[:, None], b[None, :]).reshape(-1),
        np.concatenate,
    )


def _places(layout: Layout, group: int, order: Int[Array, " units"]) -> Int[Array, " places"]:
    """Old place of what a permutation of a group's units puts at each place of an axis."""

    def chained(parts: Sequence[Array]) -> Array:
        starts = np.cumsum([0, *(part.size for part in parts[:-1])])
        return jnp.concatenate([start + part for start, part in zip(starts, parts, strict=True)])

    return layout.fold(
        lambda part: order if part.group == group else jnp.arange(part.size),
        lambda a, b: (a[:, None] * b.size + b[None, :]).reshape(-1),
        chained,
    )


def _on_axis(values: Array, axis: int, rank: int) -> Array:
    return values.reshape([-1 if a == axis else 1 for a in range(rank)])


def _mapped(
    tree: PyTree, structure: Structure, change: Callable[[Leaf, Array], Array], *, source: PyTree = None
) -> PyTree:
    """A tree with the leaves of a structure changed: from those of another tree, or from its own."""
    leaves = {leaf.path: leaf for leaf in structure.leaves}

    def changed(path: Any, array: Any, other: Any) -> Any:
        name = jax.tree_util.keystr(path)
        return change(leaves[name], other) if name in leaves else array

    return jax.tree_util.tree_map_with_path(changed, tree, tree if source is None else source)
