"""Tiers: a state cut to the units that can take part soon, and put back among all the others.

A unit out of the drive's sight takes no part, is trained by nothing and changes nothing. A run can therefore
be trained with only the first units of each layer, a power of two of them, and comes out the same but for
rounding. What is cut off waits as it is: a unit that was trained before would have coasted on by its moments
meanwhile, which matters only if it comes into sight again.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax import Array
from jaxtyping import PyTree

LEAST = 32
"""Units of a layer that are never cut: below, a further program costs more than it saves (measured)."""


def tier_of(sight: float, capacity: Sequence[int], *, least: int) -> tuple[int, ...]:
    """Units to train with in each layer: the least power of two, from `least` on, that holds all in sight.

    Args:
        sight: Units in sight, in the layer and the run that see most.
        capacity: Units allocated in each hidden layer, which bound the tier.
        least: A power of two.
    """
    tier = least
    while tier < min(sight, max(capacity)):
        tier *= 2
    return tuple(min(tier, units) for units in capacity)


def cut(state: PyTree, like: PyTree) -> PyTree:
    """The first units of a state.

    Args:
        state: The whole.
        like: A state of fewer units: its structure, and the shapes of its leaves.

    Returns:
        A state of that structure. Leaves whose shape changes come back as NumPy arrays.
    """

    def corner(leaf: Array | np.ndarray, shape: tuple[int, ...]) -> Array | np.ndarray:
        return leaf if leaf.shape == shape else np.asarray(leaf)[tuple(map(slice, shape))]

    leaves, smaller = jax.tree.leaves(state), jax.tree.leaves(like)
    cuts = [corner(leaf, own.shape) for leaf, own in zip(leaves, smaller, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(like), cuts)


def put_back(part: PyTree, whole: PyTree) -> PyTree:
    """The whole state with its first units as they are in a part of it: what `cut` undoes."""

    def filled(own: Array | np.ndarray, leaf: Array | np.ndarray) -> Array | np.ndarray:
        if own.shape == leaf.shape:
            return own
        new = np.array(leaf)
        new[tuple(map(slice, own.shape))] = own
        return new

    leaves, all_leaves = jax.tree.leaves(part), jax.tree.leaves(whole)
    news = [filled(own, leaf) for own, leaf in zip(leaves, all_leaves, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(whole), news)
