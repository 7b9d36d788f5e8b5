"""Data: every registered set against one contract, values by hand, and the errors."""

import sys
from copy import copy

import numpy as np
import pandas as pd
import pytest
from numpy.random import default_rng

from n3.config.experiment import (
    TaskConfig,
)
from n3.data import dataset
from n3.data.dataset import (
    DATASETS,
    Dataset,
    build_dataset,
    describe_task,
    draw_rows,
    folds_of,
    load_dataset,
    load_task,
    register_dataset,
    split,
)
from n3.data.sources import SYNTHETIC_TASKS, RawSamples, Table, draw_sine_classes, mnist1d_tables, range_scaler

OF_STUDY = {
    **{name: (240, 1000) for name in ("sine-5", "sine-5-clean")},
    **{name: (400, 1000) for name in ("friedman", "friedman-copies")},
    **{"smooth": (120, 1000), "checkerboard": (800, 1000), "rare-class": (3200, 4000)},
    **{"random-labels": (500, 1000), "separable": (300, 1000)},
}
"""Tasks of the study of sizing, with their usual sizes."""
CURVES = [name for name, recipe in SYNTHETIC_TASKS.items() if recipe.targets == ("y",) and name not in OF_STUDY]


BUNDLED = [name for name in DATASETS if name not in SYNTHETIC_TASKS and name != "mnist1d"]


IN_RANGE = ["bessel", "narrow-bessel", "gaussian-mixture", "gaussian-mixture-low", "gaussian-mixture-high"]


STANDARD = ["moons", "mnist1d", *BUNDLED]


SPIRALS = [name for name in DATASETS if name.startswith("spirals")]


ARRAYS = ("train_inputs", "train_targets", "test_inputs", "test_targets")


DEFAULT_SIZES = {
    **dict.fromkeys([*CURVES, "sine-classes"], (1024, 256)),
    **dict.fromkeys([name for name in DATASETS if name.startswith("spirals")], (2048, 512)),
    **OF_STUDY,
    "moons": (512, 512),
    "digits": (1348, 449),
    "breast-cancer": (427, 142),
    "wine": (134, 44),
    "iris": (113, 37),
    "diabetes": (332, 110),
    "mnist1d": (4000, 1000),
}


def load(name, train_samples=60, test_samples=25, seed=0):
    return load_dataset(name, train_samples=train_samples, test_samples=test_samples, seed=seed)


def labels_of(targets):
    return targets[:, 0].astype(int) if targets.shape[1] == 1 else targets.argmax(axis=1)


def function_of(name):
    return SYNTHETIC_TASKS[name].draw.keywords["curve"]


@pytest.mark.parametrize("name", DATASETS)
def test_contract(name):
    data = load(name)
    columns = 1 if data.num_classes == 2 else data.num_classes or 1
    assert data.name == name
    assert data.train_inputs.shape == (60, data.in_size)
    assert data.test_inputs.shape == (25, data.in_size)
    assert data.train_targets.shape == (60, columns) == (60, data.out_size)
    assert data.test_targets.shape == (25, columns)
    for array in (getattr(data, field) for field in ARRAYS):
        assert array.dtype == np.float32
        assert np.all(np.isfinite(array))
    assert len(data.input_names) == data.in_size
    assert np.array_equal(data.target_scale, data.target_scaler.scale)
    assert np.array_equal(data.target_offset, data.target_scaler.offset)


@pytest.mark.parametrize("name", DATASETS)
def test_default_sizes(name):
    data = load(name, None, None)
    assert (len(data.train_inputs), len(data.test_inputs)) == DEFAULT_SIZES[name]


@pytest.mark.parametrize("name", DATASETS)
def test_same_seed_same_bytes_and_another_seed_other_data(name):
    first, again, other = load(name), load(name), load(name, seed=1)
    for field in ARRAYS:
        assert getattr(first, field).tobytes() == getattr(again, field).tobytes()
    for field in ("train_inputs", "test_inputs"):
        assert not np.array_equal(getattr(first, field), getattr(other, field))


