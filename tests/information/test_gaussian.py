"""Information: closed forms, laws, gradients against finite differences, and hard layers."""

from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from n3.information import gaussian as n3i

UNITS, OUTPUTS, SAMPLES = 6, 2, 64
"""Of every layer whose law does not depend on them: one program for all of these."""
EVERY = np.ones(UNITS, bool)
LAYERS = 32
"""Seeds of what is statistical, and cases of what is hard."""
CHANNEL_QUANTITIES = (
    "gaussian_information",
    "marginal_importance",
    "conditional_importance",
    "redundancy",
    "total_correlation",
    "effective_units",
)


def compiled(function):
    """Compiled once for each shape, with NumPy arrays before and after."""
    program = eqx.filter_jit(function)
    return lambda *inputs, **options: jax.tree.map(np.asarray, program(*inputs, **options))


@compiled
def known_of(activations, targets, mask, candidates):
    """Moments, noise and channel of a layer of numbers, and every function of them by name."""
    moments, noise = n3i.statistics(activations, targets, is_classes=False), n3i.channel_noise(mask)
    channel = n3i.open_channel(moments, noise)
    said = {name: getattr(n3i, name)(channel) for name in CHANNEL_QUANTITIES}
    said["ordered_gain"] = n3i.ordered_gain(moments, noise)
    return moments, noise, channel, said, n3i.greedy_order(moments, noise, candidates)


def known(activations, targets, mask=None, candidates=EVERY, dtype=np.float64):
    mask = np.ones(UNITS) if mask is None else mask
    with jax.enable_x64(True):
        return known_of(*(array.astype(dtype) for array in (activations, targets, mask)), candidates)


@compiled
def mixed_of(activations, targets, mask, shares, psi, is_classes):
    """A sum of all that has a gradient, with it, and the whole report and the information alone."""

    def mixed(activations, mask):
        said = n3i.layer_information(activations, targets, mask, is_classes=is_classes, psi=psi)
        parts = [said.importance, said.total_correlation, *said.conditional, *said.ordered]
        return jnp.dot(shares, jnp.stack(parts)), said

    alone = n3i.information_gain(activations, targets, mask, is_classes=is_classes)
    return *jax.value_and_grad(mixed, argnums=(0, 1), has_aux=True)(activations, mask), alone


FIRST = np.eye(1, 2 + 2 * UNITS)[0]
"""Shares that leave the importance alone."""


def mixed(activations, targets, mask=None, shares=FIRST, psi=1.0, is_classes=False):
    """The sum, the report, the gradients by activations and mask, and the information alone."""
    mask = np.ones(UNITS) if mask is None else mask
    given = (np.asarray(array, float) for array in (activations, targets, mask, shares, psi))
    with jax.enable_x64(True):
        (value, said), slopes, alone = mixed_of(*given, is_classes)
    return value, said, slopes, alone


@cache
def hard_program(is_classes):
    """Every quantity of many layers, gradients of their sum, and the greedy order; and the program's text."""

    def total(x, mask, targets):
        said = n3i.layer_information(x, targets, mask, is_classes=is_classes)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(said)), said

    def of_layer(x, mask, targets):
        (_, said), slopes = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(x, mask, targets)
        moments = n3i.statistics(x, targets, is_classes=is_classes)
        return said, slopes, n3i.greedy_order(moments, mask + 1e-3, mask > 0.5)

    lowered = jax.jit(jax.vmap(of_layer)).lower(*(degenerate()[i] for i in (0, 1, 2 if is_classes else 3)))
    return lowered.compile(), lowered.as_text()


