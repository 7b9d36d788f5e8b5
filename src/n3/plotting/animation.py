"""Plotting of growth: a network that lights up unit by unit while its fit improves beside it, animated."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from n3.paper.watching import Watched
from n3.plotting.runs import CLASS_COLOURS, COLOURS, Axes, Figure, LineCollection, ListedColormap, PillowWriter

MOST = 24
"""Units of a layer that are drawn at most; what is left out is said."""
BRIGHT = (0.0, 0.447, 0.698)
"""Red, green and blue of what takes part fully: the growing arm's colour."""
SAMPLES = 500
"""Training samples that are drawn at most."""


def animate_growth(watched: Watched, path: str | Path, *, frames_per_second: int = 12, dpi: int = 80) -> Path:
    """Write an animation of a watched run as a GIF that stays on its last frame for a second.

    Args:
        watched: The run.
        path: The file.
        frames_per_second: Frames shown in a second.
        dpi: Dots per inch, of 9.6 by 4.6 inches.

    Returns:
        The file.

    Raises:
        OSError: If it cannot be written.
    """
    figure, path = Figure(figsize=(9.6, 4.6), layout="constrained"), Path(path)
    writer = PillowWriter(fps=frames_per_second)
    with writer.saving(figure, str(path), dpi):
        for frame in range(len(watched.steps)):
            figure.clear()
            draw_frame(figure, watched, frame)
            writer.grab_frame()
        for _ in range(frames_per_second):
            writer.grab_frame()
    return path


def draw_frame(figure: Figure, watched: Watched, frame: int) -> None:
    """Draw one frame: the network to the left, its fit with residual (or its regions) to the right."""
    step, size, loss = watched.steps[frame], watched.sizes[frame], watched.test_loss[frame]
    figure.suptitle(f"{watched.title}: step {step:,}, size {size:.2f} units, test loss {loss:.2e}")
    places = figure.add_gridspec(2, 2, width_ratios=(1, 1.25), height_ratios=(3, 1.2))
    draw_network(figure.add_subplot(places[:, 0]), watched, frame)
    if len(watched.grid) == 2:
        draw_regions(figure.add_subplot(places[:, 1]), watched, frame)
    else:
        fit = figure.add_subplot(places[0, 1])
        residual = figure.add_subplot(places[1, 1], sharex=fit)
        draw_fit(fit, residual, watched, frame, colour=COLOURS["growing"])
        fit.tick_params(labelbottom=False)


def draw_network(axes: Axes, watched: Watched, frame: int) -> None:
    """Draw the units of all layers, each as bright as it takes part, and their links as bright as both ends."""
    hidden = [layer[frame][:MOST] for layer in watched.participation]
    layers = [np.ones(len(watched.grid)), *hidden, np.ones(watched.predictions.shape[1])]
    links, shades = [], []
    for column, (before, after) in enumerate(itertools.pairwise(layers)):
        for (start, one), (end, other) in itertools.product(_placed(before), _placed(after)):
            links.append([(column, start), (column + 1, end)])
            shades.append((*BRIGHT, 0.6 * one * other))
    axes.add_collection(LineCollection(links, colors=shades, linewidths=0.8))
    for column, layer in enumerate(layers):
        heights, colours = zip(
            *((height, (*BRIGHT, 0.08 + 0.92 * value)) for height, value in _placed(layer)), strict=True
        )
        axes.scatter([column] * len(layer), heights, s=90, c=list(colours), edgecolors="black", zorder=3)
    names = ["inputs", *(f"layer {n + 1}" for n in range(len(hidden))), "outputs"]
    hides = max(layer.shape[1] for layer in watched.participation) > MOST
    axes.set_xticks(range(len(layers)), names)
    axes.set(yticks=[], xlim=(-0.4, len(layers) - 0.6), ylim=(-1.12, 1.12))
    axes.set_title(f"participation (the first {MOST} units)" if hides else "participation of each unit")
    axes.spines[["left", "right", "top"]].set_visible(False)


def draw_fit(fit: Axes, residual: Axes, watched: Watched, frame: int, *, colour: str) -> None:
    """Draw a regression with one input: samples and prediction above, prediction minus target below.

    The residual's axis holds this frame and all later ones, so that it narrows with the error.
    """
    order = np.argsort(watched.test_inputs[:, 0])
    fit.plot(watched.inputs[:SAMPLES, 0], watched.targets[:SAMPLES, 0], ".", color="#888888", markersize=4)
    fit.plot(watched.grid[0], watched.predictions[frame, 0], color=colour)
    residual.axhline(0, color="black", linewidth=0.8)
    residual.plot(
        watched.test_inputs[order, 0], watched.residuals[frame, 0, order], ".-", color=colour, markersize=4
    )
    fit.set(ylabel=watched.target_name, title="training samples and prediction", ylim=_room(watched.targets))
    residual.set(
        xlabel=watched.input_names[0], ylabel="prediction\n- target", ylim=_room(watched.residuals[frame:])
    )


def draw_regions(axes: Axes, watched: Watched, frame: int) -> None:
    """Draw a classification with two inputs: predicted classes under the training samples."""
    logits, side = watched.predictions[frame], round(watched.grid.shape[1] ** 0.5)
    classes = (logits[0] > 0).astype(int) if len(logits) == 1 else logits.argmax(axis=0)
    count = max(2, len(logits))
    shades = ListedColormap([CLASS_COLOURS[n % len(CLASS_COLOURS)] for n in range(count)])
    style: dict[str, Any] = {"cmap": shades, "vmin": 0, "vmax": count - 1}
    extent = (*watched.grid[0][[0, -1]], *watched.grid[1][[0, -1]])
    axes.imshow(classes.reshape(side, side), alpha=0.45, origin="lower", extent=extent, aspect="auto", **style)
    targets = watched.targets[:SAMPLES]
    labels = targets[:, 0] if targets.shape[1] == 1 else targets.argmax(axis=1)
    axes.scatter(*watched.inputs[:SAMPLES].T, c=labels, s=6, edgecolors="black", linewidths=0.3, **style)
    first, second = watched.input_names
    axes.set(xlabel=first, ylabel=second, title="predicted classes and training samples")


def _placed(layer):
    """Height of each unit, with its participation."""
    heights = np.zeros(1) if len(layer) == 1 else np.linspace(1, -1, len(layer))
    return list(zip(heights.tolist(), np.clip(layer, 0, 1).tolist(), strict=True))


def _room(values):
    """Limits that hold all values with a tenth of their range to spare."""
    low, high = float(np.min(values)), float(np.max(values))
    spare = 0.1 * (high - low) or 1.0
    return low - spare, high + spare