@pytest.mark.parametrize("name", SYNTHETIC_TASKS)
def test_test_inputs_are_not_training_inputs(name):
    data = load(name, None, None)
    train, test = (
        {tuple(row) for row in data.input_scaler.inverse(x)} for x in (data.train_inputs, data.test_inputs)
    )
    assert len(train & test) <= 0.001 * len(test)  # float32 leaves room for a coincidence
    assert not np.array_equal(data.train_inputs[: len(data.test_inputs)], data.test_inputs)


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_splits_partition_the_rows(name):
    datasets = pytest.importorskip("sklearn.datasets")
    options = {"scaled": False} if name == "diabetes" else {}
    whole = getattr(datasets, "load_" + name.replace("-", "_"))(**options).data
    data = load(name, None, None)
    rows = data.input_scaler.inverse(np.concatenate([data.train_inputs, data.test_inputs]))
    spread = np.abs(whole).max(axis=0) + 1
    order, expected = (np.lexsort(np.round(values / spread, 5).T) for values in (rows, whole))
    np.testing.assert_allclose(rows[order] / spread, whole[expected] / spread, atol=2e-5)


@pytest.mark.parametrize("name", DATASETS)
def test_test_split_does_not_depend_on_the_training_size(name):
    small, large = load(name, 40), load(name, 60)
    np.testing.assert_allclose(
        small.input_scaler.inverse(small.test_inputs),
        large.input_scaler.inverse(large.test_inputs),
        rtol=1e-5,
        atol=1e-4,
    )


@pytest.mark.parametrize("name", IN_RANGE)
def test_range_is_that_of_the_training_split(name):
    data = load(name)
    for train, test in ((data.train_inputs, data.test_inputs), (data.train_targets, data.test_targets)):
        assert (train.min(), train.max()) == (-1, 1)
        assert test.min() != -1
        assert test.max() != 1


@pytest.mark.parametrize("name", SPIRALS)
def test_spirals_keep_the_range_of_their_training_split(name):
    data = load(name)
    assert np.array_equal(data.train_inputs.min(axis=0), [-1, -1])
    assert np.array_equal(data.train_inputs.max(axis=0), [1, 1])
    assert np.abs(data.test_inputs).max() != 1


@pytest.mark.parametrize("name", STANDARD)
def test_standardised_by_the_training_split(name):
    data = load(name)
    arrays = [data.train_inputs, data.train_targets] if name == "diabetes" else [data.train_inputs]
    for train in arrays:
        is_constant = np.ptp(train, axis=0) == 0
        np.testing.assert_allclose(train.mean(axis=0, dtype=np.float64), 0, atol=1e-6)
        np.testing.assert_allclose(train.std(axis=0, dtype=np.float64), np.where(is_constant, 0, 1), rtol=1e-6)
    assert np.abs(data.test_inputs.mean(axis=0, dtype=np.float64)).max() > 1e-3


NOISE = {"line": 0.1, "sine": 0.1, "noise": 1.0}


FREE_OF_NOISE = [name for name in CURVES if not name.startswith("gaussian") and name not in NOISE]


@pytest.mark.parametrize("name, noise", NOISE.items())
def test_noise_has_its_deviation_and_leaves_the_curve(name, noise):
    data = load(name, train_samples=4000)
    left = data.train_targets[:, 0] - function_of(name)(data.train_inputs[:, 0])
    assert abs(left.std() - noise) < 5 * noise / np.sqrt(2 * 4000)
    assert abs(left.mean()) < 5 * noise / np.sqrt(4000)


@pytest.mark.parametrize("name", FREE_OF_NOISE)
def test_unscaled_targets_are_the_function_of_unscaled_inputs(name):
    data = load(name)
    x, y = data.input_scaler.inverse(data.test_inputs), data.target_scaler.inverse(data.test_targets)
    np.testing.assert_allclose(function_of(name)(x[:, 0]), y[:, 0], atol=3e-6)


def test_sine_classes_follow_the_floor():
    x, labels = draw_sine_classes(default_rng(0), 500)
    assert np.array_equal(labels, np.floor(1 + np.sin(2 * np.pi * x[:, 0])))
    data = load("sine-classes")
    assert np.array_equal(data.train_targets, np.floor(1 + np.sin(2 * np.pi * data.train_inputs)))


@pytest.mark.parametrize("name", ["moons", "spirals", "spirals-3", "spirals-7", "spirals-9"])
def test_drawn_classes_are_balanced_and_shuffled(name):
    data = load(name, 100, 31)
    for targets in (data.train_targets, data.test_targets):
        labels = labels_of(targets)
        assert np.ptp(np.bincount(labels, minlength=data.num_classes)) <= 1
        assert np.any(np.diff(labels) < 0)
        assert not np.array_equal(labels, np.arange(len(labels)) % data.num_classes)