def measure(activations, targets):
    """Every quantity of fully participating layers of 64 units, one for each seed."""
    mask = np.ones((LAYERS, 64), np.float32)
    return jax.tree.map(np.asarray, hard_program(False)[0](activations, mask, targets)[0])


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@cache
def degenerate():
    """Layers of 64 units and 16 samples, each 16 times, and targets, that are hard on an estimate."""
    draw = np.random.default_rng(19)
    x, mask = normal(20, LAYERS, 64, 16), draw.uniform(size=(LAYERS, 64)).astype(np.float32)
    mask[:5], mask[5] = 1.0, 0.0
    x[0], x[1], x[2], x[3], x[4, 0] = 3.0, x[1, :1], 1e-8 * x[2], 1e6 * x[3], 0.0
    labels = draw.integers(0, 3, (LAYERS, 16))
    labels[6], labels[7] = 0, np.minimum(labels[7], 1)
    numbers = x[:, :1].copy()
    numbers[8] = 2.0
    classes = np.moveaxis(np.eye(3, dtype=np.float32)[labels], 2, 1)
    x, classes, numbers = (np.tile(array, 16) for array in (x, classes, numbers))
    return x, mask, classes, numbers


def layer(seed=0):
    """Correlated units, and targets that depend on some of them."""
    activations = normal(seed, UNITS, UNITS) @ normal(seed + 1, UNITS, SAMPLES)
    targets = activations[:OUTPUTS] - activations[-OUTPUTS:] + normal(seed + 2, OUTPUTS, SAMPLES)
    return activations.astype(float), targets.astype(float)


def classes():
    """Three classes of unequal size, as one-hot rows."""
    labels = np.arange(SAMPLES) % 6 // 2 % 2 + (np.arange(SAMPLES) % 5 == 0)
    return labels, np.eye(3)[labels].T


def explicit(covariance, cross, target):
    """Log-determinant information in NumPy, float64."""
    residual = target - cross.T @ np.linalg.solve(covariance, cross) if cross.size else target
    return 0.5 * (np.linalg.slogdet(target)[1] - np.linalg.slogdet(residual)[1])


def standardised(rows):
    return (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-6)


# The one factorisation.


@pytest.mark.parametrize("rows", [1, 70])
def test_whitening_inverts_the_cholesky_factor(rows):
    root = normal(30, rows, 2 * rows).astype(float)
    matrix, turn = root @ root.T / rows, normal(31, rows, rows).astype(float)
    turn = turn + turn.T
    with jax.enable_x64(True):
        found, rate = compiled(lambda *pair: jax.jvp(n3i.whitening, pair[:1], pair[1:]))(matrix, turn)
    np.testing.assert_allclose(found, np.linalg.inv(np.linalg.cholesky(matrix)), rtol=1e-9, atol=1e-10)
    step = 1e-6
    ahead, behind = (np.linalg.inv(np.linalg.cholesky(matrix + s * turn)) for s in (step, -step))
    np.testing.assert_allclose(rate, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-5)


def test_what_is_not_definite_is_not_a_number():
    assert np.isnan(compiled(n3i.whitening)(np.array([[-1.0]], np.float32))).all()


# Noise and classes.


def test_noise_says_nothing_once_corrected():
    said = measure(normal(2, LAYERS, 64, 256), normal(3, LAYERS, 1, 256))
    assert said.importance.min() > 0.1
    assert abs(said.corrected_importance.mean()) <= 0.02
    assert abs((said.conditional + 0.5 * np.log(1 - 1 / 255)).mean()) <= 0.002
    np.testing.assert_allclose(said.effective_units, np.full(LAYERS, 64.0), atol=0.2)


def test_the_correction_by_hand_and_its_floor():
    by_hand = compiled(
        lambda *given: [n3i.corrected(*given, 11, 3), *(n3i.corrected(*given, n, 1) for n in (1, 2, 6))]
    )
    found = by_hand(np.float32(1.0), np.float32(5.0))
    np.testing.assert_allclose(found, [1 + 1.5 * np.log(0.5), *[1 + 0.5 * np.log(1e-6)] * 3], rtol=1e-6)


