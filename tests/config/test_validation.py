"""Validation: JSON that is read strictly, and refusals that name the field and its value."""

import dataclasses
import json
import os
from collections.abc import Mapping
from math import inf, nan
from typing import Annotated, Literal

import pytest

from n3.config.experiment import (
    Experiment,
    InformationConfig,
    NetworkConfig,
    RunConfig,
    StructureConfig,
    TaskConfig,
    TrainingConfig,
)
from n3.config.validation import (
    check_kinds,
    check_ranges,
    check_whole,
    choice,
    from_json,
    geometric_path,
    load_json,
    parse_json,
    read_file,
    read_text,
    suggestion,
)


@pytest.mark.parametrize("name", ["learning_rate", "size_cost", "target_size", "initial_size"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*finite; got"):
        TrainingConfig(**{name: value})


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_json_constants_are_refused(constant):
    text = f'{{"training": {{"size_cost": {constant}}}}}'
    with pytest.raises(ValueError, match=f"configuration: {constant} is not a number"):
        Experiment.from_json(text)


def test_a_number_too_large_for_json_is_refused():
    with pytest.raises(ValueError, match="configuration: 1e999 is not a number"):
        Experiment.from_json('{"training": {"learning_rate": 1e999}}')


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"netwrok": {}}', r"unknown field `netwrok`\. Did you mean 'network'\?"),
        (
            '{"training": {"learning_rte": 1.0}}',
            r"unknown field `training\.learning_rte`\. Did you mean 'learning_rate'\?",
        ),
        ('{"run": {"zzz": 1}}', r"unknown field `run\.zzz`\.$"),
        ("[]", r"`Experiment` must be an object; got \[\]\."),
        ('{"task": {"data": "a.csv", "target": "y"}}', r"`task\.target` must be tuple\[str, .* got 'y'\."),
        ('{"task": {"data": "a.npz", "kind": "rank"}}', r"`task\.kind` must be .*'regression'.*; got 'rank'\."),
        ('{"task": 3}', r"`task` must be an object; got 3\."),
        ('{"training": {"steps": "ten"}}', r"`training\.steps` must be int \| None; got 'ten'\."),
        ('{"training": {"steps": 1.5}}', r"`training\.steps` must be int \| None; got 1\.5\."),
        ('{"training": {"steps": true}}', r"`training\.steps` must be int \| None; got True\."),
        ('{"information": {"psi": "detectoin"}}', r"`information\.psi` must be .*; got 'detectoin'\."),
        ('{"training": {"batch": "half"}}', r"`training\.batch` must be .*; got 'half'\."),
        ('{"training": {"optimiser": "adagrad"}}', r"`training\.optimiser` must be .*; got 'adagrad'\."),
        ('{"network": {"layerwise": 1}}', r"`network\.layerwise` must be bool; got 1\."),
        ('{"network": {"method": "magic"}}', r"`network\.method` must be .*'auxiliary'.*; got 'magic'\."),
        ('{"network": {"capacity": 10}}', r"`network\.capacity` must be tuple\[int, \.\.\.\] \| None; got 10"),
        ('{"network": {"capacity": [2.5]}}', r"`network\.capacity` must be .*; got \(2\.5,\)\."),
        ('{"run": {"arms": ["big"]}}', r"`run\.arms` must be .*; got \('big',\)\."),
        ('{"run": {"seeds": null}}', r"`run\.seeds` must be tuple\[int, \.\.\.\]; got None\."),
        ('{"run": {"out": 1}}', r"`run\.out` must be str; got 1\."),
        ('{"training": {"steps": 0}}', r"configuration: `steps` must be positive"),
        ("not JSON", "configuration: Expecting value"),
    ],
)
def test_refused_json(text, message):
    with pytest.raises(ValueError, match=message):
        Experiment.from_json(text)


def test_every_item_of_a_json_list_is_checked():
    text = json.dumps({"run": {"seeds": [*range(40), 40.5]}})
    for _ in range(20):
        with pytest.raises(ValueError, match=r"`run\.seeds` must be tuple\[int, \.\.\.\]"):
            Experiment.from_json(text)


@pytest.mark.parametrize("part, name", [("run", "seeds"), ("network", "capacity")])
def test_truth_values_in_a_json_list_are_no_numbers(part, name):
    with pytest.raises(ValueError, match=rf"`{part}\.{name}` must be"):
        Experiment.from_json(json.dumps({part: {name: [True]}}))


def test_source_is_named_in_errors():
    with pytest.raises(ValueError, match=r"^here: unknown field `x`"):
        Experiment.from_json('{"x": 1}', source="here")


