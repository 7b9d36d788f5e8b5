"""Path: what is held out, what trains at every price, and the whole way of a path into a run directory."""

import importlib
import json
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import n3
from n3.config.experiment import (
    Experiment,
    InformationConfig,
    NetworkConfig,
    RunConfig,
    TaskConfig,
    TrainingConfig,
)
from n3.data import dataset
from n3.data.dataset import load_dataset
from n3.experiments import arms
from n3.experiments.run import describe, load_data, load_splits, run
from n3.training.step import train
from n3.training.sweep import sweep

pipeline = importlib.import_module("n3.experiments.run")

SEEDS, PRICES = (3, 1, 8), (0.004, 0.04, 0.4)
ARMS = ("static", "growing", "shrinking", "equal-size")


def small(out="x", *, task="sine", price="0.004:0.4:3", **information):
    return Experiment(
        task=TaskConfig(task=task, samples=62, test_samples=20),
        network=NetworkConfig(method="information", capacity=(8,)),
        training=TrainingConfig(steps=60),
        information=InformationConfig(price=price, every=5, size_rate=0.3, **information),
        run=RunConfig(arms=ARMS, seeds=SEEDS, records=4, out=str(out), name="a"),
    ).resolved()


@pytest.fixture(scope="module")
def swept():
    """What each sweep of the experiment was given, and what it returned, in order."""
    return []


@pytest.fixture(scope="module")
def record(tmp_path_factory, swept):
    def watched(recipe, hypers, problem, **settings):
        made = sweep(recipe, hypers, problem, **settings)
        swept.append((recipe, hypers, problem, made))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "sweep", watched)
        return run(small(tmp_path_factory.mktemp("runs")), quiet=True)


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


