"""Results: what a run leaves behind, in memory as labelled arrays and on disk as a run directory."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import Int

from n3.config.experiment import ARMS, Experiment, NetworkConfig, RunConfig
from n3.config.validation import among, from_json, inside, read_file, read_text
from n3.experiments.directory import REMEDY, RunDirectory
from n3.experiments.ensembles import HeldOutEstimate
from n3.information.measures import MEASURES
from n3.nn import losses, metrics
from n3.nn.losses import LossWeights, Samples
from n3.nn.masks import MASKS
from n3.nn.members import Ensemble
from n3.nn.mlp import GrowingMLP
from n3.stats.summary import LOSS_UNITS, METRICS, Results, RunRecord
from n3.surgery.compact import compact as compact_network
from n3.surgery.export import from_bytes, to_bytes
from n3.training import decisions
from n3.training.checkpoint import (
    MANIFEST,
    CheckpointError,
    damages,
    read_manifest,
)
from n3.training.decisions import ACTIONS, Staged
from n3.training.history import History
from n3.training.step import Hypers, Problem, Recipe, StepRecord, init
from n3.training.sweep import Swept

_count_parameters = jax.jit(jax.vmap(metrics.active_parameters))


def label(
    swept: Mapping[str, Swept],
    *,
    rows: Sequence[int],
    steps: Int[np.ndarray, " records"],
    estimates: Mapping[str, HeldOutEstimate] = MappingProxyType({}),
) -> Results:
    """Label what all arms recorded while they trained; `rows` names their runs, by seeds or other numbers.

    Dimensions are `arm`, `seed`, `step`, `layer`, `choice` where layers choose their activation, and `member`
    where the runs have members, of which `estimates` are; zero where an arm has no such term. Wall seconds of
    compiling and of running are over `arm`.
    """
    recorded, of_members = {}, {}
    for arm, own in swept.items():
        records = {name: getattr(own.records, name) for name in StepRecord.__dataclass_fields__}
        terms, monitor, shares = (records.pop(name) for name in ("terms", "monitor", "choice_share"))
        recorded[arm] = {name: own for name, own in records.items() if own is not None} | terms | monitor
        parameters, diverged_at = _count_parameters(own.state.net), own.state.diverged_at
        recorded[arm] |= {"active_parameters": parameters, "diverged_at": diverged_at}
        recorded[arm] |= {"choice_share": np.stack(list(shares.values()), -1)} if shares else {}
        recorded[arm] |= {name: getattr(own, name) for name in ("compile_seconds", "run_seconds")}
        if arm in estimates:
            own = {name: getattr(estimates[arm], name) for name in HeldOutEstimate.__dataclass_fields__}
            of_members[arm] = {name: own.pop(name) for name in ("member_loss", "member_error")}
            recorded[arm] |= own
    choices = next(iter(swept.values())).records.choice_share
    found = _over_arms(recorded, seed=rows, step=steps, **({"choice": list(choices)} if choices else {}))
    for name in next(iter(of_members.values()), ()):
        values = np.stack([own[name] for own in of_members.values()])
        found = found.assign({name: (("arm", "seed", "member"), values)})
    return found.assign_coords(member=np.arange(found.sizes["member"])) if of_members else found


def _over_arms(recorded: Mapping[str, Mapping[str, Any]], **coords: Any) -> Results:
    """What each arm recorded, of axes [seed[, step[, layer[, choice]]]], by name; zero where one lacks it."""
    every, variables = list(recorded.values()), {}
    for name in dict.fromkeys(name for own in every for name in own):
        values = np.stack([own.get(name, every[0]["size"] * 0) for own in every])
        variables[name] = (("arm", "seed", "step", "layer", "choice")[: values.ndim], values)
    coords |= {"arm": list(recorded), "layer": np.arange(variables["size"][1].shape[-1])}
    return xr.Dataset(variables, coords={name: np.array(own) for name, own in coords.items()})


def record_fits(histories: Mapping[str, History], *, task: str, capacity: Sequence[int]) -> RunRecord:
    """What `n3.fit` recorded of many runs, for the statistics and figures of experiments.

    `summarise`, `table` and `figures` take it; its test samples are the validation data of the fits. The
    histories, by arm (`growing`, `static`, ...), are of as many runs each, paired by their place, of the same
    steps and groups, with validation data; one of a model that was not grown counts with all its units. `task`
    says in titles what the runs learn; `capacity` holds the units of each group before training.

    Raises:
        ValueError: If a history is of a single run, has no validation data or other steps or runs, or an arm is
            unknown.
    """
    if unknown := set(histories) - set(ARMS):
        raise ValueError(f"`histories` must be of arms {', '.join(ARMS)}; got {sorted(unknown)[0]!r}.")
    first = max(histories.values(), key=lambda own: len(own.layers))
    if any(own.train_loss.ndim == 1 or own.validation_loss is None for own in histories.values()):
        raise ValueError("`histories` must be of many runs each, with validation data.")
    if len({own.train_loss.shape for own in histories.values()}) > 1:
        raise ValueError("`histories` must be of as many runs and records each.")
    seeds, shape = range(len(first.train_loss)), (*first.train_loss.shape, len(capacity))
    whole, nothing = np.broadcast_to(np.float64(capacity), shape), np.full(shape, np.nan)
    experiment = Experiment(
        network=NetworkConfig(method="information", capacity=tuple(capacity)),
        run=RunConfig(arms=tuple(histories), seeds=tuple(seeds), monitor=tuple(first.monitor)),
    )
    is_classes, recorded = first.validation_accuracy is not None, {}
    for arm, own in histories.items():
        losses = {"train_loss": own.train_loss, "test_loss": own.validation_loss}
        rmse = None if is_classes else np.sqrt(np.maximum(own.validation_loss, 0.0))
        recorded[arm] = losses | {"test_metric": own.validation_accuracy if is_classes else rmse}
        recorded[arm] |= {"size": own.sizes if own.layers else whole}
        recorded[arm] |= {name: own.monitor.get(name, nothing) for name in first.monitor}
        recorded[arm] |= {"active_parameters": own.parameters, "diverged_at": own.diverged_at}
        recorded[arm] |= {"compile_seconds": np.nan, "run_seconds": np.nan}
    facts = {"task": task, "kind": "classification" if is_classes else "regression", "device": device_name()}
    facts |= {"metric": "accuracy" if is_classes else "rmse", "wall_seconds": np.nan}
    results = _over_arms(recorded, seed=seeds, step=first.step).assign_attrs(facts)
    return RunRecord(experiment=experiment, results=results, directory=None)


_UNITS = {
    "step": "optimiser steps",
    "diverged_at": "optimiser steps",
    "size": "effective units",
    "path_size": "effective units",
    "depth": "effective layers",
    "active_parameters": "parameters",
    "choice_share": "share",
    "confusion": "samples",
    **{name: "nats" for name, own in MEASURES.items() if own.layer},
}
_OF_LOSS = ("_loss", "_penalty", "_error", "_gain")
"""Ends of the names of variables in the unit of the loss."""


def with_units(results: Results, kind: str) -> Results:
    """The results with `units` as an attribute of every variable that has some; `kind` decides the loss's."""
    ends = {**dict.fromkeys(_OF_LOSS, LOSS_UNITS[kind]), "_seconds": "s", "_term": "nats"}
    own = _UNITS | {"test_metric": METRICS[kind][1]}
    results = results.copy()
    for name in map(str, results.variables):
        found = own.get(name) or next((unit for end, unit in ends.items() if name.endswith(end)), None)
        if found is not None:
            results[name].attrs["units"] = found
    return results


