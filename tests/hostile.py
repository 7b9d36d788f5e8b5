"""Hostile input, drawn: command lines, grids, criteria, tables, and damages of run directories."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import sys

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, seed, settings

import n3
from n3.cli import run_command
from n3.config import Experiment, parse_axis, product
from n3.config.criteria import parse
from n3.data.tables import read_table
from trials import tiny

SEED = 16
QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
WORDS = (
    *(
        "0",
        "1",
        "-1",
        "2",
        "64",
        "1.5",
        "1e30",
        "1e-50",
        "nan",
        "inf",
        "-inf",
        "2147483648",
        "9" * 400,
        "",
        "x",
    ),
    *("None", "true", "auxiliary", "information", "digits", "wine", "moons", "choose:tanh,relu", "held-out"),
    *("0.1:1:4", "1:1e308:2", "../x", "\0", "ü", "growing", "static", "full", "0:5000", "5:2", "entropy", "(("),
    *("importance < 1", "nowhere.csv", "gpu", "solved", "8", "4096", "description-length", "best"),
)
SETTINGS = [
    (part, field.name)
    for part in ("task", "network", "training", "information", "structure", "run")
    for field in dataclasses.fields(getattr(Experiment(), part))
    if field.name not in ("out", "log_dir", "name")
]


def fuzzed(strategy, check, *, examples):
    """Check some examples, the same ones in every run."""

    @seed(SEED)
    @settings(max_examples=examples, **QUIET)
    @given(strategy)
    def each(example):
        check(example)

    each()


def sentence(call, *arguments):
    """What a call is refused with, empty where it is not."""
    try:
        call(*arguments)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ""


def names_what_is_wrong(text):
    """Whether a message names a field, a flag or a file."""
    return any(mark in text for mark in ("`", "--", ".csv", ".npz", ".json", ".nc", ".safetensors", "models"))


def command_lines():
    """Flags of `n3 train`, each with a few words."""
    flags = st.sampled_from([f"--{name.replace('_', '-')}" for _, name in SETTINGS])
    words = st.lists(st.sampled_from(WORDS), max_size=2)
    lines = st.lists(st.tuples(flags, words).map(lambda own: [own[0], *own[1]]), min_size=1, max_size=4)
    methods = st.sampled_from([[], ["--method", "information"], ["--method", "information", "--members", "3"]])
    return st.tuples(methods, lines).map(lambda own: [*own[0], *(word for line in own[1] for word in line)])


def check_command_line(words):
    """A dry run ends with a plan, or with code 2 or 65 and a message."""
    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["n3", "train", *words, "--dry-run"]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run_command(sys.argv[1:])
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    assert code in (0, 2, 65)
    assert code == 0 or names_what_is_wrong(err.getvalue() + out.getvalue())


VALUES = st.sampled_from(
    ("1,2", "1:8:x2", "0:1:+1e-12", "1:1e308:x1e200", "a,b", "none,3", "8x8,16", "", ":::", "1,1")
)


def grids():
    """Axes by name and values."""
    names = st.sampled_from([name for _, name in SETTINGS]) | st.text(max_size=5)
    return st.lists(st.tuples(names, VALUES | st.text(max_size=12)).map("=".join), max_size=3)


def check_grid(texts):
    """A grid is one, or a sentence says what it is not."""
    said = sentence(lambda: product(Experiment(), map(parse_axis, texts)).experiments())
    assert not said or names_what_is_wrong(said)


_TOKENS = (
    "importance",
    "layer.gap",
    "<",
    ">=",
    "and",
    "or",
    "(",
    ")",
    "1e-3",
    "-1",
    "1e999",
    ".",
    "ü",
    "<<",
    "",
)
CRITERIA = st.lists(st.sampled_from(_TOKENS), max_size=12).map(" ".join) | st.text(max_size=30)


def check_criterion(text):
    """A criterion is one, or a sentence says what it is not."""
    said = sentence(parse, text)
    assert not said or "`criterion`" in said


_CELLS = (
    "1",
    "2.5",
    "-3e4",
    "a",
    "b",
    "",
    "nan",
    "inf",
    "1e300",
    "1,5",
    "2024-01-31",
    "x\ny",
    '"',
    "\0",
    "9" * 30,
)
_ROWS = st.lists(st.lists(st.sampled_from(_CELLS), min_size=1, max_size=4), max_size=12)
_SEPARATORS = st.sampled_from([",", ";", "\t"])
_ENDS = st.sampled_from(["\n", "\r\n", "\r"])
_CODES = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])
TABLES = st.binary(max_size=80) | st.builds(
    lambda rows, mark, end, code: end.join(mark.join(row) for row in [["x", "z", "y"], *rows]).encode(code),
    *(_ROWS, _SEPARATORS, _ENDS, _CODES),
)


def check_table(folder, content):
    """A table is read, or a sentence names the file and what is wrong in it."""
    path = folder / "own.csv"
    path.write_bytes(content)
    said = sentence(lambda: read_table(path, target=("y",)))
    assert not said or "own.csv" in said


FILES = ("config.json", "results.nc", "models/static.json", "models/static.safetensors")
DAMAGES = st.tuples(
    st.sampled_from(FILES),
    st.sampled_from(("flip", "cut", "empty", "junk", "field", "gone", "pipe", "link", "zero")),
    st.integers(0, 2**20),
    st.sampled_from([None, True, -1, 0, 1e308, 10**9, 2**62, "x", "", [], {}, [[1]], [10**9], "../..", 1.5]),
)


def trained(folder):
    """The run directory that is damaged."""
    return n3.run(tiny(folder, arms=("static",)), has_figures=False, quiet=True).directory


def check_damage(run, folder, damage):
    """What is damaged is read all the same, or a sentence names the file."""
    name, kind, place, value = damage
    shutil.rmtree(folder / "damaged", ignore_errors=True)
    file = shutil.copytree(run, folder / "damaged") / name
    content = bytearray(file.read_bytes())
    if kind == "flip":
        content[place % len(content)] ^= 1 << place % 8
    elif kind == "cut":
        content = content[: place % len(content)]
    elif kind == "field" and name.endswith(".json"):
        whole = json.loads(content)
        content = json.dumps(whole | {sorted(whole)[place % len(whole)]: value}).encode()
    elif kind in ("empty", "junk"):
        content = bytes(place % 256 for _ in range(100 * (kind == "junk")))
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind in ("link", "zero"):
        file.symlink_to({"link": "/etc/hostname", "zero": "/dev/zero"}[kind])
    elif kind != "gone":
        file.write_bytes(content)
    for call in (n3.read, n3.load):
        said = sentence(call, folder / "damaged")
        assert not said or names_what_is_wrong(said)
