"""Plotting of the paper: each kind of reproduction has its figure, with what belongs on it."""

import numpy as np
import pytest
import xarray as xr

from n3.paper.claims import Claim, Reproduction
from n3.paper.figures import paper_figure, plot_bands, plot_histories
from n3.paper.verdicts import Verdict
from n3.plotting.studies import VARIANT_COLOURS
from n3.stats.comparison import Estimate
from test_plotting_growth import watched
from test_plotting_trials import legend, no_text_outside
from test_verdicts import trained

STEPS = np.arange(0, 101, 10)


def histories(arms=("growing", "grown"), seeds=4):
    rng = np.random.default_rng(0)
    shape = (1, len(arms), seeds, len(STEPS))
    losses = (
        np.exp(-STEPS / 30) * rng.lognormal(0, 0.3, shape) * (1 + np.arange(len(arms)))[None, :, None, None]
    )
    sizes = np.stack([np.broadcast_to(STEPS / 20, shape), np.broadcast_to(STEPS / 50, shape)], axis=-1)
    axes = ("cell", "arm", "seed", "step")
    variables = {"test_loss": (axes, losses), "test_metric": (axes, 1 - losses / losses.max())}
    variables["size"] = ((*axes, "layer"), sizes)
    return xr.Dataset(variables, coords={"arm": list(arms), "seed": np.arange(seeds), "step": STEPS})


def made(figure, unit="squared scaled units"):
    return Reproduction(name="figure-n", title="made up", parts=(), claims=(), figure=figure, loss_unit=unit)


def test_histories_show_size_loss_ratio_and_fit():
    results = histories().isel(cell=0)
    figure = plot_histories("t", results, [watched(), watched()], unit="squared scaled units")
    size, loss, ratio, fit, residual = figure.axes
    assert (size.get_ylabel(), loss.get_ylabel()) == (
        "size (effective units)",
        "test loss (squared scaled units)",
    )
    assert (ratio.get_ylabel(), ratio.get_xlabel()) == ("mean test loss, grown / growing", "optimiser step")
    np.testing.assert_allclose(size.lines[0].get_ydata(), STEPS / 20 + STEPS / 50)
    means = results["test_loss"].mean("seed")
    np.testing.assert_allclose(ratio.lines[0].get_ydata(), means.sel(arm="grown") / means.sel(arm="growing"))
    np.testing.assert_allclose(loss.lines[1].get_ydata(), results["test_loss"].sel(arm="grown").median("seed"))
    assert [line.get_color() for line in loss.lines] == [VARIANT_COLOURS[arm] for arm in ("growing", "grown")]
    assert len(loss.collections) == 2
    assert len(fit.lines) == len(residual.lines) == 4
    assert legend(figure) == ["growing", "grown", "quartiles", "training samples"]
    assert no_text_outside(figure)


@pytest.mark.parametrize(("unit", "count"), [("squared scaled units", 2), ("nats", 3)])
def test_bands_have_a_panel_for_accuracy_where_there_are_classes(unit, count):
    own = {name: histories((name,)).isel(cell=0, arm=0) for name in ("growing", "released", "information")}
    figure = plot_bands("t", own, unit=unit)
    assert len(figure.axes) == count
    assert figure.axes[0].get_ylabel() == f"test loss ({unit})"
    assert figure.axes[-1].get_xlabel() == "optimiser step"
    assert all(len(axes.lines) == len(axes.collections) == 3 for axes in figure.axes)
    np.testing.assert_allclose(figure.axes[1].lines[2].get_ydata(), STEPS / 20 + STEPS / 50)
    assert legend(figure) == ["growing", "released", "information", "quartiles"]
    assert no_text_outside(figure)


def test_each_kind_has_its_figure():
    rng, both = np.random.default_rng(0), ("growing", "grown")
    tasks = trained({arm: rng.lognormal(size=(1, 9)) for arm in both}, cells=[{"task": "cubic"}])
    names = ("arm", "cell", "seed", "true_class", "predicted_class")
    counts = xr.Dataset({"confusion": (names, np.ones((2, 1, 9, 2, 2), int))}, coords={"arm": list(both)})
    weights = trained(
        {arm: rng.lognormal(size=(2, 3)) for arm in both},
        cells=[{"size_cost": 0.1}, {"size_cost": 1.0}],
        size_penalty=np.ones((2, 2, 3)),
    )
    asked = Claim(quantity="q", measure="geometric ratio", of=both, where={"size_cost": (0.1, 1.0)})
    found = [Verdict(claim=asked, ours=Estimate(1, 0.5, 2), controls={}, word="-")]
    cells = [{"capacity": (size,), "learning_rate": 0.1} for size in (4, 8)]
    scaled = trained({"static": rng.lognormal(size=(2, 3))}, cells=cells)
    others = {"final_size": np.ones((1, 1, 3)), "accuracy": np.ones((1, 1, 3))}
    sized = trained({"static": np.ones((1, 3))}, **others)
    arms = trained({arm: np.ones(4) for arm in both})
    runs = [watched(), watched()]
    for kind, own, results, expected in (
        ("histories", arms, histories(), 5),
        ("histograms", tasks, None, 1),
        ("classes", tasks, counts, 3),
        ("penalty", weights, None, 3),
        ("bands", arms, histories(), 2),
        ("scaling", scaled, None, 1),
        ("sizes", sized, None, 1),
    ):
        figure = paper_figure(made(kind), [own], [results], found, runs)
        assert len(figure.axes) == expected, kind
        assert figure._suptitle.get_text() == "figure-n: made up"
