"""Grow: any Equinox model with participation, and the smaller model of its own class."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from n3.nn import groups, norms
from n3.nn.controllers import AbstractController, make_controller
from n3.nn.groups import Participation, Structure, masked
from n3.nn.masks import MASKS, PRESENT
from n3.nn.sized import AbstractSized, Inputs, PerGroup, each_input, first_run
from n3.tracing.trace import (
    LAYERS,
    activations,
    check_stateless,
    find_structure,
    key_if_taken,
    layers_in,
    with_true_sizes,
)

TILE = 128
"""Samples whose activations are computed at once."""


def smaller_model(model: PyTree, found: Structure, participation: Participation) -> PyTree:
    """A model without the units whose participation is less than rounding; of a group without any, one stays.

    Its norms count participation before. After, layers and norms are Equinox's own, with the sizes that they
    have now; only a norm of which a channel takes part partly stays a `ParticipatingNorm`.
    """
    cut = groups.gathered(masked(model, found, participation), found, kept_units(participation))
    return norms.simplified(with_true_sizes(cut))


def kept_units(participation: Participation) -> list[Int[np.ndarray, " _units"]]:
    """The units of each group that take part by more than rounding; of a group without any, its first."""
    kept = [np.flatnonzero(np.asarray(mask) >= PRESENT) for mask in participation]
    return [own if own.size else np.zeros(1, int) for own in kept]


def failing_groups(model: PyTree, found: Structure, *, key: PRNGKeyArray) -> dict[int, str]:
    """Make a smaller copy, about half of each group, and compare its outputs on a drawn sample.

    The sample has normal numbers, or zeros and ones where the input is of whole numbers.

    Returns:
        What happens with a smaller copy, for each group that cannot be smaller; empty if all can.

    Raises:
        ValueError: If groups can be smaller one by one, but not together.
    """
    model = perturbed(model, key=jr.fold_in(key, len(found.example)))
    halved = lambda units: max(units // 2, 1) - 0.5 - jnp.arange(units, dtype=jnp.float32)  # noqa: E731
    halves = [jnp.clip(halved(units), 0.0, 1.0) for units in found.capacity]  # the last one takes part half
    if _difference(model, found, halves, key=key) is None:
        return {}
    reasons = {}
    for number in range(len(halves)):
        one = [half if n == number else jnp.ones_like(half) for n, half in enumerate(halves)]
        reason = _difference(model, found, one, key=key)
        reasons |= {} if reason is None else {number: reason}
    if not reasons:
        layers = ", ".join(group.layers[0] for group in found.groups)
        text = "they can be grown one by one, but not together"
        raise ValueError(f"`where` must leave out one of {layers}: {text}.")
    return reasons


def perturbed(model: PyTree, *, key: PRNGKeyArray) -> PyTree:
    """A model with normal noise on every number: a zero would hide what it is multiplied with."""
    leaves, structure = jax.tree.flatten(model)
    for place, leaf in enumerate(leaves):
        if eqx.is_inexact_array(leaf):
            noise = PERTURBATION * jr.normal(jr.fold_in(key, place), leaf.shape)
            leaves[place] = leaf + noise.astype(leaf.dtype)
    return structure.unflatten(leaves)


PERTURBATION = 0.1
"""Standard deviation of the noise under which copies of a model are compared."""


def _difference(model: PyTree, found: Structure, participation: Participation, *, key) -> str | None:
    whole = masked(model, found, participation)
    return difference(whole, lambda: smaller_model(model, found, participation), found.example, key=key)


def difference(
    model: PyTree, make: Callable[[], PyTree], example: Sequence[tuple[Any, Any]], *, key: PRNGKeyArray
) -> str | None:
    """How the outputs of two models differ on a drawn sample; None if not, but for rounding.

    One model is given, the other one made. The example has the shape and the data type of each input.
    """
    inputs = [_drawn(shape, dtype, jr.fold_in(key, n)) for n, (shape, dtype) in enumerate(example)]
    call = eqx.filter_jit(lambda own: own(*inputs, **key_if_taken(model, key)))
    try:
        with jax.default_matmul_precision("highest"):
            expected, outputs = (call(eqx.nn.inference_mode(own)) for own in (model, make()))
    except (TypeError, ValueError) as error:  # what JAX and Equinox raise where shapes do not fit
        return f"its call fails: {str(error).strip().splitlines()[0]}"
    pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(outputs), strict=True)
    differences = [_distance(np.asarray(whole), np.asarray(own)) for whole, own in pairs if eqx.is_array(whole)]
    return next((each for each in differences if each), None)


def _distance(expected: np.ndarray, output: np.ndarray) -> str | None:
    if expected.shape != output.shape:
        return f"the output has shape {output.shape} in place of {expected.shape}"
    scale = np.max(np.abs(expected), initial=0.0, where=np.isfinite(expected))
    is_exact = not jnp.issubdtype(expected.dtype, jnp.inexact)
    tolerance = 0.0 if is_exact else float(jnp.finfo(expected.dtype).eps) ** 0.6 * scale
    if np.allclose(output, expected, rtol=0.0, atol=tolerance, equal_nan=True):
        return None
    return f"the outputs differ by {np.max(np.abs(output - expected)):.1e}, of {scale:.1e}"


def _drawn(shape: tuple[int, ...], dtype: Any, key: PRNGKeyArray) -> Array:
    is_real = jnp.issubdtype(dtype, jnp.floating)
    return jr.normal(key, shape, dtype) if is_real else jr.bernoulli(key, shape=shape).astype(dtype)


_Model = TypeVar("_Model", bound=Callable[..., Any])
Example = Array | np.ndarray | jax.ShapeDtypeStruct
GROWTH_METHODS = ("information", "controller", "auxiliary")


class Grown(AbstractSized, Generic[_Model]):
    """A model some of whose channels take part by the masks that a controller emits; called like the model.

    Each reader of a channel sees it multiplied by its participation, after activations, norms and pooling.
    Where all take part fully the outputs are the model's own.
    """

    model: _Model
    """The user's model, its norms counting participation."""
    controller: AbstractController
    structure: Structure = eqx.field(static=True)
    """Its paths start at this module."""
    depth_weight: None = None

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """What the user's model returns for one sample, with the channels that take part."""
        return self.masked()(*inputs, **options)

    def masked(self) -> _Model:
        """The user's model with the participation multiplied into its parameters, once for many calls."""
        return groups.masked(self, self.structure, self.participation()).model

    def gates(self) -> Float[Array, " groups"]:
        """Ones: no group is behind a depth gate."""
        return jnp.ones(len(self.structure.groups), self.sizes().dtype)

    def activations(self, inputs: Inputs) -> tuple[Float[Array, "_units samples"], ...]:
        """Units of each group in many samples, as their last reader sees them, unmasked.

        The mean over positions (and over the channels of a block); without dropout. Samples are computed tile
        by tile, and what a tile computes is not kept for gradients.
        """
        model = self.masked()
        one = jax.checkpoint(lambda sample: activations(model, self.structure, each_input(sample)))
        found = jax.lax.map(one, inputs, batch_size=min(TILE, len(inputs)))
        return tuple(each.T for each in found)

    def reordered(self, orders: Sequence[Int[Array, " _units"]], last: Int[Array, ""]) -> "Grown":
        """The same function with the units of every group in another order, as of `AbstractSized`."""
        return groups.permuted(self, self.structure, orders)

    def resized(self, controller: AbstractController) -> "Grown":
        """This model under a controller of its new capacity, as of `AbstractSized`."""
        return Grown(with_true_sizes(self.model), controller, self.structure.resized(controller.capacity))

    def weight_cost(self) -> tuple[Float[Array, " _units"], ...]:
        """Zero: `n3.fit` puts no prior on weights."""
        return tuple(jnp.zeros(units) for units in self.structure.capacity)

    def unit_parameters(self, sizes: PerGroup, inputs: Float[Array, ""]) -> PerGroup:
        """What a further unit of each group adds to the effective parameters (`groups.parameter_count`)."""
        return jax.grad(lambda own: groups.parameter_count(self.structure, own, inputs))(sizes)

    def parameter_count(self, sizes: Float[Array, " groups"]) -> Float[Array, ""]:
        """All parameters of the compact model at given sizes, those of no group among them."""
        whole = jnp.array(self.structure.capacity, sizes.dtype)
        every = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(self.model, eqx.is_inexact_array)))
        counts = (groups.parameter_count(self.structure, each) for each in (sizes, whole))
        return next(counts) + (every - next(counts))


