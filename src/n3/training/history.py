"""History: what runs of any model record while they train, and the plan that fixes their program."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from n3.information.measures import LayerMonitor, Pool
from n3.information.sizing import InformationDrive
from n3.nn.sized import AbstractSized
from n3.tracing.grow import Grown
from n3.training.batches import Data, Selection, checked, is_arrays
from n3.training.decisions import Decision
from n3.training.output_loss import OutputLoss, check_targets
from n3.training.step import optimiser

LearningRateSchedule = Callable[[Any], Any]
"""From a step's number to its learning rate, such as an Optax schedule."""
EVALUATED = 1024
"""Samples that are evaluated at once."""


@dataclass(frozen=True, kw_only=True)
class History:
    """What a run recorded, every few steps and at its end; many runs are the first axis of each array."""

    step: Int[np.ndarray, " records"]
    train_loss: Float[np.ndarray, "*runs records"]
    """Mean over the steps since the record before, with dropout: nats, squared units, or the given loss's."""
    validation_loss: Float[np.ndarray, "*runs records"] | None
    """Without dropout; None without validation data."""
    validation_accuracy: Float[np.ndarray, "*runs records"] | None
    """Share of samples whose class is predicted; None without classes or validation data."""
    sizes: Float[np.ndarray, "*runs records groups"]
    """Effective units of each group; no column for a model that is not grown."""
    monitor: Mapping[str, Float[np.ndarray, "*runs records groups"]]
    """What each group says, in nats, by the name of the measure."""
    parameters: Float[np.ndarray, "*runs"]
    """Active parameters at the end: those of the compact model."""
    layers: tuple[str, ...]
    """Path of the first layer of each group."""
    diverged_at: int | Int[np.ndarray, " runs"] | None
    """Step whose loss was NaN or infinite; the last such run ends there. None, or -1 of many runs: none."""
    decisions: tuple[Decision, ...] = ()
    """What was done to the structure of each run at each look, run after run."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What of a run fixes the program; hashable, static under `jit`."""

    goal: OutputLoss
    learning_rate: float | LearningRateSchedule
    drive: InformationDrive | None
    monitor: LayerMonitor | None
    annealing: tuple[float, float, float] | None
    target_size: float
    size_cost: float
    steps: int
    block: int | None
    """Runs computed at once; None: a single run, without an axis of runs."""

    @property
    def rule(self) -> optax.GradientTransformation:
        """The optimiser."""
        return optimiser("adam", self.learning_rate)

    def over_runs(self, function: Callable[..., Any], *arguments: PyTree, axes: tuple[int | None, ...]) -> Any:
        """What a function of one run's arguments returns, of one run or of each of many.

        Only arrays of what it returns may differ. `axes` has for each argument 0 where its arrays have a first
        axis of runs, else None.
        """
        if self.block is None:
            return function(*arguments)
        own = [one if axis == 0 else None for one, axis in zip(arguments, axes, strict=True)]
        arrays, rest = eqx.partition(own, eqx.is_array)

        def of_run(leaves: list[PyTree]) -> PyTree:
            each = zip(eqx.combine(leaves, rest), arguments, axes, strict=True)
            return function(*(mine if axis == 0 else shared for mine, shared, axis in each))

        shapes = eqx.filter_eval_shape(of_run, jax.tree.map(lambda leaf: leaf[0], arrays))
        arrays_of = lambda leaves: eqx.filter(of_run(leaves), eqx.is_array)  # noqa: E731
        return eqx.combine(jax.lax.map(arrays_of, arrays, batch_size=self.block), shapes)


