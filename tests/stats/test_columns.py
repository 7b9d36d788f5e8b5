"""Columns: columns as wide as their widest cell."""

import math

import pytest

from n3.stats.summary import align_columns, with_interval


def test_the_first_column_is_to_the_left_and_the_others_to_the_right():
    assert align_columns(["a|loss", "longer|1"]) == "a       loss\nlonger     1"


def test_rows_of_different_lengths_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        align_columns(["a|b", "a"])


def test_an_interval_stands_behind_its_value_where_there_is_one():
    assert with_interval(0.12345, 0.1, 0.2) == "0.123 [0.1, 0.2]"
    assert with_interval(0.12345, math.nan, math.nan, form=".1e") == "1.2e-01"
