"""Read-outs: what the best linear read-out of every prefix of units loses, sample by sample, while training.

A look inside of a compiled program, in closed form: in float64 whatever the program's own precision is, so that
it sees as fine as 1e-10 of the target's variance. `regression` solves the read-out of a finished network.
"""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int

from n3.information.gaussian import whitening

_Units, _Samples = Float[Array, "units samples"], Float[Array, " samples"]
_Targets, _Losses = Float[Array, "outputs samples"], Float[Array, "prefixes samples"]

SHRINKAGE = 1e-4
"""Share of the total covariance in that within classes: finite where units part the classes fully."""
NEWTON_STEPS = 3
"""Of the temperature of each prefix, from that of the prefix before it."""
SMALLEST_RIDGE = 1e-12
"""Ridge that a read-out by second moments has at least."""
HESITATION = 2.0
"""Standard errors, relative to those for fewer units, that more units than are present must gain."""
STRENGTHS_OF_LOOKS = (0.0, 1e-3, 3e-2)
"""Ridges that a look tries: a penalty on the squared weights of standardised units, beside the mean loss."""


def _opaque(function):
    """`function` of a bound (or None) and of arrays as one operation that is batched by tracing it anew.

    Of a batch the bound is the largest, so that a loop up to it keeps one length for all.
    JAX batches what was traced before by evaluating it, outside of any `enable_x64` that was open when it was
    traced, and would read its float64 constants as float32. For the same reason what `function` calls must be
    lowered directly: no `softmax` and no `argmax`, whose lowering is evaluated too.
    """
    program = custom_vmap(jax.jit(function))

    @program.def_vmap
    def _batch(axis_size, is_batched, bound, *arrays):
        bound = jnp.max(bound) if is_batched[0] else bound
        axes = tuple(0 if is_mapped else None for is_mapped in is_batched[1:])
        result = _opaque(jax.vmap(function, in_axes=(None, *axes), axis_size=axis_size))(bound, *arrays)
        return result, jax.tree.map(lambda _: True, result)

    return program


@cache
def _in_float64(function, **options: bool | float | tuple[float, ...]):
    """`function` of arrays in float64, in any program: the result is in that program's own precision.

    With `most`, a number of units, `function` takes it first, or that of the run beside it that has most.
    """

    def _wide(most, *arrays):
        is_wide = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
        with jax.enable_x64(True):
            bound = () if most is None else (most.astype(np.int32),)
            own = (x if x.dtype == bool else x.astype(np.float64) for x in arrays)
            result = function(*bound, *own, **options)
            is_real = lambda own: jnp.issubdtype(own.dtype, jnp.floating)  # noqa: E731
            narrow = lambda own: own.astype(np.float32 if is_real(own) else np.int32)  # noqa: E731
            return result if is_wide else jax.tree.map(narrow, result)

    program = _opaque(_wide)

    def _called(*arrays, most=None):
        return program(most, *map(jax.lax.stop_gradient, arrays))

    return _called


def _product(left, right):
    return jnp.matmul(left, right, precision="highest")


def _first(chosen):
    """The index of the first True, the last index where there is none."""
    return jnp.min(jnp.where(chosen, jnp.arange(chosen.size), chosen.size - 1))


def _shares(fit):
    return fit / jnp.sum(fit)


def _rounding(units):
    """A part of a unit this small, relative to its root mean square, is rounding, of the unit or in float64."""
    return max(float(jnp.finfo(units.dtype).eps), 64 * float(np.finfo(np.float64).eps))


def _standardised(units, shares, rounding):
    """Units of mean 0 and variance 1 over the shares, or 0 where constant; and what is rounding in each."""
    size = jnp.sqrt(_product(units**2, shares))
    centred = units - _product(units, shares)[:, None]
    scale = jnp.sqrt(_product(centred**2, shares))
    is_constant = scale <= rounding * size
    scale = jnp.where(is_constant, 1.0, scale)
    return jnp.where(is_constant[:, None], 0.0, centred / scale[:, None]), rounding * size / scale


def _means(groups, shares):
    """`[groups, samples]`, whose product with a row of samples is its mean in each group, 0 in an empty one."""
    sizes = _product(groups, shares)[:, None]
    return groups * shares[None] / jnp.where(sizes > 0, sizes, 1.0)


