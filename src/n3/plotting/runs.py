"""Runs: the figures of one experiment, of one network and of one fit."""

import math
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from matplotlib.animation import PillowWriter as PillowWriter
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy import ndarray

from n3.config.experiment import SIZED
from n3.plotting.style import CLASS_COLOURS, COLOURS, add_legend, arms_of, band_key, draw_band, line_key, titled
from n3.stats import summary
from n3.stats.summary import RunRecord, bands, decision_classes, final_distribution, fit_curves, has_diverged
from n3.training.decisions import ACTIONS
from n3.training.history import History

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
    styles = [line_key(n, linestyle=s) for n, s in (("test", "-"), ("training", "--"))]
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
    styles = [line_key(f"layer {n + 1}", linestyle=s) for n, s in layers]
    limit = line_key("capacity", linestyle=":")
    add_legend(figure, [*_arm_handles(record), *styles[len(styles) == 1 :], limit, band_key("quartiles")])
    return figure


def plot_information(record: RunRecord) -> Figure:
    """Monitored information of each layer over optimiser steps, with the size beside it; bands as elsewhere."""
    names = [*record.experiment.run.monitor, "size"]
    title = f"{record.results.attrs['task']}: what the layers say of the target and of each other"
    figure = titled(title, 0.8 + 3.2 * len(names), 4.0)
    layers = range(record.results.sizes["layer"])
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        quartiles = bands(record.results, name)
        for layer in layers:
            for arm in arms_of(record):
                own, style = quartiles.sel(arm=arm).isel(layer=layer), _LAYER_STYLES[layer % len(_LAYER_STYLES)]
                draw_band(axes, record.results["step"], own, COLOURS[arm], style)
        unit = "effective units" if name == "size" else "nats"
        axes.set(xlabel="optimiser step", ylabel=f"{name} ({unit})")
    styles = [line_key(f"layer {n + 1}", linestyle=_LAYER_STYLES[n % len(_LAYER_STYLES)]) for n in layers]
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
    median = line_key("median", linestyle=":")
    add_legend(figure, [*_arm_handles(record), median])
    return figure


def plot_price_path(record: RunRecord) -> Figure:
    """The growing arm at every price of a path: test loss over size, and size over price; the pick is marked.

    Points are medians over the seeds, bars their quartiles, numbers at the points prices in nats per sample.
    """
    results, curves = record.results, summary.path_curves(record.results)
    size, loss, tried = curves["size"], curves["test_loss"], results["price"].values
    figure = titled(f"{results.attrs['task']}: the growing arm at {len(tried)} prices", 10.5, 4.5)
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
    mark = {"marker": "o", "markersize": 13, "fillstyle": "none", "linestyle": ""}
    left.plot(size[1, pick], loss[1, pick], color="black", **mark)
    right.plot(tried[pick], size[1, pick], color="black", **mark)
    left.set(xlabel="final size (effective units)", ylabel=f"final test loss ({_loss_unit(record)})")
    left.set_yscale("log" if (loss[2] > 0).any() else "linear")  # as `_loss_scale`
    left.margins(x=0.08, y=0.3)  # room for the numbers
    right.set(xlabel="price (nats per sample and unit)", ylabel="final size (effective units)", xscale="log")
    point = line_key("median and quartiles", colour, marker=".")
    add_legend(figure, [point, line_key("price picked", **mark)])
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
    samples = line_key("training samples", marker=".")
    add_legend(figure, [*patches, samples])
    return figure


def _one_panel(record):
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    seeds = record.results.sizes["seed"]
    title = f"{record.results.attrs['task']}: {seeds} {'seed' if seeds == 1 else 'seeds'}"
    return figure, figure.subplots(subplot_kw={"title": title})


def _lengths(quartiles):
    """Lengths of the bars below and above the median."""
    return quartiles[1] - quartiles[0], quartiles[2] - quartiles[1]


def _loss_unit(record):
    return "squared scaled units" if record.results.attrs["kind"] == "regression" else "nats"


def _loss_scale(quartiles):
    known = bool(quartiles["high"].max() > 0)  # a logarithmic axis without a positive value is an error
    return "log" if known else "linear"


def _draw_regions(axes, results, arm, colours):
    first, second = results["grid"].values.T
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
        line_key(f"{arm} ({count}/{seeds} diverged)" if count else arm, COLOURS[arm])
        for arm, count in counts.items()
    ]


