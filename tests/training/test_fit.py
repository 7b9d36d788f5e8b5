"""Fit: what targets say of the loss, steps by hand, from arrays and from batches, and runs that fail."""

import importlib
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import n3
from n3.config.experiment import InformationConfig, StructureConfig
from n3.information.measures import LayerMonitor, Pool
from n3.nn import Choice
from n3.nn.sized import stack_runs
from n3.tracing.grow import compact_model, grow
from n3.training.batches import epoch_rows
from n3.training.fit import fit
from n3.training.output_loss import OutputLoss, check_targets, output_loss_of
from n3.training.refit import moving_sizes

KEYS = jr.split(jr.key(9), 4)
BATCH, STEPS = 32, 25
"""A whole epoch in one chunk: what is trained in these, by the same rate, is one program."""
SAMPLES = BATCH * STEPS
RANDOM = np.random.default_rng(9)
X = RANDOM.uniform(-1.0, 1.0, (SAMPLES, 1)).astype(np.float32)
LINE = (0.7 * X + 0.2 + 0.05 * RANDOM.normal(size=X.shape)).astype(np.float32)
LABELS = (X[:, 0] > 0.1).astype(np.int64)


@eqx.filter_jit
def perceptron(out_size=1):
    return eqx.nn.MLP(1, out_size, 8, 1, jnp.tanh, key=KEYS[2])


@eqx.filter_jit
def with_dropout():
    hidden = eqx.nn.Linear(1, 8, key=KEYS[2])
    return eqx.nn.Sequential(
        [hidden, eqx.nn.Lambda(jnp.tanh), eqx.nn.Dropout(0.5), eqx.nn.Linear(8, 1, key=KEYS[3])]
    )


def grown(**options):
    return grow(perceptron(), example=X[0], key=KEYS[3], **options)


def quiet(model, data, validation_data=None, **settings):
    usual = {"key": KEYS[0], "quiet": True, "steps": STEPS, "batch": BATCH, "learning_rate": 0.01}
    return fit(model, data, validation_data, **usual | settings)


def arrays_of(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_array))


def assert_equal(one, other):
    for a, b in zip(arrays_of(one), arrays_of(other), strict=True):
        np.testing.assert_array_equal(a, b)


def rows_of(epochs, key=KEYS[0]):
    """Rows of each batch that `fit` takes of arrays."""
    order_key = jr.split(key)[0]
    return np.concatenate([epoch_rows(order_key, epoch, SAMPLES, batch=BATCH) for epoch in range(epochs)])


def batches(epochs):
    return [(X[own], LINE[own]) for own in rows_of(epochs)]


outputs_of = eqx.filter_jit(lambda model, inputs: jax.vmap(model)(inputs))


@eqx.filter_jit
def by_optax(model, inputs, targets):
    """The model after as many steps of Adam as there are batches, and the loss of each."""
    rule = optax.adam(0.01)
    carry, rest = eqx.partition((model, rule.init(eqx.filter(model, eqx.is_inexact_array))), eqx.is_array)

    def one(carry, batch):
        own, moments = eqx.combine(carry, rest)
        x, y = batch
        loss, slope = eqx.filter_value_and_grad(lambda m: jnp.mean((jax.vmap(m)(x) - y) ** 2))(own)
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = rule.update(slope, moments)
        return eqx.filter((eqx.apply_updates(own, updates), moments), eqx.is_array), loss

    carry, losses = jax.lax.scan(one, carry, (inputs, targets))
    return eqx.combine(carry, rest)[0], losses


