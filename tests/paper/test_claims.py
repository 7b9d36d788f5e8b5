"""References: numbers by hand, and where an interval is computed from a deviation or a count."""

import numpy as np
import pytest
from scipy import stats

from n3.paper import claims as references
from n3.paper.claims import half_decades, ratios, slopes, stuck, widths


def by_quantity(claims):
    return {claim.quantity: claim for claim in claims}


def test_ratios_of_the_quadratic():
    found = by_quantity(ratios("figure-3", "quadratic"))
    means = found["quadratic: grown / growing, ratio of means"]
    assert means.of == ("grown", "growing")
    assert (means.reference.value, means.reference.low, means.reference.high) == (7.9, 4.4, 15.7)
    assert found["quadratic: P(growing < grown)"].reference.value == 0.58
    assert found["quadratic: trials in which growing is lower"].reference is None
    assert {claim.controls for claim in found.values()} == {("rescaled", "warmup", "equal-size")}


def test_what_was_not_measured_before_is_claimed_to_be_ahead():
    known = ratios("figure-4", "cubic")[0].reference
    assert (known.value, known.low, known.high) == (None, None, None)


def test_a_deviation_over_seeds_gives_the_interval_of_the_mean():
    static = by_quantity(references.means("controller-spirals"))["static: accuracy"].reference
    half = stats.norm.ppf(0.975) * 0.016 / np.sqrt(5)
    np.testing.assert_allclose([static.low, static.high], [0.831 - half, 0.831 + half], rtol=1e-4)
    assert by_quantity(references.means("controller-gaussian"))["static: mean test loss"].reference.low is None


@pytest.mark.parametrize(("arm", "count"), [("grown", 35), ("growing", 3)])
def test_a_count_gives_wilsons_interval(arm, count):
    known = by_quantity(stuck())[f"quadratic: stuck trials, {arm}"].reference
    expected = stats.binomtest(count, 1000).proportion_ci(method="wilson")
    np.testing.assert_allclose([known.low, known.high], [expected.low, expected.high], rtol=1e-3)


def test_slopes_are_compared_at_the_fastest_rate_alone():
    claims = [claim for claim in slopes("bessel") if claim.reference is not None]
    assert [(claim.of, claim.where["learning_rate"], claim.reference.value) for claim in claims] == [
        (("static",), 1e-3, -1.31),
        (("growing",), 1e-3, -0.79),
    ]


def test_half_decades_have_their_ratios():
    values = [claim.reference.value for claim in half_decades()]
    assert values == [9.79, 2.02, 0.316, 0.517, 0.642, 0.863, 0.960, 0.897]


def test_widths_have_their_accuracies():
    found = {claim.where["capacity"]: claim.reference.value for claim in widths()}
    assert found == {8: 0.343, 32: 0.487, 128: 0.567}
