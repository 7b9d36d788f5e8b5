"""Prices: which price of a path is kept, and what the path says, as numbers and as words."""

import textwrap
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

Rule = Literal["smallest", "best"]


@dataclass(frozen=True, kw_only=True)
class Pick:
    """The price that is kept, by its place in the path."""

    index: int
    best: int
    """Place of the price of least loss; of several, the highest."""
    bound: float
    """Highest median loss that a price may have and be kept."""


@dataclass(frozen=True, kw_only=True)
class PricePath:
    """The growing arm at the end of its run at every price; NaN where a run diverged."""

    prices: tuple[float, ...]
    """Nats per sample, rising."""
    sizes: Float[np.ndarray, "prices seeds depth"]
    """Effective units of each layer."""
    test_losses: Float[np.ndarray, "prices seeds"]
    validation_losses: Float[np.ndarray, "prices seeds"]
    """Task loss over the samples held out of training."""
    pick: Pick

    def variables(self) -> dict[str, Any]:
        """What the path adds to the variables of `results.nc`, over the dimension `price`."""
        return {
            "path_size": (("price", "seed", "layer"), self.sizes),
            "path_test_loss": (("price", "seed"), self.test_losses),
            "path_validation_loss": (("price", "seed"), self.validation_losses),
            "price": (("price",), np.array(self.prices), {"units": "nats"}),
        }

    def attributes(self) -> dict[str, int | float]:
        """What the path adds to the attributes of `results.nc`."""
        pick = self.pick
        return {"picked_price": pick.index, "best_price": pick.best, "validation_loss_bound": pick.bound}


def pick_price(losses: Float[np.ndarray, "prices seeds"], rule: Rule = "smallest") -> Pick:
    """The highest price, hence the fewest units, that is as good as the best one.

    The best price has the least median loss over the seeds. As good is a median within one standard error of
    it: of the logarithm of the loss at the best price, over the seeds, where all losses are positive; of the
    loss itself where one is not; and 0 with a single seed. By rule `best` the standard error counts as 0.
    Losses that are NaN or infinite (diverged runs) are left out.

    Args:
        losses: Validation losses; prices rise along the first axis.
        rule: `smallest` as above, or `best`.

    Returns:
        The price's place in the path, the best one's, and the bound in the unit of the loss.

    Raises:
        ValueError: If no loss is finite.

    References:
        Breiman, Friedman, Olshen and Stone, "Classification and regression trees", 1984, section 3.4.3: the
        rule of one standard error, there for the mean and without the logarithm.
    """
    known = losses[np.isfinite(losses)]
    if not known.size:
        raise ValueError("`price`: every run of the path diverged; lower `learning_rate` or the prices.")
    is_logarithmic = bool(np.all(known > 0))
    medians = [_median(row) for row in losses]
    scores = np.log(medians) if is_logarithmic else np.array(medians)
    best = int(np.flatnonzero(scores == scores.min())[-1])
    own = losses[best][np.isfinite(losses[best])].astype(float)
    spread = _standard_error(np.log(own) if is_logarithmic else own) if rule == "smallest" else 0.0
    index = int(np.flatnonzero(scores <= scores[best] + spread)[-1])
    bound = medians[best] * np.exp(spread) if is_logarithmic else medians[best] + spread
    return Pick(index=index, best=best, bound=float(bound))


def path_curves(results: Any) -> dict[str, Float[np.ndarray, "quartiles prices"]]:
    """Quartiles over the seeds of what became of the growing arm at each price.

    Args:
        results: An xarray data set with a price path.

    Returns:
        Low, median and high of `size` (effective units, summed over layers), `test_loss` and
        `validation_loss`, over the runs that did not diverge; NaN at a price at which all did.
    """
    sizes = results["path_size"].values.sum(axis=-1)
    losses = {name: results[f"path_{name}"].values for name in ("test_loss", "validation_loss")}
    return {name: _quartiles(values) for name, values in {"size": sizes, **losses}.items()}


def summarise_path(results: Any) -> dict[str, Any]:
    """The entry `price_path` of `summary.json`, or nothing where `results` has no price path."""
    if "price" not in results.sizes:
        return {}
    medians = {name: quartiles[1].tolist() for name, quartiles in path_curves(results).items()}
    path = {
        "prices": results["price"].values.tolist(),
        "median_sizes": medians["size"],
        "median_test_losses": medians["test_loss"],
        "median_validation_losses": medians["validation_loss"],
        "diverged": (~np.isfinite(results["path_validation_loss"].values)).sum(axis=1).tolist(),
        "picked": int(results.attrs["picked_price"]),
        "best": int(results.attrs["best_price"]),
        "validation_loss_bound": float(results.attrs["validation_loss_bound"]),
    }
    return {"price_path": path}


def told(summary: dict[str, Any]) -> list[str]:
    """Which price was picked and why, as one text of lines of 100 columns or fewer; nothing without a path."""
    if "price_path" not in summary:
        return []
    path = summary["price_path"]

    def of(index: int) -> str:
        size, loss = (path[f"median_{name}"][index] for name in ("sizes", "validation_losses"))
        return f"{path['prices'][index]:.3g} nats (size {size:.2f}, validation loss {loss:.3e})"

    picked, best = path["picked"], path["best"]
    reason = (
        "the least validation loss"
        if picked == best
        else f"the highest within one standard error of the best, {of(best)}: "
        f"up to {path['validation_loss_bound']:.3e}"
    )
    text = f"Price of the growing arm, of {len(path['prices'])} tried: {of(picked)}, {reason}."
    return [textwrap.fill(text, 100)]


def runs_in(results: Any) -> int:
    """Runs that the results took: arms times seeds, with the growing arm once for each price of a path."""
    sizes = results.sizes
    return sizes["seed"] * (sizes["arm"] + sizes.get("price", 1) - 1)


def _median(values):
    known = values[np.isfinite(values)].astype(float)
    return float(np.median(known)) if known.size else np.inf


def _standard_error(values):
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _quartiles(values):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)  # NaN is the answer there
        return np.nanquantile(values, [0.25, 0.5, 0.75], axis=1)
