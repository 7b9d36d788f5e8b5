"""Directory: the folder of one experiment: who owns it, whose configuration it holds, and what lies in it."""

import contextlib
import hashlib
import io
import itertools
import json
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import xarray as xr

from n3.config.experiment import ARMS, Experiment
from n3.config.validation import inside, load_json, read_text
from n3.experiments.arms import stops_of
from n3.stats.summary import versions
from n3.surgery.export import PART, write_file
from n3.training.checkpoint import (
    EVERY,
    LOCK,
    MANIFEST,
    STATE,
    BusyError,
    CheckpointError,
    Checkpoints,
    damages,
    owned,
    precision,
    read_manifest,
    write_manifest,
)
from n3.training.history import note

Resume = Literal["auto", "never", "must"]
"""Whether to go on with what a folder holds: where it is of the same configuration, never, or else refuse."""
REPORT = "report.html"
OF_NUMBERS = "figures/", REPORT
"""What shows the numbers of a finished folder, and goes when they change."""
SUMMARY = "summary.json"
REMEDY = "Repeat the command that made it: it rebuilds what it can, or names the folder to remove."
"""What to do where a file is damaged."""
Mended = Literal["train", "show", "nothing"]
"""What is to be done with a folder: train what it is for, show its whole results again, or nothing."""
_FOLDERS = "figures", "models", "checkpoints", "groups", "jobs"
"""What lies in a folder of an experiment or a sweep."""
NEXT = "study.next.json"
"""The configuration of a study with more steps, until there are results of it."""
_FILES = "config.json", "study.json", NEXT, "preprocessing.json", "structure.json", "results.nc"
_FILES += SUMMARY, REPORT, MANIFEST, "verdict.json", "verdict.txt"
_PLACES = ("out", "name", "log_dir", "device")
"""Fields of a run that change no number."""


