"""Grown models of every kind: the user's outputs at full participation, the same when compacted."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.nn.norms import ParticipatingNorm
from n3.tracing.grow import compact_model, grow
from networks import Residual

pytestmark = pytest.mark.slow

KEYS = jr.split(jr.key(2), 8)
Linear, Conv2d, Lambda, Sequential = eqx.nn.Linear, eqx.nn.Conv2d, eqx.nn.Lambda, eqx.nn.Sequential
IMAGE, ROW = jax.ShapeDtypeStruct((1, 6, 6), jnp.float32), jax.ShapeDtypeStruct((5,), jnp.float32)
WORDS = jax.ShapeDtypeStruct((4,), jnp.int32)


class Upward(eqx.Module):
    """Down by a strided convolution, a depthwise one, up by a transposed one, beside one that stays."""

    left: Conv2d
    down: Conv2d
    depthwise: Conv2d
    up: eqx.nn.ConvTranspose2d
    last: Conv2d

    def __init__(self):
        self.left, self.down = Conv2d(1, 4, 3, padding=1, key=KEYS[0]), Conv2d(4, 6, 2, 2, key=KEYS[1])
        self.depthwise = Conv2d(6, 6, 3, padding=1, groups=6, key=KEYS[2])
        self.up, self.last = eqx.nn.ConvTranspose2d(6, 5, 2, 2, key=KEYS[3]), Conv2d(9, 1, 1, key=KEYS[4])

    def __call__(self, x):
        h = jax.nn.relu(self.left(x))
        return self.last(jnp.concatenate([h, self.up(self.depthwise(jax.nn.sigmoid(self.down(h))))]))


class Words(eqx.Module):
    """An embedding and a stream of tokens that an attention and a perceptron are added to."""

    embedding: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    perceptron: eqx.nn.MLP
    head: Linear

    def __init__(self):
        self.embedding = eqx.nn.Embedding(7, 6, key=KEYS[0])
        self.attention = eqx.nn.MultiheadAttention(2, 6, key=KEYS[1])
        self.perceptron = eqx.nn.MLP(6, 6, 8, 1, key=KEYS[2])
        self.head = Linear(6, 7, key=KEYS[3])

    def __call__(self, words):
        h = jax.vmap(self.embedding)(words)
        h = h + 4.0 * self.attention(h, h, h)
        return self.head(jnp.mean(h + jax.vmap(self.perceptron)(h), axis=0))


def perceptron():
    parts = [Linear(5, 8, key=KEYS[0]), Lambda(jnp.tanh), eqx.nn.Dropout(0.5), Linear(8, 6, key=KEYS[1])]
    return Sequential([*parts, eqx.nn.RMSNorm(6), Lambda(jax.nn.sigmoid), Linear(6, 3, key=KEYS[2])])


def convolutional(groups=1):
    parts = [Conv2d(1, 8, 3, padding=1, key=KEYS[0]), eqx.nn.GroupNorm(groups, 8), Lambda(jax.nn.softplus)]
    parts += [eqx.nn.MaxPool2d(2, 2), Conv2d(8, 5, 2, key=KEYS[1]), eqx.nn.AvgPool2d(2, 1), Lambda(jnp.ravel)]
    return Sequential([*parts, Linear(5, 4, key=KEYS[2]), Lambda(jax.nn.gelu), Linear(4, 3, key=KEYS[3])])


def one_dimensional():
    parts = [
        eqx.nn.Conv1d(2, 6, 3, key=KEYS[0]),
        Lambda(jax.nn.silu),
        eqx.nn.MaxPool1d(2, 2),
        Lambda(jnp.ravel),
    ]
    return Sequential([*parts, Linear(12, 2, key=KEYS[1])])


MODELS = {
    "perceptron": (perceptron, ROW),
    "perceptron of Equinox": (lambda: eqx.nn.MLP(5, "scalar", 8, 2, jnp.cos, key=KEYS[0]), ROW),
    "residual": (Residual, ROW),
    "convolutional": (convolutional, IMAGE),
    "convolutional, normalised by channel": (lambda: convolutional(8), IMAGE),
    "convolutional, normalised in groups": (lambda: convolutional(4), IMAGE),
    "upward": (Upward, IMAGE),
    "one-dimensional": (one_dimensional, jax.ShapeDtypeStruct((2, 6), jnp.float32)),
}


def drawn(example):
    if jnp.issubdtype(example.dtype, jnp.integer):
        return jr.randint(KEYS[7], example.shape, 0, 7)
    return jr.normal(KEYS[7], example.shape)


def at_sizes(grown, sizes):
    return eqx.tree_at(lambda g: g.controller.weight, grown, jnp.asarray(sizes, jnp.float32))


def parameters(model):
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    make, example = MODELS[request.param]
    model = eqx.nn.inference_mode(make())
    return model, grow(model, example=example, key=KEYS[6]), drawn(example)


def test_full_participation_is_the_users_model(case):
    model, grown, x = case
    np.testing.assert_allclose(grown(x), model(x), rtol=1e-5, atol=1e-6)


def test_a_compacted_model_has_the_same_outputs_and_the_same_class(case):
    model, grown, x = case
    shares = np.random.default_rng(0).uniform(0.2, 0.8, len(grown.group_names))
    partial = at_sizes(grown, shares * np.array(grown.structure.capacity))
    compacted = compact_model(partial)
    assert type(compacted) is type(model)
    assert parameters(compacted) < parameters(model)
    assert np.max(np.abs(partial(x) - model(x))) > 1e-3
    np.testing.assert_allclose(compacted(x), partial(x), rtol=1e-5, atol=1e-6)


def test_whole_sizes_leave_only_layers_and_norms_of_equinox(case):
    model, grown, x = case
    whole = at_sizes(grown, [units - 1 for units in grown.structure.capacity])
    compacted = compact_model(whole)
    is_ours = [
        isinstance(node, ParticipatingNorm)
        for node in jax.tree.leaves(compacted, is_leaf=lambda node: isinstance(node, ParticipatingNorm))
    ]
    assert not any(is_ours)
    np.testing.assert_allclose(compacted(x), whole(x), rtol=1e-5, atol=1e-6)
    assert eqx.tree_equal(jax.tree.structure(compact_model(grown)), jax.tree.structure(model))


def test_a_size_of_zero_keeps_one_channel_that_counts_nothing(case):
    _, grown, x = case
    empty = at_sizes(grown, np.zeros(len(grown.group_names)))
    assert np.isfinite(empty(x)).all()
    np.testing.assert_allclose(compact_model(empty)(x), empty(x), rtol=1e-5, atol=1e-6)


def test_tokens_share_the_layers_of_a_transformer():
    model = Words()
    grown = grow(model, lambda m: (m.perceptron.layers[0], m.attention.output_proj), example=WORDS, key=KEYS[6])
    assert grown.group_names == (".attention.output_proj", ".perceptron.layers[0]")
    partial = at_sizes(grown, [4.5, 3.0])
    compacted = compact_model(partial)
    np.testing.assert_allclose(grown(drawn(WORDS)), model(drawn(WORDS)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(compacted(drawn(WORDS)), partial(drawn(WORDS)), rtol=1e-5, atol=1e-6)
    assert compacted.embedding.weight.shape == (7, 5)


def test_heads_whose_number_is_written_down_are_left_out_or_refused_where_asked_for():
    with pytest.raises(ValueError, match=r"leave out layer \.attention\.query_proj: .*with fewer channels"):
        grow(Words(), lambda m: m.attention.query_proj, example=WORDS, key=KEYS[6])
    left = grow(Words(), example=WORDS, key=KEYS[6]).group_names
    assert ".perceptron.layers[0]" in left
    assert ".attention.query_proj" not in left


def test_a_grown_model_is_compiled_vectorised_and_differentiated():
    grown = at_sizes(grow(convolutional(), example=IMAGE, key=KEYS[6]), [4.5, 2.5, 3.5])
    images = jr.normal(KEYS[5], (3, *IMAGE.shape))
    batch = eqx.filter_jit(lambda g, xs: jax.vmap(g)(xs))(grown, images)
    np.testing.assert_allclose(batch[1], grown(images[1]), rtol=1e-5, atol=1e-6)
    slope = eqx.filter_grad(lambda g: jnp.sum(g(images[0]) ** 2))(grown)
    assert np.all(slope.controller.weight != 0)
    assert slope.model.layers[1].share is None