def grow(
    model: _Model,
    where: Callable[[_Model], Any] | None = None,
    *,
    example: Example | tuple[Example, ...],
    key: Key[Array, "*runs"],
    method: str = "information",
    initial_size: float | None = None,
    mask: str = "sine",
) -> Grown[_Model]:
    """Let the hidden layers of a model choose their own size.

    The model is traced on one sample, in inference mode, to find which layers share channels and who reads
    them: its `__call__` may be any composition of JAX operations. Linear layers and convolutions are grown,
    through activations, pooling, flattening, transposition, concatenation, dropout and Equinox's norms; layers
    that are added to each other share their channels. A layer whose channels anything else touches is left as
    it is, as is one whose size is written into `__call__`: a smaller copy is made on the spot and compared.

    Args:
        model: An Equinox model that is called on one sample, `model(x)` or `model(x, key=key)`.
        where: Function from the model to the layers to grow (as for `eqx.tree_at`); None: all linear layers and
            convolutions that can be smaller with the same outputs (`group_names` of the result says which).
        example: One sample, or its shape and data type; a tuple of them for several inputs.
        key: For controllers that start with a jitter, and for the sample on which the copy is compared. An
            array of keys grows as many models at once, for `n3.fit` to train side by side: every array of
            `model` then has the same first axis.
        method: `information` (each size is moved by what its units say of the target, see `n3.fit`),
            `controller` (bounded sizes that approach a target) or `auxiliary` (one weight is every size).
        initial_size: Units of each group at the start, cut to its capacity; None: all of them, which is the
            safer start where there are several groups: a group of few units can hold back the others.
        mask: Ramp from size to participation, by its name in `n3.nn.MASKS`.

    Returns:
        A model that is called exactly like the given one. `n3.tracing.grow.compact_model` turns it back.

    Raises:
        ValueError: If a layer cannot be grown, naming its path and the reason, or an argument is out of range.
    """
    for name, value, known in (("method", method, GROWTH_METHODS), ("mask", mask, MASKS)):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(known)}; got {value!r}.")
    if initial_size is not None and not 0 <= initial_size < float("inf"):
        raise ValueError(f"`initial_size` must be zero or more, and finite; got {initial_size}.")
    return _grown(model, where, example=example, key=key, method=method, initial_size=initial_size, mask=mask)


