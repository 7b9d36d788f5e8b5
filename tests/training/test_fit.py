"""Fitting: steps by hand, from arrays and from batches, sizes that find their place, and runs that fail."""

import importlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import n3
from n3.config.experiment import InformationConfig
from n3.tracing.grow import grow
from n3.training.batches import epoch_rows
from n3.training.fit import fit

KEYS = jr.split(jr.key(9), 6)
SAMPLES = 96
X = np.asarray(jr.uniform(KEYS[0], (SAMPLES, 1), minval=-1.0, maxval=1.0))
LINE = 0.7 * X + 0.2 + 0.05 * np.asarray(jr.normal(KEYS[1], (SAMPLES, 1)))
LABELS = (X[:, 0] > 0.1).astype(np.int64)


def perceptron(out_size=1, width=8, **options):
    return eqx.nn.MLP(1, out_size, width, 1, jnp.tanh, key=KEYS[2], **options)


def with_dropout():
    hidden = eqx.nn.Linear(1, 8, key=KEYS[2])
    return eqx.nn.Sequential(
        [hidden, eqx.nn.Lambda(jnp.tanh), eqx.nn.Dropout(0.5), eqx.nn.Linear(8, 1, key=KEYS[3])]
    )


def quiet(model, data, validation_data=None, **settings):
    return fit(model, data, validation_data, **{"key": KEYS[4], "quiet": True, "steps": 4, **settings})


def arrays_of(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_array))


