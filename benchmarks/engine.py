"""Engine: what a training step costs in n3, against a Python loop, a bare scan and itself with more runs.

    uv run benchmarks/engine.py [--quick] [--out FILE]

Two workloads, each with its own samples for every run. `bessel`: 10 tanh units whose bounded controller grows
them, 26,214 samples, Adam. `auxiliary`: 9 tanh units that are told their own number, 32 samples, SGD.

* `loop`: the structure of a usual research script, one process a seed: `eqx.nn.Linear` layers, the network
  vmapped over samples, one `eqx.filter_jit` step an iteration, the loss fetched every 100 steps.
* `bare`: the same mathematics by hand, in the layout that is fastest on CPU, with nothing of n3.
* `n3`: the compiled stages of `n3.training.sweep`, called as `sweep` calls them, with two records in each run.

All of them start from the same weights and must end at the same weights, else the benchmark stops. They are
compiled and run once first, then measured in turn within each round; the cost of one is its median over rounds,
in microseconds of CPU time per run and step (of wall time on an accelerator, where a host's CPU time says
nothing). The bars are printed as a table and then as one JSON object.
"""

import argparse
import json
import os
import time
from collections import Counter
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
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from n3.nn import LossWeights, Samples
from n3.training import Hypers, Problem, Recipe, compiled_stages, init, placement_of, rows_of_stops, sweep

RATE = 1e-3
FETCH_EVERY = 100
TOLERANCE = 1e-3
"""Largest difference between the trained weights of two variants; training moves them by 0.02 and more."""


@dataclass(frozen=True)
class Workload:
    """What every variant of a group computes."""

    name: str
    recipe: Recipe
    samples: int
    price: float
    target_size: float
    steps: int

    @property
    def capacity(self) -> int:
        return self.recipe.capacity[0]

    @property
    def is_bounded(self) -> bool:
        return self.recipe.controller == "controller"

    @property
    def aim(self) -> float:
        """Value of the size weight at the target size."""
        if self.is_bounded:
            return float(2.0 / np.pi * np.arcsin(np.sqrt(self.target_size / self.capacity)))
        return self.target_size


BESSEL = Workload(
    "bessel", Recipe(in_size=1, out_size=1, capacity=(10,)), 26_214, price=0.32, target_size=10.0, steps=100
)
AUXILIARY = Workload(
    "auxiliary",
    Recipe(
        in_size=1,
        out_size=1,
        capacity=(9,),
        controller="auxiliary",
        size_input=True,
        initialisation="unit-uniform",
        optimiser="sgd",
    ),
    32,
    price=0.1,
    target_size=5.0,
    steps=5_000,
)


@dataclass(frozen=True)
class Variant:
    """One way to train `runs` runs: `prepare` is not timed, `train` is and returns `[runs, weights]`."""

    name: str
    runs: int
    steps: int
    prepare: Callable[[], Any]
    train: Callable[[Any], jax.Array]


@dataclass(frozen=True)
class Bar:
    """A number and the limits that it must and should keep."""

    name: str
    value: float
    sense: str
    must: float
    goal: float

    @property
    def ok(self) -> bool:
        return self.keeps(self.must)

    def keeps(self, limit: float) -> bool:
        """Whether the value is on the right side of a limit."""
        return {">=": self.value >= limit, "<=": self.value <= limit, "==": self.value == limit}[self.sense]


# The workloads' numbers and samples


@partial(jax.jit, static_argnums=(0, 1))
def inputs_of(workload: Workload, runs: int) -> tuple[Hypers, Problem, jax.Array]:
    """The arguments of `sweep`; run `i` is the same in sweeps of any length."""
    keys = jax.vmap(partial(jr.fold_in, jr.key(0)))(jnp.arange(runs))

    def drawn(key, samples):
        x = jr.uniform(key, (1, samples), minval=-1.0, maxval=1.0)
        return Samples(x, jnp.sin(6.0 * x), jnp.full(samples, 1.0 / samples))

    def problem_of(key):
        train_key, test_key = jr.split(jr.fold_in(key, 1))
        return Problem(drawn(train_key, workload.samples), drawn(test_key, 256), jnp.ones(1))

    return (
        hypers_of(workload, jnp.full(runs, RATE), jnp.full(runs, workload.price)),
        jax.vmap(problem_of)(keys),
        keys,
    )


