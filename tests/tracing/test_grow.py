"""Grow: the user's outputs at full participation, the same when compacted, and what is refused."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import n3
from n3.nn.controllers import Auxiliary, Controller, Information
from n3.nn.norms import WHOLE_SHARE, ParticipatingNorm
from n3.tracing.grow import _grown, compact_model, grow
from networks import Residual, between, filled, normal

KEY = jr.key(0)
Linear, Conv2d, Lambda, Sequential = eqx.nn.Linear, eqx.nn.Conv2d, eqx.nn.Lambda, eqx.nn.Sequential
IMAGE, ROW = jax.ShapeDtypeStruct((1, 6, 6), jnp.float32), jax.ShapeDtypeStruct((5,), jnp.float32)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class Images(eqx.Module):
    """A convolution normalised in groups, beside one down, a depthwise one and one up; a linear layer reads."""

    left: Conv2d
    norm: eqx.nn.GroupNorm
    down: Conv2d
    depthwise: Conv2d
    up: eqx.nn.ConvTranspose2d
    pool: eqx.nn.AvgPool2d
    last: Linear

    def __init__(self):
        self.left, self.norm = Conv2d(1, 8, 3, padding=1, key=KEY), eqx.nn.GroupNorm(4, 8)
        self.down = Conv2d(8, 6, 2, 2, key=KEY)
        self.depthwise = Conv2d(6, 6, 3, padding=1, groups=6, key=KEY)
        self.up, self.pool = eqx.nn.ConvTranspose2d(6, 5, 2, 2, key=KEY), eqx.nn.AvgPool2d(3, 3)
        self.last = Linear(13 * 4, 3, key=KEY)

    def __call__(self, x):
        h = jax.nn.softplus(self.norm(self.left(x)))
        up = self.up(self.depthwise(jax.nn.sigmoid(self.down(h))))
        return self.last(jnp.ravel(self.pool(jnp.concatenate([h, up]))))


def perceptron():
    parts = [Linear(5, 8, key=KEY), Lambda(jnp.tanh), eqx.nn.Dropout(0.5), Linear(8, 6, key=KEY)]
    return Sequential([*parts, eqx.nn.RMSNorm(6), Lambda(jax.nn.sigmoid), Linear(6, 3, key=KEY)])


def plain():
    return filled(lambda: eqx.nn.MLP(5, 3, 8, 2, key=KEY))


MODELS = {"perceptron": (perceptron, ROW), "residual": (Residual, ROW), "images": (Images, IMAGE)}


@eqx.filter_jit
def outputs(model, x, **options):
    return model(x, **options)


def at_sizes(grown, sizes):
    return eqx.tree_at(lambda g: g.controller.weight, grown, jnp.asarray(np.float32(sizes)))


def parameters(model):
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


@functools.cache
def grown_of(name):
    make, example = MODELS[name]
    model = eqx.nn.inference_mode(filled(make))
    return model, grow(model, example=example, key=KEY), normal(*example.shape)


@pytest.fixture(params=MODELS)
def case(request):
    return grown_of(request.param)


def test_full_participation_is_the_users_model(case):
    model, grown, x = case
    np.testing.assert_allclose(outputs(grown, x), outputs(model, x), **CLOSE)


def test_a_compacted_model_has_the_same_outputs_and_the_same_class(case):
    model, grown, x = case
    shares = np.random.default_rng(0).uniform(0.2, 0.8, len(grown.group_names))
    partial = at_sizes(grown, shares * np.array(grown.structure.capacity))
    compacted = compact_model(partial)
    expected = np.asarray(outputs(partial, x))
    assert type(compacted) is type(model)
    assert parameters(compacted) < parameters(model)
    assert np.max(np.abs(expected - np.asarray(outputs(model, x)))) > 1e-3
    np.testing.assert_allclose(outputs(compacted, x), expected, **CLOSE)


def test_whole_sizes_leave_only_layers_and_norms_of_equinox(case):
    model, grown, x = case
    whole = at_sizes(grown, [units - 1 for units in grown.structure.capacity])
    compacted = compact_model(whole)
    nodes = jax.tree.leaves(compacted, is_leaf=lambda node: isinstance(node, ParticipatingNorm))
    assert not any(isinstance(node, ParticipatingNorm) for node in nodes)
    np.testing.assert_allclose(outputs(compacted, x), outputs(whole, x), **CLOSE)
    assert jax.tree.structure(compact_model(grown)) == jax.tree.structure(model)


def test_a_size_of_zero_keeps_one_channel_that_counts_nothing(case):
    _, grown, x = case
    empty = at_sizes(grown, np.zeros(len(grown.group_names)))
    expected = np.asarray(outputs(empty, x))
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(outputs(compact_model(empty), x), expected, **CLOSE)


def test_modules_are_told_their_new_sizes_and_parameters_are_as_many_by_hand():
    _, images, _ = grown_of("images")
    assert [group.layers for group in images.structure.groups] == [
        (".left",),
        (".down", ".depthwise"),
        (".up",),
    ]
    made = compact_model(at_sizes(images, [3.0, 2.0, 1.0]))
    assert (made.norm.groups, made.norm.channels) == (3, 6)
    assert (made.down.in_channels, made.down.out_channels) == (6, 2)
    assert (made.depthwise.groups, made.depthwise.in_channels) == (2, 2)
    assert (made.up.in_channels, made.up.out_channels) == (2, 1)
    assert (made.last.in_features, made.last.out_features) == (7 * 4, 3)
    left, norm, down, depthwise = 6 * 9 + 6, 2 * 6, 2 * 6 * 4 + 2, 2 * 9 + 2
    assert parameters(made) == left + norm + down + depthwise + (2 * 4 + 1) + (28 * 3 + 3)


@pytest.mark.parametrize("groups, told", [(1, 1), (8, 3)])
def test_a_group_norm_keeps_one_group_or_one_for_each_channel(groups, told):
    parts = [
        lambda: Conv2d(1, 8, 1, key=KEY),
        lambda: eqx.nn.GroupNorm(groups, 8),
        lambda: Conv2d(8, 2, 6, key=KEY),
    ]
    model = filled(lambda: Sequential([part() for part in parts]))
    norm = compact_model(at_sizes(grow(model, example=IMAGE, key=KEY), [3.0])).layers[1]
    assert (norm.groups, norm.channels) == (told, 3)


def test_a_scalar_layer_stays_one():
    model = filled(lambda: eqx.nn.MLP(5, "scalar", 8, 1, key=KEY))
    last = compact_model(at_sizes(grow(model, example=ROW, key=KEY), [3.0])).layers[1]
    assert (last.in_features, last.out_features) == (3, "scalar")


def test_only_a_norm_over_a_partial_channel_keeps_its_participation_and_dropout_draws_as_before():
    model, x = filled(perceptron), normal(5)
    grown = grow(model, example=ROW, key=KEY)
    norm = compact_model(at_sizes(grown, [8.0, 3.5])).layers[4]
    assert isinstance(norm, ParticipatingNorm)
    np.testing.assert_allclose(norm.share, WHOLE_SHARE * np.array([1, 1, 1, 0.5]), rtol=1e-6)
    first, second = (np.asarray(outputs(grown, x, key=jr.key(seed))) for seed in (1, 2))
    np.testing.assert_allclose(first, outputs(model, x, key=jr.key(1)), **CLOSE)
    assert np.any(first != second)


def test_a_residual_sum_shares_one_mask():
    _, grown, _ = grown_of("residual")
    assert [group.layers for group in grown.structure.groups] == [(".stem", ".outer"), (".inner",)]
    compacted = compact_model(at_sizes(grown, [5.0, 2.0]))
    assert compacted.stem.out_features == compacted.outer.out_features == compacted.head.in_features == 5
    assert compacted.norm.shape == (5,)


@pytest.mark.parametrize(
    "function, reason",
    [
        (lambda h: h.reshape(4, 4).reshape(16), "its call fails: cannot reshape"),
        (lambda h: h / h.shape[0] ** 0.5, "the outputs differ"),
        (lambda h: jnp.tile(h, 16 // h.shape[0]), "its call fails"),
    ],
)
def test_sizes_written_into_the_call_are_refused(function, reason):
    with pytest.raises(ValueError, match=rf"leave out layer \.first: with fewer channels {reason}"):
        grow(between(function), example=ROW, key=KEY)


def test_layers_that_can_be_grown_one_by_one_alone_are_refused():
    class Written(eqx.Module):
        first: Linear
        second: Linear
        last: Linear

        def __call__(self, x):
            h = jnp.tanh(self.first(x))
            return self.last(jnp.tanh(self.second(h))) / max(h.size, self.second.bias.size)

    layers = (5, 8), (8, 8), (8, 2)
    model = filled(lambda: Written(*(Linear(into, out, key=KEY) for into, out in layers)))
    with pytest.raises(
        ValueError, match=r"one of \.first, \.second: they can be grown one by one, but not tog"
    ):
        grow(model, example=ROW, key=KEY)


def test_where_picks_layers():
    model = plain()
    both = grow(model, lambda m: [m.layers[1], m.layers[0]], example=ROW, key=KEY)
    one = grow(model, lambda m: m.layers[1], example=ROW, key=KEY)
    assert (one.group_names, both.group_names) == ((".layers[1]",), (".layers[0]", ".layers[1]"))
    with pytest.raises(
        ValueError, match=r"`where` must pick layers of the model .* got MLP, in which are .*layers\[2\]: pick"
    ):
        grow(model, lambda m: m, example=ROW, key=KEY)
    with pytest.raises(
        ValueError, match=r"out layer \.layers\[2\]: as to its channels, they are the model's out"
    ):
        grow(model, lambda m: m.layers[2], example=ROW, key=KEY)


@pytest.mark.parametrize(
    "method, kind", [("information", Information), ("controller", Controller), ("auxiliary", Auxiliary)]
)
def test_each_method_starts_at_its_initial_size(method, kind):
    wide = eqx.nn.Sequential([eqx.nn.Linear(*ends, key=KEY) for ends in ((5, 4), (4, 16), (16, 2))])
    for start, sizes in ((None, [4.0, 16.0]), (3.0, [3.0, 3.0])):
        own = grow(wide, example=ROW, key=KEY, method=method, initial_size=start)
        np.testing.assert_allclose(own.sizes(), sizes, rtol=1e-4)
    grown = grow(plain(), example=ROW, key=KEY, method=method, initial_size=4.0, mask="linear")
    parts = grown.controller.layers if method != "information" else [grown.controller]
    assert all(isinstance(part, kind) for part in parts)
    np.testing.assert_allclose(grown.sizes(), [4.0, 4.0], rtol=1e-4)
    assert grown.controller.mask == "linear"


@pytest.mark.parametrize("initial_size", [None, 9.0])
def test_a_size_starts_at_the_capacity_at_most(initial_size):
    grown = grow(plain(), example=ROW, key=KEY, initial_size=initial_size)
    assert isinstance(grown.controller, Information)
    np.testing.assert_array_equal(grown.controller.weight, [8.0, 8.0])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"method": "released"}, "`method` must be one of information, controller, auxiliary; got 'released'"),
        ({"initial_size": -1.0}, "`initial_size` must be zero or more, and finite; got -1.0"),
        ({"mask": "round"}, "`mask` must be one of"),
    ],
)
def test_arguments_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        grow(plain(), example=ROW, key=KEY, **changes)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: grow(model, example=ROW, key=KEY),
        lambda model: n3.fit(model, (np.ones((8, 5)), np.ones((8, 8))), steps=2, key=KEY),
        lambda model: n3.export(model, example=ROW),
    ],
    ids=["grow", "fit", "export"],
)
def test_models_with_a_state_are_refused(call):
    model = Sequential([Linear(5, 8, key=KEY), eqx.nn.BatchNorm(8, "batch", mode="batch")])
    with pytest.raises(ValueError, match=r"`model` must have no state.*\.layers\[1\].*LayerNorm and GroupNorm"):
        call(model)


def test_a_grown_model_is_compiled_vectorised_and_differentiated():
    _, grown, _ = grown_of("perceptron")
    grown, rows = at_sizes(grown, [4.5, 2.5]), normal(3, 5)

    @eqx.filter_jit
    def everything(grown):
        slope = eqx.filter_grad(lambda g: jnp.sum(g(rows[0]) ** 2))(grown)
        return jax.vmap(grown)(rows), jnp.stack([grown(row) for row in rows]), slope

    batch, singly, slope = everything(grown)
    np.testing.assert_allclose(batch, singly, **CLOSE)
    assert np.all(np.asarray(slope.controller.weight) != 0)
    assert slope.model.layers[4].share is None


def test_the_public_name_is_a_function():
    assert n3.grow is grow
    assert n3.tracing.Grown is type(grown_of("perceptron")[1])


class Hidden(eqx.Module):
    """A branch that starts at zero, divided by the number of its channels, which the call reads."""

    branch: eqx.nn.Linear
    back: eqx.nn.Linear
    scale: jax.Array

    def __call__(self, x):
        h = jnp.tanh(self.branch(x))
        return x + self.scale * self.back(h) / h.shape[0]


def test_a_size_in_the_call_is_seen_behind_a_zero():
    layers = filled(lambda: [eqx.nn.Linear(5, 8, key=KEY), eqx.nn.Linear(8, 5, key=KEY)])
    with pytest.raises(ValueError, match=r"leave out layer \.branch: with fewer channels the outputs differ"):
        grow(Hidden(*layers, jnp.zeros(())), example=ROW, key=KEY)


class Tied(eqx.Module):
    """Two layers with one weight, before two others."""

    shared: eqx.nn.Shared
    up: Linear
    last: Linear

    def __init__(self):
        pair = Linear(5, 5, key=KEY), Linear(5, 5, key=KEY)
        self.shared = eqx.nn.Shared(pair, where=lambda both: both[1].weight, get=lambda both: both[0].weight)
        self.up, self.last = Linear(5, 8, key=KEY), Linear(8, 1, key=KEY)

    def __call__(self, x):
        one, two = self.shared()
        return self.last(jnp.tanh(self.up(two(jnp.tanh(one(x))))))


def test_layers_with_one_weight_are_left_alone():
    grown = grow(Tied(), example=ROW, key=KEY)
    assert grown.group_names == (".up",)
    row = jnp.arange(5.0)
    np.testing.assert_allclose(grown(row), Tied()(row), **CLOSE)
    smaller = eqx.tree_at(lambda own: own.controller.weight, grown, jnp.array([3.0]))
    np.testing.assert_allclose(compact_model(smaller)(row), smaller(row), **CLOSE)


class Pair(eqx.Module):
    """Two inputs in one argument."""

    last: Linear

    def __call__(self, both):
        return self.last(jnp.concatenate(both))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((ROW, ROW), "`example` must be an input for each argument of `Pair.__call__`; got 2: too many"),
        (({"a": ROW},), "`example` must hold arrays; got a dict: give `Pair.__call__` an argument for each"),
        ((), "`example` must be an input for each argument of `Pair.__call__`; got 0: missing"),
    ],
)
def test_inputs_that_the_call_does_not_take_are_refused(example, message):
    with pytest.raises(ValueError, match=message):
        _grown(Pair(Linear(10, 1, key=KEY)), None, example=example, key=KEY, method="information")


def test_keys_and_models_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"`model` must have a first axis of 2 runs in every array"):
        grow(plain(), example=ROW, key=jr.split(KEY))
    with pytest.raises(ValueError, match="got one that is grown already"):
        grow(grow(plain(), example=ROW, key=KEY), example=ROW, key=KEY)
    with pytest.raises(ValueError, match="`initial_size` must be zero or more, and finite; got nan"):
        grow(plain(), example=ROW, key=KEY, initial_size=float("nan"))


class Half(eqx.Module):
    """A hidden layer that can be grown beside one whose channels are sorted."""

    able: eqx.nn.Linear
    mixed: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self):
        self.able, self.mixed = (eqx.nn.Linear(2, 4, key=jr.key(n)) for n in (0, 1))
        self.last = eqx.nn.Linear(8, 1, key=jr.key(2))

    def __call__(self, x):
        return self.last(jnp.concatenate([jnp.tanh(self.able(x)), jnp.sort(self.mixed(x))]))


def test_a_layer_that_cannot_be_grown_is_left_as_it_is():
    model = grow(Half(), example=jnp.zeros(2), key=jr.key(3))
    assert model.group_names == (".able",)
    with pytest.raises(ValueError, match=r"leave out layer \.mixed: as to its channels, n3 does not know"):
        grow(Half(), lambda own: [own.able, own.mixed], example=jnp.zeros(2), key=jr.key(3))


class Attended(eqx.Module):
    """Attention of a sequence to itself, read by a linear layer."""

    own: eqx.nn.MultiheadAttention
    out: eqx.nn.Linear

    def __call__(self, x):
        return jax.vmap(self.out)(self.own(x, x, x))


def test_a_picked_layer_that_cannot_be_smaller_is_named_with_those_that_it_is_tied_to():
    model = Attended(eqx.nn.MultiheadAttention(2, 8, key=KEY), eqx.nn.Linear(8, 3, key=KEY))
    message = (
        r"out layer \.own\.value_proj: it shares its channels with \.own\.query_proj, \.own\.key_proj, and"
    )
    with pytest.raises(ValueError, match=message):
        grow(model, lambda m: m.own.value_proj, example=jnp.ones((5, 8)), key=KEY)


class NeedsKey(eqx.Module):
    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __init__(self):
        self.first, self.second = (eqx.nn.Linear(3, 3, key=jr.key(seed)) for seed in range(2))

    def __call__(self, x, *, key):
        return self.second(jnp.tanh(self.first(x)))


def test_a_key_without_a_default_an_example_with_a_batch_and_a_traced_model_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match="`key` must have a default, such as `key=None`"):
        grow(NeedsKey(), example=np.zeros(3, np.float32), key=jr.key(0))
    with pytest.raises(
        ValueError, match=r"`example` must be one sample .* without a batch; of shape \(5, 2\) it fails"
    ):
        grow(eqx.nn.MLP(2, 1, 8, 1, key=jr.key(0)), example=np.zeros((5, 2), np.float32), key=jr.key(0))

    def train(key):
        return grow(eqx.nn.MLP(2, 1, 8, 1, key=key), example=np.zeros(2, np.float32), key=key)

    with pytest.raises(ValueError, match="`model` must not be inside `jit` or `vmap`: grow first"):
        eqx.filter_vmap(train)(jr.split(jr.key(0), 2))
