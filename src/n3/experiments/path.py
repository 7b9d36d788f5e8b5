"""Path: the growing arm at every price of a path, in one sweep, and the price at which it is kept."""

import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from numpy.random import default_rng

from n3.config.experiment import Experiment
from n3.data.dataset import Dataset
from n3.experiments.arms import hypers_of, stack
from n3.nn.losses import Samples, task_loss
from n3.nn.mlp import GrowingMLP
from n3.stats.prices import PricePath, pick_price
from n3.training.step import Hypers, Problem
from n3.training.sweep import Swept

SHARE = 5
"""One in so many training samples is held out to choose the price, or to judge changes of structure."""


def held_out(data: Dataset, *, seed: int) -> tuple[Dataset, Dataset]:
    """A data set without a fifth of its training samples (rounded down), and those samples.

    Classes are not stratified, and the scales stay those of all training samples.

    Args:
        data: The whole data set.
        seed: Decides which samples; its stream is none of those that a data set is drawn from.

    Returns:
        The data set with the samples that are left to train on, in their order; and the same with the samples
        held out in place of its test samples.

    Raises:
        ValueError: If there are fewer than five training samples.
    """
    samples = len(data.train_inputs)
    if samples < SHARE:
        raise ValueError(f"`samples` must be {SHARE} or more where a fifth is held out; got {samples}.")
    order = default_rng(seed).spawn(3)[2].permutation(samples)
    out, kept = np.sort(order[: samples // SHARE]), np.sort(order[samples // SHARE :])
    left = {"train_inputs": data.train_inputs[kept], "train_targets": data.train_targets[kept]}
    taken = {"test_inputs": data.train_inputs[out], "test_targets": data.train_targets[out]}
    return dataclasses.replace(data, **left), dataclasses.replace(data, **left, **taken)


def at_price(experiment: Experiment, price: float) -> Experiment:
    """The same experiment at one price, nats per sample."""
    information = dataclasses.replace(experiment.information, price=price, price_scale=1.0)
    return dataclasses.replace(experiment, information=information)


def along(
    experiment: Experiment, data: Sequence[Dataset], problem: Problem, keys: Key[Array, " seeds"]
) -> tuple[Hypers, Problem, Key[Array, " runs"]]:
    """What the growing arm trains with at all prices, price after price: only the price differs between them.

    Args:
        experiment: A resolved experiment with a path of prices.
        data: The data set of each seed.
        problem: Their samples, with a first axis of seeds.
        keys: The key of each seed.

    Returns:
        Numbers, samples and keys with a first axis of prices times seeds: run `p * seeds + s` has price `p`.
    """
    prices = experiment.information.path
    rows = [hypers_of(at_price(experiment, price), "growing", data=data, active=None) for price in prices]
    hypers = jax.tree.map(lambda *parts: jnp.concatenate(parts), *rows)
    problem = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * len(prices)), problem)
    return hypers, problem, jnp.concatenate([keys] * len(prices))


def picked(
    experiment: Experiment, swept: Swept, held: Sequence[Dataset], *, loss: str
) -> tuple[Swept, PricePath]:
    """The runs of the price that is kept, and what became of all.

    Args:
        experiment: A resolved experiment with a path of prices.
        swept: The runs, in the order of `along`.
        held: The samples held out for each seed, as its test samples.
        loss: The task's loss, as in `Recipe`.

    Returns:
        The rows of the price that is kept, in the order of the seeds, with the seconds that all prices took;
        and the path.

    Raises:
        ValueError: If every run diverged.
    """
    prices, seeds = experiment.information.path, len(held)
    shape = (len(prices), seeds)
    is_lost = np.asarray(swept.state.diverged_at).reshape(shape) >= 0
    test = swept.records.test_loss[:, -1].reshape(shape)
    sizes = swept.records.size[:, -1].reshape(*shape, -1)
    validation = _losses(swept, held, loss).reshape(shape)
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
    rows = slice(pick.index * seeds, (pick.index + 1) * seeds)
    state, records = jax.tree.map(lambda leaf: leaf[rows], (swept.state, swept.records))
    return dataclasses.replace(swept, state=state, records=records), path


@eqx.filter_jit
def losses_of(nets: GrowingMLP, samples: Samples, loss: str) -> Float[Array, " seeds"]:
    """Task loss of each seed's network over the samples that it held out.

    Args:
        nets: Networks with a first axis of seeds.
        samples: The samples of each seed, stacked alike.
        loss: The task's loss, as in `Recipe`.
    """
    return eqx.filter_vmap(lambda net, own: task_loss(net, own, loss))(nets, samples)


def _losses(swept: Swept, held: Sequence[Dataset], loss: str) -> np.ndarray:
    """Loss of each run over the samples that its seed held out; one price at a time."""
    samples = stack(held).test
    rows = range(0, swept.records.test_loss.shape[0], len(held))
    nets = (jax.tree.map(lambda leaf, row=row: leaf[row : row + len(held)], swept.state.net) for row in rows)
    return np.concatenate([np.asarray(losses_of(net, samples, loss)) for net in nets])
