"""Architecture: order of the rooms, places of libraries, lengths and names, read from the source."""

import ast
import graphlib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "n3"
ORDER = (
    {"config"},
    {"data", "nn"},
    {"tracing"},
    {"information"},
    {"surgery"},
    {"training"},
    {"stats"},
    {"experiments", "plotting"},
    {"sklearn", "paper"},
    {"cli"},
)
"""Rooms, lowest first: each imports only those of the rows above it."""
CONFINED = {
    "matplotlib": {"plotting", "paper"},
    "xarray": {"experiments", "stats", "paper"},
    "h5netcdf": {"experiments"},
    "safetensors": {"training", "surgery"},
    "sklearn": {"data", "sklearn"},
    "tyro": {"cli"},
    "pickle": set(),
    "yaml": set(),
}
"""Libraries that only these rooms import."""
MOST_LINES, MOST_FUNCTION_LINES = 500, 60
METAPHORS = {
    "winners",
    "watch",
    "tail",
    "tails",
    "columns",
    "contender",
    "contenders",
    "logbook",
    "goal",
    "births",
    "told",
    "look",
}
"""Words that name no file and no public function, but in the field's own compounds below."""
FIELD = {"look_steps", "tail_summary", "align_columns"}
"""A look at the structure, heavy tails and columns of text are what they are called."""

LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
MODULES = {
    ".".join(("n3", *path.relative_to(SOURCE).with_suffix("").parts)): path
    for path in sorted(SOURCE.rglob("*.py"))
    if path.name != "__init__.py"
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def room_of(module):
    return module.split(".")[1]


def imported(tree):
    """Every module that a file imports, functions' own imports included, and every name from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def modules_in(tree):
    """The modules of the package that a file imports."""
    for module, name in imported(tree):
        yield from {module, f"{module}.{name}"} & set(MODULES)


def definitions(tree, *kinds):
    return [node for node in tree.body if isinstance(node, kinds)]


def code_lines(function):
    """Lines of a function without its docstring."""
    text = ast.get_docstring(function)
    documented = 0 if text is None else function.body[0].end_lineno - function.body[0].lineno + 1
    return function.end_lineno - function.lineno + 1 - documented


def test_every_module_is_in_a_room():
    assert {room_of(module) for module in MODULES} == set(LEVEL)


def test_rooms_import_only_what_is_above_them():
    against = [
        f"{module} imports {other}"
        for module, tree in TREES.items()
        for other in modules_in(tree)
        if room_of(other) != room_of(module) and LEVEL[room_of(other)] >= LEVEL[room_of(module)]
    ]
    assert not against


def test_no_room_has_a_circle():
    graph = {module: {m for m in modules_in(tree) if m != module} for module, tree in TREES.items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("library", CONFINED)
def test_a_library_stays_in_its_rooms(library):
    users = {
        room_of(name)
        for name, tree in TREES.items()
        for m, _ in imported(tree)
        if (m or "").split(".")[0] == library
    }
    assert users <= CONFINED[library]


def test_configuration_imports_no_jax():
    roots = {
        m.split(".")[0] for name, tree in TREES.items() if room_of(name) == "config" for m, _ in imported(tree)
    }
    assert not roots & {"jax", "equinox", "optax", "jaxtyping", "numpy"}


def test_files_and_functions_are_short():
    long_files = [name for name, path in MODULES.items() if len(path.read_text().splitlines()) > MOST_LINES]
    long_functions = [
        f"{name}.{node.name}: {code_lines(node)}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and code_lines(node) > MOST_FUNCTION_LINES
    ]
    assert not long_files + long_functions


def test_a_public_name_stands_in_one_file():
    places = defaultdict(list)
    for module, tree in TREES.items():
        for node in definitions(tree, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [node.name] if hasattr(node, "name") else [t.id for t in targets if isinstance(t, ast.Name)]
            for name in names:
                places[name].append(module)
    doubled = {name: own for name, own in places.items() if len(own) > 1 and not name.startswith("_")}
    assert not doubled


def test_names_are_the_fields_words():
    named = {module.split(".")[-1] for module in MODULES} | {
        node.name
        for tree in TREES.values()
        for node in definitions(tree, ast.FunctionDef)
        if node.name[0] != "_"
    }
    assert not [name for name in named - FIELD if METAPHORS & set(name.split("_"))]


def public_of(room):
    """The public names of a room."""
    folder = SOURCE / room
    stub = folder / "__init__.pyi"
    tree = ast.parse((stub if stub.exists() else folder / "__init__.py").read_text())
    return {alias.asname for node in definitions(tree, ast.ImportFrom) for alias in node.names}


@pytest.mark.parametrize("folder", ["src/n3/paper", "benchmarks", "scripts"])
def test_applications_import_public_names_alone(folder):
    foreign = []
    for path in sorted((ROOT / folder).glob("*.py")):
        for module, name in imported(ast.parse(path.read_text())):
            parts = (module or "").split(".")
            is_own = parts[:2] == ["n3", "paper"] and folder.endswith("paper")
            if parts[0] != "n3" or is_own or name is None:
                continue
            is_public = len(parts) == 2 and name in public_of(parts[1])
            if not is_public and not (len(parts) == 1 and (name in LEVEL or name in public_of("."))):
                foreign.append(f"{path.name}: from {module} import {name}")
    assert not foreign


@pytest.mark.parametrize("module", MODULES)
def test_a_module_and_what_is_public_in_it_say_what_they_are(module):
    tree = TREES[module]
    bare = [n.name for n in definitions(tree, ast.FunctionDef, ast.ClassDef) if not ast.get_docstring(n)]
    assert ast.get_docstring(tree)
    assert not [name for name in bare if not name.startswith("_")]
