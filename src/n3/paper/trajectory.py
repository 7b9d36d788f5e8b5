"""Trajectory: one run of an experiment, recorded step by step for an animation."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from n3.config import Experiment
from n3.experiments import grid_of, hypers_of, load_data, recipe_of, stack
from n3.plotting import Trajectory
from n3.training import TrainState, advance, init


def record_trajectory(experiment: Experiment, arm: str = "growing", *, frames: int = 60) -> Trajectory:
    """Train the first seed of an arm once more, and look at it more often at the beginning than at the end.

    Args:
        experiment: An experiment.
        arm: Any arm but `equal-size`, which needs the growing arm's end first.
        frames: Looks, the first before any step and the last at the end; fewer where there are fewer steps.

    Raises:
        ValueError: If the arm is `equal-size`, the task has more than two inputs, or `frames` is below 2.
    """
    experiment = experiment.resolved()
    experiment = replace(experiment, run=replace(experiment.run, seeds=experiment.run.seeds[:1]))
    data = load_data(experiment)
    if arm == "equal-size" or data[0].in_size > 2 or frames < 2:
        raise ValueError(
            "`arm` must not be equal-size, the task have one or two inputs, `frames` be 2 or more; got "
            f"{arm}, {data[0].in_size} and {frames}."
        )
    one, grid = data[0], grid_of(data[0])
    recipe = recipe_of(experiment, arm, one)
    first = jax.tree.map(
        lambda leaf: leaf[0], (hypers_of(experiment, arm, data=data, active=None), stack(data))
    )
    last = experiment.training.steps or 0
    stops = np.unique((np.linspace(0, 1, frames) ** 2 * last).round().astype(np.int32))
    scaled = jnp.asarray(one.input_scaler.transform(grid), jnp.float32)
    tests = jnp.asarray(one.test_inputs)

    def look(carry: tuple[TrainState, Array], stop: Array):
        state, record = advance(recipe, carry[0], *first, carry[1], stop[None])
        outputs = (state.net.batch(inputs.T).T for inputs in (scaled, tests))
        return (state, stop), (state.net.participation(), record.test_loss[0], *outputs)

    start = init(recipe, *first, key=jr.key(experiment.run.seeds[0])), jnp.asarray(0)
    film = eqx.filter_jit(lambda: jax.lax.scan(look, start, jnp.asarray(stops))[1])
    participation, losses, on_grid, on_tests = jax.tree.map(np.asarray, film())
    return Trajectory(
        title=f"{experiment.task.task}, {arm}",
        steps=stops,
        participation=participation,
        test_loss=losses,
        grid=grid,
        predictions=on_grid * one.target_scale + one.target_offset,
        residuals=(on_tests - one.test_targets) * one.target_scale,
        inputs=one.input_scaler.inverse(np.float64(one.train_inputs)),
        targets=one.train_targets * one.target_scale + one.target_offset,
        test_inputs=one.input_scaler.inverse(np.float64(one.test_inputs)),
        is_classes=one.kind == "classification",
        input_names=one.input_names,
        target_name=one.target_names[0],
    )
