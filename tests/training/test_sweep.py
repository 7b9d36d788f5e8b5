"""Sweep: many runs in one program, each equal to the run it would have been alone."""

import importlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.nn.losses import LossWeights, Samples
from n3.training.step import Hypers, Problem, Recipe, advance, train
from n3.training.sweep import compiled_stages, runs_in_block, sweep

module = importlib.import_module("n3.training.sweep")

RECIPE = Recipe(in_size=1, out_size=1, capacity=(6,))
STOPS = np.array([0, 20, 60, 120])


def samples(key, runs, count):
    x = jr.uniform(key, (runs, 1, count), minval=-1.0, maxval=1.0)
    return Samples(x, jnp.sin(4 * x), jnp.full((runs, count), 1.0 / count))


def problem(runs, count=24):
    train_key, test_key = jr.split(jr.key(7))
    return Problem(samples(train_key, runs, count), samples(test_key, runs, 16), jnp.ones((runs, 1)))


def hypers(rates, sizes=None):
    rates = jnp.asarray(rates, jnp.float32)
    each = jnp.ones_like(rates)
    weights = LossWeights(size=0.3 * each if sizes is None else jnp.asarray(sizes), depth=0.0 * each)
    return Hypers(rates, weights, jnp.zeros((len(rates), 1)), 6.0 * each, each, 120.0 * each)


def run(runs=6, rates=None, **options):
    numbers = hypers([1e-2] * runs if rates is None else rates)
    keys = jr.split(jr.key(0), runs)
    options = {"stops": STOPS, "devices": jax.devices()[:1], **options}
    return sweep(options.pop("recipe", RECIPE), numbers, problem(runs), keys=keys, **options)


@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, batch=8), replace(RECIPE, optimiser="sgd")])
def test_a_row_equals_its_run_alone(recipe):
    swept = run(5, rates=[1e-3, 3e-3, 1e-2, 2e-2, 5e-3], recipe=recipe)
    for row in (0, 3):
        pick = lambda leaf, row=row: leaf[row]  # noqa: E731
        state, records = train(
            recipe,
            jax.tree.map(pick, hypers([1e-3, 3e-3, 1e-2, 2e-2, 5e-3])),
            jax.tree.map(pick, problem(5)),
            key=jr.split(jr.key(0), 5)[row],
            stops=jnp.asarray(STOPS),
        )
        np.testing.assert_allclose(swept.records.test_loss[row], records.test_loss, rtol=1e-4)
        np.testing.assert_allclose(swept.records.size[row], records.size, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(
            swept.state.net.readout.weight[row], state.net.readout.weight, rtol=1e-4, atol=1e-6
        )


def test_blocks_change_only_the_rounding():
    whole, cut = run(6, block=6), run(6, block=4)  # the second block is filled up
    np.testing.assert_allclose(whole.records.train_loss, cut.records.train_loss, rtol=1e-4)
    weights = (swept.state.net.readout.weight for swept in (whole, cut))
    np.testing.assert_allclose(*weights, rtol=1e-3, atol=1e-5)


def on_devices(optimiser, *counts):
    recipe = replace(RECIPE, optimiser=optimiser)
    for count in counts:
        swept = run(16, block=2, devices=jax.devices()[:count], recipe=recipe)
        yield swept.records, swept.state.net


@pytest.mark.skipif(len(jax.devices()) < 4, reason="needs four devices")
def test_four_devices_equal_one():
    one, four = on_devices("sgd", 1, 4)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, one, four)))


@pytest.mark.skipif(len(jax.devices()) < 4, reason="needs four devices")
def test_adam_on_four_devices_equals_two_exactly_and_one_to_a_rounding_of_its_quotients():
    """XLA turns Adam's `m / (1 - b**t)` into a product with a reciprocal where there is one partition only."""
    one, two, four = on_devices("adam", 1, 2, 4)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, two, four)))
    for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(four[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_devices_never_talk():
    numbers, keys = hypers([1e-2] * 4), jr.split(jr.key(0), 4)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("runs",), axis_types=(jax.sharding.AxisType.Auto,))
    begin, onward = compiled_stages(RECIPE, 2, mesh)
    state = begin(numbers, problem(4), keys)
    for lowered in (
        begin.lower(numbers, problem(4), keys),
        onward.lower(state, numbers, problem(4), jnp.asarray(0), jnp.asarray(STOPS)),
    ):
        text = lowered.compile().as_text()
        words = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
        assert not any(word in text for word in words)


def test_one_compilation_serves_a_whole_grid(monkeypatch):
    traced = []

    def counted(*arguments):
        traced.append(1)
        return advance(*arguments)

    monkeypatch.setattr(module, "advance", counted)
    recipe = replace(RECIPE, capacity=(7,))
    rates, sizes, seeds = np.meshgrid([1e-3, 1e-2], [0.0, 0.1, 1.0], [0, 1])
    numbers = hypers(rates.ravel(), sizes.ravel().astype(np.float32))
    keys = jax.vmap(jr.key)(jnp.asarray(seeds.ravel()))
    options = {"stops": STOPS, "devices": jax.devices()[:1], "block": 4}
    first = sweep(recipe, numbers, problem(12), keys=keys, **options)
    once = len(traced)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, numbers)
    second = sweep(recipe, doubled, problem(12), keys=keys, **options)
    assert once > 0
    assert len(traced) == once
    assert second.compile_seconds < 0.5 * first.compile_seconds
    assert not np.array_equal(first.records.test_loss, second.records.test_loss)


