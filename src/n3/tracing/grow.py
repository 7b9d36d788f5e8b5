"""Grown: any Equinox model as one whose hidden layers choose how many of their channels take part."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from n3.nn import norms
from n3.nn.controllers import AbstractController
from n3.nn.masks import MASKS
from n3.nn.mlp import make_controller
from n3.tracing import groups, reduction
from n3.tracing.groups import Structure
from n3.tracing.program import activations
from n3.tracing.trace import LAYERS, find_structure, layers_in

Model = TypeVar("Model", bound=Callable[..., Any])
Example = Array | np.ndarray | jax.ShapeDtypeStruct
METHODS = ("information", "controller", "auxiliary")


class Grown(eqx.Module, Generic[Model]):
    """A model some of whose channels take part by the masks that a controller emits; called like the model.

    Each reader of a channel sees it multiplied by its participation, after activations, norms and pooling.
    Where all take part fully the outputs are the model's own.
    """

    model: Model
    """The user's model, its norms counting participation."""
    controller: AbstractController
    structure: Structure = eqx.field(static=True)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """What the user's model returns for one sample, with the channels that take part."""
        return self.masked()(*inputs, **options)

    def masked(self) -> Model:
        """The user's model with the participation multiplied into its parameters, once for many calls."""
        return groups.masked(self.model, self.structure, self.controller.participation())

    def activations(self, *inputs: Array) -> tuple[Float[Array, " _units"], ...]:
        """Units of each group in one sample as their last reader sees them, before their own participation.

        The mean over positions (and over the channels of a block); without dropout.
        """
        return activations(self.masked(), self.structure, inputs)

    def sizes(self) -> Float[Array, " groups"]:
        """Effective units of each group, in `[0, capacity]`."""
        return self.controller.sizes()

    @property
    def layers(self) -> tuple[str, ...]:
        """Path of the first layer of each group."""
        return tuple(group.layers[0] for group in self.structure.groups)


def grow(
    model: Model,
    where: Callable[[Model], Any] | None = None,
    *,
    example: Example | tuple[Example, ...],
    key: PRNGKeyArray,
    method: str = "information",
    initial_size: float | None = None,
    mask: str = "sine",
) -> Grown[Model]:
    """Let the hidden layers of a model choose their own size.

    The model is traced on one sample, in inference mode, to find which layers share channels and who reads
    them: its `__call__` may be any composition of JAX operations. Linear layers and convolutions are grown,
    through activations, pooling, flattening, transposition, concatenation, dropout and Equinox's norms; layers
    that are added to each other share their channels. Anything else that touches channels is refused, as is a
    size that is written into `__call__`: a smaller copy of the model is made on the spot and compared.

    Args:
        model: An Equinox model that is called on one sample, `model(x)` or `model(x, key=key)`.
        where: Function from the model to the layers to grow (as for `eqx.tree_at`); None: all linear layers and
            convolutions but those whose channels are the model's input or output.
        example: One sample, or its shape and data type; a tuple of them for several inputs.
        key: For controllers that start with a jitter, and for the sample on which the copy is compared.
        method: `information` (each size is moved by what its units say of the target, see `n3.fit`),
            `controller` (bounded sizes that approach a target) or `auxiliary` (one weight is every size).
        initial_size: Units of each group at the start, cut to its capacity; None: all of them.
        mask: Ramp from size to participation, by its name in `n3.MASKS`.

    Returns:
        A model that is called exactly like the given one. `n3.tracing.grow.compact_model` turns it back.

    Raises:
        ValueError: If a layer cannot be grown, naming its path and the reason, or an argument is out of range.
    """
    for name, value, known in (("method", method, METHODS), ("mask", mask, MASKS)):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(known)}; got {value!r}.")
    if initial_size is not None and initial_size < 0:
        raise ValueError(f"`initial_size` must be zero or more; got {initial_size}.")
    _check_stateless(model)
    controller_key, sample_key = jr.split(key)
    inputs = [
        one if isinstance(one, jax.ShapeDtypeStruct) else jnp.asarray(one)
        for one in (example if isinstance(example, tuple) else (example,))
    ]
    chosen = None if where is None else _paths(model, where)
    counting = norms.participating(model)
    found = find_structure(counting, inputs, chosen)
    reduction.check(counting, found, key=sample_key)
    capacity = jnp.array(found.capacity, jnp.float32)
    controller = make_controller(
        method,
        found.capacity,
        is_layerwise=False,
        initial_size=capacity if initial_size is None else jnp.minimum(initial_size, capacity),
        mask=mask,
        key=controller_key,
    )
    return Grown(counting, controller, found)


def compact_model(grown: Grown[Model]) -> Model:
    """The model without the channels that do not take part: same outputs, same class, smaller layers.

    The participation of a channel that takes part partly is multiplied into the parameters that read it. Only
    a norm over such a channel must keep it, and stays a `ParticipatingNorm`; all others are Equinox's own
    again. A group whose size is zero keeps one channel, which counts nothing.

    Args:
        grown: A grown model; not inside `jit`, since shapes change.
    """
    return reduction.smaller(grown.model, grown.structure, grown.controller.participation())


def _paths(model: Model, where: Callable[[Model], Any]) -> list[str]:
    """Paths of the layers that `where` picks."""
    picked = where(model)
    picked = list(picked) if isinstance(picked, (tuple, list)) else [picked]
    paths = {id(layer): path for path, layer in layers_in(model).items()}
    for node in picked:
        if id(node) not in paths:
            kinds = ", ".join(kind.__name__ for kind in LAYERS)
            raise ValueError(f"`where` must pick layers of the model ({kinds}); got {type(node).__name__}.")
    return [paths[id(node)] for node in picked]


def _check_stateless(model: PyTree) -> None:
    def is_index(node: PyTree) -> bool:
        return isinstance(node, eqx.nn.StateIndex)

    for path, node in jax.tree_util.tree_leaves_with_path(model, is_leaf=is_index):
        if is_index(node):
            name = jax.tree_util.keystr(path)
            raise ValueError(f"`model` must have no state, such as batch statistics; got one at {name}.")