def test_digits_keep_their_class_shares():
    datasets = pytest.importorskip("sklearn.datasets")
    shares = np.bincount(datasets.load_digits().target) / 1797
    for sizes in ((None, None), (100, 50)):
        data = load("digits", *sizes)
        for targets in (data.train_targets, data.test_targets):
            counts = np.bincount(labels_of(targets), minlength=10)
            assert np.all(np.abs(counts - shares * len(targets)) < 2)


def test_mnist1d_keeps_its_split_and_its_labels():
    sides = mnist1d_tables()
    for sizes in ((None, None), (300, 200)):
        data = load("mnist1d", *sizes, seed=3)
        for side, inputs, targets in (
            (sides[0], data.train_inputs, data.train_targets),
            (sides[1], data.test_inputs, data.test_targets),
        ):
            own = data.input_scaler.inverse(inputs.astype(float))
            distances = np.abs(own[:40, None] - side.samples.inputs[None]).max(axis=2)
            assert distances.min(axis=1).max() < 1e-5
            assert np.array_equal(labels_of(targets)[:40], side.samples.targets[distances.argmin(axis=1)])
            shares = np.bincount(side.samples.targets) / len(side.samples.targets)
            assert np.all(np.abs(np.bincount(labels_of(targets)) - shares * len(targets)) < 1.01)


def test_mnist1d_has_an_end():
    for sizes, message in (
        ((4001, 5), "`train_samples` .*4000; got 4001"),
        ((5, 1001), "`test_samples` .*1000; got 1001"),
    ):
        with pytest.raises(ValueError, match=message):
            load("mnist1d", *sizes)


def test_a_table_is_split_by_share_and_class():
    labels = np.repeat([0, 1, 2], [20, 30, 50])
    table = Table(RawSamples(np.arange(100.0)[:, None], labels), ("x",), ("a", "b", "c"))
    data = split("t", table, share=5, train_samples=None, test_samples=None, seed=4)
    assert (len(data.train_inputs), len(data.test_inputs)) == (80, 20)
    assert np.bincount(labels_of(data.test_targets)).tolist() == [4, 6, 10]
    rows = data.input_scaler.inverse(np.concatenate([data.train_inputs, data.test_inputs]).astype(float))
    assert np.array_equal(np.sort(np.round(rows[:, 0])), np.arange(100))
    again = split("t", table, share=5, train_samples=10, test_samples=None, seed=4)
    own = [one.input_scaler.inverse(one.test_inputs.astype(float)) for one in (data, again)]
    np.testing.assert_allclose(*own, atol=1e-4)


def test_scales_of_a_table_are_those_of_its_training_rows():
    values = default_rng(0).normal(size=(50, 1)) * 9 + 4
    table = Table(RawSamples(values, 2 * values), ("x",), ("y",))
    data = split("t", table, share=5, train_samples=None, test_samples=None, seed=0)
    for inputs in (data.train_inputs, data.train_targets):
        np.testing.assert_allclose([inputs.mean(), inputs.std()], [0, 1], atol=1e-5)
    assert abs(data.test_inputs.mean()) > 1e-3
    np.testing.assert_allclose(data.train_inputs, data.train_targets, atol=1e-5)


