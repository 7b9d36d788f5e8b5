"""Growth: information moves the sizes of any grown model, as `sizing` moves those of a `GrowingMLP`."""

from dataclasses import dataclass, fields
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from n3.config.experiment import InformationConfig
from n3.information import gaussian
from n3.information.sizing import InformationDrive
from n3.nn.controllers import Information
from n3.tracing import groups
from n3.tracing.grow import Grown
from n3.tracing.trace import activations

TILE = 128
"""Samples whose activations are computed at once."""
POOL = 2048
"""Training samples at which the units are looked, at most."""
SETTLED = 1e-3
"""Units from its aim at which a size counts as arrived; the participation changes by less than a thousandth."""


class GrowthState(eqx.Module):
    """What stays between two looks: the units that each size is drawn to, and a gradient for the unborn."""

    best: Float[Array, " groups"]
    gradient: PyTree
    """Of the model's parameters."""


class Prices(eqx.Module):
    """What a further unit must bring, in nats per sample: so much, and so much for each of its parameters."""

    unit: Float[Array, ""]
    parameter: Float[Array, ""]
    inputs: Float[Array, ""]
    """Effective inputs of the model."""


class Pool(eqx.Module):
    """Training samples at which the units are looked."""

    inputs: Array
    targets: Float[Array, "code samples"]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What of growth by information fixes the program; hashable, static under `jit`."""

    drive: InformationDrive
    birth: float
    """Weight of the information of units about to be born, at the start."""
    rate: float
    """Units by which a step moves a size, at most."""

    def start(self, grown: Grown) -> GrowthState:
        """The state before the first look: no pull, no gradient."""
        zero = jax.tree.map(jnp.zeros_like, eqx.filter(grown.model, eqx.is_inexact_array))
        return GrowthState(_weight(grown), zero)

    def is_due(self, done: int) -> bool:
        """Whether the step after `done` steps begins with a look."""
        return done % self.drive.every == 0 and done < self.drive.until

    @eqx.filter_jit
    def look(
        self, grown: Grown, moments: PyTree, pool: Pool, prices: Prices, count: Int[Array, ""]
    ) -> tuple[Grown, PyTree, GrowthState]:
        """Put the units into greedy order, and find the sizes that are worth most.

        Args:
            grown: The model.
            moments: The optimiser's moments, permuted as the model is.
            pool: Training samples.
            prices: Prices of a unit.
            count: Steps taken so far.

        Returns:
            The same function with its units in greedy order, its moments, and the state.
        """
        sizes, found = grown.sizes(), grown.structure
        links = jax.grad(lambda own: groups.parameter_count(found, own, prices.inputs))(sizes)
        best = []
        for group, active in enumerate(_activations(grown, pool.inputs)):
            order, worth = self.drive.worth_of(active, pool.targets, sizes[group])
            grown, moments = permute_grown(grown, group, order), permute_grown(moments, group, order)
            price = prices.unit + prices.parameter * links[group]
            best.append(self.drive.best_size(sizes[group], worth, price))
        return grown, moments, GrowthState(jnp.stack(best), self._births(grown, pool, count))

    def _births(self, grown: Grown, pool: Pool, count: Int[Array, ""]) -> PyTree:
        """Gradient of the information of units not yet born, for the parameters that make them alone."""
        indices = [jnp.arange(units, dtype=jnp.float32) for units in grown.structure.capacity]
        born = [jnp.floor(size) for size in grown.sizes()]
        share = self.birth * (1.0 - count.astype(jnp.float32) / max(self.drive.birth_until, 1))
        zero = self.start(grown).gradient

        @eqx.filter_grad
        def promised(model: PyTree) -> Float[Array, ""]:
            own = eqx.tree_at(lambda g: g.model, grown, model)
            total = jnp.zeros(())
            for index, first, active in zip(indices, born, _activations(own, pool.inputs), strict=True):
                ahead = (index < first + self.drive.look_ahead + 1).astype(jnp.float32)
                moments = gaussian.statistics(active, pool.targets, is_classes=self.drive.is_classes)
                channel = gaussian.open_channel(moments, gaussian.channel_noise(ahead))
                total -= share * gaussian.gaussian_information(channel)
            return total

        def of_unborn() -> PyTree:
            shares = [(index >= first).astype(jnp.float32) for index, first in zip(indices, born, strict=True)]
            return groups.made_by(promised(grown.model), grown.structure, shares)

        return jax.lax.cond(count < self.drive.birth_until, of_unborn, lambda: zero)

    def added(self, gradient: Grown, grown: Grown, state: GrowthState) -> Grown:
        """The task's gradient with that of the unborn and the pull `clip(N - N*, -1, 1)` on every size."""
        model = jax.tree.map(jnp.add, gradient.model, state.gradient)
        pull = jnp.clip(_weight(grown) - state.best, -1.0, 1.0)
        own = _weight(gradient) + pull
        return eqx.tree_at(lambda g: (g.model, g.controller.weight), gradient, (model, own))

    def paced(self, updates: Grown, gradient: Grown) -> Grown:
        """The optimiser's updates, with plain gradient descent for the sizes, which must have no momentum."""
        return eqx.tree_at(_weight, updates, -self.rate * _weight(gradient))

    def settled(self, grown: Grown, state: GrowthState) -> Grown:
        """The model with each size that has come within `SETTLED` of the units it is drawn to at just these."""
        weight = _weight(grown)
        is_there = jnp.abs(weight - state.best) < SETTLED
        return eqx.tree_at(_weight, grown, jnp.where(is_there, state.best, weight))


