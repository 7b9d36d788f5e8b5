"""Loop: what training costs where a Python loop drives each step of one run, as most research scripts do."""

import time
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from n3.arms import hypers_of, recipe_of, stack
from n3.config import Experiment
from n3.experiment import load_data
from n3.train import init, step


@dataclass(frozen=True, kw_only=True)
class LoopCost:
    """CPU time of a short loop."""

    microseconds: float
    """CPU time of a step, without compiling."""
    steps: int
    """Steps that were measured."""


def loop_cost(experiment: Experiment, arm: str, *, seconds: float = 1.0, most: int = 2_000) -> LoopCost:
    """Measure a loop that calls the compiled step of the first seed's run and waits for nothing between.

    The step is the one that a sweep trains with; `equal-size` is given all units.

    Args:
        experiment: A resolved experiment.
        arm: Its arm to measure.
        seconds: CPU time after which the loop ends.
        most: Steps after which it ends.
    """
    one = replace(experiment, run=replace(experiment.run, seeds=experiment.run.seeds[:1]))
    data, units = load_data(one), np.array([one.network.capacity])
    recipe = recipe_of(one, arm, data[0])
    first = jax.tree.map(lambda leaf: leaf[0], (hypers_of(one, arm, data=data, active=units), stack(data)))
    taken = eqx.filter_jit(lambda state, count: step(recipe, state, *first, count))
    state = taken(init(recipe, *first, key=jr.key(one.run.seeds[0])), jnp.asarray(0))
    started, count = time.process_time(), 0
    while count < most and (count < 10 or time.process_time() - started < seconds):
        count += 1
        state = taken(state, jnp.asarray(count))
    jax.block_until_ready(state)
    return LoopCost(microseconds=(time.process_time() - started) / count * 1e6, steps=count)
