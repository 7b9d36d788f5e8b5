"""Networks for the tests of surgery: every controller, any shape, and what hypothesis draws of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from n3.nn.controllers import CONTROLLERS, make_controller
from n3.nn.losses import Samples
from n3.nn.mlp import Choice, GrowingMLP
from n3.surgery.compact import CompactMLP

KINDS = (*CONTROLLERS, "layerwise controller", "layerwise released")
BY_HAND = {"tanh": np.tanh, "softplus": lambda x: np.log1p(np.exp(x)), "identity": lambda x: x}
UNRANKED = ("released", "warmup", "layerwise released")
"""Kinds under which all units take part alike."""
CLOSE = {"rtol": 1e-5, "atol": 3e-6}
quick = settings(
    deadline=None,
    max_examples=10,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


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
    sizes = jnp.broadcast_to(jnp.asarray(sizes, jnp.float32), (len(capacity),))
    word, _, rest = kind.partition(" ")
    controller = make_controller(
        rest or word,
        capacity,
        is_layerwise=bool(rest),
        initial_size=sizes,
        mask=mask,
        key=jr.key(seed + 100),
    )
    net = GrowingMLP(
        2,
        3,
        controller=controller,
        size_input=size_input,
        activation=activation,
        initial_depth=None if depth is None else jnp.float32(depth),
        key=jr.key(seed),
    )
    if net.choice is None:
        return net
    logits = jr.normal(jr.key(seed + 200), net.choice.logits.shape)
    return eqx.tree_at(lambda n: n.choice, net, Choice(logits, jnp.zeros(()), net.choice.names))  # hard


@st.composite
def shapes(draw, kinds=KINDS, gated=None):
    """What `network` makes small ones of; `gated` decides about depth gates, None leaves that open."""
    is_gated = draw(st.booleans()) if gated is None else gated
    layers = draw(st.integers(1, 3))
    some = st.sampled_from([1, 3, 4])
    capacity = tuple(draw(st.lists(some, min_size=layers, max_size=layers)))
    capacity = capacity[:1] * layers if is_gated else capacity
    quarters = [draw(st.integers(0, 4 * min(capacity))) for _ in capacity]
    return {
        "kind": draw(st.sampled_from(kinds)),
        "capacity": capacity,
        "sizes": [number / 4 for number in quarters],
        "depth": draw(st.integers(4, 4 * layers)) / 4 if is_gated else None,
        "mask": draw(st.sampled_from(["sine", "linear", "hard"])),
        "size_input": draw(st.booleans()),
        "activation": draw(st.sampled_from(["tanh", "softplus", "choose:tanh,softplus,identity"])),
        "seed": draw(st.integers(0, 3)),
    }


def inputs(samples=7):
    return jr.normal(jr.key(77), (2, samples))


def task(samples=60, seed=5):
    """Two inputs and three targets."""
    x = jr.normal(jr.key(seed), (2, samples))
    y = jnp.stack([jnp.sin(2 * x[0]), x[0] * x[1], jnp.cos(x[1])])
    return Samples(x, y, jnp.full(samples, 1.0 / samples))


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
        name = net.activation if net.choice is None else net.choice.winners()[index]
        active = BY_HAND[name](np.asarray(layer.weight) @ h + bias[:, None])
        active *= np.asarray(mask)[:, None]
        h = h + gates[index] * (active - h) if index and gates[index] < 1 else active
    gain = float(net.controller.gain())
    return gain * (np.asarray(net.readout.weight) @ h + np.asarray(net.readout.bias)[:, None])


def optimiser(name):
    return {"adam": optax.adam(1e-2), "sgd": optax.sgd(1e-2, momentum=0.9)}[name]


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

        net = eqx.tree_at(weight, net, weight(net).at[:, np.array(units, int)].set(0.0))
    return net
