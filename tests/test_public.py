"""Public names: each room's list can be read, lazily, and rooms that need no JAX import none."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "n3"
ROOMS = tuple(sorted(path.parent.name for path in SOURCE.glob("*/__init__.py")))
LISTS = {"": "__init__.pyi"} | {
    room: f"{room}/__init__.py{'i' * (SOURCE / room / '__init__.pyi').exists()}" for room in ROOMS
}
"""Where the public names of the package and of each room are listed."""
SHADOWED = ("training.sweep", "training.fit", "surgery.prune", "tracing.grow", "experiments.run")
"""Functions named as the module that holds them: to import the module first must not hide them."""
CHILD = """
import importlib, json, sys

sys.path.insert(0, sys.argv[2])
told, (lists, shadowed) = {}, json.loads(sys.argv[1])

def loaded(*names):
    return [name for name in names if name in sys.modules]

import n3
told["package"] = loaded("jax", "matplotlib", "xarray", "equinox")
n3.config.Experiment().resolved().to_json()
told["config"] = loaded("jax", "matplotlib", "xarray", "equinox")
import train_growing
sys.argv = ["train_growing.py", "--help"]
try:
    train_growing.main()
except SystemExit as end:
    told["help"] = [end.code, loaded("jax")]
for name in shadowed:
    importlib.import_module(f"n3.{name}")
told["missing"] = []
for room, names in lists.items():
    own = importlib.import_module(f"n3.{room}".rstrip("."))
    told["missing"] += [f"{room}.{name}" for name in names if not hasattr(own, name)]
    told["missing"] += [f"dir of {room}: {name}" for name in names if name not in dir(own)]
for name in shadowed:
    room, function = name.split(".")
    found = getattr(getattr(n3, room), function)
    told[name] = [type(found).__name__, found.__module__]
told["undefined"] = hasattr(n3, "nothing_of_this_name")
print("\\n" + json.dumps(told))
"""


def public_names(path):
    """The names that a list gives out: `from ... import X as X`."""
    found = re.findall(r"^from \S+ import (\w+) as (\w+)$", (SOURCE / path).read_text(), re.M)
    assert all(name == given for name, given in found)
    return [name for name, _ in found]


@pytest.fixture(scope="module")
def told():
    """What one process says that imports the package as a user does: lazily, and without type checks."""
    lists = {room: public_names(path) for room, path in LISTS.items()}
    plain = {name: value for name, value in os.environ.items() if name != "EAGER_IMPORT"}
    words = [sys.executable, "-c", CHILD, json.dumps([lists, SHADOWED]), ROOT / "scripts"]
    done = subprocess.run(words, env=plain, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_room_has_a_list_of_public_names():
    assert len(ROOMS) >= 10
    assert all(public_names(path) for path in LISTS.values())
    assert set(ROOMS) <= set(public_names("__init__.pyi"))


def test_the_package_is_lazy(told):
    assert told["package"] == []


def test_the_configuration_imports_no_jax(told):
    assert told["config"] == []


def test_help_needs_no_jax(told):
    assert told["help"] == [0, []]


def test_every_public_name_can_be_read_and_listed(told):
    assert told["missing"] == []
    assert told["undefined"] is False


@pytest.mark.parametrize("name", SHADOWED)
def test_a_function_is_not_hidden_by_its_module(told, name):
    assert told[name] == ["function", f"n3.{name}"]
