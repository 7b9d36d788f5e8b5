"""Paper: each experiment at its published size, its parts, and what is left of it when it is cut short."""

import dataclasses
import itertools
import re
from functools import cache

import pytest

from n3.paper import experiments
from n3.paper.experiments import NAMES

reproduction = cache(experiments.reproduction)
"""A definition of ten thousand trials takes half a second."""

FULL = {
    "figure-2": (40_000, 200, 1),
    "figure-3": (40_000, 10_000, 3),
    "figure-4": (20_000, 10_000, 5),
    "figure-5": (10_000, 10_000, 1),
    "figure-6": (17_783, 200, 401),
    "controller-bessel": (5_000, 100, 1),
    "controller-spirals": (5_000, 100, 1),
    "controller-gaussian": (5_000, 100, 1),
    "scaling-bessel": (5_000, 10, 27),
    "scaling-spirals": (5_000, 10, 27),
    "sizes-mnist1d": (5_000, 10, 6),
}
"""Steps, trials and different cells of each."""


def run_of(part, cells=None):
    """The experiments of a part, or of its first cells, with one trial: ten thousand are slow to check."""
    run = dataclasses.replace(part.study.base.run, seeds=part.study.base.run.seeds[:1])
    base = dataclasses.replace(part.study.base, run=run)
    return dataclasses.replace(part.study, base=base, cells=part.study.cells[:cells], axes=()).experiments()


def cells_of(made):
    return {tuple(sorted(cell.items())) for part in made.parts for cell in part.study.cells}


@pytest.mark.parametrize("name", NAMES)
def test_experiments_have_their_published_size(name):
    made = reproduction(name)
    steps, trials, cells = FULL[name]
    assert {cell.training.steps for part in made.parts for cell in run_of(part, cells=1)} == {steps}
    assert not any("steps" in cell for part in made.parts for cell in part.study.cells)
    assert len({seed for part in made.parts for seed in part.study.base.run.seeds}) == trials
    assert len(cells_of(made)) == cells


@pytest.mark.parametrize("name", ["figure-3", "figure-4", "figure-5"])
def test_the_papers_arms_have_every_trial_once(name):
    made = reproduction(name)
    for arm in ("growing", "grown"):
        own = [part for part in made.parts if arm in part.variants().values()]
        seeds = [seed for part in own for seed in part.study.base.run.seeds]
        assert sorted(seeds) == list(range(10_000))
    controls = {"rescaled", "warmup", "equal-size"}
    assert [controls <= set(part.study.base.run.arms) for part in made.parts] == [True, False, False]


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_is_about_variants_and_cells_that_are_run(name):
    made = reproduction(name)
    names = {called for part in made.parts for called in part.variants().values()}
    for claim in made.claims:
        assert {*claim.of, *claim.controls} <= names
        assert set(claim.where) <= {setting for cell in cells_of(made) for setting, _ in cell}


@pytest.mark.parametrize("name", [n for n in NAMES if n != "figure-6" and not n.startswith("scaling")])
def test_sizing_without_a_target_stands_beside_the_others(name):
    claims = reproduction(name).claims
    assert any(claim.measure == "size" and claim.of == ("information",) for claim in claims)
    assert any("information" in claim.of and len(claim.of) == 2 for claim in claims)


def test_the_papers_network_is_that_of_the_paper():
    (cell, *_) = run_of(reproduction("figure-3").parts[0])
    assert (cell.network.capacity, cell.network.size_input, cell.network.initialisation) == (
        (9,),
        True,
        "unit-uniform",
    )
    assert (cell.training.optimiser, cell.training.learning_rate, cell.training.size_cost) == ("sgd", 1e-3, 0.1)
    assert (cell.training.target_size, cell.task.samples, cell.task.test_samples) == (5.0, 32, 8)
    assert cell.task.data_seed is None
    assert reproduction("figure-2").parts[0].study.base.task.data_seed == 0


def test_classes_differ_in_rate_penalty_and_samples():
    made = reproduction("figure-5")
    (cell,) = run_of(made.parts[0])
    assert (cell.training.learning_rate, cell.training.size_cost, cell.task.samples) == (0.08, 0.01, 40)
    assert [part.study.points for part in made.parts] == [1_000, 1_000, 0]


def test_the_penalty_runs_over_four_decades_with_data_of_their_own():
    weights = sorted(dict(cell)["size_cost"] for cell in cells_of(reproduction("figure-6")))
    assert (weights[0], weights[-1]) == (0.01, 100.0)
    assert weights[200] == pytest.approx(1.0)
    assert len({dict(cell)["data_seed"] for cell in cells_of(reproduction("figure-6"))}) == 401


