"""Studies: bars, bands, cells and laws of the figures, by what they were given."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from drawing import legend, no_text_outside
from n3.plotting.studies import (
    VARIANT_COLOURS,
    plot_confusion,
    plot_histograms,
    plot_parameters,
    plot_profiles,
    plot_scaling,
    plot_settings,
)
from n3.plotting.style import COLOURS
from n3.stats.distributions import SettingCurve, histogram, performance_profile
from n3.stats.scaling_laws import AccuracyCurve, ScalingCurve, power_law

LOSSES = {
    "growing": np.random.default_rng(0).lognormal(-7, 1, 500),
    "grown": np.r_[np.random.default_rng(1).lognormal(-6.5, 1, 480), np.full(20, 0.4)],
}


COUNTS = {"growing": np.array([[90, 10], [30, 70]]), "grown": np.array([[50, 50], [0, 0]])}


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
    assert legend(figure) == ["growing", "grown", "both (bars overlap)", "median"]
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


def test_a_long_title_stays_within_the_figure_and_off_the_legend():
    figure = plot_histograms("a title of many words " * 9, {"cubic": histogram(LOSSES)}, unit="nats")
    assert no_text_outside(figure)
    title = figure._suptitle.get_window_extent()
    assert not title.overlaps(figure.legends[0].get_window_extent())


SIZES = 2.0 ** np.arange(2, 8)


def curve(name, rate, exponent, *, law=True):
    mean = 0.001 + 2 * SIZES**-exponent
    fitted = power_law(SIZES, np.stack([mean, mean], axis=1), resamples=2) if law else None
    own = {"variant": name, "rate": rate, "sizes": SIZES, "mean": mean, "low": 0.8 * mean, "high": 1.3 * mean}
    return ScalingCurve(**own, law=fitted)


def test_scaling_has_a_panel_a_rate_with_both_laws():
    curves = [curve("static", 1e-3, 1.2), curve("growing", 1e-3, 0.8), curve("static", 1e-4, 0.5)]
    figure = plot_scaling("scaling: a title", curves, unit="nats")
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["learning rate 0.001", "learning rate 0.0001"]
    assert (first.get_xlabel(), first.get_ylabel()) == ("capacity (units)", "final test loss (nats)")
    assert (first.get_xscale(), first.get_yscale()) == ("log", "log")
    points, law, line = second.lines
    np.testing.assert_allclose(points.get_ydata(), curves[2].mean)
    np.testing.assert_allclose(law.get_ydata()[[0, -1]], curves[2].mean[[0, -1]], rtol=1e-3)
    assert (law.get_linestyle(), line.get_linestyle()) == ("-", ":")
    assert points.get_color() == law.get_color() == VARIANT_COLOURS["static"]
    bars = second.collections[0].get_segments()
    np.testing.assert_allclose(
        [bar[:, 1] for bar in bars], np.stack([0.8 * curves[2].mean, 1.3 * curves[2].mean], 1)
    )
    told = [text.get_text() for text in first.get_legend().get_texts()]
    assert told[0].startswith("static: exponent 1.20 [")
    assert told[3].startswith("growing: slope -0.")
    assert legend(figure)[:2] == ["static", "growing"]
    assert no_text_outside(figure)


def test_too_few_sizes_have_points_and_no_law():
    (axes,) = plot_scaling("t", [curve("static", 1e-3, 1.2, law=False)], unit="nats").axes
    assert len(axes.lines) == 1
    assert axes.get_legend() is None


@pytest.mark.parametrize("rates", [(1e-3,), (1e-3, 3e-4, 1e-4)])
def test_the_legend_of_a_panels_laws_is_below_its_points(rates):
    exponents = {"static": 1, "growing": 2, "warmup": 2.2}
    curves = [curve(name, rate, exponent) for rate in rates for name, exponent in exponents.items()]
    figure = plot_scaling("scaling: a title", curves, unit="nats")
    FigureCanvasAgg(figure).draw()
    assert len(figure.axes) == len(rates)
    for axes in figure.axes:
        box = axes.get_legend().get_window_extent()
        points = np.concatenate([axes.transData.transform(own.get_xydata()) for own in axes.lines])
        assert box.y1 < min(axes.bbox.y0, points[:, 1].min())
        assert box.y0 > 0


def test_accuracy_is_drawn_over_parameters_with_its_band_and_what_others_reached():
    points = np.array([400.0, 1_000.0, 4_000.0])
    mean = np.array([0.94, 0.96, 0.97])
    curves = [
        AccuracyCurve(variant=name, parameters=points, mean=mean - shift, low=mean - shift - 0.01, high=mean)
        for name, shift in (("growing", 0.0), ("equal-size", 0.02))
    ]
    figure = plot_parameters("digits: a title", curves, {"others": (3_466.0, 0.953)})
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("active parameters", "test accuracy")
    assert axes.get_xscale() == "log"
    assert {"500", "1,000", "2,000"} <= {label.get_text() for label in axes.get_xticklabels()}
    np.testing.assert_allclose(axes.lines[1].get_xydata(), np.stack([points, mean - 0.02], 1))
    assert axes.lines[1].get_color() == VARIANT_COLOURS["equal-size"]
    assert axes.lines[2].get_xydata().tolist() == [[3_466.0, 0.953]]
    band = axes.collections[1].get_paths()[0].vertices
    np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [0.91, 0.97])
    assert legend(figure) == ["growing", "equal-size", "95 % interval\nof the mean", "others"]
    assert no_text_outside(figure)


def test_settings_have_a_column_each_with_arms_side_by_side():
    rows = np.array([[0.1, 0.2, 0.01], [0.2, 0.3, 0.05], [0.4, 0.9, 0.2]])
    values = {"rate": (1e-3, 1e-2, 1e-1), "kind": ("tanh", "relu", "sin"), "steps": (10, 20, 30)}
    curves = [
        SettingCurve(arm=arm, setting=name, values=own, loss=factor * rows, size=10 * factor * rows)
        for name, own in values.items()
        for arm, factor in (("growing", 1.0), ("static", 2.0))
    ]
    loss = np.tile(rows[:, :1], 10)
    figure = plot_settings("moons: sweep", curves, unit="nats")
    upper, lower = figure.axes[:3], figure.axes[3:]
    assert [axes.get_xlabel() for axes in lower] == list(values)
    assert [axes.get_xscale() for axes in lower] == ["log", "linear", "linear"]
    assert upper[0].get_ylabel() == "final test loss (nats)"
    assert upper[0].get_yscale() == "log"
    assert lower[0].get_ylabel() == "final size (effective units)"
    (first, second) = (own.lines[0] for own in upper[0].containers)
    np.testing.assert_allclose(first.get_ydata(), rows[1])
    np.testing.assert_allclose(second.get_ydata(), 2 * rows[1])
    assert np.all(first.get_xdata() < values["rate"])
    assert np.all(second.get_xdata() > values["rate"])
    assert [label.get_text() for label in lower[1].get_xticklabels()] == ["tanh", "relu", "sin"]
    assert upper[1].containers[0].lines[0].get_linestyle() == "None"  # nothing lies between two words
    assert [label.get_text() for label in lower[0].get_xticklabels()] == ["0.001", "0.01", "0.1"]
    assert [label.get_text() for label in lower[2].get_xticklabels()] == ["10", "20", "30"]  # no 12.5 steps
    assert legend(figure) == ["growing", "static", "bars: quartiles\nover seeds and\nother settings"]
    assert no_text_outside(figure)
    many = [SettingCurve(arm="growing", setting="kind", values=tuple("abcdefghij"), loss=loss, size=loss)]
    ticks = plot_settings("moons: sweep", many, unit="nats").axes[1].get_xticklabels()
    assert [label.get_text() for label in ticks] == list("abcdefghij")
    alone = [own for own in curves if own.setting == "rate"]
    assert legend(plot_settings("moons: sweep", alone, unit="nats"))[-1] == "bars: quartiles\nover seeds"
