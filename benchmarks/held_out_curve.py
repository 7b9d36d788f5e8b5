"""Held-out curve: what a run sees at three of its looks, as a figure.

    uv run benchmarks/held_out_curve.py [--task NAME] [--seed N] [--out FILE]

The held-out loss of the best linear read-out of the first 0, 1, ... units in sight, pooled over the members;
the band within which fewer units are as good, half a standard error of the paired difference; and the size.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np

import n3
from n3.experiments import hypers_of, load_data, recipe_of, stack
from n3.information import order_of, prefix_losses
from n3.nn import GrowingMLP
from n3.training import Problem, sweep

MOMENTS = 0.06, 0.2, 0.6
"""Shares of the run."""


STRENGTHS = 0.0, 1e-3, 3e-2


def curve(nets: GrowingMLP, problem: Problem, most: int, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """Held-out loss of each number of units up to the most, and the standard error of what the least gains."""
    pooled = []
    for member in range(len(nets.readout.bias)):
        net = jax.tree.map(lambda leaf, at=member: leaf[at], nets)
        fit = (problem.folds != member).astype(jnp.float32)
        units, how = net.activations(problem.train.inputs.T)[-1], {"is_classes": loss == "cross-entropy"}
        is_full = jnp.arange(1.0, len(units) + 1.0) <= net.sizes()[-1]
        seen = units[order_of(units, problem.train.targets, fit, is_full, **how)], problem.train.targets, fit
        losses = jnp.stack([prefix_losses(*seen, strength=strength, **how) for strength in STRENGTHS])
        pooled.append(np.asarray(losses)[..., np.asarray(fit) == 0])
    rows = np.concatenate(pooled, axis=-1)
    losses = rows[np.argmin(rows.mean(axis=-1), axis=0), np.arange(rows.shape[1])][: most + 1]
    paired = losses - losses[np.argmin(losses.mean(axis=1))]
    return losses.mean(axis=1), paired.std(axis=1) / np.sqrt(paired.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="sine-5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/held-out-curve.png"))
    options = parser.parse_args()
    experiment = n3.Experiment(
        task=n3.TaskConfig(task=options.task),
        network=n3.NetworkConfig(method="information", capacity=(64,)),
        information=n3.InformationConfig(criterion="held-out"),
        run=n3.RunConfig(arms=("growing",), seeds=(options.seed,)),
    ).resolved()
    data, steps = load_data(experiment), experiment.training.steps
    recipe = recipe_of(experiment, "growing", data[0])
    hypers = hypers_of(experiment, "growing", data=data, active=None)
    problem = stack(data, members=recipe.members, seeds=experiment.run.seeds)
    keys, start = jax.vmap(jr.key)(jnp.array(experiment.run.seeds)), None
    figure, axes = plt.subplots(1, len(MOMENTS), figsize=(9.6, 3.0), sharey=True, layout="constrained")
    one = jax.tree.map(lambda leaf: leaf[0], problem)
    for axis, share in zip(axes, MOMENTS, strict=True):
        now = round(share * steps)
        state = sweep(recipe, hypers, problem, keys=keys, stops=np.array([now]), start=start).state
        start, nets = (now, state), jax.tree.map(lambda leaf: leaf[0], state.net)
        size = float(nets.sizes()[0, 0])
        means, errors = curve(nets, one, int(np.ceil(size)) + experiment.information.look_ahead, recipe.loss)
        units = np.arange(len(means))
        best = int(np.argmin(means))
        axis.plot(units, means, color="C0", label="held-out loss")
        bar = means[best] + experiment.information.errors * errors
        axis.fill_between(units, means[best], bar, color="C1", alpha=0.4, label="as good as the least")
        axis.axvline(size, color="black", linestyle=":", label="size")
        axis.set(title=f"step {now}: {size:.0f} units", xlabel="units", yscale="log", xlim=(0, 40))
    axes[0].set_ylabel("mean squared error" if data[0].kind == "regression" else "cross-entropy (nats)")
    axes[-1].legend(loc="upper right", framealpha=1.0)
    figure.savefig(options.out, dpi=120)


if __name__ == "__main__":
    main()
