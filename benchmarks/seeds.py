"""Seeds: what many runs of a user's own model cost in one program, against single fits and the built-in MLP.

    uv run benchmarks/seeds.py [--quick] [--out FILE]

An `eqx.nn.MLP` of two hidden layers of 16 tanh units, grown by information, on 8 inputs and 500 samples in
batches of 32, Adam.

* `single`: `n3.fit`, one call a seed.
* `together`: `n3.fit`, one call with stacked models and keys.
* `built-in`: the same network as a `GrowingMLP`, all seeds in one `n3.training.sweep`.

CPU seconds of this process: of a first call (compiling and recording included), and of what further steps
cost, a call of twice the steps less one of the steps. The three kinds take turns, so that a clock that drifts
drifts for all; medians over the rounds, and the range of each round's ratios. A table, then JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
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
BARS = {"single over together": (5.0, True), "together over built-in": (1.5, False)}
"""Bounds of the ratios, and whether they are lower ones."""


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
        drive=DriveHypers.of(SETTINGS, [prices] * runs, prior=0.0, steps=steps),
    )
    problem = Problem(train=stacked, test=stacked, unit=jnp.ones((runs, 1)))
    stops = np.linspace(0, steps, 51).round().astype(np.int32)
    return np.asarray(sweep(recipe, hypers, problem, keys=keys, stops=stops).records.size[:, -1])


KINDS: dict[str, Callable[[jax.Array, int], np.ndarray]] = {
    "single": single,
    "together": together,
    "built-in": built_in,
}


def cpu_seconds(call: Callable[[], np.ndarray]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 runs of 250 steps in place of 100 of 1,000")
    parser.add_argument("--rounds", type=int, default=5, help="times that each kind is measured (default: 5)")
    parser.add_argument("--out", type=Path, help="file for the JSON object")
    options = parser.parse_args()
    runs, steps = (20, 250) if options.quick else (100, 1000)
    keys = jr.split(jr.key(0), runs)
    first = {kind: cpu_seconds(partial(call, keys, steps)) for kind, call in KINDS.items()}
    further: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for call in KINDS.values():
        call(keys, 2 * steps)  # compiles what depends on the number of steps
    for _ in range(options.rounds):
        for kind, call in KINDS.items():
            once, twice = (cpu_seconds(partial(call, keys, number)) for number in (steps, 2 * steps))
            further[kind].append(twice - once)
    for kind in KINDS:
        print(f"{kind:<10} first {first[kind]:6.1f} s, further {np.median(further[kind]):6.2f} s")
    ratios = {}
    for name, (bar, is_least) in BARS.items():
        over, under = name.split(" over ")
        each = np.array(further[over]) / np.array(further[under])
        ratios[name] = {"median": float(np.median(each)), "range": [float(each.min()), float(each.max())]}
        asked = f"must be at {'least' if is_least else 'most'} {bar:g}"
        print(f"{name:<24} {np.median(each):5.2f} [{each.min():.2f}, {each.max():.2f}], {asked}")
    report = {"runs": runs, "steps": steps, "first": first, "further": further, "ratios": ratios}
    print(json.dumps(report))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
