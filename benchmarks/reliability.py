"""Cost of checkpoints: the main job's arms trained with and without them, in turn, in one process.

Prints wall and CPU seconds as ratios, at the default cadence and with a checkpoint after every chunk of steps.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro

os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count() or 1))  # runs share the cores without talking

import jax
import jax.numpy as jnp

import n3
from n3.experiments import hypers_of, load_data, recipe_of, stack, stops_of
from n3.training import EVERY, Checkpoints, sweep

CADENCES = {"none": None, "default": EVERY, "every chunk": 0.0}
"""Seconds between checkpoints."""


def trained(experiment: n3.Experiment, data: list, every: float | None) -> tuple[float, float, int]:
    """Wall and CPU seconds of training all arms of the main job once, and the bytes of its last checkpoints."""
    keys, problem = jax.vmap(jax.random.key)(jnp.array(experiment.run.seeds)), stack(data)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter(), time.process_time()
        for arm in experiment.run.arms:
            hypers = hypers_of(experiment, arm, data=data, active=None)
            own = None if every is None else Checkpoints(folder=Path(folder) / arm, every=every)
            settings = {"keys": keys, "stops": stops_of(experiment), "checkpoint": own}
            jax.block_until_ready(sweep(recipe_of(experiment, arm, data[0]), hypers, problem, **settings).state)
        seconds = time.perf_counter() - began[0], time.process_time() - began[1]
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return *seconds, size


def main(repeats: int = 5, steps: int | None = None, seeds: int = 20) -> None:
    """Print the cost of checkpoints as a ratio to training without any.

    Args:
        repeats: Trainings of each kind, in turn; the first of each, which compiles, does not count.
        steps: Steps of a run; None: the main job's.
        seeds: Seeds.
    """
    training, run = n3.TrainingConfig(steps=steps), n3.RunConfig(seeds=tuple(range(seeds)))
    experiment = n3.Experiment(training=training, run=run).resolved()
    data, taken = load_data(experiment), {name: [] for name in CADENCES}
    for _ in range(repeats + 1):
        for name, every in CADENCES.items():
            taken[name].append(trained(experiment, data, every))
    rows = {name: np.array(own[1:]) for name, own in taken.items()}
    arms, number = len(experiment.run.arms), experiment.training.steps
    print(f"{arms} arms x {seeds} seeds x {number} steps, {repeats} times each")
    for name, own in rows.items():
        wall, cpu = np.median(own[:, :2] / rows["none"][:, :2], axis=0)
        size = f"{own[-1, 2] / 2**20:.2f} MiB left"
        print(f"{name:<12} {np.median(own[:, 0]):6.2f} s, ratio wall {wall:.3f}, CPU {cpu:.3f}, {size}")


if __name__ == "__main__":
    tyro.cli(main)
