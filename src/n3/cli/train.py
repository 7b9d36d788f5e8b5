"""Train: `n3 train`, the main job."""

from collections.abc import Sequence

from n3.cli.arguments import Arguments, parse_experiment, show_seeds
from n3.cli.endings import DIVERGED, IN_FOLDER, OK, ended, show
from n3.config import Experiment

DESCRIPTION = "Train growing networks and their controls side by side, over many seeds, from one command."


def train_command(words: Sequence[str], *, program: str) -> int:
    """Train an experiment and print its table; the exit code."""
    experiment, arguments = parse_experiment(
        Arguments,
        words,
        program=program,
        description=DESCRIPTION,
        made=lambda parsed: (parsed.experiment().resolved(), parsed),
    )
    return ended(lambda: _train(experiment, arguments))


def _train(experiment: Experiment, arguments: Arguments) -> int:
    import n3

    if arguments.dry_run:
        show(n3.describe(experiment))
        return OK
    if not arguments.quiet:
        show_seeds(experiment.run.seeds)
    settings = {"resume": arguments.resume, "checkpoint_every": arguments.checkpoint_every}
    record = n3.run(experiment, quiet=arguments.quiet, **settings)
    summary = n3.summarise(record)
    show(f"\n{n3.table(summary)}\n\ndevice: {summary['device']}\nresults: {record.directory}", kept=IN_FOLDER)
    lost = [len(arm["diverged_seeds"]) for arm in summary["arms"].values()]
    has_failed = any(lost) if arguments.strict else sum(lost) == len(lost) * len(summary["seeds"])
    return DIVERGED if has_failed else OK
