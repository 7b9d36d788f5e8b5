"""Results: what a run leaves behind, in memory as labelled arrays and on disk as a run directory."""

import contextlib
import io
import itertools
import json
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import xarray as xr
from jaxtyping import Int

from n3.config.experiment import ARMS, Experiment, NetworkConfig, RunConfig
from n3.config.validation import among, from_json, inside, load_json, read_file, read_text
from n3.experiments.ensembles import HeldOutEstimate
from n3.nn import losses, metrics
from n3.nn.losses import LossWeights, Samples
from n3.nn.masks import MASKS
from n3.nn.members import Ensemble
from n3.nn.mlp import GrowingMLP
from n3.stats.summary import Results, RunRecord, versions
from n3.surgery.compact import compact as compact_network
from n3.surgery.export import PART, from_bytes, to_bytes, write_file
from n3.training import decisions
from n3.training.checkpoint import (
    EVERY,
    LOCK,
    MANIFEST,
    BusyError,
    CheckpointError,
    Checkpoints,
    damages,
    owned,
    precision,
    read_manifest,
    write_manifest,
)
from n3.training.decisions import ACTIONS, Staged
from n3.training.history import History, note
from n3.training.step import Hypers, Problem, Recipe, StepRecord, init
from n3.training.sweep import Swept

_count_parameters = jax.jit(jax.vmap(metrics.active_parameters))


def label(
    swept: Mapping[str, Swept],
    *,
    rows: Sequence[int],
    steps: Int[np.ndarray, " records"],
    estimates: Mapping[str, HeldOutEstimate] = MappingProxyType({}),
) -> Results:
    """Label what all arms recorded while they trained; `rows` names their runs, by seeds or other numbers.

    Dimensions are `arm`, `seed`, `step`, `layer`, `choice` where layers choose their activation, and `member`
    where the runs have members, of which `estimates` are; zero where an arm has no such term. Wall seconds of
    compiling and of running are over `arm`.
    """
    recorded, of_members = {}, {}
    for arm, own in swept.items():
        records = {name: getattr(own.records, name) for name in StepRecord.__dataclass_fields__}
        terms, monitor, shares = (records.pop(name) for name in ("terms", "monitor", "choice_share"))
        recorded[arm] = {name: own for name, own in records.items() if own is not None} | terms | monitor
        parameters, diverged_at = _count_parameters(own.state.net), own.state.diverged_at
        recorded[arm] |= {"active_parameters": parameters, "diverged_at": diverged_at}
        recorded[arm] |= {"choice_share": np.stack(list(shares.values()), -1)} if shares else {}
        recorded[arm] |= {name: getattr(own, name) for name in ("compile_seconds", "run_seconds")}
        if arm in estimates:
            own = {name: getattr(estimates[arm], name) for name in HeldOutEstimate.__dataclass_fields__}
            of_members[arm] = {name: own.pop(name) for name in ("member_loss", "member_error")}
            recorded[arm] |= own
    choices = next(iter(swept.values())).records.choice_share
    found = _over_arms(recorded, seed=rows, step=steps, **({"choice": list(choices)} if choices else {}))
    for name in next(iter(of_members.values()), ()):
        values = np.stack([own[name] for own in of_members.values()])
        found = found.assign({name: (("arm", "seed", "member"), values)})
    return found.assign_coords(member=np.arange(found.sizes["member"])) if of_members else found


def _over_arms(recorded: Mapping[str, Mapping[str, Any]], **coords: Any) -> Results:
    """What each arm recorded, of axes [seed[, step[, layer[, choice]]]], by name; zero where one lacks it."""
    every, variables = list(recorded.values()), {}
    for name in dict.fromkeys(name for own in every for name in own):
        values = np.stack([own.get(name, every[0]["size"] * 0) for own in every])
        variables[name] = (("arm", "seed", "step", "layer", "choice")[: values.ndim], values)
    coords |= {"arm": list(recorded), "layer": np.arange(variables["size"][1].shape[-1])}
    return xr.Dataset(variables, coords={name: np.array(own) for name, own in coords.items()})


