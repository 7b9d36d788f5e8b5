"""Plotting of trials: how the final losses of many runs are spread, and which classes they confuse."""

from collections.abc import Mapping

from jaxtyping import Int
from numpy import ndarray

from n3.plotting.runs import COLOURS, Axes, Figure, Line2D, Patch, add_legend, band_key, titled
from n3.stats.curves import Histogram
from n3.stats.distributions import Profile


def plot_histograms(title: str, panels: Mapping[str, Histogram], *, unit: str) -> Figure:
    """Histograms of final test losses, a panel a task; a dotted line marks each contender's median.

    Args:
        title: Of the whole figure.
        panels: Histograms by task.
        unit: Unit of the losses.
    """
    figure = titled(title, 9.0, 0.9 + 2.3 * len(panels))
    for axes, (task, own) in zip(
        figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True
    ):
        draw_histogram(axes, own)
        axes.set(title=task, xlabel=f"final test loss ({unit})")
    add_legend(figure, _keys(next(iter(panels.values()))), place="center")
    return figure


def draw_histogram(axes: Axes, histogram: Histogram) -> None:
    """Draw the shares of all contenders over one another."""
    for name, shares in histogram.shares.items():
        style = {"color": COLOURS[name], "alpha": 0.5}
        axes.stairs(shares, histogram.edges, fill=True, **style)
        axes.stairs(shares, histogram.edges, color=COLOURS[name])
        if name in histogram.medians:
            axes.axvline(histogram.medians[name], color=COLOURS[name], linestyle=":")
    axes.set(xscale="log", ylabel="share of trials")
    axes.margins(x=0.02)


def plot_profiles(profiles: Mapping[str, Profile], *, title: str, unit: str) -> Figure:
    """Share of runs whose final loss is at most so much, for each arm, with its pointwise interval.

    Args:
        profiles: Profiles by arm.
        title: Of the whole figure.
        unit: Unit of the losses.
    """
    figure = titled(title, 8.0, 4.0)
    axes = figure.subplots()
    for name, own in profiles.items():
        axes.fill_between(own.thresholds, own.low, own.high, color=COLOURS[name], alpha=0.18, linewidth=0)
        axes.plot(own.thresholds, own.share, color=COLOURS[name], label=name)
    axes.set(xscale="log", xlabel=f"final test loss ({unit})", ylabel="share of runs", ylim=(0, 1.03))
    add_legend(figure, [*axes.get_lines(), band_key("pointwise interval")])
    return figure


def plot_classes(
    title: str,
    panels: Mapping[str, Histogram],
    counts: Mapping[str, Int[ndarray, "classes classes"]],
    *,
    unit: str,
) -> Figure:
    """A histogram of final test losses above the confusion matrix of each contender.

    Args:
        title: Of the whole figure.
        panels: One histogram, under the task's name.
        counts: Confusion matrix of each contender, true classes as rows.
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
    add_legend(figure, _keys(histogram), place="center")
    return figure


def plot_confusion(counts: Int[ndarray, "classes classes"], *, title: str) -> Figure:
    """A confusion matrix by itself: shares of each true class (a row) by predicted class, with the counts."""
    side = 2.6 + 0.75 * len(counts)
    figure = Figure(figsize=(side, side), layout="constrained")
    draw_confusion(figure.subplots(), counts, title=title)
    return figure


def draw_confusion(axes: Axes, counts: Int[ndarray, "classes classes"], *, title: str) -> None:
    """Draw a confusion matrix with its accuracy."""
    rows = counts.sum(axis=1, keepdims=True)
    shares = counts / rows.clip(min=1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for true, row in enumerate(shares):
        for predicted, share in enumerate(row):
            told = f"{100 * share:.1f} %\n{counts[true, predicted]:,}"
            colour = "white" if share > 0.5 else "black"
            axes.text(predicted, true, told, ha="center", va="center", color=colour, fontsize=9)
    accuracy = counts.trace() / max(1, counts.sum())
    classes = range(len(counts))
    axes.set(xticks=classes, yticks=classes, xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{title}: accuracy {100 * accuracy:.1f} %")


def _keys(histogram):
    bars = [Patch(color=COLOURS[name], alpha=0.6, linewidth=0, label=name) for name in histogram.shares]
    return [*bars, Line2D([], [], color="black", linestyle=":", label="median")]
