"""Compaction: a sized model as a plain one, of the units that take part and without masks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from n3.nn.groups import masked
from n3.nn.masks import PRESENT
from n3.nn.members import Ensemble
from n3.nn.mlp import ACTIVATIONS, GrowingMLP
from n3.nn.sized import AbstractSized, stack_runs
from n3.surgery.edit import check_single
from n3.surgery.optimiser_state import carried, moved_leaves
from n3.tracing.grow import Example, compact_model, grown_whole, kept_units


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
    them, the size input into biases; layers whose gate is shut vanish. A layer of an MLP without a unit that
    takes part has none left, and the network is a constant; a group of another model keeps one that counts
    nothing. A choice of activations becomes the one of the largest share:
    the outputs stay where the choice was hard, as it is at the end of a run. A model that `n3.grow` made gives
    back a model of its own class (see `n3.tracing.grow.compact_model`); a plain model comes back as it is, and
    of an ensemble an ensemble of plain members.

    Returns:
        A network with the same outputs (rtol 1e-5, atol 1e-6 in float32).

    Raises:
        ValueError: If `net` is many networks stacked, has a size that is not finite, or a controller from
            elsewhere.
    """
    if isinstance(net, Ensemble):
        return Ensemble(stack_runs(_alike([compact(own) for own in net.each()])), net.is_classes)
    if not isinstance(net, AbstractSized):
        return net
    check_single(net)
    if not np.all(np.isfinite(sizes := np.asarray(net.sizes()))):
        raise ValueError(f"`net` must have finite sizes; got {sizes}: its training diverged.")
    if not isinstance(net, GrowingMLP):
        return compact_model(net)
    *layers, readout = (
        CompactLayer(*_layer(net, part, is_folded=True), part.activation, part.keeps_input)
        for part in _plan(net)
    )
    return CompactMLP(layers=tuple(layers), readout=readout)


def _alike(members: list[Any]) -> list[Any]:
    """Plain members of one shape: where sizes differ, a layer has units of zeros up to its largest size."""
    shapes = [[leaf.shape for leaf in jax.tree.leaves(eqx.filter(own, eqx.is_array))] for own in members]
    if all(own == shapes[0] for own in shapes):
        return members
    forms = {jax.tree.structure(own) for own in members}
    if len(forms) > 1 or not all(isinstance(own, CompactMLP) for own in members):
        raise ValueError("`net` must have members of one shape; take one of them by `net.each()`.")
    if any(layer.keeps_input for layer in members[0].layers):
        raise ValueError(
            "`net` must have members whose layers keep no input; take one of them by `net.each()`."
        )
    most = [tuple(map(max, zip(*each, strict=True))) for each in zip(*shapes, strict=True)]

    def padded(own: CompactMLP) -> CompactMLP:
        leaves, form = jax.tree.flatten(own)
        sides = [np.subtract(to, leaf.shape) for leaf, to in zip(leaves, most, strict=True)]
        whole = [jnp.pad(leaf, [(0, n) for n in more]) for leaf, more in zip(leaves, sides, strict=True)]
        return form.unflatten(whole)

    return [padded(own) for own in members]


def compact_state(net: AbstractSized, state: PyTree) -> PyTree:
    """The optimiser state that belongs to `compact(net)`, from one over `net`.

    Averages are gathered as they are: exact for the weights of units that take part fully, while those of
    weights that participation is folded into stay on the scale from before. Copies of the parameters are
    folded as the parameters are.

    Raises:
        ValueError: If `net` is no single sized model, or `state` is not over it or cannot be carried.
    """
    check_single(net)
    structure = jax.tree.structure(eqx.filter(compact(net), eqx.is_inexact_array))
    plan, units = _plan(net) if isinstance(net, GrowingMLP) else [], kept_units(net.participation())

    def gathered(node: PyTree, is_copy: bool) -> PyTree:
        if isinstance(net, GrowingMLP):
            leaves = [leaf for part in plan for leaf in _layer(node, part, is_folded=is_copy)]
        else:
            node = masked(node, net.structure, net.participation()) if is_copy else node
            model = moved_leaves(node, net, net, units).model
            leaves = jax.tree.leaves(model, is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode))
        return structure.unflatten(leaves)

    return carried(state, net, gathered)


