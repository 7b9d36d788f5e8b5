"""One core: whatever works for the built-in MLP works for any Equinox model, by the same calls."""

import functools
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import n3
from n3.config import InformationConfig
from n3.information import measure_units
from n3.nn import make_controller
from n3.nn.groups import masked
from n3.surgery import save_compact
from networks import CLOSE

ROOT = Path(__file__).parents[1]
SAMPLES, SEEDS = 96, 4
KEYS = jr.split(jr.key(5), SEEDS)
EVERY = InformationConfig(every=10)


class Images(eqx.Module):
    """A stream of 6 channels, to which a branch of 5 is added; it reads `[1, 4, 4]`."""

    stem: eqx.nn.Conv2d
    inner: eqx.nn.Conv2d
    outer: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jr.split(key, 4)
        self.stem = eqx.nn.Conv2d(1, 6, 3, padding=1, key=keys[0])
        self.inner = eqx.nn.Conv2d(6, 5, 3, padding=1, key=keys[1])
        self.outer = eqx.nn.Conv2d(5, 6, 3, padding=1, key=keys[2])
        self.head = eqx.nn.Linear(6, 1, key=keys[3])

    def __call__(self, x):
        h = jnp.tanh(self.stem(x))
        h = h + self.outer(jnp.tanh(self.inner(h)))
        return self.head(jnp.mean(h, axis=(1, 2)))


class Block(eqx.Module):
    """A transformer block over 3 tokens of 5 numbers: attention and a perceptron, each added to the stream."""

    embed: eqx.nn.Linear
    attention: eqx.nn.MultiheadAttention
    norms: list
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jr.split(key, 5)
        self.embed = eqx.nn.Linear(5, 8, key=keys[0])
        self.attention = eqx.nn.MultiheadAttention(2, 8, key=keys[1])
        self.norms = [eqx.nn.LayerNorm(8), eqx.nn.LayerNorm(8)]
        self.up, self.down = eqx.nn.Linear(8, 10, key=keys[2]), eqx.nn.Linear(10, 8, key=keys[3])
        self.head = eqx.nn.Linear(8, 1, key=keys[4])

    def __call__(self, x):
        h = jax.vmap(self.embed)(x)
        normed = jax.vmap(self.norms[0])(h)
        h = h + self.attention(normed, normed, normed)
        h = h + jax.vmap(lambda token: self.down(jax.nn.gelu(self.up(self.norms[1](token)))))(h)
        return self.head(jnp.mean(h, axis=0))


def built_in(key):
    controller = make_controller(
        "information",
        (8, 8),
        is_layerwise=False,
        initial_size=jnp.full(2, 8.0),
        mask="sine",
        key=key,
    )
    return n3.GrowingMLP(5, 1, controller=controller, key=key)


SHAPES = {"growing-mlp": (5,), "mlp": (5,), "images": (1, 4, 4), "block": (3, 5)}
MAKERS = {
    "mlp": lambda key: eqx.nn.MLP(5, 1, 8, 2, jnp.tanh, key=key),
    "images": Images,
    "block": Block,
}
INNER = {"images": ".inner", "block": ".up"}
"""Branches of a residual sum: layers that can go whole."""
HEAVY = ("images", "block")
"""Slow to compile."""


def over(names):
    """Over models by name, the heavy ones among the slow tests."""
    marks = {name: pytest.mark.slow if name in HEAVY else () for name in names}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=own) for name, own in marks.items()])


each = over(SHAPES)


@functools.cache
def data(name):
    x = np.random.default_rng(3).normal(size=(SAMPLES, *SHAPES[name])).astype(np.float32)
    flat = x.reshape(SAMPLES, -1)
    return x, np.sin(2.0 * flat[:, :1]) + 0.5 * flat[:, 1:2] * flat[:, 2:3]


@functools.cache
def plain(name):
    return eqx.filter_jit(MAKERS[name])(jr.key(0))


@functools.cache
def sized(name):
    """A model that chooses its sizes, of every kind."""
    if name == "growing-mlp":
        return eqx.filter_jit(built_in)(jr.key(0))
    return n3.grow(plain(name), example=data(name)[0][0], key=jr.key(1))


@functools.cache
def many(name):
    """The same, four of them with keys of their own."""
    if name == "growing-mlp":
        return eqx.filter_jit(eqx.filter_vmap(built_in))(KEYS)
    models = eqx.filter_jit(eqx.filter_vmap(MAKERS[name]))(KEYS)
    return n3.grow(models, example=data(name)[0][0], key=KEYS)


