"""Encoding: against scikit-learn's own transformers, by hand, through JSON and back."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from n3.config.validation import from_json
from n3.data.encoding import MOST_CATEGORIES, RARE, Column, Preprocessing, TableEncoder


def drawn(rows, *, seed):
    """Two columns of numbers, one with holes, and two of text, one with holes and rare categories."""
    rng = np.random.default_rng(seed)
    holed = np.where(rng.uniform(size=rows) < 0.2, np.nan, rng.normal(3, 2, rows))
    plain = rng.normal(size=rows)
    text = rng.choice(np.array(["red", "blue", None], object), rows)
    long = np.array([f"n{int(own)}" for own in rng.exponential(3, rows)], object)
    return {"holed": holed, "text": text, "plain": plain, "long": long}


def test_the_numbers_are_those_of_scikit_learn():
    train, new = drawn(300, seed=0), drawn(50, seed=1)
    new["long"][0] = "never seen"
    pooled = {"min_frequency": RARE, "max_categories": MOST_CATEGORIES, "sparse_output": False}
    one_hot = OneHotEncoder(handle_unknown="infrequent_if_exist", **pooled)
    reference = ColumnTransformer(
        [
            ("numbers", SimpleImputer(strategy="median", add_indicator=True), [0]),
            ("text", one_hot, [1]),
            ("plain", "passthrough", [2]),
            ("long", one_hot, [3]),
        ]
    )
    rows = [np.stack([own.astype(object) for own in frame.values()], axis=1) for frame in (train, new)]
    reference.fit(rows[0])
    encoder = TableEncoder.fit(train)
    assert len(encoder.columns[3].rare) > 1
    assert encoder.names[-1] == "long=(rare)"
    for frame, own in zip((train, new), rows, strict=True):
        assert np.array_equal(encoder.transform(frame), reference.transform(own).astype(float))


def test_an_encoder_by_hand():
    frame = {"size": np.array([1.0, np.nan, 5.0]), "colour": np.array(["red", None, "blue"], object)}
    encoder = TableEncoder.fit(frame)
    assert encoder.inputs == ("size", "colour")
    assert encoder.names == ("size", "size=(missing)", "colour=blue", "colour=red", "colour=(missing)")
    assert encoder.transform(frame).tolist() == [[1, 0, 0, 1, 0], [3, 1, 0, 0, 1], [5, 0, 1, 0, 0]]
    unseen = {"size": np.array([7.0]), "colour": np.array(["green"], object)}
    assert encoder.transform(unseen).tolist() == [[7, 0, 0, 0, 0]]


def test_a_missing_number_where_none_was_missing_is_the_median():
    encoder = TableEncoder.fit({"x": np.array([1.0, 2.0, 9.0])})
    assert encoder.is_plain
    assert encoder.transform({"x": np.array([np.nan])}).tolist() == [[2.0]]


def test_other_rows_give_other_medians_and_the_same_columns():
    frame = drawn(300, seed=0)
    encoder = TableEncoder.fit(frame)
    some = {name: own[:20] for name, own in frame.items()}
    other = encoder.refitted(some)
    assert other.names == encoder.names
    assert other.columns[0].median == np.nanmedian(some["holed"])
    absent = other.columns[3].absent
    assert set(absent) == set(encoder.columns[3].categories) - set(some["long"])
    never = {**some, "long": np.full(20, absent[0], object)}
    columns = [encoder.names.index(name) for name in encoder.columns[3].names]
    assert np.all(other.transform(never)[:, columns[:-1]] == 0)
    assert np.all(encoder.transform(never)[:, columns].sum(axis=1) == 1)


def test_what_is_read_back_gives_identical_numbers():
    frame = drawn(300, seed=2)
    encoder = TableEncoder.fit(frame)
    again = TableEncoder.from_json(encoder.to_json())
    assert again == encoder
    assert np.array_equal(again.transform(frame), encoder.transform(frame))
    with pytest.raises(ValueError, match=r"own\.json: unknown field `kolumns`. Did you mean 'columns'"):
        TableEncoder.from_json('{"kolumns": []}', source="own.json")


def test_texts_and_numbers_may_be_the_others_kind():
    encoder = TableEncoder.fit({"x": np.arange(2.0), "code": np.array(["7", "8"], object)})
    frame = {"x": np.array(["1.5", None], object), "code": np.array([8.0, np.nan])}
    assert encoder.transform(frame).tolist() == [[1.5, 0, 1], [0.5, 0, 0]]
    with pytest.raises(
        ValueError, match="column `x` must hold numbers, as it did in training; got 'a' in row 0"
    ):
        encoder.transform({**frame, "x": np.array(["a", None], object)})


def test_a_missing_column_is_named_and_another_listed():
    encoder = TableEncoder.of_numbers(("size", "age"))
    with pytest.raises(ValueError, match=r"must have the columns 'size': not there\. Did you mean 'sizes'"):
        encoder.transform({"sizes": np.ones(1), "age": np.ones(1)})


def test_two_columns_of_one_name_and_an_empty_frame_are_refused():
    frame = {"a": np.array(["b", "c"], object), "a=b": np.arange(2.0)}
    with pytest.raises(ValueError, match="make a column 'a=b', which is there"):
        TableEncoder.fit(frame)
    with pytest.raises(ValueError, match="must have a column and a row, or more"):
        TableEncoder.fit({})


def made(**changes):
    own = {"input_offset": (1.0,), "input_scale": (2.0,), "target_offset": (0.0,), "target_scale": (1.0,)}
    own |= {
        "encoder": TableEncoder(columns=(Column(name="x", median=0.0),)),
        "targets": ("y",),
        "is_classes": False,
    }
    return Preprocessing(**own | changes)


def test_inputs_are_scaled_and_outputs_come_back_in_the_users_units():
    own = made(target_offset=(5.0,), target_scale=(10.0,))
    assert own.inputs({"x": np.array([1.0, 5.0])}).tolist() == [[0.0], [2.0]]
    assert own.values(np.array([[0.5]])).tolist() == [[10.0]]
    assert from_json(Preprocessing, json.dumps(asdict(own)), source="a") == own


def test_logits_become_probabilities():
    two = made(targets=("no", "yes"), is_classes=True)
    assert np.allclose(two.values(np.array([[0.0], [np.log(3.0)]])), [[0.5, 0.5], [0.25, 0.75]], rtol=1e-15)
    three = made(targets=("a", "b", "c"), is_classes=True, target_offset=(0.0,) * 3, target_scale=(1.0,) * 3)
    assert np.allclose(three.values(np.log([[1.0, 2.0, 5.0]])), [[0.125, 0.25, 0.625]], rtol=1e-15)


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`input_scale` must have 1 numbers; got 2"):
        made(input_scale=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"`target_scale` must be positive; got 0\.0"):
        replace(made(), target_scale=(0.0,))
