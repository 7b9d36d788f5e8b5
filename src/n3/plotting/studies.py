"""Studies: the figures of many experiments together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy import ndarray

from n3.plotting.style import COLOURS, add_legend, band_key, draw_bars, line_key, overlap_key, titled
from n3.stats.distributions import Histogram, Profile, SettingCurve
from n3.stats.scaling_laws import AccuracyCurve, ScalingCurve
from n3.stats.summary import with_interval

MOST_TICKS = 8
"""Values of a setting that are all marked on its axis."""
_FILL = 0.5
"""Opacity of the bars of a histogram."""


def plot_histograms(title: str, panels: Mapping[str, Histogram], *, unit: str) -> Figure:
    """Histograms of final test losses (in `unit`), a panel a task; dotted lines mark the variants' medians."""
    figure = titled(title, 9.0, 0.9 + 2.3 * len(panels))
    columns = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (task, own) in zip(columns, panels.items(), strict=True):
        draw_histogram(axes, own)
        axes.set(title=task, xlabel=f"final test loss ({unit})")
    return add_legend(figure, histogram_keys(next(iter(panels.values()))), place="center")


def draw_histogram(axes: Axes, histogram: Histogram) -> None:
    """Draw the shares of all variants over one another."""
    for name, shares in histogram.shares.items():
        axes.stairs(shares, histogram.edges, fill=True, color=COLOURS[name], alpha=_FILL)
        axes.stairs(shares, histogram.edges, color=COLOURS[name])
        if name in histogram.medians:
            axes.axvline(histogram.medians[name], color=COLOURS[name], linestyle=":")
    axes.set(xscale="log", ylabel="share of trials")
    axes.margins(x=0.02)


def plot_profiles(profiles: Mapping[str, Profile], *, title: str, unit: str) -> Figure:
    """Share of runs whose final loss (in `unit`) is at most so much, by arm, with its pointwise interval."""
    figure = titled(title, 8.0, 4.0)
    axes = figure.subplots()
    for name, own in profiles.items():
        axes.fill_between(own.thresholds, own.low, own.high, color=COLOURS[name], alpha=0.18, linewidth=0)
        axes.plot(own.thresholds, own.share, color=COLOURS[name], label=name)
    axes.set(xscale="log", xlabel=f"final test loss ({unit})", ylabel="share of runs", ylim=(0, 1.03))
    return add_legend(figure, [*axes.get_lines(), band_key("pointwise interval")])


def plot_confusion(counts: Int[ndarray, "classes classes"], *, title: str) -> Figure:
    """A confusion matrix by itself: shares of each true class (a row) by predicted class, with the counts."""
    side = 2.6 + 0.75 * len(counts)
    figure = Figure(figsize=(side, side), layout="constrained")
    draw_confusion(figure.subplots(), counts, title=title)
    return figure


