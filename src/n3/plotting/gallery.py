"""Gallery: every figure that fits a finished experiment."""

from n3.experiments.results import RunRecord
from n3.plotting.choices import plot_choices
from n3.plotting.runs import (
    Figure,
    plot_final_losses,
    plot_fit,
    plot_information,
    plot_losses,
    plot_price_path,
    plot_regions,
    plot_sizes,
)


def figures(record: RunRecord) -> dict[str, Figure]:
    """Every figure that fits the task.

    Args:
        record: A finished experiment.

    Returns:
        `loss`, `size` and `final-loss`; `information` where it was monitored; `price-path` after a path of
        prices; `choices` where layers chose their activation; and `fit` for a regression with one input, or
        `regions` for a classification with two.
    """
    made = {"loss": plot_losses(record), "size": plot_sizes(record), "final-loss": plot_final_losses(record)}
    if record.experiment.run.monitor:
        made["information"] = plot_information(record)
    if "price" in record.results.sizes:
        made["price-path"] = plot_price_path(record)
    if "choice" in record.results.sizes:
        made["choices"] = plot_choices(record)
    match record.results.attrs["kind"], record.results.sizes["input"]:
        case "regression", 1:
            return made | {"fit": plot_fit(record)}
        case "classification", 2:
            return made | {"regions": plot_regions(record)}
    return made