def test_a_diverged_run_changes_no_other():
    sound = run(6, rates=[1e-2] * 6)
    broken = run(6, rates=[1e-2, 1e-2, jnp.nan, 1e-2, 1e-2, 1e-2])
    others = [0, 1, 3, 4, 5]
    assert int(broken.state.diverged_at[2]) == 1
    assert np.all(np.asarray(broken.state.diverged_at)[others] == -1)
    for a, b in zip(jax.tree.leaves(sound.records), jax.tree.leaves(broken.records), strict=True):
        assert np.array_equal(a[others], b[others])


def test_progress_reaches_the_end_and_one_shape_serves_all_chunks():
    seen = []
    swept = run(2, stops=np.arange(41), progress=seen.append)  # 13 chunks of three stops and one of two
    assert seen == [*range(2, 39, 3), 40]
    assert swept.records.train_loss.shape == (2, 41)


def test_records_are_those_of_the_stops():
    few, many = run(3, stops=np.array([0, 60])), run(3, stops=np.array([0, 30, 60]))
    np.testing.assert_allclose(few.records.test_loss[:, 1], many.records.test_loss[:, 2], rtol=1e-6)


def test_a_sweep_goes_on_from_where_another_ended_and_compiles_nothing_anew(caplog):
    whole, first = run(3, stops=np.array([0, 30, 60])), run(3, stops=np.array([0, 30]))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        onward = run(3, stops=np.array([30, 60, 60]), start=(30, first.state))
    compiled = [record.getMessage() for record in caplog.records if "XLA compilation" in record.getMessage()]
    assert compiled  # small operations, so that the log is known to speak
    assert not any("onward" in message for message in compiled)
    assert np.array_equal(onward.records.test_loss, whole.records.test_loss[:, [1, 2, 2]])
    assert np.array_equal(onward.state.net.readout.weight, whole.state.net.readout.weight)
    assert np.isfinite(first.state.net.readout.weight).all()  # what is given is not used up
    with pytest.raises(ValueError, match="from 30 on"):
        run(3, stops=np.array([20, 60]), start=(30, first.state))


def test_unequal_rows_and_bad_stops_are_refused():
    with pytest.raises(ValueError, match="one row a run"):
        sweep(RECIPE, hypers([1e-2] * 3), problem(2), keys=jr.split(jr.key(0), 2), stops=STOPS)
    with pytest.raises(ValueError, match="do not decrease"):
        run(2, stops=np.array([0, 5, 4]))


@pytest.mark.devices
def test_an_accelerator_agrees_with_the_cpu():
    accelerator = run(6, devices=jax.devices()[:1])
    cpu = run(6, devices=jax.devices("cpu")[:1], block=6)
    assert jax.devices()[0].platform != "cpu"
    np.testing.assert_allclose(accelerator.records.test_loss[:, :2], cpu.records.test_loss[:, :2], rtol=1e-2)


def test_blocks_fit_the_cache_with_little_padding():
    recipe = replace(RECIPE, capacity=(10,))
    assert runs_in_block(recipe, 1024, 10, on_cpu=True) == 2  # 3 and 4 would pad
    assert runs_in_block(recipe, 1024, 12, on_cpu=True) == 4  # the largest of those that pad nothing
    assert runs_in_block(replace(RECIPE, capacity=(9,)), 32, 2048, on_cpu=True) == 64
    assert runs_in_block(RECIPE, 1024, 50, on_cpu=False) == 50


def test_a_key_and_samples_of_its_own_for_each_row():
    first = jnp.zeros(4, int)
    keys, data = jr.split(jr.key(0), 4), problem(4)
    for own_keys, own_samples, distinct in ((True, False, 4), (False, True, 4), (False, False, 1)):
        swept = sweep(
            RECIPE,
            hypers([1e-2] * 4),
            data if own_samples else jax.tree.map(lambda leaf: leaf[first], data),
            keys=keys if own_keys else keys[first],
            stops=STOPS,
            devices=jax.devices()[:1],
        )
        assert len(set(np.asarray(swept.records.test_loss[:, -1]).tolist())) == distinct
