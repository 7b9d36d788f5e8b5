"""Trials: experiments of one shape, made-up parts of a study, and a made-up run frame by frame."""

import numpy as np

from n3.config.experiment import (
    Experiment,
    InformationConfig,
    NetworkConfig,
    RunConfig,
    TaskConfig,
    TrainingConfig,
)
from n3.config.grid import Study
from n3.paper.claims import Part
from n3.paper.variants import Trained
from n3.plotting.animation import (
    Trajectory,
)


def tiny(out="runs", *, task=None, network=None, training=None, information=None, **run):
    """An experiment of the one shape that the fast tests share, so that each program is compiled once.

    One input, 12 training and 6 test samples, one layer of 4 units, and up to four runs an arm.
    """
    run = {"arms": ("static", "growing"), "seeds": (5, 3), "records": 2, "out": str(out), "name": "a"} | run
    return Experiment(
        task=TaskConfig(**{"samples": 12, "test_samples": 6} | (task or {})),
        network=NetworkConfig(**{"capacity": (4,)} | (network or {})),
        training=TrainingConfig(**{"steps": 6, "learning_rate": 1e-2} | (training or {})),
        information=InformationConfig(**information or {}),
        run=RunConfig(**run),
    )


def trained(losses, *, cells=({},), names=None, **others):
    """A part whose arms have given final losses, arrays of cell and seed."""
    values = np.stack([np.atleast_2d(own) for own in losses.values()], axis=1)
    run = RunConfig(arms=tuple(losses), seeds=tuple(range(values.shape[2])))
    part = Part(name="main", study=Study(base=Experiment(run=run), cells=tuple(cells)), names=names or {})
    return Trained(part=part, values={"test_loss": values, **others}, seeds=run.seeds)


FRAMES = 5
"""Of the made-up run."""


def made_trajectory(*, units=3, layers=1, classes=0):
    """A made-up run whose units come one by one; of a line, or of classes on a square."""
    size = np.linspace(0, units, FRAMES)[:, None]
    mask = np.clip(size - np.arange(units), 0, 1)
    line = np.linspace(-1, 1, 12)
    inputs = line[:, None] if not classes else np.stack([np.tile(line, 2), np.repeat([0.5, -0.5], 12)], 1)
    grid = line[:, None] if not classes else np.stack([axis.ravel() for axis in np.meshgrid(line, line)], 1)
    outputs = max(1, classes)
    fades = np.linspace(1, 0, FRAMES)[:, None, None]
    return Trajectory(
        title="made-up, growing",
        steps=np.array([0, 1, 4, 40, 1000]),
        participation=(mask,) * layers,
        test_loss=np.geomspace(1, 1e-4, FRAMES),
        grid=grid,
        predictions=np.sin(3 * grid[:, :1]) * (1 - fades) + 0.1 * np.arange(outputs),
        residuals=fades * np.ones((FRAMES, len(inputs), outputs)),
        inputs=inputs,
        targets=np.eye(classes)[np.arange(len(inputs)) % classes] if classes > 1 else np.sin(3 * inputs[:, :1]),
        test_inputs=inputs[::-1],
        is_classes=bool(classes),
        input_names=("x", "height")[: inputs.shape[1]],
        target_name="y",
    )
