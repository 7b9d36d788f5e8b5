"""TensorBoard: the recorded scalars of a finished experiment as event files."""

from pathlib import Path

from n3.stats.summary import RunRecord, bands

SCALARS = ("train_loss", "test_loss", "test_metric", "size")
"""What is written of every run, beside what it monitored."""


def check_log_dir(log_dir: str | Path, arms: tuple[str, ...]) -> None:
    """Refuse what `write_events` could not do, before anything is computed.

    Args:
        log_dir: Folder that is to receive a sub-folder an arm.
        arms: The arms.

    Raises:
        ModuleNotFoundError: If tensorboardx is not installed.
        FileExistsError: If the sub-folder of an arm is there already and holds anything.
    """
    _writer()
    for path in (Path(log_dir) / arm for arm in arms):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FileExistsError(f"the events folder {path} is not empty: give another `log_dir`.")


def write_events(record: RunRecord, log_dir: str | Path) -> None:
    """Write the median over the seeds of every recorded scalar, a sub-folder an arm.

    Tags are the names in `results.nc`; of what each layer has, `size/layer-1` and so on. Units are those of
    `results.nc`. Runs that are not finite at a step do not count there; where none is, nothing is written.

    Args:
        record: A finished experiment.
        log_dir: Folder for the sub-folders, made where it is missing.

    Raises:
        ModuleNotFoundError: If tensorboardx is not installed.
        FileExistsError: If the sub-folder of an arm is there already and holds anything.
        OSError: If a file cannot be written.
    """
    arms = record.experiment.run.arms
    check_log_dir(log_dir, arms)
    medians = _medians(record)
    for arm in arms:
        with _writer()(str(Path(log_dir) / arm)) as writer:
            for tag, every in medians.items():
                known = every.sel(arm=arm).dropna("step")
                for step, value in zip(known["step"].values.tolist(), known.values.tolist(), strict=True):
                    writer.add_scalar(tag, value, step)


def _medians(record: RunRecord) -> dict:
    """Medians over the seeds, arrays of arm and step, by tag."""
    found = {}
    for name in (*SCALARS, *record.experiment.run.monitor):
        median = bands(record.results, name)["median"]
        layers = range(median.sizes.get("layer", 0))
        own = {f"{name}/layer-{n + 1}": median.isel(layer=n) for n in layers}
        found |= own or {name: median}
    return found


def _writer():
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        advice = "install it with `uv sync --extra tensorboard` (or `pip install tensorboardx`)"
        raise ModuleNotFoundError(f"`log_dir` needs tensorboardx: {advice}.") from error
    return SummaryWriter
