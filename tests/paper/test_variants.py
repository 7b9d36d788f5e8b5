"""Variants: runs found by name, cell and seed, with what their last step says."""

from functools import partial

import numpy as np
import pytest

from n3.config.experiment import Experiment, NetworkConfig, RunConfig, TaskConfig, TrainingConfig
from n3.config.grid import Study
from n3.experiments import study
from n3.paper import variants
from n3.paper.claims import Part
from n3.paper.variants import Trained, by_size, gather, law_of
from n3.stats.scaling_laws import power_law


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals of laws are tested where laws are."""
    monkeypatch.setattr(variants, "power_law", partial(power_law, resamples=5))


@pytest.fixture(scope="module")
def part():
    base = Experiment(
        task=TaskConfig(task="sine-classes", samples=12, test_samples=6),
        network=NetworkConfig(capacity=(2,)),
        training=TrainingConfig(steps=4),
        run=RunConfig(arms=("static", "growing"), seeds=(7, 2), records=2),
    )
    cells = ({"learning_rate": 1e-3, "task": "sine-classes"}, {"learning_rate": 1e-2, "task": "sine-classes"})
    return Part(name="main", study=Study(base=base, cells=cells, points=50), names={"static": "baseline"})


@pytest.fixture(scope="module")
def results(part):
    return study.train_group_cells(part.study, study.plan_groups(part.study)[0], quiet=True)


def test_the_last_step_of_every_run_is_found_by_its_labels(part, results):
    runs = gather([Trained.of(part, results)], "baseline", "test_loss", {"learning_rate": (0, 1)})
    assert set(runs) == {((rate,), seed) for rate in (1e-3, 1e-2) for seed in (7, 2)}
    expected = results["test_loss"].sel(arm="static", cell=1, seed=2).isel(step=-1)
    assert runs[(1e-2,), 2] == float(expected)


@pytest.mark.parametrize(
    ("where", "count"),
    [({}, 2), ({"learning_rate": 1e-3}, 2), ({"learning_rate": (1e-3, 1e-2)}, 2), ({"learning_rate": 5.0}, 0),
     ({"capacity": 9}, 2), ({"task": "bessel"}, 0)],
)  # fmt: skip
def test_cells_are_chosen_by_label_or_range_and_by_what_they_have(part, results, where, count):
    assert len(gather([Trained.of(part, results)], "growing", "test_loss", where)) == count


def test_an_arm_that_goes_by_another_name_is_not_found_by_its_own(part, results):
    assert gather([Trained.of(part, results)], "static", "test_loss", {}) == {}


def test_accuracy_is_that_on_the_fresh_points_where_they_were_counted(part, results):
    own = Trained.of(part, results).values["accuracy"]
    counts = results["confusion"].sel(arm="growing", cell=1, seed=7).values
    assert own[1, 1, 0] == np.trace(counts) / 50
    without = Trained.of(part, results.drop_vars("confusion")).values["accuracy"]
    np.testing.assert_array_equal(
        without[1, 1, 0], results["test_metric"].sel(arm="growing", cell=1, seed=7)[-1]
    )


def test_diverged_runs_are_nan(part, results):
    lost = results.copy(deep=True)
    lost["diverged_at"].loc[{"arm": "growing", "cell": 0, "seed": 2}] = 3
    runs = gather([Trained.of(part, lost)], "growing", "test_loss", {"learning_rate": 1e-3})
    assert np.isnan(runs[(), 2])
    assert np.isfinite(runs[(), 7])


def test_sizes_rise_and_seeds_that_were_not_run_are_nan():
    sizes, losses = by_size({((8.0,), 1): 3.0, ((4.0,), 1): 1.0, ((4.0,), 5): 2.0})
    assert sizes.tolist() == [4.0, 8.0]
    np.testing.assert_array_equal(losses, [[1.0, 2.0], [3.0, np.nan]])


def test_a_law_needs_four_sizes():
    runs = {((float(size),), seed): 2.0 / size for size in (4, 8, 16, 32) for seed in (0, 1)}
    assert law_of(runs).slope.value == pytest.approx(-1.0)
    assert law_of({key: loss for key, loss in runs.items() if key[0][0] > 4}) is None
