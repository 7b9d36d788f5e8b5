"""Losses: the task's loss and the price of size, every term with its name and its traced weight."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from n3.nn.mlp import GrowingMLP

Rows = Float[Array, "out_size samples"]
PerSample = Float[Array, " samples"]
type_of_loss = Callable[[Rows, Rows], PerSample]


_Term, _Loss = Float[Array, ""], str | type_of_loss


class Samples(eqx.Module):
    """Samples in the layout of training, one a column, each with its share of the mean."""

    inputs: Float[Array | np.ndarray, "*runs in_size samples"]
    targets: Float[Array | np.ndarray, "*runs out_size samples"]
    shares: Float[Array | np.ndarray, "*runs samples"]

    def weights(self) -> Float[Array, "*runs samples"]:
        """The shares relative to the largest: 1 where all are the same."""
        return jnp.asarray(self.shares) / jnp.max(self.shares, axis=-1, keepdims=True)


class LossWeights(eqx.Module):
    """Weights of the terms beside the task's loss; traced, and zero switches a term off exactly."""

    size: Float[Array, "*runs"]
    depth: Float[Array, "*runs"]
    prior: Float[Array, "*runs"] | None = None
    """Weight of the weights' description, one over the samples for a whole one; None leaves the term out."""


class LossTerms(eqx.Module):
    """The terms of an objective, each already weighted: `total` is the sum of them all."""

    total: Float[Array, ""]
    task: Float[Array, ""]
    size: Float[Array, ""]
    depth: Float[Array, ""]
    prior: Float[Array, ""]
    further: PyTree = None
    """What `objective` was given beside these, such as the `n3.information.InformationTerms` of every layer."""


def squared_error(outputs: Rows, targets: Rows) -> PerSample:
    """Squared error of each sample, mean over outputs, in squared units of the (scaled) target."""
    return jnp.mean((outputs - targets) ** 2, axis=0)


def cross_entropy(outputs: Rows, targets: Rows) -> PerSample:
    """Cross-entropy `-ln p(class)` of each sample, in nats, 0 or more.

    One row holds the logit of class 1 of two, and targets 0 or 1; more rows a logit for each class, and targets
    as one-hot.
    """
    if outputs.shape[0] == 1:
        return jax.nn.softplus(outputs[0]) - targets[0] * outputs[0]
    return jax.nn.logsumexp(outputs, axis=0) - jnp.sum(targets * outputs, axis=0)


LOSSES: Mapping[str, type_of_loss] = MappingProxyType(
    {"squared-error": squared_error, "cross-entropy": cross_entropy}
)
"""Task losses of each sample, by name."""


def task_loss(net: GrowingMLP, samples: Samples, loss: str | type_of_loss) -> Float[Array, ""]:
    """The task's loss, summed over samples by their shares (the mean where they sum to one).

    In squared units of the scaled target, in nats, or in the unit of the given function.

    Raises:
        ValueError: If `LOSSES` has no such name.
    """
    each = _loss_of_each(loss)
    return jnp.sum(each(net.batch(samples.inputs), samples.targets) * samples.shares)


def sample_losses(outputs: Rows, targets: Rows, loss: str | type_of_loss) -> PerSample:
    """The task's loss of each sample, in the units of `task_loss`, with its errors."""
    return _loss_of_each(loss)(outputs, targets)


def _loss_of_each(loss: str | type_of_loss) -> type_of_loss:
    if isinstance(loss, str) and loss not in LOSSES:
        raise ValueError(f"`loss` must be a function or one of {', '.join(LOSSES)}; got {loss!r}.")
    return LOSSES[loss] if isinstance(loss, str) else loss


def constant_losses(
    targets: Rows,
    others: Float[Array, "out_size others"],
    loss: str,
    *,
    least: float,
    shares: PerSample | None = None,
) -> Float[Array, " others"]:
    """The task's loss of other samples where outputs are the best constant: the mean, or the shares of classes.

    `shares` of the targets sum to one; None: all the same. No class counts as less than the share `least`, nor
    as more than all but that.
    """
    each = 1.0 / targets.shape[1] if shares is None else shares[None]
    constant = jnp.sum(targets * each, axis=1, keepdims=True)
    if loss == "cross-entropy":
        share = jnp.clip(constant, least, 1.0 - least)
        yes, no = jnp.log(share), jnp.log(jnp.maximum(1.0 - share, least))
        constant = yes - no if len(constant) == 1 else yes
    return sample_losses(jnp.broadcast_to(constant, others.shape), others, loss)