def _within(groups, shares):
    """`a -> w (a - mean of its group)`: what makes a sum over samples the covariance within groups."""
    means = _means(groups, shares)
    return lambda row: shares * (row - _product(_product(means, row), groups))


def _orthonormal(most, units, dual: Callable, rounding):
    """Units, each less what those before say of it, of `sum(dual(q_i) q_j) = 1[i = j]`; 0 where nothing is new.

    This is so of the first `most`; the others are less what these say of them. Modified Gram-Schmidt: every
    unit is projected explicitly, so that its prefixes keep the stability of Householder's least squares
    (Björck, "Solving linear least squares problems by Gram-Schmidt orthogonalization", 1967).
    """
    places = jnp.arange(units.shape[0], dtype=np.int32)

    def _step(place, rows):
        row = rows[place]
        square = jnp.sum(dual(row) * row)
        is_new = ~(square <= rounding[place] ** 2)  # NaN is new, and stays
        unit = jnp.where(is_new, row / jnp.sqrt(jnp.where(is_new, square, 1.0)), 0.0)
        less = rows - jnp.outer(_product(rows, dual(unit)), unit)
        return jnp.where((places > place)[:, None], less, rows).at[place].set(unit)

    return jax.lax.fori_loop(0, most, _step, units)


def _both_classes(targets):
    return jnp.concatenate([1.0 - targets, targets]) if targets.shape[0] == 1 else targets


def _ridged(units, dual, ridge):
    """Units with a further sample for each, at which it alone is the ridge's root, and `dual` of such rows.

    Least squares over the samples and these, where targets are 0, is ridge regression of every prefix.
    """
    number, samples = units.shape
    rows = jnp.concatenate([units, jnp.sqrt(ridge) * jnp.eye(number, dtype=units.dtype)], axis=1)
    return rows, lambda row: jnp.concatenate([dual(row[:samples]), row[samples:]])


def _number_losses(most, units, targets, shares, rounding, present, ridge):
    """Squared errors of every prefix, from the residual itself: differences of variances end at 1e-16."""
    number, samples = units.shape
    units, dual = _ridged(units, _within(jnp.ones_like(shares)[None], shares), ridge)

    rows = _orthonormal(most, units, dual, rounding)

    def _step(place, carry):
        residual, kept, losses = carry
        residual = residual - jnp.outer(_product(residual, dual(rows[place])), rows[place])
        losses = losses.at[place + 1].set(jnp.sum(residual[:, :samples] ** 2, axis=0))
        return residual, jnp.where(place.astype(present.dtype) < present, residual, kept), losses

    centred = targets - _product(targets, shares)[:, None]
    start = jnp.pad(centred, ((0, 0), (0, number)))
    losses = _unknown(number, jnp.sum(centred**2, axis=0))
    _, kept, losses = jax.lax.fori_loop(0, most, _step, (start, start, losses))
    return losses, kept[:, :samples]


def _unknown(units, first):
    """Losses of the prefixes of so many units, NaN but for those of no unit."""
    return jnp.full((units + 1, first.size), np.nan, first.dtype).at[0].set(first)


def _chances(logits):
    """Probabilities of the classes, and the logarithm of what they are divided by."""
    top = jnp.max(logits, axis=0, keepdims=True)
    parts = jnp.exp(logits - top)
    total = jnp.sum(parts, axis=0, keepdims=True)
    return parts / total, (top + jnp.log(total))[0]


def _tempered(evidence, prior, due, shares, ratio, steps=NEWTON_STEPS):
    """Logits `s evidence + prior`, with the `s` of least mean cross-entropy after some Newton steps.

    They start from `ratio`, of `s` to the inverse of the evidence's spread; that at the end comes back too. In
    float32: near its least value the loss does not depend on the last digits of `s`.
    """
    spread = _product(jnp.sum((evidence - jnp.mean(evidence, axis=0, keepdims=True)) ** 2, axis=0), shares)
    unit = jnp.sqrt(jnp.maximum(spread, 1.0))
    rough, start, due, weight = (own.astype(np.float32) for own in (evidence / unit, prior, due, shares))

    def _newton(scale, _):
        chances = _chances(scale * rough + start)[0]
        expected = jnp.sum(chances * rough, axis=0)
        slope = jnp.sum(weight * (expected - jnp.sum(due * rough, axis=0)))
        bend = jnp.sum(weight * jnp.sum(chances * (rough - expected[None]) ** 2, axis=0))
        step = jnp.where(bend > 0, slope / jnp.where(bend > 0, bend, 1.0), 0.0)
        return jnp.clip(scale - step, scale / 8.0, scale * 8.0), None

    ratio = jax.lax.scan(_newton, ratio, length=steps)[0]
    return ratio.astype(evidence.dtype) / unit * evidence + prior, ratio


