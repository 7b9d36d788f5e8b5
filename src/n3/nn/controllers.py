"""Controllers: how a trainable size weight becomes the participation of every hidden unit."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from n3.nn import masks

JITTER = 1e-5
"""Standard deviation of a bounded controller's output around its first value."""


class AbstractController(eqx.Module):
    """Decides how much each unit of a network takes part; it lives inside the network and trains with it."""

    capacity: eqx.AbstractVar[tuple[int, ...]]
    mask: eqx.AbstractVar[str]

    @abc.abstractmethod
    def sizes(self) -> Float[Array, " depth"]:
        """Effective size of each hidden layer, in `[0, capacity]`."""

    @abc.abstractmethod
    def participation(self) -> tuple[Float[Array, " _capacity"], ...]:
        """Participation of each unit of each hidden layer, in `[0, 1]`, non-increasing in the index."""

    @abc.abstractmethod
    def gain(self) -> Float[Array, ""]:
        """Factor on the network's output, in `[0, 1]`."""

    @abc.abstractmethod
    def penalty(self, target_size: Float[Array, ""]) -> Float[Array, ""]:
        """Squared distance of the size weight from its value at `target_size` units; 0 or more."""

    def reach(self, move: Float[Array, ""]) -> Float[Array, " depth"]:
        """Size that no layer exceeds while no weight moves by more than `move`; here the capacity."""
        return jnp.array(self.capacity, move.dtype)


class _AbstractWeighted(AbstractController):
    weight: Float[Array, ""]
    capacity: tuple[int, ...] = eqx.field(static=True)
    mask: str = eqx.field(static=True, default="sine")


class _AbstractUnscaled(_AbstractWeighted):
    def gain(self):
        return jnp.ones_like(self.weight)


class _AbstractBounded(_AbstractUnscaled):
    """The penalty is `(c - c_target)**2`, with `c_target = 1` when the target is the whole capacity."""

    of: tuple[int, ...] | None = eqx.field(static=True, default=None)
    """Units of each layer that the size is a share of; None: the capacity."""

    @property
    def units(self) -> tuple[int, ...]:
        """Units of each layer, whether or not all of them are trained."""
        return self.of or self.capacity

    def penalty(self, target_size):
        return (self.weight - masks.output_for_share(target_size / self.units[0])) ** 2


class Auxiliary(_AbstractUnscaled):
    """The size is the weight itself: `N = w`, trained by the task and by `(w - target)**2`.

    References:
        arXiv 2501.18012, the auxiliary-weight algorithm.
    """

    def sizes(self) -> Float[Array, " depth"]:
        """The weight, cut to `[0, capacity]` of each layer."""
        return jnp.stack([jnp.clip(self.weight, 0.0, float(units)) for units in self.capacity])

    def participation(self) -> tuple[Float[Array, " _capacity"], ...]:
        """The ramp at the weight, in every layer."""
        return tuple(masks.participation(self.weight, units, self.mask) for units in self.capacity)

    def penalty(self, target_size: Float[Array, ""]) -> Float[Array, ""]:
        """`(w - target_size)**2`, in squared units."""
        return (self.weight - target_size) ** 2

    def reach(self, move: Float[Array, ""]) -> Float[Array, " depth"]:
        """The weight further up, cut to the capacity of each layer."""
        return replace(self, weight=self.weight + move).sizes()


class Controller(_AbstractBounded):
    """A bounded size: `N = H sin(pi c / 2)**2`, trained by the task and by `(c - c_target)**2`.

    References:
        arXiv 2501.18012, the controller-mask algorithm, as described there.
    """

    def sizes(self) -> Float[Array, " depth"]:
        """The same share of each layer's units."""
        return jnp.array(self.units, self.weight.dtype) * masks.capacity_share(self.weight)

    def reach(self, move: Float[Array, ""]) -> Float[Array, " depth"]:
        """The share of the weight further from zero, at most all."""
        furthest = jnp.minimum(jnp.abs(self.weight) + move, 1.0)
        return jnp.array(self.units, move.dtype) * masks.capacity_share(furthest)

    def participation(self) -> tuple[Float[Array, " _capacity"], ...]:
        """The ramp at each layer's size."""
        return _ramps(self.sizes(), self)


