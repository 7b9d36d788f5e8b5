"""Step: one run, from its key to a trained network, as a pure function that knows no other run."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from n3.information.gaussian import Scalar
from n3.information.measures import HeldOut, LayerMonitor, Pool
from n3.information.sizing import DriveHypers, InformationDrive, with_whole_sizes
from n3.nn import losses, metrics
from n3.nn.controllers import make_controller
from n3.nn.losses import LossWeights, Samples, over_tiles, sample_losses, task_loss, type_of_loss
from n3.nn.members import MEMBERS, mean_outputs
from n3.nn.mlp import Annealing, GrowingMLP, annealed, with_rescaled_size_input
from n3.nn.sized import AbstractSized, choose_runs
from n3.training import batches

SEEN = 8192
"""Samples that a look at the units takes, at most: its cost and memory grow with them."""
Count, Counts = Int[Array, ""], Int[Array, " records"]
"""Steps taken."""


class StepRecord(eqx.Module):
    """What is known of one run after some step."""

    train_loss: Float[Array, "*records"]
    """Task loss over all training samples."""
    test_loss: Float[Array, "*records"]
    """Task loss over samples that training has not seen; no penalty is in it."""
    test_metric: Float[Array, "*records"]
    """Accuracy in `[0, 1]`, or the root mean squared error in the target's own unit."""
    total_loss: Float[Array, "*records"]
    """The objective: training loss, weighted penalties and, under a drive, weighted information terms."""
    size_penalty: Float[Array, "*records"]
    depth_penalty: Float[Array, "*records"]
    prior_penalty: Float[Array, "*records"]
    size: Float[Array, "*records layers"]
    """Effective units of each hidden layer."""
    depth: Float[Array, "*records"]
    """Effective hidden layers."""
    terms: dict[str, Float[Array, "*records layers"]] = eqx.field(default_factory=dict)
    """Under a drive, `importance_term`, `redundancy_term` and `structure_term` of each hidden layer in the
    objective, already weighted, and `price_term`, what its units cost in nats per sample."""
    monitor: dict[str, Float[Array, "*records layers"]] = eqx.field(default_factory=dict)
    """What each hidden layer says, in nats, by name (`n3.information.measures.LayerMonitor`)."""
    held_out_loss: Float[Array, "*records"] | None = None
    """Of members: task loss over all samples, each by the member that has not trained on it."""
    held_out_error: Float[Array, "*records"] | None = None
    """Standard error of that mean."""
    choice_share: dict[str, Float[Array, "*records layers"]] = eqx.field(default_factory=dict)
    """Share of each activation in each hidden layer, by name, where layers choose theirs."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What fixes the program: everything that changes a shape or an operation. Hashable, static under `jit`."""

    in_size: int
    out_size: int
    capacity: tuple[int, ...]
    allocated: tuple[int, ...] | None = None
    """Units of each layer where only the first `capacity` of them are trained; None: these are all."""
    controller: str = "controller"
    layerwise: bool = False
    """One controller of that kind for each hidden layer."""
    mask: str = "sine"
    activation: str = "tanh"
    size_input: bool = False
    rescale_size_input: bool = False
    """Divide the size input's weights by the target size at the start."""
    depth_gates: bool = False
    initialisation: str = "fan-in"
    loss: str | type_of_loss = "squared-error"
    optimiser: str = "adam"
    batch: int | None = None
    """Samples in a step, freshly shuffled in every epoch; None: all of them."""
    schedule: str = "constant"
    """How the learning rate goes over the run: `constant`, or `cosine` down to zero."""
    drive: InformationDrive | None = None
    monitor: LayerMonitor | None = None
    members: int = 0
    """Networks of a run that share its sizes, each with a fold of the samples held out; 0: one, with none."""
    held: int = 0
    """Samples of the largest fold."""
    keep_every: int = 1
    """Steps between two moments at which members may be kept."""
    tile: int = 1024
    """Samples whose gradient is computed at once; more are accumulated tile by tile."""


class Hypers(eqx.Module):
    """What only changes a number: every leaf is traced, so any of them can be a sweep axis."""

    learning_rate: Float[Array, "*runs"]
    weights: LossWeights
    initial_size: Float[Array, "*runs depth"]
    target_size: Float[Array, "*runs"]
    target_depth: Float[Array, "*runs"]
    horizon: Float[Array, "*runs"]
    """Steps of the whole run, which schedules are shares of."""
    drive: PyTree = None
    annealing: Annealing | None = None
    """How choices of activations become hard; None: they stay as soft as they are."""


