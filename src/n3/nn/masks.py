"""Masks: how a real-valued layer size becomes the participation of each unit."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PRESENT = 1e-6
"""Participation from which a unit is there for a compact network: below, its part is less than rounding."""


def participation(size: Float[Array, ""], capacity: int, mask: str = "sine") -> Float[Array, " capacity"]:
    r"""Participation of each unit of a layer: `m_j = ramp(size - j)` for `j = 0 ... capacity - 1`.

    Only the unit at the frontier has a derivative; where `size` is an integer the frontier is the next unit.

    Args:
        size: Effective number of units; any real number.
        capacity: Units allocated.
        mask: Ramp by its name in `MASKS`.

    Returns:
        The weight of each unit, in `[0, 1]`, non-increasing in the unit's index.

    Raises:
        ValueError: If `capacity` is not positive or `mask` is unknown.

    References:
        Radhakrishnan, Lindner, Miller, Sinha, Ditto, "Growing Neural Networks: Dynamic Evolution through
        Gradient Descent" (2025), arXiv 2501.18012.
    """
    if capacity < 1:
        raise ValueError(f"`capacity` must be positive; got {capacity}.")
    if mask not in MASKS:
        raise ValueError(f"`mask` must be one of {', '.join(MASKS)}; got {mask!r}.")
    return MASKS[mask](size - jnp.arange(capacity, dtype=size.dtype))


@jax.custom_jvp
def sine(distance: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Sine ramp: 0 below 0, `sin(pi n / 2)**2` on `[0, 1]`, 1 above; the derivative at both kinks is 0."""
    inside = (distance > 0) & (distance < 1)  # `where`: measured faster than `clip` on CPU
    return jnp.where(inside, jnp.sin(0.5 * jnp.pi * distance) ** 2, (distance >= 1).astype(distance.dtype))


@jax.custom_jvp
def linear(distance: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Linear ramp: `clip(n, 0, 1)`, so a layer's participation sums to its size.

    The derivative is 1 on `0 <= n < 1` and 0 elsewhere: at a kink it is the derivative to the right, so that a
    size resting on an integer feels the unit that it would add next.
    """
    return jnp.clip(distance, 0.0, 1.0)


@jax.custom_jvp
def hard(distance: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Hard step: 1 where `n > 0`, else 0; the straight-through derivative is the linear ramp's."""
    return (distance > 0).astype(distance.dtype)


def _linear_slope(distance: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return ((distance >= 0) & (distance < 1)).astype(distance.dtype)


def _sine_slope(distance: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    inside = (distance > 0) & (distance < 1)
    return jnp.where(inside, 0.5 * jnp.pi * jnp.sin(jnp.pi * distance), 0.0)


sine.defjvps(lambda tangent, _, distance: _sine_slope(distance) * tangent)
linear.defjvps(lambda tangent, _, distance: _linear_slope(distance) * tangent)
hard.defjvps(lambda tangent, _, distance: _linear_slope(distance) * tangent)

MASKS: Mapping[str, Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]] = MappingProxyType(
    {"sine": sine, "linear": linear, "hard": hard}
)
"""Ramps by name: from the distance `n` of the size from a unit's index, in units, to its participation."""


def capacity_share(output: Float[Array, ""]) -> Float[Array, ""]:
    """Share of the capacity at a bounded controller's output `c`: `sin(pi c / 2)**2`, in `[0, 1]`."""
    return jnp.sin(0.5 * jnp.pi * output) ** 2


def output_for_share(share: Float[Array, ""]) -> Float[Array, ""]:
    """The controller's output, in `[0, 1]`, that gives a share of the capacity: undoes `capacity_share`."""
    return (2.0 / jnp.pi) * jnp.arcsin(jnp.sqrt(share))
