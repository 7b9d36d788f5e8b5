"""Fit: training of a sized model, or any Equinox model, on arrays or on batches from anywhere."""

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from n3.config.experiment import InformationConfig, StructureConfig
from n3.information.gaussian import PSI
from n3.information.measures import Importance, LayerMonitor, check_importance, check_monitor, check_prune
from n3.information.price import prices_of
from n3.information.sizing import DriveHypers, InformationDrive
from n3.nn.controllers import Information
from n3.nn.mlp import Annealing, annealed, has_choice
from n3.nn.sized import AbstractSized, first_run, run_of, stack_runs
from n3.tracing.grow import Grown
from n3.training.batches import Data, Selection, source_of
from n3.training.history import History, LearningRateSchedule, Plan, Recorder, evaluate, pool_seen
from n3.training.output_loss import LossOfOne, OutputLoss, check_targets, output_loss_of
from n3.training.progress import Progress
from n3.training.restructure import Rules, Stages
from n3.training.step import TrainState, descended, informed

_Model = TypeVar("_Model", bound=eqx.Module)
RECORDS = 50
"""Records of a run, about."""
CHUNK = 25
"""Steps compiled as one, of models that information does not grow."""
EMPTY = 0.5
"""Units below which a group counts as empty."""
POOL = 2048
"""Training samples at which the units are measured, at most."""
BLOCK_BYTES = 512 * 1024
"""Bytes of the activations of a layer, over a batch and the runs that are computed at once, at most."""


