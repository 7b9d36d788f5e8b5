"""Sources: synthetic tasks drawn from a stream of random numbers, and tables that come with packages."""

import importlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import scipy
from jaxtyping import Float, Int
from numpy.polynomial import Polynomial
from numpy.random import Generator

from n3.config.release import install_advice
from n3.data.encoding import TableEncoder
from n3.data.frames import Frame


class RawSamples(NamedTuple):
    """Samples in their own units; targets are real columns (regression) or labels from 0 (classification)."""

    inputs: Float[np.ndarray, "samples in_size"]
    targets: Float[np.ndarray, "samples out_size"] | Int[np.ndarray, " samples"]


class Table(NamedTuple):
    """Samples whose columns have names."""

    samples: RawSamples
    inputs: tuple[str, ...]
    """Name of each input column."""
    targets: tuple[str, ...]
    """Name of each target column, or of each class in the order of the labels."""
    encoder: TableEncoder | None = None
    """What makes the inputs of a user's own columns; None: they are as they are."""
    frame: Frame | None = None
    """Those columns."""


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
    middle = values.mean(axis=0)
    peak = np.where(is_constant, 1.0, np.abs(values - middle).max(axis=0))  # squares stay within all numbers
    return Scaler(
        offset=middle, scale=np.where(is_constant, 1.0, peak * ((values - middle) / peak).std(axis=0))
    )


