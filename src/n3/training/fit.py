"""Fit: training of a sized model, or any Equinox model, on arrays or on batches from anywhere."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Key, PyTree

from n3.config.experiment import InformationConfig, StructureConfig
from n3.config.task import Kind
from n3.config.validation import LARGEST_FLOAT, LEAST_FLOAT, check_whole
from n3.information.gaussian import PSI
from n3.information.measures import Importance, LayerMonitor, check_importance, check_monitor, check_prune
from n3.information.price import prices_of
from n3.information.sizing import DriveHypers, InformationDrive
from n3.nn.controllers import Information
from n3.nn.members import Ensemble
from n3.nn.mlp import has_choice
from n3.nn.sized import AbstractSized, first_run, run_of
from n3.tracing.grow import Grown
from n3.training.batches import Data, Selection, is_arrays, source_of
from n3.training.checkpoint import EVERY, checkpoints_in, digest
from n3.training.history import History, LearningRateSchedule, Plan, Progress, Recorder, note, pool_seen
from n3.training.loop import begin, train_model
from n3.training.output_loss import KIND_LOSSES, LossOfOne, OutputLoss, check_targets, output_loss_of
from n3.training.readouts import Thrift
from n3.training.refit import (
    Ending,
    Outcome,
    began_lower,
    check_members,
    refitted,
    runs_at_once,
    with_all_units,
    with_restarts,
)
from n3.training.restructure import Rules, Stages
from n3.training.target_units import TargetUnits, labels_of, with_codes, with_numbers

_Model = TypeVar("_Model", bound=eqx.Module)
RECORDS = 50
"""Records of a run, about."""
USUAL_MEMBERS = 5
"""Networks of a run that judge its sizes by held-out samples."""
POOL = 2048
"""Training samples at which the units are measured, at most."""


def fit(
    model: _Model,
    train_data: Data,
    validation_data: Data | None = None,
    *,
    steps: int,
    key: Key[Array, "*runs"],
    loss: str | LossOfOne | None = None,
    kind: Kind | None = None,
    learning_rate: float | LearningRateSchedule = 1e-3,
    batch: int = 64,
    information: InformationConfig | None = None,
    importance: Importance | None = None,
    target_size: float | None = None,
    size_cost: float = 0.1,
    monitor: str | Sequence[str] = (),
    annealing: tuple[float, float, float] = (1.0, 0.05, 0.6),
    structure: StructureConfig | None = None,
    members: int | None = None,
    readout: Literal["trained", "solved"] | None = None,
    refit: bool = False,
    quiet: bool = False,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = EVERY,
) -> tuple[_Model | Ensemble[_Model], History]:
    """Train a model by Adam; a sized one finds its sizes while it trains.

    Many runs train in one program where `key` has an axis: every array of the model then has the same first
    axis, as `eqx.filter_vmap` of a function that makes one gives it and `n3.grow` takes it. Run `i` is what the
    model `i` and the key `i` would give by themselves.

    A run may have members: networks that start from the same weights and share the model's sizes, each with a
    part of the samples held out. Where `information` has criterion held-out, sizes are judged by these samples,
    which no other look at the data uses: by the squared error or the cross-entropy of the best linear read-out,
    whatever `loss` is. Every sample is held out of one member (of a fifth of them, where there is one member),
    so that `held_out_loss` of the history is an estimate of the loss on new samples.

    Under method `information` with a squared error, numeric targets are learnt at mean 0 and variance 1 where a
    linear layer reads the last group: that layer takes the unit up, so that sizes do not depend on it. A model
    that explains nine tenths of the variance before training goes on from what it predicts.

    Args:
        model: Called on one sample, `model(x)` or `model(x, key=key)`; grown by `n3.grow` or not.
        train_data: Arrays `(inputs, targets)`, samples first, or an iterable of such pairs that can be gone
            through again and again (a `DataLoader`). A tuple of arrays as inputs is what a model of several
            arguments takes, `model(*inputs)`.
        validation_data: The same, for evaluation alone.
        steps: Steps of the optimiser.
        key: For the order of the samples and for dropout; an array of keys: a run for each.
        loss: `cross-entropy`, `squared-error`, or a function of one sample's output and target; None: that of
            the kind.
        kind: `classification` or `regression`: what the targets are. None: as a named loss says; else classes
            where they are texts or whole numbers, but numbers where the loss is a function. Texts, in arrays,
            become the numbers of their classes: `labels` of the history has them by number.
        learning_rate: Per step, or an Optax schedule. Information moves sizes at a rate of its own.
        batch: Samples in a step, for arrays.
        information: How information moves the sizes of method `information`; None: as it does by default.
        importance: A user's importance of each unit in place of the built-in one, under method `information` or
            in the monitor: from activations `[samples, units]` and targets `[samples, outputs]` to `[units]`.
        target_size: Units at which the other methods' penalty vanishes; None: the capacity of the first group.
        size_cost: Weight of that penalty, loss units per squared unit of the controller's weight.
        monitor: Measures of every group to record: `entropy`, `importance`, `redundancy`, `structure`, `gap`;
            one name or several.
        annealing: Of choices of activations (`n3.nn.Choice`): the temperature at the start and at the end of
            its fall, and the share of the run after which choices are hard.
        structure: When units are really removed and added, judged by the validation loss; None: never.
        members: Networks of each run, each with an equal part of the arrays held out, of equal shares of the
            classes; 1: one network, with a fifth held out; 0: one, with nothing held out; None: under criterion
            held-out 5, of an iterable 1, else 0. An iterable has one member at most: a sample is held out where
            a checksum of its inputs is a multiple of five, in whatever order samples come, and the rest is put
            into batches of the first batch's size; it must yield the same samples in every pass.
        readout: Whether the linear layer that reads the last group stays as trained, or is `solved` in the end
            on the samples that its member trained on, with the ridge penalty of least held-out loss; None:
            solved where there are members and such a layer.
        refit: Whether one network of the sizes that members found is trained afterwards, from the model's
            weights, on all samples (of an iterable too) and for as many steps, its sizes fixed.
        quiet: Whether to show no progress, and no line where training goes on from a checkpoint.
        checkpoint: A folder for checkpoints: the same call goes on from there, and a finished one is not
            trained again. It has the result of a call that was never ended, to the bit; an iterable must yield
            the same batches in every process. More `steps` are allowed where nothing else follows from their
            number: without method information, choices, structure and members. The history has then the
            records of both calls, each at its own steps.
        checkpoint_every: Seconds between two checkpoints.

    Returns:
        The trained model, and what was recorded. Of members the model is the `n3.nn.members.Ensemble` that
        averages what they return (of many runs, its arrays have an axis of runs before that of members), or
        with `refit` the one network; the records are those of the members. A run that diverges, or a member of
        it, is told by a warning; the last ends there. A run of members that began with fewer units than the
        capacity and ends without one in some group is trained a second time, from all units; what comes of it
        stays where its held-out loss is lower. Warnings tell of that, of groups that end without a unit or with
        a size that still moves, of a validation loss that ends at over twice its best record, and of members
        whose sizes are the capacity, or whose held-out loss is not below that of a constant by two standard
        errors; `warnings` of the history has those of how networks ended.

    Raises:
        ValueError: If data or settings are out of range or do not fit the model.
        CheckpointError: If the checkpoints are damaged, or of another model, other settings or samples.
        BusyError: If another process holds the folder of checkpoints.
        Interrupted: If SIGTERM or Ctrl-C came, after a checkpoint; without that folder nothing waits for one.
    """
    call = dict(locals())
    if labels := labels_of(train_data):
        call |= _with_codes(call, labels)
    found, outcome = _fit(call)
    rows = np.zeros(0, int) if outcome is None else np.flatnonzero(outcome.is_in_doubt & began_lower(model))
    if rows.size:
        own = {"model": with_all_units(model, rows), "key": key[rows] if key.ndim else key}
        again, other = _fit(call | own | {"checkpoint": checkpoint and Path(checkpoint) / "again"})
        found = with_restarts(found, again, rows, is_kept=outcome.is_beaten_by(other, rows))
    return found[0], replace(found[1], labels=labels) if labels else found[1]


def _with_codes(call: dict[str, Any], labels: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of `fit` that change where targets are texts."""
    if call["kind"] == "regression" or call["loss"] == "squared-error":
        raise ValueError(f"`train_data` must have numbers as targets, for regression; got {labels[0]}.")
    names = [name for name in ("train_data", "validation_data") if call[name] is not None]
    return {"kind": "classification"} | {name: with_codes(call[name], labels, name=name) for name in names}


