"""Compaction: a growing network as a plain one, of the units that take part and without masks."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from n3.nn.masks import PRESENT
from n3.nn.mlp import ACTIVATIONS, Dense, GrowingMLP
from n3.surgery.edit import check_single, check_state
from n3.tracing.grow import Grown, compact_model


class CompactLayer(eqx.Module):
    """`phi(W h + b)`, put behind `h` itself where the layer keeps its input."""

    weight: Float[Array, "units in_size"]
    bias: Float[Array, " units"]
    activation: str = eqx.field(static=True)
    keeps_input: bool = eqx.field(static=True, default=False)

    def __call__(self, hidden: Float[Array, "in_size samples"]) -> Float[Array, "features samples"]:
        """What the next layer reads."""
        active = ACTIVATIONS[self.activation](self.weight @ hidden + self.bias[:, None])
        return jnp.concatenate([hidden, active]) if self.keeps_input else active


class CompactMLP(eqx.Module):
    """A plain multilayer perceptron: every unit takes part, and there is no controller.

    A layer whose depth gate was partly open keeps its input beside its own units, and the shares of both are in
    the columns of the next layer.
    """

    layers: tuple[CompactLayer, ...]
    readout: CompactLayer

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        """Outputs of one sample."""
        return self.batch(x[:, None])[:, 0]

    def batch(self, x: Float[Array, "in_size samples"]) -> Float[Array, "out_size samples"]:
        """Outputs of many samples, one a column."""
        for layer in (*self.layers, self.readout):
            x = layer(x)
        return x


def compact(net: eqx.Module) -> Any:
    """The same function as a plain network of the units that take part at all.

    Participation, the shares of depth gates and the output's gain go into the columns of the layer that reads
    them, the size input into biases; layers whose gate is shut vanish. A layer without a unit that takes part
    has none left, and the network is a constant. A choice of activations becomes the one of the largest share:
    the outputs stay where the choice was hard, as it is at the end of a run.

    Args:
        net: A `GrowingMLP`; a model that `n3.grow` made, which gives back a model of its own class (see
            `n3.tracing.grow.compact_model`); or a `CompactMLP`, which comes back as it is.

    Returns:
        A network with the same outputs (rtol 1e-5, atol 1e-6 in float32).

    Raises:
        ValueError: If `net` is another model, or many networks stacked.
    """
    if isinstance(net, CompactMLP):
        return net
    if isinstance(net, Grown):
        return compact_model(net)
    check_single(net)
    return _laid_out(net, _plan(net), is_folded=True)


def compact_state(net: GrowingMLP, state: PyTree) -> PyTree:
    """The optimiser state that belongs to `compact(net)`.

    Moments are gathered as they are: exact for the weights of units that take part fully, while those of
    weights that participation is folded into stay on the scale from before.

    Args:
        net: The network before it was compacted.
        state: An optimiser state over it.

    Raises:
        ValueError: If `net` is no single `GrowingMLP`, or `state` is not over it.
    """
    check_single(net)
    check_state(net, state)
    plan = _plan(net)

    def gathered(node: PyTree) -> PyTree:
        return _laid_out(node, plan, is_folded=False) if isinstance(node, GrowingMLP) else node

    return jax.tree.map(gathered, state, is_leaf=lambda node: isinstance(node, GrowingMLP))


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One layer of the plain network: the units it takes, and what it reads with which factors."""

    dense: int
    rows: Int[np.ndarray, " units"]
    columns: Int[np.ndarray, " features"]
    factors: Float[np.ndarray, " features"]
    size: float = 0.0
    gain: float = 1.0
    activation: str = "identity"
    keeps_input: bool = False


def _plan(net: GrowingMLP) -> list[_Part]:
    """The parts of the plain network, the readout last."""
    parts, columns = [], np.arange(net.layers[0].weight.shape[1])
    factors = np.ones(columns.size)
    names = (net.activation,) * len(net.layers) if net.choice is None else net.choice.chosen()
    sizes, gates = (np.asarray(each, np.float64) for each in (net.controller.sizes(), net.gates()))
    for layer, (own, gate) in enumerate(zip(net.participation(), gates, strict=True)):
        mask = np.asarray(own, np.float64)
        rows = np.flatnonzero(mask >= PRESENT)
        if gate == 1 or (gate > 0 and rows.size):
            settings = {"activation": names[layer], "keeps_input": bool(gate < 1)}
            what = {"rows": rows, "columns": columns, "factors": factors, "size": sizes[layer]}
            parts.append(_Part(dense=layer, **what, **settings))
        kept, shares = (columns, (1.0 - gate) * factors) if gate < 1 else (columns[:0], factors[:0])
        taken = rows if gate > 0 else rows[:0]
        columns = np.concatenate([kept, taken])
        factors = np.concatenate([shares, gate * mask[taken]])
    outputs = np.arange(net.readout.bias.shape[0])
    gain = float(net.controller.gain())
    return [*parts, _Part(dense=-1, rows=outputs, columns=columns, factors=factors, gain=gain)]


def _laid_out(net: GrowingMLP, plan: list[_Part], *, is_folded: bool) -> CompactMLP:
    """The parts gathered from a network, or from moments, which nothing is folded into."""
    every = (*net.layers, net.readout)
    *layers, readout = (_layer(every[part.dense], part, is_folded=is_folded) for part in plan)
    return CompactMLP(layers=tuple(layers), readout=readout)


def _layer(dense: Dense, part: _Part, *, is_folded: bool) -> CompactLayer:
    weight, bias = (np.asarray(leaf, np.float64) for leaf in (dense.weight, dense.bias))
    weight, bias = weight[np.ix_(part.rows, part.columns)], bias[part.rows]
    if is_folded:
        shift = 0.0 if dense.size_weight is None else np.asarray(dense.size_weight, np.float64)[part.rows]
        weight, bias = part.gain * weight * part.factors, part.gain * (bias + part.size * shift)
    arrays = (jnp.asarray(each, dense.weight.dtype) for each in (weight, bias))
    return CompactLayer(*arrays, activation=part.activation, keeps_input=part.keeps_input)
