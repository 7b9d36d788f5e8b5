"""Exit codes: how each foreseen end of a command is told."""

import errno
import io
import sys

import jax
import pytest

import n3
from n3.cli import endings, reproduce, run_command
from n3.data import DataError
from n3.training import BusyError, CheckpointError

SMALL = "--samples 12 --test-samples 6 --steps 5 --capacity 4 --seeds 0:2 --arms static --quiet"
RUNTIME = jax.errors.JaxRuntimeError


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    "error,code,text",
    [
        (ValueError("`steps` must be positive; got 0."), 2, "`steps` must be positive"),
        (ModuleNotFoundError("`log_dir` needs tensorboardX"), 2, "tensorboardX"),
        (DataError("a.csv, row 3, column y: not a number"), 65, "row 3, column y"),
        (MemoryError("Unable to allocate 3 TiB"), 70, "fewer seeds, samples or units at a time (Unable"),
        (RUNTIME("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes\nmore"), 70, "allocating 9 bytes)."),
        (PermissionError(errno.EACCES, "denied"), 73, "cannot write"),
        (OSError(errno.ENOSPC, "No space left"), 74, "free some space. The same command goes on"),
        (BusyError("runs/a is in use by process 3"), 75, "process 3"),
        (CheckpointError("no checkpoint in runs/a is whole"), 76, "no checkpoint"),
        (KeyboardInterrupt(), 130, "stopped. The same command goes on"),
    ],
)
def test_every_foreseen_end_is_a_code_and_a_sentence(error, code, text, monkeypatch, capsys):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert endings.ended(raising(error)) == code
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert text in said
    assert said.count("\n") == 1


class Closed(io.StringIO):
    """A stream whose reader has left."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def write(self, text):
        raise BrokenPipeError

    def fileno(self):
        return self.file.fileno()


def test_a_text_that_nobody_takes_speaks_of_no_folder(tmp_path, monkeypatch, capsys):
    """The command may have none, as `n3 data`."""
    with (tmp_path / "closed").open("w") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Closed(file))
        endings.show("a table")
    said = capsys.readouterr().err
    assert said == "warning: standard output takes no more.\n"


@pytest.mark.parametrize("error", [RUNTIME("INTERNAL: a fault"), RuntimeError("a fault of n3")])
def test_a_fault_of_the_program_keeps_its_traceback(error):
    with pytest.raises(type(error), match="a fault"):
        endings.ended(raising(error))


@pytest.mark.parametrize("words,code", [((), 0), (("--strict",), 4)])
def test_one_run_that_diverged_counts_where_it_is_asked_for(monkeypatch, tmp_path, words, code):
    def with_one_lost(record, own=n3.summarise):
        summary = own(record)
        summary["arms"]["static"]["diverged_seeds"] = [1]
        return summary

    monkeypatch.setattr(n3, "summarise", with_one_lost, raising=False)
    monkeypatch.setattr(sys, "argv", ["n3", "train", *SMALL.split(), "--out", str(tmp_path), *words])
    assert run_command(sys.argv[1:]) == code


@pytest.mark.parametrize("have_all_diverged,code", [(True, 4), (False, 0)])
def test_a_reproduction_of_which_all_runs_diverged_ends_with_code_4(have_all_diverged, code, monkeypatch):
    monkeypatch.setattr(reproduce, "reproduce_experiment", lambda *_: have_all_diverged)
    assert run_command(["reproduce", "figure-2"]) == code