def draw_confusion(axes: Axes, counts: Int[ndarray, "classes classes"], *, title: str) -> None:
    """Draw a confusion matrix with its accuracy."""
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (true, predicted), share in np.ndenumerate(shares):
        told, colour = f"{100 * share:.1f} %\n{counts[true, predicted]:,}", "white" if share > 0.5 else "black"
        axes.text(predicted, true, told, ha="center", va="center", color=colour, fontsize=9)
    accuracy = counts.trace() / max(1, counts.sum())
    classes = range(len(counts))
    axes.set(xticks=classes, yticks=classes, xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{title}: accuracy {100 * accuracy:.1f} %")


def histogram_keys(histogram: Histogram) -> list[Any]:
    """The entries of a legend for a histogram: a patch an arm, one where bars overlap, the line of medians."""
    colours = [COLOURS[name] for name in histogram.shares]
    bars = [Patch(color=COLOURS[name], alpha=_FILL, linewidth=0, label=name) for name in histogram.shares]
    both = [overlap_key("both (bars overlap)", colours, alpha=_FILL)] if len(colours) == 2 else []
    return [*bars, *both, line_key("median", linestyle=":")]


VARIANT_COLOURS = {
    **COLOURS,
    "released": "#CC79A7",
    "information": "#332288",
    "information shrinking": "#88CCEE",
    "information equal-size": "#AA4499",
}
"""Colour of each variant: of the arms as everywhere, of other methods their own."""


def plot_scaling(title: str, curves: Sequence[ScalingCurve], *, unit: str) -> Figure:
    """Final loss (in `unit`) over capacity, a panel a learning rate.

    Geometric means with quartiles, power laws with an offset, and plain slopes, for each variant.
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
    names = dict.fromkeys(curve.variant for curve in curves)
    marks = [line_key(name, VARIANT_COLOURS[name], marker="o") for name in names]
    mean = line_key("geometric mean,\nquartiles over seeds", marker="o")
    laws = [line_key("power law with offset", linestyle="-"), line_key("straight line", linestyle=":")]
    return add_legend(figure, [*marks, mean, *laws], place="center")


def plot_parameters(
    title: str, curves: Sequence[AccuracyCurve], references: Mapping[str, tuple[float, float]]
) -> Figure:
    """Accuracy over active parameters: means in bands of their 95 % interval, a line a curve.

    Stars mark the parameters and accuracy of what others reached, `references` by name.
    """
    figure = titled(title, 8.5, 4.6)
    axes = figure.subplots()
    for curve in curves:
        colour = VARIANT_COLOURS[curve.variant]
        axes.fill_between(curve.parameters, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(curve.parameters, curve.mean, "o-", color=colour, markersize=4)
    for point in references.values():
        axes.plot(*point, "*", color="black", markersize=11)
    axes.set(xscale="log", xlabel="active parameters", ylabel="test accuracy")
    axes.minorticks_off()
    axes.xaxis.get_major_locator().set_params(subs=(1, 2, 5))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    style = {"marker": "o", "linestyle": "-"}
    lines = [line_key(own.variant, VARIANT_COLOURS[own.variant], **style) for own in curves]
    others = [line_key(name, marker="*", markersize=11) for name in references]
    return add_legend(figure, [*lines, band_key("95 % interval\nof the mean"), *others], place="center")


def plot_settings(title: str, curves: Sequence[SettingCurve], *, unit: str) -> Figure:
    """Final test loss (in `unit`) and size over each setting: medians and quartiles of each arm.

    They are over the seeds and, where a study has several settings, over all values of the others.
    """
    settings = list(dict.fromkeys(own.setting for own in curves))
    figure = titled(title, 2.6 + 3.4 * len(settings), 5.6)
    panels = figure.subplots(2, len(settings), sharex="col", sharey="row", squeeze=False)
    arms = list(dict.fromkeys(own.arm for own in curves))
    for own in curves:
        column = panels[:, settings.index(own.setting)]
        places, is_number = np.arange(len(own.values)), not isinstance(own.values[0], str)
        x = np.array(own.values if is_number else places, float)
        is_wide = is_number and x.min() > 0 and x.max() >= 10 * x.min()
        beside = 0.02 * (arms.index(own.arm) - (len(arms) - 1) / 2)  # of the width: bars lie side by side
        x = x * (x.max() / x.min()) ** beside if is_wide else x + beside * max(np.ptp(x), 1.0)
        for axes, rows in zip(column, (own.loss, own.size), strict=True):
            draw_bars(axes, x, rows, COLOURS[own.arm], fmt="o-" if is_number else "o", markersize=4, capsize=2)
            axes.set_xscale("log" if is_wide else "linear")
        if not is_number or len(own.values) <= MOST_TICKS:
            told = [f"{value:.12g}" for value in own.values] if is_number else own.values
            column[1].set_xticks(own.values if is_number else places, told)
            column[1].minorticks_off()
        column[1].set_xlabel(own.setting)
    positive = np.concatenate([own.loss.ravel() for own in curves]) > 0
    panels[0, 0].set(ylabel=f"final test loss ({unit})", yscale="log" if positive.any() else "linear")
    panels[1, 0].set(ylabel="final size (effective units)", ylim=(0, None))
    keys = [line_key(arm, COLOURS[arm], marker="o", linestyle="-") for arm in arms]
    pooled = "seeds" if len(settings) == 1 else "seeds and\nother settings"
    return add_legend(figure, [*keys, line_key(f"bars: quartiles\nover {pooled}", marker="|", markersize=10)])


def _draw_curve(axes, curve):
    colour, law = VARIANT_COLOURS[curve.variant], curve.law
    draw_bars(axes, curve.sizes, [curve.low, curve.mean, curve.high], colour, fmt="o", markersize=4)
    if law is None:
        return
    sizes = np.geomspace(curve.sizes[0], curve.sizes[-1], 100)
    kinds = ("exponent", law.exponent, law.loss(sizes), "-"), ("slope", law.slope, law.line(sizes), ":")
    for kind, own, loss, style in kinds:
        told = f"{curve.variant}: {kind} {with_interval(*own, form='.2f')}"
        axes.plot(sizes, loss, color=colour, linestyle=style, label=told)
