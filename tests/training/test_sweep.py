"""Sweep: many runs in one program, each equal to the run it would have been alone, in whatever capacity."""

import dataclasses
import importlib
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.information.measures import LayerMonitor
from n3.information.sizing import DriveHypers, InformationDrive
from n3.nn.losses import LossWeights, Samples
from n3.training.placement import placement_of
from n3.training.step import Hypers, Problem, Recipe, train
from n3.training.sweep import (
    narrowed,
    rows_of_stops,
    sweep,
    tier_of,
    widened,
)
from networks import network

module = importlib.import_module("n3.training.sweep")

RUNS, BLOCK = 7, 2  # the last block is filled up, on one device, on two and on four
RECIPE = Recipe(in_size=1, out_size=1, capacity=(6,), optimiser="sgd", batch=8)
STOPS = np.array([0, 20, 60, 120])
KEYS = jr.split(jr.key(0), RUNS)
RATES = np.array([1e-3, 3e-3, 1e-2, 2e-2, 5e-3, 1e-2, 1e-2], np.float32)


def constant(value, *shape):
    return jnp.asarray(np.full((RUNS, *shape), value, np.float32))


def samples(seed, count):
    x = np.random.default_rng(seed).uniform(-1.0, 1.0, (RUNS, 1, count)).astype(np.float32)
    return Samples(jnp.asarray(x), jnp.asarray(np.sin(4 * x)), constant(1.0 / count, count))


PROBLEM = Problem(samples(7, 24), samples(8, 16), constant(1.0, 1))


def hypers(rates=1e-2, sizes=0.3):
    each = constant(1.0)
    rates, sizes = (constant(value) for value in (rates, sizes))
    return Hypers(
        rates, LossWeights(sizes, constant(0.0)), constant(0.0, 1), constant(6.0), each, constant(120.0)
    )


def run(numbers=None, *, recipe=RECIPE, problem=PROBLEM, keys=KEYS, **options):
    options = {"stops": STOPS, "block": BLOCK, "devices": jax.devices()[:1], **options}
    return sweep(recipe, hypers() if numbers is None else numbers, problem, keys=keys, **options)


