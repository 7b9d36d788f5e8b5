"""Study: a grid of experiments in as few programs as it needs, on disk group by group: none is done twice."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from n3.config import grid
from n3.config.experiment import Experiment
from n3.config.grid import Study
from n3.config.validation import inside
from n3.data.dataset import Dataset, load_dataset, outline_task
from n3.experiments.arms import recipe_of, stops_of
from n3.experiments.directory import (
    NEXT,
    REPORT,
    SUMMARY,
    Resume,
    RunDirectory,
    hash_files,
    hash_settings,
    held,
    optional,
    refuse_foreign,
    require_facts,
    sealed_names,
)
from n3.experiments.memory import describe_cost, describe_memory, outline, runs_at_a_time
from n3.experiments.report import settings_figure, summarise_study, write_report
from n3.experiments.results import device_name, join, label, read_results, unfold, with_units
from n3.experiments.run import count_classes, find_devices, load_data, train_cells
from n3.stats.summary import METRICS, Results
from n3.training.checkpoint import EVERY, CheckpointError, Checkpoints, damages, precision, read_manifest
from n3.training.history import note
from n3.training.sweep import Swept

MOST_RUNS = 5_000
"""Runs of an arm that a group trains at most: what a killed study loses."""
MOST_BYTES = 2**28
"""Bytes of samples that an arm of a group holds at most."""
GROUP_SECONDS = ("compile_seconds", "run_seconds", "cpu_seconds")
"""What training took, by arm: wall seconds of compiling and of running, CPU seconds of both."""
BETWEEN_LOOKS, READY_WITHIN = 2.0, 60.0
"""Seconds between two looks for what other processes write, and until the first has made the folder ready."""
FRESH = 2**31 - 1
"""Seed of the samples on which confusion matrices are counted."""


@dataclass(frozen=True, kw_only=True)
class CellGroup:
    """Cells whose programs and shapes agree, or some seeds of one cell."""

    cells: tuple[int, ...]
    """Places in the study."""
    seeds: tuple[int, ...]

    @property
    def runs(self) -> int:
        """Runs of an arm."""
        return len(self.cells) * len(self.seeds)


def plan_groups(study: Study) -> list[CellGroup]:
    """The groups of a study, as few as its programs and the bounds on runs and bytes allow.

    Cells share a group where every arm has the same program, the same shapes of samples and the same steps to
    record: they may differ in learning rates, penalties, prices, sizes at the start, and data of equal shape.
    Nothing is compiled.

    Raises:
        ValueError: If a setting or a data set is not valid.
    """
    seeds, groups, alike, draw = study.base.run.seeds, [], {}, functools.cache(outline_task)
    for index, cell in enumerate(study.experiments()):
        alike.setdefault(_program_of(cell, draw), []).append(index)
    for (*_, size), cells in alike.items():
        most = max(1, min(MOST_RUNS, MOST_BYTES // size))
        parts = _parts(cells, max(1, most // len(seeds)))
        groups += [CellGroup(cells=own, seeds=part) for own in parts for part in _parts(seeds, most)]
    return _halved(groups, study.parts)


def _halved(groups: list[CellGroup], number: int) -> list[CellGroup]:
    """As many groups at least, by halving the one of most runs while it has more than one."""
    groups = list(groups)
    while len(groups) < number and (own := max(groups, key=lambda each: each.runs)).runs > 1:
        name, place = "cells" if len(own.cells) > 1 else "seeds", groups.index(own)
        halves = _parts(getattr(own, name), -(-len(getattr(own, name)) // 2))
        groups[place : place + 1] = [replace(own, **{name: half}) for half in halves]
    return groups


def describe_study(study: Study) -> str:
    """What training a study would do, as text: every group with its settings, and the programs to compile."""
    find_devices(study.base.run.device)
    groups, arms, seeds = plan_groups(study), study.base.run.arms, study.base.run.seeds
    cells, experiments, programs, spent = len(study.cells), study.experiments(), set(), 0.0
    draw, plans = functools.cache(outline_task), []
    for group in groups:
        first, size = experiments[group.cells[0]], (len(group.cells), len(group.seeds))
        shapes, own, *_ = _program_of(first, draw)
        programs |= {(shapes, arm, math.prod(size)) for arm in own}
        parts = [f"{size[0]} cells x {size[1]} seeds x {first.training.steps} steps"]
        for name in study.cells[0]:
            values = {str(grid.setting_label(study.cells[cell][name])) for cell in group.cells}
            parts.append(f"{name} {values.pop()}" if len(values) == 1 else f"{len(values)} of {name}")
        most, shape = math.prod(size), outline(first, draw)
        spent += sum(shape.cpu_seconds(arm, most, first.training.steps) for arm in arms)
        plans.append("; ".join([*parts, describe_memory(shape, most, most * len(arms))]))
    runs = cells * len(arms) * len(seeds)
    plan = f"{cells} cells x {len(arms)} arms ({', '.join(arms)}) x {len(seeds)} seeds = {runs} runs"
    lines, index = [plan], 0
    for text, alike in itertools.groupby(plans):
        last = index + len(list(alike)) - 1
        which = f"group {index:04d}  " if index == last else f"groups {index:04d} to {last:04d}, each "
        lines.append(which + text)
        index = last + 1
    lines.append(f"on a CPU {describe_cost(spent)}")
    return "\n".join([*lines, f"{len(groups)} groups, {len(programs)} programs to compile"])


def check_memory(study: Study) -> None:
    """See that every group of a study fits into memory; a ValueError says what would, as `run` does."""
    devices, experiments = find_devices(study.base.run.device), study.experiments()
    draw = functools.cache(outline_task)
    for group in plan_groups(study):
        first = experiments[group.cells[0]]
        first = replace(first, run=replace(first.run, seeds=group.seeds))
        runs_at_a_time(first, outline(first, draw), devices, cells=len(group.cells))


def train_group_cells(
    study: Study,
    group: CellGroup,
    *,
    device: str = "auto",
    quiet: bool = False,
    checkpoint: Checkpoints | None = None,
) -> Results:
    """Train all arms of one group of a study, on a device as in `RunConfig`; ValueError where it is absent.

    The records lie over `cell`, `arm`, `seed`, `step` and `layer`; with them are `confusion` where the study
    counts it, and compile, run and CPU seconds over `arm`.
    """
    experiments, devices = study.experiments(), find_devices(device)
    cells = [experiments[cell] for cell in group.cells]
    cells = [replace(cell, run=replace(cell.run, seeds=group.seeds)) for cell in cells]
    block = runs_at_a_time(cells[0], outline(cells[0]), devices, cells=len(cells))
    loaded = {task: load_data(cell) for task, cell in {cell.task: cell for cell in cells}.items()}
    data = [loaded[cell.task] for cell in cells]
    recipes = {arm: recipe_of(cells[0], arm, data[0][0]) for arm in cells[0].run.arms}
    how = {"devices": devices, "block": block, "quiet": quiet, "checkpoint": checkpoint}
    trained = train_cells(cells, recipes, data, **how)
    runs = range(len(cells) * len(group.seeds))
    told = {"steps": stops_of(cells[0]), "estimates": trained.estimates}
    results = label(trained.swept, rows=runs, **told)
    results = unfold(results, "seed", {"cell": group.cells, "seed": group.seeds})
    if study.points:
        results["confusion"] = _confusions(cells, data, trained.swept, study.points)
    results["cpu_seconds"] = ("arm", [trained.cpu_seconds[arm] for arm in recipes])
    kind = data[0][0].kind
    return with_units(results, kind).assign_attrs(device=device_name(), kind=kind, metric=METRICS[kind][0])


def _program_of(cell: Experiment, draw: Callable[..., Any]) -> tuple[Any, ...]:
    """What decides the program of a cell, hashable: shapes, arms, stops; and the bytes of a run's samples."""
    own = outline(cell, draw)
    shapes = tuple(leaf.shape for leaf in jax.tree.leaves(own.problem))
    arms = tuple((recipe, jax.tree.structure(own.hypers[arm])) for arm, recipe in own.recipes.items())
    size = sum(4 * math.prod(shape) for shape in shapes)
    ending = cell.training.readout, cell.training.refit
    return shapes, arms, (*stops_of(cell).tolist(), *ending), size


