"""Sweep: many runs trained in one program, blocked for the cache and spread over devices.

A unit out of the drive's sight takes no part, is trained by nothing and changes nothing. A run can therefore
be trained in a tier, with only the first units of each layer, a power of two of them, and comes out the same
but for rounding. What is left out waits as it is: a unit that was trained before would have coasted on by its
moments meanwhile, which matters only if it comes into sight again.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import Device
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Key, PyTree

from n3.nn.members import MEMBERS
from n3.nn.sized import with_rows
from n3.training.batches import member_keys
from n3.training.checkpoint import CheckpointError, Checkpoints, digest
from n3.training.placement import placement_of
from n3.training.step import Hypers, Problem, Recipe, StepRecord, TrainState, advance, init

LEAST_TIER = 32
"""Units of a layer that are never cut: below, a further program costs more than it saves (measured)."""


def tier_of(sight: float, capacity: Sequence[int], *, least: int) -> tuple[int, ...]:
    """Units to train with in each layer: the least power of two, from `least` on, that holds all in sight.

    That is of the layer and the run that see most. The units allocated in each layer bound the tier.
    """
    tier = least
    while tier < min(sight, max(capacity)):
        tier *= 2
    return tuple(min(tier, units) for units in capacity)


def narrowed(state: PyTree, like: PyTree) -> PyTree:
    """The first units of a state, in the structure of another and the shapes of its leaves.

    Leaves whose shape changes come back as NumPy arrays.
    """

    def corner(leaf: Array | np.ndarray, like: Any) -> Array | np.ndarray:
        return leaf if leaf.shape == like.shape else np.asarray(leaf)[tuple(map(slice, like.shape))]

    return _fitted(corner, state, like)


def widened(part: PyTree, whole: PyTree) -> PyTree:
    """The whole state with its first units as they are in a part of it: what `narrowed` undoes."""

    def filled(own: Array | np.ndarray, leaf: Array | np.ndarray) -> Array | np.ndarray:
        if own.shape == leaf.shape:
            return own
        new = np.array(leaf)
        new[tuple(map(slice, own.shape))] = own
        return new

    return _fitted(filled, part, whole)


def _fitted(function: Callable[[Any, Any], Any], tree: PyTree, like: PyTree) -> PyTree:
    """A function of the leaves of two trees that differ in static fields, in the structure of the second."""
    leaves, structure = jax.tree.flatten(like)
    return structure.unflatten(map(function, jax.tree.leaves(tree), leaves))


MOST_PROGRAMS = 16
"""Compiled programs of each kind that a process keeps."""
CHUNKS = 20
"""Times that a sweep comes back to the host, where there are as many records."""
CHECKS = 30
"""Looks of the host at the sizes, before they rest, where it may train with fewer units than are allocated."""
LEAST_WORK = 2**17
"""Samples of a step times units allocated from which runs without a drive train in tiers: below, compiling a
further program costs more than tiers save."""
ADAM_STEP = 0.1 / (0.001 * (1.0 - 0.81 / 0.999)) ** 0.5
"""Most that Adam moves a weight in a step, in learning rates (7.27), whatever the gradients: by Cauchy's
inequality for its two averages, of decay 0.9 and 0.999."""


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep returns; every array has the runs as its first axis."""

    state: TrainState
    records: StepRecord
    compile_seconds: float
    run_seconds: float
    cpu_seconds: float = 0.0
    """CPU seconds of what a checkpoint held, and was not trained again."""


