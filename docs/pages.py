"""Pages written by a program: the reference of each room, the notebooks as they were run, the change log.

They are written before every build and are not under version control.
"""

import ast
import base64
import dataclasses
import importlib
import inspect
import itertools
import json
import re
import textwrap
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "n3"
MOVED = {
    "docs/sizing.md": "evidence/sizing.md",
    "docs/results.md": "evidence/results.md",
    "docs/structure.md": "evidence/structure.md",
    "docs/choices.md": "evidence/choices.md",
    "docs/reliability.md": "how-to/reliability.md",
}
"""Pages by the names that older entries of the change log and the notebooks have for them."""
ROOMS = {
    "config": "What an experiment is, as frozen data that validates itself. It imports no JAX.",
    "data": "Samples from a seed, from packages and from your own tables.",
    "nn": "Masks, controllers, networks, losses and metrics.",
    "tracing": "Any Equinox model as groups of channels.",
    "information": "What hidden units add about the target, and the size that follows.",
    "surgery": "Changes of shape, optimiser state included.",
    "training": "One run, many runs in one program, and any model on any data.",
    "stats": "Statistics of labelled results.",
    "experiments": "From a configuration to a run directory.",
    "plotting": "Figures of results. They compute nothing.",
    "paper": "The published experiments with their claims and verdicts.",
    "sklearn": "Estimators for scikit-learn.",
    "cli": "The command `n3` and its verbs.",
}

PARTS = ("TaskConfig", "NetworkConfig", "TrainingConfig", "InformationConfig", "StructureConfig", "RunConfig")
"""Parts of an experiment whose fields are flags."""
SIGNS = {"theta": "θ", "lambda": "λ", "phi": "φ", "infty": "∞", "odot": "*", "cdot": "·", "sum": "Σ", "pi": "π"}
"""Signs of the formulas of notebooks, by their names in TeX."""


