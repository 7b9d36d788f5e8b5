"""Members: a run of ensembles, the same refitted, what both leave on disk, and what they say of themselves."""

import importlib
import json
from dataclasses import replace
from types import SimpleNamespace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import n3
from documents import documented_variables
from n3.config.grid import Axis, product
from n3.experiments import arms
from n3.experiments.run import load_data
from n3.experiments.study import plan_groups, train_group_cells
from n3.nn.members import Ensemble
from n3.nn.sized import run_of, stack_runs
from n3.surgery.export import load_compact, save_compact
from n3.training.readouts import with_solved_readouts
from trials import tiny

pipeline = importlib.import_module("n3.experiments.run")
ARMS, MEMBERS = ("growing", "static"), 3


def small(out="runs", *, training=None, **run):
    own = {"members": MEMBERS, "steps": 30} | (training or {})
    information = {"criterion": "held-out", "every": 10, "size_rate": 0.05}
    return tiny(out, network={"method": "information"}, training=own, information=information, arms=ARMS, **run)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return n3.run(small(tmp_path_factory.mktemp("members")), has_figures=False, quiet=True)


@pytest.fixture(scope="module")
def refitted(tmp_path_factory):
    experiment = small(tmp_path_factory.mktemp("refit"), training={"refit": True})
    return n3.run(experiment, has_figures=False, quiet=True)


def test_what_members_add_is_documented(record):
    assert {"held_out_loss", "member_loss"} <= set(record.results.data_vars) <= documented_variables()


def mean_square(net, one):
    return float(np.mean((np.asarray(net.batch(jnp.asarray(one.test_inputs.T))) - one.test_targets.T) ** 2))


def test_members_share_their_sizes_and_differ_in_their_weights(record):
    for net in n3.load(record.directory)["growing"]:
        first, *others = net.each()
        for own in others:
            np.testing.assert_array_equal(own.sizes(), first.sizes())
            assert not np.allclose(own.layers[0].weight, first.layers[0].weight)


def test_sizes_are_whole_in_the_end(record):
    sizes = record.results["size"].sel(arm="growing")
    assert np.any(sizes[:, -2] != np.round(sizes[:, -2]))
    np.testing.assert_array_equal(sizes[:, -1], np.round(sizes[:, -1]))


def test_the_held_out_loss_is_that_of_each_sample_by_the_member_without_it(record):
    data, nets = load_data(record.experiment), n3.load(record.directory)
    seeds = record.experiment.run.seeds
    folds = np.asarray(arms.stack(data, members=MEMBERS, seeds=seeds).folds)
    for arm in ARMS:
        for row, (one, net) in enumerate(zip(data, nets[arm], strict=True)):
            outputs = np.stack([own.batch(jnp.asarray(one.train_inputs.T)) for own in net.each()])
            losses = (outputs[folds[row], 0, range(12)] - one.train_targets[:, 0]) ** 2
            found = record.results.sel(arm=arm).isel(seed=row)
            kwargs = {"rtol": 1e-3, "atol": 1e-9}
            np.testing.assert_allclose(found.held_out_loss[-1], losses.mean(), **kwargs)
            np.testing.assert_allclose(found.held_out_error[-1], losses.std(ddof=1) / 12**0.5, **kwargs)
            own = [losses[folds[row] == member] for member in range(MEMBERS)]
            np.testing.assert_allclose(found.member_loss, [each.mean() for each in own], **kwargs)
            constant = (one.train_targets[:, 0] - one.train_targets.mean()) ** 2
            np.testing.assert_allclose(found.constant_loss, constant.mean(), rtol=1e-5)
            gain = constant - losses
            np.testing.assert_allclose(found.held_out_gain, gain.mean(), rtol=1e-4)
            np.testing.assert_allclose(found.held_out_gain_error, gain.std(ddof=1) / 12**0.5, rtol=1e-4)