def grown_whole(model: _Model, *, example: Example | tuple[Example, ...]) -> Grown[_Model]:
    """A model all of whose hidden layers can change their size, every unit taking part for good.

    Raises:
        ValueError: As `grow`.
    """
    return _grown(model, None, example=example, key=jr.key(0), method="fixed")


def _grown(model, where, *, example, key, method, initial_size=None, mask="sine") -> Grown:
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((model, key))):
        rest = "grow first, and use `eqx.filter_vmap` over what comes of it; an array of keys grows many"
        raise ValueError(f"`model` must not be inside `jit` or `vmap`: {rest}.")
    check_stateless(model)
    if isinstance(model, AbstractSized):
        raise ValueError("`model` must be a plain model; got one that is grown already.")
    one, _ = first_run(model, key)
    keys = jax.vmap(jr.split, out_axes=1)(key) if key.ndim else jr.split(key)
    example = example if isinstance(example, tuple) else (example,)
    _check_takes(one, example)
    inputs = [own if isinstance(own, jax.ShapeDtypeStruct) else jnp.asarray(own) for own in example]
    chosen = None if where is None else _paths(one, where)
    try:
        found = _checked_structure(norms.participating(one), inputs, chosen, key=keys[1].reshape(-1)[0])
    except TypeError as error:  # of JAX, about shapes
        shapes = " and ".join(str(own.shape) for own in inputs)
        text = f"`example` must be one sample that the model takes, without a batch; of shape {shapes}"
        raise ValueError(f"{text} it fails: {error}") from error
    capacity = jnp.array(found.capacity, jnp.float32)

    def controlled(own: Any, key: PRNGKeyArray) -> Grown:
        controller = make_controller(
            method,
            found.capacity,
            is_layerwise=method in ("controller", "auxiliary") and len(found.capacity) > 1,
            initial_size=capacity if initial_size is None else jnp.minimum(initial_size, capacity),
            mask=mask,
            key=key,
        )
        return Grown(norms.participating(own), controller, found.within("model"))

    return eqx.filter_vmap(controlled)(model, keys[0]) if key.ndim else controlled(model, keys[0])


