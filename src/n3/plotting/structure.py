"""Plotting of stages: sizes and capacity over training, with every change of structure marked."""

from n3.config.experiment import SIZED
from n3.experiments.results import RunRecord
from n3.plotting.runs import COLOURS, Figure, Line2D, add_legend, titled
from n3.training.decisions import ACTIONS

MARKS = {"prune": ("v", "#D55E00"), "expand": ("^", "#009E73"), "rollback": ("x", "black")}
"""Marker and colour of each change."""


def plot_structure(record: RunRecord) -> Figure:
    """Size of every run over optimiser steps, summed over layers, with the capacity of the program and changes.

    Args:
        record: A finished experiment with `structure_every`.

    Returns:
        A panel for each arm whose structure may change. A mark stands at the size last recorded before the
        change, or at the end after it.

    Raises:
        ValueError: If there were no looks at the structure.
    """
    results = record.results
    if "look" not in results.sizes:
        raise ValueError("`record` must be of an experiment with `structure_every`; it has no looks.")
    arms = [arm for arm in results["arm"].values.tolist() if arm in SIZED]
    figure = titled(
        f"{results.attrs['task']}: structure of {results.sizes['seed']} runs", 5.0 * len(arms) + 2.0, 4.5
    )
    looks = results["look"].values
    for axes, arm in zip(figure.subplots(1, len(arms), sharey=True, squeeze=False)[0], arms, strict=True):
        own = results.sel(arm=arm)
        sizes, capacity = own["size"].sum("layer"), own["structure_capacity"].sum("layer").values
        axes.plot(results["step"], sizes.T, color=COLOURS[arm], linewidth=1, alpha=0.7)
        axes.step([0, *looks], [capacity[0], *capacity], where="pre", color="black", linestyle=":")
        at_looks = sizes.sel(step=looks, method="pad").values
        for action, (marker, colour) in MARKS.items():
            where = own["structure_action"].values == ACTIONS.index(action)
            steps = [look for row in where for look in looks[row]]
            axes.plot(steps, at_looks[where], marker, color=colour, markersize=7, zorder=3)
        axes.set_yscale("symlog", base=2, linthresh=1)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="optimiser step", title=arm, ylim=(0, 1.4 * capacity.max()))
    figure.axes[0].set_ylabel("size (effective units, all layers)")
    sizes = [Line2D([], [], color=COLOURS[arm], label=f"size, {arm}") for arm in arms]
    limit = Line2D([], [], color="black", linestyle=":", label="capacity of the program")
    marks = [Line2D([], [], marker=m, color=c, linestyle="", label=action) for action, (m, c) in MARKS.items()]
    add_legend(figure, [*sizes, limit, *marks], place="center")
    return figure