def growth_of(settings: InformationConfig, *, steps: int, is_classes: bool) -> Growth:
    """Growth by the settings of method `information`.

    Raises:
        ValueError: If a setting is not the default that only whole experiments can change.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name in ONLY_EXPERIMENTS and value != field.default:
            raise ValueError(f"`{field.name}` must be left at {field.default!r} in `fit`; got {value!r}.")
    if settings.path or settings.price == "chi-square":
        raise ValueError(f"`price` must be a number or description-length in `fit`; got {settings.price!r}.")
    drive = InformationDrive(
        is_classes=is_classes,
        every=settings.every,
        look_ahead=settings.look_ahead,
        reorder=settings.reorder,
        until=int(np.ceil(settings.settle * steps)),
        birth_until=int(np.ceil(settings.birth_end * steps)) if settings.birth else 0,
        redundancy_aware=settings.redundancy_aware,
        correct=settings.correct,
    )
    return Growth(drive=drive, birth=settings.birth, rate=settings.size_rate)


def prices_of(settings: InformationConfig, samples: int, inputs: Array) -> Prices:
    """Prices of a unit, as of `n3.information.price_of`: a number of nats, or `ln(n) / 4n` for each parameter.

    Args:
        settings: Holds the price and its scale.
        samples: Training samples `n`.
        inputs: Some of their inputs; their covariance's participation ratio is the number of effective ones.
    """
    own = np.asarray(inputs, float).reshape(len(inputs), -1)
    own = own - own.mean(axis=0)
    products = own @ own.T if own.shape[0] < own.shape[1] else own.T @ own
    effective = np.trace(products) ** 2 / max(np.sum(products**2), np.finfo(float).tiny)
    unit, parameter = 0.0, np.log(samples) / (4 * samples)
    if not isinstance(settings.price, str):
        unit, parameter = settings.price, 0.0
    scaled = (settings.price_scale * value for value in (unit, parameter))
    return Prices(*(jnp.asarray(value, jnp.float32) for value in (*scaled, effective)))


def permute_grown(tree: PyTree, group: int, order: Int[Array, " units"]) -> PyTree:
    """A tree with the units of a group in another order, in every grown model that it holds."""

    def is_grown(node: PyTree) -> bool:
        return isinstance(node, Grown)

    def of_grown(node: PyTree) -> PyTree:
        if not is_grown(node):
            return node
        model = groups.permute_channels(node.model, node.structure, group, order)
        return Grown(model, node.controller, node.structure)

    return jax.tree.map(of_grown, tree, is_leaf=is_grown)


ONLY_EXPERIMENTS = (
    "select",
    "price_start",
    "budget",
    "importance",
    "psi",
    "redundancy",
    "structure",
    "features",
)


def _activations(grown: Grown, inputs: Array) -> list[Float[Array, "_units samples"]]:
    """Units of every group in every sample, tile by tile; what a tile computes is not kept for gradients."""
    model = grown.masked()

    @jax.checkpoint
    def one(sample: Array) -> tuple[Array, ...]:
        return activations(model, grown.structure, (sample,))

    return [each.T for each in jax.lax.map(one, inputs, batch_size=min(TILE, len(inputs)))]


def _weight(grown: Grown):
    return cast(Information, grown.controller).weight
