"""Grid: axes from text, cells in order, and studies that come back from JSON as they were."""

import dataclasses

import pytest

import hostile
from hostile import fuzzed
from n3.config.experiment import Experiment, InformationConfig, NetworkConfig, RunConfig, StructureConfig
from n3.config.grid import (
    SECTIONS,
    Axis,
    Study,
    parse_axis,
    product,
    section_of,
    setting_label,
    setting_labels,
    varied,
)


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("learning_rate=1e-4,3e-4", "learning_rate", (1e-4, 3e-4)),
        ("learning-rate=1e-3", "learning_rate", (1e-3,)),
        ("capacity=4:32:x2", "capacity", ((4,), (8,), (16,), (32,))),
        ("capacity=4:9:+2", "capacity", ((4,), (6,), (8,))),
        ("capacity=16x8,32", "capacity", ((16, 8), (32,))),
        ("size_cost=0.01:1:3", "size_cost", (0.01, 0.1, 1.0)),
        ("size_cost=0,0.5:1.5:+0.5", "size_cost", (0, 0.5, 1.0, 1.5)),
        ("task=bessel, cubic", "task", ("bessel", "cubic")),
        ("activation=sin,choose:tanh,relu", "activation", ("sin", "choose:tanh,relu")),
        ("activation=choose:tanh, relu,choose:sin,relu", "activation", ("choose:tanh,relu", "choose:sin,relu")),
        ("batch=full,32", "batch", ("full", 32)),
        ("reorder=true,False", "reorder", (True, False)),
        ("samples=none,64", "samples", (None, 64)),
        ("steps=10:1000:x10", "steps", (10, 100, 1000)),
    ],
)
def test_axes_by_hand(text, name, values):
    axis = parse_axis(text)
    assert axis.name == name
    assert axis.values == pytest.approx(values) if isinstance(values[0], float) else axis.values == values


def test_a_range_reaches_its_end_through_rounding():
    assert len(parse_axis("size_cost=0.1:1:+0.1").values) == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate", "name=VALUES"),
        ("learning_rate=", "name=VALUES"),
        ("learning_rte=1", "Did you mean 'learning_rate'"),
        ("seeds=1,2", "a field of task, network, training, information"),
        ("learning_rate=1:1e308:x1e200", r"must end below 3.4e\+38"),
        ("capacity=8:4:x2", "rise from LOW to HIGH by a factor above 1"),
        ("capacity=4:8:x1", "factor above 1"),
        ("size_cost=0:1:x2", "from LOW above 0"),
        ("capacity=4:8:+0", "step above 0"),
        ("capacity=a:8:+1", "step above 0; got a:8"),
        ("size_cost=1:0.1:5", "LOW < HIGH"),
        ("capacity=4,4", "distinct"),
    ],
)
def test_axes_that_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_axis(text)


def test_every_setting_has_its_section():
    for section in SECTIONS:
        for entry in dataclasses.fields(getattr(Experiment(), section)):
            assert section_of(entry.name) == section


def test_cells_are_all_combinations_the_last_setting_fastest():
    study = product(Experiment(), [Axis("capacity", ((4,), (8,))), Axis("learning_rate", (0.1, 0.2, 0.3))])
    assert len(study.cells) == 6
    assert study.cells[1] == {"capacity": (4,), "learning_rate": 0.2}
    second = study.experiments()[4]
    assert (second.network.capacity, second.training.learning_rate) == ((8,), 0.2)
    assert second == second.resolved()


def test_no_axis_is_one_cell():
    assert product(Experiment(), []).experiments() == (Experiment().resolved(),)


def test_only_the_named_settings_vary():
    base = Experiment(network=NetworkConfig(capacity=(7,)))
    changed = varied(base, {"size_cost": 0.5})
    assert changed.training.size_cost == 0.5
    assert dataclasses.replace(changed, training=base.training) == base


@pytest.mark.parametrize(("name", "value"), [("learning_rate", "fast"), ("capacity", 4.5), ("steps", -1)])
def test_a_value_that_does_not_fit_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"grid {name}=.*`.*{name}` must be"):
        varied(Experiment(), {name: value})


@pytest.mark.parametrize(
    ("axes", "base", "message"),
    [
        ([Axis("steps", (1,)), Axis("steps", (2,))], Experiment(), "`grid` must be distinct"),
        ([Axis("price", (0.1,))], Experiment(information=InformationConfig(price="0.1:1:3"),
         network=NetworkConfig(method="information")), "`price` as a path"),
        ([Axis("price", ("0.1:1:3",))], Experiment(), "`price` as a path"),
        ([Axis("price", (0.1,))], Experiment(structure=StructureConfig(structure_every=9),
         network=NetworkConfig(method="information")), "`structure_every` takes one experiment"),
        ([Axis("importance", (0.1,))], Experiment(run=RunConfig(monitor=("importance",))), "cannot be varied"),
    ],
)  # fmt: skip
def test_studies_that_are_refused(axes, base, message):
    with pytest.raises(ValueError, match=message):
        product(base, axes)


def test_cells_must_name_the_same_settings():
    with pytest.raises(ValueError, match="`cells`"):
        Study(base=Experiment(), cells=({"steps": 1}, {"samples": 2}))


def test_a_study_comes_back_from_json_and_forgets_where_it_ran():
    axes = [Axis("capacity", ((4,), (8, 8))), Axis("batch", ("full", 8)), Axis("samples", (None, 16))]
    study = dataclasses.replace(product(Experiment(), axes), points=7)
    assert Study.from_json(study.to_json()) == study
    elsewhere = dataclasses.replace(study.base, run=RunConfig(out="there", name="x", device="cpu", log_dir="l"))
    assert dataclasses.replace(study, base=elsewhere).to_json() == study.to_json()


def test_labels_are_numbers_where_all_are():
    assert setting_labels([(4,), (8,)]) == [4, 8]
    assert setting_labels([(4,), (8, 8)]) == ["4", "8x8"]
    assert setting_labels(["full", 8]) == ["full", "8"]
    assert setting_labels([True, False]) == ["True", "False"]
    assert setting_label(None) == "none"


@pytest.mark.parametrize(
    "text, message",
    [
        ("learning_rate=1:1e308:x1e200", "`learning_rate` must end below"),
        ("learning_rate=0:1:+1e-12", "`learning_rate` must have 10000 values at most; got about 1000000000001"),
        ("learning_rate=1:2:x1.0000000000000002", "values at most"),
        ("learning_rate=5e-324:1:x2", "`learning_rate` must rise"),
        ("learning_rate=1e-3:1:10001", "COUNT from 2 to 10000"),
        (f"steps=1:{'9' * 400}:+1", "`steps` must (rise|end below)"),
    ],
)
def test_a_range_beyond_all_bounds_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_axis(text)


def test_a_grid_of_too_many_cells_is_refused():
    axes = [parse_axis(f"{name}=1:1000:+1") for name in ("capacity", "steps", "samples")]
    with pytest.raises(ValueError, match="`grid` must have 10000 cells at most; got 1000000000"):
        product(Experiment(), axes)


@pytest.mark.parametrize("text", ["{}", "[]", '{"base": {}, "cells": [3]}', '{"base": {}, "points": -1}'])
def test_a_study_that_is_none_is_refused_by_its_file(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(ValueError, match=r"study\.json: `\S+` .*must|is missing"):
        Study.load(tmp_path / "study.json")


def test_random_grids_are_grids_or_refused():
    fuzzed(hostile.grids(), hostile.check_grid, examples=30)
