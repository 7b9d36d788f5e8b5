"""Checkpoint: how far training has come, on disk whole or not at all, and the way on from there.

A checkpoint is a folder: `state.safetensors`, of which every leaf is known by its path, shape and type,
`records.safetensors`, and `manifest.json` with the sha256 of both. It is written aside, flushed to the disk and
renamed. Of a course of training the newest two that are whole are kept.
"""

import hashlib
import json
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
import safetensors.numpy
from beartype import BeartypeConf
from beartype.door import is_bearable
from jaxtyping import PyTree

from n3.config.validation import read_file
from n3.surgery.export import PART, arrays_in, from_bytes, to_bytes, write_file
from n3.training.history import note

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None

_FORMAT = "n3 checkpoint, version 2"
EVERY = 60.0
"""Seconds between two checkpoints: the most that a killed run loses, and what one chunk takes."""
_KEPT = 2
"""Checkpoints that are kept: where the newest one is damaged, the one before it is used."""
MANIFEST = "manifest.json"
LOCK = ".lock"
Records = Mapping[str, np.ndarray]
"""Arrays of any shape, by name."""


class CheckpointError(ValueError):
    """What training left is there and cannot be used: it is damaged, or of other settings or samples."""


class BusyError(RuntimeError):
    """A folder that another process holds."""


class Interrupted(KeyboardInterrupt):
    """Training that a signal ended, after a checkpoint; `number` is the signal's."""

    def __init__(self, number: int, what: str):
        super().__init__(f"stopped by {signal.Signals(number).name}{what}")
        self.number = number


def write_manifest(folder: Path, facts: Mapping[str, Any], names: list[str]) -> None:
    """Write `manifest.json`: facts, the sha256 of the named files, and that of its own text before it."""
    sums = {name: _sha256((folder / name).read_bytes()) for name in names}
    text = _rendered({**facts, "sha256": sums})
    write_file(folder / MANIFEST, _rendered(json.loads(text) | {"checksum": _sha256(text)}))


class Facts(dict[str, Any]):
    """The facts of a manifest, by name; a CheckpointError where one that is asked for is not there."""

    def __init__(self, path: Path, facts: Mapping[str, Any]):
        super().__init__(facts)
        self.path = path

    def __missing__(self, name: str) -> Any:
        raise CheckpointError(f"{self.path} is damaged: it has no `{name}`.")


_KINDS = {
    "sha256": dict[str, str],
    "seconds": dict[str, float],
    "sources": dict[str, str],
    "versions": dict[str, str],
    "command": list[str],
    "git": dict[str, Any],
    "stops": list[int],
    **dict.fromkeys(("step", "group", "groups"), int),
    **dict.fromkeys(("compile_seconds", "run_seconds", "cpu_seconds"), float),
    **dict.fromkeys(("device", "precision", "samples", "settings"), str),
}
"""What the facts of a manifest are."""
_MOST_MANIFEST = 2**26
"""Bytes of a manifest."""


def _fault_of(facts: Mapping[str, Any]) -> str | None:
    """The first fact that is of another kind than the manifests of this package have."""
    for name, kind in _KINDS.items():
        if name in facts and not is_bearable(facts[name], kind, conf=BeartypeConf(is_pep484_tower=True)):
            return f"`{name}` must be {kind}; got {str(facts[name])[:80]}"
    names = facts.get("sha256") or ()
    if not names:
        return "it has no checksum"
    is_name = lambda own: 0 < len(own) < 1000 and all(0 < len(part) < 256 for part in own.split("/"))  # noqa: E731
    odd = next((own for own in names if not is_name(own) or "\0" in own or ".." in own.split("/")), None)
    return None if odd is None else f"{odd[:80]!r} is no name of a file in its folder"


def read_manifest(folder: Path) -> Facts:
    """The facts of a folder's manifest, and under `sha256` the sums of its files.

    Raises:
        FileNotFoundError: If there is none.
        CheckpointError: If it is damaged: not as it was written, to the byte, or not what manifests are.
    """
    path = folder / MANIFEST
    fault = f"{path} is damaged"
    try:
        content = read_file(path, most=_MOST_MANIFEST)
        found = json.loads(content)
        text = _rendered(found) if isinstance(found, dict) else b""
    except NotADirectoryError as error:
        raise FileNotFoundError(f"{folder} is no folder.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{fault}: {str(error).rstrip('.')}.") from error
    if not isinstance(found, dict) or "checksum" not in found:
        raise CheckpointError(f"{fault}: it has no `checksum`.")
    rest = {name: own for name, own in found.items() if name != "checksum"}
    if text != content or found["checksum"] != _sha256(_rendered(rest)):
        raise CheckpointError(f"{fault}: its own checksum differs.")
    if told := _fault_of(rest):
        raise CheckpointError(f"{fault}: {told}.")
    return Facts(path, rest)


