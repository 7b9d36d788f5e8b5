"""Plotting of scaling: losses over capacity and penalty, accuracy over size and parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from n3.plotting.runs import COLOURS, Figure, Line2D, add_legend, band_key, titled
from n3.stats.columns import with_interval
from n3.stats.curves import AccuracyCurve, PenaltyCurve, ScalingCurve, SizePoint, loss_ratio

CONTENDER_COLOURS = {
    **COLOURS,
    "released": "#CC79A7",
    "information": "#332288",
    "information shrinking": "#88CCEE",
    "information equal-size": "#AA4499",
}
"""Colour of each contender: of the arms as everywhere, of other methods their own."""

_RATE_MARKERS = ("o", "s", "^", "D", "v")


def plot_scaling(title: str, curves: Sequence[ScalingCurve], *, unit: str) -> Figure:
    """Final loss over capacity: geometric means with quartiles, power laws with an offset, and plain slopes.

    Args:
        title: Of the whole figure.
        curves: Losses of each contender at each rate; a panel a rate.
        unit: Unit of the losses.
    """
    rates = list(dict.fromkeys(curve.rate for curve in curves))
    figure = titled(title, 1.8 + max(5.5, 3.7 * len(rates)), 5.4)  # one panel has room for its legend
    panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
    for axes, rate in zip(panels, rates, strict=True):
        for curve in (curve for curve in curves if curve.rate == rate):
            _draw_curve(axes, curve)
        axes.set(xlabel="capacity (units)", title=f"learning rate {rate:g}", yscale="log")
        axes.set_xscale("log", base=2)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)
    panels[0].set_ylabel(f"final test loss ({unit})")
    names = dict.fromkeys(curve.contender for curve in curves)
    marks = [
        Line2D([], [], color=CONTENDER_COLOURS[name], marker="o", linestyle="", label=name) for name in names
    ]
    styles = {"power law with offset": "-", "straight line": ":"}
    laws = [Line2D([], [], color="black", linestyle=style, label=name) for name, style in styles.items()]
    mean = Line2D(
        [], [], color="black", marker="o", linestyle="", label="geometric mean,\nquartiles over seeds"
    )
    add_legend(figure, [*marks, mean, *laws], place="center")
    return figure


def plot_penalty(
    title: str, curves: Mapping[str, PenaltyCurve], ratios: Mapping[tuple[float, float], Any], *, unit: str
) -> Figure:
    """Mean final loss, size penalty, and the ratio of two contenders' losses, over the penalty's weight.

    Args:
        title: Of the whole figure.
        curves: Means by contender; the ratio is that of the first over the second.
        ratios: Geometric mean of the ratio, with its interval, by range of weights.
        unit: Unit of the losses.
    """
    figure = titled(title, 9.0, 8.5)
    loss, penalty, ratio = figure.subplots(3, 1, sharex=True)
    for name, curve in curves.items():
        style = {"color": CONTENDER_COLOURS[name], "linewidth": 1}
        loss.plot(curve.weights, curve.loss, **style)
        penalty.plot(curve.weights, curve.penalty, **style)
    (first, above), (second, below) = list(curves.items())[:2]
    ratio.plot(*loss_ratio(above, below), ".", color="#999999", markersize=4)
    for (low, high), estimate in ratios.items():
        ratio.fill_between([low, high], estimate.low, estimate.high, color="black", alpha=0.25, linewidth=0)
        ratio.plot([low, high], [estimate.value] * 2, color="black")
    ratio.axhline(1, color="black", linewidth=0.8, linestyle="--")
    loss.set(xscale="log", yscale="log", ylabel=f"mean final test loss\n({unit})")
    penalty.set(yscale="log", ylabel=f"mean size penalty\n({unit})")
    ratio.set(
        yscale="log",
        ylabel=f"{first} / {second}",
        xlabel="weight of the size penalty, lambda (per squared unit)",
    )
    lines = [Line2D([], [], color=CONTENDER_COLOURS[name], label=name) for name in curves]
    each = Line2D([], [], color="#999999", marker=".", linestyle="", label="ratio at one lambda")
    mean = Line2D([], [], color="black", label="geometric mean and\n95 % interval,\nby half-decade")
    add_legend(figure, [*lines, each, mean], place="center")
    return figure


def plot_sizes_found(title: str, points: Sequence[SizePoint]) -> Figure:
    """Accuracy over effective size: sizes set by hand on a line, sizes that were found as points of their own.

    Args:
        title: Of the whole figure.
        points: Medians and quartiles over the seeds; those of one contender in several cells are joined.
    """
    figure = titled(title, 8.5, 5.0)
    axes = figure.subplots()
    names = dict.fromkeys(point.contender for point in points)
    for name in names:
        own = sorted((point for point in points if point.contender == name), key=lambda point: point.size[1])
        size, accuracy = (np.array([getattr(point, what) for point in own]).T for what in ("size", "accuracy"))
        joined = "-" if len(own) > 1 else ""
        axes.errorbar(
            size[1],
            accuracy[1],
            xerr=np.abs(size[[0, 2]] - size[1]),
            yerr=np.abs(accuracy[[0, 2]] - accuracy[1]),
            fmt="o" + joined,
            color=CONTENDER_COLOURS[name],
            markersize=5,
            elinewidth=1,
            capsize=2,
        )
    axes.set_xscale("log", base=2)
    axes.set(xlabel="final size (effective units)", ylabel="test accuracy")
    marks = [
        Line2D([], [], color=CONTENDER_COLOURS[name], marker="o", linestyle="", label=name) for name in names
    ]
    bars = Line2D([], [], color="black", marker="|", linestyle="", label="median, quartiles\nover seeds")
    add_legend(figure, [*marks, bars], place="center")
    return figure


def plot_parameters(
    title: str, curves: Sequence[AccuracyCurve], references: Mapping[str, tuple[float, float]]
) -> Figure:
    """Accuracy over active parameters: means in bands of their 95 % interval, and published points.

    Args:
        title: Of the whole figure.
        curves: A line each.
        references: Parameters and accuracy of what others reached, by name.
    """
    figure = titled(title, 8.5, 4.6)
    axes = figure.subplots()
    for curve in curves:
        colour = CONTENDER_COLOURS[curve.contender]
        axes.fill_between(curve.parameters, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(curve.parameters, curve.mean, "o-", color=colour, markersize=4)
    for point in references.values():
        axes.plot(*point, "*", color="black", markersize=11)
    axes.set(xscale="log", xlabel="active parameters", ylabel="test accuracy")
    axes.minorticks_off()
    axes.xaxis.get_major_locator().set_params(subs=(1, 2, 5))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    names = [curve.contender for curve in curves]
    lines = [Line2D([], [], color=CONTENDER_COLOURS[name], marker="o", label=name) for name in names]
    others = [
        Line2D([], [], color="black", marker="*", linestyle="", markersize=11, label=name)
        for name in references
    ]
    add_legend(figure, [*lines, band_key("95 % interval\nof the mean"), *others], place="center")
    return figure


def _draw_curve(axes, curve):
    colour = CONTENDER_COLOURS[curve.contender]
    ends = np.abs(np.stack([curve.low, curve.high]) - curve.mean)  # a mean may lie beyond a quartile
    axes.errorbar(curve.sizes, curve.mean, yerr=ends, fmt="o", color=colour, markersize=4, elinewidth=1)
    if curve.law is None:
        return
    sizes, law = np.geomspace(curve.sizes[0], curve.sizes[-1], 100), curve.law
    for kind, own, loss, style in (
        ("exponent", law.exponent, law.loss(sizes), "-"),
        ("slope", law.slope, law.line(sizes), ":"),
    ):
        told = f"{curve.contender}: {kind} {with_interval(*own, form='.2f')}"
        axes.plot(sizes, loss, color=colour, linestyle=style, label=told)
