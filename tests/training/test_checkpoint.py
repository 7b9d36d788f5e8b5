"""Checkpoints: whole or not there, verified, of the same settings; and training that goes on to the bit."""

import importlib
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import n3
from interrupts import Cuts, cut_up
from n3.config.experiment import InformationConfig, StructureConfig
from n3.experiments import arms
from n3.experiments.run import load_splits
from n3.surgery.export import from_bytes, to_bytes
from n3.tracing.grow import grow
from n3.training import checkpoint as checkpoints
from n3.training.checkpoint import (
    BusyError,
    CheckpointError,
    Checkpoints,
    Interrupted,
    damages,
    owned,
    read_manifest,
    write_manifest,
)
from n3.training.fit import in_words
from n3.training.restructure import Rules, train_in_stages
from n3.training.sweep import sweep
from trials import tiny

STATE = {"weight": jnp.arange(6.0).reshape(2, 3), "key": jr.split(jr.key(3), 2), "count": jnp.asarray(7)}
RECORDS = {"loss": np.array([0.5, np.nan, -np.inf])}


def plain(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jr.key_data(leaf) if is_key else leaf)


def assert_equal(one, other):
    """Two trees are equal to the bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if hasattr(mine, "dtype"):
            assert plain(mine).tobytes() == plain(theirs).tobytes()


@pytest.fixture
def saved(tmp_path):
    """Three checkpoints, of which two are kept."""
    made = Checkpoints(folder=tmp_path / "own", identity={"samples": "abc"})
    for step in (1, 2, 3):
        made.write({**STATE, "count": jnp.asarray(step)}, RECORDS, {"step": step})
    return made


def newest(made):
    return sorted(made.folder.iterdir())[-1]


def test_what_is_written_comes_back_with_its_keys(saved):
    found = saved.newest()
    assert found.facts["step"] == 3
    assert_equal(found.state(jax.eval_shape(lambda: STATE)), {**STATE, "count": jnp.asarray(3)})
    np.testing.assert_array_equal(found.records["loss"], RECORDS["loss"])
    assert len(list(saved.folder.iterdir())) == 2


def test_a_key_of_another_kind_is_refused():
    content = to_bytes({"key": jr.key(0)})
    with pytest.raises(ValueError, match=r"key<fry>|key<rbg>"):
        from_bytes(content, {"key": jr.key(0, impl="rbg")}, source="here")


@pytest.mark.parametrize("like", [{**STATE, "weight": jnp.ones((2, 2))}, {"weight": STATE["weight"]}])
def test_a_state_of_another_shape_is_refused(saved, like):
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        saved.newest().state(like)


@pytest.mark.parametrize("name", ["state.safetensors", "records.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(saved, name, damage, capsys):
    path = newest(saved) / name
    content = path.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    path.write_bytes({"flip": flipped, "cut": content[:-1], "empty": b"", "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    assert saved.newest().facts["step"] == 2
    assert str(path) in capsys.readouterr().err
    saved.write(STATE, RECORDS, {"step": 4})
    assert saved.newest().facts["step"] == 4


def test_where_all_are_damaged_nothing_is_used_and_nothing_overwritten(saved):
    for path in saved.folder.glob("*/state.safetensors"):
        path.write_bytes(b"")
    before = sorted(saved.folder.rglob("*"))
    with pytest.raises(CheckpointError, match="Nothing was overwritten"):
        saved.newest()
    assert sorted(saved.folder.rglob("*")) == before


def test_other_samples_and_another_precision_are_refused_by_name(saved):
    saved.identity = {"samples": "abd"}
    with pytest.raises(CheckpointError, match=r"of other samples \(abc there, abd here\)"):
        saved.newest()
    saved.identity = {"samples": "abc"}
    with jax.enable_x64(True), pytest.raises(CheckpointError, match="precision"):
        saved.newest()


def test_another_version_of_the_program_is_told(saved, capsys, monkeypatch):
    monkeypatch.setattr(checkpoints.jaxlib.version, "__version__", "0.0.1")
    assert saved.newest().facts["step"] == 3
    assert "jaxlib 0.0.1 in place of" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_what_cannot_be_written_leaves_the_ones_before(saved, call, monkeypatch):
    def full(*_):
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="no space left"):
            saved.write(STATE, RECORDS, {"step": 4})
    assert saved.newest().facts["step"] == 3
    assert not list(saved.folder.glob("*.part"))


def test_the_manifest_tells_of_every_byte_that_changes(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    write_manifest(tmp_path, {"step": 3, "seconds": {"wall": 0.1}}, ["a"])
    assert read_manifest(tmp_path)["seconds"] == {"wall": 0.1}
    content = (tmp_path / "manifest.json").read_bytes()
    for place in range(len(content)):
        flipped = bytes([content[place] ^ 1])
        (tmp_path / "manifest.json").write_bytes(content[:place] + flipped + content[place + 1 :])
        assert damages(tmp_path), place


HOLD = """
import sys, time
from pathlib import Path
from n3.training.checkpoint import owned
with owned(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_has_one_owner_and_a_killed_one_has_it_no_more(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        try:
            with pytest.raises(BusyError, match=f"in use by process {process.pid} "), owned(tmp_path):
                pass
        finally:
            process.kill()
            process.wait()
        with owned(tmp_path), pytest.raises(BusyError), owned(tmp_path):
            pass
    assert (tmp_path / ".lock").read_text() == ""


def test_a_signal_waits_for_the_next_checkpoint(tmp_path):
    own = Checkpoints(folder=tmp_path)

    def train():
        with own.deferring():
            os.kill(os.getpid(), signal.SIGTERM)
            assert not list(tmp_path.iterdir())
            own.part("arm").reached(lambda: (STATE, RECORDS, {"step": 1}), is_last=False)

    with pytest.raises(Interrupted, match="SIGTERM") as caught:
        train()
    assert caught.value.number == signal.SIGTERM
    assert own.part("arm").newest().facts["step"] == 1


def test_a_second_interrupt_is_one_at_once_and_handlers_come_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def train():
        with Checkpoints(folder=tmp_path).deferring():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        train()
    assert not isinstance(caught.value, Interrupted)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_no_more_than_asked_for_is_written(tmp_path):
    own = Checkpoints(folder=tmp_path, every=1e9)
    own.reached(lambda: (STATE, RECORDS, {"step": 1}), is_last=False)
    assert not list(tmp_path.iterdir())
    own.reached(lambda: (STATE, RECORDS, {"step": 1}), is_last=True)
    assert len(list(tmp_path.iterdir())) == 1


def problem_of(experiment, arm="growing"):
    experiment = experiment.resolved()
    data, held = load_splits(experiment)
    own = {"keys": jax.vmap(jr.key)(jnp.array(experiment.run.seeds)), "stops": arms.stops_of(experiment)}
    recipe = arms.recipe_of(experiment, arm, data[0])
    hypers = arms.hypers_of(experiment, arm, data=data, active=None)
    return (recipe, hypers, arms.stack(data)), own, held


SMALL = {"training": {"steps": 12}, "records": 6, "seeds": (5, 3, 8)}


def test_a_sweep_goes_on_to_the_bit_and_a_finished_one_trains_nothing(tmp_path, monkeypatch):
    problem, own, _ = problem_of(tiny(**SMALL))
    whole = sweep(*problem, **own)

    def train():
        return sweep(*problem, **own, checkpoint=Checkpoints(folder=tmp_path, every=0.0))

    pieces, ended = cut_up(monkeypatch, train, every=2)
    assert ended == 3
    assert_equal((pieces.state, pieces.records), (whole.state, whole.records))
    steps = []
    again = sweep(*problem, **own, checkpoint=Checkpoints(folder=tmp_path), progress=steps.append)
    assert steps == []
    assert_equal((again.state, again.records), (whole.state, whole.records))
    assert again.cpu_seconds > 0


@pytest.mark.slow
def test_a_sweep_in_tiers_goes_on_to_the_bit(tmp_path, monkeypatch):
    engine, seen = importlib.import_module("n3.training.sweep"), []
    monkeypatch.setattr(engine, "LEAST_TIER", 4)
    cut = engine.narrowed
    monkeypatch.setattr(
        engine, "narrowed", lambda *own: seen.append(own[1].net.controller.capacity) or cut(*own)
    )
    information = {"price": 1e-6, "every": 2, "size_rate": 1.0}
    network = {"method": "information", "capacity": (16,)}
    problem, own, _ = problem_of(tiny(**SMALL, network=network, information=information))
    whole = sweep(*problem, **own)
    assert len(set(seen)) > 1
    folder = {"checkpoint": Checkpoints(folder=tmp_path, every=0.0)}
    pieces, ended = cut_up(monkeypatch, lambda: sweep(*problem, **own, **folder), every=2)
    assert ended > 1
    assert_equal((pieces.state, pieces.records), (whole.state, whole.records))


def test_a_sweep_of_other_numbers_is_refused(tmp_path):
    problem, own, _ = problem_of(tiny(**SMALL))
    sweep(*problem, **own, checkpoint=Checkpoints(folder=tmp_path))
    other, _, _ = problem_of(tiny(**SMALL | {"training": {"steps": 12, "learning_rate": 0.5}}))
    with pytest.raises(CheckpointError, match="of other settings"):
        sweep(*other, **own, checkpoint=Checkpoints(folder=tmp_path))


@pytest.mark.slow
def test_stages_of_changed_capacity_go_on_to_the_bit(tmp_path, monkeypatch):
    experiment = tiny(network={"method": "information", "capacity": (40,)}, **SMALL | {"records": 12})
    structure = StructureConfig(structure_every=4, expand=9, plateau=1e9)
    (recipe, hypers, problem), own, held = problem_of(replace(experiment, structure=structure))
    rules = Rules(
        config=structure, arm="growing", seeds=SMALL["seeds"], is_classes=False, held=arms.stack(held).test
    )
    how = {**own, "rules": rules}
    whole, staged = train_in_stages(recipe, hypers, problem, **how)

    def train():
        return train_in_stages(
            recipe, hypers, problem, **how, checkpoint=Checkpoints(folder=tmp_path, every=0.0)
        )

    (pieces, again), ended = cut_up(monkeypatch, train, every=4)
    assert ended >= 2
    assert_equal((pieces.state, pieces.records), (whole.state, whole.records))
    assert again.decisions == staged.decisions


X = np.random.default_rng(9).uniform(-1.0, 1.0, (80, 2)).astype(np.float32)
Y = np.sin(3 * X[:, :1]) * X[:, 1:]
VALIDATION = (X[:20] + 0.01, Y[:20])
KEY = jr.key(4)


def network(key=KEY):
    hidden, readout = jr.split(key)
    layers = [eqx.nn.Linear(2, 8, key=hidden), eqx.nn.Lambda(jnp.tanh), eqx.nn.Dropout(0.1)]
    return eqx.nn.Sequential([*layers, eqx.nn.Linear(8, 1, key=readout)])


def grown(**how):
    return grow(network(), example=X[0], key=KEY, **how)


def batches():
    return [(X[start : start + 16], Y[start : start + 16]) for start in range(0, 80, 16)]


HELD_OUT = InformationConfig(criterion="held-out", every=20)
FITS = {
    "plain": lambda: (network(), (X, Y), {"validation_data": VALIDATION}),
    "stream": lambda: (network(), batches(), {}),
    "information": lambda: (grown(), (X, Y), {"monitor": "importance", "validation_data": VALIDATION}),
    "members": lambda: (grown(), (X, Y), {"information": HELD_OUT, "members": 3, "refit": True}),
    "structure": lambda: (
        grown(),
        (X, Y),
        {
            "structure": StructureConfig(structure_every=30, plateau=1e9, prune="importance < 0.2"),
            "validation_data": VALIDATION,
        },
    ),
    "runs": lambda: (
        eqx.filter_vmap(network)(jr.split(KEY, 2)),
        (X, Y),
        {"key": jr.split(KEY, 2), "validation_data": VALIDATION},
    ),
}


def trained(name, **settings):
    model, data, own = FITS[name]()
    usual = {"steps": 120, "key": KEY, "batch": 20, "learning_rate": 0.01, "quiet": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what so short a run has not learnt
        return n3.fit(model, data, **usual | own | settings)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ("members", "structure") else ()) for name in FITS],
)
def test_a_fit_goes_on_to_the_bit(name, tmp_path, monkeypatch):
    model, history = trained(name)
    (again, recorded), ended = cut_up(
        monkeypatch, lambda: trained(name, checkpoint=tmp_path, checkpoint_every=0.0), every=3
    )
    assert ended >= 1
    assert_equal(again, model)
    for field, value in vars(history).items():
        np.testing.assert_equal(getattr(recorded, field), value, field)
    cuts = Cuts(monkeypatch)
    assert_equal(trained(name, checkpoint=tmp_path)[0], model)
    assert cuts.written == 0