Close = Callable[[AbstractSized, PyTree], tuple[Any, PyTree]]
"""From a sized model and its optimiser state to those of the class that was opened."""


def opened(
    model: eqx.Module, state: PyTree, *, example: Example | tuple[Example, ...] | None
) -> tuple[AbstractSized, PyTree, Close]:
    """A model as surgery takes it: sized, a plain one with every unit taking part; and its optimiser state.

    A sized model stays as it is; any other is one that `n3.grow` could grow, by one sample of it (`example`; a
    tuple for several inputs). The third of what comes back makes a plain model and its state of the sized ones
    again.

    Raises:
        ValueError: If a plain model has no example, or cannot be grown.
    """
    if isinstance(model, Ensemble):
        check_single(model)
    if isinstance(model, AbstractSized):
        check_single(model)
        return model, carried(state, model, lambda own, _: own), lambda net, own: (net, own)
    if example is None:
        raise ValueError(f"`example` must be given for a {type(model).__name__}: it is traced on one sample.")
    whole = grown_whole(model, example=example)
    form = jax.tree.structure(eqx.filter(model, eqx.is_inexact_array))
    like, structure = jax.tree.flatten(eqx.filter(whole, eqx.is_inexact_array))

    def lifted(node: PyTree, is_copy: bool) -> PyTree:
        parts = form.flatten_up_to(node)
        rest = like[len(parts) :] if is_copy else [jnp.zeros_like(own) for own in like[len(parts) :]]
        return structure.unflatten([*parts, *rest])

    def close(net: AbstractSized, own: PyTree) -> tuple[Any, PyTree]:
        return compact(net), None if own is None else compact_state(net, own)

    return whole, carried(state, model, lifted), close


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
    parts, columns = [], np.arange(net.layers[0].weight.shape[1])
    factors = np.ones(columns.size)
    names = (net.activation,) * len(net.layers) if net.choice is None else net.choice.chosen()
    sizes, gates = (np.asarray(each, np.float64) for each in (net.controller.sizes(), net.gates()))
    for layer, (own, gate) in enumerate(zip(net.participation(), gates, strict=True)):
        mask = np.asarray(own, np.float64)
        rows = np.flatnonzero(mask >= PRESENT)
        if gate == 1 or (gate > 0 and rows.size):
            own = {"activation": names[layer], "keeps_input": bool(gate < 1), "size": sizes[layer]}
            parts.append(_Part(dense=layer, rows=rows, columns=columns, factors=factors, **own))
        kept, shares = (columns, (1.0 - gate) * factors) if gate < 1 else (columns[:0], factors[:0])
        taken = rows if gate > 0 else rows[:0]
        columns = np.concatenate([kept, taken])
        factors = np.concatenate([shares, gate * mask[taken]])
    outputs = np.arange(net.readout.bias.shape[0])
    gain = float(net.controller.gain())
    return [*parts, _Part(dense=-1, rows=outputs, columns=columns, factors=factors, gain=gain)]


def _layer(net: GrowingMLP, part: _Part, *, is_folded: bool) -> tuple[Any, ...]:
    """Weight and bias of a part, or their averages, which nothing is folded into."""
    dense = net.readout if part.dense < 0 else net.layers[part.dense]

    def taken(leaf: Any, *places: Int[np.ndarray, " _places"]) -> Any:
        return np.asarray(leaf, np.float64)[np.ix_(*places)] if eqx.is_array(leaf) else leaf

    weight, bias = taken(dense.weight, part.rows, part.columns), taken(dense.bias, part.rows)
    if not is_folded:
        pairs = zip((weight, bias), (dense.weight, dense.bias), strict=True)
        return tuple(jnp.asarray(own, old.dtype) if eqx.is_array(old) else own for own, old in pairs)
    shift = 0.0 if dense.size_weight is None else taken(dense.size_weight, part.rows)
    folded = part.gain * weight * part.factors, part.gain * (bias + part.size * shift)
    return tuple(jnp.asarray(own, dense.weight.dtype) for own in folded)
