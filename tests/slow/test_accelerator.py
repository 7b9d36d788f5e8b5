"""Accelerator: golden runs on it give the numbers that a CPU gave, where products are in full precision."""

import golden
import jax
import pytest
from test_golden import differences


@pytest.mark.devices
@pytest.mark.parametrize("case", ["auxiliary", "controller", "layerwise", "released"])
def test_a_small_run_on_an_accelerator_gives_the_committed_numbers(case):
    """Cases without decisions on ties, which processors break differently."""
    assert jax.devices()[0].platform != "cpu"
    with jax.default_matmul_precision("highest"):
        found = differences(golden.read()[case], golden.CASES[case]())
    assert not found, "\n".join([f"golden run `{case}` differs on an accelerator.", *found])
