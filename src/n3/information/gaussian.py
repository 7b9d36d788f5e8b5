"""Information: what a layer's units say about the target and about each other, in nats.

A unit is read through a Gaussian channel whose noise rises as its mask falls, so that a mask has a gradient.
It sees what a linear read-out could use, not an XOR, and too much of it: see `corrected`. Activations are from
before the mask; targets are numbers or, where `is_classes`, one-hot rows or one row of 0 and 1.
"""

from types import MappingProxyType

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Activations, Targets, Scalar = Float[Array, "units samples"], Float[Array, "out_size samples"], Float[Array, ""]
PerUnit, Chosen, Number = Float[Array, " units"], Bool[Array, " units"], float | Scalar
_Shaped = Float[Array, "*shape"]
FLOOR, RESOLUTION, KAPPA, MONITORING_FLOOR, MONITORING_RESOLUTION = 1e-3, 1e-2, 1.0, 1e-4, 1e-4
SMALLEST_MASK, SMALLEST_VARIANCE, SMALLEST_PROBABILITY = 1e-4, 1e-6, 1e-6
PSI = MappingProxyType({"classification": 1.2, "generation": 0.8, "regression": 1.0, "detection": 1.1})


class LayerStatistics(eqx.Module):
    """Second moments of a layer's standardised units `t` and its encoded target `y`: `t t^T / n` and so on."""

    covariance: Float[Array, "units units"]
    cross: Float[Array, "units code"]
    target_covariance: Float[Array, "code code"]
    samples: int = eqx.field(static=True)


class Channel(eqx.Module):
    """A layer through noise `nu`: `S = C + diag nu`, `L^-1`, `c`, `W = S^-1 c`, `Cyy`, `Cyy - c^T W`."""

    noise: Float[Array, " units"]
    covariance: Float[Array, "units units"]
    whitening: Float[Array, "units units"]
    cross: Float[Array, "units code"]
    weights: Float[Array, "units code"]
    target: Float[Array, "code code"]
    residual: Float[Array, "code code"]
    given_target: Float[Array, "units units"]


class LayerInformation(eqx.Module):
    """Every quantity of a layer by name, in nats but for `effective_units` and each unit's share, `degrees`."""

    importance: Float[Array, ""]
    corrected_importance: Float[Array, ""]
    marginal: Float[Array, " units"]
    conditional: Float[Array, " units"]
    ordered: Float[Array, " units"]
    redundancy: Float[Array, " units"]
    total_correlation: Float[Array, ""]
    effective_units: Float[Array, ""]
    degrees: Float[Array, " units"]
    entropies: Float[Array, " units"]
    """`ln(S_jj / nu_j) / 2`: 0 for a unit that is constant or takes no part."""


def _product(left, right):
    return jnp.matmul(left, right, precision="highest")  # some accelerators' default loses definiteness


@jax.custom_jvp
@jax.jit  # called by itself, a loop would be compiled anew every time
def whitening(matrix: Float[Array, "rows rows"]) -> Float[Array, "rows rows"]:
    """Inverse `M` of the Cholesky factor of a positive definite matrix, `M matrix M^T = 1`; else NaN."""
    # Blocks, not LAPACK: its batched calls wait for threads that wait for them, and on few cores for ever.
    rows, half = jnp.arange(matrix.shape[0]), matrix.shape[0] // 2
    if rows.size > 32:
        first = whitening(matrix[:half, :half])
        below = _product(matrix[half:, :half], first.T)
        last = whitening(matrix[half:, half:] - _product(below, below.T))
        return jnp.block([[first, jnp.zeros_like(below.T)], [-_product(last, _product(below, first)), last]])

    def _eliminate(both, row):
        return both - jnp.outer(jnp.where(rows > row, both[:, row] / both[row, row], 0.0), both[row]), None

    both = jax.lax.scan(_eliminate, jnp.hstack([matrix, jnp.eye(rows.size, dtype=matrix.dtype)]), rows)[0]
    return both[:, rows.size :] / jnp.sqrt(jnp.diagonal(both))[:, None]


