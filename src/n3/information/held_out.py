"""Held-out: how many units of each group lower the loss on samples that the network has not trained on.

The last group is judged by the best linear read-out of each of its prefixes (`n3.information.readout`). A group
before it is judged by the same read-out of the last one: a unit less counts by what the outputs lose without
it, a further one by what it adds to the read-out directly, beside the last group. Members pool what they lose.
"""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from n3.information.gaussian import Scalar
from n3.information.measures import Pool
from n3.information.readout import (
    losses_and_residuals,
    of_best_strength,
    order_of,
    smallest_within,
    whole_losses,
)
from n3.nn.members import MEMBERS
from n3.nn.sized import AbstractSized, PerGroup

_Units, _Choices = Float[Array, "_units samples"], Float[Array, " choices"]
FEWER = (8, 4, 2, 1)
"""Units that a group before the last is tried without."""


class Judgement(eqx.Module):
    """What a look finds."""

    best: Float[Array, " groups"]
    """Units that each group should have; negative where nothing finite was seen."""
    residual: Float[Array, "outputs samples"]
    """What the best read-out of the present units leaves of the target, at the samples trained on."""


def orders_of(net: AbstractSized, pool: Pool, *, is_classes: bool) -> list[Int[Array, " _units"]]:
    """Greedy order of each group's units among those that take part fully; the rest stay where they are.

    The last group by what its units add about the target, a group before it by what they add about the last.
    """
    sizes, actives = net.sizes(), net.activations(pool.inputs)
    is_full = [jnp.arange(1.0, len(own) + 1.0) <= size for own, size in zip(actives, sizes, strict=True)]
    every = _fit_weights(pool)
    read = actives[-1] * net.participation()[-1][:, None]
    before = zip(actives[:-1], is_full[:-1], strict=True)
    orders = [order_of(own, read, every, full, is_classes=False) for own, full in before]
    return [*orders, order_of(actives[-1], pool.targets, every, is_full[-1], is_classes=is_classes)]


class _Bench(eqx.Module):
    """What read-outs are fitted and judged with: samples trained on, then those held out."""

    targets: Float[Array, "outputs samples"]
    fit: Float[Array, " samples"]
    weights: Float[Array, " held"]
    floor: Float[Array, ""]
    errors: Float[Array, ""]
    is_classes: bool = eqx.field(static=True)
    has_members: bool = eqx.field(static=True)

    @property
    def trained(self) -> int:
        """Number of samples trained on."""
        return len(self.fit) - len(self.weights)

    def of_prefixes(
        self, units: _Units, present: Scalar, most: Scalar
    ) -> tuple[Float[Array, "strengths prefixes held"], Array]:
        """Losses of every prefix up to `most`, and what the present units leave of the targets trained on."""
        seen = self.targets, self.fit, present, most
        rows, left = losses_and_residuals(units, *seen, is_classes=self.is_classes)
        return rows[..., self.trained :], left[..., : self.trained]

    def of_all(self, units: _Units) -> Float[Array, "strengths held"]:
        """Losses of all units."""
        return whole_losses(units, self.targets, self.fit, is_classes=self.is_classes)[:, self.trained :]

    def chosen(
        self, rows: Float[Array, "strengths choices held"], units: _Choices, present: Scalar, most: Scalar
    ) -> tuple[Scalar, Int[Array, " choices"]]:
        """The least adequate number of units up to `most`, negative if none is finite; and each one's ridge.

        More than are `present` must be worth it.
        """
        rows, weights = [_pooled(own) if self.has_members else own for own in (rows, self.weights)]
        rows, strengths = of_best_strength(rows, weights)
        in_sight = (units >= 0) & (units <= most)
        place = smallest_within(rows, weights, in_sight, units == present, errors=self.errors, floor=self.floor)
        return jnp.where(place < 0, -1.0, units[place]), strengths


