"""Births: units about to take part are trained to add information, since a random one promises little."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from n3.information import gaussian
from n3.information.terms import masked_channel
from n3.nn.losses import Samples, mean_squares
from n3.nn.mlp import GrowingMLP


def added(
    gradient: GrowingMLP,
    net: GrowingMLP,
    samples: Samples,
    *,
    look_ahead: int,
    weight: Float[Array, ""],
    prior: Float[Array, ""],
    is_classes: bool,
) -> GrowingMLP:
    """A gradient with that of the birth term, for the units not yet born alone.

    Args:
        gradient: What to add to.
        net: The network.
        samples: Training samples.
        look_ahead: Units in sight beyond those that take part.
        weight: Weight of the information of all units in sight, loss units per nat.
        prior: Weight of the description of their weights, beside that information.
        is_classes: Whether the targets are classes.
    """
    born = jnp.floor(net.controller.sizes())
    ends = born + look_ahead + 1
    spreads = [jnp.maximum(square, 1.0) for square, _ in mean_squares(net)]

    def term(n: GrowingMLP) -> Float[Array, ""]:
        promised = jnp.zeros(())
        for layer, active in enumerate(n.activations(samples.inputs)):
            index = jnp.arange(active.shape[0], dtype=active.dtype)
            ahead = (index < ends[layer]).astype(active.dtype)
            channel = masked_channel(active, samples.targets, ahead, is_classes=is_classes)
            described = jnp.sum(ahead @ n.layers[layer].weight ** 2) / (2.0 * spreads[layer])
            promised += gaussian.gaussian_information(channel) - prior * described
        return -weight * promised

    unborn = eqx.filter_grad(term)(net).layers
    unborn = tuple(_between(rows, *limits) for rows, *limits in zip(unborn, born, ends, strict=True))
    return eqx.tree_at(lambda g: g.layers, gradient, jax.tree.map(jnp.add, gradient.layers, unborn))


def _between(rows: PyTree, born: Float[Array, ""], end: Float[Array, ""]) -> PyTree:
    """The leaves with zeros but for the units not yet born and in sight: Adam makes a step of any rest."""

    def cut(leaf: Array) -> Array:
        index = jnp.arange(leaf.shape[0], dtype=born.dtype)
        kept = (index >= born) & (index < end)
        return jnp.where(kept.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0.0)

    return jax.tree.map(cut, rows)
