"""Axes: which axes of the arrays in a traced model are one and the same, and what an array holds there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend import source_info_util

from n3.nn.groups import Layout


class Dimension:
    """An axis, or a part of one; joined dimensions are one, and notes say why it cannot become shorter."""

    def __init__(self, size: int, *, notes: Sequence[str] = (), role: str = ""):
        self.size = size
        self.notes = dict.fromkeys(notes)
        """Why its length is fixed, in the order in which it was found."""
        self.role = role
        """`position` along an image or a sequence, `input` of the model, or nothing."""
        self.parts: tuple[Dimension, ...] = ()
        self.is_sum = False
        self._same: Dimension | None = None

    @property
    def root(self) -> "Dimension":
        """The one that stands for all that were joined with this."""
        here = self
        while here._same is not None:
            here = here._same
        return here

    def note(self, text: str) -> None:
        """Fix the length, for the reason that `text` gives."""
        for atom in self.atoms():
            atom.notes.setdefault(text)

    def atoms(self) -> "list[Dimension]":
        """What the axis is made of, down to dimensions without parts; nothing for a length of 1."""
        return [own for own in self._cut(False, True) if own.size > 1]

    def factors(self) -> "list[Dimension]":
        """What the axis is a product of, the slowest index first; a sum counts as one factor."""
        return [own for own in self._cut(False) if own.size > 1]

    def terms(self) -> "list[Dimension]":
        """What the axis is a concatenation of; a product counts as one term."""
        return self._cut(True)

    def _cut(self, *kinds: bool) -> "list[Dimension]":
        root = self.root
        is_cut = root.parts and root.is_sum in kinds
        return [own for part in root.parts for own in part._cut(*kinds)] if is_cut else [root]

    def consist_of(self, parts: "Sequence[Dimension]", *, is_sum: bool) -> None:
        """Say that this one, so far without parts, is the product or the sum of some."""
        root = self.root
        root.parts, root.is_sum = tuple(parts), is_sum
        for text in tuple(root.notes):
            root.note(text)

    def join(self, other: "Dimension") -> None:
        """Say that the two have the same length and the same indices."""
        kept, gone = self.root, other.root
        if kept is gone:
            return
        if not kept.parts:
            kept, gone = gone, kept
        if not gone.parts:
            gone._same = kept
            for atom in kept.atoms():
                atom.role = atom.role or gone.role
            for text in gone.notes:
                kept.note(text)
        elif kept.is_sum == gone.is_sum:
            split = Dimension.terms if kept.is_sum else Dimension.factors
            align(split(kept), split(gone), is_sum=kept.is_sum)
        else:
            _refuse((kept, gone))


def align(left: Sequence[Dimension], right: Sequence[Dimension], *, is_sum: bool) -> None:
    """Join two ways to cut an axis into factors (or terms, `is_sum`), cutting further where one is finer.

    The slowest index stands first.
    """
    neutral = 0 if is_sum else 1
    pending, others = ([part for part in side if part.size != neutral] for side in (left, right))
    while pending and others:
        if pending[0].size > others[0].size:
            pending, others = others, pending
        small, large = pending.pop(0), others.pop(0)
        if small.size == large.size:
            small.join(large)
            continue
        rest, left_over = (large.size - small.size, 0) if is_sum else divmod(large.size, small.size)
        if left_over or large.root.parts:
            _refuse((small, large, *pending, *others))
            return
        first, second = Dimension(small.size, role=large.root.role), Dimension(rest, role=large.root.role)
        large.consist_of((first, second), is_sum=is_sum)
        small.join(first)
        others.insert(0, second)


def _refuse(dimensions: Sequence[Dimension]) -> None:
    for dimension in dimensions:
        dimension.note("they are cut in ways that do not fit into each other")


def layout_of(dimension: Dimension, groups: Mapping[Dimension, int]) -> Layout:
    """The layout of an axis, where `groups` numbers the atoms that are groups of units."""
    root = dimension.root
    parts = tuple(layout_of(part, groups) for part in root.parts)
    return Layout(root.size, root.role, groups.get(root, -1), parts, root.is_sum)


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

    def without(self, gone: Sequence[int]) -> "Value":
        """The value with all axes but these."""
        return self.keeping([axis for axis in range(len(self.axes)) if axis not in gone])


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


def reads_input(values: Sequence[Value]) -> bool:
    """Whether any operand depends on the model's input."""
    return any(value.is_data for value in values)


def unknown(equation: Any, values: Sequence[Value], sums: list[Sum]) -> list[Value]:
    """Results of an operation without a rule: all axes of operands and results are fixed."""
    text = f"n3 does not know what {named(equation)} does to them"
    for axis in (axis for value in values for axis in value.axes):
        axis.note(text)
    shapes = [getattr(variable.aval, "shape", ()) for variable in equation.outvars]
    return [fixed(shape, text, is_data=reads_input(values)) for shape in shapes]


def fixed(shape: Sequence[int], text: str, *, is_data: bool = False, is_input: bool = False) -> Value:
    """An array whose axes cannot become shorter, for the reason that `text` gives."""
    axes = tuple(Dimension(size, notes=(text,), role="input" if is_input else "") for size in shape)
    return Value(axes, (Gates(),) * len(axes), is_data)
