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
from n3.data.dataset import LARGE, Dataset, folds_of, number_of_folds
from n3.information import gaussian
from n3.information.measures import Importance, LayerMonitor, check_monitor, check_prune
from n3.information.price import degrees_of, prices_of
from n3.information.sizing import DriveHypers, InformationDrive
from n3.nn.losses import LossWeights, Samples
from n3.nn.mlp import Annealing
from n3.training.step import Hypers, Problem, Recipe, held_out_losses
from n3.training.sweep import Swept


def recipe_of(
    experiment: Experiment, arm: str, data: Dataset, *, importance: Importance | None = None
) -> Recipe:
    """The program of an arm of a resolved experiment, for data of this shape and maybe a user's importance."""
    network, training = experiment.network, experiment.training
    controller = {"static": "fixed", "equal-size": "fixed", "warmup": "warmup"}.get(arm, network.method)
    is_sized, is_classes = controller == network.method, data.kind == "classification"
    settings, steps, members = experiment.information, training.steps or 0, training.members or 0
    if experiment.structure.structure_every is not None:
        check_prune(experiment.structure.prune)
    own = {"is_classes": is_classes, "custom": importance, "has_members": members > 0}
    drive = InformationDrive.of(settings, steps=steps, **own)
    return Recipe(
        members=members,
        keep_every=max(1, steps // KEPT) if members else 1,
        held=largest_fold(len(data.train_inputs), members) if members else 0,
        in_size=data.in_size,
        out_size=data.out_size,
        controller=controller,
        layerwise=network.layerwise and is_sized,
        size_input=network.size_input and is_sized,
        rescale_size_input=arm == "rescaled",
        depth_gates=network.depth_gates and is_sized,
        loss="cross-entropy" if is_classes else "squared-error",
        drive=drive if controller == "information" else None,
        monitor=_monitor_of(experiment, data, importance),
        batch=batch_of(experiment, len(data.train_inputs)),
        **{name: getattr(network, name) for name in ("capacity", "mask", "activation", "initialisation")},
        **{name: getattr(training, name) for name in ("optimiser", "schedule")},
    )


def hypers_of(
    experiment: Experiment, arm: str, *, data: Sequence[Dataset], active: Int[np.ndarray, "seeds depth"] | None
) -> Hypers:
    """The numbers of an arm of a resolved experiment, each leaf with a first axis of seeds.

    `active` are the growing arm's units at its end, which the `equal-size` arm has; None: the capacity.
    """
    network, training, seeds = experiment.network, experiment.training, len(experiment.run.seeds)
    capacity, initial = np.array(network.capacity, np.float32), training.initial_size or 0.0
    equal = capacity if active is None else active
    first = {
        "growing": initial,
        "warmup": initial,
        "static": capacity,
        "shrinking": capacity,
        "equal-size": equal,
    }
    sizes = np.asarray(first.get(arm, training.target_size), np.float32)

    def each(value: float) -> jax.Array:
        return jnp.asarray(np.full(seeds, value, np.float32))  # `jnp.full` would compile

    samples, cost, drive = len(data[0].train_inputs), training.size_cost or 0.0, None
    prior = (training.weight_prior or 0.0) / samples
    if network.method == "information":
        settings = experiment.information
        prices = [
            prices_of(settings, one.train_inputs, samples=samples, outputs=degrees_of(one)) for one in data
        ]
        drive = DriveHypers.of(settings, prices, prior=prior, steps=training.steps or 0)
    fall = training.choice_first, training.choice_last, training.choice_end
    depth_cost = cost if drive is None else 0.0  # information has no target depth
    return Hypers(
        learning_rate=each(training.learning_rate),
        weights=LossWeights(each(cost), each(depth_cost), each(prior) if prior else None),
        initial_size=jnp.asarray(np.broadcast_to(sizes, (seeds, len(capacity)))),
        target_size=each(training.target_size),
        target_depth=each(float(len(capacity))),
        horizon=each(float(training.steps)),
        drive=drive,
        annealing=Annealing(*map(each, fall)) if network.choices else None,
    )


BATCH = 1024
"""Samples in a step where there are more than `LARGE` and nothing else is asked for."""


def batch_of(experiment: Experiment, samples: int) -> int | None:
    """Samples in a step of an experiment with so many training samples; None: all of them."""
    batch = experiment.training.batch
    if batch is None:
        return BATCH if samples > LARGE else None
    return None if batch == "full" else batch


def check_batch(experiment: Experiment, samples: int) -> None:
    """Refuse a batch of more training samples than a run has, of members than one trains on."""
    batch, members = batch_of(experiment, samples), experiment.training.members
    most = samples - largest_fold(samples, members) if members else samples
    if batch is not None and batch > most:
        raise ValueError(f"`batch` must lie in [1, {most}], the training samples; got {batch}.")


def concatenate(trees: Sequence[PyTree]) -> PyTree:
    """Trees of arrays as one, row after row; a single tree as it is."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)), *trees)


def repeat(tree: PyTree, times: int) -> PyTree:
    """Rows of a tree of arrays again and again; those that are one in memory stay so."""
    copies = lambda leaf: jnp.concatenate([leaf] * times)  # noqa: E731
    spread = lambda leaf: np.broadcast_to(leaf[0], (times * len(leaf), *leaf.shape[1:]))  # noqa: E731
    return jax.tree.map(lambda leaf: spread(leaf) if _is_one_row(leaf) else copies(leaf), tree)


def take(tree: PyTree, rows: Int[np.ndarray, " rows"]) -> PyTree:
    """Some rows of a tree of arrays; those that are one in memory stay so."""
    spread = lambda leaf: np.broadcast_to(leaf[0], (len(rows), *leaf.shape[1:]))  # noqa: E731
    return jax.tree.map(lambda leaf: spread(leaf) if _is_one_row(leaf) else leaf[rows], tree)


def _is_one_row(leaf: Any) -> bool:
    """Whether all rows of an array are the same memory, as `stack` gives them."""
    return isinstance(leaf, np.ndarray) and leaf.strides[0] == 0 and len(leaf) > 1


def _monitor_of(experiment: Experiment, data: Dataset, custom: Importance | None) -> LayerMonitor | None:
    names, samples, psi = experiment.run.monitor, len(data.train_inputs), experiment.information.psi
    check_monitor(names)
    if "gap" in names and samples <= 3:
        raise ValueError(f"`monitor` gap needs more than three training samples; got {samples}.")
    settings = {"is_classes": data.kind == "classification", "psi": float(gaussian.PSI.get(psi, psi))}
    return LayerMonitor(names=names, custom=custom, **settings) if names else None


KEPT = 50
"""Moments of a run at which members may be kept, about."""


def largest_fold(samples: int, members: int) -> int:
    """Samples that a member holds out at most."""
    return -(-samples // number_of_folds(members))


def stack(data: Sequence[Dataset], *, members: int = 0, seeds: Sequence[int] = ()) -> Problem:
    """The samples of all seeds in the layout of training, with a first axis of seeds, and members' folds.

    The unit of a target is a share of the largest one, `units_of`, which may be beyond all numbers of float32.
    Where the seeds have one data set, their samples are views of the same memory, of NumPy.
    """
    alone = data[:1] if all(one is data[0] for one in data) else data
    spread = lambda own: np.broadcast_to(own, (len(data), *own.shape[1:]))  # noqa: E731
    placed = spread if len(alone) < len(data) else jnp.asarray

    def side(name: str) -> Samples:
        parts = ([getattr(one, f"{name}_{part}").T for one in alone] for part in ("inputs", "targets"))
        inputs, targets = map(np.stack, parts)
        shares = np.full(inputs.shape[::2], 1.0 / inputs.shape[-1], np.float32)
        for row, one in zip(shares, alone, strict=True):
            if name == "train" and one.train_weights is not None:
                row[:] = one.train_weights / one.train_weights.sum()
        return Samples(*map(placed, (inputs, targets, shares)))

    unit = np.stack([each.target_scale for each in data]) / units_of(data)[:, None]
    folds, number = None, number_of_folds(members)
    if members:
        each, is_classes = zip(data, seeds, strict=True), data[0].kind == "classification"
        drawn = [folds_of(one.train_targets, number, is_classes=is_classes, seed=seed) for one, seed in each]
        folds = jnp.asarray(np.stack(drawn))
    return Problem(train=side("train"), test=side("test"), unit=jnp.asarray(unit, jnp.float32), folds=folds)


def units_of(data: Sequence[Dataset]) -> Float[np.ndarray, " seeds"]:
    """The largest of the targets' own units in one scaled unit, in float64."""
    return np.array([each.target_scale.max() for each in data])


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
    """The highest price, hence the fewest units, that is as good as the best one by validation losses.

    The best price has the least median loss over the seeds. As good is a median within one standard error of
    it: of the logarithm of the loss at the best price, over the seeds, where all losses are positive; of the
    loss itself where one is not; and 0 with a single seed. By rule `best` the standard error counts as 0.
    Runs that diverged (NaN or infinite) are left out, and so are prices at which more did than need be; where
    all did, the first price is kept. Prices rise along the first axis.

    References:
        Breiman, Friedman, Olshen and Stone, "Classification and regression trees", 1984, section 3.4.3: the
        rule of one standard error, there for the mean and without the logarithm.
    """
    known = losses[np.isfinite(losses)]
    if not known.size:
        return Pick(index=0, best=0, bound=np.nan)
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
    """The runs of the price that is kept, with the seconds that all prices took; and what became of all.

    The runs `swept` are of all seeds at every price, price after price. `held` has for each seed the samples
    that are held out, as its test samples, by whose task loss (as in `Recipe`) a price is kept.
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
    test, validation = (np.where(is_lost, np.nan, losses) for losses in (test, validation))
    sizes = np.where(is_lost[..., None], np.nan, sizes)
    pick = pick_price(validation, experiment.information.select)
    path = PricePath(prices=prices, sizes=sizes, test_losses=test, validation_losses=validation, pick=pick)
    state = jax.tree.map(jnp.asarray, at(pick.index, whole))
    return dataclasses.replace(swept, state=state, records=at(pick.index, swept.records)), path
