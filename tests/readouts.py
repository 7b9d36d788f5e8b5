"""Layers for tests of read-outs, and read-outs of them by NumPy and scikit-learn."""

import numpy as np
from sklearn.linear_model import LogisticRegression

UNITS, SAMPLES = 6, 80
"""Of most layers: one program for all of these."""
FIT = np.arange(SAMPLES) % 5 > 0


def layer(seed=0, units=UNITS, samples=SAMPLES):
    """Correlated units of any scale, as float32 holds them."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(units, units)) @ rng.normal(size=(units, samples)) + rng.normal(size=(units, 1))
    return (mixed * np.geomspace(1e-3, 1e3, units)[:, None]).astype(np.float32).astype(np.float64)


def numbers(seed=1, samples=SAMPLES):
    """Two outputs of their own scales."""
    drawn = np.random.default_rng(seed).normal(size=(2, samples)) * [[1.0], [30.0]] + 5.0
    return drawn.astype(np.float32).astype(np.float64)


def least_squares(units, targets, weights):
    """Squared errors at every sample of NumPy's own read-out of all units."""
    wide = np.vstack([np.ones(units.shape[1]), units / np.maximum(np.abs(units).max(1, keepdims=True), 1e-300)])
    root = np.sqrt(weights)
    weight = np.linalg.lstsq((wide * root).T, (targets * root).T, rcond=1e-14)[0]
    return np.sum((targets - weight.T @ wide) ** 2, axis=0)


def gaussian_classes(classes, seed=2, samples=3000, units=4):
    """Classes of one covariance, of which linear discriminants are the best read-out there is."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    means = 0.8 * rng.normal(size=(classes, units))
    return (means[labels] + rng.normal(size=(samples, units))) @ rng.normal(size=(units, units)), labels


def logistic(features, labels, strength):
    """Scikit-learn's read-out with the same penalty, of standardised features; probabilities by class."""
    mean, scale = features.mean(0), features.std(0)
    penalty = 1.0 / (2.0 * strength * len(labels))
    fitted = LogisticRegression(C=penalty, tol=1e-10, max_iter=10_000).fit((features - mean) / scale, labels)
    return lambda x: fitted.predict_proba((x - mean) / scale)


def ill_conditioned():
    """Units of condition 1e12, and a target that needs every direction of theirs."""
    rng = np.random.default_rng(4)
    left, right = (np.linalg.qr(rng.normal(size=shape))[0] for shape in ((SAMPLES, UNITS), (UNITS, UNITS)))
    units = (left * np.geomspace(1.0, 1e-12, UNITS) @ right).T
    return units, (left @ np.ones(UNITS))[None] + 1e-3 * rng.normal(size=(1, SAMPLES))
