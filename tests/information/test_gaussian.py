"""Information: closed forms, laws, gradients against finite differences, hard layers, and mask descent."""

import itertools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from n3.information import gaussian as n3i

MONITORING = {"floor": n3i.MONITORING_FLOOR, "resolution": n3i.MONITORING_RESOLUTION}


def compiled(function):
    """Compiled once for each shape, with NumPy arrays before and after."""
    program = eqx.filter_jit(function)
    return lambda *inputs, **options: jax.tree.map(np.asarray, program(*inputs, **options))


@compiled
def measure(activations, targets, is_classes=False):
    """Every quantity of fully participating layers, one for each seed."""
    mask = jnp.ones(activations.shape[1], activations.dtype)
    each = partial(n3i.layer_information, mask=mask, is_classes=is_classes)
    return jax.vmap(lambda units, target: each(units, target))(activations, targets)


@compiled
def estimate(activations, targets, is_classes=False, floor=n3i.FLOOR, resolution=n3i.RESOLUTION):
    """Information of fully participating layers, raw and corrected, and the entropy of the target."""

    def each(units, target):
        noise = n3i.channel_noise(jnp.ones(units.shape[0], units.dtype), floor=floor)
        moments = n3i.statistics(units, target, is_classes=is_classes)
        channel = n3i.open_channel(moments, noise, resolution=resolution)
        known = (
            n3i.probe_information(channel, units, target) if is_classes else n3i.gaussian_information(channel)
        )
        outputs = moments.cross.shape[1] - int(is_classes)
        unbiased = n3i.corrected(known, n3i.effective_units(channel), moments.samples, outputs)
        return known, unbiased, n3i.entropy(target, is_classes=is_classes, resolution=resolution)

    return jax.vmap(each)(activations, targets)


@compiled
def gains(activations, targets, is_classes=False):
    """Information of many layers about the same target."""
    mask = jnp.ones(activations.shape[1], activations.dtype)
    each = partial(n3i.information_gain, mask=mask, is_classes=is_classes)
    return jax.vmap(lambda units: each(units, targets))(activations)


@compiled
def channel_of(activations, targets, mask):
    moments, noise = n3i.statistics(activations, targets, is_classes=False), n3i.channel_noise(mask)
    return moments, noise, n3i.open_channel(moments, noise)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def layer(units=6, outputs=2, samples=60, seed=0, dtype=np.float32):
    """Correlated units, and targets that depend on some of them."""
    activations = normal(seed, units, units) @ normal(seed + 1, units, samples)
    targets = activations[:outputs] - activations[-outputs:] + normal(seed + 2, outputs, samples)
    return activations.astype(dtype), targets.astype(dtype)


CHANNEL_QUANTITIES = (
    "gaussian_information",
    "marginal_importance",
    "conditional_importance",
    "redundancy",
    "total_correlation",
    "target_redundancy",
    "effective_units",
)


@compiled
def quantities_of(channel):
    return {name: getattr(n3i, name)(channel) for name in CHANNEL_QUANTITIES}


ordered_gain, greedy_order = compiled(n3i.ordered_gain), compiled(n3i.greedy_order)
structural_divergence, entropy = compiled(n3i.structural_divergence), compiled(n3i.entropy)


def explicit(covariance, cross, target):
    """Log-determinant information in NumPy, float64."""
    residual = target - cross.T @ np.linalg.solve(covariance, cross) if cross.size else target
    return 0.5 * (np.linalg.slogdet(target)[1] - np.linalg.slogdet(residual)[1])


# The one factorisation.


@pytest.mark.parametrize("rows", [1, 33, 70])
def test_whitening_inverts_the_cholesky_factor(rows):
    with jax.enable_x64(True):
        root = normal(30, rows, 2 * rows).astype(float)
        matrix, turn = root @ root.T / rows, normal(31, rows, rows).astype(float)
        turn = turn + turn.T
        found, rate = compiled(lambda *pair: jax.jvp(n3i.whitening, pair[:1], pair[1:]))(matrix, turn)
        expected = np.linalg.inv(np.linalg.cholesky(matrix))
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)
        step = 1e-6
        ahead, behind = (np.linalg.inv(np.linalg.cholesky(matrix + s * turn)) for s in (step, -step))
        np.testing.assert_allclose(rate, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-5)


