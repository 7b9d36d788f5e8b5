"""Growth: the look, its prices and its births on a model whose units are known."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.random import default_rng

from n3.config.experiment import InformationConfig
from n3.information.growth import GrowthState, Pool, Prices, growth_of, permute_grown, prices_of
from n3.tracing.grow import grow

SETTINGS = InformationConfig(price=0.05)
INPUTS = default_rng(0).normal(size=(300, 3)).astype(np.float32)
TARGETS = (np.tanh(INPUTS[:, 0]) + 0.05 * default_rng(1).normal(size=300)).astype(np.float32)[None]
POOL = Pool(jnp.asarray(INPUTS), jnp.asarray(TARGETS))
GROWTH = growth_of(SETTINGS, steps=1_000, is_classes=False)
FIRST, SIZE = np.float32([1.0, 0.0, 0.0]), 3.5


@cache
def grown_at_eight():
    """Eight units of which unit 5 alone sees the first input, and says all there is to say."""
    shapes, draw = (
        eqx.filter_eval_shape(lambda key: eqx.nn.MLP(3, 1, 8, 1, jnp.tanh, key=key), jr.key(0)),
        default_rng(2),
    )
    drawn = jax.tree.map(
        lambda leaf: (
            jnp.asarray(draw.uniform(-0.6, 0.6, leaf.shape).astype(np.float32))
            if isinstance(leaf, jax.ShapeDtypeStruct)
            else leaf
        ),
        shapes,
    )
    weight = np.array(drawn.layers[0].weight)
    weight[:, 0], weight[5] = 0.0, FIRST
    known = jnp.asarray(weight), jnp.asarray(np.zeros(8, np.float32))
    model = eqx.tree_at(lambda m: (m.layers[0].weight, m.layers[0].bias), drawn, known)
    return grow(model, example=POOL.inputs[0], key=jr.key(3))


def grown(size=8.0):
    return eqx.tree_at(lambda g: g.controller.weight, grown_at_eight(), jnp.asarray(np.float32([size])))


def prices(unit=0.05, parameter=0.0):
    return Prices(*map(jnp.float32, (unit, parameter, 3.0)))


@eqx.filter_jit
def program(own, prices, count):
    """A look, with the outputs for a sample before and after it."""
    moments = (eqx.filter(own, eqx.is_inexact_array),)
    seen, (moments,), state = GROWTH.look(own, moments, POOL, prices, count)
    return seen, moments, state, own(POOL.inputs[0]), seen(POOL.inputs[0])


def look(own, count=0, **changes):
    found = program(own, prices(**changes), jnp.asarray(count))
    return jax.tree.map(lambda leaf: np.asarray(leaf) if eqx.is_array(leaf) else leaf, found)


def weights_of(seen):
    return np.asarray(seen.model.layers[0].weight)


def test_a_look_puts_the_best_unit_first_and_is_drawn_to_it_alone():
    seen, moments, state, before, after = look(grown())
    np.testing.assert_array_equal(state.best, [1.0])
    np.testing.assert_array_equal(weights_of(seen)[0], FIRST)
    np.testing.assert_array_equal(weights_of(moments)[0], FIRST)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_units_beyond_the_size_keep_their_places():
    own = grown(3.0)
    seen, _, state, *_ = look(own)
    np.testing.assert_array_equal(weights_of(seen)[3:], weights_of(own)[3:])
    assert state.best[0] == 6.0  # within sight, and worth the five that come before it


def test_a_high_price_leaves_nothing():
    assert look(grown(), unit=9.0)[2].best[0] == 0.0
    assert look(grown(), unit=0.0, parameter=9.0)[2].best[0] == 0.0
    # a unit has three effective inputs, a bias and one output: 5 parameters
    gain = 0.5 * np.log(1 / (1 - np.corrcoef(np.tanh(INPUTS[:, 0]), TARGETS[0])[0, 1] ** 2))
    assert [look(grown(), unit=0.0, parameter=gain * p)[2].best[0] for p in (0.9 / 5, 1.1 / 5)] == [1.0, 0.0]


def test_only_the_makers_of_unborn_units_are_taught():
    hidden, readout = look(grown(SIZE))[2].gradient.layers
    assert not np.any(hidden.weight[:3])
    assert np.all(np.abs(hidden.weight[3:]).sum(axis=1) > 0)
    assert not np.any(readout.weight)
    assert not np.any(readout.bias)


def test_teaching_fades_and_ends():
    early, late, over = (
        np.abs(look(grown(SIZE), count)[2].gradient.layers[0].weight).sum() for count in (0, 165, 330)
    )
    np.testing.assert_allclose(late, early / 2.0, rtol=1e-4)
    assert over == 0.0


def test_a_step_downhill_on_the_gradient_raises_the_information_of_the_unborn():
    before = grown(SIZE)
    gradient = look(before)[2].gradient.layers[0]
    layer = before.model.layers[0]

    def promise(weight, bias):
        units = np.tanh(INPUTS @ np.asarray(weight, float).T + np.asarray(bias)).T
        units = (units - units.mean(1, keepdims=True)) / units.std(1, keepdims=True)
        target = (TARGETS - TARGETS.mean()) / TARGETS.std()
        cross, noise = units @ target.T / 300, 1e-3 * np.eye(8)
        return -0.5 * np.log(1.01 - cross.T @ np.linalg.solve(units @ units.T / 300 + noise, cross)).item()

    step = 1e-2
    here = promise(layer.weight, layer.bias)
    there = promise(layer.weight - step * gradient.weight, layer.bias - step * gradient.bias)
    squares = np.sum(gradient.weight**2) + np.sum(gradient.bias**2)
    np.testing.assert_allclose(SETTINGS.birth * (there - here), step * squares, rtol=0.1)


def test_pull_pace_and_rest_by_hand():
    own = grown(SIZE)

    @eqx.filter_jit
    def of(own, best):
        zero = jax.tree.map(jnp.zeros_like, eqx.filter(own, eqx.is_inexact_array))
        state = GrowthState(best, jax.tree.map(jnp.ones_like, zero.model))
        added = GROWTH.added(zero, own, state)
        return added, GROWTH.paced(zero, added).controller.weight, GROWTH.settled(own, state).controller.weight

    for best, pull in ((1.0, 1.0), (3.25, 0.25), (8.0, -1.0), (3.5009, -0.0009)):
        added, paced, settled = of(own, np.float32([best]))
        np.testing.assert_allclose(added.controller.weight, [pull], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(added.model.layers[0].weight, np.ones((8, 3)))
        np.testing.assert_allclose(paced, [-SETTINGS.size_rate * pull], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(settled, [best if abs(pull) < 1e-3 else SIZE], rtol=1e-7)


def test_it_starts_without_a_pull():
    state = eqx.filter_jit(GROWTH.start)(grown(SIZE))
    np.testing.assert_array_equal(state.best, [SIZE])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.gradient))


def test_looks_are_due_at_a_cadence_until_sizes_settle():
    assert [GROWTH.is_due(done) for done in (0, 24, 25, 575, 600)] == [True, False, True, True, False]


def test_prices_by_hand():
    found = prices_of(InformationConfig(price_scale=2.0), 100, POOL.inputs)
    np.testing.assert_allclose(found.parameter, 2.0 * np.log(100) / 400, rtol=1e-6)
    assert found.unit == 0.0
    number = prices_of(InformationConfig(price=0.3, price_scale=0.5), 100, POOL.inputs)
    np.testing.assert_allclose([float(number.unit), float(number.parameter)], [0.15, 0.0], rtol=1e-6)


@pytest.mark.parametrize("samples, width", [(50, 4), (4, 50)])
def test_effective_inputs_are_the_participation_ratio(samples, width):
    inputs = default_rng(4).normal(size=(samples, 2, width // 2))
    covariance = np.cov(inputs.reshape(samples, -1).T, bias=True)
    expected = np.trace(covariance) ** 2 / np.sum(covariance**2)
    found = [
        prices_of(SETTINGS, 100, jnp.asarray(np.float32(own))).inputs
        for own in (inputs, np.repeat(inputs[:, :1, :1], 7, axis=1))
    ]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)
    np.testing.assert_allclose(found[1], 1.0, rtol=1e-5)  # of copies


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"budget": 100}, "`budget` must be left at None in `fit`; got 100"),
        ({"redundancy": 0.1}, "`redundancy` must be left at 0.0 in `fit`; got 0.1"),
        ({"price": "chi-square"}, "`price` must be a number or description-length in `fit`; got 'chi-square'"),
        ({"price": "0.1:1:3"}, "`price` must be a number or description-length"),
    ],
)
def test_settings_of_whole_experiments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        growth_of(InformationConfig(**changes), steps=100, is_classes=False)


def test_settings_reach_the_drive():
    settings = InformationConfig(every=7, look_ahead=3, settle=0.5, birth=0.0, reorder=False, size_rate=0.2)
    growth = growth_of(settings, steps=11, is_classes=True)
    drive = growth.drive
    assert (drive.every, drive.look_ahead, drive.until, drive.birth_until) == (7, 3, 6, 0)
    assert (drive.reorder, drive.is_classes, growth.rate, growth.birth) == (False, True, 0.2, 0.0)


def test_everything_that_holds_a_grown_model_is_permuted():
    own, order = grown(), jnp.asarray(np.array([1, 0, 2, 3, 4, 5, 6, 7]))
    tree = {"moments": [eqx.filter(own, eqx.is_inexact_array)], "count": jnp.asarray(3)}
    moved = eqx.filter_jit(lambda tree, order: permute_grown(tree, 0, order))(tree, order)
    np.testing.assert_array_equal(weights_of(moved["moments"][0]), weights_of(own)[np.asarray(order)])
    assert moved["count"] == 3
