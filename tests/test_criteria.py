"""Criteria: a strict reading of texts, and quantities against the estimators that they name."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n3 import information
from n3.criteria import LAYER, OPERATORS, UNIT, Comparison, Joined, measured, parse
from networks import quick


def test_a_comparison_by_hand():
    assert parse("importance < 0.01") == Comparison("importance", "<", 0.01)
    assert parse(" layer.gain>=-1e-3 ") == Comparison("layer.gain", ">=", -1e-3)


def test_and_binds_closer_than_or():
    a, b, c = (Comparison(name, "<", 1.0) for name in ("importance", "entropy", "marginal"))
    assert parse("importance < 1 or entropy < 1 and marginal < 1") == Joined("or", (a, Joined("and", (b, c))))
    assert parse("(importance < 1 or entropy < 1) and marginal < 1") == Joined("and", (Joined("or", (a, b)), c))


@pytest.mark.parametrize("sign", OPERATORS)
@pytest.mark.parametrize("value", [0.5, 1.0, 2.0])
def test_the_bound_itself(sign, value):
    expected = {"<": value < 1, "<=": value <= 1, ">": value > 1, ">=": value >= 1}[sign]
    assert parse(f"importance {sign} 1").holds({"importance": value}) == expected


def test_reasons_name_what_holds():
    values = {"importance": 0.00312, "entropy": 3.0, "marginal": 0.5}
    criterion = parse("importance < 0.01 or entropy < 1 or marginal > 0.1 and entropy > 2")
    assert criterion.holds(values)
    assert criterion.reason(values) == "importance 0.00312 < 0.01 or marginal 0.5 > 0.1 and entropy 3 > 2"
    assert criterion.names() == {"importance", "entropy", "marginal"}


comparisons = st.tuples(
    st.sampled_from(UNIT + LAYER),
    st.sampled_from(sorted(OPERATORS)),
    st.floats(-2, 2),
)


joined = st.recursive(
    comparisons,
    lambda inner: st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3)),
    max_leaves=6,
)


def spelled(tree):
    if len(tree) == 3:
        return f"{tree[0]} {tree[1]} {tree[2]!r}"
    return "(" + f" {tree[0]} ".join(map(spelled, tree[1])) + ")"


def truth(tree, values):
    if len(tree) == 3:
        value, bound = values[tree[0]], tree[2]
        return {"<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound}[tree[1]]
    return (all if tree[0] == "and" else any)(truth(part, values) for part in tree[1])


@quick
@given(joined)
def test_what_is_spelled_out_is_read_back(tree):
    rng = np.random.default_rng(0)
    criterion = parse(spelled(tree))
    for _ in range(5):
        values = {name: float(rng.normal()) for name in UNIT + LAYER}
        assert criterion.holds(values) == truth(tree, values)


def refusal(text):
    try:
        parse(text)
    except ValueError as error:
        return str(error)


@settings(quick, max_examples=200)
@given(st.text(st.sampled_from("importanceby<>=().01 andor&;_"), max_size=30))
def test_any_other_text_is_one_clear_error(text):
    said = refusal(text)
    assert said is None or said.startswith("`criterion` ")


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "importence < 0.1",
            r"one of importance, .*layer\.redundancy; got 'importence'\. Did you mean 'importance'\?",
        ),
        ("layer.size < 3", r"`criterion` must name one of .*; got 'layer.size'"),
        ("", "needs a comparison such as `importance < 0.01`, not 'nothing more'; got ''"),
        ("importance", "needs a comparison .* not 'importance'"),
        ("importance < ", "needs a comparison .* not 'importance <'"),
        ("importance == 1", "cannot be read from '== 1' on"),
        ("0.1 < importance", "needs a comparison"),
        ("importance < entropy", "needs a comparison"),
        ("importance < 1 and", "needs a comparison .* not 'nothing more'"),
        ("importance < 1 entropy < 2", "must go on with `and` or `or`, or end, at 'entropy'"),
        ("(importance < 1", "lacks a closing bracket"),
        ("importance < 1)", r"or end, at '\)'"),
        ("importance < 1e999", "must hold finite numbers; got 1e999"),
        ("importance < nan", "needs a comparison"),
        ("__import__('os')", "`criterion` "),
        ("importance < 1; entropy < 2", "cannot be read from '; entropy < 2' on"),
        ("(" * 51 + "importance < 1" + ")" * 51, "at most 50 brackets; got 51"),
    ],
)
def test_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.fixture(scope="module")
def layer():
    """Units 0 and 1 copy each other, 2 adds to them, 3 is noise, 4 is constant; 500 samples."""
    active = jr.normal(jr.key(0), (5, 500))
    active = active.at[1].set(active[0]).at[4].set(0.3)
    return active, (active[0] + 0.5 * active[2] + 0.3 * jr.normal(jr.key(1), (500,)))[None]


def seen(layer, mask=None, is_there=None):
    ones = jnp.ones(5)
    found = measured(
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
    found = [measured(d[:5], d[5:], ones, ones, is_classes=False).units["importance"] for d in draws]
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
    few = measured(active[left], targets, jnp.ones(3), jnp.ones(3), is_classes=False)
    for name, value in few.units.items():
        np.testing.assert_allclose(gone[name][np.asarray(left)], value, rtol=1e-3, atol=1e-4)
    for name, value in few.layer.items():
        np.testing.assert_allclose(gone[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("is_classes", [False, True])
def test_a_layer_s_quantities_are_the_estimators_own(layer, is_classes):
    active, targets = layer
    targets = (targets > 0).astype(targets.dtype) if is_classes else targets
    mask = jnp.array([1.0, 1.0, 0.7, 1.0, 1.0])
    found = measured(active, targets, mask, jnp.ones(5), is_classes=is_classes)
    own = information.layer_information(
        active,
        targets,
        mask,
        is_classes=is_classes,
        floor=information.MONITORING_FLOOR,
        resolution=information.MONITORING_RESOLUTION,
    )
    np.testing.assert_allclose(found.layer["layer.importance"], own.corrected_importance, rtol=1e-4)
    np.testing.assert_allclose(found.layer["layer.redundancy"], own.total_correlation, rtol=1e-4)
