"""Dependence: which layers share channels, who reads them, and what is refused with its path and reason."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.nn import norms
from n3.tracing.trace import find_structure, layers_in

KEYS = jr.split(jr.key(0), 8)
Lambda, Sequential, Linear, Conv2d = eqx.nn.Lambda, eqx.nn.Sequential, eqx.nn.Linear, eqx.nn.Conv2d
IMAGE, ROW = jax.ShapeDtypeStruct((1, 8, 8), jnp.float32), jax.ShapeDtypeStruct((5,), jnp.float32)


class Between(eqx.Module):
    """A linear layer, any function of its 16 channels, and a linear layer that reads the result."""

    first: Linear
    last: Linear
    function: object = eqx.field(static=True)

    def __init__(self, function, out=16):
        self.first, self.last = Linear(5, 16, key=KEYS[0]), Linear(out, 2, key=KEYS[1])
        self.function = function

    def __call__(self, x):
        return self.last(self.function(self.first(x)))


class Residual(eqx.Module):
    """A stream of 16 channels to which a branch of 12 is added."""

    stem: Linear
    inner: Linear
    outer: Linear
    norm: eqx.nn.LayerNorm
    scale: jax.Array
    head: Linear

    def __init__(self):
        self.stem, self.inner = Linear(5, 16, key=KEYS[0]), Linear(16, 12, key=KEYS[1])
        self.outer, self.head = Linear(12, 16, key=KEYS[2]), Linear(16, 3, key=KEYS[3])
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
        self.left, self.right = Conv2d(1, 4, 3, padding=1, key=KEYS[0]), Conv2d(1, 6, 1, key=KEYS[1])
        self.depthwise = Conv2d(6, 6, 3, padding=1, groups=6, key=KEYS[2])
        self.last = Conv2d(10, 1, 1, key=KEYS[3])

    def __call__(self, x):
        return self.last(jnp.concatenate([self.left(x), self.depthwise(jnp.tanh(self.right(x)))]))


class Recurrent(eqx.Module):
    """A layer that reads its own channels, and the transpose of the first as the last."""

    first: Linear
    again: Linear

    def __init__(self):
        self.first, self.again = Linear(5, 8, key=KEYS[0]), Linear(8, 8, key=KEYS[1])

    def __call__(self, x):
        h = jnp.tanh(self.first(x))
        return self.first.weight.T @ jnp.tanh(self.again(jnp.tanh(self.again(h))))


def convolutional(*norm):
    parts = [Conv2d(1, 8, 3, padding=1, key=KEYS[0]), *norm, Lambda(jax.nn.relu), eqx.nn.MaxPool2d(2, 2)]
    parts += [Conv2d(8, 12, 3, key=KEYS[1]), eqx.nn.AvgPool2d(2, 2), Lambda(jnp.ravel), eqx.nn.Dropout(0.5)]
    return Sequential([*parts, Linear(12, 10, key=KEYS[2])])


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
            lambda: eqx.nn.MLP(5, 3, 16, 2, key=KEYS[0]),
            ROW,
            [((".layers[0]",), 16), ((".layers[1]",), 16)],
            {(".layers[1].weight", 1, 0), (".layers[2].weight", 1, 1)},
        ),
        (
            convolutional,
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
        (lambda: Between(jax.nn.glu, out=8), ROW, [((".first",), 8)], {(".last.weight", 1, 0)}),
    ],
    ids=["mlp", "convolutional", "residual", "branches", "recurrent", "gated"],
)
def test_groups_and_readers_by_hand(make, example, groups, reads):
    structure = structure_of(make(), example)
    assert [(group.layers, group.units) for group in structure.groups] == groups
    assert reads_of(structure) == reads


def test_flattening_gives_each_channel_all_its_positions():
    structure = structure_of(
        Sequential([Conv2d(1, 3, 3, padding=1, key=KEYS[0]), Lambda(jnp.ravel), Linear(192, 2, key=KEYS[1])]),
        IMAGE,
    )
    (reader,) = (leaf for leaf in structure.leaves if leaf.path == ".layers[2].weight")
    assert [part.size for part in reader.layouts[1].parts] == [3, 64]
    assert reader.layouts[1].parts[0].group == 0


@pytest.mark.parametrize("groups, units", [(1, 8), (2, 2), (4, 4), (8, 8)])
def test_a_group_norm_binds_its_groups_into_blocks(groups, units):
    found = groups_of(convolutional(eqx.nn.GroupNorm(groups, 8)), IMAGE)
    assert found[0] == ((".layers[0]",), units)


def test_elementwise_parameters_come_and_go_with_their_channels():
    leaves = {leaf.path for leaf in structure_of(Residual(), ROW, [".stem"]).leaves}
    assert leaves == {
        *(f".{name}.{kind}" for name in ("stem", "outer") for kind in ("weight", "bias")),
        *(".scale", ".norm.share", ".norm.norm.weight", ".norm.norm.bias", ".inner.weight", ".head.weight"),
    }


def test_choosing_one_layer_of_a_sum_chooses_both():
    assert groups_of(Residual(), ROW, [".outer"]) == [((".stem", ".outer"), 16)]


def test_tiled_and_repeated_channels_are_read_at_every_place():
    for function, parts in ((lambda h: jnp.tile(h, 2), [2, 16]), (lambda h: jnp.repeat(h, 2), [16, 2])):
        structure = structure_of(Between(function, out=32), ROW)
        (reader,) = (leaf for leaf in structure.leaves if leaf.path == ".last.weight")
        assert [part.size for part in reader.layouts[1].parts] == parts
        assert structure.capacity == (16,)


FUNCTIONS = {
    "elementwise": lambda h: jnp.where(h > 0, jnp.exp(-h), jax.nn.gelu(h) / 2.0) ** 3,
    "called functions": jax.jit(jax.checkpoint(jax.nn.silu)),
    "transposed": lambda h: jnp.transpose(h[:, None], (1, 0))[0],
    "vectorised": lambda h: jnp.sum(jax.vmap(lambda c: jnp.stack([c, c**2]))(h), axis=1),
    "of its own length": lambda h: jnp.cumsum(jnp.stack([h, -h]), axis=0)[1],
    "padded beside": lambda h: jnp.pad(h[:, None], ((0, 0), (1, 2)))[:, 1],
    "picked beside": lambda h: jnp.stack([h, -h])[jnp.array(1)],
    "unstacked": lambda h: sum(jnp.unstack(jnp.stack([h, h]))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_each_channel_pass(name):
    assert groups_of(Between(FUNCTIONS[name]), ROW) == [((".first",), 16)]


REFUSED = {
    "softmax": (jax.nn.softmax, "reduced by `reduce_max`"),
    "sum": (lambda h: h * h.sum(), "summed by `reduce_sum`"),
    "norm by hand": (lambda h: h / jnp.linalg.norm(h), "summed by `reduce_sum`"),
    "product of channels": (lambda h: jnp.outer(h, h) @ h, "summed by `dot_general`"),
    "numbered": (lambda h: h * jnp.arange(16.0), "numbered by `iota`"),
    "reversed": (lambda h: h[::-1], "cut, moved or pooled by `rev`"),
    "sliced": (lambda h: h.at[:8].get(), "cut, moved or pooled by `slice`"),
    "picked": (lambda h: h[jnp.array([3, 1, 2, 0] * 4)], "picked by `gather`"),
    "sorted": (jnp.sort, "does not know what `sort`"),
    "scan": (lambda h: jax.lax.scan(lambda c, _: (c, c), h, None, 2)[0], "does not know what `scan`"),
    "constant": (
        lambda h: h * jnp.asarray(np.linspace(1, 2, 16), jnp.float32),
        "constant that the program holds",
    ),
    "folded": (lambda h: (h.reshape(2, 8) + h.reshape(4, 4).reshape(2, 8)).reshape(16), None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_channels_is_refused_with_path_and_reason(name):
    function, reason = REFUSED[name]
    model = Between(function, out=8 if name == "sliced" else 16)
    if reason is None:
        assert groups_of(model, ROW) == [((".first",), 2)]
        return
    with pytest.raises(ValueError, match=r"leave out layer \.first: as to its channels") as caught:
        structure_of(model, ROW)
    assert reason in str(caught.value)


def test_the_reason_names_the_line_of_the_model():
    with pytest.raises(ValueError, match=r"reduce_max` at .*test_dependence\.py"):
        structure_of(Between(lambda h: h / jnp.max(h)), ROW)


def test_channels_of_input_and_output_are_left_alone_unless_asked_for():
    class Skip(eqx.Module):
        up: Linear
        down: Linear
        out: Linear

        def __call__(self, x):
            return self.out(x + self.down(jnp.tanh(self.up(x))))

    model = Skip(Linear(5, 9, key=KEYS[0]), Linear(9, 5, key=KEYS[1]), Linear(5, 2, key=KEYS[2]))
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
        used: Between
        unused: Linear

        def __call__(self, x):
            return self.used(x)

    found = Spare(Between(lambda h: h), Linear(5, 3, key=KEYS[2]))
    assert groups_of(found, ROW) == [((".used.first",), 16)]
    with pytest.raises(ValueError, match=r"\.unused: as to its channels, nothing reads them"):
        structure_of(found, ROW, [".unused"])
    narrow = Sequential([Linear(5, 1, key=KEYS[0]), Linear(1, 2, key=KEYS[1])])
    with pytest.raises(ValueError, match=r"layers\[0\]: as to its channels, there is only one"):
        structure_of(narrow, ROW, [".layers[0]"])
    with pytest.raises(ValueError, match="hidden linear or convolutional layer; got none"):
        structure_of(narrow, ROW)


def test_every_kind_of_layer_is_found_by_its_path():
    model = [Linear(2, 3, key=KEYS[0]), (eqx.nn.Conv1d(1, 2, 1, key=KEYS[1]),), eqx.nn.LayerNorm(3)]
    assert list(layers_in(model)) == ["[0]", "[1][0]"]