def test_no_layer_waits_for_lapack():
    """Two batched LAPACK calls at a time stopped the process on two cores."""
    x, y = normal(32, 4, 40, 50), normal(33, 4, 1, 50)

    def total(x, y):
        said = n3i.layer_information(x, y, jnp.ones(40), is_classes=False)
        moments = n3i.statistics(x, y, is_classes=False)
        order, _ = n3i.greedy_order(moments, n3i.channel_noise(jnp.ones(40)), jnp.ones(40, bool))
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(said)) + jnp.sum(order).astype(x.dtype)

    program = jax.jit(jax.vmap(jax.grad(total))).lower(x, y).as_text()
    assert "stablehlo.while" in program
    assert "custom_call" not in program


def test_what_is_not_definite_is_not_a_number():
    assert np.isnan(compiled(n3i.whitening)(np.array([[-1.0]], np.float32))).all()


# 1. Gaussian pairs of known information.


@pytest.mark.parametrize("dims, samples, allowed", [(1, 1024, 0.05), (10, 1024, 0.05), (10, 4096, 0.01)])
def test_gaussian_pairs(dims, samples, allowed):
    x, noise = normal(1, 2, 16, dims, samples)
    for truth in (0.0, 0.5, 2.0):
        correlation = (1 - np.exp(-2 * truth / dims)) ** 0.5
        y = correlation * x + (1 - correlation**2) ** 0.5 * noise
        raw, corrected, bound = estimate(x, y, **MONITORING)
        tolerance = max(0.03, allowed * truth) if samples == 1024 else 0.02 + allowed * truth
        assert abs(corrected.mean() - truth) <= tolerance
        assert (raw > -1e-6).all()
        assert (raw <= bound).all()


# 2. Noise, which the raw estimate takes for information.


def test_noise_says_nothing_once_corrected():
    said = measure(normal(2, 16, 64, 256), normal(3, 16, 1, 256))
    one_unit = compiled(lambda known: n3i.corrected(known, jnp.float32(1.0), 256, 1))(jnp.float32(0.0))
    assert said.importance.min() > 0.1
    assert abs(said.corrected_importance.mean()) <= 0.02
    assert abs((said.conditional + one_unit).mean()) <= 0.002
    np.testing.assert_allclose(said.effective_units, np.full(16, 64.0), atol=0.2)


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
    labels = np.random.default_rng(4).integers(0, classes, (seeds, samples))
    rows = np.moveaxis(np.eye(classes, dtype=np.float32)[labels], 2, 1)
    return normal(5, seeds, classes, samples) + np.float32(distance) * rows, rows


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
        raw, corrected, bound = estimate(x, targets, is_classes=True, **MONITORING)
        assert abs(corrected.mean() - mixture_information(classes, distance)) <= 0.03
        assert (raw <= bound * (1 + 1e-6)).all()
        assert distance < 8 or (raw >= 0.95 * bound).all()


def test_one_row_of_two_classes_equals_two_rows():
    x, rows = mixture(2, 1.0)
    one, two = (estimate(x, targets, is_classes=True, **MONITORING) for targets in (rows[:, 1:], rows))
    np.testing.assert_allclose(one, two, rtol=1e-5)


def test_the_probe_is_a_linear_discriminant():
    with jax.enable_x64(True):
        labels = np.arange(60) % 6 // 2 % 2 + (np.arange(60) % 5 == 0)  # three classes, of unequal size
        rows, mask = np.eye(3)[labels].T, np.linspace(0.1, 1.0, 6)
        x = layer(dtype=np.float64)[0] + np.outer(np.arange(6.0), labels)
        t = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
        prior, means = rows.mean(1), (t @ rows.T) / rows.sum(1)
        within = (t - means[:, labels]) @ (t - means[:, labels]).T / 60 + np.diag(
            0.9999 * (1 - mask) / (1e-4 + 0.9999 * mask) + 1e-3
        )
        slopes = np.linalg.solve(within, means)
        chances = np.exp(slopes.T @ t - 0.5 * np.sum(means * slopes, axis=0)[:, None]) * prior[:, None]
        chances = chances / chances.sum(0)
        expected = -prior @ np.log(prior) + np.log(chances[labels, np.arange(60)]).mean()
        alone, said = compiled(
            lambda *given: tuple(
                f(*given, is_classes=True) for f in (n3i.information_gain, n3i.layer_information)
            )
        )(x, rows, mask)
        np.testing.assert_allclose([alone, said.importance], [expected] * 2, rtol=1e-8)
        bias = np.log1p(-said.effective_units / 59)  # half of one less than three classes
        np.testing.assert_allclose(said.corrected_importance, expected + bias, rtol=1e-8)
        assert 0.1 < expected < -prior @ np.log(prior)


