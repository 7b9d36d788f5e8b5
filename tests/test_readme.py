"""README: its example runs as printed, and what it points to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    code = EXAMPLES[0]
    assert len(code.splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert "growing / static" in capsys.readouterr().out


def test_a_model_of_the_readers_own_becomes_smaller(capsys):
    names = {}
    exec(compile(EXAMPLES[1], "README.md", "exec"), names)
    assert type(names["smaller"]) is type(names["model"])
    shapes = [layer.weight.shape for layer in names["smaller"].layers]
    assert str(shapes) in capsys.readouterr().out
    assert 1 <= shapes[0][0] < 32
    assert 1 <= shapes[1][0] < 32


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_ci_runs_the_readmes_test_command():
    (command,) = re.findall(r"uv run --group test pytest", (ROOT / ".ci" / "run").read_text())
    assert command in TEXT


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
)
def test_flags_are_written_as_the_command_takes_them(page):
    assert not re.findall(r"--[a-z]+\.[a-z-]+", page.read_text())  # flags have no prefix of their part
