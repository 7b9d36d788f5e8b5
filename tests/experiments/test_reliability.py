"""Reliability: what is damaged is named, what only shows numbers costs none, and a killed run goes on."""

import hashlib
import importlib
import json
import os
import random
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import equinox as eqx
import jax
import numpy as np
import pytest

import n3
from interrupts import Cuts
from n3.config.grid import Axis, product
from n3.config.validation import inside
from n3.experiments import arms
from n3.experiments import study as studies
from n3.experiments.directory import RunDirectory, differences, optional, verify
from n3.experiments.report import write_report
from n3.training.checkpoint import BusyError, CheckpointError, Checkpoints, Interrupted, owned, read_manifest
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


def test_a_run_goes_on_where_it_was_stopped_and_arms_that_are_finished_stay(
    record, tmp_path, monkeypatch, capsys
):
    cuts = Cuts(monkeypatch)
    cuts.left = 3
    with pytest.raises(Interrupted, match="checkpoints"):
        run(tmp_path, checkpoint_every=0.0)
    assert not (tmp_path / "a" / "manifest.json").exists()
    assert n3.verify(tmp_path / "a") == []
    begun = cuts.written
    capsys.readouterr()
    again = run(tmp_path, checkpoint_every=0.0, quiet=False)
    assert f"takes 1 finished arm in {tmp_path / 'a'}\n" in capsys.readouterr().err
    line = RunDirectory(record.directory).describe_progress(9)
    assert line == f"continues from step 6 of static, step 6 of growing in {record.directory}"
    assert cuts.written - begun == 3  # chunks of the second arm: those of the first are not trained again
    assert again.results.drop_vars(TIMED).equals(record.results.drop_vars(TIMED))
    for path in (record.directory / "models").iterdir():
        assert path.read_bytes() == (again.directory / "models" / path.name).read_bytes()


def of_steps(folder, steps, **how):
    own = {"training": {"steps": steps}} | how
    return n3.run(tiny(folder, **own), has_figures=False, quiet=True)


@pytest.mark.parametrize("steps", [300, 400])
def test_programs_do_not_depend_on_how_many_steps_follow(steps):
    short, long = (tiny(training={"steps": own}).resolved() for own in (steps, 2 * steps))
    data = pipeline.load_data(short)[0]
    assert short.is_open_ended
    for arm in short.run.arms:
        assert arms.recipe_of(short, arm, data) == arms.recipe_of(long, arm, data)


def test_what_shows_the_numbers_of_a_shorter_run_goes_with_them(tmp_path):
    before = n3.run(tiny(tmp_path, training={"steps": 6}, arms=("static",)), quiet=True)
    page, figure = (before.directory / name for name in ("report.html", "figures/loss.png"))
    old = page.read_text(), figure.read_bytes()
    n3.run(tiny(tmp_path, training={"steps": 12}, arms=("static",)), quiet=True)
    assert "12 steps" in page.read_text()
    assert "12 steps" not in old[0]
    assert figure.read_bytes() != old[1]
    assert n3.verify(before.directory) == []


def test_more_steps_than_damaged_checkpoints_can_give_overwrite_nothing(tmp_path):
    before = of_steps(tmp_path, 6)
    for path in before.directory.rglob("checkpoints/**/state.safetensors"):
        path.write_bytes(b"\0" + path.read_bytes()[1:])
    with pytest.raises(CheckpointError, match="Nothing was overwritten"):
        of_steps(tmp_path, 12)
    assert of_steps(tmp_path, 6).results.identical(before.results)


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


def test_a_signal_after_the_last_step_waits_for_the_results(tmp_path, monkeypatch):
    train = pipeline.train_cells

    def signalled(*own, **how):
        trained = train(*own, **how)
        os.kill(os.getpid(), signal.SIGTERM)
        return trained

    monkeypatch.setattr(pipeline, "train_cells", signalled)
    with pytest.raises(Interrupted, match="stopped by SIGTERM after the last step, which is written"):
        run(tmp_path)
    assert n3.read(tmp_path / "a").results.sizes["seed"] == 2


def test_an_unnamed_run_goes_on_in_its_own_folder(tmp_path, monkeypatch, capsys):
    cuts = Cuts(monkeypatch)
    cuts.left = 2
    with pytest.raises(Interrupted):
        run(tmp_path, name=None)
    (folder,) = tmp_path.iterdir()
    with pytest.raises(FileNotFoundError, match="not finished"):
        n3.run(tiny(tmp_path, name=None, seeds=(5, 3, 8)), quiet=True, resume="must")
    capsys.readouterr()
    assert run(tmp_path, name=None, resume="must").directory == folder
    assert f"{folder} is of the same settings and not finished" in capsys.readouterr().err
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


