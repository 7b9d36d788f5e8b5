"""Scaling: how the cost of training grows with runs, samples, units, inputs and devices, and a model of it.

    uv run benchmarks/scaling.py [--quick] [--out FILE]

Costs are CPU microseconds per run and step of `n3.training.sweep` on one core: a static network of one hidden
layer under Adam, all samples in each step. Two numbers of steps are timed, and their difference counts,
so that compiling, drawing and writing do not. A model of five terms is fitted to the relative errors of the
first group of settings, and predicts the second, which it has not seen. Then come a profile of a wide layer by
its activation, and four ratios, each of two programs that take turns: capacity tiers, two devices, numbers that
are traced, and a compacted network.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import AxisType, Mesh
from scipy.optimize import nnls

import n3
from engine import Bar, table
from n3.experiments import hypers_of, recipe_of, stack, stops_of
from n3.nn import LossWeights, Samples
from n3.training import TERMS, Hypers, Placement, Problem, Recipe, compiled_stages, placement_of, sweep

OF_TWO = "--two-devices"
"""What asks for the ratio of two devices alone, on all cores: a process of its own measures it."""


@dataclass(frozen=True)
class Setting:
    """What is trained: so many runs of a network with so many hidden units."""

    runs: int = 16
    samples: int = 1024
    units: int = 10
    inputs: int = 1

    @property
    def recipe(self) -> Recipe:
        """Its program."""
        return Recipe(in_size=self.inputs, out_size=1, capacity=(self.units,), controller="fixed")

    @property
    def placement(self) -> Placement:
        """How it lies on a device."""
        return placement_of(self.recipe, self.samples, self.runs, on_cpu=True)

    def terms(self) -> np.ndarray:
        """What the model's constants are multiplied with, per run and step."""
        return self.placement.terms(self.samples, self.runs) / self.runs


FITTED = [
    *(Setting(runs=runs) for runs in (1, 2, 4, 16, 64, 256)),
    *(Setting(samples=samples) for samples in (32, 128, 512, 4096, 26_214)),
    *(Setting(units=units) for units in (2, 32, 64, 128, 256)),
    *(Setting(inputs=inputs) for inputs in (8, 64)),
    *(Setting(units=units, inputs=inputs) for units, inputs in ((64, 8), (64, 64), (256, 16))),
    *(Setting(runs=runs, samples=32) for runs in (1, 64, 1024)),
]
SET_ASIDE = [
    Setting(runs=64, samples=512, units=20),
    Setting(runs=8, samples=2048, units=48, inputs=4),
    Setting(runs=4, samples=8192),
    Setting(runs=128, samples=100, inputs=8),
    Setting(runs=2, units=192, inputs=16),
]
"""Settings that no constant is fitted to; they were chosen before any was measured."""


def arguments_of(setting: Setting) -> tuple[Hypers, Problem, jax.Array]:
    """The arguments of `sweep`: each run has samples of its own."""
    runs, draw = setting.runs, np.random.default_rng(0)

    def side(samples: int) -> Samples:
        x = draw.uniform(-1.0, 1.0, (runs, setting.inputs, samples)).astype(np.float32)
        shares = np.full((runs, samples), 1.0 / samples, np.float32)
        return Samples(*map(jnp.asarray, (x, np.sin(6.0 * x[:, :1]), shares)))

    each = jnp.ones(runs)
    weights = LossWeights(0.0 * each, 0.0 * each)
    sizes = jnp.full((runs, 1), float(setting.units))
    hypers = Hypers(1e-3 * each, weights, sizes, each, each, each)
    problem = Problem(side(setting.samples), side(8), jnp.ones((runs, 1)))
    return hypers, problem, jax.vmap(jr.key)(jnp.arange(runs))


def cost(setting: Setting, *, rounds: int, seconds: float) -> float:
    """CPU microseconds per run and step: the median over rounds."""
    hypers, problem, keys = arguments_of(setting)

    def taken(steps: int) -> float:
        start = time.process_time()
        sweep(setting.recipe, hypers, problem, keys=keys, stops=np.array([steps]), devices=jax.devices()[:1])
        return time.process_time() - start

    few = 4
    taken(few)
    once = taken(few)
    guess = max((taken(44) - once) / 40, 1e-7)
    many = few + int(np.clip(seconds / guess, 20, 50_000))
    each = [(taken(many) - taken(few)) / (many - few) for _ in range(rounds)]
    return 1e6 * float(np.median(each)) / setting.runs


