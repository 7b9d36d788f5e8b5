"""Data: the sets that networks learn from, drawn from a seed and scaled by their training split alone."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import numpy as np
from jaxtyping import Float, Float32, Int, Int32
from numpy.random import Generator, default_rng

from n3.config.task import Kind, TaskConfig
from n3.config.validation import suggestion
from n3.data import sources, tables
from n3.data.cells import read_frame, require_targets
from n3.data.encoding import Preprocessing, TableEncoder
from n3.data.frames import column_names, frame_of, listed, names_of_categories


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Data set: a training and a test split, scaled by what the training split alone shows, and the way back.

    Classification targets are one-hot; with two classes they are one column of 0 and 1 (for one logit).

    Raises:
        ValueError: If a split is empty or not finite, or a length, a width or `num_classes` does not fit.
    """

    name: str
    kind: Kind
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
    encoder: TableEncoder | None = None
    """What became of the columns of a user's table; None: the inputs are its columns."""
    train_weights: Float[np.ndarray, " train"] | None = None
    """Weight of each training sample in losses and read-outs, above 0; None: all the same."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"`kind` must be one of {get_args(Kind)}; got {self.kind!r}.")
        classes = self.num_classes
        if (classes is None) != (self.kind == "regression") or classes in (0, 1):
            raise ValueError(f"`num_classes` must be None or, for classes, at least 2; got {classes}.")
        in_size, train, test = self.train_inputs.shape[-1], len(self.train_inputs), len(self.test_inputs)
        out_size = self.train_targets.shape[-1] if classes is None else 1 if classes == 2 else classes
        shapes = {"train_inputs": (train, in_size), "test_inputs": (test, in_size), "input_names": (in_size,)}
        shapes |= {"train_targets": (train, out_size), "test_targets": (test, out_size)}
        shapes |= {"target_names": (classes or out_size,), "target_scale": (out_size,)}
        if self.train_weights is not None:
            shapes["train_weights"] = (train,)
        for field, shape in shapes.items():
            values = np.asarray(getattr(self, field))
            if values.shape != shape or values.size == 0:
                raise ValueError(f"`{field}` must have shape {shape} and not be empty; got {values.shape}.")
            if values.dtype.kind == "f" and not np.all(np.isfinite(values)):
                raise ValueError(f"`{field}` must be finite; got {values[~np.isfinite(values)][0]}.")

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any,
        *,
        kind: Kind | None = None,
        name: str = "arrays",
        train_samples: int | None = None,
        test_samples: int | None = None,
        seed: int = 0,
    ) -> "Dataset":
        """A data set of the user's own rows, encoded as those of a file and standardised.

        ```python
        x = np.linspace(-3, 3, 200)
        data = n3.Dataset.from_arrays(x, np.sin(x))
        ```

        Args:
            x: Inputs `[rows, columns]`, or `[rows]` for a single one: an array, a data frame or a mapping from
                names to columns. Numbers may be missing (NaN), text is taken for categories.
            y: Targets `[rows]`: numbers, texts or truths; or `[rows, outputs]`, numbers, for regression.
            kind: What the targets are; None: as `n3.data.read_table` takes them, true and false for classes.
            name: What figures and messages call it.
            train_samples: Training samples; None: all rows that are no test samples.
            test_samples: Test samples, drawn from the seed; None: a fifth of the rows.
            seed: Decides which rows are which, zero or more.

        Raises:
            ValueError: If x and y differ in their rows, a target is missing, or these are not of that kind.
        """
        labels = getattr(y, "columns", None)
        targets = frame_of(y if labels is not None else np.asarray(y))
        if labels is None:
            targets = dict(zip(column_names("y", len(targets)), targets.values(), strict=True))
            kind = "classification" if kind is None and np.asarray(y).dtype.kind == "b" else kind
        frame = read_frame(name, frame_of(x), categorical=names_of_categories(x))
        rows = {len(own) for own in (*frame.values(), *targets.values())}
        if len(rows) != 1 or min(rows) < 2:
            raise ValueError(f"`x` and `y` must have as many rows, two or more; got {sorted(rows)}.")
        require_targets(np.stack([own.astype(object) for own in targets.values()], axis=1))
        table = tables.table_of(name, frame, targets, kind=kind)
        return split(name, table, share=5, seed=seed, train_samples=train_samples, test_samples=test_samples)

    @property
    def in_size(self) -> int:
        """Number of input columns."""
        return self.train_inputs.shape[1]

    @property
    def out_size(self) -> int:
        """Number of target columns, the width of the network's output."""
        return self.train_targets.shape[1]

    @property
    def preprocessing(self) -> Preprocessing:
        """What lies between a user's rows and a network of this data set, as plain data."""
        scalers = {"input": self.input_scaler, "target": self.target_scaler}
        numbers = {
            f"{side}_{part}": tuple(np.asarray(getattr(own, part), float).tolist())
            for side, own in scalers.items()
            for part in ("offset", "scale")
        }
        return Preprocessing(
            encoder=self.encoder or TableEncoder.of_numbers(self.input_names),
            targets=self.target_names,
            is_classes=self.kind == "classification",
            **numbers,
        )


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
        encoder=table.encoder,
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

    `samples` are `test_samples` (None: one row in `share`, one at least) and `train_samples` (None: all the
    others), on which the test rows do not depend; together more than the rows are a ValueError.
    """
    targets, rng = table.samples.targets, default_rng(seed)
    rows = len(targets)
    test_size = samples["test_samples"] or max(rows // share, 1)
    train_size = samples["train_samples"] or max(rows - test_size, 1)
    if train_size + test_size > rows:
        both = f"`train_samples` + `test_samples` of `{name}`"
        raise ValueError(f"{both} must be at most {rows}; got {train_size} + {test_size}.")
    strata = targets if targets.ndim == 1 else np.zeros(rows, int)
    test_rows = draw_rows(rng, strata, test_size)
    rest = np.setdiff1d(np.arange(rows), test_rows)
    return _of_rows(name, (table, rest[draw_rows(rng, strata[rest], train_size)]), (table, test_rows))


def _of_rows(name, *sides):
    """A data set of rows of tables; what is fitted to a user's columns is fitted to its training rows."""
    table, rows = sides[0]
    if table.encoder is not None:
        encoder = table.encoder.refitted(_taken(table.frame, rows))
        table = table._replace(encoder=encoder)
        if not encoder.is_plain:
            every = (encoder.transform(_taken(own.frame, rows)) for own, rows in sides)
            inputs = zip(every, sides, strict=True)
            samples = [sources.RawSamples(own, side.samples.targets[rows]) for own, (side, rows) in inputs]
            return _standardised(name, table, *samples)
    return _standardised(name, table, *(_taken_samples(own.samples, rows) for own, rows in sides))


