"""Frames: columns of arrays, mappings and data frames, and every refusal."""

import numpy as np
import pandas as pd
import pytest

from n3.data.frames import column_names, frame_of, listed, select


def test_columns_of_an_array_are_numbered():
    frame = frame_of(np.array([[1, 2], [3, 4]]))
    assert {name: own.tolist() for name, own in frame.items()} == {"x0": [1.0, 3.0], "x1": [2.0, 4.0]}
    assert list(frame_of(np.array([True, False]))) == ["x"]
    assert frame_of([[1.0], [None]], names=["a"])["a"].tolist()[0] == 1.0


def test_a_data_frame_by_hand():
    table = pd.DataFrame(
        {
            "number": [1, 2, 3],
            "nullable": pd.array([1, None, 3], "Int64"),
            "text": ["a", None, "b"],
            "truth": [True, False, True],
            "code": pd.Categorical([7, 8, None]),
            3: [0.5, np.nan, 1.5],
        }
    )
    frame = frame_of(table)
    assert list(frame) == ["number", "nullable", "text", "truth", "code", "3"]
    assert np.array_equal(frame["nullable"], [1, np.nan, 3], equal_nan=True)
    assert frame["text"].tolist() == ["a", None, "b"]
    assert frame["truth"].tolist() == [1.0, 0.0, 1.0]
    assert frame["code"].tolist() == ["7", "8", None]
    assert np.array_equal(frame["3"], [0.5, np.nan, 1.5], equal_nan=True)


def test_a_mapping_and_an_array_of_objects_are_taken_column_by_column():
    frame = frame_of({"a": [1, None], "b": np.array(["x", None], object)})
    assert np.array_equal(frame["a"], [1, np.nan], equal_nan=True)
    assert frame["b"].tolist() == ["x", None]
    mixed = frame_of(np.array([[1, "red"], [2.5, None]], object))
    assert (mixed["x0"].tolist(), mixed["x1"].tolist()) == ([1.0, 2.5], ["red", None])


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        (np.zeros((2, 2, 2)), None, r"`rows` must have shape \[rows, columns\] or \[rows\]; got \(2, 2, 2\)"),
        (np.zeros((2, 2)), ["a"], "`rows` must have 1 columns, a; got 2"),
        ({"a": [[1], [2]]}, None, "column `a` must have one value a row; got shape"),
        (
            {"a": np.array(["2024-01-01"], "datetime64[D]")},
            None,
            "`a` must hold numbers or text: got datetime64",
        ),
        (np.array([[1j]]), None, "Complex data not supported"),
        (np.array([[1.0, np.inf]]), None, "column `x1` must hold finite numbers; it contains infinity"),
        ({"a": [1.0, np.inf]}, None, "column `a` must hold finite numbers"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), None, "`rows` must have columns whose names differ"),
    ],
)
def test_what_is_no_table_is_refused(rows, names, message):
    with pytest.raises(ValueError, match=message):
        frame_of(rows, names=names)


def test_a_cell_that_is_neither_number_nor_text_is_refused():
    with pytest.raises(TypeError, match=r"column `x`: argument must be a string or a number; got \{\}"):
        frame_of(np.array([[{}]], object))


def test_columns_are_selected_by_name():
    frame = {"b": np.ones(1), "a": np.zeros(1), "target": np.ones(1)}
    assert list(select(frame, ("a", "b"), idle=("target",))) == ["a", "b"]
    with pytest.warns(UserWarning, match="column `target` is not an input; ignored"):
        select(frame, ("a", "b"))
    with pytest.raises(
        ValueError, match=r"`rows` must have the columns 'Target', 'c': not there\. Did you mean 'target'"
    ):
        select(frame, ("a", "Target", "c"))


def test_ten_names_are_listed():
    assert listed(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"
    assert column_names("y", 1) == ("y",)
