"""Predict: `n3 predict`, predictions of a trained network for new rows of a table."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from n3.cli.arguments import parse_flags
from n3.cli.endings import OK, ended, show, warnings_as_notes


@dataclass(frozen=True, kw_only=True)
class PredictArguments:
    """All flags of `n3 predict`."""

    run: tyro.conf.Positional[Path]
    """Run directory of `n3 train`."""
    file: tyro.conf.Positional[Path]
    """Table of new rows: a .csv file with the columns that the run was trained on."""
    out: Path | None = None
    """File that receives the predictions as csv; None: they are printed."""
    arm: str = "growing"
    """Arm whose networks predict."""
    seed: int | None = None
    """Seed of the network that predicts; None: the mean over all seeds that did not diverge."""
    separator: str | None = None
    """What stands between the cells of the file; None: as of the file that was learnt."""
    decimal: Literal[".", ","] | None = None
    """What stands before the fraction of a number in the file; None: as of the file that was learnt."""
    encoding: str | None = None
    """Encoding of the file, such as latin-1; None: as of the file that was learnt."""


def predict_command(words: Sequence[str], *, program: str) -> int:
    """Print predictions as csv, or write them to a file; the exit code."""
    description = "Predict new rows of a table with a trained network. Scalers and names come from the run."
    arguments = parse_flags(PredictArguments, words, program=program, description=description)
    return ended(lambda: _predict(arguments))


def _predict(arguments: PredictArguments) -> int:
    import n3

    names = ("arm", "seed", "separator", "decimal", "encoding")
    with warnings_as_notes():
        found = n3.predict(arguments.run, arguments.file, **{name: getattr(arguments, name) for name in names})
    if arguments.out is not None:
        found.to_csv(arguments.out)
        return OK
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.csv"
        found.to_csv(path)
        show(path.read_text().rstrip("\n"))
    return OK
