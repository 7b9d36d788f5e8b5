"""Controllers: every registered kind against one contract, values by hand, and what trains the size."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.nn.controllers import (
    CONTROLLERS,
    JITTER,
    Auxiliary,
    Controller,
    Fixed,
    Layerwise,
    Released,
    Warmup,
    layerwise,
    make_controller,
)
from n3.nn.masks import MASKS

MAKERS = {
    **CONTROLLERS,
    **{f"layerwise {kind}": layerwise(kind) for kind in CONTROLLERS if kind not in ("layerwise", "auxiliary")},
}
LAYOUTS = (("sine", (3, 5)), ("linear", (4,)), ("hard", (1,)))
"""Masks and capacities; all three masks are here."""
SHARES = np.float32([0.0, 0.4, 1.0])
"""Of the least capacity, at the start."""
BOUNDED = [name for name in MAKERS if name.split()[-1] in ("controller", "released", "warmup")]
TARGETED = [name for name in MAKERS if name.split()[-1] not in ("fixed", "information", "warmup")]
SIZED = [name for name in MAKERS if "warmup" not in name]


def report(controller, target=3.0):
    """All that a controller says."""
    target = jnp.asarray(target, jnp.float32)
    return controller.sizes(), controller.participation(), controller.gain(), controller.penalty(target)


@eqx.filter_jit
def program(controller, target):
    return report(controller, target)


def said(controller, target=3.0):
    return jax.tree.map(np.asarray, program(controller, jnp.float32(target)))


@cache
def started(name):
    """What a kind says of every layout and share, its penalty at its own size and half a unit beside it."""

    def of(share, mask, capacity):
        size = share * min(capacity)
        made = MAKERS[name](capacity, initial_size=jnp.full(len(capacity), size), key=jr.key(0), mask=mask)
        assert (made.capacity, made.mask) == (capacity, mask)
        beside = made.penalty(jnp.where(share < 0.5, size + 0.5, size - 0.5))
        return report(made, size), beside

    each = jax.jit(jax.vmap(lambda share: [of(share, *layout) for layout in LAYOUTS]))
    return dict(zip(LAYOUTS, jax.tree.map(np.asarray, each(SHARES)), strict=True))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("move", [0.0, 0.3, 5.0])
def test_no_size_exceeds_its_reach(name, move):
    made = MAKERS[name]((6, 3), initial_size=jnp.full(2, 2.0), key=jr.key(0), mask="sine")
    reach = np.asarray(made.reach(jnp.float32(move)))
    assert np.all(reach <= (6, 3))
    for each in np.linspace(-move, move, 41, dtype=np.float32):
        moved = jax.tree.map(lambda leaf, by=each: leaf + by, made)
        if "fixed" not in name:  # which nothing moves
            assert np.all(np.asarray(moved.sizes()) <= reach + 1e-5)


def test_what_bounds_a_size_follows_its_weight():
    """`6 sin(pi 0.7 / 2)**2` units at a weight of 0.5 that moves by 0.2; all of them beyond 1."""
    own = Controller(jnp.float32(0.5), (6,))
    np.testing.assert_allclose(own.reach(jnp.float32(0.2)), [6 * np.sin(np.pi * 0.35) ** 2], rtol=1e-6)
    np.testing.assert_allclose(own.reach(jnp.float32(0.7)), [6.0], rtol=1e-6)
    np.testing.assert_allclose(Auxiliary(jnp.float32(2.0), (6,)).reach(jnp.float32(0.5)), [2.5], rtol=1e-6)


def test_the_first_units_of_a_layer_have_the_sizes_of_the_whole():
    whole = Controller(jnp.float32(0.4), (64,))
    part = Controller(jnp.float32(0.4), (32,), of=(64,))
    np.testing.assert_array_equal(part.sizes(), whole.sizes())
    np.testing.assert_array_equal(part.participation()[0], whole.participation()[0][:32])
    assert part.penalty(jnp.float32(20.0)) == whole.penalty(jnp.float32(20.0))


def weighted(controller):
    """Some function of all that the task sees of a controller."""
    weights = zip(controller.participation(), controller.capacity, strict=True)
    seen = [jnp.sum(own * jnp.arange(1.0, units + 1.0, dtype=own.dtype)) for own, units in weights]
    return jnp.sum(jnp.stack(seen)) + 3.0 * controller.gain()


@eqx.filter_jit
def slopes(controller, target):
    """Gradients of what the task sees, of the sizes, and of the penalty."""
    functions = weighted, lambda c: jnp.sum(c.sizes()), lambda c: c.penalty(target)
    return weighted(controller), [eqx.filter_grad(function)(controller) for function in functions]


def test_the_layouts_have_every_mask():
    assert {mask for mask, _ in LAYOUTS} == set(MASKS)


@pytest.mark.parametrize("name", MAKERS)
def test_contract(name):
    for (_, capacity), ((sizes, every, gain, penalty), _) in started(name).items():
        assert sizes.shape == (SHARES.size, len(capacity))
        assert ((sizes >= 0) & (sizes <= np.array(capacity))).all()
        for own, units in zip(every, capacity, strict=True):
            assert own.shape == (SHARES.size, units)
            assert own.dtype == np.float32
            assert ((own >= 0) & (own <= 1)).all()
            assert (np.diff(own, axis=1) <= 0).all()
        assert gain.shape == penalty.shape == SHARES.shape
        assert ((gain >= 0) & (gain <= 1)).all()
        assert (penalty >= 0).all()


@pytest.mark.parametrize("name", SIZED)
def test_starts_at_the_initial_size(name):
    for (_, capacity), ((sizes, *_), _) in started(name).items():
        jitter = max(capacity) * np.pi / 2 * 6 * JITTER if name in BOUNDED else 0.0
        shape = (
            np.array(capacity) / capacity[0] if name in ("controller", "released") else np.ones(len(capacity))
        )
        expected = SHARES[:, None] * min(capacity) * shape
        np.testing.assert_allclose(sizes, expected, rtol=0, atol=jitter)


@pytest.mark.parametrize("name", TARGETED)
def test_penalty_vanishes_at_the_target_alone(name):
    for (_, capacity), ((*_, penalty), beside) in started(name).items():
        assert (penalty <= len(capacity) * (6 * JITTER) ** 2).all()
        assert (beside > 1e-3).all()


def test_jitter_of_the_bounded_kinds():
    names = [name for name in BOUNDED if name in CONTROLLERS]

    def drawn(key):
        return [CONTROLLERS[name]((4,), initial_size=jnp.zeros(1), key=key).weight for name in names]

    for weights in jax.jit(jax.vmap(drawn))(jr.split(jr.key(1), 2000)):
        weights = np.asarray(weights, np.float64) / JITTER
        assert abs(weights.mean()) < 5 / np.sqrt(2000)
        assert abs(weights.std() - 1) < 5 / np.sqrt(2 * 2000)


@pytest.mark.parametrize(
    "weight, sizes, first, penalty",
    [
        (2.5, [2.5, 2.0], [1, 1, 0.5, 0], 0.25),
        (-3.0, [0.0, 0.0], [0, 0, 0, 0], 36.0),  # the weight may leave the layer, its size does not
        (9.0, [4.0, 2.0], [1, 1, 1, 1], 36.0),
    ],
)
def test_auxiliary_by_hand(weight, sizes, first, penalty):
    found, every, gain, own_penalty = said(Auxiliary(jnp.float32(weight), (4, 2)))
    np.testing.assert_array_equal(found, sizes)
    np.testing.assert_allclose(every[0], first, rtol=1e-6)
    np.testing.assert_array_equal(every[1], np.clip(np.float32(sizes[0]) - [0, 1], 0, 1))
    assert (gain, own_penalty) == (1, penalty)


def test_controller_at_one_half_has_half_of_each_capacity():
    controller = Controller(jnp.float32(0.5), (4, 10), "linear")
    sizes, every, _, penalty = said(controller, 4.0)
    np.testing.assert_allclose(sizes, [2, 5], rtol=1e-6)
    np.testing.assert_allclose(every[0], [1, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(penalty, 0.25, rtol=1e-6)
    np.testing.assert_allclose(said(controller, 1.0)[3], (0.5 - 1 / 3) ** 2, rtol=1e-5)


def test_released_by_hand():
    sizes, every, gain, penalty = said(Released(jnp.float32(0.5), (4, 2)), 4.0)
    np.testing.assert_allclose(sizes, [2, 1], rtol=1e-6)
    np.testing.assert_allclose(np.concatenate(every), np.full(6, 0.5), rtol=1e-6)
    assert gain == 1
    np.testing.assert_allclose(penalty, 0.25, rtol=1e-6)


@pytest.mark.parametrize("target", [1.0, 4.0])
def test_warmup_by_hand(target):
    sizes, every, gain, penalty = said(Warmup(jnp.float32(1 / 3), (4, 2)), target)
    np.testing.assert_array_equal(sizes, [4, 2])
    np.testing.assert_array_equal(np.concatenate(every), np.ones(6))
    np.testing.assert_allclose(gain, 0.25, rtol=1e-6)
    np.testing.assert_allclose(penalty, 4 / 9, rtol=1e-6)


def test_fixed_by_hand():
    _, every, gain, penalty = said(Fixed(jnp.asarray(np.float32([1.5, 2.0])), (3, 4), "linear"))
    np.testing.assert_array_equal(np.concatenate(every), [1, 0.5, 0, 1, 1, 0, 0])
    assert (gain, penalty) == (1, 0)


def test_layerwise_by_hand():
    parts = (Auxiliary(jnp.float32(1.0), (3,)), Warmup(jnp.float32(0.5), (4,)), Warmup(jnp.float32(0.5), (2,)))
    sizes, every, gain, penalty = said(Layerwise(parts, (3, 4, 2)))
    np.testing.assert_array_equal(sizes, [1, 4, 2])
    np.testing.assert_array_equal(np.concatenate(every), [1, 0, 0, 1, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(gain, 0.25, rtol=1e-6)
    np.testing.assert_allclose(penalty, 4.0 + 0.25 + 0.25, rtol=1e-6)


@pytest.mark.parametrize("kind", [Released, Warmup])
def test_the_task_never_reaches_an_open_loop(kind):
    controller = kind(jnp.float32(0.3), (4, 2))
    value, (by_task, by_size, by_penalty) = slopes(controller, jnp.float32(4.0))
    assert float(by_task.weight) == float(by_size.weight) == 0
    np.testing.assert_allclose(by_penalty.weight, 2 * (0.3 - 1), rtol=1e-6)
    assert float(slopes(kind(jnp.float32(0.6), (4, 2)), jnp.float32(4.0))[0]) > float(value)


def test_nothing_trains_a_fixed_size():
    controller = Fixed(jnp.asarray(np.float32([1.5, 2.5])), (4, 3))
    for gradient in slopes(controller, jnp.float32(3.0))[1]:
        np.testing.assert_array_equal(gradient.size, [0, 0])


@pytest.mark.parametrize("kind", [Auxiliary, Controller])
def test_gradient_agrees_with_finite_differences(kind):
    with jax.enable_x64(True):

        @jax.jit
        def each(weight):
            def loss(weight):
                controller = kind(weight, (4, 5))
                return weighted(controller) + controller.penalty(jnp.float64(3.0)) + jnp.sum(controller.sizes())

            return jax.value_and_grad(loss)(weight)

        (_, slope), (ahead, _), (behind, _) = (each(np.float64(0.37 + step)) for step in (0, 1e-6, -1e-6))
    np.testing.assert_allclose(slope, (float(ahead) - float(behind)) / 2e-6, rtol=1e-6)


def test_layers_of_layerwise_move_independently():
    @jax.jit
    def of(weights):
        parts = tuple(Auxiliary(weight, (4,)) for weight in weights)
        whole = Layerwise(parts, (4, 4, 4))
        return whole.sizes(), jnp.stack(whole.participation())

    weights = np.float32([1.5, 3.0, 1.5])
    sizes, every = of(weights)
    np.testing.assert_array_equal(sizes, weights)
    np.testing.assert_allclose(every, [[1, 0.5, 0, 0], [1, 1, 1, 0], [1, 0.5, 0, 0]], rtol=1e-6)
    slope = np.asarray(jax.jit(jax.jacrev(lambda weights: of(weights)[1]))(np.float32([1.5, 2.5, 1.5])))
    np.testing.assert_array_equal(np.abs(slope).sum(axis=1) > 0, np.eye(3, dtype=bool))


def test_layers_of_layerwise_start_at_their_own_sizes_with_their_own_keys():
    sizes = np.float32([1.0, 2.0])

    @jax.jit
    def made(sizes):
        unbounded = make_controller(
            "auxiliary", (3, 3), is_layerwise=True, initial_size=sizes, mask="sine", key=jr.key(0)
        )
        bounded = layerwise("controller")((3, 3), initial_size=jnp.zeros(2), key=jr.key(0))
        return unbounded.sizes(), [layer.weight for layer in bounded.layers]

    found, (one, other) = made(sizes)
    np.testing.assert_array_equal(found, sizes)
    assert float(one) != float(other)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"`mask` must be one of .*; got 'step'\."):
        Auxiliary(jnp.float32(1.0), (3,), "step").participation()
    with pytest.raises(ValueError, match=r"`controller` must be one of auxiliary, .*; got 'pid'\."):
        make_controller("pid", (3,), is_layerwise=False, initial_size=jnp.zeros(1), mask="sine", key=jr.key(0))