def judged(
    net: AbstractSized,
    pool: Pool,
    *,
    look_ahead: int,
    errors: Float[Array, ""],
    resolution: Float[Array, ""],
    is_classes: bool,
    has_members: bool,
) -> Judgement:
    """Judge a network whose units are in order, by the samples that the pool holds out.

    Of each group the smallest number of units in sight that is as good as the best: within `errors` standard
    errors of the mean paired difference, or within `resolution` of the target's variance (of a nat, for
    classes). `look_ahead` further units are in sight. With members the losses of all are pooled, along the axis
    `MEMBERS`.
    """
    held = pool.held
    bench = _Bench(
        targets=jnp.concatenate([pool.targets, held.targets], axis=1),
        fit=jnp.concatenate([_fit_weights(pool), jnp.zeros_like(held.weights)]),
        weights=held.weights,
        floor=resolution * (1.0 if is_classes else jnp.sum(jnp.var(pool.targets, axis=1))),
        errors=errors,
        is_classes=is_classes,
        has_members=has_members,
    )
    inputs = jax.tree.map(lambda *own: jnp.concatenate(own), pool.inputs, held.inputs)
    sizes = jnp.ceil(net.sizes())

    def at(sizes: PerGroup) -> Sequence[_Units]:
        return eqx.tree_at(lambda own: own.controller.weight, net, sizes).activations(inputs)

    actives = at(sizes)
    before = [_before(bench, at, actives, sizes, group, look_ahead) for group in range(len(actives) - 1)]
    most = sizes[-1] + look_ahead
    rows, residuals = bench.of_prefixes(actives[-1], sizes[-1], most)
    own, strengths = bench.chosen(rows, jnp.arange(rows.shape[1], dtype=sizes.dtype), sizes[-1], most)
    return Judgement(jnp.stack([*before, own]), residuals[strengths[sizes[-1].astype(int)]])


def _before(
    bench: _Bench,
    at: Callable[[PerGroup], Sequence[_Units]],
    actives: Sequence[_Units],
    sizes: PerGroup,
    group: int,
    look_ahead: int,
) -> Scalar:
    """The units that a group before the last should have."""
    last, active, own = actives[-1], actives[group], sizes[group]
    present = (jnp.arange(float(len(last))) < sizes[-1]).astype(last.dtype)[:, None]
    fewer = jnp.array(FEWER, sizes.dtype)
    without = lambda less: at(sizes.at[group].add(-jnp.minimum(less, own)))[-1] * present  # noqa: E731
    below = jax.lax.map(lambda less: bench.of_all(without(less)), fewer)
    ahead = own + jnp.arange(look_ahead, dtype=sizes.dtype)
    further = jnp.where(
        (ahead < len(active))[:, None], active[jnp.minimum(ahead, len(active) - 1).astype(int)], 0.0
    )
    place = sizes[-1].astype(int)
    beside = jnp.pad(last * present, ((0, look_ahead), (0, 0)))  # the further ones after those present
    beside = jax.lax.dynamic_update_slice(beside, further, (place, 0))
    above = bench.of_prefixes(beside, sizes[-1], sizes[-1] + look_ahead)[0]
    above = jax.lax.dynamic_slice_in_dim(above, place, look_ahead + 1, axis=1)
    rows = jnp.concatenate([jnp.moveaxis(below, 0, 1), above], axis=1)
    units = own + jnp.concatenate([-fewer, jnp.arange(look_ahead + 1, dtype=sizes.dtype)])
    return bench.chosen(rows, units, own, jnp.asarray(float(len(active))))[0]


def _fit_weights(pool: Pool) -> Float[Array, " samples"]:
    given = pool.held and pool.held.fit
    return jnp.ones(pool.targets.shape[1]) if given is None else given


def _pooled(own: Array) -> Array:
    """The rows of all members, one after another."""
    return jax.lax.all_gather(own, MEMBERS, axis=own.ndim - 1, tiled=True)
