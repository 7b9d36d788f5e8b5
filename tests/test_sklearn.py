"""Estimators: what scikit-learn asks of them, the user's units, and every warning and refusal."""

import pickle

import jax.numpy as jnp
import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

import n3
from n3.sklearn import GrowingClassifier, GrowingRegressor, SizingWarning

SMALL = {"capacity": 6, "members": 2, "steps": 100, "learning_rate": 0.03, "random_state": 0}
"""Settings of one shape: a new one is compiled anew."""
ROWS = 40
pytestmark = pytest.mark.filterwarnings("ignore::n3.sklearn.SizingWarning")
QUICK = (
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_do_not_raise_errors_in_init_or_set_param",
    "check_set_params",
    "check_get_params_invariance",
    "check_estimators_unfitted",
    "check_mixin_order",
    "check_fit1d",
    "check_fit2d_1sample",
    "check_estimator_sparse_array",
    "check_complex_data",
    "check_estimators_empty_data_messages",
    "check_requires_y_none",
    "check_classifiers_one_label",
    "check_supervised_y_no_nan",
)
"""Checks of scikit-learn that train no network, or nearly none."""
ESTIMATORS = [GrowingRegressor(**SMALL), GrowingClassifier(**SMALL)]
TWO_ROWS = {"check_sample_weight_equivalence_on_dense_data": "equal rows may lie in two folds"}
"""Checks that are not passed, and why."""


def table(rows=ROWS, *, seed=0):
    """A number with holes and a colour, in units far from those of a network; a number and names to learn."""
    rng = np.random.default_rng(seed)
    size, colour = rng.normal(1000, 200, rows), rng.choice(["red", "blue"], rows)
    y = 5e4 + 30 * size + 5e3 * (colour == "red")
    held = np.where(rng.uniform(size=rows) < 0.1, np.nan, size)
    return pd.DataFrame({"size": held, "colour": colour}), y, np.where(size > 1000, "large", "small")


@pytest.fixture(scope="module")
def regressor():
    X, y, _ = table()
    return GrowingRegressor(**SMALL).fit(X, y)


@pytest.fixture(scope="module")
def classifier():
    X, _, names = table()
    return GrowingClassifier(**SMALL).fit(X, names)


def quick_checks():
    for estimator in ESTIMATORS:
        for own, check in estimator_checks_generator(estimator):
            name = getattr(check, "func", check).__name__
            if name in QUICK:
                yield pytest.param(own, check, id=f"{type(own).__name__}-{name}")


@pytest.mark.parametrize(("estimator", "check"), list(quick_checks()))
def test_quick_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GrowingRegressor, GrowingClassifier])
def test_all_checks_of_scikit_learn(kind):
    settings = {"capacity": 8, "members": 2, "steps": 200, "learning_rate": 0.03, "random_state": 0}
    check_estimator(kind(**settings), on_skip=None, expected_failed_checks=TWO_ROWS)


def test_numbers_are_predicted_in_the_users_units(regressor):
    X, y, _ = table(seed=1)
    found = regressor.predict(X)
    assert found.shape == (ROWS,)
    assert regressor.score(X, y) > 0.5
    assert abs(found.mean() - y.mean()) < 3e3
    assert regressor.n_features_in_ == 2
    assert regressor.feature_names_in_.tolist() == ["size", "colour"]


def test_names_are_predicted_with_probabilities(classifier):
    X, _, names = table(seed=1)
    chances = classifier.predict_proba(X)
    assert classifier.classes_.tolist() == ["large", "small"]
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, rtol=1e-12)
    assert np.array_equal(classifier.predict(X), classifier.classes_[chances.argmax(axis=1)])
    assert classifier.score(X, names) > 0.7


