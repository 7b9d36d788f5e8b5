"""Layers: what can be grown, and how a layer is told the sizes that its arrays have."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from n3.nn.norms import ParticipatingNorm


def _sizes_of_linear(layer: eqx.nn.Linear) -> dict[str, Any]:
    sizes = zip(("out_features", "in_features"), layer.weight.shape, strict=True)
    return {name: size for name, size in sizes if getattr(layer, name) != "scalar"}


def _sizes_of_convolution(layer: eqx.nn.Conv | eqx.nn.ConvTranspose) -> dict[str, Any]:
    out, into = layer.weight.shape[:2]
    groups = out if layer.groups == layer.out_channels > 1 else layer.groups
    return {"out_channels": out, "in_channels": into * groups, "groups": groups}


LAYERS: Mapping[type[eqx.Module], Callable[[Any], dict[str, Any]]] = MappingProxyType(
    {
        eqx.nn.Linear: _sizes_of_linear,
        eqx.nn.Conv: _sizes_of_convolution,
        eqx.nn.ConvTranspose: _sizes_of_convolution,
    }
)
"""Layers whose output channels, the first axis of their `weight`, can be grown; and the fields that say how
large a layer is, as its arrays have it."""


def is_layer(node: PyTree) -> bool:
    """Whether a node of a model is a layer that can be grown."""
    return isinstance(node, tuple(LAYERS))


def layers_in(model: PyTree) -> dict[str, eqx.Module]:
    """Every layer of `LAYERS` in a model, by its path."""
    nodes = jax.tree_util.tree_leaves_with_path(model, is_leaf=is_layer)
    return {jax.tree_util.keystr(path): node for path, node in nodes if is_layer(node)}


def with_true_sizes(model: PyTree) -> PyTree:
    """The model with every layer and norm told the sizes of its arrays."""

    def resized(node: PyTree) -> PyTree:
        if isinstance(node, ParticipatingNorm):
            return ParticipatingNorm(_with_fields(node.norm, _sizes_of_norm(node)), node.share)
        kind = next((kind for kind in LAYERS if isinstance(node, kind)), None)
        return node if kind is None else _with_fields(node, LAYERS[kind](node))

    return jax.tree.map(resized, model, is_leaf=lambda n: is_layer(n) or isinstance(n, ParticipatingNorm))


def _sizes_of_norm(node: ParticipatingNorm) -> dict[str, Any]:
    norm, shape = node.norm, node.share.shape
    if not isinstance(norm, eqx.nn.GroupNorm):
        return {"shape": shape}
    groups = 1 if norm.groups == 1 else shape[0] * norm.groups // (norm.channels or 1)
    return {"groups": groups, "channels": shape[0]}


def _with_fields(module: eqx.Module, sizes: dict[str, Any]) -> eqx.Module:
    """A copy of a module with other static fields; calling its class would draw weights."""
    copy = object.__new__(type(module))
    for field in dataclasses.fields(module):
        object.__setattr__(copy, field.name, sizes.get(field.name, getattr(module, field.name)))
    return copy
