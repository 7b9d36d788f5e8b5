"""Members: networks that share their sizes, used together as one model."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from n3.nn.sized import run_of, stack_runs

_Model = TypeVar("_Model", bound=eqx.Module)
MEMBERS = "members"
"""The axis of the networks that share sizes, by which they are trained and judged together."""
SMALLEST_CHANCE = 1e-12
"""Chance that a class is given at least where a logit is made of one."""


def mean_outputs(
    outputs: Float[Array, "members out_size *samples"], *, is_classes: bool
) -> Float[Array, "out_size *samples"]:
    """The mean of the members' outputs, or logits of the mean of the chances that they give to classes.

    One row of outputs holds the logit of class 1 of two.
    """
    if not is_classes:
        return jnp.mean(outputs, axis=0)
    if outputs.shape[1] > 1:
        chances = jax.nn.logsumexp(jax.nn.log_softmax(outputs, axis=1), axis=0) - jnp.log(len(outputs))
        return jnp.maximum(chances, jnp.log(SMALLEST_CHANCE))
    yes, no = (jax.nn.logsumexp(jax.nn.log_sigmoid(own), axis=0) for own in (outputs, -outputs))
    return yes - no


class Ensemble(eqx.Module, Generic[_Model]):
    """Members as one model: called as each of them is, it returns the mean of numbers or of chances."""

    members: _Model
    """One model whose every array has a first axis of members."""
    is_classes: bool = eqx.field(static=True)

    def each(self) -> list[_Model]:
        """The members, one by one."""
        number = jax.tree.leaves(eqx.filter(self.members, eqx.is_array))[0].shape[0]
        return [run_of(self.members, row) for row in range(number)]

    def __call__(self, *inputs: Any, **options: Any) -> Float[Array, "..."]:
        """Outputs of one sample: numbers, or log-probabilities of classes (of two, the log-odds of class 1)."""
        each = eqx.filter_vmap(lambda own: own(*inputs, **options))(self.members)
        mean = mean_outputs(each.reshape(len(each), -1), is_classes=self.is_classes)
        return mean.reshape(each.shape[1:])

    def batch(self, x: Float[Array, "in_size samples"]) -> Float[Array, "out_size samples"]:
        """Outputs of many samples, one a column, of members that have a method of that name."""
        each = eqx.filter_vmap(lambda own: own.batch(x))(self.members)
        return mean_outputs(each, is_classes=self.is_classes)


def over_members(function: Callable[[Any], Any], model: Any) -> Any:
    """What a function makes of a model, or of each member of an ensemble, where all must come out of one form.

    Not inside `jit`: the function may change shapes.
    """
    if not isinstance(model, Ensemble):
        return function(model)
    return Ensemble(stack_runs([function(own) for own in model.each()]), model.is_classes)