def test_what_a_fit_leaves(regressor):
    assert len(regressor.members_) == 2
    assert all(isinstance(own, n3.CompactMLP) for own in regressor.members_)
    assert len(regressor.sizes_) == 1
    assert regressor.members_[0].layers[0].bias.shape == regressor.sizes_
    history = regressor.history_
    assert history["step"][-1] == SMALL["steps"]
    assert history["size"].shape == (len(history["step"]), 1)
    assert regressor.oof_score_ == history["held_out_loss"][-1]
    assert 0 < regressor.oof_error_ < regressor.oof_score_ < 1
    assert not hasattr(regressor, "network_")


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(regressor):
    X, y, _ = table()
    assert np.array_equal(clone(regressor).fit(X, y).predict(X), regressor.predict(X))
    other = clone(regressor).set_params(random_state=np.random.RandomState(1)).fit(X, y)
    assert not np.array_equal(other.predict(X), regressor.predict(X))


def test_an_estimator_is_pickled_and_stored_by_joblib(classifier, tmp_path):
    X, _, _ = table(seed=2)
    expected = classifier.predict_proba(X)
    assert np.array_equal(pickle.loads(pickle.dumps(classifier)).predict_proba(X), expected)
    joblib.dump(classifier, tmp_path / "own.joblib")
    assert np.array_equal(joblib.load(tmp_path / "own.joblib").predict_proba(X), expected)


def test_rows_of_weight_zero_are_as_if_they_were_not_there():
    X, y, _ = table()
    noise = pd.concat([X, X.assign(size=5e6)])
    weights = np.repeat([2.0, 0.0], ROWS)
    found = GrowingRegressor(**SMALL).fit(noise, np.tile(y, 2), sample_weight=weights)
    assert np.array_equal(found.predict(X), GrowingRegressor(**SMALL).fit(X, y).predict(X))


