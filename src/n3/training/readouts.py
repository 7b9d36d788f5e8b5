"""Read-outs: the linear last layer of any sized model, solved by the strength of least held-out loss."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from n3.information.regression import STRENGTHS, best_strength, solve, solve_path
from n3.information.sizing import with_fewer_units
from n3.nn.losses import sample_losses
from n3.nn.masks import PRESENT
from n3.nn.members import MEMBERS
from n3.nn.mlp import GrowingMLP
from n3.nn.sized import AbstractSized, Inputs, Several, run_of
from n3.tracing.trace import layers_in
from n3.training.batches import Selection
from n3.training.history import EVALUATED, Plan
from n3.training.output_loss import OutputLoss
from n3.training.step import Problem, Recipe, of_member

CHECKED = 64
"""Samples on which it is seen that outputs are linear in the last group."""
ERRORS = 2.0
"""Standard errors by which members must be better than a constant, or than at a first start."""
DRAWN = 10.0
"""Standard deviation of the weights of that trial: an output activation is far from linear there."""


@dataclass(frozen=True)
class Readout:
    """The layer `W features + b` that a sized model's outputs are, by the paths of its parameters."""

    weight: str
    bias: str

    def features(self, model: AbstractSized, inputs: Inputs) -> Float[Array, "_units samples"]:
        """What the read-out sees of many samples, one a column, without dropout."""
        if isinstance(model, GrowingMLP) and not isinstance(inputs, Several):
            return model.features(inputs.T)
        mask = model.participation()[-1]
        return model.activations(inputs)[-1] * jnp.where(mask < PRESENT, 0.0, mask)[:, None]

    def gain(self, model: AbstractSized) -> Float[Array, ""]:
        """Factor of the outputs."""
        return model.controller.gain() if isinstance(model, GrowingMLP) else jnp.ones(())

    def parts(self, model: PyTree) -> tuple[Array, Array]:
        """Weight and bias, with the axes that the model has."""
        leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model)}
        return leaves[self.weight], leaves[self.bias]

    def replaced(self, model: PyTree, weight: Any, bias: Any) -> PyTree:
        """The model with another read-out; arrays may have axes before those of one model."""
        own = {self.weight: weight, self.bias: bias}

        def changed(path: Any, leaf: Any) -> Any:
            other = own.get(jax.tree_util.keystr(path))
            return leaf if other is None else jnp.asarray(other, leaf.dtype)

        return jax.tree_util.tree_map_with_path(changed, model)


def readout_of(model: PyTree, goal: OutputLoss, inputs: Inputs) -> Readout | None:
    """The read-out of a model whose outputs are linear in its last group; None where they are not.

    It is the only layer that reads the last group, a linear one with a bias that reads nothing else, and a few
    samples (of `inputs`) confirm that its outputs are the model's. A loss of the user's own has none.
    """
    if not isinstance(model, AbstractSized) or callable(goal.loss):
        return None
    last = len(model.structure.groups) - 1
    reading = [leaf for leaf in model.structure.leaves if any(last in own for own in leaf.reads)]
    if len(reading) != 1 or not reading[0].path.endswith(".weight") or len(reading[0].layouts) != 2:
        return None
    (leaf,) = reading
    out, units = leaf.layouts
    if units.group != last or out.group >= 0 or out.parts or out.size != goal.outputs:
        return None
    path = leaf.path.removesuffix(".weight")
    if isinstance(model, GrowingMLP):
        return Readout(leaf.path, f"{path}.bias")
    layer = layers_in(model).get(path)
    if not isinstance(layer, eqx.nn.Linear) or layer.bias is None:
        return None
    found = Readout(leaf.path, f"{path}.bias")
    return found if _is_linear(found, model, goal, inputs[:CHECKED]) else None


