"""Ensembles: the members of each run at its end, solved, judged by what they hold out, and refitted as one."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import Device
from jaxtyping import Array, Bool, Float, Key

from n3.experiments.arms import concatenate, repeat, take
from n3.experiments.memory import over_blocks, sweep_blocks
from n3.nn import metrics
from n3.nn.losses import constant_losses, sample_losses
from n3.nn.members import MEMBERS, SMALLEST_CHANCE, Ensemble
from n3.nn.mlp import GrowingMLP
from n3.nn.sized import with_rows
from n3.training.checkpoint import Checkpoints
from n3.training.history import HeldOutLosses, Progress, best_of_kept
from n3.training.readouts import Thrift, with_solved_readouts
from n3.training.refit import Outcome
from n3.training.step import Hypers, Problem, Recipe, StepRecord, TrainState, observe, of_member
from n3.training.sweep import Swept


@dataclass(frozen=True, kw_only=True)
class HeldOutEstimate:
    """What the members of runs lose on the samples that they hold out, in the units of the task loss."""

    member_loss: Float[np.ndarray, "runs members"]
    """Mean over the samples that each member holds out."""
    member_error: Float[np.ndarray, "runs members"]
    """Standard error of that mean."""
    constant_loss: Float[np.ndarray, " runs"]
    """Loss, on the same samples, of the best constant: the mean of the training targets, or classes' shares."""
    held_out_gain: Float[np.ndarray, " runs"]
    """Mean difference, sample by sample, between the constant's loss and the members'."""
    held_out_gain_error: Float[np.ndarray, " runs"]
    """Standard error of that mean."""
    readout_strength: Float[np.ndarray, " runs"]
    """Strength of the penalty of the solved read-outs; NaN where they stay as trained."""
    restarted: Bool[np.ndarray, " runs"]
    """Whether this is what a second start from all units gave, whose size had been in doubt (`Outcome`)."""


def finish_members(
    recipe: Recipe, swept: Swept, hypers: Hypers, problem: Problem, *, block: int, is_solved: bool
) -> tuple[Swept, HeldOutEstimate, HeldOutLosses]:
    """Runs of members as ensembles, at their best, with solved read-outs if asked for, and what they lose.

    In all, and sample by sample; `block` runs at a time are judged.
    """
    strengths = np.full(len(swept.state.diverged_at), np.nan)
    swept = with_best_kept(swept)
    if is_solved:
        nets, strengths = with_solved_readouts(recipe, swept.state.net, problem, thrift=_thrift(recipe, hypers))
        swept = _with_nets(swept, nets)
    swept = with_last_record(recipe, swept, hypers, problem, block)
    estimate, losses = _estimated(recipe, swept.state.net, problem, strengths, block)
    whole = Ensemble(swept.state.net, recipe.loss == "cross-entropy")
    diverged_at = jnp.max(swept.state.diverged_at, axis=1)
    state = eqx.tree_at(lambda own: (own.net, own.diverged_at), swept.state, (whole, diverged_at))
    return dataclasses.replace(swept, state=state), estimate, losses


def _thrift(recipe: Recipe, hypers: Hypers) -> Thrift | None:
    """What fewer units may lose, of networks that held-out samples size."""
    if recipe.drive is None or recipe.drive.criterion != "held-out":
        return None
    return Thrift(np.asarray(hypers.drive.errors), np.asarray(hypers.drive.resolution))


def finish_or_restart(
    recipe: Recipe,
    swept: Swept,
    hypers: Hypers,
    problem: Problem,
    *,
    block: int,
    keys: Key[Array, " runs"],
    is_solved: bool,
    **settings: Any,
) -> tuple[Swept, HeldOutEstimate]:
    """As `finish_members`, but with a second start, from all units, for runs whose sizes are in doubt.

    What comes of it stays where it is better (`Outcome`). `settings` are those of `sweep_blocks`.
    """
    how = {"block": block, "is_solved": is_solved}
    swept, estimate, losses = finish_members(recipe, swept, hypers, problem, **how)
    if _thrift(recipe, hypers) is None:
        return swept, estimate
    capacity, outcome = np.array(recipe.capacity, np.float32), _outcome(recipe, swept, hypers, estimate, losses)
    rows = np.flatnonzero(outcome.is_in_doubt & np.any(np.asarray(hypers.initial_size) < capacity, axis=-1))
    if not rows.size:
        return swept, estimate
    hypers, problem, keys = take((hypers, problem, keys), rows)
    hypers = dataclasses.replace(
        hypers, initial_size=jnp.broadcast_to(jnp.asarray(capacity), hypers.initial_size.shape)
    )
    again = sweep_blocks(recipe, hypers, problem, block, keys=keys, **settings)
    again, *other = finish_members(recipe, again, hypers, problem, **how)
    is_kept = outcome.is_beaten_by(_outcome(recipe, again, hypers, *other), rows)
    is_kept &= np.asarray(again.state.diverged_at) < 0

    def merged(old: Any, new: Any) -> Any:
        return with_rows(old, rows[is_kept], new[is_kept])

    newer = dataclasses.replace(other[0], restarted=np.ones(len(rows), bool))
    swept = Swept(
        state=jax.tree.map(merged, swept.state, again.state),
        records=jax.tree.map(merged, swept.records, again.records),
        compile_seconds=swept.compile_seconds + again.compile_seconds,
        run_seconds=swept.run_seconds + again.run_seconds,
        cpu_seconds=swept.cpu_seconds + again.cpu_seconds,
    )
    names = [field.name for field in dataclasses.fields(estimate)]
    both = {name: merged(getattr(estimate, name), getattr(newer, name)) for name in names}
    return swept, HeldOutEstimate(**both)