def sweep(
    recipe: Recipe,
    hypers: Hypers,
    problem: Problem,
    *,
    keys: Key[Array, " runs"],
    stops: Int[np.ndarray, " records"],
    block: int | None = None,
    devices: Sequence[Device] | None = None,
    progress: Callable[[int], None] = lambda step: None,
    start: tuple[int, TrainState] | None = None,
    is_tiered: bool = True,
    checkpoint: Checkpoints | None = None,
) -> Swept:
    """Train many runs side by side, in one compilation whatever their numbers.

    Under a drive that sees only the units ahead of the size, or a controller whose size Adam can move only so
    far, there is a program for each tier of capacity, a power of two, that a run's own sizes reach, whatever
    its neighbours do. Every leaf of the numbers and the samples has a first axis of runs, and so have the keys.

    `stops` are the steps at which to record, non-decreasing; the last ends the runs. A device computes `block`
    runs at once (None: as many as the cache holds on CPU, all on others); `devices` share the runs (None: all
    of this process). `progress` is called with the step reached, once a chunk. `start` is a step and states to
    go on from, in place of the first step and what the keys draw. With `is_tiered` the runs train with fewer
    units than are allocated where sizes allow it. `checkpoint` is written between chunks of steps and at the
    end; what it holds is not trained again. Final states and records are in the order of the keys: run `i` is
    what `train` returns for row `i`.

    Raises:
        ValueError: If the leaves disagree on the number of runs, or the stops decrease or lie before the start.
        CheckpointError: If a checkpoint is of other settings or samples, or all are damaged.
        Interrupted: If a signal came while checkpoints were `deferring`.
    """
    runs = _number_of_runs(hypers, problem, keys)
    now, given = start or (0, None)
    if len(stops) == 0 or np.any(np.diff(stops) < 0) or stops[0] < now:
        raise ValueError(f"`stops` must be steps that do not decrease, from {now} on; got {stops}.")
    mesh = Mesh(np.array(devices or jax.local_devices()), ("runs",), axis_types=(AxisType.Auto,))
    samples = problem.train.shares.shape[1] if recipe.batch is None else recipe.batch
    per_device = -(-runs // mesh.size)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    placement = placement_of(recipe, samples, per_device, on_cpu=on_cpu, block=block)
    recipe, block = placement.recipe, placement.block
    total = -(-per_device // block) * block * mesh.size
    on_host = (*jax.device_get((hypers, problem)), keys)
    arguments = [jax.tree.map(lambda leaf: _padded(leaf, total), own) for own in on_host]
    stages, course = compiled_stages(recipe, block, mesh), _Course(checkpoint, runs)
    now, given = course.resume((now, given), stages, arguments, recipe=recipe, stops=stops)
    *arguments, whole = _on_devices(jax.tree.map(lambda leaf: _padded(leaf, total), (*arguments, given)), mesh)
    began, is_tiered = time.perf_counter(), is_tiered and _is_tiered(recipe, samples)
    chunks = course.left_of(_checks(recipe, stops) if is_tiered else rows_of_stops(stops), stops)
    if given is None:
        programs = Programs(recipe, block, mesh, arguments)
        drawn = programs.drawing()
        if not is_tiered:
            programs.onward(chunks.shape[1])  # compiled beside the first
        whole = drawn.result()(*arguments)
    compiling = time.perf_counter() - began
    engine = _Engine(recipe, block, mesh, tuple(arguments), whole, runs=runs, is_tiered=is_tiered)
    engine.compiling += compiling
    for place, chunk in enumerate(chunks, start=1):
        course.add(chunk, engine.advance(now, chunk))
        now = int(chunk[-1])
        progress(now)
        course.reached(now, engine, is_last=place == len(chunks))
    kept = np.searchsorted(course.stops, stops)
    return Swept(
        state=jax.device_put(_first_rows(engine.state, runs), mesh.devices.flat[0]),
        records=jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[:, kept], *course.records),
        **course.seconds(engine.compiling, time.perf_counter() - began - engine.compiling, 0.0),
    )


class _Engine:
    """Runs and the programs that advance them: where there are tiers, each run in that of its own sizes."""

    def __init__(
        self, recipe: Recipe, block: int, mesh: Mesh, arguments: tuple, state, *, runs: int, is_tiered: bool
    ):
        self.recipe, self.block, self.mesh, self.runs, self.is_tiered = recipe, block, mesh, runs, is_tiered
        self.arguments, self.state = jax.device_get((arguments, state)) if is_tiered else (arguments, state)
        self.compiling, self.placed = 0.0, arguments

    def advance(self, start: int, chunk: Int[np.ndarray, " stops"]) -> StepRecord:
        """Train all runs over some stops; what they record there, as NumPy arrays."""
        if not self.is_tiered:
            self.state, records = self._advance(self.recipe.capacity, self.state, self.arguments, start, chunk)
            return jax.tree.map(lambda leaf: leaf[: self.runs], records)
        tiers = _tiers(self.recipe, self.state, self.arguments[0], start, int(chunk[-1]))[: self.runs]
        width, every, found = self.block * self.mesh.size, [], []
        for tier in sorted(set(tiers)):
            own = np.flatnonzero([tier == each for each in tiers])
            for rows in np.split(own, range(width, len(own), width)):
                at = np.resize(rows, width)
                taken = partial(jax.tree.map, lambda leaf, at=at: leaf[at])
                is_all = np.array_equal(at, np.arange(len(self.arguments[2])))
                state, arguments = taken(self.state), self.placed if is_all else taken(self.arguments)
                part, records = self._advance(tier, state, arguments, start, chunk)
                new = widened(jax.device_get(part), state)
                self.state = jax.tree.map(
                    lambda leaf, own, at=rows: with_rows(leaf, at, own[: len(at)]), self.state, new
                )
                every.append(rows)
                found.append(records)
        order = np.argsort(np.concatenate(every))

        def joined(*parts: np.ndarray) -> np.ndarray:
            return np.concatenate([own[: len(at)] for own, at in zip(parts, every, strict=True)])[order]

        return jax.tree.map(joined, *found)

    def _advance(
        self, tier: tuple[int, ...], state, arguments: tuple, start: int, chunk
    ) -> tuple[Any, StepRecord]:
        """Runs in a tier after some stops, and what they record; compiled where that tier is new."""
        since, recipe = time.perf_counter(), self.recipe
        if tier != recipe.capacity:
            recipe = replace(recipe, capacity=tier, allocated=recipe.capacity)
        like, compiled = Programs(recipe, self.block, self.mesh, arguments).onward(len(chunk))
        onward = compiled.result()
        self.compiling += time.perf_counter() - since
        own = _on_devices((narrowed(state, like), *arguments[:2]), self.mesh)
        state, records = onward(*own, jnp.asarray(start, jnp.int32), jnp.asarray(chunk))
        return state, jax.device_get(records)


_COMPILERS = ThreadPoolExecutor(thread_name_prefix="compile")
"""XLA compiles outside of Python's lock, so that two programs take little longer than one."""


_NUMBERS = "jax_enable_x64", "jax_default_matmul_precision"
"""Settings of JAX, also of a `with` block, by which the same shapes have other programs."""


class Programs:
    """The programs of some runs, compiled aside; the latest of a process are kept, whichever sweep asks."""

    def __init__(self, recipe: Recipe, block: int, mesh: Mesh, arguments: Sequence[PyTree]):
        leaves, structure = jax.tree.flatten(tuple(arguments))
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        self._key = recipe, block, mesh, shapes, structure, tuple(getattr(jax.config, own) for own in _NUMBERS)

    def drawing(self) -> Future:
        """What draws the first states, on its way."""
        return _drawing(*self._key)

    def onward(self, width: int) -> tuple[PyTree, Future]:
        """The shapes of states, and what trains them over as many stops, on its way."""
        return _onward(*self._key, width)


@lru_cache(maxsize=MOST_PROGRAMS)
def _drawing(recipe, block, mesh, shapes, structure, _) -> Future:
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    options = {"xla_backend_optimization_level": 0} if on_cpu else None  # the same numbers, compiled sooner
    lowered = compiled_stages(recipe, block, mesh)[0].lower(*_like(shapes, structure, mesh))
    return _COMPILERS.submit(lowered.compile, options)


@lru_cache(maxsize=MOST_PROGRAMS)
def _onward(recipe, block, mesh, shapes, structure, _, width) -> tuple[PyTree, Future]:
    first, onward = compiled_stages(recipe, block, mesh)
    arguments = _like(shapes, structure, mesh)
    state = jax.eval_shape(first, *arguments)
    over = NamedSharding(mesh, PartitionSpec("runs"))
    placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=over), state)
    stops = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((), (width,)))
    return state, _COMPILERS.submit(onward.lower(placed, *arguments[:2], *stops).compile)


