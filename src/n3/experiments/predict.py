"""Predict: from a user's rows to predictions in the user's units, by the networks that a run left."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from n3.surgery.compact import compact

ROWS = 256
"""Rows that go through a network at once; fewer are filled up, so that one program serves every number."""


def plain(net: Any) -> Any:
    """A network, or an ensemble, as a plain one whose arrays are NumPy's, in float64."""
    is_array = lambda leaf: np.asarray(leaf, np.float64) if eqx.is_array(leaf) else leaf  # noqa: E731
    return jax.tree.map(is_array, compact(net))


def outputs_of(net: Any, inputs: Float[np.ndarray, "rows in_size"]) -> Float[np.ndarray, "rows out_size"]:
    """Outputs of a plain network or ensemble in float64, on the processor; a row's do not depend on others."""
    rows = len(inputs)
    blocks = np.zeros((max(-(-rows // ROWS), 1), ROWS, inputs.shape[1]))
    blocks.reshape(-1, inputs.shape[1])[:rows] = inputs
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        arrays, rest = eqx.partition(net, eqx.is_array)
        arrays = jax.tree.map(partial(jnp.asarray, dtype=jnp.float64), arrays)
        each = [np.asarray(_outputs(arrays, rest, jnp.asarray(own))) for own in blocks]
    return np.concatenate(each)[:rows]


@eqx.filter_jit
def _outputs(arrays: Any, rest: Any, inputs: Any) -> Any:
    return eqx.combine(arrays, rest).batch(inputs.T).T