def _check_takes(model: PyTree, example: tuple[Any, ...]) -> None:
    """Refuse inputs that the model's call does not take, and inputs that are no arrays."""
    call = f"`{type(model).__name__}.__call__`"
    for own in example:
        if isinstance(own, (tuple, list, dict)):
            rest = f"give {call} an argument for each array."
            raise ValueError(f"`example` must hold arrays; got a {type(own).__name__}: {rest}")
    try:
        inspect.signature(model.__call__).bind(*example)
    except TypeError as error:
        rest = f"got {len(example)}: {error}. A tuple stands for several arguments."
        if inspect.signature(model.__call__).parameters.keys() >= {"key"} and "'key'" in str(error):
            rest = "its `key` must have a default, such as `key=None`."
        raise ValueError(f"`example` must be an input for each argument of {call}; {rest}") from error


def _checked_structure(model: PyTree, inputs: Sequence[Any], chosen: list[str] | None, *, key) -> Structure:
    """The groups that can be smaller; a group that cannot is left out, unless it was asked for."""
    found = find_structure(model, inputs, chosen)
    failing = failing_groups(model, found, key=key)
    left = [path for number, group in enumerate(found.groups) if number not in failing for path in group.layers]
    if failing and (chosen is not None or not left):
        number, reason = next(iter(failing.items()))
        picked, *tied = sorted(found.groups[number].layers, key=lambda path: path not in (chosen or [path]))
        text = f"it shares its channels with {', '.join(tied)}, and " if tied else ""
        text += (
            f"with fewer channels {reason}; its size may be fixed in a call, as that of attention's heads is"
        )
        raise ValueError(f"`where` must leave out layer {picked}: {text}.")
    return _checked_structure(model, inputs, left, key=key) if failing else found


def compact_model(grown: Grown[_Model]) -> _Model:
    """The model without the channels that do not take part: same outputs, same class, smaller layers.

    The participation of a channel that takes part partly is multiplied into the parameters that read it. Only
    a norm over such a channel must keep it, and stays a `ParticipatingNorm`; all others are Equinox's own
    again. A group whose size is zero keeps one channel, which counts nothing. Not inside `jit`: shapes change.
    """
    return smaller_model(grown, grown.structure, grown.participation()).model


def _paths(model: _Model, where: Callable[[_Model], Any]) -> list[str]:
    picked = where(model)
    picked = picked if isinstance(picked, (tuple, list)) else [picked]
    paths = {id(layer): path for path, layer in layers_in(model).items()}
    for node in picked:
        if id(node) not in paths:
            kinds = ", ".join(kind.__name__ for kind in LAYERS)
            inside = [paths[id(layer)] for layer in layers_in(node).values() if id(layer) in paths]
            rest = f", in which are {', '.join(inside)}: pick some of these" if inside else ""
            raise ValueError(
                f"`where` must pick layers of the model ({kinds}); got {type(node).__name__}{rest}."
            )
    return [paths[id(node)] for node in picked]
