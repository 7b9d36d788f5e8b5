"""Scalers: the affine maps that bring columns to a common scale, and back."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


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