DERIVED = "results.nc", "summary.json", "models/static.safetensors", "manifest.json", "figures/loss.png"


@pytest.mark.parametrize("names", [DERIVED[:2], *((name,) for name in DERIVED)])
def test_the_same_command_rebuilds_what_is_damaged_from_checkpoints(names, copy, record, monkeypatch, capsys):
    n3.run(replaced(record, copy), quiet=True)
    for name in names:
        (copy / name).write_bytes((copy / name).read_bytes()[:-1] + b"?")
    if names == ("results.nc",):
        (copy / "results.nc").unlink()
    capsys.readouterr()
    cuts = Cuts(monkeypatch)
    again = n3.run(replaced(record, copy), quiet=True)
    assert cuts.written == 0
    is_shown = set(names) <= {"summary.json", "figures/loss.png"}
    told = "what shows results.nc is written anew" if is_shown else "training goes on from its checkpoints"
    assert told in capsys.readouterr().err
    assert again.results.drop_vars(TIMED).equals(record.results.drop_vars(TIMED))
    assert n3.verify(copy) == []
    assert (copy / "figures" / "loss.png").exists()


def replaced(record, folder):
    own = replace(record.experiment.run, out=str(folder.parent), name=folder.name)
    return replace(record.experiment, run=own)


def test_without_checkpoints_what_shows_the_results_is_rebuilt_and_the_rest_named(tmp_path, capsys):
    closed = tiny(tmp_path, training={"steps": 6, "schedule": "cosine"}, arms=("static",))
    folder = n3.run(closed, quiet=True).directory
    before = {name: (folder / name).read_bytes() for name in ("summary.json", "figures/loss.png")}
    for name in before:
        (folder / name).write_text("{")
    (folder / "report.html").unlink()
    capsys.readouterr()
    n3.run(closed, quiet=True)
    assert f"{folder}: what shows results.nc is written anew" in capsys.readouterr().err
    assert n3.verify(folder) == []
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert (folder / "report.html").exists()
    (folder / "results.nc").unlink()
    with pytest.raises(CheckpointError, match=f"results.nc is missing. .*: remove {folder} to train it again"):
        n3.run(closed, quiet=True)


def test_what_shows_whole_results_is_rebuilt_whatever_became_of_a_checkpoint(copy, record, capsys):
    n3.run(replaced(record, copy), quiet=True)
    kept = sorted(copy.glob("checkpoints/growing/*/state.safetensors"))
    for path in (*kept, copy / "figures/loss.png"):
        path.write_bytes(b"?")
    models = (copy / "models/growing.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    n3.run(replaced(record, copy), quiet=True)
    said = capsys.readouterr().err
    assert f"{copy}: what shows results.nc is written anew" in said
    assert f"The results are whole; remove {copy / 'checkpoints'} to keep them alone." in said
    assert (copy / "models/growing.safetensors").stat().st_mtime_ns == models
    assert {str(path) for path in kept} <= {fault.split()[0] for fault in n3.verify(copy)}
    assert not any("figures" in fault for fault in n3.verify(copy))


@pytest.mark.parametrize(
    "name", ["results.nc", "config.json", "figures/loss.png", "models/growing.safetensors"]
)
def test_a_folder_in_the_place_of_a_file_is_named_before_anything_goes(name, copy, record):
    n3.run(replaced(record, copy), quiet=True)
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    (copy / name / "mine").mkdir(parents=True)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert f"{copy / name} is a folder where a file belongs." in n3.verify(copy)
    with pytest.raises(CheckpointError, match=f"{copy / name} is a folder .* Move it away and repeat"):
        n3.run(replaced(record, copy), quiet=True)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    (copy / name).rename(copy.parent / "away")
    (copy / name).write_bytes(content)
    n3.run(replaced(record, copy), quiet=True)
    assert n3.verify(copy) == []


def test_whole_results_are_given_whatever_became_of_the_checkpoints(copy, record, capsys):
    for path in copy.rglob("checkpoints/**/state.safetensors"):
        path.write_bytes(b"?")
    assert n3.run(replaced(record, copy), quiet=True, has_figures=False).results.identical(record.results)
    said = capsys.readouterr().err
    assert "state.safetensors is damaged" in said
    assert f"The results are whole; remove {copy / 'checkpoints'} to keep them alone." in said
    (copy / "results.nc").unlink()
    with pytest.raises(CheckpointError, match=f"remove {copy / 'checkpoints'}/.* to train it from its first"):
        n3.run(replaced(record, copy), quiet=True)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(CheckpointError, match=f"results.nc is missing.*remove {copy} to train it again"):
        n3.run(replaced(record, copy), quiet=True)


@pytest.mark.parametrize("content", [None, b"{}", b"?"])
def test_a_configuration_that_is_lost_is_written_anew_by_its_own_command_alone(content, tmp_path, capsys):
    own = tiny(tmp_path, arms=("static",))
    folder = n3.run(own, quiet=True, has_figures=False).directory
    path = folder / "config.json"
    before = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"config.json is .* remove {folder}"):
        n3.run(replace(own, run=replace(own.run, seeds=(1,))), quiet=True, has_figures=False)
    n3.run(own, quiet=True, has_figures=False)
    assert f"{path} is written anew" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert n3.verify(folder) == []


