"""History: what runs of any model record while they train, how far they are, and what fixes their program."""

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree
from tqdm import tqdm

from n3.information.measures import HeldOut, LayerMonitor, Pool
from n3.information.sizing import InformationDrive, are_whole, with_whole_sizes
from n3.nn.losses import constant_losses
from n3.nn.members import MEMBERS, mean_outputs
from n3.nn.sized import AbstractSized, Inputs, choose_runs
from n3.tracing.grow import Grown
from n3.training.batches import Data, HeldRows, Selection, checked, is_arrays
from n3.training.decisions import Decision
from n3.training.output_loss import OutputLoss, check_targets
from n3.training.step import optimiser

LearningRateSchedule = Callable[[Any], Any]
"""From a step's number to its learning rate, such as an Optax schedule."""
EVALUATED = 1024
"""Samples that are evaluated at once."""


class SizingWarning(RuntimeWarning):
    """What speaks against the network that a fit has found, or its sizes, and what to do."""


@dataclass(frozen=True, kw_only=True)
class History:
    """What a run recorded, every few steps and at its end; many runs are the first axis of each array."""

    step: Int[np.ndarray, " records"]
    train_loss: Float[np.ndarray, "*runs records"]
    """Mean over the steps since the record before, with dropout: nats, squared units, or the given loss's; the
    mean over members."""
    validation_loss: Float[np.ndarray, "*runs records"] | None
    """Without dropout, of the mean of members; None without validation data."""
    validation_accuracy: Float[np.ndarray, "*runs records"] | None
    """Share of samples whose class is predicted; None without classes or validation data."""
    sizes: Float[np.ndarray, "*runs records groups"]
    """Effective units of each group; no column for a model that is not grown."""
    monitor: Mapping[str, Float[np.ndarray, "*runs records groups"]]
    """What each group says, in nats, by the name of the measure."""
    parameters: Float[np.ndarray, "*runs"]
    """Active parameters at the end: those of the compact model, of all members."""
    layers: tuple[str, ...]
    """Path of the first layer of each group."""
    diverged_at: int | Int[np.ndarray, " runs"] | None
    """Step whose loss was NaN or infinite; the last such run ends there. None, or -1 of many runs: none."""
    decisions: tuple[Decision, ...] = ()
    """What was done to the structure of each run at each look, run after run."""
    held_out_loss: Float[np.ndarray, "*runs records"] | None = None
    """Mean loss without dropout of the samples that members hold out, each by the one that has not trained on
    it: nats, squared units, or the given loss's. None without members."""
    held_out_error: Float[np.ndarray, "*runs"] | None = None
    """Standard error of that mean at the end, over samples, in the same unit; None without members."""
    labels: tuple[str, ...] = ()
    """Of targets that were texts each class, by its number; empty where they were numbers."""
    warnings: tuple[str, ...] = ()
    """What speaks against the networks as they ended: the texts of the warnings of kind `SizingWarning`."""


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
    members: int = 0
    """Networks of a run that share its sizes, along an axis after that of the runs; 0: one, without an axis."""

    @property
    def rule(self) -> optax.GradientTransformation:
        """The optimiser."""
        return optimiser("adam", self.learning_rate)

    def over_runs(self, function: Callable[..., Any], *arguments: PyTree, axes: tuple[int | None, ...]) -> Any:
        """What a function of one network's arguments returns, of one run or of many, and of all members.

        Only arrays of what it returns may differ. `axes` has for each argument 0 where its arrays have a first
        axis of runs and then one of members, as far as there are any, else None.
        """
        if self.members:
            mapped = tuple(None if axis is None else eqx.if_array(0) for axis in axes)
            function = eqx.filter_vmap(function, in_axes=mapped, axis_name=MEMBERS)
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

    def over_members(self, values: PyTree, reduce: Callable[[np.ndarray, int], np.ndarray] = np.mean) -> PyTree:
        """Arrays of all members of each run, reduced over them on the host; as they are without members."""
        if not self.members:
            return values
        axis = 0 if self.block is None else 1
        return jax.tree.map(lambda leaf: reduce(np.asarray(leaf), axis), values)


