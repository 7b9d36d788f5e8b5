"""Plotting of stages: a panel for each arm, and a mark for every change."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from n3.config.experiment import Experiment
from n3.plotting.runs import MARKS, plot_structure
from n3.stats.summary import RunRecord


@pytest.fixture
def record():
    steps, looks = np.arange(0, 101, 10), np.array([25, 50, 75, 100])
    sizes = np.broadcast_to(np.linspace(2, 12, 11)[:, None] * [1.0, 0.5], (3, 2, 11, 2))
    actions = np.zeros((3, 2, 4), int)
    actions[1] = [[0, 1, 3, 0], [0, 2, 0, 1]]
    variables = {
        "size": (("arm", "seed", "step", "layer"), sizes),
        "structure_action": (("arm", "seed", "look"), actions),
        "structure_capacity": (("arm", "look", "layer"), np.full((3, 4, 2), 16)),
    }
    coords = {"arm": ["static", "growing", "grown"], "seed": [0, 1], "step": steps, "look": looks}
    results = xr.Dataset(variables, coords=coords, attrs={"task": "sine"})
    return RunRecord(experiment=Experiment(), results=results, directory=None)


def test_every_change_is_marked_at_the_size_before_it(record):
    figure = plot_structure(record)
    growing, grown = figure.axes
    assert (growing.get_title(), grown.get_title()) == ("growing", "grown")
    found = {line.get_marker(): line for line in growing.lines}
    marks = {name: found[marker].get_xydata().tolist() for name, (marker, _) in MARKS.items()}
    assert marks == {"prune": [[50, 10.5], [100, 18.0]], "expand": [[50, 10.5]], "rollback": [[75, 13.5]]}
    assert not sum(len(line.get_xdata()) for line in grown.lines if line.get_marker() in "v^x")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["size, growing", "size, grown", "capacity of the program", *MARKS]


def test_a_record_without_looks_is_refused(record):
    with pytest.raises(ValueError, match="`structure_every`; it has no looks"):
        plot_structure(replace(record, results=record.results.drop_dims("look")))
