"""Verbs that read a run or the data sets: predict, report and data."""

import io
import warnings

import pytest

import n3
from n3.cli import endings, run_command
from n3.cli.data import PACKAGED, dataset_rows
from n3.data import DATASETS, load_dataset


class Predictions:
    """Stands in for what `n3.predict` returns."""

    def to_csv(self, path):
        with open(path, "w") as file:
            file.write("y\n0.5\n")


@pytest.fixture
def asked(monkeypatch):
    """What `n3.predict` was asked for."""
    calls = []
    own = lambda *places, **named: calls.append((*map(str, places), named)) or Predictions()  # noqa: E731
    monkeypatch.setattr(n3, "predict", own, raising=False)
    return calls


def test_predictions_are_printed_as_csv(asked, capsys):
    assert run_command(["predict", "runs/a", "new.csv"]) == 0
    assert capsys.readouterr().out == "y\n0.5\n"
    usual = {"arm": "growing", "seed": None, "separator": None, "decimal": None, "encoding": None}
    assert asked == [("runs/a", "new.csv", usual)]


def test_predictions_are_written_to_a_file(asked, capsys, tmp_path):
    words = ["predict", "runs/a", "new.csv", "--out", str(tmp_path / "p.csv"), "--arm", "static", "--seed", "3"]
    assert run_command(words) == 0
    assert ((tmp_path / "p.csv").read_text(), capsys.readouterr().out) == ("y\n0.5\n", "")
    usual = {"separator": None, "decimal": None, "encoding": None}
    assert asked[0][-1] == {"arm": "static", "seed": 3} | usual


def test_how_a_file_is_written_may_be_said(asked):
    assert (
        run_command(
            ["predict", "runs/a", "n.csv", "--separator", ";", "--decimal", ",", "--encoding", "cp1252"]
        )
        == 0
    )
    usual = {"arm": "growing", "seed": None}
    assert asked[0][-1] == usual | {"separator": ";", "decimal": ",", "encoding": "cp1252"}


def test_a_warning_is_a_note_without_a_place_in_the_source(monkeypatch, capsys):
    def warning(*_, **__):
        warnings.warn("column `extra` is not an input; ignored", stacklevel=2)
        return Predictions()

    monkeypatch.setattr(n3, "predict", warning, raising=False)
    assert run_command(["predict", "runs/a", "new.csv"]) == 0
    assert capsys.readouterr().err == "note: column `extra` is not an input; ignored\n"


@pytest.mark.parametrize(("kept", "rest"), [("", "."), ("all numbers are in the folder", "; all numbers are")])
def test_a_closed_stream_is_said_with_what_is_kept(kept, rest, monkeypatch, capsys):
    class Closed(io.StringIO):
        def write(self, _):
            raise OSError

    monkeypatch.setattr(endings, "drop", lambda _: None)
    endings.show("y", Closed(), kept=kept)
    assert f"standard output takes no more{rest}" in capsys.readouterr().err


def test_a_table_that_lacks_a_column_ends_with_code_65(monkeypatch, capsys):
    def refuse(*_, **__):
        raise n3.DataError("new.csv: column `x` is missing.")

    monkeypatch.setattr(n3, "predict", refuse, raising=False)
    assert run_command(["predict", "runs/a", "new.csv"]) == 65
    assert "column `x`" in capsys.readouterr().err


def test_every_data_set_is_listed(capsys):
    assert run_command(["data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(DATASETS)]] == list(DATASETS)
    assert "n3-growing[data]" in lines[-1]


def test_a_row_by_hand():
    rows = {row[0]: row[1:] for row in dataset_rows()}
    assert rows["bessel"] == ("regression", "1", "1 output", "1024", "256", "-")
    assert rows["spirals"] == ("classification", "2", "5 classes", "2048", "512", "-")


@pytest.mark.parametrize("name", PACKAGED)
def test_what_is_listed_of_packages_is_so(name):
    pytest.importorskip("mnist1d" if name == "mnist1d" else "sklearn", reason="the extra data is not installed")
    own = load_dataset(name, seed=0)
    outputs = f"{own.num_classes} classes" if own.num_classes else f"{own.out_size} output"
    shape = (own.kind, str(own.in_size), outputs, str(len(own.train_inputs)), str(len(own.test_inputs)))
    assert PACKAGED[name] == shape
