"""Command line: flags that override an experiment, shown in groups, without importing JAX."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import tyro

from n3.config import (
    Experiment,
    InformationConfig,
    NetworkConfig,
    RunConfig,
    StructureConfig,
    TaskConfig,
    TrainingConfig,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """All flags of `train_growing.py`."""

    task: tyro.conf.OmitArgPrefixes[TaskConfig]
    network: tyro.conf.OmitArgPrefixes[NetworkConfig]
    training: tyro.conf.OmitArgPrefixes[TrainingConfig]
    information: tyro.conf.OmitArgPrefixes[InformationConfig]
    structure: tyro.conf.OmitArgPrefixes[StructureConfig]
    run: tyro.conf.OmitArgPrefixes[RunConfig]
    config: Annotated[str | None, tyro.conf.arg(metavar="FILE.json")] = None
    """An earlier run's `config.json` to start from; flags win over it."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print shapes, parameters, memory and planned runs; compile and write nothing."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show no progress."""

    def experiment(self) -> Experiment:
        """The experiment of these flags; a bad value raises ValueError."""
        return Experiment(**{name: getattr(self, name) for name in (*PARTS, "run")})


PARTS = ("task", "network", "training", "information", "structure")
T = TypeVar("T", bound=Arguments)
R = TypeVar("R")


def parse(description: str | None) -> tuple[Experiment, Arguments]:
    """The experiment that the command line asks for, and all its flags.

    Ends the process with code 2 and one sentence where a flag or value is wrong.
    """
    return read(Arguments, description, lambda parsed: (parsed.experiment().resolved(), parsed))


def read(kind: type[T], description: str | None, made: Callable[[T], R]) -> R:
    """What is made of the command line's flags; ends the process as `parse` where one is wrong."""
    words = _expanded(sys.argv[1:])
    try:
        first = Experiment.load(_config_file(words)) if _config_file(words) else Experiment()
        default = kind(**{name: getattr(first, name) for name in PARTS}, run=_unnamed(first.run))
        return made(tyro.cli(kind, args=words, default=default, description=description))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _unnamed(run: RunConfig) -> RunConfig:
    """The same run under no name, without event files: two runs never share a directory."""
    return dataclasses.replace(run, name=None, log_dir=None)


def _config_file(words: Sequence[str]) -> str | None:
    for index, word in enumerate(words):
        if word == "--config" and index + 1 < len(words):
            return words[index + 1]
        if word.startswith("--config="):
            return word.removeprefix("--config=")
    return None


def _expanded(words: Sequence[str]) -> list[str]:
    """The words with each range of seeds, `0:100`, written out."""
    result, is_seeds = [], False
    for word in words:
        if word.startswith("--seeds="):
            result.append("--seeds")
            word = word.removeprefix("--seeds=")
            is_seeds = True
        elif word.startswith("-"):
            is_seeds = word == "--seeds"
            result.append(word)
            continue
        low, colon, high = word.partition(":")
        if is_seeds and colon and low.isdecimal() and high.isdecimal():
            if int(low) >= int(high):
                print(f"error: `seeds` must be a range such as 0:100 or numbers; got {word}.", file=sys.stderr)
                sys.exit(2)
            result.extend(map(str, range(int(low), int(high))))
        else:
            result.append(word)
    return result