def test_one_row_of_two_classes_equals_two_rows():
    x = layer()[0]
    labels = (x[0] + x[1] > 0).astype(float)

    @compiled
    def of(x, *targets):
        each = partial(n3i.information_gain, x, mask=jnp.ones(UNITS), is_classes=True)
        return [(each(rows), n3i.entropy(rows, is_classes=True)) for rows in targets]

    with jax.enable_x64(True):
        one, two = of(x, labels[None], np.stack([1 - labels, labels]))
    np.testing.assert_allclose(one, two, rtol=1e-9)
    assert 0.1 < one[0] < one[1]


def test_the_probe_is_a_linear_discriminant():
    (labels, rows), mask = classes(), np.linspace(0.1, 1.0, UNITS)
    x = layer()[0] + np.outer(np.arange(UNITS), labels)
    t = standardised(x)
    prior, means = rows.mean(1), (t @ rows.T) / rows.sum(1)
    centred = t - means[:, labels]
    noise = 0.9999 * (1 - mask) / (1e-4 + 0.9999 * mask) + 1e-3
    slopes = np.linalg.solve(centred @ centred.T / SAMPLES + np.diag(noise), means)
    chances = np.exp(slopes.T @ t - 0.5 * np.sum(means * slopes, axis=0)[:, None]) * prior[:, None]
    chances = chances / chances.sum(0)
    expected = -prior @ np.log(prior) + np.log(chances[labels, np.arange(SAMPLES)]).mean()
    _, said, _, alone = mixed(x, rows, mask, is_classes=True)
    np.testing.assert_allclose([alone, said.importance], [expected] * 2, rtol=1e-8)
    bias = np.log1p(-said.effective_units / (SAMPLES - 1))  # half of one less than three classes
    np.testing.assert_allclose(said.corrected_importance, expected + bias, rtol=1e-8)
    assert 0.1 < expected < -prior @ np.log(prior)


# Every quantity by its explicit form.


@pytest.mark.parametrize("is_shared", [True, False])
def test_every_quantity_equals_its_explicit_form(is_shared):
    """Of units that share what they say, and of units of which one says most."""
    (x, y), mask = layer(), np.linspace(0.1, 1.0, UNITS)
    if not is_shared:
        x = normal(40, UNITS, SAMPLES).astype(float)
        y = x[-OUTPUTS:] + 0.3 * y
    _, noise, _, said, _ = known(x, y, mask)
    t, u = standardised(x), standardised(y)
    visible = 1e-4 + (1 - 1e-4) * mask
    nu = 1e-3 + (1 - visible) / visible
    S, c, T = t @ t.T / SAMPLES + np.diag(nu), t @ u.T / SAMPLES, u @ u.T / SAMPLES + 1e-2 * np.eye(OUTPUTS)
    close = partial(np.testing.assert_allclose, rtol=1e-9)
    rest = [np.flatnonzero(np.arange(UNITS) != j) for j in range(UNITS)]
    marginal = np.array([explicit(S[j : j + 1, j : j + 1], c[[j]], T) for j in range(UNITS)])
    left_out = np.array([explicit(S[np.ix_(r, r)], c[r], T) for r in rest])
    alone = np.array([np.linalg.slogdet(S[np.ix_(r, r)])[1] for r in rest])
    total = explicit(S, c, T)
    close(noise, nu)
    close(said["gaussian_information"], total)
    close(said["marginal_importance"], marginal)
    close(said["conditional_importance"], total - left_out, rtol=1e-7)
    close(said["redundancy"], 0.5 * (np.log(np.diag(S)) + alone - np.linalg.slogdet(S)[1]))
    close(said["total_correlation"], 0.5 * (np.log(np.diag(S)).sum() - np.linalg.slogdet(S)[1]))
    assert (left_out < marginal).any() != is_shared
    close(said["effective_units"], UNITS - np.sum(nu * np.diag(np.linalg.inv(S))))
    close(said["ordered_gain"], np.diff([explicit(S[:j, :j], c[:j], T) for j in range(UNITS + 1)]))