def bessel(x: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """`J0 + J1 + J2`, Bessel functions of the first kind."""
    first, second, third = (scipy.special.jv(order, x) for order in range(3))
    return first + second + third


def gaussian_mixture(x: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " samples"]:
    """Three bumps `weight * exp(-(x - centre)^2 / (2 width^2))`, each of height (not area) `weight`."""
    centres, widths, weights = np.array([[-2.0, 0.0, 2.0], [0.5, 0.8, 0.3], [1.0, 1.5, 0.8]])
    return np.exp(-(((x[:, None] - centres) / widths) ** 2) / 2) @ weights


def draw_curve(
    rng: Generator, samples: int, *, curve: Callable, low: float = -1.0, high: float = 1.0, noise: float = 0.0
) -> RawSamples:
    """Inputs uniform on `[low, high]`; targets `curve(x)` plus normal noise of deviation `noise`."""
    x = rng.uniform(low, high, samples)
    return RawSamples(x[:, None], (curve(x) + noise * rng.standard_normal(samples))[:, None])


def draw_sine_classes(rng: Generator, samples: int) -> RawSamples:
    """Inputs uniform on `[-1, 1]`; class `floor(1 + sin(2 pi x))`: 1 where the sine is positive."""
    x = rng.uniform(-1, 1, samples)
    return RawSamples(x[:, None], (np.sin(2 * np.pi * x) >= 0).astype(np.int64))


def draw_spirals(rng: Generator, samples: int, *, arms: int) -> RawSamples:
    """Arm `k` at `u` uniform on `[0, 1]`: radius `5 u`, angle `4 (k + u) + 0.2 normal`, radians."""
    labels, u = rng.permutation(np.arange(samples) % arms), rng.uniform(size=samples)
    angle = 4 * (labels + u) + 0.2 * rng.standard_normal(samples)
    return RawSamples(5 * u[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1), labels)


def draw_moons(rng: Generator, samples: int) -> RawSamples:
    """scikit-learn's `make_moons` with noise 0.2, at uniform random angles instead of a fixed grid."""
    labels, angle = rng.permutation(np.arange(samples) % 2), rng.uniform(0, np.pi, samples)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points[labels == 1] = [1.0, 0.5] - points[labels == 1]
    return RawSamples(points + 0.2 * rng.standard_normal(points.shape), labels)


def draw_checkerboard(rng: Generator, samples: int) -> RawSamples:
    """Inputs uniform on the unit square; the class is the colour of 4 x 4 fields, 5 % of the labels flipped."""
    x = rng.uniform(size=(samples, 2))
    colours = np.floor(4 * x).sum(axis=1).astype(np.int64) % 2
    return RawSamples(x, np.where(rng.uniform(size=samples) < 0.05, 1 - colours, colours))


def draw_rare_class(rng: Generator, samples: int) -> RawSamples:
    """Twenty normal inputs; one sample of a hundred is of class 1, its first four inputs 1.5 higher."""
    labels = rng.permutation(np.arange(samples) % 100 == 0).astype(np.int64)
    x = rng.standard_normal((samples, 20))
    x[labels == 1, :4] += 1.5
    return RawSamples(x, labels)


def draw_friedman(rng: Generator, samples: int, *, copies: int) -> RawSamples:
    """Friedman's first function of five of ten uniform inputs, with unit noise; each input `copies` times.

    References:
        Friedman, "Multivariate adaptive regression splines" (1991), equation 61.
    """
    x = rng.uniform(size=(samples, 10))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return RawSamples(np.tile(x, copies), (y + rng.standard_normal(samples))[:, None])


def draw_smooth(rng: Generator, samples: int) -> RawSamples:
    """Two inputs uniform on `[-1, 1]`; `sin(3 x0) + x0 x1` plus normal noise of deviation 0.1."""
    x = rng.uniform(-1, 1, (samples, 2))
    y = np.sin(3 * x[:, 0]) + x[:, 0] * x[:, 1] + 0.1 * rng.standard_normal(samples)
    return RawSamples(x, y[:, None])


def draw_random_labels(rng: Generator, samples: int) -> RawSamples:
    """Five normal inputs and two classes that have nothing to do with them."""
    return RawSamples(rng.standard_normal((samples, 5)), rng.permutation(np.arange(samples) % 2))


def draw_separable(rng: Generator, samples: int) -> RawSamples:
    """Five normal inputs, moved 0.2 away from a plane on either side of which there is one class."""
    x = rng.standard_normal((samples, 5))
    normal = np.array([2.0, -1.0, 1.0, 0.0, 0.0]) / np.sqrt(6.0)
    side = np.where(x @ normal > 0, 1.0, -1.0)
    return RawSamples(x + 0.2 * side[:, None] * normal, (side > 0).astype(np.int64))


class SyntheticTask(NamedTuple):
    """Recipe of an endless set: how to draw and scale samples, names of targets or classes, usual sizes."""

    draw: Callable[[Generator, int], RawSamples]
    fit: Callable[[np.ndarray], Scaler] = identity_scaler
    targets: Sequence[str] = ("y",)
    sizes: tuple[int, int] = (1024, 256)


_mixture = partial(draw_curve, curve=gaussian_mixture, low=-4.0, high=4.0)
_sine_5 = partial(draw_curve, curve=lambda x: np.sin(5 * np.pi * x))
_narrow = partial(draw_curve, curve=lambda x: scipy.special.jv(0, x))
_cubic = Polynomial([-13 / 32, -45 / 32, 45 / 32, 45 / 32])
SYNTHETIC_TASKS = {
    "bessel": SyntheticTask(partial(draw_curve, curve=bessel, low=-2 * np.pi, high=2 * np.pi), range_scaler),
    "narrow-bessel": SyntheticTask(partial(_narrow, low=0.1, high=0.2), range_scaler),
    "cubic": SyntheticTask(partial(draw_curve, curve=_cubic)),
    "cubic-negative": SyntheticTask(partial(draw_curve, curve=-_cubic)),
    "quadratic": SyntheticTask(partial(draw_curve, curve=Polynomial([-1 / 5, -1, 1 / 5]))),
    "quadratic-2": SyntheticTask(partial(draw_curve, curve=Polynomial([-1 / 2, -3 / 4, 3 / 4]))),
    "gaussian-mixture": SyntheticTask(partial(_mixture, noise=0.1), range_scaler),
    "gaussian-mixture-low": SyntheticTask(partial(_mixture, noise=0.01), range_scaler),
    "gaussian-mixture-high": SyntheticTask(partial(_mixture, noise=0.5), range_scaler),
    "line": SyntheticTask(partial(draw_curve, curve=Polynomial([0, 1]), noise=0.1)),
    "noise": SyntheticTask(partial(draw_curve, curve=np.zeros_like, noise=1.0)),
    "sine": SyntheticTask(partial(draw_curve, curve=lambda x: np.sin(3 * np.pi * x), noise=0.1)),
    "sine-5": SyntheticTask(partial(_sine_5, noise=0.1), sizes=(240, 1000)),
    "sine-5-clean": SyntheticTask(_sine_5, sizes=(240, 1000)),
    "smooth": SyntheticTask(draw_smooth, standard_scaler, sizes=(120, 1000)),
    "friedman": SyntheticTask(partial(draw_friedman, copies=1), standard_scaler, sizes=(400, 1000)),
    "friedman-copies": SyntheticTask(partial(draw_friedman, copies=10), standard_scaler, sizes=(400, 1000)),
    "checkerboard": SyntheticTask(draw_checkerboard, standard_scaler, ("white", "black"), (800, 1000)),
    "rare-class": SyntheticTask(draw_rare_class, standard_scaler, ("usual", "rare"), (3200, 4000)),
    "random-labels": SyntheticTask(draw_random_labels, standard_scaler, ("first", "second"), (500, 1000)),
    "separable": SyntheticTask(draw_separable, standard_scaler, ("below", "above"), (300, 1000)),
    "sine-classes": SyntheticTask(draw_sine_classes, targets=("negative", "positive")),
    "moons": SyntheticTask(draw_moons, standard_scaler, ("first", "second"), (512, 512)),
    "spirals": SyntheticTask(partial(draw_spirals, arms=5), range_scaler, "01234", (2048, 512)),
    "spirals-3": SyntheticTask(partial(draw_spirals, arms=3), range_scaler, "012", (2048, 512)),
    "spirals-7": SyntheticTask(partial(draw_spirals, arms=7), range_scaler, "0123456", (2048, 512)),
    "spirals-9": SyntheticTask(partial(draw_spirals, arms=9), range_scaler, "012345678", (2048, 512)),
}
"""Endless sets by name."""


def sklearn_table(name: str) -> Table:
    """A set of scikit-learn, in own units, named as `load_*` with `-` for `_`; errors as `mnist1d_tables`."""
    datasets = _installed("sklearn.datasets", name, "scikit-learn")
    own_units = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, "load_" + name.replace("-", "_"))(**own_units)
    targets = bunch.target[:, None] if name == "diabetes" else bunch.target
    names = bunch.get("target_names", ["progression"])
    return Table(RawSamples(bunch.data, targets), tuple(map(str, bunch.feature_names)), tuple(map(str, names)))


@lru_cache(maxsize=1)
def mnist1d_tables() -> tuple[Table, Table]:
    """The training and the test split of MNIST-1D, 4,000 and 1,000 signals of ten digits, as its generator
    draws them offline; nothing is downloaded or unpickled.

    Raises:
        ModuleNotFoundError: If the package is not installed.

    References:
        Greydanus and Kobak, "Scaling down deep learning with MNIST-1D" (2020).
    """
    generator = _installed("mnist1d.data", "mnist1d", "mnist1d")
    before = random.getstate(), np.random.get_state()  # noqa: NPY002, its generator seeds the global ones
    try:
        found = generator.make_dataset(generator.get_dataset_args())
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
    inputs, targets = tuple(f"x{place}" for place in range(found["x"].shape[1])), tuple("0123456789")
    train, test = RawSamples(found["x"], found["y"]), RawSamples(found["x_test"], found["y_test"])
    return Table(train, inputs, targets), Table(test, inputs, targets)


def _installed(module: str, name: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        advice = f"install it with {install_advice('data', package)}"
        raise ModuleNotFoundError(f"`{name}` needs {package}: {advice}.") from error