def _is_linear(readout: Readout, model: AbstractSized, goal: OutputLoss, inputs: Inputs) -> bool:
    """Whether the outputs under a drawn read-out are what its features give."""
    draw, units = np.random.default_rng(0), model.structure.capacity[-1]
    weight, bias = (draw.normal(0.0, DRAWN, size) for size in ((goal.outputs, units), goal.outputs))
    outputs = eqx.filter_jit(goal.predicted)(readout.replaced(model, weight, bias), inputs)
    expected = weight @ np.asarray(eqx.filter_jit(readout.features)(model, inputs)) + bias[:, None]
    largest = 1e-3 * np.max(np.abs(expected))
    return bool(np.max(np.abs(np.asarray(outputs).reshape(len(inputs), -1).T - expected)) <= largest)


class Seen(NamedTuple):
    """What the read-outs of the members of one run see, a sample a column, and what they should return."""

    features: Float[Array | np.ndarray, "members units samples"]
    targets: Float[Array | np.ndarray, "members outputs samples"]
    gains: Float[Array | np.ndarray, " members"]
    """Factors of the outputs."""
    held: tuple[Any, Any, Any] | None = None
    """Features and targets that they hold out, and a weight, 0 for what only fills up a fold; None: nothing."""
    weights: Float[Array | np.ndarray, "members samples"] | None = None
    """Weight of each sample in the read-outs; None: all the same."""


class Thrift(NamedTuple):
    """What fewer units of each run may lose on held-out samples, at most."""

    errors: Float[Array | np.ndarray, " runs"]
    """Standard errors of the mean paired difference."""
    resolution: Float[Array | np.ndarray, " runs"]
    """Share of the target's variance, or of a nat."""


def solved_readouts(
    runs: Iterable[Seen],
    weights: Float[np.ndarray, "runs members outputs units"],
    biases: Float[np.ndarray, "runs members outputs"],
    *,
    loss: str,
    strengths: Float[np.ndarray, " runs"] | None = None,
    thrift: Thrift | None = None,
) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, " runs"]]:
    """Weights and biases of the best linear read-outs of runs, and the strengths of their penalties.

    With `thrift` members read as few of their first units as are as good: the weights of the others are zero.

    A given strength is that of the only network of a run. None: members of a run have the one of least loss, a
    name in `n3.nn.LOSSES`, over all that they hold out, in float32 as networks are. A run that is not finite,
    or has no strength (NaN), stays as it is; its strength is NaN.
    """
    weights, biases, found = weights.copy(), biases.copy(), np.full(len(weights), np.nan)
    for run, own in enumerate(runs):
        given = 0.0 if strengths is None else strengths[run]
        numbers = own.features, own.gains, given, *(own.held or ())[:1]
        if not all(np.isfinite(each).all() for each in numbers):
            continue
        if own.held is None:
            how = {"is_classes": loss == "cross-entropy"}
            how |= {"weights": None if own.weights is None else own.weights[0]}
            weight, bias = solve(own.features[0].T, own.targets[0].T, float(given), **how)
            found[run] = given
        else:
            weight, bias, found[run] = _best_readouts(
                own, loss, thrift and Thrift(*(each[run] for each in thrift))
            )
        weights[run], biases[run] = weight / own.gains[:, None, None], bias / own.gains[:, None]
    return weights, biases, found


