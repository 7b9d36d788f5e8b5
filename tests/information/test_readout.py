"""Read-outs: every prefix against least squares, classes against scikit-learn, and float64 in any program."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from n3.information import readout
from readouts import (
    FIT,
    SAMPLES,
    UNITS,
    gaussian_classes,
    ill_conditioned,
    layer,
    least_squares,
    logistic,
    numbers,
)


def called(function, *arrays, dtype=np.float32, **options):
    """Of NumPy arrays: in float32 as programs have them, or all in float64; back as NumPy has it."""
    with jax.enable_x64(dtype == np.float64):
        inputs = (jnp.asarray(array, array.dtype if array.dtype == bool else dtype) for array in arrays)
        return np.asarray(function(*inputs, **options))


def losses_of(units, targets, fit=FIT, *, is_classes=False, dtype=np.float32):
    return called(readout.prefix_losses, units, targets, fit * 1.0, dtype=dtype, is_classes=is_classes)


def order_of(units, targets, candidates=None, *, fit=FIT, is_classes=False, dtype=np.float32):
    candidates = np.ones(len(units), bool) if candidates is None else candidates
    inputs = units, targets, fit * 1.0, candidates
    return called(readout.order_of, *inputs, dtype=dtype, is_classes=is_classes).tolist()


@pytest.mark.parametrize("weights", [FIT * 1.0, FIT * np.linspace(0.2, 3.0, SAMPLES)], ids=["folds", "weights"])
def test_every_prefix_is_least_squares(weights):
    units, targets = layer(), numbers()
    weights = weights.astype(np.float32)
    losses = losses_of(units, targets, weights)
    for prefix in range(UNITS + 1):
        expected = least_squares(units[:prefix], targets, weights.astype(np.float64))
        np.testing.assert_allclose(losses[prefix], expected, rtol=1e-5, atol=1e-5)


def test_a_target_without_noise_is_seen_far_below_float32():
    units = layer()
    weight = np.asarray([1.0, 0, 0, 0, 0, 1e-5]) / units.std(1)
    target = (weight @ units)[None]  # held in float64: the program's float32 target would be the noise
    losses, order = (each(units, target, dtype=np.float64) for each in (losses_of, order_of))
    shares = losses[:, FIT].mean(1) / target.var()
    assert shares[5] > 1e-13
    assert shares[5] < 1e-10
    assert shares[6] < 1e-24
    assert set(order[:2]) == {0, 5}


def test_a_float32_program_sees_what_float64_sees_of_smooth_units():
    x = np.linspace(-2.0, 2.0, SAMPLES)
    units = np.tanh(np.linspace(0.3, 0.9, UNITS)[:, None] * x + np.linspace(-0.2, 0.2, UNITS)[:, None] ** 2)
    units, target = units.astype(np.float32).astype(float), np.sin(x)[None].astype(np.float32).astype(float)
    losses = losses_of(units, target)
    for prefix in range(UNITS + 1):
        expected = least_squares(units[:prefix], target, FIT * 1.0)
        np.testing.assert_allclose(losses[prefix].mean(), expected.mean(), rtol=1e-5)


def test_constant_and_repeated_units_add_nothing():
    units = layer()
    units[1], units[3], units[4] = 0.3, units[0], -2.0 * units[2]
    labels = np.random.default_rng(3).integers(0, 3, SAMPLES)
    for targets, is_classes in ((numbers(), False), (np.eye(3)[labels].T, True)):
        losses = losses_of(units, targets, is_classes=is_classes)
        for row in (2, 4, 5):
            np.testing.assert_allclose(losses[row], losses[row - 1], rtol=1e-6)
        assert np.isfinite(losses).all()
        assert not np.allclose(losses[6], losses[5])


def test_more_units_than_samples_of_the_fit():
    units, few = layer(), np.arange(SAMPLES) < 4
    losses = losses_of(units, numbers(), few)
    np.testing.assert_allclose(losses[4:], np.broadcast_to(losses[3], losses[4:].shape), rtol=1e-6)
    np.testing.assert_allclose(losses[3:, :4], 0.0, atol=1e-9)
    labels = np.arange(SAMPLES) % 2
    assert np.isfinite(losses_of(units, labels[None], few, is_classes=True)).all()
    assert np.isnan(losses_of(units, numbers(), 0 * FIT)).all()


def test_units_of_condition_1e12():
    """No direction is lost: the fit's residual is at most 1.1 times that of NumPy's singular values."""
    units, target = ill_conditioned()
    losses = losses_of(units, target, dtype=np.float64)
    assert np.isfinite(losses).all()
    assert losses[-1][FIT].mean() <= 1.1 * least_squares(units, target, FIT * 1.0)[FIT].mean()
    assert np.isfinite(losses_of(units, target)).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_discriminants_are_near_logistic_regression(classes):
    features, labels = gaussian_classes(classes)
    fit = np.arange(len(labels)) % 5 > 0
    targets = labels[None] if classes == 2 else np.eye(classes)[labels].T
    losses = losses_of(features.T, targets, fit, is_classes=True)
    chances = logistic(features[fit], labels[fit], 1e-8)(features[~fit])
    expected = -np.log(chances[np.arange(chances.shape[0]), labels[~fit]]).mean()
    assert losses[-1, ~fit].mean() == pytest.approx(expected, rel=0.02)
    prior = np.bincount(labels[fit]) / fit.sum()
    np.testing.assert_allclose(losses[0], -np.log(prior[labels]), rtol=1e-6)


def test_classes_that_part_fully_and_one_that_the_fit_lacks():
    labels = np.arange(SAMPLES) % 3
    units = layer()
    units[0] = np.where(labels == 0, -1.0, 1.0)
    losses = losses_of(units, np.eye(3)[labels].T, is_classes=True)
    assert losses[1, labels == 0].max() < 2 / FIT.sum()  # no target is quite certain
    np.testing.assert_allclose(losses[1, labels > 0].mean(), np.log(2.0), rtol=0.02)
    lacking = losses_of(units, np.eye(3)[labels].T, FIT & (labels < 2), is_classes=True)
    assert np.isfinite(lacking).all()


def test_a_unit_that_is_not_finite_ends_the_prefixes_before_it():
    units = layer()
    units[2, -1] = np.nan
    order = order_of(units, numbers())
    assert order[-1] == 2
    losses = losses_of(units[order], numbers())
    assert np.isfinite(losses[:-1]).all()
    assert np.isnan(losses[-1]).all()


def test_order_is_that_of_forward_selection():
    units, targets, weights = layer(5), numbers(6), FIT * 1.0
    order, expected = order_of(units, targets), []
    for _ in range(UNITS):
        left = [unit for unit in range(UNITS) if unit not in expected]
        losses = [least_squares(units[[*expected, unit]], targets, weights)[FIT].sum() for unit in left]
        expected.append(left[int(np.argmin(losses))])
    assert order == expected
    candidates = np.asarray([True, False, True, False, False, True])
    some = order_of(units, targets, candidates)
    assert some[3:] == [1, 3, 4]
    assert sorted(some[:3]) == [0, 2, 5]


def test_order_of_classes_and_of_what_adds_nothing():
    labels = np.arange(SAMPLES) % 2
    units = layer(7)
    units[4] = labels + 0.1 * np.random.default_rng(8).normal(size=SAMPLES)
    units[0], units[1] = units[4], 1.0
    order = order_of(units, labels[None], is_classes=True)
    assert order == order_of(units, np.eye(2)[labels].T, is_classes=True)
    assert order[0] == 0
    assert order[-2:] == [1, 4]


@pytest.mark.parametrize("is_classes", [False, True])
def test_looks_are_the_same_in_any_program(is_classes):
    """Members in a scan, the mean over them taken, behind a condition: as one look after another."""
    members, steps = 3, 2
    units = np.stack([layer(seed) for seed in range(members)]).astype(np.float32)
    labels = np.random.default_rng(9).integers(0, 3, SAMPLES)
    targets = jnp.asarray(np.eye(3)[labels].T if is_classes else numbers(), jnp.float32)
    fits = np.stack([np.arange(SAMPLES) % members != member for member in range(members)]).astype(np.float32)
    every, sight, none = jnp.ones(UNITS, bool), jnp.ones(UNITS + 1, bool), jnp.zeros(UNITS + 1, bool)

    def look(units, fit):
        order = readout.order_of(units, targets, fit, every, is_classes=is_classes)
        losses = readout.prefix_losses(units[order], targets, fit, is_classes=is_classes)
        return losses, readout.smallest_within(
            losses, 1.0 - fit, sight, none, errors=jnp.ones(()), floor=jnp.zeros(())
        )

    def member(units, fit):
        def step(total, place):
            losses, size = lax.cond(place < steps, look, lambda units, fit: (total, -1), units, fit)
            return total + lax.pmean(losses, "members"), size

        return lax.scan(step, jnp.zeros((UNITS + 1, SAMPLES)), jnp.arange(steps))

    totals, sizes = eqx.filter_jit(jax.vmap(member, axis_name="members"))(units, fits)
    assert (totals.dtype, sizes.dtype) == (jnp.float32, jnp.int32)
    mapped, expected = jax.jit(lambda *pair: lax.map(lambda pair: look(*pair), pair))(units, fits)
    assert np.asarray(sizes).tolist() == [[int(size)] * steps for size in expected]
    np.testing.assert_allclose(
        totals, np.broadcast_to(steps * np.mean(mapped, axis=0), totals.shape), rtol=1e-4
    )
    order = order_of(units[0], targets, fit=fits[0], is_classes=is_classes)
    alone = losses_of(units[0][order], targets, fits[0], is_classes=is_classes)
    np.testing.assert_allclose(mapped[0], alone, rtol=1e-4)


def test_smallest_within_by_hand():
    """Differences from the best prefix, 2: means 1, 0.5 with errors of 0 and 0.5 / sqrt 3."""
    losses = np.asarray(
        [[2.0, 2, 2, 2, 9], [2.0, 1, 2, 1, 9], [1.0, 1, 1, 1, 9], [1.0, 1, 1, 1, 0], [np.nan] * 5]
    )
    held_out, sight = np.asarray([1.0, 1, 1, 1, 0]), np.ones(5, bool)

    def chosen(errors, floor, sight=sight, present=4):
        inputs = losses, held_out, sight, np.arange(5) == present, np.asarray(floor), np.asarray(errors)
        return int(called(lambda *a: readout.smallest_within(*a[:4], errors=a[5], floor=a[4]), *inputs))

    assert chosen(0.0, 0.0) == 2
    assert chosen(0.0, np.nan) == 2
    assert chosen(1.7, 0.0) == 2
    assert chosen(1.8, 0.0) == 1
    assert [chosen(errors, 0.0, present=1) for errors in (0.8, 0.9)] == [2, 1]
    assert chosen(0.0, 0.5) == 1
    assert chosen(0.0, 1.0) == 0
    assert chosen(1.8, 0.0, np.asarray([True, False, False, True, True])) == 3
    assert chosen(1.0, 1.0, np.asarray([False, False, False, False, True])) == -1
