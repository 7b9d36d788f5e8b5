"""Fit with members: what each of them sees, what they share, what is solved, and what comes back."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.config.experiment import InformationConfig, StructureConfig
from n3.information.regression import STRENGTHS
from n3.nn.controllers import Information
from n3.nn.losses import constant_losses
from n3.nn.members import Ensemble
from n3.nn.mlp import GrowingMLP
from n3.nn.sized import run_of, stack_runs
from n3.surgery.compact import compact
from n3.surgery.export import export, load_compact, save_compact
from n3.tracing.grow import grow
from n3.training.batches import IterableSource, checksums, is_held_out, rows_of_members, source_of
from n3.training.fit import _members_of, fit
from n3.training.history import History, Recorder
from n3.training.output_loss import OutputLoss
from n3.training.readouts import readout_of

KEYS = jr.split(jr.key(11), 4)
SAMPLES, BATCH, STEPS, MEMBERS = 122, 16, 40, 3
"""Folds of 41 and 40 samples: one row only fills up a fold."""
RANDOM = np.random.default_rng(11)
X = RANDOM.uniform(-1.0, 1.0, (SAMPLES, 1)).astype(np.float32)
CURVE = (np.sin(3.0 * X) + 0.1 * RANDOM.normal(size=X.shape)).astype(np.float32)
JUDGED = InformationConfig(criterion="held-out", every=10, size_rate=0.12, settle=0.7)
pytestmark = pytest.mark.filterwarnings("ignore:`fit` ended:RuntimeWarning")


@eqx.filter_jit
def perceptron(key=KEYS[2]):
    return eqx.nn.MLP(1, 1, 8, 1, jnp.tanh, key=key)


def grown(model=None, key=KEYS[3]):
    return grow(perceptron() if model is None else model, example=X[0], key=key)


def quiet(model, data=(X, CURVE), validation_data=None, **settings):
    usual = {"key": KEYS[0], "quiet": True, "steps": STEPS, "batch": BATCH, "learning_rate": 0.02}
    return fit(model, data, validation_data, **usual | {"members": MEMBERS} | settings)


def judged(**settings):
    return quiet(grown(), information=JUDGED, **settings)


@pytest.fixture(scope="module")
def plain():
    """A model that is not grown, and its history."""
    return quiet(perceptron(), validation_data=(X, CURVE))


@pytest.fixture(scope="module")
def sized():
    """A grown model that finds its size, and its history."""
    return judged()


def source(members=MEMBERS, key=KEYS[0], targets=CURVE):
    return source_of((X, targets), batch=BATCH, steps=STEPS, key=jr.split(key)[0], members=members)


_outputs = eqx.filter_jit(lambda model, inputs: jax.vmap(model)(inputs))


def outputs_of(model, inputs=X):
    return np.asarray(_outputs(model, inputs), np.float64)


def features_of(model, inputs):
    """What the read-out of a grown perceptron sees, samples first."""
    active, share = model.activations(jnp.asarray(inputs))[0], model.participation()[0]
    return np.asarray(active * share[:, None], np.float64).T


def ridge(features, targets, strength):
    """Outputs of the best read-out for a penalty on the weights of standardised features."""
    scale = features.std(axis=0)
    kept = (features - features.mean(axis=0))[:, scale > 0] / scale[scale > 0]
    level, bend = targets.mean(axis=0), kept.T @ kept / len(kept) + strength * np.eye(kept.shape[1])
    return level + kept @ np.linalg.lstsq(bend, kept.T @ (targets - level) / len(kept), rcond=None)[0]


def assert_ridge(model, rows=slice(None)):
    """The model's outputs are those of one of the strengths, to float32's rounding."""
    features, targets = features_of(model, X[rows]), CURVE[rows].astype(np.float64)
    found = outputs_of(model, X[rows])
    assert min(np.max(np.abs(ridge(features, targets, own) - found)) for own in STRENGTHS) < 1e-4


def arrays_of(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))


def assert_close(one, other, rtol=1e-4, atol=1e-5):
    for a, b in zip(arrays_of(one), arrays_of(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def test_folds_part_the_samples_and_fill_up_without_weight():
    held, weights = (np.asarray(own) for own in (source().whole().held.rows, source().whole().held.weights))
    fit_rows = np.asarray(source().whole().rows)
    assert fit_rows.shape == (MEMBERS, SAMPLES - 41)
    assert weights.sum() == SAMPLES
    assert sorted(held[weights > 0].tolist()) == list(range(SAMPLES))
    for own, out in zip(fit_rows, held, strict=True):
        assert sorted([*own, *out]) == list(range(SAMPLES))


def test_classes_have_equal_shares_in_every_fold():
    labels = (np.arange(SAMPLES) % 61 < 6).astype(int)
    held = source(targets=labels).whole().held
    for rows, weights in zip(np.asarray(held.rows), np.asarray(held.weights), strict=True):
        assert np.sum(labels[rows[weights > 0]]) == np.sum(labels) / MEMBERS


def test_rows_of_members_by_hand():
    fit_rows, held, weights = rows_of_members(np.array([0, 1, 0, 1, 0]), 2)
    np.testing.assert_array_equal(fit_rows, [[1, 3], [0, 2]])
    np.testing.assert_array_equal(held, [[0, 2, 4], [4, 1, 3]])
    np.testing.assert_array_equal(weights, [[1, 1, 1], [0, 1, 1]])


def test_a_member_is_what_training_on_its_own_batches_gives(plain):
    """The batches of one member, as an iterable, without members."""
    rows = np.asarray(source().chunks(STEPS)[0].rows)
    for member in (0, 2):
        batches = [(X[own], CURVE[own]) for own in rows[member]]
        alone, _ = quiet(perceptron(), batches, members=0)
        assert_close(run_of(plain[0].members, member), alone)
    assert not np.allclose(*(plain[0].members.layers[0].weight[row] for row in (0, 1)))


def test_a_member_never_sees_its_fold(monkeypatch):
    """Targets of fold 1 poisoned: member 1 has the same weights where sizes are fixed, others have not.

    The moment at which members are kept depends on all folds.
    """
    monkeypatch.setattr(Recorder, "best", lambda self, model: model)
    held = source().whole().held
    rows = np.asarray(held.rows)[1][np.asarray(held.weights)[1] > 0]
    poisoned = CURVE.copy()
    poisoned[rows] = 50.0
    clean, spoilt = (quiet(perceptron(), (X, targets))[0] for targets in (CURVE, poisoned))
    assert_close(run_of(clean.members, 1), run_of(spoilt.members, 1), rtol=0.0, atol=0.0)
    assert not np.allclose(clean.members.layers[0].weight[0], spoilt.members.layers[0].weight[0], atol=1e-3)


@pytest.mark.parametrize("found", ["plain", "sized"])
def test_the_held_out_loss_is_that_of_each_sample_by_the_member_that_has_not_seen_it(found, request):
    model, history = request.getfixturevalue(found)
    held, losses = source().whole().held, []
    for member, (rows, weights) in enumerate(zip(np.asarray(held.rows), np.asarray(held.weights), strict=True)):
        rows = rows[weights > 0]
        losses.append((outputs_of(run_of(model.members, member), X[rows]) - CURVE[rows])[:, 0] ** 2)
    losses = np.concatenate(losses).astype(np.float64)
    assert losses.size == SAMPLES
    np.testing.assert_allclose(history.held_out_loss[-1], losses.mean(), rtol=1e-4)
    np.testing.assert_allclose(history.held_out_error, losses.std(ddof=1) / SAMPLES**0.5, rtol=1e-4)
    assert history.held_out_loss.shape == history.step.shape


def test_the_ensemble_is_the_mean_and_is_what_validation_scores(plain):
    model, history = plain
    mean = np.mean([outputs_of(run_of(model.members, row)) for row in range(MEMBERS)], axis=0)
    np.testing.assert_allclose(outputs_of(model), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(history.validation_loss[-1], np.mean((mean - CURVE) ** 2), rtol=1e-4)
    assert history.parameters == MEMBERS * 25


def test_members_share_their_sizes(sized):
    model, history = sized
    weights = np.asarray(model.members.controller.weight)
    np.testing.assert_array_equal(weights, np.broadcast_to(weights[0], weights.shape))
    np.testing.assert_array_equal(weights[0], history.sizes[-1])
    assert 0 < history.sizes[-1, 0] < 8


def test_members_share_a_size_that_the_task_trains():
    model = grow(perceptron(), example=X[0], key=KEYS[3], method="auxiliary", initial_size=3.5)
    trained, _ = quiet(model, readout="trained", size_cost=0.0)
    weights = np.asarray(trained.members.controller.weight)
    np.testing.assert_array_equal(weights, np.full(MEMBERS, weights[0]))
    assert abs(weights[0] - 3.5) > 1e-3


def test_the_solved_read_out_is_the_best_one_of_each_member_for_a_strength(sized):
    model, history = sized
    trained, before = judged(readout="trained")
    for member, rows in enumerate(np.asarray(source().whole().rows)):
        own, other = run_of(model.members, member), run_of(trained.members, member)
        assert_ridge(own, rows)
        solved, left = (np.mean((outputs_of(each, X[rows]) - CURVE[rows]) ** 2) for each in (own, other))
        assert solved < left
    assert history.held_out_loss[-1] < before.held_out_loss[-1]
    np.testing.assert_array_equal(history.sizes, before.sizes)
    np.testing.assert_array_equal(history.sizes[-1], np.round(history.sizes[-1]))
    assert np.any(history.sizes[:-1] != np.round(history.sizes[:-1]))  # on the way they are not whole


@pytest.mark.slow
def test_many_runs_are_those_of_each_by_itself(sized):
    keys = jnp.stack([KEYS[1], KEYS[0]])
    models = grow(eqx.filter_vmap(perceptron)(jnp.stack([KEYS[1], KEYS[2]])), example=X[0], key=keys)
    model, history = quiet(models, key=keys, information=JUDGED)
    assert model.members.controller.weight.shape == (2, MEMBERS, 1)
    alone, one = sized
    np.testing.assert_allclose(history.held_out_loss[1], one.held_out_loss, rtol=1e-4)
    np.testing.assert_allclose(history.held_out_error[1], one.held_out_error, rtol=1e-4)
    np.testing.assert_allclose(history.sizes[1], one.sizes, rtol=1e-4)
    np.testing.assert_allclose(outputs_of(run_of(model, 1)), outputs_of(alone), rtol=1e-4, atol=1e-5)
    assert history.parameters.shape == (2,)


def test_a_refit_is_one_network_of_the_size_found_on_all_samples(sized):
    _, history = sized
    alone, records = judged(refit=True)
    assert isinstance(alone.controller, Information)
    np.testing.assert_array_equal(alone.sizes(), history.sizes[-1])
    np.testing.assert_array_equal(records.held_out_loss, history.held_out_loss)
    assert records.parameters == history.parameters / MEMBERS
    assert_ridge(alone)
    assert compact(alone).layers[0].out_features == np.ceil(history.sizes[-1, 0])


def test_an_ensemble_is_compacted_stored_and_exported(sized, tmp_path):
    model, _ = sized
    plain, expected = compact(model), outputs_of(model)
    assert isinstance(plain.members, eqx.nn.MLP)
    np.testing.assert_allclose(outputs_of(plain), expected, rtol=1e-5, atol=1e-6)
    for own in (model, plain):
        program = jax.export.deserialize(export(own, example=X[0]))
        np.testing.assert_allclose(program.call(X), expected, rtol=1e-5, atol=1e-6)
    save_compact(model, tmp_path)
    like = Ensemble(stack_runs([perceptron()] * MEMBERS), is_classes=False)
    stored = load_compact(tmp_path, like)
    assert jax.tree.structure(stored) == jax.tree.structure(plain)
    np.testing.assert_array_equal(outputs_of(stored), outputs_of(plain))


class Shuffled:
    """Batches of all samples, in another order in every pass."""

    def __init__(self, noise=0.0):
        self.random, self.noise = np.random.default_rng(3), noise

    def __iter__(self):
        rows = self.random.permutation(SAMPLES)
        for start in range(0, SAMPLES, BATCH):
            own = rows[start : start + BATCH]
            inputs = X[own] + self.noise * self.random.normal(size=(len(own), 1)).astype(np.float32)
            yield inputs, CURVE[own]


def test_what_an_iterable_holds_out_is_never_trained_on():
    out = is_held_out(checksums(X))
    stream = IterableSource(Shuffled(), steps=STEPS, is_held=True)
    assert 0.1 < np.mean(out) < 0.3
    assert stream.samples == np.sum(~out)
    (chunk,) = stream.chunks(STEPS)
    assert chunk.rows.shape == (STEPS, BATCH)
    assert set(np.asarray(chunk.inputs)[:, 0].tolist()) == set(X[~out, 0].tolist())
    pool = stream.whole()
    assert sorted(np.asarray(pool.inputs[pool.held.rows])[:, 0].tolist()) == sorted(X[out, 0].tolist())
    assert sorted(np.asarray(pool.inputs[pool.rows])[:, 0].tolist()) == sorted(X[~out, 0].tolist())


def test_an_iterable_trains_one_member_that_is_judged_by_what_it_holds_out():
    model, history = quiet(perceptron(), Shuffled(), members=1)
    assert model.members.layers[0].bias.shape == (1, 8)
    out = is_held_out(checksums(X))
    losses = (outputs_of(model, X[out]) - CURVE[out])[:, 0] ** 2
    np.testing.assert_allclose(history.held_out_loss[-1], losses.mean(), rtol=1e-4)
    np.testing.assert_allclose(history.held_out_error, losses.std(ddof=1) / np.sqrt(len(losses)), rtol=1e-4)


@pytest.mark.parametrize(
    "members, information, is_arrays, expected",
    [
        (None, JUDGED, True, (5, "held-out")),
        (None, JUDGED, False, (1, "held-out")),
        (None, None, True, (0, "price")),
        (3, None, True, (3, "held-out")),
        (0, InformationConfig(), True, (0, "price")),
    ],
)
def test_members_that_are_not_given_follow_from_the_criterion(members, information, is_arrays, expected):
    found, settings = _members_of(members, information, True, is_arrays)
    assert (found, settings.criterion) == expected


def test_an_iterable_whose_samples_change_is_refused():
    with pytest.raises(ValueError, match="`train_data` must yield the same samples in every pass"):
        quiet(perceptron(), Shuffled(noise=0.1), members=1)


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_loss_of_a_constant_is_the_entropy_of_the_shares(outputs):
    goal = OutputLoss(loss="cross-entropy", outputs=outputs, is_classes=True, has_key=False)
    others = goal.columns(jnp.array([0, 1]))
    for labels, chances in (([0, 0, 0, 1], [0.75, 0.25]), ([0, 0, 0, 0], [0.875, 0.125])):
        losses = constant_losses(goal.columns(jnp.array(labels)), others, goal.loss, least=0.5 / 4)
        np.testing.assert_allclose(losses, -np.log(chances), rtol=1e-6)


def test_the_loss_of_a_constant_is_the_distance_from_the_mean():
    losses = constant_losses(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 2.5]]), "squared-error", least=0.0)
    np.testing.assert_allclose(losses, [4.0, 0.25])


def test_noise_is_told_as_no_better_than_a_constant():
    noise = RANDOM.normal(size=CURVE.shape).astype(np.float32)
    with pytest.warns(RuntimeWarning, match=r"ended no better than the mean of the targets .* \(1 of 1 runs\)"):
        quiet(perceptron(), (X, noise))


def test_a_size_at_its_capacity_is_told_and_a_good_model_is_not():
    still = InformationConfig(criterion="held-out", every=10, settle=0.0, birth_end=0.0)
    with pytest.warns(RuntimeWarning, match=r"ended with all units of \.layers\[0\] \(1 of 1 runs\)") as told:
        quiet(grown(), information=still, readout="trained")
    assert len(told) == 1


def test_a_grown_mlp_has_a_read_out_and_what_is_not_linear_has_none():
    goal = OutputLoss(loss="squared-error", outputs=1, is_classes=False, has_key=False)
    controller = Information(jnp.full(1, 4.0), (4,))
    net = GrowingMLP(1, 1, controller=controller, key=KEYS[0])
    assert readout_of(net, goal, jnp.asarray(X)).weight == ".readout.weight"
    assert readout_of(grown(), replace(goal, has_key=True), jnp.asarray(X)).bias == ".model.layers[1].bias"
    squashed, unbiased = (
        grown(eqx.nn.MLP(1, 1, 8, 1, jnp.tanh, key=KEYS[0], **own))
        for own in ({"final_activation": jnp.tanh}, {"use_final_bias": False})
    )
    for model in (squashed, unbiased, perceptron()):
        assert readout_of(model, replace(goal, has_key=True), jnp.asarray(X)) is None
    with pytest.raises(ValueError, match="`readout` solved needs a grown model whose outputs are one linear"):
        quiet(squashed, readout="solved", information=JUDGED)
    with pytest.raises(ValueError, match=r"`readout` solved needs a grown model .* a named loss"):
        judged(readout="solved", loss=lambda output, target: jnp.sum((output - target) ** 2))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"members": -1}, "`members` must be a whole number, zero or more; got -1"),
        ({"members": True}, "`members` must be a whole number, zero or more; got True"),
        ({"members": 0, "information": JUDGED}, "`members` must be 1 or more under criterion held-out; got 0"),
        ({"information": InformationConfig()}, "`members` need `information` of criterion held-out"),
        ({"information": JUDGED, "importance": lambda a, t: a[0]}, "`importance` goes with criterion price"),
        ({"members": 0, "refit": True}, "`refit` needs `members`"),
        ({"members": 0, "readout": "solved"}, "`readout` solved needs `members`, whose held-out samples"),
        (
            {"data": Shuffled()},
            "`members` must be 1 at most where `train_data` is an iterable of batches; got 3",
        ),
        ({"data": (X[:5], CURVE[:5])}, "`members` need two training samples or more in each of 3 folds; got 5"),
        (
            {"structure": StructureConfig(structure_every=5), "validation_data": (X, CURVE)},
            "`structure` does not go with `members`",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        quiet(grown(), changes.pop("data", (X, CURVE)), **changes)


class Pair(eqx.Module):
    """A model of two outputs."""

    linear: eqx.nn.Linear

    def __call__(self, x):
        return self.linear(x), x


def test_members_average_arrays_alone():
    model = Pair(eqx.nn.Linear(1, 1, key=KEYS[0]))
    with pytest.raises(ValueError, match="`members` average outputs, which must be one array; got tuple"):
        quiet(model, loss=lambda output, target: jnp.sum(output[0] - target))


def test_without_members_nothing_is_held_out():
    _, history = quiet(perceptron(), members=None)
    assert isinstance(history, History)
    assert history.held_out_loss is None
    assert history.held_out_error is None


def test_members_come_back_as_they_were_when_they_lost_least():
    late = lambda count: jnp.where(count < 25, 0.02, 1.0)  # noqa: E731, the last steps ruin them
    net, history = quiet(perceptron(), learning_rate=late, readout="trained")
    assert history.step.tolist() == [25, 40]
    assert history.held_out_loss[-1] == pytest.approx(history.held_out_loss[0], rel=1e-5)
    early, _ = quiet(perceptron(), steps=25, readout="trained")
    np.testing.assert_allclose(outputs_of(net), outputs_of(early), rtol=1e-3, atol=1e-4)


STILL = replace(JUDGED, settle=0.0, birth=0.0, birth_end=0.0)
"""The size stays where it began."""


def low(keys=KEYS[3]):
    model = eqx.filter_vmap(perceptron)(jr.split(keys, 2))
    return grow(model, example=X[0], initial_size=0.3, key=jr.split(keys, 2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`fit` ended:RuntimeWarning")
def test_runs_without_a_unit_start_again_from_all_and_the_better_start_stays():
    settings = {"information": STILL, "key": jr.split(KEYS[0], 2)}
    model = low()
    full = eqx.tree_at(lambda own: own.controller.weight, model, jnp.array([[8.0], [0.3]]))
    with pytest.warns(
        RuntimeWarning, match="started 1 of 2 runs a second time, from all units.*; 1 did better"
    ):
        ensemble, history = quiet(full, **settings)
    every = eqx.tree_at(lambda own: own.controller.weight, model, jnp.full((2, 1), 8.0))
    expected, told = quiet(every, **settings)
    np.testing.assert_array_equal(history.sizes[:, -1], told.sizes[:, -1])
    np.testing.assert_allclose(history.held_out_loss, told.held_out_loss, rtol=1e-4)
    np.testing.assert_allclose(history.parameters, told.parameters)
    outputs = [np.asarray(run_of(one, 0)(jnp.asarray(X[3]))) for one in (ensemble, expected)]
    np.testing.assert_allclose(*outputs, rtol=1e-2)
    assert not history.diverged_at[1] >= 0


def test_a_second_start_that_is_no_better_changes_nothing():
    noise = np.random.default_rng(3).normal(size=X.shape).astype(np.float32)
    one = run_of(low(), 0)
    with pytest.warns(RuntimeWarning, match="started 1 of 1 runs a second time.*; 0 did better"):
        _, history = quiet(one, (X, noise), information=STILL)
    assert history.sizes[-1, 0] < 0.5
