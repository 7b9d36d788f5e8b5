"""Regression: the best linear read-out of a finished network, on the host in float64.

Ridge regression of numbers, logistic regression of classes, and the strength of penalty by held-out loss.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float
from threadpoolctl import threadpool_limits

_Features, _Labels = Float[np.ndarray, "samples units"], Float[np.ndarray, "samples outputs"]
_Weights = Float[np.ndarray, " samples"] | None
_Readout = tuple[Float[np.ndarray, "outputs units"], Float[np.ndarray, " outputs"]]

STRENGTHS = (0.0, 1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Strengths to choose from; for classes those below `SMALLEST_FOR_CLASSES` are one."""
SMALLEST_FOR_CLASSES = 1e-8
"""Without any penalty, the read-out of classes that can be parted has no finite weights."""


class _Axes(NamedTuple):
    """Standardised features `U S V^T` of some samples of weight, by principal axis; `scores` are `Z V`."""

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray
    shares: np.ndarray


def _axes_of(features, shares):
    """Principal axes of more than rounding, by a decomposition of the features and not of their covariance."""
    size = np.sqrt(shares @ features**2)
    mean = shares @ features
    centred = features - mean
    scale = np.sqrt(shares @ centred**2)
    is_constant = scale <= 64 * np.finfo(np.float64).eps * size
    scale = np.where(is_constant, np.inf, scale)
    root = np.sqrt(shares)[:, None]
    left, lengths, axes = scipy.linalg.svd(root * (centred / scale), full_matrices=False)
    is_real = lengths > np.finfo(np.float64).eps * max(features.shape) * lengths.max(initial=0.0)
    left, lengths, axes = left[:, is_real], lengths[is_real], axes[is_real]
    return _Axes(mean, scale, axes, lengths, left * lengths / root, shares)


def _readout_of(axes, coefficients, level):
    weight = coefficients.T @ axes.axes / axes.scale
    return weight, level - weight @ axes.mean


def _solve_numbers(axes, targets, strengths):
    """Ridge: every strength from one decomposition."""
    level = axes.shares @ targets
    # `U^T y` is `scores^T y / S`.
    said = (axes.scores * axes.shares[:, None]).T @ (targets - level) / axes.lengths[:, None]
    shrunk = [axes.lengths / (axes.lengths**2 + strength) for strength in strengths]
    return [_readout_of(axes, each[:, None] * said, level) for each in shrunk]


def _solve_classes(axes, targets, strengths):
    """Logistic regression, from the strongest penalty to the weakest, in axes of curvatures of about one."""
    outputs, shares = targets.shape[1], np.clip(axes.shares @ targets, 1e-6, 1.0 - 1e-6)
    found = np.vstack(
        [np.zeros((axes.lengths.size, outputs)), np.log(shares) - (outputs == 1) * np.log1p(-shares)]
    )
    options = {"maxiter": 2000, "maxcor": 30, "ftol": 1e-11, "gtol": 1e-7}
    penalties, solved = np.maximum(strengths, SMALLEST_FOR_CLASSES).tolist(), {}
    for strength in sorted(set(penalties), reverse=True):
        scales = np.append(1.0 / np.sqrt(axes.lengths**2 / 4.0 + 2.0 * strength), 1.0)[:, None]
        objective = partial(_penalised, axes, targets, scales, strength)
        start = (found / scales).ravel()
        end = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
        found = end.reshape(-1, outputs) * scales
        solved[strength] = _readout_of(axes, found[:-1], found[-1])
    return [solved[strength] for strength in penalties]


def _penalised(axes, targets, scales, strength, flat):
    """Mean cross-entropy plus penalty, and the gradient, in scaled coordinates; the last row is the bias."""
    own = flat.reshape(-1, targets.shape[1]) * scales
    logits = axes.scores @ own[:-1] + own[-1]
    chances = scipy.special.expit(logits) if logits.shape[1] == 1 else scipy.special.softmax(logits, axis=1)
    rate = axes.shares[:, None] * (chances - targets)
    slope = np.vstack([axes.scores.T @ rate + 2.0 * strength * own[:-1], rate.sum(axis=0)]) * scales
    loss = axes.shares @ _cross_entropies(logits, targets) + strength * np.sum(own[:-1] ** 2)
    return loss, slope.ravel()


def _cross_entropies(logits, targets):
    if logits.shape[1] == 1:
        return np.logaddexp(0.0, (1.0 - 2.0 * targets[:, 0]) * logits[:, 0])
    return scipy.special.logsumexp(logits, axis=1) - np.sum(targets * logits, axis=1)


def solve_path(
    features: _Features,
    targets: _Labels,
    strengths: Sequence[float],
    *,
    is_classes: bool,
    weights: _Weights = None,
) -> list[_Readout]:
    """Weight and bias of the best read-out for every strength of its penalty, in float64 on the host.

    Least is the mean loss plus `strength` times the sum of squared weights of standardised features; the bias
    is free. Numbers are solved by singular values, so that strength 0 is least squares of least norm; classes
    by quasi-Newton steps, each strength from the next stronger one, none below 1e-8.

    Args:
        features: Activations of any scale, a column each.
        targets: Numbers, or classes as one-hot columns or one column of 0 and 1, which gives one logit.
        strengths: Penalties, 0 or more.
        is_classes: Which of the two the targets are.
        weights: Weight of each sample, 0 or more; all the same if not given.

    Returns:
        For every strength the weight `[outputs, units]` and the bias `[outputs]`, in the features' own units.

    Raises:
        ValueError: If a strength is negative, or a value is not finite.
    """
    if min(strengths) < 0:
        raise ValueError(f"`strengths` must be 0 or more; got {min(strengths)}.")
    wide, labels = features.astype(np.float64), targets.astype(np.float64)
    if not (np.isfinite(wide).all() and np.isfinite(labels).all()):
        raise ValueError("`features` and `targets` must be finite.")
    shares = (
        np.full(len(wide), 1.0 / len(wide)) if weights is None else weights / np.sum(weights, dtype=np.float64)
    )
    used = shares > 0
    solve_each = _solve_classes if is_classes else _solve_numbers
    with threadpool_limits(1, user_api="blas"):  # threads that wait for each other cost more than they save
        axes = _axes_of(wide[used], shares[used].astype(np.float64))
        return list(solve_each(axes, labels[used], strengths))


def solve(
    features: _Features, targets: _Labels, strength: float, *, is_classes: bool, weights: _Weights = None
) -> _Readout:
    """Weight and bias of the best read-out for one strength: see `solve_path`."""
    return solve_path(features, targets, (strength,), is_classes=is_classes, weights=weights)[0]


def readout_losses(
    features: _Features, targets: _Labels, readout: _Readout, *, is_classes: bool
) -> Float[np.ndarray, " samples"]:
    """Loss of a read-out at every sample: squared error summed over outputs, or cross-entropy in nats."""
    outputs = features.astype(np.float64) @ readout[0].T + readout[1]
    return _cross_entropies(outputs, targets) if is_classes else np.sum((outputs - targets) ** 2, axis=1)


def best_strength(losses: Float[np.ndarray, "strengths samples"], weights: _Weights = None) -> int:
    """The index of the strength of least mean loss over samples held out; one that is not finite is none.

    `weights` are those of the samples, above 0; all the same if not given.

    Raises:
        ValueError: If no strength has a finite loss.
    """
    means = np.average(losses.astype(np.float64), axis=1, weights=weights)
    if not np.isfinite(means).any():
        raise ValueError("`losses` must be finite for one strength at least.")
    return int(np.argmin(np.where(np.isfinite(means), means, np.inf)))
