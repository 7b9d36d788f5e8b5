"""Run: from a configuration to a run directory, the whole way from top to bottom."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import Device
from jaxtyping import Array, Float, Key

from n3.config.experiment import SIZED, Experiment
from n3.data import dataset
from n3.data.dataset import Dataset, describe_task, load_task
from n3.experiments import arms, results
from n3.experiments.results import ArmRecord, RunDirectory
from n3.experiments.tensorboard import check_log_dir, write_events
from n3.information.measures import Importance, blindness, check_importance
from n3.stats.summary import Results, RunRecord, summarise
from n3.training import decisions
from n3.training.decisions import Staged
from n3.training.progress import Progress
from n3.training.restructure import Rules, train_in_stages
from n3.training.step import Hypers, Problem, Recipe, pool_of
from n3.training.sweep import Swept, sweep

SHOWN = 20
"""Seeds whose networks are evaluated on a grid for the figures."""


def run(
    experiment: Experiment,
    *,
    importance: Importance | None = None,
    has_figures: bool = True,
    quiet: bool = False,
) -> RunRecord:
    """Train every arm of an experiment and leave a run directory.

    Args:
        experiment: What to run; fields at `None` take the method's usual values.
        importance: A function of a layer's activations `[samples, units]` and the targets `[samples, out_size]`
            that returns each unit's importance, in the price's unit: by it method `information` sizes, and
            `monitor` importance sums it over the participating units of every arm, and `prune` judges units;
            None: the information that a unit adds about the target.
        has_figures: Whether to draw `figures/*.png` too.
        quiet: Whether to show no progress.

    Returns:
        The labelled results, with the run directory in which they lie.

    Raises:
        ValueError: If a field has a bad value, or the device is not there; nothing is written then. Or if every
            run of a path of prices diverged.
        ModuleNotFoundError: If `log_dir` or a data set needs an extra that is absent; nothing is written then.
        FileExistsError: If the run directory, or an arm's folder in `log_dir`, holds anything already.
    """
    started = time.perf_counter(), time.process_time()
    experiment = experiment.resolved()
    devices = find_devices(experiment.run.device)
    if experiment.run.log_dir is not None:
        check_log_dir(experiment.run.log_dir, experiment.run.arms)
    data, held = load_splits(experiment)
    if importance is not None:
        check_importance(importance, jnp.asarray(data[0].train_inputs), jnp.asarray(data[0].train_targets))
    recipes = {
        arm: arms.recipe_of(experiment, arm, data[0], importance=importance) for arm in experiment.run.arms
    }
    directory = RunDirectory.create(experiment)
    if experiment.task.data is not None and not quiet:
        print(f"{experiment.task.data}: {describe_task(experiment.task, data[0])}", file=sys.stderr)
    trained = _train(experiment, recipes, data, held, importance=importance, devices=devices, quiet=quiet)
    found = _labelled(experiment, trained, data, started)
    record = RunRecord(experiment=experiment, results=found, directory=directory.path)
    directory.write_results(found)
    directory.write_json("summary.json", summarise(record))
    for arm, recipe in recipes.items():
        results.write_models(directory, arm, recipe, trained.swept[arm].state.net)
    if trained.staged:
        directory.write_json("structure.json", results.structure_log(trained.staged))
    _warn_of_blindness(trained.swept)
    facts = {
        "device": found.attrs["device"],
        "seconds": {n: found.attrs[f"{n}_seconds"] for n in ("wall", "compile", "cpu")},
    }
    directory.seal(facts)
    if has_figures:
        from n3 import figures  # the room beside this one, by its public name; Matplotlib is slow to import

        directory.write_figures(figures(record))
        directory.seal(facts)
    if experiment.run.log_dir is not None:
        write_events(record, experiment.run.log_dir)
    return record


def describe(experiment: Experiment) -> str:
    """What `run` would do, as text: shapes, parameters, memory and runs. Nothing is compiled or written."""
    experiment = experiment.resolved()
    data = load_data(experiment)
    seeds, steps, prices = len(data), experiment.training.steps, experiment.information.path
    one = arms.at_price(experiment, prices[0]) if prices else experiment
    runs = {arm: seeds * max(1, len(prices) * (arm == "growing")) for arm in experiment.run.arms}
    tried = f", growing at {len(prices)} prices" if prices else ""
    problem = jax.eval_shape(lambda: arms.stack(data[:1]))
    lines = [
        f"task        {describe_task(experiment.task, data[0])}, {data[0].in_size} inputs, "
        f"{data[0].out_size} outputs, {len(data[0].train_inputs)} training and "
        f"{len(data[0].test_inputs)} test samples a seed",
        f"runs        {len(runs)} arms x {seeds} seeds{tried} = {sum(runs.values())} runs of {steps} steps",
    ]
    if chosen := experiment.network.choices:
        hard = math.ceil(experiment.training.choice_end * (steps or 0))
        lines.append(f"choice      each layer chooses among {', '.join(chosen)}, for good at step {hard}")
    total = _bytes(problem) * max(runs.values())
    for arm in experiment.run.arms:
        recipe = arms.recipe_of(experiment, arm, data[0])
        state = eqx.filter_eval_shape(
            results.init_one, recipe, arms.hypers_of(one, arm, data=data, active=None), problem
        )
        weights = sum(leaf.size for leaf in jax.tree.leaves((state.net.layers, state.net.readout)))
        total += _bytes(state) * runs[arm]
        lines.append(
            f"{arm:<11} {recipe.in_size} -> {' -> '.join(map(str, recipe.capacity))} -> {recipe.out_size}, "
            f"controller {recipe.controller}, {weights} weights allocated a run"
        )
    if experiment.structure.structure_every is not None:
        capacity = experiment.network.capacity or ()
        lines.append(
            decisions.describe_structure(experiment.structure, steps or 0, capacity, experiment.run.arms)
        )
    lines.append(f"memory      about {total / 2**20:.1f} MiB for samples and states, besides the program")
    return "\n".join(lines)


def find_devices(name: str) -> Sequence[Device]:
    """The devices to compute on: `auto` takes JAX's default kind.

    Raises:
        ValueError: If no such device is there.
    """
    try:
        return jax.devices(None if name == "auto" else name)
    except RuntimeError as error:
        raise ValueError(
            f"`device` is {name}, but JAX finds none here: install its support once with "
            "`uv sync --extra cuda13` (or cuda12), or choose `cpu`."
        ) from error


def load_data(experiment: Experiment) -> list[Dataset]:
    """The data set of each seed, drawn from that seed or from `data_seed`: what it trains and tests with."""
    return load_splits(experiment)[0]


def load_splits(experiment: Experiment) -> tuple[list[Dataset], list[Dataset]]:
    """The data set of each seed, and the same with the samples that are held out in place of the test's.

    Without a path of prices or changes of structure nothing is held out, and the second list is empty.
    """
    task = experiment.task
    seeds = experiment.run.seeds if task.data_seed is None else (task.data_seed,)
    data, held = load_task(task, seeds), []
    if experiment.information.path or experiment.structure.structure_every is not None:
        splits = [dataset.held_out(whole, seed=seed) for whole, seed in zip(data, seeds, strict=True)]
        data, held = ([split[part] for split in splits] for part in (0, 1))
    batch, samples = experiment.training.batch, len(data[0].train_inputs)
    if batch != "full" and batch > samples:
        raise ValueError(f"`batch` must lie in [1, {samples}], the training samples; got {batch}.")
    copies = 1 if task.data_seed is None else len(experiment.run.seeds)
    return data * copies, held * copies


def grid_of(data: Dataset) -> Float[np.ndarray, "points in_size"]:
    """Inputs for figures, in their own units: a line or a square over the training inputs, else no points."""
    if data.in_size > 2:
        return np.zeros((0, data.in_size))
    own = data.input_scaler.inverse(data.train_inputs)
    side = {1: 256, 2: 64}[data.in_size]
    axes = [np.linspace(column.min(), column.max(), side) for column in own.T]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="xy")], axis=1)


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """What became of all arms."""

    swept: Mapping[str, Swept]
    staged: Mapping[str, Staged]
    """Those whose structure could change."""
    path: arms.PricePath | None


def _train(
    experiment: Experiment,
    recipes: Mapping[str, Recipe],
    data: Sequence[Dataset],
    held: Sequence[Dataset],
    *,
    importance: Importance | None,
    devices: Sequence[Device],
    quiet: bool,
) -> _Trained:
    """Train every arm: the growing one first where it tries prices, `equal-size` last."""
    problem, stops = arms.stack(data), arms.stops_of(experiment)
    keys = jax.vmap(jr.key)(jnp.array(experiment.run.seeds))
    staged: dict[str, Staged] = {}

    def trained(arm: str, hypers: Hypers, problem: Problem, keys: Key[Array, " runs"]) -> Swept:
        with Progress(arm, int(stops[-1]), len(keys), quiet) as report:
            settings = {"keys": keys, "stops": stops, "devices": devices, "progress": report}
            if experiment.structure.structure_every is None or arm not in SIZED:
                return sweep(recipes[arm], hypers, problem, **settings)
            drive = recipes[arm].drive
            rules = Rules(
                config=experiment.structure,
                arm=arm,
                seeds=experiment.run.seeds,
                is_classes=data[0].kind == "classification",
                bound=recipes[arm].capacity,
                drive=drive,
                keys=keys,
                pool=lambda row: pool_of(jax.tree.map(lambda leaf: leaf[row], problem.train)),
                rates=None if drive is None else np.asarray(hypers.drive.rate),
                target_sizes=np.asarray(hypers.target_size),
                importance=importance,
            )
            held_samples = arms.stack(held).test
            whole, staged[arm] = train_in_stages(
                recipes[arm], hypers, problem, rules=rules, held=held_samples, **settings
            )
        if not quiet:
            print(staged[arm].describe(), file=sys.stderr)
        return whole

    swept, path, settled = {}, None, experiment
    if experiment.information.path:
        whole = trained("growing", *arms.over_prices(experiment, data, problem, keys))
        swept["growing"], path = arms.keep_price(experiment, whole, held, loss=recipes["growing"].loss)
        settled = arms.at_price(experiment, path.prices[path.pick.index])
    last = sorted(recipes, key="equal-size".__eq__)  # it needs the growing arm's final sizes
    for arm in (arm for arm in last if arm not in swept):
        hypers = arms.hypers_of(settled, arm, data=data, active=arms.active_units_of(swept.get("growing")))
        swept[arm] = trained(arm, hypers, problem, keys)
    return _Trained(swept=swept, staged=staged, path=path)


def _labelled(
    experiment: Experiment, trained: _Trained, data: Sequence[Dataset], started: tuple[float, float]
) -> Results:
    """The results of all arms by name, with what they took since `started` (wall and CPU seconds)."""
    grid = grid_of(data[0])
    records = {arm: _arm_record(trained.swept[arm], data, grid) for arm in experiment.run.arms}
    seconds = {
        "wall": time.perf_counter() - started[0],
        "compile": sum(record.compile_seconds for record in records.values()),
        "cpu": time.process_time() - started[1],
    }
    facts = _facts(experiment, data[0]) | {f"{name}_seconds": value for name, value in seconds.items()}
    samples = _own_units(data[0])
    settings = {"steps": arms.stops_of(experiment), "grid": grid, "samples": samples, "attributes": facts}
    found = results.assemble(experiment, records, **settings)
    found = found.assign_coords(inputs_feature=list(data[0].input_names))
    if trained.path is not None:
        found = found.assign(trained.path.variables()).assign_attrs(trained.path.attributes())
    return results.with_structure(found, trained.staged, experiment.network.capacity or ())


def _arm_record(swept: Swept, data: Sequence[Dataset], grid: Float[np.ndarray, "points in_size"]) -> ArmRecord:
    shown = data[:SHOWN]
    scaled = jnp.stack([jnp.asarray(d.input_scaler.transform(grid), jnp.float32) for d in shown])
    nets = jax.tree.map(lambda leaf: leaf[: len(shown)], swept.state.net)
    outputs = np.asarray(_outputs(nets, scaled))
    own = [o * d.target_scale + d.target_offset for o, d in zip(outputs, shown, strict=True)]
    return ArmRecord.of(swept, np.stack(own))


def _warn_of_blindness(swept: Mapping[str, Swept]) -> None:
    monitors = {arm: own.records.monitor for arm, own in swept.items()}
    found = blindness({arm: own["gap"][:, -1] for arm, own in monitors.items() if "gap" in own})
    if found:
        print(f"warning: {found}", file=sys.stderr)


def _own_units(data: Dataset) -> dict[str, Float[np.ndarray, "samples features"]]:
    def targets(values: np.ndarray) -> np.ndarray:
        if data.kind == "regression":
            return data.target_scaler.inverse(values)
        return (values if values.shape[1] == 1 else values.argmax(1)[:, None]).astype(float)

    return {
        "train_inputs": data.input_scaler.inverse(np.float64(data.train_inputs)),
        "train_targets": targets(data.train_targets),
        "test_inputs": data.input_scaler.inverse(np.float64(data.test_inputs)),
        "test_targets": targets(data.test_targets),
    }


def _facts(experiment: Experiment, data: Dataset) -> dict[str, str | int | float]:
    return {
        "task": experiment.task.task,
        "kind": data.kind,
        "metric": "rmse" if data.kind == "regression" else "accuracy",
        "num_classes": data.num_classes or 0,
        "target_name": data.target_names[0],
        "device": results.device_name(),
    }


_outputs = eqx.filter_jit(eqx.filter_vmap(lambda net, x: net.batch(x.T).T))


def _bytes(tree) -> int:
    return sum(math.prod(leaf.shape) * 4 for leaf in jax.tree.leaves(tree))
