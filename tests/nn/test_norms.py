"""Norms: full participation is Equinox's norm, masked channels are as if absent, and nothing trains a mask."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.random import default_rng

from n3.nn import norms
from n3.nn.norms import ParticipatingNorm, participating, simplified

KINDS = {
    "layer": (lambda n: eqx.nn.LayerNorm(n), ()),
    "layer without weights": (lambda n: eqx.nn.LayerNorm(n, use_weight=False, use_bias=False), ()),
    "root mean square": (lambda n: eqx.nn.RMSNorm(n), ()),
    "one group": (lambda n: eqx.nn.GroupNorm(1, n), (3, 2)),
    "layer over images": (lambda n: eqx.nn.LayerNorm((n, 3, 2)), (3, 2)),
}
GROUPED = {"four groups": (lambda n: eqx.nn.GroupNorm(4, n), (3, 2))}


def drawn(norm):
    """A norm with weights of its own."""
    draw = default_rng(0)
    return jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), norm)


@pytest.mark.parametrize("kind", [*KINDS, *GROUPED])
def test_full_participation_is_the_usual_norm(kind):
    make, rest = (KINDS | GROUPED)[kind]
    x = (3.0 + 2.0 * default_rng(1).normal(size=(8, *rest))).astype(np.float32)

    @eqx.filter_jit
    def both(norm, x):
        counting = participating(norm)
        assert isinstance(counting, ParticipatingNorm)
        return counting(x), norm(x)

    found, expected = both(drawn(eqx.filter_eval_shape(make, 8)), x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_channel_is_as_if_absent(kind):
    make, rest = KINDS[kind]
    x = default_rng(1).normal(size=(8, *rest)).astype(np.float32)

    @jax.jit
    def both(x):
        counting = participating(make(8))
        mask = (jnp.arange(8) < 5).astype(jnp.float32)
        share = jnp.broadcast_to(mask.reshape(-1, *[1] * (counting.share.ndim - 1)), counting.share.shape)
        return ParticipatingNorm(counting.norm, share)(x), make(5)(x[:5])

    masked, few = map(np.asarray, both(x))
    np.testing.assert_allclose(masked[:5], few, rtol=1e-5, atol=1e-6)


def test_a_channel_counts_by_its_share_by_hand():
    @jax.jit
    def both(share, x, y):
        layer, square = eqx.nn.LayerNorm(2, eps=0.0), eqx.nn.RMSNorm(2, eps=0.0)
        return ParticipatingNorm(layer, share)(x), ParticipatingNorm(square, share)(y)

    layer, square = both(np.float32([1.0, 0.25]), np.float32([0.0, 5.0]), np.float32([3.0, 2.0]))
    # mean = (0 + .25 * 5) / 1.25 = 1, variance = (1 + .25 * 16) / 1.25 = 4
    np.testing.assert_allclose(layer, [-0.5, 2.0], rtol=1e-6)
    # mean square = (9 + .25 * 4) / 1.25 = 8
    np.testing.assert_allclose(square, np.array([3.0, 2.0]) / 8**0.5, rtol=1e-6)


@eqx.filter_jit
def cubes(norm, x):
    """A value of a norm, and its gradients by the norm and by the input."""
    value = lambda both: jnp.sum(both[0](both[1]) ** 3)  # noqa: E731
    return value((norm, x)), eqx.filter_grad(value)((norm, x))


def layer_of(share, dtype=np.float32):
    norm = jax.tree.map(
        lambda leaf: np.ones(leaf.shape, np.float32), eqx.filter_eval_shape(eqx.nn.LayerNorm, 4)
    )
    return ParticipatingNorm(norm, jnp.asarray(np.asarray(share, dtype)))


X = np.arange(4, dtype=np.float32)


def test_nothing_that_takes_part_gives_no_nan():
    value, (_, slope) = cubes(layer_of([0.0] * 4), X)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


def test_a_mask_is_never_trained():
    whole = jax.jit(lambda: participating(eqx.nn.LayerNorm(4)))()
    assert not eqx.is_inexact_array(whole.share)
    traced, whole = layer_of([1.0, 1.0, 1.0, 0.5]), layer_of([8, 8, 8, 4], np.int32)
    (value, (_, slope)), (same, (norm, alike)) = cubes(traced, X), cubes(whole, X)
    np.testing.assert_allclose((value, *slope), (same, *alike), rtol=1e-6)
    assert norm.share is None


def test_states_and_half_precision_pass_through():
    whole = jax.jit(lambda: participating(eqx.nn.LayerNorm(4)))()
    both = eqx.filter_jit(lambda norm, x: (norm(x), norm(x, "state")))
    plain, (out, state) = both(whole, X)
    assert state == "state"
    np.testing.assert_array_equal(out, plain)
    half = eqx.filter_eval_shape(both, whole, jax.ShapeDtypeStruct((4,), jnp.bfloat16))
    assert half[0].dtype == jnp.bfloat16


def test_only_norms_of_whole_participation_are_simplified():
    partly = layer_of([1.0, 1.0, 1.0, 0.5])
    none, whole = layer_of([0.0] * 4), layer_of([1.0] * 4)
    assert isinstance(simplified([whole])[0], eqx.nn.LayerNorm)
    for kept, norm in zip(simplified([partly, none]), (partly, none), strict=True):
        np.testing.assert_array_equal(kept.share, norms.WHOLE_SHARE * norm.share)
        assert not eqx.is_inexact_array(kept.share)


def test_a_group_norm_that_does_not_know_its_channels_is_left_alone():
    norm = eqx.nn.GroupNorm(1, channelwise_affine=False)
    assert participating([norm])[0] is norm