def test_steps_are_those_of_adam_by_hand():
    model, history = quiet(perceptron(), (X, LINE))
    rows = rows_of(1)
    expected, losses = by_optax(perceptron(), X[rows], LINE[rows])
    assert not np.array_equal(model.layers[0].weight, perceptron().layers[0].weight)
    for a, b in zip(arrays_of(model), arrays_of(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert history.step.tolist() == [STEPS]
    np.testing.assert_allclose(history.train_loss, [np.mean(losses)], rtol=1e-5)


def test_arrays_and_an_iterable_of_the_same_batches_give_the_same_model():
    by_arrays, one = quiet(perceptron(), (X, LINE), (X, LINE), steps=2 * STEPS)
    by_batches, other = quiet(perceptron(), batches(2), (X, LINE), steps=2 * STEPS)
    assert_equal(by_arrays, by_batches)
    np.testing.assert_array_equal(one.validation_loss, other.validation_loss)
    assert one.validation_loss[1] < one.validation_loss[0]


def test_a_grown_model_looks_at_its_units_and_is_the_same_from_arrays_and_batches():
    settings = {"information": InformationConfig(every=5, size_rate=0.1, settle=0.6)}
    by_arrays, one = quiet(grown(), (X, LINE), **settings)
    by_batches, _ = quiet(grown(), batches(1), **settings)
    assert_equal(by_arrays, by_batches)
    assert one.layers == (".layers[0]",)
    assert one.step.tolist() == [5, 10, 15, 20, 25]
    assert np.all(np.diff(one.sizes[:, 0]) < 0)
    np.testing.assert_array_equal(by_arrays.sizes(), one.sizes[-1])
    np.testing.assert_allclose(one.parameters, 3 * one.sizes[-1, 0] + 1, rtol=1e-6)
    compacted = compact_model(by_arrays)
    assert compacted.layers[0].out_features == np.ceil(one.sizes[-1, 0]) < 8
    np.testing.assert_allclose(outputs_of(compacted, X), outputs_of(by_arrays, X), rtol=1e-5, atol=1e-6)


@pytest.mark.devices
def test_an_accelerator_in_full_precision_sizes_and_fits_as_the_cpu_does():
    found, information = [], InformationConfig(every=5, size_rate=0.1, settle=0.6)
    for device in (jax.devices()[0], jax.devices("cpu")[0]):
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            model, history = quiet(grown(), (X, LINE), information=information)
        assert {own for leaf in arrays_of(model) for own in leaf.devices()} == {device}
        found.append(history)
    assert jax.devices()[0].platform != "cpu"
    np.testing.assert_allclose(found[0].train_loss, found[1].train_loss, rtol=1e-3)
    np.testing.assert_allclose(found[0].sizes, found[1].sizes, rtol=1e-2)


@pytest.mark.parametrize("importance", [None, lambda active, targets: jnp.var(active, axis=0)])
def test_what_is_monitored_is_what_the_units_say(importance):
    settings = {"information": InformationConfig(psi=0.8), "importance": importance}
    model, history = quiet(grown(), (X, LINE), monitor=("entropy", "importance"), **settings)
    monitor = LayerMonitor(names=("entropy", "importance"), is_classes=False, psi=0.8, custom=importance)
    expected = eqx.filter_jit(monitor)(model, Pool(jnp.asarray(X), jnp.asarray(LINE.T)))
    for name, own in expected.items():
        np.testing.assert_allclose(history.monitor[name][-1], own, rtol=1e-3)


def test_another_method_approaches_its_target():
    model = grown(method="auxiliary", initial_size=1.0)
    _, history = quiet(model, (X, LINE), target_size=5.0, steps=150, learning_rate=0.1, size_cost=10.0)
    np.testing.assert_allclose(history.sizes[-1], [5.0], atol=0.5)
    with pytest.raises(
        ValueError, match=r"`target_size` must be in \(0, 8\], the first group's capacity; got 9"
    ):
        quiet(model, (X, LINE), target_size=9.0)


def test_batches_of_other_shapes_are_steps_too():
    model, history = quiet(perceptron(), [(X[:BATCH], LINE[:BATCH]), (X[40:50], LINE[40:50])], steps=5)
    assert history.step[-1] == 5
    assert history.diverged_at is None
    assert not np.array_equal(arrays_of(model)[0], arrays_of(perceptron())[0])


def test_classes_are_inferred_and_learnt():
    model, history = quiet(perceptron(2), (X, LABELS), (X, LABELS), steps=300)
    assert history.validation_accuracy[-1] > 0.95
    assert history.validation_loss[-1] < 0.2 < history.validation_loss[0] < 0.8
    hits = np.argmax(outputs_of(model, X), axis=1) == LABELS
    np.testing.assert_allclose(history.validation_accuracy[-1], np.mean(hits))


def test_a_loss_of_ones_own_and_a_schedule():
    settings = {
        "loss": lambda output, target: jnp.sum(jnp.abs(output - target)),
        "learning_rate": optax.constant_schedule(0.0),
    }
    still, history = quiet(perceptron(), (X, LINE), (X, LINE), **settings)
    assert_equal(still, perceptron())
    expected = np.mean(np.abs(np.asarray(outputs_of(perceptron(), X)) - LINE))
    np.testing.assert_allclose(history.train_loss[-1], expected, rtol=1e-5)
    np.testing.assert_allclose(history.validation_loss[-1], expected, rtol=1e-5)
    assert history.validation_accuracy is None


def test_validation_goes_by_pieces_and_without_dropout(monkeypatch):
    model, whole = quiet(with_dropout(), (X, LINE), (X, LINE), learning_rate=0.0)
    expected = np.mean((np.asarray(outputs_of(eqx.nn.inference_mode(model), X)) - LINE) ** 2)
    np.testing.assert_allclose(whole.validation_loss[-1], expected, rtol=1e-5)
    assert abs(whole.train_loss[-1] - expected) > 1e-3
    monkeypatch.setattr(importlib.import_module("n3.training.history"), "EVALUATED", 300)
    pieces = [(X[:500], LINE[:500]), (X[500:], LINE[500:])]
    _, pieces = quiet(with_dropout(), (X, LINE), pieces, learning_rate=0.0)
    np.testing.assert_allclose(pieces.validation_loss, whole.validation_loss, rtol=1e-5)


def test_the_key_decides_dropout_which_is_fresh_in_every_step():
    data = np.zeros_like(X), np.zeros_like(X)  # in any order the same

    def losses(steps, key=KEYS[0]):
        return quiet(with_dropout(), data, steps=steps, key=key, learning_rate=0.0)[1].train_loss.tolist()

    assert losses(50) == losses(50)
    assert losses(50) != losses(50, KEYS[1])
    first, second = losses(50)
    assert first != second
    both = quiet(stack_runs([with_dropout()] * 2), data, steps=50, key=KEYS[:2], learning_rate=0.0)[1]
    np.testing.assert_allclose(both.train_loss, [losses(50), losses(50, KEYS[1])], rtol=1e-5)


def test_a_run_that_diverges_ends_and_says_where():
    bad = 7
    targets = np.where(np.arange(SAMPLES)[:, None] == bad, np.float32(1e30), LINE)
    expected = int(np.flatnonzero(np.any(rows_of(1) == bad, axis=1))[0])
    with pytest.warns(
        RuntimeWarning, match=f"`fit` stopped: the loss was inf at step {expected}; lower `learn"
    ):
        _, history = quiet(perceptron(), (X, targets), (X, LINE), steps=4 * STEPS)
    assert history.diverged_at == expected > 0
    assert history.step[-1] == STEPS
    assert not np.isfinite(history.train_loss[-1])


def test_records_are_few_and_include_the_last_step():
    _, history = quiet(perceptron(), (X, LINE), steps=1301)
    assert history.step.tolist() == [*range(50, 1301, 50), 1301]
    assert history.validation_loss is None
    assert history.sizes.shape == (27, 0)
    assert history.parameters == 8 + 8 + 8 + 1


def test_progress_is_told_unless_quiet(capsys):
    quiet(perceptron(), (X, LINE), quiet=False)
    assert "step 25/25" in capsys.readouterr().err
    quiet(perceptron(), (X, LINE))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 0}, "`steps` must be positive; got 0"),
        ({"batch": 0}, "`batch` must be positive; got 0"),
        ({"train_data": (X, LABELS), "loss": "squared"}, "`loss` must be a function or one of"),
        ({"train_data": [(X, LINE), (X, LINE[:, [0, 0]])]}, "`train_data` must have samples of one shape"),
        ({"validation_data": (X, LINE[:3])}, "`validation_data` must have as many inputs as targets"),
        ({"validation_data": []}, "`validation_data` must hold samples; got none"),
        ({"learning_rate": -0.1}, "`learning_rate` must be zero or more, and finite; got -0.1"),
        ({"monitor": "entropy"}, "`monitor` measures the units of grown models"),
    ],
)
def test_what_cannot_be_trained(changes, message):
    settings = {"data": (X, LINE), **changes}
    with pytest.raises(ValueError, match=message):
        quiet(perceptron(), settings.pop("train_data", settings.pop("data")), **settings)


