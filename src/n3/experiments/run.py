"""Run: from a configuration to a run directory, the whole way from top to bottom, as a study of one cell."""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jax import Device
from jaxtyping import Array, Float, Int, PyTree

from n3.config.experiment import SIZED, Experiment
from n3.data import dataset
from n3.data.dataset import Dataset, describe_task, load_task
from n3.experiments import arms, results
from n3.experiments.directory import REPORT, SUMMARY, Resume, RunDirectory, hash_files, optional
from n3.experiments.ensembles import Ended, HeldOutEstimate, count_active, finish_or_restart, refit_arms
from n3.experiments.memory import find_devices, outline, runs_at_a_time, sweep_blocks
from n3.experiments.predict import write_preprocessing
from n3.experiments.report import run_report
from n3.experiments.tensorboard import check_log_dir, write_events
from n3.information.measures import Importance, blindness, check_importance
from n3.nn import metrics
from n3.stats.summary import METRICS, Results, RunRecord, summarise
from n3.training.checkpoint import EVERY, Checkpoints, digest, precision, read_manifest
from n3.training.decisions import Staged
from n3.training.history import Progress, note
from n3.training.restructure import Rules, train_in_stages
from n3.training.step import Recipe
from n3.training.sweep import Swept

SHOWN = 20
"""Seeds whose networks are evaluated on a grid for the figures."""


def run(
    experiment: Experiment,
    *,
    importance: Importance | None = None,
    has_figures: bool = True,
    quiet: bool = False,
    resume: Resume = "auto",
    checkpoint_every: float = EVERY,
) -> RunRecord:
    """Train every arm of an experiment, whose fields at None take usual values, and leave a run directory.

    A run that was killed goes on in its folder from its last checkpoint, of which one is written every
    `checkpoint_every` seconds; finished arms are not trained again. Its numbers are those of a run that was
    never killed, to the bit. With `resume` never only an empty folder will do, with must only one to go on
    with. Figures, `report.html` and events come after the numbers: where they fail, a line says so.

    `importance` is a function of a layer's activations `[samples, units]` and the targets `[samples, out_size]`
    that returns each unit's importance, in the price's unit: by it method `information` sizes, and `monitor`
    importance sums it over the participating units of every arm, and `prune` judges units; None: the
    information that a unit adds about the target. `has_figures` asks for `figures/*.png` and `report.html` too.

    Raises:
        ValueError: If a field has a bad value, or the device is not there; nothing is written then.
        ModuleNotFoundError: If `log_dir` or a data set needs an extra that is absent; nothing is written then.
        FileExistsError: If the run directory holds something else, or an arm's folder in `log_dir` anything.
        CheckpointError: If what a killed run left is damaged, or of other samples.
        BusyError: If another process holds the run directory.
        Interrupted: If SIGTERM or Ctrl-C came while it trained; a KeyboardInterrupt.
    """
    started = time.perf_counter(), time.process_time()
    experiment = experiment.resolved()
    devices = find_devices(experiment.run.device)
    if experiment.task.data is not None and not quiet:
        note(f"reading {experiment.task.data}")
    block = runs_at_a_time(experiment, outline(experiment), devices)
    if experiment.run.log_dir is not None:
        check_log_dir(experiment.run.log_dir, experiment.run.arms)
    data, held = load_splits(experiment)
    if importance is not None:
        check_importance(importance, jnp.asarray(data[0].train_inputs), jnp.asarray(data[0].train_targets))
    names = experiment.run.arms
    recipes = {arm: arms.recipe_of(experiment, arm, data[0], importance=importance) for arm in names}
    with RunDirectory.of(experiment, resume=resume) as directory:
        due = directory.mend(**_facts_of(experiment))
        if due != "train":
            record = results.read(directory.path)
            if due == "show":
                directory.write_json(SUMMARY, summarise(record))
                _seal_again(record, directory)
        else:
            if not quiet and (line := directory.describe_progress(experiment.training.steps or 0)):
                note(line)
            rules = _rules_of(experiment, data[0], held, importance)
            if experiment.task.data is not None and not quiet:
                note(describe_task(experiment.task, data[0]))
            checkpoint = directory.checkpoints(checkpoint_every)
            how = {"held": held, "devices": devices, "block": block, "quiet": quiet, "rules": rules}
            with checkpoint.deferring():
                trained = train_cells([experiment], recipes, [data], checkpoint=checkpoint, **how)
                record = _written(experiment, trained, data, directory, started)
        _show(record, directory, has_figures=has_figures)
    return record