def test_the_summary_has_the_estimate_with_its_interval(record):
    left = json.loads((record.directory / "summary.json").read_text())
    for arm in ARMS:
        own, last = left["arms"][arm]["held_out_loss"], record.results.sel(arm=arm).isel(step=-1)
        assert own["values"] == pytest.approx(last.held_out_loss.values.tolist())
        assert own["median"] == pytest.approx(np.median(own["values"]))
        for (low, high), loss, error in zip(
            own["run_ci95"], own["values"], last.held_out_error.values, strict=True
        ):
            assert low == pytest.approx(max(0.0, loss - 1.96 * error), rel=1e-3)
            assert high == pytest.approx(loss + 1.96 * error, rel=1e-3)
    assert len(left["arms"]["growing"]["ended_by"]) == 2
    assert "ended_by" not in left["arms"]["static"]
    lines = n3.table(left).splitlines()
    assert max(map(len, lines)) <= 100
    assert ["arm", "test", "loss", "held-out", "loss"] in [line.split()[:5] for line in lines]
    assert lines[-1].startswith("What ended growth: ")


def test_an_ensemble_comes_back_and_predicts_what_was_recorded(record):
    whole, plain = n3.load(record.directory), n3.load(record.directory, compact=True)
    for arm in ARMS:
        for row, one in enumerate(load_data(record.experiment)):
            assert isinstance(whole[arm][row], Ensemble)
            recorded = record.results.test_loss.sel(arm=arm).values[row, -1]
            for net in (whole[arm][row], plain[arm][row]):
                np.testing.assert_allclose(mean_square(net, one), recorded, rtol=1e-3, atol=1e-9)
            assert isinstance(plain[arm][row].members, n3.CompactMLP)


def test_parameters_of_all_members_are_counted(record):
    assert np.all(record.results.active_parameters.sel(arm="static") == MEMBERS * (3 * 4 + 1))


def test_a_refit_takes_the_place_of_the_ensemble_and_leaves_its_estimate(record, refitted):
    whole = n3.load(refitted.directory)
    names = ("held_out_loss", "held_out_error", "member_loss", "readout_strength")
    for name in names:
        np.testing.assert_array_equal(refitted.results[name], record.results[name])
    np.testing.assert_array_equal(refitted.results.test_loss[..., :-1], record.results.test_loss[..., :-1])
    own, members = (found.results.isel(step=-1) for found in (refitted, record))
    has_units = own["size"][..., 0] > 0  # without one both are the mean of the targets
    assert np.any(has_units)
    assert not np.any((own.test_loss == members.test_loss) & has_units)
    for arm in ARMS:
        for row, one in enumerate(load_data(refitted.experiment)):
            net, found = whole[arm][row], refitted.results.sel(arm=arm).isel(seed=row, step=-1)
            np.testing.assert_allclose(mean_square(net, one), found.test_loss, rtol=1e-3, atol=1e-9)
            units = np.ceil(record.results["size"].sel(arm=arm).values[row, -1])
            np.testing.assert_array_equal(net.sizes(), units)
            np.testing.assert_array_equal(found["size"], units)
            assert int(found.active_parameters) == 3 * units[0] + 1
            assert isinstance(n3.compact(net), n3.CompactMLP)


def test_the_readout_of_a_refit_is_the_ridge_of_all_samples_where_it_has_a_strength(refitted):
    nets = stack_runs(n3.load(refitted.directory)["static"])
    recipe = arms.recipe_of(refitted.experiment, "static", data := load_data(refitted.experiment)[0])
    problem, strength = arms.stack([data] * 2), 0.1
    alone = replace(recipe, members=0, held=0)
    found, _ = with_solved_readouts(alone, nets, problem, np.array([strength, np.nan]))
    assert eqx.tree_equal(run_of(found, 1), run_of(nets, 1))
    net, inputs = run_of(found, 0), jnp.asarray(data.train_inputs.T)
    features = np.asarray(net.features(inputs), np.float64).T
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    targets = data.train_targets.astype(np.float64)
    gram = scaled.T @ scaled / 12 + strength * np.eye(4)
    weight = np.linalg.solve(gram, scaled.T @ (targets - targets.mean()) / 12)
    np.testing.assert_allclose(net.batch(inputs).T, scaled @ weight + targets.mean(), rtol=1e-3, atol=1e-5)


def test_an_ensemble_is_exported_and_written_as_one(record, tmp_path):
    from jax import export as jax_export

    whole = n3.load(record.directory)["growing"][0]
    line = jnp.linspace(-1, 1, 7)
    program = jax_export.deserialize(bytearray(n3.export(whole)))
    np.testing.assert_allclose(
        program.call(line[:, None])[:, 0], whole.batch(line[None])[0], rtol=1e-5, atol=1e-6
    )
    save_compact(whole, tmp_path)
    back = load_compact(tmp_path)
    assert isinstance(back, Ensemble)
    np.testing.assert_allclose(back.batch(line[None]), whole.batch(line[None]), rtol=1e-5, atol=1e-6)