def test_a_fit_takes_more_steps_where_nothing_else_follows_from_them(tmp_path, capsys):
    trained("plain", checkpoint=tmp_path, steps=50, quiet=False)
    assert "continues" not in capsys.readouterr().err
    longer, history = trained("plain", checkpoint=tmp_path, quiet=False)
    assert f"`fit` continues from step 50 of {tmp_path}\n" in capsys.readouterr().err
    assert_equal(longer, trained("plain")[0])
    assert history.step[-1] == 120
    with pytest.raises(CheckpointError, match="step 120: `steps` must be as many; got 50"):
        trained("plain", checkpoint=tmp_path, steps=50)


def test_a_fit_of_another_model_of_the_same_arrays_is_refused(tmp_path):
    models = [eqx.nn.MLP(2, 1, 8, 1, activation, key=jr.key(1)) for activation in (jnp.tanh, jnp.sin)]
    how = {"steps": 25, "key": KEY, "batch": 20, "learning_rate": 0.01, "quiet": True, "checkpoint": tmp_path}
    inputs = np.ones((40, 2), np.float32)
    n3.fit(models[0], (inputs, inputs[:, :1]), **how)
    n3.fit(models[0], (inputs, inputs[:, :1]), **how)
    with pytest.raises(CheckpointError, match="of other parts of the model"):
        n3.fit(models[1], (inputs, inputs[:, :1]), **how)


