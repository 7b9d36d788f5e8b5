"""Memory: what an experiment takes, from shapes alone, and how many of its runs can be trained at a time."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import Device
from jaxtyping import PyTree

from n3.config.experiment import Experiment
from n3.config.release import install_advice
from n3.data.dataset import (
    HELD_OUT,
    Dataset,
    check_folds,
    describe_task,
    number_of_folds,
    outline_task,
)
from n3.experiments.arms import check_batch, hypers_of, over_prices, recipe_of
from n3.nn.losses import Samples
from n3.training.checkpoint import Checkpoints
from n3.training.decisions import describe_structure
from n3.training.placement import Placement, placement_of
from n3.training.step import Hypers, Problem, Recipe, TrainState, init
from n3.training.sweep import Swept, sweep

HELD_AT_ONCE = 2
"""Times that samples, and states of runs in training, are in memory at once, beside what is kept (measured)."""

_TIMES = (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds")


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What an experiment will train, with shapes in place of arrays."""

    sample: Dataset
    """A few samples of the task."""
    problem: Problem
    """Of one run."""
    recipes: Mapping[str, Recipe]
    """By arm."""
    hypers: Mapping[str, Hypers]
    """Of one run, by arm."""
    members: int
    is_shared: bool
    """Whether all runs have the samples of one seed."""

    @cached_property
    def states(self) -> Mapping[str, TrainState]:
        """Of one run, or of one member of it, by arm."""
        own = {"key": jr.key(0)}
        return {
            arm: eqx.filter_eval_shape(init, recipe, self.hypers[arm], self.problem, **own)
            for arm, recipe in self.recipes.items()
        }

    @property
    def step_samples(self) -> int:
        """Samples of a step of a network."""
        recipe = next(iter(self.recipes.values()))
        return recipe.batch or len(self.problem.train.shares) - recipe.held

    def placement(self, arm: str) -> Placement:
        """How the runs of an arm lie on a CPU, however many there are."""
        return placement_of(self.recipes[arm], self.step_samples, 1, on_cpu=True)

    def cpu_seconds(self, arm: str, runs: int, steps: int) -> float:
        """CPU seconds that the steps of so many runs of an arm take, by `n3.training.placement`."""
        return self.placement(arm).seconds(self.step_samples, runs, steps)

    @property
    def sample_bytes(self) -> int:
        """Bytes of the samples of a run, and of those that each member trains on."""
        return _bytes(self.problem) * (1 + self.members)

    @property
    def state_bytes(self) -> int:
        """Bytes of the state of a run, in the arm that takes most."""
        return max(map(_bytes, self.states.values())) * max(1, self.members)


def outline(experiment: Experiment, draw: Callable[..., Any] = outline_task) -> Outline:
    """What a resolved experiment will train; a few samples are drawn, and nothing is compiled.

    `draw` is `outline_task`, or remembers what that has returned.

    Raises:
        ValueError, ModuleNotFoundError: As `load_data`.
    """
    with _named_as_fields():
        sample, train, test, is_shared = draw(experiment.task)
    if experiment.information.path or experiment.structure.structure_every is not None:
        train, is_shared = train - train // HELD_OUT, False  # each seed holds out others
    members = experiment.training.members or 0
    check_batch(experiment, train)
    if members:
        check_folds(train, number_of_folds(members))

    shapes = _problem_of(sample.in_size, sample.out_size, (train, test), bool(members))
    first = over_prices(experiment)[0]
    one, names = replace(first, run=replace(first.run, seeds=first.run.seeds[:1])), experiment.run.arms
    hypers = {arm: hypers_of(one, arm, data=[sample], active=None) for arm in names}
    return Outline(
        sample=sample,
        problem=shapes,
        recipes={arm: recipe_of(one, arm, sample) for arm in names},
        hypers=jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), hypers),
        members=members,
        is_shared=is_shared,
    )


@cache
def _problem_of(in_size: int, out_size: int, counts: tuple[int, int], has_folds: bool) -> Problem:
    """The shapes of a run's samples."""

    def problem() -> Problem:
        train, test = (
            Samples(*(jnp.zeros(shape) for shape in ((in_size, count), (out_size, count), (count,))))
            for count in counts
        )
        return Problem(train, test, jnp.zeros(out_size), jnp.zeros(counts[0], jnp.int32) if has_folds else None)

    return jax.eval_shape(problem)


