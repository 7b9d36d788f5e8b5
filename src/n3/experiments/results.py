"""Records: what a run leaves behind, in memory as labelled arrays and on disk as a run directory."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from n3.config.experiment import Experiment

Results = xr.Dataset
"""Labelled results, as `results.nc` holds them."""

_VERSIONS = ("jax", "jaxlib", "equinox", "optax", "n3")


class StepRecord(eqx.Module):
    """What is known of one run after some step."""

    train_loss: Float[Array, "*records"]
    """Task loss over all training samples."""
    test_loss: Float[Array, "*records"]
    """Task loss over samples that training has not seen; no penalty is in it."""
    test_metric: Float[Array, "*records"]
    """Accuracy in `[0, 1]`, or the root mean squared error in the target's own unit."""
    total_loss: Float[Array, "*records"]
    """The objective: training loss, weighted penalties and, under a drive, weighted information terms."""
    size_penalty: Float[Array, "*records"]
    depth_penalty: Float[Array, "*records"]
    prior_penalty: Float[Array, "*records"]
    size: Float[Array, "*records layers"]
    """Effective units of each hidden layer."""
    depth: Float[Array, "*records"]
    """Effective hidden layers."""
    terms: dict[str, Float[Array, "*records layers"]] = eqx.field(default_factory=dict)
    """Under a drive, `importance_term`, `redundancy_term` and `structure_term` of each hidden layer in the
    objective, already weighted, and `price_term`, what its units cost in nats per sample."""
    monitor: dict[str, Float[Array, "*records layers"]] = eqx.field(default_factory=dict)
    """What each hidden layer says, in nats, by name (`n3.information.monitor.LayerMonitor`)."""
    choice_share: dict[str, Float[Array, "*records layers"]] = eqx.field(default_factory=dict)
    """Share of each activation in each hidden layer, by name, where layers choose theirs."""


@dataclass(frozen=True, kw_only=True)
class ArmRecord:
    """The runs of one arm: a row a seed."""

    history: StepRecord
    """Arrays with axes seed, step[, layer]."""
    active_parameters: Int[np.ndarray, " seeds"]
    diverged_at: Int[np.ndarray, " seeds"]
    """Step at which a run's loss was first NaN or infinite; -1 where it never was."""
    predictions: Float[np.ndarray, "shown out_size points"]
    """Outputs of the first seeds' networks on the grid, in the target's own unit or as logits."""
    compile_seconds: float
    run_seconds: float


def assemble(
    experiment: Experiment,
    arms: Mapping[str, ArmRecord],
    *,
    steps: Int[np.ndarray, " records"],
    grid: Float[np.ndarray, "in_size points"],
    samples: Mapping[str, Float[np.ndarray, "samples features"]],
    attributes: Mapping[str, str | int | float],
) -> xr.Dataset:
    """Label the results of all arms.

    Args:
        experiment: What was run.
        arms: Results by arm.
        steps: Steps at which the runs were recorded.
        grid: Inputs, in their own units, at which the shown networks were evaluated.
        samples: Data of the first seed, in their own units: inputs and targets, training and test.
        attributes: Facts about the task and the machine.

    Returns:
        Dimensions `arm`, `seed`, `step`, `layer`, and `shown_seed`, `output`, `point` for the predictions.
    """
    results = label(arms, rows=experiment.run.seeds, steps=steps)
    predictions = np.stack([a.predictions for a in arms.values()])
    variables: dict[str, Any] = {"prediction": (("arm", "shown_seed", "output", "point"), predictions)}
    variables["grid"] = (("input", "point"), grid)
    for name in ("compile_seconds", "run_seconds"):
        variables[name] = (("arm",), np.array([getattr(a, name) for a in arms.values()]))
    for name, values in samples.items():
        variables[name] = ((f"{name.split('_')[0]}_sample", f"{name.split('_')[1]}_feature"), values)
    shown = np.array(experiment.run.seeds[: predictions.shape[1]])
    return results.assign(variables).assign_coords(shown_seed=shown).assign_attrs(attributes)


def label(arms: Mapping[str, ArmRecord], *, rows: Sequence[int], steps: Int[np.ndarray, " records"]) -> Results:
    """Label what all arms recorded while they trained.

    Args:
        arms: Results by arm.
        rows: Names of the rows: the seeds, or other numbers that are still to be unfolded.
        steps: Steps at which the runs were recorded.

    Returns:
        Dimensions `arm`, `seed`, `step`, `layer`, and `choice` where layers choose their activation.
    """
    axes = {"size": ("arm", "seed", "step", "layer")}
    first = next(iter(arms.values()))
    variables: dict[str, Any] = {
        name: (
            axes.get(name, ("arm", "seed", "step")),
            np.stack([getattr(a.history, name) for a in arms.values()]),
        )
        for name in StepRecord.__dataclass_fields__
        if not isinstance(getattr(first.history, name), dict)
    }
    known, nothing = [{**a.history.terms, **a.history.monitor} for a in arms.values()], first.history.size * 0
    for name in dict.fromkeys(name for own in known for name in own):
        values = np.stack([own.get(name, nothing) for own in known])
        variables[name] = (("arm", "seed", "step", "layer"), values)
    for name in ("active_parameters", "diverged_at"):
        variables[name] = (("arm", "seed"), np.stack([getattr(a, name) for a in arms.values()]))
    layers = np.arange(first.history.size.shape[-1])
    coords = {"arm": list(arms), "seed": np.array(rows), "step": steps, "layer": layers}
    if chosen := list(first.history.choice_share):
        shares = np.stack([np.stack([a.history.choice_share[n] for n in chosen], -1) for a in arms.values()])
        variables["choice_share"] = (("arm", "seed", "step", "layer", "choice"), shares)
        coords["choice"] = chosen
    return xr.Dataset(variables, coords=coords)


