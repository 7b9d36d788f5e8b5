"""Animation: one run, frame by frame, as what its units and its predictions are at some steps."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from n3.plotting.style import COLOURS, draw_regions
from n3.stats.summary import likeliest_classes


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One run at some of its steps; inputs, targets and predictions are in their own units."""

    title: str
    steps: Int[np.ndarray, " frames"]
    participation: tuple[Float[np.ndarray, "frames _"], ...]
    """Of every unit of each hidden layer, in `[0, 1]`."""
    test_loss: Float[np.ndarray, " frames"]
    grid: Float[np.ndarray, "points in_size"]
    predictions: Float[np.ndarray, "frames points out_size"]
    """On the grid; logits of a classification."""
    residuals: Float[np.ndarray, "frames tests out_size"]
    """Prediction minus target at the test inputs; of logits minus codes, which says nothing."""
    inputs: Float[np.ndarray, "samples in_size"]
    """Training samples."""
    targets: Float[np.ndarray, "samples out_size"]
    test_inputs: Float[np.ndarray, "tests in_size"]
    is_classes: bool
    input_names: tuple[str, ...]
    target_name: str

    @property
    def sizes(self) -> Float[np.ndarray, " frames"]:
        """Participations summed over all layers, in units."""
        return np.sum([layer.sum(axis=1) for layer in self.participation], axis=0)


MOST_UNITS = 24
"""Units of a layer that are drawn at most; what is left out is said."""
BRIGHT = (0.0, 0.447, 0.698)
"""Red, green and blue of what takes part fully: the growing arm's colour."""
SAMPLES = 500
"""Training samples that are drawn at most."""


def animate_growth(
    trajectory: Trajectory, path: str | Path, *, frames_per_second: int = 12, dpi: int = 80
) -> Path:
    """Write a trajectory run, 9.6 by 4.6 inches, as a GIF that stays on its last frame for a second; its path.

    Raises:
        OSError: If it cannot be written.
    """
    figure, frames = Figure(figsize=(9.6, 4.6), layout="constrained"), len(trajectory.steps)
    writer = PillowWriter(fps=frames_per_second)
    with writer.saving(figure, str(path), dpi):
        for frame in range(frames + frames_per_second):
            if frame < frames:
                figure.clear()
                draw_frame(figure, trajectory, frame)
            writer.grab_frame()
    return Path(path)


def draw_frame(figure: Figure, trajectory: Trajectory, frame: int) -> None:
    """Draw one frame: the network to the left, its fit with residual (or its regions) to the right."""
    step, size, loss = trajectory.steps[frame], trajectory.sizes[frame], trajectory.test_loss[frame]
    figure.suptitle(f"{trajectory.title}: step {step:,}, size {size:.2f} units, test loss {loss:.2e}")
    places = figure.add_gridspec(2, 2, width_ratios=(1, 1.25), height_ratios=(3, 1.2))
    draw_network(figure.add_subplot(places[:, 0]), trajectory, frame)
    if trajectory.grid.shape[1] == 2:
        draw_classes(figure.add_subplot(places[:, 1]), trajectory, frame)
    else:
        fit = figure.add_subplot(places[0, 1])
        residual = figure.add_subplot(places[1, 1], sharex=fit)
        draw_fit(fit, residual, trajectory, frame, colour=COLOURS["growing"])
        fit.tick_params(labelbottom=False)


def draw_network(axes: Axes, trajectory: Trajectory, frame: int) -> None:
    """Draw the units of all layers, each as bright as it takes part, and their links as bright as both ends."""
    hidden = [layer[frame][:MOST_UNITS] for layer in trajectory.participation]
    layers = [np.ones(trajectory.grid.shape[1]), *hidden, np.ones(trajectory.predictions.shape[2])]
    links, shades = [], []
    for column, (before, after) in enumerate(itertools.pairwise(layers)):
        for (start, one), (end, other) in itertools.product(_placed(before), _placed(after)):
            links.append([(column, start), (column + 1, end)])
            shades.append((*BRIGHT, 0.6 * one * other))
    axes.add_collection(LineCollection(links, colors=shades, linewidths=0.8))
    for column, layer in enumerate(layers):
        heights, values = np.transpose(_placed(layer))
        colours = [(*BRIGHT, 0.08 + 0.92 * value) for value in values]
        axes.scatter([column] * len(layer), heights, s=90, c=colours, edgecolors="black", zorder=3)
    names = ["inputs", *(f"layer {n + 1}" for n in range(len(hidden))), "outputs"]
    hides = max(layer.shape[1] for layer in trajectory.participation) > MOST_UNITS
    axes.set_xticks(range(len(layers)), names)
    axes.set(yticks=[], xlim=(-0.4, len(layers) - 0.6), ylim=(-1.12, 1.12))
    axes.set_title(f"participation (the first {MOST_UNITS} units)" if hides else "participation of each unit")
    axes.spines[["left", "right", "top"]].set_visible(False)


def draw_fit(fit: Axes, residual: Axes, trajectory: Trajectory, frame: int, *, colour: str) -> None:
    """Draw a regression with one input: samples and prediction above, prediction minus target below.

    The residual's axis holds this frame and all later ones, so that it narrows with the error.
    """
    inputs, targets = trajectory.inputs[:SAMPLES, 0], trajectory.targets[:SAMPLES, 0]
    misses = trajectory.residuals[frame:]
    fit.plot(inputs, targets, ".", color="#888888", markersize=4)
    fit.plot(trajectory.grid[:, 0], trajectory.predictions[frame, :, 0], color=colour)
    fit.set(ylabel=trajectory.target_name, ylim=_room(trajectory.targets))
    fit.set_title("training samples and prediction")
    residual.axhline(0, color="black", linewidth=0.8)
    residual.plot(trajectory.test_inputs[:, 0], misses[0, :, 0], ".", color=colour, markersize=4)
    residual.set(xlabel=trajectory.input_names[0], ylabel="prediction\n- target", ylim=_room(misses))


def draw_classes(axes: Axes, trajectory: Trajectory, frame: int) -> None:
    """Draw a classification with two inputs: predicted classes under the training samples."""
    logits, samples = trajectory.predictions[frame], trajectory.inputs[:SAMPLES]
    classes, labels = likeliest_classes(logits), likeliest_classes(trajectory.targets[:SAMPLES])
    draw_regions(axes, classes, trajectory.grid, samples, labels, count=max(2, logits.shape[1]))
    first, second = trajectory.input_names
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
