"""Growing peers: Gromo on the task of its tutorial, and Torch-Pruning on digits, each beside n3."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import n3
from digits import experiment_of
from n3.experiments import hypers_of, load_data, recipe_of, stack
from n3.stats import with_interval
from n3.training import advance
from runs import Outcome, estimate, outcome, together, trained

SINES = "sums-of-sines"
GROWTHS = (4, 8, 16)
"""Growths of Gromo: its tutorial's, and two and four times as many."""
UNITS, WIDTHS, BUDGETS = 64, (4, 8, 16, 32), (310, 610, 1_210, 2_410)
"""Units of the dense network, units that pruning leaves, and the parameters of those widths."""


def isolated(task: str, packages: tuple[str, ...], arrays: dict[str, Any]) -> dict[str, Any]:
    """What `peers_torch.py` finds in an environment of these packages, or `why` it found nothing."""
    tool = shutil.which("uv")
    if tool is None:
        return {"why": "`uv` is not installed"}
    script = str(Path(__file__).with_name("peers_torch.py"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "given.npz"
        np.savez(file, **arrays)
        asked = [part for name in packages for part in ("--with", name)]
        command = [tool, "run", "--isolated", "--no-project", *asked, "python", script, task, str(file)]
        alone = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=alone, check=False)
    if done.returncode:
        return {"why": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


# Gromo's tutorial


def sines(*, train_samples: int | None, test_samples: int | None, seed: int) -> n3.Dataset:
    """`y_d = sum_k sin(k x_k + d)` with ten normal inputs; the same samples for every seed."""
    sizes = {"train_samples": train_samples or 10_000, "test_samples": test_samples or 1_000}
    x = np.random.default_rng(0).normal(size=(sum(sizes.values()), 10))
    y = np.stack([np.sin(np.arange(1, 11) * x + shift).sum(axis=1) for shift in range(3)], axis=1)
    return n3.Dataset.from_arrays(x, y, seed=0, name=SINES, **sizes)


def twice(call: Callable[[], Any], runs: int) -> tuple[Any, dict[str, float]]:
    """What a call returns, and CPU seconds per run of a second call and of the first."""
    taken = []
    for _ in range(2):
        start = time.process_time()
        found = call()
        taken.append((time.process_time() - start) / runs)
    return found, {"seconds": taken[1], "first_seconds": taken[0]}


def n3_on_sines(seeds: int, steps: int, units: int) -> dict[str, Any]:
    """One hidden layer sized by criterion held-out, one network of that size at the end."""

    def found() -> n3.RunRecord:
        with tempfile.TemporaryDirectory() as folder:
            experiment = n3.Experiment(
                task=n3.TaskConfig(task=SINES),
                network=n3.NetworkConfig(method="information", capacity=(units,)),
                training=n3.TrainingConfig(steps=steps, batch=250, members=2, refit=True),
                information=n3.InformationConfig(criterion="held-out"),
                run=n3.RunConfig(arms=("growing",), seeds=tuple(range(seeds)), out=folder),
            )
            return n3.run(experiment, has_figures=False, quiet=True)

    record, seconds = twice(found, seeds)
    last = record.results.sel(arm="growing").isel(step=-1)
    return {
        "peer": f"n3, criterion held-out, {steps:,} steps, up to {units} units",
        "units": last["size"].values.reshape(seeds, -1).sum(axis=1).tolist(),
        "loss": (last["test_metric"].values ** 2).tolist(),
    } | seconds


def growing(*, is_quick: bool) -> dict[str, Any]:
    """Rows of Gromo and of n3: squared error over test samples, hidden units, CPU seconds a run."""
    seeds, data = 1 if is_quick else 3, sines(train_samples=None, test_samples=None, seed=0)
    sides = {"x": data.input_scaler.inverse, "y": data.target_scaler.inverse}
    given = {"seeds": np.array(seeds), "growths": np.array(GROWTHS)}
    for side in ("train", "test"):
        own = {"x": getattr(data, f"{side}_inputs"), "y": getattr(data, f"{side}_targets")}
        given |= {f"{side}_{axis}": np.float32(sides[axis](own[axis])) for axis in sides}
    done = isolated("gromo", ("gromo", "numpy"), given)
    rows = [{"peer": "the mean of the targets", "units": [0], "loss": [float(given["test_y"].var(0).mean())]}]
    for growths, runs in done.get("found", {}).items():
        rows.append(
            {
                "peer": f"Gromo, {growths} growths{' as in its tutorial' if growths == '4' else ''}",
                "units": [sum(run["units"]) for run in runs],
                "loss": [run["loss"] for run in runs],
                "seconds": float(np.mean([run["seconds"] for run in runs])),
            }
        )
    if "why" in done:
        rows.append({"peer": "Gromo", "why": done["why"]})
    n3.register_dataset(SINES, sines)
    rows.append(n3_on_sines(seeds, 200, 32) if is_quick else n3_on_sines(seeds, 800, 64))
    return {"seeds": seeds, "rows": rows, "versions": done.get("versions", {})}


def mean_of(values: list[float], form: str) -> str:
    """The mean with its 95 % interval over seeds."""
    own = estimate(np.array(values))
    return with_interval(own["value"], *own["ci95"], form=form)


def seconds_of(row: dict[str, Any]) -> str:
    """The cells of a second call and of the first."""
    return " | ".join(f"{row[name]:.3g}" if name in row else "" for name in ("seconds", "first_seconds"))


def growing_table(rows: list[dict[str, Any]]) -> str:
    """The rows for a reader."""
    lines = ["| peer | hidden units | test loss | CPU s per run | first call |", "|---|---|---|---|---|"]
    for row in rows:
        if "why" in row:
            lines.append(f"| {row['peer']} | not measured: {row['why']} | | | |")
            continue
        units, ends = ", ".join(f"{own:g}" for own in row["units"]), row["loss"]
        loss = mean_of(ends, ".3f") if None not in ends else f"NaN in {ends.count(None)} of {len(ends)} runs"
        lines.append(f"| {row['peer']} | {units} | {loss} | {seconds_of(row)} |")
    return "\n".join(lines)


# Pruning on digits


def row_of(name: str, runs: Outcome, seconds: dict[str, float]) -> dict[str, Any]:
    """A row of n3, from the runs of one size."""
    own = {"parameters": runs.parameters, "accuracy": runs.accuracy, "loss": runs.test_loss}
    return {"peer": name} | {k: np.asarray(v, float).tolist() for k, v in own.items()} | seconds


def kept_units(drive: Any, units: int, active: jax.Array, targets: jax.Array) -> jax.Array:
    """Which units go: all but a number of those that are worth most together."""
    order, _ = drive.worth_of(active.T, targets.T, jnp.asarray(float(active.shape[1])))
    return jnp.ones(active.shape[1], bool).at[order[:units]].set(False)


onward = eqx.filter_jit(advance)


def n3_pruned(experiment: n3.Experiment, data: list, full: Outcome, units: int, tuning: int) -> Outcome:
    """Every dense network cut to a number of units and trained on, moments carried along."""
    recipe, drive = recipe_of(experiment, "static", data[0]), recipe_of(experiment, "growing", data[0]).drive
    training = replace(experiment.training, learning_rate=experiment.training.learning_rate / 3, steps=tuning)
    numbers = hypers_of(replace(experiment, training=training), "static", data=data, active=None)
    found, problem, goes = [], stack(data), partial(kept_units, drive, units)
    for seed, state in enumerate(full.states):
        own, hypers = jax.tree.map(lambda leaf, seed=seed: leaf[seed], (problem, numbers))
        samples = own.train.inputs.T, own.train.targets.T
        cut = n3.prune(state.net, goes, samples, is_classes=True, state=state.moments)
        smaller = eqx.tree_at(lambda s: (s.net, s.moments), state, (cut.net, cut.state))
        when = {"start": jnp.asarray(0), "stops": jnp.array([tuning])}
        done = onward(recipe, state=smaller, hypers=hypers, problem=own, **when)
        found.append(outcome(*jax.tree.map(lambda leaf: leaf[None], done)))
    return together(found)


def n3_on_digits(seeds: int, steps: int, tuning: int) -> tuple[list[dict[str, Any]], list]:
    """Rows of the dense, the pruned and the growing networks, and the data that they share."""
    experiment = experiment_of(seeds, steps)
    training = replace(experiment.training, target_size=float(UNITS))
    network = replace(experiment.network, capacity=(UNITS,))
    dense, data = replace(experiment, network=network, training=training), load_data(experiment)
    numbers = [hypers_of(dense, "static", data=data, active=None)]
    (full,), before = twice(partial(trained, dense, data, numbers, arm="static"), seeds)
    rows = [row_of(f"n3, {UNITS} units", full, before)]
    for units in WIDTHS:
        own, seconds = twice(partial(n3_pruned, dense, data, full, units, tuning), seeds)
        whole = {name: before[name] + after for name, after in seconds.items()}
        rows.append(row_of(f"n3, pruned to {units}", own, whole))
    numbers = [
        hypers_of(experiment_of(seeds, steps, own), "growing", data=data, active=None) for own in BUDGETS
    ]
    call = partial(trained, experiment, data, numbers, arm="growing")
    grown, seconds = twice(call, seeds * len(BUDGETS))
    rows += [row_of(f"n3, grown to {own:,}", runs, seconds) for own, runs in zip(BUDGETS, grown, strict=True)]
    return rows, data


def pruning(*, is_quick: bool) -> dict[str, Any]:
    """Rows of Torch-Pruning and of n3: accuracy and cross-entropy at parameters, CPU seconds a run."""
    seeds, steps, tuning = (1, 200, 50) if is_quick else (3, 1_000, 200)
    rows, data = n3_on_digits(seeds, steps, tuning)
    numbers = {"seeds": seeds, "steps": steps, "tuning": tuning, "units": UNITS, "rate": 1e-2, "widths": WIDTHS}
    given = {name: np.array(own) for name, own in numbers.items()}
    for side in ("train", "test"):
        labels = getattr(data[0], f"{side}_targets").argmax(axis=1)
        given |= {f"{side}_x": getattr(data[0], f"{side}_inputs"), f"{side}_y": labels}
    done = isolated("pruning", ("torch-pruning", "numpy"), given)
    for width, runs in done.get("found", {}).items():
        columns = {name: [run[name] for run in runs] for name in ("parameters", "accuracy", "loss")}
        name = f"PyTorch, {UNITS} units" if width == "dense" else f"Torch-Pruning to {width}"
        rows.append({"peer": name, "seconds": float(np.mean([run["seconds"] for run in runs]))} | columns)
    if "why" in done:
        rows.append({"peer": "Torch-Pruning", "why": done["why"]})
    return {"seeds": seeds, "steps": steps, "rows": rows, "versions": done.get("versions", {})}


def pruning_table(rows: list[dict[str, Any]]) -> str:
    """The rows for a reader."""
    lines = [
        "| peer | parameters | accuracy | cross-entropy | CPU s per run | first call |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "why" in row:
            lines.append(f"| {row['peer']} | not measured: {row['why']} | | | | |")
            continue
        scores = " | ".join(mean_of(row[name], ".4f") for name in ("accuracy", "loss"))
        cells = f"{np.median(row['parameters']):g} | {scores} | {seconds_of(row)}"
        lines.append(f"| {row['peer']} | {cells} |")
    return "\n".join(lines)