# 4. Parts that sum to the whole.


@pytest.mark.parametrize("dtype, allowed", [("float32", 1e-4), ("float64", 1e-10)])
def test_conditional_importance_is_leave_one_out(dtype, allowed):
    with jax.enable_x64(True):
        x, y = layer(dtype=dtype)
        moments, noise, channel = channel_of(x, y, np.ones(6, dtype))
        said = quantities_of(channel)
        left_out = gains(np.stack([np.delete(x, j, axis=0) for j in range(6)]), y)
        whole = said["gaussian_information"]
        np.testing.assert_allclose(said["conditional_importance"], whole - left_out, atol=allowed, rtol=0)
        np.testing.assert_allclose(ordered_gain(moments, noise).sum(), whole, atol=allowed, rtol=0)


def test_every_quantity_equals_its_explicit_form():
    with jax.enable_x64(True):
        x, y = layer(dtype=np.float64)
        mask = np.linspace(0.1, 1.0, 6)
        moments, noise, channel = channel_of(x, y, mask)
        t = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
        u = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-6)
        visible = 1e-4 + (1 - 1e-4) * np.asarray(mask)
        nu = 1e-3 + (1 - visible) / visible
        S, c, T = np.asarray(t @ t.T) / 60 + np.diag(nu), np.asarray(t @ u.T) / 60, np.asarray(u @ u.T) / 60
        T = T + 1e-2 * np.eye(2)
        said = quantities_of(channel)
        close = partial(np.testing.assert_allclose, rtol=1e-9)
        ones = [np.ix_([j], [j]) for j in range(6)]
        rest = [np.flatnonzero(np.arange(6) != j) for j in range(6)]
        marginal = np.array([explicit(S[one], c[[j]], T) for j, one in enumerate(ones)])
        alone = np.array([np.log(np.linalg.det(S[np.ix_(r, r)])) for r in rest])
        total = explicit(S, c, T)
        close(noise, nu)
        close(said["gaussian_information"], total)
        close(said["marginal_importance"], marginal)
        close(said["redundancy"], 0.5 * (np.log(np.diag(S)) + alone - np.linalg.slogdet(S)[1]))
        close(said["total_correlation"], 0.5 * (np.log(np.diag(S)).sum() - np.linalg.slogdet(S)[1]))
        left_out = np.array([explicit(S[np.ix_(r, r)], c[r], T) for r in rest])
        close(said["target_redundancy"], np.minimum(marginal, left_out))
        close(said["effective_units"], 6 - np.sum(nu * np.diag(np.linalg.inv(S))))
        first = [explicit(S[:j, :j], c[:j], T) for j in range(7)]
        close(ordered_gain(moments, noise), np.diff(first))
        root = np.sqrt(mask)[:, None] * np.asarray(moments.covariance) * np.sqrt(mask)[None, :]
        participation = np.trace(root) ** 2 / np.trace(root @ root)
        possible = np.trace(root) ** 2 / np.sum(np.diag(root) ** 2)
        np.testing.assert_allclose(
            compiled(n3i.participation_redundancy)(moments, mask), 1 - participation / possible, rtol=1e-5
        )


def test_greedy_order_equals_a_search():
    with jax.enable_x64(True):
        x, y = layer(dtype=np.float64, seed=1)
        moments, noise, channel = channel_of(x, y, np.ones(6))
        S, c, T = channel.covariance, channel.cross, channel.target
        candidates = np.array([True, False, True, True, False, True])
        order = []
        for _ in range(4):
            left = [j for j in np.flatnonzero(candidates) if j not in order]
            order.append(
                max(left, key=lambda j: explicit(S[np.ix_([*order, j], [*order, j])], c[[*order, j]], T))
            )
        found, added = greedy_order(moments, noise, candidates)
        assert found.tolist() == [*order, 1, 4]
        ordered = ordered_gain(*channel_of(x[found], y, np.ones(6))[:2])
        np.testing.assert_allclose(added, ordered, rtol=1e-9, atol=1e-12)
        assert not np.array_equal(found[:4], np.flatnonzero(candidates))


