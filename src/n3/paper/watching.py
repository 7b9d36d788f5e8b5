"""Watching: one run watched while it trains, as what its units and its predictions are at some steps."""

from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int

from n3.config.experiment import Experiment
from n3.experiments.arms import hypers_of, recipe_of, stack
from n3.experiments.run import grid_of, load_data
from n3.training.step import TrainState, advance, init


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What was seen of a run; inputs, targets and predictions are in their own units."""

    title: str
    steps: Int[np.ndarray, " frames"]
    participation: tuple[Float[np.ndarray, "frames _"], ...]
    """Of every unit of each hidden layer, in `[0, 1]`."""
    test_loss: Float[np.ndarray, " frames"]
    grid: Float[np.ndarray, "in_size points"]
    predictions: Float[np.ndarray, "frames out_size points"]
    """On the grid; logits of a classification."""
    residuals: Float[np.ndarray, "frames out_size tests"]
    """Prediction minus target at the test inputs; of logits minus codes, which says nothing."""
    inputs: Float[np.ndarray, "samples in_size"]
    """Training samples."""
    targets: Float[np.ndarray, "samples out_size"]
    test_inputs: Float[np.ndarray, "tests in_size"]
    is_classes: bool
    input_names: tuple[str, ...]
    target_name: str

    @property
    def sizes(self) -> Float[np.ndarray, " frames"]:
        """Participations summed over all layers, in units."""
        return np.sum([layer.sum(axis=1) for layer in self.participation], axis=0)


def watch(experiment: Experiment, arm: str = "growing", *, frames: int = 60) -> Watched:
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
            f"`watch` takes any arm but equal-size, a task of one or two inputs and 2 `frames` or more; got "
            f"{arm}, {data[0].in_size} and {frames}."
        )
    one, grid = data[0], grid_of(data[0])
    recipe = recipe_of(experiment, arm, one)
    first = jax.tree.map(
        lambda leaf: leaf[0], (hypers_of(experiment, arm, data=data, active=None), stack(data))
    )
    last = experiment.training.steps or 0
    stops = np.unique((np.linspace(0, 1, frames) ** 2 * last).round().astype(np.int32))
    scaled = jnp.asarray(one.input_scaler.transform(grid.T).T, jnp.float32)

    def look(carry: tuple[TrainState, Array], stop: Array):
        state, record = advance(recipe, carry[0], *first, carry[1], stop[None])
        outputs = state.net.batch(scaled), state.net.batch(first[1].test.inputs)
        return (state, stop), (state.net.participation(), record.test_loss[0], *outputs)

    start = init(recipe, *first, key=jr.key(experiment.run.seeds[0])), jnp.asarray(0)
    film = eqx.filter_jit(lambda: jax.lax.scan(look, start, jnp.asarray(stops))[1])
    participation, losses, on_grid, on_tests = jax.tree.map(np.asarray, film())
    scale, offset = one.target_scale[:, None], one.target_offset[:, None]
    return Watched(
        title=f"{experiment.task.task}, {arm}",
        steps=stops,
        participation=participation,
        test_loss=losses,
        grid=grid,
        predictions=on_grid * scale + offset,
        residuals=(on_tests - one.test_targets.T) * scale,
        inputs=one.input_scaler.inverse(np.float64(one.train_inputs)),
        targets=one.train_targets * one.target_scale + one.target_offset,
        test_inputs=one.input_scaler.inverse(np.float64(one.test_inputs)),
        is_classes=one.kind == "classification",
        input_names=one.input_names,
        target_name=one.target_names[0],
    )