def _like(shapes, structure, mesh: Mesh) -> PyTree:
    """Arguments without numbers, as they lie on the devices."""
    over = NamedSharding(mesh, PartitionSpec("runs"))
    return structure.unflatten([jax.ShapeDtypeStruct(*own, sharding=over) for own in shapes])


class _Course:
    """What of a sweep lies in a checkpoint, if it has one, and how far it has come."""

    def __init__(self, checkpoint: Checkpoints | None, runs: int):
        self.checkpoint, self.runs, self.records = checkpoint, runs, []
        self.stops = np.zeros(0, np.int32)
        self.earlier = dict.fromkeys(("compile_seconds", "run_seconds", "cpu_seconds"), 0.0)
        self.began = time.perf_counter(), time.process_time()

    def resume(self, start, stages, arguments, *, recipe: Recipe, stops) -> tuple[int, TrainState | None]:
        """The step and the states to go on from: those of a checkpoint, else the ones that are given."""
        if self.checkpoint is None:
            return start
        plain = repr(replace(recipe, drive=None, monitor=None))  # functions of users have no name that stays
        hypers, problem, keys = (jax.tree.map(lambda leaf: leaf[: self.runs], own) for own in arguments)
        is_open = recipe.schedule == "constant" and hypers.annealing is None and not recipe.members
        if recipe.drive is None and is_open:  # steps do not depend on how many follow
            hypers = eqx.tree_at(lambda own: own.horizon, hypers, 0.0 * hypers.horizon)
            stops = []
        settings = digest((hypers, keys, np.asarray(stops)), plain)
        self.checkpoint.identity = {"samples": digest(problem), "settings": settings}
        saved = self.checkpoint.newest()
        if saved is None:
            return start
        whole = jax.eval_shape(stages[0], *arguments)
        row = lambda leaf: jax.ShapeDtypeStruct((self.runs, *leaf.shape[1:]), leaf.dtype)  # noqa: E731
        state = saved.state(jax.tree.map(row, start[1] or whole))
        one = jnp.zeros(1, jnp.int32)
        shapes = jax.eval_shape(stages[1], whole, *arguments[:2], jnp.asarray(0, jnp.int32), one)[1]
        named = lambda path, _: saved.records[jax.tree_util.keystr(path)]  # noqa: E731
        self.records = [jax.tree_util.tree_map_with_path(named, shapes)]
        self.stops = np.array(saved.facts["stops"], np.int32)
        self.earlier = {name: saved.facts[name] for name in self.earlier}
        return saved.facts["step"], state

    def left_of(
        self, chunks: Int[np.ndarray, "chunks width"], stops: Int[np.ndarray, " records"]
    ) -> np.ndarray:
        """The chunks of stops that are not recorded yet; CheckpointError if others were recorded before."""
        every, done = chunks.ravel(), len(self.stops)
        if np.array_equal(every[:done], self.stops):
            return chunks[done // chunks.shape[1] :]
        last, left = int(self.stops[-1]), every[every > self.stops[-1]]
        if last > stops[-1] or not np.all(np.isin(stops[stops <= last], self.stops)):
            rest = "`steps` must be as many as there, or twice or more times as many"
            raise CheckpointError(f"{self.checkpoint.folder} is of step {last} and other records: {rest}.")
        return rows_of_stops(np.unique(left)) if left.size else chunks[:0]

    def seconds(self, *own: float) -> dict[str, float]:
        """Seconds of compiling and of running, and CPU seconds, with those that a checkpoint tells of."""
        both = zip(self.earlier.items(), own, strict=True)
        return {name: spent + more for (name, spent), more in both}

    def add(self, stops: Int[np.ndarray, " stops"], records: StepRecord) -> None:
        """Take what was recorded at some further stops."""
        self.stops = np.concatenate([self.stops, stops])
        self.records.append(records)

    def reached(self, step: int, engine: _Engine, *, is_last: bool) -> None:
        """Let a chunk of steps be written, of all units that are allocated."""
        if self.checkpoint is None:
            return

        def made() -> tuple[TrainState, dict[str, np.ndarray], dict[str, Any]]:
            records = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *self.records)
            leaves = jax.tree_util.tree_leaves_with_path(records)
            wall, cpu = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
            seconds = self.seconds(engine.compiling, wall - engine.compiling, cpu)
            rows = _first_rows(engine.state, self.runs)
            named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
            return rows, named, seconds | {"step": step, "stops": self.stops.tolist()}

        self.checkpoint.reached(made, is_last=is_last)