def test_greedy_order_puts_what_says_all_first_and_leaves_what_is_no_candidate():
    x = layer()[0]
    x[4] = x[3]
    y = np.stack([x[3], 2.0 * x[3]]) + 0.01 * normal(7, 2, 60)
    moments, noise, _ = channel_of(x, y, np.ones(6, np.float32))
    choices = np.array([[True] * 6, [False] * 6])
    order, added = compiled(jax.vmap(n3i.greedy_order, (None, None, 0)))(moments, noise, choices)
    assert order[0, 0] in (3, 4)
    assert added[0, 0] > 0.95 * added[0].sum()
    assert order[1].tolist() == [0, 1, 2, 3, 4, 5]


# 5. Copies.


@pytest.mark.parametrize("copies", [2, 64])
def test_exact_copies(copies):
    y = normal(3, 16, 1, 256)
    said = measure(np.repeat(y + normal(8, 16, 1, 256), copies, axis=1), y)
    s0 = 1e-3
    expected = 0.5 * (copies * np.log1p(s0) - np.log(copies + s0) - (copies - 1) * np.log(s0))
    np.testing.assert_allclose(said.total_correlation, np.full(16, expected), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(said.effective_units, np.ones(16), atol=0.05)
    np.testing.assert_allclose(said.participation_redundancy, np.full(16, 1 - 1 / copies), atol=0.01)
    assert said.conditional.max() <= 1e-3
    np.testing.assert_allclose(said.target_redundancy, said.marginal, rtol=0.02)


def test_eight_features_of_eight_copies_each_read_eight():
    x = np.repeat(normal(10, 16, 8, 256), 8, axis=1)
    np.testing.assert_allclose(measure(x, x[:, :1]).effective_units, np.full(16, 8.0), atol=0.01)


# 6. What information does under maps of the units.


def test_a_linear_map_of_the_units_adds_nothing():
    x, maps = normal(11, 8, 256), normal(12, 32, 4, 8)
    y = x[:2] + 0.5 * normal(13, 2, 256)
    before, after = gains(x[None], y)[0], gains(maps @ x, y)
    assert (after <= before + 1e-5).all()
    assert after.min() < 0.5 * before


@pytest.mark.parametrize("is_classes", [False, True])
def test_order_unit_and_origin_change_nothing(is_classes):
    x, y = layer(samples=200)
    y = np.eye(4, dtype=np.float32)[:, np.argmax([*y, *-y], axis=0)] if is_classes else y
    order = np.random.default_rng(14).permutation(6)
    scaled = 7.0 * x + np.arange(6, dtype=np.float32)[:, None]
    said = measure(np.stack([x, x[order], scaled]), np.stack([y] * 3), is_classes=is_classes)
    plain, permuted, moved = (jax.tree.map(lambda leaf, i=i: leaf[i], said) for i in range(3))
    for name in ("importance", "total_correlation", "effective_units"):
        np.testing.assert_allclose(getattr(permuted, name), getattr(plain, name), rtol=1e-5)
        np.testing.assert_allclose(getattr(moved, name), getattr(plain, name), rtol=1e-4)
    for name in ("marginal", "conditional", "redundancy", "target_redundancy"):
        np.testing.assert_allclose(getattr(permuted, name), getattr(plain, name)[order], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(getattr(moved, name), getattr(plain, name), rtol=1e-4, atol=1e-5)


def test_information_rises_with_every_mask():
    x, y = map(jnp.asarray, layer())
    slopes = compiled(jax.vmap(jax.grad(lambda mask: n3i.information_gain(x, y, mask, is_classes=False))))
    masks = np.random.default_rng(15).uniform(size=(32, 6)).astype(np.float32)
    masks[0], masks[1] = 0.0, 1.0
    found = slopes(masks)
    assert (found >= 0).all()
    assert (found[1] > 0).all()


# 7. Gradients.


@pytest.mark.parametrize("is_classes", [False, True])
def test_gradients_agree_with_finite_differences(is_classes):
    with jax.enable_x64(True):
        x, y = layer(dtype=np.float64)
        y = jnp.asarray((y[:1] > 0).astype(float) if is_classes else y)
        mask = np.linspace(0.05, 0.95, 6)

        shares = jnp.asarray(normal(16, 14).astype(float))

        def mixed(x, mask):
            said = n3i.layer_information(x, y, mask, is_classes=is_classes)
            parts = [said.importance, said.total_correlation, *said.conditional, *said.ordered]
            return jnp.dot(shares, jnp.stack(parts))

        program, step = compiled(jax.value_and_grad(mixed, argnums=(0, 1))), 1e-6
        to_x, to_mask = normal(17, 6, 60).astype(float), normal(18, 6).astype(float)
        slopes = program(x, mask)[1]
        for slope, move_x, move_mask in ((slopes[0], to_x, 0 * mask), (slopes[1], 0 * x, to_mask)):
            forward, backward = (
                program(x + sign * move_x, mask + sign * move_mask)[0] for sign in (step, -step)
            )
            found = np.sum(slope * (move_x if slope.ndim == 2 else move_mask))
            np.testing.assert_allclose(found, (forward - backward) / (2 * step), rtol=1e-5)


def test_a_dead_unit_feels_what_it_would_add():
    x = normal(18, 4, 512)
    y = x[:1] + x[1:2]
    x[3] = x[0]
    mask = np.array([1.0, 0.0, 0.0, 0.0], np.float32)  # live; informative; noise; copy of the live one
    slope = compiled(jax.grad(lambda mask, x, y: n3i.information_gain(x, y, mask, is_classes=False)))(
        mask, x, y
    )
    assert np.isfinite(slope).all()
    assert slope[1] > 10 * slope[2]
    assert slope[3] < 1e-3 * slope[1]
    channel = channel_of(x, y, mask)[2]  # the law of the gradient, with the kappa and the smallest mask in it
    weight = channel.weights[:, 0] ** 2 / channel.residual[0, 0]
    np.testing.assert_allclose(slope[1:], weight[1:] / (2 * 1e-8), rtol=2e-4, atol=1e-6)


# 8. Nothing breaks.


def degenerate(units, samples, classes):
    """One hundred layers, and targets, that are hard on an estimate."""
    generator = np.random.default_rng(19)
    x, mask = normal(20, 100, units, samples), generator.uniform(size=(100, units)).astype(np.float32)
    mask[:5], mask[5] = 1.0, 0.0
    x[0], x[1], x[2], x[3], x[4, 0] = 3.0, x[1, :1], 1e-8 * x[2], 1e6 * x[3], 0.0
    labels = generator.integers(0, classes, (100, samples))
    labels[6], labels[7] = 0, np.minimum(labels[7], 1)
    numbers = x[:, :1].copy()
    numbers[8] = 2.0
    return x, mask, np.moveaxis(np.eye(classes, dtype=np.float32)[labels], 2, 1), numbers


@pytest.mark.parametrize(
    "units, samples, is_classes", [(64, 16, False), (10, 6, True), (1, 1, False), (1, 1, True)]
)
def test_no_value_and_no_gradient_is_ever_undefined(units, samples, is_classes):
    x, mask, classes, numbers = degenerate(units, samples, 3)
    targets = classes if is_classes else numbers

    def total(x, mask, targets):
        said = n3i.layer_information(x, targets, mask, is_classes=is_classes)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(said)), said

    each = jax.jit(jax.vmap(jax.value_and_grad(total, argnums=(0, 1), has_aux=True)))
    found = each(x, mask, targets)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    each(0.5 * x, mask**2, targets)
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
    labels = np.array([[1, 0, 0, 0]], np.float32)
    expected = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    np.testing.assert_allclose(entropy(labels, is_classes=True), expected, rtol=1e-6)
    np.testing.assert_allclose(entropy(0 * labels, is_classes=True), 0.0, atol=1e-7)
    signs = np.array([[5, -5, 5, -5], [1, 1, -1, -1]], np.float32)
    expected = 2 * 0.5 * np.log1p(1 / 0.25)
    np.testing.assert_allclose(entropy(signs, is_classes=False, resolution=0.25), expected, rtol=1e-5)


def test_importance_is_affine_and_bounded_by_the_entropy():
    whole = jnp.float32(2.0)
    for psi in (1.0, jnp.float32(1.2), *n3i.PSI.values()):
        np.testing.assert_allclose(n3i.importance(whole, whole, psi=psi), 2.0)
        np.testing.assert_allclose(
            n3i.importance(jnp.float32(0.5), whole, psi=psi), 2 - 1.5 * float(psi), rtol=1e-6
        )
    assert dict(n3i.PSI) == {"classification": 1.2, "generation": 0.8, "regression": 1.0, "detection": 1.1}
    assert float(n3i.published_importance(jnp.float32(0.5), jnp.float32(-1.0), psi=2.0)) == 2.0


def test_the_price_of_uncertainty_reaches_the_layer():
    x, y = layer()
    price = compiled(lambda psi, x, y: n3i.layer_information(x, y, jnp.ones(6), is_classes=False, psi=psi))
    full, half = (price(np.float32(psi), x, y) for psi in (1.0, 0.5))
    whole = entropy(y, is_classes=False)
    np.testing.assert_allclose(half.importance, 0.5 * (whole + full.importance), rtol=1e-6)
    expected = np.log1p(-float(full.effective_units) / 59)  # two outputs, 60 samples
    np.testing.assert_allclose(full.corrected_importance - full.importance, expected, rtol=1e-4)


def test_published_redundancy_by_hand_falls_as_copies_rise():
    one = n3i.published_redundancy(jnp.array([0.5]), jnp.float32(2.0), jnp.array([1.0]), decay=0.1)
    two = n3i.published_redundancy(jnp.array([0.5, 0.5]), jnp.float32(2.0), jnp.array([1.0, 1.0]), decay=0.1)
    np.testing.assert_allclose(one, 1 - 0.25 * np.exp(0.1), rtol=1e-6)
    assert two < one


def test_structural_divergence_and_entropy():
    mask, previous, crisp = (np.array(row, np.float32) for row in ([0.2, 0.5], [0.4, 0.5], [0.0, 1.0]))
    expected = 0.2 * np.log(0.5) + 0.8 * np.log(0.8 / 0.6)
    structural_entropy, slopes = (
        compiled(n3i.structural_entropy),
        jax.grad(n3i.structural_divergence, argnums=(0, 1)),
    )
    np.testing.assert_allclose(structural_divergence(mask, previous), expected, rtol=1e-4)
    np.testing.assert_allclose(structural_entropy(np.full_like(mask, 0.5)), 2 * np.log(2), rtol=1e-6)
    assert 0 <= structural_entropy(crisp) < 1e-4
    assert structural_divergence(crisp, crisp) == 0
    to_mask, to_previous = compiled(slopes)(crisp, 1 - crisp)
    assert np.isfinite(to_mask).all()
    np.testing.assert_array_equal(np.sign(to_mask), [-1, 1])
    np.testing.assert_array_equal(to_previous, [0, 0])


def test_a_proximal_step_lands_where_the_objective_is_level():
    mask, gain, price = (np.array(row, np.float32) for row in ([0.3, 0.6, 0.9], [0.5, 0.0, 0.1], [0.1] * 3))
    step = compiled(n3i.proximal_step)
    new = step(mask, gain, price, alpha=2.0, beta=0.5)

    def objective(new):
        return jnp.sum(new * (price - 2.0 * gain)) + 0.5 * n3i.structural_divergence(new, jnp.asarray(mask))

    np.testing.assert_allclose(compiled(jax.grad(objective))(new), np.zeros(3), atol=1e-5)
    assert (np.sign(new - mask) == [1, -1, 1]).all()
    np.testing.assert_allclose(step(mask, price, price, alpha=1.0, beta=0.5), mask, rtol=1e-5)
    assert step(0 * mask, gain + 1, price, alpha=2.0, beta=0.1).min() > 0.99  # no unit is out for good


@pytest.mark.parametrize("full", [0.0, 0.5, 1.0])
def test_single_and_double_precision_agree(full):
    with jax.enable_x64(True):
        x, y = layer(dtype=np.float64)
        mask = np.linspace(full, 1.0, 6) if full else np.zeros(6)
        double, single = (
            quantities_of(channel_of(*(array.astype(dtype) for array in (x, y, mask)))[2])
            for dtype in (np.float64, np.float32)
        )
        for name in CHANNEL_QUANTITIES:
            assert single[name].dtype == np.float32
            np.testing.assert_allclose(single[name], double[name], rtol=1e-4, atol=2e-6, err_msg=name)


def test_the_sum_of_marginals_does_not_measure_redundancy():
    signs = np.array(list(itertools.product([-1, 1], repeat=6)), np.float32).T
    targets = np.stack([signs.sum(axis=0)] * 2)
    said = quantities_of(channel_of(signs, targets, np.ones(6, np.float32))[2])
    assert said["marginal_importance"].sum() - said["gaussian_information"] < -0.7  # synergy cancels it
    np.testing.assert_allclose(said["total_correlation"], 0.0, atol=1e-5)


def test_second_moments_are_blind_to_an_exclusive_or():
    signs = np.array([[-1, -1, 1, 1], [-1, 1, -1, 1]], np.float32)
    target = (signs[:1] * signs[1:] > 0).astype(np.float32)
    np.testing.assert_allclose(gains(signs[None], target, is_classes=True)[0], 0.0, atol=1e-5)
