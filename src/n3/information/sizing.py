"""Sizing: information moves a size that has no target, and keeps the least useful unit at the frontier.

At a cadence the drive looks at the activations of every layer. It puts the units that take part fully into
greedy order of what each adds about the target, so that the frontier is always the cheapest unit to lose; finds
the number of units `N*` that is worth the most,

    N* = argmax over j <= N + look_ahead of  I(first j units; target) - price * j,

and pulls the size towards it by the gradient `clip(N - N*, -1, 1)` of every step. Units beyond the frontier are
trained to add information, since a random one promises little (`with_frontier_gradient`). Depth gates, all open
at first, are drawn to the number of layers worth most once that is over (`n3.information.depth`). After `until`
steps nothing is looked at any more, and sizes and depth come to rest at the last best ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from n3.config.experiment import InformationConfig
from n3.information import depth, gaussian, held_out, measures
from n3.information.gaussian import Scalar
from n3.information.measures import Importance, Pool
from n3.information.price import Prices, ascend_price, sizes_within_budget
from n3.nn.controllers import Information
from n3.nn.sized import AbstractSized, Sized, reorder

SETTLED = 1e-3
"""Units from its aim at which a size counts as arrived; participation changes by less than a thousandth."""


def with_frontier_gradient(
    gradient: Sized,
    net: Sized,
    pool: Pool,
    *,
    look_ahead: int,
    weight: Scalar,
    prior: Scalar,
    is_classes: bool,
    alone: bool = False,
) -> Sized:
    """A gradient with that of the information of the units in sight, for those that take no part yet alone.

    `look_ahead` units beyond those that take part are in sight. The information of all in sight weighs
    `weight`, in loss units per nat, and beside it the description of their weights `prior`; with `alone`, where
    the target is what is left of it, that of those that take no part yet.
    """
    born = jnp.floor(net.controller.sizes())
    units = [jnp.arange(mask.size, dtype=born.dtype) for mask in net.participation()]
    ahead = [index < first + look_ahead + 1 for index, first in zip(units, born, strict=True)]
    unborn = [seen & (index >= first) for seen, index, first in zip(ahead, units, born, strict=True)]

    def term(n: Sized) -> Float[Array, ""]:
        promised = jnp.zeros(())
        counted = unborn if alone else ahead
        for active, seen, cost in zip(n.activations(pool.inputs), counted, n.weight_cost(), strict=True):
            mask = seen.astype(active.dtype)
            channel = measures.masked_channel(active, pool.targets, mask, is_classes=is_classes)
            promised += gaussian.gaussian_information(channel) - prior * jnp.sum(mask * cost)
        return -weight * promised

    own = eqx.filter_grad(term)(net).only_making([share.astype(born.dtype) for share in unborn])
    return jax.tree.map(jnp.add, gradient, own)  # Adam makes a step of any rest: all others are exactly zero


NUMBERS = "birth", "errors", "resolution", "importance", "redundancy", "structure"
"""Settings that are numbers of the drive, by the same names."""


class DriveHypers(eqx.Module):
    """Numbers of the drive, all traced."""

    price: Float[Array, "*runs"]
    """Information that a further unit must bring, nats per sample."""
    parameter_price: Float[Array, "*runs"]
    """What each of its parameters adds to that, nats per sample."""
    inputs: Float[Array, "*runs"]
    """Effective inputs of the model, which count among a unit's parameters."""
    log_start: Float[Array, "*runs"]
    """Logarithm of the factor on the price at the first step; it goes to 0, evenly, by the last look."""
    budget: Float[Array, "*runs"]
    """Active parameters to be met by adapting the price (dual ascent); 0: the price stays."""
    birth: Float[Array, "*runs"]
    """Weight of the information of the units about to be born, at the start."""
    prior: Float[Array, "*runs"]
    """Weight of the description of unborn units' weights, beside that information (as `LossWeights.prior`)."""
    rate: Float[Array, "*runs"]
    """Units by which a step moves the size, at most: the learning rate of its plain gradient descent."""
    errors: Float[Array, "*runs"]
    """Standard errors within which fewer units are as good, by held-out samples."""
    resolution: Float[Array, "*runs"]
    """Share of the target's variance below which a further unit is worth nothing, by held-out samples."""
    importance: Float[Array, "*runs"]
    psi: Float[Array, "*runs"]
    redundancy: Float[Array, "*runs"]
    structure: Float[Array, "*runs"]
    """With the three above what `TermWeights` says; masks diverge from what they were at the last look."""

    @classmethod
    def of(
        cls, settings: InformationConfig, prices: Sequence[Prices], *, prior: float, steps: int
    ) -> "DriveHypers":
        """The numbers of some runs of so many steps, a row for each one's prices."""
        unit, parameter, inputs = (jnp.asarray(np.array(own, np.float32)) for own in zip(*prices, strict=True))
        numbers = {
            "log_start": math.log(settings.price_start),
            "budget": float(settings.budget or 0),
            "prior": prior,
            "rate": settings.pace(steps),
            "psi": float(gaussian.PSI.get(settings.psi, settings.psi)),
            **{name: getattr(settings, name) for name in NUMBERS},
        }
        each = {name: np.full(len(prices), value, np.float32) for name, value in numbers.items()}
        rows = {name: jnp.asarray(own) for name, own in each.items()}
        return cls(price=unit, parameter_price=parameter, inputs=inputs, **rows)