def _facts_of(experiment: Experiment) -> dict[str, Any]:
    """The precision, and the hash of the user's file of samples, by which results of others are refused."""
    own = {"precision": precision()}
    return own | ({"sources": hash_files([experiment.task.data])} if experiment.task.data else {})


def _rules_of(
    experiment: Experiment, data: Dataset, held: Sequence[Dataset], importance: Importance | None
) -> dict[str, Rules]:
    """By what each arm changes its structure, if it does."""
    if experiment.structure.structure_every is None:
        return {}
    own = {"config": experiment.structure, "seeds": experiment.run.seeds, "importance": importance}
    own |= {"held": arms.stack(held).test, "is_classes": data.kind == "classification"}
    return {arm: Rules(arm=arm, **own) for arm in experiment.run.arms if arm in SIZED}


def _written(
    experiment: Experiment,
    trained: "TrainedArms",
    data: Sequence[Dataset],
    directory: RunDirectory,
    started: tuple[float, float],
) -> RunRecord:
    """The record of trained arms, once it is in the run directory with all that was computed."""
    found = _labelled(experiment, trained, data, started)
    record = RunRecord(experiment=experiment, results=found, directory=directory.path)
    directory.write_results(found)
    directory.clear()
    for arm, recipe in trained.recipes.items():
        results.write_models(directory, arm, recipe, trained.swept[arm].state.net)
    write_preprocessing(directory, data)
    if trained.staged:
        directory.write_json("structure.json", results.structure_log(trained.staged))
    summary = summarise(record)
    directory.write_json(SUMMARY, summary)
    for warning in summary["warnings"]:
        note(f"warning: {warning['text']}")
    gaps = {arm: own.records.monitor.get("gap") for arm, own in trained.swept.items()}
    if warning := blindness({arm: gap[:, -1] for arm, gap in gaps.items() if gap is not None}):
        note(f"warning: {warning}")
    seconds = {name: found.attrs[f"{name}_seconds"] for name in ("wall", "compile", "cpu")}
    samples = digest(arms.stack(list(dict.fromkeys(data))))
    facts = {"device": found.attrs["device"], "seconds": seconds, "samples": samples}
    directory.seal(facts | _facts_of(experiment), keeps_checkpoints=experiment.is_open_ended)
    return record


def _show(record: RunRecord, directory: RunDirectory, *, has_figures: bool) -> None:
    """Draw figures and write events, where they are missing: what fails costs itself and a line."""
    log_dir = record.experiment.run.log_dir
    if has_figures and not {REPORT, "figures/loss.png"} <= set(read_manifest(directory.path)["sha256"]):
        with optional("figures"):
            from n3 import figures  # the room beside this one, by its public name; Matplotlib is slow to import

            directory.write_figures(figures(record), record.experiment.run.figure_format)
            _seal_again(record, directory)
        with optional("report"):
            directory.write(REPORT, run_report(record, directory.path).encode())
            _seal_again(record, directory)
    if log_dir is not None:
        with optional("log_dir"):
            write_events(record, log_dir)


def _seal_again(record: RunRecord, directory: RunDirectory) -> None:
    """Seal the files that are there now, with the facts of the training that was sealed."""
    own = {name: value for name, value in read_manifest(directory.path).items() if name != "sha256"}
    directory.seal(own, keeps_checkpoints=record.experiment.is_open_ended)


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
    arms.check_batch(experiment, len(data[0].train_inputs))
    copies = 1 if task.data_seed is None else len(experiment.run.seeds)
    return data * copies, held * copies


def grid_of(data: Dataset) -> Float[np.ndarray, "points in_size"]:
    """Inputs for figures, in their own units: a line or a square over inputs that differ, else no points."""
    own = data.input_scaler.inverse(data.train_inputs)
    if data.in_size > 2 or np.any(np.ptp(own, axis=0) == 0):
        return np.zeros((0, data.in_size))
    side = {1: 256, 2: 64}[data.in_size]
    axes = np.meshgrid(*np.linspace(own.min(axis=0), own.max(axis=0), side).T, indexing="xy")
    return np.stack([axis.ravel() for axis in axes], axis=1)


