"""Results: what a run leaves behind, in memory as labelled arrays and on disk as a run directory."""

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from n3.config.experiment import Experiment
from n3.nn import metrics
from n3.nn.losses import LossWeights, Samples
from n3.nn.mlp import GrowingMLP
from n3.stats.summary import Results, RunRecord, versions
from n3.surgery.compact import CompactMLP
from n3.surgery.compact import compact as compact_network
from n3.surgery.export import from_bytes, to_bytes, write_file
from n3.training import decisions
from n3.training.decisions import ACTIONS, Staged
from n3.training.step import Hypers, Problem, Recipe, StepRecord, TrainState, init
from n3.training.sweep import Swept


@dataclass(frozen=True, kw_only=True)
class ArmRecord:
    """The runs of one arm: a row a seed."""

    history: StepRecord
    """Arrays with axes seed, step[, layer]."""
    active_parameters: Int[np.ndarray, " seeds"]
    diverged_at: Int[np.ndarray, " seeds"]
    """Step at which a run's loss was first NaN or infinite; -1 where it never was."""
    predictions: Float[np.ndarray, "shown points out_size"]
    """Outputs of the first seeds' networks on the grid, in the target's own unit or as logits."""
    compile_seconds: float
    run_seconds: float

    @classmethod
    def of(
        cls, swept: Swept, predictions: Float[np.ndarray, "shown points out_size"] | None = None
    ) -> "ArmRecord":
        """The record of a sweep; without predictions none are kept."""
        return cls(
            history=swept.records,
            active_parameters=np.asarray(_count_parameters(swept.state.net)),
            diverged_at=np.asarray(swept.state.diverged_at),
            predictions=np.zeros((0, 0, 1)) if predictions is None else predictions,
            compile_seconds=swept.compile_seconds,
            run_seconds=swept.run_seconds,
        )


_count_parameters = jax.jit(jax.vmap(metrics.active_parameters))


