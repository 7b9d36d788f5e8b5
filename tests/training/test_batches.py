"""Batches: every sample once an epoch, iterables from their beginning again, and data that do not fit."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.nn.losses import Samples
from n3.training.batches import (
    ArraySource,
    IterableSource,
    checked,
    draw_batch,
    epoch_rows,
    is_arrays,
    shuffle_epoch,
    source_of,
)

KEY = jr.key(4)
INPUTS = np.arange(20, dtype=np.float32).reshape(10, 2)
TARGETS = np.arange(10)


class Tensor:
    """What another library's tensor offers to NumPy."""

    def __init__(self, values):
        self.values = values

    def __array__(self, *args, **options):
        return np.asarray(self.values, *args, **options)


class Loader:
    """Counts how often it is gone through."""

    def __init__(self, batches):
        self.batches, self.passes = batches, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


def pairs(*sizes):
    """Batches of successive samples."""
    stops = np.cumsum(sizes)
    return [
        (INPUTS[stop - size : stop], TARGETS[stop - size : stop])
        for size, stop in zip(sizes, stops, strict=True)
    ]


def taken(source, steps):
    """Targets of each step's batch."""
    return [
        np.asarray(chunk.targets[rows]).tolist()
        for chunk in source.chunks(steps)
        for rows in np.asarray(chunk.rows)
    ]


def test_an_order_holds_for_an_epoch_and_the_next_is_fresh():
    orders, shuffle = [jnp.arange(10)], jax.jit(shuffle_epoch, static_argnums=2)
    for count in range(6):  # three steps of three samples an epoch, one sample left out
        orders.append(shuffle(orders[-1], jnp.asarray(count), 3, key=KEY))
    orders = [np.asarray(order).tolist() for order in orders]
    assert orders[1] == orders[2] == orders[3] != orders[0]
    assert orders[4] == orders[5] == orders[6] != orders[1]
    assert sorted(orders[1]) == sorted(orders[4]) == list(range(10))
    assert orders[4][:9] == epoch_rows(KEY, 1, 10, batch=3).ravel().tolist()  # as `fit` orders arrays


def test_the_samples_of_a_step_by_hand():
    row = np.arange(6, dtype=np.float32)[None]
    whole = Samples(*map(jnp.asarray, (row, 10 * row, np.full(6, 1 / 6, np.float32))))
    order = np.array([5, 3, 1, 0, 2, 4])
    step = jax.jit(draw_batch, static_argnums=2)(order, jnp.asarray(4), 2, whole)  # in the second epoch
    np.testing.assert_array_equal(step.inputs, [[1.0, 0.0]])
    np.testing.assert_array_equal(step.targets, [[10.0, 0.0]])
    np.testing.assert_allclose(step.shares, [0.5, 0.5], rtol=1e-6)
    heavy = Samples(whole.inputs, whole.targets, jnp.array([0.4, 0.2, 0.1, 0.1, 0.1, 0.1]))
    np.testing.assert_allclose(
        draw_batch(jnp.asarray(order), jnp.asarray(4), 2, heavy).shares, [0.6, 1.2], rtol=1e-6
    )


def test_an_epoch_takes_every_sample_once_in_an_order_of_its_own():
    source = ArraySource(INPUTS, TARGETS, batch=5, key=KEY)
    first, second = taken(source, 2), taken(source, 2)
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(10))
    assert first != second
    assert taken(ArraySource(INPUTS, TARGETS, batch=5, key=KEY), 4) == first + second


def test_samples_beyond_whole_batches_wait_for_another_epoch():
    source = ArraySource(INPUTS, TARGETS, batch=4, key=KEY)
    assert source.samples == 8
    assert [len(batch) for batch in taken(source, 5)] == [4] * 5
    assert ArraySource(INPUTS, TARGETS, batch=64, key=KEY).batch == 10


def test_the_pool_is_what_the_first_steps_take():
    source = ArraySource(INPUTS, TARGETS, batch=4, key=KEY)
    pool = np.asarray(source.pool(6).of_run(0).targets).tolist()
    assert pool == np.concatenate(taken(source, 2))[:6].tolist()
    np.testing.assert_array_equal(
        source.pool(100).of_run(0).inputs, INPUTS[epoch_rows(KEY, 0, 10, batch=4).reshape(-1)]
    )


