"""Information: what the drive and the monitor cost beside the plain step, in one process, alternating.

    uv run benchmarks/information.py [--out FILE]

100 runs of 64 units, 256 samples of 8 inputs, Adam; scans of 100 steps, so that the default cadence looks four
times. The plain step has the same controller and no drive. Costs are medians of CPU time over rounds.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import AxisType, Mesh

from n3.information import DriveHypers, InformationDrive, LayerMonitor
from n3.nn import LossWeights, Samples
from n3.training import Hypers, Problem, Recipe, compiled_stages, placement_of

RUNS, UNITS, SAMPLES, INPUTS, STEPS, ROUNDS = 100, 64, 256, 8, 500, 5
PLAIN = Recipe(in_size=INPUTS, out_size=1, capacity=(UNITS,), controller="information")
DRIVE = InformationDrive(is_classes=False, until=300, birth_until=165)
NAMES = ("entropy", "importance", "redundancy", "structure")
VARIANTS = {
    "plain": PLAIN,
    "drive": replace(PLAIN, drive=DRIVE),
    "drive, no birth": replace(PLAIN, drive=replace(DRIVE, birth_until=0)),
    "drive and terms": replace(PLAIN, drive=replace(DRIVE, terms=True)),
    "drive, look every 100": replace(PLAIN, drive=replace(DRIVE, every=100)),
    "monitor": replace(PLAIN, monitor=LayerMonitor(names=NAMES, is_classes=False)),
    "monitor with gap": replace(PLAIN, monitor=LayerMonitor(names=(*NAMES, "gap"), is_classes=False)),
}


def inputs(recipe: Recipe) -> tuple[Hypers, Problem, jax.Array]:
    """Numbers, samples and keys of all runs."""
    each, key = jnp.ones(RUNS), jr.key(0)
    x = jr.normal(key, (RUNS, INPUTS, SAMPLES))
    y = jnp.sin(x[:, :1] + x[:, 1:2])
    side = Samples(x, y, jnp.full((RUNS, SAMPLES), 1.0 / SAMPLES))
    names = DriveHypers.__dataclass_fields__
    settings = dict.fromkeys(names, 0.0 * each) | {
        "price": 0.02 * each,
        "birth": 0.01 * each,
        "rate": 0.05 * each,
    }
    drive = DriveHypers(**settings) if recipe.drive else None
    first = jnp.full((RUNS, 1), 32.0)
    hypers = Hypers(1e-3 * each, LossWeights(0 * each, 0 * each), first, each, each, 5000 * each, drive)
    return hypers, Problem(side, side, jnp.ones((RUNS, 1))), jr.split(key, RUNS)


def prepared(recipe: Recipe):
    """The compiled scan of a variant, and how to make its arguments anew (the state is given away)."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("runs",), axis_types=(AxisType.Auto,))
    hypers, problem, keys = inputs(recipe)
    on_cpu = jax.default_backend() == "cpu"
    begin, onward = compiled_stages(recipe, placement_of(recipe, SAMPLES, RUNS, on_cpu=on_cpu).block, mesh)
    rest = hypers, problem, jnp.asarray(0), jnp.asarray([STEPS])
    return lambda: (begin(hypers, problem, keys), *rest), onward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON here as well")
    arguments = parser.parse_args()
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    ready = {name: prepared(recipe) for name, recipe in VARIANTS.items()}
    taken = {name: [] for name in ready}
    for count in range(ROUNDS + 1):
        for name, (fresh, onward) in ready.items():
            state = jax.block_until_ready(fresh())
            start = clock()
            jax.block_until_ready(onward(*state))
            if count:  # the first round compiles
                taken[name].append((clock() - start) / RUNS / STEPS * 1e6)
    cost = {name: float(np.median(values)) for name, values in taken.items()}
    ratios = {name: value / cost["plain"] for name, value in cost.items()}
    print(f"{'variant':<24}{'us per run and step':>20}{'over plain':>12}")
    for name, value in cost.items():
        print(f"{name:<24}{value:>20.2f}{ratios[name]:>12.3f}")
    facts = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "load": os.getloadavg()}
    bar = {"name": "drive_overhead", "value": ratios["drive"], "must": 1.25, "ok": ratios["drive"] <= 1.25}
    report = json.dumps(facts | {"microseconds": cost, "ratios": ratios, "bars": [bar]}, indent=2)
    if arguments.out:
        arguments.out.write_text(report + "\n")
    print(report)


if __name__ == "__main__":
    main()
