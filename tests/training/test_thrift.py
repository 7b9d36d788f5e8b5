"""Thrift: the last layer ends with the fewest first units that held-out samples call as good as all."""

import numpy as np
import pytest

from n3.training import readouts
from n3.training.readouts import ERRORS, Seen, Thrift, solved_readouts

MEMBERS, UNITS, TRAINED, HELD = 2, 6, 200, 100


def seen(target_of, seed=0, noise=1.0):
    """Members whose features are drawn, and targets that a function of these and noise gives."""
    draw, sides = np.random.default_rng(seed), []
    for number in (TRAINED, HELD):
        features = draw.standard_normal((MEMBERS, UNITS, number)).astype(np.float32)
        targets = target_of(features) + noise * draw.standard_normal((MEMBERS, number))
        sides.append((features, targets[:, None].astype(np.float32)))
    (features, targets), held = sides
    return Seen(features, targets, np.ones(MEMBERS), (*held, np.ones((MEMBERS, HELD))))


def units_of(own, errors=0.5, resolution=1e-8):
    start = np.zeros((1, MEMBERS, 1, UNITS), np.float32), np.zeros((1, MEMBERS, 1), np.float32)
    thrift = Thrift(np.array([errors]), np.array([resolution]))
    weights, _, _ = solved_readouts([own], *start, loss="squared-error", thrift=thrift)
    read = np.flatnonzero(np.any(weights[0], axis=(0, 1)))
    assert np.array_equal(read, np.arange(len(read)))  # the first ones
    return len(read)


@pytest.mark.parametrize("needed", [1, 2, 5])
def test_the_units_that_the_target_needs_stay(needed):
    assert units_of(seen(lambda own: 3 * own[:, :needed].sum(axis=1), noise=0.1)) == needed


def test_units_within_the_resolution_go():
    own = seen(lambda own: own[:, 0] + 1e-3 * own[:, 1], noise=0.0)
    assert units_of(own, resolution=1e-8) == 2
    assert units_of(own, resolution=1e-4) == 1


@pytest.mark.parametrize("seed", range(5))
def test_noise_leaves_no_unit(seed):
    assert units_of(seen(lambda own: np.zeros(()), seed=seed)) == 0


def gain_over_the_constant(own):
    """Standard errors by which all units are better than none, by least squares of each member."""
    gains = []
    for features, targets, held, others, _ in zip(own.features, own.targets, *own.held, strict=True):
        inputs = np.column_stack([features.T, np.ones(TRAINED)])
        found = np.linalg.lstsq(inputs, targets[0], rcond=None)[0]
        predicted = np.column_stack([held.T, np.ones(HELD)]) @ found
        gains.append((others[0] - targets[0].mean()) ** 2 - (others[0] - predicted) ** 2)
    gains = np.concatenate(gains)
    return gains.mean() / (gains.std() / np.sqrt(gains.size))


def test_any_unit_at_all_needs_more_certainty_than_a_further_one(monkeypatch):
    weak = seen(lambda own: 0.3 * own[:, 0], seed=0)
    assert 0.5 < gain_over_the_constant(weak) < ERRORS
    assert units_of(weak) == 0
    monkeypatch.setattr(readouts, "ERRORS", 0.5)
    assert units_of(weak) > 0