def test_the_public_name_is_a_function():
    assert n3.fit is fit


WIDE = eqx.nn.MLP(2, 3, 4, 1, key=jr.key(5))
INPUTS = jnp.asarray(RANDOM.normal(size=(5, 2)).astype(np.float32))
CLASSES = jnp.asarray(np.array([0, 2, 1, 1, 2]))
THREE = OutputLoss(loss="cross-entropy", outputs=3, is_classes=True, has_key=False)
ONES = np.ones((5, 3), np.float32)


@pytest.mark.parametrize(
    "targets, loss, expected",
    [
        (CLASSES, None, ("cross-entropy", 3, True)),
        (np.asarray(CLASSES) > 0, "cross-entropy", ("cross-entropy", 3, True)),
        (ONES, None, ("squared-error", 3, False)),
        (ONES.astype(int), "squared-error", ("squared-error", 3, False)),
        (ONES, "cross-entropy", ("cross-entropy", 3, True)),
    ],
)
def test_targets_say_what_is_asked(targets, loss, expected):
    goal = output_loss_of(WIDE, INPUTS, jnp.asarray(targets), loss)
    assert (goal.loss, goal.outputs, goal.is_classes) == expected
    assert goal.has_key


def test_a_loss_of_ones_own_takes_whole_targets_as_numbers():
    goal = output_loss_of(WIDE, INPUTS, CLASSES, lambda output, target: -output[target])
    assert (goal.outputs, goal.is_classes) == (1, False)