class DriveState(eqx.Module):
    """What the drive keeps between two looks: its gradient, and the masks and the price at the last one."""

    gradient: PyTree
    best: Float[Array, " depth"]
    """Units `N*` that each layer is drawn to."""
    masks: tuple[Float[Array, " _capacity"], ...]
    log_price: Float[Array, ""]
    """Logarithm of the budget's factor on the price."""
    prices: Float[Array, " depth"]
    """Nats that a further unit of each layer cost at the last look; 0 before the first."""
    depth: Float[Array, ""] | None
    """Layers `D*` that depth gates are drawn to; None without gates."""


@dataclass(frozen=True, kw_only=True)
class InformationDrive:
    """What of the drive fixes the program; hashable, static under `jit`."""

    is_classes: bool
    criterion: str = "price"
    """What a unit is held against: a `price`, or what it gains on samples that are `held-out`."""
    has_members: bool = False
    """Whether networks that share the sizes are judged together, along the axis `MEMBERS`."""
    every: int = 25
    """Steps between two looks."""
    look_ahead: int = 8
    """Units beyond the size whose promise counts: features often pay only together."""
    reorder: bool = True
    """Whether units are put into greedy order of what they add (the function does not change)."""
    until: int = 3_000
    """Step from which nothing is looked at any more (but for the objective's own terms)."""
    birth_until: int = 1_650
    """Step at which the birth term has fallen to zero; 0: units about to be born are not trained."""
    redundancy_aware: bool = True
    """Whether a unit counts for what it adds to those before it, or (an ablation) for what it says alone."""
    correct: bool = True
    """Whether the bias of the estimate is taken off."""
    terms: bool = False
    """Whether the objective has information terms of its own (`importance`, `redundancy`, `structure`)."""
    features: bool = False
    """Whether importance and redundancy train the features as well as the masks."""
    custom: Importance | None = None
    """A user's importance of each unit in place of the built-in one; units are then taken as additive."""

    @classmethod
    def of(
        cls,
        settings: InformationConfig,
        *,
        steps: int,
        is_classes: bool,
        custom: Importance | None,
        has_members: bool = False,
    ) -> "InformationDrive":
        """The drive of a run of so many steps by the settings of method `information`."""
        names = "criterion", "look_ahead", "reorder", "redundancy_aware", "correct", "features"
        return cls(
            is_classes=is_classes,
            until=math.ceil(settings.settle * steps),
            birth_until=math.ceil(settings.birth_end * steps) if settings.birth else 0,
            terms=any((settings.importance, settings.redundancy, settings.structure)),
            custom=custom,
            every=settings.cadence(steps),
            has_members=has_members,
            **{name: getattr(settings, name) for name in names},
        )

    def start(self, net: AbstractSized) -> DriveState:
        """The state before the first look: no gradient."""
        size = _weight(net)
        zero, free = jnp.zeros((), size.dtype), jnp.zeros_like(size)
        return DriveState(_no_gradient(net), size, net.participation(), zero, free, net.depth_weight)

    def is_due(self, count: Int[Array, ""] | int) -> Bool[Array, ""] | bool:
        """Whether the step after `count` steps begins with a look."""
        return (count % self.every == 0) & (self.terms | (count < self.until))

    def look(
        self,
        net: AbstractSized,
        moments: PyTree,
        state: DriveState,
        hypers: DriveHypers,
        pool: Pool,
        count: Int[Array, ""],
    ) -> tuple[AbstractSized, PyTree, DriveState]:
        """The same function as a network in greedy order, its moments, and the gradient until the next look.

        The optimiser's moments are permuted as the network is; `count` steps, the same for all runs, are taken.
        """
        if self.criterion == "held-out":
            return self._held_out_look(net, moments, state, hypers, pool, count)
        is_live, sizes = count < self.until, net.controller.sizes()
        log_price = ascend_price(state.log_price, net.parameter_count(sizes), hypers.budget)
        gates, capacity = net.gates(), jnp.array(net.controller.capacity, sizes.dtype)
        free = jnp.where(is_live & depth.is_calm(gates), sizes, 0.0)
        layers = zip(net.activations(pool.inputs), free, strict=True)
        seen = [self.worth_of(active, pool.targets, size) for active, size in layers]
        orders, worths = zip(*seen, strict=True)
        net, moments = reorder((net, moments), orders, depth.number_open(gates) - 1)
        masks = tuple(mask[order] for mask, order in zip(state.masks, orders, strict=True))
        start = hypers.log_start * jnp.clip(1.0 - count.astype(sizes.dtype) / max(self.until, 1), 0.0, 1.0)
        parameters = net.unit_parameters(sizes, hypers.inputs)
        factor = jnp.exp(log_price + start)
        prices = (hypers.price + hypers.parameter_price * parameters) * factor
        best = jnp.stack([self.best_size(*of) for of in zip(sizes, worths, prices, strict=True)])
        best = jnp.where(depth.is_in_sight(gates), best, sizes)
        deep = state.depth
        if deep is not None:
            numbers = hypers.price * factor, hypers.parameter_price * factor, hypers.inputs
            values = depth.values(worths, best, *numbers, pool.targets.shape[0])
            deep = jnp.where(is_live & (count >= self.birth_until), depth.best_depth(values, gates), deep)
        best = sizes_within_budget(best, hypers.budget, capacity, net.parameter_count)
        best = jnp.where(is_live, best, state.best)
        gradient = self._gradient(net, masks, hypers, pool, count)
        return net, moments, DriveState(gradient, best, net.participation(), log_price, prices, deep)

    def _held_out_look(self, net, moments, state: DriveState, hypers: DriveHypers, pool: Pool, count):
        """As `look`, by what units gain on samples that are held out."""
        orders = held_out.orders_of(net, pool, is_classes=self.is_classes)
        net, moments = reorder((net, moments), orders, jnp.asarray(len(orders) - 1))
        masks = tuple(mask[order] for mask, order in zip(state.masks, orders, strict=True))
        how = {name: getattr(self, name) for name in ("look_ahead", "is_classes", "has_members")}
        numbers = {"errors": hypers.errors, "resolution": hypers.resolution}
        judgement = held_out.judged(net, pool, **numbers, **how)
        best = jnp.where(judgement.best < 0, state.best, judgement.best)
        capacity = jnp.array(net.controller.capacity, best.dtype)
        is_over = (hypers.budget > 0) & (net.parameter_count(best) > hypers.budget)
        within = sizes_within_budget(best, hypers.budget, capacity, net.parameter_count)
        best = jnp.where(count < self.until, jnp.where(is_over, within, best), state.best)
        left = Pool(pool.inputs, judgement.residual)
        gradient = self._gradient(net, masks, hypers, pool, count, births=left)
        rest = net.participation(), state.log_price, jnp.zeros_like(best), state.depth
        return net, moments, DriveState(gradient, best, *rest)

    def best_size(self, size: Scalar, worth: Float[Array, " choices"], price: Scalar) -> Scalar:
        """`N*`: the number of units in sight that is worth most after its price, in nats per unit.

        The worth, in nats, is the information of the first `0 ... capacity` units.
        """
        units = jnp.arange(worth.size, dtype=worth.dtype)
        is_seen = units <= jnp.ceil(size) + self.look_ahead
        return jnp.argmax(jnp.where(is_seen, worth - price * units, -jnp.inf)).astype(size.dtype)

    def worth_of(
        self, active: gaussian.Activations, targets: gaussian.Targets, size: Float[Array, ""]
    ) -> tuple[Int[Array, " units"], Float[Array, " choices"]]:
        """The order of a layer's units, and what the first `0 ... units` of them say of the target.

        Of the units, whose activations are from before the mask, those that take part fully may change places.
        The order is the old index of the unit at each place; nats, bias taken off, begin with 0.
        """
        units, samples = active.shape
        is_full = jnp.arange(units, dtype=size.dtype) + 1.0 <= jnp.where(self.reorder, size, 0.0)
        if self.custom:
            return _additive(self.custom(active.T, targets.T), is_full)
        moments = gaussian.statistics(active, targets, is_classes=self.is_classes)
        noise = jnp.full(units, gaussian.MONITORING_FLOOR)
        seen = {"resolution": gaussian.MONITORING_RESOLUTION}
        if self.redundancy_aware:
            order, gains = gaussian.greedy_order(moments, noise, is_full, **seen)
            worth = jnp.pad(jnp.cumsum(gains), (1, 0))
        else:
            alone = gaussian.marginal_importance(gaussian.open_channel(moments, noise, **seen))
            order, worth = _additive(alone, is_full)
        if self.correct:
            outputs, degrees = moments.cross.shape[1] - self.is_classes, jnp.arange(units + 1.0)
            worth = gaussian.corrected(worth, degrees, samples, outputs)
        return order, worth

    def added(self, gradient: AbstractSized, net: AbstractSized, state: DriveState) -> AbstractSized:
        """The gradient of the objective with the drive's own, the pull `clip(N - N*, -1, 1)` included."""
        gradient = jax.tree.map(jnp.add, gradient, state.gradient)
        pull = jnp.clip(_weight(net) - state.best, -1.0, 1.0)
        task = 0.0 if self.criterion == "held-out" else _weight(gradient)  # held-out samples alone decide
        gradient = eqx.tree_at(_weight, gradient, task + pull)
        if net.depth_weight is None:
            return gradient
        return eqx.tree_at(_depth, gradient, depth.pull(net.depth_weight, state.depth))

    def paced(self, updates: AbstractSized, gradient: AbstractSized, hypers: DriveHypers) -> AbstractSized:
        """The optimiser's updates, but for size and depth: plain descent, at most `rate` units a step."""
        updates = eqx.tree_at(_weight, updates, -hypers.rate * jnp.clip(_weight(gradient), -1.0, 1.0))
        if gradient.depth_weight is None:
            return updates
        return eqx.tree_at(_depth, updates, -depth.RATE * hypers.rate * gradient.depth_weight)

    def settled(self, net: Sized, state: DriveState, count: Int[Array, ""]) -> Sized:
        """The model with each size that looks have left within `SETTLED` of its aim at just its aim."""
        weight = _weight(net)
        is_there = (count >= self.until) & (jnp.abs(weight - state.best) < SETTLED)
        return eqx.tree_at(_weight, net, jnp.where(is_there, state.best, weight))

    def sight(self, sizes: np.ndarray, best: np.ndarray, rate: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Units that can take part or be trained from one step to a later one, at most; any one shape."""
        if start >= self.until:
            return np.ceil(np.maximum(sizes, best))
        return np.ceil(sizes + rate * (stop - start)) + self.look_ahead + 1.0

    def recorded(
        self, net: AbstractSized, state: DriveState, hypers: DriveHypers, pool: Pool
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, " groups"]]]:
        """The sum of the objective's information terms, and each by name beside what the units of a group cost.

        In nats. The price is that of the last look, and is not descended: a look holds it against the
        information of all numbers of units in sight.
        """
        cost = state.prices * net.controller.sizes() * net.gates()
        nothing = measures.InformationTerms(*[jnp.zeros_like(cost)] * 3)
        own = self._terms(net, state.masks, hypers, pool) if self.terms else nothing
        return own.total(), own.named() | {"price_term": cost}

    def _terms(self, net, masks, hypers: DriveHypers, pool: Pool) -> measures.InformationTerms:
        names = measures.TermWeights.__dataclass_fields__
        weights = measures.TermWeights(**{name: getattr(hypers, name) for name in names})
        settings = {"is_classes": self.is_classes, "features": self.features, "custom": self.custom}
        return measures.information_terms(net, pool, weights, before=masks, **settings)

    def _gradient(
        self, net, masks, hypers: DriveHypers, pool: Pool, count: Int[Array, ""], births: Pool | None = None
    ) -> AbstractSized:
        """Gradient of the information terms, and of the birth term for the units not yet born alone.

        Births add information about the target, or about what is left of it at `births`.
        """
        gradient = _no_gradient(net)
        if self.terms:
            gradient = eqx.filter_grad(lambda n: self._terms(n, masks, hypers, pool).total())(net)
        if self.birth_until == 0:
            return gradient
        fade = hypers.birth * (1.0 - count.astype(hypers.birth.dtype) / self.birth_until)
        is_classes, alone = self.is_classes and births is None, births is not None
        settings = {
            "look_ahead": self.look_ahead,
            "prior": hypers.prior,
            "is_classes": is_classes,
            "alone": alone,
        }
        with_births = partial(with_frontier_gradient, net=net, pool=births or pool, weight=fade, **settings)
        return jax.lax.cond(count < self.birth_until, with_births, lambda g: g, gradient)


def are_whole(sizes: Float[Array | np.ndarray, "*runs groups"]) -> Bool[Array, "*runs"]:
    """Whether all sizes have arrived at whole units."""
    return jnp.all(jnp.abs(sizes - jnp.round(sizes)) < SETTLED, axis=-1)


def with_whole_sizes(net: PyTree) -> PyTree:
    """A model of method information with its sizes at whole units; any other as it is."""
    if not isinstance(net, AbstractSized) or not isinstance(net.controller, Information):
        return net
    return eqx.tree_at(_weight, net, jnp.round(_weight(net)))


def with_fewer_units(nets: AbstractSized, most: Int[np.ndarray, " runs"]) -> AbstractSized:
    """Models of some runs, or of the only one, whose last group has at most so many units."""
    last = _weight(nets)[..., -1]
    bound = jnp.asarray(most, last.dtype).reshape(-1, *(1,) * (last.ndim - 1))
    return eqx.tree_at(_weight, nets, _weight(nets).at[..., -1].set(jnp.minimum(last, bound)))


def _weight(net: AbstractSized):
    return cast(Information, net.controller).weight


def _depth(net: AbstractSized):
    return net.depth_weight


def _no_gradient(net: AbstractSized) -> PyTree:
    return jax.tree.map(jnp.zeros_like, eqx.filter(net, eqx.is_inexact_array))


def _additive(own: Float[Array, " units"], candidates: Bool[Array, " units"]):
    """Order and worth where each unit counts for itself: the candidates by what they say, then the rest."""
    order = jnp.argsort(jnp.where(candidates, -own, jnp.inf), stable=True)
    return order, jnp.pad(jnp.cumsum(own[order]), (1, 0))