def fit(
    model: _Model,
    train_data: Data,
    validation_data: Data | None = None,
    *,
    steps: int,
    key: Key[Array, "*runs"],
    loss: str | LossOfOne | None = None,
    learning_rate: float | LearningRateSchedule = 1e-3,
    batch: int = 64,
    information: InformationConfig | None = None,
    importance: Importance | None = None,
    target_size: float | None = None,
    size_cost: float = 0.1,
    monitor: str | Sequence[str] = (),
    annealing: tuple[float, float, float] = (1.0, 0.05, 0.6),
    structure: StructureConfig | None = None,
    quiet: bool = False,
) -> tuple[_Model, History]:
    """Train a model by Adam; a sized one finds its sizes while it trains.

    Many runs train in one program where `key` has an axis: every array of the model then has the same first
    axis, as `eqx.filter_vmap` of a function that makes one gives it and `n3.grow` takes it. Run `i` is what the
    model `i` and the key `i` would give by themselves.

    Args:
        model: Called on one sample, `model(x)` or `model(x, key=key)`; grown by `n3.grow` or not.
        train_data: Arrays `(inputs, targets)`, samples first, or an iterable of such pairs that can be gone
            through again and again (a `DataLoader`). Targets that are whole numbers are classes.
        validation_data: The same, for evaluation alone.
        steps: Steps of the optimiser.
        key: For the order of the samples and for dropout; an array of keys: a run for each.
        loss: `cross-entropy`, `squared-error`, or a function of one sample's output and target; None: by the
            targets.
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
        quiet: Whether to show no progress.

    Returns:
        The trained model, and what was recorded. A run that diverges is told by a warning; the last ends there.

    Raises:
        ValueError: If data or settings are out of range or do not fit the model.
    """
    _check_numbers(steps=steps, batch=batch, learning_rate=learning_rate, size_cost=size_cost)
    monitor = (monitor,) if isinstance(monitor, str) else tuple(monitor)
    is_informed = isinstance(model, AbstractSized) and isinstance(model.controller, Information)
    given = information, target_size, monitor, importance, structure
    _check_settings(model, validation_data, *given, is_informed=is_informed)
    one, runs = first_run(model, key)
    order_key, dropout_key = jax.vmap(jr.split, out_axes=1)(key) if runs else jr.split(key)
    source = source_of(train_data, batch=batch, steps=steps, key=order_key)
    pool = source.pool(POOL if is_informed or monitor or structure else 1)
    first = pool.of_run(0)
    goal = output_loss_of(one.model if isinstance(one, Grown) else one, first.inputs, first.targets, loss)
    source.require(partial(check_targets, goal, name="train_data"))
    if importance is not None and isinstance(one, AbstractSized):
        _check_traceable(importance, one, goal, first)
        check_importance(importance, one.activations(first.inputs)[0].T, goal.columns(first.targets).T)
    settings, own = information or InformationConfig(), {"is_classes": goal.is_classes, "custom": importance}
    drive = InformationDrive.of(settings, steps=steps, **own) if is_informed else None
    psi = float(PSI.get(settings.psi, settings.psi))
    plan = Plan(
        goal=goal,
        learning_rate=learning_rate,
        drive=drive,
        monitor=LayerMonitor(names=monitor, psi=psi, **own) if monitor else None,
        annealing=annealing if has_choice(model) else None,
        target_size=_target_size(model, target_size),
        size_cost=size_cost,
        steps=steps,
        block=_runs_in_block(one, min(batch, source.samples), runs) if runs else None,
    )
    hypers = _drive_hypers(settings, pool, goal, source.samples) if drive else None
    recorder = Recorder(plan, validation_data, pool, every=-(-steps // RECORDS), runs=runs)
    staging = None
    if structure is not None and isinstance(one, AbstractSized):
        staging = _stages_of(plan, structure, one.controller.capacity, key, recorder, hypers, importance)
    with Progress("fit", steps, max(runs, 1), quiet) as report:
        net = _train(plan, _begin(plan, model, dropout_key), source, hypers, recorder, staging, report)
    layers = one.group_names if isinstance(one, AbstractSized) else ()
    _warn_of_empty_groups(recorder.rows[-1]["sizes"], layers)
    return net, recorder.history(layers, () if staging is None else staging.decisions())


def _check_traceable(importance: Importance, model: AbstractSized, goal: OutputLoss, first: Selection) -> None:
    active, targets = model.activations(first.inputs)[0].T, goal.columns(first.targets).T
    try:
        jax.eval_shape(importance, active, targets)
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError("`importance` must be made of JAX's operations: it is compiled.") from error


def _warn_of_empty_groups(sizes: Float[np.ndarray, "*runs groups"], layers: tuple[str, ...]) -> None:
    """Say which groups ended without a unit: a model without a path around them is a constant."""
    rows = np.atleast_2d(sizes)
    empty = zip(layers, np.sum(rows < EMPTY, axis=0), strict=True)
    told = [f"{name} ({count} of {len(rows)} runs)" for name, count in empty if count]
    if told:
        text = "start from all units (`initial_size=None` in `n3.grow`), train longer, or lower `price_scale`"
        warnings.warn(f"`fit` ended without a unit in {', '.join(told)}: {text}.", RuntimeWarning, stacklevel=3)


def _train(plan: Plan, state: TrainState, source, hypers, recorder: Recorder, stages, report) -> PyTree:
    done, drive = 0, plan.drive
    while done < plan.steps and not recorder.is_over:
        if drive and drive.is_due(done):
            state = _after_look(plan, state, recorder.pool, hypers, jnp.asarray(done))
        onto = min(done + (drive.every if drive else CHUNK), plan.steps)
        onto = onto if stages is None else min(onto, int(stages.looks[stages.looks > done][0]))
        for chunk in source.chunks(onto - done):
            state, losses = _advance(plan, state, chunk, hypers, jnp.asarray(done))
            recorder.add(done, jax.device_get(losses))
            done += losses.shape[-1]
        recorder.record(done, state.net, is_last=done == plan.steps)
        if stages is not None and done in stages.looks:
            state = _restructured(stages, done, state, recorder)
        report(done)
    return state.net


def _stages_of(plan: Plan, structure, capacity, key, recorder: Recorder, hypers, importance) -> Stages:
    runs, pool, how = max(recorder.runs, 1), recorder.pool, {"is_classes": plan.goal.is_classes}
    return Stages(
        rules=Rules(config=structure, arm="fit", seeds=tuple(range(runs)), importance=importance, **how),
        bound=capacity,
        drive=plan.drive,
        hypers=hypers,
        keys=key.reshape(runs),
        pool=lambda run: pool_seen(pool, plan.goal, pool.rows[run] if pool.runs else pool.rows),
        target_sizes=np.full(runs, plan.target_size),
        steps=plan.steps,
    )


def _restructured(stages: Stages, done: int, state: TrainState, recorder: Recorder) -> TrainState:
    losses = np.atleast_1d(evaluate(recorder.plan, state.net, recorder.validation_data)[0])
    if recorder.runs:
        return stages.look(done, state, losses)
    return run_of(stages.look(done, stack_runs([state]), losses), 0)


def _check_numbers(*, steps: int, batch: int, **others: Any) -> None:
    for name, value in {"steps": steps, "batch": batch}.items():
        if value < 1:
            raise ValueError(f"`{name}` must be positive; got {value}.")
    for name, value in others.items():
        if not callable(value) and not 0 <= value < float("inf"):
            raise ValueError(f"`{name}` must be zero or more, and finite; got {value}.")


def _check_settings(
    model, validation_data, information, target_size, monitor, importance, structure, *, is_informed
) -> None:
    is_sized = isinstance(model, AbstractSized)
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


def _drive_hypers(settings: InformationConfig, pool: Selection, goal: OutputLoss, samples: int) -> DriveHypers:
    numbers = {"samples": samples, "outputs": max(goal.outputs - goal.is_classes, 1)}
    prices = [prices_of(settings, pool.of_run(run).inputs, **numbers) for run in range(pool.runs or 1)]
    hypers = DriveHypers.of(settings, prices, prior=0.0)
    return hypers if pool.runs else run_of(hypers, 0)


def _runs_in_block(model: PyTree, batch: int, runs: int) -> int:
    """Runs whose activations over a batch stay in a CPU's cache, about; all on other devices.

    A rest of fewer runs would be compiled by itself, so blocks are equal where half as many runs allow that.
    """
    if jax.default_backend() != "cpu":
        return runs
    arrays = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    widest = max((leaf.shape[0] for leaf in arrays if leaf.ndim > 1), default=1)
    most = int(min(runs, max(1, BLOCK_BYTES // (4 * batch * widest))))
    return next((own for own in range(most, most // 2, -1) if runs % own == 0), most)


@eqx.filter_jit
def _begin(plan: Plan, model: PyTree, keys: Key[Array, "*runs"]) -> TrainState:
    def of_run(own: PyTree, key: PRNGKeyArray) -> TrainState:
        arrays, rest = eqx.partition(own, eqx.is_inexact_array)
        strong = lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype)  # noqa: E731
        own = eqx.combine(jax.tree.map(strong, arrays), rest)  # a weak type would be compiled for twice
        if plan.annealing is not None:
            own = annealed(own, own, jnp.asarray(plan.annealing[0]))
        moments = plan.rule.init(eqx.filter(own, eqx.is_inexact_array))
        drive = plan.drive and plan.drive.start(own)
        return TrainState(own, moments, None, key, jnp.full((), -1, jnp.int32), drive)

    return plan.over_runs(of_run, model, keys, axes=(0, 0))


@eqx.filter_jit
def _advance(
    plan: Plan, state: TrainState, chunk: Selection, hypers: DriveHypers | None, start: Int[Array, ""]
) -> tuple[TrainState, Float[Array, "*runs steps"]]:
    def of_run(own: TrainState, rows: Int[Array, "steps batch"], hypers: DriveHypers | None):
        carry, rest = eqx.partition(own, eqx.is_array)

        def step(carry: PyTree, at: tuple[Array, Array]) -> tuple[PyTree, Array]:
            batch, count = at
            inputs, targets = chunk.inputs[batch], chunk.targets[batch]
            after, loss = _step(plan, eqx.combine(carry, rest), inputs, targets, hypers, count)
            return eqx.filter(after, eqx.is_array), loss

        carry, losses = jax.lax.scan(step, carry, (rows, start + jnp.arange(len(rows))))
        return eqx.combine(carry, rest), losses

    return plan.over_runs(of_run, state, chunk.rows, hypers, axes=(0, chunk.axis, _axis_of(hypers)))


def _step(plan: Plan, state: TrainState, inputs, targets, hypers, count) -> tuple[TrainState, Array]:
    dropout_key = jr.fold_in(state.key, count)

    @partial(eqx.filter_value_and_grad, has_aux=True)
    def objective(model: PyTree) -> tuple[Array, Array]:
        called = model.masked() if isinstance(model, Grown) else model
        loss = jnp.mean(plan.goal.losses_of(plan.goal.outputs_of(called, inputs, dropout_key), targets))
        if not isinstance(model, AbstractSized):
            return loss, loss
        penalty = model.controller.penalty(jnp.asarray(plan.target_size, jnp.float32))
        return loss + plan.size_cost * penalty, loss

    (_, loss), gradient = objective(state.net)
    fall = plan.annealing and Annealing(*map(jnp.asarray, plan.annealing))
    temperature = fall and fall.temperature(count + 1, jnp.asarray(float(plan.steps)))
    settings = {"rule": plan.rule, "drive": plan.drive, "hypers": hypers, "temperature": temperature}
    return descended(state, gradient, loss, count, **settings), loss


@eqx.filter_jit
def _after_look(
    plan: Plan, state: TrainState, pool: Selection, hypers: DriveHypers, count: Int[Array, ""]
) -> TrainState:
    def of_run(own: TrainState, rows: Int[Array, " samples"], hypers: DriveHypers) -> TrainState:
        return informed(own, plan.drive, hypers, pool_seen(pool, plan.goal, rows), count)

    return plan.over_runs(of_run, state, pool.rows, hypers, axes=(0, pool.axis, _axis_of(hypers)))


def _axis_of(hypers: DriveHypers | None) -> int | None:
    return 0 if hypers is not None and hypers.price.ndim else None


def _target_size(model: PyTree, target_size: float | None) -> float:
    if not isinstance(model, AbstractSized):
        return 0.0
    first = float(model.controller.capacity[0])
    if target_size is not None and not 0.0 < target_size <= first:
        bounds = f"(0, {first:g}], the first group's capacity"
        raise ValueError(f"`target_size` must be in {bounds}; got {target_size}.")
    return first if target_size is None else target_size
