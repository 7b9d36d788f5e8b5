"""Batches: the samples of every step, from arrays or from anything that can be gone through again and again."""

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import chain, count, groupby, islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from n3.data.dataset import HELD_OUT, folds_of, number_of_folds
from n3.nn.losses import Samples
from n3.nn.sized import Inputs, Several, each_input


def shuffle_epoch(
    order: Int[Array, " samples"], count: Int[Array, ""], batch: int, *, key: PRNGKeyArray
) -> Int[Array, " samples"]:
    """The order of the samples after `count` steps: a fresh one where an epoch begins.

    Samples beyond whole batches are left out of an epoch. The key and the epoch's number decide the order.
    """
    samples = order.shape[0]
    epoch, within = jnp.divmod(count, samples // batch)
    return jax.lax.cond(within == 0, lambda: jr.permutation(jr.fold_in(key, epoch), samples), lambda: order)


def draw_batch(order: Int[Array, " samples"], count: Int[Array, ""], batch: int, samples: Samples) -> Samples:
    """The samples of the step after `count` steps: each counts by its weight, a whole epoch as all samples."""
    within = jnp.mod(count, order.shape[0] // batch)
    rows = jax.lax.dynamic_slice_in_dim(order, within * batch, batch)
    shares = samples.shares[rows] * (order.shape[0] / batch)
    return Samples(samples.inputs[:, rows], samples.targets[:, rows], shares)


@runtime_checkable
class ArrayLike(Protocol):
    """What NumPy can turn into an array by itself: arrays and tensors."""

    def __array__(self, *args: Any, **options: Any) -> Any:
        """The array."""
        ...


Data = tuple[ArrayLike | tuple[ArrayLike, ...], ArrayLike] | list[ArrayLike] | Iterable[Any]
"""Inputs and targets, samples first, or an iterable of batches of both."""
Check = Callable[[Any], None]
Pair = tuple[np.ndarray | Several, np.ndarray]


class HeldRows(eqx.Module):
    """Rows of samples that are held out of training."""

    rows: Int[Array, "..."]
    weights: Float[Array, "..."]
    """1, or 0 for a row that only fills up a shorter fold."""


class Selection(eqx.Module):
    """Samples by their rows: some steps, `rows[step]` each, or a pool at which units are measured."""

    inputs: Inputs
    targets: Array
    rows: Int[Array, "..."]
    runs: int = eqx.field(static=True, default=0)
    """Runs that have rows of their own, along a first axis; 0: all share them."""
    members: int = eqx.field(static=True, default=0)
    """Members of a run that have rows of their own, along the next axis; 0: all share them."""
    held: HeldRows | None = None
    """Samples held out of training, with the same axes."""

    @property
    def axis(self) -> int | None:
        """First axis of the rows that is not of samples, if any."""
        return 0 if self.runs or self.members else None

    def of_run(self, run: int) -> "Selection":
        """The samples of one run alone, of members those of the first."""
        rows = self.rows[run] if self.runs else self.rows
        rows = rows[0] if self.members else rows
        return Selection(self.inputs[rows], self.targets[rows], jnp.arange(len(rows)))


class ArraySource:
    """Batches of arrays, freshly shuffled in every epoch, whose samples beyond whole batches are left out.

    The arrays stay on the device; a chunk is their row numbers, of every run its own where there are many keys,
    and of every member where samples have folds: member `i` trains on all but fold `i`.
    """

    def __init__(
        self,
        inputs: np.ndarray | Several,
        targets: np.ndarray,
        *,
        batch: int,
        key: Key[Array, "*runs"],
        folds: Int[np.ndarray, "*runs samples"] | None = None,
        members: int = 0,
    ):
        self.inputs, self.targets = jax.tree.map(jnp.asarray, (inputs, targets))
        self.runs, self.members, self.key, self._fit = key.size if key.ndim else 0, members, key, None
        number = len(inputs)
        if folds is not None:
            self._fit, self._held, self._weights = rows_of_members(folds, members)
            self.key, number = member_keys(key, members), self._fit.shape[-1]
        self.batch = min(batch, number)
        self.samples = number // self.batch * self.batch
        self._number = number
        self._rows = self._rows_from(0)

    def _rows_from(self, first: int) -> Iterator[Int[np.ndarray, "*runs batch"]]:
        return chain.from_iterable(np.moveaxis(self._epoch(epoch), -2, 0) for epoch in count(first))

    def _epoch(self, epoch: int) -> Int[np.ndarray, "*runs batches batch"]:
        rows = epoch_rows(self.key, epoch, self._number, batch=self.batch)
        if self._fit is None:
            return rows
        own = np.take_along_axis(self._fit, rows.reshape(*self.key.shape, -1), axis=-1)
        return own.reshape(rows.shape)

    def _selected(self, rows: Int[np.ndarray, "..."], held: int = 0) -> Selection:
        out = None
        if held and self._fit is not None:
            out = HeldRows(*(jnp.asarray(own[..., :held]) for own in (self._held, self._weights)))
        axes = {"runs": self.runs, "members": self.members}
        return Selection(self.inputs, self.targets, jnp.asarray(rows), held=out, **axes)

    def require(self, check: Check) -> None:
        """See that the targets pass a check, which raises where they do not."""
        check(self.targets)

    def chunks(self, steps: int) -> list[Selection]:
        """The next steps."""
        return [self._selected(np.stack(list(islice(self._rows, steps)), axis=-2))]

    def skip(self, steps: int) -> None:
        """Go on as after so many steps, from the first."""
        epoch, within = divmod(steps, self._number // self.batch)
        self._rows = self._rows_from(epoch)
        next(islice(self._rows, within, within), None)

    def identity(self) -> tuple[Any, str]:
        """What tells these samples from others: arrays, and a text."""
        return self.whole(), f"batches of {self.batch}"

    def pool(self, samples: int) -> Selection:
        """The samples that come first, as many as asked for or an epoch has; as many held out of training."""
        return self._selected(self._epoch(0).reshape(*self.key.shape, -1)[..., :samples], held=samples)

    def whole(self) -> Selection:
        """All samples that are trained on, in the arrays' order, and all that are held out."""
        every = np.broadcast_to(np.arange(self._number), (*self.key.shape, self._number))
        return self._selected(every if self._fit is None else self._fit, held=len(self.inputs))


class IterableSource:
    """Batches as an iterable yields them, from its beginning again whenever it ends.

    With a part held out, every sample whose checksum says so is left out, in whatever order samples come, and
    the others are put into batches as large as the iterable's first one.
    """

    def __init__(self, batches: Iterable[Any], *, steps: int, is_held: bool = False):
        self.batches, self.steps, self.is_held = batches, steps, is_held
        if not isinstance(batches, Iterable):
            text = f"arrays `(inputs, targets)` or an iterable of such pairs; got {type(batches).__name__}"
            raise ValueError(f"`train_data` must be {text}.")
        if isinstance(batches, Iterator):
            text = "must be iterable again and again; got an iterator, which ends for good"
            raise ValueError(f"`train_data` {text}.")
        every = chain.from_iterable(self._once() for _ in count())
        self._next = self._rebatched(every) if is_held else every
        self._check: Check = lambda targets: None

    def _once(self) -> Iterator[Pair]:
        first = ()
        for batch in self.batches:
            pair = checked(batch, name="train_data", like=first)
            first = first or pair
            yield pair
        if not first:
            raise ValueError("`train_data` must yield batches; got none.")

    def _rebatched(self, pairs: Iterator[Pair]) -> Iterator[Pair]:
        size, left = 0, None
        known, is_complete = self._survey.known, self._survey.is_complete
        for pair in pairs:
            size = size or len(pair[0])
            sums = checksums(pair[0])
            is_out = is_held_out(sums)
            if is_complete and not known.issuperset(sums[is_out].tolist()):
                text = "must yield the same samples in every pass where a part is held out; got others"
                raise ValueError(f"`train_data` {text}. Pass arrays, or augment samples in the model.")
            own = pair[0][~is_out], pair[1][~is_out]
            left = own if left is None else _joined([left, own])
            while len(left[0]) >= size:
                yield left[0][:size], left[1][:size]
                left = left[0][size:], left[1][size:]

    @cached_property
    def _survey(self) -> "Survey":
        """One pass, of twice as many batches as there are steps at most."""
        known, out, number, passed = set(), [], 0, 0
        for pair in islice(self._once(), 2 * self.steps):
            sums = checksums(pair[0])
            is_out = is_held_out(sums)
            known |= set(sums[is_out].tolist())
            number, passed = number + int(np.sum(~is_out)), passed + 1
            if sum(len(inputs) for inputs, _ in out) < MOST_OF_STREAM and is_out.any():
                out.append((pair[0][is_out], pair[1][is_out]))
        if not number or sum(len(inputs) for inputs, _ in out) < 2:
            text = f"must have some two samples in each of {HELD_OUT} parts, one of which is held out"
            raise ValueError(f"`train_data` {text}; got too few that differ.")
        return Survey(known, _concatenated(out, MOST_OF_STREAM), number, passed < 2 * self.steps)

    def require(self, check: Check) -> None:
        """See that the targets of every batch pass a check, which raises where they do not."""
        self._check = check

    def chunks(self, steps: int) -> list[Selection]:
        """The next steps, cut where the shape of a batch changes."""
        pairs: list[Pair] = []
        for pair in islice(self._next, steps):
            self._check(pair[1])
            pairs.append(pair)
        shapes = lambda pair: [(side.shape, side.dtype) for side in pair]  # noqa: E731
        return [_joined_arrays(list(alike)) for _, alike in groupby(pairs, key=shapes)]

    def skip(self, steps: int) -> None:
        """Go on as after so many steps, from the first: what comes before is read and left."""
        next(islice(self._next, steps, steps), None)

    def identity(self) -> tuple[Any, str]:
        """What tells these samples from others: of a stream the shapes and types of its first batch."""
        pair = next(self._once())
        return (), str([(side.shape, str(side.dtype)) for side in pair])

    @cached_property
    def samples(self) -> int:
        """Samples of an epoch, or of as many batches as there are steps: found by going through them once."""
        if self.is_held:
            return self._survey.samples
        return sum(len(inputs) for inputs, _ in islice(self._once(), self.steps))

    def pool(self, samples: int) -> Selection:
        """The samples that come first, as many as asked for or an epoch has; as many held out of training."""
        found: list[Pair] = []
        for inputs, targets in self._once():
            kept = ~is_held_out(checksums(inputs)) if self.is_held else slice(None)
            found.append((inputs[kept], targets[kept]))
            if sum(len(inputs) for inputs, _ in found) >= samples:
                break
        fit = _concatenated(found, samples)
        rows = jnp.arange(len(fit[0]))
        if not self.is_held:
            return Selection(*jax.tree.map(jnp.asarray, fit), rows)
        out = [side[:samples] for side in self._survey.held]
        held = HeldRows(len(rows) + jnp.arange(len(out[0])), jnp.ones(len(out[0])))
        return Selection(*jax.tree.map(jnp.asarray, _joined([fit, out])), rows, held=held)

    def whole(self) -> Selection:
        """The first `MOST_OF_STREAM` samples that are trained on, and as many that are held out."""
        return self.pool(MOST_OF_STREAM)


MOST_OF_STREAM = 2**14
"""Samples of an iterable by which a read-out is solved or a held-out loss is taken, at most."""


class Survey(NamedTuple):
    """What one pass through an iterable finds."""

    known: set[int]
    """Checksums of the samples held out."""
    held: Pair
    """The first of them."""
    samples: int
    """Samples that are not."""
    is_complete: bool
    """Whether the pass came to the end."""


def checksums(inputs: np.ndarray | Several) -> Int[np.ndarray, " samples"]:
    """A checksum of each sample's inputs."""
    rows = zip(*each_input(inputs), strict=True)
    content = (b"".join(np.ascontiguousarray(own).tobytes() for own in row) for row in rows)
    return np.array([zlib.crc32(own) for own in content], np.int64)


def is_held_out(sums: Int[np.ndarray, " samples"]) -> Bool[np.ndarray, " samples"]:
    """Whether samples of these checksums are held out: about a fifth, equal inputs alike."""
    return sums % HELD_OUT == 0


def _joined(pairs: Iterable[Sequence[Any]]) -> Pair:
    """Pairs of inputs and targets as one pair, samples after samples."""
    return jax.tree.map(lambda *own: np.concatenate(own), *map(tuple, pairs))


def _concatenated(pairs: list[Pair], most: int) -> Pair:
    inputs, targets = _joined(pairs)
    return inputs[:most], targets[:most]


def source_of(
    data: Data,
    *,
    batch: int,
    steps: int,
    key: Key[Array, "*runs"],
    members: int = 0,
    is_stratified: bool = False,
) -> ArraySource | IterableSource:
    """Batches of training data: of `batch` samples for arrays, while an iterable decides for itself.

    Each of some members holds out a fold of the arrays, a single one a fifth; the key of a run decides which
    sample is in which fold. Folds have equal shares of the classes where they are stratified, also of those
    that the targets are where they are whole numbers.

    Raises:
        ValueError: If the data are empty, not finite, do not fit together, or cannot be iterated again; or if
            there are too few samples, or an iterable, for so many members.
    """
    if not is_arrays(data):
        if members > 1:
            text = "must be 1 at most where `train_data` is an iterable of batches"
            raise ValueError(f"`members` {text}; got {members}. Pass arrays for more.")
        return IterableSource(data, steps=steps, is_held=members > 0)
    inputs, targets = checked(data, name="train_data")
    if not members:
        return ArraySource(inputs, targets, batch=batch, key=key)
    columns = targets.reshape(len(targets), -1).astype(np.float32)
    is_stratified |= not np.issubdtype(targets.dtype, np.inexact)
    number = number_of_folds(members)
    found = [folds_of(columns, number, is_classes=is_stratified, seed=seed) for seed in _fold_seeds(key)]
    folds = np.stack(found).reshape(*key.shape, len(inputs))
    return ArraySource(inputs, targets, batch=batch, key=key, folds=folds, members=members)


FOLD_STREAM = 1_000_007
"""Which stream of a run's key decides the folds: none that the order of the samples uses."""


def _fold_seeds(key: Key[Array, "*runs"]) -> list[int]:
    own = jax.vmap(lambda each: jr.bits(jr.fold_in(each, FOLD_STREAM), dtype=jnp.uint32))(key.reshape(-1))
    return np.asarray(own).tolist()


def member_keys(key: Key[Array, "*runs"], members: int) -> Key[Array, "*runs members"]:
    """A key for each member of every run."""
    own = lambda each: jax.vmap(partial(jr.fold_in, each))(jnp.arange(members))  # noqa: E731
    return jax.vmap(own)(key) if key.ndim else own(key)


def rows_of_members(folds: Int[np.ndarray, "*runs samples"], members: int) -> tuple[np.ndarray, ...]:
    """Rows that each member trains on, rows of its fold, and weights of the latter.

    All have axes of runs, if any, and of members. Shapes are those of the largest fold: what fills up a shorter
    one has weight 0, and is not trained on either.
    """
    is_held = folds[..., None, :] == np.arange(members)[:, None]
    most = int(np.bincount(folds.reshape(-1, folds.shape[-1])[0]).max())
    order, fit = np.argsort(is_held, axis=-1, kind="stable"), folds.shape[-1] - most
    held = order[..., fit:]
    return order[..., :fit], held, np.take_along_axis(is_held, held, axis=-1).astype(np.float32)


def is_arrays(data: Data) -> bool:
    """Whether data are arrays, inputs (or a tuple of them) and targets, and not an iterable of batches.

    Raises:
        ValueError: If several inputs are a list or a mapping.
    """
    if not isinstance(data, (tuple, list)) or len(data) != 2 or not isinstance(data[1], ArrayLike):
        return False
    inputs: Any = data[0]
    each = inputs.values() if isinstance(inputs, dict) else inputs
    if isinstance(inputs, (dict, list)) and each and all(isinstance(own, ArrayLike) for own in each):
        raise ValueError(
            "`train_data` must have an array of inputs, or a tuple of arrays for a model of several arguments; "
            f"got a {type(inputs).__name__} of {len(inputs)}."
        )
    several = inputs if isinstance(inputs, tuple) else (inputs,)
    return len(several) > 0 and all(isinstance(own, ArrayLike) for own in several)


def epoch_rows(
    key: Key[Array, "*runs"], epoch: int, samples: int, *, batch: int
) -> Int[np.ndarray, "*runs batches batch"]:
    """Rows of each batch of an epoch, a permutation of the samples cut into whole batches."""
    order = _permutations(key, epoch, samples)[..., : samples // batch * batch]
    return order.reshape(*key.shape, -1, batch)


def _permutations(key: Key[Array, "*runs"], epoch: int, samples: int) -> Int[np.ndarray, "*runs samples"]:
    """`jax.random.permutation` by each key and the epoch, sorted on the host: three times as fast on a CPU."""
    order = None
    for bits in np.moveaxis(np.asarray(_sort_keys(key, epoch, samples)), -2, 0):
        by = np.argsort(bits, axis=-1, kind="stable")
        order = by if order is None else np.take_along_axis(order, by, -1)
    return np.zeros((*key.shape, samples), int) if order is None else order


@partial(jax.jit, static_argnums=2)
def _sort_keys(key, epoch, samples):
    """Random numbers `[*runs, rounds, samples]`, by which a permutation is sorted round after round."""
    rounds = math.ceil(3 * math.log(max(1, samples)) / math.log(2**32 - 1))

    def own(each: PRNGKeyArray) -> Array:
        each, found = jr.fold_in(each, epoch), []
        for _ in range(rounds):
            each, drawn = jr.split(each)
            found.append(jr.bits(drawn, (samples,), jnp.uint32))
        return jnp.stack(found) if found else jnp.zeros((0, samples), jnp.uint32)

    return jax.vmap(own)(key.reshape(-1)).reshape(*key.shape, rounds, samples) if key.ndim else own(key)


def checked(pair: Any, *, name: str, like: Sequence[Any] = ()) -> Pair:
    """Inputs and targets as arrays of as many samples, in the types that JAX computes with.

    Raises:
        ValueError: If they are no finite real numbers, or beyond these types, or samples have other shapes than
            those `like` them; it names `name`.
    """
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"`{name}` must hold pairs of inputs and targets; got {type(pair).__name__}.")
    given, targets = pair[0], _real(pair[1], name)
    several = tuple(_real(side, name) for side in (given if isinstance(given, tuple) else (given,)))
    sides = *several, targets
    if not all(own.ndim for own in sides) or {len(own) for own in sides} - {len(targets) or -1}:
        shapes = f"{', '.join(str(own.shape) for own in several)} and {targets.shape}"
        raise ValueError(f"`{name}` must have as many inputs as targets, one or more; got shapes {shapes}.")
    inputs = Several(several) if isinstance(given, tuple) else several[0]
    for side, other in zip((inputs, targets), like, strict=False):
        if side.shape[1:] != other.shape[1:]:
            shapes = f"{other.shape[1:]}; got {side.shape[1:]}"
            raise ValueError(f"`{name}` must have samples of one shape, {shapes}.")
    return inputs, targets


def _real(side: Any, name: str) -> np.ndarray:
    """Real numbers in the type of JAX, float32 or int32 unless it is told to take 64 bits."""
    try:
        values = np.asarray(side)
    except ValueError as error:
        raise ValueError(f"`{name}` must have samples of one shape: {error}") from error
    if not (jnp.issubdtype(values.dtype, np.bool_) or jnp.issubdtype(values.dtype, jnp.number)) or (
        jnp.issubdtype(values.dtype, np.complexfloating)
    ):
        raise ValueError(f"`{name}` must hold real numbers; got {values.dtype}.")
    if jnp.issubdtype(values.dtype, jnp.inexact) and not np.isfinite(values).all():
        raise ValueError(f"`{name}` must be finite; got NaN or an infinity.")
    with np.errstate(over="ignore"):
        own = values.astype(jax.dtypes.canonicalize_dtype(values.dtype))
    is_same = np.isfinite(own) if jnp.issubdtype(own.dtype, jnp.inexact) else own == values
    if not is_same.all():
        got = f"{values[~is_same].flat[0]} of {values.dtype}"
        raise ValueError(f"`{name}` must hold numbers within {own.dtype}; got {got}.")
    return own


def _joined_arrays(run: list[Pair]) -> Selection:
    inputs, targets = jax.device_put(_joined(run))
    return Selection(inputs, targets, jnp.arange(len(inputs)).reshape(len(run), -1))
