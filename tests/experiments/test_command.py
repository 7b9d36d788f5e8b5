"""The command that trains: what it leaves and prints, and the code with which each mistake ends."""

import json
import sys

import pytest

import hostile
from hostile import fuzzed
from n3.cli import run_command
from n3.cli.arguments import Arguments, parse_experiment
from n3.config.experiment import Experiment
from trials import tiny

SMALL = "--samples 12 --test-samples 6 --steps 5 --capacity 4 --seeds 0:2 --arms static"


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Call the command in this process: its exit code, and what it printed and complained of."""

    def call(*words):
        words = ["n3", "train", "--out", tmp_path / "runs", *words]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        try:
            code = run_command(sys.argv[1:])
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr()

    return call


def test_the_command_ends_in_the_table_and_the_run_directory(command, tmp_path):
    code, said = command(*SMALL.split(), "growing", "--name", "b")
    path = tmp_path / "runs" / "b"
    assert code == 0
    assert "static / growing" in said.out
    assert "device: cpu" in said.out
    assert said.out.endswith(f"results: {path}\n")
    assert "step 5/5" in said.err
    assert json.loads((path / "summary.json").read_text())["comparisons"][0]["pairs"] == 2
    assert {p.name for p in (path / "figures").iterdir()} == {
        "loss.png",
        "size.png",
        "final-loss.png",
        "fit.png",
    }
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in (path / "figures").iterdir())
    manifest = json.loads((path / "manifest.json").read_text())
    files = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    passing = {name for name in files if name.startswith("checkpoints/")}
    assert set(manifest["sha256"]) == files - passing - {"manifest.json", ".lock"}
    assert manifest["command"][-2:] == ["--name", "b"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--steps 0", "`steps` must be positive"),
        ("--stepz 5", "--steps"),
        ("--seeds 5:2", "0:100"),
        ("--seeds 1 1", "distinct"),
        ("--name ../x", "`name`"),
        ("--task bessle", "bessel"),
        ("--data nowhere.csv --target y", "nowhere.csv"),
        ("--target y", "`data`"),
        ("--arms equal-size", "growing"),
        ("--capacity 4 --initial-size 9", "initial_size"),
        ("--config nowhere.json", "nowhere.json"),
        ("--structure-every 5", "`structure_every` needs `method`"),
    ],
)
def test_mistakes_end_with_code_2_and_name_the_field(command, tmp_path, words, message):
    code, said = command(*words.split())
    assert code == 2
    assert message in said.err
    assert not (tmp_path / "runs").exists()


def test_an_absent_extra_ends_with_code_2(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    code, said = command("--log-dir", tmp_path / "logs", "--psi", "generation")
    assert code == 2
    assert "`uv sync --extra tensorboard`" in said.err
    assert not (tmp_path / "runs").exists()


def test_a_file_of_the_users_own(command, tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("x,y\n" + "".join(f"{n},{n * n / 7}\n" for n in range(40)))
    words = ("--data", path, "--target", "y", "--seeds", "0:2")
    code, said = command(*words, "--dry-run")
    assert code == 0
    assert "own: regression of y" in said.out
    assert "32 training and 8 test samples" in said.out
    path.write_text("x,y\n1,2\n3,\n")
    code, said = command(*words)
    assert code == 65
    assert "row 3, column `y` must have a value" in said.err
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_made_ends_with_code_73(command, tmp_path):
    (tmp_path / "runs").write_text("no folder")
    code, said = command(*SMALL.split())
    assert code == 73
    assert "\nerror: cannot write: " in said.err


def test_runs_that_all_diverged_end_with_code_4_quietly(command, monkeypatch):
    monkeypatch.setattr("n3.figures", lambda record: {}, raising=False)  # first: it is read through the room
    monkeypatch.setattr("n3.plotting.figures", lambda record: {})
    code, said = command(*SMALL.split(), "--learning-rate", "1e30", "--quiet")
    assert (code, said.err) == (4, "")
    assert "2/2" in said.out


def test_flags_win_over_the_file(command, tmp_path):
    experiment = tiny("x", training={"steps": 7}, log_dir="logs").resolved()
    (tmp_path / "c.json").write_text(experiment.to_json())
    for words in (("--config", tmp_path / "c.json"), (f"--config={tmp_path / 'c.json'}",)):
        code, said = command(*words, "--seeds=0:4", "--dry-run")
        assert code == 0
        assert "2 arms x 4 seeds = 8 runs of 7 steps" in said.out


def test_a_file_gives_neither_its_name_nor_its_events_to_another_run(tmp_path):
    (tmp_path / "c.json").write_text(tiny(log_dir="logs").resolved().to_json())
    how = {"program": "n3 train", "description": "", "made": lambda parsed: (parsed.experiment(), parsed)}
    experiment, arguments = parse_experiment(Arguments, ["--config", str(tmp_path / "c.json")], **how)
    assert (experiment.run.name, experiment.run.log_dir, arguments.dry_run) == (None, None, False)
    assert experiment.task == Experiment.load(tmp_path / "c.json").task


def test_members_and_how_they_end_are_flags(command):
    words = "--method information --criterion held-out --members 3 --readout trained --refit --resolution 1e-6"
    code, said = command(*SMALL.split(), *words.split(), "--dry-run")
    assert code == 0
    assert "members     3 a run = 6 networks, each without one of 3 folds of the samples, then one" in said.out
    code, said = command(*SMALL.split(), "--refit", "--dry-run")
    assert (code, said.out) == (2, "")
    assert said.err == "error: `refit` needs `members`, which find the sizes.\n"


def test_the_help_tells_of_members(command):
    code, said = command("--help")
    assert code == 0
    for flag in ("--members", "--readout", "--refit, --no-refit", "--criterion", "--resolution", "--errors"):
        assert flag in said.out


@pytest.mark.slow
def test_random_flags_end_in_a_plan_or_a_sentence():
    fuzzed(hostile.command_lines(), hostile.check_command_line, examples=15)


def test_inputs_that_are_all_the_same_have_no_figure_over_them(command, tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("x,y\n" + "".join(f"5,{n}.5\n" for n in range(18)))
    code, said = command("--data", path, "--target", "y", "--method", "controller", *SMALL.split(), "--quiet")
    assert (code, said.err) == (0, "")


def test_a_platform_that_is_not_there_ends_with_code_2(command, monkeypatch):
    def absent(backend=None):
        raise AssertionError

    monkeypatch.setattr("jax.local_devices", absent)
    code, said = command(*SMALL.split())
    assert code == 2
    assert "`device` is auto, but JAX finds none here" in said.err
