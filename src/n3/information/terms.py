"""Terms: importance, redundancy, structure and price of an objective, each of every hidden layer."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from n3.information import gaussian
from n3.nn.mlp import GrowingMLP

Importance = Callable[[Float[Array, "units samples"], Float[Array, "out_size samples"]], Float[Array, " units"]]
"""A user's importance of each unit, of a layer's activations and the targets."""


class TermWeights(eqx.Module):
    """Weights of the terms, all traced; zero switches a term off exactly."""

    importance: Float[Array, "*runs"]
    """Weight `alpha` of the information that the masked units have about the target, loss units per nat."""
    psi: Float[Array, "*runs"]
    """Price of what stays uncertain in that information: its gradient is so many times as large."""
    redundancy: Float[Array, "*runs"]
    """Weight `rho` of the total correlation of the masked units, loss units per nat."""
    structure: Float[Array, "*runs"]
    """Weight `gamma` of the divergence of the masks from what they were before, loss units per nat."""
    price: Float[Array, "*runs"]
    """Price of a unit that takes part fully, loss units."""


class InformationTerms(eqx.Module):
    """The terms of every hidden layer, each already weighted, loss units."""

    importance: Float[Array, "*records layers"]
    redundancy: Float[Array, "*records layers"]
    structure: Float[Array, "*records layers"]
    price: Float[Array, "*records layers"]

    def total(self) -> Float[Array, ""]:
        """Their sum over terms and layers, of one network."""
        return self.descended() + jnp.sum(self.price)

    def descended(self) -> Float[Array, ""]:
        """The sum of all but the price."""
        return jnp.sum(self.importance + self.redundancy + self.structure)

    def named(self) -> dict[str, Float[Array, "*records layers"]]:
        """The terms by the names that they are recorded under."""
        names = InformationTerms.__dataclass_fields__
        return {f"{name}_term": getattr(self, name) for name in names}


def information_terms(
    net: GrowingMLP,
    inputs: Float[Array, "in_size samples"],
    targets: Float[Array, "out_size samples"],
    weights: TermWeights,
    *,
    before: Sequence[Float[Array, " _capacity"]] | None = None,
    is_classes: bool,
    features: bool = False,
    custom: Importance | None = None,
) -> InformationTerms:
    """What the objective says of every hidden layer beside the task's loss.

    Of a layer with gate `g`, masks `m`, and `I`, `TC` and `KL` as in `n3.information.gaussian`:
    `-alpha g (H - psi (H - I))`, `rho g TC`, `gamma g KL(m, before)` and `price g sum(m)`.

    Args:
        net: The network.
        inputs: Inputs, a sample a column.
        targets: Their targets: numbers, or classes as one-hot rows or one row of 0 and 1.
        weights: Weights of the terms.
        before: Masks of every layer from which the divergence is taken; None: the present ones.
        is_classes: Whether the targets are classes.
        features: Whether importance and redundancy have a gradient in the features as well as in the masks.
        custom: A user's importance of each unit: `alpha g` times their sum, each times its participation, takes
            the place of the built-in one, in the user's unit and without `psi`.
    """
    entropy, masks = gaussian.entropy(targets, is_classes=is_classes), net.participation()
    rows, fixed = [], jax.lax.stop_gradient(masks if before is None else tuple(before))
    for active, own, past, gate in zip(net.activations(inputs), masks, fixed, net.gates(), strict=True):
        seen = active if features else jax.lax.stop_gradient(active)
        channel = masked_channel(seen, targets, own, is_classes=is_classes)
        gain = gaussian.importance(gaussian.gaussian_information(channel), entropy, psi=weights.psi)
        known = gain if custom is None else jnp.sum(custom(seen, targets) * own)
        total = gaussian.total_correlation(channel)
        moved = gaussian.structural_divergence(own, past)
        rows.append(jnp.stack([-known, total, moved, jnp.sum(own)]) * gate)
    each = weights.importance, weights.redundancy, weights.structure, weights.price
    return InformationTerms(*(own * row for own, row in zip(each, jnp.stack(rows, axis=1), strict=True)))


def check_importance(
    custom: Importance, activations: Float[Array, "units samples"], targets: Float[Array, "out_size samples"]
) -> None:
    """Call a user's importance once, before anything is compiled.

    Args:
        custom: The function.
        activations: Activations of some layer.
        targets: Targets of the same samples.

    Raises:
        ValueError: If it does not return one finite number of 0 or more for each unit.
    """
    own = jnp.asarray(custom(activations, targets))
    if own.shape != activations.shape[:1]:
        raise ValueError(f"`importance` must return shape {activations.shape[:1]}; got {own.shape}.")
    if not jnp.all(jnp.isfinite(own)):
        raise ValueError("`importance` must be finite; got NaN or an infinity.")
    if jnp.any(own < 0):
        raise ValueError(f"`importance` must be zero or more; got {float(own.min()):.3g}.")


def masked_channel(
    active: Float[Array, "units samples"],
    targets: Float[Array, "out_size samples"],
    mask: Float[Array, " units"],
    *,
    is_classes: bool,
) -> gaussian.Channel:
    """A layer seen through the noise of its mask, as training sees it."""
    moments = gaussian.statistics(active, targets, is_classes=is_classes)
    return gaussian.open_channel(moments, gaussian.channel_noise(mask))