def equal(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


@pytest.fixture(scope="module")
def base():
    """Seven runs on one device."""
    return run()


def test_a_row_equals_its_run_alone():
    numbers, alone = hypers(RATES), eqx.filter_jit(train)
    swept = run(numbers)
    for row in (0, 3, RUNS - 1):
        own = jax.tree.map(lambda leaf, row=row: leaf[row], (numbers, PROBLEM))
        state, records = alone(RECIPE, *own, key=KEYS[row], stops=jnp.asarray(STOPS))
        np.testing.assert_allclose(swept.records.test_loss[row], records.test_loss, rtol=1e-4)
        np.testing.assert_allclose(swept.records.size[row], records.size, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(
            swept.state.net.readout.weight[row], state.net.readout.weight, rtol=1e-4, atol=1e-6
        )


def test_other_blocks_change_only_the_rounding_and_one_compilation_serves_a_whole_grid(base, caplog):
    """In one test, for no other has its program: blocks of all seven runs."""

    def compiled(numbers):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            swept = run(numbers, block=None)
        return swept, " ".join(record.getMessage() for record in caplog.records)

    whole, told = compiled(hypers())
    np.testing.assert_allclose(whole.records.train_loss, base.records.train_loss, rtol=1e-4)
    weights = (swept.state.net.readout.weight for swept in (whole, base))
    np.testing.assert_allclose(*weights, rtol=1e-3, atol=1e-5)
    assert "begin" in told
    assert "onward" in told
    grid, told = compiled(hypers(RATES, np.linspace(0.0, 1.0, RUNS)))
    assert "begin" not in told
    assert "onward" not in told
    assert grid.compile_seconds < 0.5 * whole.compile_seconds
    assert not np.array_equal(grid.records.test_loss, whole.records.test_loss)


@pytest.mark.skipif(len(jax.devices()) < 4, reason="needs four devices")
def test_four_devices_equal_one_and_never_talk(base, monkeypatch):
    texts, compile_ = [], jax.stages.Lowered.compile

    def kept(lowered, *options):
        made = compile_(lowered, *options)
        texts.append(made.as_text())
        return made

    for programs in (module._drawing, module._onward):
        programs.cache_clear()  # another test may have compiled them
    monkeypatch.setattr(jax.stages.Lowered, "compile", kept)
    four = run(devices=jax.devices()[:4])
    assert equal((four.records, four.state.net), (base.records, base.state.net))
    assert len(texts) == 2
    assert all("num_partitions=4" in text for text in texts)
    words = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
    assert not any(word in text for word in words for text in texts)


def test_a_diverged_run_changes_no_other(base):
    broken = run(hypers(np.where(np.arange(RUNS) == 2, np.nan, 1e-2)))
    others = np.arange(RUNS) != 2
    assert int(broken.state.diverged_at[2]) == 1
    assert np.all(np.asarray(broken.state.diverged_at)[others] == -1)
    for a, b in zip(jax.tree.leaves(base.records), jax.tree.leaves(broken.records), strict=True):
        assert np.array_equal(a[others], b[others])


def test_records_are_those_of_the_stops_and_progress_reaches_the_end(base):
    seen, few = [], []
    many = run(stops=np.arange(41), progress=seen.append)  # 13 chunks of three stops and one of two
    assert seen == [*range(2, 39, 3), 40]
    assert many.records.train_loss.shape == (RUNS, 41)
    np.testing.assert_allclose(base.records.test_loss[:, :2], many.records.test_loss[:, [0, 20]], rtol=1e-6)
    assert len(np.unique(many.records.test_loss)) == RUNS * 41
    run(stops=STOPS[:3], progress=few.append)
    assert few == [0, 20, 60]


def test_rows_of_stops_are_filled_up_with_the_last():
    rows = rows_of_stops(np.arange(41))
    assert rows.shape == (14, 3)
    assert rows.ravel().tolist() == [*range(41), 40]
    assert rows_of_stops(np.array([0, 5, 9]), 2).tolist() == [[0, 5], [9, 9]]
    assert rows_of_stops(STOPS).shape == (4, 1)


def test_a_sweep_goes_on_from_where_another_ended_and_compiles_nothing_anew(base, caplog):
    first = run(stops=STOPS[:2])
    with jax.log_compiles(), caplog.at_level("WARNING"):
        onward = run(stops=np.array([20, 60, 60, 120]), start=(20, first.state))
    told = " ".join(record.getMessage() for record in caplog.records)
    assert "onward" not in told
    assert np.array_equal(onward.records.test_loss, base.records.test_loss[:, [1, 2, 2, 3]])
    assert equal(onward.state.net, base.state.net)
    assert np.isfinite(first.state.net.readout.weight).all()  # what is given is not used up
    with pytest.raises(ValueError, match="from 20 on"):
        run(stops=np.array([10, 60]), start=(20, first.state))


def test_unequal_rows_and_bad_stops_are_refused():
    with pytest.raises(ValueError, match="one row a run"):
        run(keys=KEYS[:5])
    with pytest.raises(ValueError, match="do not decrease"):
        run(stops=np.array([0, 5, 4]))
    with pytest.raises(ValueError, match="do not decrease"):
        run(stops=np.array([], int))


@pytest.mark.devices
def test_an_accelerator_agrees_with_the_cpu():
    accelerator, cpu = run(block=None), run(devices=jax.devices("cpu")[:1])
    assert jax.devices()[0].platform != "cpu"
    np.testing.assert_allclose(accelerator.records.test_loss[:, :2], cpu.records.test_loss[:, :2], rtol=1e-2)


@pytest.mark.devices
@pytest.mark.parametrize("members", [0, 3])
def test_an_accelerator_in_full_precision_agrees_with_the_cpu_to_the_end(members):
    folds = jnp.broadcast_to(jnp.arange(24) % 3, (RUNS, 24))
    own = {"recipe": replace(RECIPE, members=members, held=8), "problem": replace(PROBLEM, folds=folds)}
    own = {**(own if members else {}), "block": None}
    with jax.default_matmul_precision("highest"):
        accelerator, cpu = run(**own), run(devices=jax.devices("cpu")[:1], **own)
    assert jax.devices()[0].platform != "cpu"
    for name in ("train_loss", "test_loss", "size"):
        pair = (getattr(swept.records, name) for swept in (accelerator, cpu))
        np.testing.assert_allclose(*pair, rtol=1e-3, atol=1e-6)


def test_blocks_fit_the_cache_whatever_the_number_of_runs():
    recipe = replace(RECIPE, capacity=(10,))
    assert {placement_of(recipe, 1024, runs, on_cpu=True).block for runs in (1, 10, 12)} == {4}
    assert placement_of(replace(recipe, members=5), 1024, 10, on_cpu=True).block == 1
    assert placement_of(replace(recipe, capacity=(9,)), 32, 2048, on_cpu=True).block == 16
    assert placement_of(RECIPE, 1024, 50, on_cpu=False).block == 50


@pytest.mark.parametrize(("has_keys", "has_samples"), [(True, False), (False, True), (False, False)])
def test_a_key_and_samples_of_its_own_for_each_row(has_keys, has_samples):
    first = np.zeros(RUNS, int)
    problem = (
        PROBLEM if has_samples else jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[first]), PROBLEM)
    )
    swept = run(problem=problem, keys=KEYS if has_keys else KEYS[first])
    distinct = RUNS if has_keys or has_samples else 1
    assert len(set(swept.records.test_loss[:, -1].tolist())) == distinct


