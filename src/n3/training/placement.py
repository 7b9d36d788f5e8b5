"""Placement: how the runs of a sweep lie on its devices, and what their steps cost by a measured model."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from n3.nn.losses import LANES
from n3.training.step import Recipe

CACHE_BYTES = 160 * 1024
"""Bytes of one layer's activations, over a tile and a block of runs, that stay in a CPU's cache (measured)."""
MOST_RUNS_IN_BLOCK = 16
"""Runs that a block holds at most on CPU (measured, 32 samples and 9 units: 64 runs in blocks of 64 take 1.2 µs
a step and run, in blocks of 16 1.4, of 8 2.0; a single run takes 80, 30 and 18)."""
TILE_BYTES = 64 * 1024
"""Bytes of one layer's activations, over a tile, at most on CPU (measured: 1.4 to 2.5 times as fast as four
times as many, for 64 units and 1,300 to 2,000 samples)."""
LEAST_TILE, LEAST_TILE_OF_INPUTS = 256, 128
"""Samples of a tile at least, however wide the layers or the inputs are (measured: 128 to 512 units are 1.5 to
1.9 times as fast as by the bytes alone, 1,024 units four times, 300 inputs 1.5 times)."""
TERMS = {
    "a block and step": 4740e-9,
    "a parameter": 9.42e-9,
    "a unit and sample": 0.596e-9,
    "a link and sample": 0.0287e-9,
    "an input and sample": 0.446e-9,
}
"""Seconds of CPU time of a step of one run, by what they are proportional to (`benchmarks/scaling.py`)."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How the runs of a program lie on its devices."""

    recipe: Recipe
    """With the samples of a tile."""
    block: int
    """Runs that a device computes at once."""

    def terms(self, samples: int, runs: int) -> Float[np.ndarray, " terms"]:
        """What the model's constants are multiplied with, of all networks and one step."""
        own, members = self.recipe, max(1, self.recipe.members)
        widths = np.array((own.in_size, *own.capacity, own.out_size), float)
        units, blocks = widths[1:-1].sum(), -(-runs // self.block)
        links = (widths[:-1] * widths[1:]).sum() - widths[-2]  # an output's links count with its units
        parameters = ((widths[:-1] + 1.0) * widths[1:]).sum() - own.out_size
        each = np.array([parameters, samples * units, samples * links, samples * widths[0]])
        return np.array([blocks, *(blocks * self.block * members * each)])

    def seconds(self, samples: int, runs: int, steps: int) -> float:
        """CPU seconds of the steps, all units and members counted; checks and records are not.

        `samples` are those of a step; members train on so many each.
        """
        return steps * float(self.terms(samples, runs) @ np.array([*TERMS.values()]))


def placement_of(
    recipe: Recipe, samples: int, per_device: int, *, on_cpu: bool, block: int | None = None
) -> Placement:
    """Where so many runs lie on each device: in tiles and blocks that a CPU cache holds, else all at once.

    The width of a block decides how XLA orders some sums. On CPU it follows from the problem alone, a power of
    two, and fewer runs are filled up: so a run's numbers are the same, to the bit, beside any number of others.
    A `block` that is given stays.
    """
    if not on_cpu:
        return Placement(recipe=recipe, block=block or per_device)
    of_units = max(LEAST_TILE, TILE_BYTES // (4 * max(recipe.capacity)))
    of_inputs = max(LEAST_TILE_OF_INPUTS, TILE_BYTES // (4 * recipe.in_size))
    tile = min(recipe.tile, of_units, of_inputs)
    recipe = replace(recipe, tile=tile // LANES * LANES or tile)
    wide = min(samples, recipe.tile) * max(*recipe.capacity, recipe.in_size) * 4 * max(1, recipe.members)
    most = min(MOST_RUNS_IN_BLOCK, max(1, CACHE_BYTES // wide))
    return Placement(recipe=recipe, block=block or 1 << (most.bit_length() - 1))