def test_every_seed_splits_the_users_file_anew_and_a_name_is_drawn_as_ever(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("x,y\n" + "".join(f"{n},{n * n / 7}\n" for n in range(20)))
    task = TaskConfig(data=str(path), target=("y",)).named()
    one, two, again = load_task(task, (0, 1, 0))
    assert (one.name, one.kind, len(one.train_inputs), len(one.test_inputs)) == ("own", "regression", 16, 4)
    assert np.array_equal(one.test_inputs, again.test_inputs)
    assert not np.array_equal(one.test_inputs, two.test_inputs)
    assert describe_task(task, one) == "own: regression of y (inferred; `kind` overrides it)"
    asked = TaskConfig(data=str(path), target=("y",), kind="regression")
    assert describe_task(asked, one).endswith("regression of y (asked for)")
    (drawn,) = load_task(TaskConfig(task="cubic", samples=5, test_samples=3), (2,))
    assert np.array_equal(drawn.train_inputs, load("cubic", 5, 3, seed=2).train_inputs)
    assert describe_task(TaskConfig(task="cubic"), drawn) == "cubic: regression"


def test_columns_of_a_file_are_fitted_to_the_training_rows_of_each_seed(tmp_path):
    path, rng = tmp_path / "own.csv", np.random.default_rng(0)
    cells = [
        ("" if n % 4 == 0 else rng.normal(), "rare" if n == 7 else "ab"[n % 2], n * n / 7) for n in range(40)
    ]
    path.write_text("x,c,y\n" + "".join(f"{a},{b},{c}\n" for a, b, c in cells))
    task = TaskConfig(data=str(path), target=("y",)).named()
    sets = load_task(task, range(8))
    assert {own.input_names for own in sets} == {("x", "x=(missing)", "c=a", "c=b", "c=rare")}
    medians = {own.encoder.columns[0].median for own in sets}
    assert len(medians) > 1
    without = [own for own in sets if own.encoder.columns[1].absent == ("rare",)]
    assert 0 < len(without) < 8
    assert all(np.all(own.test_inputs[:, 4] == own.test_inputs[0, 4]) for own in without)
    assert describe_task(task, sets[0]).endswith(
        "; values are missing in x, each with a column that is 1 there"
    )


def test_the_line_on_whole_numbers_says_what_to_do(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("x,y\n" + "".join(f"{n},{n % 3}\n" for n in range(20)))
    task = TaskConfig(data=str(path), target=("y",)).named()
    told = describe_task(task, load_task(task, (0,))[0])
    due = "inferred from 3 different whole numbers; `kind` regression takes them for quantities"
    assert told == f"own: classification of y ({due})"


def test_arrays_and_frames_become_a_data_set():
    x = np.linspace(-3, 3, 200)
    data = Dataset.from_arrays(x, np.sin(x))
    assert (data.kind, data.in_size, len(data.train_inputs), len(data.test_inputs)) == (
        "regression",
        1,
        160,
        40,
    )
    own = data.target_scaler.inverse(data.train_targets)
    inputs = data.input_scaler.inverse(data.train_inputs)
    np.testing.assert_allclose(own, np.sin(inputs), atol=1e-5)
    classes = Dataset.from_arrays(np.stack([x, x], axis=1), x > 0, test_samples=10, seed=3)
    assert (classes.kind, classes.target_names) == ("classification", ("0", "1"))
    frame = pd.DataFrame({"size": x, "colour": ["red", None] * 100})
    frame.loc[3, "size"] = np.nan
    both = Dataset.from_arrays(frame, pd.DataFrame({"a": x, "b": -x}), name="own")
    assert both.target_names == ("a", "b")
    assert both.input_names == ("size", "size=(missing)", "colour=red", "colour=(missing)")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros(3), np.zeros(2), "`x` and `y` must have as many rows, two or more; got"),
        (
            np.arange(3.0),
            np.array([1.0, np.nan, 2.0]),
            "`y` must have a value in every row; row 1, counted from 0, has none",
        ),
        (np.arange(3.0), np.ones(3), "arrays: `y` must hold two different values or more"),
    ],
)
def test_arrays_that_cannot_be_learnt_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        Dataset.from_arrays(x, y)


def test_rows_in_memory_go_through_the_checks_of_a_file():
    area = np.array([1.5, "n/a", "ca. 120", *range(7)], object)
    with pytest.raises(
        ValueError, match=r"own: row 2, counted from 0, column `area` must be .* got 'ca\. 120'"
    ):
        Dataset.from_arrays({"area": area}, np.arange(10.0), name="own")
    data = Dataset.from_arrays({"a": ["1.5", "?", "2.5", "3"] * 5}, np.arange(20.0), seed=0)
    assert data.input_names == ("a", "a=(missing)")


