"""Norms: full participation is Equinox's norm, masked channels are as if absent, and nothing trains a mask."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.nn.norms import ParticipatingNorm, participating, simplified

KINDS = {
    "layer": (lambda n: eqx.nn.LayerNorm(n), ()),
    "layer without weights": (lambda n: eqx.nn.LayerNorm(n, use_weight=False, use_bias=False), ()),
    "root mean square": (lambda n: eqx.nn.RMSNorm(n), ()),
    "one group": (lambda n: eqx.nn.GroupNorm(1, n), (3, 2)),
    "layer over images": (lambda n: eqx.nn.LayerNorm((n, 3, 2)), (3, 2)),
}


def drawn(norm, key):
    """A norm with weights of its own."""
    leaves, treedef = jax.tree.flatten(norm)
    keys = jr.split(key, len(leaves) + 1)
    return jax.tree.unflatten(
        treedef, [jr.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=False)]
    )


@pytest.mark.parametrize("kind", [*KINDS, "four groups"])
def test_full_participation_is_the_usual_norm(kind):
    make, rest = KINDS.get(kind, (lambda n: eqx.nn.GroupNorm(4, n), (3, 2)))
    norm = drawn(make(8), jr.key(0))
    x = 3.0 + 2.0 * jr.normal(jr.key(1), (8, *rest))
    counting = participating(norm)
    assert isinstance(counting, ParticipatingNorm)
    np.testing.assert_allclose(counting(x), norm(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_channel_is_as_if_absent(kind):
    make, rest = KINDS[kind]
    x = jr.normal(jr.key(1), (8, *rest))
    mask = (jnp.arange(8) < 5).astype(jnp.float32)
    counting = participating(make(8))
    share = jnp.broadcast_to(mask.reshape(-1, *[1] * (counting.share.ndim - 1)), counting.share.shape)
    masked = ParticipatingNorm(counting.norm, share)
    np.testing.assert_allclose(masked(x)[:5], make(5)(x[:5]), rtol=1e-5, atol=1e-6)


def test_a_channel_counts_by_its_share_by_hand():
    norm = ParticipatingNorm(eqx.nn.LayerNorm(2, eps=0.0), jnp.array([1.0, 0.25]))
    # mean = (0 + .25 * 5) / 1.25 = 1, variance = (1 + .25 * 16) / 1.25 = 4
    np.testing.assert_allclose(norm(jnp.array([0.0, 5.0])), [-0.5, 2.0], rtol=1e-6)
    square = ParticipatingNorm(eqx.nn.RMSNorm(2, eps=0.0), jnp.array([1.0, 0.25]))
    # mean square = (9 + .25 * 4) / 1.25 = 8
    np.testing.assert_allclose(square(jnp.array([3.0, 2.0])), np.array([3.0, 2.0]) / 8**0.5, rtol=1e-6)


def test_nothing_that_takes_part_gives_no_nan():
    norm = ParticipatingNorm(eqx.nn.LayerNorm(4), jnp.zeros(4))
    value, slope = jax.value_and_grad(lambda x: jnp.sum(norm(x)))(jnp.arange(4.0))
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


def test_a_mask_is_never_trained():
    whole = participating(eqx.nn.LayerNorm(4))
    assert not eqx.is_inexact_array(whole.share)
    final = ParticipatingNorm(whole.norm, jnp.array([1.0, 1.0, 1.0, 0.5]), is_final=True)
    slope = eqx.filter_grad(lambda norm: jnp.sum(norm(jnp.arange(4.0)) ** 3))(final)
    np.testing.assert_array_equal(slope.share, np.zeros(4))
    traced = ParticipatingNorm(whole.norm, final.share)
    assert np.any(eqx.filter_grad(lambda norm: jnp.sum(norm(jnp.arange(4.0)) ** 3))(traced).share != 0)


def test_states_and_half_precision_pass_through():
    norm = participating(eqx.nn.LayerNorm(4))
    out, state = norm(jnp.arange(4.0), "state")
    assert state == "state"
    np.testing.assert_array_equal(out, norm(jnp.arange(4.0)))
    assert norm(jnp.arange(4.0, dtype=jnp.bfloat16)).dtype == jnp.bfloat16


def test_only_norms_of_whole_participation_are_simplified():
    norms = participating([eqx.nn.LayerNorm(4), eqx.nn.RMSNorm(4)])
    norms[1] = ParticipatingNorm(norms[1].norm, jnp.array([1.0, 1.0, 1.0, 0.5]))
    layer, square = simplified(norms)
    assert isinstance(layer, eqx.nn.LayerNorm)
    assert isinstance(square, ParticipatingNorm)


def test_a_group_norm_that_does_not_know_its_channels_is_left_alone():
    norm = eqx.nn.GroupNorm(1, channelwise_affine=False)
    assert participating([norm])[0] is norm
