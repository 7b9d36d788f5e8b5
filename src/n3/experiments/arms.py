"""Arms: which program, which numbers and which samples each arm of an experiment trains with."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from n3.config.experiment import Experiment
from n3.data.dataset import Dataset
from n3.information import gaussian
from n3.information.monitor import LayerMonitor
from n3.information.sizing import DriveHypers, InformationDrive
from n3.information.terms import Importance
from n3.nn.choices import Annealing
from n3.nn.losses import LossWeights, Samples
from n3.training.step import Hypers, Problem, Recipe


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
    is_sized = controller == network.method
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
        loss="squared-error" if data.kind == "regression" else "cross-entropy",
        optimiser=training.optimiser,
        gumbel=training.gumbel,
        schedule=training.schedule,
        drive=_drive_of(experiment, data, importance) if controller == "information" else None,
        monitor=_monitor_of(experiment, data, importance),
        batch=None if training.batch == "full" else training.batch,
    )


def hypers_of(
    experiment: Experiment,
    arm: str,
    *,
    data: Sequence[Dataset],
    active: Int[np.ndarray, "seeds depth"] | None,
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


def price_of(experiment: Experiment, data: Dataset) -> float:
    """Nats per sample that a further unit must bring, from the samples of one seed.

    By description length `k ln(n) / (4 n)` for a unit's `k` parameters, half the usual charge, which
    `scripts/study_sizing.py` chose: the prior charges for weights too. They are its effective inputs, its bias
    and its outgoing weights; the effective inputs are the participation ratio `tr(C)**2 / tr(C**2)` of the
    inputs' covariance `C`. By chi-square the 95 % quantile, with a degree of freedom for each output, over
    `2 n`: the gain that a unit without any information reaches in one case of twenty.
    """
    settings, samples = experiment.information, len(data.train_inputs)
    covariance = np.atleast_2d(np.cov(data.train_inputs.T.astype(float)))
    inputs = np.trace(covariance) ** 2 / max(np.sum(covariance**2), np.finfo(float).tiny)
    parameters = inputs + 1 + data.out_size
    price = {
        "description-length": parameters * _parameter_price(experiment, samples),
        "chi-square": _chi_square(data.out_size) / (2 * samples),
    }.get(settings.price, settings.price)
    return settings.price_scale * price


def _parameter_price(experiment: Experiment, samples: int) -> float:
    """Nats of one parameter by description length; zero under another price."""
    return math.log(samples) / (4 * samples) if experiment.information.price == "description-length" else 0.0


def _drive_of(experiment: Experiment, data: Dataset, importance: Importance | None) -> InformationDrive:
    settings, steps = experiment.information, experiment.training.steps or 0
    return InformationDrive(
        is_classes=data.kind == "classification",
        every=settings.every,
        look_ahead=settings.look_ahead,
        reorder=settings.reorder,
        until=math.ceil(settings.settle * steps),
        birth_until=math.ceil(settings.birth_end * steps) if settings.birth else 0,
        redundancy_aware=settings.redundancy_aware,
        correct=settings.correct,
        terms=any((settings.importance, settings.redundancy, settings.structure)),
        features=settings.features,
        custom=importance,
    )


def _monitor_of(experiment: Experiment, data: Dataset, importance: Importance | None) -> LayerMonitor | None:
    names, samples = experiment.run.monitor, len(data.train_inputs)
    if "gap" in names and samples <= 3:
        raise ValueError(f"`monitor` gap needs more than three training samples; got {samples}.")
    is_classes = data.kind == "classification"
    monitor = LayerMonitor(names=names, is_classes=is_classes, psi=_psi_of(experiment), custom=importance)
    return monitor if names else None


def _psi_of(experiment: Experiment) -> float:
    psi = experiment.information.psi
    return gaussian.PSI[psi] if isinstance(psi, str) else float(psi)


def _drive_hypers_of(experiment: Experiment, data: Sequence[Dataset]) -> DriveHypers:
    settings = experiment.information

    def each(value: float) -> jax.Array:
        return jnp.full(len(data), value, jnp.float32)

    return DriveHypers(
        price=jnp.array([price_of(experiment, one) for one in data], jnp.float32),
        link_price=each(settings.price_scale * _parameter_price(experiment, len(data[0].train_inputs))),
        log_start=each(math.log(settings.price_start)),
        budget=each(float(settings.budget or 0)),
        birth=each(settings.birth),
        prior=each((experiment.training.weight_prior or 0.0) / len(data[0].train_inputs)),
        rate=each(settings.size_rate),
        importance=each(settings.importance),
        psi=each(_psi_of(experiment)),
        redundancy=each(settings.redundancy),
        structure=each(settings.structure),
    )


def _chi_square(outputs: int) -> float:
    """The 95 % quantile of chi-square with so many degrees of freedom.

    References:
        Wilson and Hilferty, "The distribution of chi-square" (1931): within 2 % here.
    """
    spread = 2.0 / (9.0 * outputs)
    return outputs * (1.0 - spread + 1.6448536 * math.sqrt(spread)) ** 3


def stack(data: Sequence[Dataset]) -> Problem:
    """The samples of all seeds in the layout of training, with a first axis of seeds."""

    def side(name: str) -> Samples:
        inputs, targets = (
            jnp.stack([getattr(each, f"{name}_{part}").T for each in data]) for part in ("inputs", "targets")
        )
        samples = inputs.shape[-1]
        return Samples(inputs, targets, jnp.full((len(data), samples), 1.0 / samples))

    unit = jnp.stack([jnp.asarray(each.target_scale, jnp.float32) for each in data])
    return Problem(train=side("train"), test=side("test"), unit=unit)


def stops_of(experiment: Experiment) -> Int[np.ndarray, " records"]:
    """Steps at which the runs are recorded: the first, the last, and evenly between."""
    steps = experiment.training.steps
    return np.unique(np.linspace(0, steps, min(experiment.run.records, steps) + 1).round().astype(np.int32))
