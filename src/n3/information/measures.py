"""Measures: what the units of a layer say about the target and about each other, in nats."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int

from n3.information import gaussian, nearest_neighbours
from n3.nn.sized import AbstractSized

Importance = Callable[[Float[Array, "samples units"], Float[Array, "samples out_size"]], Float[Array, " units"]]
"""A user's importance of each unit, from a layer's activations and the targets, samples first."""


class Pool(eqx.Module):
    """Samples at which units are measured."""

    inputs: Float[Array, "samples ..."] | Int[Array, "samples ..."]
    targets: Float[Array, "out_size samples"]
    """Numbers, or classes as one-hot rows or one row of 0 and 1."""


@dataclass
class LayerView:
    """One hidden layer as measures see it, at the resolution of monitoring; each quantity is computed once."""

    active: Float[Array, "units samples"]
    """Activations before the mask; zero for units that are taken as absent."""
    targets: Float[Array, "out_size samples"]
    mask: Float[Array, " units"]
    is_classes: bool

    @cached_property
    def noise(self) -> Float[Array, " units"]:
        """Noise of each unit's participation."""
        return gaussian.channel_noise(self.mask, floor=gaussian.MONITORING_FLOOR)

    @cached_property
    def information(self) -> gaussian.LayerInformation:
        """What units and layer say, in nats."""
        seen = {"floor": gaussian.MONITORING_FLOOR, "resolution": gaussian.MONITORING_RESOLUTION}
        return gaussian.layer_information(
            self.active, self.targets, self.mask, is_classes=self.is_classes, **seen
        )

    @cached_property
    def moments(self) -> gaussian.LayerStatistics:
        """Second moments of units and target."""
        return gaussian.statistics(self.active, self.targets, is_classes=self.is_classes)

    @cached_property
    def channel(self) -> gaussian.Channel:
        """The layer through its noise."""
        return gaussian.open_channel(self.moments, self.noise, resolution=gaussian.MONITORING_RESOLUTION)

    @cached_property
    def entropies(self) -> Float[Array, " units"]:
        """`ln(S_jj / noise_j) / 2` of each unit."""
        return 0.5 * jnp.log(jnp.diagonal(self.channel.covariance) / self.noise)

    @cached_property
    def degrees(self) -> Float[Array, " units"]:
        """Degrees of freedom of each unit."""
        return 1.0 - self.noise * jnp.sum(self.channel.whitening**2, axis=0)

    def corrected(self, own: Float[Array, " units"], others: Float[Array, " units"]) -> Float[Array, " units"]:
        """A unit's information less the bias of the degrees of freedom that it adds to those of others."""
        outputs, samples = self.moments.cross.shape[1] - self.is_classes, self.moments.samples
        with_it = gaussian.corrected(own, others + self.degrees, samples, outputs)
        return with_it - gaussian.corrected(jnp.zeros_like(own), others, samples, outputs)


@dataclass(frozen=True, kw_only=True)
class LayerMeasure:
    """A quantity of each unit, of the whole layer, or of both; in nats but for participation."""

    unit: Callable[[LayerView], Float[Array, " units"]] | None = None
    layer: Callable[[LayerView], Float[Array, ""]] | None = None
    is_costly: bool = False
    """Whether it is computed only where it is named: its cost grows with the square of the samples."""


MEASURES: Mapping[str, LayerMeasure] = MappingProxyType(
    {
        "importance": LayerMeasure(
            unit=lambda of: of.corrected(of.information.conditional, jnp.sum(of.degrees) - of.degrees),
            layer=lambda of: of.information.corrected_importance,
        ),
        "marginal": LayerMeasure(
            unit=lambda of: of.corrected(of.information.marginal, jnp.zeros_like(of.degrees))
        ),
        "entropy": LayerMeasure(
            unit=lambda of: of.entropies,
            layer=lambda of: jnp.sum(of.entropies) - of.information.total_correlation,
        ),
        "redundancy": LayerMeasure(
            unit=lambda of: of.information.redundancy, layer=lambda of: of.information.total_correlation
        ),
        "participation": LayerMeasure(unit=lambda of: of.mask),
        "structure": LayerMeasure(layer=lambda of: gaussian.structural_entropy(of.mask)),
        "gap": LayerMeasure(
            layer=lambda of: gap(of.active, of.targets, of.mask, is_classes=of.is_classes), is_costly=True
        ),
    }
)
"""Every measure by name. Criteria and the monitor know it by the same name, a layer's in a criterion as
`layer.<name>` (`n3.config.criteria`).

Of a unit, `importance` is what no other unit says of the target (`information.conditional_importance`) and
`marginal` what it says alone (`information.marginal_importance`), both with the bias taken off. `redundancy` is
what the others say of it (`information.redundancy`). `entropy` is 0 for a unit that is constant or takes no
part, 4.6 for one that does fully.

Of a layer, `importance` is what its masked units say together, bias taken off, and `redundancy` their total
correlation. `entropy` is what the masked layer says of its units, `logdet(S / noise) / 2`. `structure` is the
entropy of the masks, and `gap` what the function `gap` says."""


