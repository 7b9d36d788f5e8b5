"""Plotting of choices: a panel for each layer of each arm, and lines that are medians over the seeds."""

import dataclasses

import numpy as np
import pytest
from numpy.random import default_rng

from n3.plotting.runs import figures, plot_choices
from test_plotting import record_of, texts


def with_choices(record):
    """The same record, in which each layer chose between two activations."""
    sizes = record.results["size"].sizes
    share = default_rng(4).uniform(size=tuple(sizes.values()))
    shares = np.stack([share, 1 - share], axis=-1)
    results = record.results.assign(choice_share=((*sizes, "choice"), shares))
    return dataclasses.replace(record, results=results.assign_coords(choice=["sin", "tanh"]))


@pytest.mark.parametrize("layers", [1, 2])
def test_every_layer_of_every_arm_has_a_panel_with_the_medians(layers, tmp_path):
    record = with_choices(record_of(layers=layers))
    figure = plot_choices(record)
    figure.savefig(tmp_path / "choices.png", dpi=50)
    assert [axes.get_title().split(",")[0] for axes in figure.axes] == ["growing", "static"] * layers
    medians = record.results["choice_share"].median("seed").sel(arm="static").isel(layer=layers - 1)
    first, second, limit = figure.axes[-1].lines
    np.testing.assert_allclose(first.get_ydata(), medians.sel(choice="sin"))
    np.testing.assert_allclose(second.get_ydata(), medians.sel(choice="tanh"))
    assert set(limit.get_xdata()) == {0.6 * 5000}
    assert texts(figure) == ["sin", "tanh", "hard from here", "quartiles"]


def test_the_figure_is_made_where_activations_were_chosen():
    record = record_of()
    assert "choices" in figures(with_choices(record))
    assert "choices" not in figures(record)