@pytest.mark.parametrize(
    "targets,loss,kind,message",
    [
        (CLASSES, "squared-error", "classification", "`kind` classification needs `loss` cross-entropy"),
        (CLASSES - 1, lambda output, target: output.sum(), "classification", "whole numbers, zero or more"),
    ],
)
def test_a_kind_that_does_not_fit_is_refused(targets, loss, kind, message):
    with pytest.raises(ValueError, match=message):
        output_loss_of(WIDE, INPUTS, targets, loss, kind)


def test_whole_numbers_beyond_32_bits_are_learnt_as_numbers():
    targets = 2**40 * np.arange(5)
    _, history = fit(
        perceptron(), (INPUTS[:, :1], targets), steps=1, key=jr.key(0), kind="regression", quiet=True
    )
    np.testing.assert_allclose(history.train_loss[-1], np.mean(targets.astype(float) ** 2), rtol=0.01)


def test_a_loss_of_ones_own_has_classes_where_they_are_asked_for():
    own = lambda output, target: -output[target]  # noqa: E731
    goal = output_loss_of(WIDE, INPUTS, CLASSES, own, "classification")
    assert (goal.outputs, goal.is_classes) == (3, True)

    @jax.jit
    def scored():
        outputs = goal.outputs_of(WIDE, INPUTS, jr.key(0))
        return outputs, goal.losses_of(outputs, CLASSES), goal.scores(WIDE, INPUTS, CLASSES)

    outputs, losses, (total, hits) = map(jax.device_get, scored())
    np.testing.assert_allclose(losses, -outputs[np.arange(5), CLASSES], rtol=1e-6)
    np.testing.assert_allclose(total, losses.sum(), rtol=1e-6)
    assert np.isnan(hits)


@pytest.mark.parametrize(
    "loss, outputs, targets, expected",
    [
        ("cross-entropy", 3, [0, 2], [[1, 0], [0, 0], [0, 1]]),
        ("cross-entropy", 3, [[0.2, 0.8, 0.0]], [[0.2], [0.8], [0.0]]),
        ("cross-entropy", 1, [0, 1, 1], [[0, 1, 1]]),
        ("squared-error", 2, [[1, 2], [3, 4]], [[1, 3], [2, 4]]),
    ],
)
def test_columns_by_hand(loss, outputs, targets, expected):
    goal = OutputLoss(loss=loss, outputs=outputs, is_classes=loss == "cross-entropy", has_key=False)
    columns = jax.jit(goal.columns)(np.array(targets))
    np.testing.assert_array_equal(columns, np.array(expected, np.float32))


def test_losses_and_scores_by_hand():
    logits = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, np.log(2.0)]], np.float32)
    classes = np.array([1, 2])
    losses = jax.jit(THREE.losses_of)(logits, classes)
    np.testing.assert_allclose(losses, np.log([3.0, 2.0]), rtol=1e-6)
    found = THREE.scores(eqx.nn.Identity(), jnp.asarray(logits), jnp.asarray(classes))
    np.testing.assert_allclose(found, [np.log(6.0), 1.0], rtol=1e-6)
    error = OutputLoss(loss="squared-error", outputs=3, is_classes=False, has_key=False)
    np.testing.assert_allclose(jax.jit(error.losses_of)(logits + 2.0, np.zeros((2, 3), np.float32))[0], 4.0)


