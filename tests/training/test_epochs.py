"""Epochs: every sample once, a fresh order in each, and the samples of a step."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from n3.nn.losses import Samples
from n3.training.batches import draw_batch, shuffle_epoch

KEY = jr.key(0)


def test_an_order_holds_for_an_epoch_and_the_next_is_fresh():
    orders, order = [], jnp.arange(10)
    for count in range(6):  # three steps of three samples an epoch, one sample left out
        order = shuffle_epoch(order, jnp.asarray(count), 3, key=KEY)
        orders.append(np.asarray(order).tolist())
    assert orders[0] == orders[1] == orders[2]
    assert orders[3] == orders[4] == orders[5] != orders[0]
    assert sorted(orders[0]) == sorted(orders[3]) == list(range(10))


def test_the_samples_of_a_step_by_hand():
    whole = Samples(jnp.arange(6.0)[None], 10 * jnp.arange(6.0)[None], jnp.full(6, 1 / 6))
    order = jnp.array([5, 3, 1, 0, 2, 4])
    step = draw_batch(order, jnp.asarray(4), 2, whole)  # the second step of the second epoch
    np.testing.assert_array_equal(step.inputs, [[1.0, 0.0]])
    np.testing.assert_array_equal(step.targets, [[10.0, 0.0]])
    np.testing.assert_array_equal(step.shares, [0.5, 0.5])
