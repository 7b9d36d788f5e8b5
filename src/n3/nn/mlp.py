"""MLP: a multilayer perceptron of fixed capacity whose controller decides how many units take part."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from n3.config import validation
from n3.nn import groups, masks
from n3.nn.controllers import AbstractController
from n3.nn.groups import Group, Layout, Leaf, Structure
from n3.nn.sized import AbstractSized, PerGroup

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
    """An activation, or one for each of several layers, as a mixture: `sum_k share_k phi_k`.

    The shares are `softmax(logits / T)`. At temperature `T = 0` the choice is hard: the activation of the
    largest logit alone (of equals the first), and nothing trains the logits any more.

    References:
        Liu, Simonyan, Yang, "DARTS: differentiable architecture search", 2019, equation 2.
    """

    logits: Float[Array, "*depth choices"]
    temperature: Float[Array, ""]
    """Set by the schedule; it gets no gradient."""
    names: tuple[str, ...] = eqx.field(static=True)
    """Activations to choose among, names in `ACTIVATIONS`."""

    @classmethod
    def among(cls, *names: str, depth: tuple[int, ...] = ()) -> "Choice":
        """A choice with equal shares, for any model: called on an array, like an activation.

        The names are of `ACTIVATIONS`; `depth` is the shape of layers that choose each for themselves.

        Raises:
            ValueError: If a name is unknown, or there are fewer than two.
        """
        validation.choice("activation", f"choose:{','.join(names)}", names=tuple(ACTIVATIONS))
        return cls(jnp.zeros((*depth, len(names))), jnp.ones(()), names)

    def __call__(self, x: Array, layer: int | None = None) -> Array:
        """The activation, or that of one of the layers."""
        shares = self.shares() if layer is None else self.shares()[layer]
        parts = zip(shares.astype(x.dtype), self.names, strict=True)
        return sum((share * ACTIVATIONS[name](x) for share, name in parts), start=jnp.zeros_like(x))

    def shares(self) -> Float[Array, "*depth choices"]:
        """Share of each activation, in `[0, 1]`; a layer's sum to one."""
        temperature = jax.lax.stop_gradient(self._spread(self.temperature))
        is_soft = temperature > 0
        soft = jax.nn.softmax(self.logits / jnp.where(is_soft, temperature, 1.0))
        hard = jax.nn.one_hot(jnp.argmax(self.logits, axis=-1), len(self.names), dtype=self.logits.dtype)
        return jnp.where(is_soft, soft, hard)

    def _spread(self, temperature: Array) -> Array:
        """A temperature beside the logits, of which a model may hold many (a unit each, as in `eqx.nn.MLP`)."""
        return temperature.reshape(*temperature.shape, *(1,) * (self.logits.ndim - temperature.ndim))

    def chosen(self) -> tuple[str, ...]:
        """Name of the activation that each layer has once the choice is hard."""
        return tuple(self.names[int(best)] for best in jnp.argmax(self.logits, axis=-1).reshape(-1))


def has_choice(model: PyTree) -> bool:
    """Whether a model chooses activations."""
    return any(map(_is_choice, jax.tree.leaves(model, is_leaf=_is_choice)))


def annealed(model: PyTree, before: PyTree, temperature: Float[Array, ""]) -> PyTree:
    """A model after a step of the optimiser with its choices of activations at the next temperature (0: hard).

    A choice that was hard in the model before the step stays as it was.
    """

    def cooled(node: PyTree, old: PyTree) -> PyTree:
        if not _is_choice(node):
            return node
        logits = jnp.where(old._spread(old.temperature) > 0, node.logits, old.logits)
        at = jnp.broadcast_to(temperature, node.temperature.shape)
        return eqx.tree_at(lambda own: (own.logits, own.temperature), node, (logits, at))

    return jax.tree.map(cooled, model, before, is_leaf=_is_choice)


def _is_choice(node: PyTree) -> bool:
    return isinstance(node, Choice)