def _fit(call: dict[str, Any]) -> tuple[tuple[Any, History], Outcome | None]:
    """What `fit` returns, and what members that held-out samples size lost in the end, in the learnt unit."""
    own = _with_target_units(_checked_call(call))
    one, runs, members, key, is_informed = own.one, own.runs, own.members, own.key, own.is_informed
    order_key, dropout_key = jax.vmap(jr.split, out_axes=1)(key) if runs else jr.split(key)
    how = {"batch": own.batch, "steps": own.steps, "is_stratified": own.has_classes}
    feed = partial(source_of, own.train_data, **how)
    source = feed(key=order_key, members=members)
    pool = source.pool(POOL if is_informed or own.monitor or own.structure or members else 1)
    goal = _goal_of(one, source, pool.of_run(0), (own.loss, own.kind), own.importance)
    block = runs_at_once(one, min(own.batch, source.samples) * max(members, 1), runs)
    plan = _plan_of({**vars(own), "block": block}, goal, own.settings, is_informed=is_informed)
    end = Ending.of(plan, one, pool, source, own.readout, _thrift_of(own))
    hypers = _drive_hypers(own.settings, pool, goal, source.samples, own.steps) if is_informed else None
    every = -(-own.steps // RECORDS)
    recorder = Recorder(plan, own.validation_data, pool, every=every, runs=runs, held=end.samples)
    rest = key, recorder, hypers, own.importance
    stages = _stages_of(plan, own.structure, one, *rest) if own.structure else None
    folder, bar = (
        (own.checkpoint, own.checkpoint_every),
        Progress("fit", own.steps * (1 + own.refit), max(runs, 1), own.quiet),
    )
    with bar as report, checkpoints_in(*folder, lambda: _identity(call, plan, source)) as saved:
        how = {"stages": stages, "report": report, "checkpoint": saved and saved.part("fit")}
        if not own.quiet:
            how["resumed"] = lambda step: note(f"`fit` continues from step {step} of {own.checkpoint}")
        state = begin(plan, own.model, dropout_key)
        net = train_model(plan, state, source, hypers, recorder, finish=end.finished, **how)
        layers = one.group_names if isinstance(one, AbstractSized) else ()
        history = recorder.history(layers, () if stages is None else stages.decisions())
        history = end.warned(net, history, one, recorder.held_out)
        outcome = end.outcome(net, history.sizes[..., -1, :], recorder.held_out) if end.thrift else None
        if own.refit:
            last = history, report, saved and saved.part("refit")
            net, history = refitted(plan, own.model, net, feed(key=order_key), dropout_key, end, *last)
    net = Ensemble(net, goal.has_logits) if members and not own.refit else net
    units = own.units
    if units is not None:
        net, history = units.given_back(net), units.losses_of(history)
    return (net, history), outcome


def _checked_call(call: dict[str, Any]) -> SimpleNamespace:
    """The arguments of `fit`, once they are seen to fit each other, with usual values for those at None."""
    own = SimpleNamespace(**call)
    _check_numbers(own.steps, own.batch, own.learning_rate, own.size_cost, own.annealing, own.kind)
    _check_checkpoint(own.checkpoint, own.checkpoint_every)
    own.monitor = _names_of(own.monitor)
    own.is_informed = isinstance(own.model, AbstractSized) and isinstance(own.model.controller, Information)
    given = own.information, own.target_size, own.monitor, own.importance, own.structure
    _check_settings(own.model, own.validation_data, *given, is_informed=own.is_informed)
    asked = own.members, own.information, own.is_informed, is_arrays(own.train_data)
    own.members, own.settings = _members_of(*asked)
    given = own.settings, own.readout, own.refit, own.structure, own.importance, own.monitor
    check_members(own.model, own.members, *given)
    own.one, own.runs = first_run(own.model, own.key)
    own.has_classes = "cross-entropy" in (own.loss, KIND_LOSSES.get(own.kind))
    return own


def _with_target_units(own: SimpleNamespace) -> SimpleNamespace:
    """The arguments with numbers that do not depend on the target's unit, where that can be."""
    if "squared-error" in (own.loss, KIND_LOSSES.get(own.kind)):  # whole numbers beyond 32 bits stay the same
        own.train_data = with_numbers(own.train_data)
        own.validation_data = own.validation_data and with_numbers(own.validation_data)
    own.units = None
    if own.is_informed and own.importance is None:
        own.units = TargetUnits.of(own.model, own.one, own.train_data, own.loss, own.kind)
    if own.units is not None:
        own.model = own.units.taken_up(own.model)
        own.one, _ = first_run(own.model, own.key)
        own.train_data = own.units.applied(own.train_data)
        own.validation_data = own.validation_data and own.units.applied(own.validation_data)
    return own


def _thrift_of(own: SimpleNamespace) -> Thrift | None:
    if not own.is_informed or own.settings.criterion != "held-out":
        return None
    return Thrift(*np.full((2, max(own.runs, 1)), [[own.settings.errors], [own.settings.resolution]]))


_UNSAID = {"model", "train_data", "validation_data", "key", "quiet", "checkpoint", "checkpoint_every", "steps"}
"""Arguments that a checkpoint knows by their arrays, or not at all."""


def in_words(value: Any) -> str:
    """A value by the name that it has, or as it prints, in every process alike."""
    own = getattr(value, "__qualname__", None)
    return own if isinstance(own, str) else re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _identity(call: dict[str, Any], plan: Plan, source) -> dict[str, str]:
    """What a checkpoint must agree in with a call: settings in words, and sums of model, keys and samples."""
    said = {name: in_words(call[name]) for name in set(call) - _UNSAID}
    rest = jax.tree_util.tree_flatten_with_path(eqx.filter(call["model"], eqx.is_array, inverse=True))
    parts = [(jax.tree_util.keystr(path), in_words(leaf)) for path, leaf in rest[0]]
    said["parts of the model"] = digest((), f"{parts} {in_words(rest[1])}")
    given = () if call["validation_data"] is None else call["validation_data"]
    arrays = is_arrays(given) and jax.tree.map(np.asarray, tuple(given))
    said |= {"model": digest((call["model"], call["key"])), "samples": digest(*source.identity())}
    said["validation_data"] = digest(arrays or ())
    is_bound = plan.drive or plan.annealing or call["structure"] or plan.members
    return said | ({"steps": str(plan.steps)} if is_bound else {})


def _members_of(
    members: int | None, information: InformationConfig | None, is_informed: bool, is_arrays: bool
) -> tuple[int, InformationConfig]:
    """The members of a run, and how information moves its sizes, where either is None."""
    settings = information or InformationConfig(criterion="held-out" if members else "price")
    is_judged = is_informed and settings.criterion == "held-out"
    usual = (USUAL_MEMBERS if is_arrays else 1) if is_judged else 0
    return usual if members is None else members, settings


def _goal_of(one: PyTree, source, first: Selection, loss, importance) -> OutputLoss:
    """How the model is scored, once samples, targets and a user's importance are seen to fit it."""
    goal = output_loss_of(one.model if isinstance(one, Grown) else one, first.inputs, first.targets, *loss)
    source.require(partial(check_targets, goal, name="train_data"))
    if importance is not None and isinstance(one, AbstractSized):
        _check_traceable(importance, one, goal, first)
        check_importance(importance, one.activations(first.inputs)[0].T, goal.columns(first.targets).T)
    return goal


def _plan_of(call: dict[str, Any], goal: OutputLoss, settings: InformationConfig, *, is_informed: bool) -> Plan:
    same = {name: call[name] for name in ("learning_rate", "size_cost", "steps", "members", "block")}
    importance, ends = call["importance"], (call["steps"], call["members"])
    return Plan(
        goal=goal,
        drive=_drive_of(settings, goal, importance, *ends) if is_informed else None,
        monitor=_monitor_of(settings, goal, importance, call["monitor"]) if call["monitor"] else None,
        annealing=call["annealing"] if has_choice(call["model"]) else None,
        target_size=_target_size(call["model"], call["target_size"]),
        **same,
    )


def _drive_of(settings: InformationConfig, goal: OutputLoss, importance, steps: int, members: int):
    own = {"is_classes": goal.is_classes, "custom": importance, "has_members": members > 0}
    return InformationDrive.of(settings, steps=steps, **own)


def _monitor_of(settings: InformationConfig, goal: OutputLoss, importance, names: tuple[str, ...]):
    psi = float(PSI.get(settings.psi, settings.psi))
    return LayerMonitor(names=names, psi=psi, is_classes=goal.is_classes, custom=importance)


def _check_traceable(importance: Importance, model: AbstractSized, goal: OutputLoss, first: Selection) -> None:
    active, targets = model.activations(first.inputs)[0].T, goal.columns(first.targets).T
    try:
        jax.eval_shape(importance, active, targets)
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError("`importance` must be made of JAX's operations: it is compiled.") from error


def _stages_of(plan: Plan, structure, one, key, recorder: Recorder, hypers, importance) -> Stages:
    runs, pool, how = max(recorder.runs, 1), recorder.pool, {"is_classes": plan.goal.is_classes}
    return Stages(
        rules=Rules(config=structure, arm="fit", seeds=tuple(range(runs)), importance=importance, **how),
        bound=one.controller.capacity,
        drive=plan.drive,
        hypers=hypers,
        keys=key.reshape(runs),
        pool=lambda run: pool_seen(pool, plan.goal, pool.rows[run] if pool.runs else pool.rows),
        target_sizes=np.full(runs, plan.target_size),
        steps=plan.steps,
    )


def _names_of(monitor: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(monitor, Sequence):
        raise ValueError(f"`monitor` must be a name or several; got {monitor!r}.")
    return (monitor,) if isinstance(monitor, str) else tuple(monitor)


def _check_checkpoint(checkpoint: Any, every: Any) -> None:
    if checkpoint is not None and not (isinstance(checkpoint, str | Path) and str(checkpoint).strip(".")):
        raise ValueError(f"`checkpoint` must name a folder for checkpoints alone; got {checkpoint!r}.")
    if isinstance(every, bool) or not isinstance(every, int | float) or not 0 <= every < LARGEST_FLOAT:
        raise ValueError(f"`checkpoint_every` must be seconds, zero or more; got {every!r}.")


def _check_numbers(steps, batch, learning_rate, size_cost, annealing, kind) -> None:
    is_fall = len(annealing) == 3 and 0 < min(annealing) <= max(annealing) < LARGEST_FLOAT
    if not is_fall or annealing[2] > 1:
        raise ValueError(
            f"`annealing` must be two temperatures above 0 and a share in (0, 1]; got {annealing}."
        )
    if kind not in (None, *KIND_LOSSES):
        raise ValueError(f"`kind` must be one of {', '.join(KIND_LOSSES)}, or None; got {kind!r}.")
    for name, value in {"steps": steps, "batch": batch}.items():
        check_whole(name, [value])
        if value < 1:
            raise ValueError(f"`{name}` must be positive; got {value}.")
    if isinstance(learning_rate, optax.GradientTransformation):
        rest = "`fit` trains by Adam; for another optimiser write the loop (docs: how-to/model)"
        raise ValueError(f"`learning_rate` must be a number or a schedule; got an optimiser. {rest}.")
    given = {"size_cost": size_cost} | ({} if callable(learning_rate) else {"learning_rate": learning_rate})
    for name, value in given.items():
        if not isinstance(value, (int, float)) or not 0 <= value < LARGEST_FLOAT:
            raise ValueError(f"`{name}` must be zero or more, and finite; got {value!r}.")
        if 0 < value < LEAST_FLOAT:
            raise ValueError(f"`{name}` must be 0 or at least {LEAST_FLOAT:.2g}; got {value}.")


def _check_settings(
    model, validation_data, information, target_size, monitor, importance, structure, *, is_informed
) -> None:
    is_sized = isinstance(model, AbstractSized)
    kinds = {"information": (information, InformationConfig), "structure": (structure, StructureConfig)}
    for name, (value, kind) in kinds.items():
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"`{name}` must be a `{kind.__name__}`; got {type(value).__name__}.")
    for name, value in {"model": model, "importance": importance or check_prune}.items():
        if not callable(value):
            raise ValueError(f"`{name}` must be callable; got {value!r}.")
    if isinstance(validation_data, Iterator):
        raise ValueError("`validation_data` is an iterator and can be read only once; pass a DataLoader.")
    if information is not None and not is_informed:
        raise ValueError("`information` goes with models grown by method information alone: leave it out.")
    if information is not None and information.path:
        raise ValueError(f"`price` must be one price in `fit`; got {information.price!r}.")
    if target_size is not None and (is_informed or not is_sized):
        raise ValueError("`target_size` goes with models grown by another method: leave it out.")
    if structure is not None and (not is_sized or validation_data is None):
        raise ValueError("`structure` goes with grown models and `validation_data`, which judges every change.")
    if structure is not None and structure.structure_every is None:
        raise ValueError("`structure` needs `structure_every`, the steps between two looks; got None.")
    if structure is not None:
        check_prune(structure.prune)
    if monitor and not is_sized:
        raise ValueError("`monitor` measures the units of grown models: grow the model, or leave it out.")
    if importance is not None and not is_informed and "importance" not in monitor:
        rest = "or with `monitor` of importance: leave it out."
        raise ValueError(f"`importance` goes with method information, {rest}")
    check_monitor(monitor)


def _drive_hypers(
    settings: InformationConfig, pool: Selection, goal: OutputLoss, samples: int, steps: int
) -> DriveHypers:
    numbers = {"samples": samples, "outputs": max(goal.outputs - goal.is_classes, 1)}
    prices = [prices_of(settings, pool.of_run(run).inputs, **numbers) for run in range(pool.runs or 1)]
    hypers = DriveHypers.of(settings, prices, prior=0.0, steps=steps)
    if pool.members:
        hypers = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], pool.members, axis=1), hypers)
    return hypers if pool.runs else run_of(hypers, 0)


def _target_size(model: PyTree, target_size: float | None) -> float:
    if not isinstance(model, AbstractSized):
        return 0.0
    first = float(model.controller.capacity[0])
    is_number = isinstance(target_size, (int, float))
    if target_size is not None and not (is_number and 0.0 < target_size <= first):
        bounds = f"(0, {first:g}], the first group's capacity"
        raise ValueError(f"`target_size` must be in {bounds}; got {target_size}.")
    return first if target_size is None else target_size