class Scaled:
    def __call__(self, output, target):
        return jnp.sum((output - target) ** 2)


def test_a_function_is_known_in_another_process_by_its_name_or_by_what_it_prints():
    for one in (partial(jnp.sum, axis=0), Scaled(), jnp.tanh, optax.constant_schedule(0.1)):
        assert "0x" not in in_words(one)
    assert in_words(partial(jnp.sum, axis=0)) != in_words(partial(jnp.sum, axis=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint_every": -1.0}, "`checkpoint_every` must be seconds, zero or more; got -1.0"),
        ({"checkpoint_every": np.nan}, "`checkpoint_every` must be seconds"),
        ({"checkpoint": ""}, "`checkpoint` must name a folder"),
        ({"checkpoint": "."}, "`checkpoint` must name a folder"),
    ],
)
def test_where_and_how_often_checkpoints_are_written_is_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        trained("plain", **settings)


@pytest.mark.parametrize("change", [{"sha256": {}}, {"step": "x"}, {"stops": "x"}, {"run_seconds": "x"}])
def test_a_checkpoint_whose_manifest_is_of_another_kind_is_damaged(saved, change, capsys):
    newest = sorted(saved.folder.iterdir())[-1]
    facts = read_manifest(newest)
    sums = facts.pop("sha256")
    write_manifest(newest, {**facts, **change}, [] if "sha256" in change else list(sums))
    assert saved.newest().folder != newest
    assert "is damaged" in capsys.readouterr().err