def unfold(results: Results, dimension: str, axes: Mapping[str, Sequence[Any]]) -> Results:
    """Take one dimension apart into several.

    Args:
        results: Any data set.
        dimension: A dimension whose items are all combinations of the axes' labels; the last moves fastest.
        axes: Labels of each new dimension by its name, which may be the old one's.
    """
    sizes = tuple(len(values) for values in axes.values())
    variables = {}
    for name, old in results.drop_vars(dimension).variables.items():
        place = old.dims.index(dimension) if dimension in old.dims else None
        if place is None:
            variables[name] = old
            continue
        dims = (*old.dims[:place], *axes, *old.dims[place + 1 :])
        variables[name] = (dims, old.values.reshape(*old.shape[:place], *sizes, *old.shape[place + 1 :]))
    labels = {name: np.asarray(list(values)) for name, values in axes.items()}
    return xr.Dataset(variables, attrs=results.attrs).assign_coords(labels)


def join(parts: Sequence[Results]) -> Results:
    """One data set of several that hold other cells, arms, seeds or steps; NaN where none has a number."""
    return xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")


@dataclass(frozen=True)
class RunDirectory:
    """A folder that belongs to one experiment; every file appears in it whole or not at all."""

    path: Path

    @classmethod
    def create(cls, experiment: Experiment) -> "RunDirectory":
        """A new folder that holds `config.json`.

        Args:
            experiment: Names the folder by `run.out` and `run.name`.

        Raises:
            FileExistsError: If the folder is there already and holds anything.
            OSError: If the folder cannot be made.
        """
        run = experiment.run
        stamp = time.strftime("%Y%m%d-%H%M%S")
        name = run.name or f"{experiment.task.task}-{experiment.network.method}-{stamp}-{os.getpid()}"
        path = Path(run.out) / name
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise FileExistsError(f"the run directory {path} is not empty: give another `name` or `out`.")
        directory = cls(path)
        directory.write("config.json", experiment.to_json().encode())
        return directory

    def write(self, name: str, content: bytes) -> None:
        """Write a file under its final name only once it is complete."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            with scratch.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, target)
        finally:
            scratch.unlink(missing_ok=True)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a mapping as indented JSON; NaN and infinities become null."""
        self.write(name, (json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode())

    def write_results(self, results: xr.Dataset) -> None:
        """Write `results.nc` (NetCDF4, compressed)."""
        encoding = {name: {"zlib": True} for name, variable in results.data_vars.items() if variable.ndim > 1}
        self.write("results.nc", bytes(results.to_netcdf(engine="h5netcdf", encoding=encoding)))

    def seal(self, facts: Mapping[str, Any]) -> None:
        """Write `manifest.json`: versions, commit, command line, and the sha256 of every output.

        Args:
            facts: What the run itself knows: its device, and its wall, compile and CPU seconds.
        """
        files = sorted(p for p in self.path.rglob("*") if p.is_file() and p.name != "manifest.json")
        sums = {p.relative_to(self.path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
        ours = {"versions": versions(), "git": _git_state(), "command": sys.argv}
        self.write_json("manifest.json", {**ours, **facts, "sha256": sums})


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All results of an experiment; `results` holds what `results.nc` holds."""

    experiment: Experiment
    """Resolved: every field that the method decides is filled in."""
    results: xr.Dataset
    directory: RunDirectory | None
    """The run directory; None where nothing was written."""


def read(directory: str | Path) -> RunRecord:
    """The record of a finished experiment.

    Args:
        directory: A run directory of one experiment; of a sweep see `read_results`.

    Returns:
        Its resolved experiment and its results, in memory.

    Raises:
        FileNotFoundError: If the folder lacks `config.json` or `results.nc`.
        ValueError: If its configuration is not valid, or the folder is a sweep's.
    """
    directory = Path(directory)
    if (directory / "study.json").exists():
        raise ValueError(f"`directory` {directory} holds a sweep, not one experiment: take `n3.read_results`.")
    experiment = Experiment.load(directory / "config.json")
    return RunRecord(experiment=experiment, results=read_results(directory), directory=RunDirectory(directory))


def read_results(directory: str | Path) -> Results:
    """What an experiment or a sweep left in its folder's `results.nc`, in memory; else FileNotFoundError."""
    with xr.open_dataset(Path(directory) / "results.nc", engine="h5netcdf") as results:
        return results.load()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in _VERSIONS}


def device_name() -> str:
    """The default device, as `cpu` or as its kind, with the number of devices where there are several."""
    devices = jax.devices()
    kind = devices[0].device_kind if devices[0].platform != "cpu" else "cpu"
    return kind if len(devices) == 1 else f"{kind} x {len(devices)}"


def _git_state() -> dict[str, Any]:
    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    commit, changes = ask("rev-parse", "HEAD"), ask("status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_finite(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
