"""Runs: the figures of one experiment, of one network and of one fit."""

import math

from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy import array, concatenate, ndarray, ndenumerate

from n3.config.experiment import SIZED, Experiment
from n3.plotting import style
from n3.plotting.style import COLOURS, add_legend, arms_of, band_key, draw_band, line_key, titled
from n3.stats import summary
from n3.stats.summary import RunRecord, has_members, run_intervals
from n3.training.decisions import ACTIONS
from n3.training.history import History

_POINTS = 1000
_LAYER_STYLES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)))


def plot_losses(record: RunRecord) -> Figure:
    """Task loss over optimiser steps: median and quartiles over the seeds of each arm, training and test.

    Of runs with members the median loss on held-out samples too, at the end with the median of the runs' 95 %
    intervals.
    """
    axes = _one_panel(record, _medians(record))
    _draw_over_steps(axes, record, "train_loss", "--")
    quartiles = _draw_over_steps(axes, record, "test_loss", "-")
    if (last := _last_point(record.experiment)) is not None:
        axes.set_xlabel(f"optimiser step ({last})")
    axes.set(ylabel=f"loss ({_loss_unit(record)})", yscale=_scale(quartiles["high"]))
    keys = [line_key("test", linestyle="-"), line_key("training", linestyle="--")]
    if has_members(record.results):
        keys += _draw_held_out(axes, record)
    return _with_legend(axes, record, *keys, band_key("quartiles"))


def _draw_held_out(axes, record):
    """The held-out loss of each arm, with intervals at the end, arms beside each other; keys for the legend."""
    results, arms = record.results, arms_of(record)
    medians, steps = summary.bands(results, "held_out_loss")["median"], results["step"].values
    last = results[["held_out_loss", "held_out_error"]].isel(step=-1).where(~summary.has_diverged(results))
    for place, arm in enumerate(arms, 1):
        own, style_of_end = last.sel(arm=arm), {"marker": "o", "markersize": 4, "capsize": 3}
        ends = run_intervals(*(own[name].median("seed").values for name in ("held_out_loss", "held_out_error")))
        axes.plot(steps, medians.sel(arm=arm), color=COLOURS[arm], linestyle=":", linewidth=1.5)
        row = array([[ends[0]], [float(own["held_out_loss"].median("seed"))], [ends[1]]])
        at = array([steps[-1] * (1 + 0.02 * place)])
        style.draw_bars(axes, at, row, COLOURS[arm], **style_of_end)
    end = line_key("held-out, 95 % of a run", linestyle="-", marker="o", markersize=4)
    return [line_key("held-out", linestyle=":"), end]


def plot_sizes(record: RunRecord) -> Figure:
    """Effective units of each layer over optimiser steps: median and quartiles over the seeds of each arm."""
    axes, capacity = _one_panel(record, _medians(record)), record.experiment.network.capacity
    _draw_over_steps(axes, record, "size", width=3.4, thinner=0.9)  # arms of equal size show under one another
    for units in set(capacity):
        axes.axhline(units, color="black", linestyle=":", zorder=3)
    axes.set(ylabel="size (effective units)", ylim=(0, 1.08 * max(capacity)))
    keys = [*_layer_keys(record), line_key("capacity", linestyle=":"), band_key("quartiles")]
    return _with_legend(axes, record, *keys)


def plot_information(record: RunRecord) -> Figure:
    """Monitored information of each layer over optimiser steps, with the size beside it; bands as elsewhere."""
    names = [*record.experiment.run.monitor, "size"]
    title = f"{record.results.attrs['task']}: information in each layer, {_medians(record)}"
    figure = titled(title, 0.8 + 3.2 * len(names), 4.0)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _draw_over_steps(axes, record, name)
        axes.set_ylabel(f"{name} ({'effective units' if name == 'size' else 'nats'})")
    return _with_legend(figure.axes[0], record, *_layer_keys(record), band_key("quartiles"))


def plot_final_losses(record: RunRecord) -> Figure:
    """Share of runs up to each final test loss, by arm, from 0 on; dotted at the median.

    It ends below 1 where runs diverged.
    """
    axes = _one_panel(record, _seeds(record))
    distribution = summary.final_distribution(record.results)
    for arm in arms_of(record):
        own, colour = distribution.sel(arm=arm), COLOURS[arm]
        ends = concatenate([own["loss"].values[:1], own["loss"]]), concatenate([[0.0], own["share"]])
        axes.step(*ends, where="post", color=colour)
        axes.plot(own["loss"], own["share"], ".", color=colour, markersize=5)
        axes.axvline(float(own["median"]), color=colour, linestyle=":")
    axes.set(xlabel=f"final test loss ({_loss_unit(record)})", ylabel="share of runs", ylim=(0, 1.03))
    axes.set_xscale(_scale(distribution["high"]))
    return _with_legend(axes, record, line_key("median", linestyle=":"))


