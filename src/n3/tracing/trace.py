"""Trace: from an Equinox model, its layers and one example, to the groups of channels that belong together."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from n3.nn.groups import Group, Leaf, Structure, Tap, mean_of_units
from n3.nn.norms import ParticipatingNorm
from n3.nn.sized import AbstractSized
from n3.tracing.axes import Dimension, Gates, Sum, Value, fixed, layout_of
from n3.tracing.primitives import SUMMING, called, carry, sums_in, walk

_PerUnit = Float[Array, " _units"]

LAYERS = (eqx.nn.Linear, eqx.nn.Conv, eqx.nn.ConvTranspose)
"""Layers whose output channels, the first axis of their `weight`, can be grown."""


def is_layer(node: PyTree) -> bool:
    """Whether a node of a model is a layer with a weight of its own, and not one tied to another layer's."""
    return isinstance(node, LAYERS) and eqx.is_array_like(node.weight)


def layers_in(model: PyTree) -> dict[str, eqx.Module]:
    """Every layer of `LAYERS` in a model, by its path."""
    nodes = jax.tree_util.tree_leaves_with_path(model, is_leaf=is_layer)
    return {jax.tree_util.keystr(path): node for path, node in nodes if is_layer(node)}


def with_true_sizes(model: PyTree) -> PyTree:
    """The model with every layer and norm told the sizes of its arrays."""

    def resized(node: PyTree) -> PyTree:
        if isinstance(node, ParticipatingNorm):
            return ParticipatingNorm(_with_fields(node.norm, _sizes_of_norm(node)), node.share)
        return _with_fields(node, _sizes_of_layer(node)) if is_layer(node) else node

    return jax.tree.map(resized, model, is_leaf=lambda node: isinstance(node, (*LAYERS, ParticipatingNorm)))


def _sizes_of_layer(layer: Any) -> dict[str, Any]:
    out, into = layer.weight.shape[:2]
    if isinstance(layer, eqx.nn.Linear):
        sizes = {"out_features": out, "in_features": into}
        return {name: size for name, size in sizes.items() if getattr(layer, name) != "scalar"}
    groups = out if layer.groups == layer.out_channels > 1 else layer.groups
    return {"out_channels": out, "in_channels": into * groups, "groups": groups}


def _sizes_of_norm(node: ParticipatingNorm) -> dict[str, Any]:
    norm, shape = node.norm, node.share.shape
    if not isinstance(norm, eqx.nn.GroupNorm):
        return {"shape": shape}
    groups = 1 if norm.groups == 1 else shape[0] * norm.groups // (norm.channels or 1)
    return {"groups": groups, "channels": shape[0]}


def _with_fields(module: eqx.Module, sizes: dict[str, Any]) -> eqx.Module:
    """A copy of a module with other static fields; calling its class would draw weights."""
    copy = object.__new__(type(module))
    for field in dataclasses.fields(module):
        object.__setattr__(copy, field.name, sizes.get(field.name, getattr(module, field.name)))
    return copy


def check_stateless(model: PyTree) -> None:
    """ValueError for a model that hands a state on from call to call, such as batch statistics."""
    is_state = lambda node: isinstance(node, eqx.nn.StateIndex)  # noqa: E731
    for path, node in jax.tree_util.tree_leaves_with_path(model, is_leaf=is_state):
        if is_state(node):
            name = jax.tree_util.keystr(path)
            rest = f"got one at {name or 'its root'}. LayerNorm and GroupNorm have none."
            raise ValueError(f"`model` must have no state, such as batch statistics; {rest}")


def takes_key(model: Callable[..., Any]) -> bool:
    """Whether a model is called with `key=`."""
    own = getattr(model, "model", model) if isinstance(model, AbstractSized) else model
    return "key" in inspect.signature(own).parameters


def key_if_taken(model: Callable[..., Any], key: PRNGKeyArray) -> dict[str, PRNGKeyArray]:
    """The keywords that a model is called with: a key, if it takes one."""
    return {"key": key} if takes_key(model) else {}