@dataclass(frozen=True, kw_only=True)
class TrainedArms:
    """What became of all arms of some cells: of each a row a run, cell after cell."""

    swept: Mapping[str, Swept]
    cpu_seconds: Mapping[str, float]
    staged: Mapping[str, Staged]
    """Those whose structure could change."""
    path: arms.PricePath | None
    recipes: Mapping[str, Recipe]
    """Those of the networks that are left."""
    estimates: Mapping[str, HeldOutEstimate]
    """Of members, by arm."""


def train_cells(
    cells: Sequence[Experiment],
    recipes: Mapping[str, Recipe],
    data: Sequence[Sequence[Dataset]],
    *,
    held: Sequence[Dataset] = (),
    rules: Mapping[str, Rules] = MappingProxyType({}),
    devices: Sequence[Device] | None = None,
    block: int | None = None,
    quiet: bool = False,
    checkpoint: Checkpoints | None = None,
) -> TrainedArms:
    """Train every arm of resolved experiments that share its program, its runs side by side, `block` at a time.

    A path of prices makes of a cell one for each price. Then the growing arm comes first, and the others have
    the price that is kept, by the samples that each seed holds out, `held`, as its test samples. `equal-size`
    comes last: it has the growing arm's final sizes. The cells have equal arms, seeds and steps, and `data` the
    data set of each seed, cell by cell; a cell with a path, or with `rules` by which an arm changes its
    structure, is alone. Every arm has a part of the checkpoints.
    """
    stops, path, active = arms.stops_of(cells[0]), None, [None] * len(cells)
    keys = jnp.concatenate([jax.vmap(jr.key)(jnp.array(cells[0].run.seeds))] * len(cells))
    every, members = [one for sets in data for one in sets], cells[0].training.members or 0
    seeds = [*cells[0].run.seeds] * len(cells) if members else ()
    runs = arms.stack(every, members=members, seeds=seeds), keys
    swept, staged, seconds, estimates, ended = {}, {}, {}, {}, {}
    first = "growing" if cells[0].information.path else ""
    for arm in sorted(recipes, key=lambda name: (name == "equal-size") - (name == first)):
        started, recipe = time.process_time(), recipes[arm]
        tried = [one for cell in cells for one in arms.over_prices(cell)]
        times = len(tried) // len(cells)
        rows = zip(tried, [*data] * times, active * times, strict=True)
        hypers = arms.concatenate([arms.hypers_of(one, arm, data=d, active=units) for one, d, units in rows])
        problem, keys = arms.repeat(runs, times)
        with Progress(arm, int(stops[-1]), len(keys), quiet) as report:
            settings = {"keys": keys, "stops": stops, "devices": devices, "progress": report}
            settings["checkpoint"] = checkpoint and checkpoint.part(arm)
            if arm in rules:
                staging = settings | {"rules": rules[arm]}
                swept[arm], staged[arm] = train_in_stages(recipe, hypers, problem, **staging)
            else:
                swept[arm] = sweep_blocks(recipe, hypers, problem, block or len(keys), **settings)
            if recipe.members:
                again = settings | {"checkpoint": checkpoint and checkpoint.part(f"{arm}-again")}
                again |= {"is_solved": cells[0].training.readout == "solved", "block": block or len(keys)}
                swept[arm], own = finish_or_restart(recipe, swept[arm], hypers, problem, **again)
                estimates[arm], strengths = own, own.readout_strength
                ended[arm] = Ended(recipe=recipe, swept=swept[arm], hypers=hypers, strengths=strengths)
        if arm in staged and not quiet:
            note(staged[arm].describe())
        if cells[0].information.path:
            swept[arm], path = arms.keep_price(cells[0], swept[arm], held, loss=recipe.loss)
            cells = [tried[path.pick.index]]
        if arm == "growing" and "equal-size" in recipes:
            active = np.split(np.asarray(count_active(swept[arm].state.net)), len(cells))
        seconds[arm] = time.process_time() - started + swept[arm].cpu_seconds
    if cells[0].training.refit:
        started, how = time.process_time(), {"devices": devices, "quiet": quiet, "checkpoint": checkpoint}
        how["block"] = block or len(runs[1])
        whole = refit_arms(ended, runs[0], keys=runs[1], steps=int(stops[-1]), **how)
        swept = {arm: own.swept for arm, own in whole.items()}
        recipes = {arm: own.recipe for arm, own in whole.items()}
        part = (time.process_time() - started) / len(whole)
        seconds = {arm: own + part for arm, own in seconds.items()}
    units = arms.units_of([one for sets in data[: len(cells)] for one in sets])[:, None]
    swept = {arm: _in_own_units(swept[arm], units) for arm in recipes}
    found = {"cpu_seconds": seconds, "staged": staged, "path": path, "estimates": estimates}
    return TrainedArms(swept=swept, recipes=recipes, **found)


