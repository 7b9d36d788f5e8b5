"""Reliability: what is damaged is named, what only shows numbers costs none, and a killed run goes on."""

import importlib
import random
import shutil

import jax
import numpy as np
import pytest

import n3
from interrupts import Cuts
from n3.config.grid import Axis, product
from n3.experiments import study as studies
from n3.experiments.directory import RunDirectory, optional, verify
from n3.training.checkpoint import BusyError, CheckpointError, Interrupted
from trials import tiny

pipeline = importlib.import_module("n3.experiments.run")
TIMED = ["compile_seconds", "run_seconds"]


def run(folder, **how):
    settings = {"has_figures": False, "quiet": True, **how}
    experiment = tiny(folder, name=settings.pop("name", "a"), seeds=(5, 3))
    return n3.run(experiment, **settings)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def copy(record, tmp_path):
    return shutil.copytree(record.directory, tmp_path / "copy")


def test_a_run_goes_on_where_it_was_stopped_and_arms_that_are_finished_stay(record, tmp_path, monkeypatch):
    cuts = Cuts(monkeypatch)
    cuts.left = 3
    with pytest.raises(Interrupted, match="checkpoints"):
        run(tmp_path, checkpoint_every=0.0)
    assert not (tmp_path / "a" / "manifest.json").exists()
    assert n3.verify(tmp_path / "a") == []
    begun = cuts.written
    again = run(tmp_path, checkpoint_every=0.0)
    assert cuts.written - begun == 3  # chunks of the second arm: those of the first are not trained again
    assert again.results.drop_vars(TIMED).equals(record.results.drop_vars(TIMED))
    for path in (record.directory / "models").iterdir():
        assert path.read_bytes() == (again.directory / "models" / path.name).read_bytes()


def of_steps(folder, steps, **how):
    own = {"training": {"steps": steps}} | how
    return n3.run(tiny(folder, **own), has_figures=False, quiet=True)


@pytest.mark.parametrize("first", [6, 12])
def test_a_run_that_is_finished_goes_on_with_more_steps(first, tmp_path, monkeypatch):
    whole = of_steps(tmp_path / "whole", 24)
    of_steps(tmp_path, first)
    cuts = Cuts(monkeypatch)
    longer = of_steps(tmp_path, 24)
    assert longer.results.drop_vars(TIMED).equals(whole.results.drop_vars(TIMED))
    assert cuts.written == {6: 4, 12: 2}[first]  # chunks of two arms
    for path in (whole.directory / "models").iterdir():
        assert path.read_bytes() == (longer.directory / "models" / path.name).read_bytes()
    assert n3.read(longer.directory).experiment.training.steps == 24


@pytest.mark.parametrize(
    "steps,how",
    [
        (9, {}),
        (4, {}),
        (12, {"training": {"steps": 12, "schedule": "cosine"}}),
        pytest.param(12, {"training": {"steps": 12, "members": 2}}, marks=pytest.mark.slow),
    ],
)
def test_more_steps_that_would_change_the_first_ones_are_refused(steps, how, tmp_path):
    own = {"training": {**how["training"], "steps": 6}} if how else {}
    before = of_steps(tmp_path, 6, **own)
    with pytest.raises(FileExistsError, match=f"`steps` 6 there and {steps} here"):
        of_steps(tmp_path, steps, **how)
    assert n3.read(before.directory).results.identical(before.results)
    assert n3.verify(before.directory) == []


def test_an_unnamed_run_goes_on_in_its_own_folder(tmp_path, monkeypatch):
    cuts = Cuts(monkeypatch)
    cuts.left = 2
    with pytest.raises(Interrupted):
        run(tmp_path, name=None)
    (folder,) = tmp_path.iterdir()
    with pytest.raises(FileNotFoundError, match="not finished"):
        n3.run(tiny(tmp_path, name=None, seeds=(5, 3, 8)), quiet=True, resume="must")
    assert run(tmp_path, name=None, resume="must").directory == folder
    assert run(tmp_path, name=None).directory != folder  # a finished one is let be


def test_a_folder_in_use_is_refused_by_name(record):
    with RunDirectory.of(record.experiment), pytest.raises(BusyError, match="in use by process"):
        n3.run(record.experiment, quiet=True)


def test_every_damaged_byte_is_found(copy):
    """In small: two hundred, of a run with figures, are among the slow tests."""
    drawn = random.Random(16)
    assert verify(copy) == []
    files = [path for path in copy.rglob("*") if path.is_file() and path.stat().st_size]
    for path in (drawn.choice(files) for _ in range(40)):
        content = path.read_bytes()
        place = drawn.randrange(len(content))
        path.write_bytes(
            content[:place] + bytes([content[place] ^ drawn.randrange(1, 256)]) + content[place + 1 :]
        )
        (found,) = verify(copy)
        assert str(path) in found, (path, place)
        path.write_bytes(content)
    assert verify(copy) == []


@pytest.mark.parametrize(
    "name", ["config.json", "results.nc", "models/static.json", "models/growing.safetensors"]
)
def test_what_is_read_is_verified(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content.replace(b"1", b"2", 1))
    with pytest.raises(CheckpointError, match=name):
        n3.load(copy) if name.startswith("models") else n3.read(copy)


def test_results_of_another_run_are_refused(copy, record, tmp_path):
    other = run(tmp_path, name="other")
    shutil.copy(other.directory / "results.nc", copy / "results.nc")
    with pytest.raises(CheckpointError, match=r"results\.nc is damaged or another"):
        n3.read(copy)