def test_a_report_holds_every_quantity_under_its_name():
    (x, y), mask = layer(), np.linspace(0.1, 1.0, UNITS)
    own, (_, said, _, alone) = known(x, y, mask)[3], mixed(x, y, mask)
    pairs = {
        "importance": "gaussian_information",
        "marginal": "marginal_importance",
        "conditional": "conditional_importance",
        "ordered": "ordered_gain",
    }
    same = ("redundancy", "total_correlation", "effective_units")
    for name, quantity in (pairs | {name: name for name in same}).items():
        np.testing.assert_allclose(getattr(said, name), own[quantity], rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(alone, own["gaussian_information"], rtol=1e-9)


def test_the_price_of_uncertainty_and_the_bias_reach_the_report():
    x, y = layer()
    (_, full, *_), (_, half, *_) = (mixed(x, y, psi=psi) for psi in (1.0, 0.5))
    u = standardised(y)
    whole = 0.5 * np.linalg.slogdet(u @ u.T / SAMPLES / 1e-2 + np.eye(OUTPUTS))[1]
    np.testing.assert_allclose(half.importance, 0.5 * (whole + full.importance), rtol=1e-6)
    expected = np.log1p(-full.effective_units / (SAMPLES - 1))  # two outputs
    np.testing.assert_allclose(full.corrected_importance - full.importance, expected, rtol=1e-6)


def test_greedy_order_equals_a_search():
    x, y = layer(seed=1)
    candidates = np.array([True, False, True, True, False, True])
    _, _, channel, _, (found, added) = known(x, y, candidates=candidates)
    S, c, T = channel.covariance, channel.cross, channel.target
    order = []
    for _ in range(4):
        left = [j for j in np.flatnonzero(candidates) if j not in order]
        order.append(max(left, key=lambda j: explicit(S[np.ix_([*order, j], [*order, j])], c[[*order, j]], T)))
    assert found.tolist() == [*order, 1, 4]
    np.testing.assert_allclose(added, known(x[found], y)[3]["ordered_gain"], rtol=1e-9, atol=1e-12)
    assert not np.array_equal(found[:4], np.flatnonzero(candidates))


def test_greedy_order_puts_what_says_all_first_and_leaves_what_is_no_candidate():
    x = layer()[0]
    x[4] = x[3]
    y = np.stack([x[3], 2.0 * x[3]]) + 0.01 * normal(7, OUTPUTS, SAMPLES)
    order, added = known(x, y)[4]
    assert order[0] in (3, 4)
    assert added[0] > 0.95 * added.sum()
    assert known(x, y, candidates=~EVERY)[4][0].tolist() == [0, 1, 2, 3, 4, 5]


# Copies, and what information does under maps of the units.


def test_exact_copies():
    y = normal(3, LAYERS, 1, 256)
    said = measure(np.repeat(y + normal(8, LAYERS, 1, 256), 64, axis=1), y)
    s0, copies = 1e-3, 64
    expected = 0.5 * (copies * np.log1p(s0) - np.log(copies + s0) - (copies - 1) * np.log(s0))
    np.testing.assert_allclose(said.total_correlation, np.full(LAYERS, expected), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(said.effective_units, np.ones(LAYERS), atol=0.05)
    assert said.conditional.max() <= 1e-3


def test_eight_features_of_eight_copies_each_read_eight():
    x = np.repeat(normal(10, LAYERS, 8, 256), 8, axis=1)
    np.testing.assert_allclose(measure(x, x[:, :1]).effective_units, np.full(LAYERS, 8.0), atol=0.01)


def test_a_linear_map_of_the_units_adds_nothing():
    x, y = layer()
    maps = normal(12, 32, UNITS, UNITS)
    maps[:, 3:] = 0.0
    before = known(x, y)[3]["gaussian_information"]
    after = np.array([known(own @ x, y)[3]["gaussian_information"] for own in maps])
    assert (after <= before + 1e-9).all()
    assert after.min() < 0.5 * before


@pytest.mark.parametrize("is_classes", [False, True])
def test_order_unit_and_origin_change_nothing(is_classes):
    x, y = layer()
    y = classes()[1] if is_classes else y
    order = np.random.default_rng(14).permutation(UNITS)
    moved = 7.0 * x + np.arange(UNITS)[:, None]
    plain, permuted, scaled = (mixed(own, y, is_classes=is_classes)[1] for own in (x, x[order], moved))
    for name in ("importance", "total_correlation", "effective_units"):
        np.testing.assert_allclose(getattr(permuted, name), getattr(plain, name), rtol=1e-9)
        np.testing.assert_allclose(getattr(scaled, name), getattr(plain, name), rtol=1e-4)
    for name in ("marginal", "conditional", "redundancy"):
        np.testing.assert_allclose(getattr(permuted, name), getattr(plain, name)[order], rtol=1e-7)
        np.testing.assert_allclose(getattr(scaled, name), getattr(plain, name), rtol=1e-4, atol=1e-5)


def test_second_moments_are_blind_to_an_exclusive_or():
    signs = np.tile(np.array([[-1.0, -1, 1, 1], [-1, 1, -1, 1]]), 16)
    is_same = signs[0] * signs[1] > 0
    alone = mixed(np.resize(signs, (UNITS, SAMPLES)), [is_same, ~is_same, 0 * is_same], is_classes=True)[3]
    np.testing.assert_allclose(alone, 0.0, atol=1e-9)


def test_the_sum_of_marginals_does_not_measure_redundancy():
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * UNITS)).reshape(UNITS, SAMPLES)
    said = known(signs, np.stack([signs.sum(axis=0)] * 2))[3]
    assert said["marginal_importance"].sum() - said["gaussian_information"] < -0.7  # synergy cancels it
    np.testing.assert_allclose(said["total_correlation"], 0.0, atol=1e-9)


