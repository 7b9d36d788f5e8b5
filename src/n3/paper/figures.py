"""Plotting of scaling: losses over capacity and penalty, accuracy over size and parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure
from numpy import ndarray

from n3.paper import variants
from n3.paper.claims import BOTH, Reproduction
from n3.paper.variants import PenaltyCurve, SizePoint, Trained, loss_ratio
from n3.paper.verdicts import Verdict
from n3.plotting import (
    VARIANT_COLOURS,
    Trajectory,
    add_legend,
    band_key,
    draw_band,
    draw_bars,
    draw_confusion,
    draw_fit,
    draw_histogram,
    histogram_keys,
    line_key,
    plot_histograms,
    plot_scaling,
    titled,
)
from n3.stats import Histogram, bands


def plot_penalty(
    title: str, curves: Mapping[str, PenaltyCurve], ratios: Mapping[tuple[float, float], Any], *, unit: str
) -> Figure:
    """Mean final loss, size penalty, and the ratio of two variants' losses, over the penalty's weight.

    Args:
        title: Of the whole figure.
        curves: Means by variant; the ratio is that of the first over the second.
        ratios: Geometric mean of the ratio, with its interval, by range of weights.
        unit: Unit of the losses.
    """
    figure = titled(title, 9.0, 8.5)
    loss, penalty, ratio = figure.subplots(3, 1, sharex=True)
    for name, curve in curves.items():
        style = {"color": VARIANT_COLOURS[name], "linewidth": 1}
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
    lines = [line_key(name, VARIANT_COLOURS[name]) for name in curves]
    each = line_key("ratio at one lambda", "#999999", marker=".")
    mean = line_key("geometric mean and\n95 % interval,\nby half-decade")
    return add_legend(figure, [*lines, each, mean], place="center")


def plot_sizes_found(title: str, points: Sequence[SizePoint]) -> Figure:
    """Accuracy over effective size: sizes set by hand on a line, sizes that were found as points of their own.

    Args:
        title: Of the whole figure.
        points: Medians and quartiles over the seeds; those of one variant in several cells are joined.
    """
    figure = titled(title, 8.5, 5.0)
    axes = figure.subplots()
    names = dict.fromkeys(point.variant for point in points)
    for name in names:
        own = sorted((point for point in points if point.variant == name), key=lambda point: point.size[1])
        size, accuracy = (np.array([getattr(point, what) for point in own]).T for what in ("size", "accuracy"))
        joined = "-" if len(own) > 1 else ""
        draw_bars(axes, size, accuracy, VARIANT_COLOURS[name], fmt="o" + joined, markersize=5, capsize=2)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="final size (effective units)", ylabel="test accuracy")
    marks = [line_key(name, VARIANT_COLOURS[name], marker="o") for name in names]
    bars = line_key("median, quartiles\nover seeds", marker="|")
    return add_legend(figure, [*marks, bars], place="center")


def plot_classes(
    title: str,
    panels: Mapping[str, Histogram],
    counts: Mapping[str, Int[ndarray, "classes classes"]],
    *,
    unit: str,
) -> Figure:
    """A histogram of final test losses above the confusion matrix of each variant.

    Args:
        title: Of the whole figure.
        panels: One histogram, under the task's name.
        counts: Confusion matrix of each variant, true classes as rows.
        unit: Unit of the losses.
    """
    figure = titled(title, 9.0, 7.5)
    places = figure.add_gridspec(2, len(counts), height_ratios=(1, 1.5))
    ((task, histogram),) = panels.items()
    upper = figure.add_subplot(places[0, :])
    draw_histogram(upper, histogram)
    upper.set(title=task, xlabel=f"final test loss ({unit})")
    for column, (name, matrix) in enumerate(counts.items()):
        draw_confusion(figure.add_subplot(places[1, column]), matrix, title=name)
    return add_legend(figure, histogram_keys(histogram), place="center")


def paper_figure(
    reproduction: Reproduction,
    trained: Sequence[Trained],
    results: Sequence[Any],
    verdicts: Sequence[Verdict],
    trajectories: Sequence[Trajectory],
) -> Figure:
    """The figure of a reproduction.

    Args:
        reproduction: The experiment.
        trained: Its parts, trained.
        results: What `studies.run` returned for each of them.
        verdicts: Its verdicts.
        trajectories: A run of each arm that was trajectories; only `histories` draws them.
    """
    title, unit = f"{reproduction.name}: {reproduction.title}", {"unit": reproduction.loss_unit}
    match reproduction.figure:
        case "histories":
            return plot_histories(title, results[0].isel(cell=0), trajectories, **unit)
        case "histograms":
            return plot_histograms(title, variants.histograms(trained, BOTH), **unit)
        case "classes":
            counts = variants.confusions(trained, results, BOTH)
            return plot_classes(title, variants.histograms(trained, BOTH), counts, **unit)
        case "penalty":
            ratios = {verdict.claim.where["size_cost"]: verdict.ours for verdict in verdicts}
            return plot_penalty(title, variants.penalty_curves(trained, BOTH), ratios, **unit)
        case "bands":
            histories = {
                name: own.isel(cell=0).sel(arm=arm)
                for part, own in zip(trained, results, strict=True)
                for arm, name in part.part.variants().items()
            }
            return plot_bands(title, histories, **unit)
        case "scaling":
            found = variants.scaling_curves(trained, ("static", "growing", "warmup"))
            return plot_scaling(title, found, **unit)
        case "sizes":
            return plot_sizes_found(title, variants.size_points(trained))


def plot_histories(title: str, results: Any, trajectories: Sequence[Trajectory], *, unit: str) -> Figure:
    """Size, test loss and mean ratio over steps, and the last fit of the trajectories runs with its residual.

    Args:
        title: Of the whole figure.
        results: Records over arm, seed, step and layer, with the arms growing and grown.
        trajectories: Runs that were trajectories, a regression with one input.
        unit: Unit of the losses.
    """
    figure = titled(title, 12.0, 7.5)
    places = figure.add_gridspec(3, 2, height_ratios=(1, 1, 0.6))
    size, loss = (figure.add_subplot(place) for place in (places[0, 0], places[0, 1]))
    ratio = figure.add_subplot(places[1:, 0])
    fit = figure.add_subplot(places[1, 1])
    residual = figure.add_subplot(places[2, 1], sharex=fit)
    histories = {arm: results.sel(arm=arm) for arm in BOTH}
    _draw_over_steps(size, histories, "size", ylabel="size (effective units)")
    _draw_over_steps(loss, histories, "test_loss", ylabel=f"test loss ({unit})", yscale="log")
    ratio.plot(results["step"], variants.mean_ratio(results, *BOTH[::-1]), color="black")
    ratio.axhline(1, color="black", linestyle="--", linewidth=0.8)
    ratio.set(xlabel="optimiser step", ylabel="mean test loss, grown / growing", yscale="log")
    for run, name in zip(trajectories, BOTH, strict=True):
        draw_fit(fit, residual, run, -1, colour=VARIANT_COLOURS[name])
    fit.tick_params(labelbottom=False)
    lines = [line_key(name, VARIANT_COLOURS[name]) for name in BOTH]
    samples = line_key("training samples", "#888888", marker=".")
    return add_legend(figure, [*lines, band_key("quartiles about\nthe median"), samples], place="center")


def plot_bands(title: str, histories: Mapping[str, Any], *, unit: str) -> Figure:
    """Test loss, size and, of classes, accuracy over steps: median and quartiles over each variant's trials.

    Args:
        title: Of the whole figure.
        histories: Records over seed, step and layer of each variant.
        unit: Unit of the losses; nats where there are classes.
    """
    panels = {"test_loss": f"test loss ({unit})", "size": "size (effective units)"}
    panels |= {"test_metric": "test accuracy"} if unit == "nats" else {}
    figure = titled(title, 8.5, 0.8 + 2.6 * len(panels))
    for axes, (name, told) in zip(figure.subplots(len(panels), sharex=True), panels.items(), strict=True):
        scale = "log" if name == "test_loss" else "linear"
        _draw_over_steps(axes, histories, name, width=2.6, thinner=0.3, ylabel=told, yscale=scale)
    for axes in figure.axes:
        axes.label_outer()
    lines = [line_key(name, VARIANT_COLOURS[name]) for name in histories]
    return add_legend(figure, [*lines, band_key("quartiles about\nthe median")], place="center")


def _draw_over_steps(axes, histories, name, *, width=1.5, thinner=0.0, **labels: Any):
    """Bands over the steps; each variant is thinner than the last, so that all on one another stay visible."""
    for place, (variant, own) in enumerate(histories.items()):
        found = bands(own.sum("layer") if name == "size" else own, name)
        line = max(1.0, width - thinner * place)
        draw_band(axes, own["step"], found, VARIANT_COLOURS[variant], width=line)
    axes.set(xlabel="optimiser step", **labels)
