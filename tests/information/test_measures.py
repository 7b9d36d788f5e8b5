"""Measures: units and layers against explicit forms, the objective's terms, the monitor, and its gaps."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.random import default_rng

from n3.information import gaussian
from n3.information.measures import (
    BLIND,
    MEASURES,
    LayerMonitor,
    Pool,
    TermWeights,
    blindness,
    check_importance,
    check_monitor,
    criterion_of,
    gap,
    information_terms,
    measure_units,
)
from n3.nn.controllers import Fixed, Information
from n3.nn.mlp import GrowingMLP

TERMS = ("importance", "redundancy", "structure")
UNITS, SAMPLES = 4, 64


def normal(seed, *shape):
    return default_rng(seed).normal(size=shape)


def standardised(rows):
    return (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-6)


def moments_of(active, targets, mask, *, floor, resolution):
    """Covariances of a masked layer with noise, of layer and target, and of the target with resolution."""
    t, u, visible = standardised(active), standardised(targets), 1e-4 + (1 - 1e-4) * np.asarray(mask)
    samples = active.shape[1]
    noise = floor + (1 - visible) / visible
    target = u @ u.T / samples + resolution * np.eye(len(u))
    return t @ t.T / samples + np.diag(noise), t @ u.T / samples, target, noise


def explicit(covariance, cross, target):
    """Log-determinant information in NumPy, float64."""
    return 0.5 * (
        np.linalg.slogdet(target)[1]
        - np.linalg.slogdet(target - cross.T @ np.linalg.solve(covariance, cross))[1]
    )


def correlation(covariance):
    return 0.5 * (np.log(np.diag(covariance)).sum() - np.linalg.slogdet(covariance)[1])


# Units and their layer.


@pytest.fixture(scope="module")
def layer():
    """Units 0 and 1 copy each other, 2 adds to them, 3 is noise, 4 is constant; 500 samples.

    What is drawn has no mean and exactly no correlation, so that closed forms are exact.
    """
    drawn = normal(0, 6, 500)
    drawn = np.linalg.qr((drawn - drawn.mean(1, keepdims=True)).T)[0].T * 500**0.5
    active = drawn[[0, 0, 2, 3, 4]]
    active[4] = 0.3
    return active, (drawn[0] + 0.5 * drawn[2] + 0.3 * drawn[5])[None]


def seen(active, targets, mask=(1, 1, 1, 1, 1), is_there=(1, 1, 1, 1, 1)):
    given = (np.asarray(array, np.float32) for array in (active, targets, mask, is_there))
    found = measure_units(*map(jnp.asarray, given), is_classes=False)
    layer = {f"layer.{name}": value for name, value in found.layer.items()}
    return {name: np.asarray(value) for name, value in {**found.units, **layer}.items()}


def test_criteria_and_monitor_know_every_measure():
    for name, own in MEASURES.items():
        if own.unit:
            assert criterion_of(f"{name} < 1").names() == {name}
        if own.layer:
            check_monitor([name])
            assert criterion_of(f"layer.{name} < 1").names() == {f"layer.{name}"}
    assert criterion_of("layer.gain < 1").names() == {"layer.gain"}


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "importence < 0.1",
            r"one of importance, .*layer\.gain; got 'importence'\. Did you mean 'importance'\?",
        ),
        ("importance < 1 and layer.size < 3", r"`criterion` must be one of .*; got 'layer.size'"),
        ("gap < 3", r"`criterion` must be one of .*; got 'gap'"),
    ],
)
def test_unknown_names_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        criterion_of(text)
    with pytest.raises(ValueError, match=r"`monitor` must be one of .* got 'participation'"):
        check_monitor(["entropy", "participation"])


def test_importance_is_what_no_other_unit_says(layer):
    found = seen(*layer)
    np.testing.assert_allclose(found["importance"][2], 0.5 * np.log(1 + 0.25 / 0.09), rtol=0.01)
    assert np.abs(found["importance"][[0, 1, 3, 4]]).max() < 0.01
    np.testing.assert_allclose(found["marginal"][0], 0.5 * np.log(1 + 1 / 0.34), rtol=0.01)


def test_of_two_copies_the_one_that_is_left_is_important(layer):
    found = seen(*layer, is_there=[1, 0, 1, 1, 1])
    np.testing.assert_allclose(found["importance"][0], 0.5 * np.log(1 + 1 / 0.09), rtol=0.01)


def test_importance_has_no_bias():
    found = [seen(draw[:5], draw[5:])["importance"] for draw in normal(2, 40, 6, 500)]
    mean, spread = np.mean(found), np.std(np.mean(found, axis=1)) / np.sqrt(len(found))
    assert abs(mean) < 5 * spread
    assert spread < 0.0002  # the bias of 1 / 2n, 0.001, would show


def test_entropy_is_zero_for_the_constant_and_the_absent(layer):
    found = seen(*layer, mask=[1.0, 1.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(found["entropy"][:3], 0.5 * np.log(1 + 1e4), rtol=1e-3)
    np.testing.assert_allclose(found["entropy"][3:], 0, atol=1e-3)
    np.testing.assert_array_equal(found["participation"], [1, 1, 1, 0, 1])


def test_redundancy_is_what_the_others_say_of_a_unit(layer):
    found = seen(*layer)["redundancy"]
    assert found[:2].min() > 4
    assert found[2:].max() < 0.03


@pytest.mark.parametrize("absent", [[], [1, 3]])
def test_quantities_are_those_of_the_units_that_are_there(layer, absent):
    active, targets = layer
    mask, left = np.array([1.0, 1.0, 0.7, 1.0, 0.5]), [unit for unit in range(5) if unit not in absent]
    found = seen(active, targets, mask, is_there=np.isin(range(5), left))
    S, c, T, noise = moments_of(active[left], targets, mask[left], floor=1e-4, resolution=1e-4)
    every = range(len(left))
    rest = [np.array([i for i in every if i != j]) for j in every]
    degrees = 1 - noise * np.diag(np.linalg.inv(S))

    def bias(degrees):
        return 0.5 * np.log(1 - degrees / 499)

    conditional = np.array([explicit(S, c, T) - explicit(S[np.ix_(r, r)], c[r], T) for r in rest])
    expected = {
        "importance": conditional + bias(degrees.sum()) - bias(degrees.sum() - degrees),
        "marginal": np.array([explicit(S[j : j + 1, j : j + 1], c[[j]], T) for j in every]) + bias(degrees),
        "entropy": 0.5 * np.log(np.diag(S) / noise),
        "redundancy": np.array([correlation(S) - correlation(S[np.ix_(r, r)]) for r in rest]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name][left], value, rtol=1e-3, atol=2e-3, err_msg=name)
    total = explicit(S, c, T) + bias(degrees.sum())
    np.testing.assert_allclose(found["layer.importance"], total, rtol=1e-3)
    np.testing.assert_allclose(found["layer.redundancy"], correlation(S), rtol=1e-3, atol=1e-3)
    entropy = expected["entropy"].sum() - correlation(S)
    np.testing.assert_allclose(found["layer.entropy"], entropy, rtol=1e-3)


def test_classes_are_measured_by_the_probe(layer):
    active, targets = (np.float32(array) for array in (layer[0], layer[1] > 0))
    mask = np.float32([1.0, 1.0, 0.7, 1.0, 1.0])

    @jax.jit
    def both(active, targets, mask):
        own = gaussian.information_gain(
            active,
            targets,
            mask,
            is_classes=True,
            floor=gaussian.MONITORING_FLOOR,
            resolution=gaussian.MONITORING_RESOLUTION,
        )
        return own, measure_units(active, targets, mask, jnp.ones(5), is_classes=True)

    own, found = both(active, targets, mask)
    noise = moments_of(active, targets, mask, floor=1e-4, resolution=1e-4)
    degrees = 5 - np.sum(noise[3] * np.diag(np.linalg.inv(noise[0])))
    expected = own + 0.5 * np.log(1 - degrees / 499)
    np.testing.assert_allclose(found.layer["importance"], expected, rtol=1e-3)


# Networks.


def drawn(controller, *, depth=None):
    """A network whose weights NumPy draws, so that nothing is compiled for them."""
    depth = None if depth is None else jnp.float32(depth)
    made = partial(GrowingMLP, 2, 1, controller=controller, initial_depth=depth)
    shapes, draw = eqx.filter_eval_shape(lambda key: made(key=key), jr.key(0)), default_rng(3)
    net = jax.tree.map(lambda leaf: draw.uniform(-1, 1, leaf.shape).astype(np.float32), shapes)
    net = eqx.tree_at(lambda n: n.controller, net, controller)
    return net if depth is None else eqx.tree_at(lambda n: n.depth_weight, net, depth)


def informed(*sizes, depth=None):
    return drawn(Information(jnp.asarray(np.float32(sizes)), capacity=(UNITS,) * len(sizes)), depth=depth)


# Terms.

INPUTS, TARGETS = normal(4, 2, SAMPLES), normal(5, 1, SAMPLES)
BEFORE = np.linspace(0.9, 0.1, UNITS)


def weights(**changes):
    settings = dict.fromkeys(TERMS, 0.0) | {"psi": 1.0} | changes
    return TermWeights(**{name: jnp.float32(value) for name, value in settings.items()})


@eqx.filter_jit
def terms_program(net, own, sides, before, is_classes, features, custom):
    def total(net):
        settings = {"is_classes": is_classes, "features": features, "custom": custom}
        found = information_terms(net, Pool(sides[0].T, sides[1]), own, before=before, **settings)
        return found.total(), (found, net.participation(), net.gates(), net.activations(sides[0].T))

    return eqx.filter_value_and_grad(total, has_aux=True)(net)


def terms(net, own, *, targets=TARGETS, is_classes=False, features=True, custom=None):
    """The total and what it is made of, and its gradient, in double precision."""
    before = tuple(BEFORE for _ in net.layers)
    net, own = jax.tree.map(lambda leaf: np.asarray(leaf, float), (net, own))
    with jax.enable_x64(True):
        found = terms_program(net, own, (INPUTS, targets), before, is_classes, features, custom)
        return jax.tree.map(np.asarray, found)


ALL = {"importance": 0.5, "psi": 1.2, "redundancy": 0.25, "structure": 2.0}


def test_every_term_by_hand():
    """Of two layers, of which the second is open by a part."""
    (total, (own, masks, gates, every)), _ = terms(informed(3.4, 2.3, depth=1.6), weights(**ALL))
    u = standardised(TARGETS)
    entropy = 0.5 * np.linalg.slogdet(u @ u.T / SAMPLES / 1e-2 + np.eye(1))[1]
    assert 0 < gates[1] < 1 == gates[0]
    for place, (active, mask, gate) in enumerate(zip(every, masks, gates, strict=True)):
        S, c, T, _ = moments_of(active, TARGETS, mask, floor=1e-3, resolution=1e-2)
        on, was = (1e-6 + (1 - 2e-6) * np.asarray(row) for row in (mask, BEFORE))
        divergence = np.sum(on * np.log(on / was) + (1 - on) * np.log((1 - on) / (1 - was)))
        known = {
            "importance": -0.5 * (entropy - 1.2 * (entropy - explicit(S, c, T))),
            "redundancy": 0.25 * correlation(S),
            "structure": 2.0 * divergence,
        }
        for name, value in known.items():
            np.testing.assert_allclose(getattr(own, name)[place], gate * value, rtol=1e-5, err_msg=name)
    parts = sum(np.sum(getattr(own, name)) for name in TERMS)
    np.testing.assert_allclose(total, parts, rtol=1e-9)
    assert {*eqx.filter_eval_shape(lambda own: own.named(), own)} == {f"{name}_term" for name in TERMS}


@pytest.mark.parametrize("name", TERMS)
def test_a_weight_of_zero_switches_a_term_off_exactly(name):
    net, on = informed(3.4, 2.3, depth=1.6), {other: 0.3 for other in TERMS if other != name}
    own = terms(net, weights(**on))[0][1][0]
    assert np.all(getattr(own, name) == 0)
    assert all(np.all(getattr(own, other) != 0) for other in on)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(terms(net, weights())[1]))


def test_the_gradient_in_the_sizes_is_that_of_finite_differences():
    net, own, step = informed(3.4, 2.3, depth=1.6), weights(**ALL), 1e-4
    net = jax.tree.map(lambda leaf: np.asarray(leaf, float), net)

    def at(move):
        return terms(eqx.tree_at(lambda n: n.controller.weight, net, net.controller.weight + move), own)

    for place, slope in enumerate(at(0.0)[1].controller.weight):
        move = step * np.eye(2)[place]
        ahead, behind = at(move), at(-move)
        np.testing.assert_allclose(slope, (ahead[0][0] - behind[0][0]) / (2 * step), rtol=1e-5)


def test_a_users_importance_takes_the_place_of_the_built_in_one_and_features_are_trained_when_asked():
    """It is called with the samples first. Without being asked, gradients go to the masks alone."""

    def users(active, targets):
        assert (active.shape, targets.shape) == ((SAMPLES, UNITS), (SAMPLES, 1))
        return jnp.mean(active**2, axis=0)

    own = weights(importance=0.5, psi=1.2, redundancy=0.3)
    (_, (found, (mask,), _, (active,))), plain = terms(informed(2.4), own, features=False, custom=users)
    np.testing.assert_allclose(found.importance, [-0.5 * np.sum(np.mean(active**2, axis=1) * mask)], rtol=1e-9)
    assert plain.controller.weight[0] != 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((plain.layers, plain.readout)))
    asked = terms(informed(3.4, 2.3, depth=1.6), own)[1]
    assert np.all(asked.layers[0].weight[:3] != 0)
    assert np.all(asked.layers[1].weight[:2] != 0)


@pytest.mark.parametrize("share", [0.5, 0.125])
def test_importance_of_classes_that_part_is_all_that_there_is_to_know_and_no_more(share):
    """Second moments alone would say three times as much: every unit is -1 in one class and 1 in the other."""
    net, threshold = informed(4.0), np.quantile(INPUTS[0], 1 - share)
    slopes = np.float32([[1e6, 0.0]] * UNITS), np.float32([-1e6 * threshold] * UNITS)
    net = eqx.tree_at(lambda n: (n.layers[0].weight, n.layers[0].bias), net, slopes)
    classes = np.asarray(INPUTS[:1] > threshold, float)
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert classes.mean() == share
    for size in (0.0, 0.1, 1.0, 4.0):
        own = eqx.tree_at(lambda n: n.controller.weight, net, np.float32([size]))
        (_, (found, _, _, (active,))), slope = terms(
            own, weights(importance=0.5), targets=classes, is_classes=True
        )
        np.testing.assert_allclose(active, np.tile(2 * classes - 1, (UNITS, 1)), rtol=1e-6)
        assert 0 <= -found.importance[0] <= 0.5 * entropy * (1 + 1e-9)
        assert np.isfinite(slope.controller.weight).all()
    np.testing.assert_allclose(found.importance, [-0.5 * entropy], rtol=1e-9)


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (lambda active, targets: active[0, :2], "shape"),
        (lambda active, targets: active[:, 0], "shape"),
        (lambda active, targets: np.full(active.shape[1], np.nan), "finite"),
        (lambda active, targets: -np.ones(active.shape[1]), "zero or more"),
    ],
)
def test_a_users_importance_is_checked_once(importance, message):
    active, targets = (jnp.asarray(np.zeros((9, width), np.float32)) for width in (UNITS, 1))
    with pytest.raises(ValueError, match=f"`importance` must.*{message}"):
        check_importance(importance, active, targets)
    assert check_importance(lambda active, targets: np.ones(active.shape[1]), active, targets) is None


# Monitor.

NAMES = ("entropy", "importance", "redundancy", "structure")
PLACES = Pool(jnp.asarray(INPUTS.T, jnp.float32), jnp.asarray(TARGETS > 0, jnp.float32))
look = eqx.filter_jit(lambda monitor, net: monitor(net, PLACES))


def watched(net, **settings):
    return jax.tree.map(np.asarray, look(LayerMonitor(names=NAMES, is_classes=True, **settings), net))


def fixed(size):
    return drawn(Fixed(jnp.asarray(np.float32([size])), (UNITS,)))


def test_names_decide_what_is_recorded_of_every_layer():
    for net, names in ((informed(3.4, 2.3), NAMES[::2]), (informed(3.4), ()), (informed(3.4), ("gap",))):
        found = eqx.filter_eval_shape(LayerMonitor(names=names, is_classes=True), net, PLACES)
        assert set(found) == set(names)
        assert all(values.shape == (len(net.layers),) for values in found.values())


def test_a_gap_is_recorded_by_its_name_and_needs_more_than_three_samples():
    few, monitor = (
        Pool(PLACES.inputs[:3], PLACES.targets[:, :3]),
        LayerMonitor(names=("gap",), is_classes=False),
    )
    with pytest.raises(ValueError, match=r"`neighbours` must be in 1 \.\.\. 2"):
        eqx.filter_eval_shape(monitor, informed(3.4), few)


def test_what_is_watched_against_explicit_forms_and_at_its_price():
    net = fixed(2.5)
    plain, priced = watched(net), watched(net, psi=1.2)
    active = np.tanh(np.asarray(net.layers[0].weight, float) @ INPUTS + net.layers[0].bias[:, None])
    mask = np.array([1, 1, 0.5, 0])
    S, _, _, noise = moments_of(active, TARGETS, mask, floor=1e-4, resolution=1e-4)
    entropies = 0.5 * np.log(np.diag(S) / noise)
    np.testing.assert_allclose(plain["redundancy"], [correlation(S)], rtol=1e-3)
    np.testing.assert_allclose(plain["entropy"], [entropies.sum() - correlation(S)], rtol=1e-3)
    np.testing.assert_allclose(plain["structure"], [np.log(2)], rtol=1e-3)
    chance = np.mean(TARGETS > 0)
    entropy = -chance * np.log(chance) - (1 - chance) * np.log(1 - chance)
    assert plain["importance"] < entropy
    np.testing.assert_allclose(priced["importance"], entropy - 1.2 * (entropy - plain["importance"]), rtol=1e-5)
    np.testing.assert_array_equal(priced["entropy"], plain["entropy"])
    more = watched(fixed(4.0))
    assert more["entropy"] > plain["entropy"]
    assert more["redundancy"] > plain["redundancy"]
    np.testing.assert_allclose(more["structure"], 0.0, atol=1e-3)


def test_a_users_importance_is_summed_over_participating_units():
    net = fixed(2.5)
    users = lambda active, targets: jnp.mean(active**2, axis=0)  # noqa: E731
    active = np.tanh(net.layers[0].weight @ INPUTS + net.layers[0].bias[:, None])
    expected = np.mean(active**2, axis=1) @ [1, 1, 0.5, 0]
    np.testing.assert_allclose(watched(net, psi=1.2, custom=users)["importance"], [expected], rtol=1e-5)


# Gaps.

SEEDS, MANY, WIDTH = 3, 600, 6
gaps_of_numbers, gaps_of_classes = (jax.jit(jax.vmap(partial(gap, is_classes=c))) for c in (False, True))
ONES = np.ones((SEEDS, WIDTH), np.float32)


def gaps(active, targets, mask=ONES, *, of=gaps_of_numbers):
    return np.asarray(of(*(np.asarray(array, np.float32) for array in (active, targets, mask))))


@pytest.fixture(scope="module")
def folds():
    """A layer of copies and blends of one symmetric number `t`, and `t` itself, for each seed."""
    draw = default_rng(6)
    t, signs = draw.uniform(-1, 1, (SEEDS, 1, MANY)), draw.choice([-1.0, 1.0], (SEEDS, WIDTH, 1))
    blends = signs * np.arange(1.0, WIDTH + 1)[None, :, None] * t
    return blends + 0.01 * draw.normal(size=blends.shape), t


@pytest.mark.parametrize("fold", [np.abs, np.square])
@pytest.mark.parametrize("units", [1, WIDTH])
def test_the_gaussian_estimate_is_blind_to_a_folded_target(folds, fold, units):
    active, t = folds
    assert np.all(gaps(active, fold(t), ONES * (np.arange(WIDTH) < units)) > 0.3)


def test_the_gaussian_estimate_is_blind_to_folded_classes(folds):
    active, t = folds
    three = np.moveaxis(np.eye(3)[(3 * np.abs(t[:, 0])).astype(int)], 2, 1)
    found = gaps(active, three, of=gaps_of_classes)
    assert np.all(found > 0.3)
    assert np.all(found < np.log(3) + 0.05)


@pytest.mark.parametrize("share", [0.0, 0.8])
def test_a_linear_gaussian_target_leaves_no_gap(share):
    active, noise = normal(7, SEEDS, WIDTH, MANY), normal(8, SEEDS, 1, MANY)
    told = active.sum(axis=1, keepdims=True) / WIDTH**0.5
    target = share**0.5 * told + (1 - share) ** 0.5 * noise
    assert abs(gaps(active, target).mean()) < 0.05
    three = np.moveaxis(np.eye(3)[(target[:, 0] > -0.5).astype(int) + (target[:, 0] > 0.5)], 2, 1)
    assert abs(gaps(active, three, of=gaps_of_classes).mean()) < 0.05


def test_units_that_take_no_part_leave_no_gap(folds):
    active, t = folds
    assert abs(gaps(active, np.abs(t), 0 * ONES).mean()) < 0.05
    blind = np.concatenate([normal(9, SEEDS, 1, MANY), active[:, 1:]], axis=1)
    assert abs(gaps(blind, np.abs(t), ONES * (np.arange(WIDTH) < 1)).mean()) < 0.05


def test_constant_units_and_targets_leave_no_gap(folds):
    active, t = folds
    assert abs(gaps(0.0 * active, t).mean()) < 0.05
    assert abs(gaps(active, 0.0 * t).mean()) < 0.05


def test_ties_are_not_taken_for_information(folds):
    steps = np.sign(folds[1])
    assert np.all(gaps(np.repeat(steps, WIDTH, axis=1), steps) < BLIND)


def test_no_more_samples_than_the_bound_are_seen(folds):
    active, t = folds
    rows, plain = default_rng(0).permutation(MANY), gaps(active, np.abs(t))
    changed, within = active.copy(), active.copy()
    changed[:, :, rows[512:]] = 9.0
    within[:, :, rows[511]] = 9.0
    np.testing.assert_array_equal(gaps(changed, np.abs(t)), plain)
    assert np.all(gaps(within, np.abs(t)) != plain)


def test_blindness_names_arm_layer_and_median():
    clear, blind = np.full((3, 2), BLIND - 0.01), np.full((3, 2), 0.0)
    blind[:, 1] = 0.1, np.nan, 0.5
    found = blindness({"static": clear, "growing": blind})
    assert found.endswith("(median gap over 0.2 nats): growing layer 2: 0.30")
    assert "\n" not in found
    assert blindness({"static": clear}) is None
    assert blindness({"static": np.full((2, 1), np.nan)}) is None
