"""Budget: a number of active parameters, and the price and the sizes that meet it."""

import jax.numpy as jnp
from jaxtyping import Array, Float

LARGEST_STEP = 0.2
"""Most that a look changes the logarithm of the price."""


def parameters(
    sizes: Float[Array, " depth"], *, in_size: int, out_size: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Active parameters: those between two hidden layers, and all others but the `out_size` last biases.

    With all sizes multiplied by `f` the network has `first * f**2 + second * f + out_size` parameters.
    """
    between = jnp.sum(sizes[1:] * sizes[:-1])
    return between, in_size * sizes[0] + jnp.sum(sizes) + out_size * sizes[-1]


def ascended(
    log_price: Float[Array, ""],
    sizes: Float[Array, " depth"],
    budget: Float[Array, ""],
    *,
    in_size: int,
    out_size: int,
) -> Float[Array, ""]:
    """Dual ascent: the price rises by the share in which the parameters exceed the budget.

    Args:
        log_price: Logarithm of the factor on the price, as it stands.
        sizes: Effective units of the hidden layers.
        budget: Active parameters; 0: the price stays.
        in_size: Inputs.
        out_size: Outputs.
    """
    total = sum(parameters(sizes, in_size=in_size, out_size=out_size)) + out_size
    excess = jnp.clip(total / jnp.maximum(budget, 1.0) - 1.0, -LARGEST_STEP, LARGEST_STEP)
    return jnp.where(budget > 0, log_price + excess, log_price)


def met(
    best: Float[Array, " depth"], budget: Float[Array, ""], *, in_size: int, out_size: int
) -> Float[Array, " depth"]:
    """The sizes in the same proportion, in whole units, whose parameters are nearest to the budget.

    The price has settled how the layers share; this takes up what whole units and the price's lag leave over.

    Args:
        best: Units that the price asks for; none counts as one.
        budget: Active parameters; 0: the sizes stay.
        in_size: Inputs.
        out_size: Outputs.
    """
    shares = jnp.maximum(best, 1.0)
    square, linear = parameters(shares, in_size=in_size, out_size=out_size)
    left = jnp.maximum(budget - out_size, 0.0)
    factor = 2.0 * left / (linear + jnp.sqrt(linear**2 + 4.0 * square * left))
    return jnp.where(budget > 0, jnp.round(factor * shares), best)
