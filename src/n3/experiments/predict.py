"""Predict: from a user's rows to predictions in the user's units, by the networks that a run left."""

import csv
import dataclasses
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from n3.config.experiment import Experiment
from n3.config.task import check_format
from n3.config.validation import among, from_json, inside, load_json, read_text
from n3.data.cells import in_memory
from n3.data.dataset import Dataset
from n3.data.encoding import Preprocessing
from n3.data.frames import Frame
from n3.data.tables import numbered_rows
from n3.experiments.directory import RunDirectory
from n3.experiments.results import load_arm, require
from n3.surgery.compact import compact
from n3.surgery.export import write_out

FILE = "preprocessing.json"
"""What of a run directory holds the preprocessing of every seed."""

ROWS = 256
"""Rows that go through a network at once; fewer are filled up, so that one program serves every number."""


def outputs_of(net: Any, inputs: Float[np.ndarray, "rows in_size"]) -> Float[np.ndarray, "rows out_size"]:
    """Outputs of a plain network or ensemble in float64, on the processor; a row's do not depend on others."""
    rows = len(inputs)
    blocks = np.zeros((max(-(-rows // ROWS), 1), ROWS, inputs.shape[1]))
    blocks.reshape(-1, inputs.shape[1])[:rows] = inputs
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        arrays, rest = eqx.partition(net, eqx.is_array)
        arrays = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), arrays)
        each = [np.asarray(_outputs(arrays, rest, jnp.asarray(own))) for own in blocks]
    return np.concatenate(each)[:rows]


@eqx.filter_jit
def _outputs(arrays: Any, rest: Any, inputs: Any) -> Any:
    return eqx.combine(arrays, rest).batch(inputs.T).T


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """What `preprocessing.json` holds: of each seed the place of its own among those that differ."""

    each: tuple[Preprocessing, ...]
    places: tuple[int, ...]


def write_preprocessing(directory: RunDirectory, data: Sequence[Dataset]) -> None:
    """Write what lies between raw rows and the networks of every seed, which needs no data to be read back."""
    every = [one.preprocessing for one in data]
    each = list(dict.fromkeys(every))
    places = {own: place for place, own in enumerate(each)}
    stored = _Stored(each=tuple(each), places=tuple(places[own] for own in every))
    directory.write(FILE, (json.dumps(dataclasses.asdict(stored)) + "\n").encode())


def read_preprocessing(run: str | Path, *, seeds: int) -> list[Preprocessing]:
    """What lies between raw rows and the network of each seed; a ValueError if the file is another."""
    path = inside(run, FILE)
    stored = from_json(_Stored, read_text(path), source=str(path))
    if len(stored.places) != seeds or not set(stored.places) <= {*range(len(stored.each))}:
        raise ValueError(f"{path}: `places` must name one of `each` for every seed; got {stored.places[:5]}.")
    return [stored.each[place] for place in stored.places]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predictions of rows in the user's own units; of classes the probability of each."""

    names: tuple[str, ...]
    """Names of the outputs, or of the classes."""
    values: Float[np.ndarray, "rows names"]
    labels: tuple[str, ...] | None
    """The most probable class of each row; None for numbers."""

    def to_csv(self, path: str | Path) -> None:
        """Write a row for each row under a header: the class first, if it is one, and then all values.

        Raises:
            OSError: If the file cannot be written; no part of it is left then.
        """
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        first = [] if self.labels is None else ["class"]
        writer.writerow([*first, *(f"probability of {name}" if first else name for name in self.names)])
        labels = [[]] * len(self.values) if self.labels is None else [[own] for own in self.labels]
        writer.writerows([*label, *row] for label, row in zip(labels, self.values.tolist(), strict=True))
        write_out(path, text.getvalue().encode())


def predict(
    run: str | Path,
    rows: Any,
    *,
    arm: str = "growing",
    seed: int | None = None,
    separator: str | None = None,
    decimal: Literal[".", ","] | None = None,
    encoding: str | None = None,
) -> Predictions:
    """Predictions for new raw rows, in the units, and with the names, of the data that a run has learnt.

    What becomes of a row is as in training: medians in place of missing numbers, categories, scales and class
    names come from the run directory `run`. Columns are found by name, those of an array by their order;
    targets and dropped columns are ignored. Warnings name other columns, columns without a value, and texts
    that were not in training, which count as none of the categories.

    Args:
        run: A finished run directory of `n3.run`.
        rows: A file (`.csv` or `.tsv` with a header, written as the one that was learnt, or an `.npz` that
            holds `inputs`), a data frame, a mapping from names to columns, or an array `[rows, columns]`.
        arm: Arm of the run whose networks predict.
        seed: The seed whose network predicts; None: the mean over all seeds that did not diverge.
        separator: Of a text file, as in `n3.TaskConfig`; None: as of the file that was learnt.
        decimal: In the same way.
        encoding: In the same way.

    Returns:
        A column for each output, or for each class its probability.

    Raises:
        FileNotFoundError: If the run directory lacks a file, or is not finished.
        ValueError: If the run has no such arm or seed, a column is missing or holds no numbers, or a file is
            damaged.
        DataError: If the file of rows cannot be read, or lacks a column.
    """
    require(Path(run), "config.json", "summary.json", FILE)
    experiment = Experiment.load(inside(run, "config.json"))
    among("arm", [arm], known=experiment.run.arms)
    lost = _lost_of(inside(run, "summary.json"), arm)
    seeds = [own for own in experiment.run.seeds if own not in lost] if seed is None else [seed]
    if not set(seeds) <= set(experiment.run.seeds) - set(lost) or not seeds:
        left = ", ".join(str(own) for own in experiment.run.seeds if own not in lost) or "none"
        raise ValueError(f"`seed` must be one of the run that did not diverge, {left}; got {seed}.")
    each = read_preprocessing(run, seeds=len(experiment.run.seeds))
    first, found = each[0], []
    given = {"separator": separator, "decimal": decimal, "encoding": encoding}
    how = {name: getattr(experiment.task, name) if own is None else own for name, own in given.items()}
    check_format(**how)
    frame, nets = _frame_of(experiment, first, rows, how), load_arm(run, arm)
    for own in seeds:
        row = experiment.run.seeds.index(own)
        found.append(each[row].values(outputs_of(compact(nets[row]), each[row].inputs(frame))))
    values = np.mean(found, axis=0)
    labels = tuple(first.targets[place] for place in values.argmax(axis=1)) if first.is_classes else None
    return Predictions(names=first.targets, values=values, labels=labels)


def _lost_of(path: Path, arm: str) -> list[int]:
    """The seeds of an arm that diverged."""
    own = load_json(path)
    for name in ("arms", arm, "diverged_seeds"):
        own = own.get(name) if isinstance(own, dict) else None
    if not isinstance(own, list) or not all(isinstance(seed, int) for seed in own):
        raise ValueError(f"{path} must have `diverged_seeds` of arm {arm}, whole numbers; got {str(own)[:80]}.")
    return own


def _frame_of(experiment: Experiment, own: Preprocessing, rows: Any, how: Mapping[str, Any]) -> Frame:
    """The columns that networks need, of a file or of rows in memory; warnings say what is new in them."""
    task, origin = experiment.task, None
    idle = {*task.target, *task.drop, *(() if own.is_classes else own.targets)}
    if isinstance(rows, str | Path):
        rows, origin = numbered_rows(rows, own.encoder.inputs, texts=own.encoder.texts, **how)
    frame = own.frame(rows, idle=idle)
    origin = in_memory(len(next(iter(frame.values())))) if origin is None else origin
    for note in own.encoder.notes(frame, origin):
        warnings.warn(note, stacklevel=3)
    return frame