def test_a_folder_without_a_manifest_has_nothing_to_verify(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to verify"):
        verify(tmp_path)


def broken(*_, **__):
    raise RuntimeError("no fonts")


@pytest.mark.parametrize("part", ["figures", "log_dir"])
def test_what_only_shows_numbers_costs_itself_and_a_line(part, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("n3.figures", broken, raising=False)
    monkeypatch.setattr(pipeline, "write_events", broken)
    own = {"log_dir": str(tmp_path / "logs")} if part == "log_dir" else {}
    record = n3.run(tiny(tmp_path, **own), has_figures=part == "figures", quiet=True)
    assert f"warning: {part} not written, RuntimeError: no fonts" in capsys.readouterr().err
    assert n3.read(record.directory).results.identical(record.results)


def test_an_interrupt_is_no_failure_of_what_shows_numbers():
    with pytest.raises(KeyboardInterrupt), optional("figures"):
        raise KeyboardInterrupt


STUDY = product(tiny(arms=("static",)), [Axis("learning_rate", (1e-2, 1e-3)), Axis("steps", (6, 4))])


def test_a_study_goes_on_within_a_group(tmp_path, monkeypatch):
    whole = studies.run_study(STUDY, tmp_path / "whole", quiet=True)
    cuts = Cuts(monkeypatch)
    cuts.left = 4
    with pytest.raises(Interrupted, match="groups/0001"):
        studies.run_study(STUDY, tmp_path / "cut", quiet=True, checkpoint_every=0.0)
    again = studies.run_study(STUDY, tmp_path / "cut", quiet=True)
    assert again.drop_vars([*TIMED, "cpu_seconds"]).equals(whole.drop_vars([*TIMED, "cpu_seconds"]))
    assert n3.verify(tmp_path / "cut") == []
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob("checkpoints"))


def rates(steps, *axes, **training):
    own = tiny(training={"steps": steps, **training}, arms=("static",))
    return product(own, [Axis("learning_rate", (1e-2, 1e-3)), *axes])


TAKEN = [*TIMED, "cpu_seconds"]


def test_a_study_that_is_finished_goes_on_with_more_steps(tmp_path, monkeypatch):
    whole = studies.run_study(rates(24), tmp_path / "whole", quiet=True)
    studies.run_study(rates(6), tmp_path / "cut", quiet=True)
    cuts = Cuts(monkeypatch)
    cuts.left = 1
    with pytest.raises(Interrupted, match="groups/0000"):
        studies.run_study(rates(24), tmp_path / "cut", quiet=True, checkpoint_every=0.0)
    again = studies.run_study(rates(24), tmp_path / "cut", quiet=True)
    assert cuts.written == 2  # chunks, of four in all
    assert again.drop_vars(TAKEN).equals(whole.drop_vars(TAKEN))
    assert n3.verify(tmp_path / "cut") == []


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (rates(6), rates(9)),  # records of other steps
        (rates(6, schedule="cosine"), rates(12, schedule="cosine")),
        (rates(6, Axis("steps", (6, 4))), rates(6, Axis("steps", (12, 4)))),
    ],
)
def test_more_steps_of_a_study_that_would_change_the_first_ones_are_refused(first, more, tmp_path):
    before = studies.run_study(first, tmp_path, quiet=True)
    with pytest.raises(FileExistsError, match=r"holds something else: .*steps"):
        studies.run_study(more, tmp_path, quiet=True)
    assert studies.run_study(first, tmp_path, quiet=True).identical(before)


def test_a_study_killed_before_its_first_file_is_whole_begins_again(tmp_path):
    (tmp_path / "study.json.1.part").write_text("{")
    assert studies.prepare_study(STUDY, tmp_path) == 2


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "own.npz"
    inputs = np.linspace(-1, 1, 15, dtype=np.float32)[:, None]
    np.savez(path, inputs=inputs, targets=inputs**2)
    return path


def test_groups_of_other_data_or_precision_are_not_mixed(table, tmp_path):
    base = tiny(arms=("static",), task={"data": str(table), "samples": None, "test_samples": None})
    study, folder = product(base, [Axis("steps", (6, 4))]), tmp_path / "study"
    studies.prepare_study(study, folder)
    studies.train_group(str(folder), 0, quiet=True)
    with (
        jax.enable_x64(True),
        pytest.raises(CheckpointError, match=r"other precision \(float32, now float64\)"),
    ):
        studies.run_study(study, folder, quiet=True)
    arrays = dict(np.load(table))
    np.savez(table, inputs=arrays["inputs"], targets=arrays["targets"] + 1)
    with pytest.raises(CheckpointError, match="of other sources"):
        studies.run_study(study, folder, quiet=True)


def test_a_run_of_other_data_does_not_go_on(table, tmp_path, monkeypatch):
    experiment = tiny(tmp_path, task={"data": str(table), "samples": None, "test_samples": None})
    cuts = Cuts(monkeypatch)
    cuts.left = 3
    with pytest.raises(Interrupted):
        n3.run(experiment, quiet=True, checkpoint_every=0.0)
    arrays = dict(np.load(table))
    np.savez(table, inputs=arrays["inputs"], targets=arrays["targets"] + arrays["inputs"])
    with pytest.raises(CheckpointError, match="of other samples"):
        n3.run(experiment, quiet=True)
