"""Few resamples: intervals of laws are tested where laws are."""

from functools import partial

import pytest

from n3.paper import variants
from n3.stats.scaling_laws import power_law


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals of laws are tested where laws are."""
    monkeypatch.setattr(variants, "power_law", partial(power_law, resamples=5))