def record_fits(histories: Mapping[str, History], *, task: str, capacity: Sequence[int]) -> RunRecord:
    """What `n3.fit` recorded of many runs, for the statistics and figures of experiments.

    `summarise`, `table` and `figures` take it; its test samples are the validation data of the fits. The
    histories, by arm (`growing`, `static`, ...), are of as many runs each, paired by their place, of the same
    steps and groups, with validation data; one of a model that was not grown counts with all its units. `task`
    says in titles what the runs learn; `capacity` holds the units of each group before training.

    Raises:
        ValueError: If a history is of a single run, has no validation data or other steps or runs, or an arm is
            unknown.
    """
    if unknown := set(histories) - set(ARMS):
        raise ValueError(f"`histories` must be of arms {', '.join(ARMS)}; got {sorted(unknown)[0]!r}.")
    first = max(histories.values(), key=lambda own: len(own.layers))
    if any(own.train_loss.ndim == 1 or own.validation_loss is None for own in histories.values()):
        raise ValueError("`histories` must be of many runs each, with validation data.")
    if len({own.train_loss.shape for own in histories.values()}) > 1:
        raise ValueError("`histories` must be of as many runs and records each.")
    seeds, shape = range(len(first.train_loss)), (*first.train_loss.shape, len(capacity))
    whole, nothing = np.broadcast_to(np.float64(capacity), shape), np.full(shape, np.nan)
    experiment = Experiment(
        network=NetworkConfig(method="information", capacity=tuple(capacity)),
        run=RunConfig(arms=tuple(histories), seeds=tuple(seeds), monitor=tuple(first.monitor)),
    )
    is_classes, recorded = first.validation_accuracy is not None, {}
    for arm, own in histories.items():
        losses = {"train_loss": own.train_loss, "test_loss": own.validation_loss}
        rmse = None if is_classes else np.sqrt(np.maximum(own.validation_loss, 0.0))
        recorded[arm] = losses | {"test_metric": own.validation_accuracy if is_classes else rmse}
        recorded[arm] |= {"size": own.sizes if own.layers else whole}
        recorded[arm] |= {name: own.monitor.get(name, nothing) for name in first.monitor}
        recorded[arm] |= {"active_parameters": own.parameters, "diverged_at": own.diverged_at}
        recorded[arm] |= {"compile_seconds": np.nan, "run_seconds": np.nan}
    facts = {"task": task, "kind": "classification" if is_classes else "regression", "device": device_name()}
    facts |= {"metric": "accuracy" if is_classes else "rmse", "wall_seconds": np.nan}
    results = _over_arms(recorded, seed=seeds, step=first.step).assign_attrs(facts)
    return RunRecord(experiment=experiment, results=results, directory=None)


def unfold(results: Results, dimension: str, axes: Mapping[str, Sequence[Any]]) -> Results:
    """Take a dimension apart into several: its items are all combinations of labels, the last moves fastest."""
    sizes, variables = {name: len(labels) for name, labels in axes.items()}, {}
    for name, old in results.drop_vars(dimension).variables.items():
        dims = [new for own in old.dims for new in (axes if own == dimension else (own,))]
        shape = [(dict(old.sizes) | sizes)[own] for own in dims]
        variables[name] = (dims, old.values.reshape(shape), old.attrs)
    labels = {name: np.asarray(list(values)) for name, values in axes.items()}
    return xr.Dataset(variables, attrs=results.attrs).assign_coords(labels)


def join(parts: Sequence[Results]) -> Results:
    """One data set of several that hold other cells, arms, seeds or steps; NaN where none has a number."""
    return xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")


Resume = Literal["auto", "never", "must"]
"""Whether to go on with what a folder holds: where it is of the same configuration, never, or else refuse."""
_PLACES = ("out", "name", "log_dir", "device")
"""Fields of a run that change no number."""


