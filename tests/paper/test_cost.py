"""Cost: trainings and steps counted, a loop that is measured, and its extrapolation."""

import numpy as np
import pytest
import xarray as xr

from n3.config.grid import Study
from n3.paper import cost
from n3.paper.claims import Part
from n3.paper.cost import LoopCost, cost_of, loop_cost
from trials import tiny

BASE = tiny(training={"steps": 100}, arms=("growing", "static"), seeds=(0, 1, 2))
SECONDS = xr.Dataset({f"{name}_seconds": ("arm", np.array([1.0, 2.0])) for name in ("cpu", "run", "compile")})


def test_a_loop_is_measured_over_as_many_steps_as_it_may():
    found = loop_cost(BASE.resolved(), "equal-size", most=30, seconds=60.0)
    assert found.steps == 30
    assert 1.0 < found.microseconds < 1e6


def test_a_loop_without_time_takes_ten_steps_all_the_same(monkeypatch):
    monkeypatch.setattr(cost, "step", lambda recipe, state, *rest: state)
    assert loop_cost(BASE.resolved(), "equal-size", seconds=0.0).steps == 10


def test_steps_of_all_cells_are_extrapolated_from_a_loop_a_size(monkeypatch):
    asked = []

    def measured(cell, arm):
        asked.append((cell.network.capacity, arm))
        return LoopCost(microseconds=float(10 * cell.network.capacity[0]), steps=7)

    monkeypatch.setattr(cost, "loop_cost", measured)
    cells = tuple({"capacity": (units,), "learning_rate": rate} for units in (2, 4) for rate in (0.1, 0.2, 0.3))
    parts = (Part(name="a", study=Study(base=BASE, cells=cells)), Part(name="b", study=Study(base=BASE)))
    found = cost_of(parts, [SECONDS, SECONDS])
    assert (found["trainings"], found["steps"]) == (7 * 6, 7 * 6 * 100)
    assert found["cpu_seconds"] == 6.0
    assert asked == [((2,), "growing"), ((4,), "growing"), ((4,), "growing")]
    assert found["loop_cpu_seconds"] == pytest.approx(600 * 1e-6 * (3 * 20.0 + 3 * 40.0 + 40.0))
    assert found["loop"][1] == {"part": "a", "capacity": (4,), "microseconds": 40.0, "steps": 7}


def test_loops_may_be_left_out(monkeypatch):
    monkeypatch.delattr(cost, "loop_cost")
    found = cost_of((Part(name="a", study=Study(base=BASE)),), [SECONDS], is_looped=False)
    assert (found["loop"], found["loop_cpu_seconds"]) == ([], 0.0)
