"""Sized: many models as one, and which arrays have an axis of runs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from n3.nn.sized import first_run, run_of, stack_runs
from networks import filled

MODELS = [filled(lambda: eqx.nn.MLP(2, 1, 3, 1, jnp.tanh, key=jr.key(0)), seed=seed) for seed in (0, 1, 2)]


def test_many_models_are_one_with_an_axis_of_runs_and_apart_again():
    many = stack_runs(MODELS)
    assert many.layers[0].weight.shape == (3, 3, 2)
    for row, model in enumerate(MODELS):
        pairs = zip(jax.tree.leaves(run_of(many, row)), jax.tree.leaves(model), strict=True)
        assert all(one is other or np.array_equal(one, other) for one, other in pairs)


def test_the_first_run_and_their_number():
    one, runs = first_run(stack_runs(MODELS), jr.split(jr.key(0), 3))
    assert (one.layers[0].weight.shape, runs) == ((3, 2), 3)
    assert first_run(MODELS[0], jr.key(0)) == (MODELS[0], 0)
    with pytest.raises(
        ValueError, match=r"`model` must have a first axis of 2 runs .*weight has shape \(3, 3, 2\)"
    ):
        first_run(stack_runs(MODELS), jr.split(jr.key(0)))
