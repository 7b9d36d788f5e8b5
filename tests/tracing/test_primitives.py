"""Primitives: what each operation does to channels between two layers, and how a program is gone through."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from n3.nn import norms
from n3.tracing.primitives import called, sums_in, walk
from n3.tracing.trace import find_structure
from networks import between, filled

Conv2d = eqx.nn.Conv2d
ROW, IMAGE = jax.ShapeDtypeStruct((5,), jnp.float32), jax.ShapeDtypeStruct((1, 8, 8), jnp.float32)
KEY = jax.random.key(0)
POWERS = ["exp", "exp2", "expm1", "log", "log1p", "logistic", "rsqrt", "cbrt", "sqrt", "square"]
SPECIAL = ["erf", "erfc", "erf_inv", "lgamma", "digamma"]
ANGLES = ["sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"]
UNARY = [*POWERS, *SPECIAL, *ANGLES, "neg", "abs", "sign", "floor", "ceil", "round", "is_finite"]
ARITHMETIC = ["add", "sub", "max", "min", "mul", "div", "pow", "rem", "atan2", "nextafter"]
BINARY = [*ARITHMETIC, "eq", "ne", "lt", "le", "gt", "ge"]


def groups_of(model, example=ROW):
    structure = find_structure(norms.participating(model), [example], None)
    return [(group.layers, group.units) for group in structure.groups]


def test_every_elementwise_operation_passes_under_its_name():
    names = {equation.primitive.name for equation in jax.make_jaxpr(every)(np.ones(16, np.float32)).eqns}
    assert names >= {*UNARY, *BINARY, "and", "or", "xor", "not", "clamp", "select_n", "integer_pow"}
    assert groups_of(between(every)) == [((".first",), 16)]


def every(h):
    """All operations on each channel alone, added up."""
    found = [getattr(lax, name)(h) for name in UNARY] + [getattr(lax, name)(h, h) for name in BINARY]
    truth = [(h > 0) & (h < 1), (h > 0) | (h < 1), (h > 0) ^ (h < 1), ~(h > 0)]
    found += [lax.clamp(jnp.zeros_like(h), h, h), lax.select_n(h > 0, h, -h), lax.integer_pow(h, 3), *truth]
    return sum(own.astype(h.dtype) for own in found)


REDUCED = {
    "maximum": (jnp.max, "reduce_max"),
    "minimum": (jnp.min, "reduce_min"),
    "product": (jnp.prod, "reduce_prod"),
    "index": (lambda h: jnp.argmax(h).astype(h.dtype), "argmax"),
}


@pytest.mark.parametrize("name", REDUCED)
def test_reductions_pass_beside_the_channels_and_are_refused_along_them(name):
    function, primitive = REDUCED[name]
    assert groups_of(between(lambda h: jax.vmap(function)(jnp.stack([h, -h], axis=1)))) == [((".first",), 16)]
    with pytest.raises(ValueError, match=rf"they are reduced by `{primitive}`"):
        groups_of(between(lambda h: h * function(h)))


def test_tiled_and_repeated_channels_are_read_at_every_place():
    for function, parts in ((lambda h: jnp.tile(h, 2), [2, 16]), (lambda h: jnp.repeat(h, 2), [16, 2])):
        structure = find_structure(between(function, out=32), [ROW], None)
        (reader,) = (leaf for leaf in structure.leaves if leaf.path == ".last.weight")
        assert [part.size for part in reader.layouts[1].parts] == parts
        assert structure.capacity == (16,)


FUNCTIONS = {
    "elementwise": lambda h: jnp.where(h > 0, jnp.exp(-h), jax.nn.gelu(h) / 2.0) ** 3,
    "called functions": jax.jit(jax.checkpoint(jax.nn.silu)),
    "transposed": lambda h: jnp.transpose(h[:, None], (1, 0))[0],
    "vectorised": lambda h: jnp.sum(jax.vmap(lambda c: jnp.stack([c, c**2]))(h), axis=1),
    "of its own length": lambda h: jnp.cumsum(jnp.stack([h, -h]), axis=0)[1],
    "padded beside": lambda h: jnp.pad(h[:, None], ((0, 0), (1, 2)))[:, 1],
    "picked beside": lambda h: jnp.stack([h, -h])[jnp.array(1)],
    "unstacked": lambda h: sum(jnp.unstack(jnp.stack([h, h]))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_each_channel_pass(name):
    assert groups_of(between(FUNCTIONS[name])) == [((".first",), 16)]


REFUSED = {
    "softmax": (jax.nn.softmax, "reduced by `reduce_max`"),
    "sum": (lambda h: h * h.sum(), "summed by `reduce_sum`"),
    "norm by hand": (lambda h: h / jnp.linalg.norm(h), "summed by `reduce_sum`"),
    "product of channels": (lambda h: jnp.outer(h, h) @ h, "summed by `dot_general`"),
    "numbered": (lambda h: h * jnp.arange(16.0), "numbered by `iota`"),
    "reversed": (lambda h: h[::-1], "cut, moved or pooled by `rev`"),
    "sliced": (lambda h: h.at[:8].get(), "cut, moved or pooled by `slice`"),
    "picked": (lambda h: h[jnp.array([3, 1, 2, 0] * 4)], "picked by `gather`"),
    "sorted": (jnp.sort, "does not know what `sort`"),
    "scan": (lambda h: jax.lax.scan(lambda c, _: (c, c), h, None, 2)[0], "does not know what `scan`"),
    "constant": (
        lambda h: h * jnp.asarray(np.linspace(1, 2, 16), jnp.float32),
        "constant that the program holds",
    ),
    "folded": (lambda h: (h.reshape(2, 8) + h.reshape(4, 4).reshape(2, 8)).reshape(16), None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_channels_is_refused_with_path_and_reason(name):
    function, reason = REFUSED[name]
    model = between(function, out=8 if name == "sliced" else 16)
    if reason is None:
        assert groups_of(model) == [((".first",), 2)]
        return
    with pytest.raises(ValueError, match=r"leave out layer \.first: as to its channels") as caught:
        find_structure(model, [ROW], [".first"])
    assert reason in str(caught.value)
    with pytest.raises(ValueError, match=r"none that can be grown \(as to channels of \.first, ") as caught:
        find_structure(model, [ROW], None)
    assert reason in str(caught.value)


@pytest.mark.parametrize("groups, units", [(1, 8), (2, 2), (4, 4), (8, 8)])
def test_a_group_norm_binds_its_groups_into_blocks(groups, units):
    make = [
        lambda: Conv2d(1, 8, 3, key=KEY),
        lambda: eqx.nn.GroupNorm(groups, 8),
        lambda: Conv2d(8, 2, 6, key=KEY),
    ]
    model = filled(lambda: eqx.nn.Sequential([own() for own in make]))
    assert groups_of(model, IMAGE) == [((".layers[0]",), units)]


def test_flattening_gives_each_channel_all_its_positions():
    model = filled(
        lambda: eqx.nn.Sequential(
            [Conv2d(1, 3, 3, padding=1, key=KEY), eqx.nn.Lambda(jnp.ravel), eqx.nn.Linear(192, 2, key=KEY)]
        )
    )
    structure = find_structure(model, [IMAGE], None)
    (reader,) = (leaf for leaf in structure.leaves if leaf.path == ".layers[2].weight")
    assert [part.size for part in reader.layouts[1].parts] == [3, 64]
    assert reader.layouts[1].parts[0].group == 0
    assert [part.role for part in reader.layouts[1].parts[1].parts] == ["position"] * 2


def test_a_program_is_gone_through_in_its_order_and_into_what_it_calls():
    @jax.jit
    def inner(x):
        return jnp.sum(x) + 1.0

    program = jax.make_jaxpr(lambda x: inner(x * 2.0) - x[0])(np.ones(3, np.float32))
    whole, flat = [], []
    for seen, enter in ((whole, False), (flat, True)):

        def visit(equation, values, seen=seen):
            seen.append(equation.primitive.name)
            return [f"{equation.primitive.name}({','.join(map(str, values))})" for _ in equation.outvars]

        (result,) = walk(program, ["x"], visit=visit, constant=str, enter=lambda _, enter=enter: enter)
    assert flat == [
        name for own in whole for name in (["reduce_sum", "add"] if own in ("jit", "pjit") else [own])
    ]
    assert result.startswith("sub(add(reduce_sum(mul(x,2.0")
    assert sums_in(program) == 1
    assert [called(equation) is not None for equation in program.jaxpr.eqns] == [
        name in ("jit", "pjit") for name in whole
    ]