def assert_equal(one, other):
    for a, b in zip(arrays_of(one), arrays_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


def batches(batch, epochs, key=KEYS[4]):
    """What `fit` takes of arrays, as batches."""
    order_key = jr.split(key)[0]
    rows = np.concatenate([epoch_rows(order_key, epoch, SAMPLES, batch=batch) for epoch in range(epochs)])
    return [(X[own], LINE[own]) for own in rows]


def test_steps_are_those_of_adam_by_hand():
    model, history = quiet(perceptron(), (X, LINE), steps=3, batch=SAMPLES, learning_rate=0.1)
    expected, losses = perceptron(), []
    optimiser = optax.adam(0.1)
    state = optimiser.init(eqx.filter(expected, eqx.is_inexact_array))
    for _ in range(3):
        loss, slope = eqx.filter_value_and_grad(lambda m: jnp.mean((jax.vmap(m)(X) - LINE) ** 2))(expected)
        losses.append(float(loss))
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(slope, state)
        expected = eqx.apply_updates(expected, updates)
    for a, b in zip(arrays_of(model), arrays_of(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert history.step.tolist() == [3]
    np.testing.assert_allclose(history.train_loss, [np.mean(losses)], rtol=1e-5)


@pytest.mark.parametrize("is_grown", [False, True])
def test_arrays_and_an_iterable_of_the_same_batches_give_the_same_model(is_grown):
    model = grow(perceptron(), example=X[0], key=KEYS[5]) if is_grown else perceptron()
    settings = {"steps": 30, "batch": 32, "learning_rate": 0.01}
    by_arrays, one = quiet(model, (X, LINE), (X, LINE), **settings)
    by_batches, other = quiet(model, batches(32, 10), (X, LINE), **settings)
    if not is_grown:
        assert_equal(by_arrays, by_batches)
        np.testing.assert_array_equal(one.validation_loss, other.validation_loss)
    in_an_epoch, _ = quiet(model, batches(32, 1), (X, LINE), **{**settings, "steps": 3})
    assert_equal(in_an_epoch, quiet(model, (X, LINE), (X, LINE), **{**settings, "steps": 3})[0])


def test_batches_of_other_shapes_are_steps_too():
    model, history = quiet(perceptron(), [(X[:40], LINE[:40]), (X[40:50], LINE[40:50])], steps=5)
    assert history.step[-1] == 5
    assert history.diverged_at is None
    assert not np.array_equal(arrays_of(model)[0], arrays_of(perceptron())[0])


def test_classes_are_inferred_and_learnt():
    model, history = quiet(
        perceptron(2), (X, LABELS), (X, LABELS), steps=300, batch=SAMPLES, learning_rate=0.02
    )
    assert history.validation_accuracy[-1] > 0.95
    assert history.validation_loss[-1] < 0.2 < history.validation_loss[0] < 0.8
    hits = np.argmax(jax.vmap(model)(X), axis=1) == LABELS
    np.testing.assert_allclose(history.validation_accuracy[-1], np.mean(hits))


def test_a_loss_of_ones_own_and_a_schedule():
    settings = {"loss": lambda output, target: jnp.sum(jnp.abs(output - target)), "batch": SAMPLES}
    still, history = quiet(
        perceptron(), (X, LINE), (X, LINE), learning_rate=optax.constant_schedule(0.0), **settings
    )
    assert_equal(still, perceptron())
    expected = np.mean(np.abs(np.asarray(jax.vmap(perceptron())(X)) - LINE))
    np.testing.assert_allclose(history.train_loss[-1], expected, rtol=1e-5)
    np.testing.assert_allclose(history.validation_loss[-1], expected, rtol=1e-5)
    assert history.validation_accuracy is None


def test_validation_goes_by_pieces_and_without_dropout(monkeypatch):
    settings = {"batch": SAMPLES, "learning_rate": 0.0}
    model, whole = quiet(with_dropout(), (X, LINE), (X, LINE), **settings)
    expected = np.mean((np.asarray(jax.vmap(eqx.nn.inference_mode(model))(X)) - LINE) ** 2)
    np.testing.assert_allclose(whole.validation_loss[-1], expected, rtol=1e-5)
    assert abs(whole.train_loss[-1] - expected) > 1e-3
    monkeypatch.setattr(importlib.import_module("n3.training.fit"), "EVALUATED", 40)
    _, pieces = quiet(with_dropout(), (X, LINE), [(X[:90], LINE[:90]), (X[90:], LINE[90:])], **settings)
    np.testing.assert_allclose(pieces.validation_loss, whole.validation_loss, rtol=1e-5)


def test_the_key_decides_order_and_dropout():
    settings = {"batch": 32, "steps": 8, "learning_rate": 0.01}
    one, again = (quiet(with_dropout(), (X, LINE), **settings)[0] for _ in range(2))
    assert_equal(one, again)
    other, _ = quiet(with_dropout(), (X, LINE), **{**settings, "key": KEYS[0]})
    assert not np.array_equal(arrays_of(one)[0], arrays_of(other)[0])


def test_information_finds_the_size_of_a_line():
    grown = grow(perceptron(width=12), example=X[0], key=KEYS[5])
    settings = InformationConfig(size_rate=0.1)
    model, history = quiet(
        grown, (X, LINE), (X, LINE), steps=400, batch=SAMPLES, learning_rate=0.01, information=settings
    )
    assert history.layers == (".layers[0]",)
    assert history.sizes.shape == (len(history.step), 1)
    assert history.sizes[0, 0] > 8.0
    assert 1.0 <= history.sizes[-1, 0] <= 4.0
    assert history.sizes[-1, 0] == np.round(history.sizes[-1, 0])
    assert history.validation_loss[-1] < 0.01
    compacted = n3.tracing.grow.compact_model(model)
    np.testing.assert_allclose(jax.vmap(compacted)(X), jax.vmap(model)(X), rtol=1e-5, atol=1e-6)
    assert compacted.layers[0].out_features == int(history.sizes[-1, 0])


@pytest.mark.parametrize("method, rate", [("controller", 0.02), ("auxiliary", 0.1)])
def test_the_other_methods_approach_their_target(method, rate):
    grown = grow(perceptron(), example=X[0], key=KEYS[5], method=method, initial_size=1.0)
    settings = {"steps": 150, "batch": SAMPLES, "learning_rate": rate, "size_cost": 10.0}
    _, history = quiet(grown, (X, LINE), target_size=5.0, **settings)
    np.testing.assert_allclose(history.sizes[-1], [5.0], atol=0.5)
    with pytest.raises(
        ValueError, match=r"`target_size` must be in \(0, 8\], the first group's capacity; got 9"
    ):
        quiet(grown, (X, LINE), target_size=9.0)


def test_a_run_that_diverges_ends_and_says_so():
    with pytest.warns(RuntimeWarning, match="`fit` stopped: the loss was .* at step .*; lower `learning_rate`"):
        _, history = quiet(perceptron(), (X, LINE), (X, LINE), steps=100, learning_rate=1e30)
    assert history.diverged_at is not None
    assert history.step[-1] == 25
    assert not np.isfinite(history.train_loss[-1])


def test_records_are_few_and_include_the_last_step():
    _, history = quiet(perceptron(), (X, LINE), steps=130, learning_rate=0.01)
    assert history.step.tolist() == [25, 50, 75, 100, 125, 130]
    assert history.validation_loss is None
    assert history.sizes.shape == (6, 0)


def test_progress_is_told_unless_quiet(capsys):
    fit(perceptron(), (X, LINE), steps=4, key=KEYS[4])
    assert "step 4/4" in capsys.readouterr().err
    quiet(perceptron(), (X, LINE))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 0}, "`steps` must be positive; got 0"),
        ({"batch": 0}, "`batch` must be positive; got 0"),
        ({"train_data": (X, LABELS), "loss": "squared"}, "`loss` must be a function or one of"),
        ({"train_data": [(X, LINE), (X, LINE[:, [0, 0]])]}, "`train_data` must have 1 targets a sample"),
        ({"validation_data": (X, LINE[:3])}, "`validation_data` must have as many inputs as targets"),
        ({"validation_data": []}, "`validation_data` must hold samples; got none"),
    ],
)
def test_what_cannot_be_trained(changes, message):
    settings = {"train_data": (X, LINE), "steps": 2, "key": KEYS[4], "quiet": True, **changes}
    with pytest.raises(ValueError, match=message):
        fit(perceptron(), **settings)


def test_the_public_name_is_a_function():
    assert n3.fit is fit
