"""Scalers: there and back, values by hand, constant columns, and the refusal."""

import numpy as np
import pytest
from numpy.random import default_rng

from n3.data.sources import Scaler, range_scaler, standard_scaler


@pytest.mark.parametrize("fit", [range_scaler, standard_scaler])
def test_scaler_inverts(fit):
    values = default_rng(0).normal(size=(50, 3)) * [1e-3, 1, 1e3] + [1, 5, 1e4]
    scaler = fit(values)
    np.testing.assert_allclose(scaler.inverse(scaler.transform(values)), values, rtol=1e-6)


@pytest.mark.parametrize("fit", [range_scaler, standard_scaler])
def test_constant_column_has_scale_one(fit):
    scaler = fit(np.full((7, 1), 0.1))
    assert scaler.scale == 1
    np.testing.assert_allclose(scaler.offset, 0.1)


def test_scaler_by_hand():
    values = np.array([[0.0], [2.0], [10.0]])
    assert np.array_equal(range_scaler(values).transform(values), [[-1], [-0.6], [1]])
    np.testing.assert_allclose(standard_scaler(values).scale, np.sqrt(56 / 3))


def test_scaler_refuses_a_scale_of_zero():
    with pytest.raises(ValueError, match="`scale` must be positive and finite"):
        Scaler(offset=np.zeros(2), scale=np.array([1.0, 0.0]))
