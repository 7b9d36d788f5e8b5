"""Measures: what the units of a layer say about the target and about each other, in nats."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from n3.config import validation
from n3.config.criteria import Criterion, parse
from n3.information import gaussian, nearest_neighbours
from n3.information.gaussian import Activations, Channel, PerUnit, Scalar, Targets
from n3.nn.metrics import predicted_class
from n3.nn.sized import AbstractSized, Inputs

Importance = Callable[[Float[Array, "samples units"], Float[Array, "samples out_size"]], Float[Array, " units"]]
"""A user's importance of each unit, from a layer's activations and the targets, samples first."""


class HeldOut(eqx.Module):
    """Samples that a network has not trained on."""

    inputs: Inputs
    targets: Float[Array, "out_size samples"]
    weights: Float[Array, " samples"]
    """1 where all count alike, or 0 for a sample that only fills up."""
    fit: Float[Array, " trained"] | None = None
    """Weights of the samples that it has trained on, in the read-outs that these judge; None: all the same."""


class Pool(eqx.Module):
    """Samples at which units are measured."""

    inputs: Inputs
    targets: Float[Array, "out_size samples"]
    """Numbers, or classes as one-hot rows or one row of 0 and 1."""
    held: HeldOut | None = None
    """Samples that sizes are judged by; None: by those above."""


@dataclass
class LayerView:
    """One hidden layer as measures see it, at the resolution of monitoring; each quantity is computed once."""

    active: Activations
    """Activations before the mask; zero for units that are taken as absent."""
    targets: Targets
    mask: PerUnit
    is_classes: bool

    @cached_property
    def information(self) -> gaussian.LayerInformation:
        """What units and layer say, in nats."""
        return _monitored(self.active, self.targets, self.mask, is_classes=self.is_classes)

    def corrected(self, own: PerUnit, others: PerUnit) -> PerUnit:
        """A unit's information less the bias of the degrees of freedom that it adds to those of others."""
        outputs, samples = max(self.targets.shape[0] - self.is_classes, 1), self.targets.shape[1]
        with_it = gaussian.corrected(own, others + self.information.degrees, samples, outputs)
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
            unit=lambda of: of.corrected(
                of.information.conditional, of.information.effective_units - of.information.degrees
            ),
            layer=lambda of: of.information.corrected_importance,
        ),
        "marginal": LayerMeasure(
            unit=lambda of: of.corrected(of.information.marginal, jnp.zeros_like(of.mask))
        ),
        "entropy": LayerMeasure(
            unit=lambda of: of.information.entropies,
            layer=lambda of: jnp.sum(of.information.entropies) - of.information.total_correlation,
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
`layer.<name>`. To add one, add its entry here.

Of a unit, `importance` is what no other unit says of the target (`information.conditional_importance`) and
`marginal` what it says alone (`information.marginal_importance`), both with the bias taken off. `redundancy` is
what the others say of it (`information.redundancy`). `entropy` is 0 for a unit that is constant or takes no
part, 4.6 for one that does fully.

Of a layer, `importance` is what its masked units say together, bias taken off, and `redundancy` their total
correlation. `entropy` is what the masked layer says of its units, `logdet(S / noise) / 2`. `structure` is the
entropy of the masks, and `gap` what the function `gap` says."""


OF_UNITS: tuple[str, ...] = tuple(name for name, own in MEASURES.items() if own.unit)
"""Names of a unit's measures in a criterion."""
OF_LAYERS: tuple[str, ...] = (*(f"layer.{name}" for name, own in MEASURES.items() if own.layer), "layer.gain")
"""Names of a layer's measures in a criterion; `layer.gain` is its importance over that of the layer before."""


def check_monitor(names: Iterable[str]) -> None:
    """Refuse a name in a `monitor` that is no measure of a layer, with a ValueError."""
    validation.among("monitor", names, known=tuple(name for name, own in MEASURES.items() if own.layer))


def criterion_of(text: str) -> Criterion:
    """The criterion of a text (`n3.config.criteria`); a ValueError if it cannot be read or names no measure."""
    criterion = parse(text)
    validation.among("criterion", sorted(criterion.names()), known=OF_UNITS + OF_LAYERS)
    return criterion


def check_prune(text: str) -> None:
    """Refuse a text that does not say which units a run prunes, with a ValueError."""
    try:
        names = criterion_of(text).names()
    except ValueError as error:
        raise ValueError(f"`prune` must be a criterion of units: {error}") from error
    if names <= set(OF_LAYERS):
        raise ValueError(f"`prune` must name units, since layers stay; got {text!r}.")


class Measured(eqx.Module):
    """What is known of one hidden layer and its units, by name."""

    units: dict[str, Float[Array, " units"]]
    layer: dict[str, Float[Array, ""]]


def measure_units(
    active: Activations,
    targets: Targets,
    mask: PerUnit,
    is_there: PerUnit,
    *,
    is_classes: bool,
    names: tuple[str, ...] | None = None,
    custom: Importance | None = None,
) -> Measured:
    """Measures of one hidden layer, by names in `MEASURES` (None: all that are not costly).

    The activations are from before the mask; `is_there` is 1 for the units to be judged together, 0 for those
    taken as absent. A user's importance of each unit, times its participation, takes the place of the built-in
    one; the layer's is then the sum.
    """
    names = tuple(name for name, own in MEASURES.items() if not own.is_costly) if names is None else names
    found = _measured(active, targets, mask, is_there, is_classes=is_classes, names=names)
    if custom is None or "importance" not in names:
        return found
    own = custom(active.T, targets.T) * mask * is_there
    return Measured({**found.units, "importance": own}, {**found.layer, "importance": jnp.sum(own)})


def _monitored(active, targets, mask, *, is_classes: bool) -> gaussian.LayerInformation:
    seen = {"floor": gaussian.MONITORING_FLOOR, "resolution": gaussian.MONITORING_RESOLUTION}
    return gaussian.layer_information(active, targets, mask, is_classes=is_classes, **seen)


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
        return {f"{name}_term": own for name, own in vars(self).items()}


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
    `-alpha g (H - psi (H - I))`, `rho g TC` and `gamma g KL(m, before)`; what units cost is not descended. The
    masks `before` are the present ones by default (None). With `features` importance and redundancy have a
    gradient in the features as well as in the masks. Of a user's importance of each unit (`custom`), `alpha g`
    times their sum, each times its participation, takes the place of the built-in one, in the user's unit and
    without `psi`.
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
        gain = gain if custom is None else jnp.sum(custom(seen.T, targets.T) * own)
        moved = gaussian.structural_divergence(own, past)
        rows.append(jnp.stack([-gain, gaussian.total_correlation(channel), moved]) * gate)
    each = weights.importance, weights.redundancy, weights.structure
    return InformationTerms(*(own * row for own, row in zip(each, jnp.stack(rows, axis=1), strict=True)))


def check_importance(
    custom: Importance, activations: Float[Array, "samples units"], targets: Float[Array, "samples out_size"]
) -> None:
    """Call a user's importance once, before anything is compiled, on some layer's activations.

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


def masked_channel(active: Activations, targets: Targets, mask: PerUnit, *, is_classes: bool) -> Channel:
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
    psi: float = 1.0
    """Price of what stays uncertain, more than 0 (`information.importance`)."""
    custom: Importance | None = None
    """A user's importance of each unit: `importance` is then their sum, each times its participation, in the
    user's unit and without `psi`."""

    def __call__(self, net: AbstractSized, pool: Pool) -> dict[str, Float[Array, " layers"]]:
        """Nats of each hidden layer, by name, at some samples: more than three for `gap`."""
        settings = {"is_classes": self.is_classes, "names": self.names, "custom": self.custom}
        pairs = zip(net.activations(pool.inputs), net.participation(), strict=True)
        each = [measure_units(own, pool.targets, mask, jnp.ones_like(mask), **settings) for own, mask in pairs]
        found = {name: jnp.stack([own.layer[name] for own in each]) for name in self.names}
        if self.custom is not None or "importance" not in self.names:
            return found
        seen = {"is_classes": self.is_classes, "resolution": gaussian.MONITORING_RESOLUTION}
        bound = gaussian.entropy(pool.targets, **seen)
        return found | {"importance": gaussian.importance(found["importance"], bound, psi=self.psi)}


def gap(active: Activations, targets: Targets, mask: PerUnit, *, is_classes: bool) -> Scalar:
    """What a layer says of the target by nearest neighbours, less what it says by the Gaussian estimate.

    Both see the same three directions of the masked layer. First the linear read-out (of several numbers or
    classes its two leading directions): all that the Gaussian estimate could use of however many units, so that
    nothing is held against it that it sees elsewhere. Then the leading principal directions, which do not
    depend on the target and show what it does not see. Several numbers count by their two leading directions.
    The noise of the training estimate (variances `information.FLOOR` and `information.RESOLUTION`) is drawn
    on, for ties and noiseless relations. What lies in none of these directions, neither sees. Activations are
    from before the mask; the first 512 samples of a fixed shuffle are used.

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
    linear = _monitored(units, targets, jnp.ones_like(units[:, 0]), is_classes=is_classes).corrected_importance
    if not is_classes:
        return nearest_neighbours.kraskov(units, targets) - linear
    return nearest_neighbours.ross(units, predicted_class(targets)) - linear


def blindness(gaps: Mapping[str, Float[np.ndarray, "seeds layers"]]) -> str | None:
    """A sentence that names the arms and layers of which the Gaussian estimate misses more than `BLIND`.

    It says the median over the seeds, but for runs that are not finite, of each arm's gaps at its last step, in
    nats; None where there is no such layer.
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
    weights = masked_channel(active, targets, mask, is_classes=is_classes).weights
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
