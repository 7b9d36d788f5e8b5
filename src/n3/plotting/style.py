"""Style: colours, bands, legends and titles that all figures share."""

import itertools
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from n3.stats.summary import RunRecord

COLOURS = {
    "growing": "#0072B2",
    "static": "#D55E00",
    "warmup": "#009E73",
    "grown": "#E69F00",
    "shrinking": "#56B4E9",
    "rescaled": "#CC79A7",
    "equal-size": "#882255",
}
"""Colour of each arm in every figure, told apart by colour-blind readers too; none is the grey of a band's key.

References:
    Okabe and Ito, "Color universal design", 2008; the last by Tol, "Colour schemes", 2021.
"""
CLASS_COLOURS = (
    "#88CCEE", "#CC6677", "#117733", "#DDCC77", "#332288",
    "#AA4499", "#44AA99", "#999933", "#882255", "#888888",
)  # fmt: skip
"""Colour of each class; an eleventh class begins again.

References:
    Tol, "Colour schemes", 2021, scheme "muted".
"""


def class_colours(count: int) -> list[str]:
    """The colours of so many classes."""
    return list(itertools.islice(itertools.cycle(CLASS_COLOURS), count))


def draw_band(
    axes: Axes, x: Any, quartiles: Any, colour: str, style: Any = "-", prefix: str = "", width: float = 1.5
) -> None:
    """Draw the median as a line in a band from `low` to `high`, names of `quartiles` after a prefix."""
    low, median, high = (quartiles[prefix + name].values for name in ("low", "median", "high"))
    axes.fill_between(x.values, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x.values, median, color=colour, linestyle=style, linewidth=width)


def draw_bars(axes: Axes, x: Any, y: Any, colour: str, **style: Any) -> None:
    """Draw points, with bars where `x` or `y` is rows: lower ends, middles (also beyond an end), upper ends."""
    sides = [np.asarray(side) for side in (x, y)]
    middles = [side[1] if side.ndim == 2 else side for side in sides]
    bars = [abs(side[::2] - side[1]) if side.ndim == 2 else None for side in sides]
    axes.errorbar(*middles, *bars[::-1], color=colour, elinewidth=1, **style)


def draw_regions(axes: Axes, classes: Any, grid: Any, inputs: Any, labels: Any, *, count: int) -> None:
    """Draw the class of each point of a square grid, white for -1, under samples with their labels."""
    side, shades = round(len(grid) ** 0.5), ListedColormap(class_colours(count)).with_extremes(under="white")
    style = {"cmap": shades, "vmin": 0, "vmax": count - 1}
    extent = np.stack([grid.min(axis=0), grid.max(axis=0)], axis=1).ravel()
    place = {"origin": "lower", "extent": extent, "aspect": "auto"}
    axes.imshow(classes.reshape(side, side), alpha=0.45, **place, **style)
    axes.scatter(*inputs.T, c=labels, s=6, edgecolors="black", linewidths=0.3, **style)


def line_key(label: str, colour: str = "black", **style: Any) -> Line2D:
    """A legend's entry for a line, or with a `marker` for points (and `linestyle` for points on a line)."""
    style = {"linestyle": ""} | style if "marker" in style else style
    return Line2D([], [], color=colour, label=label, **style)


def band_key(label: str) -> Patch:
    """A legend's entry for bands of any colour."""
    return Patch(color="#999999", alpha=0.4, linewidth=0, label=label)


def overlap_key(label: str, colours: Sequence[str], *, alpha: float) -> Patch:
    """A legend's entry for the place where areas of several colours lie over one another, the last on top."""
    mixed = np.ones(3)
    for colour in colours:
        mixed = (1 - alpha) * mixed + alpha * np.array(to_rgb(colour))
    return Patch(facecolor=mixed, linewidth=0, label=label)


def add_legend(figure: Figure, handles: Sequence[Any], *, place: str = "upper") -> Figure:
    """Put a legend to the right of all panels, `upper`, or `center` where a long title is above; the figure."""
    figure.legend(handles=handles, loc=f"outside right {place}", frameon=False)
    return figure


def titled(title: str, width: float, height: float) -> Figure:
    """An empty figure (inches) under a title in as many lines as its width asks for, nearly equal in length."""
    figure = Figure(figsize=(width, height), layout="constrained")
    most = int(10 * width)
    lines = len(textwrap.wrap(title, most))
    even = next(
        own for own in range(-(-len(title) // lines), most + 1) if len(textwrap.wrap(title, own)) == lines
    )
    figure.suptitle(textwrap.fill(title, even), fontsize=11)
    return figure


def arms_of(record: RunRecord) -> Sequence[str]:
    """The arms of a record in the order in which figures show them: the growing one first."""
    return sorted(record.results["arm"].values.tolist(), key="growing".__ne__)
