"""Plotting of choices: how the shares of activations part until every layer has one."""

from n3.experiments.results import RunRecord
from n3.plotting.runs import CLASS_COLOURS, Figure, Line2D, add_legend, arms_of, band_key, draw_band, titled
from n3.stats.summary import bands


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
    keys = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    limit = Line2D([], [], color="black", linestyle=":", label="hard from here")
    add_legend(figure, [*keys, limit, band_key("quartiles")])
    return figure