def penalties(
    net: GrowingMLP, weights: LossWeights, *, target_size: _Term, target_depth: _Term, task: _Term, loss: _Loss
) -> tuple[_Term, _Term, _Term]:
    """The weighted penalties on size, on depth and on the weights; no gradient is taken of the task's loss.

    The weights' description counts in the unit of the task's loss. A cross-entropy is in nats already. The nats
    of a squared error `E`, the mean over `q` outputs, are `q ln(E) / 2`, the noise being unknown, with the
    gradient `q / 2E`: there the description is multiplied by `2E / q`, and presses the less the better the fit.

    Returns:
        `weights.size * controller.penalty(target_size)`; `weights.depth * (D - target_depth)**2`, zero without
        depth gates; and `weights.prior * description(net)` in the loss's unit.
    """
    size = weights.size * net.controller.penalty(target_size)
    zero = jnp.zeros_like(size)
    depth = zero if net.depth_weight is None else weights.depth * (net.depth_weight - target_depth) ** 2
    if weights.prior is None:
        return size, depth, zero
    outputs = net.readout.bias.shape[0]
    unit = 2.0 * jax.lax.stop_gradient(task) / outputs if loss == "squared-error" else 1.0
    return size, depth, weights.prior * unit * description(net)


def description(net: GrowingMLP) -> Float[Array, ""]:
    """Nats that the weights of the participating units take under a Gaussian prior of each matrix's own scale.

    `sum over matrices of k/2 * (v if v < 1 else 1 + ln v)`, where `v` is the mean square of the matrix's `k`
    weights, each counted by the participation of its two units. The prior's variance is `max(v, 1)`: the
    evidence's own choice, but never less than one. Biases are free, and participation gets no gradient.

    References:
        MacKay, "Bayesian interpolation" (1992), with all weights taken as well determined.
    """

    def nats(square: Float[Array, ""], number: Float[Array, ""]) -> Float[Array, ""]:
        return 0.5 * number * jnp.where(square < 1.0, square, 1.0 + jnp.log(jnp.maximum(square, 1.0)))

    return jnp.sum(jnp.stack([nats(*pair) for pair in net.mean_squares()]))


def objective(
    net: GrowingMLP,
    samples: Samples,
    weights: LossWeights,
    *,
    loss: _Loss,
    target_size: _Term,
    target_depth: _Term,
    further: Callable[[GrowingMLP], PyTree] | None = None,
) -> tuple[_Term, LossTerms]:
    """What training descends: task loss + size penalty + depth penalty + the weights' description + what else.

    The shares of the samples sum to one. The penalties weigh loss units per squared unit of size and per
    squared layer; they vanish at `target_size` units and `target_depth` layers. Terms of the network that join
    the sum (`further`) are already weighted: a tree of arrays, as of `n3.information.information_terms`.
    """
    task = task_loss(net, samples, loss)
    goals = {"target_size": target_size, "target_depth": target_depth, "loss": loss}
    size, depth, prior = penalties(net, weights, task=task, **goals)
    own = None if further is None else further(net)
    total = sum((jnp.sum(leaf) for leaf in jax.tree.leaves(own)), task + size + depth + prior)
    return total, LossTerms(total, task, size, depth, prior, own)


LANES = 16
"""Float32 numbers in the widest register of a CPU: a tile of 255 samples and 1,024 units costs 1.27 times as
much as one of 256 (measured)."""


def over_tiles(function: Callable[[Samples], PyTree], samples: Samples, *, tile: int) -> PyTree:
    """Sum of `function`, which adds up over samples, over tiles of `tile` at most, the last filled up.

    Where `tile` allows it, tiles hold a multiple of `LANES` samples.
    """
    total = samples.shares.shape[0]
    if total <= tile:
        return function(samples)
    tiles = -(-total // tile)
    width = -(-total // tiles)
    width = min(-(-width // LANES) * LANES, tile)
    tiles = -(-total // width)

    def cut(leaf: Array, mode: str = "edge"):
        padded = jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, tiles * width - total)], mode=mode)
        return jnp.moveaxis(padded.reshape(*leaf.shape[:-1], tiles, width), -2, 0)

    shares = cut(samples.shares, "constant")  # what fills a tile counts nothing
    pieces = Samples(cut(samples.inputs), cut(samples.targets), shares)
    zero = jax.tree.map(jnp.zeros_like, eqx.filter_eval_shape(function, jax.tree.map(lambda a: a[0], pieces)))

    def add(running: PyTree, piece: Samples):
        return jax.tree.map(jnp.add, running, function(piece)), None

    return jax.lax.scan(add, zero, pieces)[0]