class Recorder:
    """Gathers what a `History` holds while runs go on."""

    def __init__(self, plan: Plan, validation_data: Data | None, pool: Selection, *, every: int, runs: int):
        self.plan, self.validation_data, self.pool = plan, validation_data, pool
        self.every, self.runs, self._axis = every, runs, (runs,) if runs else ()
        self.diverged_at = np.full(max(runs, 1), -1)
        self.steps: list[int] = []
        self.rows: list[dict[str, np.ndarray]] = []
        self.parameters = np.zeros(0)
        self._losses: list[np.ndarray] = []

    @property
    def is_over(self) -> bool:
        """Whether every run has diverged."""
        return bool(np.all(self.diverged_at >= 0))

    def add(self, done: int, losses: Float[np.ndarray, "*runs steps"]) -> None:
        """Take in the losses of the steps after `done`."""
        losses = np.atleast_2d(losses)
        self._losses.append(losses)
        for run in np.flatnonzero((self.diverged_at < 0) & ~np.isfinite(losses).all(axis=1)):
            place = int(np.flatnonzero(~np.isfinite(losses[run]))[0])
            self.diverged_at[run] = done + place
            which = f" of run {run}" if self.runs else ""
            text = f"the loss{which} was {losses[run, place]} at step {done + place}; lower `learning_rate`."
            warnings.warn(f"`fit` stopped: {text}", RuntimeWarning, stacklevel=3)

    def record(self, done: int, model: PyTree, *, is_last: bool) -> None:
        """Evaluate the model if a record is due, at the end of a run, or where all have diverged."""
        last = self.steps[-1] if self.steps else 0
        if done - last < self.every and not is_last and not self.is_over:
            return
        losses = np.mean(np.concatenate(self._losses, axis=1), axis=1)
        own = {"train_loss": losses if self.runs else losses[0]}
        if self.validation_data is not None:
            scores = evaluate(self.plan, model, self.validation_data)
            own["validation_loss"], own["validation_accuracy"] = scores
        own["sizes"] = np.zeros((*self._axis, 0), np.float32)
        if isinstance(model, AbstractSized):
            own |= jax.device_get(_measured(self.plan, model, self.pool))
        if is_last or self.is_over:
            self.parameters = np.asarray(_parameters(self.plan, model))
        self.steps.append(done)
        self.rows.append(own)
        self._losses = []

    def history(self, layers: tuple[str, ...], decisions: tuple[Decision, ...]) -> History:
        """All records, of groups that begin with these layers, and what became of their structure."""
        place = len(self._axis)
        found = {name: np.stack([row[name] for row in self.rows], axis=place) for name in self.rows[0]}
        has_classes = self.plan.goal.loss == "cross-entropy"
        diverged = None if self.diverged_at[0] < 0 else int(self.diverged_at[0])
        return History(
            step=np.array(self.steps),
            train_loss=found["train_loss"],
            validation_loss=found.get("validation_loss"),
            validation_accuracy=found.get("validation_accuracy") if has_classes else None,
            sizes=found["sizes"],
            monitor={name: found[name] for name in (self.plan.monitor.names if self.plan.monitor else ())},
            parameters=self.parameters,
            layers=layers,
            diverged_at=self.diverged_at if self.runs else diverged,
            decisions=decisions,
        )


def evaluate(plan: Plan, model: PyTree, data: Data) -> Float[np.ndarray, "two *runs"]:
    """Mean loss of a model over data, and the share of classes that it predicts (NaN without classes).

    Raises:
        ValueError: If the data do not fit the model.
    """
    pairs, totals, samples = [data] if is_arrays(data) else data, 0.0, 0
    for pair in pairs:
        inputs, targets = checked(pair, name="validation_data")
        check_targets(plan.goal, targets, name="validation_data")
        for start in range(0, len(inputs), EVALUATED):
            own = (jnp.asarray(side[start : start + EVALUATED]) for side in (inputs, targets))
            totals = totals + np.asarray(_scored(plan, model, *own), float)
        samples += len(inputs)
    if not samples:
        raise ValueError("`validation_data` must hold samples; got none.")
    return np.moveaxis(np.asarray(totals / samples), -1, 0)


@eqx.filter_jit
def _scored(plan: Plan, model: PyTree, inputs: Array, targets: Array) -> Float[Array, "*runs two"]:
    def of_run(own: PyTree) -> Array:
        own = own.masked() if isinstance(own, Grown) else own
        return jnp.stack(plan.goal.scores(own, inputs, targets))

    return plan.over_runs(of_run, model, axes=(0,))


@eqx.filter_jit
def _measured(plan: Plan, model: AbstractSized, pool: Selection) -> dict[str, Float[Array, "*runs groups"]]:
    def of_run(own: AbstractSized, rows: Int[Array, " samples"]) -> dict[str, Array]:
        found = plan.monitor(own, pool_seen(pool, plan.goal, rows)) if plan.monitor else {}
        return {"sizes": own.sizes() * own.gates()} | found

    return plan.over_runs(of_run, model, pool.rows, axes=(0, pool.axis))


@eqx.filter_jit
def _parameters(plan: Plan, model: PyTree) -> Float[Array, "*runs"]:
    def of_run(own: PyTree) -> Array:
        if isinstance(own, AbstractSized):
            return own.parameter_count(own.sizes())
        leaves = jax.tree.leaves(eqx.filter(own, eqx.is_inexact_array))
        return jnp.asarray(float(sum(leaf.size for leaf in leaves)))

    return plan.over_runs(of_run, model, axes=(0,))


def pool_seen(pool: Selection, goal: OutputLoss, rows: Int[Array, " samples"]) -> Pool:
    """The samples of one run, by its rows, as measures take them."""
    return Pool(pool.inputs[rows], goal.columns(pool.targets[rows]))
