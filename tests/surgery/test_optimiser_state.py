"""Optimiser state: after surgery the next step of what was there is the one without it, for every optimiser."""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from optax import contrib

from n3.surgery.compact import compact, compact_state
from n3.surgery.expand import expand
from n3.surgery.optimiser_state import carried
from n3.surgery.prune import prune
from n3.tracing.grow import grow
from networks import Residual, drawn, network

RATE = 1e-2


def label(parameters):
    """Vectors by Adam and matrices by momentum."""
    return jax.tree.map(lambda leaf: "adam" if leaf.ndim < 2 else "sgd", parameters)


OPTIMISERS = {
    "sgd": lambda: optax.sgd(RATE, momentum=0.9),
    "adam": lambda: optax.adam(RATE),
    "adamw": lambda: optax.adamw(RATE),
    "lion": lambda: optax.lion(RATE),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.adam(RATE)),
    "hyperparams": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=RATE),
    "multi": lambda: optax.multi_transform(
        {"adam": optax.adam(RATE), "sgd": optax.sgd(RATE, momentum=0.9)}, label
    ),
    "schedule-free": lambda: contrib.schedule_free_adamw(RATE),
}
REFUSED = {
    "adafactor": (lambda: optax.adafactor(RATE, min_dim_size_to_factor=2), "FactoredState"),
    "lbfgs": (optax.lbfgs, "LBFGS"),
    "flat": (lambda: optax.flatten(optax.adam(RATE)), "all parameters as one array"),
}
GONE, ADDED = 1, 2


class OwnState(NamedTuple):
    slow: object


@functools.cache
def built_in():
    return network("information", (4, 4), 4.0, size_input=False)


@functools.cache
def residual():
    model = drawn(eqx.filter_eval_shape(Residual))
    return grow(model, example=np.zeros(5, np.float32), key=jr.key(0))


MODELS = {"growing-mlp": built_in, "residual": residual}


def parameters(model):
    return eqx.filter(model, eqx.is_inexact_array)


def stepped(rule, gradient, state, model):
    with jax.numpy_dtype_promotion("standard"):
        return rule.update(gradient, state, parameters(model))


def some(model, seed):
    draw = np.random.default_rng(seed)
    return shaped(draw.normal(size=flat(model).size), model)


def after_steps(name, model):
    """An optimiser, its state after three steps, and the model there."""
    rule = OPTIMISERS[name]()
    state = rule.init(parameters(model))
    for seed in range(3):
        updates, state = stepped(rule, some(model, seed), state, model)
        model = eqx.apply_updates(model, updates)
    return rule, state, held(model)


def held(model):
    """The model with its sizes as they were: all units take part."""
    whole = jnp.array(model.controller.capacity, jnp.float32)
    return eqx.tree_at(lambda m: m.controller.weight, model, whole)


def unit_of(active, targets):
    return np.arange(active.shape[1]) == GONE


def data_of(model):
    (shape, _), *_ = model.structure.example
    draw = np.random.default_rng(0)
    return draw.normal(size=(16, *shape)).astype(np.float32), draw.normal(size=(16, 3)).astype(np.float32)


def tags_of(model):
    """A number for every parameter, none of which is a size."""
    return np.arange(flat(model).size) + 1001.0


def tagged(model):
    """The model with these numbers as its parameters, so that each can be followed through surgery."""
    rest = eqx.filter(model, eqx.is_inexact_array, inverse=True)
    return held(eqx.combine(shaped(tags_of(model), model), rest))


def surgeries(model, state):
    """Each surgery's name, the model and the state that it leaves, and what it makes of the tagged model."""
    data, tags = data_of(model), tagged(model)
    pruned, numbered = (prune(own, unit_of, data, state=left) for own, left in ((model, state), (tags, None)))
    yield "prune", pruned.net, pruned.state, numbered.net
    made, left = expand(model, units=ADDED, key=jr.key(3), state=state)
    yield "expand", made, left, expand(tags, units=ADDED, key=jr.key(3))[0]
    fewer = jnp.array(model.controller.capacity, jnp.float32) - 1.0
    model, tags = (eqx.tree_at(lambda m: m.controller.weight, own, fewer) for own in (model, tags))
    yield "compact", compact(model), compact_state(model, state), compact(tags)


QUICK = "adam"
"""The optimiser that all models are tested with in the fast tier."""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if kind == "growing-mlp" or name == QUICK else pytest.mark.slow)
        for name in OPTIMISERS
        for kind in MODELS
    ],
)
def test_the_next_step_of_untouched_parameters_is_that_without_surgery(name, kind):
    rule, state, model = after_steps(name, MODELS[kind]())
    gradient, tags = flat(some(model, 7)), tags_of(model).tolist()
    number = {tag: place for place, tag in enumerate(tags)}
    for surgery, made, left, numbered in surgeries(model, state):
        own = flat(numbered).tolist()
        past = np.array([number.pop(tag, -1) for tag in own])  # a copy of a number counts once
        number = {tag: place for place, tag in enumerate(tags)}
        is_old, is_left = past >= 0, np.isin(np.arange(len(tags)), past)
        before = np.where(is_left, gradient, 0.0)  # what goes or comes has no gradient
        after = np.where(is_old, gradient[past], 0.0)
        expected = flat(stepped(rule, shaped(before, model), state, model)[0])
        found = flat(stepped(rule, shaped(after, made), left, made)[0])
        assert is_old.sum() > 20, surgery
        np.testing.assert_allclose(found[is_old], expected[past[is_old]], rtol=1e-5, atol=1e-7, err_msg=surgery)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(parameters(tree))])


def shaped(values, model):
    """Numbers as a tree of a model's form."""
    leaves, structure = jax.tree.flatten(parameters(model))
    parts = np.split(values.astype(np.float32), np.cumsum([leaf.size for leaf in leaves])[:-1])
    pairs = zip(parts, leaves, strict=True)
    return structure.unflatten([jnp.asarray(part.reshape(leaf.shape)) for part, leaf in pairs])


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_carried_is_refused_by_name(name, kind):
    make, message = REFUSED[name]
    model = MODELS[kind]()
    state = make().init(parameters(model))
    with pytest.raises(ValueError, match=f"`state`.*{message}"):
        prune(model, unit_of, data_of(model), state=state)


def test_a_state_of_an_unknown_kind_is_refused_by_its_field():
    model = built_in()
    with pytest.raises(ValueError, match=r"whether `OwnState\.slow` holds averages or parameters is not known"):
        carried(OwnState(parameters(model)), model, lambda node, is_copy: node)


def test_a_state_of_one_number_passes_through():
    model = built_in()
    state = optax.sgd(optax.cosine_decay_schedule(0.1, 10)).init(parameters(model))
    made = prune(model, unit_of, data_of(model), state=state)
    assert jax.tree.structure(made.state) == jax.tree.structure(state)


def test_a_copy_of_a_size_stays_as_far_from_the_network_s_own():
    model = held(built_in())
    state = OPTIMISERS["schedule-free"]().init(parameters(model))
    behind = eqx.tree_at(lambda s: s.z.controller.weight, state, model.controller.weight - 0.25)
    made = prune(model, unit_of, data_of(model), state=behind)
    np.testing.assert_allclose(made.net.controller.weight, [3.0, 3.0])
    np.testing.assert_allclose(made.state.z.controller.weight, [2.75, 2.75])
