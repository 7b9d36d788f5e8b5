"""Checkpoint: what is stored comes back bit for bit, and what is damaged or different is refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.nn.controllers import CONTROLLERS
from n3.nn.mlp import GrowingMLP
from n3.surgery.export import from_bytes, to_bytes


def network(key, *, kind="auxiliary", capacity=(4, 4), size_input=True, depth=True):
    initial_size = jnp.full(len(capacity), 1.3)
    controller_key, net_key = jr.split(key)
    return GrowingMLP(
        2,
        3,
        controller=CONTROLLERS[kind](capacity, initial_size=initial_size, key=controller_key),
        size_input=size_input,
        initial_depth=jnp.float32(1.5) if depth else None,
        key=net_key,
    )


def assert_bit_equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, two in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert isinstance(one, jax.Array)
        assert (one.shape, one.dtype) == (two.shape, two.dtype)
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


@pytest.mark.parametrize("kind", CONTROLLERS)
def test_a_network_comes_back_bit_for_bit(kind):
    net, like = network(jr.key(0), kind=kind), network(jr.key(1), kind=kind)
    back = from_bytes(to_bytes(net), like, source="net")
    assert_bit_equal(back, net)
    x = jr.normal(jr.key(2), (2, 5))
    np.testing.assert_array_equal(back.batch(x), net.batch(x))


@pytest.mark.parametrize("kind", ["auxiliary", "layerwise"])
def test_stacked_networks_come_back_bit_for_bit_from_shapes_alone(kind):
    @eqx.filter_jit
    def build(keys):
        return eqx.filter_vmap(lambda key: network(key, kind=kind))(keys)

    keys = jr.split(jr.key(0), 3)
    nets = build(keys)
    assert nets.layers[0].weight.shape == (3, 4, 2)
    assert_bit_equal(from_bytes(to_bytes(nets), eqx.filter_eval_shape(build, keys), source="nets"), nets)


def test_every_kind_of_number_comes_back():
    tree = {
        "odd": jnp.array([jnp.nan, -jnp.nan, jnp.inf, -0.0, 1e-45]),
        "count": jnp.int32(-7),
        "key": jr.key_data(jr.key(3)),
        "flags": (jnp.array([True, False]), jnp.zeros((0, 4))),
        "half": jnp.array([1.5, 2.0], jnp.float16),
        "none": None,
    }
    assert_bit_equal(from_bytes(to_bytes(tree), jax.tree.map(jnp.zeros_like, tree), source="tree"), tree)


def test_an_array_that_is_not_contiguous_comes_back():
    tree = {"turned": np.arange(6.0, dtype=np.float32).reshape(2, 3).T}
    back = from_bytes(to_bytes(tree), tree, source="tree")
    np.testing.assert_array_equal(back["turned"], tree["turned"])


def test_what_is_no_array_is_taken_from_the_like_tree():
    tree = {"weight": jnp.ones(2), "name": "stored"}
    back = from_bytes(to_bytes(tree), {"weight": jnp.zeros(2), "name": "like"}, source="tree")
    np.testing.assert_array_equal(back["weight"], [1, 1])
    assert back["name"] == "like"


def test_the_same_tree_gives_the_same_bytes():
    assert to_bytes(network(jr.key(0))) == to_bytes(network(jr.key(0)))
    assert to_bytes(network(jr.key(0))) != to_bytes(network(jr.key(1)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"no safetensors",
        lambda content: content[:5],
        lambda content: content[:-3],
        lambda content: content + b"\0",
        lambda content: bytes([content[0] ^ 0xFF]) + content[1:],
        lambda content: content[:9] + b"\0" + content[10:],
    ],
)
def test_damaged_content_is_refused(damage):
    net = network(jr.key(0))
    with pytest.raises(ValueError, match=r"^here\.safetensors is damaged or not safetensors: "):
        from_bytes(damage(to_bytes(net)), net, source="here.safetensors")


def test_another_shape_is_refused():
    content = to_bytes({"bias": jnp.zeros(3), "weight": jnp.zeros((2, 3))})
    like = {"bias": jnp.zeros(3), "weight": jnp.zeros((3, 2))}
    message = r"^here: \['weight'\] is float32\(2, 3\); expected float32\(3, 2\)\."
    with pytest.raises(ValueError, match=message):
        from_bytes(content, like, source="here")


def test_another_type_is_refused():
    content = to_bytes({"weight": jnp.zeros(3, jnp.int32)})
    with pytest.raises(ValueError, match=r"\['weight'\] is int32\(3,\); expected float32\(3,\)\."):
        from_bytes(content, {"weight": jnp.zeros(3)}, source="here")


def test_a_network_of_another_capacity_is_refused():
    content = to_bytes(network(jr.key(0), capacity=(4, 4)))
    with pytest.raises(ValueError, match=r"^here: \S+ is float32\(.*\); expected float32\(.*\)\."):
        from_bytes(content, network(jr.key(0), capacity=(5, 5)), source="here")


@pytest.mark.parametrize("stored, wanted", [(True, False), (False, True)])
def test_a_missing_or_unexpected_name_is_refused(stored, wanted):
    content = to_bytes(network(jr.key(0), depth=stored))
    message = r"^here does not hold this network: \.depth_weight is missing or not expected\."
    with pytest.raises(ValueError, match=message):
        from_bytes(content, network(jr.key(0), depth=wanted), source="here")
