"""Style: colours told apart, bands, legends and titles, by what they were given."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from drawing import legend, no_text_outside
from n3.config.experiment import ARMS, Experiment
from n3.plotting.style import (
    CLASS_COLOURS,
    COLOURS,
    add_legend,
    arms_of,
    band_key,
    draw_band,
    line_key,
    overlap_key,
    titled,
)
from n3.stats.summary import RunRecord


def test_every_arm_has_a_colour_of_its_own():
    assert set(COLOURS) == set(ARMS)
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert len(set(CLASS_COLOURS)) == len(CLASS_COLOURS) == 10


def test_no_arm_has_the_grey_of_the_key_of_bands():
    greys = [name for name, own in COLOURS.items() if np.ptp(to_rgb(own)) < 0.1]
    assert greys == []


def test_a_long_title_is_broken_into_lines_of_nearly_one_length():
    title = (
        "figure-3: final test losses after 200 steps, grown against growing; CUT SHORT, so no verdict counts"
    )
    first, second = titled(title, 9.0, 3.0).get_suptitle().splitlines()
    assert f"{first} {second}" == title
    assert abs(len(first) - len(second)) < 15
    assert titled("short", 9.0, 3.0).get_suptitle() == "short"


def test_the_key_of_an_overlap_has_the_colour_of_both():
    key = overlap_key("both", ["#0000FF", "#FF0000"], alpha=0.5)
    assert key.get_facecolor()[:3] == pytest.approx((0.75, 0.25, 0.5))


def test_a_band_lies_between_the_quartiles_about_the_median():
    x = xr.DataArray([0.0, 1.0, 2.0])
    levels = {"loss_low": 1.0, "loss_median": 2.0, "loss_high": 3.0}
    quartiles = {name: xr.DataArray(np.full(3, level)) for name, level in levels.items()}
    axes = Figure().subplots()
    draw_band(axes, x, quartiles, "red", "--", prefix="loss_")
    (line,) = axes.lines
    assert (line.get_ydata().tolist(), line.get_linestyle(), line.get_color()) == ([2.0] * 3, "--", "red")
    edge = axes.collections[0].get_paths()[0].vertices
    assert (edge[:, 1].min(), edge[:, 1].max()) == (1.0, 3.0)
    assert (edge[:, 0].min(), edge[:, 0].max()) == (0.0, 2.0)


@pytest.mark.parametrize(
    "style, line, marker",
    [({}, "-", "None"), ({"linestyle": ":"}, ":", "None"), ({"marker": "o"}, "None", "o")],
)
def test_a_key_for_points_has_no_line(style, line, marker):
    key = line_key("name", "red", **style)
    assert (key.get_linestyle(), key.get_marker(), key.get_color()) == (line, marker, "red")
    joined = line_key("name", "red", **{"marker": "o", "linestyle": "--"})
    assert joined.get_linestyle() == "--"


@pytest.mark.parametrize("place", ["upper", "center"])
def test_a_legend_and_a_long_title_stay_within_the_figure(place):
    figure = titled("a title of many words " * 9, 8.0, 4.0)
    figure.subplots().plot([0, 1], [0, 1])
    add_legend(figure, [line_key("one"), band_key("two")], place=place)
    assert legend(figure) == ["one", "two"]
    assert max(map(len, figure.get_suptitle().splitlines())) <= 80
    assert no_text_outside(figure)


def test_the_growing_arm_comes_first_and_the_others_in_their_order():
    results = xr.Dataset(coords={"arm": ["warmup", "growing", "static"]})
    record = RunRecord(experiment=Experiment(), results=results, directory=None)
    assert arms_of(record) == ["growing", "warmup", "static"]
