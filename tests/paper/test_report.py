"""Report: what is told of a reproduction, as data and as text of columns."""

import json
import math

import numpy as np
import pytest

from n3.paper.claims import Claim, Reference, Reproduction
from n3.paper.report import CELLS, report_text, reproduction_report, variants_table
from n3.paper.verdicts import Verdict, judge_claims
from n3.stats.comparison import Estimate
from trials import trained

COST = {
    "trainings": 1234567,
    "steps": 5_000,
    "cpu_seconds": 10.0,
    "run_seconds": 6.0,
    "compile_seconds": 1.0,
    "device": "cpu",
    "loop": [{"part": "main", "capacity": (9,), "microseconds": 100.0, "steps": 50}],
    "loop_cpu_seconds": 2500.0,
}


LOSSES = {
    "growing": np.array([[1.0, 1.1, 0.9, 1.0, 1.2], [5.0, 5.0, 5.0, 5.0, 5.0]]),
    "grown": np.array([[2.0, 2.1, 60.0, 2.0, np.nan], [5.0, 6.0, 7.0, 8.0, 9.0]]),
}


CELLS_OF_TASKS = ({"task": "cubic"}, {"task": "bessel"})


OTHERS = {
    name: np.full((2, 2, 5), value)
    for name, value in (("accuracy", 0.5), ("final_size", 5.0), ("active_parameters", 16.0))
}


MADE = Reproduction(
    name="figure-9",
    title="made up",
    parts=(),
    claims=(
        Claim(
            quantity="cubic: ratio",
            measure="ratio of medians",
            of=("grown", "growing"),
            where={"task": "cubic"},
            reference=Reference(value=1.9, low=1.5, high=2.5),
            controls=("growing",),
        ),
        Claim(quantity="a mean", measure="mean", of=("growing",), reference=Reference(value=0.5)),
        Claim(quantity="b mean", measure="mean", of=("growing",)),
        Claim(quantity="c ratio", measure="ratio of means", of=("grown", "growing"), reference=Reference()),
    ),
    figure="histograms",
)


@pytest.fixture
def parts():
    return [trained(LOSSES, cells=CELLS_OF_TASKS, **OTHERS)]


def test_every_variant_has_a_row_in_every_cell(parts):
    rows = variants_table(parts)
    assert [(row["cell"], row["variant"]) for row in rows] == [
        (cell, name) for cell in ("cubic: ", "bessel: ") for name in ("growing", "grown")
    ]
    grown = rows[1]
    assert (grown["runs"], grown["diverged"], grown["median"]) == (5, 1, pytest.approx(2.05))
    assert grown["stuck"] == 0.4  # the diverged one, and 60 above ten times the median of the cell
    assert grown["final_size"] == 5.0
    assert grown["median_ci95"][0] <= 2.05 <= grown["median_ci95"][1]


def test_many_cells_are_not_told_one_by_one():
    cells = [{"size_cost": float(n)} for n in range(CELLS + 1)]
    losses = {"growing": np.ones((CELLS + 1, 2))}
    assert variants_table([trained(losses, cells=cells)]) == []


def test_the_report_is_plain_data(parts):
    found = judge_claims(MADE, parts)
    told = reproduction_report(MADE, parts, found, cost=COST)
    back = json.loads(json.dumps(told))
    assert back["verdicts"][0]["verdict"] == "reproduced"
    assert back["verdicts"][0]["controls"]["growing"]["growing"] == "no difference"
    assert back["verdicts"][0]["reference"]["value"] == 1.9
    assert back["verdicts"][2]["reference"] is None
    assert back["parts"]["main"] == {
        "variants": ["growing", "grown"],
        "cells": 2,
        "trials": 5,
        "steps": [5000],
        "method": "controller",
    }


def test_the_text_has_a_row_a_claim_and_one_under_it_a_control(parts):
    found = judge_claims(MADE, parts)
    lines = report_text(reproduction_report(MADE, parts, found, cost=COST), found).splitlines()
    assert lines[0] == "figure-9: made up (losses in squared scaled units)"
    assert [line.split("  ")[0] for line in lines[3:8]] == ["cubic: ratio", "", "a mean", "b mean", "c ratio"]
    assert "1.9 [1.5, 2.5]" in lines[3]
    assert "growing in the baseline's place" in lines[4]
    assert lines[5].split()[2] == "0.5"
    assert "none" in lines[6]
    assert lines[6].endswith("  -")
    assert "growing ahead" in lines[7]


def test_the_text_says_what_controls_mean():
    found = [
        Verdict(
            claim=MADE.claims[0], ours=Estimate(2.0, 1.5, 3.0), controls={"growing": own}, word="reproduced"
        )
        for own in (
            Estimate(2.0, 1.5, 3.0),
            Estimate(1.0, 0.5, 2.0),
            Estimate(0.5, 0.2, 0.9),
            Estimate(2.0, math.nan, math.nan),
        )
    ]
    lines = report_text(
        {"name": "n", "title": "t", "loss_unit": "nats", "variants": [], "cost": COST}, found
    ).splitlines()
    assert [line.rstrip().split("  ")[-1].strip() for line in lines[4:11:2]] == [
        "growing ahead",
        "no difference",
        "growing behind",
        "-",
    ]
    assert lines[10].split() == ["growing", "in", "the", "baseline's", "place", "2", "-"]


def test_controls_of_what_was_cut_short_say_nothing():
    ours = Estimate(2.0, 1.5, 3.0)
    found = [Verdict(claim=MADE.claims[0], ours=ours, controls={"rescaled": ours}, word="cut short")]
    content = {"name": "n", "title": "t", "loss_unit": "nats", "variants": [], "cost": COST}
    assert "growing ahead" not in report_text(content, found).split("rescaled")[1]


def test_the_cost_says_that_the_loop_is_extrapolated(parts):
    lines = report_text(reproduction_report(MADE, parts, [], cost=COST), judge_claims(MADE, parts)).splitlines()
    assert lines[-2].startswith("1,234,567 trainings, 5e+03 steps in all (cpu): ")
    assert lines[-2].endswith(" 7 s of wall time, of which 1 s to compile; 10 s of CPU time.")
    assert "reference: what the paper states" in lines[-4]
    assert lines[-1].startswith(
        "The same in a Python loop over one compiled step: 2.5e+03 s of CPU, 250.0 times as"
    )
    assert lines[-1].endswith("extrapolated from 1 short loops, one a program.")
    without = report_text(
        reproduction_report(MADE, parts, [], cost={**COST, "loop": []}), judge_claims(MADE, parts)
    )
    assert "Python loop" not in without


def test_a_variant_that_lost_all_its_runs_is_told():
    rows = variants_table([trained({"growing": np.ones((1, 2)), "grown": np.full((1, 2), np.nan)}, **{
        name: own[:1, :, :2] for name, own in OTHERS.items()
    })])  # fmt: skip
    assert math.isnan(rows[1]["median"])
    assert rows[1]["stuck"] == 1.0
