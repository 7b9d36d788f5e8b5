"""Progress: lines at every fifth where there is no terminal, a bar where there is one, and silence."""

import sys

import pytest

from n3.training.history import Progress


class Terminal:
    """Standard error as a terminal has it."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def told(capsys, *reached, steps=100, **options):
    with Progress("growing", steps, 3, **{"quiet": False, **options}) as report:
        for step in reached:
            report(step)
    return capsys.readouterr().err.splitlines()


def test_a_plain_line_at_every_fifth_of_the_way(capsys):
    lines = told(capsys, *range(0, 101, 10))
    steps = [line.split(",")[0] for line in lines]
    assert steps == [f"growing x 3: step {step}/100" for step in (20, 40, 60, 80, 100)]
    assert all(line.endswith(" s left") for line in lines)
    assert lines[-1].endswith(", 0 s left")


@pytest.mark.parametrize(
    ("reached", "steps", "lines"), [((0, 19), 100, 0), ((0, 99), 100, 1), ((0, 3), 3, 1), ((1, 1, 1), 5, 1)]
)
def test_a_chunk_that_passes_several_fifths_is_one_line(capsys, reached, steps, lines):
    assert len(told(capsys, *reached, steps=steps)) == lines


def test_the_time_that_is_left_is_in_proportion(capsys, monkeypatch):
    seconds = iter([100.0, 130.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(seconds))
    assert told(capsys, 25) == ["growing x 3: step 25/100, 30 s, 90 s left"]


def test_quiet_is_silent(capsys):
    assert told(capsys, 50, 100, quiet=True) == []


def test_a_terminal_has_a_bar_and_no_lines(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("growing", 100, 3, False) as report:
        report(30)
        report(100)
    assert "growing x 3" in terminal.text
    assert "100/100" in terminal.text
    assert "\n" not in terminal.text.rstrip("\n")
    assert "s left" not in terminal.text