@dataclass(frozen=True)
class RunDirectory:
    """A folder that belongs to one experiment; every file appears in it whole or not at all."""

    path: Path

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
            directory.begin("config.json", experiment.to_json(), resume=resume)
            yield directory

    def begin(self, name: str, text: str, *, resume: Resume = "auto") -> None:
        """Write the configuration that the folder is for, or see that it is there already; errors as `of`."""
        written = self.path / name
        if refuse_foreign(self.path, name):
            if resume == "must":
                raise FileNotFoundError(f"`resume` must: there is nothing to go on with in {self.path}.")
            return self.write(name, text.encode())
        if resume == "never":
            raise FileExistsError(f"{self.path} is not empty: give another `name` or `out`, or `resume` auto.")
        if found := differences(written, text):
            rest = "Give the same fields, or another `name` or `out`."
            raise FileExistsError(f"{self.path} holds something else: {', '.join(found)}. {rest}")
        return None

    @property
    def is_sealed(self) -> bool:
        """Whether all numbers are there."""
        return (self.path / MANIFEST).exists()

    def checkpoints(self, every: float = EVERY) -> Checkpoints:
        """Where training leaves how far it has come, until the folder is sealed."""
        return Checkpoints(folder=self.path / "checkpoints", every=every)

    def write(self, name: str, content: bytes) -> None:
        """Write a file under its final name only once it is complete."""
        write_file(self.path / name, content)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a mapping as indented JSON; NaN and infinities become null."""
        text = json.dumps(dict(content), default=lambda own: own.tolist())  # of NumPy's
        plain = json.loads(text, parse_constant=lambda _: None)
        self.write(name, (json.dumps(plain, indent=2) + "\n").encode())

    def write_results(self, results: xr.Dataset) -> None:
        """Write `results.nc` (NetCDF4, compressed)."""
        encoding = {name: {"zlib": True} for name, variable in results.data_vars.items() if variable.ndim > 1}
        self.write("results.nc", bytes(results.to_netcdf(engine="h5netcdf", encoding=encoding)))

    def write_figures(self, figures: Mapping[str, Any]) -> None:
        """Write Matplotlib figures by name, as `figures/<name>.png`."""
        for name, figure in figures.items():
            content = io.BytesIO()
            figure.savefig(content, format="png", dpi=150)
            self.write(f"figures/{name}.png", content.getvalue())

    def seal(self, facts: Mapping[str, Any]) -> None:
        """Write `manifest.json`: versions, commit, command line, the run's facts, and each file's sha256.

        What was only needed on the way is removed: checkpoints, and parts of files that a killed process left.
        """
        for path in self.path.rglob(f"*{PART}"):
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
        own = (path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file())
        names = [path.as_posix() for path in sorted(own) if not _is_passing(path)]
        ours = {"versions": versions(), "git": _git_state(), "command": sys.argv, "precision": precision()}
        write_manifest(self.path, {**ours, **facts}, names)
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)


def _is_passing(path: Path) -> bool:
    """Whether a file of a run directory says nothing of what was found."""
    return path.name == LOCK or path.parts[0] in ("checkpoints", MANIFEST)


def refuse_foreign(path: Path, name: str) -> bool:
    """Whether a folder holds nothing, or is not there; FileExistsError if it holds files but not this one."""
    files = [each for each in path.glob("*") if each.name != LOCK and each.suffix != PART]
    if files and not (path / name).exists():
        raise FileExistsError(f"{path} is not empty and holds something else: give another `name` or `out`.")
    return not files


def _owned_folder(experiment: Experiment, resume: Resume, stack: ExitStack) -> Path:
    """The folder of an experiment, held until the stack is closed."""
    if experiment.run.name is not None:
        path = Path(experiment.run.out) / experiment.run.name
        refuse_foreign(path, "config.json")  # a lock is a file too
        stack.enter_context(owned(path))
        return path
    out, stem = Path(experiment.run.out), f"{experiment.task.task}-{experiment.network.method}"
    for path in sorted(out.glob(f"{stem}-*"), reverse=True) if resume != "never" else ():
        config = path / "config.json"
        is_open = config.exists() and not (path / MANIFEST).exists()
        with contextlib.suppress(BusyError, CheckpointError):
            if is_open and not differences(config, experiment.to_json()):
                stack.enter_context(owned(path))
                return path
    if resume == "must":
        raise FileNotFoundError(f"`resume` must: {out} holds no such run that is not finished.")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in itertools.count(1):
        path = out / f"{stem}-{stamp}{f'-{number}' * (number > 1)}"
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            stack.enter_context(owned(path))
            return path
    raise AssertionError


def differences(written: Path, text: str) -> list[str]:
    """The fields of a configuration on disk that are others in a text, and their values; places do not count.

    Raises:
        ValueError: If the file is no JSON object; it is named.
    """
    try:
        old = _fields(json.loads(written.read_text()))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{written} is damaged: {error}.") from error
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
    return list(dict.fromkeys(fault for folder in folders for fault in damages(folder)))


def sums_of(manifest: Path) -> dict[str, str]:
    """The sha256 of each file that a `manifest.json` names; a ValueError if it is damaged."""
    found = load_json(manifest)
    sums = found.get("sha256") if isinstance(found, dict) else None
    if not isinstance(sums, dict) or not all(isinstance(own, str) for own in sums.values()):
        raise ValueError(f"{manifest} must be an object with `sha256`, the sum of each file by its name.")
    return sums


def read(directory: str | Path) -> RunRecord:
    """The resolved experiment and the results, in memory, of one experiment's run directory.

    Raises:
        FileNotFoundError: If the folder lacks a file, or is not finished.
        ValueError: If a file is damaged, or the folder is a sweep's (see `read_results`).
    """
    if (Path(directory) / "study.json").exists():
        raise ValueError(f"`directory` {directory} holds a sweep, not one experiment: take `n3.read_results`.")
    found = {"experiment": _experiment_of(directory), "results": read_results(directory)}
    return RunRecord(**found, directory=directory)


def _experiment_of(directory: str | Path) -> Experiment:
    path = inside(directory, "config.json")
    if not path.exists():
        advice = "the folder of a network that `save_compact` wrote is read by `n3.surgery.load_compact`"
        raise FileNotFoundError(f"`directory` must be a run directory; {path} is not there ({advice}).")
    _require(Path(directory), "config.json")
    return Experiment.load(path)


def read_results(directory: str | Path) -> Results:
    """What an experiment or a sweep left in its folder's `results.nc`, in memory.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or any of it lies elsewhere or is larger than the file can hold.
    """
    path = inside(directory, "results.nc")
    _require(Path(directory), "results.nc")
    content = io.BytesIO(read_file(path))
    try:
        _check_variables(content)
        with xr.open_dataset(content, engine="h5netcdf") as results:
            return results.load()
    except (
        OSError,
        RuntimeError,
        LookupError,
        ArithmeticError,
        ValueError,
        TypeError,
        AttributeError,
    ) as error:
        raise ValueError(f"{path} is damaged or no results of n3: {error}") from error


MOST_COMPRESSED = 1032
"""Bytes that one byte of zlib's holds at most."""