class Problem(eqx.Module):
    """The samples of one run, and the target's own units in one scaled unit."""

    train: Samples
    test: Samples
    unit: Float[Array, "*runs out_size"]
    folds: Int[Array, "*runs samples"] | None = None
    """The fold of each training sample; member `i` holds fold `i` out."""
    held: Samples | None = None
    """The samples that a member holds out, with their weight relative to the largest in the place of shares, or
    0 for what fills the fold up (`of_member`)."""
    rows: Int[Array, " fit"] | None = None
    """Where a member takes batches, those of `train` that it trains on; the others have no share, and are not
    copied for each member."""

    def places(self, rows: Any) -> Any:
        """Where samples lie in `train` that are given by number or slice among those that are trained on."""
        return rows if self.rows is None else self.rows[rows]


class Kept(eqx.Module):
    """The member of the moment at which all members lost least on what they hold out, at whole sizes."""

    net: PyTree
    loss: Float[Array, "*runs"]
    """Task loss over all samples, each by the member that holds it out; infinite before the first moment."""


class TrainState(eqx.Module):
    """All that changes while a run trains."""

    net: PyTree
    """The model: a `GrowingMLP`, or in `fit` any."""
    moments: optax.OptState
    order: Int[Array, " samples"] | None
    """Order of the training samples in the present epoch; None where a step does not need it."""
    key: PRNGKeyArray
    diverged_at: Int[Array, ""]
    """Step after which the loss was first NaN or infinite; -1 while it is finite."""
    drive: PyTree = None
    kept: Kept | None = None
    """Of members; `with_best_kept` puts it in place of what training ended with, where it is better."""


def of_member(recipe: Recipe, problem: Problem) -> Problem:
    """The problem of one member along the axis `MEMBERS`: the samples it trains on, and those it holds out."""
    is_held = problem.folds == jax.lax.axis_index(MEMBERS)
    order, fit = jnp.argsort(is_held, stable=True), problem.train.shares.shape[0] - recipe.held
    weights = problem.train.weights()

    def taken(rows: Int[Array, " some"], shares: Float[Array, " some"]) -> Samples:
        return Samples(problem.train.inputs[:, rows], problem.train.targets[:, rows], shares)

    held = taken(order[fit:], jnp.where(is_held, weights, 0.0)[order[fit:]])
    rows = order[:fit]
    shares = weights[rows] / jnp.sum(weights[rows])
    if recipe.batch is None:
        return Problem(taken(rows, shares), problem.test, problem.unit, held=held)
    train = eqx.tree_at(lambda own: own.shares, problem.train, jnp.zeros_like(weights).at[rows].set(shares))
    return Problem(train, problem.test, problem.unit, held=held, rows=rows)


def init(recipe: Recipe, hypers: Hypers, problem: Problem, *, key: PRNGKeyArray) -> TrainState:
    """A run before its first step, or a member of it; of the problem only the shapes matter.

    The key decides the weights, the controller's jitter and the order of the samples. Runs with the same key
    and shapes start from the same drawn weights.
    """
    net_key, controller_key, order_key = jr.split(key, 3)
    start = {"initial_size": hypers.initial_size, "mask": recipe.mask, "key": controller_key}
    units = {"allocated": recipe.allocated, "is_layerwise": recipe.layerwise}
    controller = make_controller(recipe.controller, recipe.capacity, **units, **start)
    initial_depth = float(len(recipe.capacity)) if recipe.drive else 1.5
    net = GrowingMLP(
        recipe.in_size,
        recipe.out_size,
        controller=controller,
        activation=recipe.activation,
        size_input=recipe.size_input,
        initial_depth=jnp.asarray(initial_depth, hypers.initial_size.dtype) if recipe.depth_gates else None,
        initialisation=recipe.initialisation,
        fan_in=hypers.initial_size if recipe.controller == "fixed" else None,
        key=net_key,
    )
    if recipe.rescale_size_input:
        net = with_rescaled_size_input(net, hypers.target_size)
    if hypers.annealing is not None:
        net = annealed(net, net, hypers.annealing.temperature(jnp.asarray(0, jnp.int32), hypers.horizon))
    order = None if recipe.batch is None else jnp.arange(problem.train.shares.shape[0] - recipe.held)
    moments = optimiser(recipe.optimiser, hypers.learning_rate).init(net)
    drive = recipe.drive and recipe.drive.start(net)
    kept = Kept(net, jnp.full((), jnp.inf)) if recipe.members else None
    return TrainState(net, moments, order, order_key, jnp.full((), -1, jnp.int32), drive, kept)