def plot_price_path(record: RunRecord) -> Figure:
    """The growing arm at every price of a path: test loss over size, and size over price; the pick is marked.

    Points are medians over the seeds, bars their quartiles, numbers at the points prices in nats per sample.
    """
    results, curves = record.results, summary.path_curves(record.results)
    size, loss, tried = curves["size"], curves["test_loss"], results["price"].values
    figure = titled(f"{results.attrs['task']}: the growing arm at {len(tried)} prices", 10.5, 4.5)
    left, right = figure.subplots(1, 2)
    colour, pick = COLOURS["growing"], results.attrs["picked_price"]
    for axes, x, y in ((left, size, loss), (right, tried, size)):
        style.draw_bars(axes, x, y, colour, fmt=".", markersize=8, alpha=0.8)
    labels: dict[tuple[str, str], tuple[list[str], tuple[float, float]]] = {}
    for price, x, y in zip(tried, size[1], loss[1], strict=True):  # points that fall together share a label
        if math.isfinite(x):  # some run did not diverge
            labels.setdefault((f"{x:.1f}", f"{y:.2g}"), ([], (x, y)))[0].append(f"{price:.2g}")
    turned = {"rotation": 60, "rotation_mode": "anchor", "textcoords": "offset points"}
    for texts, point in labels.values():
        ends = dict.fromkeys((texts[0], texts[-1]))
        left.annotate(" to ".join(ends), point, xytext=(6, 9), fontsize=8, **turned)
    mark = {"marker": "o", "markersize": 13, "fillstyle": "none", "linestyle": ""}
    left.plot(size[1, pick], loss[1, pick], color="black", **mark)
    right.plot(tried[pick], size[1, pick], color="black", **mark)
    left.set(xlabel="final size (effective units)", ylabel=f"final test loss ({_loss_unit(record)})")
    left.set_yscale(_scale(loss[2]))
    left.margins(x=0.08, y=0.3)  # room for the numbers
    right.set(xlabel="price (nats per sample and unit)", ylabel="final size (effective units)", xscale="log")
    point = line_key("median and quartiles", colour, marker=".")
    return add_legend(figure, [point, line_key("price picked", **mark)])


def plot_fit(record: RunRecord) -> Figure:
    """A regression with one input: data of the first seed, predictions of the shown seeds, and residuals."""
    results, names = record.results, record.results.attrs
    curves = summary.fit_curves(results)
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.3))
    points = []
    for side, name, marker, colour in (("train", "training", ".", "#AAAAAA"), ("test", "test", "x", "black")):
        own = (results[f"{side}_{part}"].values[:_POINTS, 0] for part in ("inputs", "targets"))
        points += upper.plot(*own, marker, color=colour, markersize=4, alpha=0.6, label=f"{name} samples")
    lower.axhline(0, color="black", linewidth=0.8)
    for arm in arms_of(record):
        own = curves.sel(arm=arm)
        draw_band(upper, own["input"], own, COLOURS[arm])
        residuals = [own[f"residual_{name}"].values for name in ("low", "median", "high")]
        style.draw_bars(lower, own["test_input"].values, residuals, COLOURS[arm], fmt=".", markersize=4)
    upper.set(ylabel=names["target_name"], title=f"{names['task']}: fit")
    lower.set(xlabel=results["inputs_feature"].item(), ylabel="prediction - target")
    return _with_legend(upper, record, *points, band_key("quartiles"))


