"""Animation: units as bright as they take part, limits that hold, and a film of all frames."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from drawing import no_text_outside
from n3.plotting.animation import (
    BRIGHT,
    MOST_UNITS,
    animate_growth,
    draw_fit,
    draw_frame,
    draw_network,
)
from n3.plotting.style import Figure
from trials import made_trajectory

FRAMES = 5


def drawn(draw, *arguments, **settings):
    axes = Figure().subplots()
    draw(axes, *arguments, **settings)
    return axes


def test_units_and_links_are_as_bright_as_they_take_part():
    axes = drawn(draw_network, made_trajectory(units=4), 2)  # two of four units
    before, hidden, _ = axes.collections[1:]
    assert [tuple(colour[:3]) for colour in hidden.get_facecolors()] == [pytest.approx(BRIGHT)] * 4
    np.testing.assert_allclose(hidden.get_facecolors()[:, 3], [1.0, 1.0, 0.08, 0.08])
    np.testing.assert_allclose(before.get_facecolors()[:, 3], 1.0)
    links = axes.collections[0]
    assert len(links.get_segments()) == 1 * 4 + 4 * 1
    np.testing.assert_allclose(sorted(links.get_colors()[:, 3]), [0.0] * 4 + [0.6] * 4)
    ends = links.get_segments()[0]
    assert ends[0].tolist() == [0, 0]
    assert ends[1].tolist() == [1, 1]


def test_layers_are_named_and_crowds_are_cut_and_said():
    axes = drawn(draw_network, made_trajectory(units=MOST_UNITS + 6, layers=2), 3)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["inputs", "layer 1", "layer 2", "outputs"]
    assert len(axes.collections[2].get_offsets()) == MOST_UNITS
    assert axes.get_title() == f"participation (the first {MOST_UNITS} units)"
    assert drawn(draw_network, made_trajectory(), 3).get_title() == "participation of each unit"


def test_the_fit_shows_samples_prediction_and_a_residual_whose_axis_narrows():
    run, widths = made_trajectory(), []
    for frame in (0, 3):
        fit, residual = Figure().subplots(2)
        draw_fit(fit, residual, run, frame, colour="red")
        np.testing.assert_allclose(fit.lines[1].get_ydata(), run.predictions[frame, :, 0])
        np.testing.assert_allclose(fit.lines[0].get_ydata(), run.targets[:, 0])
        assert residual.lines[1].get_linestyle() == "None"
        np.testing.assert_allclose(residual.lines[1].get_ydata(), run.residuals[frame, :, 0])
        widths.append(np.ptp(residual.get_ylim()))
        assert (fit.get_ylabel(), residual.get_xlabel(), residual.get_ylabel()) == (
            "y",
            "x",
            "prediction\n- target",
        )
    assert widths[1] < 0.5 * widths[0]


@pytest.mark.parametrize("classes", [0, 1, 3])
def test_a_frame_names_its_step_and_holds_all_it_shows(classes):
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    draw_frame(figure, made_trajectory(classes=classes), 3)
    assert figure._suptitle.get_text() == "made-up, growing: step 40, size 2.25 units, test loss 1.00e-03"
    assert len(figure.axes) == (2 if classes else 3)
    assert no_text_outside(figure)


def test_regions_lie_where_the_inputs_are_and_take_the_largest_logit():
    figure = Figure(figsize=(9.6, 4.6))
    run = made_trajectory(classes=3)
    logits = np.zeros_like(run.predictions)
    logits[..., 1] = np.where(run.grid[:, 0] > 0, 1.0, -1.0)  # class 1 to the right, else the first of equals
    draw_frame(figure, dataclasses.replace(run, predictions=logits), 4)
    axes = figure.axes[1]
    classes = axes.images[0].get_array()
    assert (classes[:, -1] == 1).all()
    assert (classes[:, 0] == 0).all()
    assert axes.images[0].get_extent() == [-1, 1, -1, 1]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "height")
    assert set(axes.collections[0].get_array().tolist()) == {0, 1, 2}


def test_a_film_has_every_frame_and_stays_on_the_last_for_a_second(tmp_path):
    path = animate_growth(made_trajectory(), tmp_path / "growth.gif", frames_per_second=1, dpi=30)
    with Image.open(path) as film:
        stills = []
        for frame in range(film.n_frames):
            film.seek(frame)
            stills.append((np.asarray(film.convert("RGB")).copy(), film.info["duration"]))
    pictures, durations = zip(*stills, strict=True)
    assert sum(durations) == 1000 * (FRAMES + 1)  # equal frames are merged into a longer one
    assert pictures[0].shape == (138, 288, 3)
    assert not np.array_equal(pictures[0], pictures[-1])
