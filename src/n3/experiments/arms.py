"""Arms: what each arm of an experiment trains with, and the price at which the growing arm is kept."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from n3.config.experiment import Experiment, Select
from n3.data.dataset import Dataset
from n3.information import gaussian
from n3.information.measures import Importance, LayerMonitor
from n3.information.price import degrees_of, prices_of
from n3.information.sizing import DriveHypers, InformationDrive
from n3.nn.losses import LossWeights, Samples
from n3.nn.mlp import Annealing
from n3.training.step import Hypers, Problem, Recipe, held_out_losses
from n3.training.sweep import Swept


def recipe_of(
    experiment: Experiment, arm: str, data: Dataset, *, importance: Importance | None = None
) -> Recipe:
    """The program of an arm; the experiment must be resolved.

    Args:
        experiment: A resolved experiment.
        arm: The arm.
        data: Any seed's data set: its shapes count.
        importance: A user's importance of units in place of the built-in one.
    """
    network, training = experiment.network, experiment.training
    controller = {"static": "fixed", "equal-size": "fixed", "warmup": "warmup"}.get(arm, network.method)
    is_sized, is_classes = controller == network.method, data.kind == "classification"
    settings, steps = experiment.information, training.steps or 0
    drive = InformationDrive.of(settings, steps=steps, is_classes=is_classes, custom=importance)
    return Recipe(
        in_size=data.in_size,
        out_size=data.out_size,
        capacity=network.capacity,
        controller=controller,
        layerwise=network.layerwise and is_sized,
        mask=network.mask,
        activation=network.activation,
        size_input=network.size_input and is_sized,
        rescale_size_input=arm == "rescaled",
        depth_gates=network.depth_gates and is_sized,
        initialisation=network.initialisation,
        loss="cross-entropy" if is_classes else "squared-error",
        optimiser=training.optimiser,
        schedule=training.schedule,
        drive=drive if controller == "information" else None,
        monitor=_monitor_of(experiment, data, importance),
        batch=None if training.batch == "full" else training.batch,
    )


def hypers_of(
    experiment: Experiment, arm: str, *, data: Sequence[Dataset], active: Int[np.ndarray, "seeds depth"] | None
) -> Hypers:
    """The numbers of an arm, one row a seed.

    Args:
        experiment: A resolved experiment.
        arm: The arm.
        data: The data set of each seed.
        active: Active units of the growing arm's layers at its end; the `equal-size` arm has just these.

    Returns:
        Hypers whose leaves have a first axis of seeds.
    """
    training, capacity = experiment.training, np.array(experiment.network.capacity, np.float32)
    seeds = len(experiment.run.seeds)
    first = {
        "growing": np.full_like(capacity, training.initial_size or 0.0),
        "warmup": np.full_like(capacity, training.initial_size or 0.0),
        "static": capacity,
        "shrinking": capacity,
        "equal-size": capacity if active is None else active,
    }.get(arm, np.full_like(capacity, training.target_size))

    def each(value: float) -> jax.Array:
        return jnp.full(seeds, value, jnp.float32)

    samples = len(data[0].train_inputs)
    prior = each(training.weight_prior / samples) if training.weight_prior else None
    cost = training.size_cost or 0.0
    fall = training.choice_first, training.choice_last, training.choice_end
    depth_cost = 0.0 if experiment.network.method == "information" else cost  # it has no target depth
    return Hypers(
        learning_rate=each(training.learning_rate),
        weights=LossWeights(each(cost), each(depth_cost), prior),
        initial_size=jnp.broadcast_to(jnp.asarray(first, jnp.float32), (seeds, len(capacity))),
        target_size=each(training.target_size),
        target_depth=each(float(len(capacity))),
        horizon=each(float(training.steps)),
        drive=_drive_hypers_of(experiment, data) if experiment.network.method == "information" else None,
        annealing=Annealing(*map(each, fall)) if experiment.network.choices else None,
    )


def concatenate(trees: Sequence[PyTree]) -> PyTree:
    """Trees of arrays as one, row after row."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)


def _monitor_of(experiment: Experiment, data: Dataset, custom: Importance | None) -> LayerMonitor | None:
    names, samples = experiment.run.monitor, len(data.train_inputs)
    if "gap" in names and samples <= 3:
        raise ValueError(f"`monitor` gap needs more than three training samples; got {samples}.")
    psi = float(gaussian.PSI.get(experiment.information.psi, experiment.information.psi))
    settings = {"is_classes": data.kind == "classification", "psi": psi}
    return LayerMonitor(names=names, custom=custom, **settings) if names else None


