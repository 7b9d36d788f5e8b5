"""Report: the page of a run and of a sweep holds all of it, alone, and the manifest lists it."""

import base64
import json
import re
import shutil
import sys

import pytest

import n3
from markup import Document
from n3.config.grid import Axis, product
from n3.experiments import report
from n3.experiments.report import write_report
from n3.experiments.study import run_study
from n3.training.checkpoint import CheckpointError
from trials import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with its figures and its page."""
    return n3.run(tiny(tmp_path_factory.mktemp("report")), quiet=True).directory


@pytest.fixture
def copy(run, tmp_path):
    """A run that a test may change."""
    return shutil.copytree(run, tmp_path / "a")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A sweep over two learning rates, and its page."""
    folder = tmp_path_factory.mktemp("sweep") / "s"
    study = product(tiny(arms=("static",)), [Axis("learning_rate", (1e-3, 1e-2))])
    run_study(study, folder, quiet=True)
    return folder


def images(text):
    return [base64.b64decode(own) for own in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]


def test_a_run_leaves_a_page_that_the_manifest_lists(run):
    assert "report.html" in json.loads((run / "manifest.json").read_text())["sha256"]
    assert n3.verify(run) == []


def test_the_page_stands_alone_and_shows_everything(run):
    text = (run / "report.html").read_text()
    found = Document(text)
    summary = json.loads((run / "summary.json").read_text())
    assert sorted(images(text)) == sorted(path.read_bytes() for path in run.glob("figures/*.png"))
    assert all(own["src"].startswith("data:") for tag, own in found.tags if tag == "img")
    assert not [own for _, own in found.tags if {"href", "onclick", "srcset"} & set(own)]
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in found.tags}
    for arm, own in summary["arms"].items():
        assert arm in found.text
        assert f"{own['test_loss']['median']:.3e}" in found.text
    for words in (
        "bessel, method controller",
        "12 training and 6 test samples",
        "learning_rate",
        "jaxlib",
        "cpu",
    ):
        assert words in found.text
    assert f"n3 train --config {run / 'config.json'}" in found.text


def test_the_page_of_a_table_says_what_became_of_its_columns(tmp_path):
    rows = [
        f"{n},{n if n % 9 else ''},{'red' if n % 2 else 'blue'},7,{'hi' if n > 5 else 'lo'}" for n in range(18)
    ]
    (tmp_path / "own.csv").write_text("\n".join(["id,size,colour,same,y", *rows]))
    task = {"data": str(tmp_path / "own.csv"), "target": ("y",), "drop": ("id",)}
    run = n3.run(tiny(tmp_path, task=task, arms=("static",)), has_figures=False, quiet=True).directory
    text = " ".join(re.sub(r"<[^>]+>", " ", write_report(run).read_text()).split())
    for words in ("Columns column what it is", "colour 2 categories", "same number; constant", "id left out"):
        assert words in text
    assert re.search(r"size number; missing: as [\d.]+, with a column that is 1 there", text)
    assert re.search(r"class training samples test samples hi 8 4 lo 4 2", text)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["/usr/bin/n3", "train", "--name", "a b"], "n3 train --name 'a b'"),
        (["scripts/sweep.py", "--grid", "x=1"], "python scripts/sweep.py --grid x=1"),
        (["mine.py"], "python mine.py"),
        ([], ""),
    ],
)
def test_the_command_to_repeat_a_run(words, line):
    assert report._command(words) == line


def test_writing_it_again_keeps_the_facts_of_the_manifest(copy):
    before = json.loads((copy / "manifest.json").read_text())
    (copy / "report.html").unlink()
    assert write_report(copy) == copy / "report.html"
    after = json.loads((copy / "manifest.json").read_text())
    assert {name: own for name, own in after.items() if name not in ("sha256", "checksum")} == {
        name: own for name, own in before.items() if name not in ("sha256", "checksum")
    }
    assert n3.verify(copy) == []


def test_a_page_elsewhere_leaves_the_run_as_it_is(copy, tmp_path):
    before = (copy / "manifest.json").read_bytes()
    page = write_report(copy, tmp_path / "page.html")
    assert page == tmp_path / "page.html"
    assert images(page.read_text()) == images((copy / "report.html").read_text())
    assert (copy / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("name", ["summary.json", "figures/loss.png", "models/static.json"])
def test_damage_is_named_and_not_blessed(copy, name):
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    with pytest.raises(CheckpointError, match=name.split("/")[-1]):
        write_report(copy)
    assert any(name in fault for fault in n3.verify(copy))


def test_text_of_the_run_is_escaped(copy, monkeypatch):
    monkeypatch.setattr(report, "_run_sentences", lambda record: ["<b>&</b>"])
    text = write_report(copy).read_text()
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in text
    assert "<b>" not in text


def test_a_page_that_fails_costs_a_line_and_no_number(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ValueError("no page")

    monkeypatch.setattr(sys.modules["n3.experiments.run"], "run_report", fail)  # `run` names a function too
    folder = n3.run(tiny(tmp_path), quiet=True).directory
    assert "warning: report not written, ValueError: no page" in capsys.readouterr().err
    assert not (folder / "report.html").exists()
    assert (folder / "figures" / "loss.png").exists()
    assert n3.verify(folder) == []


def test_a_sweep_leaves_a_page_with_a_row_a_setting(sweep):
    found = Document((sweep / "report.html").read_text())
    assert "figures/settings.png" in json.loads((sweep / "manifest.json").read_text())["sha256"]
    assert "final test loss and size over each setting" in found.text.lower()
    rows = re.findall(r"0\.0\d+static[\d.e+-]+ \[", found.text)
    assert len(rows) == 2
    assert "2 settings, arms static, 2 seeds (5, 3) each" in found.text
    shared = found.text.split("Settings that all share")[1].split("Computed with")[0]
    assert "size_cost" in shared
    assert "learning_rate" not in shared
    assert "None" not in shared
    assert "none" not in shared
    assert n3.verify(sweep) == []
    assert write_report(sweep) == sweep / "report.html"


def test_a_page_within_the_run_has_its_own_name(copy):
    before = (copy / "config.json").read_bytes()
    with pytest.raises(ValueError, match="`out` must lie outside of"):
        write_report(copy, copy / "config.json")
    assert (copy / "config.json").read_bytes() == before


def test_what_is_no_finished_run_is_refused(tmp_path, copy):
    with pytest.raises(FileNotFoundError, match="`run` must be the finished run directory"):
        write_report(tmp_path / "nowhere")
    (copy / "config.json").rename(copy / "other.json")
    with pytest.raises((FileNotFoundError, CheckpointError), match=r"config\.json"):
        write_report(copy)