class Dense(eqx.Module):
    """Weights of one layer: `W [h, s] + b`, the column of the size input `s` kept apart."""

    weight: Float[Array, "out_size in_size"]
    bias: Float[Array, " out_size"]
    size_weight: Float[Array, " out_size"] | None

    def __init__(
        self, in_size: int, out_size: int, *, size_input: bool, bound: Float[Array, ""], key: PRNGKeyArray
    ):
        drawn = bound * jr.uniform(key, (out_size, in_size + 2), minval=-1.0, maxval=1.0)
        self.weight, self.bias = drawn[:, :in_size], drawn[:, in_size]
        self.size_weight = drawn[:, in_size + 1] if size_input else None


class GrowingMLP(AbstractSized):
    """A multilayer perceptron whose units take part by the masks that its controller emits.

    `h_l = m_l * phi(W_l [h_(l-1), s_l] + b_l)` and `y = gain * (W h_L + b)`. With depth gates the layers after
    the first are residual, `h_l = h_(l-1) + g_l (f_l(h_(l-1)) - h_(l-1))` with `g_l = ramp(D - l + 1)`, so that
    the effective depth `D` is trainable as well.
    """

    layers: tuple[Dense, ...]
    readout: Dense
    controller: AbstractController
    depth_weight: Float[Array, ""] | None
    choice: Choice | None
    """What each layer's activation is chosen by; None: all layers have the one that `activation` names."""
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int,
        *,
        controller: AbstractController,
        activation: str = "tanh",
        size_input: bool = False,
        initial_depth: Float[Array, ""] | None = None,
        initialisation: str = "fan-in",
        fan_in: Float[Array, " depth"] | None = None,
        key: PRNGKeyArray,
    ):
        """Draw the weights.

        The capacity of the controller gives the hidden layers. The activation is a name in `ACTIVATIONS`, or a
        choice for each layer such as `choose:tanh,relu,sin`. With `size_input` each hidden layer is told its
        own size. The effective depth at the start is in `[1, depth]`; None: no gates, every layer counts.
        Weights are uniform on `1/sqrt(inputs)` (`fan-in`) or on `[-1, 1]` (`unit-uniform`); `fan_in` units of
        each hidden layer count as inputs of the next (None: all of them).

        Raises:
            ValueError: If the activation or the initialisation is unknown, or depth gates meet layers of
                different capacity.
        """
        capacity = controller.capacity
        names = validation.choice("activation", activation, names=tuple(ACTIVATIONS))
        if initialisation not in ("fan-in", "unit-uniform"):
            raise ValueError(f"`initialisation` must be fan-in or unit-uniform; got {initialisation!r}.")
        if initial_depth is not None and len(set(capacity)) > 1:
            raise ValueError(f"depth gates need hidden layers of equal capacity; got {capacity}.")
        counted = jnp.array(capacity, jnp.float32) if fan_in is None else jnp.maximum(fan_in, 1.0)
        inputs = jnp.concatenate([jnp.full(1, float(in_size)), counted]) + float(size_input)
        inputs = inputs.at[-1].add(-float(size_input))
        bounds = jnp.ones_like(inputs) if initialisation == "unit-uniform" else 1.0 / jnp.sqrt(inputs)
        in_sizes, out_sizes = (in_size, *capacity), (*capacity, out_size)
        shapes = zip(in_sizes, out_sizes, bounds, jr.split(key, len(in_sizes)), strict=True)
        *hidden, self.readout = (
            Dense(own_in, own_out, size_input=size_input and n < len(capacity), bound=bound, key=layer_key)
            for n, (own_in, own_out, bound, layer_key) in enumerate(shapes)
        )
        self.layers = tuple(hidden)
        self.controller, self.activation = controller, activation
        self.depth_weight = initial_depth
        self.choice = Choice.among(*names, depth=(len(capacity),)) if names else None

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        """Outputs of one sample."""
        return self.batch(x[:, None])[:, 0]

    def batch(self, x: Float[Array, "in_size samples"]) -> Float[Array, "out_size samples"]:
        """Outputs of many samples, one a column: the layout in which training is fastest."""
        hidden, mask, _ = self._hidden(x)
        gain = self.controller.gain()  # in the weights, where it costs nothing
        return _affine(gain * self.readout.weight * mask[None], gain * self.readout.bias, hidden)

    def features(self, x: Float[Array, "in_size samples"]) -> Float[Array, "units samples"]:
        """What the read-out sees of many samples, one a column: its outputs are `gain * (W features + b)`.

        A unit whose participation is below `masks.PRESENT` is none.
        """
        hidden, mask, _ = self._hidden(x)
        return hidden * jnp.where(mask < masks.PRESENT, 0.0, mask)[:, None]

    def activations(
        self, inputs: Float[Array, "samples in_size"]
    ) -> tuple[Float[Array, "_capacity samples"], ...]:
        """Activations of every hidden layer before its mask."""
        return self._hidden(inputs.T)[2]

    @property
    def structure(self) -> Structure:
        """A group a hidden layer: its rows make the units, and the columns of the next layer read them."""
        ends = self.layers[0].weight.shape[-1], self.readout.weight.shape[-2]
        capacity = [layer.weight.shape[-2] for layer in self.layers]
        places = [Layout(ends[0], "input"), *(Layout(own, group=g) for g, own in enumerate(capacity))]
        leaves = []
        for index, (before, own) in enumerate(zip(places, [*places[1:], Layout(ends[1])], strict=True)):
            path = f".layers[{index}]" if index < len(capacity) else ".readout"
            reads = frozenset(range(index)[-1:])
            leaves.append(Leaf(f"{path}.weight", (own, before), (frozenset(), reads), True))
            for name in ("bias", "size_weight"):
                leaves.append(Leaf(f"{path}.{name}", (own,), (frozenset(),), True))
        layers = tuple(Group((f"hidden layer {index}",), units) for index, units in enumerate(capacity))
        return Structure(layers, tuple(leaves), example=((ends[:1], jnp.dtype(jnp.float32)),))

    def gates(self) -> Float[Array, " depth"]:
        """Share of each hidden layer in its residual step, in `[0, 1]`; the first is always 1."""
        depth = len(self.layers)
        if self.depth_weight is None:
            return jnp.ones(depth, self.sizes().dtype)
        return masks.participation(jnp.maximum(self.depth_weight, 1.0), depth, self.controller.mask)

    def reordered(self, orders: Sequence[Int[Array, " _units"]], last: Int[Array, ""]) -> "GrowingMLP":
        """The same function with the units of every layer in another order, as of `AbstractSized`."""
        moved = groups.permuted(self, self.structure, orders)
        if self.depth_weight is None:
            return moved
        seen = self.readout.weight[:, jnp.stack(orders)[last]]
        return eqx.tree_at(lambda net: net.readout.weight, moved, seen)

    def resized(self, controller: AbstractController) -> "GrowingMLP":
        """This network under a controller of its new capacity, as of `AbstractSized`."""
        return eqx.tree_at(lambda net: net.controller, self, controller)

    def mean_squares(self) -> list[tuple[Float[Array, ""], Float[Array, ""]]]:
        """Mean square of each matrix and the number of its weights, counted by their units' participation."""
        masks, gates = jax.lax.stop_gradient((self.participation(), self.gates()))
        matrices = [*(layer.weight for layer in self.layers), self.readout.weight]
        own = [*(gate * mask for gate, mask in zip(gates, masks, strict=True)), jnp.ones(matrices[-1].shape[0])]
        befores = [jnp.ones(matrices[0].shape[1]), masks[0]]
        for gate, mask in zip(gates[1:], masks[1:], strict=True):
            is_gated = self.depth_weight is not None
            befores.append((1.0 - gate) * befores[-1] + gate * mask if is_gated else mask)
        numbers = [jnp.sum(after) * jnp.sum(before) for before, after in zip(befores, own, strict=True)]
        parts = zip(matrices, befores, own, numbers, strict=True)
        return [
            (after @ m**2 @ before / jnp.maximum(number, 1e-6), number) for m, before, after, number in parts
        ]

    def weight_cost(self) -> tuple[Float[Array, " _units"], ...]:
        """Nats of each unit's incoming weights under the prior (`mean_squares`), as of `AbstractSized`."""
        scales = [jnp.maximum(square, 1.0) for square, _ in jax.lax.stop_gradient(self.mean_squares())]
        pairs = zip(self.layers, scales, strict=False)  # the last scale is the read-out's
        return tuple(jnp.sum(own.weight**2, axis=1) / (2.0 * scale) for own, scale in pairs)

    def unit_parameters(self, sizes: PerGroup, inputs: Float[Array, ""]) -> PerGroup:
        """Links to the units before and to those after, as far as their gates are open, and a bias."""
        gates, outputs = self.gates(), self.readout.weight.shape[0]
        before = jnp.concatenate([inputs[None], sizes[:-1]])
        ahead = jnp.append(gates[1:], 0.0)
        after = ahead * jnp.append(sizes[1:], 0.0) + (1.0 - ahead) * outputs
        return before + 1.0 + after

    def parameter_count(self, sizes: Float[Array, " depth"]) -> Float[Array, ""]:
        """Weights and biases between all layers, counted as open; a size input folds into a bias."""
        ins, outs = float(self.layers[0].weight.shape[1]), float(self.readout.weight.shape[0])
        return jnp.sum((jnp.append(jnp.full(1, ins), sizes) + 1.0) * jnp.append(sizes, outs))

    def _hidden(self, x):
        """The last hidden layer before its mask, that mask, and the activations of every layer."""
        sizes, gates = self.controller.sizes(), self.gates()
        hidden, mask, every = x, jnp.ones(x.shape[0], x.dtype), ()
        for index, (layer, own) in enumerate(zip(self.layers, self.participation(), strict=True)):
            bias = layer.bias if layer.size_weight is None else layer.bias + sizes[index] * layer.size_weight
            active = _affine(layer.weight * mask[None], bias, hidden)
            active = ACTIVATIONS[self.activation](active) if self.choice is None else self.choice(active, index)
            every = (*every, active)
            if self.depth_weight is None or index == 0:
                hidden, mask = active, own
            else:
                before, after = hidden * mask[:, None], active * own[:, None]
                hidden, mask = before + gates[index] * (after - before), jnp.ones_like(own)
        return hidden, mask, every


