"""Batches: the samples of every step, from arrays or from anything that can be gone through again and again."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Int, Key, PRNGKeyArray

from n3.nn.losses import Samples


def shuffle_epoch(
    order: Int[Array, " samples"], count: Int[Array, ""], batch: int, *, key: PRNGKeyArray
) -> Int[Array, " samples"]:
    """The order of the samples at a step: a fresh one where an epoch begins.

    Args:
        order: The order so far.
        count: Steps taken so far.
        batch: Samples in a step; those beyond whole batches are left out of an epoch.
        key: Decides, with the epoch's number, the order.
    """
    samples = order.shape[0]
    epoch, within = jnp.divmod(count, samples // batch)
    return jax.lax.cond(within == 0, lambda: jr.permutation(jr.fold_in(key, epoch), samples), lambda: order)


def draw_batch(order: Int[Array, " samples"], count: Int[Array, ""], batch: int, samples: Samples) -> Samples:
    """The samples of a step, of equal shares; arguments as those of `shuffle_epoch`."""
    within = jnp.mod(count, order.shape[0] // batch)
    rows = jax.lax.dynamic_slice_in_dim(order, within * batch, batch)
    return Samples(samples.inputs[:, rows], samples.targets[:, rows], jnp.full(batch, 1.0 / batch))


@runtime_checkable
class ArrayLike(Protocol):
    """What NumPy can turn into an array by itself: arrays and tensors."""

    def __array__(self, *args: Any, **options: Any) -> Any:
        """The array."""
        ...


Data = tuple[ArrayLike, ArrayLike] | list[ArrayLike] | Iterable[Any]
"""Inputs and targets, samples first, or an iterable of batches of both."""
Check = Callable[[Any], None]
EMPTY = "`train_data` must yield batches; got none."


class Chunk(eqx.Module):
    """Some steps: step `i` takes the samples `rows[i]`."""

    inputs: Array
    targets: Array
    rows: Int[Array, "*runs steps batch"]

    @property
    def steps(self) -> int:
        """How many."""
        return self.rows.shape[-2]

    @property
    def axis(self) -> int | None:
        """0 where every run has rows of its own, None where all share them."""
        return 0 if self.rows.ndim == 3 else None


class FitPool(eqx.Module):
    """Samples at which units are measured: those of each run, or the same of all."""

    inputs: Array
    targets: Array
    rows: Int[Array, "*runs samples"]

    @property
    def axis(self) -> int | None:
        """0 where every run has rows of its own, None where all share them."""
        return 0 if self.rows.ndim == 2 else None

    @property
    def runs(self) -> int:
        """Runs that have rows of their own; 0: all share them."""
        return self.rows.shape[0] if self.axis == 0 else 0

    def of_run(self, run: int) -> "FitPool":
        """The samples of one run alone."""
        rows = self.rows[run] if self.axis == 0 else self.rows
        return FitPool(self.inputs[rows], self.targets[rows], jnp.arange(len(rows)))


class ArraySource:
    """Batches of arrays, freshly shuffled in every epoch, whose samples beyond whole batches are left out.

    The arrays stay on the device; a chunk is their row numbers, of every run its own where there are many keys.
    """

    def __init__(self, inputs: np.ndarray, targets: np.ndarray, *, batch: int, key: Key[Array, "*runs"]):
        self.inputs, self.targets = jnp.asarray(inputs), jnp.asarray(targets)
        self.batch, self.key = min(batch, len(inputs)), key
        self.samples = len(inputs) // self.batch * self.batch
        self._rows = self._order()

    def _order(self) -> Iterator[Int[np.ndarray, "*runs batch"]]:
        epoch = 0
        while True:
            rows = epoch_rows(self.key, epoch, len(self.inputs), batch=self.batch)
            yield from np.moveaxis(rows, -2, 0)
            epoch += 1

    def require(self, check: Check) -> None:
        """See that the targets pass a check, which raises where they do not."""
        check(self.targets)

    def chunks(self, steps: int) -> list[Chunk]:
        """The next steps."""
        rows = np.stack([next(self._rows) for _ in range(steps)], axis=-2)
        return [Chunk(self.inputs, self.targets, jnp.asarray(rows))]

    def pool(self, samples: int) -> FitPool:
        """The samples that come first, as many as asked for or an epoch has."""
        rows = epoch_rows(self.key, 0, len(self.inputs), batch=self.batch)
        rows = rows.reshape(*rows.shape[:-2], -1)[..., :samples]
        return FitPool(self.inputs, self.targets, jnp.asarray(rows))


class IterableSource:
    """Batches as an iterable yields them, from its beginning again whenever it ends."""

    def __init__(self, batches: Iterable[Any], *, steps: int):
        self.batches, self.steps = batches, steps
        if isinstance(batches, Iterator):
            raise ValueError(
                "`train_data` must be iterable again and again; got an iterator, which ends for good."
            )
        self._next = self._endless()
        self._samples: int | None = None
        self._check: Check | None = None

    def require(self, check: Check) -> None:
        """See that the targets of every batch pass a check, which raises where they do not."""
        self._check = check

    def _endless(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while True:
            count = 0
            for pair in self.batches:
                count += 1
                yield checked(pair, name="train_data")
            if count == 0:
                raise ValueError(EMPTY)

    def chunks(self, steps: int) -> list[Chunk]:
        """The next steps, cut where the shape of a batch changes."""
        runs: list[list[tuple[np.ndarray, np.ndarray]]] = []
        for _ in range(steps):
            pair = next(self._next)
            if self._check is not None:
                self._check(pair[1])
            if runs and _shapes(runs[-1][0]) == _shapes(pair):
                runs[-1].append(pair)
            else:
                runs.append([pair])
        return [_joined_arrays(run) for run in runs]

    @property
    def samples(self) -> int:
        """Samples of an epoch, or of as many batches as there are steps: found by going through them once."""
        if self._samples is None:
            pairs = zip(range(self.steps), self.batches, strict=False)
            self._samples = sum(len(np.asarray(inputs)) for _, (inputs, _targets) in pairs)
        return self._samples

    def pool(self, samples: int) -> FitPool:
        """The samples that come first, as many as asked for or an epoch has."""
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for pair in self.batches:
            found.append(checked(pair, name="train_data"))
            if sum(len(inputs) for inputs, _ in found) >= samples:
                break
        if not found:
            raise ValueError(EMPTY)
        shapes = {tuple(side.shape[1:] for side in pair) for pair in found}
        if len(shapes) > 1:
            raise ValueError(f"`train_data` must have samples of one shape; got {sorted(shapes)}.")
        inputs, targets = (np.concatenate(side)[:samples] for side in zip(*found, strict=True))
        return FitPool(jnp.asarray(inputs), jnp.asarray(targets), jnp.arange(len(inputs)))


def source_of(data: Data, *, batch: int, steps: int, key: Key[Array, "*runs"]) -> ArraySource | IterableSource:
    """Batches of training data.

    Args:
        data: A pair of arrays, or an iterable of batches.
        batch: Samples in a step, for arrays; an iterable decides for itself.
        steps: Steps of the run.
        key: For the order of arrays, or a key for each run.

    Raises:
        ValueError: If the data are empty, not finite, do not fit together, or cannot be iterated again.
    """
    if is_arrays(data):
        inputs, targets = checked(data, name="train_data")
        return ArraySource(inputs, targets, batch=batch, key=key)
    return IterableSource(data, steps=steps)


def is_arrays(data: Data) -> bool:
    """Whether data are a pair of arrays, inputs and targets, and not an iterable of batches."""
    is_pair = isinstance(data, (tuple, list)) and len(data) == 2
    return is_pair and all(isinstance(side, ArrayLike) for side in data)


def epoch_rows(
    key: Key[Array, "*runs"], epoch: int, samples: int, *, batch: int
) -> Int[np.ndarray, "*runs batches batch"]:
    """Rows of each batch of an epoch, a permutation of the samples cut into whole batches."""
    order = np.asarray(_permutations(key, epoch, samples))[..., : samples // batch * batch]
    return order.reshape(*key.shape, -1, batch)


@partial(jax.jit, static_argnums=2)
def _permutations(key, epoch, samples):
    own = lambda each: jr.permutation(jr.fold_in(each, epoch), samples)  # noqa: E731
    return jax.vmap(own)(key) if key.ndim else own(key)


def checked(pair: Any, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets as arrays of as many samples, finite.

    Raises:
        ValueError: If they are not, naming `name`.
    """
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"`{name}` must hold pairs of inputs and targets; got {type(pair).__name__}.")
    inputs, targets = (np.asarray(side) for side in pair)
    if not inputs.ndim or not targets.ndim or len(inputs) != len(targets) or not len(inputs):
        shapes = f"{inputs.shape} and {targets.shape}"
        raise ValueError(f"`{name}` must have as many inputs as targets, one or more; got shapes {shapes}.")
    for side in (inputs, targets):
        if np.issubdtype(side.dtype, np.inexact) and not np.isfinite(side).all():
            raise ValueError(f"`{name}` must be finite; got NaN or an infinity.")
    return inputs, targets


def _shapes(pair):
    return tuple((side.shape, side.dtype) for side in pair)


def _joined_arrays(run: list[tuple[np.ndarray, np.ndarray]]) -> Chunk:
    inputs, targets = (jax.device_put(np.concatenate(side)) for side in zip(*run, strict=True))
    return Chunk(inputs, targets, jnp.arange(len(inputs)).reshape(len(run), -1))