def damages(folder: Path, *names: str) -> list[str]:
    """What of a folder's files, or of those named, is not as its manifest says; FileNotFoundError without."""
    try:
        sums = read_manifest(folder)["sha256"]
    except CheckpointError as error:
        return [str(error)]
    found = []
    for path, expected in ((folder / name, sums.get(name)) for name in names or sums):
        if not path.is_file():
            found.append(f"{path} is missing.")
        elif _sha256(path.read_bytes()) != expected:
            found.append(f"{path} is damaged or another's: its sha256 is not the one in the manifest.")
    return found


def digest(tree: PyTree, text: str = "") -> str:
    """A sha256 of the arrays of a tree, by path, shape, type and value, and of a text."""
    return _sha256(to_bytes(tree) + text.encode())


STATE = "state.safetensors"
"""What a checkpoint holds of training; its records lie beside it."""
_FILES = STATE, "records.safetensors"
"""What a checkpoint holds beside its manifest."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint that was read and verified."""

    folder: Path
    facts: Facts
    records: Records

    def state(self, like: PyTree) -> PyTree:
        """The state, filled into a tree of the same paths, shapes and types; CheckpointError if they differ."""
        path = self.folder / STATE
        try:
            return from_bytes(path.read_bytes(), like, source=str(path))
        except ValueError as error:
            raise CheckpointError(str(error)) from error


