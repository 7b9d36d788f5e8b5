"""Latency: milliseconds of one compiled call on the default device, variants taking turns."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def milliseconds(calls: Mapping[str, Callable[[Any], Any]], inputs: Any, *, rounds: int) -> dict[str, float]:
    """Median over rounds of one call of each variant; in every round each has its turn.

    Args:
        calls: Compiled functions of the inputs; each is called once before the clock starts.
        inputs: What they are called with.
        rounds: How often each is timed.
    """
    for call in calls.values():
        call(inputs).block_until_ready()
    taken = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call(inputs).block_until_ready()
            taken[name].append(time.perf_counter() - start)
    return {name: 1e3 * float(np.median(own)) for name, own in taken.items()}