@pytest.mark.parametrize(
    ("sight", "capacity", "tier"),
    [
        (3.0, (64,), (32,)),
        (32.0, (64,), (32,)),
        (33.0, (64,), (64,)),
        (99.0, (80,), (80,)),
        (40.0, (100, 8), (64, 8)),
    ],
)
def test_tiers_by_hand(sight, capacity, tier):
    assert tier_of(sight, capacity, least=32) == tier


def test_what_is_cut_comes_back_and_what_changed_meanwhile_stays():
    whole = {"weight": np.arange(30.0, dtype=np.float32).reshape(2, 5, 3), "count": np.arange(2)}
    like = {
        "weight": jax.ShapeDtypeStruct((2, 2, 3), jnp.float32),
        "count": jax.ShapeDtypeStruct((2,), jnp.int32),
    }
    part = narrowed(whole, like)
    assert np.array_equal(part["weight"], whole["weight"][:, :2])
    back = widened({"weight": part["weight"] + 1.0, "count": part["count"] + 7}, whole)
    assert np.array_equal(back["weight"][:, :2], whole["weight"][:, :2] + 1.0)
    assert np.array_equal(back["weight"][:, 2:], whole["weight"][:, 2:])
    assert np.array_equal(back["count"], whole["count"] + 7)


def test_what_a_layer_chooses_by_is_no_unit_and_is_never_cut():
    whole, like = (network("information", (units,), activation="choose:tanh,sin") for units in (3, 2))
    part = narrowed(whole, like)
    assert part.choice.logits is whole.choice.logits
    assert part.layers[0].weight.shape == (2, 2)
    changed = np.asarray(part.choice.logits) + 1.0
    back = widened(eqx.tree_at(lambda n: n.choice.logits, part, changed), whole)
    assert np.array_equal(back.choice.logits, changed)
    assert np.array_equal(back.layers[0].weight, whole.layers[0].weight)


DRIVE = InformationDrive(is_classes=False, every=10, look_ahead=2, until=80, birth_until=50)
SIZING = Recipe(in_size=1, out_size=1, capacity=(16,), controller="information", drive=DRIVE)


def sized(rate=0.05, price=0.001, recipe=SIZING, first=4.0):
    """Seven runs whose sizes begin low."""
    each = constant(1.0)
    drive = {field.name: constant(0.0) for field in dataclasses.fields(DriveHypers)}
    drive |= {"price": constant(price), "birth": constant(0.01), "rate": constant(rate)}
    first = jnp.asarray(np.array([0.5, 1.0, first, 0.5, 1.0, 0.5, 1.0], np.float32)[:, None])
    weights = LossWeights(constant(0.0), constant(0.0))
    numbers = Hypers(constant(1e-2), weights, first, each, each, constant(300.0), DriveHypers(**drive))
    return run(numbers, recipe=recipe, stops=np.array([0, 40, 90]))


@pytest.fixture
def tiered(monkeypatch):
    """Tiers of 8 units and more; the capacities that were compiled, in their order."""
    compiled = []
    monkeypatch.setattr(module, "CHECKS", 8)
    monkeypatch.setattr(module, "LEAST_TIER", 8)
    monkeypatch.setattr(
        module,
        "narrowed",
        lambda *own, cut=narrowed: compiled.append(own[1].net.controller.capacity) or cut(*own),
    )
    return compiled


@pytest.mark.slow
def test_a_run_in_tiers_is_the_run_at_full_capacity(tiered, monkeypatch):
    in_tiers = sized()
    assert tiered[0] == (8,)
    assert (16,) in tiered
    monkeypatch.setattr(module, "LEAST_TIER", 16)
    whole = sized()
    assert float(whole.records.size.max()) > 5.0
    assert in_tiers.records.size.shape == whole.records.size.shape == (RUNS, 3, 1)
    np.testing.assert_allclose(in_tiers.records.size, whole.records.size, rtol=1e-3)
    np.testing.assert_allclose(in_tiers.records.test_loss, whole.records.test_loss, rtol=5e-3)
    assert jax.tree.map(jnp.shape, in_tiers.state) == jax.tree.map(jnp.shape, whole.state)
    untouched = whole.state.net.layers[0].weight[0, -1]
    assert np.array_equal(in_tiers.state.net.layers[0].weight[0, -1], untouched)


