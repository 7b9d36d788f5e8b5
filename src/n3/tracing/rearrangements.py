"""Rearrangements: operations that move, cut, join or drop axes and calculate nothing."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from n3.tracing.axes import Dimension, align
from n3.tracing.values import Gates, Rule, Value, depends_on_input, named, shape_of, unknown


def _broadcast(equation, values, sums):
    (value, *_), shape = values, shape_of(equation)
    axes, gates = [Dimension(size) for size in shape], [Gates()] * len(shape)
    for old, new in enumerate(equation.params["broadcast_dimensions"]):
        if value.axes[old].size == shape[new]:
            axes[new], gates[new] = value.axes[old], value.gates[old]
    return [Value(tuple(axes), tuple(gates), value.is_data)]


def _reshape(equation, values, sums):
    (value, *_), shape = values, shape_of(equation)
    if equation.params["dimensions"] is not None or 0 in shape:
        return unknown(equation, values, sums)
    axes = tuple(Dimension(size) for size in shape)
    align([factor for axis in value.axes for factor in axis.factors()], axes, is_sum=False)
    gates = [Gates()] * len(shape)
    for olds, news in _blocks([axis.size for axis in value.axes], list(shape)):
        for new in news:
            gates[new] = Gates().union(*(value.gates[old] for old in olds))
    return [Value(axes, tuple(gates), value.is_data)]


def _blocks(before: list[int], after: list[int]):
    """Runs of axes, by their indices before and after, that a reshape turns into each other."""
    left, right = ([(i, n) for i, n in enumerate(sizes) if n > 1] for sizes in (before, after))
    while left:
        (old, size_before), (new, size_after) = left.pop(0), right.pop(0)
        olds, news = [old], [new]
        while size_before != size_after:
            if size_before < size_after:
                old, factor = left.pop(0)
                olds, size_before = [*olds, old], size_before * factor
            else:
                new, factor = right.pop(0)
                news, size_after = [*news, new], size_after * factor
        yield olds, news


def _transpose(equation, values, sums):
    return [values[0].keeping(equation.params["permutation"])]


def _squeeze(equation, values, sums):
    gone = equation.params["dimensions"]
    return [values[0].keeping([axis for axis in range(len(values[0].axes)) if axis not in gone])]


def _tile(equation, values, sums):
    (value,), axes = values, []
    for dimension, times in zip(value.axes, equation.params["reps"], strict=True):
        whole = Dimension(dimension.size * times)
        whole.consist_of((Dimension(times), dimension), is_sum=False)
        axes.append(whole)
    return [Value(tuple(axes), value.gates, value.is_data)]


def _stack(equation, values, sums):
    new = equation.params["axis"]
    first, *others = values
    for value in others:
        for own, other in zip(first.axes, value.axes, strict=True):
            own.join(other)
    axes, gates = list(first.axes), [Gates.intersection(*own) for own in _columns(values)]
    axes.insert(new, Dimension(len(values)))
    gates.insert(new, Gates())
    return [Value(tuple(axes), tuple(gates), depends_on_input(values))]


def _unstack(equation, values, sums):
    (value,), gone = values, equation.params["axis"]
    value.axes[gone].note(f"they are taken apart by {named(equation)}")
    rest = value.keeping([axis for axis in range(len(value.axes)) if axis != gone])
    return [rest for _ in equation.outvars]


def _columns(values):
    """Gates of each axis, of all values."""
    return [[value.gates[axis] for value in values] for axis in range(len(values[0].axes))]


def _concatenate(equation, values, sums):
    along = equation.params["dimension"]
    axes = [Dimension(size) for size in shape_of(equation)]
    for axis, own in enumerate(axes):
        if axis == along:
            own.consist_of([value.axes[axis] for value in values], is_sum=True)
            continue
        for value in values:
            own.join(value.axes[axis])
    gates = [Gates.intersection(*own) for own in _columns(values)]
    return [Value(tuple(axes), tuple(gates), depends_on_input(values))]


def _split(equation, values, sums):
    (value,), along = values, equation.params["axis"]
    parts = [Dimension(int(size)) for size in equation.params["sizes"]]
    whole = Dimension(value.axes[along].size)
    whole.consist_of(parts, is_sum=True)
    whole.join(value.axes[along])
    before, after = value.axes[:along], value.axes[along + 1 :]
    return [Value((*before, part, *after), value.gates, value.is_data) for part in parts]


def _gather(equation, values, sums):
    (value, indices), numbers = values, equation.params["dimension_numbers"]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    axes, news = [Dimension(size) for size in shape_of(equation)], list(numbers.offset_dims)
    for dimension in indices.axes:
        dimension.note(f"they number what {named(equation)} takes")
    for axis, size in enumerate(equation.params["slice_sizes"]):
        new = None if axis in gone else news.pop(0)
        if new is not None and size == value.axes[axis].size:
            axes[new] = value.axes[axis]
        else:
            value.axes[axis].note(f"they are picked by {named(equation)}")
    return [Value(tuple(axes), (Gates(),) * len(axes), depends_on_input(values))]


def _iota(equation, values, sums):
    axes = tuple(Dimension(size) for size in shape_of(equation))
    axes[equation.params["dimension"]].note(f"they are numbered by {named(equation)}")
    return [Value(axes, (Gates(),) * len(axes))]


def _cut(equation, values, sums):
    """Operations that leave an axis whole or not at all: those that they change are fixed."""
    value, shape = values[0], shape_of(equation)
    is_whole = WHOLE[equation.primitive.name]
    axes, gates = list(value.axes), [Gates()] * len(shape)
    for axis, size in enumerate(shape):
        if not is_whole(equation.params, axis, axes[axis].size):
            axes[axis].note(f"they are cut, moved or pooled by {named(equation)}")
            axes[axis] = Dimension(size, role=axes[axis].root.role)
    return [Value(tuple(axes), tuple(gates), depends_on_input(values))]


def _is_unsliced(params, axis, size):
    strides = params["strides"]
    whole = params["start_indices"][axis] == 0 and params["limit_indices"][axis] == size
    return whole and (strides is None or strides[axis] == 1)


def _is_unpooled(params, axis, size):
    own = (params["window_dimensions"][axis], params["window_strides"][axis], *params["padding"][axis])
    return own == (1, 1, 0, 0) and params["base_dilation"][axis] == 1


WHOLE: Mapping[str, Callable[[Any, int, int], bool]] = MappingProxyType(
    {
        "slice": _is_unsliced,
        "dynamic_slice": lambda params, axis, size: params["slice_sizes"][axis] == size,
        "pad": lambda params, axis, size: tuple(params["padding_config"][axis]) == (0, 0, 0),
        "rev": lambda params, axis, size: axis not in params["dimensions"],
        **dict.fromkeys(
            ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"),
            lambda params, axis, size: axis != params["axis"],
        ),
        **dict.fromkeys(("reduce_window_max", "reduce_window_min", "reduce_window_sum"), _is_unpooled),
    }
)
"""Whether an operation leaves an axis as it is, from its parameters, the axis and its size."""

REARRANGEMENTS: Mapping[str, Rule] = MappingProxyType(
    {
        "broadcast_in_dim": _broadcast,
        "reshape": _reshape,
        "transpose": _transpose,
        "squeeze": _squeeze,
        "tile": _tile,
        "stack": _stack,
        "unstack": _unstack,
        "concatenate": _concatenate,
        "split": _split,
        "gather": _gather,
        "iota": _iota,
        **dict.fromkeys(WHOLE, _cut),
    }
)
"""Rules by the primitive's name."""