def number_of_outputs(model: Callable[..., Any], *example: tuple[tuple[int, ...], Any]) -> int:
    """Numbers that a model returns for one sample, given shape and data type of each of its inputs."""
    inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in example]
    outputs = eqx.filter_eval_shape(eqx.nn.inference_mode(model), *inputs, **key_if_taken(model, jr.key(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(outputs))


def traced(model: PyTree, inputs: Sequence[Array | jax.ShapeDtypeStruct]) -> tuple[ClosedJaxpr, list[Array]]:
    """A model in inference mode as a program of its arrays and one sample's inputs, and these arrays."""
    arrays, rest = eqx.partition(eqx.nn.inference_mode(model), eqx.is_array)
    leaves, treedef = jax.tree.flatten(arrays)
    keys = key_if_taken(model, jr.key(0))

    def call(leaves: list[Array], inputs: Sequence[Array]) -> PyTree:
        outputs = eqx.combine(jax.tree.unflatten(treedef, leaves), rest)(*inputs, **keys)
        return eqx.filter(outputs, eqx.is_array)

    return jax.make_jaxpr(call)(leaves, list(inputs)), leaves


def activations(model: PyTree, structure: Structure, inputs: Sequence[Array]) -> tuple[_PerUnit, ...]:
    """What the last reader of each group sees of every unit in one sample, before the participation.

    A unit that has several positions, or is a block of channels, counts by its mean. The participation of other
    groups is in the model's parameters.
    """
    program, leaves = traced(model, inputs)
    seen = operands(program, [*leaves, *inputs], [(tap.place, tap.operand) for tap in structure.taps])
    pairs = enumerate(zip(seen, structure.taps, strict=True))
    return tuple(mean_of_units(value, tap, group) for group, (value, tap) in pairs)


def operands(program: ClosedJaxpr, arguments: Sequence[Array], wanted: Sequence[tuple[int, int]]) -> list[Any]:
    """Run a program and return operands of operations that sum, by the operation's number and the operand's."""
    found, count = {}, 0

    def is_needed(inner: ClosedJaxpr) -> bool:
        return any(count <= place < count + sums_in(inner) for place, _ in wanted)

    def visit(equation: Any, values: list[Any]) -> list[Any]:
        nonlocal count
        inner = called(equation)
        if equation.primitive.name in SUMMING:
            found.update({(count, number): value for number, value in enumerate(values)})
            count += 1
        elif inner is not None:
            count += sums_in(inner)
        result = equation.primitive.bind(*values, **equation.primitive.get_bind_params(equation.params))
        return list(result) if equation.primitive.multiple_results else [result]

    walk(program, arguments, visit=visit, constant=lambda array: array, enter=is_needed)
    return [found[key] for key in wanted]


Parameters = Mapping[str, Value]
Reading = list[tuple[Sum, list[tuple[str, int]]]]
"""Sums over an atom, each with the axes of parameters that can be zero there."""
Readers = Mapping[Dimension, Reading]


def find_structure(
    model: PyTree, example: Sequence[Array | jax.ShapeDtypeStruct], chosen: Sequence[str] | None
) -> Structure:
    """Trace a model on one sample and find the groups of channels that can be grown.

    Two layers share a group where their channels meet, as in a sum. A channel can be dropped exactly if every
    operation treats channels alike and one by one, but for sums over them in which a parameter takes part: with
    that parameter zero at a channel, the sum is the same without it.

    The model's norms count participation (`norms.participating`); the example is one sample's inputs, or their
    shapes. The chosen are paths of the layers to grow; None: all whose channels can be dropped exactly. The
    groups stand in the order of their first layers.

    Raises:
        ValueError: If a chosen layer's channels cannot be dropped exactly (it names the layer and the reason),
            or if there is nothing to grow.
    """
    program, _ = traced(model, example)
    known, sums = _parameters(model), list[Sum]()
    seen = {"is_data": True, "is_input": True}
    note = "they belong to a constant that the program holds"
    results = walk(
        program,
        [*known.values(), *(fixed(own.shape, "they are the model's input", **seen) for own in example)],
        visit=lambda equation, values: carry(equation, values, sums),
        constant=lambda array: fixed(np.shape(array), note),
    )
    for axis in (axis for result in results for axis in result.axes):
        axis.note("they are the model's output")
    readers = _readers(known, sums)
    atoms = _grown(model, known, readers, chosen)
    made = {path: known[f"{path}.weight"].axes[0].atoms() for path in layers_in(model)}
    layers = [[path for path, own in made.items() if atom in own] for atom in atoms]
    reads = [_reads(readers[atom], own) for atom, own in zip(atoms, layers, strict=True)]
    numbers = {atom: number for number, atom in enumerate(atoms)}
    return Structure(
        groups=tuple(Group(tuple(own), atom.size) for atom, own in zip(atoms, layers, strict=True)),
        leaves=tuple(_leaves(model, known, numbers, reads)),
        taps=tuple(_tap(readers[atom], numbers) for atom in atoms),
        example=tuple((tuple(one.shape), jnp.dtype(one.dtype)) for one in example),
    )


def _parameters(model: PyTree) -> dict[str, Value]:
    known = {}
    for path, array in jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_array)):
        name = jax.tree_util.keystr(path)
        axes = tuple(Dimension(size) for size in array.shape)
        known[name] = Value(axes, tuple(Gates({(name, axis)}) for axis in range(array.ndim)))
    return known


