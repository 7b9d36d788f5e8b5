"""Plotting of trials: bars, medians and cells of the figures, by what they were given."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from n3.paper.figures import plot_classes
from n3.plotting.studies import plot_confusion, plot_histograms, plot_profiles
from n3.plotting.style import COLOURS
from n3.stats.distributions import histogram, performance_profile

LOSSES = {
    "growing": np.random.default_rng(0).lognormal(-7, 1, 500),
    "grown": np.r_[np.random.default_rng(1).lognormal(-6.5, 1, 480), np.full(20, 0.4)],
}
COUNTS = {"growing": np.array([[90, 10], [30, 70]]), "grown": np.array([[50, 50], [0, 0]])}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_histograms_have_a_panel_a_task_with_unit_bars_and_medians():
    panels = {"cubic": histogram(LOSSES), "bessel": histogram(LOSSES, bins=20)}
    figure = plot_histograms("figure-3: a title", panels, unit="squared scaled units")
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["cubic", "bessel"]
    assert second.get_xlabel() == "final test loss (squared scaled units)"
    assert (first.get_ylabel(), first.get_xscale()) == ("share of trials", "log")
    filled = [patch for patch in second.patches if patch.get_fill()]
    np.testing.assert_allclose(filled[1].get_data().values, panels["bessel"].shares["grown"])
    assert [line.get_xdata()[0] for line in first.lines] == list(panels["cubic"].medians.values())
    assert [line.get_color() for line in first.lines] == [COLOURS["growing"], COLOURS["grown"]]
    assert legend(figure) == ["growing", "grown", "median"]
    assert no_text_outside(figure)


def test_profiles_have_a_curve_in_its_interval_for_each_arm():
    thresholds = np.geomspace(1e-5, 1, 30)
    profiles = {name: performance_profile([own], thresholds, resamples=20) for name, own in LOSSES.items()}
    figure = plot_profiles(profiles, title="a title", unit="nats")
    (axes,) = figure.axes
    for line, band, (name, own) in zip(axes.lines, axes.collections, profiles.items(), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([thresholds, own.share], 1))
        assert line.get_color() == COLOURS[name]
        edge = {tuple(point) for point in band.get_paths()[0].vertices}
        assert {*zip(thresholds, own.low, strict=True), *zip(thresholds, own.high, strict=True)} <= edge
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("final test loss (nats)", "share of runs")
    assert axes.get_xscale() == "log"
    assert legend(figure) == ["growing", "grown", "pointwise interval"]
    assert no_text_outside(figure)


def test_confusions_show_counts_shares_of_the_true_class_and_accuracy():
    axes = plot_confusion(COUNTS["growing"], title="growing").axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts[0, 1] == "30.0 %\n30"  # the second row's first column
    assert texts[1, 0] == "10.0 %\n10"
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.9, 0.1], [0.3, 0.7]])
    assert axes.get_title() == "growing: accuracy 80.0 %"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert axes.images[0].get_clim() == (0, 1)


def test_an_empty_class_is_no_division_by_zero():
    axes = plot_confusion(COUNTS["grown"], title="grown").axes[0]
    assert axes.get_title() == "grown: accuracy 50.0 %"
    assert axes.texts[2].get_text() == "0.0 %\n0"


@pytest.mark.parametrize("classes", [2, 10])
def test_a_matrix_of_many_classes_is_drawn_whole(classes):
    figure = plot_confusion(np.full((classes, classes), 12_345), title="many")
    assert len(figure.axes[0].texts) == classes**2
    assert len(figure.axes[0].get_xticks()) == classes
    assert no_text_outside(figure)


def test_classes_have_the_histogram_above_and_a_matrix_each_below():
    figure = plot_classes("figure-5: a title", {"sine-classes": histogram(LOSSES)}, COUNTS, unit="nats")
    upper, *below = figure.axes
    assert (upper.get_title(), upper.get_xlabel()) == ("sine-classes", "final test loss (nats)")
    assert [axes.get_title() for axes in below] == ["growing: accuracy 80.0 %", "grown: accuracy 50.0 %"]
    assert no_text_outside(figure)


def test_a_long_title_stays_within_the_figure_and_off_the_legend():
    figure = plot_histograms("a title of many words " * 9, {"cubic": histogram(LOSSES)}, unit="nats")
    assert no_text_outside(figure)
    title = figure._suptitle.get_window_extent()
    assert not title.overlaps(figure.legends[0].get_window_extent())


def no_text_outside(figure):
    """Whether title, legends and all axes with their labels lie within the drawn figure."""
    parts = [figure._suptitle, *figure.legends, *figure.axes]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [part.get_tightbbox(renderer) for part in parts if part is not None]
    width, height = figure.bbox.width, figure.bbox.height
    return all(b.x0 >= -1 and b.y0 >= -1 and b.x1 <= width + 1 and b.y1 <= height + 1 for b in boxes)