def test_a_data_set_of_the_users_own_has_a_name(monkeypatch):
    monkeypatch.setattr("n3.data.dataset.DATASETS", dict(DATASETS))

    def line(*, train_samples, test_samples, seed):
        x = default_rng(seed).uniform(size=(train_samples or 30) + (test_samples or 10))
        return Dataset.from_arrays(x, 2 * x, seed=seed, name="line-2", test_samples=test_samples or 10)

    register_dataset("line-2", line)
    (data,) = load_task(TaskConfig(task="line-2", samples=20, test_samples=5), (3,))
    assert (data.name, len(data.train_inputs), len(data.test_inputs)) == ("line-2", 20, 5)
    deaf = lambda *, train_samples, test_samples, seed: line(train_samples=24, test_samples=6, seed=seed)  # noqa: E731
    register_dataset("deaf", deaf)
    assert len(load_dataset("deaf", seed=0).train_inputs) == 24
    with pytest.raises(ValueError, match="`train_samples`: data set 'deaf' gives 24 where 20 are asked for"):
        load_dataset("deaf", train_samples=20, test_samples=6, seed=0)
    with pytest.raises(ValueError, match="`name` must be new; 'line-2' is a data set already"):
        register_dataset("line-2", line)
    with pytest.raises(ValueError, match="`name` must be of letters, digits"):
        register_dataset("../x", line)


def test_rows_are_different_and_keep_shares():
    strata = np.repeat([0, 1, 2], [10, 30, 60])
    rows = draw_rows(default_rng(0), strata, 25)
    assert len(set(rows.tolist())) == 25
    counts = np.bincount(strata[rows])
    assert np.all(np.abs(counts - [2.5, 7.5, 15]) < 1)
    assert np.array_equal(np.sort(draw_rows(default_rng(0), strata, 100)), np.arange(100))


def test_two_classes_are_one_column_and_three_are_one_hot():
    inputs = np.arange(6.0)[:, None]
    labels = np.array([0, 1, 2, 0, 1, 0])

    def build(labels, classes):
        split = RawSamples(inputs, labels)
        return build_dataset("a", Table(split, ("x",), classes), split, fit=range_scaler)

    assert np.array_equal(build(labels % 2, ("no", "yes")).train_targets[:, 0], labels % 2)
    assert np.array_equal(build(labels, ("a", "b", "c")).train_targets[:3], np.eye(3))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "ranking"}, "`kind` must be one of .*got 'ranking'"),
        ({"num_classes": 2}, "`num_classes` must be None .*got 2"),
        ({"kind": "classification"}, "`num_classes` must be .*at least 2; got None"),
        (
            {"train_targets": np.ones((5, 1), np.float32)},
            r"`train_targets` must have shape \(60, 1\).*\(5, 1\)",
        ),
        ({"test_inputs": np.ones((25, 2), np.float32)}, r"`test_inputs` must have shape \(25, 1\)"),
        ({"train_inputs": np.ones(60, np.float32)}, "`train_inputs` must have shape"),
        ({"test_inputs": np.ones((0, 1), np.float32)}, "`test_inputs` must .* not be empty"),
        ({"train_inputs": np.full((60, 1), np.nan, np.float32)}, "`train_inputs` must be finite; got nan"),
        ({"target_names": ("y", "z")}, r"`target_names` must have shape \(1,\)"),
        ({"target_scale": np.ones(2)}, r"`target_scale` must have shape \(1,\)"),
    ],
)
def test_invalid_fields_are_named(changes, message):
    broken = copy(load("cubic"))
    for field, value in changes.items():
        object.__setattr__(broken, field, value)  # past run-time type checks, which users do not have
    with pytest.raises(ValueError, match=message):
        broken.__post_init__()


@pytest.mark.parametrize("name", ["bessel", "spirals", "wine"])
@pytest.mark.parametrize(
    "sizes, message", [((0, 5), "`train_samples` .*got 0"), ((5, -1), "`test_samples` .*got -1")]
)
def test_sizes_must_be_positive(name, sizes, message):
    with pytest.raises(ValueError, match=message):
        load(name, *sizes)


@pytest.mark.parametrize(
    "sizes, numbers",
    [((2000, None), r"2000 \+ 449"), ((1400, 449), r"1400 \+ 449"), ((None, 1797), r"1 \+ 1797")],
)
def test_bundled_sets_have_an_end(sizes, numbers):
    with pytest.raises(ValueError, match=f"`digits` must be at most 1797; got {numbers}"):
        load("digits", *sizes)


def test_unknown_name_lists_the_names_and_guesses():
    with pytest.raises(ValueError, match=r"bessel, narrow-bessel.*got 'spiral'.* Did you mean 'spirals'\?"):
        load("spiral")
    with pytest.raises(ValueError, match=r"got 'qqq'. `n3.register_dataset` gives data of your own a name"):
        load("qqq")


@pytest.mark.parametrize("name", BUNDLED)
def test_missing_extra_says_how_to_install_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    advice = r"install it with .*`uv sync --extra data`, or `pip install scikit-learn`\)\."
    with pytest.raises(ModuleNotFoundError, match=f"^`{name}` needs scikit-learn: {advice}$"):
        load(name)