def test_which_samples_are_held_out_is_the_seeds_choice():
    whole = load_dataset("sine", train_samples=50, test_samples=7, seed=2)
    first, again, other = (dataset.held_out(whole, seed=seed)[1].test_inputs for seed in (4, 4, 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_too_few_samples_are_refused():
    whole = load_dataset("sine", train_samples=4, test_samples=7, seed=2)
    with pytest.raises(ValueError, match="`samples` must be 5 or more where a fifth is held out; got 4"):
        dataset.held_out(whole, seed=2)


def test_nothing_is_held_out_without_a_path():
    data, held = load_splits(small(price=0.1))
    assert held == []
    assert [len(one.train_inputs) for one in data] == [62] * 3


def test_seeds_that_share_their_data_share_what_is_held_out():
    task = TaskConfig(task="sine", samples=20, test_samples=4, data_seed=6)
    data, held = load_splits(replace(small(), task=task))
    assert data[0] is data[2]
    assert held[0] is held[2]
    assert (len(data), len(held)) == (3, 3)


def test_a_batch_beyond_the_samples_left_is_refused():
    experiment = replace(small(), training=TrainingConfig(steps=5, batch=55))
    with pytest.raises(ValueError, match=r"`batch` must lie in \[1, 50\], the training samples; got 55"):
        load_data(experiment)


def test_one_sweep_trains_the_growing_arm_at_every_price(record, swept):
    assert [hypers.learning_rate.shape[0] for _, hypers, _, _ in swept] == [9, 3, 3, 3]
    assert all(problem.train.shares.shape[1] == 50 for _, _, problem, _ in swept)
    np.testing.assert_allclose(swept[0][1].drive.price, np.repeat(PRICES, 3), rtol=1e-6)
    kept = float(record.results.price[record.results.attrs["picked_price"]])
    (shrinking,) = (hypers for recipe, hypers, _, _ in swept[1:] if recipe.controller == "information")
    np.testing.assert_allclose(shrinking.drive.price, [kept] * 3, rtol=1e-6)


def test_each_run_of_the_path_is_the_run_at_its_price(record):
    experiment, data = small(), load_data(small())
    recipe = arms.recipe_of(experiment, "growing", data[0])
    problem, keys = arms.stack(data), jax.vmap(jr.key)(jnp.array(SEEDS))
    one = jax.jit(
        lambda hypers, problem, key: train(recipe, hypers, problem, key=key, stops=jnp.array([60]))[1]
    )
    for place, seed in ((0, 2), (2, 1)):
        hypers = arms.hypers_of(arms.at_price(experiment, PRICES[place]), "growing", data=data, active=None)
        own = jax.tree.map(lambda leaf, seed=seed: leaf[seed], (hypers, problem, keys))
        alone, results = one(*own), record.results.isel(price=place, seed=seed)
        np.testing.assert_allclose(alone.size[-1], results.path_size, rtol=1e-4)
        np.testing.assert_allclose(alone.test_loss[-1], results.path_test_loss, rtol=1e-4)


def test_the_growing_arm_is_the_path_at_the_price_picked(record):
    results = record.results
    own = results.isel(price=results.attrs["picked_price"])
    last = results.sel(arm="growing").isel(step=-1)
    assert np.array_equal(own.path_size, last["size"])
    assert np.array_equal(own.path_test_loss, last.test_loss)
    networks, held = n3.load(record.directory)["growing"], load_splits(record.experiment)[1]
    for row, (net, samples) in enumerate(zip(networks, held, strict=True)):
        loss = np.mean(
            (np.asarray(net.batch(jnp.asarray(samples.test_inputs.T))) - samples.test_targets.T) ** 2
        )
        np.testing.assert_allclose(own.path_validation_loss[row], loss, rtol=1e-5)
    counts = results.active_parameters
    assert np.array_equal(counts.sel(arm="equal-size"), counts.sel(arm="growing"))


def test_a_higher_price_never_gives_more_units_here(record):
    sizes = record.results.path_size.sum("layer").median("seed").values
    assert np.all(np.diff(sizes) <= 0)
    assert sizes[0] > sizes[-1] + 1


def test_the_path_is_labelled_and_summarised(record):
    back = n3.read(record.directory)
    assert back.experiment == record.experiment
    assert back.results.identical(record.results)
    assert back.results.path_size.dims == ("price", "seed", "layer")
    assert back.results.path_test_loss.dims == back.results.path_validation_loss.dims == ("price", "seed")
    np.testing.assert_allclose(back.results.price, PRICES, rtol=1e-12)
    assert back.results.price.attrs["units"] == "nats"
    summary = json.loads(json.dumps(n3.summarise(record)))
    found = summary["price_path"]
    assert found["picked"] == record.results.attrs["picked_price"]
    median = summary["arms"]["growing"]["test_loss"]["median"]
    assert found["median_test_losses"][found["picked"]] == pytest.approx(median, rel=1e-6)
    assert f"of 3 tried: {found['prices'][found['picked']]:.3g} nats" in n3.table(summary)
    rate = summary["seed_steps_per_second"] * summary["seconds"]["run"]
    assert rate == pytest.approx((9 + 3 * 3) * 60)
    assert "price-path" in n3.figures(record)


def test_classes_have_a_path_in_nats_too(tmp_path):
    experiment = replace(
        small(tmp_path, task="moons"), run=RunConfig(arms=("growing",), seeds=(0,), out=str(tmp_path))
    )
    results = n3.run(experiment, quiet=True).results
    assert np.isfinite(results.path_validation_loss).all()
    assert results.path_validation_loss.shape == (3, 1)


def test_a_diverged_run_is_nan_at_its_price(record, swept):
    whole, held = swept[0][3], load_splits(record.experiment)[1]
    broken = whole.state.diverged_at.at[4].set(9)  # the second price, the second seed
    whole = replace(whole, state=eqx.tree_at(lambda state: state.diverged_at, whole.state, broken))
    found = arms.keep_price(record.experiment, whole, held, loss="squared-error")[1]
    lost = np.zeros((3, 3), bool)
    lost[1, 1] = True
    for values in (found.sizes[..., 0], found.test_losses, found.validation_losses):
        assert np.array_equal(np.isnan(values), lost)


def test_a_path_on_which_every_run_diverged_ends_in_a_sentence(tmp_path):
    training = TrainingConfig(steps=60, optimiser="sgd", learning_rate=1e30)
    experiment = replace(small(tmp_path), training=training)
    with pytest.raises(ValueError, match="every run of the path diverged"):
        n3.run(experiment, quiet=True)


def test_describe_counts_the_runs_of_a_path(tmp_path):
    text = describe(small(tmp_path))
    assert "4 arms x 3 seeds, growing at 3 prices = 18 runs of 60 steps" in text
    assert "50 training and 20 test samples" in text
