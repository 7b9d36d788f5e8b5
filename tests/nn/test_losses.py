"""Losses: values by hand and against NumPy in float64, and the laws of the terms and their weights."""

from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.random import default_rng
from scipy.special import log_softmax

from n3.nn.controllers import Auxiliary, Controller, Fixed
from n3.nn.losses import (
    LOSSES,
    LossWeights,
    Samples,
    description,
    objective,
    over_tiles,
    penalties,
    task_loss,
)
from n3.nn.mlp import GrowingMLP

TERMS = ("task", "size", "depth", "prior")
NET_CAPACITY = (4, 4)


@cache
def each_of(name):
    return jax.jit(LOSSES[name])


def each(name, outputs, targets):
    """Losses of each sample in double precision."""
    with jax.enable_x64(True):
        return np.asarray(each_of(name)(np.asarray(outputs, float), np.asarray(targets, float)))


def network(out_size=1, *, depth=None, size=1.4, controller=None):
    """Weights by NumPy, so that nothing is compiled for them."""
    controller = Auxiliary(jnp.float32(size), NET_CAPACITY) if controller is None else controller
    depth = None if depth is None else jnp.float32(depth)
    made = partial(GrowingMLP, 2, out_size, controller=controller, initial_depth=depth)
    shapes, draw = eqx.filter_eval_shape(lambda key: made(key=key), jr.key(0)), default_rng(0)
    net = jax.tree.map(lambda leaf: draw.uniform(-0.6, 0.6, leaf.shape).astype(np.float32), shapes)
    net = eqx.tree_at(lambda n: n.controller, net, controller)
    return net if depth is None else eqx.tree_at(lambda n: n.depth_weight, net, depth)


def samples(out_size=1, count=8):
    inputs, targets = (
        default_rng(1).normal(size=(2, count)),
        default_rng(2).uniform(size=(out_size, count)) > 0.5,
    )
    shares = np.full(count, 1.0 / count)
    return Samples(*(jnp.asarray(array.astype(np.float32)) for array in (inputs, targets, shares)))


def weights(size, depth=0.0, prior=None):
    return LossWeights(jnp.float32(size), jnp.float32(depth), None if prior is None else jnp.float32(prior))


@eqx.filter_jit
def program(net, data, weights, targets, loss, further):
    def total(net, weights):
        return objective(
            net, data, weights, loss=loss, target_size=targets[0], target_depth=targets[1], further=further
        )

    (value, terms), slopes = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(net, weights)
    return value, terms, slopes, net.batch(data.inputs), task_loss(net, data, loss)


def evaluated(net, data, weights, loss="squared-error", targets=(3.0, 2.0), further=None):
    """Total, terms, gradients by network and weights, outputs, and the task's loss by itself."""
    found = program(net, data, weights, tuple(map(jnp.float32, targets)), loss, further)
    return jax.tree.map(np.asarray, found)