def test_suggestion():
    assert suggestion("bessle", ("bessel", "moons")) == " Did you mean 'bessel'?"
    assert suggestion("bessle", ("moons", "wine")) == ""


def test_json_may_write_a_whole_number_for_a_real_one():
    @dataclasses.dataclass(frozen=True)
    class Numbers:
        value: float | None = None
        several: tuple[float, ...] = ()

    assert from_json(Numbers, '{"value": 3, "several": [1, 2.5]}', source="here") == Numbers(3, (1, 2.5))
    with pytest.raises(ValueError, match=r"here: `value` must be float \| None; got '3'"):
        from_json(Numbers, '{"value": "3"}', source="here")


@dataclasses.dataclass(frozen=True)
class Ranged:
    positive: Annotated[float | None, "positive"] = None
    at_least_zero: Annotated[float | None, "at_least_zero"] = None
    share: Annotated[float | None, "unit_interval"] = None
    both: Annotated[float, "positive", "unit_interval"] = 0.5
    price: Annotated[float | str, "at_least_zero"] = "dear"
    batch: Annotated[int | Literal["full"], "positive"] = "full"
    free: float = -1.0
    kind: Literal["price", "held-out"] | None = None


@pytest.mark.parametrize(
    "name, allowed, refused, words",
    [
        ("positive", (1e-9, 1, 2.5), (0, -1, nan, inf), "positive and finite"),
        ("at_least_zero", (0, 0.0, 2.5), (-1e-9, -1, nan, inf), "zero or more, and finite"),
        ("share", (0.0, 0.5, 1.0), (-1e-9, 1 + 1e-9, nan, inf), r"lie in \[0, 1\]"),
        ("both", (1e-9, 1.0), (0.0,), "positive and finite"),
        ("both", (0.5,), (1.5,), r"lie in \[0, 1\]"),
        ("price", (0.0, "cheap"), (-0.1,), "zero or more, and finite"),
        ("batch", (8, "full"), (0,), "positive and finite"),
        ("free", (nan, -inf), (), ""),
    ],
)
def test_numbers_are_refused_beyond_the_range_of_their_field(name, allowed, refused, words):
    check_ranges(Ranged())
    for value in allowed:
        check_ranges(Ranged(**{name: value}))
    for value in refused:
        with pytest.raises(ValueError, match=rf"^`{name}` must .*{words}; got {value}\.$"):
            check_ranges(Ranged(**{name: value}))


def test_a_text_in_place_of_a_number_is_refused():
    for name in ("positive", "batch"):
        with pytest.raises(ValueError, match=f"`{name}` must be .*; got 'half'"):
            check_ranges(Ranged(**{name: "half"}))


def test_a_name_that_a_field_does_not_hold_is_refused_with_those_it_does():
    check_ranges(Ranged(kind="held-out"))
    with pytest.raises(
        ValueError, match=r"`kind` must be one of price, held-out; got 'held_out'\. Did you mean"
    ):
        check_ranges(Ranged(kind="held_out"))


def test_a_path_by_hand():
    assert geometric_path("price", "0.5:8:5", names=()) == pytest.approx((0.5, 1.0, 2.0, 4.0, 8.0), rel=1e-12)
    with pytest.raises(ValueError, match=r"`price` must be .*dear"):
        geometric_path("price", "dear", names=("cheap",))


def test_a_choice_by_hand():
    names = ("sin", "relu", "tanh")
    assert choice("activation", "sin", names=names) == ()
    assert choice("activation", "choose:tanh,sin", names=names) == ("tanh", "sin")
    with pytest.raises(ValueError, match=r"`activation` .* got 'rely'. Did you mean 'relu'"):
        choice("activation", "choose:sin,rely", names=names)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[" * 100_000, "nested 50 levels deep"),
        ('{"a":' * 60, "nested 50 levels deep"),
        ('{"a": 1, "a": 2}', "`key` must be distinct; 'a' appears more than once"),
        ("[1e999]", "1e999 is not a number"),
        (f"[{'1' * 5_000}]", "1+ is not a number"),
        ('["' + '\\"' * 100_000, "Unterminated string"),
    ],
)
def test_json_that_is_deep_double_or_beyond_all_numbers_is_refused(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 200


def test_brackets_in_a_text_nest_nothing():
    assert parse_json('["[[\\"[["]') == ['[["[[']
    assert parse_json("[" * 50 + "]" * 50)


def test_only_a_regular_file_of_text_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(ValueError, match="must be a regular file"):
            read_file(tmp_path / name)
    (tmp_path / "own").write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match="own must have 2 bytes at most; it has 3"):
        read_file(tmp_path / "own", most=2)
    with pytest.raises(ValueError, match=r"own must be UTF-8 text; byte 2 is not"):
        read_text(tmp_path / "own")
    (tmp_path / "own").write_text("[1")
    with pytest.raises(ValueError, match="own: Expecting ',' delimiter"):
        load_json(tmp_path / "own")