def with_rescaled_size_input(net: GrowingMLP, target_size: Float[Array, ""]) -> GrowingMLP:
    """The network with the weights of its size input divided by the target size (arm `rescaled`)."""
    columns = lambda n: [layer.size_weight for layer in n.layers]  # noqa: E731
    divided = [None if own is None else own / target_size for own in columns(net)]
    return eqx.tree_at(columns, net, divided, is_leaf=lambda x: x is None)


_FEW = 48
"""Samples up to which the bias joins the matrix product as a row of ones; above, it is added afterwards."""


def _affine(
    weight: Float[Array, "out_size in_size"],
    bias: Float[Array, " out_size"],
    hidden: Float[Array, "in_size samples"],
) -> Float[Array, "out_size samples"]:
    """`W h + b`, arranged so that the sum over samples in the bias's gradient is a matrix product.

    Measured on CPU (`benchmarks/engine.py`): reductions cost more than products, and which of the two
    arrangements is faster depends on the number of samples.
    """
    if hidden.shape[1] <= _FEW:
        ones = jnp.ones_like(hidden[:1])
        return jnp.concatenate([weight, bias[:, None]], 1) @ jnp.concatenate([hidden, ones])
    return _affine_of_many(weight, bias, hidden)


@jax.custom_vjp
def _affine_of_many(weight, bias, hidden):
    return weight @ hidden + bias[:, None]


def _affine_backward(saved, cotangent):
    weight, hidden = saved
    ones = jnp.ones(hidden.shape[1], hidden.dtype)
    return cotangent @ hidden.T, cotangent @ ones, weight.T @ cotangent


_affine_of_many.defvjp(lambda w, b, hidden: (_affine_of_many(w, b, hidden), (w, hidden)), _affine_backward)
