"""Study: a grid of experiments in as few programs as it needs, on disk group by group: none is done twice."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from n3.config import grid
from n3.config.experiment import Experiment
from n3.config.grid import Study
from n3.data.dataset import Dataset, load_dataset
from n3.experiments.arms import hypers_of, recipe_of, stack, stops_of
from n3.experiments.results import RunDirectory, device_name, join, label, read_results, unfold
from n3.experiments.run import find_devices, load_data, train_cells
from n3.nn import metrics
from n3.stats.summary import FINAL, Results, align_columns, final_values
from n3.training.sweep import Swept

MOST_RUNS = 5_000
"""Runs of an arm that a group trains at most: what a killed study loses."""
MOST_BYTES = 2**28
"""Bytes of samples that an arm of a group holds at most."""
GROUP_SECONDS = ("compile_seconds", "run_seconds", "cpu_seconds")
"""What training took, by arm: wall seconds of compiling and of running, CPU seconds of both."""
FRESH = 2**31 - 1
"""Seed of the samples on which confusion matrices are counted."""


@dataclass(frozen=True, kw_only=True)
class CellGroup:
    """Cells whose programs and shapes agree, or some seeds of one cell."""

    cells: tuple[int, ...]
    """Places in the study."""
    seeds: tuple[int, ...]


def plan_groups(study: Study) -> list[CellGroup]:
    """The groups of a study, as few as its programs and the bounds on runs and bytes allow.

    Cells share a group where every arm has the same program, the same shapes of samples and the same steps to
    record: they may differ in learning rates, penalties, prices, sizes at the start, and data of equal shape.
    Nothing is compiled.

    Raises:
        ValueError: If a setting or a data set is not valid.
    """
    seeds, groups, alike = study.base.run.seeds, [], {}
    for index, cell in enumerate(study.experiments()):
        alike.setdefault(_program_of(cell), []).append(index)
    for (*_, size), cells in alike.items():
        most = max(1, min(MOST_RUNS, MOST_BYTES // size))
        if len(seeds) > most:
            parts = [((cell,), part) for cell in cells for part in _parts(seeds, most)]
        else:
            parts = [(part, seeds) for part in _parts(tuple(cells), most // len(seeds))]
        groups += [CellGroup(cells=each, seeds=own) for each, own in parts]
    return groups


def describe_study(study: Study) -> str:
    """What training a study would do, as text: every group with its settings, and the programs to compile."""
    groups, arms, seeds = plan_groups(study), study.base.run.arms, study.base.run.seeds
    cells, experiments, programs = len(study.cells), study.experiments(), set()
    for group in groups:
        shapes, own, *_ = _program_of(experiments[group.cells[0]])
        programs |= {(shapes, arm, len(group.cells) * len(group.seeds)) for arm in own}
    runs = cells * len(arms) * len(seeds)
    lines = [f"{cells} cells x {len(arms)} arms ({', '.join(arms)}) x {len(seeds)} seeds = {runs} runs"]
    lines += [f"group {index:04d}  {_group_line(study, group)}" for index, group in enumerate(groups)]
    return "\n".join([*lines, f"{len(groups)} groups, {len(programs)} programs to compile"])


def train_group_cells(study: Study, group: CellGroup, *, device: str = "auto", quiet: bool = False) -> Results:
    """Train all arms of a group.

    Args:
        study: The study.
        group: One of its groups.
        device: Device to compute on, as in `RunConfig`.
        quiet: Whether to show no progress.

    Returns:
        Records of the runs over `cell`, `arm`, `seed`, `step` and `layer`; `confusion` where the study counts
        it; compile, run and CPU seconds over `arm`.

    Raises:
        ValueError: If the device is not there.
    """
    experiments, devices = study.experiments(), find_devices(device)
    cells = [
        replace(one, run=replace(one.run, seeds=group.seeds)) for one in (experiments[c] for c in group.cells)
    ]
    loaded = {task: load_data(cell) for task, cell in {cell.task: cell for cell in cells}.items()}
    data = [loaded[cell.task] for cell in cells]
    recipes = {arm: recipe_of(cells[0], arm, data[0][0]) for arm in cells[0].run.arms}
    trained = train_cells(cells, recipes, data, devices=devices, quiet=quiet)
    runs = range(len(cells) * len(group.seeds))
    results = label(trained.swept, rows=runs, steps=stops_of(cells[0]))
    results = unfold(results, "seed", {"cell": group.cells, "seed": group.seeds})
    if study.points:
        results["confusion"] = _confusions(cells, data, trained.swept, study.points)
    results["cpu_seconds"] = ("arm", [trained.cpu_seconds[arm] for arm in recipes])
    return results.assign_attrs(device=device_name())


def _program_of(cell: Experiment) -> tuple[Any, ...]:
    """What decides the program of a cell, hashable: shapes, arms, stops; and the bytes of a run's samples."""
    one = replace(cell, run=replace(cell.run, seeds=cell.run.seeds[:1]))
    data = load_data(one)
    problem, units = jax.eval_shape(lambda: stack(data)), np.ones((1, len(cell.network.capacity)), int)
    shapes = tuple(leaf.shape for leaf in jax.tree.leaves(problem))
    arms = tuple(
        (recipe_of(one, arm, data[0]), jax.tree.structure(hypers_of(one, arm, data=data, active=units)))
        for arm in cell.run.arms
    )
    size = sum(4 * int(np.prod(shape)) for shape in shapes)
    return shapes, arms, tuple(stops_of(cell).tolist()), size


