"""Endings: how a command ends: exit codes, sentences in place of tracebacks, signals and closed streams."""

import contextlib
import errno
import gc
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

OK, USAGE, DIVERGED, DATA, INTERNAL, CANNOT_WRITE, FULL, BUSY, CORRUPT = 0, 2, 4, 65, 70, 73, 74, 75, 76
"""Exit codes; 128 and a signal's number: a signal ended it."""
GO_ON = "The same command goes on from what is on disk."
IN_FOLDER = "all numbers are in the folder"
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
    except BrokenPipeError:
        raise
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


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Print each warning as a line of its own, without the place in the source."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: show(f"note: {message}", sys.stderr)
        yield


def show(text: str, to: io.TextIOBase | None = None, *, kept: str = "") -> None:
    """Print a text; a pipe that is closed, or a disk that is full, costs the text alone.

    `kept` is said then: where the numbers are all the same.
    """
    stream = to or sys.stdout
    if stream is None:
        return
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):
        drop(stream)
        if stream is not sys.stderr:
            show(f"warning: standard output takes no more{kept and f'; {kept}'}.", sys.stderr)


def drop(stream: io.TextIOBase) -> None:
    """Send what a stream still holds nowhere: the end of the process flushes it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def run_process(work: Callable[[], int]) -> NoReturn:
    """Run a command as a process of its own, which ends with its exit code.

    A reader that leaves early, as in `n3 --help | head`, is no fault.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(cores))  # runs share the cores without talking
    gc.set_threshold(100_000)  # nearly all that a command makes lives to its end (4 % of a short run's time)
    fill_standard_streams()
    handle_signals()
    code: object = OK
    try:
        code = work()
    except SystemExit as end:  # of help and of a wrong flag
        code = end.code
    except BrokenPipeError:
        drop(sys.stdout)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                drop(stream)
    sys.exit(code)


def fill_standard_streams() -> None:
    """Open what is closed of input, output and errors, lest a file of results take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one


def handle_signals() -> None:
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
