"""Studies: a grid of experiments on disk, group by group, so that what is finished is never done again."""

import hashlib
import json
from pathlib import Path

import numpy as np

from n3.config import grid
from n3.config.grid import Study
from n3.experiments import groups
from n3.experiments.results import Results, RunDirectory, device_name, join, read_results, unfold
from n3.experiments.run import find_devices
from n3.stats.columns import aligned
from n3.stats.summary import FINAL, final_values


def prepare(study: Study, directory: Path) -> int:
    """Make the folder of a study, or find that it holds this very study.

    Returns:
        The number of its groups.

    Raises:
        FileExistsError: If the folder holds something else.
        ValueError: If the study is not valid; nothing is written then.
    """
    count, written = len(groups.plan(study)), directory / "study.json"
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
    own = RunDirectory(_folder(Path(directory), index))
    if is_finished(Path(directory), index):
        return
    study = _study_in(Path(directory))
    results = groups.train(study, groups.plan(study)[index], device=device, quiet=quiet)
    seconds = {name: results[name].expand_dims(group=[index]) for name in groups.SECONDS}
    own.write_results(results.assign(seconds))
    own.seal(_facts(results))


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


def collect(directory: Path) -> Results:
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
    indices = range(len(groups.plan(study)))
    missing = [index for index in indices if not is_finished(directory, index)]
    if missing:
        raise FileNotFoundError(f"{directory}: groups {missing} are not finished.")
    parts = [read_results(_folder(directory, index)) for index in indices]
    results = join(parts).sel(cell=np.arange(len(study.cells)), seed=list(study.base.run.seeds))
    results = results.sel(arm=list(study.base.run.arms))
    if study.axes:
        results = unfold(results, "cell", {axis.name: grid.labels(axis.values) for axis in study.axes})
    else:
        names = study.cells[0]
        settings = {name: ("cell", grid.labels([cell[name] for cell in study.cells])) for name in names}
        results = results.assign_coords(settings)
    own = RunDirectory(directory)
    own.write_results(results)
    own.seal(_facts(results))
    return results


def run(study: Study, directory: Path, *, quiet: bool = False) -> Results:
    """Train what is not finished yet of a study, on the device of its experiment, and collect its results.

    Raises:
        ValueError: If the study is not valid or the device is not there (nothing is written then), or the
            results of a group are damaged.
        FileExistsError: If the folder holds something else.
    """
    device = study.base.run.device
    find_devices(device)
    for index in range(prepare(study, directory)):
        train_group(str(directory), index, device=device, quiet=quiet)
    return collect(directory)


def table(results: Results, study: Study) -> str:
    """The last step of every cell and arm as text: medians over the seeds of the runs that did not diverge."""
    rows = ["|".join([*study.cells[0], "arm", "test loss", "metric", "size", "parameters", "diverged"])]
    shape = [len(axis.values) for axis in study.axes] or [len(study.cells)]
    names = [axis.name for axis in study.axes] or ["cell"]
    for cell, place in zip(study.cells, np.ndindex(*shape), strict=True):
        here = results.isel(dict(zip(names, place, strict=True))).dropna("step", how="all", subset=["size"])
        for arm in study.base.run.arms:
            own = final_values(here).sel(arm=arm)
            known = own.isel(seed=np.isfinite(own["test_loss"].values))
            lost = f"{own.sizes['seed'] - known.sizes['seed']}/{own.sizes['seed']}"
            medians = [f"{float(known[name].median()):.4g}" if known.sizes["seed"] else "-" for name in FINAL]
            rows.append("|".join([*(str(grid.label(value)) for value in cell.values()), arm, *medians, lost]))
    return aligned(rows)


def _folder(directory: Path, index: int) -> Path:
    return directory / "groups" / f"{index:04d}"


def _study_in(directory: Path) -> Study:
    return Study.from_json((directory / "study.json").read_text())


def _facts(results: Results) -> dict:
    seconds = {name.removesuffix("_seconds"): float(results[name].sum()) for name in groups.SECONDS}
    return {"device": results.attrs.get("device", device_name()), "seconds": seconds}
