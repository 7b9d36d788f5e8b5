"""Primitives: how each operation of a program carries the axes of its operands to its results."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from operator import mul
from types import MappingProxyType
from typing import Any, TypeVar

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from n3.tracing.axes import Dimension, Gates, Rule, Sum, Value, align, named, reads_input, shape_of, unknown


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
    products = [list(accumulate(sizes, mul)) for sizes in (before, after)]
    ends = sorted({1}.union(set(products[0]).intersection(products[1])))
    for start, end in pairwise(ends):
        sides = zip((before, after), products, strict=True)
        yield [[i for i, n in enumerate(own) if n > 1 and start < product[i] <= end] for own, product in sides]


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
    axes, gates = list(first.axes), _common_gates(values)
    axes.insert(new, Dimension(len(values)))
    gates.insert(new, Gates())
    return [Value(tuple(axes), tuple(gates), reads_input(values))]


def _unstack(equation, values, sums):
    (value,), gone = values, equation.params["axis"]
    value.axes[gone].note(f"they are taken apart by {named(equation)}")
    return [value.without([gone])] * len(equation.outvars)


def _common_gates(values):
    return [Gates.intersection(*own) for own in zip(*(value.gates for value in values), strict=True)]


def _concatenate(equation, values, sums):
    along = equation.params["dimension"]
    axes = [Dimension(size) for size in shape_of(equation)]
    for axis, own in enumerate(axes):
        if axis == along:
            own.consist_of([value.axes[axis] for value in values], is_sum=True)
            continue
        for value in values:
            own.join(value.axes[axis])
    return [Value(tuple(axes), tuple(_common_gates(values)), reads_input(values))]


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
    return [Value(tuple(axes), (Gates(),) * len(axes), reads_input(values))]


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
    return [Value(tuple(axes), tuple(gates), reads_input(values))]


def _is_unsliced(params, axis, size):
    own = params["start_indices"][axis], params["limit_indices"][axis], (params["strides"] or {axis: 1})[axis]
    return own == (0, size, 1)


def _is_unpooled(params, axis, size):
    own = (params["window_dimensions"][axis], params["window_strides"][axis], *params["padding"][axis])
    return own == (1, 1, 0, 0) and params["base_dilation"][axis] == 1


CUMULATIVE = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
WHOLE: Mapping[str, Callable[[Any, int, int], bool]] = MappingProxyType(
    {
        "slice": _is_unsliced,
        "dynamic_slice": lambda params, axis, size: params["slice_sizes"][axis] == size,
        "pad": lambda params, axis, size: tuple(params["padding_config"][axis]) == (0, 0, 0),
        "rev": lambda params, axis, size: axis not in params["dimensions"],
        **dict.fromkeys(CUMULATIVE, lambda params, axis, size: axis != params["axis"]),
        **dict.fromkeys(("reduce_window_max", "reduce_window_min", "reduce_window_sum"), _is_unpooled),
    }
)
"""Whether an operation leaves an axis as it is, from its parameters, the axis and its size."""
_T = TypeVar("_T")
SUMMING = frozenset({"dot_general", "conv_general_dilated", "reduce_sum"})
"""Operations that sum over axes; `Sum.place` counts them."""


def walk(
    program: ClosedJaxpr,
    arguments: Sequence[_T],
    *,
    visit: Callable[[Any, list[_T]], list[_T]],
    constant: Callable[[Any], _T],
    enter: Callable[[ClosedJaxpr], bool] = lambda inner: True,
) -> list[_T]:
    """Go through a program in the order in which it runs, with whatever stands for its arrays.

    The arguments stand for its inputs. `visit` goes from an equation and what stands for its operands to what
    stands for its results; `constant` says what stands for an array that the program holds, and `enter` whether
    to go into a called function, or to visit the call as a whole.
    """
    known = dict(zip(program.jaxpr.constvars, map(constant, program.consts), strict=True))
    known |= dict(zip(program.jaxpr.invars, arguments, strict=True))

    def read(variable: Any) -> _T:
        return constant(variable.val) if isinstance(variable, Literal) else known[variable]

    for equation in program.jaxpr.eqns:
        values, inner = [read(variable) for variable in equation.invars], called(equation)
        if inner is not None and enter(inner):
            results = walk(inner, values, visit=visit, constant=constant, enter=enter)
        else:
            results = visit(equation, values)
        known |= dict(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in program.jaxpr.outvars]


def called(equation: Any) -> ClosedJaxpr | None:
    """The function that an equation calls once with its own operands; None for all other operations."""
    if equation.primitive.name not in CALLS:
        return None
    inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    return ClosedJaxpr(inner, ()) if isinstance(inner, Jaxpr) else inner


def sums_in(program: ClosedJaxpr) -> int:
    """Operations of a program, those of called functions included, that sum over axes."""
    inner = [called(equation) for equation in program.jaxpr.eqns]
    own = sum(equation.primitive.name in SUMMING for equation in program.jaxpr.eqns)
    return own + sum(sums_in(each) for each in inner if each is not None)


def carry(equation: Any, values: Sequence[Value], sums: list[Sum]) -> list[Value]:
    """The results of one operation, and its sums appended; without a rule for it, all axes are fixed."""
    return RULES.get(equation.primitive.name, unknown)(equation, values, sums)


def _elementwise(equation, values, sums):
    name, arrays = equation.primitive.name, [value for value in values if value.axes]
    axes = tuple(Dimension(size) for size in shape_of(equation))
    each = [[Gates()] * len(arrays) for _ in axes]
    for number, value in enumerate(arrays):
        for axis, own in enumerate(axes):
            if own.size == value.axes[axis].size:  # else the operand is repeated along the axis
                own.join(value.axes[axis])
                each[axis][number] = value.gates[axis]
    if name == "mul":
        gates = [Gates().union(*own) for own in each]
    elif name == "div" and values[0].axes:
        gates = [own[0] for own in each]
    elif name in ZERO_KEEPING or (name in LINEAR and len(arrays) == len(values)):
        gates = [Gates.intersection(*own) for own in each]
    else:
        gates = [Gates()] * len(axes)
    return [Value(axes, tuple(gates), reads_input(values))]


def _reduce(equation, values, sums):
    gone = [int(axis) for axis in equation.params["axes"]]
    for value in values:
        for axis in gone:
            value.axes[axis].note(f"they are reduced by {named(equation)}")
    return [values[0].without(gone)]


def _add_up(equation, values, sums):
    (value,), gone = values, [int(axis) for axis in equation.params["axes"]]
    _append(sums, equation, [(value.axes[axis], ((value, axis),)) for axis in gone])
    return [value.without(gone)]


def _dot(equation, values, sums):
    left, right = values
    (over_left, over_right), (with_left, with_right) = equation.params["dimension_numbers"]
    pairs, batch = list(zip(over_left, over_right, strict=True)), list(zip(with_left, with_right, strict=True))
    for a, b in (*pairs, *batch):
        left.axes[a].join(right.axes[b])
    _append(sums, equation, [(left.axes[a], ((left, a), (right, b))) for a, b in pairs])
    axes = [left.axes[a] for a, _ in batch]
    gates = [left.gates[a] | right.gates[b] for a, b in batch]
    for value, used in ((left, (*over_left, *with_left)), (right, (*over_right, *with_right))):
        free = value.without(used)
        axes, gates = [*axes, *free.axes], [*gates, *free.gates]
    return [Value(tuple(axes), tuple(gates), reads_input(values))]


def _convolution(equation, values, sums):
    (data, kernel), numbers = values, equation.params["dimension_numbers"]
    (batch, feature, *spatial), (out, into, *window) = numbers.lhs_spec, numbers.rhs_spec
    for dimension in (*(data.axes[a] for a in spatial), *(kernel.axes[a] for a in window)):
        for atom in dimension.atoms():
            atom.role = atom.role or "position"
    groups, batches = equation.params["feature_group_count"], equation.params["batch_group_count"]
    is_depthwise = batches == 1 and kernel.axes[into].size == 1 and kernel.axes[out].size == groups
    summed, through = [], Gates()
    if groups == batches == 1:
        data.axes[feature].join(kernel.axes[into])
        summed = [(data.axes[feature], ((data, feature), (kernel, into)))]
    elif is_depthwise:
        data.axes[feature].join(kernel.axes[out])
        through = data.gates[feature]
    else:
        for dimension in (data.axes[batch], data.axes[feature], kernel.axes[out], kernel.axes[into]):
            dimension.note(f"they are convolved in groups by {named(equation)}")
    _append(sums, equation, summed)
    axes, to = [Dimension(size, role="position") for size in shape_of(equation)], numbers.out_spec
    gates = [Gates()] * len(axes)
    axes[to[0]], gates[to[0]] = data.axes[batch], data.gates[batch]
    axes[to[1]], gates[to[1]] = kernel.axes[out], through | kernel.gates[out]
    return [Value(tuple(axes), tuple(gates), reads_input(values))]


def _append(sums, equation, summed):
    """Note an operation's sums, or that it has none: places count operations."""
    place, name = sums[-1].place + 1 if sums else 0, named(equation)
    sums += [Sum(place, *own, name) for own in summed or [(Dimension(1), ())]]