def test_one_logit_is_two_classes():
    targets, narrow = np.array([0, 1, 1, 0, 1]), eqx.nn.Linear(2, 1, key=jr.key(5))
    goal = output_loss_of(narrow, INPUTS, jnp.asarray(targets), None)
    outputs = np.array([[0.0], [2.0], [-2.0], [1.0], [0.5]], np.float32)
    expected = np.log1p(np.exp([0.0, -2.0, 2.0, 1.0, -0.5]))
    np.testing.assert_allclose(jax.jit(goal.losses_of)(outputs, targets), expected, rtol=1e-6)


def test_scores_are_without_dropout_and_samples_have_keys_of_their_own():
    model = eqx.nn.Dropout(0.5)
    goal = OutputLoss(loss="squared-error", outputs=4, is_classes=False, has_key=True)
    ones = jnp.asarray(np.ones((3, 4), np.float32))
    assert float(goal.scores(model, ones, ones)[0]) == 0.0
    rows = np.asarray(eqx.filter_jit(goal.outputs_of)(model, ones, jr.key(1)))
    assert len(np.unique(rows, axis=0)) > 1


@pytest.mark.parametrize(
    "targets, loss, message",
    [
        (CLASSES, "hinge", "`loss` must be a function or one of squared-error, cross-entropy; got 'hinge'"),
        (np.asarray(CLASSES) + 1, None, r"`train_data` must have labels in \[0, 2\]; got 1 to 3"),
        (np.asarray(CLASSES) - 1, None, r"labels in \[0, 2\]; got -1 to 1"),
        (ONES[:, :2], None, "`train_data` must have 3 targets a sample, one for each output; got 2"),
        (ONES[:, 0], None, "3 targets a sample, one for each output; got 1"),
    ],
)
def test_targets_that_do_not_fit(targets, loss, message):
    with pytest.raises(ValueError, match=message):
        output_loss_of(WIDE, INPUTS, jnp.asarray(targets), loss)


def test_labels_of_one_logit_are_two():
    goal = OutputLoss(loss="cross-entropy", outputs=1, is_classes=True, has_key=False)
    check_targets(goal, np.array([0, 1]), name="validation_data")
    with pytest.raises(ValueError, match=r"`validation_data` must have labels in \[0, 1\]; got 0 to 2"):
        check_targets(goal, np.array([0, 2]), name="validation_data")


def test_models_of_several_outputs_need_a_loss_of_their_own():
    with pytest.raises(ValueError, match="`loss` must be a function where the model returns tuples"):
        output_loss_of(lambda x: (x, x), INPUTS, jnp.asarray(ONES[:, :2]), None)


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (
            grown,
            {"validation_data": iter([(X, LINE)])},
            "`validation_data` is an iterator and can be read only once",
        ),
        (grown, {"target_size": 3.0}, "`target_size` goes with models grown by another method"),
        (perceptron, {"target_size": 3.0}, "`target_size` goes with models grown by another method"),
        (
            perceptron,
            {"information": InformationConfig()},
            "`information` goes with models grown by method inform",
        ),
        (grown, {"information": InformationConfig(price="0.1:1:3")}, "`price` must be one price in `fit`"),
    ],
)
def test_what_could_not_be_kept_is_refused_before_training(model, changes, message):
    with pytest.raises(ValueError, match=message):
        quiet(model(), (X, LINE), **changes)


def test_a_budget_is_met_by_a_users_model():
    """One input, eight units, one output: 3 parameters a unit and a bias; 13 leave four units."""
    settings = InformationConfig(budget=13, size_rate=0.5, settle=0.9, birth_end=0.5, every=5)
    found, history = quiet(grown(), (X, LINE), information=settings, steps=2 * STEPS)
    np.testing.assert_allclose(history.sizes[-1], [4.0], atol=1e-6)
    assert compact_model(found).layers[0].out_features == 4


class Choosing(eqx.Module):
    """A model that chooses the activation of its hidden layer."""

    first: eqx.nn.Linear
    choice: Choice
    last: eqx.nn.Linear

    def __call__(self, x):
        return self.last(self.choice(self.first(x)))