# Gradients.


@pytest.mark.parametrize("is_classes", [False, True])
def test_gradients_agree_with_finite_differences(is_classes):
    x, y = layer()
    y, mask, step = classes()[1] if is_classes else y, np.linspace(0.05, 0.95, UNITS), 1e-6
    value = partial(mixed, targets=y, shares=normal(16, FIRST.size), is_classes=is_classes)
    slopes = value(x, mask=mask)[2]
    to_x, to_mask = normal(17, *x.shape).astype(float), normal(18, UNITS).astype(float)
    for slope, move_x, move_mask in ((slopes[0], to_x, 0 * mask), (slopes[1], 0 * x, to_mask)):
        ahead, behind = (value(x + s * move_x, mask=mask + s * move_mask)[0] for s in (step, -step))
        found = np.sum(slope * (move_x if slope.ndim == 2 else move_mask))
        np.testing.assert_allclose(found, (ahead - behind) / (2 * step), rtol=1e-5)


def test_information_rises_with_every_mask():
    (x, y), draw = layer(), np.random.default_rng(15)
    masks = [np.zeros(UNITS), np.ones(UNITS), *draw.uniform(size=(30, UNITS))]
    found = np.array([mixed(x, y, mask)[2][1] for mask in masks])
    assert (found >= 0).all()
    assert (found[1] > 0).all()


def test_a_dead_unit_feels_what_it_would_add():
    x = normal(18, UNITS, SAMPLES).astype(float)
    y = np.stack([x[0] + x[1]] * 2) + 0.1 * normal(19, OUTPUTS, SAMPLES)
    x[3] = x[0]
    mask = np.array([1.0, 0, 0, 0, 0, 0])  # live; informative; noise; copy of the live one; noise
    slope, channel = mixed(x, y, mask)[2][1], known(x, y, mask)[2]
    assert np.isfinite(slope).all()
    assert slope[1] > 10 * max(slope[2], slope[4], slope[5])
    assert slope[3] < 1e-3 * slope[1]
    # the law of the gradient, with the kappa and the smallest mask in it
    weight = np.sum(channel.weights.T * np.linalg.solve(channel.residual, channel.weights.T), axis=0)
    np.testing.assert_allclose(slope[1:], weight[1:] / (2 * 1e-8), rtol=2e-4, atol=1e-6)


# Nothing breaks.


