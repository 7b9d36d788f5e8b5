"""Data: the sets that networks learn from, drawn from a seed and scaled by their training split alone."""

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
from jaxtyping import Float, Float32, Int
from numpy.random import Generator, default_rng

from n3.config import experiment
from n3.config.experiment import TaskConfig
from n3.data import sources, tables


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Data set: a training and a test split, scaled by what the training split alone shows, and the way back.

    Classification targets are one-hot; with two classes they are one column of 0 and 1 (for one logit).

    Raises:
        ValueError: If a split is empty or not finite, or a length, a width or `num_classes` does not fit.
    """

    name: str
    kind: experiment.Kind
    train_inputs: Float32[np.ndarray, "train in_size"]
    train_targets: Float32[np.ndarray, "train out_size"]
    test_inputs: Float32[np.ndarray, "test in_size"]
    test_targets: Float32[np.ndarray, "test out_size"]
    target_scale: Float[np.ndarray, " out_size"]
    target_offset: Float[np.ndarray, " out_size"]
    """Own unit = scaled * `target_scale` + `target_offset`; ones and zeros for classification."""
    num_classes: int | None
    """At least 2; None for regression."""
    input_names: tuple[str, ...]
    target_names: tuple[str, ...]
    """Name of each target column, or of each class."""
    input_scaler: sources.Scaler
    target_scaler: sources.Scaler

    def __post_init__(self) -> None:
        if self.kind not in get_args(experiment.Kind):
            raise ValueError(f"`kind` must be one of {get_args(experiment.Kind)}; got {self.kind!r}.")
        classes = self.num_classes
        if (classes is None) != (self.kind == "regression") or classes in (0, 1):
            raise ValueError(f"`num_classes` must be None or, for classes, at least 2; got {classes}.")
        in_size, train, test = self.train_inputs.shape[-1], len(self.train_inputs), len(self.test_inputs)
        out_size = self.train_targets.shape[-1] if classes is None else 1 if classes == 2 else classes
        shapes = {"train_inputs": (train, in_size), "test_inputs": (test, in_size), "input_names": (in_size,)}
        shapes |= {"train_targets": (train, out_size), "test_targets": (test, out_size)}
        shapes |= {"target_names": (classes or out_size,), "target_scale": (out_size,)}
        for field, shape in shapes.items():
            values = np.asarray(getattr(self, field))
            if values.shape != shape or values.size == 0:
                raise ValueError(f"`{field}` must have shape {shape} and not be empty; got {values.shape}.")
            if values.dtype.kind == "f" and not np.all(np.isfinite(values)):
                raise ValueError(f"`{field}` must be finite; got {values[~np.isfinite(values)][0]}.")

    @property
    def in_size(self) -> int:
        """Number of input columns."""
        return self.train_inputs.shape[1]

    @property
    def out_size(self) -> int:
        """Number of target columns, the width of the network's output."""
        return self.train_targets.shape[1]


def build_dataset(name: str, table: sources.Table, test: sources.RawSamples, *, fit: Callable) -> Dataset:
    """Data set from two splits in their own units; integer labels as targets make it a classification.

    `fit` makes a `Scaler` of the training inputs and, for regression, of the training targets. The table holds
    the training split with the names of the input columns, and of the target columns or the classes.
    """
    train, targets = table.samples, table.targets
    num_classes = len(targets) if train.targets.ndim == 1 else None
    if num_classes is not None:
        codes = np.eye(num_classes)[:, 1:] if num_classes == 2 else np.eye(num_classes)
        train, test = (split._replace(targets=codes[split.targets]) for split in (train, test))
    scaler = fit(train.inputs)
    target_scaler = fit(train.targets) if num_classes is None else sources.identity_scaler(train.targets)
    return Dataset(
        name=name,
        kind="regression" if num_classes is None else "classification",
        train_inputs=scaler.transform(train.inputs).astype(np.float32),
        train_targets=target_scaler.transform(train.targets).astype(np.float32),
        test_inputs=scaler.transform(test.inputs).astype(np.float32),
        test_targets=target_scaler.transform(test.targets).astype(np.float32),
        target_scale=target_scaler.scale,
        target_offset=target_scaler.offset,
        num_classes=num_classes,
        input_names=table.inputs,
        target_names=targets,
        input_scaler=scaler,
        target_scaler=target_scaler,
    )