def _in_own_units(swept: Swept, units: Float[np.ndarray, "runs 1"]) -> Swept:
    """The runs with their metric in the target's own unit, in float64."""
    records = eqx.tree_at(lambda own: own.test_metric, swept.records, swept.records.test_metric * units)
    return replace(swept, records=records)


def _labelled(
    experiment: Experiment, trained: TrainedArms, data: Sequence[Dataset], started: tuple[float, float]
) -> Results:
    """The results of all arms, with predictions in the target's own unit or as logits, and what they took."""
    one, shown, grid, seeds = data[0], data[:SHOWN], grid_of(data[0]), experiment.run.seeds
    scaled = jnp.stack([jnp.asarray(each.input_scaler.transform(grid), jnp.float32) for each in shown])
    trees = [jax.tree.map(lambda leaf: leaf[: len(shown)], own.state.net) for own in trained.swept.values()]
    scale = np.stack([each.target_scale for each in shown])[:, None]
    offset = np.stack([each.target_offset for each in shown])[:, None]
    predictions = np.stack([_outputs(nets, scaled) for nets in trees]) * scale + offset
    told = {"rows": seeds, "steps": arms.stops_of(experiment), "estimates": trained.estimates}
    found = results.label(trained.swept, **told).assign(
        prediction=(("arm", "shown_seed", "point", "output"), predictions),
        grid=(("point", "input"), grid),
        **_own_units(one),
        **_confusions(trained.swept, data),
    )
    found = found.assign_coords(shown_seed=list(seeds[:SHOWN]), inputs_feature=list(one.input_names))
    found = found.assign_attrs(
        task=experiment.task.task,
        kind=one.kind,
        metric=METRICS[one.kind][0],
        num_classes=one.num_classes or 0,
        target_name=one.target_names[0],
        device=results.device_name(),
        wall_seconds=time.perf_counter() - started[0],
        compile_seconds=float(found["compile_seconds"].sum()),
        cpu_seconds=time.process_time() - started[1] + sum(own.cpu_seconds for own in trained.swept.values()),
    )
    if trained.path is not None:
        found = found.assign(trained.path.variables()).assign_attrs(trained.path.attributes())
    found = results.with_structure(found, trained.staged, experiment.network.capacity or ())
    return results.with_units(found, one.kind)


def _confusions(swept: Mapping[str, Swept], data: Sequence[Dataset]) -> dict[str, xr.DataArray]:
    """Counts of the networks of every arm and seed by true and predicted class, on the seed's test samples."""
    one = data[0]
    if one.kind == "regression":
        return {}
    test = arms.stack(data).test
    counts = [np.asarray(count_classes(own.state.net, test.inputs, test.targets)) for own in swept.values()]
    classes = ("true_class", "predicted_class")
    names = {name: list(one.target_names) for name in classes}
    return {"confusion": xr.DataArray(np.stack(counts), dims=("arm", "seed", *classes), coords=names)}


@jax.jit
def count_classes(*rows: PyTree) -> Int[Array, "runs classes classes"]:
    """Of each run's network, inputs and targets, the numbers of samples by true and predicted class."""
    return jax.lax.map(lambda row: metrics.confusion_matrix(row[0].batch(row[1]), row[2]), rows, batch_size=64)


_outputs = eqx.filter_jit(eqx.filter_vmap(lambda net, x: net.batch(x.T).T))


def _own_units(data: Dataset) -> dict[str, tuple[tuple[str, str], np.ndarray]]:
    """The samples of both splits in their own units, classes by number, as variables of `results.nc`."""
    found, scalers = {}, {"inputs": data.input_scaler, "targets": data.target_scaler}
    for split, (side, scaler) in itertools.product(("train", "test"), scalers.items()):
        scaled = np.asarray(getattr(data, f"{split}_{side}"), float)
        is_codes = side == "targets" and scaled.shape[1] > 1 and data.kind == "classification"
        own = scaled.argmax(1, keepdims=True).astype(float) if is_codes else scaler.inverse(scaled)
        found[f"{split}_{side}"] = ((f"{split}_sample", f"{side}_feature"), own)
    return found