def test_squared_error_by_hand():
    found = each("squared-error", [[1, 2, 0], [0, -1, 0], [0, 0, 0]], [[0, 2, 0], [3, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(found, [10 / 3, 4 / 3, 1 / 3], rtol=1e-12)


def test_squared_error_against_numpy():
    outputs, targets = default_rng(0).normal(size=(2, 3, 60))
    found = each("squared-error", outputs, targets)
    np.testing.assert_allclose(found, np.mean((outputs - targets) ** 2, axis=0), rtol=1e-6)


def test_cross_entropy_by_hand():
    logits = [[0, 0, np.log(3), np.log(3)]]  # p(1) = 3/4 in the last two
    found = each("cross-entropy", logits, [[0, 1, 1, 0]])
    np.testing.assert_allclose(found, np.log([2, 2, 4 / 3, 4]), rtol=1e-12)
    of_three = each("cross-entropy", np.zeros((3, 3)), np.eye(3))
    np.testing.assert_allclose(of_three, np.log([3, 3, 3]), rtol=1e-12)


def test_cross_entropy_of_one_logit_against_numpy():
    rng = default_rng(1)
    logits, classes = 3 * rng.normal(size=60), rng.integers(2, size=60)
    probability = 1 / (1 + np.exp(-logits))
    expected = -np.log(np.where(classes == 1, probability, 1 - probability))
    np.testing.assert_allclose(each("cross-entropy", logits[None], classes[None]), expected, rtol=1e-6)
    two = each("cross-entropy", [np.zeros(60), logits], [1 - classes, classes])
    np.testing.assert_allclose(two, expected, rtol=1e-6)


def test_cross_entropy_of_many_logits_against_scipy():
    rng = default_rng(3)
    logits, labels = 3 * rng.normal(size=(3, 60)), rng.integers(3, size=60)
    expected = -log_softmax(logits, axis=0)[labels, np.arange(60)]
    np.testing.assert_allclose(each("cross-entropy", logits, np.eye(3)[:, labels]), expected, rtol=1e-6)


def test_cross_entropy_stays_finite_at_large_logits():
    """In single precision, whose exponential overflows."""
    logits, classes = np.float32([[1000.0, -1000.0, 1000.0, -1000.0]]), np.float32([[1.0, 0.0, 0.0, 1.0]])
    cross_entropy = each_of("cross-entropy")
    np.testing.assert_array_equal(cross_entropy(logits, classes), [0, 0, 1000, 1000])
    both = np.concatenate([-logits, logits]), np.concatenate([1 - classes, classes])
    np.testing.assert_array_equal(cross_entropy(*both), [0, 0, 2000, 2000])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("out_size", [1, 3])
def test_contract(name, out_size):
    labels, outputs = np.arange(60) % max(2, out_size), default_rng(0).normal(size=(out_size, 60))
    found = each(name, outputs, labels[None] if out_size == 1 else np.eye(3)[:, labels])
    assert found.shape == (60,)
    assert (found >= 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_agrees_with_finite_differences(name):
    outputs, direction = default_rng(3).normal(size=(2, 3, 60))
    targets = np.eye(3)[:, np.arange(60) % 3]
    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(lambda *both: jnp.sum(LOSSES[name](*both))))(outputs, targets)
    ahead, behind = (each(name, outputs + step * direction, targets).sum() for step in (1e-6, -1e-6))
    np.testing.assert_allclose(np.sum(np.asarray(slope) * direction), (ahead - behind) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize("depth, loss", [(None, "cross-entropy"), (1.3, "squared-error")])
def test_the_total_is_the_sum_of_the_terms(depth, loss):
    data = samples()
    total, terms, _, outputs, task = evaluated(network(depth=depth), data, weights(0.3, 0.2, 0.1), loss)
    assert terms.prior > 0
    assert (terms.depth > 0) == (depth is not None)
    assert terms.further is None
    np.testing.assert_array_equal(terms.total, total)
    np.testing.assert_allclose(total, sum(float(getattr(terms, name)) for name in TERMS), rtol=1e-6)
    np.testing.assert_array_equal(terms.task, task)
    np.testing.assert_allclose(task, np.mean(each(loss, outputs, data.targets)), rtol=1e-5)


def test_shares_weight_the_mean():
    data = samples()
    shares = np.float32([0.5, 0.25, 0.25, 0, 0, 0, 0, 0])
    uneven = eqx.tree_at(lambda s: s.shares, data, jnp.asarray(shares))
    *_, outputs, task = evaluated(network(depth=1.3), uneven, weights(0.3, 0.2, 0.1))
    np.testing.assert_allclose(task, shares @ each("squared-error", outputs, data.targets), rtol=1e-5)


def test_a_function_serves_as_a_loss_and_further_terms_join():
    def absolute(outputs, targets):
        return jnp.sum(jnp.abs(outputs - targets), axis=0)

    def further(net):
        return {"bias": net.readout.bias, "two": jnp.asarray(2.0)}

    net, data = network(2), samples(2)
    total, terms, slopes, outputs, _ = evaluated(net, data, weights(0.0), absolute, further=further)
    expected = np.mean(np.sum(np.abs(outputs.astype(float) - np.asarray(data.targets)), axis=0))
    np.testing.assert_allclose(terms.task, expected, rtol=1e-5)
    np.testing.assert_array_equal(terms.further["bias"], net.readout.bias)
    np.testing.assert_allclose(total, expected + net.readout.bias.sum() + 2.0, rtol=1e-5)
    signs = np.sign(outputs - np.asarray(data.targets)).mean(axis=1)
    np.testing.assert_allclose(slopes[0].readout.bias, 1.0 + signs, rtol=1e-5, atol=1e-6)


def test_the_gradient_by_the_weights_is_each_penalty():
    slopes = evaluated(network(depth=1.3), samples(), weights(0.3, 0.2, 0.1))[2][1]
    np.testing.assert_allclose(slopes.size, (1.4 - 3) ** 2, rtol=1e-5)
    np.testing.assert_allclose(slopes.depth, (1.3 - 2) ** 2, rtol=1e-5)


@pytest.mark.parametrize("off", ["size", "depth", "prior"])
def test_a_zero_weight_switches_its_term_off_exactly(off):
    net, data = network(depth=1.3), samples()
    chosen = eqx.tree_at(lambda w: getattr(w, off), weights(0.3, 0.2, 0.1), jnp.float32(0.0))
    near = evaluated(net, data, chosen)
    assert getattr(near[1], off) == 0
    assert all(getattr(near[1], name) > 0 for name in TERMS if name != off)
    far_targets = {"size": (1e6, 2.0), "depth": (3.0, 1e6), "prior": (3.0, 2.0)}[off]
    far = evaluated(net, data, chosen, targets=far_targets)
    np.testing.assert_array_equal(near[0], far[0])
    jax.tree.map(np.testing.assert_array_equal, near[2][0], far[2][0])


def test_without_penalties_the_objective_is_the_task_loss():
    total, *_, task = evaluated(network(depth=1.3), samples(), weights(0.0, 0.0, 0.0))
    np.testing.assert_array_equal(total, task)


@eqx.filter_jit
def priced(net, weights, target_size, task, loss):
    return penalties(net, weights, target_size=target_size, target_depth=jnp.float32(2.0), task=task, loss=loss)


def test_penalties_by_hand():
    given = jnp.float32(3.0), jnp.float32(0.3), "squared-error"
    size, depth, prior = priced(network(depth=1.5, size=1.0), weights(0.5, 0.8), *given)
    np.testing.assert_allclose([size, depth, prior], [0.5 * 4, 0.8 * 0.25, 0], rtol=1e-6)
    size, depth, _ = priced(network(size=1.0), weights(0.5, 0.8), *given)
    np.testing.assert_allclose([size, depth], [0.5 * 4, 0], rtol=1e-6)


def test_the_size_penalty_is_the_controller_s():
    net = network(controller=Controller(jnp.float32(0.25), NET_CAPACITY))
    size, *_ = priced(net, weights(2.0), jnp.float32(4.0), jnp.float32(1.0), "cross-entropy")
    np.testing.assert_allclose(size, 2 * 0.75**2, rtol=1e-6)


def of_equal_weights(hidden, readout, *, size):
    """One input, four units of one layer, one output; the given number for every weight of a matrix."""
    controller = Auxiliary(jnp.float32(size), (4,), "linear")
    net = eqx.filter_eval_shape(lambda key: GrowingMLP(1, 1, controller=controller, key=key), jr.key(0))
    net = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), net)
    matrices = np.full((4, 1), hidden, np.float32), np.full((1, 4), readout, np.float32)
    return eqx.tree_at(
        lambda n: (n.layers[0].weight, n.readout.weight, n.controller), net, (*matrices, controller)
    )


described = eqx.filter_jit(jax.value_and_grad(description))


@pytest.mark.parametrize(
    ("hidden", "readout", "expected"),
    [(0.5, 0.5, 0.5 * 2.5 * (0.25 + 0.25)), (3.0, 0.5, 0.5 * 2.5 * (1 + np.log(9.0) + 0.25)), (0.0, 0.0, 0.0)],
)
def test_the_description_by_hand(hidden, readout, expected):
    found = described(of_equal_weights(hidden, readout, size=2.5))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_description_presses_with_the_priors_variance_on_participating_weights_alone():
    gradient = described(of_equal_weights(3.0, 0.5, size=2.5))[1]
    np.testing.assert_allclose(np.ravel(gradient.layers[0].weight), [1 / 3, 1 / 3, 1 / 6, 0], rtol=1e-6)
    np.testing.assert_allclose(np.ravel(gradient.readout.weight), [0.5, 0.5, 0.25, 0], rtol=1e-6)
    assert float(gradient.controller.weight) == 0
    assert np.all(np.asarray(gradient.layers[0].bias) == 0)


@pytest.mark.parametrize("depth", [None, 1.25])
def test_mean_squares_count_weights_by_gates_and_participation(depth):
    """Of layers with two units and three; one that is open by a quarter counts, and passes on, a quarter."""
    sizes = Fixed(jnp.asarray(np.float32([2.0, 3.0])), NET_CAPACITY, "linear")
    net = network(depth=depth, controller=sizes)
    two, three, gate = np.float32([1, 1, 0, 0]), np.float32([1, 1, 1, 0]), 1.0 if depth is None else 0.25
    ends = [(np.ones(2), two), (two, gate * three), ((1 - gate) * two + gate * three, np.ones(1))]
    matrices = [*(layer.weight for layer in net.layers), net.readout.weight]
    found = jax.tree.map(np.asarray, eqx.filter_jit(GrowingMLP.mean_squares)(net))
    for (square, number), (before, after), matrix in zip(found, ends, matrices, strict=True):
        np.testing.assert_allclose(number, before.sum() * after.sum(), rtol=1e-6)
        np.testing.assert_allclose(square, after @ matrix**2 @ before / number, rtol=1e-5)


@pytest.mark.parametrize(("loss", "unit"), [("squared-error", 0.6), ("cross-entropy", 1.0)])
def test_the_prior_counts_in_the_unit_of_the_loss(loss, unit):
    net = of_equal_weights(0.5, 0.5, size=4.0)
    prior = priced(net, weights(0.0, 0.0, 0.1), jnp.float32(1.0), jnp.float32(0.3), loss)[2]
    np.testing.assert_allclose(prior, 0.1 * unit * 1.0, rtol=1e-6)


@pytest.mark.parametrize("tile", [8, 7, 3])
def test_tiles_add_up_to_the_whole(tile):
    data = samples()
    function = lambda part: (part.inputs @ part.shares, jnp.sum(part.shares))  # noqa: E731
    moments, whole = jax.jit(lambda data: over_tiles(function, data, tile=tile))(data)
    np.testing.assert_allclose(moments, np.mean(np.asarray(data.inputs), axis=1), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(whole, 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("total", "tile", "widths"), [(100, 64, 64), (100, 48, 48), (90, 48, 48), (100, 40, 40)]
)
def test_tiles_hold_whole_registers_where_they_may(total, tile, widths):
    seen = []

    def function(part):
        seen.append(part.shares.shape[0])
        return jnp.sum(part.shares)

    rows = jnp.ones((1, total))
    whole = over_tiles(function, Samples(rows, rows, rows[0]), tile=tile)
    assert set(seen) == {widths}
    assert whole == total


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="squared-error, cross-entropy; got"):
        task_loss(network(), samples(), "hinge")


def test_a_tile_is_filled_up_with_samples_that_count_nothing():
    """A loss that is infinite at zero stays finite: zeros would make it infinity times nothing."""
    data = samples()
    function = lambda part: jnp.sum(part.shares / jnp.sum(part.inputs**2, axis=0))  # noqa: E731
    found = jax.jit(lambda data: over_tiles(function, data, tile=3))(data)
    np.testing.assert_allclose(found, np.mean(1.0 / np.sum(np.asarray(data.inputs) ** 2, axis=0)), rtol=1e-5)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_prior_is_divided_by_the_number_of_targets(outputs):
    """Nats of `q` squared errors of mean `E` are `q ln(E) / 2`: their description presses by `2 E / q`."""
    net = eqx.tree_at(lambda n: n.readout.bias, network(), jnp.zeros(outputs))
    none = jnp.float32(1.0)
    settings = {"target_size": none, "target_depth": none, "task": jnp.float32(0.3), "loss": "squared-error"}
    own = penalties(net, weights(0.0, 0.0, 0.1), **settings)[2]
    np.testing.assert_allclose(own, 0.1 * 2 * 0.3 / outputs * description(net), rtol=1e-6)