def test_drawn_sets_need_no_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert {load(name).name for name in SYNTHETIC_TASKS} == set(SYNTHETIC_TASKS)


@pytest.mark.parametrize("samples, out", [(5, 1), (24, 4), (25, 5)])
def test_a_fifth_of_the_training_samples_is_held_out(samples, out):
    whole = load_dataset("sine", train_samples=samples, test_samples=7, seed=2)
    kept, held = dataset.held_out(whole, seed=2)
    assert (len(kept.train_inputs), len(held.test_inputs)) == (samples - out, out)
    assert np.array_equal(kept.test_inputs, whole.test_inputs)
    pairs = [np.hstack(part) for part in ((kept.train_inputs, kept.train_targets),)]
    pairs += [np.hstack((held.test_inputs, held.test_targets))]
    every = np.hstack((whole.train_inputs, whole.train_targets))
    assert sorted(map(tuple, np.vstack(pairs))) == sorted(map(tuple, every))


@pytest.mark.parametrize("task", ["moons", "spirals-3", "rare-class"])
def test_balanced_classes_have_the_same_sum_of_weights_also_where_samples_are_held_out(task):
    (data,) = load_task(TaskConfig(task=task, class_weight="balanced", samples=200), [0])
    kept = dataset.held_out(data, seed=0)[0]
    targets = (
        data.train_targets if data.num_classes > 2 else np.hstack([1 - data.train_targets, data.train_targets])
    )
    np.testing.assert_allclose(data.train_weights @ targets, np.full(data.num_classes, 200 / data.num_classes))
    assert len(kept.train_weights) == len(kept.train_inputs) == 160
    by_input = {
        row.tobytes(): weight for row, weight in zip(data.train_inputs, data.train_weights, strict=True)
    }
    assert [by_input[row.tobytes()] for row in kept.train_inputs] == kept.train_weights.tolist()


@pytest.mark.parametrize("task", ["sine", "diabetes"])
def test_class_weights_of_a_regression_are_refused(task):
    own = TaskConfig(task=task, class_weight="balanced")
    for load in (dataset.outline_task, lambda task: load_task(task, [0])):
        with pytest.raises(ValueError, match="`class_weight` goes with classes"):
            load(own)


def test_which_samples_are_held_out_is_the_seeds_choice():
    whole = load_dataset("sine", train_samples=50, test_samples=7, seed=2)
    first, again, other = (dataset.held_out(whole, seed=seed)[1].test_inputs for seed in (4, 4, 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_too_few_samples_are_refused():
    whole = load_dataset("sine", train_samples=4, test_samples=7, seed=2)
    with pytest.raises(ValueError, match="`samples` must be 5 or more where a fifth is held out; got 4"):
        dataset.held_out(whole, seed=2)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_of_equal_size_and_drawn_by_the_seed(folds):
    targets = default_rng(0).normal(size=(17, 2)).astype(np.float32)
    found = folds_of(targets, folds, is_classes=False, seed=4)
    counts = np.bincount(found, minlength=folds)
    assert len(counts) == folds
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(found, folds_of(targets, folds, is_classes=False, seed=4))
    assert not np.array_equal(found, folds_of(targets, folds, is_classes=False, seed=5))
    assert not np.array_equal(found, np.arange(17) % folds)


@pytest.mark.parametrize("is_one_column", [False, True])
def test_folds_have_an_equal_part_of_each_class(is_one_column):
    labels = np.repeat([0, 1], [80, 10]) if is_one_column else np.repeat([0, 1, 2], [70, 15, 5])
    targets = labels[:, None] if is_one_column else np.eye(3)[labels]
    found = folds_of(targets.astype(np.float32), 5, is_classes=True, seed=1)
    for label in np.unique(labels):
        counts = np.bincount(found[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(found).tolist() == [18] * 5


def test_fewer_samples_than_two_a_fold_are_refused():
    targets = np.zeros((9, 1), np.float32)
    assert sorted(folds_of(targets, 4, is_classes=False, seed=0)) == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(
        ValueError,
        match=r"`members` need two training samples .* in each of 5 folds; got 9 .*: give 10 or more, or",
    ):
        folds_of(targets, 5, is_classes=False, seed=0)
