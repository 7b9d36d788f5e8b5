"""Members: means of numbers and of chances by hand, and an ensemble as the mean of its members."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, softmax

from n3.nn.members import SMALLEST_CHANCE, Ensemble, mean_outputs
from n3.nn.metrics import active_parameters, active_units
from n3.nn.sized import stack_runs
from networks import network, outputs


def ensemble(*, is_classes=False, sizes=(2.0, 2.0, 2.0)):
    members = [network("fixed", (4,), size, seed=seed) for seed, size in enumerate(sizes)]
    return Ensemble(stack_runs(members), is_classes), members


def test_numbers_are_averaged():
    found = mean_outputs(jnp.array([[[1.0, -1.0]], [[2.0, 5.0]]]), is_classes=False)
    np.testing.assert_array_equal(found, [[1.5, 2.0]])


def test_chances_are_averaged_where_one_logit_stands_for_two_classes():
    logits = np.array([[[0.0, 3.0]], [[2.0, -4.0]]], np.float32)
    found = mean_outputs(jnp.asarray(logits), is_classes=True)
    np.testing.assert_allclose(expit(np.asarray(found)), expit(logits).mean(axis=0), rtol=1e-6)
    assert abs(float(found[0, 1]) - logits[:, 0, 1].mean()) > 0.1  # logits are not


def test_chances_are_averaged_over_several_classes():
    logits = np.array([[0.0, 1.0, 2.0], [5.0, -1.0, 0.0]], np.float32)[:, :, None]
    found = np.asarray(mean_outputs(jnp.asarray(logits), is_classes=True))
    np.testing.assert_allclose(np.exp(found), softmax(logits, axis=1).mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("classes", [1, 3])
def test_members_that_are_sure_and_wrong_leave_a_finite_logit(classes):
    sure = jnp.full((2, classes, 1), -200.0).at[:, 0].set(200.0)
    found = mean_outputs(sure, is_classes=True)
    assert np.isfinite(found).all()
    assert classes == 1 or float(found[1, 0]) == pytest.approx(np.log(SMALLEST_CHANCE))


@pytest.mark.parametrize("is_classes", [False, True])
def test_an_ensemble_is_the_mean_of_its_members(is_classes):
    whole, members = ensemble(is_classes=is_classes)
    x = jnp.linspace(-1, 1, 5)[None] * jnp.ones((members[0].layers[0].weight.shape[1], 1))
    by_hand = mean_outputs(jnp.stack([outputs(own, x) for own in members]), is_classes=is_classes)
    np.testing.assert_allclose(whole.batch(x), by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole(x[:, 2]), by_hand[:, 2], rtol=1e-5, atol=1e-6)


def test_the_members_come_back_one_by_one():
    whole, members = ensemble()
    for own, member in zip(whole.each(), members, strict=True):
        assert eqx.tree_equal(own, member)


def test_parameters_of_all_members_count_and_their_units_once():
    whole, members = ensemble(sizes=(2.0, 2.0))
    assert int(active_parameters(whole)) == 2 * int(active_parameters(members[0]))
    assert active_units(whole).tolist() == [2]