def plot_choices(record: RunRecord) -> Figure:
    """Share of each activation over optimiser steps, a column an arm, a row a layer: median and quartiles."""
    results, arms = record.results, arms_of(record)
    names, layers = results["choice"].values.tolist(), results.sizes["layer"]
    colours = dict(zip(names, CLASS_COLOURS, strict=False))
    seeds = results.sizes["seed"]
    title = f"{results.attrs['task']}: activation of each layer, {seeds} {'seed' if seeds == 1 else 'seeds'}"
    figure = titled(title, 1.4 + 3 * len(arms), 0.9 + 2.4 * layers)
    panels = figure.subplots(layers, len(arms), sharex=True, sharey=True, squeeze=False)
    quartiles, hard = (
        bands(results, "choice_share"),
        record.experiment.training.choice_end * results["step"][-1],
    )
    for layer, row in enumerate(panels):
        for arm, axes in zip(arms, row, strict=True):
            for name in names:
                own = quartiles.sel(arm=arm, choice=name).isel(layer=layer)
                draw_band(axes, results["step"], own, colours[name], "-")
            axes.axvline(float(hard), color="black", linestyle=":")
            axes.set(title=arm if layers == 1 else f"{arm}, layer {layer + 1}", ylim=(-0.03, 1.03))
    figure.supxlabel("optimiser step")
    figure.supylabel("share of activation")
    keys = [line_key(name, colour) for name, colour in colours.items()]
    limit = line_key("hard from here", linestyle=":")
    add_legend(figure, [*keys, limit, band_key("quartiles")])
    return figure


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
    sizes = [line_key(f"size, {arm}", COLOURS[arm]) for arm in arms]
    limit = line_key("capacity of the program", linestyle=":")
    marks = [line_key(action, c, marker=m) for action, (m, c) in MARKS.items()]
    add_legend(figure, [*sizes, limit, *marks], place="center")
    return figure


def plot_participation(
    sizes: Float[ndarray, " sizes"], participation: Float[ndarray, "sizes units"], *, title: str
) -> Figure:
    """Participation of each unit over the size: a ramp a unit, one after the other.

    Args:
        sizes: Sizes, in effective units, rising.
        participation: Participation of each unit at each size, in `[0, 1]`.
        title: Of the whole figure.
    """
    figure = titled(title, 8.0, 3.5)
    axes = figure.subplots()
    for unit, ramp in enumerate(participation.T):
        colour = CLASS_COLOURS[unit % len(CLASS_COLOURS)]
        axes.plot(sizes, ramp, color=colour, label=f"unit {unit}")
    axes.set(xlabel="size (effective units)", ylabel="participation")
    add_legend(figure, axes.get_lines())
    return figure


def plot_gains(gains: Float[ndarray, " units"], *, price: float, title: str) -> Figure:
    """What each unit adds to those before it, against the price of a unit.

    Args:
        gains: Information that each unit adds, nats per sample, in the order of the units; one of zero or less
            lies below the figure.
        price: What a unit must add to be kept, nats per sample.
        title: Of the whole figure.
    """
    figure = titled(title, 8.0, 4.0)
    axes = figure.subplots()
    is_worth = gains >= price
    places = range(1, len(gains) + 1)
    colours = [COLOURS["growing"] if own else "#999999" for own in is_worth]
    axes.vlines(places, price, gains, color=colours, linewidth=1)
    axes.scatter(places, gains, c=colours, zorder=3)
    line = axes.axhline(price, color="black", linestyle="--", label=f"price, {price:.2g} nats")
    axes.set(xlabel="place of the unit", ylabel="what it adds (nats per sample)", yscale="log")
    marks = {"worth its price": COLOURS["growing"], "not worth it": "#999999"}
    add_legend(figure, [line, *(line_key(n, c, marker="o") for n, c in marks.items())])
    return figure


def plot_history(history: History, *, title: str, unit: str) -> Figure:
    """Effective units of each group of layers, and the losses, over the steps of a fit.

    Args:
        history: What `n3.fit` recorded.
        title: Of the whole figure.
        unit: Unit of the losses.
    """
    figure = titled(title, 10.0, 4.0)
    left, right = figure.subplots(1, 2)
    for group, (layer, sizes) in enumerate(zip(history.layers, history.sizes.T, strict=True)):
        left.plot(history.step, sizes, color=CLASS_COLOURS[group % len(CLASS_COLOURS)], label=layer)
    right.plot(history.step, history.train_loss, "--", color="black", label="training loss")
    if history.validation_loss is not None:
        right.plot(history.step, history.validation_loss, "-", color="black", label="validation loss")
    left.set(xlabel="optimiser step", ylabel="size (effective units)")
    left.set_ylim(bottom=0)
    right.set(xlabel="optimiser step", ylabel=f"loss ({unit})", yscale="log")
    add_legend(figure, [*left.get_lines(), *right.get_lines()])
    return figure


def figures(record: RunRecord) -> dict[str, Figure]:
    """Every figure that fits the task.

    Args:
        record: A finished experiment.

    Returns:
        `loss`, `size` and `final-loss`; `information` where it was monitored; `price-path` after a path of
        prices; `choices` where layers chose their activation; `structure` where it changed; and `fit` for a
        regression with one input, or `regions` for a classification with two.
    """
    made = {"loss": plot_losses(record), "size": plot_sizes(record), "final-loss": plot_final_losses(record)}
    if record.experiment.run.monitor:
        made["information"] = plot_information(record)
    if "price" in record.results.sizes:
        made["price-path"] = plot_price_path(record)
    if "choice" in record.results.sizes:
        made["choices"] = plot_choices(record)
    if "look" in record.results.sizes:
        made["structure"] = plot_structure(record)
    match record.results.attrs["kind"], record.results.sizes["input"]:
        case "regression", 1:
            return made | {"fit": plot_fit(record)}
        case "classification", 2:
            return made | {"regions": plot_regions(record)}
    return made
