"""Reproduce: `n3 reproduce`, an experiment of the paper with its figure and its verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import tyro

from n3.cli.arguments import parse_flags
from n3.cli.endings import DIVERGED, IN_FOLDER, OK, ended, show
from n3.config import suggestion
from n3.paper import NAMES, Reproduction, reproduction

ANIMATED = {"histories": ("growing", "grown"), "bands": ("growing",)}
"""Arms whose runs are recorded step by step, by figure; the first is animated."""


_CHOICES = f"Experiment: {', '.join(NAMES)}; or all."


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Computing: where, and what is said meanwhile."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device to compute on."""
    out: Path = Path("runs")
    """Folder that receives a folder for the experiment; finished groups of runs in it are not run again."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show no progress."""
    loop: bool = True
    """Measure a short Python loop of each program, for the cost of the same work without a sweep."""


@dataclass(frozen=True, kw_only=True)
class ReproduceArguments:
    """All flags of `n3 reproduce`."""

    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME", help=_CHOICES)]]
    computing: tyro.conf.OmitArgPrefixes[Computing]
    trials: int | None = None
    """Trials (seeds) of each arm; None: as many as published."""
    samples: int | None = None
    """Training samples of each run, and test samples in proportion; None: as many as published."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Cut steps, samples, cells and trials so far that all works and nothing is learnt."""


def reproduce_experiment(name: str, arguments: ReproduceArguments) -> bool:
    """Train what is missing of an experiment, then write and print what it says; whether all runs diverged."""
    from n3.experiments import RunDirectory, run_study
    from n3.experiments.directory import held

    trials, samples, options = arguments.trials, arguments.samples, arguments.computing
    made = reproduction(name, trials=trials, samples=samples, quick=arguments.quick)
    kind = ("-quick" if arguments.quick else "") + (f"-{trials}" if trials else "")
    kind += f"-{samples}-samples" if samples else ""
    folder, results = RunDirectory(options.out / f"{name}{kind}"), []
    with held(folder.path, *(part.name for part in made.parts)):
        for part in made.parts:
            base = replace(part.study.base, run=replace(part.study.base.run, device=options.device))
            study = replace(part.study, base=base)
            results.append(run_study(study, folder.path / part.name, quiet=options.quiet))
        told = _reported(made, results, folder, is_looped=options.loop)
    show(f"\n{told}\nresults: {folder.path}", kept=IN_FOLDER)
    return all(bool((own["diverged_at"] >= 0).all()) for own in results)


def _reported(made: Reproduction, results: Sequence[Any], folder: Any, *, is_looped: bool) -> str:
    """The report of a trained experiment, once it is in the folder with figures and verdicts."""
    from n3.paper import (
        Trained,
        cost_of,
        judge_claims,
        paper_figure,
        record_trajectory,
        report_text,
        reproduction_report,
    )
    from n3.plotting import animate_growth

    trained = [Trained.of(part, own) for part, own in zip(made.parts, results, strict=True)]
    found, trajectories = judge_claims(made, trained), []
    if made.figure in ANIMATED:
        first = made.parts[0].study.experiments()[0]
        trajectories = [record_trajectory(first, arm) for arm in ANIMATED[made.figure]]
        with TemporaryDirectory() as scratch:
            drawn = animate_growth(trajectories[0], Path(scratch) / "growth.gif")
            folder.write("figures/growth.gif", drawn.read_bytes())
    folder.write_figures({made.name: paper_figure(made, trained, results, found, trajectories)})
    cost = cost_of(made.parts, results, is_looped=is_looped)
    told = reproduction_report(made, trained, found, cost=cost)
    text = report_text(told, found)
    folder.write_json("verdict.json", told)
    folder.write("verdict.txt", text.encode())
    seconds = {kind: cost[f"{kind}_seconds"] for kind in ("cpu", "run", "compile")}
    folder.seal({"device": cost["device"], "seconds": seconds})
    return text


def reproduce_command(words: Sequence[str], *, program: str) -> int:
    """Run one experiment of the paper, or all; the exit code."""
    description = (
        "Run one of the paper's experiments by its name, or all: a folder with results, figure and verdicts."
    )
    arguments = parse_flags(ReproduceArguments, words, program=program, description=description)

    def work() -> int:
        if arguments.name not in (*NAMES, "all"):
            near = suggestion(arguments.name, (*NAMES, "all"))
            raise ValueError(f"`name` must be one of {', '.join(NAMES)} or all; got {arguments.name!r}.{near}")
        names = NAMES if arguments.name == "all" else (arguments.name,)
        return DIVERGED if all([reproduce_experiment(name, arguments) for name in names]) else OK

    return ended(work)
