"""README: its examples name what is there, and what it points to is there."""

import ast
import re
from pathlib import Path

import pytest

from documents import blocks, is_there, missing

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
EXAMPLES = [(why, code) for why, language, code in blocks(TEXT) if language == "python"]


def names_of(code):
    """The names of the package that a program reads, such as `n3.Experiment`."""
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "n3"}


def test_there_are_examples():
    assert len(EXAMPLES) >= 2
    assert all(code in TEXT for _, code in EXAMPLES)


@pytest.mark.parametrize("comment,code", EXAMPLES)
def test_examples_are_short_and_read_names_that_are_there(comment, code):
    """That they run is tested among the slow tests."""
    assert len(code.splitlines()) <= 15
    assert names_of(code)
    if why := missing(comment):
        pytest.skip(why)
    assert all(is_there(f"n3.{name}") for name in names_of(code))


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_ci_runs_the_readmes_test_command():
    commands = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "uv run --group test pytest" in commands
    assert "uv run --group test pytest" in TEXT
