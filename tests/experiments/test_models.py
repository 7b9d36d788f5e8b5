"""Models: networks come back from a run directory with the capacity that they have."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import n3
from n3.config.experiment import Experiment, RunConfig
from n3.experiments import results
from n3.experiments.results import RunDirectory
from n3.training.step import Recipe
from networks import inputs, network

RECIPE = Recipe(in_size=2, out_size=3, capacity=(9, 9), controller="auxiliary", size_input=True)


@pytest.fixture
def nets():
    return [network("auxiliary", (4, 6), 2.3, seed=seed) for seed in (1, 2)]


def test_the_networks_own_capacity_counts(nets, tmp_path):
    run = RunConfig(arms=("growing",), seeds=(1, 2), out=str(tmp_path), name="a")
    directory = RunDirectory.create(Experiment(run=run))
    results.write_models(directory, "growing", RECIPE, jax.tree.map(lambda *leaves: jnp.stack(leaves), *nets))
    assert json.loads((tmp_path / "a" / "models" / "growing.json").read_text())["capacity"] == [4, 6]
    back = n3.load(tmp_path / "a")["growing"]
    for own, other in zip(nets, back, strict=True):
        assert eqx.tree_equal(own, other)
    small = n3.load(tmp_path / "a", compact=True)["growing"]
    np.testing.assert_allclose(small[0].batch(inputs()), nets[0].batch(inputs()), rtol=1e-5, atol=1e-6)