@whitening.defjvp
def _whitening_jvp(primals, tangents):
    root = whitening(primals[0])
    rate = _product(root, _product(tangents[0], root.T))
    return root, -_product(jnp.tril(rate) - 0.5 * jnp.diag(jnp.diagonal(rate)), root)


def _classes(targets):
    rows = jnp.concatenate([1.0 - targets, targets]) if targets.shape[0] == 1 else targets
    return rows, jnp.mean(rows, axis=1)


def standardise(activations: Activations) -> Activations:
    """`(T - mean) / sqrt(var + 1e-6)` of each unit over the samples; a constant unit becomes zero."""
    centred = activations - jnp.mean(activations, axis=1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, axis=1, keepdims=True) + SMALLEST_VARIANCE)


def encode(targets: Targets, *, is_classes: bool) -> Float[Array, "code samples"]:
    """Rows for second moments: standardised numbers, or `(1[Y = k] - p_k) / sqrt(p_k)` of every class."""
    if not is_classes:
        return standardise(targets)
    classes, prior = _classes(targets)
    return (classes - prior[:, None]) / jnp.sqrt(jnp.maximum(prior, SMALLEST_PROBABILITY))[:, None]


def channel_noise(mask: PerUnit, *, floor: float = FLOOR) -> PerUnit:
    """Noise variance `floor + kappa (1 - m) / m`, `m` moved into `[1e-4, 1]`: a dead unit has a gradient."""
    return floor + KAPPA * (1.0 - SMALLEST_MASK) * (1.0 - mask) / (SMALLEST_MASK + (1.0 - SMALLEST_MASK) * mask)


def statistics(activations: Activations, targets: Targets, *, is_classes: bool) -> LayerStatistics:
    """Second moments of a layer and its target, without noise and resolution: all the work over the samples."""
    units, code, samples = standardise(activations), encode(targets, is_classes=is_classes), targets.shape[1]
    pairs = (units, units), (units, code), (code, code)
    return LayerStatistics(*(_product(left, right.T) / samples for left, right in pairs), samples)


def open_channel(statistics: LayerStatistics, noise: PerUnit, *, resolution: float = RESOLUTION) -> Channel:
    """A layer seen through its noise, and a target but for a variance `resolution`: what all below share."""
    cross, covariance = statistics.cross, statistics.covariance + jnp.diag(noise)
    target = statistics.target_covariance + resolution * jnp.eye(cross.shape[1], dtype=cross.dtype)
    root, told = whitening(covariance), _product(whitening(target), cross.T)
    weights = _product(root.T, _product(root, cross))
    residual, given_target = target - _product(cross.T, weights), covariance - _product(told.T, told)
    return Channel(noise, covariance, root, cross, weights, target, residual, given_target)


def entropy(targets: Targets, *, is_classes: bool, resolution: float = RESOLUTION) -> Scalar:
    """Entropy of the target, 0 or more: of labels; or `logdet(Cyy / resolution) / 2`, `Cyy` with resolution."""
    if is_classes:
        prior = _classes(targets)[1]
        return -jnp.sum(prior * jnp.log(jnp.maximum(prior, jnp.finfo(prior.dtype).tiny)))
    code = encode(targets, is_classes=False) / (targets.shape[1] * resolution) ** 0.5
    covariance = _product(code, code.T) + jnp.eye(len(code), dtype=code.dtype)
    return -jnp.sum(jnp.log(jnp.diagonal(whitening(covariance))))


def gaussian_information(channel: Channel) -> Scalar:
    """`I(Z; Y) = (logdet Cyy - logdet Q) / 2`: in `[0, H]` for numbers, not bounded by `H` for classes."""
    weights = jax.lax.stop_gradient(channel.weights)  # the best read-out is stationary: the gradient is exact
    after = channel.target + _product(weights.T, _product(channel.covariance, weights) - 2.0 * channel.cross)
    return jnp.sum(jnp.log(jnp.diagonal(whitening(after)) / jnp.diagonal(whitening(channel.target))))


