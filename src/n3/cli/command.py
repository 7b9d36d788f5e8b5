"""Command: `n3`, its verbs by name, and what it prints about itself."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NoReturn

from n3.cli.endings import OK, USAGE, complain, run_process, show
from n3.cli.programs import keep_programs
from n3.config import suggestion

VERBS: Mapping[str, str] = MappingProxyType(
    {
        "train": "train growing networks and their controls, side by side over many seeds",
        "sweep": "train a grid of settings; go on where an earlier sweep ended",
        "reproduce": "run an experiment of the paper by its name",
        "predict": "predict new rows of a table with a trained network",
        "report": "write one page of results, figures and settings: report.html",
        "verify": "compare every file of a run with its checksum",
        "data": "list the data sets: their sizes, and the extra that each needs",
    }
)
"""What each verb does, in one line; a verb is the function `VERB_command` of the module `n3.cli.VERB`."""


def main() -> NoReturn:
    """The command `n3` as a process of its own, which ends with an exit code."""
    run_process(lambda: run_command(sys.argv[1:]))


def run_script(verb: str) -> NoReturn:
    """The same verb as a script of the repository."""
    run_process(lambda: _run_verb(verb, sys.argv[1:], program=sys.argv[0]))


def run_command(words: Sequence[str]) -> int:
    """Do what the words after `n3` ask for; the exit code. Help and wrong flags raise SystemExit."""
    first, *rest = words or [""]
    if first in ("-h", "--help"):
        print(command_help())
        return OK
    if first == "--version":
        import n3

        print(f"n3 {n3.__version__}")
        return OK
    if first in VERBS:
        return _run_verb(first, rest, program=f"n3 {first}")
    if not first:
        show(command_help(), sys.stderr)
        return USAGE
    near = suggestion(first, tuple(VERBS))
    what = "a flag before the verb" if first.startswith("-") else "a verb"
    wanted = (
        "`n3 VERB --help` lists the flags of a verb" if first.startswith("-") else f"use {', '.join(VERBS)}"
    )
    return complain(f"{first[:100]!r} is not {what} of `n3`; {wanted}.{near}", USAGE)


def command_help() -> str:
    """The verbs of `n3`, one line each."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, text in VERBS.items()]
    head = ["usage: n3 VERB ...", "", "Neural networks that choose their own size.", "", "verbs:"]
    tail = ["", "flags:", "  -h, --help  show this text, or with a verb its flags: `n3 train --help`"]
    tail += ["  --version   show the version", "", "first steps:"]
    tail += ["  n3 train                                          the default experiment, in about a minute"]
    tail += ["  n3 train --data table.csv --target price          your own table"]
    tail += ["  n3 reproduce figure-2 --quick                     an experiment of the paper, cut short"]
    return "\n".join([*head, *lines, *tail])


def _run_verb(verb: str, words: Sequence[str], *, program: str) -> int:
    keep_programs()
    module = importlib.import_module(f"n3.cli.{verb}")
    return getattr(module, f"{verb}_command")(list(words), program=program)