def _standardised(name, table, train, test):
    return build_dataset(name, table._replace(samples=train), test, fit=sources.standard_scaler)


def _taken(frame, rows):
    return {name: own[rows] for name, own in frame.items()}


def _taken_samples(samples, rows):
    return sources.RawSamples(*(own[rows] for own in samples))


def _draw(name: str, recipe: sources.SyntheticTask, *, seed: int, **samples: int | None) -> Dataset:
    """Both splits come from streams of their own: the test split does not depend on `train_samples`."""
    sizes = (samples["train_samples"] or recipe.sizes[0], samples["test_samples"] or recipe.sizes[1])
    train, test = map(recipe.draw, default_rng(seed).spawn(2), sizes)
    inputs = train.inputs.shape[1]
    names = ("x", "y")[:inputs] if inputs <= 2 else tuple(f"x{place}" for place in range(inputs))
    table = sources.Table(train, names, tuple(recipe.targets))
    return build_dataset(name, table, test, fit=recipe.fit)


def _bundled(name: str, **settings: Any) -> Dataset:
    return split(name, sources.sklearn_table(name), share=4, **settings)


def _mnist1d(*, seed: int, **samples: int | None) -> Dataset:
    """The splits stay as they are made; fewer samples than all are drawn by class share from their own side."""
    sides = sources.mnist1d_tables()
    labels = [table.samples.targets for table in sides]
    sizes = {"train_samples": len(labels[0]), "test_samples": len(labels[1])}
    for field, most in sizes.items():
        sizes[field] = samples[field] or most
        if sizes[field] > most:
            raise ValueError(f"`{field}` of `mnist1d` must be at most {most}; got {sizes[field]}.")
    rows = map(draw_rows, default_rng(seed).spawn(2), labels, sizes.values())
    return _of_rows("mnist1d", *zip(sides, rows, strict=True))


DATASETS: dict[str, Callable[..., Dataset]] = {
    **{name: partial(_draw, name, recipe) for name, recipe in sources.SYNTHETIC_TASKS.items()},
    **{name: partial(_bundled, name) for name in ("digits", "breast-cancer", "wine", "iris", "diabetes")},
    "mnist1d": _mnist1d,
}
"""Generators, each called as `(*, train_samples, test_samples, seed)`; None means the set's own size."""