@dataclass(frozen=True)
class RunDirectory:
    """A folder that belongs to one experiment; every file appears in it whole or not at all."""

    path: Path
    longer: tuple[str, str] | None = None
    """Name and text of a configuration with more steps, which will take the place of the folder's own."""
    written: set[str] = field(default_factory=set)
    """Names of what this process wrote: with those of the manifest, all that is ours."""

    @classmethod
    @contextmanager
    def of(cls, experiment: Experiment, *, resume: Resume = "auto") -> Iterator["RunDirectory"]:
        """The folder of an experiment with its `config.json`, which this process alone holds meanwhile.

        It is named by `run.out` and `run.name`. Without a name it is the last of the same configuration that is
        not finished and that nobody holds, or else a new one, named by task, method and time, and by a number
        where that is taken.

        Raises:
            FileExistsError: If the folder holds something else, of which the fields that differ are named, or
                anything where `resume` is never.
            FileNotFoundError: If there is nothing to go on with where `resume` is must.
            BusyError: If another process holds it.
            OSError: If it cannot be made.
        """
        with ExitStack() as stack:
            directory = cls(_owned_folder(experiment, resume, stack))
            cells_of = lambda text: [Experiment.from_json(text).resolved()]  # noqa: E731
            yield directory.begin("config.json", experiment.to_json(), resume=resume, cells_of=cells_of)

    def begin(
        self, name: str, text: str, *, resume: Resume = "auto", cells_of: Callable[[str], Sequence[Experiment]]
    ) -> "RunDirectory":
        """Write the configuration that the folder is for, or see that it is there already; errors as `of`.

        Where all that it asks for beyond the folder's own are further steps of every experiment of `cells_of`,
        that one stays until there are results of it (`longer`).
        """
        written = self.path / name
        if self.is_sealed:
            self._restore(name, text.encode())
        if refuse_foreign(self.path, name):
            if resume == "must":
                raise FileNotFoundError(f"`resume` must: there is nothing to go on with in {self.path}.")
            self.write(name, text.encode())
            return self
        if resume == "never":
            raise FileExistsError(f"{self.path} is not empty: give another `name` or `out`, or `resume` auto.")
        found = differences(written, text)
        if len(found) == 1 and all(map(_follows, cells_of(read_text(written)), cells_of(text))):
            return replace(self, longer=(name, text))
        if found:
            rest = "Give the same fields, or another `name` or `out`."
            if len(found) == 1 and found[0].startswith("`steps`"):
                rest = "More `steps` go on where a method allows it, twice as many, or four times. " + rest
            raise FileExistsError(f"{self.path} holds something else: {', '.join(found)}. {rest}")
        return self

    def _restore(self, name: str, content: bytes) -> None:
        """Write a lost or damaged configuration of a finished folder anew, if the manifest is of this one.

        Raises:
            CheckpointError: If it is of another.
        """
        faults = damages(self.path, name)
        if not faults or ((self.path / name).is_file() and not faults[0].startswith(str(self.path / name))):
            return  # all is well, or the manifest is damaged and will be written again
        if read_manifest(self.path)["sha256"].get(name) != hashlib.sha256(content).hexdigest():
            rest = f"repeat the command that made it, or remove {self.path} to train it again"
            raise CheckpointError(f"{faults[0]} The manifest is not of these very settings: {rest}.")
        self.write(name, content)
        note(f"{self.path / name} is written anew")

    def clear(self) -> None:
        """Let the manifest and the figures of earlier results go, once the new ones are written.

        The configuration becomes that of the new ones, where it has more steps.
        """
        self._drop_shown()
        (self.path / MANIFEST).unlink(missing_ok=True)
        if self.longer is not None:
            name, text = self.longer
            self.write(name, text.encode())

    def _drop_shown(self) -> None:
        """Remove what shows the numbers: the files that the manifest names."""
        for name in (name for name in sealed_names(self.path) if name.startswith(OF_NUMBERS)):
            (self.path / name).unlink(missing_ok=True)

    def mend(self, **facts: Any) -> Mended:
        """Name what is damaged in a finished folder, and tell what is to be done.

        Nothing is removed but figures and the report where these are to be drawn anew. Damaged numbers are
        trained anew, from the checkpoints if these are whole. Damaged checkpoints beside whole results are
        named alone. `facts` are those that the manifest must have.

        Raises:
            CheckpointError: If a file is damaged that nothing in the folder gives, or the results are of other
                facts; the remedy is named.
        """
        anew = f"remove {self.path} to train it again"
        if not self.is_sealed or self.longer is not None:
            if (self.path / "results.nc").exists() and not self.has_checkpoints:
                rest = "has no checkpoints to go on from" if self.is_sealed else f"has lost its {MANIFEST}"
                raise CheckpointError(f"{self.path} {rest}: give another `name`, or {anew}.")
            return "train"
        faults, shown = damages(self.path), tuple(str(self.path / name) for name in (SUMMARY, *OF_NUMBERS))
        gone = [fault for fault in faults if not fault.startswith(shown)]
        for fault in verify(self.path):
            rest = f" The results are whole; remove {self.path / 'checkpoints'} to keep them alone."
            note(f"warning: {fault}{rest * (not gone and fault not in faults)}")
        if gone and not self.has_checkpoints:
            raise CheckpointError(f"{gone[0]} It has no checkpoints: {anew}.")
        if gone:
            for part in self.checkpoints().parts():
                part.newest(is_any=True)
            note(f"{self.path}: training goes on from its checkpoints")
            return "train"
        require_facts(self.path, facts)
        if faults:
            self._drop_shown()
            note(f"{self.path}: what shows results.nc is written anew")
        return "show" if faults else "nothing"

    @property
    def is_sealed(self) -> bool:
        """Whether all numbers are there."""
        return (self.path / MANIFEST).exists()

    @property
    def is_intact(self) -> bool:
        """Whether all numbers are there as they were written."""
        return self.is_sealed and not damages(self.path)

    @property
    def has_checkpoints(self) -> bool:
        """Whether there is something to go on from."""
        return any((self.path / "checkpoints").rglob(STATE))

    def checkpoints(self, every: float = EVERY) -> Checkpoints:
        """Where training leaves how far it has come, until the folder is sealed."""
        return Checkpoints(folder=self.path / "checkpoints", every=every)

    def describe_progress(self, steps: int) -> str:
        """Which parts are trained to their last step, and from where the others go on; empty where none is."""
        reached = self.checkpoints().progress()
        done = [name for name, step in reached.items() if step >= steps]
        left = [f"step {step} of {name}" for name, step in reached.items() if step < steps]
        kind = "arm" if set(reached) <= set(ARMS) else "part"
        told = [f"takes {len(done)} finished {kind}{'s' * (len(done) > 1)}"] if done else []
        told += [f"continues from {', '.join(left)}"] if left else []
        return f"{'; '.join(told)} in {self.path}" if told else ""

    def write(self, name: str, content: bytes) -> None:
        """Write a file under its final name only once it is complete."""
        write_file(self.path / name, content)
        self.written.add(name)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a mapping as indented JSON; NaN and infinities become null."""
        text = json.dumps(dict(content), default=lambda own: own.tolist())  # of NumPy's
        plain = json.loads(text, parse_constant=lambda _: None)
        self.write(name, (json.dumps(plain, indent=2) + "\n").encode())

    def write_results(self, results: xr.Dataset) -> None:
        """Write `results.nc` (NetCDF4, compressed)."""
        encoding = {name: {"zlib": True} for name, variable in results.data_vars.items() if variable.ndim > 1}
        # xarray locks what it writes by the client of Dask, where there is one, which knows no bytes in memory
        dask = sys.modules.get("dask")
        with contextlib.nullcontext() if dask is None else dask.config.set(scheduler="synchronous"):
            content = bytes(results.to_netcdf(engine="h5netcdf", encoding=encoding))
        self.write("results.nc", content)

    def write_figures(self, figures: Mapping[str, Any], formats: Sequence[str] = ()) -> None:
        """Write Matplotlib figures by name, as `figures/<name>.png` and in further formats."""
        for (name, figure), kind in itertools.product(figures.items(), dict.fromkeys(("png", *formats))):
            content = io.BytesIO()
            figure.savefig(content, format=kind, dpi=150)
            self.write(f"figures/{name}.{kind}", content.getvalue())

    def seal(self, facts: Mapping[str, Any], *, keeps_checkpoints: bool = False) -> None:
        """Write `manifest.json`: versions, commit, command line, the run's facts, and each file's sha256.

        Files that this package did not write are none of them. What was only needed on the way is removed:
        checkpoints, unless more steps may follow, and parts of files that a killed process left.
        """
        for path in (*self.path.glob(f"*.*{PART}"), *self.path.glob(f"*/*.*{PART}")):
            if re.fullmatch(rf".+\.\d+\{PART}", path.name) and path.is_file():
                path.unlink()
        own = self.written | set(sealed_names(self.path)) | {"config.json", "study.json"}
        names = sorted(name for name in own - {MANIFEST, NEXT} if (self.path / name).is_file())
        ours = {"versions": versions(), "git": _git_state(), "command": sys.argv, "precision": precision()}
        ours["compilation_cache"] = bool(jax.config.values["jax_compilation_cache_dir"])
        write_manifest(self.path, {**ours, **facts}, names)
        if not keeps_checkpoints:
            self.checkpoints().remove()


def sealed_names(folder: Path) -> list[str]:
    """The files that the manifest of a folder names; none where it is missing or damaged."""
    try:
        return list(read_manifest(folder)["sha256"])
    except (CheckpointError, FileNotFoundError):
        return []


def obstacles(folder: Path, *names: str) -> list[str]:
    """Links, and folders and files in the place of the other, where an experiment writes, a sentence each.

    In the groups of a sweep too. `names` are further folders that belong in it.
    """
    groups = [each for each in sorted(folder.glob("groups/[0-9]*")) if each.is_dir() and not each.is_symlink()]
    own = _obstacles_in(folder, *_FOLDERS, *names)
    return [*own, *(fault for each in groups for fault in _obstacles_in(each, *_FOLDERS))]


def _obstacles_in(folder: Path, *names: str) -> list[str]:
    parts = [*folder.glob("groups/[0-9]*"), *(folder / "checkpoints" / arm for arm in ARMS)]
    of_training = list((folder / "checkpoints").rglob("*"))
    parts += [path for path in of_training if path.name.removesuffix(PART).isdecimal() or path.is_symlink()]
    folders = [*(folder / name for name in names), *sorted(set(parts))]
    files = dict.fromkeys(folder / name for name in (*_FILES, *sealed_names(folder)))
    kinds = {
        "is a link, which is not followed.": Path.is_symlink,
        "is a folder where a file belongs.": lambda path: path in files and path.is_dir(),
        "is a file where a folder belongs.": lambda path: path not in files and path.is_file(),
        "is no regular file.": lambda path: path.exists() and not path.is_dir() and not path.is_file(),
    }
    return [f"{path} {what}" for path in (*files, *folders) for what, is_so in kinds.items() if is_so(path)]


def refuse_obstacles(folder: Path, *names: str) -> None:
    """CheckpointError for the first of the `obstacles`: it names what to move away."""
    for fault in obstacles(folder, *names):
        raise CheckpointError(f"{fault} Move it away and repeat the command.")


@contextmanager
def held(folder: Path, *names: str) -> Iterator[None]:
    """Hold a folder for this process alone (`owned`), in which nothing stands in the way of what is written.

    Nobody else's files are overwritten or removed: CheckpointError names what to move away (`obstacles`).
    """
    refuse_obstacles(folder, *names)
    with owned(folder):
        yield


def require_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """See that the manifest of finished results has these facts; CheckpointError names one that differs."""
    found = read_manifest(folder)
    for name, value in facts.items():
        if found.get(name) != value:
            both = f"{str(found.get(name))[:80]}, now {str(value)[:80]}"
            rest = f"take the same, or another `name`, or remove {folder} to train it again"
            raise CheckpointError(f"{folder} is of other {name} ({both}): {rest}.")


def hash_files(names: Iterable[str]) -> dict[str, str]:
    """The sha256 of every file of samples."""
    return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in sorted(names)}


def _follows(earlier: Experiment, own: Experiment) -> bool:
    """Whether an experiment trains on from the last step of an earlier one, and records what that did."""
    steps, new = earlier.training.steps or 0, stops_of(own)
    is_longer = own.is_open_ended and steps < (own.training.steps or 0)
    return is_longer and set(new[new <= steps]) <= set(stops_of(earlier))


def refuse_foreign(path: Path, name: str) -> bool:
    """Whether a folder holds nothing, or is not there; FileExistsError if it holds files but not this one.

    A finished folder that has lost the file is not foreign.
    """
    files = [each for each in path.glob("*") if each.name != LOCK and each.suffix != PART]
    if files and not (path / name).exists() and not (path / MANIFEST).exists():
        raise FileExistsError(f"{path} is not empty and holds something else: give another `name` or `out`.")
    return not files


def _owned_folder(experiment: Experiment, resume: Resume, stack: ExitStack) -> Path:
    """The folder of an experiment, held until the stack is closed."""
    if experiment.run.name is not None:
        path = Path(experiment.run.out) / experiment.run.name
        if resume == "must" and not path.exists():
            raise FileNotFoundError(f"`resume` must: there is nothing to go on with in {path}.")
        refuse_foreign(path, "config.json")  # a lock is a file too
        stack.enter_context(held(path))
        return path
    out, stem = Path(experiment.run.out), f"{experiment.task.task}-{experiment.network.method}"
    for path in sorted(out.glob(f"{stem}-*"), reverse=True) if resume != "never" else ():
        config = path / "config.json"
        is_open = config.exists() and not (path / MANIFEST).exists()
        with contextlib.suppress(BusyError, CheckpointError):
            if is_open and not differences(config, experiment.to_json()):
                stack.enter_context(held(path))
                note(f"{path} is of the same settings and not finished: it is taken")
                return path
    if resume == "must":
        raise FileNotFoundError(f"`resume` must: {out} holds no such run that is not finished.")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in itertools.count(1):
        path = out / f"{stem}-{stamp}{f'-{number}' * (number > 1)}"
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            stack.enter_context(held(path))
            return path
    raise AssertionError


def differences(written: Path, text: str) -> list[str]:
    """The fields of a configuration on disk that are others in a text, and their values; places do not count.

    Raises:
        ValueError: If the file is no JSON object; it is named.
    """
    try:
        old = _fields(load_json(inside(written.parent, written.name)))
    except ValueError as error:
        again = f"repeat the command that made it, or remove {written.parent} to train it again"
        raise CheckpointError(f"{written} is damaged: {error}; {again}.") from error
    new = _fields(json.loads(text))
    changed = [name for name in sorted(old | new) if old.get(name) != new.get(name)]
    shown = lambda own: textwrap.shorten(str(own), 80)  # noqa: E731
    both = [(name.split(".")[-1], shown(old.get(name)), shown(new.get(name))) for name in changed]
    return [f"`{name}` {there} there and {here} here" for name, there, here in both]


def _fields(tree: Any, path: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted paths, but for those that change no number."""
    if not isinstance(tree, dict):
        return {path: tree}
    found = {}
    for name, own in tree.items():
        if not (path.endswith("run") and name in _PLACES):
            found |= _fields(own, f"{path}.{name}" if path else name)
    return found


