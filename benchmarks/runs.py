"""Runs: the arms of a benchmark, trained side by side, and what became of them."""

from itertools import chain
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import n3
from n3.experiments import recipe_of, stack, stops_of
from n3.nn import active_parameters, active_units, flops
from n3.training import TrainState, sweep


class Outcome(eqx.Module):
    """The runs of one arm: their last states, shapes and scores, one a seed."""

    states: list[TrainState]
    widths: np.ndarray
    parameters: np.ndarray
    flops: np.ndarray
    train_loss: np.ndarray
    test_loss: np.ndarray
    accuracy: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """How much higher the loss over test samples is than that over training samples."""
        return self.test_loss - self.train_loss


def outcome(state: TrainState, records: Any) -> Outcome:
    """What became of runs, from their stacked states and records."""
    shapes = (active_units, active_parameters, flops)
    counts = [np.asarray(jax.jit(jax.vmap(count))(state.net)) for count in shapes]
    scores = (np.asarray(own)[:, -1] for own in (records.train_loss, records.test_loss, records.test_metric))
    states = [jax.tree.map(lambda leaf, row=row: leaf[row], state) for row in range(len(counts[0]))]
    return Outcome(states, *counts, *scores)


def together(parts: list[Outcome]) -> Outcome:
    """Runs of several outcomes, whose networks may differ in shape, as one."""
    states, *columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Outcome([*chain(*states)], *map(np.concatenate, columns))


def joined(trees: list[Any]) -> Any:
    """Trees of the same structure, one behind the other along the first axis."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)


def trained(experiment: n3.Experiment, data: list, hypers: list, *, arm: str) -> list[Outcome]:
    """All seeds under each of some numbers, side by side in the program of one arm."""
    seeds, times = len(data), len(hypers)
    keys = jax.vmap(jr.key)(jnp.array(experiment.run.seeds))
    numbers, problem = joined(hypers), joined([stack(data)] * times)
    own = {"keys": jnp.concatenate([keys] * times), "stops": stops_of(experiment)}
    done = sweep(recipe_of(experiment, arm, data[0]), numbers, problem, **own)

    def part(start: int) -> Outcome:
        return outcome(*jax.tree.map(lambda leaf: leaf[start : start + seeds], (done.state, done.records)))

    return [part(start) for start in range(0, seeds * times, seeds)]


def estimate(values: np.ndarray) -> dict[str, Any]:
    """The mean over seeds with its 95 % interval."""
    return {"value": float(np.mean(values)), "ci95": n3.stats.bootstrap_interval(values, np.mean)}
