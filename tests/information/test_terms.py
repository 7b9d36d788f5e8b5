"""Terms: each by hand from the estimators, exactly off at zero, recorded by layer, and where gradients go."""

from dataclasses import fields, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.information import gaussian
from n3.information.measures import (
    InformationTerms,
    TermWeights,
    check_importance,
    information_terms,
    masked_channel,
)
from n3.information.sizing import DriveHypers, InformationDrive
from n3.nn.controllers import Information
from n3.nn.losses import LossWeights, Samples, objective
from n3.nn.mlp import GrowingMLP

UNITS, NAMES = (5, 4), ("importance", "redundancy", "structure", "price")
SIDES = jr.normal(jr.key(0), (2, 60)), jr.normal(jr.key(1), (1, 60))
BEFORE = tuple(jnp.linspace(0.9, 0.1, units) for units in UNITS)


@pytest.fixture(scope="module")
def net():
    controller = Information(jnp.array([3.4, 2.3]), capacity=UNITS)
    return eqx.filter_jit(GrowingMLP)(2, 1, controller=controller, key=jr.key(2))


def weights(**changes):
    settings = dict.fromkeys(NAMES, 0.0) | {"psi": 1.0} | changes
    return TermWeights(**{name: jnp.asarray(value) for name, value in settings.items()})


@eqx.filter_jit
def terms(net, own, custom=None, **settings):
    return information_terms(net, *SIDES, own, before=BEFORE, is_classes=False, custom=custom, **settings)


@eqx.filter_jit
def gradient(net, own, **settings):
    return eqx.filter_grad(lambda n: terms(n, own, **settings).total())(net)


def test_every_term_by_hand(net):
    own = terms(net, weights(importance=0.5, psi=1.2, redundancy=0.25, structure=2.0, price=0.1))
    entropy = gaussian.entropy(SIDES[1], is_classes=False)
    for layer, (active, mask) in enumerate(zip(net.activations(SIDES[0]), net.participation(), strict=True)):
        channel = masked_channel(active, SIDES[1], mask, is_classes=False)
        gain = gaussian.gaussian_information(channel)
        known = {
            "importance": -0.5 * (entropy - 1.2 * (entropy - gain)),
            "redundancy": 0.25 * gaussian.total_correlation(channel),
            "structure": 2.0 * gaussian.structural_divergence(mask, BEFORE[layer]),
            "price": 0.1 * jnp.sum(mask),
        }
        for name, value in known.items():
            np.testing.assert_allclose(getattr(own, name)[layer], value, rtol=1e-5, err_msg=name)
    assert np.all(np.asarray(own.structure) > 0)
    parts = sum(float(jnp.sum(getattr(own, name))) for name in NAMES)
    np.testing.assert_allclose(own.total(), parts, rtol=1e-5)
    np.testing.assert_allclose(own.descended(), parts - float(jnp.sum(own.price)), rtol=1e-5)
    assert [*own.named()] == [f"{name}_term" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_zero_switches_a_term_off_exactly(net, name):
    on = {other: 0.3 for other in NAMES if other != name}
    own = terms(net, weights(**on))
    assert np.all(np.asarray(getattr(own, name)) == 0)
    assert all(np.all(np.asarray(getattr(own, other)) != 0) for other in on)
    alone = gradient(net, weights())
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(alone))


def test_gradients_go_to_the_masks_and_to_the_features_when_asked(net):
    own = weights(importance=0.3, redundancy=0.3)
    plain, asked = gradient(net, own), gradient(net, own, features=True)
    assert np.all(np.asarray(plain.controller.weight) != 0)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves((plain.layers, plain.readout)))
    assert np.all(np.asarray(asked.layers[0].weight[:3]) != 0)


def test_the_gradient_in_the_size_is_that_of_finite_differences(net):
    own = weights(importance=0.5, redundancy=0.25, structure=2.0, price=0.1)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (net, own))
        sides, past = (tuple(side.astype(jnp.float64) for side in each) for each in (SIDES, BEFORE))

        def of_size(size):
            moved = eqx.tree_at(lambda n: n.controller.weight, wide[0], size)
            return information_terms(
                moved, *sides, wide[1], before=past, is_classes=False, features=True
            ).total()

        size, step = wide[0].controller.weight, 1e-6
        slopes = [
            (of_size(size.at[layer].add(step)) - of_size(size.at[layer].add(-step))) / (2 * step)
            for layer in range(2)
        ]
        np.testing.assert_allclose(jax.grad(of_size)(size), np.array(slopes), rtol=1e-5)


def test_a_users_importance_takes_the_place_of_the_built_in_one(net):
    own = terms(net, weights(importance=0.5), lambda active, _: jnp.arange(float(active.shape[0])))
    known = [-0.5 * float(jnp.sum(jnp.arange(float(mask.size)) * mask)) for mask in net.participation()]
    np.testing.assert_allclose(own.importance, known, rtol=1e-6)


def test_the_objective_adds_them_under_their_names(net):
    samples = Samples(*SIDES, jnp.full(60, 1 / 60))
    zero, own = jnp.asarray(0.0), weights(importance=0.5, price=0.1, redundancy=0.2, structure=1.0)
    settings = {"weights": LossWeights(zero, zero), "target_size": zero, "target_depth": zero}

    @eqx.filter_jit
    def of(further):
        return objective(net, samples, loss="squared-error", further=further, **settings)

    (plain, without), (total, named) = of(None), of(lambda n: terms(n, own))
    assert without.further is None
    np.testing.assert_allclose(total - plain, terms(net, own).total(), rtol=1e-5)
    np.testing.assert_allclose(named.further.price, terms(net, own).price, rtol=1e-6)
    assert float(named.total) == float(total)


def test_a_drive_records_its_terms_and_what_units_cost(net):
    names = [field.name for field in fields(DriveHypers)]
    settings = dict.fromkeys(names, 0.0) | {"price": 0.02, "importance": 0.5, "psi": 1.0}
    numbers = DriveHypers(**{name: jnp.asarray(value) for name, value in settings.items()})
    samples = Samples(*SIDES, jnp.full(60, 1 / 60))
    drive = InformationDrive(is_classes=False, terms=True)
    state = eqx.tree_at(lambda s: s.prices, drive.start(net), jnp.array([0.02, 0.03]))
    found = drive.recorded(net, state, numbers, samples)
    np.testing.assert_allclose(found.price, [0.02 * 3.4, 0.03 * 2.3], rtol=1e-5)
    np.testing.assert_allclose(found.importance, terms(net, weights(importance=0.5)).importance, rtol=1e-5)
    quiet = replace(drive, terms=False).recorded(net, state, numbers, samples)
    np.testing.assert_array_equal(quiet.price, found.price)
    assert np.all(np.asarray(quiet.importance) == 0)
    assert isinstance(quiet, InformationTerms)


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (lambda active, targets: active, "shape"),
        (lambda active, targets: jnp.full(active.shape[0], jnp.nan), "finite"),
        (lambda active, targets: -jnp.ones(active.shape[0]), "zero or more"),
    ],
)
def test_a_users_importance_is_checked_once(net, importance, message):
    with pytest.raises(ValueError, match=f"`importance` must.*{message}"):
        check_importance(importance, net.activations(SIDES[0])[0], SIDES[1])
