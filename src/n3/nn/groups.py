"""Structure: which parameters of a model belong to which groups of channels, and what follows from it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

_T = TypeVar("_T")


@dataclass(frozen=True)
class Layout:
    """Where the units of each group lie along an axis: an expression that outlives the dimensions.

    Either a fixed number of places, or the units of a group, or a product or a sum of other layouts.
    """

    size: int
    role: str = ""
    """Of fixed places: `position`, `input` or nothing, as in `Dimension`."""
    group: int = -1
    """Of units: their group; -1 for everything else."""
    parts: "tuple[Layout, ...]" = ()
    is_sum: bool = False

    def fold(
        self, leaf: "Callable[[Layout], _T]", times: Callable[[_T, _T], _T], total: Callable[[Sequence[_T]], _T]
    ) -> _T:
        """Value of the expression, given those of its leaves and what product and sum make of their parts."""
        if not self.parts:
            return leaf(self)
        values = [part.fold(leaf, times, total) for part in self.parts]
        return total(values) if self.is_sum else reduce(times, values)

    def groups(self) -> Iterator[int]:
        """Groups whose units lie along the axis."""
        if self.group >= 0:
            yield self.group
        for part in self.parts:
            yield from part.groups()

    def resized(self, capacity: Sequence[int]) -> "Layout":
        """The same layout of groups of other capacity."""
        if not self.parts:
            return replace(self, size=capacity[self.group]) if self.group >= 0 else self
        parts = tuple(part.resized(capacity) for part in self.parts)
        sizes = [part.size for part in parts]
        return replace(self, size=sum(sizes) if self.is_sum else math.prod(sizes), parts=parts)


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
    taps: tuple[Tap, ...] = ()
    """One for each group of a model that was traced."""
    example: tuple[tuple[tuple[int, ...], Any], ...] = ()
    """Shape and data type of each input of one sample."""

    @property
    def capacity(self) -> tuple[int, ...]:
        """Units of each group."""
        return tuple(group.units for group in self.groups)

    def within(self, field: str) -> "Structure":
        """The structure of a module that has the model as a field of this name."""
        leaves = tuple(replace(leaf, path=f".{field}{leaf.path}") for leaf in self.leaves)
        return replace(self, leaves=leaves)

    def resized(self, capacity: Sequence[int]) -> "Structure":
        """The same structure with other numbers of units."""
        pairs = zip(self.groups, capacity, strict=True)
        groups = tuple(replace(group, units=units) for group, units in pairs)
        layouts = [tuple(own.resized(capacity) for own in leaf.layouts) for leaf in self.leaves]
        leaves = tuple(replace(leaf, layouts=own) for leaf, own in zip(self.leaves, layouts, strict=True))
        taps = tuple(replace(tap, layout=tap.layout.resized(capacity)) for tap in self.taps)
        return replace(self, groups=groups, leaves=leaves, taps=taps)


Participation = Sequence[Float[Array, " _units"]]
"""Of the units of each group, in `[0, 1]`."""
_Indices = Int[Array | np.ndarray, " _units"]


def masked(model: PyTree, structure: Structure, participation: Participation) -> PyTree:
    """The model with the parameters that read a group multiplied by its units' participation.

    Every reader of a channel sees it multiplied by its participation, after all activations, norms and pooling.
    """

    def scaled(leaf: Leaf, array: Array) -> Array:
        for axis, (layout, reads) in enumerate(zip(leaf.layouts, leaf.reads, strict=True)):
            if reads:
                own = along_axis(layout, {group: participation[group] for group in reads})
                own = own.astype(array.dtype) if leaf.is_trained else own
                array = array.astype(own.dtype) * on_axis(own, axis, array.ndim)
        return array

    return over_leaves(model, structure, scaled)


def gathered(tree: PyTree, structure: Structure, units: Sequence[Int[np.ndarray, " _units"]]) -> PyTree:
    """A model, or its moments, with other units in its groups; on the host, where no shape is compiled for.

    `units` has for each group the old index of the unit at each place; -1: a unit of zeros.
    """
    return over_leaves(tree, structure, lambda leaf, array: gathered_leaf(leaf, array, units))


def gathered_leaf(leaf: Leaf, array: Array, units: Sequence[Int[np.ndarray, " _units"]]) -> Array:
    """One parameter, or its moment, as of `gathered`."""
    found = [_places(layout, dict(enumerate(units))) for layout in leaf.layouts]
    made = np.zeros([own.size for own in found], array.dtype)
    there = np.ix_(*(np.flatnonzero(own >= 0) for own in found))
    made[there] = np.asarray(array)[np.ix_(*(own[own >= 0] for own in found))]
    return jnp.asarray(made)


def permuted(tree: PyTree, structure: Structure, orders: Sequence[Int[Array, " _units"]]) -> PyTree:
    """A model, or its moments, with the units of its groups in another order: the same function.

    `orders` has for each group the old index of the unit at each place.
    """
    chosen = dict(enumerate(orders))

    def reordered(leaf: Leaf, array: Array) -> Array:
        for axis, layout in enumerate(leaf.layouts):
            if set(layout.groups()):
                array = jnp.take(array, _places(layout, chosen), axis=axis)
        return array

    return over_leaves(tree, structure, reordered)


def made_by(gradient: PyTree, structure: Structure, shares: Participation) -> PyTree:
    """A gradient of the parameters that make units, each times its unit's share; zero for all others."""

    def own(leaf: Leaf, array: Array) -> Array:
        total = jnp.zeros_like(array)
        for axis, (layout, reads) in enumerate(zip(leaf.layouts, leaf.reads, strict=True)):
            for group in set(layout.groups()) - reads:
                share = jnp.append(shares[group], 0.0)[owners(layout, group)].astype(array.dtype)
                share = on_axis(share, axis, array.ndim)
                total += jnp.where(share > 0, array * share, 0.0)
        return total

    return over_leaves(jax.tree.map(jnp.zeros_like, gradient), structure, own, source=gradient)