@eqx.filter_jit
def outputs(model, x):
    return jax.vmap(model)(x)


def variance(activations, targets):
    return jnp.var(activations, axis=0) + 0.0 * jnp.sum(targets)


def fitted(model, name, key=KEYS[0], **options):
    usual = {"steps": 20, "key": key, "batch": 32, "learning_rate": 1e-2, "quiet": True, "information": EVERY}
    return n3.fit(model, data(name), data(name), **usual | options)


def one(tree, row):
    return jax.tree.map(lambda leaf: leaf[row] if eqx.is_array(leaf) else leaf, tree)


@each
def test_fit_with_budget_monitor_and_importance(name):
    model = sized(name)
    budget = int(0.6 * float(model.parameter_count(model.sizes())))
    settings = InformationConfig(every=10, budget=budget, size_rate=0.3)
    names = ("entropy", "importance", "redundancy", "structure", "gap")
    options = {"steps": 100, "information": settings, "monitor": names, "importance": variance}
    model, history = fitted(model, name, **options)
    found = float(model.parameter_count(model.sizes()))
    assert 0.7 * budget < found < 1.3 * budget
    assert tuple(history.monitor) == names
    assert all(own.shape == history.sizes.shape and np.isfinite(own).all() for own in history.monitor.values())
    assert history.train_loss[-1] < history.train_loss[0]


@each
def test_units_that_meet_a_text_go_and_take_their_moments_along(name):
    model, (x, y) = sized(name), data(name)
    state = with_moments_alike(model)
    seen, mask = model.activations(jnp.asarray(x))[0], model.participation()[0]
    own = measure_units(seen, jnp.asarray(y.T), mask, jnp.ones_like(mask), is_classes=False)
    bound = float(jnp.min(own.units["importance"])) + 1e-4
    pruned = n3.prune(model, f"importance < {bound:.7f}", (x, y), state=state)
    assert int(jnp.argmin(own.units["importance"])) in [one.unit for one in pruned.removed if one.layer == 0]
    assert all(one.values["importance"] < bound for one in pruned.removed)
    capacity = np.array(model.controller.capacity)
    gone = [sum(one.layer == group for one in pruned.removed) for group in range(len(capacity))]
    assert pruned.net.controller.capacity == tuple(capacity - gone)
    assert [leaf.shape for leaf in jax.tree.leaves(pruned.state[0].mu)] == shapes_of(pruned.net)
    trees = (eqx.tree_at(lambda m: m.controller, own, None) for own in (pruned.state[0].mu, pruned.net))
    assert all(map(np.array_equal, *map(arrays_of, trees)))
    assert np.isfinite(np.asarray(outputs(pruned.net, x))).all()


def with_moments_alike(model):
    """A state of Adam that has every parameter for its own average, so that one shows where the other went."""
    parameters = eqx.filter(model, eqx.is_inexact_array)
    return eqx.tree_at(lambda state: state[0].mu, optax.adam(1e-2).init(parameters), parameters)


def shapes_of(model):
    return [leaf.shape for leaf in arrays_of(model)]


@each
def test_a_function_prunes_to_the_outputs_without_the_outgoing_weights(name):
    model, x = sized(name), jnp.asarray(data(name)[0])
    pruned = n3.prune(model, lambda active, targets: np.arange(active.shape[1]) == 1, data(name))
    masks = [np.arange(units) != 1 for units in model.controller.capacity]
    muted = masked(model, model.structure, [jnp.asarray(mask, jnp.float32) for mask in masks])
    np.testing.assert_allclose(outputs(pruned.net, x), outputs(muted, x), **CLOSE)


@each
def test_a_layer_goes_where_a_path_leads_around_it(name):
    model, x = sized(name), jnp.asarray(data(name)[0])
    if name not in INNER:
        with pytest.raises(ValueError, match=r"`criterion` .* would empty (hidden layer|\.layers)"):
            n3.prune(model, "layer.importance < 1e9", data(name))
        return
    place = model.group_names.index(INNER[name])
    bound = 1e9
    pruned = n3.prune(only_inner_is_idle(model, place), "layer.entropy < 0.01", data(name))
    assert [(own.layer, own.unit) for own in pruned.removed] == [(place, None)]
    assert pruned.net.sizes()[place] == 0
    assert np.ptp(np.asarray(outputs(pruned.net, x))) > 0
    with pytest.raises(ValueError, match="would empty"):
        n3.prune(pruned.net, f"layer.importance < {bound}", data(name))


