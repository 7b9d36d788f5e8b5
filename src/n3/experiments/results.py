"""Results: what a run leaves behind, in memory as labelled arrays and on disk as a run directory."""

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import Int

from n3.config.experiment import Experiment, NetworkConfig, RunConfig
from n3.nn import metrics
from n3.nn.losses import LossWeights, Samples
from n3.nn.mlp import GrowingMLP
from n3.stats.summary import Results, RunRecord, versions
from n3.surgery.compact import CompactMLP
from n3.surgery.compact import compact as compact_network
from n3.surgery.export import from_bytes, to_bytes, write_file
from n3.training import decisions
from n3.training.decisions import ACTIONS, Staged
from n3.training.history import History
from n3.training.step import Hypers, Problem, Recipe, StepRecord, init
from n3.training.sweep import Swept

_count_parameters = jax.jit(jax.vmap(metrics.active_parameters))


def label(swept: Mapping[str, Swept], *, rows: Sequence[int], steps: Int[np.ndarray, " records"]) -> Results:
    """Label what all arms recorded while they trained.

    Args:
        swept: The runs by arm.
        rows: Names of the rows: the seeds, or other numbers that are still to be unfolded.
        steps: Steps at which the runs were recorded.

    Returns:
        Dimensions `arm`, `seed`, `step`, `layer`, and `choice` where layers choose their activation; zero where
        an arm has no such term. Wall seconds of compiling and of running over `arm`.
    """
    every, first = [_recorded(own) for own in swept.values()], next(iter(swept.values())).records
    variables: dict[str, Any] = {}
    for name in dict.fromkeys(name for own in every for name in own):
        values = np.stack([own.get(name, first.size * 0) for own in every])
        variables[name] = (("arm", "seed", "step", "layer", "choice")[: values.ndim], values)
    for name in ("compile_seconds", "run_seconds"):
        variables[name] = (("arm",), [getattr(own, name) for own in swept.values()])
    layers = np.arange(first.size.shape[-1])
    coords = {"arm": list(swept), "seed": np.array(rows), "step": steps, "layer": layers}
    choices = {"choice": list(first.choice_share)} if first.choice_share else {}
    return xr.Dataset(variables, coords=coords | choices)


def _recorded(swept: Swept) -> dict[str, np.ndarray]:
    """What is known of the runs of an arm, by name; axes seed[, step[, layer[, choice]]]."""
    records = {name: getattr(swept.records, name) for name in StepRecord.__dataclass_fields__}
    terms, monitor, shares = (records.pop(name) for name in ("terms", "monitor", "choice_share"))
    found = records | terms | monitor
    found["active_parameters"] = np.asarray(_count_parameters(swept.state.net))
    found["diverged_at"] = np.asarray(swept.state.diverged_at)
    return found | ({"choice_share": np.stack(list(shares.values()), -1)} if shares else {})