@pytest.mark.slow
@pytest.mark.parametrize(("controller", "first"), [("controller", 4.0), ("auxiliary", 9.0)])
def test_a_size_that_adam_moves_only_so_far_is_trained_in_tiers(tiered, monkeypatch, controller, first):
    monkeypatch.setattr(module, "LEAST_WORK", 1)
    plain = replace(SIZING, controller=controller, drive=None)
    in_tiers = sized(recipe=plain, first=first)
    assert {(8,), (16,)} <= set(tiered)
    monkeypatch.setattr(module, "LEAST_TIER", 16)
    whole = sized(recipe=plain, first=first)
    np.testing.assert_allclose(in_tiers.records.size, whole.records.size, rtol=1e-3)
    np.testing.assert_allclose(in_tiers.records.test_loss, whole.records.test_loss, rtol=5e-3)


@pytest.mark.parametrize(
    ("changes", "is_known"),
    [
        ({}, True),
        ({"optimiser": "sgd"}, False),  # which no bound holds
        ({"layerwise": True}, False),
        ({"controller": "warmup"}, False),  # of which all units take part
        ({"capacity": (8,)}, False),
        ({"monitor": LayerMonitor(names=("importance",), is_classes=False)}, False),  # which sees all units
    ],
)
def test_tiers_need_a_size_that_is_bounded_beforehand(tiered, changes, is_known):
    plain = replace(SIZING, controller="controller", drive=None)
    assert module._is_tiered(replace(plain, **changes), module.LEAST_WORK) == is_known
    assert not module._is_tiered(plain, module.LEAST_WORK // 16 - 1)


def test_a_run_in_tiers_does_not_depend_on_its_neighbours(tiered):
    alike, other = sized(), sized(first=0.5)
    assert (8,) in tiered
    assert (16,) in tiered
    same = np.arange(RUNS) != 2  # which begins with 4 units, or with 0.5
    assert not np.array_equal(alike.records.size[2], other.records.size[2])
    for name in ("size", "train_loss", "test_loss"):
        own, with_others = (getattr(each.records, name)[same] for each in (alike, other))
        np.testing.assert_array_equal(own, with_others)


@pytest.mark.parametrize(("price", "most"), [(0.001, (16,)), (10.0, (8,))])
def test_a_run_whose_size_is_lost_decides_no_tier(tiered, price, most):
    is_lost = np.arange(RUNS) == 1
    swept = sized(rate=np.where(is_lost, np.nan, 0.05), price=price)
    assert max(tiered) == most
    assert np.isnan(swept.records.size[is_lost, -1]).all()
    assert np.isfinite(swept.records.test_loss[~is_lost]).all()


class AskedError(Exception):
    """Ends a sweep before its program is compiled."""


@pytest.mark.parametrize(("custom", "capacity"), [(None, (8,)), (lambda a, t: a.sum(0), (16,))])
def test_a_users_importance_sees_every_unit(tiered, monkeypatch, custom, capacity):
    asked = []

    class Asked(module.Programs):
        def __init__(self, recipe, *others):
            super().__init__(recipe, *others)
            self.capacity = recipe.capacity

        def onward(self, width):
            asked.append(self.capacity)
            raise AskedError

    monkeypatch.setattr(module, "Programs", Asked)
    with pytest.raises(AskedError):
        sized(recipe=replace(SIZING, drive=replace(DRIVE, custom=custom)))
    assert asked == [capacity]


def test_a_program_serves_every_sweep_of_its_shapes(monkeypatch):
    """A second start, and each block of runs, would be compiled anew."""
    started, submit = [], module._COMPILERS.submit
    monkeypatch.setattr(module._COMPILERS, "submit", lambda *own: (started.append(own), submit(*own))[1])
    recipe = replace(RECIPE, mask="hard", capacity=(7,))
    first = run(recipe=recipe)
    assert len(started) == 2
    second = run(recipe=recipe)
    assert len(started) == 2
    assert all(map(np.array_equal, jax.tree.leaves(first.records), jax.tree.leaves(second.records)))
    run(recipe=replace(recipe, capacity=(6,)))
    assert len(started) == 4


def test_a_program_is_compiled_anew_for_other_precision():
    arguments, mesh = (jnp.ones(4),), jax.sharding.Mesh(np.array(jax.devices()[:1]), ("runs",))
    with jax.enable_x64(True):
        wide = module.Programs(RECIPE, 1, mesh, arguments)._key
    assert wide != module.Programs(RECIPE, 1, mesh, arguments)._key


def test_final_states_lie_on_one_device():
    """A slice of a state that several devices share makes them wait for each other."""
    assert jax.device_count() > 1
    found = run(devices=jax.devices()).state
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(found)} == {1}
