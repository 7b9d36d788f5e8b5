"""Tables: what scikit-learn and mnist1d hold, untouched, and what an absent one is told."""

import random
import sys

import numpy as np
import pytest

from n3.data import sources
from n3.data.sources import mnist1d_tables, sklearn_table


def test_a_set_of_scikit_learns_is_as_it_comes():
    bunch = pytest.importorskip("sklearn.datasets").load_wine()
    table = sklearn_table("wine")
    assert np.array_equal(table.samples.inputs, bunch.data)
    assert np.array_equal(table.samples.targets, bunch.target)
    assert (table.inputs[0], table.targets) == ("alcohol", ("class_0", "class_1", "class_2"))


def test_diabetes_is_a_regression_in_own_units():
    pytest.importorskip("sklearn.datasets")
    table = sklearn_table("diabetes")
    assert table.samples.targets.shape == (442, 1)
    assert table.targets == ("progression",)
    assert table.samples.inputs[:, 0].max() > 70  # years, and not scaled ones


def test_mnist1d_is_what_its_generator_makes():
    data = pytest.importorskip("mnist1d.data")
    made, (train, test) = data.make_dataset(data.get_dataset_args()), mnist1d_tables()
    assert (train.samples.inputs.shape, test.samples.inputs.shape) == ((4000, 40), (1000, 40))
    for samples, inputs, labels in (
        (train.samples, made["x"], made["y"]),
        (test.samples, made["x_test"], made["y_test"]),
    ):
        assert np.array_equal(samples.inputs, inputs)
        assert np.array_equal(samples.targets, labels)
        assert set(labels) == set(range(10))
    assert (len(train.inputs), train.targets) == (40, tuple("0123456789"))


def test_mnist1d_leaves_the_global_generators_as_they_were():
    pytest.importorskip("mnist1d")
    sources._mnist1d_samples.cache_clear()
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    mnist1d_tables()
    after = random.getstate(), np.random.get_state()  # noqa: NPY002
    assert before[0] == after[0]
    assert np.array_equal(before[1][1], after[1][1])
    assert before[1][2:] == after[1][2:]


def test_an_absent_mnist1d_says_how_to_install_it(monkeypatch):
    sources._mnist1d_samples.cache_clear()
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    advice = r"install it with `uv sync --extra data` \(or `pip install mnist1d`\)\."
    with pytest.raises(ModuleNotFoundError, match=f"^`mnist1d` needs mnist1d: {advice}$"):
        mnist1d_tables()
