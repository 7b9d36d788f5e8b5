"""Columns: columns as wide as their widest cell."""

import pytest

from n3.columns import aligned


def test_the_first_column_is_to_the_left_and_the_others_to_the_right():
    assert aligned(["a|loss", "longer|1"]) == "a       loss\nlonger     1"


def test_rows_of_different_lengths_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        aligned(["a|b", "a"])