def draw_rows(rng: Generator, strata: Int[np.ndarray, " rows"], count: int) -> Int[np.ndarray, " count"]:
    """`count` different row numbers in random order; each stratum keeps its share up to less than one row."""
    labels, sizes = np.unique(strata, return_counts=True)
    shares = sizes * count / len(strata)
    quotas = np.floor(shares).astype(int)
    quotas[np.argsort(quotas - shares, kind="stable")[: count - quotas.sum()]] += 1  # the largest remainders
    per_label = zip(labels, quotas, strict=True)
    groups = [rng.permutation(np.flatnonzero(strata == label))[:quota] for label, quota in per_label]
    return rng.permutation(np.concatenate(groups))


def split(name: str, table: sources.Table, *, share: int, seed: int, **samples: int | None) -> Dataset:
    """Data set of a table's rows, standardised; classes keep their shares in both splits.

    Args:
        name: What to call it.
        table: The rows.
        share: One row in so many tests, where `test_samples` is None; one at least.
        seed: Decides the split; the test rows do not depend on `train_samples`.
        samples: `train_samples`, size of the training split (None: all the other rows), and `test_samples`,
            size of the test split.

    Raises:
        ValueError: If a size is not positive, or together they are more than the rows.
    """
    targets, rng = table.samples.targets, default_rng(seed)
    rows, usual = len(targets), max(len(targets) // share, 1)
    left = max(rows - (samples["test_samples"] or usual), 1)
    train_size, test_size = _sizes((left, usual), **samples)
    if train_size + test_size > rows:
        got = f"got {train_size} + {test_size}"
        raise ValueError(f"`train_samples` + `test_samples` of `{name}` must be at most {rows}; {got}.")
    strata = targets if targets.ndim == 1 else np.zeros(rows, int)
    test_rows = draw_rows(rng, strata, test_size)
    rest = np.setdiff1d(np.arange(rows), test_rows)
    return _of_rows(name, (table, rest[draw_rows(rng, strata[rest], train_size)]), (table, test_rows))


def _of_rows(name, *sides):
    """The standardised data set of a table's rows to train on, and of its or another table's to test on."""
    train, test = (sources.RawSamples(*(own[rows] for own in table.samples)) for table, rows in sides)
    return build_dataset(name, sides[0][0]._replace(samples=train), test, fit=sources.standard_scaler)


def _sizes(usual: tuple[int, int], *, train_samples: int | None, test_samples: int | None) -> tuple[int, int]:
    for field, samples in (("train_samples", train_samples), ("test_samples", test_samples)):
        if samples is not None and samples < 1:
            raise ValueError(f"`{field}` must be positive; got {samples}.")
    return train_samples or usual[0], test_samples or usual[1]


def _draw(name: str, recipe: sources.SyntheticTask, *, seed: int, **samples: int | None) -> Dataset:
    """Both splits come from streams of their own: the test split does not depend on `train_samples`."""
    train, test = map(recipe.draw, default_rng(seed).spawn(2), _sizes(recipe.sizes, **samples))
    table = sources.Table(train, ("x", "y")[: train.inputs.shape[1]], tuple(recipe.targets))
    return build_dataset(name, table, test, fit=recipe.fit)


def _bundled(name: str, **settings: int | None) -> Dataset:
    """A set of scikit-learn's: a quarter of the rows tests."""
    return split(name, sources.sklearn_table(name), share=4, **settings)


def _mnist1d(*, seed: int, **samples: int | None) -> Dataset:
    """The splits stay as they are made; fewer samples than all are drawn by class share from their own side."""
    sides, drawn = sources.mnist1d_tables(), []
    sizes = _sizes(tuple(len(table.samples.targets) for table in sides), **samples)
    names = ("train_samples", "test_samples")
    for field, rng, table, size in zip(names, default_rng(seed).spawn(2), sides, sizes, strict=True):
        if size > len(table.samples.targets):
            raise ValueError(
                f"`{field}` of `mnist1d` must be at most {len(table.samples.targets)}; got {size}."
            )
        drawn.append((table, draw_rows(rng, table.samples.targets, size)))
    return _of_rows("mnist1d", *drawn)


DATASETS: dict[str, Callable[..., Dataset]] = {
    **{name: partial(_draw, name, recipe) for name, recipe in sources.SYNTHETIC_TASKS.items()},
    **{name: partial(_bundled, name) for name in ("digits", "breast-cancer", "wine", "iris", "diabetes")},
    "mnist1d": _mnist1d,
}
"""Generators, each called as `(*, train_samples, test_samples, seed)`; None means the set's own size."""


def load_dataset(
    name: str, *, train_samples: int | None = None, test_samples: int | None = None, seed: int
) -> Dataset:
    """The named data set; the same seed gives the same bytes.

    Args:
        name: A key of `DATASETS`.
        train_samples: Size of the training split; None takes the set's own, as for `test_samples`.
        test_samples: Size of the test split.
        seed: Non-negative; decides every draw and split.

    Raises:
        ValueError: If the name is unknown, or a size is not positive or more than a bundled set has.
        ModuleNotFoundError: If the set needs scikit-learn or mnist1d, and it is not installed.
    """
    if name not in DATASETS:
        hint = "".join(f" Did you mean `{n}`?" for n in difflib.get_close_matches(name, DATASETS, n=1))
        raise ValueError(f"`name` must be one of {', '.join(DATASETS)}; got {name!r}.{hint}")
    return DATASETS[name](train_samples=train_samples, test_samples=test_samples, seed=seed)


def load_task(task: TaskConfig, seeds: Sequence[int]) -> list[Dataset]:
    """The data set of each seed: drawn by its name, or split from the rows of the user's file.

    Args:
        task: Its sizes, and its name or its file.
        seeds: One a data set.

    Raises:
        ValueError: As `load_dataset`; or if the file is not there, or lacks a named column.
        DataError: If what the file holds cannot be learnt from.
        ModuleNotFoundError: As `load_dataset`.
    """
    sizes = {"train_samples": task.samples, "test_samples": task.test_samples}
    if task.data is None:
        return [load_dataset(task.task, seed=seed, **sizes) for seed in seeds]
    table = tables.read_table(task.data, target=task.target, kind=task.kind)
    return [split(task.task, table, share=5, seed=seed, **sizes) for seed in seeds]


def describe_task(task: TaskConfig, data: Dataset) -> str:
    """The task and its kind in words; whether the kind of a file's target was asked for or inferred."""
    if task.data is None:
        return f"{task.task}: {data.kind}"
    names = ", ".join(task.target) or "targets"
    how = "asked for" if task.kind else "inferred; `kind` overrides it"
    return f"{task.task}: {data.kind} of {names} ({how})"


HELD_OUT = 5
"""One in so many training samples is held out to choose the price, or to judge changes of structure."""


def held_out(data: Dataset, *, seed: int) -> tuple[Dataset, Dataset]:
    """A data set without a fifth of its training samples (rounded down), and those samples.

    Classes are not stratified, and the scales stay those of all training samples.

    Args:
        data: The whole data set.
        seed: Decides which samples; its stream is none of those that a data set is drawn from.

    Returns:
        The data set with the samples that are left to train on, in their order; and the same with the samples
        held out in place of its test samples.

    Raises:
        ValueError: If there are fewer than five training samples.
    """
    samples = len(data.train_inputs)
    if samples < HELD_OUT:
        raise ValueError(f"`samples` must be {HELD_OUT} or more where a fifth is held out; got {samples}.")
    order = default_rng(seed).spawn(3)[2].permutation(samples)
    out, kept = np.sort(order[: samples // HELD_OUT]), np.sort(order[samples // HELD_OUT :])
    left = {"train_inputs": data.train_inputs[kept], "train_targets": data.train_targets[kept]}
    taken = {"test_inputs": data.train_inputs[out], "test_targets": data.train_targets[out]}
    return dataclasses.replace(data, **left), dataclasses.replace(data, **left, **taken)
