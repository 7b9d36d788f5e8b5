"""Refit: what follows the last step: read-outs, warnings, one network of the sizes found, a second start."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from n3.config.experiment import InformationConfig, StructureConfig, member_faults
from n3.information.measures import Importance
from n3.information.sizing import SETTLED
from n3.nn.controllers import Fixed, Information
from n3.nn.sized import AbstractSized, with_rows
from n3.training.batches import HeldRows, Selection
from n3.training.checkpoint import Checkpoints
from n3.training.history import (
    HeldOutLosses,
    History,
    Plan,
    Recorder,
    SizingWarning,
    constant_losses_of,
    held_out_losses_of,
)
from n3.training.loop import begin, train_model
from n3.training.readouts import ERRORS, Readout, Thrift, readout_of, with_solved_readout

EMPTY = 0.5
"""Units below which a group counts as empty."""
FULL = 0.5
"""Units from its capacity at which a group counts as full."""
WORSE = 2.0
"""Validation loss at the end, over that of the best record, from which a run is said to have overfitted."""
OVERFIT = 2.0
"""Loss on held-out samples, over that on the samples trained on, from which a size is in doubt."""
FINE = 1e-3
"""Share of a constant's loss below which a target counts as one without noise, which more units may tell."""
IN_DOUBT = "they had none, overfitted, or came close to a target without noise"
"""Why runs start a second time."""
BLOCK_BYTES = 512 * 1024
"""Bytes of the activations of a layer, over a batch and the runs that are computed at once, at most."""


def check_members(
    model: PyTree,
    members: int,
    information: InformationConfig,
    readout: str | None,
    refit: bool,
    structure: StructureConfig | None,
    importance: Importance | None,
    monitor: tuple[str, ...],
) -> None:
    """See that settings of members fit each other and the model.

    Raises:
        ValueError: If they do not, naming the setting.
    """
    if isinstance(members, bool) or not isinstance(members, int) or members < 0:
        raise ValueError(f"`members` must be a whole number, zero or more; got {members!r}.")
    if not isinstance(refit, bool):
        raise ValueError(f"`refit` must be True or False; got {refit!r}.")
    if readout not in (None, "trained", "solved"):
        raise ValueError(f"`readout` must be trained, solved or None; got {readout!r}.")
    is_informed = isinstance(model, AbstractSized) and isinstance(model.controller, Information)
    is_judged = is_informed and information.criterion == "held-out"
    for fault in member_faults(members, is_judged=is_judged, readout=readout, refit=refit):
        raise ValueError(fault)
    if structure is not None and members:
        raise ValueError("`structure` does not go with `members`: leave one of them out.")
    if members and is_informed and not is_judged:
        text = "need `information` of criterion held-out, by which they share their sizes; got price"
        raise ValueError(f"`members` {text}.")
    if is_judged and importance is not None and "importance" not in monitor:
        raise ValueError(
            "`importance` goes with criterion price, or with `monitor` of importance: leave it out."
        )
    if is_judged and model.depth_weight is not None:
        raise ValueError("`information` of criterion held-out does not go with depth gates: use price.")


