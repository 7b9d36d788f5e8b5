"""Controllers: every registered kind against one contract, values by hand, and what trains the size."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.nn import masks
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
)
from n3.nn.masks import capacity_share, output_for_share

MAKERS = {
    **CONTROLLERS,
    **{f"layerwise {kind}": layerwise(kind) for kind in CONTROLLERS if kind not in ("layerwise", "auxiliary")},
}
CAPACITIES = [(1,), (3, 5, 4)]
BOUNDED = {"controller": Controller, "released": Released, "warmup": Warmup}
TRAINABLE = [name for name in MAKERS if "fixed" not in name]
TARGETED = [name for name in TRAINABLE if "information" not in name]
SIZED = [name for name in MAKERS if "warmup" not in name]


def make(name, capacity, size, *, seed=0, mask="sine"):
    initial_size = jnp.full(len(capacity), size, jnp.float32)
    return MAKERS[name](capacity, initial_size=initial_size, key=jr.key(seed), mask=mask)


def weighted(controller):
    """Some function of all that the task sees of a controller."""
    weights = zip(controller.participation(), controller.capacity, strict=True)
    seen = [jnp.sum(own * jnp.arange(1.0, units + 1.0)) for own, units in weights]
    return jnp.sum(jnp.stack(seen)) + 3.0 * controller.gain()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("mask", masks.MASKS)
def test_contract(name, capacity, mask):
    for size in (0.0, 0.4, 1.0):
        controller = make(name, capacity, size * min(capacity), mask=mask)
        assert (controller.capacity, controller.mask) == (capacity, mask)
        sizes = np.asarray(controller.sizes())
        assert sizes.shape == (len(capacity),)
        assert ((sizes >= 0) & (sizes <= np.array(capacity))).all()
        for own, units in zip(controller.participation(), capacity, strict=True):
            own = np.asarray(own)
            assert own.shape == (units,)
            assert own.dtype == np.float32
            assert ((own >= 0) & (own <= 1)).all()
            assert (np.diff(own) <= 0).all()
        assert 0 <= float(controller.gain()) <= 1
        assert controller.gain().shape == ()
        penalty = controller.penalty(jnp.float32(min(capacity)))
        assert penalty.shape == ()
        assert float(penalty) >= 0


@pytest.mark.parametrize("name", SIZED)
@pytest.mark.parametrize("capacity, size", [((7,), 0.0), ((7,), 2.5), ((7,), 7.0), ((4, 4, 4), 1.5)])
def test_starts_at_the_initial_size(name, capacity, size):
    jitter = max(capacity) * np.pi / 2 * 6 * JITTER
    np.testing.assert_allclose(make(name, capacity, size).sizes(), np.full(len(capacity), size), atol=jitter)


@pytest.mark.parametrize("name", ["auxiliary", "fixed", "layerwise", "layerwise fixed"])
def test_unbounded_kinds_start_exactly_at_the_initial_size(name):
    np.testing.assert_array_equal(make(name, (5, 4), 2.3).sizes(), np.float32([2.3, 2.3]))


@pytest.mark.parametrize("name", TARGETED)
def test_penalty_vanishes_at_the_target_alone(name):
    units, jitter = 4.0, 3 * (6 * JITTER) ** 2
    at_target, below = make(name, (4, 6, 5), units), make(name, (4, 6, 5), 1.0)
    if "layerwise" in name and name != "layerwise":
        at_target, below = make(name, (4, 4, 4), units), make(name, (4, 4, 4), 1.0)
    assert float(at_target.penalty(jnp.float32(units))) < jitter
    assert float(below.penalty(jnp.float32(units))) > 0.1


@pytest.mark.parametrize("name", ["auxiliary", "controller", "released", "layerwise"])
def test_penalty_vanishes_at_a_target_below_the_capacity(name):
    controller = make(name, (8,), 2.5)
    assert float(controller.penalty(jnp.float32(2.5))) < (6 * JITTER) ** 2
    assert float(controller.penalty(jnp.float32(8.0))) > 0.1


@pytest.mark.parametrize("name", BOUNDED)
def test_jitter_of_the_bounded_kinds(name):
    keys, maker = jr.split(jr.key(1), 2000), CONTROLLERS[name]
    many = eqx.filter_vmap(lambda key: maker((4,), initial_size=jnp.zeros(1), key=key))(keys)
    assert isinstance(many, BOUNDED[name])
    weights = np.asarray(many.weight, np.float64) / JITTER
    assert abs(weights.mean()) < 5 / np.sqrt(2000)
    assert abs(weights.std() - 1) < 5 / np.sqrt(2 * 2000)


def test_auxiliary_by_hand():
    controller = Auxiliary(jnp.float32(2.5), (4, 2))
    np.testing.assert_array_equal(controller.sizes(), [2.5, 2.0])
    np.testing.assert_allclose(controller.participation()[0], [1, 1, 0.5, 0], rtol=1e-6)
    np.testing.assert_array_equal(controller.participation()[1], [1, 1])
    assert float(controller.gain()) == 1
    assert float(controller.penalty(jnp.float32(4.0))) == 2.25


@pytest.mark.parametrize("weight, size", [(-3.0, 0.0), (9.0, 4.0)])
def test_auxiliary_may_leave_the_layer_but_its_size_does_not(weight, size):
    controller = Auxiliary(jnp.float32(weight), (4,))
    assert float(controller.sizes()[0]) == size
    assert float(np.sum(controller.participation()[0])) == size
    assert float(controller.penalty(jnp.float32(2.0))) == (weight - 2) ** 2


def test_controller_at_one_half_has_half_of_each_capacity():
    controller = Controller(jnp.float32(0.5), (4, 10), "linear")
    np.testing.assert_allclose(controller.sizes(), [2, 5], rtol=1e-6)
    np.testing.assert_allclose(controller.participation()[0], [1, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(controller.penalty(jnp.float32(4.0)), 0.25, rtol=1e-6)
    np.testing.assert_allclose(controller.penalty(jnp.float32(1.0)), (0.5 - 1 / 3) ** 2, rtol=1e-5)


def test_released_by_hand():
    controller = Released(jnp.float32(0.5), (4, 2))
    np.testing.assert_allclose(controller.sizes(), [2, 1], rtol=1e-6)
    for own, units in zip(controller.participation(), (4, 2), strict=True):
        np.testing.assert_allclose(own, np.full(units, 0.5), rtol=1e-6)
    assert float(controller.gain()) == 1
    np.testing.assert_allclose(controller.penalty(jnp.float32(4.0)), 0.25, rtol=1e-6)


def test_warmup_by_hand():
    controller = Warmup(jnp.float32(1 / 3), (4, 2))
    np.testing.assert_array_equal(controller.sizes(), [4, 2])
    assert all((np.asarray(own) == 1).all() for own in controller.participation())
    np.testing.assert_allclose(controller.gain(), 0.25, rtol=1e-6)
    for target in (1.0, 4.0):
        np.testing.assert_allclose(controller.penalty(jnp.float32(target)), 4 / 9, rtol=1e-6)


def test_fixed_by_hand():
    controller = Fixed(jnp.array([1.5, 2.0]), (3, 4), "linear")
    np.testing.assert_array_equal(controller.participation()[0], [1, 0.5, 0])
    np.testing.assert_array_equal(controller.participation()[1], [1, 1, 0, 0])
    assert float(controller.gain()) == 1
    assert float(controller.penalty(jnp.float32(3.0))) == 0


def test_layerwise_by_hand():
    parts = (Auxiliary(jnp.float32(1.0), (3,)), Warmup(jnp.float32(0.5), (4,)), Warmup(jnp.float32(0.5), (2,)))
    controller = Layerwise(parts, (3, 4, 2))
    np.testing.assert_array_equal(controller.sizes(), [1, 4, 2])
    np.testing.assert_allclose(controller.gain(), 0.25, rtol=1e-6)
    np.testing.assert_allclose(controller.penalty(jnp.float32(3.0)), 4.0 + 0.25 + 0.25, rtol=1e-6)


@pytest.mark.parametrize("output, expected", [(0.0, 0.0), (1 / 3, 0.25), (0.5, 0.5), (2 / 3, 0.75), (1.0, 1.0)])
def test_share_by_hand_and_its_inverse(output, expected):
    with jax.enable_x64(True):
        np.testing.assert_allclose(capacity_share(jnp.float64(output)), expected, rtol=1e-12)
        np.testing.assert_allclose(output_for_share(jnp.float64(expected)), output, rtol=1e-12)


@pytest.mark.parametrize("kind", [Released, Warmup])
def test_the_task_never_reaches_an_open_loop(kind):
    controller = kind(jnp.float32(0.3), (4, 2))
    assert float(eqx.filter_grad(weighted)(controller).weight) == 0
    assert float(eqx.filter_grad(lambda c: jnp.sum(c.sizes()))(controller).weight) == 0
    moved = eqx.tree_at(lambda c: c.weight, controller, jnp.float32(0.6))
    assert float(weighted(moved)) > float(weighted(controller))
    pulled = eqx.filter_grad(lambda c: c.penalty(jnp.float32(4.0)))(controller).weight
    np.testing.assert_allclose(pulled, 2 * (0.3 - 1), rtol=1e-6)


def test_nothing_trains_a_fixed_size():
    controller = Fixed(jnp.array([1.5, 2.5]), (4, 3))
    for function in (weighted, lambda c: jnp.sum(c.sizes()), lambda c: c.penalty(jnp.float32(3.0))):
        np.testing.assert_array_equal(eqx.filter_grad(function)(controller).size, [0, 0])


def test_the_task_reaches_an_auxiliary_weight_at_the_frontier():
    for mask, slope in (("sine", np.pi / 2), ("linear", 1.0), ("hard", 1.0)):
        slopes = jax.jacrev(lambda w, mask=mask: Auxiliary(w, (4,), mask).participation()[0])(jnp.float32(2.5))
        np.testing.assert_allclose(slopes, [0, 0, slope, 0], rtol=1e-6)


@pytest.mark.parametrize("kind", [Auxiliary, Controller])
def test_gradient_agrees_with_finite_differences(kind):
    with jax.enable_x64(True):

        @jax.jit
        def loss(weight):
            controller = kind(weight, (4, 5))
            return weighted(controller) + controller.penalty(jnp.float64(3.0)) + jnp.sum(controller.sizes())

        weight, step = jnp.float64(0.37), 1e-6
        secant = (loss(weight + step) - loss(weight - step)) / (2 * step)
        np.testing.assert_allclose(jax.jit(jax.grad(loss))(weight), secant, rtol=1e-6)


def test_layers_of_layerwise_move_independently():
    controller = make("layerwise", (4, 4, 4), 1.5)
    moved = eqx.tree_at(lambda c: c.layers[1].weight, controller, jnp.float32(3.0))
    np.testing.assert_array_equal(moved.sizes(), [1.5, 3.0, 1.5])
    for layer in (0, 2):
        np.testing.assert_array_equal(moved.participation()[layer], controller.participation()[layer])
    np.testing.assert_array_equal(moved.participation()[1], [1, 1, 1, 0])
    gradient = eqx.filter_grad(lambda c: jnp.sum(c.participation()[1]))(controller)
    assert [float(layer.weight) != 0 for layer in gradient.layers] == [False, True, False]


def test_layers_of_layerwise_start_at_their_own_sizes_with_their_own_keys():
    sizes = jnp.array([1.0, 2.0])
    unbounded = CONTROLLERS["layerwise"]((3, 3), initial_size=sizes, key=jr.key(0))
    np.testing.assert_array_equal(unbounded.sizes(), sizes)
    bounded = layerwise("controller")((3, 3), initial_size=jnp.zeros(2), key=jr.key(0))
    assert float(bounded.layers[0].weight) != float(bounded.layers[1].weight)


def test_an_unknown_mask_is_refused():
    with pytest.raises(ValueError, match=r"`mask` must be one of .*; got 'step'\."):
        Auxiliary(jnp.float32(1.0), (3,), "step").participation()