def hash_settings(text: str) -> str:
    """The sha256 of a configuration in JSON, but for its places and the number of steps of training."""
    own = _fields(json.loads(text)).items()
    kept = {name: value for name, value in own if not name.endswith("training.steps")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


REPORTING = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What libraries that draw or log raise, also where they are broken or find no font or backend."""


@contextmanager
def optional(name: str) -> Iterator[None]:
    """Let something that only shows what is on disk fail with a line, by its name."""
    try:
        yield
    except REPORTING as error:
        note(f"warning: {name} not written, {type(error).__name__}: {error}. All numbers are there.")


def verify(directory: str | Path) -> list[str]:
    """What is damaged in a folder that an experiment, a sweep or `n3.fit` left, a sentence each.

    Every file that a manifest names is read again, in parts and checkpoints too.

    Raises:
        FileNotFoundError: If there is no manifest in it: nothing was finished.
    """
    folders = [path.parent for path in sorted(Path(directory).rglob(MANIFEST))]
    if not folders:
        raise FileNotFoundError(f"{directory} holds no {MANIFEST}: there is nothing to verify.")
    whole = (path for name in (STATE, "results.nc") for path in Path(directory).rglob(name))
    sealed = {path.parent for path in whole if path.parent.suffix != PART}
    lost = [f"{folder / MANIFEST} is missing." for folder in sorted(sealed - set(folders))]
    every = [*obstacles(Path(directory)), *lost]
    every += [fault for folder in folders for fault in (*damages(folder), *_strange_groups(folder))]
    return list(dict.fromkeys(every))


def _strange_groups(folder: Path) -> Iterator[str]:
    """Groups of joined results that are not there, or are of another sweep or place, a sentence each."""
    with contextlib.suppress(CheckpointError):
        joined = read_manifest(folder)
        for index in range(joined.get("groups", 0)):
            group = folder / "groups" / f"{index:04d}"
            if not RunDirectory(group).is_sealed:
                if not RunDirectory(group).has_checkpoints and (group.is_dir() or not group.exists()):
                    yield f"{group} has no results."
                continue
            with contextlib.suppress(CheckpointError):
                facts, due = read_manifest(group), {name: joined.get(name) for name in ("settings", "sources")}
                if any(facts.get(name) != own for name, own in (due | {"group": index}).items()):
                    yield f"{group} is another sweep's, or another group."


def _git_state() -> dict[str, Any]:
    """Commit of the source tree that this package is in, and whether that is changed; None where it is in none.

    Nothing that the tree configures is run, and nothing is written.
    """
    root, answers = Path(__file__).parents[3], []
    own = [f"--git-dir={root / '.git'}", f"--work-tree={root}", "--no-optional-locks"]
    own += ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]
    for words in (["rev-parse", "HEAD"], ["status", "--porcelain"]):
        try:
            how = {"capture_output": True, "text": True, "timeout": 10, "check": False, "cwd": root}
            answer = subprocess.run(["git", *own, *words], **how)
            answers.append(answer.stdout.strip() if answer.returncode == 0 else None)
        except (OSError, subprocess.TimeoutExpired):
            answers.append(None)
    commit, changes = answers
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}