def fitted(settings: list[Setting], costs: list[float]) -> np.ndarray:
    """The constants, none below zero, of least squares of the relative errors."""
    rows = np.stack([own.terms() / cost for own, cost in zip(settings, costs, strict=True)])
    return nnls(rows, np.ones(len(rows)))[0]


def in_turn(calls: dict[str, Callable[[], Any]], clock: Callable[[], float], rounds: int) -> dict[str, float]:
    """Median seconds of each call; in every round each has its turn, after one that is not counted."""
    found = {name: [] for name in calls}
    for counted in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if counted:
                found[name].append(clock() - start)
    return {name: float(np.median(own)) for name, own in found.items()}


def teacher(seed: int) -> n3.Dataset:
    """Samples of a random network of 300 units and six inputs: every further unit of ours fits it better."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(1280, 6))
    y = np.tanh(2.0 * x @ draw.normal(size=(6, 300))) @ draw.normal(size=300)
    return n3.Dataset.from_arrays(x, y, seed=seed, train_samples=1024, test_samples=256)


def tiers(rounds: int) -> float:
    """CPU of always 256 units over that of capacity tiers, where runs grow from 1 to about 64."""
    steps = 1000
    experiment = n3.Experiment(
        network=n3.NetworkConfig(method="information", capacity=(256,)),
        training=n3.TrainingConfig(steps=steps, initial_size=1.0, members=0),
        information=n3.InformationConfig(
            price=1e-9, correct=False, size_rate=126 / steps, settle=1.0, birth_end=1.0, look_ahead=4
        ),
        run=n3.RunConfig(arms=("growing",), seeds=tuple(range(8)), records=10),
    ).resolved()
    data = [teacher(seed) for seed in experiment.run.seeds]
    recipe = recipe_of(experiment, "growing", data[0])
    hypers = hypers_of(experiment, "growing", data=data, active=None)
    own = {"keys": jax.vmap(jr.key)(jnp.arange(8)), "stops": stops_of(experiment)}
    ends = {}

    def trained(is_tiered: bool) -> None:
        how = {"is_tiered": is_tiered, "devices": jax.devices()[:1], **own}
        ends[is_tiered] = sweep(recipe, hypers, stack(data), **how).records.size[:, -1]

    calls = {"tiers": lambda: trained(True), "full": lambda: trained(False)}
    found = in_turn(calls, time.process_time, rounds)
    print(f"tiers: sizes at the end {np.round(ends[True].ravel(), 1).tolist()}")
    return found["full"] / found["tiers"]


def devices(rounds: int) -> float:
    """Wall time of one device over that of two, for 64 runs of the paper's size."""
    setting = Setting(runs=64, samples=4096)
    hypers, problem, keys = arguments_of(setting)

    def trained(number: int) -> None:
        own = {"keys": keys, "stops": np.array([600]), "devices": jax.devices()[:number]}
        sweep(setting.recipe, hypers, problem, **own)

    found = in_turn({"one": lambda: trained(1), "two": lambda: trained(2)}, time.perf_counter, rounds)
    return found["one"] / found["two"]


def traced(rounds: int) -> float:
    """CPU of numbers that are arguments of the program over that of the same as constants in it."""
    setting = Setting(runs=32)
    recipe = replace(setting.recipe, controller="controller")
    arguments = arguments_of(setting)
    mesh = Mesh(np.array(jax.devices()[:1]), ("runs",), axis_types=(AxisType.Auto,))
    first, onward = compiled_stages(recipe, setting.placement.block, mesh)
    hypers, problem, _ = arguments
    stops = jnp.array([300])
    programs = {
        "traced": (jax.jit(lambda state, hypers: onward(state, hypers, problem, 0, stops)), (hypers,)),
        "constant": (jax.jit(lambda state: onward(state, hypers, problem, 0, stops)), ()),
    }
    state = first(*arguments)
    calls = {
        name: lambda call=call, own=own: jax.block_until_ready(call(jax.tree.map(jnp.copy, state), *own))
        for name, (call, own) in programs.items()
    }
    found = in_turn(calls, time.process_time, rounds)
    return found["traced"] / found["constant"]