class Released(_AbstractBounded):
    """One scalar gain `sin(pi c / 2)**2` on the whole layer, trained by the penalty `(c - c_target)**2` alone.

    All units are always active and the task's gradient never reaches `c`: this is what the code published with
    the paper computes, kept for comparison.
    """

    def sizes(self) -> Float[Array, " depth"]:
        """The gain times each layer's capacity."""
        return jnp.array(self.capacity, self.weight.dtype) * _open_loop(self.weight)

    def participation(self) -> tuple[Float[Array, " _capacity"], ...]:
        """The gain, for every unit alike."""
        return tuple(jnp.full(units, _open_loop(self.weight)) for units in self.capacity)


class Warmup(_AbstractWeighted):
    """All units take part from the start; the network's output is scaled by `sin(pi t / 2)**2`.

    The time `t` goes from 0 to 1 under the penalty alone, `(t - 1)**2`: with the growing arm's optimiser and
    cost it follows that arm's schedule in open loop, so it separates growth from a slow start.
    """

    def sizes(self) -> Float[Array, " depth"]:
        """The capacity of each layer."""
        return jnp.array(self.capacity, self.weight.dtype)

    def participation(self) -> tuple[Float[Array, " _capacity"], ...]:
        """One for every unit."""
        return tuple(jnp.ones(units, self.weight.dtype) for units in self.capacity)

    def gain(self) -> Float[Array, ""]:
        """`sin(pi t / 2)**2`, without a gradient."""
        return _open_loop(self.weight)

    def penalty(self, target_size: Float[Array, ""]) -> Float[Array, ""]:
        """`(t - 1)**2`, whatever the target size."""
        return (self.weight - 1.0) ** 2


class _AbstractUnpriced(AbstractController):
    """A size of its own for each layer, without a target, and nothing on the output."""

    def gain(self):
        return jnp.ones_like(self.sizes()[0])

    def penalty(self, target_size):
        return jnp.zeros_like(self.sizes()[0])


class Information(_AbstractUnpriced):
    """A size of its own for each layer, `N_l = w_l`, and no target: information moves it (`n3.information`)."""

    weight: Float[Array, " depth"]
    capacity: tuple[int, ...] = eqx.field(static=True)
    mask: str = eqx.field(static=True, default="sine")

    def sizes(self) -> Float[Array, " depth"]:
        """The weights, cut to `[0, capacity]`."""
        return jnp.clip(self.weight, 0.0, jnp.array(self.capacity, self.weight.dtype))

    def participation(self) -> tuple[Float[Array, " _capacity"], ...]:
        """The ramp at each layer's weight."""
        return _ramps(self.weight, self)


class Fixed(_AbstractUnpriced):
    """A constant size in each layer, which nothing trains: the static baseline."""

    size: Float[Array, " depth"]
    capacity: tuple[int, ...] = eqx.field(static=True)
    mask: str = eqx.field(static=True, default="sine")

    def sizes(self) -> Float[Array, " depth"]:
        """The constants, without a gradient."""
        return jax.lax.stop_gradient(self.size)

    def participation(self) -> tuple[Float[Array, " _capacity"], ...]:
        """The ramp at each layer's size."""
        return _ramps(self.sizes(), self)


