"""Winners: counts by hand, runs that do not count, and the lines of the table."""

import numpy as np
import xarray as xr

from n3.stats.summary import _choice_lines, _summarise_choices

SHARES = np.zeros((2, 3, 2, 1, 2))
SHARES[:, :, 0] = 0.5
SHARES[0, :, 1, 0] = [[1, 0], [0, 1], [0, 1]]
SHARES[1, :, 1, 0] = [[1, 0], [1, 0], [1, 0]]
RESULTS = xr.Dataset(
    {"choice_share": (("arm", "seed", "step", "layer", "choice"), SHARES)},
    coords={"arm": ["growing", "static"], "seed": [4, 5, 6], "step": [0, 9], "choice": ["sin", "tanh"]},
)
LOST = xr.DataArray(np.zeros((2, 3), bool), dims=("arm", "seed"))


def test_winners_by_hand():
    counts = _summarise_choices(RESULTS, LOST)["choices"]
    assert counts == {"growing": [{"sin": 1, "tanh": 2}], "static": [{"sin": 3, "tanh": 0}]}


def test_a_run_that_diverged_chose_nothing():
    lost = LOST.copy(deep=True)
    lost[0, 1] = True
    assert _summarise_choices(RESULTS, lost)["choices"]["growing"] == [{"sin": 1, "tanh": 1}]


def test_the_table_has_a_row_for_each_layer():
    (text,) = _choice_lines(_summarise_choices(RESULTS, LOST))
    assert [line.split() for line in text.splitlines()] == [
        ["runs", "that", "chose", "sin", "tanh"],
        ["growing,", "layer", "1", "1", "2"],
        ["static,", "layer", "1", "3", "0"],
    ]


def test_where_nothing_was_chosen_nothing_is_said():
    assert _summarise_choices(RESULTS.drop_vars(["choice_share", "choice"]), LOST) == {}
    assert _choice_lines({}) == []
