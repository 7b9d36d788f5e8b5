"""Outcome: which runs of members start a second time, and which start stays."""

from dataclasses import replace

import numpy as np
import pytest

from n3.training.history import HeldOutLosses
from n3.training.readouts import Thrift
from n3.training.refit import FINE, OVERFIT, Outcome

SAMPLES, RESOLUTION, CONSTANT = 50, 1e-6, 2.0


def held_out(*means, spread=0.1, seed=0):
    """Losses of one run each, of these means, which scatter by a share of them."""
    drawn = np.random.default_rng(seed).standard_normal((len(means), SAMPLES))
    drawn -= drawn.mean(axis=1, keepdims=True)
    return HeldOutLosses(np.array(means)[:, None] * (1.0 + spread * drawn), np.ones((len(means), SAMPLES)))


def outcome(mean=1.0, trained=0.9, *, is_empty=False, constant=CONSTANT):
    return Outcome(
        is_empty=np.array([is_empty]),
        held_out=held_out(mean),
        trained=np.array([trained]),
        constant=np.array([constant]),
        thrift=Thrift(np.array([0.5]), np.array([RESOLUTION])),
    )


fine, least = FINE * CONSTANT, RESOLUTION * CONSTANT


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (outcome(), False),
        (outcome(is_empty=True), True),
        (outcome(1.0, 1.01 / OVERFIT), False),
        (outcome(1.0, 0.99 / OVERFIT), True),
        (outcome(1.0, 0.0, constant=np.nan), True),  # a loss of the user's own has no constant
        (outcome(1.0, 0.9, constant=np.nan), False),
        (outcome(1.01 * fine, fine), False),
        (outcome(0.99 * fine, fine), True),
        (outcome(1.01 * least, 0.0), True),
        (outcome(0.99 * least, 0.0), False),  # below the resolution there is nothing to gain
        (outcome(np.nan, np.nan), False),  # a run that diverged
    ],
)
def test_a_size_is_in_doubt_without_units_by_overfitting_and_near_a_target_without_noise(own, expected):
    assert own.is_in_doubt == [expected]


def test_a_second_start_stays_where_it_gains_as_much_as_a_further_unit_must():
    first, rows = outcome(), np.array([0])
    error = 0.1 * first.held_out.losses.std(ddof=1)  # of differences that scatter as much as a tenth of it
    scatter = held_out(0.0).losses + 0.1 * (first.held_out.losses - 1.0)
    for gain, expected in ((0.4, False), (0.6, True)):
        losses = first.held_out.losses + scatter - gain * error / np.sqrt(SAMPLES)
        again = replace(first, held_out=HeldOutLosses(losses, first.held_out.weights))
        assert first.is_beaten_by(again, rows) == [expected]
        assert replace(first, is_empty=np.array([True])).is_beaten_by(again, rows) == [False]


def test_a_second_start_is_compared_with_its_own_run():
    first = outcome()
    two = replace(
        first,
        is_empty=np.array([False, True]),
        held_out=held_out(0.5, 1.0),
        trained=np.full(2, 0.5),
        constant=np.full(2, CONSTANT),
        thrift=Thrift(np.array([0.5, 0.5]), np.array([RESOLUTION] * 2)),
    )
    again = replace(first, held_out=held_out(0.7))
    assert two.is_beaten_by(again, np.array([1])) == [True]
    assert two.is_beaten_by(again, np.array([0])) == [False]