def only_inner_is_idle(model, place):
    """The model with a branch whose units are constant."""
    path = INNER[{v: k for k, v in INNER.items()}[model.group_names[place]]]
    layer = lambda m: getattr(m.model, path[1:]).weight  # noqa: E731
    return eqx.tree_at(layer, model, jnp.zeros_like(layer(model)))


@each
@pytest.mark.parametrize("method", ["zero", "split"])
def test_an_expansion_keeps_the_outputs(name, method):
    model, x = sized(name), jnp.asarray(data(name)[0])
    made, _ = n3.expand(model, units=8, method=method, key=jr.key(3))
    assert made.controller.capacity == tuple(units + 8 for units in model.controller.capacity)
    np.testing.assert_allclose(outputs(made, x), outputs(model, x), rtol=1e-4, atol=1e-5)
    again, _ = fitted(made, name)
    assert np.isfinite(np.asarray(outputs(again, x))).all()


@each
def test_a_mutation_is_near_and_new(name):
    model, x = sized(name), jnp.asarray(data(name)[0])
    made, _ = n3.expand(model, units=8, method="mutate", key=jr.key(3))
    moved = np.abs(np.asarray(outputs(made, x) - outputs(model, x)))
    assert 1e-6 < moved.max() < 0.1


PROGRAM = """
import sys, pathlib
import equinox as eqx, jax, numpy as np
sys.path.insert(0, "tests")
from n3.surgery import load_compact
import test_one_core as core

folder = pathlib.Path(sys.argv[1])
for name in core.SHAPES:
    like = None if name == "growing-mlp" else core.plain(name)
    net = load_compact(folder / name, like)
    x = core.data(name)[0]
    found = np.asarray(jax.vmap(net)(x)) if name == "growing-mlp" else np.asarray(core.outputs(net, x))
    program = jax.export.deserialize(bytearray((folder / name / "program").read_bytes()))
    expected = np.load(folder / name / "outputs.npy")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(program.call(x), expected, rtol=1e-4, atol=1e-5)
print("same")
"""


@pytest.mark.slow
def test_compacted_models_come_back_in_a_fresh_process(tmp_path):
    for name in SHAPES:
        model = sized(name)
        weight = jnp.linspace(2.5, 3.75, len(model.controller.capacity))
        model = eqx.tree_at(lambda m: m.controller.weight, model, weight)
        small, folder = n3.compact(model), tmp_path / name
        save_compact(model, folder)
        n3.export(model, folder / "program")
        np.save(folder / "outputs.npy", np.asarray(outputs(model, data(name)[0])))
        assert number(small) < number(model)
    ran = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == "same\n", ran.stderr


def number(model):
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


@each
def test_many_seeds_are_the_single_runs_in_one_compilation(name, caplog):
    models = many(name)
    with jax.log_compiles():
        found, history = fitted(models, name, KEYS, monitor=("entropy",))
    assert sum("Compiling jit(_advance)" in own.getMessage() for own in caplog.records) == 1
    assert history.sizes.shape[0] == SEEDS
    for row in (0, SEEDS - 1):
        own, single = fitted(one(models, row), name, KEYS[row], monitor=("entropy",))
        for a, b in ((history.train_loss[row], single.train_loss), (history.sizes[row], single.sizes)):
            np.testing.assert_allclose(a, b, rtol=1e-4)
        np.testing.assert_allclose(history.monitor["entropy"][row], single.monitor["entropy"], rtol=1e-3)
        for a, b in zip(*map(arrays_of, (one(found, row), own)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def arrays_of(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))


@over(MAKERS)
def test_a_plain_model_comes_back_as_one_of_its_class(name):
    model, x = plain(name), data(name)[0]
    state = with_moments_alike(model)
    pruned = n3.prune(model, lambda active, targets: np.arange(active.shape[1]) == 1, data(name), state=state)
    made, carried = n3.expand(model, units=4, method="split", state=state, example=jnp.asarray(x[0]))
    np.testing.assert_allclose(outputs(made, x), outputs(model, x), rtol=1e-4, atol=1e-5)
    assert all(map(np.array_equal, arrays_of(pruned.state[0].mu), arrays_of(pruned.net)))
    for small, own in ((pruned.net, pruned.state), (made, carried)):
        assert type(small) is type(model)
        assert [leaf.shape for leaf in jax.tree.leaves(own[0].mu)] == shapes_of(small)
        grads = eqx.filter(small, eqx.is_inexact_array)
        with jax.numpy_dtype_promotion("standard"):
            optax.adam(1e-2).update(grads, own, grads)
    with pytest.raises(ValueError, match="`example` must be given for a "):
        n3.expand(model, units=4, method="split")