def test_half_decades_meet_and_hold_all_weights_but_the_last():
    made = reproduction("figure-6")
    ranges = [claim.where["size_cost"] for claim in made.claims]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    inside = [low <= dict(cell)["size_cost"] < high for low, high in ranges for cell in cells_of(made)]
    assert sum(inside) == 400


@pytest.mark.parametrize("name", ["controller-bessel", "controller-spirals", "controller-gaussian"])
def test_controllers_have_the_published_numbers_and_the_released_code_beside_them(name):
    made = reproduction(name)
    main, released, information = (run_of(part)[0] for part in made.parts)
    assert (main.network.method, released.network.method, information.network.method) == (
        "controller",
        "released",
        "information",
    )
    for cell in (main, released):
        assert (cell.network.capacity, cell.task.samples, cell.task.test_samples) == ((10,), 26_214, 6_554)
        assert (cell.training.optimiser, cell.training.learning_rate, cell.training.size_cost) == (
            "adam",
            1e-3,
            0.32,
        )
    assert made.parts[1].variants() == {"growing": "released"}


def test_capacities_and_rates_of_scaling():
    cells = [dict(cell) for cell in cells_of(reproduction("scaling-bessel"))]
    assert sorted({cell["capacity"][0] for cell in cells}) == [2**power for power in range(2, 11)]
    assert {cell["learning_rate"] for cell in cells} == {1e-4, 3e-4, 1e-3}


@pytest.mark.parametrize("name", NAMES)
def test_cut_short_little_is_left_and_the_title_says_so(name):
    made = reproduction(name, quick=True)
    assert "CUT SHORT" in made.title
    assert made.is_cut_short
    told = [
        int(own.replace(",", ""))
        for own in re.findall(r"([\d,]+) (?:steps|training samples|fresh)", made.title)
    ]
    assert set(told) <= {200, 256, 100, 32}
    runs = sum(
        len(p.study.cells) * len(p.study.base.run.seeds) * len(p.study.base.run.arms) for p in made.parts
    )
    assert runs <= 400
    for part in made.parts:
        for cell in run_of(part):
            assert cell.training.steps <= 200
            assert cell.task.samples <= 256
            assert max(cell.network.capacity) <= 32


def test_trials_cut_the_seeds_from_above():
    made = reproduction("figure-3", trials=1_500)
    assert [len(part.study.base.run.seeds) for part in made.parts] == [1_000, 500, 100]
    only, sized = reproduction("figure-3", trials=7).parts
    assert sized.variants() == {"growing": "information"}
    assert (only.name, only.study.base.run.seeds) == ("controls", tuple(range(7)))


def test_trials_win_over_quick():
    parts = reproduction("figure-2", trials=9, quick=True).parts
    assert [len(part.study.base.run.seeds) for part in parts] == [9, 9]


@pytest.mark.parametrize("trials", [0, 201])
def test_trials_beyond_the_published_are_refused(trials):
    with pytest.raises(ValueError, match=rf"`trials` must lie in \[1, 200\]; got {trials}"):
        reproduction("figure-2", trials=trials)


def test_fewer_samples_leave_all_else_and_the_title_says_so():
    full, made = (reproduction("scaling-bessel", **own) for own in ({}, {"samples": 2048}))
    assert "cut to 2,048 samples" in made.title
    for own, part in zip(full.parts, made.parts, strict=True):
        assert (part.study.base.task.samples, part.study.base.task.test_samples) == (2048, 512)
        back = dataclasses.replace(part.study.base, task=own.study.base.task)
        assert dataclasses.replace(part.study, base=back) == own.study


@pytest.mark.parametrize(
    ("name", "samples", "message"),
    [
        ("figure-2", 33, r"`samples` must lie in \[2, 32\]; got 33"),
        ("scaling-bessel", 1, r"`samples` must lie in \[2, 26214\]; got 1"),
        ("sizes-mnist1d", 100, "`samples` cannot be given for `mnist1d`"),
    ],
)
def test_samples_beyond_the_published_are_refused(name, samples, message):
    with pytest.raises(ValueError, match=message):
        reproduction(name, samples=samples)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'figure-2'"):
        reproduction("figure2")


def test_definitions_are_made_afresh():
    first, again = (experiments.reproduction("figure-2") for _ in range(2))
    assert first == again
    assert first is not again
