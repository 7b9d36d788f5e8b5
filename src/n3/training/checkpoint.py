"""Checkpoint: trees of arrays as safetensors, named by their paths and checked when they come back."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
import safetensors
import safetensors.numpy


def to_bytes(tree: Any) -> bytes:
    """The arrays of a tree in the safetensors format, each under its path.

    Args:
        tree: Any tree; what is not an array is left out, since `from_bytes` takes it from a like tree.

    Returns:
        Content for a file; reading it executes nothing.
    """
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    named = {jax.tree_util.keystr(path): np.asarray(leaf, order="C") for path, leaf in leaves}
    return safetensors.numpy.save(named)


def from_bytes(content: bytes, like: Any, *, source: str) -> Any:
    """The tree that `to_bytes` stored.

    Args:
        content: What `to_bytes` returned.
        like: A tree of the same structure, with arrays or shapes (`jax.ShapeDtypeStruct`) as leaves.
        source: What to call the content in an error, a file's name for example.

    Returns:
        The tree, with the stored arrays and the other leaves of `like`.

    Raises:
        ValueError: If the content is not safetensors, or a name, shape or type differs from `like`'s.
    """
    try:
        stored = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{source} is damaged or not safetensors: {error}.") from error
    shaped, others = eqx.partition(like, lambda leaf: hasattr(leaf, "shape"))
    leaves, structure = jax.tree_util.tree_flatten_with_path(shaped)
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    if set(names) != set(stored):
        odd = sorted(set(names) ^ set(stored))
        raise ValueError(f"{source} does not hold this network: {odd[0]} is missing or not expected.")
    for name, (_, leaf) in zip(names, leaves, strict=True):
        if stored[name].shape != leaf.shape or stored[name].dtype != leaf.dtype:
            found, expected = stored[name], leaf
            raise ValueError(
                f"{source}: {name} is {found.dtype}{found.shape}; expected {expected.dtype}{expected.shape}."
            )
    arrays = jax.tree_util.tree_unflatten(structure, [jax.numpy.asarray(stored[name]) for name in names])
    return eqx.combine(arrays, others)