@dataclass(kw_only=True)
class Checkpoints:
    """The checkpoints of one course of training, in a folder that is theirs."""

    folder: Path
    every: float = EVERY
    """Seconds between two."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What a checkpoint must have been written with to go on from it, as JSON can hold it."""
    _signals: list[int] = field(default_factory=list)
    """Those that came while `deferring`, in this course and in those that are part of it."""
    _since: float = field(default_factory=time.monotonic)

    def part(self, name: str) -> "Checkpoints":
        """Those of a course of training that is part of this one."""
        own = {"every": self.every, "identity": self.identity, "_signals": self._signals}
        return Checkpoints(folder=self.folder / name, **own)

    def newest(self, *, is_any: bool = False) -> Saved | None:
        """The newest checkpoint that is whole; None where there is none. A damaged one is named and passed by.

        Raises:
            CheckpointError: If all are damaged, or unless `is_any` it has another `identity`.
        """
        every = (path for path in self.folder.glob("*[0-9]") if path.is_dir())
        found, faults = sorted(every, reverse=True), []
        for path in found:
            try:
                faults += (new := damages(path, *_FILES))
            except OSError as error:
                what = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged: {error.strerror}"
                faults += (new := [f"{error.filename} {what}."])
            if not new:
                return self._read(path, {} if is_any else self._fixed())
            note(f"warning: {new[0]}")
        if found:
            rest = f"Nothing was overwritten; remove {self.folder} to train it from its first step."
            raise CheckpointError(f"no checkpoint in {self.folder} is whole: {faults[0]} {rest}")
        return None

    def parts(self) -> list["Checkpoints"]:
        """Those of the courses that left any, here or below."""
        every = (path for path in self.folder.rglob("*[0-9]") if path.name.isdecimal())
        folders = {path.parent for path in every if path.is_dir()}
        return [Checkpoints(folder=folder) for folder in sorted(folders)]

    def remove(self) -> None:
        """Remove all checkpoints, here and below, and the folders that are empty then."""
        for part in self.parts():
            for path in part.folder.glob("[0-9]*"):
                if path.is_dir() and path.name.removesuffix(PART).isdecimal():
                    shutil.rmtree(path, ignore_errors=True)
        for folder in (*sorted(self.folder.rglob("*"), reverse=True), self.folder):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def progress(self) -> dict[str, int]:
        """The last step of each part that is whole, by its name, in the order of training."""
        found: dict[str, int] = {}
        for path in sorted(self.folder.rglob(MANIFEST), key=lambda own: (own.stat().st_mtime_ns, str(own))):
            if not damages(path.parent, *_FILES):
                found[path.parents[1].relative_to(self.folder).as_posix()] = read_manifest(path.parent)["step"]
        return found

    def _read(self, path: Path, fixed: Mapping[str, Any]) -> Saved:
        facts = read_manifest(path)
        for name, value in fixed.items():
            if facts.get(name) != value:
                both = f"{str(facts.get(name))[:80]} there, {str(value)[:80]} here"
                rest = f"take the same or another folder, or remove {self.folder}"
                raise CheckpointError(f"{path} is of other {name} ({both}): {rest}.")
        for name, value in _program().items():
            if facts.get(name) != value:
                both = f"{name} {value} in place of {facts.get(name)}"
                note(f"note: {path} goes on with {both}: numbers agree within rounding alone.")
        source = path / "records.safetensors"
        return Saved(folder=path, facts=facts, records=arrays_in(source.read_bytes(), str(source)))

    def reached(self, made: Callable[[], tuple[PyTree, Records, Mapping[str, Any]]], *, is_last: bool) -> None:
        """Write state, records and facts if it is time, at the end, or where a signal came, and then stop.

        Raises:
            Interrupted: If SIGTERM or Ctrl-C came while `deferring`.
            OSError: If it cannot be written; those before it stay.
        """
        if is_last or self._signals or time.monotonic() - self._since >= self.every:
            self.write(*made())
            self._since = time.monotonic()
        if self._signals:
            raise Interrupted(self._signals[0], f"; all steps so far are in {self.folder}")

    def _fixed(self) -> dict[str, Any]:
        return {"format": _FORMAT, "precision": precision(), **self.identity}

    def write(self, state: PyTree, records: Records, facts: Mapping[str, Any]) -> None:
        """Write a checkpoint, read it back, then remove all but the newest two; errors as `reached`."""
        before = sorted(path for path in self.folder.glob("*[0-9]") if path.name.isdecimal())
        path = self.folder / f"{1 + int(before[-1].name) if before else 0:08d}"
        scratch = path.with_suffix(PART)
        plain = safetensors.numpy.save({name: np.asarray(own, order="C") for name, own in records.items()})
        files = dict(zip(_FILES, (to_bytes(state), plain), strict=True))
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)  # never through a link
        try:
            for name, content in files.items():
                write_file(scratch / name, content)
            write_manifest(scratch, {**self._fixed(), **_program(), **facts}, list(files))
            os.rename(scratch, path)
            flush_folder(self.folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if faults := damages(path):
            raise OSError(f"the disk does not keep what is written: {faults[0]}")
        for old in (path for path in before[: 1 - _KEPT] if path.is_dir()):
            shutil.rmtree(old)

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Let SIGTERM and a first Ctrl-C wait until `reached` has written, or for the end of the block.

        A second Ctrl-C is a KeyboardInterrupt at once. Outside the main thread signals are left alone.

        Raises:
            Interrupted: If one came.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def defer(number: int, frame: Any) -> None:
            self._signals.append(number)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            note(f"{signal.Signals(number).name}: stopping after this chunk of steps; it is written then.")

        before = {number: signal.signal(number, defer) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._signals:
            raise Interrupted(self._signals[0], " after the last step, which is written")


@contextmanager
def checkpoints_in(
    folder: str | Path | None, every: float, identity: Callable[[], Mapping[str, Any]]
) -> Iterator[Checkpoints | None]:
    """Checkpoints in a folder that this process alone holds, while signals wait for them; None: there are none.

    Raises:
        BusyError: If another process holds the folder.
        CheckpointError: If there is a link in it.
        Interrupted: If a signal came.
    """
    if folder is None:
        yield None
        return
    made = Checkpoints(folder=Path(folder), every=every, identity=identity())
    for path in (own for own in made.folder.rglob("*") if own.is_symlink()):
        raise CheckpointError(f"{path} is a link, which is not followed. Move it away and repeat the call.")
    with owned(made.folder), made.deferring():
        yield made


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone, by a lock that ends with the process, however that ends.

    The folder is made where it is missing. Where the system has no `flock` (Windows) nothing is locked.

    Raises:
        BusyError: If another holds it, which is named.
        CheckpointError: If its lock is no regular file.
        OSError: If nothing can be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / LOCK
    if lock.is_symlink() or (lock.exists() and not lock.is_file()):
        raise CheckpointError(f"{lock} is no regular file: remove it and repeat the command.")
    with lock.open("a+") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            text = f"{folder} is in use by {file.read() or 'another process'}"
            raise BusyError(f"{text}: wait for it, or give another `name` or `out`.") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}, `{' '.join(sys.argv)}`")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def precision() -> str:
    """The widest floating point numbers of a program: `float32`, or `float64` under `jax_enable_x64`."""
    return str(jnp.zeros(()).dtype)


def flush_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can do that."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _program() -> dict[str, Any]:
    """What decides the rounding of a program."""
    return {
        "jaxlib": jaxlib.version.__version__,
        "platform": jax.default_backend(),
        "devices": jax.local_device_count(),
    }


def _rendered(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