def test_rows_that_contradict_each_other_count_by_their_weight():
    x, weights = np.tile(np.linspace(-1, 1, ROWS // 2), 2)[:, None], np.repeat([3.0, 1.0], ROWS // 2)
    y = x[:, 0] + np.repeat([0.0, 8.0], ROWS // 2)
    found = GrowingRegressor(**SMALL).fit(x, y, sample_weight=weights).predict(x)
    np.testing.assert_allclose(found.mean(), 2.0, atol=0.3)


def test_balanced_classes_count_alike():
    X, _, _ = table()
    names = np.where(np.arange(ROWS) % 5 == 0, "rare", "usual")  # not to be learnt from the columns
    chances = GrowingClassifier(**SMALL, class_weight="balanced").fit(X, names).predict_proba(X)
    np.testing.assert_allclose(chances[:, 0].mean(), 0.5, atol=0.15)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), r"`sample_weight` must have shape \(40,\), one a row; got \(3,\)"),
        (-np.ones(ROWS), "`sample_weight` must be zero or more, and above zero in some row"),
        (np.zeros(ROWS), "`sample_weight` must be zero or more, and above zero in some row"),
        (np.full(ROWS, np.nan), "sample_weight contains NaN"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    X, y, _ = table()
    with pytest.raises(ValueError, match=message):
        GrowingRegressor(**SMALL).fit(X, y, sample_weight=weights)


@pytest.mark.slow
def test_one_network_after_a_refit():
    X, y, _ = table()
    model = GrowingRegressor(**SMALL, refit=True).fit(X, y)
    assert isinstance(model.network_, n3.CompactMLP)
    assert model.members_ == [model.network_]
    assert model.score(X, y) > 0.5


def test_labels_of_any_type_come_back():
    X, _, names = table()
    for labels in (names == "large", np.where(names == "large", 7, -1), names.astype(object)):
        found = GrowingClassifier(**SMALL).fit(X, labels)
        assert found.predict(X).dtype == labels.dtype
        assert set(found.predict(X).tolist()) <= set(labels.tolist())


@pytest.mark.slow
def test_several_targets_are_learnt_at_once():
    X, y, _ = table()
    both = np.stack([y, -y / 1e6], axis=1)
    found = GrowingRegressor(**SMALL).fit(X, both).predict(X)
    assert found.shape == (ROWS, 2)
    assert np.all(np.abs(found.mean(axis=0) / both.mean(axis=0) - 1) < 0.1)


@pytest.mark.slow
def test_estimators_sit_in_pipelines_and_searches():
    X, _, names = table()
    pipeline = make_pipeline(FunctionTransformer(), GrowingClassifier(**SMALL))
    search = GridSearchCV(pipeline, {"growingclassifier__activation": ["tanh", "relu"]}, cv=2, n_jobs=2)
    assert 0 <= search.fit(X, names).best_score_ <= 1


@pytest.mark.slow
def test_a_size_at_the_capacity_is_warned_of():
    X, y, _ = table()
    with pytest.warns(SizingWarning, match="the size is at the capacity, 1 units; raise `capacity`"):
        GrowingRegressor(**SMALL | {"capacity": 1}).fit(X, y)


@pytest.mark.slow
def test_few_rows_have_fewer_members_and_three_are_refused():
    X, y, _ = table(6)
    with pytest.warns(SizingWarning, match=r"6 rows are enough for 3 `members`"):
        model = GrowingRegressor(**SMALL | {"members": 5, "steps": 2}).fit(X, y)
    assert len(model.members_) == 3
    with pytest.raises(ValueError, match=r"`X` must have 4 rows or more.* n_samples = 3"):
        GrowingRegressor(**SMALL).fit(X[:3], y[:3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "`steps` must be positive and finite; got 0"),
        ({"capacity": 0}, "`capacity` must hold positive whole numbers; got 0"),
        ({"members": 0}, "`members` must be positive; got 0"),
        ({"activation": "tan"}, "`activation` must be one of .*; got 'tan'. Did you mean 'tanh'"),
    ],
)
def test_bad_parameters_are_refused_by_fit(settings, message):
    X, y, _ = table()
    with pytest.raises(ValueError, match=message):
        GrowingRegressor(**SMALL | settings).fit(X, y)


def hostile_column(name):
    """Forty cells that no column of numbers or categories has."""
    every = {
        "text": [*map(float, range(ROWS - 1)), "ca. 120"],
        "comma": [f"{row},5" for row in range(ROWS)],
        "thousands": [f"{row + 1},300,000" for row in range(ROWS)],
        "names": [f"K{row}" for row in range(ROWS)],
        "dates": [f"2024-01-{row % 28 + 1:02d}" for row in range(ROWS)],
        "nothing": [np.nan] * ROWS,
    }
    return np.array(every[name], object)


@pytest.mark.parametrize("kind", [GrowingRegressor, GrowingClassifier])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text", r"`X`: row 39, counted from 0, column `own` must be a number, as most .*; got 'ca\. 120'"),
        ("comma", "row 0, counted from 0, column `own` must be a number with a point .*'0,5': write a point"),
        ("thousands", "column `own` must be a number; got '1,300,000', which .* thousands: remove the commas"),
        ("names", r"column `own` must hold .* that repeat; got 40, .*\. Leave it out if it names the rows"),
        ("dates", "row 0, counted from 0, column `own` must be a number, .* not a date; got '2024-01-01'"),
        ("nothing", "row 0, counted from 0, column `own` must have a value; leave the column out"),
    ],
)
def test_what_a_file_is_refused_for_is_refused_in_a_frame(kind, name, message):
    X, y, names = table()
    with pytest.raises(n3.DataError, match=message):
        kind(**SMALL).fit(X.assign(own=hostile_column(name)), y if kind is GrowingRegressor else names)


def test_a_column_that_repeats_the_target_is_warned_of():
    X, y, names = table()
    with pytest.warns(SizingWarning, match="column `own` repeats the target `y`; leave it out"):
        GrowingRegressor(**SMALL | {"steps": 2}).fit(X.assign(own=y), y)
    with pytest.warns(SizingWarning, match="column `own` repeats the target `y`; leave it out"):
        GrowingClassifier(**SMALL | {"steps": 2}).fit(X.assign(own=names), names)