def step(recipe: Recipe, state: TrainState, hypers: Hypers, problem: Problem, count: Count) -> TrainState:
    """The run after one more step of the optimiser.

    `count`, the steps taken so far, is the same for all runs of a sweep, so that epochs turn together.
    """
    batch, drive = problem.train, recipe.drive
    if recipe.members:
        keep = lambda own: _keeping(recipe, own, problem)  # noqa: E731
        state = jax.lax.cond(count % recipe.keep_every == 0, keep, lambda own: own, state)
    if drive is not None:
        look = lambda own: informed(own, drive, hypers.drive, pool_of(problem), count)  # noqa: E731
        state = jax.lax.cond(drive.is_due(count), look, lambda own: own, state)
    if recipe.batch is not None:
        order = batches.shuffle_epoch(state.order, count, recipe.batch, key=state.key)
        state = eqx.tree_at(lambda s: s.order, state, order)
        batch = batches.draw_batch(problem.places(order), count, recipe.batch, problem.train)
    loss, gradient = _gradient(recipe, state.net, hypers, batch)
    gradient = with_shared_sizes(gradient) if recipe.members else gradient
    is_falling, shape = recipe.schedule == "cosine", jnp.pi * count.astype(jnp.float32) / hypers.horizon
    return descended(
        state,
        gradient,
        loss,
        count,
        rule=optimiser(recipe.optimiser, hypers.learning_rate),
        drive=drive,
        hypers=hypers.drive,
        factor=0.5 * (1.0 + jnp.cos(shape)) if is_falling else None,
        temperature=hypers.annealing and hypers.annealing.temperature(count + 1, hypers.horizon),
    )


def with_shared_sizes(gradient: PyTree) -> PyTree:
    """The gradient of a member of which the part that decides its sizes is the mean over all members."""
    if not isinstance(gradient, AbstractSized):
        return gradient
    shared = jax.tree.map(lambda leaf: jax.lax.pmean(leaf, MEMBERS), gradient.controller)
    return eqx.tree_at(lambda own: own.controller, gradient, shared)


def descended(
    state: TrainState,
    gradient: PyTree,
    loss: Float[Array, ""],
    count: Int[Array, ""],
    *,
    rule: optax.GradientTransformation,
    drive: InformationDrive | None,
    hypers: DriveHypers | None,
    factor: Float[Array, ""] | None = None,
    temperature: Float[Array, ""] | None = None,
) -> TrainState:
    """A run of any model after a step: `count` steps before it, by the objective's value and gradient.

    The optimiser's updates are times `factor`; `temperature` is that of choices of activations after the step.
    """
    gradient = drive.added(gradient, state.net, state.drive) if drive else gradient
    with jax.numpy_dtype_promotion("standard"):
        updates, moments = rule.update(gradient, state.moments, eqx.filter(state.net, eqx.is_inexact_array))
    updates = drive.paced(updates, gradient, hypers) if drive else updates
    updates = updates if factor is None else jax.tree.map(lambda update: factor * update, updates)
    if drive and drive.criterion == "held-out":  # a size keeps its pace to the end, whatever the schedule
        updates = drive.paced(updates, gradient, hypers)
    net = eqx.apply_updates(state.net, updates)
    net = drive.settled(net, state.drive, count) if drive else net
    net = net if temperature is None else annealed(net, state.net, temperature)
    diverged_at = _first_divergence(state.diverged_at, jnp.isfinite(loss), count)
    return TrainState(net, moments, state.order, state.key, diverged_at, state.drive, state.kept)


