"""Prices: the pick by hand, with ties and diverged runs, and what is said of a path."""

import numpy as np
import pytest

from n3.experiments.arms import pick_price
from n3.stats.summary import _number_of_runs, _price_lines, path_curves, summarise_path

NAN = np.nan


def table(*rows):
    return np.array(rows, float)


def test_a_pick_by_hand():
    losses = table([4.0, 1.0], [1.0, 1.0], [1.0, 4.0], [9.0, 9.0])  # logarithms spread by log 4 / 2 about log 2
    pick = pick_price(losses)
    assert (pick.index, pick.best, pick.bound) == (1, 1, 1.0)
    wide = pick_price(table([1.0, np.e**2], [np.e**1.5, np.e**1.6], [np.e**2.5, np.e**2.5]))
    middle = (1 + np.e**2) / 2
    assert (wide.index, wide.best) == (1, 0)
    assert wide.bound == pytest.approx(middle * np.e, rel=1e-12)  # deviation sqrt 2, over the root of 2 seeds


def test_losses_that_are_not_all_positive_are_compared_as_they_are():
    pick = pick_price(table([0.0, 2.0], [1.9, 1.9], [2.1, 2.1]))
    assert (pick.index, pick.best) == (1, 0)
    assert pick.bound == pytest.approx(2.0, rel=1e-12)  # median 1 and standard error 1


def test_the_best_price_is_kept_when_asked():
    losses = table([1.0, np.e**2], [np.e**1.5, np.e**1.6], [np.e**2.5, np.e**2.5])
    assert pick_price(losses, "best").index == 0
    assert pick_price(losses, "best").bound == pytest.approx((1 + np.e**2) / 2)


@pytest.mark.parametrize("rule", ["smallest", "best"])
@pytest.mark.parametrize("loss", [0.0, 0.1, 3e-7])
def test_of_equal_prices_the_highest_is_kept(rule, loss):
    pick = pick_price(table([2.0], [loss], [loss], [5.0]), rule)
    assert (pick.index, pick.best) == (2, 2)
    assert pick.bound == pytest.approx(loss)


def test_one_seed_has_no_standard_error():
    assert pick_price(table([1.0], [1.0 + 1e-9], [2.0])).index == 0


def test_a_price_between_may_fail():
    """The highest price that is good enough is kept, whatever those between."""
    assert pick_price(table([1.0, 4.0], [9.0, 9.0], [2.6, 2.6], [8.0, 8.0])).index == 2


@pytest.mark.parametrize("lost", [NAN, np.inf])
def test_diverged_runs_are_left_out(lost):
    losses = table([lost, lost, lost], [2.0, lost, 2.0], [lost, 1.0, 1.0], [3.0, 3.0, lost])
    pick = pick_price(losses)
    assert (pick.index, pick.best, pick.bound) == (2, 2, 1.0)
    spread = pick_price(table([lost, 1.0, np.e**2], [np.e**1.5, np.e**1.5, lost]))
    assert (spread.index, spread.best) == (1, 0)


def test_a_path_on_which_all_diverged_is_refused():
    with pytest.raises(ValueError, match="every run of the path diverged; lower `learning_rate`"):
        pick_price(table([NAN, NAN], [np.inf, NAN]))


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


def test_without_a_path_nothing_is_said():
    xr = pytest.importorskip("xarray")
    plain = xr.Dataset({"a": (("arm", "seed"), np.zeros((2, 3)))})
    assert summarise_path(plain) == {}
    assert _price_lines({"arms": {}}) == []
    assert _number_of_runs(plain) == 6


def path_of(lost=()):
    xr = pytest.importorskip("xarray")
    sizes = np.array([[[8.0, 1.0], [6.0, 1.0], [7.0, 1.0]], [[3.0, 0.5], [3.0, 0.0], [4.0, 0.0]]])
    validation = np.array([[1.0, 2.0, 3.0], [2.0, 2.5, 3.0]])
    for place in lost:
        sizes[place], validation[place] = NAN, NAN
    return xr.Dataset(
        {
            "a": (("arm", "seed"), np.zeros((2, 3))),
            "path_size": (("price", "seed", "layer"), sizes),
            "path_test_loss": (("price", "seed"), 2 * validation),
            "path_validation_loss": (("price", "seed"), validation),
        },
        coords={"price": [0.1, 0.4]},
        attrs={"picked_price": 1, "best_price": 0, "validation_loss_bound": 2.7},
    )


def test_a_path_is_summarised_by_medians_of_the_summed_layers():
    results = path_of(lost=[(0, 0)])
    assert summarise_path(results)["price_path"] == {
        "prices": [0.1, 0.4],
        "median_sizes": [7.5, 3.5],
        "median_test_losses": [5.0, 5.0],
        "median_validation_losses": [2.5, 2.5],
        "diverged": [1, 0],
        "picked": 1,
        "best": 0,
        "validation_loss_bound": 2.7,
    }
    assert _number_of_runs(results) == 9  # the growing arm twice, another once


def test_curves_are_quartiles_and_nan_where_all_diverged():
    curves = path_curves(path_of(lost=[(0, slice(None))]))
    assert np.isnan(curves["size"][:, 0]).all()
    np.testing.assert_allclose(curves["size"][:, 1], [3.25, 3.5, 3.75])
    np.testing.assert_allclose(curves["test_loss"][:, 1], [4.5, 5.0, 5.5])


def test_the_words_name_the_pick_and_the_best():
    (text,) = _price_lines(summarise_path(path_of()))
    assert all(len(line) <= 100 for line in text.splitlines())
    flat = " ".join(text.split())
    assert "of 2 tried: 0.4 nats (size 3.50, validation loss 2.500e+00)" in flat
    assert "within one standard error of the best, 0.1 nats (size 8.00, validation loss 2.000e+00)" in flat
    assert "up to 2.700e+00." in flat
    same = path_of().assign_attrs(picked_price=0)
    assert " ".join(_price_lines(summarise_path(same))[0].split()).endswith(", the least validation loss.")
