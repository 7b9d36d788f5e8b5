"""Convolution: a small network on digits that chooses its channels, against the same that does not.

    uv run --extra data benchmarks/convolution.py [--quick] [--seeds N ...] [--out FILE]

The network has two convolutions (16 and 32 channels), pooling after each, a hidden linear layer (64 units) and
ten logits, on images of 8 x 8 pixels. Four networks of each seed, by Adam with a cosine to zero:

* `full`: as it is, trained for all steps;
* `grown`: `n3.grow`, method `information`, started with all channels; and `compacted`, the same without the
  channels that do not take part (their logits must agree within 1e-5 of the largest, else the benchmark stops);
* `equal-size`: drawn anew with the compacted network's channels, and trained for all steps.

Accuracy is the share of test images whose class is predicted. Latency, of the seed whose compacted network has
the median number of parameters, is the median over rounds of one call on the default device, full and compacted
network in turn. Printed as a table and then as one JSON object.
"""

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import n3
from latency import milliseconds
from n3 import compact

WIDTHS = (16, 32, 64)
RATE = 3e-3
BATCHES = (1, 32, 4096)
TOLERANCE = 1e-5


class Network(eqx.Module):
    """Two convolutions, each with pooling, a hidden layer and ten logits."""

    convolutions: list[eqx.nn.Conv2d]
    hidden: eqx.nn.Linear
    readout: eqx.nn.Linear
    pool: eqx.nn.MaxPool2d

    def __init__(self, widths, *, key):
        keys = jr.split(key, 4)
        first, second, units = widths
        self.convolutions = [
            eqx.nn.Conv2d(1, first, 3, padding=1, key=keys[0]),
            eqx.nn.Conv2d(first, second, 3, padding=1, key=keys[1]),
        ]
        self.pool = eqx.nn.MaxPool2d(2, 2)
        self.hidden = eqx.nn.Linear(4 * second, units, key=keys[2])
        self.readout = eqx.nn.Linear(units, 10, key=keys[3])

    def __call__(self, image):
        for layer in self.convolutions:
            image = self.pool(jax.nn.relu(layer(image)))
        return self.readout(jax.nn.relu(self.hidden(image.reshape(-1))))


def samples_of(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test images, one channel each, with their labels."""
    data = n3.load_dataset("digits", seed=seed)
    sides = (data.train_inputs, data.train_targets), (data.test_inputs, data.test_targets)
    return [(inputs.reshape(-1, 1, 8, 8), targets.argmax(1)) for inputs, targets in sides]


def parameters(model: eqx.Module) -> int:
    """Trained numbers of a model."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def widths_of(network: Network) -> tuple[int, ...]:
    """Channels of the two convolutions, and hidden units."""
    first, second = (layer.out_channels for layer in network.convolutions)
    return first, second, network.hidden.out_features


def trained(network: eqx.Module, seed: int, steps: int) -> tuple[Any, n3.training.History]:
    """A network after all steps, and its history."""
    train, test = samples_of(seed)
    schedule = optax.cosine_decay_schedule(RATE, steps)
    settings = {"steps": steps, "learning_rate": schedule, "key": jr.key(seed + 1_000)}
    return n3.fit(network, train, test, quiet=True, **settings)


def outputs_differ(grown: n3.tracing.Grown, compacted: Network, images: np.ndarray) -> float:
    """Largest difference between the logits of two networks, in units of the largest logit."""
    outputs = [np.asarray(jax.jit(jax.vmap(own))(images)) for own in (grown.masked(), compacted)]
    return float(np.max(np.abs(outputs[0] - outputs[1])) / np.max(np.abs(outputs[0])))


def run(seed: int, steps: int) -> tuple[dict[str, Any], Network, Network]:
    """All networks of a seed: their numbers, and the full and the compacted one."""
    network_key, fresh_key = jr.split(jr.key(seed))
    network = Network(WIDTHS, key=network_key)
    grown = n3.grow(network, example=jnp.zeros((1, 8, 8)), key=jr.key(seed))
    full, full_history = trained(network, seed, steps)
    grown, grown_history = trained(grown, seed, steps)
    compacted = compact(grown)
    images, labels = samples_of(seed)[1]
    difference = outputs_differ(grown, compacted, images)
    if difference > TOLERANCE:
        raise SystemExit(f"seed {seed}: grown and compacted network differ by {difference:.1e}")
    _, small_history = trained(Network(widths_of(compacted), key=fresh_key), seed, steps)
    logits = np.asarray(jax.jit(jax.vmap(compacted))(images))
    result = {
        "seed": seed,
        "widths": widths_of(compacted),
        "parameters": {"full": parameters(network), "compacted": parameters(compacted)},
        "accuracy": {
            "full": _last_accuracy(full_history),
            "grown": _last_accuracy(grown_history),
            "compacted": float(np.mean(logits.argmax(1) == labels)),
            "equal-size": _last_accuracy(small_history),
        },
        "cross_entropy": {
            "full": float(full_history.validation_loss[-1]),
            "grown": float(grown_history.validation_loss[-1]),
            "equal-size": float(small_history.validation_loss[-1]),
        },
        "largest_relative_difference": difference,
    }
    return result, full, compacted


def latencies(full: Network, compacted: Network, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of one call at every batch, in the median over rounds in which both have their turn."""
    calls = {"full": jax.jit(jax.vmap(full)), "compacted": jax.jit(jax.vmap(compacted))}
    images = {batch: jr.normal(jr.key(batch), (batch, 1, 8, 8)) for batch in BATCHES}
    return {str(batch): milliseconds(calls, own, rounds=rounds) for batch, own in images.items()}


def table(report: dict[str, Any]) -> str:
    """The report for the eye."""
    lines = ["seed  widths          parameters      accuracy: full  grown  compacted  equal-size  difference"]
    for own in report["runs"]:
        counts, share = own["parameters"], own["accuracy"]
        widths = "-".join(str(width) for width in own["widths"])
        lines.append(
            f"{own['seed']:4d}  {widths:14s}  {counts['full']:6d} {counts['compacted']:6d}            "
            + "  ".join(f"{share[name]:.4f}" for name in ("full", "grown", "compacted", "equal-size"))
            + f"     {own['largest_relative_difference']:.1e}"
        )
    lines.append("batch  full ms  compacted ms  ratio")
    for batch, own in report["latency_ms"].items():
        ratio = own["full"] / own["compacted"]
        lines.append(f"{batch:>5s}  {own['full']:7.3f}  {own['compacted']:12.3f}  {ratio:5.2f}")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed and few steps, to see that it runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="where to write the JSON object as well")
    options = parser.parse_args()
    seeds, steps, rounds = ([0], 100, 5) if options.quick else (options.seeds, 1_500, 100)
    found = [run(seed, steps) for seed in seeds]
    by_size = sorted(found, key=lambda one: one[0]["parameters"]["compacted"])
    middle, full, compacted = by_size[len(by_size) // 2]
    report = {
        "steps": steps,
        "device": jax.devices()[0].device_kind,
        "load": os.getloadavg(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "equinox": eqx.__version__},
        "runs": [result for result, _, _ in found],
        "latency_of_seed": middle["seed"],
        "latency_ms": latencies(full, compacted, rounds),
    }
    print(table(report))
    print(json.dumps(report))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


def _last_accuracy(history: n3.training.History) -> float:
    return float(history.validation_accuracy[-1])


if __name__ == "__main__":
    main()