BUILT_IN = frozenset(DATASETS)
"""Those of every process."""


def load_dataset(
    name: str, *, train_samples: int | None = None, test_samples: int | None = None, seed: int
) -> Dataset:
    """The set that a key of `DATASETS` names; the same seed, zero or more, gives the same bytes.

    Raises:
        ValueError: If the name is unknown, or a size is not positive or more than a bundled set has.
        ModuleNotFoundError: If the set needs scikit-learn or mnist1d, and it is not installed.
    """
    sizes = {"train_samples": train_samples, "test_samples": test_samples}
    for field, samples in sizes.items():
        if samples is not None and samples < 1:
            raise ValueError(f"`{field}` must be positive; got {samples}.")
    if name not in DATASETS:
        hint = suggestion(name, tuple(DATASETS))
        rest = hint or " `n3.register_dataset` gives data of your own a name, in the process that calls it."
        raise ValueError(f"`name` must be one of {', '.join(DATASETS)}; got {name!r}.{rest}")
    data = DATASETS[name](seed=seed, **sizes)
    for field, samples in sizes.items():
        got = len(getattr(data, field.replace("samples", "inputs")))
        if samples is not None and got != samples:
            raise ValueError(f"`{field}`: data set {name!r} gives {got} where {samples} are asked for.")
    return data


def register_dataset(name: str, function: Callable[..., Dataset]) -> None:
    """Give a data set a name, by which `n3.TaskConfig(task=name)` and `load_dataset` find it in this process.

    For example::

        def circle(*, train_samples, test_samples, seed):
            own = {"train_samples": train_samples or 400, "test_samples": test_samples or 100}
            x = np.random.default_rng(seed).uniform(-1, 1, (sum(own.values()), 2))
            return n3.Dataset.from_arrays(x, (x**2).sum(axis=1) < 0.5, seed=seed, name="circle", **own)

        n3.register_dataset("circle", circle)

    Args:
        name: A new name, of letters, digits, `.`, `_` and `-`.
        function: Called as `function(train_samples=..., test_samples=..., seed=...)`; None asks for the set's
            own number of samples. The same seed must give the same samples.

    Raises:
        ValueError: If the name is taken or of other characters.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", name):
        raise ValueError(f"`name` must be of letters, digits, `.`, `_` and `-`; got {name!r}.")
    if name in DATASETS:
        raise ValueError(f"`name` must be new; {name!r} is a data set already.")
    DATASETS[name] = function


def load_task(task: TaskConfig, seeds: Sequence[int]) -> list[Dataset]:
    """The data set of each seed: drawn by its name, or split from the rows of the user's file, read once.

    A file of more than `LARGE` rows is split by seed 0 for all of them, which are one object then.

    Raises:
        ValueError, ModuleNotFoundError: As `load_dataset`; or if the file is not there, or lacks a column.
        DataError: If what the file holds cannot be learnt from.
    """
    sizes = {"train_samples": task.samples, "test_samples": task.test_samples}
    if task.data is None:
        drawn = [load_dataset(task.task, seed=seed, **sizes) for seed in seeds]
    else:
        table = _table_of(task)
        parts = [0] if _is_shared(task) else seeds
        drawn = [split(task.task, table, share=5, seed=seed, **sizes) for seed in parts]
    drawn = drawn if task.class_weight is None else [_balanced(data) for data in drawn]
    return drawn * (len(seeds) // len(drawn))


LARGE = 2**15
"""Samples above which the seeds share the split of a file, and a step takes a batch unless told otherwise."""


def _table_of(task: TaskConfig) -> sources.Table:
    """The rows of the user's file, which are read once."""
    names = ("target", "kind", "drop", "categorical", "separator", "decimal", "encoding")
    return tables.read_table(str(task.data), **{name: getattr(task, name) for name in names})


def _is_shared(task: TaskConfig) -> bool:
    """Whether the seeds of a task share one split of a file."""
    return task.data is not None and task.data_seed is None and len(_table_of(task).samples.targets) > LARGE


def _balanced(data: Dataset) -> Dataset:
    """The data set with training samples weighted so that every class has the same sum."""
    if data.kind == "regression":
        raise ValueError("`class_weight` goes with classes; the target is of regression: leave it out.")
    from sklearn.utils.class_weight import compute_sample_weight  # here, not above: few runs weigh classes

    targets = data.train_targets
    labels = targets.argmax(axis=1) if targets.shape[1] > 1 else targets[:, 0]
    return dataclasses.replace(data, train_weights=compute_sample_weight("balanced", labels))


