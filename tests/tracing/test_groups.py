"""Structure: masks, cuts, permutations and counts of a small model, each by hand or by what must not change."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.nn import norms
from n3.tracing import groups
from n3.tracing.axes import Layout
from n3.tracing.groups import Leaf, Structure, Tap
from n3.tracing.trace import activations, find_structure, operands, takes_key, traced

KEYS = jr.split(jr.key(1), 6)
UNITS, POSITIONS = Layout(3, group=0), Layout(2, role="position")
FLAT = Layout(6, parts=(UNITS, POSITIONS))
CHAINED = Layout(9, parts=(FLAT, UNITS), is_sum=True)


@pytest.fixture(scope="module")
def convolutional():
    """Two convolutions, a hidden layer under a norm, and what belongs to whom."""
    model = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(2, 4, 3, padding=1, key=KEYS[0]),
            eqx.nn.Lambda(jax.nn.sigmoid),
            eqx.nn.Conv2d(4, 6, 3, padding=1, key=KEYS[1]),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(24, 5, key=KEYS[2]),
            eqx.nn.LayerNorm(5),
            eqx.nn.Linear(5, 3, key=KEYS[3]),
        ]
    )
    model = norms.participating(model)
    return model, find_structure(model, [jax.ShapeDtypeStruct((2, 4, 4), jnp.float32)], None)


def test_masks_along_an_axis_by_hand():
    mask = {0: jnp.array([1.0, 0.5, 0.0])}
    np.testing.assert_array_equal(groups.along_axis(FLAT, mask), [1, 1, 0.5, 0.5, 0, 0])
    np.testing.assert_array_equal(groups.along_axis(CHAINED, mask), [1, 1, 0.5, 0.5, 0, 0, 1, 0.5, 0])
    np.testing.assert_array_equal(groups.along_axis(CHAINED, {}), np.ones(9))


def test_only_readers_are_multiplied(convolutional):
    model, found = convolutional
    shares = [jnp.linspace(1.0, 0.2, units) for units in found.capacity]
    masked = groups.masked(model, found, shares)
    np.testing.assert_array_equal(masked.layers[0].weight, model.layers[0].weight)
    expected = model.layers[2].weight * shares[0][None, :, None, None]
    np.testing.assert_allclose(masked.layers[2].weight, expected, rtol=1e-6)
    columns = model.layers[5].weight * jnp.repeat(shares[1], 4)[None]
    np.testing.assert_allclose(masked.layers[5].weight, columns, rtol=1e-6)
    np.testing.assert_allclose(masked.layers[6].share, shares[2], rtol=1e-6)


def test_a_reader_keeps_its_data_type():
    model = jax.tree.map(
        lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf,
        eqx.nn.MLP(2, 1, 4, 1, key=KEYS[0]),
    )
    found = find_structure(model, [jax.ShapeDtypeStruct((2,), jnp.bfloat16)], None)
    assert groups.masked(model, found, [jnp.full(4, 0.5)]).layers[1].weight.dtype == jnp.bfloat16


def test_cuts_keep_what_takes_part_and_one_of_none(convolutional):
    model, found = convolutional
    cut = groups.cut(model, found, [jnp.array([1.0, 0.0, 0.3, 0.0]), jnp.zeros(6), jnp.ones(5)])
    assert cut.layers[0].weight.shape == (2, 2, 3, 3)
    np.testing.assert_array_equal(cut.layers[0].bias, model.layers[0].bias[jnp.array([0, 2])])
    assert cut.layers[2].weight.shape == (1, 2, 3, 3)
    np.testing.assert_array_equal(cut.layers[5].weight, np.zeros((5, 4)))


@pytest.mark.parametrize("group", [0, 1, 2])
def test_a_permutation_changes_no_output_and_permutes_the_activations(convolutional, group):
    model, found = convolutional
    order = jr.permutation(KEYS[4], found.capacity[group])
    x = jr.normal(KEYS[5], (2, 4, 4))
    moved = groups.permute_channels(model, found, group, order)
    np.testing.assert_allclose(moved(x), model(x), rtol=1e-5, atol=1e-6)
    seen = activations(model, found, [x])[group]
    np.testing.assert_allclose(activations(moved, found, [x])[group], seen[order], rtol=1e-5, atol=1e-6)
    back = groups.permute_channels(moved, found, group, jnp.argsort(order))
    assert eqx.tree_equal(back, model)


def test_a_permutation_of_a_chain_moves_every_occurrence():
    found = Structure((), (Leaf("['w']", (CHAINED,), (frozenset(),), True),), (), ())
    moved = groups.permute_channels({"w": jnp.arange(9)}, found, 0, jnp.array([2, 0, 1]))
    np.testing.assert_array_equal(moved["w"], [4, 5, 0, 1, 2, 3, 8, 6, 7])


def test_moments_that_lack_leaves_are_permuted_alike(convolutional):
    model, found = convolutional
    moments = eqx.filter(model, eqx.is_inexact_array)
    moved = groups.permute_channels(moments, found, 2, jnp.array([4, 3, 2, 1, 0]))
    np.testing.assert_array_equal(moved.layers[5].bias, model.layers[5].bias[::-1])
    assert moved.layers[6].share is None


def test_parameters_by_hand(convolutional):
    _, found = convolutional
    root = lambda n: n**0.5  # noqa: E731
    first, second, hidden, inputs = 3.0, 2.5, 4.0, 1.5
    expected = first * inputs * root(3) * root(3) + first
    expected += second * first * 3.0 + second
    expected += hidden * second * root(2) * root(2) + hidden + 2 * hidden
    expected += 3 * hidden
    count = groups.parameter_count(found, jnp.array([first, second, hidden]), jnp.asarray(inputs))
    np.testing.assert_allclose(count, expected, rtol=1e-6)


def test_inputs_count_no_more_than_there_are(convolutional):
    _, found = convolutional
    sizes = jnp.array(found.capacity, jnp.float32)
    many, all_of_them = (groups.parameter_count(found, sizes, jnp.asarray(inputs)) for inputs in (100.0, 2.0))
    assert many == all_of_them


def test_the_mean_of_units_by_hand():
    tap = Tap(place=0, operand=0, axis=1, layout=CHAINED)
    value = jnp.stack([jnp.arange(9.0), jnp.arange(9.0) + 2.0])
    np.testing.assert_allclose(
        groups.mean_of_units(value, tap, 0), [(1 + 2 + 7) / 3, (3 + 4 + 8) / 3, (5 + 6 + 9) / 3], rtol=1e-6
    )


def test_a_gradient_of_makers_leaves_readers_out(convolutional):
    model, found = convolutional
    gradient = jax.tree.map(jnp.ones_like, eqx.filter(model, eqx.is_inexact_array))
    shares = [jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.zeros(6), jnp.array([0.0, 0.0, 0.0, 0.0, 0.5])]
    own = groups.made_by(gradient, found, shares)
    np.testing.assert_array_equal(own.layers[0].bias.reshape(-1), [0, 0, 1, 1])
    assert not np.any(own.layers[2].weight)
    np.testing.assert_array_equal(own.layers[5].weight, np.outer([0, 0, 0, 0, 0.5], np.ones(24)))
    np.testing.assert_array_equal(own.layers[6].norm.weight, [0, 0, 0, 0, 0.5])
    assert not np.any(own.layers[7].weight)
    assert not np.any(own.layers[7].bias)


def test_activations_are_what_the_reader_sees(convolutional):
    model, found = convolutional
    x = jr.normal(KEYS[5], (2, 4, 4))
    first, second, hidden = activations(model, found, [x])
    seen = jax.nn.sigmoid(model.layers[0](x))
    np.testing.assert_allclose(first, jnp.mean(seen, axis=(1, 2)), rtol=1e-5)
    pooled = model.layers[3](model.layers[2](seen))
    np.testing.assert_allclose(second, jnp.mean(pooled, axis=(1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        hidden, model.layers[6](model.layers[5](pooled.reshape(-1))), rtol=1e-5, atol=1e-6
    )


def test_operands_are_found_within_called_functions():
    @jax.jit
    def inner(weight, x):
        return weight @ jnp.sum(jnp.stack([x, x]), axis=0)

    def program(weight, x):
        return inner(2.0 * weight, jax.nn.softmax(inner(weight, x)))

    weight, x = jnp.array([[1.0, 2.0], [0.5, -1.0]]), jnp.array([0.3, 0.7])
    closed = jax.make_jaxpr(program)(weight, x)
    (first, last), (twice,) = (
        operands(closed, [weight, x], [(1, 0), (4, 0)]),
        operands(closed, [weight, x], [(1, 1)]),
    )
    np.testing.assert_allclose(first, weight)
    np.testing.assert_allclose(last, 2.0 * weight)
    np.testing.assert_allclose(twice, 2.0 * x)


def test_a_gradient_goes_through_operands():
    program = jax.make_jaxpr(lambda w, x: w @ jax.nn.relu(x))(jnp.ones((1, 3)), jnp.ones(3))

    def seen(x):
        return jnp.sum(operands(program, [jnp.ones((1, 3)), x], [(0, 1)])[0])

    # the derivative of `jax.nn.relu` at 0 is 0 by its own rule, not 1/2
    np.testing.assert_array_equal(jax.grad(seen)(jnp.array([-1.0, 0.0, 2.0])), [0, 0, 1])


def test_a_key_is_given_to_those_that_take_one():
    assert takes_key(eqx.nn.MLP(2, 1, 4, 1, key=KEYS[0]))
    assert not takes_key(lambda x: x)
    program, leaves = traced(eqx.nn.Dropout(0.5), [jnp.ones(3)])
    assert len(program.jaxpr.eqns) == 0
    assert leaves == []
