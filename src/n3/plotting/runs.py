"""Plotting: figures of a finished experiment, from what the analysis gives; nothing is computed here."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.animation import PillowWriter as PillowWriter  # this and the next for `plotting_growth`
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection as LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from n3.experiments.results import RunRecord
from n3.stats import prices
from n3.stats.summary import bands, decision_classes, final_distribution, fit_curves, has_diverged

COLOURS = {
    "growing": "#0072B2",
    "static": "#D55E00",
    "warmup": "#009E73",
    "grown": "#E69F00",
    "shrinking": "#56B4E9",
    "rescaled": "#CC79A7",
    "equal-size": "#555555",
}
"""Colour of each arm in every figure, told apart by colour-blind readers too.

References:
    Okabe and Ito, "Color universal design", 2008.
"""

CLASS_COLOURS = (
    "#88CCEE", "#CC6677", "#117733", "#DDCC77", "#332288",
    "#AA4499", "#44AA99", "#999933", "#882255", "#888888",
)  # fmt: skip
"""Colour of each class; an eleventh class begins again.

References:
    Tol, "Colour schemes", 2021, scheme "muted".
"""

_LAYER_STYLES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))
_POINTS = 1000


def plot_losses(record: RunRecord) -> Figure:
    """Task loss over optimiser steps: median and quartiles over the seeds of each arm, training and test."""
    figure, axes = _one_panel(record)
    for name, style in (("train_loss", "--"), ("test_loss", "-")):
        quartiles = bands(record.results, name)
        for arm in arms_of(record):
            draw_band(axes, record.results["step"], quartiles.sel(arm=arm), COLOURS[arm], style)
    axes.set(xlabel="optimiser step", ylabel=f"loss ({_loss_unit(record)})")
    axes.set_yscale(_loss_scale(quartiles))
    styles = [
        Line2D([], [], color="black", linestyle=s, label=n) for n, s in (("test", "-"), ("training", "--"))
    ]
    add_legend(figure, [*_arm_handles(record), *styles, band_key("quartiles")])
    return figure


def plot_sizes(record: RunRecord) -> Figure:
    """Effective units of each layer over optimiser steps: median and quartiles over the seeds of each arm."""
    figure, axes = _one_panel(record)
    quartiles, capacity = bands(record.results, "size"), record.experiment.network.capacity
    layers = [(layer, _LAYER_STYLES[layer % len(_LAYER_STYLES)]) for layer in range(len(capacity))]
    for layer, style in layers:
        for below, arm in enumerate(arms_of(record)):
            own = quartiles.sel(arm=arm).isel(layer=layer)
            width = max(1.0, 3.4 - 0.9 * below)  # arms of equal size show under one another
            draw_band(axes, record.results["step"], own, COLOURS[arm], style, width=width)
    for units in set(capacity):
        axes.axhline(units, color="black", linestyle=":", zorder=3)
    axes.set(xlabel="optimiser step", ylabel="size (effective units)", ylim=(0, 1.08 * max(capacity)))
    styles = [Line2D([], [], color="black", linestyle=s, label=f"layer {n + 1}") for n, s in layers]
    limit = Line2D([], [], color="black", linestyle=":", label="capacity")
    add_legend(figure, [*_arm_handles(record), *styles[len(styles) == 1 :], limit, band_key("quartiles")])
    return figure


def plot_information(record: RunRecord) -> Figure:
    """Monitored information of each layer over optimiser steps, with the size beside it; bands as elsewhere."""
    names = [*record.experiment.run.monitor, "size"]
    figure = Figure(figsize=(0.8 + 3.2 * len(names), 4), layout="constrained")
    figure.suptitle(f"{record.results.attrs['task']}: what the layers say of the target and of each other")
    layers = range(record.results.sizes["layer"])
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        quartiles = bands(record.results, name)
        for layer in layers:
            for arm in arms_of(record):
                own, style = quartiles.sel(arm=arm).isel(layer=layer), _LAYER_STYLES[layer % len(_LAYER_STYLES)]
                draw_band(axes, record.results["step"], own, COLOURS[arm], style)
        unit = "effective units" if name == "size" else "nats"
        axes.set(xlabel="optimiser step", ylabel=f"{name} ({unit})")
    styles = [
        Line2D([], [], color="black", linestyle=_LAYER_STYLES[n % len(_LAYER_STYLES)], label=f"layer {n + 1}")
        for n in layers
    ]
    add_legend(figure, [*_arm_handles(record), *styles[len(styles) == 1 :], band_key("quartiles")])
    return figure


def plot_final_losses(record: RunRecord) -> Figure:
    """Share of runs whose final test loss is at most so much, for each arm; a dotted line marks the median.

    A curve ends below 1 where runs diverged.
    """
    figure, axes = _one_panel(record)
    distribution = final_distribution(record.results)
    for arm in arms_of(record):
        own, colour = distribution.sel(arm=arm), COLOURS[arm]
        axes.step(own["loss"], own["share"], where="post", color=colour)
        axes.plot(own["loss"], own["share"], ".", color=colour, markersize=5)
        axes.axvline(float(own["median"]), color=colour, linestyle=":")
    axes.set(xlabel=f"final test loss ({_loss_unit(record)})", ylabel="share of runs", ylim=(0, 1.03))
    axes.set_xscale(_loss_scale(distribution))
    median = Line2D([], [], color="black", linestyle=":", label="median")
    add_legend(figure, [*_arm_handles(record), median])
    return figure


def plot_price_path(record: RunRecord) -> Figure:
    """The growing arm at every price of a path: test loss over size, and size over price; the pick is marked.

    Points are medians over the seeds, bars their quartiles, numbers at the points prices in nats per sample.
    """
    results, curves = record.results, prices.path_curves(record.results)
    size, loss, tried = curves["size"], curves["test_loss"], results["price"].values
    figure = Figure(figsize=(10.5, 4.5), layout="constrained")
    figure.suptitle(f"{results.attrs['task']}: the growing arm at {len(tried)} prices")
    left, right = figure.subplots(1, 2)
    colour, pick = COLOURS["growing"], results.attrs["picked_price"]
    bars = {"color": colour, "fmt": ".", "markersize": 8, "elinewidth": 1, "alpha": 0.8}
    left.errorbar(size[1], loss[1], xerr=_lengths(size), yerr=_lengths(loss), **bars)
    right.errorbar(tried, size[1], yerr=_lengths(size), **bars)
    labels: dict[tuple[str, str], tuple[list[str], tuple[float, float]]] = {}
    for price, x, y in zip(tried, size[1], loss[1], strict=True):  # points that fall together share a label
        if math.isfinite(x):  # some run did not diverge
            labels.setdefault((f"{x:.1f}", f"{y:.2g}"), ([], (x, y)))[0].append(f"{price:.2g}")
    for texts, point in labels.values():
        turned = {"rotation": 60, "rotation_mode": "anchor", "textcoords": "offset points"}
        left.annotate(
            " to ".join(dict.fromkeys((texts[0], texts[-1]))), point, xytext=(6, 9), fontsize=8, **turned
        )
    mark = {"marker": "o", "markersize": 13, "fillstyle": "none", "color": "black", "linestyle": ""}
    left.plot(size[1, pick], loss[1, pick], **mark)
    right.plot(tried[pick], size[1, pick], **mark)
    left.set(xlabel="final size (effective units)", ylabel=f"final test loss ({_loss_unit(record)})")
    left.set_yscale("log" if (loss[2] > 0).any() else "linear")  # as `_loss_scale`
    left.margins(x=0.08, y=0.3)  # room for the numbers
    right.set(xlabel="price (nats per sample and unit)", ylabel="final size (effective units)", xscale="log")
    point = Line2D([], [], color=colour, marker=".", label="median and quartiles")
    add_legend(figure, [point, Line2D([], [], **mark, label="price picked")])
    return figure


def plot_fit(record: RunRecord) -> Figure:
    """A regression with one input: data of the first seed, predictions of the shown seeds, and residuals."""
    results, names = record.results, record.results.attrs
    curves = fit_curves(results)
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.3))
    points = []
    for side, marker, colour in (("train", ".", "#AAAAAA"), ("test", "x", "black")):
        own = (results[f"{side}_{part}"].values[:_POINTS, 0] for part in ("inputs", "targets"))
        label = f"{'training' if side == 'train' else side} samples"
        points += upper.plot(*own, marker, color=colour, markersize=4, alpha=0.6, label=label)
    lower.axhline(0, color="black", linewidth=0.8)
    for arm in arms_of(record):
        own = curves.sel(arm=arm)
        draw_band(upper, own["input"], own, COLOURS[arm], "-")
        draw_band(lower, own["test_input"], own, COLOURS[arm], "-", prefix="residual_")
    upper.set(ylabel=names["target_name"], title=f"{names['task']}: fit")
    lower.set(xlabel=results["inputs_feature"].item(), ylabel="prediction - target")
    add_legend(figure, [*_arm_handles(record), *points, band_key("quartiles")])
    return figure


def plot_regions(record: RunRecord) -> Figure:
    """A classification with two inputs: predicted classes of the first shown seed, with its training data."""
    results, arms = record.results, arms_of(record)
    colours = [CLASS_COLOURS[n % len(CLASS_COLOURS)] for n in range(results.attrs["num_classes"])]
    rows, columns = -(-len(arms) // 4), min(len(arms), 4)
    figure = Figure(figsize=(0.8 + 3 * columns, 0.9 + 3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for arm, axes in zip(arms, panels, strict=False):
        _draw_regions(axes, results, arm, colours)
    for axes in panels[len(arms) :]:
        axes.set_axis_off()
    first, second = results["inputs_feature"].values
    figure.supxlabel(first)
    figure.supylabel(second)
    patches = [Patch(color=colour, label=f"class {n}") for n, colour in enumerate(colours)]
    samples = Line2D([], [], linestyle="", marker=".", color="black", label="training samples")
    add_legend(figure, [*patches, samples])
    return figure


def _one_panel(record):
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    seeds = record.results.sizes["seed"]
    title = f"{record.results.attrs['task']}: {seeds} {'seed' if seeds == 1 else 'seeds'}"
    return figure, figure.subplots(subplot_kw={"title": title})


def arms_of(record: RunRecord) -> Sequence[str]:
    """The arms of a record in the order in which figures show them: the growing one first."""
    return sorted(record.results["arm"].values.tolist(), key="growing".__ne__)


def _lengths(quartiles):
    """Lengths of the bars below and above the median."""
    return quartiles[1] - quartiles[0], quartiles[2] - quartiles[1]


def _loss_unit(record):
    return "squared scaled units" if record.results.attrs["kind"] == "regression" else "nats"


def _loss_scale(quartiles):
    known = bool(quartiles["high"].max() > 0)  # a logarithmic axis without a positive value is an error
    return "log" if known else "linear"


def draw_band(
    axes: Axes, x: Any, quartiles: Any, colour: str, style: str, prefix: str = "", width: float = 1.5
) -> None:
    """Draw the median as a line in a band from `low` to `high`, names of `quartiles` after a prefix."""
    low, median, high = (quartiles[prefix + name].values for name in ("low", "median", "high"))
    axes.fill_between(x.values, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x.values, median, color=colour, linestyle=style, linewidth=width)


def _draw_regions(axes, results, arm, colours):
    first, second = results["grid"].values
    classes = decision_classes(results, arm)
    extent = (first.min(), first.max(), second.min(), second.max())
    limits = {"vmin": 0, "vmax": len(colours) - 1}
    shades = ListedColormap(colours).with_extremes(under="white")
    axes.imshow(classes, cmap=shades, alpha=0.45, origin="lower", extent=extent, aspect="auto", **limits)
    samples, labels = results["train_inputs"].values[:_POINTS], results["train_targets"].values[:_POINTS, 0]
    axes.scatter(*samples.T, c=labels, cmap=shades, s=6, edgecolors="black", linewidths=0.3, **limits)
    axes.set_title(arm if (classes >= 0).any() else f"{arm} (diverged)")


def _arm_handles(record) -> Sequence[Any]:
    lost, seeds = has_diverged(record.results).sum("seed"), record.results.sizes["seed"]
    counts = {arm: int(lost.sel(arm=arm)) for arm in arms_of(record)}
    return [
        Line2D([], [], color=COLOURS[arm], label=f"{arm} ({count}/{seeds} diverged)" if count else arm)
        for arm, count in counts.items()
    ]


def band_key(label: str) -> Patch:
    """A legend's entry for bands of any colour."""
    return Patch(color="#999999", alpha=0.4, linewidth=0, label=label)


def add_legend(figure: Figure, handles: Sequence[Any], *, place: str = "upper") -> None:
    """Put a legend to the right of all panels: `upper`, or `center` where a long title is above."""
    figure.legend(handles=handles, loc=f"outside right {place}", frameon=False)


def titled(title: str, width: float, height: float) -> Figure:
    """An empty figure, in inches, under a title in as many lines as its width asks for."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(textwrap.fill(title, int(10 * width)), fontsize=11)
    return figure