class Layerwise(AbstractController):
    """One controller of a chosen kind for each hidden layer, so that each layer finds its own size."""

    layers: tuple[AbstractController, ...]
    capacity: tuple[int, ...] = eqx.field(static=True)
    mask: str = eqx.field(static=True, default="sine")

    def sizes(self) -> Float[Array, " depth"]:
        """Each layer's own size."""
        return jnp.concatenate([layer.sizes() for layer in self.layers])

    def participation(self) -> tuple[Float[Array, " _capacity"], ...]:
        """Each layer's own participation."""
        return tuple(layer.participation()[0] for layer in self.layers)

    def gain(self) -> Float[Array, ""]:
        """The product of the layers' gains."""
        return jnp.prod(jnp.stack([layer.gain() for layer in self.layers]))

    def penalty(self, target_size: Float[Array, ""]) -> Float[Array, ""]:
        """The sum of the layers' penalties."""
        return jnp.sum(jnp.stack([layer.penalty(target_size) for layer in self.layers]))


Maker = Callable[..., AbstractController]
"""From `capacity` and the keywords `initial_size`, `key` and `mask` to a controller that starts at these sizes.

A controller with one weight for all layers takes the first size; the key is for the bounded kinds' jitter.
"""


def _unjittered(capacity, *, initial_size, key, mask="sine", kind):
    return kind(initial_size[0] if kind is Auxiliary else initial_size, capacity, mask)


def _jittered(capacity, *, initial_size, key, mask="sine", kind):
    first = masks.output_for_share(initial_size[0] / capacity[0])
    return kind(first + JITTER * jr.normal(key, dtype=first.dtype), capacity, mask)


def _layers(capacity, *, initial_size, key, mask="sine", kind):
    parts = zip(capacity, initial_size[:, None], jr.split(key, len(capacity)), strict=True)
    make = partial(CONTROLLERS[kind], mask=mask)
    layers = tuple(make((units,), initial_size=size, key=layer_key) for units, size, layer_key in parts)
    return Layerwise(layers, capacity, mask)


def layerwise(kind: str) -> Maker:
    """Maker of a `Layerwise` controller whose layers are each of `kind`, a name in `CONTROLLERS`."""
    return partial(_layers, kind=kind)


CONTROLLERS: Mapping[str, Maker] = MappingProxyType(
    {
        "auxiliary": partial(_unjittered, kind=Auxiliary),
        "controller": partial(_jittered, kind=Controller),
        "released": partial(_jittered, kind=Released),
        "warmup": partial(_jittered, kind=Warmup),
        "information": partial(_unjittered, kind=Information),
        "fixed": partial(_unjittered, kind=Fixed),
        "layerwise": layerwise("auxiliary"),
    }
)
"""Makers of controllers by name."""


def _open_loop(weight: Float[Array, ""]) -> Float[Array, ""]:
    return masks.capacity_share(jax.lax.stop_gradient(weight))


def _ramps(sizes: Float[Array, " depth"], own: AbstractController) -> tuple[Float[Array, " _capacity"], ...]:
    units = enumerate(own.capacity)
    return tuple(masks.participation(sizes[layer], number, own.mask) for layer, number in units)


def make_controller(
    kind: str,
    capacity: tuple[int, ...],
    *,
    is_layerwise: bool,
    initial_size: Float[Array, " depth"],
    mask: str,
    key: PRNGKeyArray,
    allocated: tuple[int, ...] | None = None,
) -> AbstractController:
    """A controller by its name in `CONTROLLERS`, one for the network or one for each hidden layer.

    It starts at `initial_size` units of each layer; its mask is a name in `masks.MASKS`; the key is for the
    kinds that start with a jitter. `allocated` are the units of each layer, where only the first `capacity` of
    them are trained (None: all).

    Raises:
        ValueError: If there is no such controller.
    """
    if kind not in CONTROLLERS:
        raise ValueError(f"`controller` must be one of {', '.join(CONTROLLERS)}; got {kind!r}.")
    make = layerwise(kind) if is_layerwise else CONTROLLERS[kind]
    made = make(capacity, initial_size=initial_size, key=key, mask=mask)
    return replace(made, of=allocated) if isinstance(made, Controller) else made