def _certainty(classes, shares):
    """Classes of which none is quite certain, else units that part them would be sure of any sample.

    As by Platt, "Probabilistic outputs for support vector machines", 1999.
    """
    number = 1.0 / jnp.sum(shares**2)
    return (classes * number + 1.0 / len(classes)) / (number + 1.0)


def _log_prior(classes, shares):
    """Half a sample for a class that no sample of the fit has, or its loss is infinite."""
    sizes = _product(classes, shares)
    prior = jnp.log(jnp.maximum(sizes, 0.5 / jnp.sum(jnp.where(shares > 0, 1.0, 0.0))))
    return (prior - _chances(prior)[1])[:, None]


def _discriminants(most, units, targets, shares, rounding, ridge):
    """Classes, their log prior, the units made white within classes, and each one's mean in each class."""
    classes = _both_classes(targets)
    within = _within(classes, shares)
    overall = _within(jnp.ones_like(shares)[None], shares)
    means = _means(classes, shares)
    prior = _log_prior(classes, shares)
    samples = units.shape[1]
    ridged = _ridged(units, lambda row: within(row) + SHRINKAGE * overall(row), ridge)
    rows = _orthonormal(most, *ridged, rounding)[:, :samples]
    return classes, prior, rows, _product(rows, means.T)


def _class_losses(most, units, targets, shares, rounding, present, ridge):
    """Cross-entropies of linear discriminants: of units that are white within classes evidence adds up."""
    classes, prior, rows, means = _discriminants(most, units, targets, shares, rounding, ridge)
    due = _certainty(classes, shares)

    def _told(evidence, ratio):
        logits, ratio = _tempered(evidence, prior, due, shares, ratio)
        chances, total = _chances(logits)
        return total - jnp.sum(classes * logits, axis=0), classes - chances, ratio

    def _step(place, carry):
        evidence, kept, ratio, losses = carry
        unit, mean = rows[place], means[place]
        evidence = evidence + jnp.outer(mean, unit) - mean[:, None] ** 2 / 2.0
        own, residual, ratio = _told(evidence, ratio)
        kept = jnp.where(place.astype(present.dtype) < present, residual, kept)
        return evidence, kept, ratio, losses.at[place + 1].set(own)

    start = jnp.zeros_like(classes)
    first, residual, ratio = _told(start, jnp.ones((), np.float32))
    own = start, residual, ratio, _unknown(len(rows), first)
    _, kept, _, losses = jax.lax.fori_loop(0, most, _step, own)
    return losses, kept if targets.shape[0] > 1 else kept[1:]


def _losses(most, units, targets, fit, present, *, is_classes, rounding, ridges):
    shares = _shares(fit)
    rows, rounding = _standardised(units, shares, rounding)
    own = most, rows, targets, shares, rounding, present
    losses_of = _class_losses if is_classes else _number_losses
    losses, residuals = jax.vmap(lambda ridge: losses_of(*own, ridge))(np.asarray(ridges, np.float64))
    squares = _product(jnp.sum(residuals**2, axis=1), shares)
    return losses, residuals / jnp.sqrt(jnp.maximum(squares, np.finfo(np.float64).tiny))[:, None, None]


def prefix_losses(
    units: _Units, targets: _Targets, fit: _Samples, *, is_classes: bool, strength: float = 0.0
) -> Float[Array, "units+1 samples"]:
    """Loss of the best linear read-out of the first 0, 1, ... all units, at every sample.

    Of numbers least squares; of classes linear discriminants `softmax(s (m_k . x - m_k^2 / 2) + ln p_k)`, with
    the units white within classes and an `s` of each prefix. A unit that is constant, or that those before say
    but for the rounding of its numbers, changes nothing. From a unit that is not finite on, losses are NaN, as
    all are without a sample to fit on.

    Args:
        units: Activations in greedy order, of any scale.
        targets: Numbers of any scale, or classes as one-hot rows or one row of 0 and 1.
        fit: Weight of each sample in the fit, 0 or more; 0 for those held out.
        is_classes: Which of the two the targets are.
        strength: Penalty on the squared weights of standardised units, beside the mean loss; of classes, what
            is added to the variances within classes.

    Returns:
        Squared error summed over outputs, in the target's own unit squared, or cross-entropy in nats.
    """
    losses = _in_float64(_losses, is_classes=is_classes, rounding=_rounding(units), ridges=(strength,))
    return losses(units, targets, fit, jnp.zeros(()), most=jnp.asarray(len(units)))[0][0]