def test_a_users_model_chooses_its_activation():
    keys = jr.split(KEYS[2])
    model = Choosing(
        eqx.nn.Linear(1, 8, key=keys[0]), Choice.among("tanh", "sin"), eqx.nn.Linear(8, 1, key=keys[1])
    )
    trained, _ = quiet(model, (X, LINE), steps=50, learning_rate=0.05, annealing=(1.0, 0.1, 0.5))
    assert trained.choice.temperature == 0.0
    assert sorted(np.asarray(trained.choice.shares()).tolist()) == [0.0, 1.0]
    assert np.any(np.asarray(trained.choice.logits) != 0.0)
    _, first = quiet(model, (X, LINE), steps=1, batch=SAMPLES)  # with equal shares, whatever the temperature
    expected = np.mean((np.asarray(outputs_of(model, X)) - LINE) ** 2)
    np.testing.assert_allclose(first.train_loss, [expected], rtol=1e-6)


def test_every_unit_of_a_perceptron_of_equinox_chooses():
    model = eqx.nn.MLP(1, 1, 4, 1, activation=Choice.among("tanh", "sin"), key=KEYS[2])
    trained, _ = quiet(model, (X, LINE), annealing=(1.0, 0.1, 0.5))
    assert np.all(np.asarray(trained.activation.temperature) == 0.0)
    np.testing.assert_array_equal(np.asarray(trained.activation.shares()).sum(axis=-1), np.ones((1, 4)))


def test_a_group_that_ends_empty_is_told():
    price = InformationConfig(every=5, price=50.0, size_rate=2.0)
    told = r"ended without a unit in \.layers\[0\] \(1 of 1 runs\): "
    for first, advice in ((2.0, "start from all units .* train longer"), (None, "train longer")):
        model = grow(perceptron(), example=X[0], key=KEYS[1], method="information", initial_size=first)
        with pytest.warns(RuntimeWarning, match=told + advice):
            quiet(model, (X, LINE), steps=50, information=price)


@pytest.mark.parametrize("runs", [0, 2])
def test_units_are_really_removed_and_added_while_a_users_model_trains(runs):
    """One unit says nothing and goes at the second look, when the loss is at rest; one fits in at the third."""
    key = jr.split(KEYS[1], runs) if runs else KEYS[1]
    made = eqx.filter_vmap(lambda key: eqx.nn.MLP(1, 1, 8, 1, jnp.tanh, key=key))(key) if runs else perceptron()
    model = grow(made, example=X[0], key=key, method="auxiliary")
    for layer, place in ((0, (..., 3, slice(None))), (1, (..., 3))):
        weight = lambda m, n=layer: m.model.layers[n].weight  # noqa: E731
        model = eqx.tree_at(weight, model, weight(model).at[place].set(0.0))
    structure = StructureConfig(structure_every=25, prune="entropy < 0.1", expand=2, plateau=2.0, margin=9.0)
    structure = replace(structure, cooldown=0)
    options = {"steps": 125, "learning_rate": 0.0, "structure": structure, "key": key}
    trained, history = quiet(model, (X, LINE), (X, LINE), **options)
    actions = ["wait", "prune", "expand", "wait", "wait"]
    assert [own.action for own in history.decisions] == max(runs, 1) * actions
    assert trained.controller.capacity == (8,)
    expected = np.broadcast_to([8.0, 8.0, 7.0, 8.0, 8.0], history.sizes.shape[:-1])
    np.testing.assert_allclose(history.sizes[..., 0], expected, rtol=1e-6)
    np.testing.assert_allclose(history.validation_loss[..., 0], history.validation_loss[..., -1], rtol=1e-4)


