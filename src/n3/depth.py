"""Depth: how many layers are worth their price, and what a layer that is not open may do meanwhile.

The last open layer is all that the read-out sees. A network of `d` layers is therefore worth what the first
`N_d` units of layer `d` say of the target, less the price of all units up to there,

    value(d) = I_d(first N_d units; target) - sum over l <= d of (price + link_price N_(l-1)) N_l,

where `N_l` is the layer's own best size in sight and each link counts once. Beside the open layers the next one
is in sight. The depth `D` is drawn to the best of these values by the information alone: the task's gradient
would hold a gate halfway.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

RATE = 0.1
"""Layers by which a step moves the depth, for each unit by which it moves a size."""
SHARPNESS = 10.0
"""Pull on the depth for each layer that it is away from the best, up to 1: the last tenth comes slower."""
SHUT = 1e-6
"""Gate up to which a layer counts as shut, and as wholly open if it lacks no more."""


def number_open(gates: Float[Array, " depth"]) -> Int[Array, ""]:
    """Layers that are open at least in part, 1 or more: the first is always open."""
    return jnp.sum(gates > SHUT)


def is_in_sight(gates: Float[Array, " depth"]) -> Bool[Array, " depth"]:
    """Whether each layer is open or the next to open: all that is looked at and trained."""
    return jnp.arange(gates.size) <= number_open(gates)


def is_calm(gates: Float[Array, " depth"]) -> Bool[Array, " depth"]:
    """Whether the units of each layer can change places with the function kept.

    Half-open layers share the places of their units with the layer before, so neither may reorder alone.
    """
    is_settled = (gates <= SHUT) | (gates >= 1.0 - SHUT)
    return is_settled & jnp.append(is_settled[1:], True)


def values(
    gains: Float[Array, " depth"],
    sizes: Float[Array, " depth"],
    price: Float[Array, ""],
    link_price: Float[Array, ""],
) -> Float[Array, " depth"]:
    """What a network of 1, 2, ... layers is worth, nats per sample.

    Args:
        gains: Information of each layer's units about the target, nats.
        sizes: Units of each layer.
        price: Nats per unit.
        link_price: Nats per link of a unit to a unit of the layer before it.
    """
    links = jnp.append(jnp.zeros(1, sizes.dtype), sizes[:-1])
    return gains - jnp.cumsum(sizes * (price + link_price * links))


def best_depth(values: Float[Array, " depth"], gates: Float[Array, " depth"]) -> Float[Array, ""]:
    """`D*`: the number of layers in sight that is worth most, the least of equals."""
    return 1.0 + jnp.argmax(jnp.where(is_in_sight(gates), values, -jnp.inf)).astype(values.dtype)


def pull(depth: Float[Array, ""], best: Float[Array, ""]) -> Float[Array, ""]:
    """The depth's whole gradient, in `[-1, 1]`."""
    return jnp.clip(SHARPNESS * (depth - best), -1.0, 1.0)


def links(sizes: Float[Array, " depth"], gates: Float[Array, " depth"], layer: int) -> Float[Array, ""]:
    """Units of the hidden layers before and after, if any, as far as these are open."""
    near = sizes * gates
    return jnp.sum(near[max(layer - 1, 0) : layer + 2]) - near[layer]
