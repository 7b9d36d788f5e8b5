"""Memory: an outline has the shapes of what is trained, and what does not fit is refused before it is drawn."""

import jax
import numpy as np
import pytest

import n3
from n3.data import dataset
from n3.experiments import arms, memory
from n3.experiments.memory import free_bytes, outline, runs_at_a_time
from n3.experiments.run import load_splits
from trials import tiny

DEVICES = jax.devices()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"task": {"samples": 100, "test_samples": 70}},
        {"task": {"task": "wine"}},
        {"task": {"task": "spirals"}},
        {"network": {"method": "information"}, "information": {"price": "0.1:1:2"}},
        {
            "network": {"method": "information"},
            "information": {"criterion": "held-out"},
            "training": {"members": 3},
        },
    ],
)
def test_an_outline_has_the_shapes_of_the_samples(changes):
    experiment = tiny(**changes).resolved()
    data, own = load_splits(experiment)[0], outline(experiment)
    problem = arms.stack(data, members=own.members, seeds=experiment.run.seeds)
    shapes = [leaf.shape[1:] for leaf in jax.tree.leaves(problem)]
    assert [leaf.shape for leaf in jax.tree.leaves(own.problem)] == shapes
    for arm, recipe in own.recipes.items():
        hypers = arms.hypers_of(arms.over_prices(experiment)[0], arm, data=data, active=None)
        assert jax.tree.structure(hypers) == jax.tree.structure(own.hypers[arm])
        assert recipe.in_size == data[0].in_size


@pytest.mark.parametrize("changes", [{"seeds": tuple(range(100_000))}, {"task": {"samples": 2**31 - 1}}])
def test_no_more_than_a_few_samples_are_drawn_for_a_plan(changes):
    own = outline(tiny(**changes).resolved())
    assert len(own.sample.train_inputs) <= 64
    assert all(leaf.shape[:1] != (100_000,) for leaf in jax.tree.leaves(own.hypers))


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch):
    small = tiny(seeds=(1, 2, 3, 4)).resolved()
    own = outline(small)
    kept, each = 4 * (2 * own.sample_bytes + own.state_bytes), 2 * own.state_bytes
    monkeypatch.setattr(memory, "free_bytes", lambda _: kept + 3 * each)
    assert runs_at_a_time(small, own, DEVICES) == 3
    assert runs_at_a_time(tiny(seeds=(1, 2, 3, 4), block=2).resolved(), own, DEVICES) == 2
    with pytest.raises(ValueError, match="`block` must be at most 3, the runs at a time that fit"):
        runs_at_a_time(tiny(seeds=(1, 2, 3, 4), block=4).resolved(), own, DEVICES)
    monkeypatch.setattr(memory, "free_bytes", lambda _: kept + each - 1)
    with pytest.raises(ValueError, match=r"`seeds`, .* must be less: 0.0 MiB are free, .*; 3 seeds fit\."):
        runs_at_a_time(small, own, DEVICES)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 2**40)
    assert "about 0.0 MiB for" in memory.describe_memory(own, 1, 1)
    assert f"about {2**40 * own.state_bytes / 2**30:.3g} GiB for" in memory.describe_memory(own, 0, 2**40)


def test_a_run_that_cannot_fit_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="GiB are free"):
        n3.run(tiny(tmp_path, network={"capacity": (10**6, 10**6)}), quiet=True)
    assert not list(tmp_path.iterdir())


def test_free_memory_is_some_and_no_more_than_there_is():
    assert 2**20 < free_bytes(DEVICES) < 2**50


@pytest.mark.slow
def test_runs_in_blocks_are_the_same_runs(tmp_path):
    whole, blocks = (
        n3.run(tiny(tmp_path, name=f"b{block}", seeds=(1, 2, 3), block=block), has_figures=False, quiet=True)
        for block in (None, 2)
    )
    for name in ("test_loss", "size", "diverged_at", "prediction"):
        values = (own.results[name].values for own in (whole, blocks))
        np.testing.assert_allclose(*values, rtol=1e-4)
    assert len(n3.load(blocks.directory)["static"]) == 3