class Measured(eqx.Module):
    """What is known of one hidden layer and its units, by name."""

    units: dict[str, Float[Array, " units"]]
    layer: dict[str, Float[Array, ""]]


def measure_units(
    active: Float[Array, "units samples"],
    targets: Float[Array, "out_size samples"],
    mask: Float[Array, " units"],
    is_there: Float[Array, " units"],
    *,
    is_classes: bool,
    names: tuple[str, ...] | None = None,
    custom: Importance | None = None,
) -> Measured:
    """Measures of one hidden layer.

    Args:
        active: Activations before the mask.
        targets: Targets of the same samples.
        mask: Participation of each unit.
        is_there: 1 for the units to be judged together, 0 for those taken as absent.
        is_classes: Whether the targets are classes.
        names: Names in `MEASURES`; None: all that are not costly.
        custom: A user's importance of each unit in place of the built-in one, times its participation; the
            layer's is then the sum.
    """
    names = tuple(name for name, own in MEASURES.items() if not own.is_costly) if names is None else names
    found = _measured(active, targets, mask, is_there, is_classes=is_classes, names=names)
    if custom is None or "importance" not in names:
        return found
    own = custom(active.T, targets.T) * mask * is_there
    return Measured({**found.units, "importance": own}, {**found.layer, "importance": jnp.sum(own)})


@eqx.filter_jit
def _measured(active, targets, mask, is_there, *, is_classes: bool, names: tuple[str, ...]) -> Measured:
    layer = LayerView(active * is_there[:, None], targets, mask, is_classes)
    chosen = {name: MEASURES[name] for name in names}
    return Measured(
        {name: own.unit(layer) for name, own in chosen.items() if own.unit},
        {name: own.layer(layer) for name, own in chosen.items() if own.layer},
    )


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


class InformationTerms(eqx.Module):
    """The terms of every hidden layer, each already weighted, loss units."""

    importance: Float[Array, "*records layers"]
    redundancy: Float[Array, "*records layers"]
    structure: Float[Array, "*records layers"]

    def total(self) -> Float[Array, ""]:
        """Their sum over terms and layers, of one network."""
        return jnp.sum(self.importance + self.redundancy + self.structure)

    def named(self) -> dict[str, Float[Array, "*records layers"]]:
        """The terms by the names that they are recorded under."""
        names = InformationTerms.__dataclass_fields__
        return {f"{name}_term": getattr(self, name) for name in names}


def information_terms(
    net: AbstractSized,
    pool: Pool,
    weights: TermWeights,
    *,
    before: Sequence[Float[Array, " _capacity"]] | None = None,
    is_classes: bool,
    features: bool = False,
    custom: Importance | None = None,
) -> InformationTerms:
    """What the objective says of every hidden layer beside the task's loss.

    Of a layer with gate `g`, masks `m`, and `I`, `TC` and `KL` as in `n3.information.gaussian`:
    `-alpha g (H - psi (H - I))`, `rho g TC` and `gamma g KL(m, before)`; what units cost is not descended.

    Args:
        net: The network.
        pool: Samples.
        weights: Weights of the terms.
        before: Masks of every layer from which the divergence is taken; None: the present ones.
        is_classes: Whether the targets are classes.
        features: Whether importance and redundancy have a gradient in the features as well as in the masks.
        custom: A user's importance of each unit: `alpha g` times their sum, each times its participation, takes
            the place of the built-in one, in the user's unit and without `psi`.
    """
    targets, masks = pool.targets, net.participation()
    entropy = gaussian.entropy(targets, is_classes=is_classes)
    rows, fixed = [], jax.lax.stop_gradient(masks if before is None else tuple(before))
    for active, own, past, gate in zip(net.activations(pool.inputs), masks, fixed, net.gates(), strict=True):
        seen = active if features else jax.lax.stop_gradient(active)
        channel = masked_channel(seen, targets, own, is_classes=is_classes)
        known = gaussian.gaussian_information(channel)
        known = jnp.minimum(known, entropy) if is_classes else known  # no more than there is to know
        gain = gaussian.importance(known, entropy, psi=weights.psi)
        known = gain if custom is None else jnp.sum(custom(seen.T, targets.T) * own)
        total = gaussian.total_correlation(channel)
        moved = gaussian.structural_divergence(own, past)
        rows.append(jnp.stack([-known, total, moved]) * gate)
    each = weights.importance, weights.redundancy, weights.structure
    return InformationTerms(*(own * row for own, row in zip(each, jnp.stack(rows, axis=1), strict=True)))


