"""Command line: flags that override an experiment, in groups, without importing JAX; and how a command ends."""

import dataclasses
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NoReturn, TextIO, TypeVar

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
    resume: Literal["auto", "never", "must"] = "auto"
    """Go on with what the folder holds: if it has the same settings (`auto`), `never`, or always (`must`)."""
    checkpoint_every: float = 60.0
    """Seconds between two checkpoints: what a killed run loses at most, beside the steps of one chunk."""
    strict: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """End with code 4 if any run diverged, not only if all did."""

    def __post_init__(self) -> None:
        if not 0 <= self.checkpoint_every < float("inf"):
            raise ValueError(f"`checkpoint_every` must be zero or more seconds; got {self.checkpoint_every}.")

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


OK, USAGE, DIVERGED, DATA, INTERNAL, CANNOT_WRITE, FULL, BUSY, CORRUPT = 0, 2, 4, 65, 70, 73, 74, 75, 76
"""Exit codes; 128 and a signal's number: a signal ended it."""
GO_ON = "The same command goes on from what is on disk."
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def ended(work: Callable[[], int]) -> int:
    """What a command does, and its exit code: every foreseen fault is a sentence, none a traceback."""
    try:
        return work()
    except KeyboardInterrupt as error:  # of `n3.training.Interrupted`, which has a number
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more finds nothing to stop
        return complain(f"{str(error) or 'stopped'}. {GO_ON}", 128 + getattr(error, "number", signal.SIGINT))
    except MemoryError as error:
        return out_of_memory(error)
    except OSError as error:
        if isinstance(error, FileExistsError | FileNotFoundError) and error.errno is None:
            return complain(error, USAGE)
        if error.errno in NO_SPACE:
            return complain(f"the disk is full ({error}): free some space. {GO_ON}", FULL)
        return complain(f"cannot write: {error}", CANNOT_WRITE)
    except (ValueError, ModuleNotFoundError, RuntimeError) as error:
        return _code_of(error)


def _code_of(error: Exception) -> int:
    import jax

    from n3.data import DataError
    from n3.training import BusyError, CheckpointError

    if isinstance(error, jax.errors.JaxRuntimeError):
        if "RESOURCE_EXHAUSTED" not in str(error) and "Out of memory" not in str(error):
            raise error
        return out_of_memory(error)
    codes = {BusyError: BUSY, CheckpointError: CORRUPT, DataError: DATA}
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), None)
    if code is None and isinstance(error, RuntimeError):
        raise error
    return complain(error, code or USAGE)


def out_of_memory(error: BaseException) -> int:
    """Say that memory was not enough."""
    advice = "train fewer seeds, samples or units at a time"
    return complain(f"out of memory: {advice} ({str(error).partition(chr(10))[0][:200]}).", INTERNAL)


def complain(what: object, code: int) -> int:
    """Say on standard error why a command ends, and give its exit code back."""
    show(f"error: {what}", sys.stderr)
    return code


def show(text: str, to: TextIO | None = None) -> None:
    """Print a text; a pipe that is closed, or a disk that is full, costs the text alone."""
    stream = to or sys.stdout
    if stream is None:
        return
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # the end of the process flushes it again
        if stream is not sys.stderr:
            show("warning: standard output takes no more; all numbers are in the folder.", sys.stderr)


def run_process(main: Callable[[], int]) -> NoReturn:
    """Run a command as a process of its own, which ends with its exit code."""
    fill_standard_streams()
    watch_signals()
    sys.exit(main())


def fill_standard_streams() -> None:
    """Open what is closed of input, output and errors, lest a file of results take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one


def watch_signals() -> None:
    """Have SIGTERM and Ctrl-C end the process at once where nothing is trained, and a second Ctrl-C anywhere.

    Every file is whole or not there at any moment. Training lets the first one wait for its next checkpoint.
    """
    if os.name != "posix":
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def count() -> None:
        interrupts = 0
        while interrupts < 2:
            interrupts += os.read(reading, 1) == bytes([signal.SIGINT])
        os._exit(128 + signal.SIGINT)  # the main thread may be far inside a compiled program

    threading.Thread(target=count, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)


def leave(number: int, frame: object) -> None:
    """End the process by a signal, without a traceback from wherever it was."""
    complain(f"stopped by {signal.Signals(number).name}. {GO_ON}", 0)
    os._exit(128 + number)
