"""The plan of the package, read from its source: who imports whom, where libraries live, what is how long."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "n3"
FILES = sorted(path for path in SOURCE.glob("*.py") if path.stem != "__init__")

MAY_IMPORT = {
    "validation": "",
    "presets": "",
    "criteria": "validation",
    "settings": "criteria validation",
    "config": "presets settings validation",
    "scalers": "",
    "tables": "",
    "generators": "scalers tables",
    "files": "settings tables validation",
    "data": "config files generators scalers settings tables",
    "masks": "",
    "controllers": "masks",
    "choices": "",
    "model": "choices controllers masks validation",
    "terms": "information model",
    "losses": "model",
    "metrics": "model",
    "surgery": "controllers masks model",
    "compaction": "choices grown model surgery",
    "expansion": "model surgery validation",
    "measures": "information",
    "pruning": "criteria losses measures model surgery terms",
    "portable": "checkpoint choices compaction model records validation",
    "records": "config",
    "epochs": "losses",
    "train": "choices config epochs losses metrics model records",
    "tiers": "",
    "sweep": "config model records tiers train",
    "checkpoint": "config records",
    "prices": "",
    "path": "arms config data losses model prices sweep train",
    "decisions": "settings",
    "alterations": "drive losses expansion pruning settings surgery terms tiers train",
    "logbook": "config decisions records settings train",
    "stages": "alterations decisions logbook losses path records settings sweep terms tiers train",
    "winners": "columns",
    "analysis": "columns prices records winners",
    "resampling": "",
    "profiles": "resampling",
    "tails": "resampling",
    "scaling": "resampling",
    "plotting": "analysis prices",
    "plotting_choices": "analysis plotting",
    "gallery": "plotting plotting_choices records",
    "events": "analysis records",
    "information": "",
    "neighbours": "",
    "budget": "",
    "births": "information losses model terms",
    "depth": "",
    "drive": "births budget controllers depth information losses model terms",
    "monitor": "information losses model neighbours terms",
    "arms": "choices config data drive information losses monitor terms train",
    "progress": "",
    "dimensions": "",
    "values": "dimensions",
    "rearrangements": "dimensions values",
    "primitives": "dimensions rearrangements values",
    "structure": "dimensions",
    "program": "primitives structure",
    "norms": "",
    "dependence": "dimensions primitives program structure values",
    "reduction": "dependence norms program structure",
    "grown": "controllers dependence masks model norms program reduction structure",
    "growth": "controllers drive grown information program settings structure",
    "goal": "losses metrics program",
    "batches": "",
    "fitting": "batches controllers goal grown growth progress settings train",
    "grid": "config validation",
    "groups": "arms config data experiment grid metrics progress records sweep",
    "studies": "analysis experiment grid groups records columns",
    "columns": "",
    "claims": "grid",
    "references": "claims",
    "paper": "claims config grid references validation",
    "contenders": "analysis claims grid records scaling",
    "verdicts": "analysis claims contenders profiles resampling tails",
    "report": "analysis claims contenders grid resampling columns tails verdicts",
    "curves": "analysis contenders records scaling",
    "watching": "arms config experiment train",
    "plotting_stages": "config decisions plotting",
    "plotting_trials": "curves plotting profiles",
    "plotting_scaling": "columns curves plotting",
    "plotting_growth": "plotting watching",
    "plotting_units": "fitting plotting",
    "plotting_paper": "analysis claims contenders curves plotting plotting_growth plotting_scaling"
    " plotting_trials references verdicts watching",
    "cost": "arms claims config experiment records train",
    "models": "checkpoint compaction config losses model records train",
    "experiment": "arms config data events logbook metrics models monitor path progress records stages"
    " sweep terms train",
}
CONFINED = {
    "matplotlib": {"plotting"},
    "tensorboardX": {"events"},
    "tyro": set(),
    "xarray": {"records", "analysis"},
    "h5netcdf": {"records"},
    "safetensors": {"checkpoint"},
    "optax": {"losses", "train", "sweep", "surgery"},
    "scipy": {"analysis", "generators", "scaling", "tails"},
    "sklearn": {"tables"},
    "mnist1d": {"tables"},
    "pickle": set(),
    "yaml": set(),
}


def imported(path):
    """Each module that a file imports, with `from n3 import a` counted as `n3.a`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            if node.module == "n3":
                yield from (f"n3.{alias.name}" for alias in node.names)
            else:
                yield node.module


def functions(path):
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]


def body_lines(function):
    doc = ast.get_docstring(function)
    return function.end_lineno - function.lineno + 1 - (len(doc.splitlines()) + 2 if doc else 0)


def test_every_file_is_in_the_table():
    assert {path.stem for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_imports_only_what_the_table_allows(path):
    ours = {name.partition(".")[2].split(".")[0] for name in imported(path) if name.split(".")[0] == "n3"}
    assert ours <= set(MAY_IMPORT[path.stem].split())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_libraries_stay_where_they_belong(path):
    for name in imported(path):
        library = name.split(".")[0]
        assert path.stem in CONFINED.get(library, {path.stem}), f"{library} in {path.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_files_and_functions_are_short_and_documented(path):
    assert len(path.read_text().splitlines()) <= 300
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert all(body_lines(function) <= 60 for function in functions(path))


def test_the_median_function_is_short():
    lengths = sorted(body_lines(function) for path in FILES for function in functions(path))
    assert lengths[len(lengths) // 2] <= 12


def test_every_public_name_can_be_imported():
    package = importlib.import_module("n3")
    stub = ast.parse((SOURCE / "__init__.pyi").read_text())
    names = [alias for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert names
    for alias in names:
        assert alias.asname == alias.name
        assert hasattr(package, alias.name)


def test_help_needs_no_jax(tmp_path):
    (tmp_path / "jax.py").write_text("raise RuntimeError('JAX was imported')")  # found before the real one
    paths = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    environment = {k: v for k, v in os.environ.items() if k != "EAGER_IMPORT"} | {"PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "train_growing.py", "--help"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "--seeds" in done.stdout