def probe_information(channel: Channel, activations: Activations, targets: Targets) -> Scalar:
    """`H(Y)` less the cross-entropy of linear discriminants `A = (S - c c^T)^-1 mu`: never above `H(Y)`."""
    classes, prior = _classes(targets)
    means = channel.cross / jnp.sqrt(jnp.maximum(prior, SMALLEST_PROBABILITY))[None, :]
    root = whitening(channel.covariance - _product(channel.cross, channel.cross.T))
    directions = _product(root.T, _product(root, means))
    bias = jnp.log(jnp.maximum(prior, jnp.finfo(prior.dtype).tiny)) - jnp.sum(means * directions, axis=0) / 2.0
    logits = _product(directions.T, standardise(activations)) + bias[:, None]
    losses = jax.nn.logsumexp(logits, axis=0) - jnp.sum(classes * logits, axis=0)
    return entropy(targets, is_classes=True) - jnp.mean(losses)


def information_gain(
    activations: Activations,
    targets: Targets,
    mask: PerUnit,
    *,
    is_classes: bool,
    floor: float = FLOOR,
    resolution: float = RESOLUTION,
) -> Scalar:
    """What a masked layer says of the target: `gaussian_information`; of classes, `probe_information`."""
    moments = statistics(activations, targets, is_classes=is_classes)
    channel = open_channel(moments, channel_noise(mask, floor=floor), resolution=resolution)
    return probe_information(channel, activations, targets) if is_classes else gaussian_information(channel)


def importance(information: _Shaped, entropy: Scalar, *, psi: Number = 1.0) -> _Shaped:
    """`H - psi (H - I)`, at most `H`: affine in the information, so `psi` (see `PSI`) changes no ranking."""
    return entropy - psi * (entropy - information)


def corrected(information: _Shaped, effective_units: _Shaped, samples: int, outputs: int) -> _Shaped:
    """Less its bias, `I + q ln(1 - df / (n - 1)) / 2`, `q` outputs (classes - 1); too low once classes part."""
    return information + 0.5 * outputs * jnp.log(jnp.maximum(1.0 - effective_units / max(samples - 1, 1), 1e-6))


def marginal_importance(channel: Channel) -> PerUnit:
    """What each unit says alone, `I(Z_j; Y) = -ln(1 - c_j Cyy^-1 c_j^T / S_jj) / 2`, 0 or more."""
    return 0.5 * jnp.log(jnp.diagonal(channel.covariance) / jnp.diagonal(channel.given_target))


def conditional_importance(channel: Channel) -> PerUnit:
    """What no other unit says, `I(Z_j; Y | Z_-j) = ln(1 + w_j Q^-1 w_j^T / P_jj) / 2`, 0 or more."""
    lost = jnp.sum(_product(whitening(channel.residual), channel.weights.T) ** 2, axis=0)
    return 0.5 * jnp.log1p(lost / jnp.sum(channel.whitening**2, axis=0))


def redundancy(channel: Channel) -> PerUnit:
    """What the other units say of each, `I(Z_j; Z_-j) = ln(S_jj P_jj) / 2`, 0 or more."""
    return 0.5 * jnp.log(jnp.diagonal(channel.covariance) * jnp.sum(channel.whitening**2, axis=0))


def total_correlation(channel: Channel) -> Scalar:
    """What the units say of each other, `(sum ln S_jj - logdet S) / 2`, 0 or more: the one for the loss."""
    return jnp.sum(jnp.log(jnp.diagonal(channel.whitening) * jnp.sqrt(jnp.diagonal(channel.covariance))))


def effective_units(channel: Channel) -> Scalar:
    """Degrees of freedom `df = sum (1 - nu_j P_jj)`, in `[0, units]`; 8 features of 8 copies each read 8."""
    return jnp.sum(_degrees(channel))


