"""Notebooks: committed with their figures, by the house rules, and they run from top to bottom."""

import ast
import asyncio
import json
import re
import resource
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NAMES = ("analysis", "classification", "information", "regression", "structure")
LIBRARIES = {"json", "os", "pathlib", "shutil", "tempfile", "equinox", "jax", "n3", "numpy", "optax"}
LONGEST = 10
"""Lines of a function, from `def` to its end."""
SECONDS = 2 * 120
"""CPU seconds of all five together: two minutes of the two cores that the tests are made for."""


def cells_of(name, kind):
    content = json.loads((ROOT / "nbs" / f"{name}.ipynb").read_text())
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def code_of(name):
    lines = "\n".join("".join(cell["source"]) for cell in cells_of(name, "code")).splitlines()
    return ast.parse("\n".join(line for line in lines if not line.startswith("%")))


def outputs_of(name):
    return [output for cell in cells_of(name, "code") for output in cell["outputs"]]


def is_room(name):
    return (ROOT / "src" / "n3" / name).is_dir()


def exported(room=""):
    """The public names of the package or of one of its rooms, whose list may be a stub."""
    folder = ROOT / "src" / "n3" / room
    lists = [path for path in (folder / "__init__.pyi", folder / "__init__.py") if path.exists()]
    listed = [node for node in ast.parse(lists[0].read_text()).body if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in listed for alias in node.names}


def test_every_notebook_is_here():
    assert {path.stem for path in (ROOT / "nbs").glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_as_one_run_left_it(name):
    counts = [cell["execution_count"] for cell in cells_of(name, "code")]
    assert counts == list(range(1, len(counts) + 1))
    kinds = {output.get("name", output["output_type"]) for output in outputs_of(name)}
    assert kinds <= {"stdout", "display_data", "execute_result"}  # neither errors nor warnings
    assert sum("image/png" in output.get("data", {}) for output in outputs_of(name)) >= 1
    assert (ROOT / "nbs" / f"{name}.ipynb").stat().st_size < 2**20


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_uses_exported_names_alone(name):
    for node in ast.walk(code_of(name)):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= LIBRARIES
            assert not any(alias.name.startswith("n3.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] in LIBRARIES - {"n3"}
        elif isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.endswith("__")
            place = ast.unparse(node.value).split(".")
            if place[0] == "n3" and all(map(is_room, place[1:])):
                assert node.attr in exported(*place[1:])


@pytest.mark.parametrize("name", NAMES)
def test_functions_of_a_notebook_are_short(name):
    for node in ast.walk(code_of(name)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < LONGEST, node.name


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_names_no_machine(name):
    told = [{kind: d for kind, d in o.get("data", {}).items() if kind != "image/png"} for o in outputs_of(name)]
    texts = [cell["source"] for kind in ("code", "markdown") for cell in cells_of(name, kind)]
    whole = json.dumps([told, texts, [output.get("text") for output in outputs_of(name)]])
    assert not re.search(r"/(home|root|work|tmp|usr|var|opt|mnt|Users)/|[A-Z]:\\\\", whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_says_what_one_learns_and_where_growing_does_not_help(name):
    texts = ["".join(cell["source"]) for cell in cells_of(name, "markdown")]
    assert "You will learn" in texts[0]
    assert re.findall("^## .*", "\n\n".join(texts), flags=re.M)[-1] == "## Where growing does not help"
    fast = [cell for cell in cells_of(name, "code") if "N3_FAST" in "".join(cell["source"])]
    assert fast == cells_of(name, "code")[:1]


def client(name, folder):
    notebook = nbformat.read(ROOT / "nbs" / f"{name}.ipynb", nbformat.NO_CONVERT)
    settings = {"resources": {"metadata": {"path": str(folder)}}, "startup_timeout": 300, "timeout": 600}
    return NotebookClient(notebook, kernel_name="python3", **settings)


async def executed(names, folder):
    """Execute notebooks, two at a time; a cell that fails raises."""
    free = asyncio.Semaphore(2)

    async def one(name):
        async with free:
            await client(name, folder).async_execute()

    await asyncio.gather(*map(one, names))


def seconds_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_notebooks_run_from_top_to_bottom_in_two_minutes(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.setenv("N3_FAST", "1")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling is most of it
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
    before = seconds_of_children()
    asyncio.run(executed(NAMES, tmp_path))
    assert seconds_of_children() - before < SECONDS
    asyncio.run(executed(["analysis"], tmp_path))  # its run directories are there now
