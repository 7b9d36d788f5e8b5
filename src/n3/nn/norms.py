"""Norms: layer, group and root-mean-square norms over those channels alone that take part."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

NORMS = (eqx.nn.LayerNorm, eqx.nn.RMSNorm, eqx.nn.GroupNorm)


class ParticipatingNorm(eqx.Module):
    """A norm whose mean and variance count every channel by its participation.

    `mean = sum_j m_j x_j / sum_j m_j` and `var = sum_j m_j (x_j - mean)^2 / sum_j m_j`. With all of `m` one
    this is the norm that is given; with `k` ones and zeros behind them, the norm of the first `k` channels. A
    masked channel therefore changes nothing of the others, which a zero in a usual norm would.
    """

    norm: eqx.nn.LayerNorm | eqx.nn.RMSNorm | eqx.nn.GroupNorm
    share: Float[Array, "*shape"] | Bool[Array, "*shape"] | Int[Array, "*shape"]
    """Participation of each channel, up to a factor; before a mask is applied true, or whole numbers, which no
    optimiser trains."""

    def __call__(
        self, x: Float[Array, "*shape"], state: Any = None, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*shape"] | tuple[Float[Array, "*shape"], Any]:
        """The normalised array, as of the given norm; `state` is passed through, `key` is not used."""
        del key
        norm = self.norm
        with jax.numpy_dtype_promotion("standard"):  # as Equinox's norms: no less than single precision
            values = x.astype(jnp.result_type(x.dtype, jnp.float32))
        out = self._normalised(values)
        shape = (-1, *[1] * (x.ndim - 1)) if isinstance(norm, eqx.nn.GroupNorm) else x.shape
        if norm.weight is not None:
            out = norm.weight.reshape(shape).astype(out.dtype) * out
        if norm.bias is not None:
            out = out + norm.bias.reshape(shape).astype(out.dtype)
        out = out.astype(x.dtype)
        return out if state is None else (out, state)

    def _normalised(self, values: Array) -> Array:
        norm, shape = self.norm, values.shape
        groups, share = 1, self.share.astype(values.dtype)
        if isinstance(norm, eqx.nn.GroupNorm):
            groups, share = norm.groups, share.reshape(-1, *[1] * (len(shape) - 1))
        values = values.reshape(groups, -1, *shape[1:])
        share = jnp.broadcast_to(share.reshape(groups, -1, *share.shape[1:]), values.shape)
        over = tuple(range(1, values.ndim))
        whole = jnp.maximum(jnp.sum(share, over, keepdims=True), SMALLEST_SHARE)
        if not isinstance(norm, eqx.nn.RMSNorm):
            values = values - jnp.sum(share * values, over, keepdims=True) / whole
        square = jnp.sum(share * values**2, over, keepdims=True) / whole
        return (values * jax.lax.rsqrt(square + norm.eps)).reshape(shape)


SMALLEST_SHARE = 1e-6
"""Participation of a whole norm at which its mean is no longer one: nothing takes part below."""


def participating(model: PyTree) -> PyTree:
    """The model with every norm of Equinox counting channels by their participation, which is all of them.

    A `GroupNorm` that was not told its number of channels is left as it is.
    """

    def wrapped(node: PyTree) -> PyTree:
        if not isinstance(node, NORMS):
            return node
        shape = (node.channels,) if isinstance(node, eqx.nn.GroupNorm) else node.shape
        return node if shape[0] is None else ParticipatingNorm(node, jnp.ones(shape, bool))

    return jax.tree.map(wrapped, model, is_leaf=lambda node: isinstance(node, (*NORMS, ParticipatingNorm)))


def simplified(model: PyTree) -> PyTree:
    """The model with the usual norm wherever all channels take part alike; other shares are constants."""

    def unwrapped(node: PyTree) -> PyTree:
        if not isinstance(node, ParticipatingNorm):
            return node
        share = np.asarray(node.share, float)
        if np.ptp(share) == 0.0 and share.flat[0] > 0.0:
            return node.norm
        return ParticipatingNorm(node.norm, whole_shares(share))

    return jax.tree.map(unwrapped, model, is_leaf=lambda node: isinstance(node, ParticipatingNorm))


WHOLE_SHARE = 2**20
"""What the largest share becomes where shares are whole numbers: finer than single precision needs."""


def whole_shares(share: Float[np.ndarray, "*shape"]) -> Int[Array, "*shape"]:
    """Shares as whole numbers in the same proportion."""
    return jnp.asarray(np.round(WHOLE_SHARE * share / max(share.max(), np.finfo(float).tiny)).astype(np.int32))