def test_surgery_of_an_ensemble_is_refused_with_what_to_do(record):
    whole, data = n3.load(record.directory)["growing"][0], (np.ones((4, 1)), np.arange(4.0))
    for change in (lambda: n3.prune(whole, "importance < 1", data), lambda: n3.expand(whole, units=1)):
        with pytest.raises(
            ValueError, match=r"got an ensemble: take a member by `net.each\(\)`, or .* `refit`"
        ):
            change()


def test_describe_counts_the_members():
    alone, together = n3.describe(small(training={"members": 1})), n3.describe(small(training={"refit": True}))
    assert "members     3 a run = 12 networks, each without one of 3 folds of the samples, then one" in together
    assert "members     1 a run = 4 networks, each without one of 5 folds of the samples" in alone
    assert f"{MEMBERS * (3 * 4 + 1)} weights allocated a run" in together
    sizes = [float(text.split("about ")[1].split()[0]) for text in (alone, together)]
    assert sizes[0] <= sizes[1]


def test_warnings_are_said_once_and_kept(tmp_path, capsys, monkeypatch, record):
    said = [{"kind": "constant", "arm": "static", "seeds": [5], "text": "static, 1 of 2 seeds: so"}]
    monkeypatch.setattr(
        pipeline, "train_cells", lambda *_, **__: SimpleNamespace(recipes={}, staged={}, swept={})
    )
    monkeypatch.setattr(pipeline, "_labelled", lambda *_: record.results)
    monkeypatch.setattr(pipeline, "summarise", lambda _: {"warnings": said})
    n3.run(small(tmp_path), has_figures=False, quiet=True)
    assert capsys.readouterr().err.splitlines() == ["warning: static, 1 of 2 seeds: so"]


def test_cells_of_a_study_train_their_members_in_one_program(record):
    study = product(small(), [Axis("learning_rate", (1e-2, 1e-3))])
    (group,) = plan_groups(study)
    found = train_group_cells(study, group, quiet=True)
    assert dict(found.sizes) | {"cell": 2, "arm": 2, "seed": 2, "member": MEMBERS} == dict(found.sizes)
    own = found.sel(cell=0).transpose(*record.results.held_out_loss.dims, ...)
    np.testing.assert_allclose(own.held_out_loss[..., 0], record.results.held_out_loss[..., 0], rtol=1e-4)


@pytest.mark.parametrize("axis", [Axis("refit", (False, True)), Axis("readout", ("trained", "solved"))])
def test_cells_that_end_in_other_ways_are_groups_of_their_own(axis):
    assert len(plan_groups(product(small(), [axis]))) == 2


def test_a_batch_must_fit_in_what_a_member_trains_on():
    with pytest.raises(ValueError, match=r"`batch` must lie in \[1, 8\]"):
        load_data(small(training={"batch": 9}))


@pytest.mark.slow
def test_a_run_without_a_unit_starts_again_from_all_and_says_so(tmp_path, capsys):
    own = small(tmp_path, training={"initial_size": 0.3, "steps": 200, "learning_rate": 0.03})
    still = {"criterion": "held-out", "settle": 0.0, "birth": 0.0, "birth_end": 0.0, "every": 10}
    again = n3.run(replace(own, information=n3.InformationConfig(**still)), has_figures=False)
    last = again.results.isel(step=-1).sel(arm="growing")
    sizes, found = last["size"].values[:, 0], last["restarted"].values
    assert found.any()
    np.testing.assert_array_equal(sizes > 0, found)
    assert (last["held_out_gain"] > 2 * last["held_out_gain_error"]).values[found].all()
    assert "a second start, from all units" in capsys.readouterr().err
    assert not again.results["restarted"].sel(arm="static").values.any()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["controller", "auxiliary"])
def test_members_share_the_sizes_of_every_method(tmp_path, method):
    own = small(tmp_path, training={"steps": 10})
    own = replace(own, network=replace(own.network, method=method), information=n3.InformationConfig())
    found = n3.run(own, has_figures=False, quiet=True)
    for net in n3.load(found.directory)["growing"]:
        first, *others = net.each()
        for other in others:
            np.testing.assert_array_equal(other.sizes(), first.sizes())