def test_a_lost_manifest_of_a_checkpoint_or_of_results_is_seen_before_anything_goes(copy, record):
    lost = {path: path.read_bytes() for path in sorted(copy.glob("checkpoints/growing/*/manifest.json"))}
    for path in lost:
        path.unlink()
    assert n3.verify(copy) == [f"{path} is missing." for path in lost]
    (copy / "results.nc").write_text("?")
    with pytest.raises(
        CheckpointError, match=f"remove {copy / 'checkpoints/growing'} to train it from its first step"
    ):
        n3.run(replaced(record, copy), quiet=True)
    assert (copy / "manifest.json").exists()
    for path, content in lost.items():
        path.write_bytes(content)
    (copy / "manifest.json").unlink()
    assert n3.verify(copy) == [f"{copy / 'manifest.json'} is missing."]


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


def test_an_executor_trains_the_groups_that_are_left_and_its_failure_is_the_studys(tmp_path, monkeypatch):
    whole = studies.run_study(STUDY, tmp_path / "here", quiet=True)
    with ThreadPoolExecutor(1) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(executor, "submit", lambda *_, **__: pytest.fail("submitted again"))
            assert studies.run_study(STUDY, tmp_path / "here", executor=executor, quiet=True).identical(whole)
        there = studies.run_study(STUDY, tmp_path / "there", executor=executor, quiet=True)
        assert there.drop_vars([*TIMED, "cpu_seconds"]).equals(whole.drop_vars([*TIMED, "cpu_seconds"]))
        shutil.rmtree(tmp_path / "there/groups/0001")
        monkeypatch.setattr(studies, "train_group_cells", broken)
        with pytest.raises(RuntimeError, match="no fonts"):
            studies.run_study(STUDY, tmp_path / "there", executor=executor, quiet=True)


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


def test_a_group_whose_results_are_damaged_is_rebuilt_from_its_checkpoints(tmp_path, monkeypatch, capsys):
    whole = studies.run_study(rates(6), tmp_path / "a", quiet=True)
    (tmp_path / "a" / "groups" / "0000" / "results.nc").unlink()
    cuts = Cuts(monkeypatch)
    again = studies.run_study(rates(6), tmp_path / "a", quiet=False)
    assert cuts.written == 0
    said = capsys.readouterr().err
    assert "groups/0000: training goes on from its checkpoints" in said
    assert "takes 1 finished arm in" in said
    assert again.drop_vars(TAKEN).equals(whole.drop_vars(TAKEN))
    studies.run_study(rates(6), tmp_path / "a")
    assert f"takes 1 of 1 groups, which are finished, from {tmp_path / 'a'}" in capsys.readouterr().err
    closed = rates(6, schedule="cosine")
    studies.run_study(closed, tmp_path / "b", quiet=True)
    lost = tmp_path / "b" / "groups" / "0000"
    (lost / "results.nc").unlink()
    with pytest.raises(CheckpointError, match=f"It has no checkpoints: remove {lost} to train it"):
        studies.run_study(closed, tmp_path / "b", quiet=True)


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
    with pytest.raises(FileExistsError, match=r"holds something else: .*steps") as refused:
        studies.run_study(more, tmp_path, quiet=True)
    assert ("More `steps` go on where a method allows it" in str(refused.value)) == (len(first.axes) == 1)
    assert studies.run_study(first, tmp_path, quiet=True).identical(before)