def unfold(results: Results, dimension: str, axes: Mapping[str, Sequence[Any]]) -> Results:
    """Take a dimension apart into several: its items are all combinations of labels, the last moves fastest."""
    sizes, variables = {name: len(labels) for name, labels in axes.items()}, {}
    for name, old in results.drop_vars(dimension).variables.items():
        dims = [new for own in old.dims for new in (axes if own == dimension else (own,))]
        shape = [(dict(old.sizes) | sizes)[own] for own in dims]
        variables[name] = (dims, old.values.reshape(shape), old.attrs)
    labels = {name: np.asarray(list(values)) for name, values in axes.items()}
    return xr.Dataset(variables, attrs=results.attrs).assign_coords(labels)


def join(parts: Sequence[Results]) -> Results:
    """One data set of several that hold other cells, arms, seeds or steps; NaN where none has a number."""
    return xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")


def read(directory: str | Path) -> RunRecord:
    """The resolved experiment and the results, in memory, of one experiment's run directory.

    Raises:
        FileNotFoundError: If the folder lacks a file, or is not finished.
        ValueError: If a file is damaged, or the folder is a sweep's (see `read_results`).
    """
    if (Path(directory) / "study.json").exists():
        raise ValueError(f"`directory` {directory} holds a sweep, not one experiment: take `n3.read_results`.")
    found = {"experiment": _experiment_of(directory), "results": read_results(directory)}
    return RunRecord(**found, directory=directory)