def test_many_runs_end_one_by_one_and_the_rest_goes_on():
    keys = jr.split(KEYS[1], 2)
    models = eqx.filter_vmap(lambda key: eqx.nn.MLP(1, 1, 8, 1, jnp.tanh, key=key))(keys)
    models = eqx.tree_at(lambda m: m.layers[0].bias, models, models.layers[0].bias.at[1].set(jnp.nan))
    with pytest.warns(RuntimeWarning, match="the loss of run 1 was nan at step 0"):
        _, history = quiet(models, (X, LINE), (X, LINE), key=keys, steps=2 * STEPS)
    assert history.diverged_at.tolist() == [-1, 0]
    assert history.step.tolist() == [STEPS, 2 * STEPS]
    assert history.validation_loss[0, 1] < history.validation_loss[0, 0] < np.inf


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"monitor": ("entropi",)},
            "`monitor` must be one of .* got 'entropi'. Did you mean 'entropy'",
        ),
        ({"importance": lambda a, t: a[0]}, "`importance` goes with method information, or with `monitor`"),
        ({"structure": StructureConfig(structure_every=5)}, "`structure` goes with .* `validation_data`"),
        ({"structure": StructureConfig(), "validation_data": (X, LINE)}, "`structure` needs `structure_every`"),
        (
            {
                "structure": StructureConfig(structure_every=5, prune="layer.importance < 1"),
                "validation_data": (X, LINE),
            },
            "`prune` must name units",
        ),
        (
            {"importance": lambda a, t: np.asarray(a).var(axis=0), "monitor": "importance"},
            "`importance` must be made of JAX's operations",
        ),
        ({"monitor": "entropi"}, "`monitor` must be one of .* got 'entropi'. Did you mean 'entropy'"),
        ({"key": KEYS[:2]}, r"`model` must have a first axis of 2 runs in every array"),
    ],
)
def test_settings_of_grown_models_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        quiet(grown(method="auxiliary"), (X, LINE), **changes)


def no_fit(*data, model=None, **settings):
    return fit(model or NARROW, *data, **({"steps": 2, "key": jr.key(0), "quiet": True} | settings))


NARROW = eqx.nn.Linear(3, 1, key=jr.key(0))
INS, OUTS = np.ones((8, 3), np.float32), np.arange(8.0, dtype=np.float32)[:, None]
ODD = {
    "`train_data` must hold numbers within float32; got 1e\\+300 of float64": lambda: no_fit(
        (INS.astype(float) * 1e300, OUTS)
    ),
    "`train_data` must hold numbers within int32; got 1099511627776 of int64": lambda: no_fit(
        (INS, OUTS.astype(np.int64) + 2**40)
    ),
    "`train_data` must hold real numbers; got object": lambda: no_fit((INS.astype(object), OUTS)),
    "`train_data` must hold real numbers; got complex": lambda: no_fit((INS.astype(complex), OUTS)),
    "`train_data` must hold real numbers; got <U": lambda: no_fit((INS.astype(str), OUTS)),
    "`train_data` must have samples of one shape": lambda: no_fit([(INS, OUTS), (INS[:, :2], OUTS)]),
    "`validation_data` must have samples of one shape, .* got \\(2,\\)": lambda: no_fit(
        (INS, OUTS), (INS[:, :2], OUTS)
    ),
    "`model` must take one sample, here of shape \\(2,\\)": lambda: no_fit((INS[:, :2], OUTS)),
    "Many models stacked need an array of keys, one each": lambda: no_fit((INS[:, :2], OUTS)),
    "`loss` must return one real number .* got \\(1,\\)": lambda: no_fit(
        (INS, OUTS), loss=lambda out, y: (out - y) ** 2
    ),
    "`loss` must return one real number .* got NoneType": lambda: no_fit((INS, OUTS), loss=lambda out, y: None),
    "`learning_rate` must be zero or more": lambda: no_fit((INS, OUTS), learning_rate=-1.0),
    "`learning_rate` must be 0 or at least 1.2e-38": lambda: no_fit((INS, OUTS), learning_rate=1e-50),
    "`size_cost` must be zero or more": lambda: no_fit((INS, OUTS), size_cost=float("nan")),
    "`annealing` must be two temperatures": lambda: no_fit((INS, OUTS), annealing=(float("nan"), 0.05, 0.6)),
}


@pytest.mark.parametrize("message", ODD)
def test_odd_data_and_settings_are_refused_by_name(message):
    with pytest.raises(ValueError, match=message):
        ODD[message]()


def test_texts_are_learnt_as_classes_and_named_in_the_history():
    names = np.where(LABELS == 1, "right", "left")
    found, history = quiet(perceptron(), (X, names), (X[:9], names[:9].astype(object)))
    same, other = quiet(perceptron(), (X, LABELS), (X[:9], LABELS[:9]))
    assert_equal(found, same)
    np.testing.assert_array_equal(history.validation_accuracy, other.validation_accuracy)
    assert (history.labels, other.labels) == (("left", "right"), ())


TEXTS = np.where(LABELS == 1, "right", "left")