def losses_and_residuals(
    units: _Units,
    targets: _Targets,
    fit: _Samples,
    present: Float[Array, ""],
    most: Float[Array, ""],
    *,
    is_classes: bool,
) -> tuple[Float[Array, "strengths units+1 samples"], Float[Array, "strengths outputs samples"]]:
    """Losses as `prefix_losses`, and what the read-out of the first `present` units leaves of the target.

    Losses of more than `most` units, which no run beside it has in sight either, are NaN: time goes with it.
    Both for each of `STRENGTHS_OF_LOOKS`. The latter is the error of numbers, or indicators of the classes less
    their chances, at every sample, of mean square 1 over the fit: the direction that a further unit needs.
    """
    own = {"is_classes": is_classes, "rounding": _rounding(units), "ridges": STRENGTHS_OF_LOOKS}
    bound = jnp.clip(jnp.nan_to_num(most), 0, len(units))  # NaN of one run must not end the others' loops
    return _in_float64(_losses, **own)(units, targets, fit, present, most=bound)


def _whole(units, targets, fit, *, is_classes, rounding, ridges):
    shares = _shares(fit)
    rows, _ = _standardised(units, shares, rounding)
    overall = _product(rows * shares[None], rows.T)
    classes = _both_classes(targets) if is_classes else targets
    means = _means(classes, shares) if is_classes else shares[None]
    seen = _product(means, rows.T)
    weights = _product(classes, shares)[:, None] if is_classes else 1.0
    metric = overall - _product((seen * weights).T, seen) + SHRINKAGE * overall if is_classes else overall
    prior = _log_prior(classes, shares) if is_classes else None

    def _of(ridge):
        root = whitening(metric + jnp.maximum(ridge, SMALLEST_RIDGE) * jnp.eye(len(rows), dtype=rows.dtype))
        if is_classes:
            white, centres = _product(root, rows), _product(root, seen.T)
            evidence = _product(centres.T, white) - jnp.sum(centres**2, axis=0)[:, None] / 2.0
            first, steps = jnp.ones((), np.float32), 2 * NEWTON_STEPS  # no prefix before it to start from
            logits, _ = _tempered(evidence, prior, _certainty(classes, shares), shares, first, steps)
            return _chances(logits)[1] - jnp.sum(classes * logits, axis=0)
        rest = targets - _product(targets, shares)[:, None]
        for _ in range(2):  # the second time takes what rounding left
            said = _product(root.T, _product(root, _product(rows * shares[None], rest.T)))
            rest = rest - _product(said.T, rows)
        return jnp.sum(rest**2, axis=0)

    return jax.vmap(_of)(np.asarray(ridges, np.float64))


def whole_losses(
    units: _Units, targets: _Targets, fit: _Samples, *, is_classes: bool
) -> Float[Array, "strengths samples"]:
    """Losses of the read-out of all units for each of `STRENGTHS_OF_LOOKS`: the last row of `prefix_losses`.

    By second moments, several times as fast, and as fine as 1e-9 of the variance.
    """
    own = {"is_classes": is_classes, "rounding": _rounding(units), "ridges": STRENGTHS_OF_LOOKS}
    return _in_float64(_whole, **own)(units, targets, fit)


def of_best_strength(
    losses: Float[Array, "strengths prefixes samples"], held_out: _Samples
) -> tuple[_Losses, Int[Array, " prefixes"]]:
    """Of each prefix the losses by the strength that is best on held-out samples, and that strength's place."""
    weights = held_out[None, None]
    means = jnp.sum(jnp.where(weights > 0, losses * weights, 0.0), axis=-1)
    place = jnp.argmin(jnp.where(jnp.isfinite(means), means, jnp.inf), axis=0)
    return jnp.take_along_axis(losses, place[None, :, None], axis=0)[0], place