class Recorder:
    """Gathers what a `History` holds while runs go on."""

    def __init__(
        self,
        plan: Plan,
        validation_data: Data | None,
        pool: Selection,
        *,
        every: int,
        runs: int,
        held: Selection | None = None,
    ):
        self.plan, self.validation_data, self.pool, self.held = plan, validation_data, pool, held
        self.every, self.runs, self._axis = every, runs, (runs,) if runs else ()
        self.diverged_at = np.full(max(runs, 1), -1)
        self.steps: list[int] = []
        self.rows: list[dict[str, np.ndarray]] = []
        self.parameters = np.zeros(0)
        self.held_out: HeldOutLosses | None = None
        self._losses: list[np.ndarray] = []
        self._kept: tuple[PyTree, np.ndarray] | None = None

    @property
    def is_over(self) -> bool:
        """Whether every run has diverged."""
        return bool(np.all(self.diverged_at >= 0))

    def add(self, done: int, losses: Float[np.ndarray, "*runs steps"]) -> None:
        """Take in the losses of the steps after `done`, of members their mean."""
        losses = np.atleast_2d(self.plan.over_members(losses))
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
            scores = evaluate(self.plan, model, self.validation_data, like=(self.pool.inputs,))
            own["validation_loss"], own["validation_accuracy"] = scores
        if self.held is not None:
            self.held_out = held_out_losses_of(self.plan, model, self.held)
            own["held_out_loss"] = self.held_out.mean()
        own["sizes"] = np.zeros((*self._axis, 0), np.float32)
        if isinstance(model, AbstractSized):
            sizes, monitored = _measured(self.plan, model, self.pool)
            own["sizes"] = self.plan.over_members(np.asarray(sizes), np.min)  # they share them
            own |= self.plan.over_members(jax.device_get(monitored))
        if self.held is not None:
            self._keep(model, own["held_out_loss"], own["sizes"])
        if is_last or self.is_over:
            parameters = np.asarray(_parameters(self.plan, model))
            self.parameters = np.asarray(self.plan.over_members(parameters, np.sum))
        self.steps.append(done)
        self.rows.append(own)
        self._losses = []

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was gathered but the models that are kept, by name: what `restore` takes."""
        found = {"steps": np.array(self.steps), "diverged_at": self.diverged_at, "parameters": self.parameters}
        if self._losses:
            found["losses"] = np.concatenate(self._losses, axis=1)
        if self._kept is not None:
            found["kept_losses"] = np.asarray(self._kept[1])
        if self.held_out is not None:
            found |= {"held_out_losses": self.held_out.losses, "held_out_weights": self.held_out.weights}
        names = self.rows[0] if self.rows else ()
        return found | {f"row {name}": np.stack([row[name] for row in self.rows]) for name in names}

    @property
    def kept(self) -> PyTree:
        """The models that are kept; None where none is."""
        return None if self._kept is None else self._kept[0]

    def restore(self, arrays: Mapping[str, np.ndarray], kept: PyTree) -> None:
        """Have gathered what `arrays` and `kept` of another recorder were."""
        self.steps = arrays["steps"].tolist()
        self.diverged_at, self.parameters = arrays["diverged_at"].copy(), arrays["parameters"]
        self._losses = [arrays["losses"]] if "losses" in arrays else []
        self._kept = None if kept is None else (kept, arrays["kept_losses"])
        if "held_out_losses" in arrays:
            self.held_out = HeldOutLosses(arrays["held_out_losses"], arrays["held_out_weights"])
        rows = {name.removeprefix("row "): own for name, own in arrays.items() if name.startswith("row ")}
        self.rows = [{name: own[place] for name, own in rows.items()} for place in range(len(self.steps))]

    def _keep(self, model: PyTree, losses: np.ndarray, sizes: Float[np.ndarray, "*runs groups"]) -> None:
        """Keep the members of each run that, at whole sizes, lose less than when they were kept last."""
        old, least = self._kept or (model, np.full(losses.shape, np.inf))
        if not np.all(are_whole(sizes)):
            model = with_whole_sizes(model)
            losses = held_out_losses_of(self.plan, model, self.held).mean()
        is_better = losses < least
        self._kept = choose_runs(is_better, with_whole_sizes(model), old), np.where(is_better, losses, least)

    def best(self, model: PyTree) -> PyTree:
        """The model at its end, or of each run as its members were kept if they lost less; at whole sizes."""
        if self.held is None or self._kept is None:
            return model
        return best_of_kept(*self._kept, model, held_out_losses_of(self.plan, model, self.held).mean())

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
            held_out_loss=found.get("held_out_loss"),
            held_out_error=None if self.held_out is None else self.held_out.error(),
        )


@dataclass(frozen=True)
class HeldOutLosses:
    """Losses of the samples that members hold out, of each member along the last axis."""

    losses: Float[np.ndarray, "*runs samples"]
    weights: Float[np.ndarray, "*runs samples"]
    """1 where all count alike, or 0 for what only fills up a fold."""

    def pooled(self) -> "HeldOutLosses":
        """Those of all members of a run side by side."""
        return HeldOutLosses(*(own.reshape(*own.shape[:-2], -1) for own in (self.losses, self.weights)))

    def mean(self) -> Float[np.ndarray, "*runs"]:
        """Mean over the samples, by their weights."""
        return self._average(self.losses)

    def error(self) -> Float[np.ndarray, "*runs"]:
        """Standard error of the mean, of as many samples as the weights are worth: `(sum w)^2 / sum w^2`."""
        weights = self.weights.astype(np.float64)
        number = np.sum(weights, axis=-1) ** 2 / np.sum(weights**2, axis=-1)
        variance = self._average((self.losses - self.mean()[..., None]) ** 2)
        return np.asarray(np.sqrt(variance / np.maximum(number - 1.0, 1.0)))

    def _average(self, values: Float[np.ndarray, "*runs samples"]) -> Float[np.ndarray, "*runs"]:
        weights = self.weights.astype(np.float64)
        known = np.where(weights > 0, values, 0.0)
        return np.asarray(np.sum(weights * known, axis=-1) / np.sum(weights, axis=-1))

    def gain(self, others: "HeldOutLosses") -> "HeldOutLosses":
        """What the losses are below others of the same samples."""
        return HeldOutLosses(others.losses - self.losses, self.weights)


def best_of_kept(
    kept: PyTree, least: Float[np.ndarray, "*runs"], model: PyTree, last: Float[np.ndarray, "*runs"]
) -> PyTree:
    """Of each run the model as it was kept, if it lost less then than in the end, else as it ended.

    Sizes are whole: a solved read-out would make up for the small share of a unit on its way.
    """
    return with_whole_sizes(choose_runs(least < np.where(np.isfinite(last), last, np.inf), kept, model))


def held_out_losses_of(plan: Plan, model: PyTree, held: Selection) -> HeldOutLosses:
    """What members lose on the samples that they hold out, in float64, computed piece by piece."""
    rows, pieces = held.held, []
    for start in range(0, rows.rows.shape[-1], EVALUATED):
        part = jax.tree.map(lambda leaf, at=start: leaf[..., at : at + EVALUATED], rows)
        pieces.append(np.asarray(_held_out(plan, model, held.inputs, held.targets, part), np.float64))
    losses = np.concatenate(pieces, axis=-1)
    weights = np.broadcast_to(np.asarray(rows.weights, np.float64), losses.shape)
    return HeldOutLosses(losses, weights).pooled()


def constant_losses_of(plan: Plan, model: PyTree, samples: Selection) -> HeldOutLosses:
    """As `held_out_losses_of`, of the best constant for the targets that each member trains on.

    No class has less than half a sample there. A loss of the user's own says nothing of constants.
    """
    losses = np.asarray(_constant(plan, model, samples), np.float64)
    weights = np.broadcast_to(np.asarray(samples.held.weights, np.float64), losses.shape)
    return HeldOutLosses(losses, weights).pooled()


@eqx.filter_jit
def _constant(plan: Plan, model: PyTree, samples: Selection) -> Float[Array, "*runs members held"]:
    def of_one(own: PyTree, rows: Int[Array, " samples"], held: HeldRows) -> Array:
        mine, others = (plan.goal.columns(samples.targets[own]) for own in (rows, held.rows))
        return constant_losses(mine, others, plan.goal.loss, least=0.5 / len(rows))

    axes = (0, samples.axis, axis_of(samples.held))
    return plan.over_runs(of_one, model, samples.rows, samples.held, axes=axes)


def axis_of(rows: HeldRows) -> int | None:
    """First axis of the rows that is not of samples, if any."""
    return 0 if rows.rows.ndim > 1 else None


@eqx.filter_jit
def _held_out(plan: Plan, model: PyTree, inputs: Inputs, targets: Array, held: HeldRows) -> Array:
    def of_one(own: PyTree, held: HeldRows) -> Array:
        own = own.masked() if isinstance(own, Grown) else own
        return plan.goal.losses_of(plan.goal.predicted(own, inputs[held.rows]), targets[held.rows])

    return plan.over_runs(of_one, model, held, axes=(0, axis_of(held)))


def evaluate(
    plan: Plan, model: PyTree, data: Data, *, like: Sequence[Inputs] = ()
) -> Float[np.ndarray, "two *runs"]:
    """Mean loss of a model over data, and the share of classes that it predicts (NaN without classes).

    Raises:
        ValueError: If the data do not fit the model, or samples have other shapes than those `like` them.
    """
    pairs, totals, samples = [data] if is_arrays(data) else data, 0.0, 0
    for pair in pairs:
        inputs, targets = checked(pair, name="validation_data", like=like)
        check_targets(plan.goal, targets, name="validation_data")
        for start in range(0, len(inputs), EVALUATED):
            own = (jax.tree.map(jnp.asarray, side[start : start + EVALUATED]) for side in (inputs, targets))
            totals = totals + plan.over_members(np.asarray(_scored(plan, model, *own), float))
        samples += len(inputs)
    if not samples:
        raise ValueError("`validation_data` must hold samples; got none.")
    return np.moveaxis(np.asarray(totals / samples), -1, 0)


@eqx.filter_jit
def _scored(plan: Plan, model: PyTree, inputs: Inputs, targets: Array) -> Float[Array, "*runs two"]:
    def of_run(own: PyTree) -> Array:
        own = own.masked() if isinstance(own, Grown) else own
        outputs = plan.goal.predicted(own, inputs)
        if plan.members:
            every = jax.lax.all_gather(outputs, MEMBERS)
            rows = jnp.moveaxis(every.reshape(*every.shape[:2], -1), 1, 2)
            outputs = mean_outputs(rows, is_classes=plan.goal.has_logits).T.reshape(outputs.shape)
        return jnp.stack(plan.goal.totals(outputs, targets))

    return plan.over_runs(of_run, model, axes=(0,))


@eqx.filter_jit
def _measured(
    plan: Plan, model: AbstractSized, pool: Selection
) -> tuple[Float[Array, "*runs groups"], dict[str, Float[Array, "*runs groups"]]]:
    def of_run(own: AbstractSized, rows: Int[Array, " samples"]) -> tuple[Array, dict[str, Array]]:
        found = plan.monitor(own, pool_seen(pool, plan.goal, rows)) if plan.monitor else {}
        return own.sizes() * own.gates(), found

    return plan.over_runs(of_run, model, pool.rows, axes=(0, pool.axis))


@eqx.filter_jit
def _parameters(plan: Plan, model: PyTree) -> Float[Array, "*runs"]:
    def of_run(own: PyTree) -> Array:
        if isinstance(own, AbstractSized):
            return own.parameter_count(own.sizes())
        leaves = jax.tree.leaves(eqx.filter(own, eqx.is_inexact_array))
        return jnp.asarray(float(sum(leaf.size for leaf in leaves)))

    return plan.over_runs(of_run, model, axes=(0,))


def pool_seen(
    pool: Selection, goal: OutputLoss, rows: Int[Array, " samples"], held: HeldRows | None = None
) -> Pool:
    """The samples of one network, by their rows, as measures take them, and those that it holds out."""
    own = Pool(pool.inputs[rows], goal.columns(pool.targets[rows]))
    if held is None:
        return own
    out = HeldOut(pool.inputs[held.rows], goal.columns(pool.targets[held.rows]), held.weights)
    return Pool(own.inputs, own.targets, out)


def note(text: str) -> None:
    """A line on standard error; where that is closed or full, the line is lost and nothing else."""
    if sys.stderr is None:
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # the end of the process would fail to flush it


class Progress:
    """A progress bar on a terminal; elsewhere a plain line at every fifth of the way."""

    def __init__(self, arm: str, steps: int, seeds: int, quiet: bool):
        self.steps, self.label, self.told = steps, f"{arm} x {seeds}", 0
        self.is_plain = not quiet and not (sys.stderr and sys.stderr.isatty())
        self.started = time.perf_counter()
        self.bar = tqdm(total=steps, desc=self.label, unit="step", disable=quiet or self.is_plain)

    def __enter__(self) -> Callable[[int], None]:
        return self.report

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.bar.close()

    def report(self, step: int) -> None:
        """Tell that the runs have come to a step; a terminal that is gone ends nothing."""
        with contextlib.suppress(OSError, ValueError):
            self.bar.update(step - self.bar.n)
        if self.is_plain and 5 * step // self.steps > self.told:
            self.told = 5 * step // self.steps
            seconds = time.perf_counter() - self.started
            times = f"{seconds:.0f} s, {seconds * (self.steps - step) / step:.0f} s left"
            note(f"{self.label}: step {step}/{self.steps}, {times}")