FEW = 64
"""Samples that an outline draws at most."""


def outline_task(task: TaskConfig) -> tuple[Dataset, int, int, bool]:
    """A data set of the task with few samples, how many a seed has for training and for tests, and whether
    all seeds share them.

    Of endless sets a few are drawn, of others a split is taken; errors as `load_task`.
    """
    recipe = sources.SYNTHETIC_TASKS.get(task.task) if task.data is None else None
    if recipe is None:
        (whole,) = load_task(task, [task.data_seed or 0])
        return whole, len(whole.train_inputs), len(whole.test_inputs), _is_shared(task)
    train, test = task.samples or recipe.sizes[0], task.test_samples or recipe.sizes[1]
    few = {"train_samples": min(train, FEW), "test_samples": min(test, FEW)}
    drawn = load_dataset(task.task, seed=0, **few)
    return drawn if task.class_weight is None else _balanced(drawn), train, test, False


def describe_task(task: TaskConfig, data: Dataset) -> str:
    """The task and its kind in words; whether the kind of a file's target was asked for or inferred."""
    if task.data is None:
        return f"{task.task}: {data.kind}"
    names, classes = ", ".join(task.target) or "targets", data.num_classes or 0
    how = "asked for" if task.kind else "inferred; `kind` overrides it"
    if not task.kind and classes and all(name.lstrip("-").isdecimal() for name in data.target_names):
        how = f"inferred from {classes} different whole numbers; `kind` regression takes them for quantities"
    columns = data.encoder.columns if data.encoder else ()
    holed = [own.name for own in columns if own.has_indicator or None in (own.categories or ())]
    rest = f"; values are missing in {listed(holed)}, each with a column that is 1 there" if holed else ""
    return f"{task.task}: {data.kind} of {names} ({how}){rest}"


HELD_OUT = 5
"""One in so many training samples is held out to choose the price, or to judge changes of structure."""


def number_of_folds(members: int) -> int:
    """Parts of the samples of which each member holds one out; a single member holds out a fifth."""
    return members if members > 1 else HELD_OUT


def check_folds(samples: int, folds: int) -> None:
    """Refuse fewer than two samples in each fold."""
    if samples < 2 * folds:
        need = f"need two training samples or more in each of {folds} folds"
        rest = f"give {2 * folds} or more, or fewer `members`"
        raise ValueError(f"`members` {need}; got {samples} samples: {rest}.")


def folds_of(
    targets: Float32[np.ndarray, "samples out_size"], folds: int, *, is_classes: bool, seed: int
) -> Int32[np.ndarray, " samples"]:
    """The fold, from 0, of each sample: as many samples in each, and of each class, as can be.

    The stream of the seed is none of those that a data set is drawn from. Fewer samples than folds are a
    ValueError.
    """
    samples = len(targets)
    check_folds(samples, folds)
    order = default_rng(seed).spawn(4)[3].permutation(samples)
    if is_classes:
        labels = targets.argmax(axis=1) if targets.shape[1] > 1 else targets[:, 0]
        order = order[np.argsort(labels[order], kind="stable")]
    found = np.empty(samples, np.int32)
    found[order] = np.arange(samples) % folds
    return found


def held_out(data: Dataset, *, seed: int) -> tuple[Dataset, Dataset]:
    """A data set without a fifth of its training samples (rounded down), and those in place of test samples.

    Both train on the samples that are left, in their order, in the scales of all training samples. Classes are
    not stratified; the stream of the seed is none of those that a data set is drawn from. Fewer than five
    training samples are a ValueError.
    """
    samples = len(data.train_inputs)
    if samples < HELD_OUT:
        raise ValueError(f"`samples` must be {HELD_OUT} or more where a fifth is held out; got {samples}.")
    order = default_rng(seed).spawn(3)[2].permutation(samples)
    out, kept = np.sort(order[: samples // HELD_OUT]), np.sort(order[samples // HELD_OUT :])
    names = [
        name for name in ("train_inputs", "train_targets", "train_weights") if getattr(data, name) is not None
    ]
    left: dict[str, Any] = {name: getattr(data, name)[kept] for name in names}
    taken = {"test_inputs": data.train_inputs[out], "test_targets": data.train_targets[out]}
    return dataclasses.replace(data, **left), dataclasses.replace(data, **left, **taken)
