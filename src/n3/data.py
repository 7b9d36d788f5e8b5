"""Data: the sets that networks learn from, drawn from a seed and scaled by their training split alone."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Float32, Int
from numpy.polynomial import Polynomial
from numpy.random import Generator, default_rng
from scipy.special import jv

Kind = Literal["regression", "classification"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaler:
    """Scaler: the affine map from each column's own unit, `scaled = (own - offset) / scale`, and back."""

    offset: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]

    def __post_init__(self) -> None:
        if not np.all(np.isfinite(self.scale) & (self.scale > 0)):
            raise ValueError(f"`scale` must be positive and finite; got {self.scale}.")

    def transform(self, values: Float[np.ndarray, "samples features"]) -> Float[np.ndarray, "samples features"]:
        """Own unit to scaled unit."""
        return (values - self.offset) / self.scale

    def inverse(self, values: Float[np.ndarray, "samples features"]) -> Float[np.ndarray, "samples features"]:
        """Scaled unit back to own unit."""
        return values * self.scale + self.offset


def identity_scaler(values: Float[np.ndarray, "samples features"]) -> Scaler:
    """Leaves every column in its own unit: offset 0, scale 1."""
    return Scaler(offset=np.zeros(values.shape[1]), scale=np.ones(values.shape[1]))


def range_scaler(values: Float[np.ndarray, "samples features"]) -> Scaler:
    """Brings each column's minimum to -1 and its maximum to 1; a constant column is only centred."""
    low, high = values.min(axis=0), values.max(axis=0)
    return Scaler(offset=(low + high) / 2, scale=np.where(high > low, (high - low) / 2, 1.0))


def standard_scaler(values: Float[np.ndarray, "samples features"]) -> Scaler:
    """Brings each column to mean 0 and population deviation 1; a constant column is only centred."""
    is_constant = np.ptp(values, axis=0) == 0  # its computed deviation may be a rounding error above zero
    return Scaler(offset=values.mean(axis=0), scale=np.where(is_constant, 1.0, values.std(axis=0)))


class Samples(NamedTuple):
    """Samples in their own units; targets are real columns (regression) or labels from 0 (classification)."""

    inputs: Float[np.ndarray, "samples in_size"]
    targets: Float[np.ndarray, "samples out_size"] | Int[np.ndarray, " samples"]


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
    input_scaler: Scaler
    target_scaler: Scaler

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


def build_dataset(
    name: str, train: Samples, test: Samples, *, fit: Callable, inputs: Sequence[str], targets: Sequence[str]
) -> Dataset:
    """Data set from two splits in their own units; integer labels as targets make it a classification.

    `fit` makes a `Scaler` of the training inputs and, for regression, of the training targets. `inputs` names
    the input columns, `targets` the target columns or the classes in the order of their labels.
    """
    num_classes = len(targets) if train.targets.ndim == 1 else None
    if num_classes is not None:
        codes = np.eye(num_classes)[:, 1:] if num_classes == 2 else np.eye(num_classes)
        train, test = (Samples(split.inputs, codes[split.targets]) for split in (train, test))
    scaler = fit(train.inputs)
    target_scaler = fit(train.targets) if num_classes is None else identity_scaler(train.targets)
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
        input_names=tuple(inputs),
        target_names=tuple(targets),
        input_scaler=scaler,
        target_scaler=target_scaler,
    )


