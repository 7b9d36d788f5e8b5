"""Seeds: what many runs of a user's own model cost in one program, against single fits and the built-in MLP.

    uv run benchmarks/seeds.py [--quick] [--out FILE]

An `eqx.nn.MLP` of two hidden layers of 32 tanh units, grown by information, on 8 inputs and 1,000 samples in
batches of 64, Adam.

* `single`: `n3.fit`, one call a seed.
* `together`: `n3.fit`, one call with stacked models and keys.
* `built-in`: the same network as a `GrowingMLP`, all seeds in one `n3.training.sweep`.

Each is timed as a user meets it, compiling and recording included, in CPU seconds of this process. The ratios are
printed as a table and then as one JSON object.
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

CAPACITY, INPUTS, SAMPLES, BATCH, RATE = (32, 32), 8, 1000, 64, 3e-3
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


def cpu_seconds(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    started = time.process_time()
    found = call()
    return time.process_time() - started, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 runs of 250 steps in place of 100 of 1,000")
    parser.add_argument("--out", type=Path, help="file for the JSON object")
    options = parser.parse_args()
    runs, steps = (20, 250) if options.quick else (100, 1000)
    keys = jr.split(jr.key(0), runs)
    seconds, sizes = {}, {}
    for name, call in (("together", together), ("built-in", built_in), ("single", single)):
        seconds[name], sizes[name] = cpu_seconds(lambda call=call: call(keys, steps))
        print(f"{name:<10} {seconds[name]:8.1f} CPU s, median sizes {np.median(sizes[name], axis=0)}")
    ratios = {
        "single over together": seconds["single"] / seconds["together"],
        "together over built-in": seconds["together"] / seconds["built-in"],
    }
    for name, ratio in ratios.items():
        print(f"{name:<24} {ratio:6.2f}, must be {'at least' if BARS[name] > 2 else 'at most'} {BARS[name]}")
    found = {"runs": runs, "steps": steps, "cpu_seconds": seconds, "ratios": ratios}
    print(json.dumps(found))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