def _experiment_of(directory: str | Path) -> Experiment:
    path = inside(directory, "config.json")
    if not path.exists():
        advice = "the folder of a network that `save_compact` wrote is read by `n3.surgery.load_compact`"
        raise FileNotFoundError(f"`directory` must be a run directory; {path} is not there ({advice}).")
    require(Path(directory), "config.json")
    return Experiment.load(path)


def read_results(directory: str | Path) -> Results:
    """What an experiment or a sweep left in its folder's `results.nc`, in memory.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or any of it lies elsewhere or is larger than the file can hold.
    """
    path = inside(directory, "results.nc")
    require(Path(directory), "results.nc")
    content = io.BytesIO(read_file(path))
    try:
        _check_variables(content)
        with xr.open_dataset(content, engine="h5netcdf") as results:
            return results.load()
    except (
        OSError,
        RuntimeError,
        LookupError,
        ArithmeticError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        raise ValueError(f"{path} is damaged or no results of n3: {error}") from error


MOST_COMPRESSED = 1032
"""Bytes that one byte of zlib's holds at most."""


def _check_variables(content: io.BytesIO) -> None:
    """Refuse a NetCDF-4 file that holds more than variables of its own, before any of them is read."""
    size = 0
    with h5py.File(content, "r") as file:
        for name in file:
            is_own = isinstance(file.get(name, getlink=True), h5py.HardLink)
            variable = file[name] if is_own else None
            if not isinstance(variable, h5py.Dataset) or variable.external or variable.is_virtual:
                raise ValueError(f"`{name}` must be a variable whose numbers are in the file itself.")
            size += variable.nbytes
    if size > MOST_COMPRESSED * (most := content.getbuffer().nbytes):
        raise ValueError(f"its variables have {size} bytes, more than a file of {most} can hold.")


def require(directory: Path, *names: str) -> None:
    """See that files of a finished run directory are as the manifest says.

    Raises:
        FileNotFoundError: If it is not finished.
        CheckpointError: If a file is missing or damaged.
    """
    if not (directory / MANIFEST).exists():
        raise FileNotFoundError(f"{directory} has no {MANIFEST}: it is not finished, or not a run directory.")
    for fault in damages(directory, *names):
        raise CheckpointError(f"{fault} {REMEDY}")


def device_name() -> str:
    """The default device, as `cpu` or as its kind, with the number of devices where there are several."""
    devices = jax.local_devices()
    kind = devices[0].device_kind if devices[0].platform != "cpu" else "cpu"
    return kind if len(devices) == 1 else f"{kind} x {len(devices)}"


def write_models(
    directory: RunDirectory, arm: str, recipe: Recipe, nets: GrowingMLP | Ensemble[GrowingMLP]
) -> None:
    """Write the networks of an arm, a row a seed, with their recipe; their own capacity counts."""
    one = nets.members if isinstance(nets, Ensemble) else nets
    plain = replace(recipe, capacity=one.controller.capacity, drive=None, monitor=None, held=0)
    directory.write(f"models/{arm}.safetensors", to_bytes(nets))
    directory.write_json(f"models/{arm}.json", asdict(plain))


def load(directory: str | Path, *, compact: bool = False) -> dict[str, list[Any]]:
    """The trained networks of a run's folder by arm, one a seed; `compact` makes them plain (`n3.compact`).

    They read and give scaled numbers; `n3.predict` takes rows and returns predictions in the user's own units.
    They are `GrowingMLP` or `CompactMLP`, or ensembles of these where the runs have members and no `refit`.

    Raises:
        FileNotFoundError: If the folder lacks a file.
        ValueError: If a file is damaged or holds another network.
    """
    nets = {arm: load_arm(directory, arm) for arm in _experiment_of(directory).run.arms}
    return {arm: [compact_network(net) for net in own] for arm, own in nets.items()} if compact else nets


def load_arm(directory: str | Path, arm: str) -> list[Any]:
    """The trained networks of one arm of a run's folder, one a seed; errors as `load`."""
    seeds, models = len(_experiment_of(directory).run.seeds), inside(directory, "models")
    require(Path(directory), *(f"models/{arm}.{kind}" for kind in ("json", "safetensors")))
    with jax.enable_x64(read_manifest(Path(directory))["precision"] == "float64"):
        return _load_arm(models, arm, seeds)


def _load_arm(models: Path, arm: str, seeds: int) -> list[GrowingMLP] | list[Ensemble[GrowingMLP]]:
    source, path = (inside(models, f"{arm}.{kind}") for kind in ("safetensors", "json"))
    recipe, content = from_json(Recipe, read_text(path), source=str(path)), read_file(source)
    if min(recipe.in_size, recipe.out_size, len(recipe.capacity), *recipe.capacity, recipe.members + 1) < 1:
        raise ValueError(
            f"{path}: `in_size`, `out_size` and `capacity` must be positive, `members` not below 0."
        )
    if max(recipe.in_size, recipe.out_size, *recipe.capacity, recipe.members) > len(content):
        raise ValueError(f"{path} must be of the network in {source}, which is too small for it.")
    try:
        for name, known in {"mask": MASKS, "loss": losses.LOSSES, "optimiser": ("adam", "sgd")}.items():
            among(name, [getattr(recipe, name)], known=tuple(known))
        one, axes = eqx.filter_eval_shape(_first, recipe), (seeds,)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if recipe.members:
        one, axes = Ensemble(one, recipe.loss == "cross-entropy"), (seeds, recipe.members)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*axes, *leaf.shape), leaf.dtype), one)
    nets = from_bytes(content, like, source=str(source))
    return [jax.tree.map(lambda leaf, row=row: leaf[row], nets) for row in range(seeds)]