def test_a_checkpoint_whose_manifest_leaves_a_file_out_is_damaged(saved):
    newest = sorted(saved.folder.iterdir())[-1]
    facts = read_manifest(newest)
    write_manifest(
        newest, {name: own for name, own in facts.items() if name != "sha256"}, ["records.safetensors"]
    )
    assert saved.newest().folder != newest


def test_what_else_lies_beside_checkpoints_is_passed_by(saved):
    expected = saved.newest().folder
    (saved.folder / "00000009").write_text("a file")
    assert saved.newest().folder == expected


@pytest.mark.parametrize(
    ("change", "field"),
    [({"learning_rate": 0.02}, "learning_rate"), ({"batch": 10}, "batch"), ({"key": jr.key(5)}, "model")],
)
def test_a_fit_of_other_settings_is_refused_by_name(tmp_path, change, field):
    trained("plain", checkpoint=tmp_path, steps=25)
    with pytest.raises(CheckpointError, match=f"of other {field}"):
        trained("plain", checkpoint=tmp_path, steps=25, **change)


def test_a_fit_of_other_samples_is_refused(tmp_path):
    trained("plain", checkpoint=tmp_path, steps=25)
    with pytest.raises(CheckpointError, match="of other samples"):
        n3.fit(
            network(),
            (X + 1, Y),
            VALIDATION,
            **{"steps": 25, "key": KEY, "batch": 20, "learning_rate": 0.01, "checkpoint": tmp_path},
        )
