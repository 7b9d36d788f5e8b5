"""Information over whole runs and many layers: sizes and depths that runs find, masks under a price, gaps."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from n3.config.experiment import Experiment, NetworkConfig, RunConfig, TaskConfig
from n3.data.dataset import load_task
from n3.experiments import arms
from n3.information import gaussian
from n3.information.measures import gap
from n3.information.sizing import DriveHypers, InformationDrive
from n3.nn.losses import LossWeights, Samples
from n3.training.step import Hypers, Problem, Recipe, init, train
from n3.training.sweep import sweep

pytestmark = pytest.mark.slow
UNITS = 12
SINGLE = InformationDrive(is_classes=False, until=600, birth_until=300)
GATED = Recipe(
    in_size=1,
    out_size=1,
    capacity=(6, 6, 6),
    controller="information",
    drive=InformationDrive(is_classes=False, until=300, birth_until=150),
    depth_gates=True,
)


def recipe(**changes):
    settings = {"in_size": 1, "out_size": 1, "capacity": (UNITS,), "controller": "information", "drive": SINGLE}
    return Recipe(**{**settings, **changes})


def hypers(size, *, layers=1, horizon=1000.0, price=0.02):
    settings = dict.fromkeys((field.name for field in dataclasses.fields(DriveHypers)), 0.0)
    settings |= {"price": price, "birth": 0.01, "rate": 0.1, "psi": 1.0}
    drive = DriveHypers(**{name: jnp.asarray(value) for name, value in settings.items()})
    one, nothing = jnp.asarray(1.0), LossWeights(size=jnp.asarray(0.0), depth=jnp.asarray(0.0))
    return Hypers(1e-2 * one, nothing, jnp.full(layers, size), one, one, horizon * one, drive)


def problem(curve, count=200):
    x = jr.uniform(jr.key(3), (1, count), minval=-1.0, maxval=1.0)
    side = Samples(x, curve(x) + 0.1 * jr.normal(jr.key(4), x.shape), jnp.full(count, 1.0 / count))
    return Problem(side, side, jnp.ones(1))


# Sizes and depths that runs find.


def ends(curve, *, first=0.5, seeds=3):
    """Final sizes of some seeds, trained side by side."""
    many = lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf] * seeds), tree)  # noqa: E731
    swept = sweep(
        recipe(schedule="cosine"),
        many(hypers(first)),
        many(problem(curve)),
        keys=jr.split(jr.key(6), seeds),
        stops=np.array([0, 500, 1000]),
        devices=jax.devices()[:1],
    )
    return np.asarray(swept.records.size[:, -1, 0])


def test_noise_ends_small_a_line_ends_at_three_or_less_and_more_structure_takes_more():
    noise, line, wave = ends(jnp.zeros_like), ends(lambda x: x), ends(lambda x: jnp.sin(8 * x))
    assert np.median(noise) < 0.5
    assert 1 <= np.median(line) <= 3
    assert np.median(wave) > np.median(line)


def test_shrinking_comes_down_from_the_capacity():
    assert np.median(ends(lambda x: x, first=float(UNITS))) < UNITS / 2


def test_two_layers_each_find_a_size():
    two, data = recipe(capacity=(6, 3)), problem(lambda x: jnp.sin(4 * x))
    state, _ = train(two, hypers(0.5, layers=2), data, key=jr.key(8), stops=jnp.array([600]))
    first, second = np.asarray(state.net.controller.weight)
    assert first > 3.5
    assert 1.0 < second < 3.5


def test_a_line_and_noise_end_at_one_layer_and_begin_with_all():
    numbers, stops = hypers(0.5, layers=3, horizon=500.0), jnp.array([500])
    run = eqx.filter_jit(lambda data: train(GATED, numbers, data, key=jr.key(8), stops=stops))
    for curve in (jnp.zeros_like, lambda x: x):
        data = problem(curve, count=150)
        assert float(init(GATED, numbers, data, key=jr.key(5)).net.depth_weight) == 3.0
        np.testing.assert_allclose(run(data)[0].net.depth_weight, 1.0, atol=1e-3)


def test_an_experiment_has_no_target_depth_and_gates_for_the_growing_arm_alone():
    def experiment(method):
        network = NetworkConfig(method=method, capacity=(4, 4), depth_gates=True)
        run = RunConfig(arms=("growing", "static"), seeds=(0,))
        return Experiment(task=TaskConfig(task="line", samples=50), network=network, run=run).resolved()

    own, data = experiment("information"), load_task(TaskConfig(task="line", samples=50), (0,))
    for method, is_priced in (("information", False), ("controller", True)):
        made = arms.hypers_of(experiment(method), "growing", data=data, active=None)
        assert (float(made.weights.depth[0]) > 0) == is_priced
    assert [arms.recipe_of(own, arm, data[0]).depth_gates for arm in ("growing", "static")] == [True, False]


# Estimates.


def estimate(activations, targets, *, is_classes):
    """Information of fully participating layers, bias taken off, for each seed."""
    mask = jnp.ones(activations.shape[1])
    seen = {"floor": gaussian.MONITORING_FLOOR, "resolution": gaussian.MONITORING_RESOLUTION}
    each = partial(gaussian.layer_information, mask=mask, is_classes=is_classes, **seen)
    said = jax.jit(jax.vmap(lambda units, target: each(units, target)))(activations, targets)
    return np.asarray(said.corrected_importance)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("dims, samples, allowed", [(1, 1024, 0.05), (10, 1024, 0.05), (10, 4096, 0.01)])
def test_gaussian_pairs(dims, samples, allowed):
    x, noise = normal(1, 2, 16, dims, samples)
    for truth in (0.0, 0.5, 2.0):
        correlation = np.float32((1 - np.exp(-2 * truth / dims)) ** 0.5)
        found = estimate(x, correlation * x + (1 - correlation**2) ** 0.5 * noise, is_classes=False)
        tolerance = max(0.03, allowed * truth) if samples == 1024 else 0.02 + allowed * truth
        assert abs(found.mean() - truth) <= tolerance


def mixture_information(classes, distance, samples=200_000):
    """By the true posterior of many samples; its own error is below 0.003 nats."""
    labels = np.arange(samples) % classes
    logits = np.random.default_rng(0).normal(size=(samples, classes))
    logits[np.arange(samples), labels] += distance
    logits = distance * logits
    tops = logits.max(axis=1)
    losses = tops + np.log(np.exp(logits - tops[:, None]).sum(axis=1)) - logits[np.arange(samples), labels]
    return np.log(classes) - losses.mean()


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_mixtures_of_classes(classes):
    labels = np.random.default_rng(4).integers(0, classes, (8, 2048))
    rows = np.moveaxis(np.eye(classes, dtype=np.float32)[labels], 2, 1)
    for distance in (1.0, 2.0, 8.0):
        x = normal(5, 8, classes, 2048) + np.float32(distance) * rows
        found = estimate(x, rows[:, 1:] if classes == 2 else rows, is_classes=True)
        assert abs(found.mean() - mixture_information(classes, distance)) <= 0.03


@pytest.mark.parametrize("is_classes", [False, True])
def test_one_unit_in_one_sample_has_a_value_and_a_gradient(is_classes):
    def total(x, mask):
        said = gaussian.layer_information(x, jnp.ones((1, 1)), mask, is_classes=is_classes)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(said))

    found = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(jnp.full((1, 1), 0.3), jnp.full(1, 0.5))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


# Masks under a price.


def descend(seed, correlation_weight, steps=2000, price=0.0075):
    """Final masks of 8 informative units, 8 near copies of them and 48 of noise."""
    unit_key, copy_key, noise_key, target_key = jr.split(jr.key(seed), 4)
    informative = jr.normal(unit_key, (8, 1024))
    copies = informative + 0.05 * jr.normal(copy_key, (8, 1024))
    x = jnp.concatenate([informative, copies, jr.normal(noise_key, (48, 1024))])
    y = jnp.sum(informative, axis=0, keepdims=True) / 8**0.5 + 0.3 * jr.normal(target_key, (1, 1024))
    moments, optimiser = gaussian.statistics(x, y, is_classes=False), optax.adam(0.02)

    def loss(mask):
        channel = gaussian.open_channel(moments, gaussian.channel_noise(mask))
        gain, shared = gaussian.gaussian_information(channel), gaussian.total_correlation(channel)
        return price * jnp.sum(mask) + correlation_weight * shared - gain

    def step(carry, _):
        mask, state = carry
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(jax.grad(loss)(mask), state)
        return (jnp.clip(mask + updates, 0.0, 1.0), state), None

    mask = jnp.full(64, 0.5)
    return jax.lax.scan(step, (mask, optimiser.init(mask)), length=steps)[0][0]


def test_masks_keep_one_of_each_pair_and_no_noise():
    seeds = jnp.arange(5)
    with_price = np.asarray(jax.jit(jax.vmap(lambda seed: descend(seed, 0.005)))(seeds))
    pairs = with_price[:, :8] + with_price[:, 8:16]
    assert (np.maximum(with_price[:, :8], with_price[:, 8:16]).sum(axis=1) >= 7.5).all()
    assert ((pairs > 0.9) & (pairs < 1.1)).all()
    assert (with_price[:, 16:].sum(axis=1) <= 0.5).all()
    without_price = np.asarray(jax.jit(jax.vmap(lambda seed: descend(seed, 0.0)))(seeds))
    assert (without_price[:, :8] + without_price[:, 8:16] > 1.1).any(axis=1).all()


# Gaps of layers of every width.

SEEDS, SAMPLES = 8, 600
gaps_of_numbers, gaps_of_classes = (jax.jit(jax.vmap(partial(gap, is_classes=c))) for c in (False, True))


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


def test_several_numbers_are_folded_too():
    active, t, masks = layers(5)
    others = jr.normal(jr.key(5), (SEEDS, 4, SAMPLES))
    folded = jnp.concatenate([jnp.abs(t)] * 3 + [others[:, :2]], axis=1)
    assert np.all(gaps_of_numbers(active, folded, masks) > 0.3)
    assert abs(float(gaps_of_numbers(active, others, masks).mean())) < 0.05
