"""Figures: each kind of reproduction has its figure, with what belongs on it."""

import numpy as np
import pytest
import xarray as xr

from drawing import legend, no_text_outside
from n3.paper.claims import Claim, Reproduction
from n3.paper.figures import (
    paper_figure,
    plot_bands,
    plot_classes,
    plot_histories,
    plot_penalty,
    plot_sizes_found,
)
from n3.paper.variants import PenaltyCurve, SizePoint
from n3.paper.verdicts import Verdict
from n3.plotting.studies import VARIANT_COLOURS
from n3.stats.comparison import Estimate
from n3.stats.distributions import histogram
from trials import made_trajectory, trained

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
    figure = plot_histories("t", results, [made_trajectory(), made_trajectory()], unit="squared scaled units")
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
    assert legend(figure) == ["growing", "grown", "quartiles about\nthe median", "training samples"]
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
    assert legend(figure) == ["growing", "released", "information", "quartiles about\nthe median"]
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
    runs = [made_trajectory(), made_trajectory()]
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


def test_the_penalty_has_losses_penalties_and_their_ratio():
    weights = np.geomspace(0.01, 100, 9)
    growing = PenaltyCurve(weights=weights, loss=1 / weights, penalty=0.1 * weights)
    grown = PenaltyCurve(weights=weights[1:], loss=2 / weights[1:], penalty=0.2 * weights[1:])
    ratios = {(0.01, 0.1): Estimate(0.4, 0.3, 0.6), (0.1, 1.0): Estimate(0.6, 0.5, 0.7)}
    curves = {"growing": growing, "grown": grown}
    figure = plot_penalty("figure-6: a title", curves, ratios, unit="squared scaled units")
    loss, penalty, ratio = figure.axes
    assert loss.get_ylabel() == "mean final test loss\n(squared scaled units)"
    assert penalty.get_ylabel() == "mean size penalty\n(squared scaled units)"
    assert ratio.get_ylabel() == "growing / grown"
    assert ratio.get_xlabel() == "weight of the size penalty, lambda (per squared unit)"
    np.testing.assert_allclose(penalty.lines[1].get_ydata(), 0.2 * weights[1:])
    np.testing.assert_allclose(ratio.lines[0].get_xydata(), np.stack([weights[1:], np.full(8, 0.5)], 1))
    np.testing.assert_allclose(ratio.lines[2].get_xydata(), [[0.1, 0.6], [1.0, 0.6]])
    band = ratio.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose([band[:, 0].min(), band[:, 0].max()], [0.01, 0.1])
    np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [0.3, 0.6])
    assert no_text_outside(figure)


@pytest.mark.parametrize("reverse", [False, True])
def test_sizes_of_one_variant_are_joined_in_their_order(reverse):
    static = [SizePoint(variant="static", size=(n,) * 3, accuracy=(0.4, 0.5, 0.55)) for n in (8.0, 16.0, 32.0)]
    found = SizePoint(variant="information", size=(9.0, 10.0, 14.0), accuracy=(0.5, 0.6, 0.65))
    figure = plot_sizes_found("sizes: a title", [*(static[::-1] if reverse else static), found])
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("final size (effective units)", "test accuracy")
    line, point = axes.lines[0], next(own for own in axes.lines if own.get_xdata().tolist() == [10.0])
    assert line.get_xdata().tolist() == [8.0, 16.0, 32.0]
    assert (line.get_linestyle(), point.get_linestyle()) == ("-", "None")
    spans = [bar[:, 0].tolist() for bars in axes.collections for bar in bars.get_segments()]
    assert [9.0, 14.0] in spans
    assert legend(figure)[:2] == ["static", "information"]
    assert no_text_outside(figure)


LOSSES = {
    "growing": np.random.default_rng(0).lognormal(-7, 1, 500),
    "grown": np.r_[np.random.default_rng(1).lognormal(-6.5, 1, 480), np.full(20, 0.4)],
}


COUNTS = {"growing": np.array([[90, 10], [30, 70]]), "grown": np.array([[50, 50], [0, 0]])}


def test_classes_have_the_histogram_above_and_a_matrix_each_below():
    figure = plot_classes("figure-5: a title", {"sine-classes": histogram(LOSSES)}, COUNTS, unit="nats")
    upper, *below = figure.axes
    assert (upper.get_title(), upper.get_xlabel()) == ("sine-classes", "final test loss (nats)")
    assert [axes.get_title() for axes in below] == ["growing: accuracy 80.0 %", "grown: accuracy 50.0 %"]
    assert no_text_outside(figure)
