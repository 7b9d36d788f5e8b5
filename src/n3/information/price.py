"""Price: the nats that a further unit must bring, and the number of parameters that a budget asks for."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from n3.config.experiment import InformationConfig
from n3.data.dataset import Dataset
from n3.information.gaussian import Scalar
from n3.nn.sized import PerGroup, each_input

LARGEST_STEP = 0.2
"""Most that a look changes the logarithm of the price."""


class Prices(NamedTuple):
    """What a further unit must bring, in nats per sample: so much, and so much for each of its parameters."""

    unit: float
    parameter: float
    inputs: float
    """Effective inputs of the model: the participation ratio `tr(C)**2 / tr(C**2)` of the covariance `C`."""


def prices_of(settings: InformationConfig, inputs: Any, *, samples: int, outputs: int) -> Prices:
    """The prices that some samples suggest.

    By description length each parameter costs `ln(n) / (4 n)`, half the usual charge, which
    `scripts/study_sizing.py` chose: the prior charges for weights too. By chi-square a unit costs the 95 %
    quantile over `2 n`, with a degree of freedom for each output: the gain that a unit without any information
    reaches in one case of twenty. Of a path of prices no price follows. There are `n` training `samples`; the
    inputs are of some, samples first; the outputs are targets, or classes less one.
    """
    own = np.column_stack([np.asarray(own, float).reshape(len(inputs), -1) for own in each_input(inputs)])
    own = own - own.mean(axis=0)
    products = own @ own.T if own.shape[0] < own.shape[1] else own.T @ own
    effective = np.trace(products) ** 2 / max(np.sum(products**2), np.finfo(float).tiny)
    unit, parameter = {
        "description-length": (0.0, math.log(samples) / (4 * samples)),
        "chi-square": (float(scipy.special.chdtri(outputs, 0.05)) / (2 * samples), 0.0),
    }.get(settings.price, (settings.price, 0.0))
    return Prices(settings.price_scale * unit, settings.price_scale * parameter, float(effective))


def degrees_of(data: Dataset) -> int:
    """Degrees of freedom of a target: its numbers, or its classes less one."""
    return data.out_size if data.num_classes is None else data.num_classes - 1


def ascend_price(log_price: Scalar, parameters: Scalar, budget: Scalar) -> Scalar:
    """Dual ascent: the price rises by the share in which active parameters exceed the budget; 0: it stays."""
    excess = jnp.clip(parameters / jnp.maximum(budget, 1.0) - 1.0, -LARGEST_STEP, LARGEST_STEP)
    return jnp.where(budget > 0, log_price + excess, log_price)


def sizes_within_budget(
    best: PerGroup, budget: Scalar, capacity: PerGroup, count: Callable[[PerGroup], Scalar]
) -> PerGroup:
    """The sizes in the same proportion, in whole units, whose active parameters are nearest to the budget.

    A best size of none counts as one, and no size exceeds the capacity. With budget 0 the sizes stay. `count`
    says the parameters at given sizes, and rises in each.
    """
    shares = jnp.maximum(best, 1.0)

    def halved(ends, _):
        low, high = ends
        middle = 0.5 * (low + high)
        is_over = count(jnp.minimum(middle * shares, capacity)) > budget
        return (jnp.where(is_over, low, middle), jnp.where(is_over, middle, high)), None

    whole = jnp.max(capacity / shares)
    (low, high), _ = jax.lax.scan(halved, (jnp.zeros_like(whole), whole), length=40)  # float32 has 24 bits
    sizes = jnp.minimum(jnp.round(0.5 * (low + high) * shares), capacity)
    return jnp.where(budget > 0, sizes, best)