def _outcome(
    recipe: Recipe, swept: Swept, hypers: Hypers, estimate: HeldOutEstimate, losses: HeldOutLosses
) -> Outcome:
    return Outcome(
        is_empty=np.any(np.asarray(count_active(swept.state.net)) == 0, axis=-1),
        held_out=losses,
        trained=swept.records.train_loss[:, -1],
        constant=estimate.constant_loss,
        thrift=_thrift(recipe, hypers),
    )


def with_best_kept(swept: Swept) -> Swept:
    """The runs with their members as they were kept, where they lost less than in the end."""
    kept, last = swept.state.kept, np.asarray(swept.records.held_out_loss)[:, -1]
    return _with_nets(swept, best_of_kept(kept.net, np.asarray(kept.loss)[:, 0], swept.state.net, last))


def _with_nets(swept: Swept, nets: GrowingMLP) -> Swept:
    return dataclasses.replace(swept, state=eqx.tree_at(lambda own: own.net, swept.state, nets))


def with_last_record(recipe: Recipe, swept: Swept, hypers: Hypers, problem: Problem, block: int) -> Swept:
    """The runs with the last record of what they are now."""
    last = over_blocks(partial(_observed, recipe), block, swept.state, hypers, problem)
    return dataclasses.replace(swept, records=jax.tree.map(_with_last, swept.records, jax.device_get(last)))


def _with_last(records: np.ndarray, last: np.ndarray) -> np.ndarray:
    return np.concatenate([records[:, :-1], last[:, None]], axis=1)


@eqx.filter_jit
def _observed(recipe: Recipe, state: TrainState, hypers: Hypers, problem: Problem) -> StepRecord:
    def of_run(own: TrainState, hypers: Hypers, problem: Problem) -> StepRecord:
        if not recipe.members:
            return observe(recipe, own, hypers, problem)
        of_one = lambda state: observe(recipe, state, hypers, of_member(recipe, problem))  # noqa: E731
        return jax.tree.map(lambda leaf: leaf[0], jax.vmap(of_one, axis_name=MEMBERS)(own))

    return jax.lax.map(lambda own: of_run(*own), (state, hypers, problem))


def _estimated(
    recipe: Recipe, nets: GrowingMLP, problem: Problem, strengths: Float[np.ndarray, " runs"], block: int
) -> tuple[HeldOutEstimate, HeldOutLosses]:
    losses, constants, known = jax.device_get(over_blocks(partial(_held_out, recipe), block, nets, problem))
    own, constant = HeldOutLosses(losses, known), HeldOutLosses(constants, known).pooled()
    gain = own.pooled().gain(constant)
    estimate = HeldOutEstimate(
        member_loss=own.mean(),
        member_error=own.error(),
        constant_loss=constant.mean(),
        held_out_gain=gain.mean(),
        held_out_gain_error=gain.error(),
        readout_strength=strengths,
        restarted=np.zeros(len(strengths), bool),
    )
    return estimate, own.pooled()


@eqx.filter_jit
def _held_out(recipe: Recipe, nets: GrowingMLP, problem: Problem) -> tuple[Array, Array, Array]:
    """Losses of members, and of a constant, on what each member holds out, and how much each sample counts."""

    def of_run(nets: GrowingMLP, problem: Problem) -> tuple[Array, Array, Array]:
        def of_one(net: GrowingMLP) -> tuple[Array, Array, Array]:
            train, held = problem.train, of_member(recipe, problem).held
            own = sample_losses(net.batch(held.inputs), held.targets, recipe.loss)
            how = {"least": SMALLEST_CHANCE, "shares": train.shares}
            constants = constant_losses(train.targets, held.targets, recipe.loss, **how)
            return own, constants, jnp.asarray(held.shares)

        return jax.vmap(of_one, axis_name=MEMBERS)(nets)

    return jax.lax.map(lambda own: of_run(*own), (nets, problem))


