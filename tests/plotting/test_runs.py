"""Runs: every figure of a made-up regression and classification, by its labels, lines and files."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex
from numpy.random import default_rng

from drawing import legend, no_text_outside, texts
from n3.config.experiment import (
    Experiment,
    InformationConfig,
    NetworkConfig,
    RunConfig,
    TaskConfig,
    TrainingConfig,
)
from n3.plotting.runs import (
    MARKS,
    figures,
    plot_choices,
    plot_final_losses,
    plot_fit,
    plot_gains,
    plot_history,
    plot_losses,
    plot_participation,
    plot_price_path,
    plot_regions,
    plot_sizes,
    plot_structure,
)
from n3.plotting.style import COLOURS
from n3.stats.summary import RunRecord
from n3.training.history import History

STEPS = np.arange(0, 5001, 100)


def histories(arms, seeds, layers, capacity):
    rng = default_rng(0)
    ease = np.linspace(8.0, 5.0, len(arms))[:, None, None]
    noise = np.exp(0.5 * rng.normal(size=(len(arms), seeds, 1)) + 0.1 * rng.normal(size=(1, 1, len(STEPS))))
    losses = noise * np.exp(-ease * STEPS / 5000)
    grown = capacity * (1 - np.exp(-STEPS / 800)) * rng.uniform(0.7, 1, (len(arms), seeds, 1))
    sizes = np.stack([grown * (1 - 0.3 * layer) for layer in range(layers)], axis=-1)
    sizes[1:] = capacity
    return losses, sizes


def data_of(kind, classes, rng):
    if kind == "regression":
        inputs = rng.uniform(-6, 6, (300, 1))
        return inputs, np.sin(inputs) + 0.1 * rng.normal(size=inputs.shape)
    labels = np.arange(300) % classes
    angles = 6 * rng.uniform(size=300) + 2 * np.pi * labels / classes
    return np.stack([np.cos(angles), np.sin(angles)], 1) * (angles[:, None] % 6), labels[:, None].astype(float)


def predictions_of(kind, grid, classes, arms, shown, rng):
    if kind == "regression":
        return np.sin(grid) + 0.1 * rng.normal(size=(len(arms), shown, 1, 1)) * grid
    angles = np.arctan2(grid[:, 1], grid[:, 0])
    turns = 2 * np.pi * np.arange(max(classes, 1)) / classes
    logits = np.cos(angles[:, None] - turns)[:, classes == 2 :]
    return np.broadcast_to(logits, (len(arms), shown, *logits.shape)).copy()


def record_of(kind="regression", *, arms=("static", "growing"), seeds=6, layers=1, classes=3, capacity=10):
    rng, shown = default_rng(1), min(seeds, 5)
    losses, sizes = histories(arms, seeds, layers, capacity)
    line = np.linspace(-6, 6, 64 if kind == "regression" else 24)
    square = np.stack([axis.ravel() for axis in np.meshgrid(line, line)], 1)
    grid = line[:, None] if kind == "regression" else square
    inputs, targets = data_of(kind, classes, rng)
    axes = ("arm", "seed", "step")
    metric = {"metric": "rmse"} if kind == "regression" else {"metric": "accuracy"}
    results = xr.Dataset(
        {
            **{name: (axes, losses * factor) for name, factor in (("train_loss", 0.8), ("test_loss", 1.0))},
            "test_metric": (axes, np.sqrt(losses)),
            "size": ((*axes, "layer"), sizes),
            "active_parameters": (axes[:2], np.full((len(arms), seeds), 31)),
            "diverged_at": (axes[:2], np.full((len(arms), seeds), -1)),
            "compile_seconds": (("arm",), np.full(len(arms), 1.5)),
            "run_seconds": (("arm",), np.full(len(arms), 2.0)),
            "prediction": (
                ("arm", "shown_seed", "point", "output"),
                predictions_of(kind, grid, classes, arms, shown, rng),
            ),
            "grid": (("point", "input"), grid),
            "train_inputs": (("train_sample", "inputs_feature"), inputs[:240]),
            "train_targets": (("train_sample", "targets_feature"), targets[:240]),
            "test_inputs": (("test_sample", "inputs_feature"), inputs[240:]),
            "test_targets": (("test_sample", "targets_feature"), targets[240:]),
        },
        coords={"arm": list(arms), "seed": np.arange(seeds), "step": STEPS, "layer": np.arange(layers)}
        | {"inputs_feature": ["x", "height", *"abcdefgh"][: inputs.shape[1]]},
        attrs={"task": "made-up", "kind": kind, "num_classes": classes * (kind != "regression")}
        | {"target_name": "y", "device": "cpu", "wall_seconds": 9.0}
        | metric,
    )
    experiment = Experiment(
        task=TaskConfig(task="bessel"),
        network=NetworkConfig(capacity=(capacity,) * layers),
        run=RunConfig(arms=tuple(arms), seeds=tuple(range(seeds))),
    )
    return RunRecord(experiment=experiment.resolved(), results=results, directory=None)


def with_diverged(record, arm, seed):
    """The same record, in which a run diverged at step 300; all runs of the arm where `seed` is None."""
    results = record.results.copy(deep=True)
    runs = {"arm": arm, "seed": slice(None) if seed is None else seed}
    for name in ("train_loss", "test_loss", "test_metric", "size"):
        results[name].loc[runs | {"step": slice(300, None)}] = np.nan
    results["diverged_at"].loc[runs] = 300
    results["prediction"].loc[{"arm": arm, "shown_seed": runs["seed"]}] = np.nan
    return dataclasses.replace(record, results=results)


@pytest.mark.parametrize(
    "kind, names",
    [
        ("regression", ["loss", "size", "final-loss", "fit"]),
        ("classification", ["loss", "size", "final-loss", "regions"]),
    ],
)
def test_figures_are_those_of_the_task_and_save_without_warning(kind, names, tmp_path):
    made = figures(with_diverged(record_of(kind), "static", 0))
    assert list(made) == names
    for name, figure in made.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=75)
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000


def test_figures_say_that_lines_are_medians_over_the_seeds():
    for plot in (plot_losses, plot_sizes):
        assert plot(record_of()).axes[0].get_title() == "made-up: median over 6 seeds"
        assert plot(record_of(seeds=1)).axes[0].get_title() == "made-up: 1 seed"


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ({}, "optimiser step"),
        ({"members": 3}, "optimiser step (the last point is after the read-outs are solved)"),
        ({"members": 3, "refit": True}, "optimiser step (the last point is of the refitted networks)"),
    ],
)
def test_the_losses_explain_a_last_point_that_is_no_further_step(training, told):
    record = record_of()
    own = Experiment(
        network=NetworkConfig(method="information", capacity=(10,)),
        information=InformationConfig(criterion="held-out") if training else InformationConfig(),
        training=TrainingConfig(**training),
        run=record.experiment.run,
    )
    assert plot_losses(replace(record, experiment=own.resolved())).axes[0].get_xlabel() == told


def test_the_share_of_runs_rises_from_zero():
    (line, *_) = plot_final_losses(record_of()).axes[0].lines
    assert line.get_ydata()[:2].tolist() == pytest.approx([0.0, 1 / 6])
    assert line.get_xdata()[0] == line.get_xdata()[1]


def test_residuals_are_points_with_quartiles():
    lower = plot_fit(record_of()).axes[1]
    assert {line.get_linestyle() for line in lower.lines if len(line.get_xdata()) == 60} == {"None"}
    assert len(lower.containers) == 2


def test_figures_survive_an_experiment_in_which_every_run_diverged(tmp_path):
    record = with_diverged(with_diverged(record_of(), "static", None), "growing", None)
    record.results["test_loss"][:] = record.results["train_loss"][:] = np.nan
    for name, figure in figures(record).items():
        figure.savefig(tmp_path / f"{name}.png", dpi=50)


def test_figures_of_many_inputs_have_neither_fit_nor_regions():
    record = record_of("classification")
    wide = record.results.drop_vars(["grid", "prediction"])
    wide = wide.assign(grid=(("point", "input"), np.zeros((0, 3))))
    assert list(figures(dataclasses.replace(record, results=wide))) == ["loss", "size", "final-loss"]


@pytest.mark.parametrize("kind, unit", [("regression", "squared scaled units"), ("classification", "nats")])
def test_losses_have_their_unit_and_a_line_for_each_arm_and_split(kind, unit):
    figure = plot_losses(record_of(kind))
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimiser step", f"loss ({unit})")
    assert axes.get_yscale() == "log"
    assert [line.get_linestyle() for line in axes.lines] == ["--", "--", "-", "-"]
    assert texts(figure) == ["growing", "static", "test", "training", "quartiles"]


def with_members(record):
    """The same record of runs with members: a held-out loss 1.5 times the test loss, a tenth of it in error."""
    loss = 1.5 * record.results["test_loss"]
    return dataclasses.replace(
        record, results=record.results.assign(held_out_loss=loss, held_out_error=0.1 * loss)
    )


def test_the_held_out_loss_is_drawn_beside_the_test_loss_with_its_interval_at_the_end(tmp_path):
    record = with_members(record_of())
    figure = plot_losses(with_diverged(record, "static", 2))
    (axes,) = figure.axes
    assert texts(figure)[2:] == ["test", "training", "held-out", "held-out, 95 % of a run", "quartiles"]
    last = record.results["held_out_loss"].sel(arm="growing").isel(step=-1).values
    curve, point = axes.lines[4], axes.containers[0]
    assert (curve.get_linestyle(), curve.get_color()) == (":", COLOURS["growing"])
    np.testing.assert_allclose(curve.get_ydata()[-1], np.median(last))
    np.testing.assert_allclose(point.lines[0].get_ydata(), [np.median(last)])
    assert point.lines[0].get_xdata()[0] > STEPS[-1]
    ((low, high),) = (each[:, 1] for each in point.lines[2][0].get_segments())
    np.testing.assert_allclose([low, high], np.median(last) * np.array([1 - 0.196, 1 + 0.196]), rtol=1e-3)
    figure.savefig(tmp_path / "loss.png", dpi=50)
    assert no_text_outside(figure)


def test_lines_carry_the_median_in_the_colour_of_the_arm():
    record = record_of()
    line = plot_losses(record).axes[0].lines[-1]
    expected = np.median(record.results["test_loss"].sel(arm="static").values, axis=0)
    np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)
    assert line.get_color() == COLOURS["static"]


def test_legend_counts_diverged_runs():
    assert "static (1/6 diverged)" in texts(plot_losses(with_diverged(record_of(), "static", 2)))


@pytest.mark.parametrize("layers", [1, 3])
def test_sizes_have_a_style_for_each_layer_and_the_capacity(layers):
    figure = plot_sizes(record_of(layers=layers))
    (axes,) = figure.axes
    assert axes.get_ylabel() == "size (effective units)"
    assert len(axes.lines) == 2 * layers + 1
    assert axes.lines[-1].get_linestyle() == ":"
    assert set(axes.lines[-1].get_ydata()) == {10}
    named = [f"layer {n + 1}" for n in range(layers)] if layers > 1 else []
    assert texts(figure) == ["growing", "static", *named, "capacity", "quartiles"]


@pytest.mark.parametrize("seeds", [1, 5, 400])
def test_final_losses_rise_to_one(seeds):
    record = record_of(seeds=seeds)
    axes = plot_final_losses(record).axes[0]
    assert axes.get_xlabel() == "final test loss (squared scaled units)"
    steps = axes.lines[0]
    final = record.results["test_loss"].sel(arm="growing").isel(step=-1)
    np.testing.assert_allclose(steps.get_xdata()[1:], np.sort(final), rtol=1e-12)
    assert steps.get_ydata()[-1] == 1
    assert axes.lines[2].get_xdata()[0] == pytest.approx(float(final.median()))


def test_fit_has_data_above_and_residuals_below():
    figure = plot_fit(record_of())
    upper, lower = figure.axes
    assert (upper.get_ylabel(), lower.get_xlabel(), lower.get_ylabel()) == ("y", "x", "prediction - target")
    assert (len(upper.lines), len(lower.lines)) == (4, 3)
    assert texts(figure) == ["growing", "static", "training samples", "test samples", "quartiles"]


@pytest.mark.parametrize("classes", [2, 3, 9])
def test_regions_have_a_panel_for_each_arm_and_a_patch_for_each_class(classes):
    figure = plot_regions(record_of("classification", arms=("warmup", "static", "growing"), classes=classes))
    assert [axes.get_title() for axes in figure.axes] == ["growing", "warmup", "static"]
    assert texts(figure) == [*(f"class {n}" for n in range(classes)), "training samples"]
    assert set(np.unique(figure.axes[0].images[0].get_array())) == set(range(classes))


def test_regions_lie_under_the_points_of_their_class():
    figure = plot_regions(record_of("classification", classes=2))
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("x", "height")
    axes = figure.axes[0]
    left, right, low, high = axes.images[0].get_extent()
    classes = axes.images[0].get_array()
    assert (left, right, low, high) == (-6, 6, -6, 6)
    assert axes.images[0].origin == "lower"
    assert classes[12, 0] == 1  # far to the left, where the angle is that of class 1
    assert classes[12, -1] == 0


def test_regions_say_which_arm_diverged():
    record = with_diverged(record_of("classification"), "static", None)
    assert [axes.get_title() for axes in plot_regions(record).axes] == ["growing", "static (diverged)"]


def test_regions_refuse_a_grid_that_is_not_square():
    record = record_of("classification")
    cut = dataclasses.replace(record, results=record.results.isel(point=slice(7)))
    with pytest.raises(ValueError, match="square of two inputs"):
        plot_regions(cut)


@pytest.mark.parametrize("layers", [1, 2])
def test_monitored_information_has_a_panel_each_and_the_size_beside(layers):
    record = record_of(layers=layers)
    results = record.results.assign(
        importance=0.1 * record.results["size"], redundancy=0.2 * record.results["size"]
    )
    watched = dataclasses.replace(record.experiment.run, monitor=("importance", "redundancy"))
    experiment = dataclasses.replace(record.experiment, run=watched)
    made = figures(dataclasses.replace(record, results=results, experiment=experiment))
    panels = made["information"].axes
    labels = ["importance (nats)", "redundancy (nats)", "size (effective units)"]
    assert [axes.get_ylabel() for axes in panels] == labels
    assert all(len(axes.lines) == 2 * layers for axes in panels)
    middle = results["importance"].sel(arm="growing").isel(layer=0).median("seed")
    assert any(np.allclose(line.get_ydata(), middle) for line in panels[0].lines)
    assert "information" not in figures(record)


def with_path(record, *, prices=4, lost=()):
    """The same record after a path of prices, whose size falls and whose loss rises with the price."""
    seeds, layers = record.results.sizes["seed"], record.results.sizes["layer"]
    sizes = (
        8.0 / (1 + np.arange(prices))[:, None, None] * default_rng(2).uniform(0.9, 1.1, (prices, seeds, layers))
    )
    losses = 0.1 * (1 + np.arange(prices))[:, None] * default_rng(3).uniform(0.9, 1.1, (prices, seeds))
    sizes[list(lost)] = losses[list(lost)] = np.nan
    variables = {"path_size": (("price", "seed", "layer"), sizes)}
    variables |= {f"path_{name}_loss": (("price", "seed"), losses) for name in ("test", "validation")}
    results = record.results.assign(variables).assign_coords(price=np.geomspace(0.01, 0.27, prices))
    results = results.assign_attrs(picked_price=1, best_price=0, validation_loss_bound=0.2)
    return dataclasses.replace(record, results=results)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_price_path_has_loss_over_size_and_size_over_price(layers):
    record = with_path(record_of(layers=layers))
    results = record.results
    figure = figures(record)["price-path"]
    left, right = figure.axes
    assert left.get_xlabel() == right.get_ylabel() == "final size (effective units)"
    assert left.get_ylabel() == "final test loss (squared scaled units)"
    assert right.get_xlabel() == "price (nats per sample and unit)"
    assert (left.get_yscale(), right.get_xscale()) == ("log", "log")
    size, loss = results.path_size.sum("layer").median("seed"), results.path_test_loss.median("seed")
    np.testing.assert_allclose(left.lines[0].get_xydata(), np.stack([size, loss], 1))
    np.testing.assert_allclose(right.lines[0].get_xydata(), np.stack([results.price, size], 1))
    np.testing.assert_allclose(left.lines[-1].get_xydata(), [[size[1], loss[1]]])
    np.testing.assert_allclose(right.lines[-1].get_xydata(), [[results.price[1], size[1]]])
    low, high = results.path_test_loss.quantile([0.25, 0.75], dim="seed").values
    bars = left.collections[1].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], np.stack([low, high], 1))
    assert [text.get_text() for text in left.texts] == ["0.01", "0.03", "0.09", "0.27"]
    assert texts(figure) == ["median and quartiles", "price picked"]
    assert "price-path" not in figures(record_of())


def test_prices_that_end_at_one_point_share_a_label_and_lost_prices_have_none(tmp_path):
    record = with_path(record_of(), lost=[0])
    for name in ("path_size", "path_test_loss"):
        record.results[name][3] = record.results[name][2]
    figure = plot_price_path(record)
    figure.savefig(tmp_path / "path.png", dpi=50)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.03", "0.09 to 0.27"]


def with_choices(record):
    """The same record, in which each layer chose between two activations."""
    sizes = record.results["size"].sizes
    share = default_rng(4).uniform(size=tuple(sizes.values()))
    shares = np.stack([share, 1 - share], axis=-1)
    results = record.results.assign(choice_share=((*sizes, "choice"), shares))
    return dataclasses.replace(record, results=results.assign_coords(choice=["sin", "tanh"]))


@pytest.mark.parametrize("layers", [1, 2])
def test_every_layer_of_every_arm_has_a_panel_with_the_medians(layers, tmp_path):
    record = with_choices(record_of(layers=layers))
    figure = plot_choices(record)
    figure.savefig(tmp_path / "choices.png", dpi=50)
    assert [axes.get_title().split(",")[0] for axes in figure.axes] == ["growing", "static"] * layers
    medians = record.results["choice_share"].median("seed").sel(arm="static").isel(layer=layers - 1)
    first, second, limit = figure.axes[-1].lines
    np.testing.assert_allclose(first.get_ydata(), medians.sel(choice="sin"))
    np.testing.assert_allclose(second.get_ydata(), medians.sel(choice="tanh"))
    assert set(limit.get_xdata()) == {0.6 * 5000}
    assert texts(figure) == ["sin", "tanh", "hard from here", "quartiles"]


def test_the_figure_is_made_where_activations_were_chosen():
    record = record_of()
    assert "choices" in figures(with_choices(record))
    assert "choices" not in figures(record)


@pytest.fixture
def staged():
    steps, looks = np.arange(0, 101, 10), np.array([25, 50, 75, 100])
    sizes = np.broadcast_to(np.linspace(2, 12, 11)[:, None] * [1.0, 0.5], (3, 2, 11, 2))
    actions = np.zeros((3, 2, 4), int)
    actions[1] = [[0, 1, 3, 0], [0, 2, 0, 1]]
    variables = {
        "size": (("arm", "seed", "step", "layer"), sizes),
        "structure_action": (("arm", "seed", "look"), actions),
        "structure_capacity": (("arm", "look", "layer"), np.full((3, 4, 2), 16)),
    }
    coords = {"arm": ["static", "growing", "grown"], "seed": [0, 1], "step": steps, "look": looks}
    results = xr.Dataset(variables, coords=coords, attrs={"task": "sine"})
    return RunRecord(experiment=Experiment(), results=results, directory=None)


def test_every_change_is_marked_at_the_size_before_it(staged):
    figure = plot_structure(staged)
    growing, grown = figure.axes
    assert (growing.get_title(), grown.get_title()) == ("growing", "grown")
    found = {line.get_marker(): line for line in growing.lines}
    marks = {name: found[marker].get_xydata().tolist() for name, (marker, _) in MARKS.items()}
    assert marks == {"prune": [[50, 10.5], [100, 18.0]], "expand": [[50, 10.5]], "rollback": [[75, 13.5]]}
    assert not sum(len(line.get_xdata()) for line in grown.lines if line.get_marker() in "v^x")
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == ["size, growing", "size, grown", "capacity of the program", *MARKS]


def test_a_record_without_looks_is_refused(staged):
    with pytest.raises(ValueError, match="`structure_every`; it has no looks"):
        plot_structure(replace(staged, results=staged.results.drop_dims("look")))


HISTORY = History(
    step=np.array([10, 20, 30]),
    train_loss=np.array([1.0, 0.5, 0.2]),
    validation_loss=np.array([1.1, 0.6, 0.4]),
    validation_accuracy=None,
    sizes=np.array([[1.0, 2.0], [3.0, 2.5], [4.0, 2.0]]),
    monitor={},
    parameters=np.array(40.0),
    layers=(".first", ".second"),
    diverged_at=None,
)


def test_participation_has_a_ramp_for_each_unit():
    sizes = np.linspace(0, 3, 31)
    ramps = np.clip(sizes[:, None] - np.arange(3), 0, 1)
    figure = plot_participation(sizes, ramps, title="a title")
    (axes,) = figure.axes
    np.testing.assert_array_equal([line.get_ydata() for line in axes.lines], ramps.T)
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), sizes)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("size (effective units)", "participation")
    assert legend(figure) == ["unit 0", "unit 1", "unit 2"]
    assert no_text_outside(figure)


def test_gains_are_coloured_by_whether_they_are_worth_the_price():
    gains = np.array([0.3, 0.05, 0.01, 0.002])
    figure = plot_gains(gains, price=0.01, title="a title")
    (axes,) = figure.axes
    stems, points = axes.collections
    np.testing.assert_allclose(points.get_offsets(), np.stack([[1, 2, 3, 4], gains], 1))
    shades = [to_hex(colour).upper() for colour in points.get_facecolors()]
    assert shades == [COLOURS["growing"]] * 3 + ["#999999"]
    np.testing.assert_allclose([stem[:, 1] for stem in stems.get_segments()], [[0.01, own] for own in gains])
    assert axes.lines[0].get_ydata() == [0.01, 0.01]
    assert (axes.get_xlabel(), axes.get_yscale()) == ("place of the unit", "log")
    assert axes.get_ylabel() == "what it adds (nats per sample)"
    assert legend(figure) == ["price, 0.01 nats", "worth its price", "not worth it"]
    assert no_text_outside(figure)


@pytest.mark.parametrize("has_validation", [True, False])
def test_a_history_has_sizes_by_group_and_the_losses_there_are(has_validation):
    history = HISTORY if has_validation else dataclasses.replace(HISTORY, validation_loss=None)
    figure = plot_history(history, title="a title", unit="nats")
    left, right = figure.axes
    np.testing.assert_array_equal([line.get_ydata() for line in left.lines], HISTORY.sizes.T)
    losses = [HISTORY.train_loss, HISTORY.validation_loss][: 1 + has_validation]
    np.testing.assert_array_equal([line.get_ydata() for line in right.lines], losses)
    assert [axes.get_xlabel() for axes in figure.axes] == ["optimiser step"] * 2
    assert (left.get_ylabel(), right.get_ylabel()) == ("size (effective units)", "loss (nats)")
    assert left.get_ylim()[0] == 0
    names = [".first", ".second", "training loss", "validation loss"][: 3 + has_validation]
    assert legend(figure) == names
    assert no_text_outside(figure)
