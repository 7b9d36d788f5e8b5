"""Optimiser state: what an optimiser keeps of every parameter follows it through a change of shape."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from n3.nn.groups import gathered_leaf
from n3.nn.sized import AbstractSized

MOMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "TraceState": ("trace",),
        "EmaState": ("ema",),
        **dict.fromkeys(("ScaleByAdamState", "ScaleByBeliefState", "SophiaState"), ("mu", "nu")),
        "ScaleByAmsgradState": ("mu", "nu", "nu_max"),
        **dict.fromkeys(("ScaleByLionState", "MuonState"), ("mu",)),
        **dict.fromkeys(("ScaleByRmsState", "ScaleByRmsWithCountState"), ("nu",)),
        **dict.fromkeys(("ScaleByRStdDevState", "ScaleByRStdDevWithCountState"), ("mu", "nu")),
        "ScaleByRssState": ("sum_of_squares",),
        "ScaleByAdaDeltaState": ("e_g", "e_x"),
        "ScaleByAdanState": ("m", "v", "n", "g"),
        "ScaleByAdemamixState": ("m1", "m2", "nu"),
        "ApplyEvery": ("grad_acc",),
        "MultiStepsState": ("acc_grads",),
        "ProdigyState": ("exp_avg", "exp_avg_sq", "grad_sum"),
    }
)
"""Fields of Optax's states that hold averages over steps: zero for a parameter without a past."""
COPIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"ScheduleFreeState": ("z",), "ProdigyState": ("params0",)}
)
"""Fields that hold other values of the parameters themselves: changed as the parameters are."""
Change = Callable[[PyTree, bool], PyTree]
"""From a tree of the parameters' form, and whether it is a copy of them, to the tree afterwards."""


def carried(state: PyTree, model: eqx.Module, change: Change) -> PyTree:
    """The state with every tree of the parameters' form changed.

    The state is made of `eqx.filter(model, eqx.is_inexact_array)`, or of trees of that form alone, which count
    as averages; None: nothing.

    Raises:
        ValueError: If the state is not of this model, or holds what cannot be carried, naming it.
    """
    parameters = eqx.filter(model, eqx.is_inexact_array)
    shapes = [leaf.shape for leaf in jax.tree.leaves(parameters)]
    ravelled = (sum(leaf.size for leaf in jax.tree.leaves(parameters)),)

    def within(node: PyTree, place: str, is_copy: bool | None) -> PyTree:
        if type(node) is type(model):
            if is_copy is None:
                text = f"whether `{place}` holds averages or parameters is not known"
                raise ValueError(f"`state` cannot be carried: {text}.")
            _check(node, parameters, shapes, place)
            return change(node, is_copy)
        if eqx.is_array(node) and node.shape == ravelled and len(shapes) > 1:
            raise ValueError(f"`state` cannot be carried: `{place}` holds all parameters as one array.")
        if not jax.tree.leaves(node) or jax.tree_util.all_leaves([node]):
            return node
        names: tuple[str, ...] | None = getattr(node, "_fields", None)
        if names is not None:
            return type(node)(*(within(own, *_kept(node, name)) for name, own in zip(names, node, strict=True)))
        inner = lambda own: within(own, place, is_copy)  # noqa: E731
        return jax.tree.map(inner, node, is_leaf=lambda own: own is not node)

    return within(state, "state", False)


def moved_leaves(tree: PyTree, before: AbstractSized, after: eqx.Module, units: Sequence[np.ndarray]) -> PyTree:
    """A tree of the form of one sized model, `before`, in that of another: every leaf by its path.

    `units` has for each group the old index of the unit at each place; -1: a unit of zeros. Paths that only the
    new form has are zeros.
    """
    leaves = {leaf.path: leaf for leaf in before.structure.leaves}
    old, structure = jax.tree_util.tree_flatten_with_path(eqx.filter(before, eqx.is_inexact_array))
    paths = [jax.tree_util.keystr(path) for path, _ in old]
    parts = dict(zip(paths, structure.flatten_up_to(tree), strict=True))

    def moved(place: Any, like: Array) -> PyTree:
        path = jax.tree_util.keystr(place)
        own = parts.get(path)
        if own is None:
            return jnp.zeros_like(like)
        return gathered_leaf(leaves[path], own, units) if path in leaves and eqx.is_array(own) else own

    return jax.tree_util.tree_map_with_path(moved, eqx.filter(after, eqx.is_inexact_array))


def _kept(node: Any, name: str) -> tuple[str, bool | None]:
    """Where a field of one of Optax's states stands, and whether it holds copies of the parameters."""
    kind, place = type(node).__name__, f"{type(node).__name__}.{name}"
    if name in COPIES.get(kind, ()):
        return place, True
    is_known = type(node).__module__.startswith("optax") and name in MOMENTS.get(kind, ())
    return place, False if is_known else None


def _check(node: PyTree, parameters: PyTree, shapes: list[tuple[int, ...]], place: str) -> None:
    """Refuse a tree that is not of the parameters' form; a masked leaf may be missing."""
    try:
        parts = jax.tree.structure(parameters).flatten_up_to(node)
    except ValueError as error:
        text = f"`{place}` is not of the form of its trainable arrays ({error})"
        raise ValueError(f"`state` must belong to `net`: {text}.") from error
    for part, shape in zip(parts, shapes, strict=True):
        own = getattr(part, "shape", None)
        if not isinstance(part, optax.MaskedNode) and own != shape:
            text = f"`{place}` holds shape {own} for a parameter of shape {shape}, or something other"
            raise ValueError(f"`state` must belong to `net`: {text} than a number for each.")
