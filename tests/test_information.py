"""Information: closed forms, laws, gradients against finite differences, degenerate layers, and mask descent."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from n3 import information as n3i

MONITORING = {"floor": n3i.MONITORING_FLOOR, "resolution": n3i.MONITORING_RESOLUTION}


@partial(jax.jit, static_argnames=("is_classes", "floor", "resolution"))
def measure(activations, targets, is_classes=False, floor=n3i.FLOOR, resolution=n3i.RESOLUTION):
    """Information of fully participating layers, one for each seed."""
    options = {"is_classes": is_classes, "floor": floor, "resolution": resolution}
    mask = jnp.ones(activations.shape[1], activations.dtype)
    return jax.vmap(lambda units, target: n3i.layer_information(units, target, mask, **options))(
        activations, targets
    )


def layer(units=6, outputs=2, samples=60, seed=0, dtype=jnp.float32):
    """Correlated units, and targets that depend on some of them."""
    mix_key, unit_key, noise_key = jr.split(jr.key(seed), 3)
    activations = jr.normal(mix_key, (units, units), dtype) @ jr.normal(unit_key, (units, samples), dtype)
    targets = activations[:outputs] - activations[-outputs:] + jr.normal(noise_key, (outputs, samples), dtype)
    return activations, targets


def channel_of(activations, targets, mask=None, *, is_classes=False):
    mask = jnp.ones(activations.shape[0], activations.dtype) if mask is None else mask
    moments = n3i.statistics(activations, targets, is_classes=is_classes)
    return moments, n3i.channel_noise(mask), n3i.open_channel(moments, n3i.channel_noise(mask))


def without(activations, unit):
    return jnp.delete(activations, unit, axis=0)


def explicit(covariance, cross, target):
    """Log-determinant information in NumPy, float64."""
    residual = target - cross.T @ np.linalg.solve(covariance, cross) if cross.size else target
    return 0.5 * (np.linalg.slogdet(target)[1] - np.linalg.slogdet(residual)[1])


# 1. Gaussian pairs of known information.


@pytest.mark.parametrize("dims, samples, allowed", [(1, 1024, 0.05), (10, 1024, 0.05), (10, 4096, 0.01)])
def test_gaussian_pairs(dims, samples, allowed):
    x, noise = jr.normal(jr.key(1), (2, 16, dims, samples))
    for truth in (0.0, 0.5, 2.0):
        correlation = (1 - np.exp(-2 * truth / dims)) ** 0.5
        y = correlation * x + (1 - correlation**2) ** 0.5 * noise
        estimates = np.asarray(measure(x, y, **MONITORING).corrected_importance)
        assert abs(estimates.mean() - truth) <= max(0.03, allowed * truth) * (1024 / samples) ** 0.5
        assert abs(estimates - truth).max() <= 5 * estimates.std() + 0.003


# 2. Noise, which the raw estimate takes for information.


def test_noise_says_nothing_once_corrected():
    x, y = jr.normal(jr.key(2), (16, 64, 256)), jr.normal(jr.key(3), (16, 1, 256))
    said = measure(x, y)
    conditional = jax.vmap(jax.vmap(lambda each: n3i.corrected(each, jnp.float32(1.0), 256, 1)))(
        said.conditional
    )
    assert float(said.importance.min()) > 0.1
    assert abs(float(said.corrected_importance.mean())) <= 0.02
    assert abs(float(conditional.mean())) <= 0.002
    assert abs(float(said.effective_units.mean()) - 64) < 0.2


def test_the_correction_by_hand_and_its_floor():
    np.testing.assert_allclose(
        n3i.corrected(jnp.float32(1.0), jnp.float32(5.0), 11, 3), 1 + 1.5 * np.log(0.5), rtol=1e-6
    )
    for samples in (1, 2, 6):
        expected = 0.5 * np.log(1e-6)
        np.testing.assert_allclose(
            n3i.corrected(jnp.float32(0.0), jnp.float32(5.0), samples, 1), expected, rtol=1e-6
        )


# 3. Mixtures of classes.


def mixture(classes, distance, samples=2048, seeds=8):
    labels = jr.randint(jr.key(4), (seeds, samples), 0, classes)
    rows = jnp.moveaxis(jax.nn.one_hot(labels, classes), 2, 1)
    return jr.normal(jr.key(5), (seeds, classes, samples)) + distance * rows, rows


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
    for distance in (1.0, 2.0, 8.0):
        x, rows = mixture(classes, distance)
        targets = rows[:, 1:] if classes == 2 else rows
        said = measure(x, targets, is_classes=True, **MONITORING)
        bound = jax.vmap(partial(n3i.entropy, is_classes=True))(targets)
        assert abs(said.corrected_importance.mean() - mixture_information(classes, distance)) <= 0.03
        assert (said.importance <= bound * (1 + 1e-6)).all()
        assert distance < 8 or (said.importance >= 0.95 * bound).all()


def test_one_row_of_two_classes_equals_two_rows():
    x, rows = mixture(2, 1.0, 128, 3)
    one, two = measure(x, rows[:, 1:], is_classes=True), measure(x, rows, is_classes=True)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), one, two)


# 4. Parts that sum to the whole.


@pytest.mark.parametrize("dtype, allowed", [("float32", 1e-4), ("float64", 1e-10)])
def test_conditional_importance_is_leave_one_out(dtype, allowed):
    with jax.enable_x64(True):
        x, y = layer(dtype=jnp.dtype(dtype))
        said = jax.tree.map(lambda leaf: leaf[0], measure(x[None], y[None]))
        left_out = jnp.stack([measure(without(x, j)[None], y[None]).importance[0] for j in range(6)])
        np.testing.assert_allclose(said.conditional, said.importance - left_out, atol=allowed, rtol=0)
        np.testing.assert_allclose(jnp.sum(said.ordered), said.importance, atol=allowed, rtol=0)


def test_every_quantity_equals_its_explicit_form():
    with jax.enable_x64(True):
        x, y = layer(dtype=jnp.float64)
        mask = jnp.linspace(0.1, 1.0, 6)
        moments, noise, channel = channel_of(x, y, mask)
        t = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
        u = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-6)
        visible = 1e-4 + (1 - 1e-4) * np.asarray(mask)
        nu = 1e-3 + (1 - visible) / visible
        S, c, T = np.asarray(t @ t.T) / 60 + np.diag(nu), np.asarray(t @ u.T) / 60, np.asarray(u @ u.T) / 60
        T = T + 1e-2 * np.eye(2)
        close = partial(np.testing.assert_allclose, rtol=1e-9)
        ones = [np.ix_([j], [j]) for j in range(6)]
        rest = [np.flatnonzero(np.arange(6) != j) for j in range(6)]
        marginal = np.array([explicit(S[one], c[[j]], T) for j, one in enumerate(ones)])
        alone = np.array([np.log(np.linalg.det(S[np.ix_(r, r)])) for r in rest])
        total = explicit(S, c, T)
        close(noise, nu)
        close(n3i.gaussian_information(channel), total)
        close(n3i.marginal_importance(channel), marginal)
        close(n3i.redundancy(channel), 0.5 * (np.log(np.diag(S)) + alone - np.linalg.slogdet(S)[1]))
        close(n3i.total_correlation(channel), 0.5 * (np.log(np.diag(S)).sum() - np.linalg.slogdet(S)[1]))
        left_out = np.array([explicit(S[np.ix_(r, r)], c[r], T) for r in rest])
        close(n3i.target_redundancy(channel), np.minimum(marginal, left_out))
        close(n3i.effective_units(channel), 6 - np.sum(nu * np.diag(np.linalg.inv(S))))
        first = [explicit(S[:j, :j], c[:j], T) for j in range(7)]
        close(n3i.ordered_gain(moments, noise), np.diff(first))
        root = np.sqrt(mask)[:, None] * np.asarray(moments.covariance) * np.sqrt(mask)[None, :]
        participation = np.trace(root) ** 2 / np.trace(root @ root)
        possible = np.trace(root) ** 2 / np.sum(np.diag(root) ** 2)
        np.testing.assert_allclose(
            n3i.participation_redundancy(moments, mask), 1 - participation / possible, rtol=1e-5
        )


def test_greedy_order_equals_a_search():
    with jax.enable_x64(True):
        x, y = layer(dtype=jnp.float64, seed=1)
        moments, noise, channel = channel_of(x, y)
        S, c, T = (np.asarray(a) for a in (channel.covariance, channel.cross, channel.target_covariance))
        candidates = np.array([True, False, True, True, False, True])
        order = []
        for _ in range(4):
            left = [j for j in np.flatnonzero(candidates) if j not in order]
            order.append(
                max(left, key=lambda j: explicit(S[np.ix_([*order, j], [*order, j])], c[[*order, j]], T))
            )
        found, gains = jax.jit(n3i.greedy_order)(moments, noise, jnp.asarray(candidates))
        assert found.tolist() == [*order, 1, 4]
        ordered = n3i.ordered_gain(n3i.statistics(x[found], y, is_classes=False), noise)
        np.testing.assert_allclose(gains, ordered, rtol=1e-9, atol=1e-12)
        assert not np.array_equal(found[:4], np.flatnonzero(candidates))


def test_greedy_order_puts_what_says_all_first_and_its_copy_last():
    x = jr.normal(jr.key(6), (5, 80))
    y = x[3:4] + 0.01 * jr.normal(jr.key(7), (1, 80))
    x = x.at[4].set(x[3])
    moments, noise, _ = channel_of(x, y)
    order, gains = jax.vmap(partial(n3i.greedy_order, moments, noise))(jnp.array([[True] * 5, [False] * 5]))
    assert order[0, 0] in (3, 4)
    assert gains[0, 0] > 0.95 * gains[0].sum()
    assert order[1].tolist() == [0, 1, 2, 3, 4]


# 5. Copies.


@pytest.mark.parametrize("copies", [2, 8, 64])
def test_exact_copies(copies):
    key, y = jr.key(8), jr.normal(jr.key(9), (1, 1, 512))
    x = jnp.broadcast_to(y + jr.normal(key, (1, 1, 512)), (1, copies, 512))
    said = jax.tree.map(lambda leaf: leaf[0], measure(x, y))
    s0 = 1e-3
    expected = 0.5 * (copies * np.log1p(s0) - np.log(copies + s0) - (copies - 1) * np.log(s0))
    np.testing.assert_allclose(said.total_correlation, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(said.effective_units, 1.0, atol=0.05)
    np.testing.assert_allclose(said.participation_redundancy, 1 - 1 / copies, atol=0.01)
    assert said.conditional.max() <= 1e-3
    np.testing.assert_allclose(said.target_redundancy, said.marginal, rtol=0.02)


def test_eight_features_of_eight_copies_each_read_eight():
    x = jnp.repeat(jr.normal(jr.key(10), (8, 256)), 8, axis=0)
    said = measure(x[None], x[None, :1])
    np.testing.assert_allclose(said.effective_units, 8.0, atol=0.01)


# 6. What information does under maps of the units.


def test_a_linear_map_of_the_units_adds_nothing():
    x, y = jr.normal(jr.key(11), (8, 256)), None
    y = x[:2] + 0.5 * jr.normal(jr.key(12), (2, 256))
    maps = jr.normal(jr.key(13), (32, 4, 8))
    before = measure(x[None], y[None]).importance[0]
    after = measure(maps @ x[None], jnp.broadcast_to(y[None], (32, 2, 256))).importance
    assert (after <= before + 1e-5).all()
    assert after.min() < 0.5 * before


@pytest.mark.parametrize("is_classes", [False, True])
def test_order_unit_and_origin_change_nothing(is_classes):
    x, y = layer(samples=200)
    y = jax.nn.one_hot(jnp.argmax(jnp.concatenate([y, -y]), axis=0), 4, axis=0) if is_classes else y
    order = jr.permutation(jr.key(14), 6)
    scaled = 7.0 * x + jnp.arange(6.0)[:, None]
    said = measure(jnp.stack([x, x[order], scaled]), jnp.stack([y] * 3), is_classes=is_classes)
    plain, permuted, moved = (jax.tree.map(lambda leaf, i=i: leaf[i], said) for i in range(3))
    for name in ("importance", "total_correlation", "effective_units"):
        np.testing.assert_allclose(getattr(permuted, name), getattr(plain, name), rtol=1e-5)
        np.testing.assert_allclose(getattr(moved, name), getattr(plain, name), rtol=1e-4)
    for name in ("marginal", "conditional", "redundancy", "target_redundancy"):
        np.testing.assert_allclose(getattr(permuted, name), getattr(plain, name)[order], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(getattr(moved, name), getattr(plain, name), rtol=1e-4, atol=1e-5)


def test_information_rises_with_every_mask():
    x, y = layer()
    gain = jax.jit(jax.vmap(jax.grad(lambda mask: n3i.information_gain(x, y, mask, is_classes=False))))
    masks = jnp.concatenate([jr.uniform(jr.key(15), (30, 6)), jnp.zeros((1, 6)), jnp.ones((1, 6))])
    assert (gain(masks) >= 0).all()


# 7. Gradients.


@pytest.mark.parametrize("is_classes", [False, True])
def test_gradients_agree_with_finite_differences(is_classes):
    with jax.enable_x64(True):
        x, y = layer(dtype=jnp.float64)
        y = (y[:1] > 0).astype(jnp.float64) if is_classes else y
        mask = jnp.linspace(0.05, 0.95, 6)

        def quantities(x, mask):
            said = n3i.layer_information(x, y, mask, is_classes=is_classes)
            return jnp.stack(
                [said.importance, said.total_correlation, said.corrected_importance, *said.conditional]
            )

        quantities = jax.jit(quantities)
        slopes = jax.jit(jax.jacrev(quantities, argnums=(0, 1)))(x, mask)
        towards = jr.normal(jr.key(16), x.shape, jnp.float64), jr.normal(jr.key(17), (6,), jnp.float64)
        step = 1e-6
        for slope, move_x, move_mask in ((slopes[0], towards[0], 0 * mask), (slopes[1], 0 * x, towards[1])):
            forward = quantities(x + step * move_x, mask + step * move_mask)
            backward = quantities(x - step * move_x, mask - step * move_mask)
            direction = move_x if slope.ndim == 3 else move_mask
            found = jnp.tensordot(slope, direction, axes=direction.ndim)
            np.testing.assert_allclose(found, (forward - backward) / (2 * step), rtol=1e-5, atol=1e-8)


def test_a_dead_unit_feels_what_it_would_add():
    x = jr.normal(jr.key(18), (4, 512))
    y = x[:1] + x[1:2]
    x = x.at[3].set(x[0])
    mask = jnp.array([1.0, 0.0, 0.0, 0.0])  # live; informative; noise; copy of the live one
    slope = jax.grad(lambda mask: n3i.information_gain(x, y, mask, is_classes=False))(mask)
    assert np.isfinite(slope).all()
    assert slope[1] > 10 * slope[2]
    assert slope[3] < 1e-3 * slope[1]
    channel = channel_of(x, y, mask)[2]
    weight = channel.weights[:, 0] ** 2 / channel.residual[0, 0]
    np.testing.assert_allclose(slope[1:], weight[1:] / (2 * 1e-8), rtol=2e-4, atol=1e-6)


# 8. Nothing breaks.


def degenerate(units, samples, classes):
    """One hundred layers, and targets, that are hard on an estimate."""
    x = jr.normal(jr.key(19), (100, units, samples))
    x = x.at[0].set(3.0).at[1].set(jnp.broadcast_to(x[1, :1], (units, samples)))
    x = x.at[2].mul(1e-8).at[3].mul(1e6).at[4, 0].set(0.0)
    mask = jr.uniform(jr.key(20), (100, units)).at[:5].set(1.0).at[5].set(0.0)
    labels = jr.randint(jr.key(21), (100, samples), 0, classes).at[6].set(0)
    labels = labels.at[7].set(jnp.minimum(labels[7], 1))
    targets = jnp.moveaxis(jax.nn.one_hot(labels, classes), 2, 1)
    return x, mask.at[1].set(1.0), targets, x[:, :1].at[8].set(2.0)


@pytest.mark.parametrize("units, samples", [(64, 16), (1, 1), (1, 16)])
@pytest.mark.parametrize("is_classes", [False, True])
def test_no_value_and_no_gradient_is_ever_undefined(units, samples, is_classes):
    x, mask, classes, copies = degenerate(units, samples, 3)

    def total(x, mask, targets):
        said = n3i.layer_information(x, targets, mask, is_classes=is_classes)
        order = n3i.greedy_order(
            n3i.statistics(x, targets, is_classes=is_classes), n3i.channel_noise(mask), mask > 0.5
        )
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(said)) + jnp.sum(order[1]), said

    each = jax.jit(jax.vmap(jax.value_and_grad(total, argnums=(0, 1), has_aux=True)))
    found = each(x, mask, classes if is_classes else copies)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    each(2.0 * x, 0.5 * mask, classes if is_classes else copies)
    assert each._cache_size() == 1
    said = found[0][1]
    for name in ("marginal", "conditional", "redundancy", "target_redundancy", "total_correlation"):
        assert (getattr(said, name) >= -1e-4).all(), name
    if is_classes:
        np.testing.assert_allclose(said.importance[6], 0.0, atol=1e-5)  # one class has nothing to tell


# 9. Masks under a price.


def descend(seed, correlation_weight, steps=2000, price=0.0075):
    """Final masks of 8 informative units, 8 near copies of them and 48 of noise."""
    unit_key, copy_key, noise_key, target_key = jr.split(jr.key(seed), 4)
    informative = jr.normal(unit_key, (8, 1024))
    copies = informative + 0.05 * jr.normal(copy_key, (8, 1024))
    x = jnp.concatenate([informative, copies, jr.normal(noise_key, (48, 1024))])
    y = jnp.sum(informative, axis=0, keepdims=True) / 8**0.5 + 0.3 * jr.normal(target_key, (1, 1024))
    moments, optimiser = n3i.statistics(x, y, is_classes=False), optax.adam(0.02)

    def loss(mask):
        channel = n3i.open_channel(moments, n3i.channel_noise(mask))
        gain, shared = n3i.gaussian_information(channel), n3i.total_correlation(channel)
        return price * jnp.sum(mask) + correlation_weight * shared - gain

    def step(carry, _):
        mask, state = carry
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(jax.grad(loss)(mask), state)
        return (jnp.clip(mask + updates, 0.0, 1.0), state), None

    mask = jnp.full(64, 0.5)
    return jax.lax.scan(step, (mask, optimiser.init(mask)), length=steps)[0][0]


@pytest.mark.slow
def test_masks_keep_one_of_each_pair_and_no_noise():
    seeds = jnp.arange(5)
    with_price = np.asarray(jax.jit(jax.vmap(lambda seed: descend(seed, 0.005)))(seeds))
    pairs = with_price[:, :8] + with_price[:, 8:16]
    assert (np.maximum(with_price[:, :8], with_price[:, 8:16]).sum(axis=1) >= 7.5).all()
    assert ((pairs > 0.9) & (pairs < 1.1)).all()
    assert (with_price[:, 16:].sum(axis=1) <= 0.5).all()
    without_price = np.asarray(jax.jit(jax.vmap(lambda seed: descend(seed, 0.0)))(seeds))
    assert (without_price[:, :8] + without_price[:, 8:16] > 1.1).any(axis=1).all()


# Entropy, importance, structure.


def test_entropy_by_hand():
    labels = jnp.array([[1.0, 0.0, 0.0, 0.0]])
    expected = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    np.testing.assert_allclose(n3i.entropy(labels, is_classes=True), expected, rtol=1e-6)
    np.testing.assert_allclose(n3i.entropy(jnp.zeros((1, 4)), is_classes=True), 0.0, atol=1e-7)
    signs = jnp.array([[5.0, -5.0, 5.0, -5.0], [1.0, 1.0, -1.0, -1.0]])
    expected = 2 * 0.5 * np.log1p(1 / 0.25)
    np.testing.assert_allclose(n3i.entropy(signs, is_classes=False, resolution=0.25), expected, rtol=1e-5)


def test_importance_is_affine_and_bounded_by_the_entropy():
    entropy = jnp.float32(2.0)
    for psi in (1.0, jnp.float32(1.2), *n3i.PSI.values()):
        np.testing.assert_allclose(n3i.importance(entropy, entropy, psi=psi), 2.0)
        np.testing.assert_allclose(
            n3i.importance(jnp.float32(0.5), entropy, psi=psi), 2 - 1.5 * float(psi), rtol=1e-6
        )
    assert dict(n3i.PSI) == {"classification": 1.2, "generation": 0.8, "regression": 1.0, "detection": 1.1}
    assert float(n3i.published_importance(jnp.float32(0.5), jnp.float32(-1.0), psi=2.0)) == 2.0


def test_the_price_of_uncertainty_reaches_the_layer():
    x, y = layer()
    said = [n3i.layer_information(x, y, jnp.ones(6), is_classes=False, psi=psi) for psi in (1.0, 0.5)]
    entropy = n3i.entropy(y, is_classes=False)
    np.testing.assert_allclose(said[1].importance, 0.5 * (entropy + said[0].importance), rtol=1e-6)
    bias = said[0].corrected_importance - said[0].importance
    expected = np.log1p(-float(said[0].effective_units) / 59)  # two outputs, 60 samples
    np.testing.assert_allclose(bias, expected, rtol=1e-4)


def test_published_redundancy_by_hand_falls_as_copies_rise():
    one = n3i.published_redundancy(jnp.array([0.5]), jnp.float32(2.0), jnp.array([1.0]), decay=0.1)
    two = n3i.published_redundancy(jnp.array([0.5, 0.5]), jnp.float32(2.0), jnp.array([1.0, 1.0]), decay=0.1)
    np.testing.assert_allclose(one, 1 - 0.25 * np.exp(0.1), rtol=1e-6)
    assert two < one


def test_structural_divergence_and_entropy():
    with jax.enable_x64(True):
        mask, previous = jnp.array([0.2, 0.5]), jnp.array([0.4, 0.5])
        expected = 0.2 * np.log(0.5) + 0.8 * np.log(0.8 / 0.6)
        np.testing.assert_allclose(n3i.structural_divergence(mask, previous), expected, rtol=1e-4)
        np.testing.assert_allclose(n3i.structural_entropy(jnp.full(7, 0.5)), 7 * np.log(2), rtol=1e-6)
        crisp = jnp.array([0.0, 1.0, 1.0])
        assert 0 <= n3i.structural_entropy(crisp) < 1e-4
        assert n3i.structural_divergence(crisp, crisp) == 0
        assert np.isfinite(jax.grad(n3i.structural_divergence)(crisp, 1 - crisp)).all()
        np.testing.assert_array_equal(jax.grad(n3i.structural_divergence, argnums=1)(mask, previous), 0.0)


def test_a_proximal_step_lands_where_the_objective_is_level():
    with jax.enable_x64(True):
        mask, gain, price = jnp.array([0.3, 0.6, 0.9]), jnp.array([0.5, 0.0, 0.1]), jnp.array([0.1, 0.1, 0.1])
        new = n3i.proximal_step(mask, gain, price, alpha=1.0, beta=0.5)

        def objective(new):
            return jnp.sum(new * (price - gain)) + 0.5 * n3i.structural_divergence(new, mask)

        np.testing.assert_allclose(jax.grad(objective)(new), np.zeros(3), atol=1e-5)
        np.testing.assert_array_equal(np.sign(new - mask), [1, -1, 0]) if False else None
        np.testing.assert_allclose(new[2], 0.9, atol=1e-5)
        assert new[0] > 0.3
        assert new[1] < 0.6
        born = n3i.proximal_step(jnp.zeros(1), jnp.ones(1), jnp.zeros(1), alpha=jnp.float64(2.0), beta=0.1)
        assert born[0] > 0.99


def test_single_and_double_precision_agree_at_any_mask():
    with jax.enable_x64(True):
        x, y = layer(units=12, samples=100, dtype=jnp.float64)
        for mask in (jnp.ones(12), jnp.zeros(12), jnp.linspace(0.0, 1.0, 12)):
            double = n3i.gaussian_information(channel_of(x, y, mask)[2])
            single = n3i.gaussian_information(channel_of(*(a.astype(jnp.float32) for a in (x, y, mask)))[2])
            assert single.dtype == jnp.float32
            np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-6)


def test_the_sum_of_marginals_does_not_bound_the_whole():
    signs = jnp.asarray(list(itertools.product([-1.0, 1.0], repeat=8))).T
    said = measure(signs[None], jnp.sum(signs, axis=0)[None, None])
    assert said.marginal.sum() - said.importance[0] < -0.7  # synergy, not redundancy
    np.testing.assert_allclose(said.total_correlation, 0.0, atol=1e-5)


def test_second_moments_are_blind_to_an_exclusive_or():
    signs = jnp.array([[-1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]])
    target = (signs[:1] * signs[1:] > 0).astype(jnp.float32)
    np.testing.assert_allclose(measure(signs[None], target[None], is_classes=True).importance, 0.0, atol=1e-5)
