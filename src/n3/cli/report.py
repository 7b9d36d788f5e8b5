"""Report: `n3 report`, one page of what a run or a sweep found."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from n3.cli.arguments import parse_flags
from n3.cli.endings import OK, ended, show


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """All flags of `n3 report`."""

    run: tyro.conf.Positional[Path]
    """Run directory of `n3 train` or `n3 sweep`."""
    out: Path | None = None
    """File that receives the page; None: `report.html` in the run directory, whose manifest then lists it."""


def report_command(words: Sequence[str], *, program: str) -> int:
    """Write the page and print where it is; the exit code."""
    description = "Write one self-contained page of a run: results with intervals, warnings, figures, settings."
    arguments = parse_flags(ReportArguments, words, program=program, description=description)

    def work() -> int:
        from n3.experiments import write_report

        show(f"report: {write_report(arguments.run, arguments.out)}")
        return OK

    return ended(work)
