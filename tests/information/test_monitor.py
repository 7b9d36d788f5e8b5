"""Monitor: every quantity by name, psi and a user's importance, and gaps where second moments are blind."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.information import gaussian
from n3.information.measures import BLIND, LayerMonitor, blindness, gap
from n3.nn.controllers import Auxiliary
from n3.nn.losses import Samples
from n3.nn.mlp import GrowingMLP

NAMES = ("entropy", "importance", "redundancy", "structure")
SEEDS, SAMPLES = 8, 600
gaps_of_numbers, gaps_of_classes = (jax.jit(jax.vmap(partial(gap, is_classes=c))) for c in (False, True))


def network(size):
    return GrowingMLP(2, 1, controller=Auxiliary(jnp.float32(size), (4, 4)), key=jr.key(0))


def samples(count=64):
    inputs_key, targets_key = jr.split(jr.key(1))
    targets = (jr.uniform(targets_key, (1, count)) > 0.5).astype(jnp.float32)
    return Samples(jr.normal(inputs_key, (2, count)), targets, jnp.full(count, 1.0 / count))


def watched(net, data, names=NAMES, **settings):
    return eqx.filter_jit(LayerMonitor(names=names, is_classes=True, **settings))(net, data)


def test_monitored_layers_by_name():
    net, data = network(2.0), samples()
    found = watched(net, data, (*NAMES, "gap"))
    assert set(found) == {*NAMES, "gap"}
    assert all(values.shape == (2,) for values in found.values())
    assert watched(net, data, ()) == {}
    np.testing.assert_allclose(found["structure"], 0.0, atol=1e-3)
    more = watched(eqx.tree_at(lambda n: n.controller.weight, net, jnp.float32(4.0)), data)
    assert np.all(more["entropy"] > found["entropy"])
    assert np.all(more["redundancy"] > found["redundancy"])


def test_the_entropy_of_a_layer_is_half_the_log_determinant_of_its_channel():
    net, data = network(4.0), samples()
    active = np.asarray(net.activations(data.inputs)[0], np.float64)
    units = (active - active.mean(1, keepdims=True)) / np.sqrt(active.var(1, keepdims=True) + 1e-6)
    expected = 0.5 * np.linalg.slogdet(units @ units.T / 64 / 1e-4 + np.eye(4))[1]
    np.testing.assert_allclose(watched(net, data, ("entropy",))["entropy"][0], expected, rtol=1e-3)


def test_psi_prices_what_stays_uncertain():
    net, data = network(4.0), samples()
    plain = watched(net, data)["importance"]
    entropy = gaussian.entropy(data.targets, is_classes=True)
    priced = watched(net, data, psi=1.2)
    np.testing.assert_allclose(priced["importance"], entropy - 1.2 * (entropy - plain), rtol=1e-5)
    np.testing.assert_array_equal(priced["entropy"], watched(net, data)["entropy"])


def test_a_users_importance_is_summed_over_participating_units():
    net, data = network(2.4), samples()
    found = watched(net, data, psi=1.2, custom=lambda active, targets: jnp.mean(active**2, axis=1))
    layers = zip(net.activations(data.inputs), net.participation(), strict=True)
    expected = [np.sum(np.mean(np.asarray(active) ** 2, axis=1) * np.asarray(mask)) for active, mask in layers]
    np.testing.assert_allclose(found["importance"], expected, rtol=1e-5)


def layers(units):
    """A layer of copies and blends of one symmetric number `t`, and `t` itself, for each seed."""
    t_key, weight_key, noise_key = jr.split(jr.key(2), 3)
    t = jr.uniform(t_key, (SEEDS, 1, SAMPLES), minval=-1.0, maxval=1.0)
    signs = jr.rademacher(weight_key, (SEEDS, units, 1), jnp.float32)
    blends = signs * jnp.arange(1.0, units + 1)[None, :, None] * t
    return blends + 0.01 * jr.normal(noise_key, blends.shape), t, jnp.ones((SEEDS, units))


@pytest.mark.parametrize("units", [1, 3, 12])
@pytest.mark.parametrize("fold", [jnp.abs, jnp.square])
def test_the_gaussian_estimate_is_blind_to_a_folded_target(units, fold):
    active, t, masks = layers(units)
    assert np.all(gaps_of_numbers(active, fold(t), masks) > 0.3)


@pytest.mark.parametrize("units", [1, 12])
def test_the_gaussian_estimate_is_blind_to_folded_classes(units):
    active, t, masks = layers(units)
    two = (jnp.abs(t) > 0.5).astype(jnp.float32)
    three = jax.nn.one_hot((3 * jnp.abs(t[:, 0])).astype(int), 3, axis=1)
    for targets, entropy in ((two, np.log(2)), (three, np.log(3))):
        found = gaps_of_classes(active, targets, masks)
        assert np.all(found > 0.3)
        assert np.all(found < entropy + 0.05)


@pytest.mark.parametrize("units", [1, 2, 12])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.8])
def test_a_linear_gaussian_target_leaves_no_gap(units, share):
    unit_key, noise_key = jr.split(jr.key(3))
    active = jr.normal(unit_key, (SEEDS, units, SAMPLES))
    told = active.sum(axis=1, keepdims=True) / units**0.5
    target = share**0.5 * told + (1 - share) ** 0.5 * jr.normal(noise_key, told.shape)
    masks = jnp.ones((SEEDS, units))
    assert abs(float(gaps_of_numbers(active, target, masks).mean())) < 0.05
    classes = (target > 0).astype(jnp.float32)
    assert abs(float(gaps_of_classes(active, classes, masks).mean())) < 0.05


def test_units_that_take_no_part_leave_no_gap():
    active, t, masks = layers(12)
    assert abs(float(gaps_of_numbers(active, jnp.abs(t), 0.0 * masks).mean())) < 0.05
    assert np.all(gaps_of_numbers(active, jnp.abs(t), masks.at[:, 1:].set(0.0)) > 0.3)
    blind = active.at[:, 0].set(jr.normal(jr.key(4), (SEEDS, SAMPLES)))
    assert abs(float(gaps_of_numbers(blind, jnp.abs(t), masks.at[:, 1:].set(0.0)).mean())) < 0.05


def test_several_numbers_are_folded_too():
    active, t, masks = layers(5)
    others = jr.normal(jr.key(5), (SEEDS, 4, SAMPLES))
    folded = jnp.concatenate([jnp.abs(t)] * 3 + [others[:, :2]], axis=1)
    assert np.all(gaps_of_numbers(active, folded, masks) > 0.3)
    assert abs(float(gaps_of_numbers(active, others, masks).mean())) < 0.05


def test_constant_units_and_targets_leave_no_gap():
    active, t, masks = layers(3)
    assert abs(float(gaps_of_numbers(0.0 * active, t, masks).mean())) < 0.05
    assert abs(float(gaps_of_numbers(active, 0.0 * t, masks).mean())) < 0.05


def test_no_more_samples_than_the_bound_are_seen():
    active, t, masks = layers(2)
    rows = np.random.default_rng(0).permutation(SAMPLES)
    changed = active.at[:, :, rows[512:]].set(9.0)
    plain = gaps_of_numbers(active, t, masks)
    np.testing.assert_array_equal(gaps_of_numbers(changed, t, masks), plain)
    assert np.all(gaps_of_numbers(active.at[:, :, rows[:512]].multiply(-1.0), jnp.abs(t), masks) != plain)


def test_a_gap_needs_more_than_three_samples():
    with pytest.raises(ValueError, match=r"`neighbours` must be in 1 \.\.\. 2"):
        jax.eval_shape(partial(gap, is_classes=False), jnp.ones((2, 3)), jnp.ones((1, 3)), jnp.ones(2))


def test_blindness_names_arm_layer_and_median():
    clear, blind = np.full((3, 2), BLIND - 0.01), np.full((3, 2), 0.0)
    blind[:, 1] = 0.1, np.nan, 0.5
    found = blindness({"static": clear, "growing": blind})
    assert found.endswith("(median gap over 0.2 nats): growing layer 2: 0.30")
    assert "\n" not in found
    assert blindness({"static": clear}) is None
    assert blindness({"static": np.full((2, 1), np.nan)}) is None
