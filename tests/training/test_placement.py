"""Placement: terms of the cost by hand, and the constants that the benchmark measured."""

import json
from pathlib import Path

import numpy as np
import pytest

from n3.training.placement import TERMS, Placement, placement_of
from n3.training.step import Recipe

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "scaling-cpu.json"


def test_terms_by_hand():
    """Five runs of 3 inputs, 4 and 6 units and 2 outputs in blocks of two: three blocks, one run filled up."""
    own = Placement(recipe=Recipe(in_size=3, out_size=2, capacity=(4, 6)), block=2)
    parameters, units, links = 4 * 4 + 5 * 6 + 7 * 2 - 2, 4 + 6, 3 * 4 + 4 * 6 + 6 * 2 - 6
    expected = [3, 6 * parameters, 6 * 7 * units, 6 * 7 * links, 6 * 7 * 3]
    np.testing.assert_array_equal(own.terms(7, 5), expected)
    np.testing.assert_allclose(own.seconds(7, 5, 100), 100 * np.dot(expected, [*TERMS.values()]))


def test_members_count_as_networks():
    one, five = (
        Placement(recipe=Recipe(in_size=1, out_size=1, capacity=(8,), members=members), block=1)
        for members in (0, 5)
    )
    np.testing.assert_array_equal(five.terms(10, 3)[1:], 5 * one.terms(10, 3)[1:])


@pytest.mark.parametrize(
    ("capacity", "inputs", "tile", "block"),
    [(9, 1, 1024, 4), (64, 1, 256, 2), (48, 1, 336, 2), (1024, 1, 256, 1), (8, 300, 128, 1)],
)
def test_tiles_are_whole_registers_that_fit_the_cache(capacity, inputs, tile, block):
    recipe = Recipe(in_size=inputs, out_size=1, capacity=(capacity,))
    own = placement_of(recipe, 26_214, 40, on_cpu=True)
    assert (own.recipe.tile, own.block) == (tile, block)


def test_a_tile_below_a_register_stays():
    recipe = Recipe(in_size=1, out_size=1, capacity=(9,), tile=8)
    assert placement_of(recipe, 40, 3, on_cpu=True).recipe.tile == 8


def test_the_constants_are_those_of_the_benchmark():
    measured = json.loads(MEASURED.read_text())["constants"]
    assert list(measured) == list(TERMS)
    np.testing.assert_allclose([*TERMS.values()], 1e-9 * np.array([*measured.values()]), rtol=5e-3)