def _check_variables(content: io.BytesIO) -> None:
    """Refuse a NetCDF-4 file that holds more than variables of its own, before any of them is read."""
    size = 0
    with h5py.File(content, "r") as file:
        for name in file:
            is_own = isinstance(file.get(name, getlink=True), h5py.HardLink)
            variable = file[name] if is_own else None
            if not isinstance(variable, h5py.Dataset) or variable.external or variable.is_virtual:
                raise ValueError(f"`{name}` must be a variable whose numbers are in the file itself.")
            size += variable.nbytes
    if size > MOST_COMPRESSED * (most := content.getbuffer().nbytes):
        raise ValueError(f"its variables have {size} bytes, more than a file of {most} can hold.")


def _require(directory: Path, *names: str) -> None:
    """See that files are as the manifest says."""
    if not (directory / MANIFEST).exists():
        raise FileNotFoundError(f"{directory} has no {MANIFEST}: it is not finished, or not a run directory.")
    for fault in damages(directory, *names):
        raise CheckpointError(f"{fault} `n3.verify` says what else is.")


def device_name() -> str:
    """The default device, as `cpu` or as its kind, with the number of devices where there are several."""
    devices = jax.devices()
    kind = devices[0].device_kind if devices[0].platform != "cpu" else "cpu"
    return kind if len(devices) == 1 else f"{kind} x {len(devices)}"


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


def write_models(
    directory: RunDirectory, arm: str, recipe: Recipe, nets: GrowingMLP | Ensemble[GrowingMLP]
) -> None:
    """Write the networks of an arm, a row a seed, with their recipe; their own capacity counts."""
    one = nets.members if isinstance(nets, Ensemble) else nets
    plain = replace(recipe, capacity=one.controller.capacity, drive=None, monitor=None, held=0)
    directory.write(f"models/{arm}.safetensors", to_bytes(nets))
    directory.write_json(f"models/{arm}.json", asdict(plain))


