"""Plotting of scaling: points, laws, ratios and sizes, by what they were given."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from n3.paper.figures import plot_penalty, plot_sizes_found
from n3.paper.variants import PenaltyCurve, SizePoint
from n3.plotting.studies import VARIANT_COLOURS, plot_parameters, plot_scaling
from n3.stats.comparison import Estimate
from n3.stats.scaling_laws import AccuracyCurve, ScalingCurve, power_law
from test_plotting_trials import legend, no_text_outside

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


def test_the_penalty_has_losses_penalties_and_their_ratio():
    weights = np.geomspace(0.01, 100, 9)
    growing = PenaltyCurve(weights=weights, loss=1 / weights, penalty=0.1 * weights)
    grown = PenaltyCurve(weights=weights[1:], loss=2 / weights[1:], penalty=0.2 * weights[1:])
    ratios = {(0.01, 0.1): Estimate(0.4, 0.3, 0.6), (0.1, 1.0): Estimate(0.6, 0.5, 0.7)}
    curves = {"growing": growing, "grown": grown}
    figure = plot_penalty("figure-6: a title", curves, ratios, unit="squared scaled units")
    loss, penalty, ratio = figure.axes
    assert loss.get_ylabel() == "mean final test loss\n(squared scaled units)"
    assert penalty.get_ylabel() == "mean size penalty\n(squared scaled units)"
    assert ratio.get_ylabel() == "growing / grown"
    assert ratio.get_xlabel() == "weight of the size penalty, lambda (per squared unit)"
    np.testing.assert_allclose(penalty.lines[1].get_ydata(), 0.2 * weights[1:])
    np.testing.assert_allclose(ratio.lines[0].get_xydata(), np.stack([weights[1:], np.full(8, 0.5)], 1))
    np.testing.assert_allclose(ratio.lines[2].get_xydata(), [[0.1, 0.6], [1.0, 0.6]])
    band = ratio.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose([band[:, 0].min(), band[:, 0].max()], [0.01, 0.1])
    np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [0.3, 0.6])
    assert no_text_outside(figure)


@pytest.mark.parametrize("reverse", [False, True])
def test_sizes_of_one_variant_are_joined_in_their_order(reverse):
    static = [SizePoint(variant="static", size=(n,) * 3, accuracy=(0.4, 0.5, 0.55)) for n in (8.0, 16.0, 32.0)]
    found = SizePoint(variant="information", size=(9.0, 10.0, 14.0), accuracy=(0.5, 0.6, 0.65))
    figure = plot_sizes_found("sizes: a title", [*(static[::-1] if reverse else static), found])
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("final size (effective units)", "test accuracy")
    line, point = axes.lines[0], next(own for own in axes.lines if own.get_xdata().tolist() == [10.0])
    assert line.get_xdata().tolist() == [8.0, 16.0, 32.0]
    assert (line.get_linestyle(), point.get_linestyle()) == ("-", "None")
    spans = [bar[:, 0].tolist() for bars in axes.collections for bar in bars.get_segments()]
    assert [9.0, 14.0] in spans
    assert legend(figure)[:2] == ["static", "information"]
    assert no_text_outside(figure)


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
