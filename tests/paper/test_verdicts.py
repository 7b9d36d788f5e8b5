"""Verdicts: measures by hand on made-up runs, and the word for every way in which numbers can meet."""

import numpy as np
import pytest
from numpy.random import default_rng

from n3.config.experiment import Experiment, RunConfig
from n3.config.grid import Study
from n3.paper.claims import Claim, Part, Reference, Reproduction
from n3.paper.variants import Trained
from n3.paper.verdicts import judge, judge_claims, measured_value, side
from n3.stats.comparison import Estimate, compare
from trials import trained

RNG = default_rng(0)


def claim(measure="ratio of means", of=("grown", "growing"), reference=None, **settings):
    return Claim(quantity="q", measure=measure, of=of, reference=reference, **settings)


PAIRS = {"growing": RNG.lognormal(0, 0.3, 40), "grown": RNG.lognormal(0.5, 0.3, 40)}


@pytest.mark.parametrize("name", ["ratio of means", "ratio of medians"])
def test_ratios_are_those_of_the_paired_comparison(name):
    found = measured_value(claim(name), [trained(PAIRS)], ("grown", "growing"))
    expected = compare(PAIRS["grown"], PAIRS["growing"])
    field = name.replace(" ", "_")
    assert found == (getattr(expected, field), *getattr(expected, f"{field}_ci95"))


def test_pairs_are_matched_by_seed_across_parts():
    """The second part names its arm otherwise and has the seeds of the first in part only."""
    one = trained({"growing": np.array([1.0, 2.0, 4.0])})
    run = RunConfig(arms=("growing",), seeds=(2, 0))
    part = Part(name="b", study=Study(base=Experiment(run=run)), names={"growing": "grown"})
    two = Trained(part=part, values={"test_loss": np.array([[[12.0, 3.0]]])}, seeds=(2, 0))
    found = measured_value(claim("ratio of medians"), [one, two], ("grown", "growing"))
    assert found.value == pytest.approx(7.5 / 2.5)
    assert measured_value(claim("wins", ("growing", "grown")), [one, two], ("growing", "grown")).value == 1.0


def test_seeds_of_several_parts_add_up():
    first, second = trained({"growing": np.array([1.0, 2.0])}), trained({"growing": np.array([3.0, 5.0])})
    part = second.part
    moved = Trained(part=part, values=second.values, seeds=(7, 8))
    assert measured_value(claim("mean", ("growing",)), [first, moved], ("growing",)).value == 2.75


def test_wins_count_pairs_and_probability_counts_all():
    """In every pair growing is just above, in most other pairings far below."""
    grown = np.array([1.0, 2.0, 3.0, 4.0])
    runs = [trained({"growing": grown + 0.1, "grown": grown})]
    both = ("growing", "grown")
    assert measured_value(claim("wins", both), runs, both).value == 0.0
    assert measured_value(claim("probability", both), runs, both).value == pytest.approx(6 / 16)


def test_diverged_pairs_do_not_win():
    runs = [trained({"growing": np.array([1.0, np.nan, 1.0]), "grown": np.array([2.0, 2.0, np.inf])})]
    assert measured_value(claim("wins", ("growing", "grown")), runs, ("growing", "grown")).value == 1.0


def test_a_geometric_ratio_is_over_cells_and_of_means():
    cells = [{"size_cost": weight} for weight in (0.1, 0.2, 5.0)]
    growing, grown = (
        np.array([[1.0, 3.0], [8.0, 8.0], [1.0, 1.0]]),
        np.array([[1.0, 1.0], [1.0, 3.0], [9.0, 9.0]]),
    )
    asked = claim("geometric ratio", ("growing", "grown"), where={"size_cost": (0.1, 1.0)})
    found = measured_value(asked, [trained({"growing": growing, "grown": grown}, cells=cells)], asked.of)
    assert found.value == pytest.approx(np.sqrt(2 * 4))


def test_stuck_runs_are_counted_against_the_median_of_both_arms():
    runs = [trained({"growing": np.full(20, 1.0), "grown": np.r_[np.full(18, 1.0), 11.0, np.nan]})]
    assert measured_value(claim("stuck", ("grown", "growing")), runs, ("grown", "growing")).value == 0.1
    assert measured_value(claim("stuck", ("growing", "grown")), runs, ("growing", "grown")).value == 0.0


def test_accuracy_and_size_are_read_where_they_are():
    others = {"accuracy": np.full((1, 1, 3), 0.75), "final_size": np.array([[[2.0, 9.0, 4.0]]])}
    runs = [trained({"growing": np.ones(3)}, **others)]
    assert measured_value(claim("accuracy", ("growing",)), runs, ("growing",)).value == 0.75
    assert measured_value(claim("size", ("growing",)), runs, ("growing",)).value == 4.0


def test_slope_and_exponent_are_those_of_the_law_over_the_cells():
    sizes = np.array([4.0, 8.0, 16.0, 32.0])
    cells = [{"capacity": (int(size),), "learning_rate": rate} for size in sizes for rate in (0.1, 0.2)]
    losses = np.repeat(3.0 * sizes**-0.7, 2)[:, None] * np.array([1.0, 1.1])
    losses[1::2] = 1.0  # the other rate
    runs = [trained({"static": losses}, cells=cells)]
    where = {"learning_rate": 0.1, "capacity": (1, np.inf)}
    assert measured_value(claim("slope", ("static",), where=where), runs, ("static",)).value == pytest.approx(
        -0.7
    )
    few = {"learning_rate": 0.1, "capacity": (1, 32)}
    assert measured_value(claim("exponent", ("static",), where=few), runs, ("static",)) is None


