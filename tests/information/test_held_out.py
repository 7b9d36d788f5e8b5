"""Held-out: what a look makes of networks whose units are known."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.information.held_out import judged, orders_of
from n3.information.measures import HeldOut, Pool
from n3.nn.controllers import Information
from n3.nn.members import MEMBERS
from n3.nn.mlp import GrowingMLP

UNITS, SAMPLES, HELD = 8, 120, 40
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(SAMPLES + HELD, UNITS)).astype(np.float32)
NOISE = DRAW.normal(size=SAMPLES + HELD).astype(np.float32)


def network(*sizes, weights=None):
    """Identity units that are the inputs themselves, or given mixtures of them, layer after layer."""
    capacity = (UNITS,) * len(sizes)
    controller = Information(jnp.array(sizes, jnp.float32), capacity, "linear")
    net = GrowingMLP(UNITS, 1, controller=controller, activation="identity", key=jr.key(0))
    matrices = weights or [np.eye(UNITS)] * len(sizes)
    given = [jnp.asarray(own, jnp.float32) for own in matrices]
    net = eqx.tree_at(lambda n: [layer.weight for layer in n.layers], net, given)
    return eqx.tree_at(lambda n: [layer.bias for layer in n.layers], net, [jnp.zeros(UNITS)] * len(sizes))


def pool(target, weights=None, fit=None):
    rows = jnp.asarray(np.asarray(target, np.float32)[None])
    own = jnp.ones(HELD) if weights is None else jnp.asarray(weights, jnp.float32)
    held = HeldOut(jnp.asarray(X[SAMPLES:]), rows[:, SAMPLES:], own, fit)
    return Pool(jnp.asarray(X[:SAMPLES]), rows[:, :SAMPLES], held)


@eqx.filter_jit
def program(net, samples, errors, resolution, is_classes):
    options = {"look_ahead": 8, "errors": errors, "resolution": resolution}
    return judged(net, samples, is_classes=is_classes, has_members=False, **options)


def look(net, samples, *, errors=0.5, resolution=1e-8, is_classes=False):
    return program(net, samples, jnp.float32(errors), jnp.float32(resolution), is_classes)


def best(net, target, **options):
    return np.asarray(look(net, pool(target), **options).best).tolist()


LINEAR = X[:, 0] + 2 * X[:, 1] - X[:, 2]


def test_trained_samples_of_weight_zero_teach_nothing():
    wrong = np.arange(len(X)) < SAMPLES // 2
    target = np.where(wrong, 5 * X[:, 5], LINEAR)
    own = jnp.asarray(~wrong[:SAMPLES], jnp.float32)
    net = network(3.0)
    found = look(net, pool(target, fit=own))
    assert found.best.tolist() == look(net, pool(LINEAR)).best.tolist() == [3.0]
    np.testing.assert_allclose(found.residual[0, SAMPLES // 2 :], 0.0, atol=1e-3 * np.max(found.residual))
    assert np.max(np.abs(look(net, pool(target)).residual[0, SAMPLES // 2 :])) > 0.1
    every = jnp.ones(SAMPLES)
    assert orders_of(network(8.0), pool(target, fit=own), is_classes=False)[0][0] == 1
    assert orders_of(network(8.0), pool(target, fit=every), is_classes=False)[0][0] == 5


@pytest.mark.parametrize("size", [1.0, 2.4, 3.0, 7.0])
def test_the_units_that_the_target_needs_are_found_from_below_and_above(size):
    assert best(network(size), LINEAR + 0.3 * NOISE) == [3.0]


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_no_unit_of_the_target_is_in_it(scale):
    assert best(network(2.0), scale * (LINEAR + 0.3 * NOISE)) == [3.0]


def test_noise_needs_no_unit():
    assert best(network(2.0), NOISE, errors=2.0) == [0.0]


def test_what_is_below_the_resolution_is_worth_nothing():
    target = LINEAR + 1e-3 * X[:, 3]
    assert best(network(2.0), target, errors=0.0) == [4.0]
    assert best(network(2.0), target, errors=0.0, resolution=1e-4) == [3.0]


def test_classes_are_judged_by_their_cross_entropy():
    chances = 1 / (1 + np.exp(-3 * LINEAR))
    labels = (np.random.default_rng(1).uniform(size=len(X)) < chances).astype(np.float32)
    assert best(network(1.0), labels, is_classes=True) == [3.0]


def test_samples_without_weight_do_not_count():
    target = np.concatenate([LINEAR[:SAMPLES], 100 * NOISE[SAMPLES:]])
    target[SAMPLES : SAMPLES + 20] = LINEAR[SAMPLES : SAMPLES + 20]
    weights = np.arange(HELD) < 20
    found = look(network(2.0), pool(target, weights))
    assert found.best.tolist() == [3.0]
    poisoned = np.where(np.arange(len(X)) >= SAMPLES + 20, 1e6, target)
    assert look(network(2.0), pool(poisoned, weights)).best.tolist() == [3.0]


def test_what_is_left_is_the_error_of_the_present_units():
    found = look(network(2.0), pool(LINEAR))
    left = (
        LINEAR[:SAMPLES]
        - np.column_stack([X[:SAMPLES, :2], np.ones(SAMPLES)])
        @ np.linalg.lstsq(np.column_stack([X[:SAMPLES, :2], np.ones(SAMPLES)]), LINEAR[:SAMPLES], rcond=None)[0]
    )
    left /= np.sqrt(np.mean(left**2))
    assert np.mean(np.asarray(found.residual[0]) * left) > 0.99
    assert np.mean(np.asarray(found.residual[0]) ** 2) == pytest.approx(1.0)


def test_where_nothing_is_finite_the_answer_is_negative():
    net = eqx.tree_at(lambda n: n.layers[0].bias, network(2.0), jnp.full(UNITS, jnp.nan))
    samples = pool(LINEAR)
    samples = eqx.tree_at(lambda own: own.targets, samples, samples.targets * jnp.nan)
    assert float(look(net, samples).best[0]) == -1.0


def test_a_unit_of_the_first_layer_is_kept_for_what_the_outputs_lose_without_it():
    # The second layer reads inputs 0 to 2 through the first three units, and nothing reads the rest.
    second = np.eye(UNITS)
    assert best(network(6.0, 3.0, weights=[np.eye(UNITS), second]), LINEAR + 0.3 * NOISE) == [4.0, 3.0]
    assert best(network(3.0, 3.0), LINEAR + 0.3 * NOISE) == [3.0, 3.0]


def test_a_first_layer_grows_by_what_its_units_add_beside_the_last():
    # The second layer sees input 0 alone; the first has inputs 1 and 2 next in line.
    second = np.zeros((UNITS, UNITS))
    second[:, 0] = 1.0
    assert best(network(1.0, 1.0, weights=[np.eye(UNITS), second]), LINEAR + 0.3 * NOISE)[0] == 3.0


def test_members_pool_what_they_lose():
    def of_member(shift):
        rows = (
            jnp.roll(jnp.asarray(X), shift, axis=0),
            jnp.roll(jnp.asarray(LINEAR + NOISE)[None], shift, axis=1),
        )
        held = HeldOut(rows[0][SAMPLES:], rows[1][:, SAMPLES:], jnp.ones(HELD))
        return Pool(rows[0][:SAMPLES], rows[1][:, :SAMPLES], held)

    pools = [of_member(shift) for shift in (0, 40, 80)]
    stacked = jax.tree.map(lambda *own: jnp.stack(own), *pools)
    options = {"look_ahead": 8, "errors": jnp.zeros(()), "resolution": jnp.zeros(()), "is_classes": False}
    judge = partial(judged, network(2.0), has_members=True, **options)
    found = jax.jit(jax.vmap(judge, axis_name=MEMBERS))(stacked).best[:, 0]
    assert len(set(found.tolist())) == 1
    means = []
    for number in range(UNITS + 1):
        losses = []
        for own in pools:
            fit = np.column_stack([own.inputs[:, :number], np.ones(SAMPLES)])
            weights = np.linalg.lstsq(fit, np.asarray(own.targets[0], float), rcond=None)[0]
            outputs = np.column_stack([own.held.inputs[:, :number], np.ones(HELD)]) @ weights
            losses.append((outputs - np.asarray(own.held.targets[0])) ** 2)
        means.append(np.mean(losses))
    assert float(found[0]) == np.argmin(means)


def test_units_are_ordered_by_what_the_target_and_the_last_layer_need():
    net = network(4.0, 4.0, weights=[np.eye(UNITS), np.eye(UNITS)[[3, 2, 1, 0, 4, 5, 6, 7]]])
    target = X[:, 0] + 3 * X[:, 2]
    first, last = (np.asarray(own).tolist() for own in orders_of(net, pool(target), is_classes=False))
    assert last[:2] == [1, 3]  # inputs 2 and 0, in the places of the second layer
    assert sorted(first[:4]) == [0, 1, 2, 3]
    assert first[4:] == last[4:] == [4, 5, 6, 7]