def compacted(rounds: int) -> float:
    """CPU of a masked network of 256 units, 32 of which take part, over the compact one's; 4,096 rows."""
    recipe = Recipe(in_size=8, out_size=1, capacity=(256,), controller="fixed")
    hypers, problem, keys = arguments_of(Setting(runs=1, samples=8, inputs=8))
    hypers = eqx.tree_at(lambda own: own.initial_size, hypers, jnp.full((1, 1), 32.0))
    state = sweep(recipe, hypers, problem, keys=keys, stops=np.array([1])).state
    net = jax.tree.map(lambda leaf: leaf[0], state.net)
    nets, rows = {"masked": net, "compact": n3.compact(net)}, jnp.ones((8, 4096))

    def repeated(call: Callable[[Any], Any]) -> None:
        for _ in range(200):
            call(rows).block_until_ready()

    calls = {name: partial(repeated, jax.jit(lambda x, own=own: own.batch(x))) for name, own in nets.items()}
    found = in_turn(calls, time.process_time, rounds)
    return found["masked"] / found["compact"]


def exponential(x: jax.Array) -> jax.Array:
    """`tanh` as `1 - 2 / (1 + exp(2 x))`."""
    return 1.0 - 2.0 / (1.0 + jnp.exp(2.0 * x))


def profile(rounds: int) -> dict[str, float]:
    """CPU nanoseconds per unit and sample of a layer of 256 units, by activation: outputs, and the gradient."""
    draw, shape = np.random.default_rng(0), (256, 1)
    first, last = (jnp.asarray(draw.normal(size=own), jnp.float32) for own in (shape, shape[::-1]))
    x = jnp.asarray(draw.uniform(-1.0, 1.0, (200, 1, 256)), jnp.float32)
    kinds = {"tanh": jnp.tanh, "exponential": exponential, "relu": jax.nn.relu, "none": lambda own: own}
    calls = {}
    for name, activation in kinds.items():

        def loss(weights, x, activation=activation):
            return jnp.mean((weights[1] @ activation(weights[0] @ x)) ** 2)

        for what, function in (("outputs", loss), ("gradient", jax.grad(loss))):
            over = jax.jit(lambda x, own=function: jax.lax.map(lambda tile: own((first, last), tile), x))
            calls[f"{name}, {what}"] = lambda over=over: jax.block_until_ready(over(x))
    found = in_turn(calls, time.process_time, 3 * rounds)
    return {name: 1e9 * own / (256 * x.size) for name, own in found.items()}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="How the cost of training grows, and a model of it.")
    parser.add_argument("--quick", action="store_true", help="one round of a tenth of the steps")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON here as well")
    parser.add_argument(OF_TWO, action="store_true", help="measure only what two devices gain")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 2 if options.two_devices else 1)
    if hasattr(os, "sched_setaffinity"):  # idle threads of XLA would spin on other cores
        os.sched_setaffinity(0, range(os.cpu_count() or 1) if options.two_devices else {0})
    rounds, seconds = (1, 0.1) if options.quick else (5, 0.4)
    if options.two_devices:
        print(devices(rounds))
        return
    measured = {}
    for own in [*FITTED, *SET_ASIDE]:
        measured[own] = cost(own, rounds=rounds, seconds=seconds)
        print(f"{own}: {measured[own]:.4g} us")
    constants = fitted(FITTED, [measured[own] for own in FITTED])
    rows = [
        asdict(own)
        | {"block": own.placement.block, "microseconds": cost, "model": float(own.terms() @ constants)}
        for own, cost in measured.items()
    ]
    errors = [abs(row["model"] / row["microseconds"] - 1.0) for row in rows]
    again = [sys.executable, __file__, OF_TWO, *["--quick"] * options.quick]
    bars = [
        Bar("model_error", max(errors[len(FITTED) :]), "<=", 0.3, 0.2),
        Bar("tiers", tiers(rounds), ">=", 2.5, 4.0),
        Bar("two_devices", float(subprocess.check_output(again).split()[-1]), ">=", 1.5, 1.8),
        Bar("traced_numbers", traced(rounds), "<=", 1.10, 1.05),
        Bar("compacted", compacted(rounds), ">=", 4.0, 6.0),
    ]
    facts = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "quick": options.quick,
        "rounds": rounds,
        "constants": dict(zip(TERMS, (1e3 * constants).tolist(), strict=True)),
        "fitted": rows[: len(FITTED)],
        "set_aside": rows[len(FITTED) :],
        "profile": profile(rounds),
        "bars": [asdict(bar) | {"ok": bar.ok} for bar in bars],
    }
    report = json.dumps(facts, indent=1)
    if options.out:
        options.out.write_text(report + "\n")
    print(table(bars, {f"{name} (ns)": value for name, value in facts["constants"].items()}))


if __name__ == "__main__":
    main()