def _parts(whole: Sequence[int], most: int) -> list[tuple[int, ...]]:
    """In as few parts as `most` items each allow, nearly equal in length."""
    return [tuple(part.tolist()) for part in np.array_split(whole, -(-len(whole) // most))]


def _confusions(
    cells: Sequence[Experiment], data: Sequence[Sequence[Dataset]], swept: Mapping[str, Swept], points: int
) -> tuple[tuple[str, ...], np.ndarray]:
    """Counts of the trained networks by true and predicted class, on fresh samples that all seeds share."""
    inputs, targets = [], []
    for cell, own in zip(cells, data, strict=True):
        if own[0].kind == "regression":
            raise ValueError(f"`points` counts classes, and `{cell.task.task}` has none.")
        fresh = load_dataset(cell.task.task, test_samples=points, seed=FRESH)
        plain = fresh.input_scaler.inverse(fresh.test_inputs)
        inputs += [one.input_scaler.transform(plain).T for one in own]
        targets += [fresh.test_targets.T] * len(own)
    samples = jnp.asarray(np.stack(inputs), jnp.float32), jnp.asarray(np.stack(targets))
    counts = np.stack([count_classes(own.state.net, *samples) for own in swept.values()])
    shape = (len(swept), len(cells), -1, *counts.shape[-2:])
    return ("arm", "cell", "seed", "true_class", "predicted_class"), counts.reshape(shape)


def prepare_study(study: Study, directory: Path, *, resume: Resume = "auto") -> list[int]:
    """Make the folder of a study, or find that it holds this very study; the groups that are to be trained.

    Raises:
        FileExistsError: If the folder holds something else, or anything where `resume` is never.
        FileNotFoundError: If there is nothing to go on with where `resume` is must.
        BusyError: If another process trains it.
        ValueError: If the study is not valid; nothing is written then.
    """
    plan_groups(study)
    refuse_foreign(directory, "study.json")  # a lock is a file too
    with held(directory):
        _begin(study, directory, resume)
        return _unfinished(study, directory)


def _unfinished(study: Study, directory: Path) -> list[int]:
    """The groups that are to be trained; none where the joined results are whole."""
    if _is_whole(study, directory):
        return []
    return [index for index in range(len(plan_groups(study))) if not is_finished(directory, index)]


def _begin(study: Study, directory: Path, resume: Resume) -> None:
    """Write the configuration; one of more steps beside that of the results, until these are joined anew."""
    cells_of = lambda text: Study.from_json(text).experiments()  # noqa: E731
    folder = RunDirectory(directory).begin("study.json", study.to_json(), resume=resume, cells_of=cells_of)
    if folder.longer is None:
        (directory / NEXT).unlink(missing_ok=True)
        return
    facts = _facts_of(study)
    for index in range(len(plan_groups(study))):
        if _folder(directory, index).is_sealed:
            require_facts(_folder(directory, index).path, facts | {"group": index})
    folder.write(NEXT, study.to_json().encode())


def _study_of(directory: Path) -> Study:
    """The study whose groups are to be trained."""
    return Study.load(inside(directory, NEXT if (directory / NEXT).exists() else "study.json"))


def train_group(
    directory: str, index: int, *, device: str = "auto", quiet: bool = False, checkpoint_every: float = EVERY
) -> None:
    """Train one group of a prepared study, by its place in the plan, for its folder; a finished one stays.

    What was killed goes on from its last checkpoint, of which there is one every so many seconds.

    Raises:
        ValueError: If the device is not there, or what the group left is damaged or of other data.
        BusyError: If another process trains the group.
        Interrupted: If SIGTERM or Ctrl-C came, after a checkpoint.
        OSError: If the results cannot be written.
    """
    folder = _folder(Path(directory), index)
    with held(folder.path):
        study = _study_of(Path(directory))
        folder.mend()
        if is_finished(Path(directory), index):
            return
        facts = _facts_of(study) | {"group": index}
        group = plan_groups(study)[index]
        steps = study.experiments()[group.cells[0]].training.steps or 0
        if not quiet and (line := folder.describe_progress(steps)):
            note(line)
        checkpoint, how = folder.checkpoints(checkpoint_every), {"device": device, "quiet": quiet}
        with checkpoint.deferring():
            results = train_group_cells(study, group, checkpoint=checkpoint, **how)
        seconds = {name: results[name].expand_dims(group=[index]) for name in GROUP_SECONDS}
        results = results.assign(seconds)
        folder.write_results(results)
        folder.clear()
        _seal(folder, results, study, facts)


def is_finished(directory: Path, index: int) -> bool:
    """Whether the results of a group are there, of the steps, data and precision that the study has now.

    Raises:
        CheckpointError: If they are of other data or precision, or differ from what was written, and there are
            no checkpoints to rebuild them from.
    """
    folder = _folder(directory, index)
    if not folder.is_sealed:
        return False
    rest = f"remove {folder.path} to train its group again."
    for fault in damages(folder.path):
        if folder.has_checkpoints:
            return False
        raise CheckpointError(f"{fault} It has no checkpoints: {rest}")
    study = _study_of(directory)
    steps, due = read_manifest(folder.path)["steps"], study.last_step
    require_facts(folder.path, _facts_of(study) | {"group": index})
    if steps > due:
        rest = f"give {steps}, or another `name`"
        raise CheckpointError(f"{folder.path} is of {steps} `steps`, and {due} are asked for: {rest}.")
    return steps == due


def sources_of(study: Study) -> dict[str, str]:
    """The sha256 of every file of samples of a study."""
    return hash_files({cell.get("data", study.base.task.data) for cell in study.cells} - {None})


def _facts_of(study: Study) -> dict[str, Any]:
    """What manifests of the study's results must have, by which those of another or of before are told."""
    own = {"precision": precision(), "sources": sources_of(study)}
    return own | {"settings": hash_settings(study.to_json())}


def collect_study(directory: Path) -> Results:
    """Join the results of a study whose groups are all finished, in `results.nc`, with manifest and report.

    The records of all runs lie over one dimension a setting (where the cells are no full grid: over `cell`,
    with the settings as coordinates), `arm`, `seed`, `step` and `layer`; seconds over `group` and `arm`. NaN
    where a seed was not run or a step not recorded.

    Raises:
        FileNotFoundError: If a group is not finished.
        ValueError: If the results of a group are damaged.
    """
    study = _study_of(directory)
    indices = range(len(plan_groups(study)))
    missing = [index for index in indices if not is_finished(directory, index)]
    if missing:
        raise FileNotFoundError(f"{directory}: groups {missing} are not finished.")
    parts = [read_results(_folder(directory, index).path) for index in indices]
    run, cells = study.base.run, study.cells
    results = join(parts).sel(cell=range(len(cells)), seed=list(run.seeds), arm=list(run.arms))
    if study.axes:
        results = unfold(results, "cell", {axis.name: grid.setting_labels(axis.values) for axis in study.axes})
    else:
        labels = {name: grid.setting_labels([cell[name] for cell in cells]) for name in cells[0]}
        results = results.assign_coords({name: ("cell", own) for name, own in labels.items()})
    folder, facts = RunDirectory(directory), _facts_of(study) | {"groups": len(indices)}
    folder.write_results(results)
    if (directory / NEXT).exists():
        folder.clear()
        (directory / NEXT).replace(directory / "study.json")
    folder.write_json(SUMMARY, summarise_study(results, study))
    _seal(folder, results, study, facts)
    _show(study, results, folder)
    return results


def _show(study: Study, results: Results, folder: RunDirectory) -> None:
    """Draw the figure and write the report of a sweep, where one is missing."""
    has_settings = bool(study.cells[0])
    due = {REPORT, *["figures/settings.png"] * has_settings}
    if due <= set(sealed_names(folder.path)):
        return
    with optional("figures"):
        figures = {"settings": settings_figure(study, results)} if has_settings else {}
        folder.write_figures(figures, study.base.run.figure_format)
        _seal(folder, results, study, _facts_of(study) | {"groups": len(plan_groups(study))})
    with optional("report"):
        write_report(folder.path)


@runtime_checkable
class Executor(Protocol):
    """What runs functions elsewhere: of `concurrent.futures`, of submitit, or a client of Dask or Ray."""

    def submit(self, function: Callable[..., None], /, *args: Any, **options: Any) -> Any:
        """Run the function with these arguments; what is returned has `result()`, which waits and raises."""
        ...


def run_study(
    study: Study,
    directory: Path,
    *,
    executor: Executor | None = None,
    quiet: bool = False,
    resume: Resume = "auto",
    checkpoint_every: float = EVERY,
) -> Results:
    """Train what is not finished yet of a study, on the device of its experiment, and collect its results.

    The groups are trained here, one after the other, or side by side by an executor whose processes see the
    same folder.

    Raises:
        ValueError: If the study is not valid or the device is absent (nothing is written then), or what a group
            left is damaged or of other data.
        FileExistsError: If the folder holds something else.
        BusyError: If another process trains it.
        Interrupted: If SIGTERM or Ctrl-C came, after a checkpoint.
    """
    device = study.base.run.device
    find_devices(device)
    number = len(plan_groups(study))
    refuse_foreign(directory, "study.json")
    with held(directory):
        _begin(study, directory, resume)
        taken = "takes {} of {} groups, which are finished, from {}"
        left = _unfinished(study, directory)
        if len(left) < number and not quiet:
            note(taken.format(number - len(left), number, directory))
        for own in (_folder(directory, index) for index in range(number) if index not in left):
            if own.is_intact:
                own.mend()  # names checkpoints that are damaged
        if not left and _is_whole(study, directory):
            results = read_results(directory)
            _show(study, results, RunDirectory(directory))
            return results
        if not left and RunDirectory(directory).is_sealed:
            note(f"{directory} is joined anew from its groups")
        how = {"device": device, "checkpoint_every": checkpoint_every}
        if executor is not None:
            folder = str(directory.resolve())
            for job in [executor.submit(train_group, folder, index, quiet=True, **how) for index in left]:
                job.result()
            return collect_study(directory)
        for index in left:
            if number > 1 and not quiet:
                note(f"group {index + 1} of {number}")
            train_group(str(directory), index, quiet=quiet, **how)
        return collect_study(directory)


def run_share(
    study: Study,
    directory: Path,
    *,
    quiet: bool = False,
    resume: Resume = "auto",
    checkpoint_every: float = EVERY,
) -> Results | None:
    """Train this process's share of a study, under `jax.distributed`, in a folder that all processes see.

    Every so many-th group is its own. The first process makes the folder ready, waits in the end for all
    groups, and collects the results; the others return None. Nothing but files passes between them. Errors as
    `run_study`, and ValueError where the folder is not made ready for this very study.
    """
    first, began = jax.process_index() == 0, time.monotonic()
    how = {"checkpoint_every": checkpoint_every, "quiet": quiet or not first}
    if first:
        prepare_study(study, directory, resume=resume)
    while not (directory / "study.json").exists() or _study_of(directory).to_json() != study.to_json():
        if time.monotonic() - began > READY_WITHIN:
            rest = "all processes must see one folder and be given the same settings"
            raise ValueError(f"`distributed`: {directory} is not made ready for this study: {rest}.")
        time.sleep(BETWEEN_LOOKS)
    left = _unfinished(study, directory)
    for index in left:
        if index % jax.process_count() == jax.process_index():
            train_group(str(directory), index, device=study.base.run.device, **how)
    if not first:
        return None
    while left := [index for index in left if not is_finished(directory, index)]:
        time.sleep(BETWEEN_LOOKS)
    return run_study(study, directory, quiet=True)


def _is_whole(study: Study, directory: Path) -> bool:
    """Whether the joined results and those of all groups are there, of this study, and none is damaged.

    A group that was killed on its way to more steps has its results among the joined ones.
    """
    if (directory / NEXT).exists() or not RunDirectory(directory).is_intact:
        return False
    groups = [_folder(directory, index) for index in range(len(plan_groups(study)))]
    intact = [own for own in groups if own.is_intact]
    if not all(own in intact or _is_ahead(own, study.last_step) for own in groups):
        return False
    joined, facts = read_manifest(directory), _facts_of(study)
    if any(joined.get(name) != value for name, value in (facts | {"steps": study.last_step}).items()):
        return False
    for folder in intact:
        require_facts(folder.path, facts | {"group": int(folder.path.name)})
    return True


def _is_ahead(folder: RunDirectory, steps: int) -> bool:
    """Whether a group has gone beyond these steps."""
    return max(folder.checkpoints().progress().values(), default=0) > steps


def _folder(directory: Path, index: int) -> RunDirectory:
    return RunDirectory(directory / "groups" / f"{index:04d}")


def _seal(folder: RunDirectory, results: Results, study: Study, facts: Mapping[str, Any]) -> None:
    seconds = {name.removesuffix("_seconds"): float(results[name].sum()) for name in GROUP_SECONDS}
    own = {"device": results.attrs.get("device", device_name()), "seconds": seconds}
    may_follow = "steps" not in study.cells[0] and all(cell.is_open_ended for cell in study.experiments())
    folder.seal({**own, **facts, "steps": study.last_step}, keeps_checkpoints=may_follow)