def _readers(known: Parameters, sums: Sequence[Sum]) -> Readers:
    """The sums over each atom, each with the parameters that can be zero there; without any, a note."""
    readers: dict[Dimension, Reading] = {}
    for own in sums:
        sides = sorted(own.sides, key=lambda side: side[0].is_data)  # parameters first
        gates = [gate for value, axis in sides for gate in sorted(value.gates[axis])]
        for atom in own.dimension.atoms():
            able = [(path, axis) for path, axis in gates if atom in known[path].axes[axis].atoms()]
            readers.setdefault(atom, []).append((own, able))
            if not able:
                atom.note(f"they are summed by {own.name} without a parameter for each")
    return readers


def _grown(model: PyTree, known: Parameters, readers: Readers, chosen: Sequence[str] | None) -> list[Dimension]:
    """The atoms that become groups, in the order of the layers that make them."""
    found, refused = list[Dimension](), ""
    for path in (path for path in layers_in(model) if chosen is None or path in chosen):
        atoms = known[f"{path}.weight"].axes[0].atoms()
        able = [atom for atom in atoms if _seen(readers.get(atom, [])) and not atom.notes]
        if able:
            found += [able[0]] if able[0] not in found else []
            continue
        notes = [text for atom in atoms for text in atom.notes]
        reason = next(iter(notes), "nothing reads them" if atoms else "there is only one")
        if chosen is not None:
            raise ValueError(f"`where` must leave out layer {path}: as to its channels, {reason}.")
        refused = refused or f" (as to channels of {path}, {reason})"
    if not found:
        text = f"a hidden linear or convolutional layer; got none that can be grown{refused}"
        raise ValueError(f"`model` must have {text}.")
    return found


def _reads(own: Reading, layers: Sequence[str]) -> set[tuple[str, int]]:
    """The axes of parameters that are multiplied by a group's participation, one or more for every sum."""
    made, reads = {(f"{path}.weight", 0) for path in layers}, set[tuple[str, int]]()
    for _, able in own:
        if not reads.intersection(able):
            reads.add(min(able, key=lambda gate: gate in made))
    return reads


def _leaves(
    model: PyTree, known: Parameters, numbers: Mapping[Dimension, int], reads: Sequence[set[tuple[str, int]]]
) -> Iterator[Leaf]:
    arrays = jax.tree.leaves(eqx.filter(model, eqx.is_array))
    for (path, value), array in zip(known.items(), arrays, strict=True):
        layouts = tuple(layout_of(axis, numbers) for axis in value.axes)
        if any(set(layout.groups()) for layout in layouts):
            axes = range(len(layouts))
            own = tuple(frozenset(n for n, each in enumerate(reads) if (path, a) in each) for a in axes)
            yield Leaf(path, layouts, own, bool(eqx.is_inexact_array(array)))


def _seen(own: Reading) -> list[tuple[int, int, Value, int]]:
    """The sums over a group that see it in a sample: place, operand, and the operand's value and axis."""
    sides = [(each.place, operand, *side) for each, _ in own for operand, side in enumerate(each.sides)]
    return [side for side in sides if side[2].is_data]


def _tap(own: Reading, numbers: Mapping[Dimension, int]) -> Tap:
    place, operand, value, axis = _seen(own)[-1]
    return Tap(place, operand, axis, layout_of(value.axes[axis], numbers))
