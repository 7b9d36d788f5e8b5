"""Cost: what a reproduction took, and what its steps take where a Python loop drives each run."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from n3.config import Experiment
from n3.experiments import device_name, hypers_of, load_data, recipe_of, stack
from n3.paper.claims import Part
from n3.stats import Results
from n3.training import init, step


def cost_of(parts: Sequence[Part], results: Sequence[Results], *, is_looped: bool = True) -> dict[str, Any]:
    """Trainings, steps and seconds of the parts of a reproduction, and of their steps in a Python loop.

    Args:
        parts: The parts.
        results: What `studies.run` returned for each of them.
        is_looped: Whether to measure short loops: one for each part and each size of network in it, from which
            the CPU time of all its steps is extrapolated.

    Returns:
        `trainings`, `steps`, `cpu_seconds`, `run_seconds`, `compile_seconds`, `device`, the short loops in
        `loop`, and `loop_cpu_seconds`.
    """
    seconds = {name: sum(float(own[name].sum()) for own in results) for name in _SECONDS}
    trainings, steps, loops, looped = 0, 0, [], 0.0
    for part in parts:
        run, measured = part.study.base.run, {}
        for cell in part.study.experiments():
            runs, length = len(run.arms) * len(run.seeds), cell.training.steps or 0
            trainings, steps = trainings + runs, steps + runs * length
            if is_looped:
                units = cell.network.capacity
                measured[units] = measured[units] if units in measured else loop_cost(cell, run.arms[0])
                looped += measured[units].microseconds * 1e-6 * runs * length
        loops += [{"part": part.name, "capacity": units, **asdict(own)} for units, own in measured.items()]
    found = {"trainings": trainings, "steps": steps, **seconds, "device": device_name()}
    return {**found, "loop": loops, "loop_cpu_seconds": looped}


_SECONDS = ("cpu_seconds", "run_seconds", "compile_seconds")


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
