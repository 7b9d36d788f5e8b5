"""Depth: how many layers are worth their price, by the information that the last of them has.

The last open layer is all that the read-out sees. A network of `d` layers is therefore worth what the first
`N_d` units of layer `d` say of the target, less the price of all units up to there,

    value(d) = I_d(first N_d units; target) - price of the units of layers 1 ... d,

where `N_l` is the layer's own best size in sight. All layers are open at first, and those that are not worth
their price close once births are over: seen from a single layer, which has grown as wide as the task needs, a
second one never pays (measured). Beside the open layers the next one is in sight: a layer may come back. The
depth `D` is drawn by the information alone: the task's gradient would hold a gate halfway.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from n3.information.gaussian import Scalar

_PerLayer, _Worths = Float[Array, " depth"], Sequence[Float[Array, " _choices"]]
RATE = 0.25
"""Layers by which a step moves the depth, for each unit by which it moves a size."""
SHARPNESS = 10.0
"""Pull on the depth for each layer that it is away from the best, up to 1: the last tenth comes slower."""
SHUT = 1e-6
"""Gate up to which a layer counts as shut, and as wholly open if it lacks no more."""


def number_open(gates: Float[Array, " depth"]) -> Int[Array, ""]:
    """Layers that are open at least in part, 1 or more: the first is always open."""
    return jnp.sum(gates > SHUT)


def is_in_sight(gates: Float[Array, " depth"]) -> Bool[Array, " depth"]:
    """Whether each layer is open, or the one that could open next."""
    return jnp.arange(gates.size) <= number_open(gates)


def is_calm(gates: Float[Array, " depth"]) -> Bool[Array, " depth"]:
    """Whether the units of each layer can change places with the function kept.

    Half-open layers share the places of their units with the layer before, so neither may reorder alone.
    """
    is_settled = (gates <= SHUT) | (gates >= 1.0 - SHUT)
    return is_settled & jnp.append(is_settled[1:], True)


def values(
    worths: _Worths, sizes: _PerLayer, price: Scalar, parameter_price: Scalar, inputs: Scalar, outputs: int
) -> _PerLayer:
    """What a network of 1, 2, ... layers is worth, nats per sample.

    `worths` has the information of the first `0 ... capacity` units of each layer, in nats; `sizes` are whole
    numbers of units. A unit costs `price`, each of its parameters `parameter_price`; the inputs are effective.
    """
    before = jnp.append(inputs, sizes[:-1])
    own = price + parameter_price * (1.0 + before)
    gains = jnp.stack([worth[own.astype(int)] for worth, own in zip(worths, sizes, strict=True)])
    return gains - jnp.cumsum(own * sizes) - parameter_price * outputs * sizes


def best_depth(values: _PerLayer, gates: _PerLayer) -> Scalar:
    """`D*`: the number of layers in sight that is worth most, the least of equals."""
    return 1.0 + jnp.argmax(jnp.where(is_in_sight(gates), values, -jnp.inf)).astype(gates.dtype)


def pull(depth: Float[Array, ""], best: Float[Array, ""]) -> Float[Array, ""]:
    """The depth's whole gradient, in `[-1, 1]`."""
    return jnp.clip(SHARPNESS * (depth - best), -1.0, 1.0)
