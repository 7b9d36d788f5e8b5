"""Hostile input: random command lines, grids, criteria, tables and damaged run directories end in a sentence.

Each test has a few examples in the fast tier, in the folder of its module, and the full number here.
"""

import pytest

import hostile
from hostile import fuzzed

pytestmark = pytest.mark.slow


def test_five_hundred_command_lines():
    fuzzed(hostile.command_lines(), hostile.check_command_line, examples=500)


def test_five_hundred_tables(tmp_path):
    fuzzed(hostile.TABLES, lambda content: hostile.check_table(tmp_path, content), examples=500)


def test_five_hundred_criteria_and_grids():
    fuzzed(hostile.CRITERIA, hostile.check_criterion, examples=500)
    fuzzed(hostile.grids(), hostile.check_grid, examples=500)


def test_two_hundred_damaged_run_directories(tmp_path):
    run = hostile.trained(tmp_path)
    fuzzed(hostile.DAMAGES, lambda damage: hostile.check_damage(run, tmp_path, damage), examples=200)
