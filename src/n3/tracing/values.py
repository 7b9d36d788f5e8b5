"""Values: what is known of an array before a program is run: its axes, and what makes it zero along them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend import source_info_util

from n3.tracing.axes import Dimension

Gates = frozenset[tuple[str, int]]
"""Axes of parameters, by path and number."""


@dataclass(frozen=True)
class Value:
    """What is known of an array; a scalar has no axes."""

    axes: tuple[Dimension, ...] = ()
    gates: tuple[Gates, ...] = ()
    """For each axis, parameters of which the array is a multiple: where they are zero along it, it is too."""
    is_data: bool = False
    """Whether it depends on the model's input."""

    def keeping(self, axes: Sequence[int]) -> "Value":
        """The value with some of its axes, in the order given."""
        return Value(tuple(self.axes[a] for a in axes), tuple(self.gates[a] for a in axes), self.is_data)


@dataclass(frozen=True)
class Sum:
    """A sum over an axis: exact without some of its terms if one of the summed arrays is zero there."""

    place: int
    """Number of the operation among those of the program that sum."""
    dimension: Dimension
    sides: tuple[tuple[Value, int], ...]
    """The summed arrays, and the axis of each; nothing where the operation sums over no axis."""
    name: str


Rule = Callable[[Any, Sequence[Value], list[Sum]], list[Value]]
"""From an equation of a jaxpr and its operands to its results; sums are appended to the list."""


def named(equation: Any) -> str:
    """The operation's name, and where in the model's source it is, if that is known."""
    place = source_info_util.summarize(equation.source_info)
    return f"`{equation.primitive.name}`" + (f" at {place}" if place else "")


def shape_of(equation: Any) -> tuple[int, ...]:
    """Shape of an operation's first result."""
    return equation.outvars[0].aval.shape


def depends_on_input(values: Sequence[Value]) -> bool:
    """Whether any operand depends on the model's input."""
    return any(value.is_data for value in values)


def unknown(equation: Any, values: Sequence[Value], sums: list[Sum]) -> list[Value]:
    """Results of an operation without a rule: all axes of operands and results are fixed."""
    text = f"n3 does not know what {named(equation)} does to them"
    for value in values:
        for axis in value.axes:
            axis.note(text)
    shapes = [getattr(variable.aval, "shape", ()) for variable in equation.outvars]
    is_data = depends_on_input(values)
    return [fixed(shape, text, is_data=is_data) for shape in shapes]


def fixed(shape: Sequence[int], text: str, *, is_data: bool = False) -> Value:
    """An array whose axes cannot become shorter, for the reason that `text` gives."""
    axes = tuple(Dimension(size, notes={text: False}) for size in shape)
    return Value(axes, (Gates(),) * len(axes), is_data)