def _code(targets, shares, is_classes):
    """Centred numbers, or indicators `(1[Y = k] - p_k) / sqrt(p_k)` of the classes."""
    rows = _both_classes(targets) if is_classes else targets
    means = _product(rows, shares)[:, None]
    return (rows - means) / jnp.sqrt(jnp.where(is_classes & (means > 0), means, 1.0))


def _order(units, targets, fit, candidates, *, is_classes, rounding):
    shares = _shares(fit)
    units = jnp.where(jnp.isfinite(jnp.sum(units, axis=1))[:, None], units, 0.0)
    rows, rounding = _standardised(units, shares, rounding)
    code = _code(targets, shares, is_classes)
    covariance, cross = (_product(rows * shares[None], own.T) for own in (rows, code))
    least = jnp.maximum(rounding**2, 64 * np.finfo(np.float64).eps)

    def _pick(carry, _):
        covariance, cross, left = carry
        squares, is_open = jnp.diagonal(covariance), left & candidates
        gains = jnp.where(squares > least, jnp.sum(cross**2, axis=1) / jnp.maximum(squares, least), 0.0)
        best = jnp.max(jnp.where(is_open, gains, -jnp.inf))
        unit = _first(jnp.where(jnp.any(is_open), is_open & (gains == best), left))
        said = jnp.where(
            squares[unit] > least[unit], covariance[unit] / jnp.maximum(squares[unit], least[unit]), 0.0
        )
        cross = cross - jnp.outer(said, cross[unit])
        return (covariance - jnp.outer(said, covariance[unit]), cross, left.at[unit].set(False)), unit

    return jax.lax.scan(_pick, (covariance, cross, jnp.ones_like(candidates)), length=units.shape[0])[1]


def order_of(
    units: _Units, targets: _Targets, fit: _Samples, candidates: Bool[Array, " units"], *, is_classes: bool
) -> Int[Array, " units"]:
    """Units by place: first the candidate that lowers the fit loss most, after all the rest as it was.

    The loss is the squared error given the units before, of classes that of indicators over `sqrt(p_k)`; a unit
    that is not finite lowers none. Arguments are those of `prefix_losses`.

    References:
        Chen, Billings, Luo, "Orthogonal least squares methods and their application to non-linear system
        identification" (1989), section 3.3.
    """
    order = _in_float64(_order, is_classes=is_classes, rounding=_rounding(units))
    return order(units, targets, fit, candidates)


def _smallest(losses, held_out, in_sight, present, floor, errors):
    shares = _shares(held_out)
    seen = jnp.where(shares[None] > 0, losses, 0.0)  # a sample without weight may have any loss
    means = _product(seen, shares)
    is_open = in_sight & jnp.isfinite(means)
    best = _first(is_open & (means == jnp.min(jnp.where(is_open, means, jnp.inf))))
    differences = seen - seen[best][None]
    mean = _product(differences, shares)
    variance = _product((differences - mean[:, None]) ** 2, shares)
    error = errors * jnp.sqrt(variance / jnp.maximum(1.0 / jnp.sum(shares**2) - 1.0, 1.0))
    error = jnp.where(present, HESITATION * error, error)
    near = (mean <= jnp.maximum(error, floor)) | (jnp.arange(means.size) == best)
    return jnp.where(jnp.any(is_open), _first(is_open & near), -1)


def smallest_within(
    losses: _Losses,
    held_out: _Samples,
    in_sight: Bool[Array, " prefixes"],
    present: Bool[Array, " prefixes"],
    *,
    errors: Float[Array, ""],
    floor: Float[Array, ""],
) -> Int[Array, ""]:
    """The smallest prefix in sight that is as good on held-out samples as the best one in sight.

    As good is a mean paired difference of at most `errors` of its standard errors, or of at most `floor`, in
    the unit of the loss; `errors = 0` with `floor = 0` gives the best one. The prefix that is `present` is as
    good up to `HESITATION` times as many, so that noise alone moves no size up. Samples of weight 0 do not
    count. To pool members over the same samples, add up their losses where these are held out, and their
    weights.

    Returns:
        The number of units, or -1 where no loss in sight is finite.
    """
    return _in_float64(_smallest)(losses, held_out, in_sight, present, floor, errors)
