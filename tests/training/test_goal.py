"""Goal: what targets say of the loss, losses and scores by hand, and targets that do not fit."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.training.fit import OutputLoss, check_targets, output_loss_of

MODEL = eqx.nn.MLP(2, 3, 4, 1, key=jr.key(5))
INPUTS = jr.normal(jr.key(6), (5, 2))
LABELS = jnp.array([0, 2, 1, 1, 2])


def narrow(out_size):
    return eqx.nn.MLP(2, out_size, 4, 1, key=jr.key(5))


@pytest.mark.parametrize(
    "targets, loss, expected",
    [
        (LABELS, None, ("cross-entropy", 3, True)),
        (LABELS > 0, "cross-entropy", ("cross-entropy", 3, True)),
        (jnp.ones((5, 3)), None, ("squared-error", 3, False)),
        (jnp.ones((5, 3), int), "squared-error", ("squared-error", 3, False)),
        (jnp.ones((5, 3)), "cross-entropy", ("cross-entropy", 3, True)),
    ],
)
def test_targets_say_what_is_asked(targets, loss, expected):
    goal = output_loss_of(MODEL, INPUTS, targets, loss)
    assert (goal.loss, goal.outputs, goal.is_classes) == expected
    assert goal.has_key


def test_a_loss_of_ones_own_keeps_whole_targets_as_classes():
    def loss(output, target):
        return -output[target]

    goal = output_loss_of(MODEL, INPUTS, LABELS, loss)
    assert (goal.outputs, goal.is_classes) == (3, True)
    outputs = goal.outputs_of(MODEL, INPUTS, jr.key(0))
    np.testing.assert_allclose(goal.losses_of(outputs, LABELS), -outputs[jnp.arange(5), LABELS], rtol=1e-6)
    assert np.isnan(goal.scores(MODEL, INPUTS, LABELS)[1])


def test_columns_by_hand():
    goal = OutputLoss(loss="cross-entropy", outputs=3, is_classes=True, has_key=False)
    np.testing.assert_array_equal(goal.columns(jnp.array([0, 2])), [[1, 0], [0, 0], [0, 1]])
    np.testing.assert_array_equal(
        goal.columns(jnp.array([[0.2, 0.8, 0.0]])), np.array([[0.2], [0.8], [0.0]], np.float32)
    )
    one = OutputLoss(loss="cross-entropy", outputs=1, is_classes=True, has_key=False)
    np.testing.assert_array_equal(one.columns(jnp.array([0, 1, 1])), [[0, 1, 1]])
    numbers = OutputLoss(loss="squared-error", outputs=2, is_classes=False, has_key=False)
    np.testing.assert_array_equal(numbers.columns(jnp.array([[1, 2], [3, 4]])), [[1, 3], [2, 4]])


def test_losses_and_scores_by_hand():
    logits = jnp.array([[0.0, 0.0, 0.0], [0.0, 0.0, jnp.log(2.0)]])
    goal = OutputLoss(loss="cross-entropy", outputs=3, is_classes=True, has_key=False)
    np.testing.assert_allclose(goal.losses_of(logits, jnp.array([1, 2])), np.log([3.0, 2.0]), rtol=1e-6)
    total, hits = goal.scores(eqx.nn.Identity(), logits, jnp.array([1, 2]))
    np.testing.assert_allclose([total, hits], [np.log(6.0), 1.0], rtol=1e-6)
    error = OutputLoss(loss="squared-error", outputs=3, is_classes=False, has_key=False)
    np.testing.assert_allclose(error.losses_of(logits + 2.0, jnp.zeros((2, 3)))[0], 4.0)


def test_one_logit_is_two_classes():
    goal = output_loss_of(narrow(1), INPUTS, jnp.array([0, 1, 1, 0, 1]), None)
    outputs = jnp.array([[0.0], [2.0], [-2.0], [1.0], [0.5]])
    targets = jnp.array([0, 1, 1, 0, 1])
    expected = np.log1p(np.exp([0.0, -2.0, 2.0, 1.0, -0.5]))
    np.testing.assert_allclose(goal.losses_of(outputs, targets), expected, rtol=1e-6)


def test_scores_are_without_dropout_and_samples_have_keys_of_their_own():
    model = eqx.nn.Dropout(0.5)
    goal = OutputLoss(loss="squared-error", outputs=4, is_classes=False, has_key=True)
    ones = jnp.ones((3, 4))
    assert float(goal.scores(model, ones, ones)[0]) == 0.0
    rows = np.asarray(goal.outputs_of(model, ones, jr.key(1)))
    assert len(np.unique(rows, axis=0)) > 1


@pytest.mark.parametrize(
    "targets, loss, message",
    [
        (LABELS, "hinge", "`loss` must be a function or one of squared-error, cross-entropy; got 'hinge'"),
        (LABELS + 1, None, r"`train_data` must have labels in \[0, 2\]; got 1 to 3"),
        (LABELS - 1, None, r"labels in \[0, 2\]; got -1 to 1"),
        (jnp.ones((5, 2)), None, "`train_data` must have 3 targets a sample, one for each output; got 2"),
        (jnp.ones(5), None, "3 targets a sample, one for each output; got 1"),
    ],
)
def test_targets_that_do_not_fit(targets, loss, message):
    with pytest.raises(ValueError, match=message):
        output_loss_of(MODEL, INPUTS, targets, loss)


def test_labels_of_one_logit_are_two():
    goal = OutputLoss(loss="cross-entropy", outputs=1, is_classes=True, has_key=False)
    check_targets(goal, np.array([0, 1]), name="validation_data")
    with pytest.raises(ValueError, match=r"`validation_data` must have labels in \[0, 1\]; got 0 to 2"):
        check_targets(goal, np.array([0, 2]), name="validation_data")


def test_models_of_several_outputs_need_a_loss_of_their_own():
    with pytest.raises(ValueError, match="`loss` must be a function where the model returns tuples"):
        output_loss_of(lambda x: (x, x), INPUTS, jnp.ones((5, 2)), None)
