"""Trace: which layers share channels, who reads them and what they see, and what is refused with its reason."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.nn import norms
from n3.tracing.trace import activations, find_structure, layers_in, operands, takes_key, traced
from networks import between, convolutional, filled, normal

KEY = jr.key(0)
Lambda, Sequential, Linear, Conv2d = eqx.nn.Lambda, eqx.nn.Sequential, eqx.nn.Linear, eqx.nn.Conv2d
IMAGE, ROW = jax.ShapeDtypeStruct((1, 8, 8), jnp.float32), jax.ShapeDtypeStruct((5,), jnp.float32)


class Residual(eqx.Module):
    """A stream of 16 channels to which a branch of 12 is added."""

    stem: Linear
    inner: Linear
    outer: Linear
    norm: eqx.nn.LayerNorm
    scale: jax.Array
    head: Linear

    def __init__(self):
        self.stem, self.inner = Linear(5, 16, key=KEY), Linear(16, 12, key=KEY)
        self.outer, self.head = Linear(12, 16, key=KEY), Linear(16, 3, key=KEY)
        self.norm, self.scale = eqx.nn.LayerNorm(16), jnp.ones(16)

    def __call__(self, x):
        h = jnp.tanh(self.stem(x))
        return self.head(h + self.scale * self.outer(jax.nn.relu(self.inner(self.norm(h)))))


class Branches(eqx.Module):
    """Two convolutions side by side, concatenated, of which the second is depthwise after another."""

    left: Conv2d
    right: Conv2d
    depthwise: Conv2d
    last: Conv2d

    def __init__(self):
        self.left, self.right = Conv2d(1, 4, 3, padding=1, key=KEY), Conv2d(1, 6, 1, key=KEY)
        self.depthwise = Conv2d(6, 6, 3, padding=1, groups=6, key=KEY)
        self.last = Conv2d(10, 1, 1, key=KEY)

    def __call__(self, x):
        return self.last(jnp.concatenate([self.left(x), self.depthwise(jnp.tanh(self.right(x)))]))


class Recurrent(eqx.Module):
    """A layer that reads its own channels, and the transpose of the first as the last."""

    first: Linear
    again: Linear

    def __init__(self):
        self.first, self.again = Linear(5, 8, key=KEY), Linear(8, 8, key=KEY)

    def __call__(self, x):
        h = jnp.tanh(self.first(x))
        return self.first.weight.T @ jnp.tanh(self.again(jnp.tanh(self.again(h))))


def two_convolutions():
    parts = [Conv2d(1, 8, 3, padding=1, key=KEY), Lambda(jax.nn.relu), eqx.nn.MaxPool2d(2, 2)]
    parts += [Conv2d(8, 12, 3, key=KEY), eqx.nn.AvgPool2d(2, 2), Lambda(jnp.ravel), eqx.nn.Dropout(0.5)]
    return Sequential([*parts, Linear(12, 10, key=KEY)])


def structure_of(model, example, chosen=None):
    return find_structure(norms.participating(model), [example], chosen)


def groups_of(model, example, chosen=None):
    return [(group.layers, group.units) for group in structure_of(model, example, chosen).groups]


def reads_of(structure):
    """Path, axis and group of every parameter that is multiplied by participation."""
    return {
        (leaf.path, axis, n) for leaf in structure.leaves for axis, own in enumerate(leaf.reads) for n in own
    }


@pytest.mark.parametrize(
    "make, example, groups, reads",
    [
        (
            lambda: eqx.nn.MLP(5, 3, 16, 2, key=KEY),
            ROW,
            [((".layers[0]",), 16), ((".layers[1]",), 16)],
            {(".layers[1].weight", 1, 0), (".layers[2].weight", 1, 1)},
        ),
        (
            two_convolutions,
            IMAGE,
            [((".layers[0]",), 8), ((".layers[3]",), 12)],
            {(".layers[3].weight", 1, 0), (".layers[7].weight", 1, 1)},
        ),
        (
            Residual,
            ROW,
            [((".stem", ".outer"), 16), ((".inner",), 12)],
            {(".norm.share", 0, 0), (".inner.weight", 1, 0), (".head.weight", 1, 0), (".outer.weight", 1, 1)},
        ),
        (
            Branches,
            IMAGE,
            [((".left",), 4), ((".right", ".depthwise"), 6)],
            {(".last.weight", 1, 0), (".last.weight", 1, 1)},
        ),
        (Recurrent, ROW, [((".first", ".again"), 8)], {(".again.weight", 1, 0), (".first.weight", 0, 0)}),
        (lambda: between(jax.nn.glu, out=8), ROW, [((".first",), 8)], {(".last.weight", 1, 0)}),
    ],
    ids=["mlp", "convolutional", "residual", "branches", "recurrent", "gated"],
)
def test_groups_and_readers_by_hand(make, example, groups, reads):
    structure = structure_of(filled(make), example)
    assert [(group.layers, group.units) for group in structure.groups] == groups
    assert reads_of(structure) == reads


def test_elementwise_parameters_come_and_go_with_their_channels():
    leaves = {leaf.path for leaf in structure_of(filled(Residual), ROW, [".stem"]).leaves}
    assert leaves == {
        *(f".{name}.{kind}" for name in ("stem", "outer") for kind in ("weight", "bias")),
        *(".scale", ".norm.share", ".norm.norm.weight", ".norm.norm.bias", ".inner.weight", ".head.weight"),
    }


def test_choosing_one_layer_of_a_sum_chooses_both():
    assert groups_of(filled(Residual), ROW, [".outer"]) == [((".stem", ".outer"), 16)]


def test_the_reason_names_the_line_of_the_model():
    with pytest.raises(ValueError, match=r"reduce_max` at .*test_trace\.py"):
        structure_of(between(lambda h: h / jnp.max(h)), ROW)


def test_channels_of_input_and_output_are_left_alone_unless_asked_for():
    class Skip(eqx.Module):
        up: Linear
        down: Linear
        out: Linear

        def __call__(self, x):
            return self.out(x + self.down(jnp.tanh(self.up(x))))

    model = filled(lambda: Skip(Linear(5, 9, key=KEY), Linear(9, 5, key=KEY), Linear(5, 2, key=KEY)))
    assert groups_of(model, ROW) == [((".up",), 9)]
    with pytest.raises(
        ValueError, match=r"leave out layer \.down: as to its channels, they are the model's input"
    ):
        structure_of(model, ROW, [".down"])
    with pytest.raises(
        ValueError, match=r"leave out layer \.out: as to its channels, they are the model's output"
    ):
        structure_of(model, ROW, [".out"])


def test_layers_that_nothing_reads_or_that_have_one_channel_are_refused_if_asked_for():
    class Spare(eqx.Module):
        used: eqx.Module
        unused: Linear

        def __call__(self, x):
            return self.used(x)

    found = Spare(between(lambda h: h), filled(lambda: Linear(5, 3, key=KEY)))
    assert groups_of(found, ROW) == [((".used.first",), 16)]
    with pytest.raises(ValueError, match=r"\.unused: as to its channels, nothing reads them"):
        structure_of(found, ROW, [".unused"])
    narrow = filled(lambda: Sequential([Linear(5, 1, key=KEY), Linear(1, 2, key=KEY)]))
    with pytest.raises(ValueError, match=r"layers\[0\]: as to its channels, there is only one"):
        structure_of(narrow, ROW, [".layers[0]"])
    with pytest.raises(ValueError, match="hidden linear or convolutional layer; got none"):
        structure_of(narrow, ROW)


def test_every_kind_of_layer_is_found_by_its_path():
    model = filled(lambda: [Linear(2, 3, key=KEY), (eqx.nn.Conv1d(1, 2, 1, key=KEY),), eqx.nn.LayerNorm(3)])
    assert list(layers_in(model)) == ["[0]", "[1][0]"]


def test_activations_are_what_the_reader_sees():
    model, structure = convolutional()
    x = normal(2, 4, 4)

    @eqx.filter_jit
    def by_layers(model):
        first = jax.nn.sigmoid(model.layers[0](x))
        second = model.layers[3](model.layers[2](first))
        return [first, second, model.layers[6](model.layers[5](second.reshape(-1)))]

    *images, row = by_layers(model)
    expected = [*(np.asarray(own).mean(axis=(1, 2)) for own in images), row]
    found = eqx.filter_jit(lambda model: activations(model, structure, [x]))(model)
    for own, by_hand in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, by_hand, rtol=1e-5, atol=1e-6)


def test_operands_are_found_within_called_functions():
    @jax.jit
    def inner(weight, x):
        return weight @ jnp.sum(jnp.stack([x, x]), axis=0)

    def program(weight, x):
        return inner(2.0 * weight, jax.nn.softmax(inner(weight, x)))

    weight, x = np.float32([[1.0, 2.0], [0.5, -1.0]]), np.float32([0.3, 0.7])
    closed = jax.make_jaxpr(program)(weight, x)
    found = jax.jit(lambda *arguments: operands(closed, arguments, [(1, 0), (4, 0), (1, 1)]))
    first, last, twice = found(weight, x)
    np.testing.assert_allclose(first, weight)
    np.testing.assert_allclose(last, 2.0 * weight)
    np.testing.assert_allclose(twice, 2.0 * x)


def test_a_gradient_goes_through_operands():
    weight = jnp.asarray(np.ones((1, 3), np.float32))
    program = jax.make_jaxpr(lambda w, x: w @ jax.nn.relu(x))(weight, np.ones(3, np.float32))

    def seen(x):
        return jnp.sum(operands(program, [weight, x], [(0, 1)])[0])

    # the derivative of `jax.nn.relu` at 0 is 0 by its own rule, not 1/2
    np.testing.assert_array_equal(jax.jit(jax.grad(seen))(np.float32([-1.0, 0.0, 2.0])), [0, 0, 1])


def test_a_key_is_given_to_those_that_take_one():
    assert takes_key(filled(lambda: eqx.nn.MLP(2, 1, 4, 1, key=KEY)))
    assert not takes_key(lambda x: x)
    program, leaves = traced(eqx.nn.Dropout(0.5), [ROW])
    assert len(program.jaxpr.eqns) == 0
    assert leaves == []