@pytest.mark.parametrize(
    ("data", "validation_data", "settings", "message"),
    [
        ((X, TEXTS), None, {"loss": "squared-error"}, "`train_data` must have numbers .* got left"),
        ((X, TEXTS), None, {"kind": "regression"}, "`train_data` must have numbers .* got left"),
        ((X, TEXTS), (X[:1], ["up"]), {}, "`validation_data` must have targets of left, right.* got no texts"),
        ((X, TEXTS), (X[:1], np.array(["up"])), {}, "`validation_data` must have .* left, right.* got up"),
        ((X, TEXTS), (X, LABELS), {}, "`validation_data` must have .* got no texts"),
        (([X, X], LINE), None, {}, "`train_data` must have an array of inputs, or a tuple .* got a list of 2"),
        (
            ({"a": X, "b": X}, LINE),
            None,
            {},
            "`train_data` must have an array .* got a dict of 2",
        ),
        (((X, X[:3]), LINE), None, {}, r"as many inputs as targets, one or more; got shapes .*, \(3, 1\) and"),
        (((X, X), LINE), None, {}, "`model` must take one sample, here of shape"),
    ],
)
def test_texts_and_inputs_that_do_not_fit_are_refused(data, validation_data, settings, message):
    with pytest.raises(ValueError, match=message):
        quiet(perceptron(), data, validation_data, **settings)


def test_an_optimiser_in_the_place_of_a_learning_rate_is_told_of_adam():
    check = importlib.import_module("n3.training.fit")._check_numbers  # run-time types refuse it before
    with pytest.raises(ValueError, match=r"`learning_rate` must be .* got an optimiser.* trains by Adam"):
        check(STEPS, BATCH, optax.sgd(0.1), 0.1, (1.0, 0.05, 0.6), None)


def test_a_size_on_its_way_is_warned_of_and_one_that_rests_is_not():
    with pytest.warns(n3.SizingWarning, match=r"sizes still moved: \.layers\[0\] \(") as told:
        short = quiet(grown(), (X, LINE), information=InformationConfig(size_rate=0.03))[1]
    assert short.sizes[-1, 0] % 1 > 0.01
    assert short.warnings == tuple(str(own.message) for own in told)
    assert f"({short.sizes[-1, 0]:.1f} units); raise `steps`" in short.warnings[0]
    fast = {"steps": 2 * STEPS, "information": InformationConfig(size_rate=1.0)}
    rests = quiet(grown(), (X, LINE), **fast)[1]
    assert rests.sizes[-1, 0] % 1 == 0
    assert rests.warnings == ()


def test_a_validation_loss_that_ends_over_twice_its_best_is_warned_of():
    far = LINE + 3.0  # the loss on it rises while that on the line falls
    model = eqx.tree_at(lambda own: own.layers[-1].bias, perceptron(), jnp.full(1, 3.0))
    with pytest.warns(
        n3.SizingWarning, match=r"above its best validation loss: .* after .* at step \d+ \(1 of 1"
    ):
        history = quiet(model, (X, LINE), (X, far), steps=4 * STEPS)[1]
    assert history.validation_loss[-1] > 2 * history.validation_loss.min()
    assert len(history.warnings) == 1
    assert quiet(model, (X, far), (X, far), steps=4 * STEPS)[1].warnings == ()


def test_of_many_runs_one_on_its_way_is_named_with_its_last_two_sizes():
    sizes = np.array([[[9.0, 4.0], [8.2, 4.0]], [[3.5, 4.0], [3.4, 4.0]], [[3.5, 4.0], [3.0, 4.0]]])
    assert moving_sizes(sizes, ("a", "b")) == "a (9.0 to 8.2 units, and 1 more runs)"
    assert moving_sizes(sizes[2], ("a", "b")) == ""


WIDE_CASES = {
    "plain": {},
    "grown": {"is_grown": True},
    "held out": {"information": InformationConfig(criterion="held-out"), "members": 2, "is_grown": True},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", WIDE_CASES)
@pytest.mark.filterwarnings("ignore:`fit`:RuntimeWarning")
def test_fit_trains_under_64_bits_samples_and_weights_of_either_precision(case, dtype):
    settings = dict(WIDE_CASES[case])
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        model = eqx.nn.MLP(1, 1, 4, 1, jnp.tanh, dtype=dtype, key=KEYS[2])
        if settings.pop("is_grown", False):
            model = grow(model, example=X[0].astype(dtype), key=KEYS[3])
        _, history = quiet(model, (X.astype(dtype), LINE.astype(dtype)), **settings)
    assert np.isfinite(history.train_loss).all()