def _first(recipe: Recipe) -> GrowingMLP:
    """The network of a run before its first step; only its shapes count."""
    number, sizes = jnp.ones(()), jnp.ones(len(recipe.capacity))
    samples = Samples(jnp.ones((recipe.in_size, 1)), jnp.ones((recipe.out_size, 1)), jnp.ones(1))
    hypers = Hypers(number, LossWeights(number, number), sizes, number, number, number)
    return init(recipe, hypers, Problem(samples, samples, jnp.ones(recipe.out_size)), key=jr.key(0)).net


def with_structure(results: Results, staged: Mapping[str, Staged], capacity: Sequence[int]) -> Results:
    """The results of all arms with what the stages of some did; as they are where there were none.

    Added are `structure_action` over arm, seed and `look` (as numbered there), `structure_capacity` over arm,
    look and layer, and as attributes the counts over all arms, which may share programs. Arms that were not
    trained in stages keep `capacity`, the units allocated in each hidden layer.
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
    attributes = {f"structure_{name}": count for name, count in (*counts.items(), ("programs", len(programs)))}
    results = results.assign(structure_action=(("arm", "seed", "look"), actions, told))
    results = results.assign(structure_capacity=(("arm", "look", "layer"), units))
    return results.assign_coords(look=looks).assign_attrs(attributes)


def structure_log(staged: Mapping[str, Staged]) -> dict[str, Any]:
    """What `structure.json` holds: programs and their bound by arm, and every decision with its reason."""
    programs = {arm: {"used": len(own.programs), "most": own.most_programs} for arm, own in staged.items()}
    every = [asdict(decision) for own in staged.values() for decision in own.decisions]
    return {"programs": programs, "decisions": every}
