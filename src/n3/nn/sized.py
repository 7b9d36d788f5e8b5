"""Sized: the contract of a model with groups of units, by which information sizes it and surgery changes it."""

import abc
from collections.abc import Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from n3.nn import groups
from n3.nn.controllers import AbstractController
from n3.nn.groups import Structure

Sized = TypeVar("Sized", bound="AbstractSized")
PerGroup = Float[Array, " groups"]


class Several(eqx.Module):
    """Several inputs of each sample, samples first, which a model takes one after another; indexed like one."""

    arrays: tuple[Any, ...]

    def __getitem__(self, rows: Any) -> "Several":
        return jax.tree.map(lambda own: own[rows], self)

    def __len__(self) -> int:
        return len(self.arrays[0])

    @property
    def shape(self) -> tuple[Any, ...]:
        """Number of samples, and the shape of each input of one."""
        return (len(self), *(own.shape[1:] for own in self.arrays))

    @property
    def dtype(self) -> tuple[Any, ...]:
        """Type of each input."""
        return tuple(own.dtype for own in self.arrays)


Inputs = Array | Several
"""Inputs of some samples, samples first."""


def inputs_of(given: Any) -> Inputs:
    """A tuple of arrays as several inputs of each sample, samples first; an array as it is."""
    return Several(tuple(map(jnp.asarray, given))) if isinstance(given, tuple) else jnp.asarray(given)


def each_input(inputs: Any) -> tuple[Any, ...]:
    """The inputs that a model takes one after another, of one sample or of some."""
    return inputs.arrays if isinstance(inputs, Several) else (inputs,)


class AbstractSized(eqx.Module):
    """A model whose units take part by the masks that its controller emits, group by group.

    A group is a hidden layer, or all layers whose channels can only be kept or dropped together. A gradient and
    an optimiser's moments are trees of the same class.
    """

    controller: eqx.AbstractVar[AbstractController]
    structure: eqx.AbstractVar[Structure]
    """Which parameters of the model have units of which group along which axis."""
    depth_weight: eqx.AbstractVar[Float[Array, ""] | None]
    """Effective depth, where the groups are layers behind depth gates; None: every group counts."""

    def sizes(self) -> Float[Array, " groups"]:
        """Effective units of each group, in `[0, capacity]`."""
        return self.controller.sizes()

    def participation(self) -> tuple[Float[Array, " _units"], ...]:
        """Participation of every unit of every group, in `[0, 1]`."""
        return self.controller.participation()

    @abc.abstractmethod
    def gates(self) -> Float[Array, " groups"]:
        """Share of each group in its residual step, in `[0, 1]`; ones without depth gates."""

    @abc.abstractmethod
    def activations(self, inputs: Inputs) -> tuple[Float[Array, "_units samples"], ...]:
        """Every unit of each group in many samples, before its mask."""

    @abc.abstractmethod
    def reordered(self, orders: Sequence[Int[Array, " _units"]], last: Int[Array, ""]) -> "AbstractSized":
        """The same function with the units of every group in another order, where they take part alike.

        An order has the old index of the unit at each place; the read-out sees the last group of an open gate.
        """

    @abc.abstractmethod
    def resized(self, controller: AbstractController) -> "AbstractSized":
        """This model, its arrays cut or extended, under a controller of the capacity that they have now."""

    def only_making(self, shares: Sequence[Float[Array, " _units"]]) -> "AbstractSized":
        """Of a gradient: the parameters that make units, times their unit's share; zero for all others."""
        return groups.made_by(self, self.structure, shares)

    @property
    def group_names(self) -> tuple[str, ...]:
        """Path of the first layer of each group."""
        return tuple(group.layers[0] for group in self.structure.groups)

    @abc.abstractmethod
    def weight_cost(self) -> tuple[Float[Array, " _units"], ...]:
        """Nats per unit of the prior: squares of the weights that make each unit, over twice their scale."""

    @abc.abstractmethod
    def unit_parameters(self, sizes: PerGroup, inputs: Float[Array, ""]) -> PerGroup:
        """Parameters that a further unit of each group brings, of so many effective inputs."""

    @abc.abstractmethod
    def parameter_count(self, sizes: Float[Array, " groups"]) -> Float[Array, ""]:
        """Active parameters of the model at given sizes."""


def reorder(tree: PyTree, orders: Sequence[Int[Array, " _units"]], last: Int[Array, ""]) -> PyTree:
    """A tree with the units of every sized model in it, or of a model's moments, in another order."""
    is_sized = lambda node: isinstance(node, AbstractSized)  # noqa: E731
    moved = lambda node: node.reordered(orders, last) if is_sized(node) else node  # noqa: E731
    return jax.tree.map(moved, tree, is_leaf=is_sized)


def run_of(models: PyTree, row: int) -> PyTree:
    """One of many models, or of other trees, whose arrays have a first axis of runs."""
    return jax.tree.map(lambda leaf: leaf[row] if eqx.is_array(leaf) else leaf, models)


def stack_runs(models: Sequence[PyTree]) -> PyTree:
    """Models of one form as one whose arrays have a first axis of runs."""
    return jax.tree.map(lambda *own: jnp.stack(own) if eqx.is_array(own[0]) else own[0], *models)


def with_rows(leaf: Any, rows: Int[np.ndarray, " rows"], new: Any) -> Any:
    """An array with other rows in some places, of its own kind; what is no array stays."""
    if not isinstance(leaf, np.ndarray):
        return leaf.at[rows].set(jnp.asarray(new)) if eqx.is_array(leaf) else leaf  # keys are none of NumPy's
    leaf = leaf.copy()
    leaf[rows] = new
    return leaf


def choose_runs(
    is_new: Bool[Array, "*runs"] | Bool[np.ndarray, "*runs"] | np.bool, new: PyTree, old: PyTree
) -> PyTree:
    """Of two models of one form the one or the other, by a truth for each run."""

    def chosen(own: Any, other: Any) -> Any:
        if not eqx.is_array(own):
            return other
        return jnp.where(is_new.reshape(*is_new.shape, *(1,) * (own.ndim - is_new.ndim)), own, other)

    return jax.tree.map(chosen, new, old)


def first_run(model: PyTree, key: Key[Array, "*runs"]) -> tuple[PyTree, int]:
    """The first of many models, and the number of runs; 0: a single one, without an axis of runs.

    Raises:
        ValueError: If the key is none of `jax.random.key`, or an array of the model has not as many runs.
    """
    if not (eqx.is_array(key) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"`key` must be made by `jax.random.key`; got {key!r}.")
    if not key.ndim:
        return model, 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_array)):
        if leaf.shape[:1] != key.shape:
            text = f"`model` must have a first axis of {len(key)} runs in every array, as `key` has"
            raise ValueError(f"{text}; {jax.tree_util.keystr(path)} has shape {leaf.shape}.")
    return run_of(model, 0), len(key)