@dataclasses.dataclass(frozen=True)
class Parts:
    needed: tuple[Ranged, ...]
    by_name: tuple[Mapping[str, int], ...] = ()


def test_a_missing_field_and_a_part_of_a_list_are_named():
    assert from_json(Parts, '{"needed": [{"free": 2}], "by_name": [{"a": 1}]}', source="") == Parts(
        (Ranged(free=2),), ({"a": 1},)
    )
    for text, message in {
        "{}": "here: `needed` is missing",
        '{"needed": [{}, {"fre": 1}]}': r"unknown field `needed\[1\]\.fre`\. Did you mean 'free'",
        '{"needed": [3]}': r"`needed\[0\]` must be an object; got 3",
        '{"needed": [], "by_name": [{"a": "b"}]}': r"`by_name\[0\]\.a` must be int; got 'b'",
    }.items():
        with pytest.raises(ValueError, match=message):
            from_json(Parts, text, source="here")


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("batch", 2.0, "be a whole number; got 2.0"),
        ("batch", True, "be a whole number; got True"),
        ("batch", 10**30, r"be below 2\*\*31; got 1000"),
        ("share", True, "be a number; got True"),
        ("share", [0.5], r"be a number; got \[0.5\]"),
        ("positive", 1e-50, "lie between 1.2e-38 and 3.4e\\+38, or be 0; got 1e-50"),
        ("positive", 10**40, "lie between"),
    ],
)
def test_numbers_have_the_type_of_their_field_and_fit_into_float32(name, value, message):
    with pytest.raises(ValueError, match=f"`{name}` must {message}"):
        check_ranges(Ranged(**{name: value}))


@pytest.mark.parametrize("value", [8.0, True, "8"])
def test_what_is_no_whole_number_is_refused(value):
    check_whole("seeds", (0, 2**31 - 1))
    with pytest.raises(ValueError, match=f"`seeds` must be a whole number; got {value!r}"):
        check_whole("seeds", (1, value))


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        (TrainingConfig, "steps", 100.0, r"`steps` must be a whole number; got 100\.0"),
        (
            TrainingConfig,
            "optimiser",
            "adm",
            "`optimiser` must be one of adam, sgd; got 'adm'. Did you mean 'adam'",
        ),
        (TrainingConfig, "refit", 1, "`refit` must be True or False; got 1"),
        (NetworkConfig, "capacity", (10.0,), r"`capacity` must be a whole number; got 10\.0"),
        (
            NetworkConfig,
            "capacity",
            10,
            r"`capacity` must be a tuple of whole numbers, .* got 10\. Write \(10,\)",
        ),
        (NetworkConfig, "capacity", [8, 4], r"`capacity` must be a tuple .* got \[8, 4\]\. Write \(8, 4\)"),
        (NetworkConfig, "method", "informaton", "`method` must be one of .* Did you mean 'information'"),
        (NetworkConfig, "mask", None, "`mask` must be one of sine, linear, hard; got None"),
        (RunConfig, "seeds", 20, r"`seeds` must be a tuple .* got 20\. Write tuple\(range\(20\)\)"),
        (RunConfig, "arms", "static", r"`arms` must be a tuple of names, .* Write \('static',\)"),
        (RunConfig, "arms", ("statik",), "`arms` must be one of .* Did you mean 'static'"),
        (RunConfig, "monitor", (3,), "`monitor` must be a tuple of names; got 3 in it"),
        (TaskConfig, "task", 3, "`task` must be a text; got 3"),
        (InformationConfig, "criterion", 3, "`criterion` must be one of price, held-out; got 3"),
        (StructureConfig, "prune", None, "`prune` must be a text; got None"),
    ],
)
def test_a_value_of_another_kind_is_refused_when_built(kind, field, value, message):
    """Built without the type checks of the tests, as users do."""
    own = object.__new__(kind)
    for each in dataclasses.fields(kind):
        object.__setattr__(own, each.name, each.default)
    object.__setattr__(own, field, value)
    with pytest.raises(ValueError, match=message):
        own.__post_init__()


@pytest.mark.parametrize("part", ["task", "network", "training", "information", "structure", "run"])
def test_what_fields_hold_by_default_is_of_their_kind(part):
    check_kinds(getattr(Experiment(), part))
    check_kinds(getattr(Experiment().resolved(), part))
