"""Memory: an outline has the shapes of what is trained, and what does not fit is refused before it is drawn."""

import jax
import numpy as np
import pytest

import n3
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