def plot_regions(record: RunRecord) -> Figure:
    """A classification with two inputs: predicted classes of the first shown seed, with its training data."""
    results, arms, count = record.results, arms_of(record), record.results.attrs["num_classes"]
    rows, columns = -(-len(arms) // 4), min(len(arms), 4)
    figure = Figure(figsize=(0.8 + 3 * columns, 0.9 + 3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    samples, labels = results["train_inputs"].values[:_POINTS], results["train_targets"].values[:_POINTS, 0]
    for arm, axes in zip(arms, panels, strict=False):
        classes = summary.decision_classes(results, arm)
        style.draw_regions(axes, classes, results["grid"].values, samples, labels, count=count)
        axes.set_title(arm if (classes >= 0).any() else f"{arm} (diverged)")
    for axes in panels[len(arms) :]:
        axes.set_axis_off()
    first, second = results["inputs_feature"].values
    figure.supxlabel(first)
    figure.supylabel(second)
    patches = [Patch(color=colour, label=f"class {n}") for n, colour in enumerate(style.class_colours(count))]
    return add_legend(figure, [*patches, line_key("training samples", marker=".")])


def plot_choices(record: RunRecord) -> Figure:
    """Share of each activation over optimiser steps, a column an arm, a row a layer: median and quartiles."""
    results, arms, layers = record.results, arms_of(record), record.results.sizes["layer"]
    colours = dict(zip(results["choice"].values.tolist(), style.CLASS_COLOURS, strict=False))
    title = f"{results.attrs['task']}: activation of each layer, {_medians(record)}"
    figure = titled(title, 1.4 + 3 * len(arms), 0.9 + 2.4 * layers)
    panels = figure.subplots(layers, len(arms), sharex=True, sharey=True, squeeze=False)
    quartiles, last = summary.bands(results, "choice_share"), float(results["step"][-1])
    for (layer, column), axes in ndenumerate(panels):
        own = quartiles.sel(arm=arms[column]).isel(layer=layer)
        for name, colour in colours.items():
            draw_band(axes, results["step"], own.sel(choice=name), colour)
        axes.axvline(record.experiment.training.choice_end * last, color="black", linestyle=":")
        axes.set(title=f"{arms[column]}, layer {layer + 1}" if layers > 1 else arms[column], ylim=(-0.03, 1.03))
    figure.supxlabel("optimiser step")
    figure.supylabel("share of activation")
    keys = [line_key(name, colour) for name, colour in colours.items()]
    return add_legend(figure, [*keys, line_key("hard from here", linestyle=":"), band_key("quartiles")])


MARKS = {"prune": ("v", "#D55E00"), "expand": ("^", "#009E73"), "rollback": ("x", "black")}
"""Marker and colour of each change."""


def plot_structure(record: RunRecord) -> Figure:
    """Size of every run over optimiser steps, summed over layers, with the capacity of the program and changes.

    A panel for each arm whose structure may change. A mark stands at the size last recorded before the
    change, or at the end after it.

    Raises:
        ValueError: If there were no looks at the structure: the experiment has no `structure_every`.
    """
    results = record.results
    if "look" not in results.sizes:
        raise ValueError("`record` must be of an experiment with `structure_every`; it has no looks.")
    arms = [arm for arm in results["arm"].values.tolist() if arm in SIZED]
    title, looks = f"{results.attrs['task']}: structure of {results.sizes['seed']} runs", results["look"].values
    figure = titled(title, 5.0 * len(arms) + 2.0, 4.5)
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
    return add_legend(figure, [*sizes, limit, *marks], place="center")


def plot_participation(
    sizes: Float[ndarray, " sizes"], participation: Float[ndarray, "sizes units"], *, title: str
) -> Figure:
    """Participation of each unit, in `[0, 1]`, over rising sizes in effective units: a ramp a unit."""
    figure = titled(title, 8.0, 3.5)
    axes = figure.subplots()
    axes.set_prop_cycle(color=style.CLASS_COLOURS)
    axes.plot(sizes, participation, label=[f"unit {unit}" for unit in range(participation.shape[1])])
    axes.set(xlabel="size (effective units)", ylabel="participation")
    return add_legend(figure, axes.get_lines())


def plot_gains(gains: Float[ndarray, " units"], *, price: float, title: str) -> Figure:
    """What each unit, in order, adds to those before it, against the price of a unit; both in nats per sample.

    A gain of zero or less lies below the figure.
    """
    figure = titled(title, 8.0, 4.0)
    axes = figure.subplots()
    places, worth, idle = range(1, len(gains) + 1), COLOURS["growing"], "#999999"
    colours = [worth if gain >= price else idle for gain in gains]
    axes.vlines(places, price, gains, color=colours, linewidth=1)
    axes.scatter(places, gains, c=colours, zorder=3)
    line = axes.axhline(price, color="black", linestyle="--", label=f"price, {price:.2g} nats")
    axes.set(xlabel="place of the unit", ylabel="what it adds (nats per sample)", yscale="log")
    marks = line_key("worth its price", worth, marker="o"), line_key("not worth it", idle, marker="o")
    return add_legend(figure, [line, *marks])


def plot_history(history: History, *, title: str, unit: str) -> Figure:
    """Effective units of each group of layers, and the losses (in `unit`), over the steps of a fit."""
    figure = titled(title, 10.0, 4.0)
    left, right = figure.subplots(1, 2)
    left.set_prop_cycle(color=style.CLASS_COLOURS)
    for layer, sizes in zip(history.layers, history.sizes.T, strict=True):
        left.plot(history.step, sizes, label=layer)
    right.plot(history.step, history.train_loss, "--", color="black", label="training loss")
    if history.validation_loss is not None:
        right.plot(history.step, history.validation_loss, "-", color="black", label="validation loss")
    left.set(xlabel="optimiser step", ylabel="size (effective units)", ylim=(0, None))
    right.set(xlabel="optimiser step", ylabel=f"loss ({unit})", yscale="log")
    return add_legend(figure, [*left.get_lines(), *right.get_lines()])


def figures(record: RunRecord) -> dict[str, Figure]:
    """Every figure that fits a finished experiment, by name.

    `loss`, `size` and `final-loss`; `information` where it was monitored; `price-path` after a path of prices;
    `choices` where layers chose their activation; `structure` where it changed; and `fit` for a regression with
    one input, or `regions` for a classification with two, whose inputs differ.
    """
    results = record.results
    seen = results.attrs["kind"], results.sizes.get("input", 0) if results.sizes.get("point", 1) else 0
    drawn = {
        "loss": (plot_losses, True),
        "size": (plot_sizes, True),
        "final-loss": (plot_final_losses, True),
        "information": (plot_information, bool(record.experiment.run.monitor)),
        "price-path": (plot_price_path, "price" in results.sizes),
        "choices": (plot_choices, "choice" in results.sizes),
        "structure": (plot_structure, "look" in results.sizes),
        "fit": (plot_fit, seen == ("regression", 1)),
        "regions": (plot_regions, seen == ("classification", 2)),
    }
    return {name: plot(record) for name, (plot, fits) in drawn.items() if fits}


def _one_panel(record, what):
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    return figure.subplots(subplot_kw={"title": f"{record.results.attrs['task']}: {what}"})


def _last_point(experiment: Experiment) -> str | None:
    """What the last record is of, where it is no further step; None where it is one."""
    if experiment.training.refit:
        return "the last point is of the refitted networks"
    solved = experiment.training.readout == "solved"
    return "the last point is after the read-outs are solved" if solved else None


def _draw_over_steps(axes, record, name, line=None, *, width=1.5, thinner=0.0):
    """Bands over the steps, a colour an arm (each thinner than the last), a style a layer; the quartiles."""
    steps, quartiles = record.results["step"], summary.bands(record.results, name)
    for layer in range(quartiles.sizes.get("layer", 1)):
        own = quartiles.isel(layer=layer, missing_dims="ignore")
        for below, arm in enumerate(arms_of(record)):
            thick = max(1.0, width - thinner * below)
            draw_band(
                axes, steps, own.sel(arm=arm), COLOURS[arm], line or _LAYER_STYLES[layer % 4], width=thick
            )
    axes.set_xlabel("optimiser step")
    return quartiles


def _with_legend(axes, record, *keys) -> Figure:
    """The figure with a legend of the arms, and how many runs of each diverged, before other entries."""
    lost, seeds = summary.has_diverged(record.results).sum("seed"), record.results.sizes["seed"]
    counts = {arm: int(lost.sel(arm=arm)) for arm in arms_of(record)}
    told = {arm: f" ({count}/{seeds} diverged)" if count else "" for arm, count in counts.items()}
    return add_legend(axes.figure, [*(line_key(arm + end, COLOURS[arm]) for arm, end in told.items()), *keys])


def _layer_keys(record):
    layers = record.results.sizes["layer"]
    return [line_key(f"layer {n + 1}", linestyle=_LAYER_STYLES[n % 4]) for n in range(layers) if layers > 1]


def _medians(record):
    return f"median over {_seeds(record)}" if record.results.sizes["seed"] > 1 else _seeds(record)


def _seeds(record):
    seeds = record.results.sizes["seed"]
    return f"{seeds} {'seed' if seeds == 1 else 'seeds'}"


def _loss_unit(record):
    return summary.LOSS_UNITS[record.results.attrs["kind"]]


def _scale(values):
    return "log" if (values > 0).any() else "linear"  # a logarithmic axis without a positive value is an error
