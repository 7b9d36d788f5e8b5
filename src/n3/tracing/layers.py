"""Layers: what can be grown, and how a layer is told the sizes that its arrays have."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from n3.nn.norms import ParticipatingNorm

LAYERS = (eqx.nn.Linear, eqx.nn.Conv, eqx.nn.ConvTranspose)
"""Layers whose output channels, the first axis of their `weight`, can be grown."""


def is_layer(node: PyTree) -> bool:
    """Whether a node of a model is a layer that can be grown."""
    return isinstance(node, LAYERS)


def layers_in(model: PyTree) -> dict[str, eqx.Module]:
    """Every layer of `LAYERS` in a model, by its path."""
    nodes = jax.tree_util.tree_leaves_with_path(model, is_leaf=is_layer)
    return {jax.tree_util.keystr(path): node for path, node in nodes if is_layer(node)}


def with_true_sizes(model: PyTree) -> PyTree:
    """The model with every layer and norm told the sizes of its arrays."""

    def resized(node: PyTree) -> PyTree:
        if isinstance(node, ParticipatingNorm):
            return ParticipatingNorm(_with_fields(node.norm, _sizes_of_norm(node)), node.share)
        return _with_fields(node, _sizes_of_layer(node)) if is_layer(node) else node

    return jax.tree.map(resized, model, is_leaf=lambda node: isinstance(node, (*LAYERS, ParticipatingNorm)))


def _sizes_of_layer(layer: Any) -> dict[str, Any]:
    out, into = layer.weight.shape[:2]
    if isinstance(layer, eqx.nn.Linear):
        sizes = {"out_features": out, "in_features": into}
        return {name: size for name, size in sizes.items() if getattr(layer, name) != "scalar"}
    groups = out if layer.groups == layer.out_channels > 1 else layer.groups
    return {"out_channels": out, "in_channels": into * groups, "groups": groups}


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
