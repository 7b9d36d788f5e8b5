"""Plotting of the paper: each published experiment's figure in the form in which it is published."""

from collections.abc import Mapping, Sequence
from typing import Any

from n3.paper.claims import Reproduction
from n3.paper.contenders import Trained
from n3.paper.references import BOTH
from n3.paper.verdicts import Verdict
from n3.paper.watching import Watched
from n3.plotting.animation import draw_fit
from n3.plotting.runs import Figure, Line2D, add_legend, band_key, draw_band, titled
from n3.plotting.scaling import CONTENDER_COLOURS, plot_penalty, plot_scaling, plot_sizes_found
from n3.plotting.studies import plot_classes, plot_histograms
from n3.stats import curves
from n3.stats.summary import bands


def paper_figure(
    reproduction: Reproduction,
    trained: Sequence[Trained],
    results: Sequence[Any],
    verdicts: Sequence[Verdict],
    watched: Sequence[Watched],
) -> Figure:
    """The figure of a reproduction.

    Args:
        reproduction: The experiment.
        trained: Its parts, trained.
        results: What `studies.run` returned for each of them.
        verdicts: Its verdicts.
        watched: A run of each arm that was watched; only `histories` draws them.
    """
    title, unit = f"{reproduction.name}: {reproduction.title}", {"unit": reproduction.loss_unit}
    match reproduction.figure:
        case "histories":
            return plot_histories(title, results[0].isel(cell=0), watched, **unit)
        case "histograms":
            return plot_histograms(title, curves.histograms(trained, BOTH), **unit)
        case "classes":
            counts = curves.confusions(trained, results, BOTH)
            return plot_classes(title, curves.histograms(trained, BOTH), counts, **unit)
        case "penalty":
            ratios = {verdict.claim.where["size_cost"]: verdict.ours for verdict in verdicts}
            return plot_penalty(title, curves.penalty_curves(trained, BOTH), ratios, **unit)
        case "bands":
            histories = {
                name: own.isel(cell=0).sel(arm=arm)
                for part, own in zip(trained, results, strict=True)
                for arm, name in part.part.contenders().items()
            }
            return plot_bands(title, histories, **unit)
        case "scaling":
            found = curves.scaling_curves(trained, ("static", "growing", "warmup"))
            return plot_scaling(title, found, **unit)
        case "sizes":
            return plot_sizes_found(title, curves.size_points(trained))


def plot_histories(title: str, results: Any, watched: Sequence[Watched], *, unit: str) -> Figure:
    """Size, test loss and mean ratio over steps, and the last fit of the watched runs with its residual.

    Args:
        title: Of the whole figure.
        results: Records over arm, seed, step and layer, with the arms growing and grown.
        watched: Runs that were watched, a regression with one input.
        unit: Unit of the losses.
    """
    figure = titled(title, 12.0, 7.5)
    places = figure.add_gridspec(3, 2, height_ratios=(1, 1, 0.6))
    size, loss = (figure.add_subplot(place) for place in (places[0, 0], places[0, 1]))
    ratio = figure.add_subplot(places[1:, 0])
    fit = figure.add_subplot(places[1, 1])
    residual = figure.add_subplot(places[2, 1], sharex=fit)
    _draw_over_steps(size, results, "size", BOTH, {"ylabel": "size (effective units)"})
    _draw_over_steps(loss, results, "test_loss", BOTH, {"ylabel": f"test loss ({unit})", "yscale": "log"})
    ratio.plot(results["step"], curves.mean_ratio(results, *BOTH[::-1]), color="black")
    ratio.axhline(1, color="black", linestyle="--", linewidth=0.8)
    ratio.set(xlabel="optimiser step", ylabel="mean test loss, grown / growing", yscale="log")
    for run, name in zip(watched, BOTH, strict=True):
        draw_fit(fit, residual, run, -1, colour=CONTENDER_COLOURS[name])
    fit.tick_params(labelbottom=False)
    lines = [Line2D([], [], color=CONTENDER_COLOURS[name], label=name) for name in BOTH]
    samples = Line2D([], [], color="#888888", marker=".", linestyle="", label="training samples")
    add_legend(figure, [*lines, band_key("quartiles"), samples], place="center")
    return figure


def plot_bands(title: str, histories: Mapping[str, Any], *, unit: str) -> Figure:
    """Test loss, size and, of classes, accuracy over steps: median and quartiles over each contender's trials.

    Args:
        title: Of the whole figure.
        histories: Records over seed, step and layer of each contender.
        unit: Unit of the losses; nats where there are classes.
    """
    panels = {"test_loss": f"test loss ({unit})", "size": "size (effective units)"}
    panels |= {"test_metric": "test accuracy"} if unit == "nats" else {}
    figure = titled(title, 8.5, 0.8 + 2.6 * len(panels))
    for axes, (name, told) in zip(figure.subplots(len(panels), sharex=True), panels.items(), strict=True):
        for place, (contender, own) in enumerate(histories.items()):
            found = bands(own.sum("layer") if name == "size" else own, name)
            width = max(1.0, 2.6 - 0.3 * place)  # contenders on one another stay visible
            draw_band(axes, own["step"], found, CONTENDER_COLOURS[contender], "-", width=width)
        axes.set(ylabel=told, yscale="log" if name == "test_loss" else "linear")
    axes.set_xlabel("optimiser step")
    lines = [Line2D([], [], color=CONTENDER_COLOURS[name], label=name) for name in histories]
    add_legend(figure, [*lines, band_key("quartiles")], place="center")
    return figure


def _draw_over_steps(axes, results, name, arms, labels):
    results = results.sum("layer") if name == "size" else results
    found = bands(results, name)
    for arm in arms:
        draw_band(axes, results["step"], found.sel(arm=arm), CONTENDER_COLOURS[arm], "-")
    axes.set(xlabel="optimiser step", **labels)
