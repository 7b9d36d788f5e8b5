"""Metrics: how good a network is, and how much of it takes part."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from n3.nn.losses import PerSample, Rows
from n3.nn.members import Ensemble
from n3.nn.mlp import GrowingMLP
from n3.nn.sized import run_of

ACTIVE = 1e-3
"""Participation from which a unit counts as active."""


def hits(outputs: Rows, targets: Rows) -> PerSample:
    """1 for each sample whose class is predicted, else 0; logits and classes as in `losses.cross_entropy`."""
    return (predicted_class(outputs) == predicted_class(targets)).astype(outputs.dtype)


def predicted_class(outputs: Rows) -> Int[Array, " samples"]:
    """The class with the largest logit, or of one-hot rows; of a single row, class 1 where it is positive."""
    return (outputs[0] > 0).astype(int) if outputs.shape[0] == 1 else jnp.argmax(outputs, axis=0)


def accuracy(outputs: Rows, targets: Rows, shares: PerSample) -> Float[Array, ""]:
    """Share of samples whose class is predicted, in `[0, 1]` where the shares sum to one."""
    return jnp.sum(hits(outputs, targets) * shares)


def rmse(outputs: Rows, targets: Rows, shares: PerSample, unit: Float[Array, " out_size"]) -> Float[Array, ""]:
    """Root of the mean squared error over samples, by their shares, and over outputs, in the target's own unit.

    Outputs and targets are scaled alike; `unit` is the target's own units in one scaled unit, of each output.
    """
    squares = jnp.sum(((outputs - targets) * unit[:, None]) ** 2 * shares[None], axis=1)
    return jnp.sqrt(jnp.mean(squares))


def confusion_matrix(outputs: Rows, targets: Rows) -> Int[Array, "classes classes"]:
    """Counts of samples by true class (row) and predicted class (column)."""
    classes = max(2, outputs.shape[0])
    cells = classes * predicted_class(targets) + predicted_class(outputs)
    return jnp.bincount(cells, length=classes**2).reshape(classes, classes)


def effective_size(net: GrowingMLP) -> Float[Array, " depth"]:
    """Effective units of each hidden layer, as far as its gate is open, in `[0, capacity]`."""
    return net.controller.sizes() * net.gates()


def active_units(net: GrowingMLP | Ensemble[GrowingMLP]) -> Int[Array, " depth"]:
    """Units of each hidden layer whose participation, times the layer's gate, is `ACTIVE` or more."""
    net = run_of(net.members, 0) if isinstance(net, Ensemble) else net  # members share their sizes
    layers = zip(net.participation(), net.gates(), strict=True)
    return jnp.stack([jnp.sum(own * gate >= ACTIVE) for own, gate in layers])


def choice_shares(net: GrowingMLP) -> dict[str, Float[Array, " depth"]]:
    """Share of each activation in every hidden layer, in `[0, 1]`, by name; empty where none is chosen."""
    return {} if net.choice is None else dict(zip(net.choice.names, net.choice.shares().T, strict=True))


def active_parameters(net: GrowingMLP | Ensemble[GrowingMLP]) -> Int[Array, ""]:
    """Weights and biases that the active units need, of all members.

    What the compact network has no more counts nothing: a size input, which folds into a bias, and the logits
    of a choice of activations.
    """
    if isinstance(net, Ensemble):
        return jnp.sum(eqx.filter_vmap(active_parameters)(net.members))
    before, own = _ends(net)
    return jnp.sum((before + 1) * own)


def flops(net: GrowingMLP) -> Int[Array, ""]:
    """Floating-point operations of one sample through the active units: a multiply and an add a weight."""
    before, own = _ends(net)
    return jnp.sum(2 * before * own)


def _ends(net: GrowingMLP) -> Int[Array, "2 layers"]:
    """Inputs and outputs of every matrix; the read-out's inputs are the units of the last open layer."""
    ends, sizes = jnp.array([net.layers[0].weight.shape[1], net.readout.weight.shape[0]]), active_units(net)
    last = sizes[jnp.sum(net.gates() >= ACTIVE) - 1]
    return jnp.stack([jnp.concatenate([ends[:1], sizes[:-1], last[None]]), jnp.append(sizes, ends[1])])