def test_an_iterable_begins_again_when_it_ends():
    loader = Loader(pairs(4, 4))
    source = IterableSource(loader, steps=5)
    assert taken(source, 5) == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2 + [[0, 1, 2, 3]]
    assert loader.passes == 3


def test_chunks_are_cut_where_the_shape_of_a_batch_changes():
    chunks = IterableSource(pairs(4, 4, 2), steps=4).chunks(4)
    assert [chunk.rows.shape for chunk in chunks] == [(2, 4), (1, 2), (1, 4)]


def test_an_iterable_is_counted_up_to_the_steps_of_the_run():
    assert IterableSource(pairs(4, 4, 2), steps=100).samples == 10
    assert IterableSource(pairs(4, 4, 2), steps=2).samples == 8
    np.testing.assert_array_equal(IterableSource(pairs(4, 4, 2), steps=2).pool(6).targets, np.arange(6))
    np.testing.assert_array_equal(IterableSource(pairs(4, 4, 2), steps=2).pool(60).targets, np.arange(10))


def test_tensors_of_other_libraries_are_arrays():
    source = source_of((Tensor(INPUTS), Tensor(TARGETS)), batch=5, steps=1, key=KEY)
    assert isinstance(source, ArraySource)
    batches = [(Tensor(INPUTS[:4]), Tensor(TARGETS[:4]))]
    assert taken(source_of(batches, batch=5, steps=1, key=KEY), 1) == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    "data, expected",
    [
        ((INPUTS, TARGETS), True),
        ([jnp.asarray(INPUTS), TARGETS], True),
        (pairs(5, 5), False),
        (tuple(pairs(5, 5)), False),
        (Loader(pairs(5)), False),
    ],
)
def test_two_arrays_are_not_two_batches(data, expected):
    assert is_arrays(data) == expected


def test_checks_see_every_batch():
    seen = []
    for source in (ArraySource(INPUTS, TARGETS, batch=5, key=KEY), IterableSource(pairs(4, 6), steps=2)):
        source.require(lambda targets: seen.append(len(targets)))
        source.chunks(2)
    assert seen == [10, 4, 6]


@pytest.mark.parametrize(
    "data, message",
    [
        (iter(pairs(5, 5)), "`train_data` must be iterable again and again; got an iterator"),
        ((INPUTS, TARGETS[:9]), r"as many inputs as targets, one or more; got shapes \(10, 2\) and \(9,\)"),
        ((INPUTS[:0], TARGETS[:0]), "one or more; got shapes"),
        ((INPUTS * np.nan, TARGETS), "`train_data` must be finite; got NaN"),
        ((INPUTS, TARGETS / 0.5 + np.inf), "`train_data` must be finite"),
    ],
)
def test_data_that_cannot_be_trained_on(data, message):
    with pytest.raises(ValueError, match=message):
        source_of(data, batch=5, steps=1, key=KEY)


def test_a_pool_of_samples_of_several_shapes():
    source = IterableSource([(INPUTS, TARGETS), (INPUTS[:, :1], TARGETS)], steps=2)
    assert source.pool(10).inputs.shape == (10, 2)
    with pytest.raises(ValueError, match=r"`train_data` must have samples of one shape, .*; got"):
        source.pool(11)


def test_an_iterable_without_batches_or_pairs():
    with pytest.raises(ValueError, match="`train_data` must yield batches; got none"):
        IterableSource([], steps=1).chunks(1)
    with pytest.raises(ValueError, match="`train_data` must yield batches; got none"):
        IterableSource([], steps=1).pool(5)
    with pytest.raises(ValueError, match="must hold pairs of inputs and targets; got ndarray"):
        checked(INPUTS, name="train_data")


@pytest.mark.parametrize("samples", [1, 2, 10, 2000])
def test_epochs_are_permutations_by_jax(samples):
    keys = jr.split(KEY, 3)
    expected = [jr.permutation(jr.fold_in(key, 4), samples) for key in keys]
    np.testing.assert_array_equal(epoch_rows(keys, 4, samples, batch=1)[..., 0], np.stack(expected))
    np.testing.assert_array_equal(epoch_rows(keys[1], 4, samples, batch=1)[:, 0], expected[1])