def parameter_count(
    structure: Structure, sizes: Float[Array, " groups"], inputs: Float[Array, ""] | None = None
) -> Float[Array, ""]:
    """Parameters of all that belongs to groups of given sizes; with effective `inputs`, the effective ones.

    Of `n` positions of an image or a kernel, strongly correlated, `sqrt(n)` count then.
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
    owner = owners(tap.layout, group)
    is_own = owner[None, :] == np.arange(owner.max() + 1)[:, None]
    means = jnp.mean(jnp.moveaxis(value, tap.axis, -1).reshape(-1, owner.size), axis=0)
    return jnp.asarray(is_own / is_own.sum(1, keepdims=True), means.dtype) @ means


def along_axis(layout: Layout, masks: Mapping[int, Array]) -> Float[Array, " places"]:
    """The values of a place's units multiplied, at every place of an axis; 1 where there are none."""
    own = lambda part: masks[part.group] if part.group in masks else jnp.ones(part.size)  # noqa: E731
    return layout.fold(own, lambda a, b: (a[:, None] * b[None, :]).reshape(-1), jnp.concatenate)


def owners(layout: Layout, group: int) -> Int[np.ndarray, " places"]:
    """The unit of a group at each place of an axis; -1 at those of others."""
    own = lambda part: np.arange(part.size) if part.group == group else np.full(part.size, -1)  # noqa: E731
    return layout.fold(own, lambda a, b: np.maximum(a[:, None], b[None, :]).reshape(-1), np.concatenate)


def _places(layout: Layout, units: Mapping[int, _Indices]) -> _Indices:
    """Old place of what stands at each place of an axis, the units of its groups chosen; -1 for none."""

    def joined(left, right):
        (ours, size), (theirs, other) = left, right
        is_there = (ours[:, None] >= 0) & (theirs[None] >= 0)
        return xp.where(is_there, ours[:, None] * other + theirs[None], -1).reshape(-1), size * other

    def chained(parts):
        starts = np.cumsum([0, *(size for _, size in parts)])
        places = [xp.where(own >= 0, start + own, -1) for start, (own, _) in zip(starts, parts, strict=False)]
        return xp.concatenate(places), int(starts[-1])

    def own(part):
        return units.get(part.group, np.arange(part.size)), part.size

    xp = np if all(isinstance(units[group], np.ndarray) for group in layout.groups()) else jnp
    return layout.fold(own, joined, chained)[0]


def on_axis(values: Array | np.ndarray, axis: int, rank: int) -> Array | np.ndarray:
    """Values along one axis of an array of so many, ready to be multiplied with it."""
    return values.reshape([-1 if a == axis else 1 for a in range(rank)])


def over_leaves(
    tree: PyTree, structure: Structure, change: Callable[[Leaf, Array], Array], *, source: PyTree = None
) -> PyTree:
    """A model, or a tree of its form that may lack leaves, with the leaves of a structure changed.

    The arrays to change come from `source`, another such tree; None: from the tree itself.
    """
    leaves = {leaf.path: leaf for leaf in structure.leaves}

    def changed(path: Any, array: Any, other: Any) -> Any:
        name = jax.tree_util.keystr(path)
        return change(leaves[name], other) if name in leaves else array

    return jax.tree_util.tree_map_with_path(changed, tree, tree if source is None else source)