def _parts(whole: tuple, most: int) -> list[tuple]:
    """The tuple in as few parts as `most` items each allow, nearly equal in length."""
    count = -(-len(whole) // most)
    return [tuple(part.tolist()) for part in np.array_split(np.array(whole), count)]


def _group_line(study: Study, group: CellGroup) -> str:
    steps = study.experiments()[group.cells[0]].training.steps
    parts = [f"{len(group.cells)} cells x {len(group.seeds)} seeds x {steps} steps"]
    for name in study.cells[0]:
        values = {str(grid.setting_label(study.cells[cell][name])) for cell in group.cells}
        parts.append(f"{name} {values.pop()}" if len(values) == 1 else f"{len(values)} of {name}")
    return "; ".join(parts)


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
    counts = np.stack([_count_classes(own.state.net, *samples) for own in swept.values()])
    shape = (len(swept), len(cells), -1, *counts.shape[-2:])
    return ("arm", "cell", "seed", "true_class", "predicted_class"), counts.reshape(shape)


def _count(row: PyTree) -> Int[Array, "classes classes"]:
    net, x, y = row
    return metrics.confusion_matrix(net.batch(x), y)


_count_classes = jax.jit(lambda *rows: jax.lax.map(_count, rows, batch_size=64))


def prepare_study(study: Study, directory: Path) -> int:
    """Make the folder of a study, or find that it holds this very study.

    Returns:
        The number of its groups.

    Raises:
        FileExistsError: If the folder holds something else.
        ValueError: If the study is not valid; nothing is written then.
    """
    count, written = len(plan_groups(study)), directory / "study.json"
    if written.exists() and written.read_text() == study.to_json():
        return count
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"the folder {directory} holds something else: give another `name` or `out`.")
    RunDirectory(directory).write("study.json", study.to_json().encode())
    return count


def train_group(directory: str, index: int, *, device: str = "auto", quiet: bool = False) -> None:
    """Train one group of a prepared study and leave its results; a finished one stays as it is.

    Args:
        directory: The study's folder.
        index: The group's place in the plan.
        device: Device to compute on, as in `RunConfig`.
        quiet: Whether to show no progress.

    Raises:
        ValueError: If the device is not there, or the group's results are damaged.
        OSError: If the results cannot be written.
    """
    folder = Path(directory)
    if is_finished(folder, index):
        return
    study = _study_in(folder)
    results = train_group_cells(study, plan_groups(study)[index], device=device, quiet=quiet)
    seconds = {name: results[name].expand_dims(group=[index]) for name in GROUP_SECONDS}
    _write(_folder(folder, index), results.assign(seconds))


