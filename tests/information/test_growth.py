"""Growth: the look, its prices and its births on a model whose units are known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.config.experiment import InformationConfig
from n3.information.growth import GrowthState, Pool, Prices, growth_of, permute_grown, prices_of
from n3.tracing.grow import grow

KEYS = jr.split(jr.key(7), 6)
SETTINGS = InformationConfig(price=0.05)
INPUTS = jr.normal(KEYS[0], (300, 3))
TARGETS = (jnp.tanh(INPUTS[:, 0]) + 0.05 * jr.normal(KEYS[1], (300,)))[None]
GROWTH = growth_of(SETTINGS, steps=1_000, is_classes=False)
PRICES = prices_of(SETTINGS, 300, INPUTS)


@pytest.fixture(scope="module")
def grown():
    """Eight units of which unit 5 alone sees the first input, and says all there is to say."""
    model = eqx.nn.MLP(3, 1, 8, 1, jnp.tanh, key=KEYS[2])
    weight = model.layers[0].weight.at[:, 0].set(0.0).at[5].set(jnp.array([1.0, 0.0, 0.0]))
    model = eqx.tree_at(lambda m: (m.layers[0].weight, m.layers[0].bias), model, (weight, jnp.zeros(8)))
    return grow(model, example=INPUTS[0], key=KEYS[3])


def at_size(grown, size):
    return eqx.tree_at(lambda g: g.controller.weight, grown, jnp.full(1, size))


def look(grown, count=0, prices=PRICES, growth=GROWTH):
    moments = (eqx.filter(grown, eqx.is_inexact_array),)
    return growth.look(grown, moments, Pool(INPUTS, TARGETS), prices, jnp.asarray(count))


def test_a_look_puts_the_best_unit_first_and_is_drawn_to_it_alone(grown):
    seen, (moments,), state = look(grown)
    np.testing.assert_array_equal(state.best, [1.0])
    np.testing.assert_array_equal(seen.model.layers[0].weight[0], [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(moments.model.layers[0].weight[0], [1.0, 0.0, 0.0])
    np.testing.assert_allclose(seen(INPUTS[0]), grown(INPUTS[0]), rtol=1e-5, atol=1e-6)


def test_units_beyond_the_size_keep_their_places(grown):
    seen, _, state = look(at_size(grown, 3.0))
    np.testing.assert_array_equal(seen.model.layers[0].weight[3:], grown.model.layers[0].weight[3:])
    assert state.best[0] == 6.0  # within sight, and worth the five that come before it


def test_a_high_price_leaves_nothing(grown):
    expensive = Prices(jnp.asarray(9.0), jnp.asarray(0.0), PRICES.inputs)
    assert look(grown, prices=expensive)[2].best[0] == 0.0
    by_parameter = Prices(jnp.asarray(0.0), jnp.asarray(9.0), PRICES.inputs)
    assert look(grown, prices=by_parameter)[2].best[0] == 0.0


def test_only_the_makers_of_unborn_units_are_taught(grown):
    gradient = look(at_size(grown, 3.5))[2].gradient
    hidden, readout = gradient.layers
    assert not np.any(hidden.weight[:3])
    assert np.all(np.abs(hidden.weight[3:]).sum(axis=1) > 0)
    assert not np.any(readout.weight)
    assert not np.any(readout.bias)


def test_teaching_fades_and_ends(grown):
    early, late, over = (
        np.abs(look(at_size(grown, 3.5), count)[2].gradient.layers[0].weight).sum() for count in (0, 165, 330)
    )
    np.testing.assert_allclose(late, early / 2.0, rtol=1e-4)
    assert over == 0.0


def test_a_step_downhill_on_the_gradient_raises_the_information_of_the_unborn(grown):
    before = at_size(grown, 3.5)
    gradient = look(before)[2].gradient
    moved = jax.tree.map(lambda p, g: p - 100.0 * g, eqx.filter(before.model, eqx.is_inexact_array), gradient)
    after = eqx.tree_at(lambda g: g.model, before, eqx.combine(moved, before.model))

    def worth(own):
        active = jax.vmap(own.activations)(INPUTS)[0].T
        return GROWTH.drive.worth_of(active, TARGETS, jnp.asarray(0.0))[1][5]

    assert worth(after) > worth(before) + 0.01


def test_pull_and_pace_by_hand(grown):
    here = at_size(grown, 3.5)
    zero = jax.tree.map(jnp.zeros_like, eqx.filter(here, eqx.is_inexact_array))
    for best, pull in ((1.0, 1.0), (3.25, 0.25), (8.0, -1.0)):
        state = GrowthState(jnp.full(1, best), jax.tree.map(jnp.ones_like, zero.model))
        added = GROWTH.added(zero, here, state)
        np.testing.assert_allclose(added.controller.weight, [pull])
        assert np.all(added.model.layers[0].weight == 1.0)
        paced = GROWTH.paced(zero, added)
        np.testing.assert_allclose(paced.controller.weight, [-SETTINGS.size_rate * pull], rtol=1e-6)


def test_sizes_that_have_arrived_rest_just_there(grown):
    state = GROWTH.start(grown)
    state = GrowthState(jnp.full(1, 4.0), state.gradient)
    assert GROWTH.settled(at_size(grown, 4.0009), state).controller.weight[0] == 4.0
    np.testing.assert_array_equal(
        GROWTH.settled(at_size(grown, 4.2), state).controller.weight, jnp.full(1, 4.2)
    )


def test_looks_are_due_at_a_cadence_until_sizes_settle():
    assert [GROWTH.is_due(done) for done in (0, 24, 25, 575, 600)] == [True, False, True, True, False]


def test_prices_by_hand():
    prices = prices_of(InformationConfig(price_scale=2.0), 100, INPUTS)
    np.testing.assert_allclose(prices.parameter, 2.0 * np.log(100) / 400, rtol=1e-6)
    assert prices.unit == 0.0
    number = prices_of(InformationConfig(price=0.3, price_scale=0.5), 100, INPUTS)
    np.testing.assert_allclose([number.unit, number.parameter], [0.15, 0.0], rtol=1e-6)


@pytest.mark.parametrize("samples, width", [(50, 4), (4, 50)])
def test_effective_inputs_are_the_participation_ratio(samples, width):
    inputs = np.asarray(jr.normal(KEYS[4], (samples, 2, width // 2)))
    covariance = np.cov(inputs.reshape(samples, -1).T, bias=True)
    expected = np.trace(covariance) ** 2 / np.sum(covariance**2)
    np.testing.assert_allclose(prices_of(SETTINGS, 100, jnp.asarray(inputs)).inputs, expected, rtol=1e-4)
    copies = np.repeat(inputs.reshape(samples, -1)[:, :1], 7, axis=1)
    np.testing.assert_allclose(prices_of(SETTINGS, 100, jnp.asarray(copies)).inputs, 1.0, rtol=1e-5)


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


def test_everything_that_holds_a_grown_model_is_permuted(grown):
    order = jnp.array([1, 0, 2, 3, 4, 5, 6, 7])
    tree = {"moments": [eqx.filter(grown, eqx.is_inexact_array)], "count": jnp.asarray(3)}
    moved = permute_grown(tree, 0, order)
    expected = grown.model.layers[0].weight[order]
    np.testing.assert_array_equal(moved["moments"][0].model.layers[0].weight, expected)
    assert moved["count"] == 3
