"""Regression: ridge by its own equations, logistic regression by scikit-learn, and hard features."""

import numpy as np
import pytest

from n3.information import regression
from readouts import (
    FIT,
    SAMPLES,
    UNITS,
    gaussian_classes,
    ill_conditioned,
    layer,
    least_squares,
    logistic,
    numbers,
)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("strength", [1e-6, 1e-2])
def test_solved_classes_are_logistic_regression(classes, strength):
    features, labels = gaussian_classes(classes, samples=400)
    features = features * [1.0, 1e-3, 1e3, 1.0] + 2.0
    targets = labels[:, None] * 1.0 if classes == 2 else np.eye(classes)[labels]
    weight, bias = regression.solve(features, targets, strength, is_classes=True)
    assert weight.shape == (targets.shape[1], 4)
    chances = logistic(features, labels, strength)(features)
    expected = -np.log(chances[np.arange(400), labels]).mean()
    losses = regression.readout_losses(features, targets, (weight, bias), is_classes=True)
    assert losses.mean() == pytest.approx(expected, abs=1e-6)


def test_solved_numbers_are_ridge_and_least_norm():
    features, targets, weights = layer().T, numbers().T, np.linspace(0.0, 2.0, SAMPLES)
    strengths = (0.0, 1e-3, 1.0)
    shares = weights / weights.sum()
    mean = shares @ features
    scale = np.sqrt(shares @ (features - mean) ** 2)
    path = regression.solve_path(features, targets, strengths, is_classes=False, weights=weights)
    for strength, (weight, bias) in zip(strengths, path, strict=True):
        residual = targets - features @ weight.T - bias
        slope = ((features - mean) / scale).T @ (shares[:, None] * residual) - strength * (weight * scale).T
        np.testing.assert_allclose(slope, 0.0, atol=1e-9)
        np.testing.assert_allclose(shares @ residual, 0.0, atol=1e-9)
    doubled = np.hstack([features, features, np.ones((SAMPLES, 1))])
    weight, bias = regression.solve(doubled, targets, 0.0, is_classes=False)
    single = regression.solve(features, targets, 0.0, is_classes=False)
    np.testing.assert_allclose(weight[:, :UNITS], single[0] / 2.0, rtol=1e-6)
    np.testing.assert_allclose(weight[:, UNITS : 2 * UNITS], single[0] / 2.0, rtol=1e-6)
    assert (weight[:, -1] == 0.0).all()
    np.testing.assert_allclose(bias, single[1], rtol=1e-6)


def test_features_of_condition_1e12_lose_no_direction():
    units, target = ill_conditioned()
    features, targets = units.T[FIT], target.T[FIT]
    solved = regression.solve(features, targets, 0.0, is_classes=False)
    losses = regression.readout_losses(features, targets, solved, is_classes=False)
    assert losses.mean() <= 1.01 * least_squares(units, target, FIT * 1.0)[FIT].mean()


def test_classes_that_part_have_a_finite_read_out():
    features, labels = layer().T, np.arange(SAMPLES) % 2
    features[:, 0] = labels
    (weight, bias), least = regression.solve_path(features, labels[:, None] * 1.0, (0.0, 1e-8), is_classes=True)
    assert np.isfinite(weight).all()
    assert (weight == least[0]).all()
    assert (bias == least[1]).all()
    alone = regression.solve(features, np.zeros((SAMPLES, 1)), 0.1, is_classes=True)
    assert regression.readout_losses(features, np.zeros((SAMPLES, 1)), alone, is_classes=True).mean() < 1e-3


def test_best_strength_and_errors():
    losses = np.asarray([[1.0, np.nan], [2.0, 2.0], [1.0, 2.0], [1.5, 1.5]])
    assert regression.best_strength(losses) == 2
    assert regression.best_strength(losses[1:], np.array([1.0, 5.0])) == 2  # 2.0, 1.83, 1.5
    with pytest.raises(ValueError, match="finite"):
        regression.best_strength(losses[:1])
    with pytest.raises(ValueError, match="0 or more; got -1"):
        regression.solve(np.ones((3, 1)), np.ones((3, 1)), -1.0, is_classes=False)
    with pytest.raises(ValueError, match="finite"):
        regression.solve(np.full((3, 1), np.inf), np.ones((3, 1)), 0.0, is_classes=False)
    assert regression.STRENGTHS[0] == 0.0
    assert list(regression.STRENGTHS) == sorted(regression.STRENGTHS)
