"""Plotting of units: ramps, gains and the sizes of a fit, by what they were given."""

import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_hex

from n3.plotting.runs import plot_gains, plot_history, plot_participation
from n3.plotting.style import COLOURS
from n3.training.fit import History
from test_plotting_trials import legend, no_text_outside

HISTORY = History(
    step=np.array([10, 20, 30]),
    train_loss=np.array([1.0, 0.5, 0.2]),
    validation_loss=np.array([1.1, 0.6, 0.4]),
    validation_accuracy=None,
    sizes=np.array([[1.0, 2.0], [3.0, 2.5], [4.0, 2.0]]),
    layers=(".first", ".second"),
    diverged_at=None,
)


def test_participation_has_a_ramp_for_each_unit():
    sizes = np.linspace(0, 3, 31)
    ramps = np.clip(sizes[:, None] - np.arange(3), 0, 1)
    figure = plot_participation(sizes, ramps, title="a title")
    (axes,) = figure.axes
    np.testing.assert_array_equal([line.get_ydata() for line in axes.lines], ramps.T)
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), sizes)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("size (effective units)", "participation")
    assert legend(figure) == ["unit 0", "unit 1", "unit 2"]
    assert no_text_outside(figure)


def test_gains_are_coloured_by_whether_they_are_worth_the_price():
    gains = np.array([0.3, 0.05, 0.01, 0.002])
    figure = plot_gains(gains, price=0.01, title="a title")
    (axes,) = figure.axes
    stems, points = axes.collections
    np.testing.assert_allclose(points.get_offsets(), np.stack([[1, 2, 3, 4], gains], 1))
    shades = [to_hex(colour).upper() for colour in points.get_facecolors()]
    assert shades == [COLOURS["growing"]] * 3 + ["#999999"]
    np.testing.assert_allclose([stem[:, 1] for stem in stems.get_segments()], [[0.01, own] for own in gains])
    assert axes.lines[0].get_ydata() == [0.01, 0.01]
    assert (axes.get_xlabel(), axes.get_yscale()) == ("place of the unit", "log")
    assert axes.get_ylabel() == "what it adds (nats per sample)"
    assert legend(figure) == ["price, 0.01 nats", "worth its price", "not worth it"]
    assert no_text_outside(figure)


@pytest.mark.parametrize("has_validation", [True, False])
def test_a_history_has_sizes_by_group_and_the_losses_there_are(has_validation):
    history = HISTORY if has_validation else dataclasses.replace(HISTORY, validation_loss=None)
    figure = plot_history(history, title="a title", unit="nats")
    left, right = figure.axes
    np.testing.assert_array_equal([line.get_ydata() for line in left.lines], HISTORY.sizes.T)
    losses = [HISTORY.train_loss, HISTORY.validation_loss][: 1 + has_validation]
    np.testing.assert_array_equal([line.get_ydata() for line in right.lines], losses)
    assert [axes.get_xlabel() for axes in figure.axes] == ["optimiser step"] * 2
    assert (left.get_ylabel(), right.get_ylabel()) == ("size (effective units)", "loss (nats)")
    assert left.get_ylim()[0] == 0
    names = [".first", ".second", "training loss", "validation loss"][: 3 + has_validation]
    assert legend(figure) == names
    assert no_text_outside(figure)