@contextmanager
def _named_as_fields() -> Iterator[None]:
    """Let errors of `load_dataset`, whose arguments have other names, speak of the fields of the task."""
    try:
        yield
    except ValueError as error:
        names = {"`train_samples`": "`samples`", "`name` must be one of": "`task` must be one of"}
        text = str(error)
        for theirs, own in names.items():
            text = text.replace(theirs, own)
        raise (error if text == str(error) else ValueError(text)) from error.__cause__


def runs_at_a_time(experiment: Experiment, own: Outline, devices: Sequence[Device], *, cells: int = 1) -> int:
    """How many runs of an arm are trained at a time: `run.block`, or as many as fit into memory.

    Raises:
        ValueError: If these do not fit, or none does; nothing has been drawn then.
    """
    a_seed, block = cells * len(over_prices(experiment)), experiment.run.block
    runs, samples = a_seed * len(experiment.run.seeds), HELD_AT_ONCE * own.sample_bytes
    each = own.state_bytes + (0 if own.is_shared else samples)
    training = HELD_AT_ONCE * own.state_bytes + (samples if own.is_shared else 0)
    free, kept = free_bytes(devices), runs * each
    most = min(runs, int((free - kept) // training))
    told = f"{_size(free)} are free, and {runs} runs of an arm leave {_size(kept)} behind"
    if most < (runs if experiment.structure.structure_every is not None else 1):
        fitting = int((free - training) // each) // a_seed
        rest = f"a run in training takes {_size(training)} more; {max(fitting, 0)} seeds fit"
        raise ValueError(f"`seeds`, `samples` or `capacity` must be less: {told}, while {rest}.")
    if block is not None and min(block, runs) > most:
        raise ValueError(f"`block` must be at most {most}, the runs at a time that fit into memory: {told}.")
    return min(block or most, runs)


def describe(experiment: Experiment) -> str:
    """What `run` would do, as text: shapes, parameters, memory and runs. Nothing is compiled or written."""
    experiment, devices = experiment.resolved(), find_devices(experiment.run.device)
    own, seeds, steps = outline(experiment), len(experiment.run.seeds), experiment.training.steps
    batch = next(iter(own.recipes.values())).batch
    each = f"{steps} steps" if batch is None else f"{steps} steps, each by {batch} samples"
    tried, members, sample = over_prices(experiment), own.members, own.sample
    runs = {arm: seeds * (len(tried) if arm == "growing" else 1) for arm in experiment.run.arms}
    path = f", growing at {len(tried)} prices" if experiment.information.path else ""
    train, test = (len(side.shares) for side in (own.problem.train, own.problem.test))
    lines = [
        f"task        {describe_task(experiment.task, sample)}, {sample.in_size} inputs, "
        f"{sample.out_size} outputs, {train} training and {test} test samples a seed"
        f"{', all of one split' * own.is_shared}",
        f"runs        {len(runs)} arms x {seeds} seeds{path} = {sum(runs.values())} runs of {each}",
    ]
    if members:
        parts, last = number_of_folds(members), ", then one refitted on all" * experiment.training.refit
        who = f"{members} a run = {members * sum(runs.values())} networks"
        lines.append(f"members     {who}, each without one of {parts} folds of the samples{last}")
    if chosen := experiment.network.choices:
        hard = math.ceil(experiment.training.choice_end * (steps or 0))
        lines.append(f"choice      each layer chooses among {', '.join(chosen)}, for good at step {hard}")
    for arm, state in own.states.items():
        recipe = own.recipes[arm]
        weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves((state.net.layers, state.net.readout)))
        lines.append(
            f"{arm:<11} {recipe.in_size} -> {' -> '.join(map(str, recipe.capacity))} -> {recipe.out_size}, "
            f"controller {recipe.controller}, {weights * max(1, members)} weights allocated a run"
        )
    if experiment.structure.structure_every is not None:
        plan = steps or 0, experiment.network.capacity or (), experiment.run.arms
        lines.append(describe_structure(experiment.structure, *plan))
    block = runs_at_a_time(experiment, own, devices)
    taken = describe_memory(own, max(runs.values()), sum(runs.values()))
    lines.append(f"memory      {taken}; {block} runs at a time")
    if devices[0].platform == "cpu":
        placement = own.placement(experiment.run.arms[0])
        at_once, tile = min(placement.block, block), min(placement.recipe.tile, own.step_samples)
        spent = describe_cost(sum(own.cpu_seconds(arm, number, steps) for arm, number in runs.items()))
        number = f"{len(devices)} device{'s' * (len(devices) > 1)}"
        lines.append(f"computing   {number}; {at_once} runs at once on each, tiles of {tile} samples; {spent}")
    return "\n".join(lines)


def describe_cost(seconds: float) -> str:
    """CPU seconds of steps by the model of `n3.training.placement`, in words."""
    each, unit = next(own for own in _TIMES if seconds >= own[0] or own is _TIMES[-1])
    taken = f"about {float(f'{seconds / each:.2g}'):,g} {unit}" if seconds >= 1.0 else "less than a second"
    return f"steps take {taken} of CPU time, all units counted"


def describe_memory(own: Outline, most: int, total: int) -> str:
    """What runs take, `most` of an arm and so many in `total`, in words."""
    taken = own.sample_bytes * (1 if own.is_shared else most) + own.state_bytes * total
    return f"about {_size(taken)} for samples and states, besides the program"


def find_devices(name: str) -> Sequence[Device]:
    """The devices of this process to compute on: `auto` takes JAX's default kind.

    Raises:
        ValueError: If no such device is there.
    """
    try:
        return jax.local_devices(backend=None if name == "auto" else name)
    except (RuntimeError, AssertionError) as error:  # the latter where `JAX_PLATFORMS` names what is not there
        asked = f" under JAX_PLATFORMS={own}" if (own := os.environ.get("JAX_PLATFORMS")) else ""
        raise ValueError(
            f"`device` is {name}, but JAX finds none here{asked}: install its support once with "
            f"{install_advice('cuda13')}, or with cuda12; or choose `cpu`, and leave JAX_PLATFORMS unset."
        ) from error


def free_bytes(devices: Sequence[Device]) -> int:
    """Bytes of memory that are free: those of accelerators together, or the machine's within its limits."""
    stats = [device.memory_stats() for device in devices]
    if all(own and "bytes_limit" in own for own in stats):
        return sum(own["bytes_limit"] - own["bytes_in_use"] for own in stats)
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    if (told := Path("/proc/meminfo")).exists():
        free.append(1024 * int(told.read_text().split("MemAvailable:")[1].split()[0]))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(limit).exists() and (text := Path(limit).read_text().strip()).isdecimal():
            free.append(int(text))
    return min(free)


def _bytes(tree: Any) -> int:
    return sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _size(count: int) -> str:
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def sweep_blocks(
    recipe: Recipe,
    hypers: Hypers,
    problem: Problem,
    block: int,
    *,
    keys: jax.Array,
    checkpoint: Checkpoints | None,
    **settings: Any,
) -> Swept:
    """The sweep of all runs; or of parts of `block` runs at most, in turn, whose moments are let go."""
    if block >= len(keys):
        return sweep(recipe, hypers, problem, keys=keys, checkpoint=checkpoint, **settings)
    parts = []
    for rows in _blocks(len(keys), block):
        *own, own_keys = jax.tree.map(lambda leaf, rows=rows: leaf[rows], (hypers, problem, keys))
        saved = checkpoint and checkpoint.part(f"from-{rows.start}-on")
        part = sweep(recipe, *own, keys=own_keys, checkpoint=saved, **settings)
        state = eqx.tree_at(lambda own: own.moments, part.state, ())
        parts.append(replace(part, state=jax.device_get(state)))
    joined = {
        name: jax.tree.map(_joined, *(getattr(part, name) for part in parts)) for name in ("state", "records")
    }
    seconds = {
        name: sum(getattr(part, name) for part in parts)
        for name in ("compile_seconds", "run_seconds", "cpu_seconds")
    }
    return Swept(**joined, **seconds)


def over_blocks(function: Callable[..., PyTree], block: int, *trees: PyTree) -> PyTree:
    """What a function of runs gives for trees of them; where they are more, of `block` runs at most in turn."""
    runs = len(jax.tree.leaves(trees)[0])
    if block >= runs:
        return function(*trees)
    parts = [function(*jax.tree.map(lambda leaf, own=own: leaf[own], trees)) for own in _blocks(runs, block)]
    return jax.tree.map(_joined, *parts)


def _blocks(runs: int, block: int) -> list[slice]:
    """As few parts of runs as blocks allow, nearly equal in length."""
    return [slice(own[0], own[-1] + 1) for own in np.array_split(np.arange(runs).tolist(), -(-runs // block))]


def _joined(*rows: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    return (np if isinstance(rows[0], np.ndarray) else jnp).concatenate(rows)  # keys are no arrays of NumPy
