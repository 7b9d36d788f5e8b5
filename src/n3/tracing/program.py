"""Program: a model as the operations that one sample runs through, and what some of them see."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array, Float, PyTree

from n3.tracing.groups import Structure, mean_of_units
from n3.tracing.primitives import SUMMING, called, sums_in, walk


def takes_key(model: Callable[..., Any]) -> bool:
    """Whether a model is called with `key=`."""
    return "key" in inspect.signature(model).parameters


def traced(model: PyTree, inputs: Sequence[Array | jax.ShapeDtypeStruct]) -> tuple[ClosedJaxpr, list[Array]]:
    """A model in inference mode as a program of its arrays, one sample's inputs and a key if it takes one.

    Args:
        model: The model.
        inputs: One sample's inputs, or their shapes.

    Returns:
        The program, and the model's arrays in the order of its first inputs.
    """
    arrays, rest = eqx.partition(eqx.nn.inference_mode(model), eqx.is_array)
    leaves, treedef = jax.tree.flatten(arrays)
    keys = {"key": jr.key(0)} if takes_key(model) else {}

    def call(leaves: list[Array], inputs: Sequence[Array]) -> PyTree:
        outputs = eqx.combine(jax.tree.unflatten(treedef, leaves), rest)(*inputs, **keys)
        return eqx.filter(outputs, eqx.is_array)

    return jax.make_jaxpr(call)(leaves, list(inputs)), leaves


def activations(
    model: PyTree, structure: Structure, inputs: Sequence[Array]
) -> tuple[Float[Array, " _units"], ...]:
    """What the last reader of each group sees of every unit in one sample, before the participation.

    A unit that has several positions, or is a block of channels, counts by its mean.

    Args:
        model: The model; other groups' participation is in its parameters.
        structure: Of this model.
        inputs: One sample's inputs.
    """
    program, leaves = traced(model, inputs)
    seen = operands(program, [*leaves, *inputs], [(tap.place, tap.operand) for tap in structure.taps])
    pairs = enumerate(zip(seen, structure.taps, strict=True))
    return tuple(mean_of_units(value, tap, group) for group, (value, tap) in pairs)


def operands(program: ClosedJaxpr, arguments: Sequence[Array], wanted: Sequence[tuple[int, int]]) -> list[Any]:
    """Run a program and return operands of some of its summing operations.

    Args:
        program: A jaxpr.
        arguments: Its inputs.
        wanted: Number of an operation among those that sum, and number of its operand.
    """
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
