"""Target units: numbers are learnt at mean 0 and variance 1, so that sizes do not depend on their unit.

Texts are learnt as classes, by number.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PyTree

from n3.nn.members import Ensemble
from n3.tracing.grow import Grown
from n3.training.batches import Data, Pair, checked, is_arrays
from n3.training.history import History
from n3.training.output_loss import OutputLoss, output_loss_of
from n3.training.readouts import CHECKED, Readout, readout_of

LEARNT = 0.1
"""Share of the variance that a model has left unexplained, at most, which was learnt before."""
MOST = 2048
"""Targets of an iterable by which its unit is found, at most."""


@dataclass(frozen=True)
class TargetUnits:
    """The mean and the deviation of the targets, which a model's read-out takes up."""

    readout: Readout
    offset: Float[np.ndarray, " outputs"]
    scale: float
    """Root of the mean variance over the outputs: one for all, which leaves their shares of the loss alone."""
    is_learnt: Bool[np.ndarray, "*runs"]
    """Whether a model explains most of the variance before training: its outputs are in the targets' unit."""

    @classmethod
    def of(cls, model: PyTree, one: PyTree, data: Data, loss: Any, kind: Any = None) -> "TargetUnits | None":
        """Those of training data; None where the loss has no unit or `one` of the models no linear read-out.

        Raises:
            ValueError: If the data do not fit the model.
        """
        if callable(loss) or isinstance(data, Iterator) or not isinstance(data, Iterable):
            return None
        pairs = [checked(data, name="train_data")] if is_arrays(data) else _first(data)
        if not pairs:
            return None
        inputs, targets = jax.tree.map(jnp.asarray, pairs[0])
        goal = output_loss_of(one.model if isinstance(one, Grown) else one, inputs, targets, loss, kind)
        if goal.loss != "squared-error" or (readout := readout_of(one, goal, inputs[:CHECKED])) is None:
            return None
        wide = [np.asarray(own, np.float64).reshape(len(own), -1) for _, own in pairs]
        columns = np.concatenate(wide)
        offset = columns.mean(axis=0)
        scale = float(np.sqrt(np.mean((columns - offset) ** 2)))
        seen, own = _outputs(goal, model, inputs[:CHECKED], model is not one), columns[: len(inputs)][:CHECKED]
        errors = np.mean((seen.reshape(*seen.shape[: seen.ndim - 2], *own.shape) - own) ** 2, axis=(-2, -1))
        return cls(
            readout, offset, scale if 0 < scale < np.inf else 1.0, np.asarray(errors < LEARNT * scale**2)
        )

    def applied(self, data: Data) -> Data:
        """Arrays, or an iterable of batches, with targets of mean 0 and variance 1."""
        return with_numbers(data, lambda own: (own - self.offset.reshape(own.shape[1:])) / self.scale)

    def taken_up(self, model: PyTree) -> PyTree:
        """The model of such targets that stands for a given one; one that was drawn stays as it was drawn."""
        weight, bias = (np.asarray(own, np.float64) for own in self.readout.parts(model))
        own, other = (weight, bias), (weight / self.scale, (bias - self.offset) / self.scale)
        is_learnt = [self.is_learnt.reshape(*self.is_learnt.shape, *(1,) * rank) for rank in (2, 1)]
        return self.readout.replaced(model, *map(np.where, is_learnt, other, own))

    def given_back(self, model: PyTree) -> PyTree:
        """The model of the targets' own unit that stands for one of such targets, or for members."""
        if isinstance(model, Ensemble):
            return Ensemble(self.given_back(model.members), model.is_classes)
        weight, bias = (np.asarray(own, np.float64) for own in self.readout.parts(model))
        return self.readout.replaced(model, weight * self.scale, bias * self.scale + self.offset)

    def losses_of(self, history: History) -> History:
        """What was recorded, with losses in the square of the targets' own unit."""
        names = "train_loss", "validation_loss", "held_out_loss", "held_out_error"
        squared = lambda own: None if own is None else np.asarray(own * self.scale**2)  # noqa: E731
        decisions = tuple(
            replace(
                own, before=float(own.before * self.scale**2), after=own.after and own.after * self.scale**2
            )
            for own in history.decisions
        )
        return replace(
            history, decisions=decisions, **{name: squared(getattr(history, name)) for name in names}
        )


def _outputs(goal: OutputLoss, model: PyTree, inputs: Any, has_runs: bool) -> np.ndarray:
    """What a model predicts, or each of many: samples last but one."""
    over = eqx.filter_vmap(goal.predicted, in_axes=(eqx.if_array(0), None)) if has_runs else goal.predicted
    found = np.asarray(eqx.filter_jit(over)(model, inputs), np.float64)
    return found.reshape(*found.shape[: 1 + has_runs], -1)


def with_numbers(data: Data, function: Callable[[np.ndarray], np.ndarray] = lambda own: own) -> Data:
    """Arrays, or an iterable of batches, whose targets are a function of themselves in floating point."""
    if is_arrays(data):
        inputs, targets = data
        return inputs, function(np.asarray(targets, np.float64))
    return data if isinstance(data, Iterator) or not isinstance(data, Iterable) else _Mapped(data, function)


def labels_of(data: Data) -> tuple[str, ...]:
    """The texts among the targets of arrays, in order; none where they are no texts."""
    _, given = data if is_arrays(data) else (None, np.zeros(0))
    targets = np.asarray(given)
    is_text = targets.dtype.kind in "US" or (
        targets.dtype.kind in "OT" and targets.size > 0 and all(isinstance(own, str) for own in targets.flat)
    )
    return tuple(map(str, np.unique(targets.astype(str)))) if is_text else ()


def with_codes(data: Data, labels: tuple[str, ...], *, name: str) -> Data:
    """Arrays whose targets are numbers of classes in place of texts.

    Raises:
        ValueError: If they have a text that is no label, or no texts; it names `name`.
    """
    own = labels_of(data)
    if not own or not set(own) <= set(labels):
        given = sorted(set(own) - set(labels))[0] if own else "no texts"
        raise ValueError(f"`{name}` must have targets of {', '.join(labels)}, as `train_data`; got {given}.")
    inputs, targets = data
    return inputs, np.searchsorted(np.array(labels), np.asarray(targets).astype(str))


def _first(data: Iterable[Any]) -> list[Pair]:
    """The first batches, of `MOST` samples about."""
    found, number = [], 0
    for batch in data:
        found.append(checked(batch, name="train_data", like=found[0] if found else ()))
        number += len(found[-1][0])
        if number >= MOST:
            break
    return found


@dataclass(frozen=True)
class _Mapped:
    """An iterable of batches with other targets."""

    batches: Iterable[Any]
    function: Any

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            yield with_numbers(batch, self.function) if is_arrays(batch) else batch