def _best_readouts(own: Seen, loss: str, thrift: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """The read-outs of all members of the strength that is best for what they hold out, and this strength."""
    weights, biases, losses, counts = _paths(own, STRENGTHS, loss)
    place = best_strength(losses, counts)
    found = weights[:, place], biases[:, place], STRENGTHS[place]
    if thrift is None:
        return found
    least = thrift.resolution * (1.0 if loss == "cross-entropy" else np.var(own.targets, axis=-1).sum(1).mean())
    fewest, units, most = 0, 0, int(np.max(np.flatnonzero(np.any(own.features, axis=(0, 2))), initial=-1)) + 1
    while fewest < most:  # as good as all: first none, then by bisection
        weight, bias, lost, _ = _paths(_first(own, units), STRENGTHS[place : place + 1], loss)
        more, errors = lost[0] - losses[place], thrift.errors if units else max(thrift.errors, ERRORS)
        mean = np.average(more, weights=counts)
        variance, number = np.average((more - mean) ** 2, weights=counts), counts.sum() ** 2 / (counts @ counts)
        if mean <= max(errors * np.sqrt(variance / number), least):
            most, found = units, (_padded(weight[:, 0], weights.shape[-1]), bias[:, 0], STRENGTHS[place])
        else:
            fewest = units + 1
        units = (fewest + most) // 2
    return found


def _first(own: Seen, units: int) -> Seen:
    """What is seen of the first units alone, of none a constant."""
    held = own.held
    cut = lambda features: features[:, :units] if units else np.zeros_like(features[:, :1])  # noqa: E731
    return own._replace(features=cut(own.features), held=held and (cut(held[0]), *held[1:]))


def _padded(weight: np.ndarray, units: int) -> np.ndarray:
    return np.pad(weight, ((0, 0), (0, 0), (0, units - weight.shape[-1])))


def _paths(own: Seen, strengths: Sequence[float], loss: str) -> tuple[np.ndarray, ...]:
    """Weights and biases `[members, strengths, ...]`; held-out losses `[strengths, samples]`, and counts."""
    weights, biases, losses, counts = [], [], [], []
    held_out, given = own.held or (), [None] * len(own.features) if own.weights is None else own.weights
    each = zip(own.features, own.targets, given, *held_out, strict=True)
    for seen, targets, weigh, held, held_targets, known in each:
        how = {"is_classes": loss == "cross-entropy", "weights": weigh}
        path = solve_path(seen.T, targets.T, strengths, **how)
        weight, bias = (np.stack(each).astype(np.float32) for each in zip(*path, strict=True))
        lost = np.asarray(_losses_of_path(weight, bias, held, held_targets, loss))
        losses.append(lost[:, known > 0].astype(np.float64))
        counts.append(np.asarray(known, np.float64)[known > 0])
        weights.append(weight)
        biases.append(bias)
    return np.stack(weights), np.stack(biases), np.concatenate(losses, axis=1), np.concatenate(counts)


@eqx.filter_jit
def _losses_of_path(weights, biases, features, targets, loss):
    """Loss of each read-out of a path at every sample."""
    return jax.vmap(lambda w, b: sample_losses(w @ features + b[:, None], targets, loss))(weights, biases)


def with_solved_readouts(
    recipe: Recipe,
    nets: GrowingMLP,
    problem: Problem,
    strengths: Float[np.ndarray, " runs"] | None = None,
    thrift: Thrift | None = None,
) -> tuple[GrowingMLP, Float[np.ndarray, " runs"]]:
    """Networks of a sweep with their best read-outs, and strengths: see `solved_readouts`."""
    parts = [np.asarray(leaf) for leaf in (nets.readout.weight, nets.readout.bias)]
    every = [leaf if recipe.members else leaf[:, None] for leaf in parts]
    each = (_seen(recipe, run_of(nets, run), run_of(problem, run)) for run in range(len(parts[0])))
    runs = map(jax.device_get, each)
    *found, chosen = solved_readouts(runs, *every, loss=recipe.loss, strengths=strengths, thrift=thrift)
    own = [jnp.asarray(leaf.reshape(part.shape)) for leaf, part in zip(found, parts, strict=True)]
    nets = eqx.tree_at(lambda net: (net.readout.weight, net.readout.bias), nets, own)
    return nets if thrift is None else _with_read_sizes(nets, found[0]), chosen


def _with_read_sizes(nets: PyTree, weights: Float[np.ndarray, "runs members outputs units"]) -> PyTree:
    """Networks whose last group ends with the last unit that a read-out reads."""
    units = np.arange(1, weights.shape[-1] + 1)
    return with_fewer_units(nets, np.max(np.where(np.any(weights, axis=(1, 2)), units, 0), axis=-1))


@eqx.filter_jit
def _seen(recipe: Recipe, nets: GrowingMLP, problem: Problem) -> Seen:
    """What the members of a run, or its only network, see of their samples and of those that they hold out."""
    if not recipe.members:
        own = nets.features(problem.train.inputs), problem.train.targets, nets.controller.gain()
        return Seen(*(leaf[None] for leaf in own), weights=problem.train.weights()[None])

    def of_one(net: GrowingMLP) -> Seen:
        own = of_member(recipe, problem)
        held = net.features(own.held.inputs), own.held.targets, own.held.shares
        rows = own.places(slice(None))
        seen = net.features(own.train.inputs)[:, rows], own.train.targets[:, rows], net.controller.gain()
        return Seen(*seen, held, own.train.weights()[rows])

    return jax.vmap(of_one, axis_name=MEMBERS)(nets)


def with_solved_readout(
    plan: Plan,
    readout: Readout,
    model: PyTree,
    samples: Selection,
    strengths: Float[np.ndarray, " runs"] | None = None,
    thrift: Thrift | None = None,
) -> tuple[PyTree, Float[np.ndarray, " runs"]]:
    """Networks of any model with their best read-outs, and strengths: see `solved_readouts`."""
    parts = [np.asarray(leaf) for leaf in readout.parts(model)]
    weights, biases = (_by_run(plan, leaf, model, rank) for leaf, rank in zip(parts, (2, 1), strict=True))
    gains = _by_run(plan, _gains(plan, readout, model), model, 0)

    def of_runs(rows: Array) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        features = _by_run(plan, _features_at(plan, readout, model, samples, rows), model, 2)
        for own, places in zip(features, _by_run(plan, rows, model, 1), strict=True):
            columns = (plan.goal.columns(samples.targets[each]) for each in places)
            yield own, np.stack([np.asarray(each) for each in columns])

    held = repeat(None)
    if strengths is None:
        known = _by_run(plan, samples.held.weights, model, 1)
        held = ((*own, weight) for own, weight in zip(of_runs(samples.held.rows), known, strict=True))
    runs = (Seen(*own, gain, out) for own, gain, out in zip(of_runs(samples.rows), gains, held, strict=False))
    how = {"loss": plan.goal.loss, "strengths": strengths, "thrift": thrift}
    *found, chosen = solved_readouts(runs, weights, biases, **how)
    shaped = (leaf.reshape(part.shape) for leaf, part in zip(found, parts, strict=True))
    model = readout.replaced(model, *shaped)
    return model if thrift is None else _with_read_sizes(model, found[0]), chosen


def _by_run(plan: Plan, leaf: Any, model: AbstractSized, rank: int) -> np.ndarray:
    """An array with axes of runs and of networks, one where there are none, before its last `rank`."""
    leaf = np.asarray(leaf)
    tail = leaf.shape[leaf.ndim - rank :]
    runs = 1 if plan.block is None else jax.tree.leaves(eqx.filter(model, eqx.is_array))[0].shape[0]
    axes = runs, plan.members or 1, *tail
    return np.broadcast_to(leaf, axes) if leaf.ndim == rank else leaf.reshape(axes)


def _features_at(plan: Plan, readout: Readout, model: PyTree, samples: Selection, rows: Array) -> np.ndarray:
    """Features of each network at rows of its own or at shared ones, computed piece by piece."""
    pieces = [rows[..., at : at + EVALUATED] for at in range(0, rows.shape[-1], EVALUATED)]
    return np.concatenate([_piece(plan, readout, model, samples.inputs, own) for own in pieces], axis=-1)


@eqx.filter_jit
def _piece(plan: Plan, readout: Readout, model: PyTree, inputs: Inputs, rows: Array) -> Array:
    of_one = lambda own, rows: readout.features(own, inputs[rows])  # noqa: E731
    return plan.over_runs(of_one, model, rows, axes=(0, 0 if rows.ndim > 1 else None))


@eqx.filter_jit
def _gains(plan: Plan, readout: Readout, model: PyTree) -> Array:
    return plan.over_runs(readout.gain, model, axes=(0,))
