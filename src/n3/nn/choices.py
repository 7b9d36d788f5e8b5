"""Choices: activations by name, and a choice among several that is soft at first and hard in the end."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "tanh": jnp.tanh,
        "relu": jax.nn.relu,
        "gelu": jax.nn.gelu,
        "silu": jax.nn.silu,
        "softplus": jax.nn.softplus,
        "sigmoid": jax.nn.sigmoid,
        "sin": jnp.sin,
        "identity": lambda x: x,
    }
)
"""Activations by name."""


class Annealing(eqx.Module):
    """How the temperature of choices falls over a run: `first * (last / first)**(share of it)`, then zero."""

    first: Float[Array, "*runs"]
    """Temperature at the start, more than 0."""
    last: Float[Array, "*runs"]
    """Temperature that the fall ends at, more than 0."""
    end: Float[Array, "*runs"]
    """Share of the run after which choices are hard, in `(0, 1]`."""

    def temperature(self, count: Int[Array, ""], horizon: Float[Array, ""]) -> Float[Array, ""]:
        """Temperature after `count` steps of a run of `horizon` steps."""
        share = count.astype(horizon.dtype) / (self.end * horizon)
        return jnp.where(share < 1.0, self.first * (self.last / self.first) ** share, 0.0)


class Choice(eqx.Module):
    """The activation of each hidden layer as a mixture: `sum_k share_k phi_k`, `share = softmax(logits / T)`.

    At temperature `T = 0` it is hard: the activation of the largest logit alone (of equals the first), and
    nothing trains the logits any more.

    References:
        Liu, Simonyan, Yang, "DARTS: differentiable architecture search", 2019, equation 2.
    """

    logits: Float[Array, "depth choices"]
    temperature: Float[Array, ""]
    """Set by the schedule; it gets no gradient."""
    names: tuple[str, ...] = eqx.field(static=True)
    """Activations to choose among, names in `ACTIVATIONS`."""

    def __call__(self, layer: int, x: Float[Array, "units samples"]) -> Float[Array, "units samples"]:
        """The activation of a hidden layer."""
        parts = zip(self.shares()[layer], self.names, strict=True)
        return sum((share * ACTIVATIONS[name](x) for share, name in parts), start=jnp.zeros_like(x))

    def shares(self) -> Float[Array, "depth choices"]:
        """Share of each activation in each hidden layer, in `[0, 1]`; a layer's sum to one."""
        temperature = jax.lax.stop_gradient(self.temperature)
        is_soft = temperature > 0
        soft = jax.nn.softmax(self.logits / jnp.where(is_soft, temperature, 1.0))
        hard = jax.nn.one_hot(jnp.argmax(self.logits, axis=1), len(self.names), dtype=self.logits.dtype)
        return jnp.where(is_soft, soft, hard)

    def winners(self) -> tuple[str, ...]:
        """Name of the activation that each hidden layer has once the choice is hard."""
        return tuple(self.names[int(best)] for best in jnp.argmax(self.logits, axis=1))

    def annealed(self, before: "Choice", temperature: Float[Array, ""]) -> "Choice":
        """This choice after a step of the optimiser, at its next temperature; a hard one stays as it was."""
        logits = jnp.where(before.temperature > 0, self.logits, before.logits)
        return Choice(logits, temperature, self.names)

    def perturbed(self, *, key: PRNGKeyArray) -> "Choice":
        """The choice with Gumbel noise on its logits, as long as it is soft: the shares are then a sample.

        References:
            Maddison, Mnih, Teh, "The concrete distribution", 2017; Jang, Gu, Poole, "Categorical
            reparameterization with Gumbel-softmax", 2017.
        """
        noise = jr.gumbel(key, self.logits.shape, self.logits.dtype)
        return Choice(self.logits + jnp.where(self.temperature > 0, noise, 0.0), self.temperature, self.names)


def undecided(names: tuple[str, ...], depth: int) -> Choice:
    """A choice among some activations for each of `depth` layers, all shares equal, at temperature 1."""
    return Choice(jnp.zeros((depth, len(names))), jnp.ones(()), names)
