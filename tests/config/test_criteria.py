"""Criteria: a strict reading of texts."""

import inspect
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hostile
from hostile import fuzzed
from n3.config.criteria import OPERATORS, Criterion, parse
from networks import quick


def test_a_comparison_by_hand():
    assert parse("importance < 0.01") == Criterion("<", name="importance", bound=0.01)
    assert parse(" layer.gain>=-1e-3 ") == Criterion(">=", name="layer.gain", bound=-1e-3)


def test_and_binds_closer_than_or():
    a, b, c = (Criterion("<", name=name, bound=1.0) for name in ("importance", "entropy", "marginal"))
    assert parse("importance < 1 or entropy < 1 and marginal < 1") == Criterion(
        "or", (a, Criterion("and", (b, c)))
    )
    assert parse("(importance < 1 or entropy < 1) and marginal < 1") == Criterion(
        "and", (Criterion("or", (a, b)), c)
    )


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


NAMES = ("importance", "entropy", "layer.importance", "layer.gain", "android", "nor", "anything")


comparisons = st.tuples(
    st.sampled_from(NAMES),
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
        values = {name: float(rng.normal()) for name in NAMES}
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
        ("and < 1", "needs a comparison"),
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


@pytest.mark.parametrize("word", ["and", "or"])
def test_the_time_to_read_is_linear_in_the_text(word):
    started = time.process_time()
    criterion = parse(f" {word} ".join(["importance < 1"] * 30_000))
    assert time.process_time() - started < 3  # a copy of the rest at every step takes several times as long
    assert (criterion.word, len(criterion.parts)) == (word, 30_000)


@pytest.mark.parametrize("inside", ["importance < 1", "", "importance", "importance < 1 or entropy < 2"])
@pytest.mark.parametrize("closing", [0, 49, 50, 51, 100_000])
def test_deep_text_is_read_from_any_depth_of_calls_or_is_one_clear_error(inside, closing):
    def deep(calls):
        return refusal("(" * 50 + inside + ")" * closing) if not calls else deep(calls - 1)

    said = deep(sys.getrecursionlimit() - len(inspect.stack()) - 60)
    assert (said is None) if inside.endswith(("1", "2")) and closing == 50 else said.startswith("`criterion` ")


def test_random_texts_are_criteria_or_refused():
    fuzzed(hostile.CRITERIA, hostile.check_criterion, examples=50)
