"""Price: the nats that a further unit must bring, and the number of parameters that a budget asks for."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from n3.config.experiment import Experiment
from n3.data.dataset import Dataset

LARGEST_STEP = 0.2
"""Most that a look changes the logarithm of the price."""


def parameter_terms(
    sizes: Float[Array, " depth"], *, in_size: int, out_size: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Active parameters: those between two hidden layers, and all others but the `out_size` last biases.

    With all sizes multiplied by `f` the network has `first * f**2 + second * f + out_size` parameters.
    """
    between = jnp.sum(sizes[1:] * sizes[:-1])
    return between, in_size * sizes[0] + jnp.sum(sizes) + out_size * sizes[-1]


def ascend_price(
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
    total = sum(parameter_terms(sizes, in_size=in_size, out_size=out_size)) + out_size
    excess = jnp.clip(total / jnp.maximum(budget, 1.0) - 1.0, -LARGEST_STEP, LARGEST_STEP)
    return jnp.where(budget > 0, log_price + excess, log_price)


def sizes_within_budget(
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
    square, linear = parameter_terms(shares, in_size=in_size, out_size=out_size)
    left = jnp.maximum(budget - out_size, 0.0)
    factor = 2.0 * left / (linear + jnp.sqrt(linear**2 + 4.0 * square * left))
    return jnp.where(budget > 0, jnp.round(factor * shares), best)


def price_of(experiment: Experiment, data: Dataset) -> float:
    """Nats per sample that a further unit must bring, from the samples of one seed.

    By description length `k ln(n) / (4 n)` for a unit's `k` parameters, half the usual charge, which
    `scripts/study_sizing.py` chose: the prior charges for weights too. They are its effective inputs, its bias
    and its outgoing weights; the effective inputs are the participation ratio `tr(C)**2 / tr(C**2)` of the
    inputs' covariance `C`. By chi-square the 95 % quantile, with a degree of freedom for each output, over
    `2 n`: the gain that a unit without any information reaches in one case of twenty.
    """
    settings, samples = experiment.information, len(data.train_inputs)
    covariance = np.atleast_2d(np.cov(data.train_inputs.T.astype(float)))
    inputs = np.trace(covariance) ** 2 / max(np.sum(covariance**2), np.finfo(float).tiny)
    parameters = inputs + 1 + data.out_size
    price = {
        "description-length": parameters * _parameter_price(experiment, samples),
        "chi-square": _chi_square(data.out_size) / (2 * samples),
    }.get(settings.price, settings.price)
    return settings.price_scale * price


def _parameter_price(experiment: Experiment, samples: int) -> float:
    """Nats of one parameter by description length; zero under another price."""
    return math.log(samples) / (4 * samples) if experiment.information.price == "description-length" else 0.0


def _chi_square(outputs: int) -> float:
    """The 95 % quantile of chi-square with so many degrees of freedom.

    References:
        Wilson and Hilferty, "The distribution of chi-square" (1931): within 2 % here.
    """
    spread = 2.0 / (9.0 * outputs)
    return outputs * (1.0 - spread + 1.6448536 * math.sqrt(spread)) ** 3