def hypers_of(workload: Workload, rates: jax.Array, prices: jax.Array) -> Hypers:
    """The numbers of each run; half a unit takes part at the start."""
    same = partial(jnp.full_like, rates)
    weights = LossWeights(prices, same(0.0))
    return Hypers(rates, weights, same(0.5)[:, None], same(workload.target_size), same(1.0), same(1.0))


@partial(jax.jit, static_argnums=0)
def drawn_nets(recipe: Recipe, hypers: Hypers, problem: Problem, keys: jax.Array):
    """The network of every run before its first step."""
    return jax.vmap(lambda h, p, k: init(recipe, h, p, key=k).net)(hypers, problem, keys)


# n3


def n3_variant(workload: Workload, runs: int) -> Variant:
    """What `sweep` does between its compilation and its return, on one device and without padding."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("runs",), axis_types=(AxisType.Auto,))
    arguments = jax.device_put(inputs_of(workload, runs), NamedSharding(mesh, PartitionSpec("runs")))
    chunks = rows_of_stops(np.array([workload.steps // 2, workload.steps]))
    first, onward = compiled_stages(workload.recipe, block_of(workload, runs), mesh)
    first = first.lower(*arguments).compile()
    zero = jnp.asarray(0)
    onward = onward.lower(first(*arguments), *arguments[:2], zero, jnp.asarray(chunks[0])).compile()

    def train(state):
        start = zero
        for chunk in chunks:
            state, records = onward(state, *arguments[:2], start, jnp.asarray(chunk))
            jax.device_get(records)
            start = jnp.asarray(chunk[-1])
        return trained(state.net.controller.weight, state.net.layers[0].weight)

    return Variant(f"{workload.name} n3 S={runs}", runs, workload.steps, lambda: first(*arguments), train)


def block_of(workload: Workload, runs: int) -> int:
    """The runs that `sweep` computes at once; they divide every number of runs measured here."""
    on_cpu = jax.default_backend() == "cpu"
    block = placement_of(workload.recipe, workload.samples, runs, on_cpu=on_cpu).block
    if runs % block:
        raise ValueError(
            f"{runs} runs are no multiple of the block of {block}: the comparison would be unfair."
        )
    return block


def trained(size: jax.Array, weight: jax.Array) -> jax.Array:
    """The weights by which variants are compared, one row a run: the size's and the hidden layer's."""
    return jnp.concatenate([size[:, None], weight.reshape(size.shape[0], -1)], axis=1)


# The Python loop


class LoopNet(eqx.Module):
    """A network for one sample, as a research script writes it."""

    hidden: eqx.nn.Linear
    readout: eqx.nn.Linear
    size: jax.Array
    is_bounded: bool = eqx.field(static=True)

    def __call__(self, x):
        capacity = self.hidden.out_features
        if self.is_bounded:
            active = capacity * jnp.sin(0.5 * jnp.pi * self.size) ** 2
        else:
            active = jnp.clip(self.size, 0.0, capacity)
            x = jnp.append(x, active)
        return self.readout(ramp(active - jnp.arange(capacity)) * jnp.tanh(self.hidden(x)))


def loop_variant(workload: Workload) -> Variant:
    """One run in a Python loop with one compiled step."""
    hypers, problem, keys = inputs_of(workload, 1)
    net = jax.tree.map(lambda leaf: leaf[0], drawn_nets(workload.recipe, hypers, problem, keys))
    problem = jax.tree.map(lambda leaf: leaf[0], problem)
    model = loop_net(net, is_bounded=workload.is_bounded)
    optimiser = {"adam": optax.adam, "sgd": optax.sgd}[workload.recipe.optimiser](RATE)
    x, y = problem.train.inputs.T, problem.train.targets.T
    aim = workload.aim

    @eqx.filter_jit
    def step(model, moments, x, y):
        def loss(model):
            return jnp.mean((jax.vmap(model)(x) - y) ** 2) + workload.price * (model.size - aim) ** 2

        value, gradient = eqx.filter_value_and_grad(loss)(model)
        updates, moments = optimiser.update(gradient, moments, model)
        return eqx.apply_updates(model, updates), moments, value

    def train(model):
        moments = optimiser.init(eqx.filter(model, eqx.is_array))
        for count in range(workload.steps):
            model, moments, value = step(model, moments, x, y)
            if count % FETCH_EVERY == FETCH_EVERY - 1:
                float(value)
        return trained(model.size[None], model.hidden.weight[:, :1])

    return Variant(f"{workload.name} loop", 1, workload.steps, lambda: model, train)


def loop_net(net, *, is_bounded: bool) -> LoopNet:
    """The loop's network with the weights of an n3 network."""
    layer, capacity = net.layers[0], net.layers[0].bias.shape[0]
    columns = [layer.weight] if is_bounded else [layer.weight, layer.size_weight[:, None]]
    hidden = eqx.nn.Linear(len(columns), capacity, key=jr.key(0))
    readout = eqx.nn.Linear(capacity, 1, key=jr.key(0))
    return LoopNet(
        eqx.tree_at(lambda m: (m.weight, m.bias), hidden, (jnp.concatenate(columns, 1), layer.bias)),
        eqx.tree_at(lambda m: (m.weight, m.bias), readout, (net.readout.weight, net.readout.bias)),
        net.controller.weight,
        is_bounded,
    )