def is_finished(directory: Path, index: int) -> bool:
    """Whether the results of a group are there.

    Raises:
        ValueError: If they are, and differ from what was written.
    """
    manifest, results = (_folder(directory, index) / name for name in ("manifest.json", "results.nc"))
    if not manifest.exists():
        return False
    expected = json.loads(manifest.read_text())["sha256"]["results.nc"]
    if not results.exists() or hashlib.sha256(results.read_bytes()).hexdigest() != expected:
        raise ValueError(f"{results} is damaged or missing: remove {manifest.parent} to train its group again.")
    return True


def collect_study(directory: Path) -> Results:
    """Join the results of a study whose groups are all finished, and leave `results.nc` and `manifest.json`.

    Returns:
        The records of all runs, over one dimension a setting (where the cells are no full grid: over `cell`,
        with the settings as coordinates), `arm`, `seed`, `step` and `layer`; seconds over `group` and `arm`.
        NaN where a seed was not run or a step not recorded.

    Raises:
        FileNotFoundError: If a group is not finished.
        ValueError: If the results of a group are damaged.
    """
    study = _study_in(directory)
    indices = range(len(plan_groups(study)))
    missing = [index for index in indices if not is_finished(directory, index)]
    if missing:
        raise FileNotFoundError(f"{directory}: groups {missing} are not finished.")
    parts = [read_results(_folder(directory, index)) for index in indices]
    run, places = study.base.run, np.arange(len(study.cells))
    results = join(parts).sel(cell=places, seed=list(run.seeds), arm=list(run.arms))
    if study.axes:
        results = unfold(results, "cell", {axis.name: grid.setting_labels(axis.values) for axis in study.axes})
    else:
        names = study.cells[0]
        settings = {name: ("cell", grid.setting_labels([cell[name] for cell in study.cells])) for name in names}
        results = results.assign_coords(settings)
    _write(directory, results)
    return results


def run_study(study: Study, directory: Path, *, quiet: bool = False) -> Results:
    """Train what is not finished yet of a study, on the device of its experiment, and collect its results.

    Raises:
        ValueError: If the study is not valid or the device is not there (nothing is written then), or the
            results of a group are damaged.
        FileExistsError: If the folder holds something else.
    """
    device = study.base.run.device
    find_devices(device)
    for index in range(prepare_study(study, directory)):
        train_group(str(directory), index, device=device, quiet=quiet)
    return collect_study(directory)


def study_table(results: Results, study: Study) -> str:
    """The last step of every cell and arm as text: medians over the seeds of the runs that did not diverge."""
    rows = ["|".join([*study.cells[0], "arm", "test loss", "metric", "size", "parameters", "diverged"])]
    names = [axis.name for axis in study.axes] or ["cell"]
    places = np.ndindex(*(results.sizes[name] for name in names))
    for cell, place in zip(study.cells, places, strict=True):
        here = results.isel(dict(zip(names, place, strict=True))).dropna("step", how="all", subset=["size"])
        for arm in study.base.run.arms:
            own = final_values(here).sel(arm=arm)
            known = own.isel(seed=np.isfinite(own["test_loss"].values))
            lost = f"{own.sizes['seed'] - known.sizes['seed']}/{own.sizes['seed']}"
            medians = [f"{float(known[name].median()):.4g}" if known.sizes["seed"] else "-" for name in FINAL]
            settings = (str(grid.setting_label(value)) for value in cell.values())
            rows.append("|".join([*settings, arm, *medians, lost]))
    return align_columns(rows)


def _folder(directory: Path, index: int) -> Path:
    return directory / "groups" / f"{index:04d}"


def _study_in(directory: Path) -> Study:
    return Study.from_json((directory / "study.json").read_text())


def _write(folder: Path, results: Results) -> None:
    """Leave `results.nc` and `manifest.json`."""
    own, device = RunDirectory(folder), results.attrs.get("device", device_name())
    own.write_results(results)
    seconds = {name.removesuffix("_seconds"): float(results[name].sum()) for name in GROUP_SECONDS}
    own.seal({"device": device, "seconds": seconds})