def advance(
    recipe: Recipe, state: TrainState, hypers: Hypers, problem: Problem, start: Count, stops: Counts
) -> tuple[TrainState, StepRecord]:
    """Train on from step `start` to each stop and record the run there: the unit that is compiled.

    The stops are steps that do not decrease, none before the start. What comes back is the run at the last
    stop, and its records stacked along a first axis. A member of a run trains on its own samples; its records
    are those of the run.
    """
    problem = of_member(recipe, problem) if recipe.members else problem

    def to_stop(carry: tuple[TrainState, Array], stop: Array):
        state, count = carry
        state = jax.lax.fori_loop(count, stop, lambda i, own: step(recipe, own, hypers, problem, i), state)
        record = observe(recipe, state, hypers, problem)
        is_sound = jnp.isfinite(record.train_loss) & jnp.all(jnp.isfinite(record.size))
        broken = _first_divergence(state.diverged_at, is_sound, stop)
        state = eqx.tree_at(lambda s: s.diverged_at, state, broken)
        return (state, stop), record

    (state, _), records = jax.lax.scan(to_stop, (state, start), stops)
    return state, records


def train(
    recipe: Recipe, hypers: Hypers, problem: Problem, *, key: PRNGKeyArray, stops: Int[Array, " records"]
) -> tuple[TrainState, StepRecord]:
    """One whole run: `init` and `advance`.

    The key decides everything random about it. `stops` are the steps at which to record, non-decreasing; the
    last ends the run. What comes back is the final state, whose `net` is the trained network, and the records
    stacked along a first axis.
    """
    state = init(recipe, hypers, problem, key=key)
    return advance(recipe, state, hypers, problem, jnp.asarray(0, jnp.int32), stops)


def observe(recipe: Recipe, state: TrainState, hypers: Hypers, problem: Problem) -> StepRecord:
    """The record of a run as it stands: losses over all training and all test samples."""
    train_loss = over_tiles(partial(task_loss, state.net, loss=recipe.loss), problem.train, tile=recipe.tile)
    goals = {"target_size": hypers.target_size, "target_depth": hypers.target_depth, "loss": recipe.loss}
    penalties = losses.penalties(state.net, hypers.weights, task=train_loss, **goals)
    drawn, terms = 0.0, {}
    if recipe.drive:
        drawn, terms = recipe.drive.recorded(state.net, state.drive, hypers.drive, pool_of(problem))
    outputs = state.net.batch(problem.test.inputs)
    if recipe.members:
        outputs = mean_outputs(jax.lax.all_gather(outputs, MEMBERS), is_classes=recipe.loss == "cross-entropy")
    seen = outputs, problem.test.targets, problem.test.shares
    metric = metrics.accuracy(*seen) if recipe.loss == "cross-entropy" else metrics.rmse(*seen, problem.unit)
    test_loss = jnp.sum(sample_losses(*seen[:2], recipe.loss) * problem.test.shares)
    record = StepRecord(
        train_loss=train_loss,
        test_loss=test_loss,
        test_metric=metric,
        total_loss=train_loss + sum(penalties) + drawn,
        size_penalty=penalties[0],
        depth_penalty=penalties[1],
        prior_penalty=penalties[2],
        size=metrics.effective_size(state.net),
        depth=jnp.sum(state.net.gates()),
        terms=terms,
        monitor=recipe.monitor(state.net, pool_of(problem)) if recipe.monitor else {},
        choice_share=metrics.choice_shares(state.net),
    )
    return _of_members(recipe, record, state, problem) if recipe.members else record


def _held_out(recipe: Recipe, net: GrowingMLP, problem: Problem) -> tuple[Scalar, Scalar]:
    """Task loss over all samples, each by the member that holds it out, and the standard error of that mean."""
    losses = sample_losses(net.batch(problem.held.inputs), problem.held.targets, recipe.loss)
    weights = problem.held.shares
    total = lambda rows: jax.lax.psum(jnp.sum(jnp.where(weights > 0, weights * rows, 0.0)), MEMBERS)  # noqa: E731
    whole = total(jnp.ones_like(losses))
    number, mean = whole**2 / total(weights), total(losses) / whole
    variance = total((losses - mean) ** 2) / whole
    return mean, jnp.sqrt(variance / jnp.maximum(number - 1.0, 1.0))


def _keeping(recipe: Recipe, state: TrainState, problem: Problem) -> TrainState:
    """A member that is kept at whole sizes, if all lose less so than when they were kept last."""
    whole = with_whole_sizes(state.net)
    loss = _held_out(recipe, whole, problem)[0]
    kept = choose_runs(loss < state.kept.loss, Kept(whole, loss), state.kept)
    return eqx.tree_at(lambda own: own.kept, state, kept)


