"""Seeds: what many runs of a user's own model cost in one program, against single fits and the built-in MLP.

    uv run benchmarks/seeds.py [--quick] [--out FILE]

An `eqx.nn.MLP` of two hidden layers of 16 tanh units, grown by information, on 8 inputs and 500 samples in
batches of 32, Adam.

* `single`: `n3.fit`, one call a seed.
* `together`: `n3.fit`, one call with stacked models and keys.
* `built-in`: the same network as a `GrowingMLP`, all seeds in one `n3.training.sweep`.

CPU seconds of this process, of a first call (compiling and recording included) and of what further steps cost:
a call of twice the steps less one of the steps, each the second of its kind. Printed as a table and as JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import n3
from n3.information import DriveHypers, InformationDrive, prices_of
from n3.nn import LossWeights, Samples
from n3.training import Hypers, Problem, Recipe, sweep

CAPACITY, INPUTS, SAMPLES, BATCH, RATE = (16, 16), 8, 500, 32, 3e-3
SETTINGS = n3.InformationConfig()
BARS = {"single over together": 5.0, "together over built-in": 1.5}
"""The first must be at least, the second at most."""


def data() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    x = draw.uniform(-1.0, 1.0, (SAMPLES, INPUTS)).astype(np.float32)
    y = np.sin(3.0 * x[:, :1]) + x[:, 1:2] * x[:, 2:3] + 0.1 * draw.normal(size=(SAMPLES, 1))
    return x, y.astype(np.float32)


def model(key):
    return eqx.nn.MLP(INPUTS, 1, CAPACITY[0], len(CAPACITY), jnp.tanh, key=key)


def options(steps: int) -> dict:
    return {"steps": steps, "batch": BATCH, "learning_rate": RATE, "information": SETTINGS, "quiet": True}


def single(keys, steps: int) -> np.ndarray:
    """Final sizes of each seed, by itself."""
    grown = n3.grow(eqx.filter_vmap(model)(keys), example=data()[0][0], key=keys)
    own = (
        jax.tree.map(lambda leaf, r=row: leaf[r] if eqx.is_array(leaf) else leaf, grown)
        for row in range(len(keys))
    )
    pairs = zip(own, keys, strict=True)
    return np.stack([n3.fit(net, data(), key=key, **options(steps))[1].sizes[-1] for net, key in pairs])


def together(keys, steps: int) -> np.ndarray:
    """Final sizes of all seeds, in one program."""
    grown = n3.grow(eqx.filter_vmap(model)(keys), example=data()[0][0], key=keys)
    return n3.fit(grown, data(), key=keys, **options(steps))[1].sizes[:, -1]


def built_in(keys, steps: int) -> np.ndarray:
    """Final sizes of as many built-in networks, in one program."""
    x, y = (jnp.asarray(side.T) for side in data())
    runs = len(keys)
    every = lambda value: jnp.full(runs, value, jnp.float32)  # noqa: E731
    samples = Samples(x, y, jnp.full(SAMPLES, 1.0 / SAMPLES))
    stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (runs, *leaf.shape)), samples)
    drive = InformationDrive.of(SETTINGS, steps=steps, is_classes=False, custom=None)
    recipe = Recipe(
        in_size=INPUTS, out_size=1, capacity=CAPACITY, controller="information", batch=BATCH, drive=drive
    )
    prices = prices_of(SETTINGS, data()[0], samples=SAMPLES, outputs=1)
    hypers = Hypers(
        learning_rate=every(RATE),
        weights=LossWeights(every(0.0), every(0.0)),
        initial_size=jnp.broadcast_to(jnp.array(CAPACITY, jnp.float32), (runs, len(CAPACITY))),
        target_size=every(1.0),
        target_depth=every(2.0),
        horizon=every(float(steps)),
        drive=DriveHypers.of(SETTINGS, [prices] * runs, prior=0.0),
    )
    problem = Problem(train=stacked, test=stacked, unit=jnp.ones((runs, 1)))
    stops = np.linspace(0, steps, 51).round().astype(np.int32)
    return sweep(recipe, hypers, problem, keys=keys, stops=stops).records.size[:, -1]


def cpu_seconds(
    call: Callable[[jax.Array, int], np.ndarray], keys: jax.Array, steps: int
) -> tuple[float, float, np.ndarray]:
    """Of the first call, of as many further steps, and the sizes that it ends with."""
    marks = [time.process_time()]
    for number in (steps, steps, 2 * steps, 2 * steps):
        sizes = call(keys, number)
        marks.append(time.process_time())
    first, again, _, twice = np.diff(marks).tolist()
    return first, twice - again, sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 runs of 250 steps in place of 100 of 1,000")
    parser.add_argument("--out", type=Path, help="file for the JSON object")
    options = parser.parse_args()
    runs, steps = (20, 250) if options.quick else (100, 1000)
    keys, found = jr.split(jr.key(0), runs), {}
    for name, call in (("together", together), ("built-in", built_in), ("single", single)):
        first, further, sizes = cpu_seconds(call, keys, steps)
        found[name] = {"first": first, "further": further}
        medians = np.median(sizes, axis=0)
        print(f"{name:<10} first {first:7.1f} s, further {further:7.2f} s, median sizes {medians}")
    ratios = {
        "single over together": found["single"]["further"] / found["together"]["further"],
        "together over built-in": found["together"]["further"] / found["built-in"]["further"],
    }
    for name, ratio in ratios.items():
        print(f"{name:<24} {ratio:6.2f}, must be {'at least' if BARS[name] > 2 else 'at most'} {BARS[name]}")
    report = {"runs": runs, "steps": steps, "cpu_seconds": found, "ratios": ratios}
    print(json.dumps(report))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