CALLS = frozenset(
    ["jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint"]
)
LINEAR = frozenset(["add", "sub", "add_any", "max", "min"])
CASTS = ["convert_element_type", "copy", "stop_gradient", "reduce_precision"]
ZERO_KEEPING = frozenset(["neg", "square", "abs", "sqrt", "sign", *CASTS])
ARITHMETIC = ["mul", "div", "pow", "rem", "atan2", "nextafter", "integer_pow", "clamp", "select_n"]
ROUNDING = ["floor", "ceil", "round", "is_finite"]
POWERS = ["exp", "exp2", "expm1", "log", "log1p", "logistic", "rsqrt", "cbrt"]
SPECIAL = ["erf", "erfc", "erf_inv", "lgamma", "digamma"]
ANGLES = ["sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"]
LOGIC = ["not", "and", "or", "xor", "eq", "ne", "lt", "le", "gt", "ge"]
ELEMENTWISE = [*LINEAR, *ZERO_KEEPING, *ARITHMETIC, *ROUNDING, *POWERS, *SPECIAL, *ANGLES, *LOGIC]
EXTREMES = ["reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin"]
RULES: Mapping[str, Rule] = MappingProxyType(
    {
        **dict.fromkeys(ELEMENTWISE, _elementwise),
        **dict.fromkeys(EXTREMES, _reduce),
        **dict.fromkeys(WHOLE, _cut),
        "broadcast_in_dim": _broadcast,
        "reshape": _reshape,
        "transpose": lambda equation, values, sums: [values[0].keeping(equation.params["permutation"])],
        "squeeze": lambda equation, values, sums: [values[0].without(equation.params["dimensions"])],
        "tile": _tile,
        "stack": _stack,
        "unstack": _unstack,
        "concatenate": _concatenate,
        "split": _split,
        "gather": _gather,
        "iota": _iota,
        "reduce_sum": _add_up,
        "dot_general": _dot,
        "conv_general_dilated": _convolution,
    }
)
"""Rules by the primitive's name."""
