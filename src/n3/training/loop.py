"""Loop: the steps of any model, its looks at information and its records, from the first to the last."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from n3.information.sizing import DriveHypers
from n3.nn.mlp import Annealing, annealed
from n3.nn.sized import AbstractSized, run_of, stack_runs
from n3.tracing.grow import Grown
from n3.training.batches import HeldRows, Selection, member_keys
from n3.training.checkpoint import CheckpointError, Checkpoints, Records
from n3.training.history import Plan, Recorder, axis_of, evaluate, pool_seen
from n3.training.restructure import Stages
from n3.training.step import TrainState, descended, informed, with_shared_sizes

CHUNK = 25
"""Steps compiled as one, of models that information does not grow."""


def train_model(
    plan: Plan,
    state: TrainState,
    source,
    hypers: DriveHypers | None,
    recorder: Recorder,
    *,
    stages: Stages | None = None,
    report: Callable[[int], None],
    resumed: Callable[[int], None] = lambda step: None,
    finish: Callable[[PyTree], PyTree] = lambda net: net,
    checkpoint: Checkpoints | None = None,
) -> PyTree:
    """Train a model to the end of its plan, or until all runs have diverged: from a state to the model.

    `finish` changes the model after the last step and before the last record. `report` is called with the step
    that is reached, and `resumed` with the step from which training goes on. What the checkpoint holds is not
    trained again; each stage has a part of it.
    """
    done, drive, part = 0, plan.drive, 0
    while (saved := checkpoint and checkpoint.part(f"stage-{part:04d}").newest()) is not None:
        done, kept = saved.facts["step"], state.net if "kept_losses" in saved.records else None
        if done > plan.steps:
            raise CheckpointError(
                f"{saved.folder} is of step {done}: `steps` must be as many; got {plan.steps}."
            )
        state, kept = saved.state((state, kept))
        recorder.restore(saved.records, kept)
        if stages is None or done not in stages.looks:
            break
        state, part = _restructured(stages, done, state, recorder), part + 1
    if done:
        resumed(done)
    source.skip(done)
    own = checkpoint and checkpoint.part(f"stage-{part:04d}")
    while done < plan.steps and not recorder.is_over:
        if drive and drive.is_due(done):
            state = _after_look(plan, state, recorder.pool, hypers, jnp.asarray(done, jnp.int32))
        onto = min(done + (drive.every if drive else CHUNK), plan.steps)
        onto = onto if stages is None else min(onto, int(stages.looks[stages.looks > done][0]))
        for chunk in source.chunks(onto - done):
            state, losses = _advance(plan, state, chunk, hypers, jnp.asarray(done, jnp.int32))
            recorder.add(done, jax.device_get(losses))
            done += losses.shape[-1]
        if done == plan.steps:
            state = eqx.tree_at(lambda own: own.net, state, finish(recorder.best(state.net)))
        recorder.record(done, state.net, is_last=done == plan.steps)
        report(done)
        is_look = stages is not None and done in stages.looks
        if own is not None:
            made = partial(_written, state, recorder, done)
            own.reached(made, is_last=is_look or done == plan.steps or recorder.is_over)
        if is_look:
            state, part = _restructured(stages, done, state, recorder), part + 1
            own = checkpoint and checkpoint.part(f"stage-{part:04d}")
    return state.net


def _written(state: TrainState, recorder: Recorder, done: int) -> tuple[PyTree, Records, dict[str, int]]:
    return (state, recorder.kept), recorder.arrays(), {"step": done}


def _restructured(stages: Stages, done: int, state: TrainState, recorder: Recorder) -> TrainState:
    losses = np.atleast_1d(evaluate(recorder.plan, state.net, recorder.validation_data)[0])
    if recorder.runs:
        return stages.look(done, state, losses)
    return run_of(stages.look(done, stack_runs([state]), losses), 0)


def begin(plan: Plan, model: PyTree, keys: Key[Array, "*runs"]) -> TrainState:
    """The runs of a model before the first step; members have the model's weights and a key each."""
    if plan.members:
        axis = 0 if plan.block is None else 1
        spread = lambda leaf: jnp.repeat(jnp.expand_dims(leaf, axis), plan.members, axis)  # noqa: E731
        model = jax.tree.map(lambda leaf: spread(leaf) if eqx.is_array(leaf) else leaf, model)
        keys = member_keys(keys, plan.members)
    return _begin(plan, model, keys)


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

        carry, losses = jax.lax.scan(step, carry, (rows, start + jnp.arange(len(rows), dtype=jnp.int32)))
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
    gradient = with_shared_sizes(gradient) if plan.members else gradient
    fall = plan.annealing and Annealing(*map(jnp.asarray, plan.annealing))
    temperature = fall and fall.temperature(count + 1, jnp.asarray(float(plan.steps)))
    settings = {"rule": plan.rule, "drive": plan.drive, "hypers": hypers, "temperature": temperature}
    return descended(state, gradient, loss, count, **settings), loss


@eqx.filter_jit
def _after_look(
    plan: Plan, state: TrainState, pool: Selection, hypers: DriveHypers, count: Int[Array, ""]
) -> TrainState:
    def of_run(
        own: TrainState, rows: Int[Array, " samples"], held: HeldRows | None, hypers: DriveHypers
    ) -> TrainState:
        return informed(own, plan.drive, hypers, pool_seen(pool, plan.goal, rows, held), count)

    axes = (0, pool.axis, None if pool.held is None else axis_of(pool.held), _axis_of(hypers))
    return plan.over_runs(of_run, state, pool.rows, pool.held, hypers, axes=axes)


def _axis_of(hypers: DriveHypers | None) -> int | None:
    return 0 if hypers is not None and hypers.price.ndim else None