def check_importance(
    custom: Importance, activations: Float[Array, "samples units"], targets: Float[Array, "samples out_size"]
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
    if own.shape != activations.shape[1:]:
        raise ValueError(f"`importance` must return shape {activations.shape[1:]}; got {own.shape}.")
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


BLIND = 0.2
"""Nats of gap, as the median over seeds at the last step, from which a run warns: about four times what the
estimates scatter by, for one seed."""
GAP_SAMPLES = 512
"""Samples that the gap is estimated from, at most: its cost and memory grow with their square."""
READ_OUT = 2
"""Directions of the linear read-out among those that the gap is estimated in, at most."""
PRINCIPAL = 0.5
"""Standard deviation of the leading principal direction, the target having 1: the less, the less do neighbours
lose of a linear relation (0.02 nats of 0.8 with 12 units; 0.07 at 1), and the less do they see of a fold."""
_ROUNDS = 32


@dataclass(frozen=True, kw_only=True)
class LayerMonitor:
    """What to record of every layer of a network; hashable, static under `jit`."""

    names: tuple[str, ...]
    """Measures of a layer, by their names in `MEASURES`; `importance` at the price `psi`."""
    is_classes: bool
    """Whether the targets are classes."""
    psi: float = 1.0
    """Price of what stays uncertain, more than 0 (`information.importance`)."""
    custom: Importance | None = None
    """A user's importance of each unit: `importance` is then their sum, each times its participation, in the
    user's unit and without `psi`."""

    def __call__(self, net: AbstractSized, pool: Pool) -> dict[str, Float[Array, " layers"]]:
        """Nats of each hidden layer, by name.

        Args:
            net: The network.
            pool: What it is looked at on, more than three samples for `gap`.
        """
        pairs = zip(net.activations(pool.inputs), net.participation(), strict=True)
        each = [self._of_layer(active, mask, pool.targets) for active, mask in pairs]
        return {name: jnp.stack([layer[name] for layer in each]) for name in self.names}

    def _of_layer(self, active, mask, targets) -> dict[str, Float[Array, ""]]:
        settings = {"is_classes": self.is_classes, "names": self.names, "custom": self.custom}
        found = measure_units(active, targets, mask, jnp.ones_like(mask), **settings).layer
        if self.custom is not None or "importance" not in self.names:
            return found
        bound = gaussian.entropy(targets, is_classes=self.is_classes, resolution=gaussian.MONITORING_RESOLUTION)
        return found | {"importance": gaussian.importance(found["importance"], bound, psi=self.psi)}


def gap(
    active: Float[Array, "units samples"],
    targets: Float[Array, "out_size samples"],
    mask: Float[Array, " units"],
    *,
    is_classes: bool,
) -> Float[Array, ""]:
    """What a layer says of the target by nearest neighbours, less what it says by the Gaussian estimate.

    Both see the same three directions of the masked layer. First the linear read-out (of several numbers or
    classes its two leading directions): all that the Gaussian estimate could use of however many units, so that
    nothing is held against it that it sees elsewhere. Then the leading principal directions, which do not
    depend on the target and show what it does not see. Several numbers count by their two leading directions.
    The noise of the training estimate (variances `information.FLOOR` and `information.RESOLUTION`) is drawn
    on, for ties and noiseless relations. What lies in none of these directions, neither sees.

    Args:
        active: Activations before the mask.
        targets: Targets of the same samples: numbers; or classes, as one-hot rows or one row of 0 and 1. The
            first 512 of a fixed shuffle are used.
        mask: Participation of each unit, in `[0, 1]`.
        is_classes: Whether the targets are classes.

    Returns:
        Nats: about 0 where second moments tell all, more where they do not; below 0 near a noiseless linear
        relation, of which neighbours see less.

    Raises:
        ValueError: If there are three samples or fewer.

    References:
        Kraskov, Stögbauer, Grassberger (2004) for numbers, Ross (2014) for classes: see `kraskov` and `ross`.
    """
    rows = np.random.default_rng(0).permutation(active.shape[1])[:GAP_SAMPLES]
    unit_key, target_key = jr.split(jr.key(0))
    active, targets = active[:, rows], targets[:, rows]
    if not is_classes:
        numbers = _leading(gaussian.standardise(targets), READ_OUT)
        targets = _noisy(numbers, gaussian.RESOLUTION, key=target_key)
    units = _noisy(_directions(active, targets, mask, is_classes), gaussian.FLOOR, key=unit_key)
    linear = gaussian.layer_information(
        units,
        targets,
        jnp.ones_like(units[:, 0]),
        is_classes=is_classes,
        floor=gaussian.MONITORING_FLOOR,
        resolution=gaussian.MONITORING_RESOLUTION,
    ).corrected_importance
    if not is_classes:
        return nearest_neighbours.kraskov(units, targets) - linear
    labels = targets[0].astype(int) if targets.shape[0] == 1 else jnp.argmax(targets, axis=0)
    return nearest_neighbours.ross(units, labels) - linear


def blindness(gaps: Mapping[str, Float[np.ndarray, "seeds layers"]]) -> str | None:
    """A sentence that names the arms and layers of which the Gaussian estimate misses more than `BLIND`.

    Args:
        gaps: Gaps of each arm at its last step, nats; runs that are not finite do not count.

    Returns:
        One line with the median gap over the seeds of each such layer, or None where there is no such layer.
    """
    found = []
    for arm, values in gaps.items():
        for layer, own in enumerate(values.T, start=1):
            known = own[np.isfinite(own)]
            if known.size and np.median(known) > BLIND:
                found.append(f"{arm} layer {layer}: {np.median(known):.2f}")
    sees = "nearest neighbours see more about the target than the Gaussian estimate that moves sizes"
    return f"{sees} (median gap over {BLIND} nats): {'; '.join(found)}" if found else None


def _directions(active, targets, mask, is_classes: bool) -> Float[Array, "directions samples"]:
    """Read-out and leading principal directions of a masked layer: three, where it has as many units."""
    units = gaussian.standardise(active)
    moments = gaussian.statistics(active, targets, is_classes=is_classes)
    weights = gaussian.open_channel(moments, gaussian.channel_noise(mask)).weights
    fitted = jnp.matmul(weights.T, units, precision="highest")
    read_out = _leading(fitted, min(READ_OUT, fitted.shape[0] - is_classes))
    others = _leading(mask[:, None] * units, nearest_neighbours.MAX_DIMENSIONS - read_out.shape[0])
    return jnp.concatenate([read_out, PRINCIPAL * others])


def _leading(rows: Float[Array, "rows samples"], number: int) -> Float[Array, "directions samples"]:
    """Rows projected on their leading principal directions, and scaled down to a leading variance of 1."""
    covariance = jnp.matmul(rows, rows.T, precision="highest") / rows.shape[1]
    first = jr.normal(jr.key(1), (rows.shape[0], min(rows.shape[0], number)), rows.dtype)
    # by subspace iteration and not LAPACK: see `information.whitening`
    directions = jax.lax.fori_loop(0, _ROUNDS, lambda _, d: _orthonormal(covariance @ d), first)
    found = jnp.matmul(directions.T, rows, precision="highest")
    return found / jnp.sqrt(jnp.maximum(jnp.mean(found[0] ** 2), 1.0))


def _orthonormal(columns: Float[Array, "rows directions"]) -> Float[Array, "rows directions"]:
    found = []
    for column in columns.T:
        for other in found:
            column = column - other * jnp.sum(other * column)
        found.append(column / jnp.sqrt(jnp.sum(column**2) + jnp.finfo(column.dtype).tiny))
    return jnp.stack(found, axis=1)


def _noisy(rows, variance: float, *, key):
    return rows + variance**0.5 * jr.normal(key, rows.shape, rows.dtype)