@pytest.mark.parametrize(
    ("task", "capacity", "method"), [("moons", 64, "information"), ("quadratic", 9, "auxiliary")]
)
def test_a_run_is_the_same_to_the_bit_beside_any_number_of_others(tmp_path, task, capacity, method):
    settings = {
        "task": {"task": task, "samples": 64},
        "network": {"method": method, "capacity": (capacity,)},
        "training": {"steps": 60, "learning_rate": 1e-2},
    }
    alone, among = (  # one run a device, and three
        n3.run(
            tiny(tmp_path, **settings, name=f"n{runs}", seeds=tuple(range(runs))), quiet=True, has_figures=False
        )
        for runs in (1, 2 * len(DEVICES) + 1)
    )
    for name in ("train_loss", "test_loss", "size"):
        np.testing.assert_array_equal(*(own.results[name].sel(seed=0) for own in (alone, among)))


@pytest.fixture
def large(tmp_path, monkeypatch):
    """An experiment on a file that counts as large."""
    for room in (dataset, arms):
        monkeypatch.setattr(room, "LARGE", 20)
    monkeypatch.setattr(arms, "BATCH", 5)
    inputs = np.linspace(-1, 1, 40)[:, None]
    np.savez(tmp_path / "own.npz", inputs=inputs, targets=np.sin(3 * inputs))

    def made(**changes):
        own = {"network": {"method": "information"}, "information": {"criterion": "held-out", "every": 2}}
        sizes = {"samples": None, "test_samples": None, "data": str(tmp_path / "own.npz")}
        return tiny(tmp_path, task=sizes | changes.pop("task", {}), **own | changes)

    return made


def test_seeds_share_the_samples_of_a_large_file(large):
    one, two = load_splits(large(seeds=(1, 2)).resolved())[0]
    assert one is two
    problem = arms.stack([one, two], members=2, seeds=(1, 2))
    assert problem.train.inputs.shape == (2, 1, 32)
    assert np.shares_memory(problem.train.inputs[0], problem.train.inputs[1])
    assert not np.array_equal(*problem.folds)
    for some in (arms.repeat(problem, 2), arms.take(problem, np.array([1, 0, 1]))):
        assert np.shares_memory(some.train.inputs[0], some.train.inputs[2])
    np.testing.assert_array_equal(arms.take(problem, np.array([1])).folds[0], problem.folds[1])


@pytest.mark.parametrize(
    ("changes", "is_shared"),
    [
        ({}, True),
        ({"task": {"samples": 12}}, True),
        ({"information": {"price": "0.1:1:2"}}, False),  # each seed holds out others
    ],
)
def test_an_outline_knows_whether_samples_are_shared(changes, is_shared, large):
    experiment = large(seeds=(1, 2), **changes).resolved()
    one, two = load_splits(experiment)[0]
    assert outline(experiment).is_shared == (one is two) == is_shared


def test_a_step_takes_a_batch_of_many_samples_unless_told_otherwise(large):
    many = large().resolved()
    assert arms.batch_of(many, 32) == 5
    assert arms.batch_of(many, 20) is None
    assert arms.batch_of(large(training={"batch": "full"}).resolved(), 32) is None
    assert arms.batch_of(large(training={"batch": 7}).resolved(), 20) == 7
    assert "6 steps, each by 5 samples" in memory.describe(many)
    assert "32 training and 8 test samples a seed, all of one split" in memory.describe(many)


def test_shared_samples_are_in_memory_for_one_run_in_training(large, monkeypatch):
    many = large(seeds=(1, 2, 3)).resolved()
    own = outline(many)
    assert own.is_shared
    monkeypatch.setattr(memory, "free_bytes", lambda _: 5 * own.state_bytes + 2 * own.sample_bytes)
    assert runs_at_a_time(many, own, DEVICES) == 1


def test_runs_of_shared_samples_are_the_same_in_blocks(large):
    training = {"steps": 40, "members": 2, "refit": True}
    whole, blocks = (
        n3.run(
            large(name=f"b{block}", seeds=(1, 2, 3), block=block, training=training),
            has_figures=False,
            quiet=True,
        )
        for block in (None, 2)
    )
    for name in ("test_loss", "held_out_loss", "size", "member_loss", "readout_strength"):
        values = (own.results[name].values for own in (whole, blocks))
        np.testing.assert_allclose(*values, rtol=1e-4)
