"""Structure: masks, cuts, permutations and counts of a small model, each by hand or by what must not change."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from n3.nn import groups
from n3.nn.groups import Layout, Leaf, Structure, Tap
from n3.tracing.trace import activations, find_structure
from networks import convolutional, filled, normal

UNITS, POSITIONS = Layout(3, group=0), Layout(2, role="position")
FLAT = Layout(6, parts=(UNITS, POSITIONS))
CHAINED = Layout(9, parts=(FLAT, UNITS), is_sum=True)


MODEL, FOUND = convolutional()
X = normal(2, 4, 4)


def test_masks_along_an_axis_by_hand():
    mask = {0: jnp.asarray(np.float32([1.0, 0.5, 0.0]))}
    np.testing.assert_array_equal(groups.along_axis(FLAT, mask), [1, 1, 0.5, 0.5, 0, 0])
    np.testing.assert_array_equal(groups.along_axis(CHAINED, mask), [1, 1, 0.5, 0.5, 0, 0, 1, 0.5, 0])
    np.testing.assert_array_equal(groups.along_axis(CHAINED, {}), np.ones(9))


def test_only_readers_are_multiplied():
    shares = [np.linspace(1.0, 0.2, units, dtype=np.float32) for units in FOUND.capacity]
    masked = eqx.filter_jit(groups.masked)(MODEL, FOUND, [jnp.asarray(share) for share in shares])
    weights = [np.asarray(MODEL.layers[n].weight) for n in (0, 2, 5, 7)]
    np.testing.assert_array_equal(masked.layers[0].weight, weights[0])
    np.testing.assert_allclose(masked.layers[2].weight, weights[1] * shares[0][:, None, None], rtol=1e-6)
    np.testing.assert_allclose(masked.layers[5].weight, weights[2] * np.repeat(shares[1], 4), rtol=1e-6)
    np.testing.assert_allclose(masked.layers[6].share, shares[2], rtol=1e-6)
    np.testing.assert_allclose(masked.layers[7].weight, weights[3] * shares[2], rtol=1e-6)
    for n in (0, 2, 5, 7):
        np.testing.assert_array_equal(masked.layers[n].bias, MODEL.layers[n].bias)


def test_of_the_groups_along_an_axis_only_those_that_are_read_count():
    both = Layout(5, parts=(UNITS, Layout(2, group=1)), is_sum=True)
    found = Structure((), (Leaf("['w']", (both,), (frozenset({1}),), True),), (), ())
    shares = [jnp.asarray(np.full(units, share, np.float32)) for units, share in ((3, 0.0), (2, 0.5))]
    masked = groups.masked({"w": jnp.asarray(np.ones(5, np.float32))}, found, shares)
    np.testing.assert_array_equal(masked["w"], [1, 1, 1, 0.5, 0.5])


def test_a_reader_keeps_its_data_type():
    model = filled(lambda: eqx.nn.MLP(2, 1, 4, 1, dtype=jnp.bfloat16, key=jax.random.key(0)))
    found = find_structure(model, [jax.ShapeDtypeStruct((2,), jnp.bfloat16)], None)
    masked = eqx.filter_eval_shape(groups.masked, model, found, [jnp.asarray(np.full(4, np.float32(0.5)))])
    assert masked.layers[1].weight.dtype == jnp.bfloat16


def test_what_is_gathered_by_hand():
    shares = [1.0, 0.0, 0.3, 0.0], np.zeros(6), np.ones(5)
    shares, kept = [jnp.asarray(np.float32(share)) for share in shares], np.array([0, 2])
    cut = groups.gathered(groups.masked(MODEL, FOUND, shares), FOUND, [kept, np.zeros(1, int), np.arange(5)])
    np.testing.assert_array_equal(cut.layers[0].weight, np.asarray(MODEL.layers[0].weight)[kept])
    np.testing.assert_array_equal(cut.layers[0].bias, np.asarray(MODEL.layers[0].bias)[kept])
    expected = np.asarray(MODEL.layers[2].weight)[:1, kept] * np.float32([1.0, 0.3])[:, None, None]
    np.testing.assert_allclose(cut.layers[2].weight, expected, rtol=1e-6)
    np.testing.assert_array_equal(cut.layers[5].weight, np.zeros((5, 4)))


def orders(order, group):
    """An order of one group's units, the others' staying as they are."""
    return [order if n == group else jnp.arange(units) for n, units in enumerate(FOUND.capacity)]


@pytest.mark.parametrize("group", [0, 1, 2])
def test_a_permutation_changes_no_output_and_permutes_the_activations(group):
    order = np.random.default_rng(group).permutation(FOUND.capacity[group])

    @eqx.filter_jit
    def moved_and_back(order):
        moved = groups.permuted(MODEL, FOUND, orders(order, group))
        back = groups.permuted(moved, FOUND, orders(jnp.argsort(order), group))
        return [(each(X), activations(each, FOUND, [X])[group]) for each in (MODEL, moved)], back

    ((before, seen), (after, permuted)), back = moved_and_back(jnp.asarray(order))
    assert not np.array_equal(order, np.arange(order.size))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(permuted, np.asarray(seen)[order], rtol=1e-5, atol=1e-6)
    assert all(map(np.array_equal, jax.tree.leaves(back), jax.tree.leaves(MODEL)))


def test_a_permutation_of_a_chain_moves_every_occurrence():
    found = Structure((), (Leaf("['w']", (CHAINED,), (frozenset(),), True),), (), ())
    moved = groups.permuted({"w": jnp.asarray(np.arange(9))}, found, [jnp.asarray([2, 0, 1])])
    np.testing.assert_array_equal(moved["w"], [4, 5, 0, 1, 2, 3, 8, 6, 7])


def test_units_without_a_past_are_zero_and_others_are_copied():
    units = [np.array([2, -1, 2]), np.array([0, 1, 2, 3, 4, -1]), np.array([1])]
    made = groups.gathered(MODEL, FOUND, units)
    first, second, hidden = (np.asarray(MODEL.layers[n].weight) for n in (0, 2, 5))
    np.testing.assert_array_equal(
        made.layers[0].weight, first[[2, 2, 2]] * np.array([1, 0, 1])[:, None, None, None]
    )
    np.testing.assert_array_equal(made.layers[2].weight[:5, [0, 2]], second[:5, [2, 2]])
    assert not np.any(made.layers[2].weight[5])
    assert not np.any(made.layers[2].weight[:, 1])
    np.testing.assert_array_equal(made.layers[5].weight[0, :20], hidden[1, :20])
    assert not np.any(made.layers[5].weight[0, 20:])
    told = FOUND.resized([3, 6, 1])
    assert told.capacity == (3, 6, 1)
    sizes = {leaf.path: leaf.layouts[-1].size for leaf in told.leaves}
    assert (sizes[".layers[5].weight"], sizes[".layers[7].weight"]) == (6 * 4, 1)
    assert CHAINED.resized((4,)).size == 4 * 2 + 4
    assert told.within("model").leaves[0].path == ".model" + FOUND.leaves[0].path


def test_moments_that_lack_leaves_are_permuted_alike():
    moments = eqx.filter(MODEL, eqx.is_inexact_array)
    moved = groups.permuted(moments, FOUND, orders(jnp.asarray([4, 3, 2, 1, 0]), 2))
    np.testing.assert_array_equal(moved.layers[5].bias, np.asarray(MODEL.layers[5].bias)[::-1])
    assert moved.layers[6].share is None


def test_parameters_by_hand():
    root = lambda n: n**0.5  # noqa: E731
    first, second, hidden, inputs = 3.0, 2.5, 4.0, 1.5
    expected = first * inputs * root(3) * root(3) + first
    expected += second * first * 3.0 + second
    expected += hidden * second * root(2) * root(2) + hidden + 2 * hidden
    expected += 3 * hidden
    np.testing.assert_allclose(counted([first, second, hidden], inputs), expected, rtol=1e-6)


def test_inputs_count_no_more_than_there_are():
    many, all_of_them = (counted(FOUND.capacity, inputs) for inputs in (100.0, 2.0))
    assert many == all_of_them


@jax.jit
def _count(sizes, inputs):
    return groups.parameter_count(FOUND, sizes, inputs)


def counted(sizes, inputs):
    return _count(np.float32(sizes), np.float32(inputs))


def test_the_mean_of_units_by_hand():
    tap = Tap(place=0, operand=0, axis=1, layout=CHAINED)
    value = jnp.asarray(np.float32([np.arange(9), np.arange(9) + 2]))
    np.testing.assert_allclose(
        groups.mean_of_units(value, tap, 0), [(1 + 2 + 7) / 3, (3 + 4 + 8) / 3, (5 + 6 + 9) / 3], rtol=1e-6
    )


def test_a_gradient_of_makers_leaves_readers_out():
    gradient = jax.tree.map(np.ones_like, eqx.filter(MODEL, eqx.is_inexact_array))
    shares = [0.0, 0.0, 1.0, 1.0], np.zeros(6), [0.0, 0.0, 0.0, 0.0, 0.5]
    own = eqx.filter_jit(groups.made_by)(gradient, FOUND, [jnp.asarray(np.float32(share)) for share in shares])
    np.testing.assert_array_equal(own.layers[0].bias.reshape(-1), [0, 0, 1, 1])
    assert not np.any(own.layers[2].weight)
    np.testing.assert_array_equal(own.layers[5].weight, np.outer([0, 0, 0, 0, 0.5], np.ones(24)))
    np.testing.assert_array_equal(own.layers[6].norm.weight, [0, 0, 0, 0, 0.5])
    assert not np.any(own.layers[7].weight)
    assert not np.any(own.layers[7].bias)
