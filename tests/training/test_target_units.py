"""Target units: sizes and relative losses are those of any other unit, and predictions are in the user's."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import n3

pytestmark = pytest.mark.filterwarnings("ignore:`fit`:RuntimeWarning")

INPUTS = np.random.default_rng(0).uniform(-1, 1, (40, 1)).astype(np.float32)
TARGETS = np.sin(3 * INPUTS[:, 0].astype(float))
PRICE, HELD_OUT = (n3.InformationConfig(criterion=name) for name in ("price", "held-out"))


def grown(outputs="scalar", **how):
    made = eqx.nn.MLP(1, outputs, 6, 1, key=jr.key(0), activation=jnp.tanh)
    own = {"example": jnp.zeros(1), "key": jr.key(1), "method": "information", "initial_size": 3.0}
    return n3.grow(made, **own | how)


def fitted(targets, model=None, information=PRICE, steps=30, data=lambda x, y: (x, y), **how):
    own = {"steps": steps, "key": jr.key(2), "learning_rate": 1e-2, "quiet": True} | how
    with np.errstate(all="ignore"):
        return n3.fit(model or grown(), data(INPUTS, targets), information=information, **own)


def batches(inputs, targets):
    return [(inputs[at : at + 20], targets[at : at + 20]) for at in (0, 20)]


@pytest.mark.parametrize(
    "unit,level",
    [(2.0**14, 0.0), (2.0**-60, 0.0), pytest.param(2.0**-3, 4.0, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    "information,data",
    [(PRICE, None), pytest.param(HELD_OUT, None, marks=pytest.mark.slow), (PRICE, batches)],
)
def test_another_unit_changes_nothing_but_the_unit(unit, level, information, data):
    how = {"information": information} | ({"data": data} if data else {})
    levels = TARGETS if not level else np.round(TARGETS * 2**20) / 2**20  # exact at any level
    net, history = fitted(levels, **how)
    other, again = fitted(unit * (levels + level), **how)
    assert np.array_equal(history.sizes, again.sizes)
    np.testing.assert_allclose(again.train_loss, history.train_loss * unit**2, rtol=1e-5)
    if history.held_out_loss is not None:
        np.testing.assert_allclose(again.held_out_loss, history.held_out_loss * unit**2, rtol=1e-5)
    own, theirs = (jax.vmap(one)(INPUTS) for one in (net, other))
    np.testing.assert_allclose(theirs, unit * (own + level), rtol=1e-5, atol=1e-5 * unit)


def test_a_model_that_was_learnt_before_goes_on_from_what_it_predicts():
    unit = 1e4
    first, _ = fitted(unit * TARGETS, steps=1500)
    before = jax.vmap(first)(INPUTS)
    assert np.mean((before - unit * TARGETS) ** 2) < 0.02 * unit**2
    again, _ = fitted(unit * TARGETS, model=first, steps=1, learning_rate=1e-9)
    np.testing.assert_allclose(jax.vmap(again)(INPUTS), before, rtol=1e-4, atol=1e-2 * unit)


def test_several_outputs_share_one_unit_and_have_a_level_each():
    targets = np.stack([TARGETS, 100 * TARGETS + 7], axis=1)
    net, history = fitted(1e6 * targets, model=grown(outputs=2), steps=60)
    predicted = jax.vmap(net)(INPUTS)
    loss = np.mean((predicted - 1e6 * targets) ** 2)
    np.testing.assert_allclose(loss, history.train_loss[-1], rtol=0.2)


def test_validation_losses_are_in_the_users_unit():
    unit = 2.0**10
    validation = (INPUTS, unit * TARGETS)
    net, history = fitted(unit * TARGETS, validation_data=validation)
    loss = np.mean((jax.vmap(net)(INPUTS) - unit * TARGETS) ** 2)
    np.testing.assert_allclose(history.validation_loss[-1], loss, rtol=1e-4)