def _degrees(channel):
    return 1.0 - channel.noise * jnp.sum(channel.whitening**2, axis=0)


def ordered_gain(statistics: LayerStatistics, noise: PerUnit, *, resolution: float = RESOLUTION) -> PerUnit:
    """What each unit adds to those before it, `I(Z_j; Y | Z_<j) = ln L_jj - ln L^Y_jj`; sums to `I(Z; Y)`."""
    channel = open_channel(statistics, noise, resolution=resolution)
    return jnp.log(jnp.diagonal(whitening(channel.given_target)) / jnp.diagonal(channel.whitening))


@eqx.filter_jit
def greedy_order(
    statistics: LayerStatistics, noise: PerUnit, candidates: Chosen, *, resolution: float = RESOLUTION
) -> tuple[Int[Array, " units"], PerUnit]:
    """Units by place: first the candidate that adds most, after all the rest as it was; and what each adds."""
    channel = open_channel(statistics, noise, resolution=resolution)

    def _pick(carry, _):
        alone, told, left = carry
        scales = jnp.maximum(jnp.diagonal(alone), noise), jnp.maximum(jnp.diagonal(told), noise)
        gains, is_open = 0.5 * jnp.log(scales[0] / scales[1]), left & candidates
        unit = jnp.where(jnp.any(is_open), jnp.argmax(jnp.where(is_open, gains, -jnp.inf)), jnp.argmax(left))
        alone = alone - jnp.outer(alone[unit], alone[unit]) / scales[0][unit]
        told = told - jnp.outer(told[unit], told[unit]) / scales[1][unit]
        return (alone, told, left.at[unit].set(False)), (unit, gains[unit])

    start = channel.covariance, channel.given_target, jnp.ones_like(candidates)
    return jax.lax.scan(_pick, start, length=noise.shape[0])[1]


def layer_information(
    activations: Activations,
    targets: Targets,
    mask: PerUnit,
    *,
    is_classes: bool,
    psi: Number = 1.0,
    floor: float = FLOOR,
    resolution: float = RESOLUTION,
) -> LayerInformation:
    """Every quantity of a masked layer; those of single units are Gaussian for classes too."""
    moments, noise = statistics(activations, targets, is_classes=is_classes), channel_noise(mask, floor=floor)
    channel = open_channel(moments, noise, resolution=resolution)
    gain = probe_information(channel, activations, targets) if is_classes else gaussian_information(channel)
    degrees, bound = effective_units(channel), entropy(targets, is_classes=is_classes, resolution=resolution)
    unbiased = corrected(gain, degrees, moments.samples, moments.cross.shape[1] - is_classes)
    return LayerInformation(
        importance=importance(gain, bound, psi=psi),
        corrected_importance=importance(unbiased, bound, psi=psi),
        marginal=marginal_importance(channel),
        conditional=conditional_importance(channel),
        ordered=ordered_gain(moments, noise, resolution=resolution),
        redundancy=redundancy(channel),
        total_correlation=total_correlation(channel),
        effective_units=degrees,
        degrees=_degrees(channel),
        entropies=0.5 * jnp.log(jnp.diagonal(channel.covariance) / noise),
    )


def structural_divergence(mask: PerUnit, previous: PerUnit) -> Scalar:
    """`sum KL(Bern(m) || Bern(previous))`, masks moved into `[1e-6, 1 - 1e-6]`; no gradient to `previous`."""
    on, was_on = (1e-6 + (1.0 - 2e-6) * chance for chance in (mask, jax.lax.stop_gradient(previous)))
    return jnp.sum(on * jnp.log(on / was_on) + (1.0 - on) * jnp.log((1.0 - on) / (1.0 - was_on)))


def structural_entropy(mask: PerUnit) -> Scalar:
    """`sum H_b(m)` of masks moved into `[1e-6, 1 - 1e-6]`: from about 0 to `units ln 2`."""
    return mask.size * jnp.log(2.0) - structural_divergence(mask, jnp.full_like(mask, 0.5))