def bessel(x: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """`J0 + J1 + J2`, Bessel functions of the first kind."""
    return jv(0, x) + jv(1, x) + jv(2, x)


def gaussian_mixture(x: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """Three bumps `weight * exp(-(x - centre)^2 / (2 width^2))`, each of height (not area) `weight`."""
    centres, widths, weights = np.array([[-2.0, 0.0, 2.0], [0.5, 0.8, 0.3], [1.0, 1.5, 0.8]])
    return np.exp(-(((x[:, None] - centres) / widths) ** 2) / 2) @ weights


def draw_curve(
    rng: Generator, samples: int, *, curve: Callable, low: float = -1.0, high: float = 1.0, noise: float = 0.0
) -> Samples:
    """Inputs uniform on `[low, high]`; targets `curve(x)` plus normal noise of deviation `noise`."""
    x = rng.uniform(low, high, samples)
    return Samples(x[:, None], (curve(x) + noise * rng.standard_normal(samples))[:, None])


def draw_sine_classes(rng: Generator, samples: int) -> Samples:
    """Inputs uniform on `[-1, 1]`; class `floor(1 + sin(2 pi x))`: 1 where the sine is positive."""
    x = rng.uniform(-1, 1, samples)
    return Samples(x[:, None], (np.sin(2 * np.pi * x) >= 0).astype(np.int64))


def draw_spirals(rng: Generator, samples: int, *, arms: int) -> Samples:
    """Arm `k` at `u` uniform on `[0, 1]`: radius `5 u`, angle `4 (k + u) + 0.2 normal`, radians."""
    labels, u = rng.permutation(np.arange(samples) % arms), rng.uniform(size=samples)
    angle = 4 * (labels + u) + 0.2 * rng.standard_normal(samples)
    return Samples(5 * u[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1), labels)


def draw_moons(rng: Generator, samples: int) -> Samples:
    """scikit-learn's `make_moons` with noise 0.2, at uniform random angles instead of a fixed grid."""
    labels, angle = rng.permutation(np.arange(samples) % 2), rng.uniform(0, np.pi, samples)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points[labels == 1] = [1.0, 0.5] - points[labels == 1]
    return Samples(points + 0.2 * rng.standard_normal(points.shape), labels)


def draw_rows(rng: Generator, strata: Int[np.ndarray, " rows"], count: int) -> Int[np.ndarray, " count"]:
    """`count` different row numbers in random order; each stratum keeps its share up to less than one row."""
    labels, sizes = np.unique(strata, return_counts=True)
    shares = sizes * count / len(strata)
    quotas = np.floor(shares).astype(int)
    quotas[np.argsort(quotas - shares, kind="stable")[: count - quotas.sum()]] += 1  # the largest remainders
    per_label = zip(labels, quotas, strict=True)
    groups = [rng.permutation(np.flatnonzero(strata == label))[:quota] for label, quota in per_label]
    return rng.permutation(np.concatenate(groups))


def _sizes(train_samples: int | None, test_samples: int | None, default: tuple[int, int]) -> tuple[int, int]:
    for field, samples in (("train_samples", train_samples), ("test_samples", test_samples)):
        if samples is not None and samples < 1:
            raise ValueError(f"`{field}` must be positive; got {samples}.")
    return train_samples or default[0], test_samples or default[1]


class Recipe(NamedTuple):
    """Recipe of an endless set: how to draw and scale samples, names of targets or classes, usual sizes."""

    draw: Callable[[Generator, int], Samples]
    fit: Callable[[np.ndarray], Scaler] = identity_scaler
    targets: Sequence[str] = ("y",)
    sizes: tuple[int, int] = (1024, 256)


def _draw(
    name: str, recipe: Recipe, *, train_samples: int | None, test_samples: int | None, seed: int
) -> Dataset:
    """Both splits come from streams of their own: the test split does not depend on `train_samples`."""
    train_size, test_size = _sizes(train_samples, test_samples, recipe.sizes)
    train_rng, test_rng = default_rng(seed).spawn(2)
    train, test = recipe.draw(train_rng, train_size), recipe.draw(test_rng, test_size)
    inputs = ("x", "y")[: train.inputs.shape[1]]
    return build_dataset(name, train, test, fit=recipe.fit, inputs=inputs, targets=recipe.targets)


def _split(name: str, *, train_samples: int | None, test_samples: int | None, seed: int) -> Dataset:
    """A set of scikit-learn's, split by class share: a quarter of the rows tests, the rest trains."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        advice = "install it with `uv sync --extra data` (or `pip install scikit-learn`)"
        raise ModuleNotFoundError(f"`{name}` needs scikit-learn: {advice}.") from error
    own_units = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, "load_" + name.replace("-", "_"))(**own_units)
    rows, quarter = len(bunch.data), len(bunch.data) // 4
    left = max(rows - (test_samples or quarter), 1)
    train_size, test_size = _sizes(train_samples, test_samples, (left, quarter))
    if train_size + test_size > rows:
        got = f"got {train_size} + {test_size}"
        raise ValueError(f"`train_samples` + `test_samples` of `{name}` must be at most {rows}; {got}.")
    targets = bunch.target[:, None] if name == "diabetes" else bunch.target
    strata = np.zeros(rows, int) if name == "diabetes" else bunch.target
    rng = default_rng(seed)
    test_rows = draw_rows(rng, strata, test_size)
    rest = np.setdiff1d(np.arange(rows), test_rows)
    train_rows = rest[draw_rows(rng, strata[rest], train_size)]
    train, test = (Samples(bunch.data[part], targets[part]) for part in (train_rows, test_rows))
    inputs, targets = map(str, bunch.feature_names), map(str, bunch.get("target_names", ["progression"]))
    return build_dataset(name, train, test, fit=standard_scaler, inputs=tuple(inputs), targets=tuple(targets))


_mixture = partial(draw_curve, curve=gaussian_mixture, low=-4.0, high=4.0)
_cubic = Polynomial([-13 / 32, -45 / 32, 45 / 32, 45 / 32])
RECIPES = {
    "bessel": Recipe(partial(draw_curve, curve=bessel, low=-2 * np.pi, high=2 * np.pi), range_scaler),
    "narrow-bessel": Recipe(partial(draw_curve, curve=partial(jv, 0), low=0.1, high=0.2), range_scaler),
    "cubic": Recipe(partial(draw_curve, curve=_cubic)),
    "cubic-negative": Recipe(partial(draw_curve, curve=-_cubic)),
    "quadratic": Recipe(partial(draw_curve, curve=Polynomial([-1 / 5, -1, 1 / 5]))),
    "quadratic-2": Recipe(partial(draw_curve, curve=Polynomial([-1 / 2, -3 / 4, 3 / 4]))),
    "gaussian-mixture": Recipe(partial(_mixture, noise=0.1), range_scaler),
    "gaussian-mixture-low": Recipe(partial(_mixture, noise=0.01), range_scaler),
    "gaussian-mixture-high": Recipe(partial(_mixture, noise=0.5), range_scaler),
    "line": Recipe(partial(draw_curve, curve=Polynomial([0, 1]), noise=0.1)),
    "noise": Recipe(partial(draw_curve, curve=np.zeros_like, noise=1.0)),
    "sine": Recipe(partial(draw_curve, curve=lambda x: np.sin(3 * np.pi * x), noise=0.1)),
    "sine-classes": Recipe(draw_sine_classes, targets=("negative", "positive")),
    "moons": Recipe(draw_moons, standard_scaler, ("first", "second"), (512, 512)),
    "spirals": Recipe(partial(draw_spirals, arms=5), range_scaler, "01234", (2048, 512)),
    "spirals-3": Recipe(partial(draw_spirals, arms=3), range_scaler, "012", (2048, 512)),
    "spirals-7": Recipe(partial(draw_spirals, arms=7), range_scaler, "0123456", (2048, 512)),
    "spirals-9": Recipe(partial(draw_spirals, arms=9), range_scaler, "012345678", (2048, 512)),
}
DATASETS: dict[str, Callable[..., Dataset]] = {
    **{name: partial(_draw, name, recipe) for name, recipe in RECIPES.items()},
    **{name: partial(_split, name) for name in ("digits", "breast-cancer", "wine", "iris", "diabetes")},
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
        ModuleNotFoundError: If the set is one of scikit-learn's, and it is not installed.
    """
    if name not in DATASETS:
        hint = "".join(f" Did you mean `{n}`?" for n in difflib.get_close_matches(name, DATASETS, n=1))
        raise ValueError(f"`name` must be one of {', '.join(DATASETS)}; got {name!r}.{hint}")
    return DATASETS[name](train_samples=train_samples, test_samples=test_samples, seed=seed)