def record_fits(histories: Mapping[str, History], *, task: str, capacity: Sequence[int]) -> RunRecord:
    """What `n3.fit` recorded of many runs, for the statistics and figures of experiments.

    `summarise`, `table` and `figures` take it; its test samples are the validation data of the fits.

    Args:
        histories: By arm (`growing`, `static`, ...): of as many runs each, paired by their place, of the same
            steps and groups, with validation data.
        task: What the runs learn, for titles.
        capacity: Units of each group before training.

    Raises:
        ValueError: If a history is of a single run or has no validation data, or an arm is unknown.
    """
    first = next(iter(histories.values()))
    is_single = any(own.train_loss.ndim == 1 or own.validation_loss is None for own in histories.values())
    if is_single:
        raise ValueError("`histories` must be of many runs each, with validation data.")
    monitor = tuple(first.monitor)
    experiment = Experiment(
        network=NetworkConfig(method="information", capacity=tuple(capacity)),
        run=RunConfig(arms=tuple(histories), seeds=tuple(range(len(first.train_loss))), monitor=monitor),
    )
    is_classes = first.validation_accuracy is not None
    over = {"train_loss": "train_loss", "test_loss": "validation_loss"}
    variables: dict[str, Any] = {
        name: (("arm", "seed", "step"), np.stack([getattr(own, field) for own in histories.values()]))
        for name, field in over.items()
    }
    accuracy = [own.validation_accuracy for own in histories.values()]
    metric = np.stack(accuracy) if is_classes else np.sqrt(np.maximum(variables["test_loss"][1], 0.0))
    variables["test_metric"] = (("arm", "seed", "step"), metric)
    of_layers = {"size": [own.sizes for own in histories.values()]}
    of_layers |= {name: [own.monitor[name] for own in histories.values()] for name in monitor}
    for name, values in of_layers.items():
        variables[name] = (("arm", "seed", "step", "layer"), np.stack(values))
    for name, field in {"active_parameters": "parameters", "diverged_at": "diverged_at"}.items():
        variables[name] = (("arm", "seed"), np.stack([getattr(own, field) for own in histories.values()]))
    seconds = np.full(len(histories), np.nan)
    variables |= {"compile_seconds": ("arm", seconds), "run_seconds": ("arm", seconds)}
    coords = {"arm": list(histories), "seed": np.arange(len(first.train_loss)), "step": first.step}
    facts = {"task": task, "kind": "classification" if is_classes else "regression", "device": device_name()}
    facts |= {"metric": "accuracy" if is_classes else "rmse", "wall_seconds": np.nan}
    results = xr.Dataset(variables, coords=coords | {"layer": np.arange(len(first.layers))}, attrs=facts)
    return RunRecord(experiment=experiment, results=results, directory=None)


def unfold(results: Results, dimension: str, axes: Mapping[str, Sequence[Any]]) -> Results:
    """Take one dimension apart into several.

    Args:
        results: Any data set.
        dimension: A dimension whose items are all combinations of the axes' labels; the last moves fastest.
        axes: Labels of each new dimension by its name, which may be the old one's.
    """
    sizes, variables = [*map(len, axes.values())], dict(results.drop_vars(dimension).variables)
    for name, old in variables.items():
        if dimension in old.dims:
            place = old.dims.index(dimension)
            dims = (*old.dims[:place], *axes, *old.dims[place + 1 :])
            shape = (*old.shape[:place], *sizes, *old.shape[place + 1 :])
            variables[name] = (dims, old.values.reshape(shape))
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
        text = json.dumps(dict(content), default=lambda own: own.tolist())  # of NumPy's
        plain = json.loads(text, parse_constant=lambda _: None)
        self.write(name, (json.dumps(plain, indent=2) + "\n").encode())

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


def write_models(directory: RunDirectory, arm: str, recipe: Recipe, nets: GrowingMLP) -> None:
    """Write the networks of an arm, and what it takes to lay them out again.

    Args:
        directory: The run directory.
        arm: The arm.
        recipe: The program that trained it.
        nets: Its networks, with a first axis of seeds; their capacity counts, not the recipe's.
    """
    plain = replace(recipe, capacity=nets.controller.capacity, drive=None, monitor=None)
    directory.write(f"models/{arm}.safetensors", to_bytes(nets))
    directory.write_json(f"models/{arm}.json", asdict(plain))


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


def _load_arm(models: Path, arm: str, seeds: int) -> list[GrowingMLP]:
    source = models / f"{arm}.safetensors"
    fields = json.loads((models / f"{arm}.json").read_text())
    recipe = Recipe(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})
    number, sizes = jnp.ones(()), jnp.ones(len(recipe.capacity))  # any: the network's shapes count
    samples = Samples(jnp.ones((recipe.in_size, 1)), jnp.ones((recipe.out_size, 1)), jnp.ones(1))
    hypers = Hypers(number, LossWeights(number, number), sizes, number, number, number)
    problem = Problem(samples, samples, jnp.ones(recipe.out_size))
    one = eqx.filter_eval_shape(init, recipe, hypers, problem, key=jr.key(0)).net
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((seeds, *leaf.shape), leaf.dtype), one)
    nets = from_bytes(source.read_bytes(), like, source=str(source))
    return [jax.tree.map(lambda leaf, row=row: leaf[row], nets) for row in range(seeds)]


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