@lru_cache(maxsize=32)
def compiled_stages(recipe: Recipe, block: int, mesh: Mesh) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two compiled stages, `init` and `advance`, over runs in blocks on every device of the mesh."""
    over, each = PartitionSpec("runs"), PartitionSpec()
    width = block if block > 1 else None  # an axis of one run would make every product a batch of one

    def begin(hypers: Hypers, problem: Problem, keys: Key[Array, " runs"]):
        def of_run(hypers: Hypers, problem: Problem, key: Key[Array, ""]) -> TrainState:
            if not recipe.members:
                return init(recipe, hypers, problem, key=key)
            own = member_keys(key, recipe.members)
            drawn = jax.vmap(lambda key: init(recipe, hypers, problem, key=key))(own)
            controllers = lambda state: (state.net.controller, state.kept.net.controller)  # noqa: E731
            alike = partial(jax.tree.map, lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape))
            return eqx.tree_at(controllers, drawn, replace_fn=alike)  # members share all that sizes them

        return jax.lax.map(lambda own: of_run(*own), (hypers, problem, keys), batch_size=width)

    def onward(state: TrainState, hypers: Hypers, problem: Problem, start: Array, stops: Array):
        def of_run(state: TrainState, hypers: Hypers, problem: Problem) -> tuple[TrainState, StepRecord]:
            if not recipe.members:
                return advance(recipe, state, hypers, problem, start, stops)
            train = lambda own: advance(recipe, own, hypers, problem, start, stops)  # noqa: E731
            state, records = jax.vmap(train, axis_name=MEMBERS)(state)
            return state, jax.tree.map(lambda leaf: leaf[0], records)  # the same of all

        return jax.lax.map(lambda own: of_run(*own), (state, hypers, problem), batch_size=width)

    sharded = partial(jax.shard_map, mesh=mesh, out_specs=over, check_vma=False)
    return (
        jax.jit(sharded(begin, in_specs=(over, over, over))),
        jax.jit(sharded(onward, in_specs=(over, over, over, each, each)), donate_argnums=0),
    )


def _checks(recipe: Recipe, stops: Int[np.ndarray, " records"]) -> Int[np.ndarray, "chunks width"]:
    """The stops, and those at which the host looks whether the tier still holds the units in sight, in rows."""
    last, number = int(stops[-1]), 3 * CHECKS  # a bound on Adam's steps asks for more of them
    if recipe.drive is not None:
        last, number = min(recipe.drive.until, last), CHECKS
    checks = np.linspace(0, last, number + 1).round().astype(stops.dtype)
    return rows_of_stops(np.union1d(stops, checks), 2 * number)


def _is_tiered(recipe: Recipe, samples: int) -> bool:
    """Whether units out of sight change nothing, which is known in advance, and leaving them out pays."""
    if max(recipe.capacity) <= LEAST_TIER:
        return False
    if recipe.drive is not None:
        return recipe.drive.custom is None  # a user's importance may compare all units
    is_bounded = recipe.controller in ("auxiliary", "controller") and not recipe.layerwise
    is_bounded = is_bounded and recipe.optimiser == "adam"
    looks = recipe.monitor is not None  # which may compare all units too
    return is_bounded and not looks and samples * max(recipe.capacity) >= LEAST_WORK


def _tiers(recipe: Recipe, state: TrainState, hypers: Hypers, start: int, stop: int) -> list[tuple[int, ...]]:
    """Units of each layer that each run trains with between two steps; the fewest where it has diverged."""
    first = jax.tree.map(lambda leaf: leaf[:, 0], state) if recipe.members else state  # members share sizes
    if recipe.drive is None:
        move = ADAM_STEP * np.asarray(hypers.learning_rate) * (stop - start)
        sight = 1.0 + np.floor(jax.vmap(lambda net, move: net.controller.reach(move))(first.net, move))
    else:
        sizes = np.asarray(jax.vmap(lambda net: net.controller.sizes())(first.net))
        best, rate = np.asarray(first.drive.best), np.asarray(hypers.drive.rate)
        sight = recipe.drive.sight(sizes, best, rate[:, None], start, stop)
    most = np.max(np.where(np.isfinite(sight), sight, 0.0), axis=1)
    return [tier_of(own, recipe.capacity, least=LEAST_TIER) for own in most.tolist()]


def rows_of_stops(stops: Int[np.ndarray, " records"], most: int = CHUNKS) -> Int[np.ndarray, "chunks width"]:
    """The stops in rows of equal length, the last filled up with the last stop: one shape, one program."""
    rows = min(most, len(stops))
    width = -(-len(stops) // rows)
    rows = -(-len(stops) // width)
    return np.pad(stops, (0, rows * width - len(stops)), mode="edge").reshape(rows, width)


def _on_devices(tree: PyTree, mesh: Mesh) -> PyTree:
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("runs")))


def _first_rows(tree: PyTree, rows: int) -> PyTree:
    """The first rows of every leaf, on the host.

    A slice of a sharded array needs all devices at once; on a busy CPU they can wait for each other for ever.
    """
    return jax.tree.map(lambda leaf: leaf[:rows], jax.device_get(tree))


def _padded(leaf: Array | np.ndarray, total: int) -> Array | np.ndarray:
    """The leaf with its first row repeated at the end, up to `total` rows, by NumPy, which compiles nothing."""
    if leaf.shape[0] == total:
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jr.wrap_key_data(_padded(jr.key_data(leaf), total), impl=jr.key_impl(leaf))
    leaf, rest = np.asarray(leaf), leaf.shape[1:]
    if len(leaf) == 1 or leaf.strides[0] == 0:  # one row in memory stays one
        return np.broadcast_to(leaf[0], (total, *rest))
    return np.concatenate([leaf, np.broadcast_to(leaf[0], (total - len(leaf), *rest))])


def _number_of_runs(hypers: Hypers, problem: Problem, keys: Key[Array, " runs"]) -> int:
    leaves = jax.tree.leaves((hypers, problem, keys))
    rows = {leaf.shape[0] for leaf in leaves if eqx.is_array(leaf) and leaf.ndim}
    if len(rows) != 1:
        raise ValueError(f"every leaf must have one row a run; got {sorted(rows)} rows.")
    return rows.pop()
