"""Reduction: a model without the channels that do not take part: same class, same outputs, smaller layers."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from n3.nn import norms
from n3.tracing.groups import Participation, Structure, cut, masked
from n3.tracing.program import takes_key
from n3.tracing.trace import LAYERS


def smaller(model: PyTree, found: Structure, participation: Participation) -> PyTree:
    """A model without the units whose participation is zero; of a group without any, one stays.

    Args:
        model: A model whose norms count participation.
        found: Its structure.
        participation: Of the units of each group; known numbers, since shapes change.

    Returns:
        Equinox's own layers and norms, with the sizes that they have now. A norm of which a channel takes part
        partly stays a `ParticipatingNorm`.
    """

    def is_leaf(node: PyTree) -> bool:
        return isinstance(node, (*LAYERS, norms.ParticipatingNorm))

    resized = jax.tree.map(_resized, cut(model, found, participation), is_leaf=is_leaf)
    return norms.simplified(resized)


def check(model: PyTree, found: Structure, *, key: PRNGKeyArray) -> None:
    """Make a smaller copy, about half of each group, and compare its outputs on a drawn sample.

    Args:
        model: A model whose norms count participation.
        found: Its structure.
        key: For the sample: normal numbers, or zeros and ones where the input is of whole numbers.

    Raises:
        ValueError: If the copy fails or differs, naming the layer and what happened.
    """
    halves = [_half(units) for units in found.capacity]
    if _difference(model, found, halves, key=key) is None:
        return
    for number, group in enumerate(found.groups):
        one = [half if n == number else jnp.ones_like(half) for n, half in enumerate(halves)]
        reason = _difference(model, found, one, key=key)
        if reason is not None:
            raise ValueError(f"`where` must leave out layer {group.layers[0]}: with fewer channels {reason}.")
    layers = ", ".join(group.layers[0] for group in found.groups)
    raise ValueError(f"`where` must leave out one of {layers}: they can be grown one by one, but not together.")


def _half(units: int) -> Array:
    """About half of the units, the last of them in part."""
    number = max(units // 2, 1)
    return jnp.clip(number - 0.5 - jnp.arange(units, dtype=jnp.float32), 0.0, 1.0)


def _difference(
    model: PyTree, found: Structure, participation: Participation, *, key: PRNGKeyArray
) -> str | None:
    """What is wrong with a smaller copy; None if nothing."""
    inputs = [_drawn(shape, dtype, jr.fold_in(key, n)) for n, (shape, dtype) in enumerate(found.example)]
    options = {"key": key} if takes_key(model) else {}
    call = eqx.filter_jit(lambda own: own(*inputs, **options))
    model = eqx.nn.inference_mode(model)
    try:
        with jax.default_matmul_precision("highest"):
            expected = call(masked(model, found, participation))
            outputs = call(smaller(model, found, participation))
    except (TypeError, ValueError) as error:  # what JAX and Equinox raise where shapes do not fit
        return f"its call fails: {str(error).strip().splitlines()[0]}"
    pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(outputs), strict=True)
    differences = [_distance(np.asarray(whole), np.asarray(own)) for whole, own in pairs if eqx.is_array(whole)]
    return next((each for each in differences if each), None)


def _distance(expected: np.ndarray, output: np.ndarray) -> str | None:
    if expected.shape != output.shape:
        return f"the output has shape {output.shape} in place of {expected.shape}"
    scale = np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected))
    tolerance = (
        float(jnp.finfo(expected.dtype).eps) ** 0.6 if jnp.issubdtype(expected.dtype, jnp.inexact) else 0.0
    )
    if np.allclose(output, expected, rtol=0.0, atol=tolerance * scale, equal_nan=True):
        return None
    return f"the outputs differ by {np.max(np.abs(output - expected)):.1e}, of {scale:.1e}"


def _drawn(shape: tuple[int, ...], dtype: Any, key: PRNGKeyArray) -> Array:
    is_real = jnp.issubdtype(dtype, jnp.floating)
    return jr.normal(key, shape, dtype) if is_real else jr.bernoulli(key, shape=shape).astype(dtype)


def _resized(node: PyTree) -> PyTree:
    """A layer or a norm that is told the sizes of its arrays."""
    if isinstance(node, eqx.nn.Linear):
        out, into = node.weight.shape
        sizes = {"out_features": out, "in_features": into}
        return _told(node, {name: size for name, size in sizes.items() if getattr(node, name) != "scalar"})
    if isinstance(node, (eqx.nn.Conv, eqx.nn.ConvTranspose)):
        out, into = node.weight.shape[:2]
        groups = out if node.groups == node.out_channels > 1 else node.groups
        return _told(node, {"out_channels": out, "in_channels": into * groups, "groups": groups})
    if not isinstance(node, norms.ParticipatingNorm):
        return node
    norm, shape = node.norm, node.share.shape
    if isinstance(norm, eqx.nn.GroupNorm):
        groups = 1 if norm.groups == 1 else shape[0] * norm.groups // (norm.channels or 1)
        norm = _told(norm, {"groups": groups, "channels": shape[0]})
    else:
        norm = _told(norm, {"shape": shape})
    return norms.ParticipatingNorm(norm, node.share, is_final=True)


def _told(module: eqx.Module, sizes: dict[str, Any]) -> eqx.Module:
    """A copy of a module with other static fields; calling its class would draw weights."""
    copy = object.__new__(type(module))
    for field in dataclasses.fields(module):
        object.__setattr__(copy, field.name, sizes.get(field.name, getattr(module, field.name)))
    return copy