@jax.custom_jvp
def ramp(distance: jax.Array) -> jax.Array:
    """The sine mask, by selection: with `jnp.clip` the bare auxiliary scan takes twice as long on CPU."""
    inside = jnp.sin(0.5 * jnp.pi * distance) ** 2
    return jnp.where(distance <= 0, 0.0, jnp.where(distance >= 1, 1.0, inside))


@ramp.defjvp
def _ramp_jvp(primals, tangents):
    (distance,), (change,) = primals, tangents
    inside = (distance > 0) & (distance < 1)
    return ramp(distance), jnp.where(inside, 0.5 * jnp.pi * jnp.sin(jnp.pi * distance), 0.0) * change


# The bare scans


def bare_bessel(workload: Workload, runs: int, tile: int = 1024) -> Variant:
    """Blocks of runs by `lax.map`, samples in tiles, gradients summed over the tiles; parameters in a dict."""
    block = block_of(workload, runs)
    start, (x, y) = bare_start(workload, runs)
    tiles = -(-workload.samples // tile)

    def cut(leaf):  # [runs, 1, samples] to [blocks, tiles, block, 1, tile]
        padded = jnp.pad(leaf, ((0, 0), (0, 0), (0, tiles * tile - workload.samples)))
        return jnp.moveaxis(padded.reshape(runs // block, block, 1, tiles, tile), 3, 1)

    start = jax.tree.map(lambda leaf: leaf.reshape(runs // block, block, *leaf.shape[1:]), start)
    pieces = jax.tree.map(cut, (x, y, jnp.full_like(x, 1.0 / workload.samples)))
    train_block = partial(bare_bessel_block, workload)
    program = jax.jit(lambda start, pieces: jax.lax.map(lambda each: train_block(*each), (start, pieces)))

    def train(start):
        end = program(start, pieces)
        return trained(end["size"].reshape(runs), end["weight"].reshape(runs, -1))

    return Variant(f"bessel bare S={runs}", runs, workload.steps, lambda: start, train)


def bare_bessel_block(workload: Workload, params, pieces):
    """Train one block of runs."""
    optimiser, aim = optax.adam(RATE), workload.aim
    gradient = jax.vmap(jax.value_and_grad(partial(bare_bessel_loss, workload.capacity)))

    def step(carry, _):
        params, moments = carry

        def add(running, piece):
            return jax.tree.map(jnp.add, running, gradient(params, *piece)), None

        zero = (jnp.zeros_like(params["size"]), jax.tree.map(jnp.zeros_like, params))
        (loss, slopes), _ = jax.lax.scan(add, zero, pieces)
        slopes |= {"size": slopes["size"] + 2.0 * workload.price * (params["size"] - aim)}
        updates, moments = optimiser.update(slopes, moments)
        return (optax.apply_updates(params, updates), moments), loss

    return jax.lax.scan(step, (params, optimiser.init(params)), None, length=workload.steps)[0][0]


def bare_bessel_loss(capacity: int, params, x, y, shares):
    """Squared error of one run over one tile; the biases ride in the products as a row of ones."""
    ones, units = jnp.ones_like(x), jnp.arange(capacity)
    mask = ramp(capacity * jnp.sin(0.5 * jnp.pi * params["size"]) ** 2 - units)
    inner = jnp.concatenate([params["weight"], params["bias"][:, None]], axis=1)
    outer = jnp.concatenate([params["readout"] * mask, params["readout_bias"][:, None]], axis=1)
    hidden = jnp.tanh(inner @ jnp.concatenate([x, ones]))
    return jnp.sum((outer @ jnp.concatenate([hidden, ones]) - y) ** 2 * shares)


def bare_auxiliary(workload: Workload, runs: int) -> Variant:
    """One scan with the runs as the last axis of every array."""
    start, (x, y) = bare_start(workload, runs)
    start = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), start)
    x, y = x[:, 0].T, y[:, 0].T

    @jax.jit
    def program(params, x, y):
        def step(params, _):
            loss, gradient = jax.value_and_grad(partial(bare_auxiliary_loss, workload))(params, x, y)
            return jax.tree.map(lambda leaf, slope: leaf - RATE * slope, params, gradient), loss

        return jax.lax.scan(step, params, None, length=workload.steps)[0]

    def train(start):
        end = program(start, x, y)
        return trained(end["size"], end["weight"].T)

    return Variant(f"auxiliary bare S={runs}", runs, workload.steps, lambda: start, train)


def bare_auxiliary_loss(workload: Workload, params, x, y):
    """Objectives of all runs, summed: runs share no parameter, so each gets its own gradient."""
    active = jnp.clip(params["size"], 0.0, workload.capacity)
    mask = ramp(params["size"] - jnp.arange(workload.capacity)[:, None])
    bias = params["size_weight"] * active + params["bias"]
    hidden = jnp.tanh(params["weight"][:, 0, None] * x + bias[:, None])
    outputs = jnp.sum((params["readout"][0] * mask)[:, None] * hidden, axis=0) + params["readout_bias"]
    price = workload.price * (params["size"] - workload.aim) ** 2
    return jnp.sum(jnp.mean((outputs - y) ** 2, axis=0) + price)


def bare_start(workload: Workload, runs: int):
    """The first weights of every run as a dict of arrays, and the samples' inputs and targets, runs first."""
    hypers, problem, keys = inputs_of(workload, runs)
    net = drawn_nets(workload.recipe, hypers, problem, keys)
    layer, readout = net.layers[0], net.readout
    params = {
        "size": net.controller.weight,
        "weight": layer.weight,
        "bias": layer.bias,
        "readout": readout.weight,
        "readout_bias": readout.bias,
    }
    if layer.size_weight is not None:
        params["size_weight"] = layer.size_weight
    return params, (problem.train.inputs, problem.train.targets)


# Measuring


def measure(variants: list[Variant], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median microseconds per run and step of each variant, after a check that all do the same work."""
    ends = {each.name: np.asarray(each.train(each.prepare())) for each in variants}
    check_same_work(ends)
    taken = {each.name: [] for each in variants}
    for _ in range(rounds):
        for each in variants:
            state = jax.block_until_ready(each.prepare())
            start = clock()
            jax.block_until_ready(each.train(state))
            taken[each.name].append((clock() - start) / each.runs / each.steps * 1e6)
    return {name: float(np.median(values)) for name, values in taken.items()}


def check_same_work(ends: dict[str, np.ndarray]) -> None:
    """Compare each variant's trained weights with the first's, in the runs that both have."""
    (reference_name, reference), *others = ends.items()
    for name, end in others:
        shared = min(len(end), len(reference))
        apart = np.max(np.abs(end[:shared] - reference[:shared]))
        if not apart < TOLERANCE:
            raise RuntimeError(f"{name} and {reference_name} end {apart:.2g} apart: not the same work.")


def compilations() -> int:
    """Compilations of the most compiled stage over two sweeps of a grid of rates, penalties and seeds.

    XLA itself reports each compilation, with the program's name, as a monitoring event. The second sweep has
    other rates, penalties, seeds and samples, so that a number baked into the program would compile it again.
    """
    built = Counter()

    def listen(event, _, *, fun_name="", **_others):
        if event == "/jax/core/compile/backend_compile_duration":
            built[fun_name] += 1

    grids = [grid(scale) for scale in (1.0, 1.7)]
    recipe = replace(AUXILIARY.recipe, capacity=(8,))  # a program that nothing else here compiles
    jax.monitoring.register_event_duration_secs_listener(listen)
    for hypers, problem, keys in grids:
        sweep(recipe, hypers, problem, keys=keys, stops=np.array([5, 10]), devices=jax.devices()[:1])
    jax.monitoring.unregister_event_duration_listener(listen)
    return max(built[f"jit({stage})"] for stage in ("begin", "onward"))


def grid(scale: float) -> tuple[Hypers, Problem, jax.Array]:
    """Three rates by three penalties by four seeds, all moved by `scale`."""
    rates, prices, seeds = (
        jnp.asarray(axis.ravel())
        for axis in np.meshgrid([1e-4, 1e-3, 1e-2], [0.0, 0.1, 1.0], np.arange(4), indexing="ij")
    )
    _, problem, _ = inputs_of(AUXILIARY, len(rates))
    moved = jax.tree.map(lambda leaf: leaf * scale, problem)
    keys = jax.vmap(jr.key)(seeds + int(100 * scale))
    return hypers_of(AUXILIARY, rates * scale, prices * scale + scale - 1.0), moved, keys


# The report


def bars_of(cost: dict[str, float], compiled: int) -> list[Bar]:
    """The bars, from the cost of each variant."""

    def ratio(above, below):
        return cost[above] / cost[below]

    return [
        Bar("bessel_vs_loop", ratio("bessel loop", "bessel n3 S=32"), ">=", 3.0, 4.5),
        Bar("bessel_vs_bare", ratio("bessel bare S=32", "bessel n3 S=32"), ">=", 0.9, 0.97),
        Bar("bessel_scaling", ratio("bessel n3 S=128", "bessel n3 S=8"), "<=", 1.25, 1.1),
        Bar("auxiliary_vs_loop", ratio("auxiliary loop", "auxiliary n3 S=256"), ">=", 120.0, 200.0),
        Bar("auxiliary_vs_bare", ratio("auxiliary bare S=64", "auxiliary n3 S=64"), ">=", 0.8, 0.95),
        Bar("auxiliary_scaling", ratio("auxiliary n3 S=2048", "auxiliary n3 S=64"), "<=", 1.6, 1.3),
        Bar("compilations", compiled, "==", 1, 1),
    ]


def table(bars: list[Bar], cost: dict[str, float]) -> str:
    """The bars and the costs for a reader."""
    lines = [f"{'bar':<20}{'value':>9}   {'must':>8}  {'goal':>8}"]
    for bar in bars:
        verdict = "goal reached" if bar.keeps(bar.goal) else "ok" if bar.ok else "FAILS"
        limits = f"{bar.sense}{bar.must:>6g}  {bar.sense}{bar.goal:>6g}"
        lines.append(f"{bar.name:<20}{bar.value:>9.3f}   {limits}  {verdict}")
    lines += ["", f"{'variant':<24}{'us per run and step':>20}"]
    return "\n".join(lines + [f"{name:<24}{value:>20.3f}" for name, value in cost.items()])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Cost of a training step in n3, against a loop and bare scans."
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds of fewer steps, under 90 s")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON here as well")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    on_cpu = jax.default_backend() == "cpu"
    rounds = 3 if arguments.quick else 5
    timed = partial(measure, rounds=rounds, clock=time.process_time if on_cpu else time.perf_counter)
    bessel = replace(BESSEL, steps=60) if arguments.quick else BESSEL
    auxiliary = replace(AUXILIARY, steps=1_000) if arguments.quick else AUXILIARY
    cost = timed(
        [n3_variant(bessel, runs) for runs in (32, 8, 128)] + [loop_variant(bessel), bare_bessel(bessel, 32)]
    ) | timed(
        [n3_variant(auxiliary, runs) for runs in (64, 256, 2048)]
        + [loop_variant(auxiliary), bare_auxiliary(auxiliary, 64)]
    )
    bars = bars_of(cost, compilations())
    facts = {
        "clock": "cpu" if on_cpu else "wall",
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "quick": arguments.quick,
        "rounds": rounds,
        "microseconds": cost,
        "bars": [asdict(bar) | {"ok": bar.ok} for bar in bars],
    }
    report = json.dumps(facts, indent=2)
    if arguments.out:
        arguments.out.write_text(report + "\n")
    print(table(bars, cost), report, sep="\n\n")


if __name__ == "__main__":
    main()
