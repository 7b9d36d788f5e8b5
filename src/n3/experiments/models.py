"""Models: the trained networks of a run directory, written and read back."""

import dataclasses
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from n3.config.experiment import Experiment
from n3.experiments.results import RunDirectory
from n3.nn.losses import LossWeights, Samples
from n3.nn.mlp import GrowingMLP
from n3.surgery import compact as compaction
from n3.surgery.compact import CompactMLP
from n3.training import checkpoint
from n3.training.step import Hypers, Problem, Recipe, TrainState, init


def write(directory: RunDirectory, arm: str, recipe: Recipe, nets: GrowingMLP) -> None:
    """Write the networks of an arm, and what it takes to lay them out again.

    Args:
        directory: The run directory.
        arm: The arm.
        recipe: The program that trained it.
        nets: Its networks, with a first axis of seeds; their capacity counts, not the recipe's.
    """
    plain = dataclasses.replace(recipe, capacity=nets.controller.capacity, drive=None, monitor=None)
    directory.write(f"models/{arm}.safetensors", checkpoint.to_bytes(nets))
    directory.write_json(f"models/{arm}.json", dataclasses.asdict(plain))


def load(
    directory: str | Path, *, compact: bool = False
) -> dict[str, list[GrowingMLP]] | dict[str, list[CompactMLP]]:
    """The trained networks of a run directory.

    Args:
        directory: What `run` left.
        compact: Whether to return each as the plain network of its participating units (`n3.compact`).

    Returns:
        For each arm the network of each seed, in the order of the seeds.

    Raises:
        FileNotFoundError: If the folder lacks a file.
        ValueError: If a file is damaged or holds another network.
    """
    experiment = Experiment.load(Path(directory) / "config.json")
    nets = {
        arm: _load_arm(Path(directory) / "models", arm, len(experiment.run.seeds))
        for arm in experiment.run.arms
    }
    return {arm: [compaction.compact(net) for net in own] for arm, own in nets.items()} if compact else nets


def init_one(recipe: Recipe, hypers: Hypers, problem: Problem) -> TrainState:
    """The first run of a sweep before its first step, from a key that is always the same: for its shapes."""
    first_hypers, first_problem = jax.tree.map(lambda leaf: leaf[0], (hypers, problem))
    return init(recipe, first_hypers, first_problem, key=jr.key(0))


def _load_arm(models: Path, arm: str, seeds: int) -> list[GrowingMLP]:
    source = models / f"{arm}.safetensors"
    fields = json.loads((models / f"{arm}.json").read_text())
    recipe = Recipe(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})
    one = eqx.filter_eval_shape(init_one, recipe, *_smallest(recipe)).net
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((seeds, *leaf.shape), leaf.dtype), one)
    nets = checkpoint.from_bytes(source.read_bytes(), like, source=str(source))
    return [jax.tree.map(lambda leaf, row=row: leaf[row], nets) for row in range(seeds)]


def _smallest(recipe: Recipe) -> tuple[Hypers, Problem]:
    """Numbers and samples of the least size that fit a recipe, to learn its network's shapes."""
    number, sizes = jnp.ones(1), jnp.ones((1, len(recipe.capacity)))
    samples = Samples(jnp.ones((1, recipe.in_size, 1)), jnp.ones((1, recipe.out_size, 1)), jnp.ones((1, 1)))
    hypers = Hypers(number, LossWeights(number, number), sizes, number, number, number)
    return hypers, Problem(samples, samples, jnp.ones((1, recipe.out_size)))
