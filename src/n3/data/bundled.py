"""Tables: rows of inputs and targets with named columns, as scikit-learn and mnist1d hold them."""

import random
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Samples(NamedTuple):
    """Samples in their own units; targets are real columns (regression) or labels from 0 (classification)."""

    inputs: Float[np.ndarray, "samples in_size"]
    targets: Float[np.ndarray, "samples out_size"] | Int[np.ndarray, " samples"]


class Table(NamedTuple):
    """Samples whose columns have names."""

    samples: Samples
    inputs: tuple[str, ...]
    """Name of each input column."""
    targets: tuple[str, ...]
    """Name of each target column, or of each class in the order of the labels."""


def sklearn_table(name: str) -> Table:
    """A set that comes with scikit-learn, in its own units.

    Args:
        name: As in `sklearn.datasets.load_*`, with `-` for `_`.

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise _absent(name, "scikit-learn") from error
    own_units = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, "load_" + name.replace("-", "_"))(**own_units)
    targets = bunch.target[:, None] if name == "diabetes" else bunch.target
    names = bunch.get("target_names", ["progression"])
    return Table(Samples(bunch.data, targets), tuple(map(str, bunch.feature_names)), tuple(map(str, names)))


def mnist1d_tables() -> tuple[Table, Table]:
    """The training and the test split of MNIST-1D, 4,000 and 1,000 signals of ten digits, as its generator
    draws them offline; nothing is downloaded or unpickled.

    Raises:
        ModuleNotFoundError: If the package mnist1d is not installed.

    References:
        Greydanus and Kobak, "Scaling down deep learning with MNIST-1D" (2020).
    """
    train, test = _mnist1d()
    inputs, targets = tuple(f"x{place}" for place in range(train.inputs.shape[1])), tuple("0123456789")
    return Table(train, inputs, targets), Table(test, inputs, targets)


@lru_cache(maxsize=1)
def _mnist1d() -> tuple[Samples, Samples]:
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ModuleNotFoundError as error:
        raise _absent("mnist1d", "mnist1d") from error
    before = random.getstate(), np.random.get_state()  # noqa: NPY002, its generator seeds the global ones
    try:
        found = make_dataset(get_dataset_args())
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
    return Samples(found["x"], found["y"]), Samples(found["x_test"], found["y_test"])


def _absent(name: str, package: str) -> ModuleNotFoundError:
    advice = f"install it with `uv sync --extra data` (or `pip install {package}`)"
    return ModuleNotFoundError(f"`{name}` needs {package}: {advice}.")
