"""The command that reproduces: what it leaves, what it says, what it does not do again."""

import json
import sys

import pytest
from matplotlib.figure import Figure

import n3
from n3.cli import reproduce, run_command
from n3.config.grid import Study
from n3.paper.claims import Claim, Part, Reference, Reproduction
from n3.paper.experiments import NAMES
from trials import tiny

CELLS = ({"task": "bessel"}, {"task": "cubic"})
CLAIM = Claim(
    quantity="grown / growing", measure="ratio of means", of=("grown", "growing"), reference=Reference()
)


def cut_short(name, **asked):
    """A reproduction that two programs of the fast tests train, whatever it is asked for."""
    study = Study(base=tiny(arms=("growing", "grown")), cells=CELLS)
    part = Part(name="main", study=study)
    return Reproduction(name=name, title="made up", parts=(part,), claims=(CLAIM,), figure="histograms")


@pytest.fixture
def command(monkeypatch, capsys):
    """Call the command in this process: its exit code, and what it printed and complained of."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["n3", "reproduce", *map(str, words)])
        code = run_command(sys.argv[1:])
        return code, capsys.readouterr()

    return call


@pytest.fixture
def asked(command, monkeypatch):
    """What the command asks for, where every reproduction is `cut_short`."""
    made = []
    monkeypatch.setattr(reproduce, "reproduction", lambda name, **own: made.append(own) or cut_short(name))
    return made


def test_an_experiment_leaves_results_figures_and_verdicts_and_is_not_run_twice(
    command, asked, tmp_path, monkeypatch
):
    words = ("figure-3", "--quick", "--trials", 2, "--out", tmp_path, "--quiet", "--no-loop")
    code, said = command(*words)
    assert code == 0
    assert asked == [{"trials": 2, "samples": None, "quick": True}]
    folder = tmp_path / "figure-3-quick-2"
    assert (folder / "figures" / "figure-3.png").stat().st_size > 10_000
    told = json.loads((folder / "verdict.json").read_text())
    assert [row["verdict"] in ("reproduced", "not reproduced", "cannot tell") for row in told["verdicts"]] == [
        True
    ]
    assert (told["cost"]["trainings"], told["cost"]["loop"]) == (8, [])
    assert (folder / "verdict.txt").read_text() in said.out
    assert said.out.endswith(f"results: {folder}\n")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["sha256"]) == {"figures/figure-3.png", "verdict.json", "verdict.txt"}
    assert "results.nc" in json.loads((folder / "main" / "manifest.json").read_text())["sha256"]
    assert manifest["seconds"]["cpu"] == pytest.approx(told["cost"]["cpu_seconds"])

    monkeypatch.setattr("n3.experiments.study.train_group_cells", lambda *_, **__: pytest.fail("trained again"))
    code, again = command(*words)
    assert (code, again.out) == (0, said.out)


def test_histories_are_recorded_and_animated(command, tmp_path, monkeypatch):
    """What is recorded and drawn is tested where it is made; here, that it is, and of which arms."""
    study, recorded, drawn = Study(base=tiny(arms=("growing", "grown"))), [], []
    parts = (Part(name="main", study=study),)
    made = Reproduction(name="figure-2", title="made up", parts=parts, claims=(), figure="histories")
    monkeypatch.setattr(reproduce, "reproduction", lambda name, **own: made)
    monkeypatch.setattr("n3.paper.record_trajectory", lambda *own: recorded.append(own) or own[1])
    monkeypatch.setattr("n3.paper.paper_figure", lambda *own: drawn.append(own[-1]) or Figure())

    def animated(trajectory, path):
        drawn.append(trajectory)
        path.write_bytes(b"frames")
        return path

    monkeypatch.setattr("n3.plotting.animate_growth", animated)
    assert command("figure-2", "--out", tmp_path, "--quiet", "--no-loop")[0] == 0
    assert recorded == [(study.experiments()[0], arm) for arm in ("growing", "grown")]
    assert drawn == ["growing", ["growing", "grown"]]
    assert (tmp_path / "figure-2/figures/growth.gif").read_bytes() == b"frames"
    assert n3.verify(tmp_path / "figure-2") == []


def test_a_run_of_fewer_samples_has_a_folder_of_its_own(command, asked, tmp_path, monkeypatch):
    from n3.experiments import study

    def untrained(*_, **__):
        raise ValueError("not trained here")

    monkeypatch.setattr(study, "train_group_cells", untrained)
    code, said = command("figure-3", "--samples", 64, "--device", "cpu", "--out", tmp_path)
    assert (code, "not trained here" in said.err) == (2, True)
    assert asked == [{"trials": None, "samples": 64, "quick": False}]
    (folder,) = tmp_path.iterdir()
    assert folder.name == "figure-3-64-samples"
    assert (folder / "main" / "study.json").read_text() == cut_short("figure-3").parts[0].study.to_json()


def test_a_folder_of_another_kind_is_refused(command, tmp_path):
    (tmp_path / "figure-2-quick" / "main").mkdir(parents=True)
    (tmp_path / "figure-2-quick" / "main" / "thesis.txt").write_text("mine")
    code, said = command("figure-2", "--quick", "--out", tmp_path)
    assert code == 2
    assert "holds something else" in said.err


def test_bad_trials_end_with_code_2_and_write_nothing(command, tmp_path):
    code, said = command("figure-2", "--trials", 900, "--out", tmp_path / "runs")
    assert code == 2
    assert "`trials` must lie in [1, 200]; got 900" in said.err
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_made_ends_with_code_73(command, tmp_path):
    (tmp_path / "file").write_text("no folder")
    code, said = command("figure-2", "--quick", "--trials", 1, "--out", tmp_path / "file", "--quiet")
    assert code == 73
    assert "cannot write" in said.err


def test_all_runs_every_name(command, monkeypatch):
    called = []
    monkeypatch.setattr(
        reproduce, "reproduce_experiment", lambda name, arguments: called.append((name, arguments.quick))
    )
    assert command("all", "--quick")[0] == 0
    assert called == [(name, True) for name in NAMES]


@pytest.mark.parametrize("name", ["main", "figures", "verdict.json"])
def test_nothing_is_written_through_a_link(name, command, asked, tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "figure-3"
    outside.mkdir()
    folder.mkdir()
    (folder / name).symlink_to(outside)
    code, said = command("figure-3", "--out", tmp_path, "--quiet", "--no-loop")
    assert code == 76
    assert f"{folder / name} is a link, which is not followed. Move it away" in said.err
    assert not list(outside.iterdir())
