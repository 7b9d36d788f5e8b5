"""Fit: training of a grown model, or any Equinox model, on arrays or on batches from anywhere."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from n3.config.experiment import InformationConfig
from n3.information.price import prices_of
from n3.information.sizing import DriveHypers, DriveState, InformationDrive, Pool
from n3.nn import metrics
from n3.nn.controllers import Information
from n3.nn.losses import LOSSES
from n3.tracing.grow import Grown
from n3.tracing.trace import takes_key
from n3.training.batches import Chunk, Data, checked, is_arrays, source_of
from n3.training.progress import Progress
from n3.training.step import optimiser

LossOfOne = Callable[[Any, Any], Float[Array, ""]]
"""From one sample's output and target to its loss."""


@dataclass(frozen=True, kw_only=True)
class OutputLoss:
    """How a model is called and scored; hashable, static under `jit`."""

    loss: str | LossOfOne
    """Name in `n3.nn.losses.LOSSES`, or a function of one sample's output and target."""
    outputs: int
    """Rows of the targets: outputs of a sample, or classes."""
    is_classes: bool
    has_key: bool
    """Whether the model is called with `key=`."""

    def columns(self, targets: Array) -> Float[Array, "outputs samples"]:
        """Targets as the losses take them, a sample a column: numbers, one-hot classes, or a row of 0 and 1."""
        if not self.is_classes or self.outputs == 1 or targets.ndim > 1:
            return targets.reshape(len(targets), -1).T.astype(jnp.float32)
        return jax.nn.one_hot(targets.astype(jnp.int32), self.outputs, axis=0)

    def outputs_of(self, model: PyTree, inputs: Array, key: PRNGKeyArray) -> PyTree:
        """Outputs of every sample, samples first; each with a key of its own where the model takes one."""
        if not self.has_key:
            return jax.vmap(model)(inputs)
        keys = jax.random.split(key, len(inputs))
        return jax.vmap(lambda one, own: model(one, key=own))(inputs, keys)

    def losses_of(self, outputs: PyTree, targets: Array) -> Float[Array, " samples"]:
        """Loss of every sample."""
        if callable(self.loss):
            return jax.vmap(self.loss)(outputs, targets)
        rows = outputs.reshape(len(outputs), -1).T
        return LOSSES[self.loss](rows, self.columns(targets).astype(rows.dtype))

    @eqx.filter_jit
    def scores(self, model: PyTree, inputs: Array, targets: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sums over samples of the loss and of the classes that are predicted, without dropout.

        The second is NaN where outputs are not logits of classes.
        """
        outputs = self.outputs_of(eqx.nn.inference_mode(model), inputs, jax.random.key(0))
        total = jnp.sum(self.losses_of(outputs, targets))
        if self.loss != "cross-entropy":
            return total, jnp.full((), jnp.nan)
        rows = outputs.reshape(len(outputs), -1).T
        return total, jnp.sum(metrics.hits(rows, self.columns(targets).astype(rows.dtype)))


def output_loss_of(
    model: Callable[..., Any], inputs: Array, targets: Array, loss: str | LossOfOne | None
) -> OutputLoss:
    """The goal that some samples suggest: classes where targets are whole numbers.

    Args:
        model: The model that the user wrote, which is asked whether it takes a key.
        inputs: Inputs of some samples.
        targets: Their targets.
        loss: A name in `n3.nn.LOSSES`, a function of one sample's output and target, or None: by targets.

    Raises:
        ValueError: If the loss is unknown, or the targets do not fit it and the model's outputs.
    """
    is_whole = not jnp.issubdtype(targets.dtype, jnp.inexact)
    loss = ("cross-entropy" if is_whole else "squared-error") if loss is None else loss
    if isinstance(loss, str) and loss not in LOSSES:
        raise ValueError(f"`loss` must be a function or one of {', '.join(LOSSES)}; got {loss!r}.")
    has_key = takes_key(model)
    if callable(loss):
        rows = int(jnp.max(targets)) + 1 if is_whole else targets[0].size
        return OutputLoss(loss=loss, outputs=rows, is_classes=is_whole, has_key=has_key)
    keys = {"key": jax.random.key(0)} if has_key else {}
    output = eqx.filter_eval_shape(eqx.nn.inference_mode(model), inputs[0], **keys)
    if not isinstance(output, jax.ShapeDtypeStruct):
        raise ValueError(f"`loss` must be a function where the model returns {type(output).__name__}s.")
    goal = OutputLoss(loss=loss, outputs=output.size, is_classes=loss == "cross-entropy", has_key=has_key)
    check_targets(goal, targets, name="train_data")
    return goal


def check_targets(goal: OutputLoss, targets: Array | np.ndarray, *, name: str) -> None:
    """See that targets fit the goal.

    Raises:
        ValueError: If there are labels out of range, or more or fewer numbers than outputs, naming `name`.
    """
    if callable(goal.loss):
        return
    if goal.is_classes and targets.ndim == 1:
        classes, least, most = max(goal.outputs, 2), int(targets.min()), int(targets.max())
        if least < 0 or most >= classes:
            raise ValueError(f"`{name}` must have labels in [0, {classes - 1}]; got {least} to {most}.")
    elif targets[0].size != goal.outputs:
        got = targets[0].size
        raise ValueError(f"`{name}` must have {goal.outputs} targets a sample, one for each output; got {got}.")


_Model = TypeVar("_Model", bound=eqx.Module)
LearningRateSchedule = Callable[[Any], Any]
"""From a step's number to its learning rate, such as an Optax schedule."""
RECORDS = 50
"""Records of a run, about."""
CHUNK = 25
"""Steps compiled as one, of models that information does not grow."""
EVALUATED = 1024
"""Samples that are evaluated at once."""
POOL = 2048
"""Training samples at which the units are measured, at most."""


@dataclass(frozen=True, kw_only=True)
class History:
    """What a run recorded, every few steps and at its end."""

    step: Int[np.ndarray, " records"]
    train_loss: Float[np.ndarray, " records"]
    """Mean over the steps since the record before, with dropout: nats, squared units, or the given loss's."""
    validation_loss: Float[np.ndarray, " records"] | None
    """Without dropout; None without validation data."""
    validation_accuracy: Float[np.ndarray, " records"] | None
    """Share of samples whose class is predicted; None without classes or validation data."""
    sizes: Float[np.ndarray, "records groups"]
    """Effective units of each group; no column for a model that is not grown."""
    layers: tuple[str, ...]
    """Path of the first layer of each group."""
    diverged_at: int | None
    """Step whose loss was NaN or infinite; the run ended there. None: it did not diverge."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What of a run fixes the program; hashable, static under `jit`."""

    goal: OutputLoss
    learning_rate: float | LearningRateSchedule
    drive: InformationDrive | None
    target_size: float
    size_cost: float


class FitState(eqx.Module):
    """What changes while a model trains."""

    model: PyTree
    moments: PyTree
    drive: DriveState | None
    count: Int[Array, ""]


def fit(
    model: _Model,
    train_data: Data,
    validation_data: Data | None = None,
    *,
    steps: int,
    key: PRNGKeyArray,
    loss: str | LossOfOne | None = None,
    learning_rate: float | LearningRateSchedule = 1e-3,
    batch: int = 64,
    information: InformationConfig | None = None,
    target_size: float | None = None,
    size_cost: float = 0.1,
    quiet: bool = False,
) -> tuple[_Model, History]:
    """Train a model by Adam; a grown one finds its sizes while it trains.

    Args:
        model: Called on one sample, `model(x)` or `model(x, key=key)`; grown by `n3.grow` or not.
        train_data: Arrays `(inputs, targets)`, samples first, or an iterable of such pairs that can be gone
            through again and again (a `DataLoader`). Targets that are whole numbers are classes.
        validation_data: The same, for evaluation alone.
        steps: Steps of the optimiser.
        key: For the order of the samples and for dropout.
        loss: `cross-entropy`, `squared-error`, or a function of one sample's output and target; None: by the
            targets.
        learning_rate: Per step, or an Optax schedule. Information moves sizes at a rate of its own.
        batch: Samples in a step, for arrays.
        information: How information moves the sizes of method `information`; None: as it does by default.
        target_size: Units at which the other methods' penalty vanishes; None: the capacity of the first group.
        size_cost: Weight of that penalty, loss units per squared unit of the controller's weight.
        quiet: Whether to show no progress.

    Returns:
        The trained model, and what was recorded. A run that diverges ends there, with a warning.

    Raises:
        ValueError: If data or settings are out of range or do not fit the model.
    """
    for name, value in {"steps": steps, "batch": batch}.items():
        if value < 1:
            raise ValueError(f"`{name}` must be positive; got {value}.")
    is_informed = isinstance(model, Grown) and isinstance(model.controller, Information)
    _check_settings(model, validation_data, information, target_size, is_informed=is_informed)
    order_key, dropout_key = jr.split(key)
    source = source_of(train_data, batch=batch, steps=steps, key=order_key)
    inputs, targets = source.pool(POOL if is_informed else 1)
    goal = output_loss_of(model.model if isinstance(model, Grown) else model, inputs, targets, loss)
    source.require(partial(check_targets, goal, name="train_data"))
    drive, pool, hypers = None, None, None
    if is_informed:
        settings = information or InformationConfig()
        drive = InformationDrive.of(settings, steps=steps, is_classes=goal.is_classes, custom=None)
        pool, outputs = Pool(inputs, goal.columns(targets)), max(goal.outputs - goal.is_classes, 1)
        prices = prices_of(settings, inputs, samples=source.samples, outputs=outputs)
        hypers = jax.tree.map(lambda leaf: leaf[0], DriveHypers.of(settings, [prices], prior=0.0))
    plan = Plan(
        goal=goal,
        learning_rate=learning_rate,
        drive=drive,
        target_size=_target_size(model, target_size),
        size_cost=size_cost,
    )
    moments = optimiser("adam", learning_rate).init(eqx.filter(model, eqx.is_inexact_array))
    state = FitState(model, moments, drive and drive.start(model), jnp.asarray(0))
    recorder = Recorder(goal, validation_data, every=-(-steps // RECORDS))
    with Progress("fit", steps, 1, quiet) as report:
        done = 0
        while done < steps and recorder.diverged_at is None:
            if drive and drive.is_due(done):
                state = _after_look(plan, state, pool, hypers)
            length = min(drive.every if drive else CHUNK, steps - done)
            for chunk in source.chunks(length):
                state, losses = _advance(plan, state, chunk, hypers, dropout_key)
                recorder.add(done, np.asarray(losses))
                done += len(losses)
            recorder.record(done, state.model, is_last=done == steps)
            report(done)
    return state.model, recorder.history(model.layers if isinstance(model, Grown) else ())


def _check_settings(model, validation_data, information, target_size, *, is_informed: bool) -> None:
    """Refuse what cannot be read again, and settings that would do nothing."""
    if isinstance(validation_data, Iterator):
        raise ValueError("`validation_data` is an iterator and can be read only once; pass a DataLoader.")
    if information is not None and not is_informed:
        raise ValueError("`information` goes with models grown by method information alone: leave it out.")
    if information is not None and information.path:
        raise ValueError(f"`price` must be one price in `fit`; got {information.price!r}.")
    if target_size is not None and (is_informed or not isinstance(model, Grown)):
        raise ValueError("`target_size` goes with models grown by another method: leave it out.")


class Recorder:
    """Gathers what a `History` holds while a run goes on."""

    def __init__(self, goal: OutputLoss, validation_data: Data | None, *, every: int):
        self.goal, self.validation_data, self.every = goal, validation_data, every
        self.diverged_at: int | None = None
        self.rows: list[tuple[int, float, float, float, np.ndarray]] = []
        self._losses: list[np.ndarray] = []

    def add(self, done: int, losses: Float[np.ndarray, " steps"]) -> None:
        """Take in the losses of the steps after `done`."""
        self._losses.append(losses)
        broken = np.flatnonzero(~np.isfinite(losses))
        if broken.size and self.diverged_at is None:
            self.diverged_at = done + int(broken[0])
            text = f"the loss was {losses[broken[0]]} at step {self.diverged_at}; lower `learning_rate`."
            warnings.warn(f"`fit` stopped: {text}", RuntimeWarning, stacklevel=3)

    def record(self, done: int, model: PyTree, *, is_last: bool) -> None:
        """Evaluate the model if a record is due, at the end of a run, or where it diverged."""
        last = self.rows[-1][0] if self.rows else 0
        if done - last < self.every and not is_last and self.diverged_at is None:
            return
        data, mean = self.validation_data, float(np.mean(np.concatenate(self._losses)))
        scores = (np.nan, np.nan) if data is None else evaluate(self.goal, model, data)
        sizes = np.asarray(model.sizes()) if isinstance(model, Grown) else np.zeros(0, np.float32)
        self.rows.append((done, mean, *scores, sizes))
        self._losses = []

    def history(self, layers: tuple[str, ...]) -> History:
        """All records, of groups that begin with these layers."""
        step, train, loss, accuracy, sizes = (np.array(column) for column in zip(*self.rows, strict=True))
        has_classes = self.validation_data is not None and self.goal.loss == "cross-entropy"
        return History(
            step=step,
            train_loss=train,
            validation_loss=None if self.validation_data is None else loss,
            validation_accuracy=accuracy if has_classes else None,
            sizes=sizes,
            layers=layers,
            diverged_at=self.diverged_at,
        )


def evaluate(goal: OutputLoss, model: PyTree, data: Data) -> tuple[float, float]:
    """Mean loss of a model over data, and the share of classes that it predicts (NaN without classes).

    Raises:
        ValueError: If the data do not fit the model.
    """
    pairs = [data] if is_arrays(data) else data
    model = model.masked() if isinstance(model, Grown) else model
    totals, samples = np.zeros(2), 0
    for pair in pairs:
        inputs, targets = checked(pair, name="validation_data")
        check_targets(goal, targets, name="validation_data")
        for start in range(0, len(inputs), EVALUATED):
            own = (jnp.asarray(side[start : start + EVALUATED]) for side in (inputs, targets))
            totals += np.array([float(each) for each in goal.scores(model, *own)])
        samples += len(inputs)
    if not samples:
        raise ValueError("`validation_data` must hold samples; got none.")
    return float(totals[0] / samples), float(totals[1] / samples)


@eqx.filter_jit
def _advance(
    plan: Plan, state: FitState, chunk: Chunk, hypers: DriveHypers | None, key: PRNGKeyArray
) -> tuple[FitState, Array]:
    """Some steps, and the loss of each."""
    carry, rest = eqx.partition(state, eqx.is_array)

    def step(carry: PyTree, rows: Array) -> tuple[PyTree, Array]:
        own = eqx.combine(carry, rest)
        own, loss = _step(plan, own, chunk.inputs[rows], chunk.targets[rows], hypers, key)
        return eqx.filter(own, eqx.is_array), loss

    carry, losses = jax.lax.scan(step, carry, chunk.rows)
    return eqx.combine(carry, rest), losses


def _step(plan, state, inputs, targets, hypers, key):
    dropout_key = jr.fold_in(key, state.count)

    @partial(eqx.filter_value_and_grad, has_aux=True)
    def objective(model: PyTree) -> tuple[Array, Array]:
        called = model.masked() if isinstance(model, Grown) else model
        loss = jnp.mean(plan.goal.losses_of(plan.goal.outputs_of(called, inputs, dropout_key), targets))
        if not isinstance(model, Grown):
            return loss, loss
        penalty = model.controller.penalty(jnp.asarray(plan.target_size, jnp.float32))
        return loss + plan.size_cost * penalty, loss

    (_, loss), gradient = objective(state.model)
    gradient = plan.drive.added(gradient, state.model, state.drive) if plan.drive else gradient
    with jax.numpy_dtype_promotion("standard"):
        rule = optimiser("adam", plan.learning_rate)
        updates, moments = rule.update(gradient, state.moments, state.model)
    updates = plan.drive.paced(updates, gradient, hypers) if plan.drive else updates
    model = eqx.apply_updates(state.model, updates)
    model = plan.drive.settled(model, state.drive, state.count) if plan.drive else model
    return FitState(model, moments, state.drive, state.count + 1), loss


@eqx.filter_jit
def _after_look(plan: Plan, state: FitState, pool: Pool, hypers: DriveHypers) -> FitState:
    model, moments, drive = plan.drive.look(state.model, state.moments, state.drive, hypers, pool, state.count)
    return FitState(model, moments, drive, state.count)


def _target_size(model: PyTree, target_size: float | None) -> float:
    """The target of the penalty, in units."""
    if not isinstance(model, Grown):
        return 0.0
    first = float(model.structure.capacity[0])
    if target_size is not None and not 0.0 < target_size <= first:
        raise ValueError(
            f"`target_size` must be in (0, {first:g}], the first group's capacity; got {target_size}."
        )
    return first if target_size is None else target_size
