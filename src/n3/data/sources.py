"""Generators: curves, spirals and moons, drawn without end from a stream of random numbers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.polynomial import Polynomial
from numpy.random import Generator
from scipy.special import jv

from n3.data.bundled import Samples
from n3.data.scalers import Scaler, identity_scaler, range_scaler, standard_scaler


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


class Recipe(NamedTuple):
    """Recipe of an endless set: how to draw and scale samples, names of targets or classes, usual sizes."""

    draw: Callable[[Generator, int], Samples]
    fit: Callable[[np.ndarray], Scaler] = identity_scaler
    targets: Sequence[str] = ("y",)
    sizes: tuple[int, int] = (1024, 256)


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
"""Endless sets by name."""