def test_what_was_not_run_is_left_out():
    made = Reproduction(
        name="n",
        title="t",
        parts=(),
        claims=(claim(of=("static", "growing")), claim(controls=("warmup", "rescaled"))),
        figure="bands",
    )
    found = judge_claims(made, [trained({**PAIRS, "rescaled": PAIRS["grown"]})])
    assert [verdict.claim.of for verdict in found] == [("grown", "growing")]
    assert list(found[0].controls) == ["rescaled"]


def test_nothing_is_judged_where_the_experiment_was_cut_short():
    made = Reproduction(
        name="n", title="t", parts=(), claims=(claim(reference=Reference()),), figure="bands", is_cut_short=True
    )
    (found,) = judge_claims(made, [trained(PAIRS)])
    assert found.word == "cut short"


AHEAD, LEVEL, BEHIND = Estimate(2.0, 1.5, 3.0), Estimate(1.0, 0.8, 1.2), Estimate(0.5, 0.3, 0.7)


@pytest.mark.parametrize(
    ("reference", "ours", "word"),
    [
        (None, AHEAD, "-"),
        (Reference(), AHEAD, "reproduced"),
        (Reference(), LEVEL, "not reproduced"),
        (Reference(), BEHIND, "not reproduced"),
        (Reference(value=2.5, low=2.0, high=4.0), AHEAD, "reproduced"),
        (Reference(value=9.0, low=4.0, high=15.0), AHEAD, "not reproduced"),
        (Reference(value=1.3, low=1.1, high=1.5), LEVEL, "cannot tell"),  # they meet, but ours shows nothing
        (Reference(value=1.4, low=1.3, high=1.5), LEVEL, "not reproduced"),
        (Reference(value=0.7, low=0.6, high=0.9), LEVEL, "cannot tell"),
        (Reference(value=1.1, low=1.05, high=1.8), BEHIND, "not reproduced"),
        (Reference(value=1.1, low=0.9, high=1.3), LEVEL, "reproduced"),
        (Reference(value=0.6, low=0.5, high=0.8), BEHIND, "reproduced"),
        (Reference(value=1.05), AHEAD, "reproduced"),
        (Reference(value=1.05), LEVEL, "cannot tell"),
        (Reference(value=1.5), LEVEL, "not reproduced"),
        (Reference(value=0.95), AHEAD, "not reproduced"),
        (
            Reference(value=2.0, low=1.5, high=3.0),
            Estimate(np.nan, np.nan, np.nan),
            "not reproduced",
        ),  # all diverged
        (Reference(value=2.0, low=1.5, high=3.0), Estimate(2.0, np.nan, np.nan), "-"),
    ],
)
def test_the_word_by_reference(reference, ours, word):
    assert judge(claim(reference=reference), ours, {}) == word


@pytest.mark.parametrize(("value", "word"), [(2.9, "reproduced"), (3.1, "not reproduced")])
def test_what_is_no_comparison_must_hold_a_bare_reference(value, word):
    assert judge(claim("mean", ("static",), Reference(value=value)), AHEAD, {}) == word


@pytest.mark.parametrize(
    ("controls", "word"),
    [
        ({"warmup": AHEAD}, "reproduced"),
        ({"warmup": LEVEL}, "reproduced"),
        ({"warmup": AHEAD, "rescaled": BEHIND}, "reversed by control"),
    ],
)
def test_a_control_that_is_ahead_reverses(controls, word):
    assert judge(claim(reference=Reference()), AHEAD, controls) == word


def test_a_control_reverses_only_an_advantage():
    assert (
        judge(claim(reference=Reference(value=0.6, low=0.5, high=0.8)), BEHIND, {"warmup": BEHIND})
        == "reproduced"
    )
    assert judge(claim(reference=Reference()), LEVEL, {"warmup": BEHIND}) == "not reproduced"


@pytest.mark.parametrize(
    ("measure", "of", "ahead"),
    [
        ("ratio of means", ("grown", "growing"), AHEAD),
        ("ratio of means", ("rescaled", "growing"), AHEAD),
        ("ratio of medians", ("static", "released"), AHEAD),
        ("geometric ratio", ("growing", "grown"), BEHIND),
        ("wins", ("growing", "grown"), Estimate(0.7, 0.6, 0.8)),
        ("probability", ("growing", "grown"), Estimate(0.7, 0.6, 0.8)),
    ],
)
def test_growing_is_ahead_on_the_right_side_of_each_measure(measure, of, ahead):
    asked = claim(measure, of)
    assert side(asked, ahead) == 1
    neutral = 0.5 if measure in ("wins", "probability") else 1.0
    assert side(asked, Estimate(neutral, neutral - 0.1, neutral + 0.1)) == 0
    mirrored = Estimate(*(2 * neutral - end for end in (ahead.value, ahead.high, ahead.low)))
    assert side(asked, mirrored) == -1


@pytest.mark.parametrize("measure", ["ratio of means", "ratio of medians", "probability", "mean"])
def test_one_trial_decides_nothing(measure):
    """Without a spread between trials there is no interval, and neither a verdict nor a side."""
    asked = claim(measure, reference=Reference(value=0.5))
    found = measured_value(
        asked,
        [trained({"growing": np.array([1.0]), "grown": np.array([2.0])})],
        asked.of[: 1 + (measure != "mean")],
    )
    assert np.isnan([found.low, found.high]).all()
    assert (judge(asked, found, {}), side(asked, found)) == ("-", 0)


def test_a_mean_has_no_side():
    assert side(claim("mean", ("static",)), AHEAD) == 0


def test_a_control_takes_the_baselines_place_alone():
    assert claim(of=("grown", "growing")).with_baseline("warmup") == ("warmup", "growing")
    assert claim("wins", ("growing", "grown")).with_baseline("warmup") == ("growing", "warmup")