def test_a_study_that_another_process_trains_is_let_be(tmp_path):
    studies.run_study(rates(6), tmp_path, quiet=True)
    before = (tmp_path / "study.json").read_bytes()
    with owned(tmp_path):
        for begin in (studies.run_study, studies.prepare_study):
            with pytest.raises(BusyError, match="in use"):
                begin(rates(12), tmp_path)
    assert (tmp_path / "study.json").read_bytes() == before
    assert n3.verify(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("name", ["config.json", "manifest.json"])
def test_a_pipe_in_a_run_directory_is_refused_and_not_waited_for(name, copy, record):
    (copy / name).unlink()
    os.mkfifo(copy / name)
    read = {
        "config.json": lambda: differences(copy / name, record.experiment.to_json()),
        "manifest.json": lambda: n3.load(copy),
    }[name]
    with pytest.raises(ValueError, match=f"{name}.* must be a regular file"):
        read()


def test_a_link_to_itself_is_refused(copy):
    (copy / "results.nc").unlink()
    (copy / "results.nc").symlink_to("results.nc")
    with pytest.raises(ValueError, match="link to itself"):
        inside(copy, "results.nc")


FORGED = {
    "sha256": (None, [], {}, {"": "a"}, {"a" * 300: "b"}, {"../a": "b"}, {"a": 1}),
    "seconds": ("x", {"wall": "x"}),
    "precision": (1,),
    "device": (["cpu"],),
    "versions": ("x",),
    "command": ("x",),
    "git": ("x",),
}


@pytest.mark.parametrize(("name", "value"), [(name, own) for name, every in FORGED.items() for own in every])
def test_a_manifest_with_a_fact_of_another_kind_is_damaged(name, value, copy):
    forge(copy, lambda facts: {**facts, name: value})
    with pytest.raises(CheckpointError, match=r"manifest.json is damaged: (`|it has no|'|\")"):
        n3.load(copy)
    assert len(n3.verify(copy)) == 1


@pytest.mark.parametrize("name", ["sha256", "precision"])
def test_a_manifest_without_a_fact_is_damaged(name, copy):
    forge(copy, lambda facts: {key: own for key, own in facts.items() if key != name})
    with pytest.raises(CheckpointError, match=r"manifest.json is damaged: it has no"):
        n3.load(copy)


def forge(folder, change):
    """A manifest whose own checksum fits, as whoever can write a file can write."""
    found = json.loads((folder / "manifest.json").read_text())
    facts = change({name: own for name, own in found.items() if name != "checksum"})
    text = (json.dumps(facts, indent=2) + "\n").encode()
    whole = json.dumps(facts | {"checksum": hashlib.sha256(text).hexdigest()}, indent=2) + "\n"
    (folder / "manifest.json").write_text(whole)


def test_a_study_killed_before_its_first_file_is_whole_begins_again(tmp_path):
    (tmp_path / "study.json.1.part").write_text("{")
    assert studies.prepare_study(STUDY, tmp_path) == [0, 1]


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


def contents(folder):
    """The bytes of every file of a folder, and of what its links lead to, by path."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("name", ["results.nc", "models", "checkpoints", ".lock", "figures/loss.png"])
def test_a_link_in_a_run_directory_is_refused_and_nothing_is_written_through_it(name, copy, record):
    n3.run(replaced(record, copy), quiet=True)
    (copy / name).rename(copy.parent / "outside")
    (copy / name).symlink_to(copy.parent / "outside")
    (copy / "summary.json").write_text("{")
    before, outside = contents(copy), (copy.parent / "outside")
    kept = outside.read_bytes() if outside.is_file() else contents(outside)
    with pytest.raises(CheckpointError, match=f"{copy / name} is (a link|no regular file)"):
        n3.run(replaced(record, copy), quiet=True)
    assert contents(copy) == before
    assert (outside.read_bytes() if outside.is_file() else contents(outside)) == kept


def test_a_file_in_the_place_of_a_folder_is_refused(copy, record):
    shutil.rmtree(copy / "models")
    (copy / "models").write_text("mine")
    with pytest.raises(CheckpointError, match=f"{copy / 'models'} is a file where a folder belongs. Move it"):
        n3.run(replaced(record, copy), quiet=True)
    assert (copy / "models").read_text() == "mine"


def test_files_of_others_among_the_figures_stay(copy, record):
    n3.run(replaced(record, copy), quiet=True)
    (copy / "figures" / "mine.txt").write_text("mine")
    (copy / "report.html").unlink()
    n3.run(replaced(record, copy), quiet=True)
    assert (copy / "figures" / "mine.txt").read_text() == "mine"
    assert (copy / "report.html").exists()


def test_a_group_of_another_study_is_refused(tmp_path):
    for name, seeds in {"a": (0, 1), "b": (2, 3)}.items():
        own = product(tiny(arms=("static",), seeds=seeds), [Axis("learning_rate", (1e-2, 1e-3))])
        studies.run_study(own, tmp_path / name, quiet=True)
    shutil.rmtree(tmp_path / "a/groups/0000")
    shutil.copytree(tmp_path / "b/groups/0000", tmp_path / "a/groups/0000")
    own = product(tiny(arms=("static",), seeds=(0, 1)), [Axis("learning_rate", (1e-2, 1e-3))])
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'a/groups/0000'} is of other settings .* remove"):
        studies.run_study(own, tmp_path / "a", quiet=True)


def on(table, folder, **training):
    task = {"data": str(table), "samples": None, "test_samples": None}
    return tiny(folder, arms=("static",), task=task, training={"steps": 6, **training})


def other_numbers(table):
    inputs = np.linspace(-1, 1, 15, dtype=np.float32)[:, None]
    np.savez(table, inputs=inputs, targets=inputs**3)


def test_finished_results_of_other_samples_are_refused(table, tmp_path):
    folder = n3.run(on(table, tmp_path), quiet=True, has_figures=False).directory
    other_numbers(table)
    with pytest.raises(CheckpointError, match=f"{folder} is of other sources .* remove {folder} to train it"):
        n3.run(on(table, tmp_path), quiet=True, has_figures=False)


@pytest.mark.parametrize("steps", [6, 12])
@pytest.mark.parametrize("lost", ["manifest", "checkpoints"])
def test_results_without_manifest_or_checkpoints_are_not_trained_over(steps, lost, table, tmp_path):
    closed = {"schedule": "cosine"} if lost == "manifest" and steps == 6 else {}
    folder = n3.run(on(table, tmp_path, **closed), quiet=True, has_figures=False).directory
    if lost == "manifest":
        (folder / "manifest.json").unlink()
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    before = contents(folder)
    other_numbers(table)
    with pytest.raises(CheckpointError, match=f"another `name`, or remove {folder} to train|other sources"):
        n3.run(on(table, tmp_path, **closed | {"steps": steps}), quiet=True, has_figures=False)
    assert contents(folder) == before


def spoilt(folder, table, monkeypatch, fault):
    """What makes the checkpoints of a finished folder those of something else."""
    if fault == "data":
        other_numbers(table)
    if fault == "precision":
        monkeypatch.setattr("n3.training.checkpoint.precision", lambda: "float64")
    if fault == "foreign":
        own = on(table, folder.parent, learning_rate=1e-3)
        other = n3.run(replace(own, run=replace(own.run, name="other")), quiet=True, has_figures=False)
        shutil.rmtree(folder / "checkpoints")
        shutil.copytree(other.directory / "checkpoints", folder / "checkpoints")


@pytest.mark.parametrize("fault", ["data", "precision", "foreign"])
@pytest.mark.parametrize("is_longer", [True, False])
def test_checkpoints_of_something_else_cost_nothing_of_what_is_there(
    fault, is_longer, table, tmp_path, monkeypatch
):
    """More steps, or results that are damaged: neither manifest nor figures nor configuration go."""
    own = on(table, tmp_path)
    folder = n3.run(own, quiet=True).directory
    spoilt(folder, table, monkeypatch, fault)
    if not is_longer:
        (folder / "results.nc").write_bytes(b"?")
    before = contents(folder)
    with pytest.raises(CheckpointError, match=r"is of other (samples|precision|settings) .* remove"):
        n3.run(on(table, tmp_path, steps=12 if is_longer else 6), quiet=True)
    assert contents(folder) == before


def test_more_steps_that_are_killed_leave_the_results_of_fewer(tmp_path, monkeypatch):
    own = tiny(tmp_path, arms=("static",))
    few = n3.run(own, quiet=True)
    cuts = Cuts(monkeypatch)
    cuts.left = 1
    longer = replace(own, training=replace(own.training, steps=24))
    with pytest.raises(Interrupted):
        n3.run(longer, quiet=True, checkpoint_every=0.0)
    assert n3.verify(few.directory) == []
    assert n3.run(own, quiet=True).results.identical(few.results)
    cuts.left = 0
    whole = n3.run(replace(longer, run=replace(longer.run, name="whole")), quiet=True)
    again = n3.run(longer, quiet=True)
    final = lambda record: record.results.test_loss.isel(step=-1)  # noqa: E731
    assert final(again).equals(final(whole))
    assert n3.verify(few.directory) == []


@pytest.mark.parametrize("fault", ["checkpoints", "killed"])
def test_more_steps_of_a_study_that_fail_leave_its_results(fault, tmp_path, monkeypatch):
    few = product(tiny(arms=("static",)), [Axis("capacity", ((4,), (3,)))])
    more = replace(few, base=replace(few.base, training=replace(few.base.training, steps=24)))
    whole = studies.run_study(few, tmp_path, quiet=True)
    before = {path: own for path, own in contents(tmp_path).items() if "groups" not in path.parts}
    states = {
        path: path.read_bytes() for path in tmp_path.glob("groups/0001/checkpoints/*/*/state.safetensors")
    }
    cuts = Cuts(monkeypatch)
    if fault == "checkpoints":
        for path in states:
            path.write_bytes(b"?")
    else:
        cuts.left = 3
    with pytest.raises((CheckpointError, Interrupted)):
        studies.run_study(more, tmp_path, quiet=True, checkpoint_every=0.0)
    cuts.left = 0
    after = {path: own for path, own in contents(tmp_path).items() if "groups" not in path.parts}
    assert after.pop(tmp_path / "study.next.json") == more.to_json().encode()
    assert after == before
    for path, content in states.items() if fault == "checkpoints" else ():
        path.write_bytes(content)
    longer = studies.run_study(more, tmp_path, quiet=True)
    assert not (tmp_path / "study.next.json").exists()
    assert longer.sizes["step"] >= whole.sizes["step"]
    assert n3.verify(tmp_path) == []
    with pytest.raises(FileExistsError, match="`steps` 24 there and 6 here"):
        studies.run_study(few, tmp_path, quiet=True)


def test_a_study_whose_more_steps_were_given_up_has_its_results_or_is_refused(tmp_path, monkeypatch):
    few = product(tiny(arms=("static",)), [Axis("capacity", ((4,), (3,)))])
    more = replace(few, base=replace(few.base, training=replace(few.base.training, steps=24)))
    whole = studies.run_study(few, tmp_path, quiet=True)
    cuts = Cuts(monkeypatch)
    cuts.left = 3
    with pytest.raises(Interrupted):
        studies.run_study(more, tmp_path, quiet=True, checkpoint_every=0.0)
    cuts.left = 0
    if read_manifest(tmp_path / "groups/0000")["steps"] == 6:
        pytest.fail("no group has the new steps")
    assert studies.prepare_study(few, tmp_path) == []  # nor would jobs train what is there
    assert studies.run_study(few, tmp_path, quiet=True).identical(whole)
    (tmp_path / "results.nc").unlink()
    with pytest.raises(CheckpointError, match=r"groups/0000 is of 24 `steps`, and 6 are asked for"):
        studies.run_study(few, tmp_path, quiet=True)


def test_a_damaged_configuration_is_mended_by_the_command_that_made_it(tmp_path):
    whole = studies.run_study(rates(6), tmp_path, quiet=True)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"study.json .* repeat the command that made it, or remove"):
        studies.run_study(rates(24), tmp_path, quiet=True)
    assert studies.run_study(rates(6), tmp_path, quiet=True).identical(whole)
    assert n3.verify(tmp_path) == []


def test_verify_names_what_stands_in_the_way_in_a_group(tmp_path):
    studies.run_study(rates(6), tmp_path / "study", quiet=True)
    own = tmp_path / "study/groups/0000/results.nc"
    own.rename(tmp_path / "away.nc")
    own.symlink_to(tmp_path / "away.nc")
    assert f"{own} is a link, which is not followed." in n3.verify(tmp_path / "study")


def test_a_disk_that_is_full_takes_no_figures(copy, record, monkeypatch):
    n3.run(replaced(record, copy), quiet=True)
    (copy / "models/static.safetensors").write_bytes(b"?")
    before = contents(copy)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_results", full)
        with pytest.raises(OSError, match="No space"):
            n3.run(replaced(record, copy), quiet=True)
    assert contents(copy) == before


def test_files_of_the_user_in_a_run_directory_are_neither_removed_nor_sealed(copy, record):
    names = (
        "notes.txt",
        "download.part",
        "sub/x.part",
        "figures/mine.png",
        "models/mine.bin",
        "checkpoints/.DS_Store",
    )
    own = [copy / name for name in names]
    (copy / "sub").mkdir()
    n3.run(replaced(record, copy), quiet=True)
    for path in own:
        path.write_text("mine")
    (copy / "summary.json").unlink()
    n3.run(replaced(record, copy), quiet=True)
    longer = replaced(record, copy)
    n3.run(replace(longer, training=replace(longer.training, steps=12)), quiet=True)
    (copy / "figures" / "link").symlink_to(copy.parent)
    n3.run(replace(longer, training=replace(longer.training, steps=24)), quiet=True)
    assert all(path.read_text() == "mine" for path in own)
    (copy / "models/mine.bin").unlink()
    assert n3.verify(copy) == []


def test_files_of_the_user_among_checkpoints_stay_when_these_go(tmp_path):
    own = tiny(tmp_path, training={"steps": 6, "schedule": "cosine"}, arms=("static",))
    folder = n3.run(own, quiet=True, has_figures=False).directory
    assert not (folder / "checkpoints").exists()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "notes.txt").write_text("mine")
    (folder / "summary.json").unlink()
    n3.run(own, quiet=True, has_figures=False)
    assert (folder / "checkpoints" / "notes.txt").read_text() == "mine"


def test_joined_results_of_groups_that_were_trained_again_are_joined_again(table, tmp_path, monkeypatch):
    study, folder = product(on(table, "runs"), [Axis("learning_rate", (1e-2, 1e-3))]), tmp_path / "study"
    before = studies.run_study(study, folder, quiet=True)
    other_numbers(table)
    shutil.rmtree(folder / "groups")
    with monkeypatch.context() as patch:
        patch.setattr(studies, "collect_study", broken)
        with pytest.raises(RuntimeError, match="no fonts"):
            studies.run_study(study, folder, quiet=True)
    again = studies.run_study(study, folder, quiet=True)
    assert not again.test_loss.equals(before.test_loss)
    assert again.identical(n3.read_results(folder))


def test_finished_results_of_another_precision_are_refused(copy, record, monkeypatch):
    monkeypatch.setattr(pipeline, "precision", lambda: "float64")
    with pytest.raises(CheckpointError, match=f"{copy} is of other precision .float32, now float64."):
        n3.run(replaced(record, copy), quiet=True)


def test_what_is_drawn_anew_keeps_the_facts_of_its_training(copy, record):
    n3.run(replaced(record, copy), quiet=True)
    forge(copy, lambda facts: facts | {"versions": {"jax": "1"}, "command": ["mine"]})
    (copy / "summary.json").write_text("?")
    n3.run(replaced(record, copy), quiet=True)
    facts = read_manifest(copy)
    assert (facts["versions"], facts["command"]) == ({"jax": "1"}, ["mine"])


def test_a_pipe_in_the_place_of_a_folder_or_a_report_is_refused(copy, record):
    shutil.rmtree(copy / "models")
    os.mkfifo(copy / "models")
    with pytest.raises(CheckpointError, match=f"{copy / 'models'} is no regular file"):
        n3.run(replaced(record, copy), quiet=True)
    with pytest.raises(CheckpointError, match=f"{copy / 'models'} is no regular file"):
        write_report(copy)


def test_nothing_is_written_through_a_link_among_checkpoints(tmp_path):
    own = tiny(tmp_path, arms=("static",))
    folder, outside = n3.run(own, quiet=True).directory, tmp_path / "outside"
    outside.mkdir()
    link = folder / "checkpoints/static/00000001.part"
    link.symlink_to(outside)
    longer = replace(own, training=replace(own.training, steps=24))
    with pytest.raises(CheckpointError, match=r"00000001.part is a link, which is not followed. Move it away"):
        n3.run(longer, quiet=True)
    with pytest.raises(FileExistsError, match=r"00000001.part"):
        Checkpoints(folder=folder / "checkpoints/static").write({"a": np.zeros(2)}, {}, {"step": 9})
    assert not list(outside.iterdir())
    link.unlink()
    state = next(folder.glob("checkpoints/static/*/state.safetensors"))
    state.rename(outside / "state")
    state.symlink_to(outside / "state")
    assert f"{state} is a link, which is not followed." in n3.verify(folder)


def test_a_link_in_a_group_of_a_finished_sweep_is_refused(tmp_path):
    studies.run_study(rates(6), tmp_path / "study", quiet=True)
    own = tmp_path / "study/groups/0000/results.nc"
    own.rename(tmp_path / "away.nc")
    own.symlink_to(tmp_path / "away.nc")
    with pytest.raises(CheckpointError, match=r"groups/0000/results.nc is a link"):
        studies.run_study(rates(6), tmp_path / "study", quiet=True)


def test_what_shows_a_sweep_is_drawn_where_it_is_missing(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(studies, "_show", lambda *_: None)  # as after a kill
        studies.run_study(rates(6), tmp_path, quiet=True)
    assert not (tmp_path / "report.html").exists()
    studies.run_study(rates(6), tmp_path, quiet=True)
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "figures/settings.png").exists()
    assert n3.verify(tmp_path) == []


def test_damaged_checkpoints_of_a_finished_sweep_are_named(tmp_path, capsys):
    whole = studies.run_study(rates(6), tmp_path, quiet=True)
    state = next(tmp_path.glob("groups/0000/checkpoints/static/*/state.safetensors"))
    state.write_bytes(b"?")
    assert studies.run_study(rates(6), tmp_path, quiet=True).identical(whole)
    said = capsys.readouterr().err
    assert f"{state} is damaged" in said
    assert f"The results are whole; remove {tmp_path / 'groups/0000/checkpoints'} to keep them alone." in said


@pytest.mark.parametrize("moment", ["before its old manifest goes", "before its new manifest is there"])
def test_a_group_killed_after_its_results_leaves_those_of_fewer_steps(moment, tmp_path, monkeypatch):
    whole, place = studies.run_study(rates(6), tmp_path, quiet=True), (studies, "_seal")
    if moment == "before its old manifest goes":
        place = RunDirectory, "clear"

    def killed(*_):
        raise Interrupted(15, "")

    with monkeypatch.context() as patch:
        patch.setattr(*place, killed)
        with pytest.raises(Interrupted):
            studies.run_study(rates(24), tmp_path, quiet=True)
    assert n3.verify(tmp_path)
    assert studies.run_study(rates(6), tmp_path, quiet=True).identical(whole)
    assert studies.run_study(rates(24), tmp_path, quiet=True)["step"].max() == 24
    assert n3.verify(tmp_path) == []


def test_verify_names_groups_that_are_missing_or_of_another_sweep(tmp_path):
    study = product(tiny(arms=("static",)), [Axis("capacity", ((4,), (3,)))])
    studies.run_study(study, tmp_path / "a", quiet=True)
    other = replace(study, base=replace(study.base, training=replace(study.base.training, learning_rate=1e-3)))
    studies.run_study(other, tmp_path / "b", quiet=True)
    first, second = (tmp_path / "a/groups" / name for name in ("0000", "0001"))
    shutil.rmtree(first)
    assert n3.verify(tmp_path / "a") == [f"{first} has no results."]
    shutil.copytree(tmp_path / "b/groups/0000", first)
    assert n3.verify(tmp_path / "a") == [f"{first} is another sweep's, or another group."]
    shutil.rmtree(first)
    shutil.copytree(second, first)
    assert n3.verify(tmp_path / "a") == [f"{first} is another sweep's, or another group."]


def test_resume_must_leaves_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="`resume` must: there is nothing to go on with"):
        n3.run(tiny(tmp_path, name="new"), quiet=True, resume="must")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["fifo", "file"])
def test_what_is_no_folder_in_the_place_of_a_checkpoint_is_refused(kind, tmp_path):
    own = tiny(tmp_path, arms=("static",))
    path = n3.run(own, quiet=True).directory / "checkpoints/static/00000001.part"
    path.write_text("mine") if kind == "file" else os.mkfifo(path)
    longer = replace(own, training=replace(own.training, steps=24))
    with pytest.raises(CheckpointError, match=r"00000001.part is (a file where a folder|no regular file)"):
        n3.run(longer, quiet=True)


def test_a_link_for_the_logs_of_jobs_is_refused(tmp_path):
    studies.run_study(rates(6), tmp_path / "study", quiet=True)
    (tmp_path / "study/jobs").symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match="jobs is a link"):
        studies.prepare_study(rates(24), tmp_path / "study")
    assert f"{tmp_path / 'study/jobs'} is a link, which is not followed." in n3.verify(tmp_path / "study")


def test_checkpoints_of_fit_are_not_written_through_a_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "own").mkdir()
    (tmp_path / "own/fit").symlink_to(outside)
    model = eqx.nn.MLP(1, 1, 4, 1, key=jax.random.key(0))
    data = np.zeros((8, 1), np.float32), np.zeros((8, 1), np.float32)
    with pytest.raises(CheckpointError, match=r"own/fit is a link, which is not followed. Move it away"):
        n3.fit(model, data, steps=2, key=jax.random.key(1), quiet=True, checkpoint=tmp_path / "own")
    assert not list(outside.iterdir())