def assemble(
    experiment: Experiment,
    arms: Mapping[str, ArmRecord],
    *,
    steps: Int[np.ndarray, " records"],
    grid: Float[np.ndarray, "points in_size"],
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
        Dimensions `arm`, `seed`, `step`, `layer`, and `shown_seed`, `point`, `output` for the predictions.
    """
    results = label(arms, rows=experiment.run.seeds, steps=steps)
    predictions = np.stack([a.predictions for a in arms.values()])
    variables: dict[str, Any] = {"prediction": (("arm", "shown_seed", "point", "output"), predictions)}
    variables["grid"] = (("point", "input"), grid)
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
        write_file(self.path / name, content)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a mapping as indented JSON; NaN and infinities become null."""
        self.write(name, (json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode())

    def write_results(self, results: xr.Dataset) -> None:
        """Write `results.nc` (NetCDF4, compressed)."""
        encoding = {name: {"zlib": True} for name, variable in results.data_vars.items() if variable.ndim > 1}
        self.write("results.nc", bytes(results.to_netcdf(engine="h5netcdf", encoding=encoding)))

    def write_figures(self, figures: Mapping[str, Any]) -> None:
        """Write Matplotlib figures by name, as `figures/<name>.png`."""
        for name, figure in figures.items():
            content = io.BytesIO()
            figure.savefig(content, format="png", dpi=150)
            self.write(f"figures/{name}.png", content.getvalue())

    def seal(self, facts: Mapping[str, Any]) -> None:
        """Write `manifest.json`: versions, commit, command line, and the sha256 of every output.

        Args:
            facts: What the run itself knows: its device, and its wall, compile and CPU seconds.
        """
        files = sorted(p for p in self.path.rglob("*") if p.is_file() and p.name != "manifest.json")
        sums = {p.relative_to(self.path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
        ours = {"versions": versions(), "git": _git_state(), "command": sys.argv}
        self.write_json("manifest.json", {**ours, **facts, "sha256": sums})


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
    return RunRecord(experiment=experiment, results=read_results(directory), directory=directory)


def read_results(directory: str | Path) -> Results:
    """What an experiment or a sweep left in its folder's `results.nc`, in memory; else FileNotFoundError."""
    with xr.open_dataset(Path(directory) / "results.nc", engine="h5netcdf") as results:
        return results.load()


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


def write_models(directory: RunDirectory, arm: str, recipe: Recipe, nets: GrowingMLP) -> None:
    """Write the networks of an arm, and what it takes to lay them out again.

    Args:
        directory: The run directory.
        arm: The arm.
        recipe: The program that trained it.
        nets: Its networks, with a first axis of seeds; their capacity counts, not the recipe's.
    """
    plain = dataclasses.replace(recipe, capacity=nets.controller.capacity, drive=None, monitor=None)
    directory.write(f"models/{arm}.safetensors", to_bytes(nets))
    directory.write_json(f"models/{arm}.json", dataclasses.asdict(plain))


def load(
    directory: str | Path, *, compact: bool = False
) -> dict[str, list[GrowingMLP]] | dict[str, list[CompactMLP]]:
    """The trained networks of a run directory.

    Args:
        directory: What `run` left.
        compact: Whether to return each as the plain network of its participating units (`n3.compact`).

    Returns:
        For each arm the network of each seed, in the order of the seeds.

    Raises:
        FileNotFoundError: If the folder lacks a file.
        ValueError: If a file is damaged or holds another network.
    """
    experiment = Experiment.load(Path(directory) / "config.json")
    nets = {
        arm: _load_arm(Path(directory) / "models", arm, len(experiment.run.seeds))
        for arm in experiment.run.arms
    }
    return {arm: [compact_network(net) for net in own] for arm, own in nets.items()} if compact else nets


def init_one(recipe: Recipe, hypers: Hypers, problem: Problem) -> TrainState:
    """The first run of a sweep before its first step, from a key that is always the same: for its shapes."""
    first_hypers, first_problem = jax.tree.map(lambda leaf: leaf[0], (hypers, problem))
    return init(recipe, first_hypers, first_problem, key=jr.key(0))


def _load_arm(models: Path, arm: str, seeds: int) -> list[GrowingMLP]:
    source = models / f"{arm}.safetensors"
    fields = json.loads((models / f"{arm}.json").read_text())
    recipe = Recipe(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})
    one = eqx.filter_eval_shape(init_one, recipe, *_smallest(recipe)).net
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((seeds, *leaf.shape), leaf.dtype), one)
    nets = from_bytes(source.read_bytes(), like, source=str(source))
    return [jax.tree.map(lambda leaf, row=row: leaf[row], nets) for row in range(seeds)]


def _smallest(recipe: Recipe) -> tuple[Hypers, Problem]:
    """Numbers and samples of the least size that fit a recipe, to learn its network's shapes."""
    number, sizes = jnp.ones(1), jnp.ones((1, len(recipe.capacity)))
    samples = Samples(jnp.ones((1, recipe.in_size, 1)), jnp.ones((1, recipe.out_size, 1)), jnp.ones((1, 1)))
    hypers = Hypers(number, LossWeights(number, number), sizes, number, number, number)
    return hypers, Problem(samples, samples, jnp.ones((1, recipe.out_size)))


def with_structure(results: Results, staged: Mapping[str, Staged], capacity: Sequence[int]) -> Results:
    """The results of an experiment with what its stages did; as they are where there were none.

    Args:
        results: Of all arms.
        staged: The arms that were trained in stages.
        capacity: Units allocated in each hidden layer, which the other arms keep.

    Returns:
        The results with `structure_action` over arm, seed and `look` (as numbered there), `structure_capacity`
        over arm, look and layer, and the counts over all arms, which may share programs, as attributes.
    """
    if not staged:
        return results
    arms, looks = results["arm"].values.tolist(), next(iter(staged.values())).looks
    actions = np.zeros((len(arms), results.sizes["seed"], len(looks)), np.int8)
    units = np.tile(np.array(capacity), (len(arms), len(looks), 1))
    for arm, own in staged.items():
        codes = [ACTIONS.index(decision.action) for decision in own.decisions]
        actions[arms.index(arm)] = np.reshape(codes, actions.shape[1:])
        units[arms.index(arm)] = own.capacity
    told = {"codes": ", ".join(f"{code} {action}" for code, action in enumerate(ACTIONS))}
    counts = decisions.count_actions([decision for own in staged.values() for decision in own.decisions])
    programs = frozenset().union(*(own.programs for own in staged.values()))
    named = {
        "structure_action": (("arm", "seed", "look"), actions, told),
        "structure_capacity": (("arm", "look", "layer"), units),
    }
    attributes = {f"structure_{name}": count for name, count in (*counts.items(), ("programs", len(programs)))}
    return results.assign(named).assign_coords(look=looks).assign_attrs(attributes)


def structure_log(staged: Mapping[str, Staged]) -> dict[str, Any]:
    """What `structure.json` holds: programs and their bound by arm, and every decision with its reason."""
    programs = {arm: {"used": len(own.programs), "most": own.most_programs} for arm, own in staged.items()}
    every = [asdict(decision) for own in staged.values() for decision in own.decisions]
    return {"programs": programs, "decisions": every}
