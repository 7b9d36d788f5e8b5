"""Arms: what each trains with, and a path of prices from the pick by hand to the run directory."""

import json
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import n3
from n3.config.experiment import TaskConfig, TrainingConfig
from n3.experiments import arms, memory
from n3.experiments.arms import pick_price
from n3.experiments.memory import describe
from n3.experiments.run import load_data, load_splits, run
from n3.information import gaussian
from n3.training.sweep import sweep
from networks import outputs
from trials import tiny

SEEDS, PRICES = (3, 1), (0.004, 0.4)
ARMS = ("static", "growing", "shrinking", "equal-size")


def small(out="x", *, price="0.004:0.4:2", **training):
    """Of 15 samples a fifth is held out."""
    return tiny(
        out,
        task={"task": "sine", "samples": 15},
        network={"method": "information"},
        training={"steps": 60, "learning_rate": None} | training,
        information={"price": price, "every": 5, "size_rate": 0.3},
        arms=ARMS,
        seeds=SEEDS,
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
        patch.setattr(memory, "sweep", watched)
        return run(small(tmp_path_factory.mktemp("runs")), has_figures=False, quiet=True)


@pytest.mark.parametrize(
    ("method", "arm", "controller", "first", "size_input", "rescaled"),
    [
        ("auxiliary", "growing", "auxiliary", 1.0, True, False),
        ("auxiliary", "grown", "auxiliary", 3.0, True, False),
        ("auxiliary", "rescaled", "auxiliary", 3.0, True, True),
        ("auxiliary", "warmup", "warmup", 1.0, False, False),
        ("auxiliary", "static", "fixed", 4.0, False, False),
        ("auxiliary", "equal-size", "fixed", 2.0, False, False),
        ("information", "growing", "information", 1.0, False, False),
        ("information", "shrinking", "information", 4.0, False, False),
    ],
)
def test_each_arm_has_its_controller_and_its_first_size(method, arm, controller, first, size_input, rescaled):
    training = {"steps": 7, "size_cost": 0.2, "target_size": 3.0, "initial_size": 1.0}
    experiment = tiny(network={"method": method}, training=training).resolved()
    data = load_data(experiment)
    recipe = arms.recipe_of(experiment, arm, data[0])
    fixed = (recipe.controller, recipe.size_input, recipe.rescale_size_input)
    assert fixed == (controller, size_input, rescaled)
    assert (recipe.drive is not None) == (controller == "information")
    numbers = arms.hypers_of(experiment, arm, data=data, active=np.full((2, 1), 2))
    assert numbers.initial_size.tolist() == [[first]] * 2
    for values, value in (
        (numbers.learning_rate, 0.01),
        (numbers.weights.size, 0.2),
        (numbers.target_size, 3.0),
        (numbers.target_depth, 1.0),
        (numbers.horizon, 7.0),
    ):
        np.testing.assert_allclose(values, [value] * 2, rtol=1e-6)


@pytest.mark.parametrize(("psi", "expected"), [(0.5, 0.5), *gaussian.PSI.items()])
def test_psi_by_number_and_by_name(psi, expected):
    network, information = {"method": "information"}, {"psi": psi}
    experiment = tiny(network=network, information=information, monitor=("importance",)).resolved()
    data = load_data(experiment)
    assert arms.recipe_of(experiment, "growing", data[0]).monitor.psi == expected
    drive = arms.hypers_of(experiment, "growing", data=data, active=None).drive
    np.testing.assert_allclose(drive.psi, [expected] * 2, rtol=1e-6)


def test_stops_begin_at_zero_and_end_at_the_last_step():
    stops = arms.stops_of(tiny(training={"steps": 7}, records=5).resolved())
    assert list(stops) == sorted(set(stops))
    assert (stops[0], stops[-1], len(stops)) == (0, 7, 6)
    assert arms.stops_of(tiny(training={"steps": 3}, records=5).resolved()).tolist() == [0, 1, 2, 3]


def rows(*losses):
    """Losses of each price."""
    return np.array(losses, float)


def test_a_pick_by_hand():
    losses = rows([4.0, 1.0], [1.0, 1.0], [1.0, 4.0], [9.0, 9.0])  # logarithms spread by log 4 / 2 about log 2
    pick = pick_price(losses)
    assert (pick.index, pick.best, pick.bound) == (1, 1, 1.0)
    wide = pick_price(rows([1.0, np.e**2], [np.e**1.5, np.e**1.6], [np.e**2.5, np.e**2.5]))
    middle = (1 + np.e**2) / 2
    assert (wide.index, wide.best) == (1, 0)
    assert wide.bound == pytest.approx(middle * np.e, rel=1e-12)  # deviation sqrt 2, over the root of 2 seeds


def test_losses_that_are_not_all_positive_are_compared_as_they_are():
    pick = pick_price(rows([0.0, 2.0], [1.9, 1.9], [2.1, 2.1]))
    assert (pick.index, pick.best) == (1, 0)
    assert pick.bound == pytest.approx(2.0, rel=1e-12)  # median 1 and standard error 1


def test_the_best_price_is_kept_when_asked():
    losses = rows([1.0, np.e**2], [np.e**1.5, np.e**1.6], [np.e**2.5, np.e**2.5])
    assert pick_price(losses, "best").index == 0
    assert pick_price(losses, "best").bound == pytest.approx((1 + np.e**2) / 2)


@pytest.mark.parametrize("rule", ["smallest", "best"])
@pytest.mark.parametrize("loss", [0.0, 0.1, 3e-7])
def test_of_equal_prices_the_highest_is_kept(rule, loss):
    pick = pick_price(rows([2.0], [loss], [loss], [5.0]), rule)
    assert (pick.index, pick.best) == (2, 2)
    assert pick.bound == pytest.approx(loss)


def test_one_seed_has_no_standard_error():
    assert pick_price(rows([1.0], [1.0 + 1e-9], [2.0])).index == 0


def test_a_price_between_may_fail():
    """The highest price that is good enough is kept, whatever those between."""
    assert pick_price(rows([1.0, 4.0], [9.0, 9.0], [2.6, 2.6], [8.0, 8.0])).index == 2


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_diverged_runs_are_left_out(lost):
    losses = rows([lost, lost, lost], [2.0, lost, 2.0], [lost, 1.0, 1.0], [3.0, 3.0, lost])
    pick = pick_price(losses)
    assert (pick.index, pick.best, pick.bound) == (2, 2, 1.0)
    spread = pick_price(rows([lost, 1.0, np.e**2], [np.e**1.5, np.e**1.5, lost]))
    assert (spread.index, spread.best) == (1, 0)


def test_where_all_diverged_the_first_price_is_kept():
    pick = pick_price(np.full((2, 3), np.nan))
    assert (pick.index, pick.best, np.isnan(pick.bound)) == (0, 0, True)


@pytest.mark.parametrize("seed", range(20))
def test_laws_of_the_pick(seed):
    losses = np.random.default_rng(seed).lognormal(sigma=0.3, size=(6, 5))
    pick, best = pick_price(losses), pick_price(losses, "best")
    medians = np.median(losses, axis=1)
    assert pick.best == best.index == np.argmin(medians)
    assert pick.index >= pick.best
    assert medians[pick.index] <= pick.bound
    assert np.all(medians[pick.index + 1 :] > pick.bound)
    scaled = pick_price(7.0 * losses)
    assert (scaled.index, scaled.best) == (pick.index, pick.best)
    assert scaled.bound == pytest.approx(7.0 * pick.bound)
    mixed = pick_price(losses[:, ::-1])
    assert (mixed.index, mixed.best) == (pick.index, pick.best)


def test_nothing_is_held_out_without_a_path():
    data, held = load_splits(small(price=0.1))
    assert held == []
    assert [len(one.train_inputs) for one in data] == [15] * 2


def test_seeds_that_share_their_data_share_what_is_held_out():
    task = TaskConfig(task="sine", samples=20, test_samples=4, data_seed=6)
    data, held = load_splits(replace(small(), task=task))
    assert data[0] is data[1]
    assert held[0] is held[1]
    assert (len(data), len(held)) == (2, 2)


def test_a_batch_beyond_the_samples_left_is_refused():
    experiment = replace(small(), training=TrainingConfig(steps=5, batch=14))
    with pytest.raises(ValueError, match=r"`batch` must lie in \[1, 12\], the training samples; got 14"):
        load_data(experiment)


def test_describe_counts_the_runs_of_a_path():
    text = describe(small())
    assert "4 arms x 2 seeds, growing at 2 prices = 10 runs of 60 steps" in text
    assert "12 training and 6 test samples" in text


@pytest.mark.slow
def test_one_sweep_trains_the_growing_arm_at_every_price(record, swept):
    assert [hypers.learning_rate.shape[0] for _, hypers, _, _ in swept] == [4, 2, 2, 2]
    assert all(problem.train.shares.shape[1] == 12 for _, _, problem, _ in swept)
    np.testing.assert_allclose(swept[0][1].drive.price, np.repeat(PRICES, 2), rtol=1e-6)
    kept = float(record.results.price[record.results.attrs["picked_price"]])
    (shrinking,) = (hypers for recipe, hypers, _, _ in swept[1:] if recipe.controller == "information")
    np.testing.assert_allclose(shrinking.drive.price, [kept] * 2, rtol=1e-6)


@pytest.mark.parametrize("place", range(len(PRICES)))
def test_each_run_of_the_path_is_the_run_at_its_price(record, place):
    experiment, data = small(), load_data(small())
    recipe = arms.recipe_of(experiment, "growing", data[0])
    hypers = arms.hypers_of(arms.over_prices(experiment)[place], "growing", data=data, active=None)
    keys = jax.vmap(jr.key)(jnp.array(SEEDS))
    alone = sweep(recipe, hypers, arms.stack(data), keys=keys, stops=np.array([60])).records
    np.testing.assert_allclose(alone.size[:, -1], record.results.path_size[place], rtol=1e-4)
    np.testing.assert_allclose(alone.test_loss[:, -1], record.results.path_test_loss[place], rtol=1e-4)


def test_the_growing_arm_is_the_path_at_the_price_picked(record):
    results = record.results
    own = results.isel(price=results.attrs["picked_price"])
    last = results.sel(arm="growing").isel(step=-1)
    assert np.array_equal(own.path_size, last["size"])
    assert np.array_equal(own.path_test_loss, last.test_loss)
    networks, held = n3.load(record.directory)["growing"], load_splits(record.experiment)[1]
    for row, (net, samples) in enumerate(zip(networks, held, strict=True)):
        found = np.asarray(outputs(net, jnp.asarray(samples.test_inputs.T)))
        loss = np.mean((found - samples.test_targets.T) ** 2)
        np.testing.assert_allclose(own.path_validation_loss[row], loss, rtol=1e-5)
    counts = results.active_parameters
    assert np.array_equal(counts.sel(arm="equal-size"), counts.sel(arm="growing"))


def test_a_higher_price_gives_fewer_units_here(record):
    sizes = record.results.path_size.sum("layer").median("seed").values
    assert sizes[0] > sizes[1] + 1


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
    assert f"of 2 tried: {found['prices'][found['picked']]:.3g} nats" in n3.table(summary)
    rate = summary["seed_steps_per_second"] * summary["seconds"]["run"]
    assert rate == pytest.approx((4 + 3 * 2) * 60)
    assert "price-path" in n3.figures(record)


def test_a_diverged_run_is_nan_at_its_price(record, swept):
    whole, held = swept[0][3], load_splits(record.experiment)[1]
    broken = np.asarray(whole.state.diverged_at).copy()
    broken[3] = 9  # the second price, the second seed
    whole = replace(whole, state=eqx.tree_at(lambda state: state.diverged_at, whole.state, jnp.asarray(broken)))
    found = arms.keep_price(record.experiment, whole, held, loss="squared-error")[1]
    lost = np.array([[False, False], [False, True]])
    for values in (found.sizes[..., 0], found.test_losses, found.validation_losses):
        assert np.array_equal(np.isnan(values), lost)


def test_a_path_on_which_every_run_diverged_keeps_its_numbers(tmp_path):
    record = n3.run(small(tmp_path, learning_rate=1e30), has_figures=True, quiet=True)
    assert np.isnan(n3.read(record.directory).results["path_validation_loss"]).all()
    summary = n3.summarise(record)
    assert all(own["diverged_seeds"] == summary["seeds"] for own in summary["arms"].values())
    assert n3.table(summary)


def test_a_price_at_which_most_runs_diverged_is_not_kept():
    lost = np.nan
    pick = pick_price(rows([2.0, 2.1, 1.9], [1.0, lost, lost], [0.5, lost, lost]))
    assert (pick.index, pick.best) == (0, 0)
    assert pick_price(rows([2.0, lost, lost], [1.0, lost, lost])).best == 1
