"""TensorBoard: the recorded scalars of a finished experiment as event files."""

import tempfile
from pathlib import Path
from typing import Any

import xarray as xr

from n3.config.release import install_advice
from n3.stats.summary import RunRecord, bands
from n3.surgery.export import write_file

SCALARS = ("train_loss", "test_loss", "test_metric", "size")
"""What is written of every run, beside what it monitored."""


def check_log_dir(log_dir: str | Path, arms: tuple[str, ...]) -> None:
    """Refuse what `write_events` could not do, before anything is computed, with its errors."""
    _writer()
    for path in (Path(log_dir) / arm for arm in arms):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FileExistsError(f"the events folder {path} is not empty: give another `log_dir`.")


def write_events(record: RunRecord, log_dir: str | Path) -> None:
    """Write the median over the seeds of every recorded scalar to `log_dir`, a sub-folder an arm.

    Tags are the names in `results.nc`; of what each layer has, `size/layer-1` and so on. Units are those of
    `results.nc`. Runs that are not finite at a step do not count there; where none is, nothing is written.

    Raises:
        ModuleNotFoundError: If tensorboardx is not installed.
        FileExistsError: If the sub-folder of an arm is there already and holds anything.
        OSError: If a file cannot be written.
    """
    names, arms = (*SCALARS, *record.experiment.run.monitor), record.experiment.run.arms
    check_log_dir(log_dir, arms)
    medians = {name: bands(record.results, name)["median"] for name in names}
    with tempfile.TemporaryDirectory() as scratch:  # the writer waits for ever for a disk that is full
        for arm in arms:
            with _writer()(str(Path(scratch) / arm)) as writer:
                for name, every in medians.items():
                    _add(writer, name, every.sel(arm=arm))
        for path in sorted(Path(scratch).glob("*/*")):
            write_file(Path(log_dir) / path.parent.name / path.name, path.read_bytes())


def _add(writer: Any, name: str, medians: xr.DataArray) -> None:
    for layer in range(medians.sizes.get("layer", 1)):
        known = medians.isel(layer=layer, missing_dims="ignore").dropna("step")
        tag = f"{name}/layer-{layer + 1}" if "layer" in medians.dims else name
        for step, value in known.to_series().items():
            writer.add_scalar(tag, value, step)


def _writer():
    try:
        from tensorboardX import SummaryWriter
    except (ImportError, AttributeError, TypeError) as error:  # absent, or broken
        advice = f"install it with {install_advice('tensorboard', 'tensorboardx')}"
        raise ModuleNotFoundError(f"`log_dir` needs tensorboardx: {advice}.") from error
    return SummaryWriter
