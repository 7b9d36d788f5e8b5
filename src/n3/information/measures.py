"""Measures: what criteria name of a hidden layer and of each of its units, in nats."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from n3.information import gaussian


class Measured(eqx.Module):
    """What is known of one hidden layer and its units, by name."""

    units: dict[str, Float[Array, " units"]]
    layer: dict[str, Float[Array, ""]]


@eqx.filter_jit
def measured(
    active: Float[Array, "units samples"],
    targets: Float[Array, "out_size samples"],
    mask: Float[Array, " units"],
    is_there: Float[Array, " units"],
    *,
    is_classes: bool,
) -> Measured:
    """The quantities that criteria name, in nats but for `participation`.

    A unit's `importance` is `information.conditional_importance`, what no other unit says of the target, and
    its `marginal` is `information.marginal_importance`, what it says alone, both with the bias taken off
    (`information.corrected`); its `redundancy` is `information.redundancy`, what the others say of it; its
    `entropy` is `ln(S_jj / noise_j) / 2`, 0 for a unit that is constant or takes no part, 4.6 for one that does
    fully. A layer's `importance`, `entropy` and `redundancy` are those of `n3.information.monitor`. All are seen at the
    resolution of monitoring, through the noise of the participation.

    Args:
        active: Activations before the mask.
        targets: Targets of the same samples.
        mask: Participation of each unit.
        is_there: 1 for the units to be judged together, 0 for those taken as absent.
        is_classes: Whether the targets are classes.
    """
    active = active * is_there[:, None]
    noise = gaussian.channel_noise(mask, floor=gaussian.MONITORING_FLOOR)
    seen = {"floor": gaussian.MONITORING_FLOOR, "resolution": gaussian.MONITORING_RESOLUTION}
    whole = gaussian.layer_information(active, targets, mask, is_classes=is_classes, **seen)
    moments = gaussian.statistics(active, targets, is_classes=is_classes)
    channel = gaussian.open_channel(moments, noise, resolution=gaussian.MONITORING_RESOLUTION)
    scales = jnp.diagonal(channel.covariance)
    outputs = moments.cross.shape[1] - is_classes

    def unbiased(own: Float[Array, " units"], others: Float[Array, " units"]) -> Float[Array, " units"]:
        """Less the bias of the degrees of freedom that a unit adds to those of others."""
        with_it = gaussian.corrected(own, others + degrees, moments.samples, outputs)
        return with_it - gaussian.corrected(jnp.zeros_like(own), others, moments.samples, outputs)

    entropies = 0.5 * jnp.log(scales / noise)
    degrees = 1.0 - noise * jnp.sum(channel.whitening**2, axis=0)
    units = {
        "importance": unbiased(whole.conditional, jnp.sum(degrees) - degrees),
        "marginal": unbiased(whole.marginal, jnp.zeros_like(degrees)),
        "entropy": entropies,
        "redundancy": whole.redundancy,
        "participation": mask,
    }
    layer = {
        "layer.importance": whole.corrected_importance,
        "layer.entropy": jnp.sum(entropies) - whole.total_correlation,
        "layer.redundancy": whole.total_correlation,
    }
    return Measured(units, layer)