@pytest.mark.parametrize("is_classes", [False, True])
def test_no_value_and_no_gradient_is_ever_undefined_and_no_layer_waits_for_lapack(is_classes):
    """Two batched LAPACK calls at a time stopped the process on two cores."""
    x, mask, classes, numbers = degenerate()
    program, text = hard_program(is_classes)
    assert "stablehlo.while" in text
    assert "custom_call" not in text
    found = jax.tree.map(np.asarray, program(x, mask, classes if is_classes else numbers))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    said, _, (order, _) = found
    for name in ("marginal", "conditional", "redundancy", "total_correlation"):
        assert (getattr(said, name) >= -1e-4).all(), name
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(64), (LAYERS, 1)))
    if is_classes:
        np.testing.assert_allclose(said.importance[6], 0.0, atol=1e-5)  # one class has nothing to tell


# Entropy, importance, structure.


def test_entropy_by_hand():
    labels, signs = np.float32([[1, 0, 0, 0]]), np.float32([[5, -5, 5, -5], [1, 1, -1, -1]])
    of_classes = compiled(partial(n3i.entropy, is_classes=True))
    expected = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    np.testing.assert_allclose(of_classes(labels), expected, rtol=1e-6)
    np.testing.assert_allclose(of_classes(0 * labels), 0.0, atol=1e-7)
    of_numbers = compiled(partial(n3i.entropy, is_classes=False, resolution=0.25))
    np.testing.assert_allclose(of_numbers(signs), 2 * 0.5 * np.log1p(1 / 0.25), rtol=1e-5)


def test_importance_is_affine_and_bounded_by_the_entropy():
    own = compiled(lambda *given, psi: n3i.importance(*given, psi=psi))
    whole = np.float32(2.0)
    for psi in map(np.float32, (1.0, 1.2, *n3i.PSI.values())):
        np.testing.assert_allclose(own(whole, whole, psi=psi), 2.0)
        np.testing.assert_allclose(own(np.float32(0.5), whole, psi=psi), 2 - 1.5 * psi, rtol=1e-6)
    assert dict(n3i.PSI) == {"classification": 1.2, "generation": 0.8, "regression": 1.0, "detection": 1.1}


def test_structural_divergence_and_entropy():
    mask, previous, crisp = (np.float32(row) for row in ([0.2, 0.5], [0.4, 0.5], [0.0, 1.0]))

    @compiled
    def structure(mask, previous):
        slopes = jax.grad(n3i.structural_divergence, argnums=(0, 1))(mask, previous)
        return n3i.structural_divergence(mask, previous), slopes, n3i.structural_entropy(mask)

    expected = 0.2 * np.log(0.5) + 0.8 * np.log(0.8 / 0.6)
    np.testing.assert_allclose(structure(mask, previous)[0], expected, rtol=1e-4)
    np.testing.assert_allclose(structure(np.full_like(mask, 0.5), mask)[2], 2 * np.log(2), rtol=1e-6)
    divergence, _, entropy = structure(crisp, crisp)
    assert 0 <= entropy < 1e-4
    assert divergence == 0
    to_mask, to_previous = structure(crisp, 1 - crisp)[1]
    assert np.isfinite(to_mask).all()
    np.testing.assert_array_equal(np.sign(to_mask), [-1, 1])
    np.testing.assert_array_equal(to_previous, [0, 0])


def test_what_is_called_by_itself_again_is_compiled_no_more():
    """Loops in functions of a new shape would be compiled anew at every call, and stay in memory."""
    (x, y), mask = layer(), np.linspace(0.1, 1.0, UNITS)
    active, targets, masks = (jnp.asarray(own, jnp.float32) for own in (x, y, mask))

    def calls():
        moments = n3i.statistics(active, targets, is_classes=False)
        n3i.greedy_order(moments, masks, masks > 0.5)
        return n3i.layer_information(active, targets, masks, is_classes=False).importance

    calls()
    compiled = []
    listen = lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    calls()
    jax.monitoring.clear_event_listeners()
    assert not compiled