@dataclass(frozen=True, kw_only=True)
class Ended:
    """An arm of runs of members at its end."""

    recipe: Recipe
    swept: Swept
    hypers: Hypers
    strengths: Float[np.ndarray, " runs"]


def refit_arms(
    ended: Mapping[str, Ended],
    problem: Problem,
    *,
    block: int,
    keys: Key[Array, " runs"],
    steps: int,
    devices: Sequence[Device] | None = None,
    quiet: bool = False,
    checkpoint: Checkpoints | None = None,
) -> dict[str, Ended]:
    """Of every run one network of the sizes found, trained on all samples by the arm's recipe.

    Its size rests from the first step; layers have whole units, those that take part in the members. The
    read-out is solved on all samples with the run's strength, and stays as trained where that is NaN. Arms of
    one recipe train in one program, `block` runs at a time. In the last record the network takes the place of
    the members in `train_loss`, `test_loss`, `test_metric` and `size`.
    """
    groups: dict[Recipe, list[str]] = {}
    for arm, own in ended.items():
        still = {"controller": "fixed", "layerwise": False, "drive": None, "monitor": None}
        groups.setdefault(dataclasses.replace(own.recipe, members=0, held=0, **still), []).append(arm)
    whole, found = dataclasses.replace(problem, folds=None), {}
    for recipe, arms in groups.items():
        hypers = concatenate([_found_sizes(ended[arm]) for arm in arms])
        every = repeat(whole, len(arms))
        after_members = ended[arms[0]].recipe.members
        own = jax.vmap(jr.fold_in, in_axes=(0, None))(keys, after_members)  # none of a member's
        own_keys = jnp.concatenate([own] * len(arms))
        with Progress(f"refit {', '.join(arms)}", steps, len(own_keys), quiet) as report:
            settings = {"keys": own_keys, "stops": np.array([steps], np.int32), "devices": devices}
            settings["checkpoint"] = checkpoint and checkpoint.part(f"refit-{arms[0]}")
            swept = sweep_blocks(recipe, hypers, every, block, progress=report, **settings)
        strengths = np.concatenate([ended[arm].strengths for arm in arms])
        nets, _ = with_solved_readouts(recipe, swept.state.net, every, strengths)
        swept = with_last_record(recipe, _with_nets(swept, nets), hypers, every, block)
        swept = dataclasses.replace(swept, state=jax.device_get(swept.state))
        for place, arm in enumerate(arms):
            found[arm] = _replaced(ended[arm], recipe, swept, place, len(arms))
    return {arm: found[arm] for arm in ended}


count_active = jax.jit(jax.vmap(metrics.active_units))
"""Active units of each hidden layer of many runs."""


def _found_sizes(ended: Ended) -> Hypers:
    units = count_active(ended.swept.state.net).astype(jnp.float32)
    return dataclasses.replace(ended.hypers, initial_size=units, drive=None)


def _replaced(old: Ended, recipe: Recipe, refits: Swept, place: int, arms: int) -> Ended:
    """An arm with the networks of its place among the refits, and an equal part of what they took."""
    runs = len(old.swept.state.diverged_at)
    state, new = (
        jax.tree.map(lambda leaf: leaf[place * runs : (place + 1) * runs], tree)
        for tree in (refits.state, refits.records)
    )
    diverged_at = jnp.maximum(old.swept.state.diverged_at, state.diverged_at)
    state = jax.tree.map(jnp.asarray, eqx.tree_at(lambda own: own.diverged_at, state, diverged_at))
    names = ("train_loss", "test_loss", "test_metric", "size")
    taken = lambda record: tuple(getattr(record, name) for name in names)  # noqa: E731
    both = zip(taken(old.swept.records), taken(new), strict=True)
    rows = [_with_last(past, last[:, -1]) for past, last in both]
    swept = dataclasses.replace(
        old.swept,
        state=state,
        records=eqx.tree_at(taken, old.swept.records, tuple(rows)),
        compile_seconds=old.swept.compile_seconds + refits.compile_seconds / arms,
        run_seconds=old.swept.run_seconds + refits.run_seconds / arms,
        cpu_seconds=old.swept.cpu_seconds + refits.cpu_seconds / arms,
    )
    return Ended(recipe=recipe, swept=swept, hypers=old.hypers, strengths=old.strengths)
