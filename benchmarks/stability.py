"""Stability: how size and loss of one unattended run change with the settings of its training.

    uv run benchmarks/stability.py [--tasks NAME ...] [--variants NAME ...] [--seeds N] [--out FILE]

One setting is changed at a time, for networks that held-out samples size: steps, learning rate, batch,
capacity, activation, layers, and three that ask for smaller networks. Numbers are medians over the seeds;
`cpu_seconds` is of all seeds together, with compiling.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import n3

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "1,000 steps": {"steps": 1_000},
    "20,000 steps": {"steps": 20_000},
    "rate 1e-3": {"learning_rate": 1e-3},
    "rate 3e-2": {"learning_rate": 3e-2},
    "batch 128": {"batch": 128},
    "capacity 32": {"capacity": 32},
    "capacity 256": {"capacity": 256},
    "relu": {"activation": "relu"},
    "gelu": {"activation": "gelu"},
    "two layers": {"layers": 2},
    "errors 1": {"errors": 1.0},
    "errors 2": {"errors": 2.0},
    "initial size 2": {"initial_size": 2.0},
}
"""What is changed, by its name in the table; the default is 5,000 full-batch steps at 1e-2, tanh, 64 units."""
TWO = ", two layers"
"""End of a task's name where all variants have two."""


def trained(task: str, seeds: int, variant: Mapping[str, Any]) -> dict[str, Any]:
    """Median size and test loss of a variant, every seed's, and the kinds of warnings."""
    own = dict(variant)
    own |= {"layers": 2} if task.endswith(TWO) else {}
    capacity, errors = (own.pop("capacity", 64),) * own.pop("layers", 1), own.pop("errors", 0.5)
    network = n3.NetworkConfig(
        method="information", capacity=capacity, activation=own.pop("activation", "tanh")
    )
    with tempfile.TemporaryDirectory() as folder:
        record = n3.run(
            n3.Experiment(
                task=n3.TaskConfig(task=task.removesuffix(TWO)),
                network=network,
                training=n3.TrainingConfig(**own),
                information=n3.InformationConfig(criterion="held-out", errors=errors),
                run=n3.RunConfig(arms=("growing",), seeds=tuple(range(seeds)), records=10, out=folder),
            ),
            quiet=True,
            has_figures=False,
        )
        summary = json.loads((record.directory / "summary.json").read_text())
    last = record.results.sel(arm="growing").isel(step=-1)
    sizes, losses = last["size"].sum("layer").values, last["test_loss"].values
    return {
        "size": float(np.median(sizes)),
        "loss": float(np.median(losses)),
        "sizes": sizes.tolist(),
        "losses": losses.tolist(),
        "warned": sorted({own["kind"] for own in summary["warnings"]}),
        "cpu_seconds": float(record.results.attrs["cpu_seconds"]),
    }


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each setting: size of a layer over that of the default, and loss over its loss, by task."""
    lines = [f"| setting | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for name in next(iter(found.values())):
        cells = []
        for own in found.values():
            one, usual = own[name], own["default"]
            layers = VARIANTS[name].get("layers", 1)
            size = f"{one['size']:.0f} ({one['size'] / layers / usual['size']:.2f}{' a layer' * (layers > 1)})"
            cells.append(f"{size} / {one['loss'] / usual['loss']:.2f}{', warned' * bool(one.get('warned'))}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train every variant on every task; the numbers are written after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["sine", "moons", "diabetes"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)[:11])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/stability.json"))
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for task in options.tasks:
        found[task] = {}
        for name in options.variants:
            with warnings.catch_warnings(action="ignore"):
                found[task][name] = trained(task, options.seeds, VARIANTS[name])
            options.out.write_text(json.dumps(found, indent=1) + "\n")
            print(task, name, found[task][name], flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
