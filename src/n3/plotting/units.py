"""Plotting of units: how they take part as a size grows, what each adds, and what sizes a fit found."""

from jaxtyping import Float
from numpy import ndarray

from n3.plotting.runs import CLASS_COLOURS, COLOURS, Figure, Line2D, add_legend, titled
from n3.training.fit import History


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
    add_legend(
        figure,
        [line, *(Line2D([], [], color=c, marker="o", linestyle="", label=n) for n, c in marks.items())],
    )
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