def _of_members(recipe: Recipe, record: StepRecord, state: TrainState, problem: Problem) -> StepRecord:
    """The record of a run of members: means over them, and what they lose on all that they hold out."""
    record = jax.tree.map(lambda leaf: jax.lax.pmean(leaf, MEMBERS), record)
    found = _held_out(recipe, state.net, problem)
    return eqx.tree_at(
        lambda own: (own.held_out_loss, own.held_out_error), record, found, is_leaf=lambda own: own is None
    )


def pool_of(problem: Problem) -> Pool:
    """Training samples as measures take them, and those held out: of each `SEEN` at most, evenly from all.

    Measures take weights as equal.
    """
    train, held = problem.train, problem.held
    rows = problem.places(_spread(len(train.shares if problem.rows is None else problem.rows)))
    inputs, targets = train.inputs[:, rows].T, train.targets[:, rows]
    if held is None:
        return Pool(inputs, targets)
    out = _spread(held.shares.shape[0])
    own = held.inputs[:, out].T, held.targets[:, out], held.shares[out]
    return Pool(inputs, targets, HeldOut(*own, train.weights()[rows]))


def _spread(count: int) -> slice | np.ndarray:
    return slice(None) if count <= SEEN else np.linspace(0, count - 1, SEEN).round().astype(np.int32)


def optimiser(name: str, learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """The optimiser `adam` or `sgd` at a learning rate, traced or a schedule; it holds no state.

    What it keeps of parameters in 16 bits is in float32, where squares of small gradients are not zero.
    """
    rule = {"adam": optax.adam, "sgd": optax.sgd}[name](learning_rate)

    def update(gradient: PyTree, state: optax.OptState, params: PyTree = None) -> tuple[PyTree, optax.OptState]:
        updates, state = rule.update(_in_float32(gradient), state, _in_float32(params))
        return jax.tree.map(lambda own, like: own.astype(like.dtype), updates, gradient), state

    return optax.GradientTransformation(lambda params: rule.init(_in_float32(params)), update)


def _in_float32(tree: PyTree) -> PyTree:
    """A tree whose arrays of 16 bits are in float32."""
    is_half = lambda leaf: eqx.is_inexact_array(leaf) and leaf.dtype.itemsize < 4  # noqa: E731
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if is_half(leaf) else leaf, tree)


def _gradient(recipe: Recipe, net: GrowingMLP, hypers: Hypers, batch: Samples) -> tuple[Scalar, GrowingMLP]:
    """The objective and its gradient; the task's share is accumulated tile by tile."""
    settings = {"target_size": hypers.target_size, "target_depth": hypers.target_depth, "loss": recipe.loss}
    if batch.shares.shape[0] <= recipe.tile:
        whole = eqx.filter_value_and_grad(partial(losses.objective, **settings), has_aux=True)
        (loss, _), gradient = whole(net, batch, hypers.weights)
        return loss, gradient

    def of_tile(samples: Samples):
        return eqx.filter_value_and_grad(partial(task_loss, loss=recipe.loss))(net, samples)

    loss, gradient = over_tiles(of_tile, batch, tile=recipe.tile)
    price = partial(losses.penalties, weights=hypers.weights, task=loss, **settings)
    own, pull = eqx.filter_value_and_grad(lambda n: sum(price(n)))(net)
    return loss + own, jax.tree.map(jnp.add, gradient, pull)


def informed(
    state: TrainState, drive: InformationDrive, hypers: DriveHypers, pool: Pool, count: Count
) -> TrainState:
    """A run after its drive has looked at the information that units hold."""
    found = drive.look(state.net, state.moments, state.drive, hypers, pool, count)
    return eqx.tree_at(lambda own: (own.net, own.moments, own.drive), state, found)


def _first_divergence(before, is_finite: Bool[Array, ""], count) -> Int[Array, ""]:
    return jnp.where((before < 0) & ~is_finite, count, before)


@eqx.filter_jit
def held_out_losses(nets: GrowingMLP, samples: Samples, loss: str) -> Float[Array, " seeds"]:
    """Task loss of each seed's network over the samples that it held out, both with a first axis of seeds."""
    return eqx.filter_vmap(lambda net, own: task_loss(net, own, loss))(nets, samples)
