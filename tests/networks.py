"""Networks for the tests of surgery and tracing: every controller, few shapes, and what hypothesis draws.

Their numbers are drawn by NumPy and their outputs computed by it: what these tests cost is compiling.
"""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from n3.nn import norms
from n3.nn.controllers import CONTROLLERS, Fixed, make_controller
from n3.nn.losses import Samples
from n3.nn.mlp import GrowingMLP
from n3.surgery.compact import CompactMLP
from n3.tracing.grow import grow
from n3.tracing.trace import find_structure

KINDS = (*CONTROLLERS, "layerwise controller", "layerwise released")
BY_HAND = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu": lambda x: 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "sin": np.sin,
    "identity": lambda x: x,
}
"""Activations in double precision."""
UNRANKED = ("released", "warmup", "layerwise released")
"""Kinds under which all units take part alike."""
BOUNDED = ("controller", "released", "warmup")
"""Kinds whose weight is the angle of their share of the capacity."""
CLOSE = {"rtol": 1e-5, "atol": 3e-6}
CAPACITIES = ((4,), (4, 3), (4, 4, 4))
"""Few, for every further one is compiled for."""
quick = settings(
    deadline=None,
    max_examples=10,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def filled(make, *, seed=0):
    """What a function returns, its numbers drawn anew by NumPy: nothing is compiled.

    Matrices are uniform on `1 / sqrt(inputs)`, other numbers on 0.6; whole numbers are 3, truth values true.
    """
    return drawn(eqx.filter_eval_shape(make), seed=seed)


def drawn(like, *, seed=0):
    """A tree with numbers in place of shapes, as `filled` draws them."""
    generator = np.random.default_rng(seed)

    def of(leaf):
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(np.full(leaf.shape, 3).astype(leaf.dtype))
        bound = 1.0 / math.sqrt(math.prod(leaf.shape[1:])) if len(leaf.shape) > 1 else 0.6
        return jnp.asarray(generator.uniform(-bound, bound, leaf.shape).astype(leaf.dtype))

    return jax.tree.map(of, like)


class Between(eqx.Module):
    """A linear layer of 16 channels, any function of them, and a linear layer that reads the result."""

    first: eqx.nn.Linear
    last: eqx.nn.Linear
    function: object = eqx.field(static=True)

    def __call__(self, x):
        return self.last(self.function(self.first(x)))


@functools.cache
def _linears(out):
    return filled(lambda: [eqx.nn.Linear(5, 16, key=jr.key(0)), eqx.nn.Linear(out, 2, key=jr.key(0))])


def between(function, out=16):
    """A function of 16 channels between two layers that read 5 numbers and give 2."""
    return Between(*_linears(out), function)


@functools.cache
def convolutional():
    """Two convolutions, a hidden layer under a norm, and what belongs to whom; it reads `[2, 4, 4]`."""
    nn, key = eqx.nn, jr.key(0)
    model = filled(
        lambda: nn.Sequential(
            [
                nn.Conv2d(2, 4, 3, padding=1, key=key),
                nn.Lambda(jax.nn.sigmoid),
                nn.Conv2d(4, 6, 3, padding=1, key=key),
                nn.MaxPool2d(2, 2),
                nn.Lambda(jnp.ravel),
                nn.Linear(24, 5, key=key),
                nn.LayerNorm(5),
                nn.Linear(5, 3, key=key),
            ]
        )
    )
    model = norms.participating(model)
    return model, find_structure(model, [jax.ShapeDtypeStruct((2, 4, 4), jnp.float32)], None)


def controller(kind, capacity, sizes, *, mask="sine"):
    """A controller of a kind in `KINDS` that starts at the sizes given."""
    word, _, rest = kind.partition(" ")
    base = rest or ("auxiliary" if word == "layerwise" else word)
    sizes = np.broadcast_to(np.asarray(sizes, np.float32), len(capacity))
    shares = np.clip(sizes / np.array(capacity), 0.0, 1.0)
    weights = 2.0 / math.pi * np.arcsin(np.sqrt(shares)) if base in BOUNDED else sizes
    is_layerwise = word == "layerwise"
    leaves, structure = jax.tree.flatten(_controller_shapes(base, capacity, is_layerwise, mask))
    each = np.split(weights, len(capacity)) if is_layerwise else [weights] * len(leaves)
    values = [own if leaf.shape else own[0] for own, leaf in zip(each, leaves, strict=True)]
    return jax.tree.unflatten(structure, [jnp.asarray(np.asarray(own, np.float32)) for own in values])


@functools.cache
def _controller_shapes(kind, capacity, is_layerwise, mask):
    options = {"is_layerwise": is_layerwise, "mask": mask}
    depth = len(capacity)
    return eqx.filter_eval_shape(
        lambda: make_controller(kind, capacity, initial_size=jnp.ones(depth), key=jr.key(0), **options)
    )


@functools.cache
def _network_shapes(capacity, size_input, activation, is_gated):
    def make():
        fixed, depth = Fixed(jnp.ones(len(capacity)), capacity), jnp.ones(()) if is_gated else None
        settings = {"size_input": size_input, "activation": activation, "initial_depth": depth}
        return GrowingMLP(2, 3, controller=fixed, key=jr.key(0), **settings)

    return eqx.filter_eval_shape(make)


def network(
    kind="auxiliary",
    capacity=(4, 4),
    sizes=2.3,
    *,
    depth=None,
    mask="sine",
    size_input=True,
    activation="tanh",
    seed=0,
):
    """A network of two inputs and three outputs; a choice of activations is hard."""
    net = drawn(_network_shapes(capacity, size_input, activation, depth is not None), seed=seed)
    net = eqx.tree_at(lambda n: n.controller, net, controller(kind, capacity, sizes, mask=mask))
    if depth is not None:
        net = eqx.tree_at(lambda n: n.depth_weight, net, jnp.asarray(np.float32(depth)))
    if net.choice is None:
        return net
    return eqx.tree_at(lambda n: n.choice.temperature, net, jnp.asarray(np.float32(0.0)))


@st.composite
def shapes(draw, kinds=KINDS, gated=None):
    """What `network` makes small ones of; `gated` decides about depth gates, None leaves that open."""
    is_gated = draw(st.booleans()) if gated is None else gated
    capacity = draw(st.sampled_from(CAPACITIES))
    capacity = capacity[:1] * len(capacity) if is_gated else capacity
    layers = len(capacity)
    quarters = [draw(st.integers(0, 4 * min(capacity))) for _ in capacity]
    return {
        "kind": draw(st.sampled_from(kinds)),
        "capacity": capacity,
        "sizes": [number / 4 for number in quarters],
        "depth": draw(st.integers(4, 4 * layers)) / 4 if is_gated else None,
        "mask": draw(st.sampled_from(["sine", "hard"])),
        "size_input": draw(st.booleans()),
        "activation": draw(st.sampled_from(["tanh", "softplus", "choose:tanh,softplus,identity"])),
        "seed": draw(st.integers(0, 3)),
    }


@functools.cache
def grown_perceptron():
    """A model of Equinox that `n3.grow` made, with two inputs and three outputs."""
    model = filled(lambda: eqx.nn.MLP(2, 3, 8, 2, key=jr.key(0)))
    example = jax.ShapeDtypeStruct((2,), jnp.float32)
    return grow(model, example=example, key=jr.key(1), method="auxiliary", initial_size=3.5)


def normal(*shape, seed=77):
    """Normal numbers in single precision."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def inputs(samples=7):
    """A sample a column."""
    return normal(2, samples)


def task(samples=60, seed=5):
    """Two inputs and three targets."""
    x = np.random.default_rng(seed).normal(size=(2, samples)).astype(np.float32)
    y = np.stack([np.sin(2 * x[0]), x[0] * x[1], np.cos(x[1])])
    shares = np.full(samples, 1.0 / samples, np.float32)
    return Samples(*(jnp.asarray(own) for own in (x, y, shares)))


@eqx.filter_jit
def outputs(net, x):
    return net.batch(x)


def reference(net, samples=7):
    """Outputs of `inputs(samples)`, choices being hard, by plain arithmetic in double precision, uncompiled."""
    h = np.asarray(inputs(samples), np.float64)
    if isinstance(net, CompactMLP):
        for layer in (*net.layers, net.readout):
            active = BY_HAND[layer.activation](np.asarray(layer.weight) @ h + np.asarray(layer.bias)[:, None])
            h = np.concatenate([h, active]) if layer.keeps_input else active
        return h
    masks, gates, sizes = net.participation(), np.asarray(net.gates()), np.asarray(net.controller.sizes())
    for index, (layer, mask) in enumerate(zip(net.layers, masks, strict=True)):
        bias = np.asarray(layer.bias, np.float64)
        bias = bias if layer.size_weight is None else bias + sizes[index] * np.asarray(layer.size_weight)
        name = net.activation if net.choice is None else net.choice.chosen()[index]
        active = BY_HAND[name](np.asarray(layer.weight) @ h + bias[:, None])
        active *= np.asarray(mask)[:, None]
        h = h + gates[index] * (active - h) if index and gates[index] < 1 else active
    gain = float(net.controller.gain())
    return gain * (np.asarray(net.readout.weight) @ h + np.asarray(net.readout.bias)[:, None])


def optimiser(name):
    return {"adam": optax.adam(1e-2), "sgd": optax.sgd(1e-2, momentum=0.9)}[name]


def moments(name, net, *, seed=9):
    """An optimiser state over a network as after some steps, of drawn numbers that are not negative."""
    state = filled(lambda: optimiser(name).init(net), seed=seed)
    return jax.tree.map(lambda leaf: jnp.asarray(np.abs(np.asarray(leaf))), state)


@eqx.filter_jit
def stepped(name, net, state, samples):
    """The next update, and the network and the state after it."""

    def loss(n):
        return jnp.mean((n.batch(samples.inputs) - samples.targets) ** 2)

    with jax.numpy_dtype_promotion("standard"):
        updates, state = optimiser(name).update(eqx.filter_grad(loss)(net), state, net)
    return updates, eqx.apply_updates(net, updates), state


def trained(name, net, samples, steps=3):
    """A network some steps on, and its optimiser state."""
    state = optimiser(name).init(net)
    for _ in range(steps):
        _, net, state = stepped(name, net, state, samples)
    return net, state


def silenced(net, layer, units):
    """The network with the outgoing weights of some units at zero, along a residual stream everywhere."""
    for after in [layer] if net.depth_weight is None else range(len(net.layers)):

        def weight(n, after=after):
            return [*n.layers[1:], n.readout][after].weight

        muted = np.array(weight(net))
        muted[:, np.array(units, int)] = 0.0
        net = eqx.tree_at(weight, net, jnp.asarray(muted))
    return net


class Residual(eqx.Module):
    """A stream of 8 channels, normalised for a branch of 6 that is added; no activation is zero at zero."""

    stem: eqx.nn.Linear
    inner: eqx.nn.Linear
    outer: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self):
        keys = jr.split(jr.key(2), 4)
        self.stem, self.inner = eqx.nn.Linear(5, 8, key=keys[0]), eqx.nn.Linear(8, 6, key=keys[1])
        self.outer, self.head = eqx.nn.Linear(6, 8, key=keys[2]), eqx.nn.Linear(8, 3, key=keys[3])
        self.norm = eqx.nn.LayerNorm(8)

    def __call__(self, x):
        h = jax.nn.softplus(self.stem(x))
        return self.head(h + self.outer(jax.nn.sigmoid(self.inner(self.norm(h)))))