def test_marks_of_a_missing_value_are_missing_in_training_and_later(regressor):
    X, _, _ = table()
    holed, marked = X.assign(colour=None, size=np.nan), X.assign(colour="n/a", size="?")
    assert np.array_equal(regressor.predict(holed), regressor.predict(marked))


def test_new_categories_and_columns_without_a_value_are_warned_of(regressor, classifier):
    X, _, _ = table()
    texts = [
        r"row 0, counted from 0, column `colour`: 'green' was not in training; counted as none \(and in row",
        r"column `size` has no value; each counts as \d+",
    ]
    for text, new in zip(texts, (X.assign(colour="green"), X.assign(size=np.nan)), strict=True):
        for predict in (regressor.predict, classifier.predict, classifier.predict_proba):
            with pytest.warns(SizingWarning, match=text) as told:
                predict(new)
            assert len(told) == 1


def test_rows_that_only_become_an_array_are_predicted():
    class Rows:
        def __array__(self, dtype=None, copy=None):
            return own

    X, y, _ = table()
    own = X[["size"]].fillna(1000.0).to_numpy()
    model = GrowingRegressor(**SMALL | {"steps": 2}).fit(own, y)
    assert np.array_equal(model.predict(Rows()), model.predict(own))


@pytest.mark.filterwarnings("error")
def test_the_preprocessing_of_an_estimator_serves_its_networks(regressor, classifier):
    X, _, _ = table()
    own = regressor.preprocessing_
    inputs = own.inputs(own.frame(X))
    assert inputs.shape == (ROWS, len(own.encoder.names))
    assert own.encoder.names == ("size", "size=(missing)", "colour=blue", "colour=red")
    outputs = np.mean([net.batch(jnp.asarray(inputs.T)).T for net in regressor.members_], axis=0)
    assert np.allclose(own.values(outputs)[:, 0], regressor.predict(X), rtol=1e-4)
    own, nets = classifier.preprocessing_, classifier.members_
    log_odds = [net.batch(jnp.asarray(own.inputs(own.frame(X)).T)).T for net in nets]
    assert own.targets == ("large", "small")
    assert log_odds[0].shape == (ROWS, 1)
    for net, odds in zip(nets, log_odds, strict=True):
        again = net.batch(jnp.asarray(own.inputs(own.frame(X[["colour", "size"]])).T)).T
        assert np.array_equal(again, odds), "columns are found by name"


def test_numbers_of_a_type_of_categories_stay_categories():
    X, y, _ = table()
    own = pd.Categorical([str(row % 3) for row in range(ROWS)])
    found = GrowingRegressor(**SMALL | {"steps": 2}).fit(X.assign(own=own), y)
    assert 2 + 2 + 3 in found.members_[0].layers[0].weight.shape


@pytest.mark.parametrize("hole", [None, np.nan])
def test_a_missing_target_is_named_by_its_row(hole):
    X, y, names = table()
    labels = names.astype(object)
    labels[[3, 7]] = hole
    with pytest.raises(ValueError, match=r"`y` must .* row 3, counted from 0, has none \(and in row 7\)"):
        GrowingClassifier(**SMALL).fit(X, labels)
    with pytest.raises(ValueError, match=r"`y` must have a value in every row; row 2, counted from 0, has"):
        GrowingRegressor(**SMALL).fit(X, np.where(np.arange(ROWS) == 2, np.nan, y))


def test_a_class_weight_of_no_kind_is_refused_by_its_name():
    X, _, names = table()
    with pytest.raises(ValueError, match=r"`class_weight` must be .*; got 'balance'\. Did you mean 'balanced'"):
        GrowingClassifier(**SMALL, class_weight="balance").fit(X, names)


def test_a_failed_fit_leaves_no_fitted_estimator():
    X, _, names = table()
    model = GrowingClassifier(**SMALL | {"learning_rate": 1e30})
    with pytest.raises(FloatingPointError, match=r"after step .*: lower `learning_rate`"):
        model.fit(X, names)
    with pytest.raises(NotFittedError):
        model.predict(X)
