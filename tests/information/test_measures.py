"""Measures: the quantities that criteria name, against the estimators that they are."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.config.criteria import LAYER, UNIT
from n3.information import gaussian
from n3.information.measures import measure_units


@pytest.fixture(scope="module")
def layer():
    """Units 0 and 1 copy each other, 2 adds to them, 3 is noise, 4 is constant; 500 samples."""
    active = jr.normal(jr.key(0), (5, 500))
    active = active.at[1].set(active[0]).at[4].set(0.3)
    return active, (active[0] + 0.5 * active[2] + 0.3 * jr.normal(jr.key(1), (500,)))[None]


def seen(layer, mask=None, is_there=None):
    ones = jnp.ones(5)
    found = measure_units(
        *layer,
        ones if mask is None else jnp.array(mask),
        ones if is_there is None else jnp.array(is_there),
        is_classes=False,
    )
    assert tuple(sorted(found.units)) == tuple(sorted(UNIT))
    assert {*found.layer, "layer.gain"} == set(LAYER)
    return {name: np.asarray(value) for name, value in {**found.units, **found.layer}.items()}


def test_importance_is_what_no_other_unit_says(layer):
    found = seen(layer)
    np.testing.assert_allclose(found["importance"][2], 0.5 * np.log(1 + 0.25 / 0.09), rtol=0.1)
    assert np.abs(found["importance"][[0, 1, 3, 4]]).max() < 0.01
    np.testing.assert_allclose(found["marginal"][0], 0.5 * np.log(1 + 1 / 0.34), rtol=0.1)


def test_of_two_copies_the_one_that_is_left_is_important(layer):
    assert seen(layer, is_there=[1.0, 0.0, 1.0, 1.0, 1.0])["importance"][0] > 1.0


def test_importance_has_no_bias():
    draws = [jr.normal(jr.key(seed), (6, 200)) for seed in range(40)]
    ones = jnp.ones(5)
    found = [measure_units(d[:5], d[5:], ones, ones, is_classes=False).units["importance"] for d in draws]
    mean, spread = np.mean(found), np.std(np.mean(found, axis=1)) / np.sqrt(len(draws))
    assert abs(mean) < 5 * spread
    assert spread < 0.0005  # the bias of 1 / 2n, 0.0025, would show


def test_entropy_is_zero_for_the_constant_and_the_absent(layer):
    found = seen(layer, mask=[1.0, 1.0, 1.0, 0.0, 1.0])["entropy"]
    np.testing.assert_allclose(found[:3], 0.5 * np.log(1 + 1e4), rtol=1e-3)
    np.testing.assert_allclose(found[3:], 0, atol=1e-3)


def test_redundancy_is_what_the_others_say_of_a_unit(layer):
    found = seen(layer)["redundancy"]
    assert found[0] > 4
    assert found[1] > 4
    assert found[2:].max() < 0.02


def test_absent_units_change_nothing_for_the_others(layer):
    active, targets = layer
    gone = seen(layer, is_there=[1.0, 0.0, 1.0, 0.0, 1.0])
    left = jnp.array([0, 2, 4])
    few = measure_units(active[left], targets, jnp.ones(3), jnp.ones(3), is_classes=False)
    for name, value in few.units.items():
        np.testing.assert_allclose(gone[name][np.asarray(left)], value, rtol=1e-3, atol=1e-4)
    for name, value in few.layer.items():
        np.testing.assert_allclose(gone[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("is_classes", [False, True])
def test_a_layer_s_quantities_are_the_estimators_own(layer, is_classes):
    active, targets = layer
    targets = (targets > 0).astype(targets.dtype) if is_classes else targets
    mask = jnp.array([1.0, 1.0, 0.7, 1.0, 1.0])
    found = measure_units(active, targets, mask, jnp.ones(5), is_classes=is_classes)
    own = gaussian.layer_information(
        active,
        targets,
        mask,
        is_classes=is_classes,
        floor=gaussian.MONITORING_FLOOR,
        resolution=gaussian.MONITORING_RESOLUTION,
    )
    np.testing.assert_allclose(found.layer["layer.importance"], own.corrected_importance, rtol=1e-4)
    np.testing.assert_allclose(found.layer["layer.redundancy"], own.total_correlation, rtol=1e-4)
