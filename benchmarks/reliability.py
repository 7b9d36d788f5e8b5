"""Cost of checkpoints: the time that the main job spends on them, and training with and without, in turn.

The first part runs the whole main job, figures and report included, and clocks every call of the checkpoints
and every checksum of samples and settings: seconds of them over seconds of all. The first run of the process
compiles, the further ones do not. The second trains the job's arms alone, in one process, at the default
cadence and with a checkpoint after every chunk of steps, as ratios to training without any, round by round.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

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
CLOCKED = "newest", "reached", "progress", "remove"
"""What of `Checkpoints` training waits for."""
CALLERS = "n3.training.sweep", "n3.experiments.run"
"""Modules that take checksums of samples and settings."""


def now() -> np.ndarray:
    """Wall and CPU seconds."""
    return np.array([time.perf_counter(), time.process_time()])


@contextmanager
def clocked() -> Iterator[np.ndarray]:
    """Wall and CPU seconds of all checkpoints and checksums meanwhile, of those inside each other once."""
    taken, depth = np.zeros(2), 0

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*args: Any, **options: Any) -> Any:
            nonlocal depth
            since, depth = now(), depth + 1
            try:
                return call(*args, **options)
            finally:
                depth -= 1
                if depth == 0:
                    taken[:] += now() - since

        return timing

    methods = {name: timed(getattr(Checkpoints, name)) for name in CLOCKED}
    with ExitStack() as patches:
        patches.enter_context(patch.multiple(Checkpoints, **methods))
        for name in CALLERS:
            module = sys.modules[name]
            patches.enter_context(patch.object(module, "digest", timed(module.digest)))
        yield taken


def main_job(experiment: n3.Experiment) -> np.ndarray:
    """Wall and CPU seconds of checkpoints in a run of the whole main job, and of that run."""
    with tempfile.TemporaryDirectory() as folder, clocked() as taken:
        since = now()
        n3.run(replace(experiment, run=replace(experiment.run, out=folder)), quiet=True)
        return np.stack([taken, now() - since])


def trained(experiment: n3.Experiment, data: list, every: float | None) -> np.ndarray:
    """Wall and CPU seconds of training all arms of the main job once, and MiB of its last checkpoints."""
    keys, problem = jax.vmap(jax.random.key)(jnp.array(experiment.run.seeds)), stack(data)
    with tempfile.TemporaryDirectory() as folder:
        since = now()
        for arm in experiment.run.arms:
            hypers = hypers_of(experiment, arm, data=data, active=None)
            own = None if every is None else Checkpoints(folder=Path(folder) / arm, every=every)
            settings = {"keys": keys, "stops": stops_of(experiment), "checkpoint": own}
            jax.block_until_ready(sweep(recipe_of(experiment, arm, data[0]), hypers, problem, **settings).state)
        seconds = now() - since
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return np.append(seconds, size / 2**20)


def main(repeats: int = 7, steps: int | None = None, seeds: int = 20) -> None:
    """Print the cost of checkpoints, as a share of the main job and as a ratio to training without any.

    Args:
        repeats: Runs of each kind, in turn; the first training of each, which compiles, does not count.
        steps: Steps of a run; None: the main job's.
        seeds: Seeds.
    """
    training, run = n3.TrainingConfig(steps=steps), n3.RunConfig(seeds=tuple(range(seeds)))
    experiment = n3.Experiment(training=training, run=run).resolved()
    arms, number = len(experiment.run.arms), experiment.training.steps
    print(f"{arms} arms x {seeds} seeds x {number} steps, load {os.getloadavg()[0]:.1f}")
    for name, jobs in (("first run", 1), ("further runs", repeats)):
        own, whole = np.median([main_job(experiment) for _ in range(jobs)], axis=0)
        share = 100.0 * own / whole
        print(
            f"main job, {name:<12} {whole[0]:6.2f} s, checkpoints {own[0]:.3f} s: "
            f"{share[0]:.1f} % of its wall time, {share[1]:.1f} % of its CPU time"
        )
    data, taken = load_data(experiment), {name: [] for name in CADENCES}
    for _ in range(repeats + 1):
        for name, every in CADENCES.items():
            taken[name].append(trained(experiment, data, every))
    rows = {name: np.array(own[1:]) for name, own in taken.items()}
    for name, own in rows.items():
        wall, cpu = np.median(own[:, :2] / rows["none"][:, :2], axis=0)
        told = f"{np.median(own[:, 0]):6.2f} s, wall {wall:.3f}, CPU {cpu:.3f}, {own[-1, 2]:.2f} MiB left"
        print(f"training alone, {name:<12} {told}")


if __name__ == "__main__":
    tyro.cli(main)