def load(directory: str | Path, *, compact: bool = False) -> dict[str, list[Any]]:
    """The trained networks of a run's folder by arm, one a seed; `compact` makes them plain (`n3.compact`).

    They are `GrowingMLP` or `CompactMLP`, or ensembles of these where the runs have members and no `refit`.

    Raises:
        FileNotFoundError: If the folder lacks a file.
        ValueError: If a file is damaged or holds another network.
    """
    run, models = _experiment_of(directory).run, inside(directory, "models")
    _require(Path(directory), *(f"models/{arm}.{kind}" for arm in run.arms for kind in ("json", "safetensors")))
    with jax.enable_x64(read_manifest(Path(directory))["precision"] == "float64"):
        nets = {arm: _load_arm(models, arm, len(run.seeds)) for arm in run.arms}
    return {arm: [compact_network(net) for net in own] for arm, own in nets.items()} if compact else nets


def _load_arm(models: Path, arm: str, seeds: int) -> list[GrowingMLP] | list[Ensemble[GrowingMLP]]:
    source, path = (inside(models, f"{arm}.{kind}") for kind in ("safetensors", "json"))
    recipe, content = from_json(Recipe, read_text(path), source=str(path)), read_file(source)
    if min(recipe.in_size, recipe.out_size, *recipe.capacity, recipe.members + 1) < 1:
        raise ValueError(
            f"{path}: `in_size`, `out_size` and `capacity` must be positive, `members` not below 0."
        )
    if max(recipe.in_size, recipe.out_size, *recipe.capacity, recipe.members) > len(content):
        raise ValueError(f"{path} must be of the network in {source}, which is too small for it.")
    try:
        for name, known in {"mask": MASKS, "loss": losses.LOSSES, "optimiser": ("adam", "sgd")}.items():
            among(name, [getattr(recipe, name)], known=tuple(known))
        one, axes = eqx.filter_eval_shape(_first, recipe), (seeds,)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if recipe.members:
        one, axes = Ensemble(one, recipe.loss == "cross-entropy"), (seeds, recipe.members)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*axes, *leaf.shape), leaf.dtype), one)
    nets = from_bytes(content, like, source=str(source))
    return [jax.tree.map(lambda leaf, row=row: leaf[row], nets) for row in range(seeds)]


def _first(recipe: Recipe) -> GrowingMLP:
    """The network of a run before its first step; only its shapes count."""
    number, sizes = jnp.ones(()), jnp.ones(len(recipe.capacity))
    samples = Samples(jnp.ones((recipe.in_size, 1)), jnp.ones((recipe.out_size, 1)), jnp.ones(1))
    hypers = Hypers(number, LossWeights(number, number), sizes, number, number, number)
    return init(recipe, hypers, Problem(samples, samples, jnp.ones(recipe.out_size)), key=jr.key(0)).net


def with_structure(results: Results, staged: Mapping[str, Staged], capacity: Sequence[int]) -> Results:
    """The results of all arms with what the stages of some did; as they are where there were none.

    Added are `structure_action` over arm, seed and `look` (as numbered there), `structure_capacity` over arm,
    look and layer, and as attributes the counts over all arms, which may share programs. Arms that were not
    trained in stages keep `capacity`, the units allocated in each hidden layer.
    """
    if not staged:
        return results
    arms, looks = results["arm"].values.tolist(), next(iter(staged.values())).looks
    actions = np.zeros((len(arms), results.sizes["seed"], len(looks)), np.int8)
    units = np.tile(np.array(capacity), (len(arms), len(looks), 1))
    for arm, own in staged.items():
        codes = [ACTIONS.index(decision.action) for decision in own.decisions]
        actions[arms.index(arm)] = np.reshape(codes, actions.shape[1:])
        units[arms.index(arm)] = own.capacity
    told = {"codes": ", ".join(f"{code} {action}" for code, action in enumerate(ACTIONS))}
    counts = decisions.count_actions([decision for own in staged.values() for decision in own.decisions])
    programs = frozenset().union(*(own.programs for own in staged.values()))
    attributes = {f"structure_{name}": count for name, count in (*counts.items(), ("programs", len(programs)))}
    results = results.assign(structure_action=(("arm", "seed", "look"), actions, told))
    results = results.assign(structure_capacity=(("arm", "look", "layer"), units))
    return results.assign_coords(look=looks).assign_attrs(attributes)


def structure_log(staged: Mapping[str, Staged]) -> dict[str, Any]:
    """What `structure.json` holds: programs and their bound by arm, and every decision with its reason."""
    programs = {arm: {"used": len(own.programs), "most": own.most_programs} for arm, own in staged.items()}
    every = [asdict(decision) for own in staged.values() for decision in own.decisions]
    return {"programs": programs, "decisions": every}