def version() -> str:
    """Version of the package."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def write(docs: Path) -> None:
    """Write every page of this kind, and only where its text is new, so that a second build is short."""
    for room in ROOMS:
        _write(docs / "api" / f"{room}.md", room_page(room, public_names(room)))
    _write(docs / "api" / "n3.md", package_page())
    _write(docs / "api" / "flags.md", flags_page())
    for notebook in sorted((ROOT / "nbs").glob("*.ipynb")):
        _write(docs / "tutorials" / f"{notebook.stem}.md", notebook_page(notebook, docs / "tutorials"))
    _write(docs / "changes.md", change_log())


def _write(path: Path, text: str | bytes) -> None:
    content = text.encode() if isinstance(text, str) else text
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


def public_names(room: str = "") -> dict[str, str]:
    """Public names of a room, or of the package, each with the module that it is imported from."""
    lists = [PACKAGE / room / f"__init__.{ending}" for ending in ("pyi", "py")]
    lists += [PACKAGE / f"{room}.py"] if room else []
    path = next((path for path in lists if path.exists()), None)
    if path is None:
        return {}
    tree = ast.parse(path.read_text())
    if path.name == f"{room}.py":
        defined = (node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef))
        return {name: f"n3.{room}" for name in defined if not name.startswith("_")}
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            here = f"n3.{room}".rstrip(".")
            full = f"{here}.{module}".rstrip(".") if node.level else module
            found |= {alias.asname or alias.name: full for alias in node.names}
    return found


def room_page(room: str, names: dict[str, str]) -> str:
    """Reference of one room: all its public names, functions and classes with their docstrings."""
    module = f"n3.{room}"
    kinds = _kinds(module, names)
    parts = [f"# {module}\n\n{ROOMS[room]}\n"]
    for title, kind in (("Functions", "function"), ("Classes", "class"), ("Values", "data")):
        own = [name for name in names if kinds[name] == kind]
        if not own:
            continue
        parts.append(f"## {title}\n\n```{{eval-rst}}")
        parts += [_directive(module, name, kind, names[name]) for name in own]
        parts.append("```\n")
    return "\n".join(parts)


def _kinds(module: str, names: dict[str, str]) -> dict[str, str]:
    if not names:
        return {}
    room = importlib.import_module(module)
    made = {name: getattr(room, name) for name in names}
    return {
        name: "class" if inspect.isclass(value) else "function" if inspect.isfunction(value) else "data"
        for name, value in made.items()
    }


def _directive(module: str, name: str, kind: str, source: str) -> str:
    if kind != "data":
        return f".. auto{kind}:: {module}.{name}\n" + ("   :members:\n" if kind == "class" else "")
    text = textwrap.indent(_text_below(source, name), "   ")
    return f".. py:data:: {module}.{name}\n\n{text}\n"


def _text_below(module: str, name: str) -> str:
    """The string that stands below the assignment of a name in its module."""
    body = ast.parse(Path(importlib.import_module(module).__file__).read_text()).body
    for node, after in itertools.pairwise(body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        is_it = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        if is_it and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            return inspect.cleandoc(str(after.value.value))
    return ""


def package_page() -> str:
    """Names of the package itself, each with a link to its room."""
    found = {name: module.removeprefix("n3.") for name, module in public_names().items()}
    rows = [
        f"| {{py:obj}}`n3.{name} <n3.{room}.{name}>` | [n3.{room}]({room}.md) |"
        for name, room in found.items()
        if room not in ("n3", "")
    ]
    head = "# n3\n\n**These names are enough for most work.** Each is documented in its room.\n"
    return "\n".join([head, "| name | room |", "|---|---|", *rows, ""])


def flags_page() -> str:
    """Settings of an experiment as flags of the command line, part by part, from the texts of their fields."""
    config = importlib.import_module("n3.config")
    parts = [
        "# Flags\n",
        "**Every setting of an experiment is a flag of `n3 train` and `n3 sweep`.**",
        "Each is also a field of the class above its table.",
        "A default of `None` follows from the method or the data set. `n3 train --help` has the same list.\n",
    ]
    for name in PARTS:
        kind = getattr(config, name)
        texts = {own.name: _field_text(kind, own.name) for own in dataclasses.fields(kind)}
        parts += [f"## n3.config.{name}\n", "| flag | default | meaning |", "|---|---|---|"]
        for own in dataclasses.fields(kind):
            flag, default = f"--{own.name.replace('_', '-')}", _shown(own.default)
            parts.append(f"| `{flag}` | {default} | {texts[own.name]} |")
        parts.append("")
    return "\n".join(parts)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        value = "0:20" if value == tuple(range(20)) else " ".join(map(str, value))
    return f"`{value}`" if value != "" else ""


def _field_text(kind: type, name: str) -> str:
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign) and node.target.id == name and isinstance(after, ast.Expr):
            return " ".join(after.value.value.split()).replace("|", "\\|")
    return ""


def change_log() -> str:
    """Change log, with links that hold on the site."""
    text = (ROOT / "CHANGELOG.md").read_text()
    for old, new in MOVED.items():
        text = text.replace(f"]({old}", f"]({new}")
    return text.replace("](docs/", "](")


def notebook_page(path: Path, folder: Path) -> str:
    """A notebook as the run left it: texts, programs, what they print and their figures; nothing is run."""
    parts = []
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(_site_links(source))
            continue
        shown = "\n".join(line for line in source.splitlines() if not line.startswith("%")).strip("\n")
        parts.append(f"```python\n{shown}\n```")
        for place, output in enumerate(cell["outputs"]):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{number}-{place}.png"
                _write(folder / name, base64.b64decode("".join(data["image/png"])))
                parts.append(f"![Figure of the cell above]({name})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{text}\n```")
    parts.append(f"The notebook is `nbs/{path.name}` of the repository.")
    return "\n\n".join(parts) + "\n"


def _site_links(text: str) -> str:
    for old, new in MOVED.items():
        text = text.replace(f"](../{old}", f"](../{new}")
    text = text.replace("](../docs/", "](../")
    text = re.sub(r"\$\$?([^$]+)\$\$?", lambda found: f"`{_plain_formula(found[1])}`", text)
    return re.sub(r"\]\((\w+)\.ipynb", r"](\1.md", text)


def _plain_formula(text: str) -> str:
    """A short formula without TeX, since the site loads no program that would set it."""
    for name, sign in SIGNS.items():
        text = re.sub(rf"\\{name}(?![a-z])", sign, text)
    return re.sub(r"\\|[{}]", "", text).strip()
