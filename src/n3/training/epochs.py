"""Epochs: the order in which a run takes its samples, fresh in every epoch, and the samples of one step."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, PRNGKeyArray

from n3.nn.losses import Samples


def shuffled(
    order: Int[Array, " samples"], count: Int[Array, ""], batch: int, *, key: PRNGKeyArray
) -> Int[Array, " samples"]:
    """The order of the samples at a step: a fresh one where an epoch begins.

    Args:
        order: The order so far.
        count: Steps taken so far.
        batch: Samples in a step; those beyond whole batches are left out of an epoch.
        key: Decides, with the epoch's number, the order.
    """
    samples = order.shape[0]
    epoch, within = jnp.divmod(count, samples // batch)
    return jax.lax.cond(
        within == 0,
        lambda: jr.permutation(jr.fold_in(key, epoch), samples),
        lambda: order,
    )


def drawn(order: Int[Array, " samples"], count: Int[Array, ""], batch: int, samples: Samples) -> Samples:
    """The samples of a step, of equal shares; arguments as those of `shuffled`."""
    within = jnp.mod(count, order.shape[0] // batch)
    rows = jax.lax.dynamic_slice_in_dim(order, within * batch, batch)
    return Samples(samples.inputs[:, rows], samples.targets[:, rows], jnp.full(batch, 1.0 / batch))