@dataclass(frozen=True)
class Outcome:
    """What the members of runs lost in the end, by which runs start a second time, and which start stays."""

    is_empty: Bool[np.ndarray, " runs"]
    """Whether some group has no unit."""
    held_out: HeldOutLosses
    trained: Float[np.ndarray, " runs"]
    """Mean loss on the samples that members train on."""
    constant: Float[np.ndarray, " runs"]
    """Mean loss of the best constant on the held-out samples; NaN where there is none."""
    thrift: Thrift
    """What fewer units may lose."""

    @property
    def is_in_doubt(self) -> Bool[np.ndarray, " runs"]:
        """Whether more units from the start may do better.

        Some group has none. Or members lose more than the resolution on held-out samples, and over `OVERFIT`
        times what they lose on their own, or less than `FINE` of the constant's loss.
        """
        own = self.held_out.mean()
        is_seen = ~(own <= self.thrift.resolution * self.constant)
        return self.is_empty | is_seen & ((own > OVERFIT * self.trained) | (own < FINE * self.constant))

    def is_beaten_by(self, again: "Outcome", rows: Int[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
        """Whether a second start of some runs, from all units, lost less on the same samples.

        By the standard errors of the mean paired difference that a further unit must bring; by `ERRORS` where
        the first had none.
        """
        own = HeldOutLosses(self.held_out.losses[rows], self.held_out.weights[rows])
        gain, errors = again.held_out.gain(own), np.where(self.is_empty, ERRORS, self.thrift.errors)[rows]
        return np.asarray(gain.mean() > errors * gain.error())


@dataclass(frozen=True)
class Ending:
    """What is done with networks after their last step."""

    plan: Plan
    readout: Readout | None
    """The read-out that is solved; None: all stays as trained."""
    samples: Selection | None
    """All samples, of members; None: there are none."""
    thrift: Thrift | None = None
    """What fewer units may lose, of networks that held-out samples size."""

    @classmethod
    def of(
        cls, plan: Plan, one: PyTree, pool: Selection, source: Any, readout: str | None, thrift: Thrift | None
    ) -> "Ending":
        """The end of a plan: read-outs are solved as asked for, or where that is possible.

        Raises:
            ValueError: If the model's outputs are not linear in its last group where the read-out is to be
                solved, or are no array where members are to be averaged.
        """
        if not plan.members:
            return cls(plan, None, None)
        inputs = pool.of_run(0).inputs
        output = eqx.filter_eval_shape(plan.goal.predicted, one, inputs[:1])
        if not isinstance(output, jax.ShapeDtypeStruct):
            raise ValueError(
                f"`members` average outputs, which must be one array; got {type(output).__name__}."
            )
        found = None if readout == "trained" else readout_of(one, plan.goal, inputs)
        if readout == "solved" and found is None:
            text = "outputs are one linear layer, with a bias, of the last group, and a named loss"
            raise ValueError(f"`readout` solved needs a grown model whose {text}; use trained or None.")
        return cls(plan, found, source.whole(), thrift)

    def finished(self, net: PyTree) -> PyTree:
        """The networks with whole sizes and solved read-outs, or as they are."""
        return net if self.readout is None else self._solved(net, self.thrift)[0]

    def refit_finished(self, net: PyTree, alone: Plan, source: Any) -> Callable[[PyTree], PyTree]:
        """As `finished`, for networks trained alone on all samples, by the strengths that members choose."""
        if self.readout is None:
            return lambda own: own
        readout, strengths, samples = self.readout, np.nan_to_num(self._solved(net)[1]), source.whole()
        return lambda own: with_solved_readout(alone, readout, own, samples, strengths)[0]

    def outcome(
        self, net: PyTree, sizes: Float[np.ndarray, "*runs groups"], held_out: HeldOutLosses
    ) -> Outcome:
        """What members lost in the end, of networks that held-out samples size."""
        rows = self.samples.rows
        seen = replace(self.samples, held=HeldRows(rows, jnp.ones(rows.shape)))
        has_constant = not callable(self.plan.goal.loss)
        constant = constant_losses_of(self.plan, net, self.samples).mean() if has_constant else np.nan
        empty = np.any(np.atleast_2d(sizes) < EMPTY, axis=-1)
        return Outcome(
            is_empty=empty,
            held_out=HeldOutLosses(*map(np.atleast_2d, (held_out.losses, held_out.weights))),
            trained=np.atleast_1d(held_out_losses_of(self.plan, net, seen).mean()),
            constant=np.broadcast_to(constant, empty.shape),
            thrift=self.thrift,
        )

    def warned(self, net: PyTree, history: History, one: PyTree, held_out: HeldOutLosses | None) -> History:
        """The history with what is wrong with the networks as they ended, which warnings tell too.

        They are of runs like `one`.
        """
        found = [*_faults_of_sizes(self.plan, history, one), *_faults_of_validation(history)]
        if held_out is not None and not callable(self.plan.goal.loss):
            found += _faults_of_constants(self.plan, net, self.samples, held_out)
        for text in found:
            warnings.warn(text, SizingWarning, stacklevel=4)
        return replace(history, warnings=tuple(found))

    def _solved(self, net: PyTree, thrift: Thrift | None = None) -> tuple[PyTree, Float[np.ndarray, " runs"]]:
        return with_solved_readout(self.plan, self.readout, net, self.samples, thrift=thrift)


def refitted(
    plan: Plan,
    model: PyTree,
    net: PyTree,
    source: Any,
    keys: Key[Array, "*runs"],
    ending: Ending,
    history: History,
    report: Callable[[int], None],
    checkpoint: Checkpoints | None,
) -> tuple[PyTree, History]:
    """One network of each run, with the sizes of its members, trained from the model's weights on all samples.

    What comes back beside it is the history of the members, with the parameters of this network.
    """
    runs = 0 if plan.block is None else len(np.asarray(history.parameters))
    alone = replace(plan, members=0, drive=None, monitor=None)
    start, sizes = model, None
    if isinstance(model, AbstractSized):
        sizes = plan.over_members(np.asarray(_sizes(plan, net)), np.min)
        start = _with_fixed_sizes(model, jnp.asarray(sizes))
    recorder = Recorder(alone, None, source.pool(1), every=plan.steps, runs=runs)
    finish = ending.refit_finished(net, alone, source)
    onward = {"report": lambda done: report(plan.steps + done), "finish": finish, "checkpoint": checkpoint}
    found = train_model(alone, begin(alone, start, keys), source, None, recorder, **onward)
    if isinstance(model, AbstractSized) and isinstance(model.controller, Information):
        controller = eqx.tree_at(lambda own: own.weight, model.controller, jnp.asarray(sizes))
        found = eqx.tree_at(lambda own: own.controller, found, controller)
    return found, replace(history, parameters=recorder.parameters)


def began_lower(model: AbstractSized) -> Bool[np.ndarray, " runs"]:
    """Of each run whether its model begins with fewer than all units in some group."""
    controller: Any = model.controller
    return np.any(np.atleast_2d(controller.weight) < np.array(controller.capacity), axis=-1)


def with_all_units(model: AbstractSized, rows: Int[np.ndarray, " rows"]) -> AbstractSized:
    """The model of some runs with all its units, or the only one."""
    weight_of = lambda own: own.controller.weight  # noqa: E731
    if weight_of(model).ndim > 1:
        model = jax.tree.map(lambda leaf: leaf[rows] if eqx.is_array(leaf) else leaf, model)
    capacity = jnp.array(model.controller.capacity, jnp.float32)
    return eqx.tree_at(weight_of, model, jnp.broadcast_to(capacity, weight_of(model).shape))


def with_restarts(
    first: tuple[PyTree, History],
    again: tuple[PyTree, History],
    rows: Int[np.ndarray, " rows"],
    *,
    is_kept: Any,
) -> tuple[PyTree, History]:
    """Models and histories of runs, with those of a second start of some of them, where these are kept."""
    text = f"`fit` started {len(rows)} of {np.size(first[1].parameters)} runs a second time, from all units"
    warnings.warn(f"{text}: {IN_DOUBT}; {np.sum(is_kept)} did better.", RuntimeWarning, stacklevel=3)
    if np.ndim(first[1].parameters) == 0:
        return again if is_kept[0] else first

    def merged(old: Any, new: Any) -> Any:
        return with_rows(old, rows[is_kept], new[is_kept]) if np.ndim(old) else old

    alike = "step", "layers", "labels", "decisions", "warnings"
    names = [own.name for own in fields(History) if own.name not in alike]
    both = {name: jax.tree.map(merged, getattr(first[1], name), getattr(again[1], name)) for name in names}
    told = tuple(dict.fromkeys((*first[1].warnings, *again[1].warnings)))
    return jax.tree.map(merged, first[0], again[0]), replace(first[1], **both, warnings=told)


@eqx.filter_jit
def _sizes(plan: Plan, net: AbstractSized) -> Float[Array, "*runs groups"]:
    return plan.over_runs(lambda own: own.sizes(), net, axes=(0,))


def _with_fixed_sizes(model: AbstractSized, sizes: Float[Array, "*runs groups"]) -> AbstractSized:
    fixed = lambda own, sizes: Fixed(sizes, own.capacity, own.mask)  # noqa: E731
    fixed = eqx.filter_vmap(fixed) if sizes.ndim > 1 else fixed
    return eqx.tree_at(lambda own: own.controller, model, fixed(model.controller, sizes))


def _faults_of_sizes(plan: Plan, history: History, one: PyTree) -> Iterator[str]:
    """Groups that ended without a unit, where a model without a path around them is a constant.

    And those whose size had not arrived, or which held-out samples would let grow on, had they more units.
    """
    layers, rows = history.layers, np.atleast_2d(history.sizes[..., -1, :])
    if empty := _named(layers, rows < EMPTY):
        rest = "" if plan.members else ", or lower `price_scale`"
        is_lower = isinstance(one.controller, Information) and bool(began_lower(one).any())
        start = "start from all units (`initial_size=None` in `n3.grow`), " * is_lower
        text = f"{start}train longer{rest}"
        yield f"`fit` ended without a unit in {empty}: {text}."
    if plan.drive is None:
        return
    if not plan.members and (moving := moving_sizes(history.sizes, layers)):
        yield f"`fit` ended while sizes still moved: {moving}; raise `steps`."
    full = _named(layers, rows > np.array(one.controller.capacity) - FULL) if plan.members else ""
    if full:
        text = "more might be better; make it wider, or train longer if it began with all"
        yield f"`fit` ended with all units of {full}: {text}."


def _faults_of_validation(history: History) -> Iterator[str]:
    """Runs whose validation loss ended at over `WORSE` times its best record, and the worst of them."""
    if history.validation_loss is None:
        return
    rows = np.nan_to_num(history.validation_loss.reshape(-1, len(history.step)), nan=np.inf)
    best, last = np.min(rows, axis=1), rows[:, -1]
    is_worse = (best > 0) & (last > WORSE * best) & np.isfinite(last)
    if is_worse.any():
        run = int(np.argmax(np.divide(last, best, out=np.zeros_like(last), where=is_worse)))
        least = f"{best[run]:.3g} at step {history.step[np.argmin(rows[run])]}"
        text = f"{last[run]:.3g} after {least} ({np.sum(is_worse)} of {len(rows)} runs)"
        yield f"`fit` ended above its best validation loss: {text}; lower `steps` or `learning_rate`."


def moving_sizes(sizes: Float[np.ndarray, "*runs records groups"], layers: tuple[str, ...]) -> str:
    """The groups whose size has not arrived at a whole number of units, with its last two records, if any."""
    rows = sizes.reshape(-1, *sizes.shape[-2:])
    found = []
    for name, own in zip(layers, np.moveaxis(rows[:, -2:], -1, 0), strict=True):
        moving = own[np.abs(own[:, -1] - np.round(own[:, -1])) >= SETTLED]
        if len(moving):
            way = " to ".join(f"{size:.1f}" for size in moving[0])
            rest = f", and {len(moving) - 1} more runs" if len(moving) > 1 else ""
            found.append(f"{name} ({way} units{rest})")
    return ", ".join(found)


def _named(layers: tuple[str, ...], is_so: np.ndarray) -> str:
    counts = zip(layers, np.sum(is_so, axis=0), strict=True)
    return ", ".join(f"{name} ({count} of {len(is_so)} runs)" for name, count in counts if count)


def _faults_of_constants(plan: Plan, net: PyTree, samples: Selection, held_out: HeldOutLosses) -> Iterator[str]:
    """How many runs are not better on held-out samples than a constant, by `ERRORS` standard errors.

    Not under a loss of the user's own, which says nothing of constants.
    """
    gain = held_out.gain(constant_losses_of(plan, net, samples))
    is_better = np.atleast_1d(gain.mean() > ERRORS * gain.error())
    if not is_better.all():
        count, total = np.sum(~is_better), is_better.size
        what = "the shares of the classes" if plan.goal.has_logits else "the mean of the targets"
        text = f"`fit` ended no better than {what} on held-out samples ({count} of {total} runs)"
        rest = "train longer, check inputs and targets, or take it that the inputs say nothing of the targets"
        yield f"{text}: {rest}."


def runs_at_once(model: PyTree, batch: int, runs: int) -> int | None:
    """Runs whose activations over a batch stay in a CPU's cache, about; on others all; None without runs.

    A rest of fewer runs would be compiled by itself, so blocks are equal where half as many runs allow that.
    """
    if not runs or jax.default_backend() != "cpu":
        return runs or None
    arrays = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    widest = max((leaf.shape[0] for leaf in arrays if leaf.ndim > 1), default=1)
    most = int(min(runs, max(1, BLOCK_BYTES // (4 * batch * widest))))
    return next((own for own in range(most, most // 2, -1) if runs % own == 0), most)