def _drive_hypers_of(experiment: Experiment, data: Sequence[Dataset]) -> DriveHypers:
    settings, samples = experiment.information, len(data[0].train_inputs)
    prices = [prices_of(settings, one.train_inputs, samples=samples, outputs=degrees_of(one)) for one in data]
    return DriveHypers.of(settings, prices, prior=(experiment.training.weight_prior or 0.0) / samples)


def stack(data: Sequence[Dataset]) -> Problem:
    """The samples of all seeds in the layout of training, with a first axis of seeds."""

    def side(name: str) -> Samples:
        inputs, targets = (
            jnp.asarray(np.stack([getattr(each, f"{name}_{part}").T for each in data]))
            for part in ("inputs", "targets")
        )
        samples = inputs.shape[-1]
        return Samples(inputs, targets, jnp.full((len(data), samples), 1.0 / samples))

    unit = jnp.asarray(np.stack([each.target_scale for each in data]), jnp.float32)
    return Problem(train=side("train"), test=side("test"), unit=unit)


def stops_of(experiment: Experiment) -> Int[np.ndarray, " records"]:
    """Steps at which the runs are recorded: the first, the last, and evenly between."""
    steps = experiment.training.steps
    return np.unique(np.linspace(0, steps, min(experiment.run.records, steps) + 1).round().astype(np.int32))


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


def pick_price(losses: Float[np.ndarray, "prices seeds"], rule: Select = "smallest") -> Pick:
    """The highest price, hence the fewest units, that is as good as the best one.

    The best price has the least median loss over the seeds. As good is a median within one standard error of
    it: of the logarithm of the loss at the best price, over the seeds, where all losses are positive; of the
    loss itself where one is not; and 0 with a single seed. By rule `best` the standard error counts as 0.
    Runs that diverged (NaN or infinite) are left out, and so are prices at which more did than need be.

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
    finite = [row[np.isfinite(row)].astype(float) for row in losses]
    most = max(len(row) for row in finite)
    medians = [float(np.median(row)) if len(row) == most else np.inf for row in finite]
    scores = np.log(medians) if is_logarithmic else np.array(medians)
    best = int(np.flatnonzero(scores == scores.min())[-1])
    own = np.log(finite[best]) if is_logarithmic else finite[best]
    is_known = rule == "smallest" and len(own) > 1
    spread = float(np.std(own, ddof=1) / np.sqrt(len(own))) if is_known else 0.0
    index = int(np.flatnonzero(scores <= scores[best] + spread)[-1])
    bound = medians[best] * np.exp(spread) if is_logarithmic else medians[best] + spread
    return Pick(index=index, best=best, bound=float(bound))


def over_prices(experiment: Experiment) -> list[Experiment]:
    """The experiment at every price of its path, nats per sample; as it is where it has none."""
    own = experiment.information
    priced = [dataclasses.replace(own, price=price, price_scale=1.0) for price in own.path]
    return [dataclasses.replace(experiment, information=each) for each in priced] or [experiment]


def keep_price(
    experiment: Experiment, swept: Swept, held: Sequence[Dataset], *, loss: str
) -> tuple[Swept, PricePath]:
    """The runs of the price that is kept, and what became of all.

    Args:
        experiment: A resolved experiment with a path of prices.
        swept: The runs of all seeds at every price, price after price.
        held: The samples held out for each seed, as its test samples.
        loss: The task's loss, as in `Recipe`.

    Returns:
        The rows of the price that is kept, in the order of the seeds, with the seconds that all prices took;
        and the path.

    Raises:
        ValueError: If every run diverged.
    """
    prices, samples, seeds = experiment.information.path, stack(held).test, len(held)
    whole = jax.device_get(swept.state)  # slices of what devices share can wait for each other for ever

    def at(place: int, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[place * seeds : (place + 1) * seeds], tree)

    nets = (at(place, whole.net) for place in range(len(prices)))
    validation = np.stack([np.asarray(held_out_losses(net, samples, loss)) for net in nets])
    test = swept.records.test_loss[:, -1].reshape(validation.shape)
    sizes = swept.records.size[:, -1].reshape(*validation.shape, -1)
    is_lost = whole.diverged_at.reshape(validation.shape) >= 0
    is_lost |= ~np.isfinite(test) | ~np.isfinite(validation)
    validation = np.where(is_lost, np.nan, validation)
    pick = pick_price(validation, experiment.information.select)
    path = PricePath(
        prices=prices,
        sizes=np.where(is_lost[..., None], np.nan, sizes),
        test_losses=np.where(is_lost, np.nan, test),
        validation_losses=validation,
        pick=pick,
    )
    state = jax.tree.map(jnp.asarray, at(pick.index, whole))
    return dataclasses.replace(swept, state=state, records=at(pick.index, swept.records)), path
