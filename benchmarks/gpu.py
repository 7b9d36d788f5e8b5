"""GPU: what a graphics processor gives, and how much of it n3's batches of runs and the paper's sweeps take.

    uv run --extra cuda13 benchmarks/gpu.py [--quick] [--out FILE]

Four sections, in under eight minutes. `ceilings`: matrix products, a triad, hyperbolic tangents and steps of an
empty loop, each as fast as the device does them. `curve`: wall time per run and step of the two workloads of
`engine.py`, for more and more runs in one program, and the share of the ceilings that it comes to. `figure-3`:
the paper's 10,000 trials of 40,000 steps, through the library's own studies. `bessel-sweep`: a tenth of the
steps of controller-bessel, and what the whole would take.

Every time is wall time until the result is there. On the curve trainings of two lengths are timed, and their
difference counts: drawing and moving samples does not. A section that would outlast its share is cut, and says
so. The JSON is written after each section. With `--quick` all is cut, by the factors in
the JSON, and a CPU will do.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.extend.backend import get_backend

from engine import AUXILIARY, BESSEL, Workload, inputs_of
from n3.config import Study
from n3.experiments import hypers_of, load_data, plan_groups, recipe_of, run_study, stack, stops_of
from n3.paper import reproduction
from n3.training import Recipe, sweep

ROUNDS, FEW = 3, 4
"""Times that all is measured, and steps of the shorter of two trainings."""
PROBED = 10
"""Share of the steps of figure-3 by which the whole is projected, as one in so many."""
TANHS = 1, 4, 16
"""Hyperbolic tangents of each number in one kernel: memory bounds the first, arithmetic the last."""
LOOPED = 20_000
"""Steps of the empty loop."""
TESTED = 8
"""Test samples of a run on the curve: no step sees them."""
FACTORS = {"adam": (14, 6), "sgd": (2, 2)}
"""Operations that an optimiser does on a parameter in a step, and numbers that it reads and writes for it."""
PUBLISHED = 9_120, 5_000
"""Runs of the published bessel sweep, and steps of each."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is measured: rows of matrices, numbers of vectors, runs, samples, trials, steps and seconds.

    `seconds` is what the steps of a training that is timed take at least; shares are seconds of a section.
    """

    side: int = 8_192
    elements: int = 2**27
    auxiliary_runs: tuple[int, ...] = (1, 8, 64, 512, 4_096, 32_768, 262_144)
    bessel_runs: tuple[int, ...] = (1, 8, 32, 128, 512)
    samples: int = 26_214
    trials: int = 10_000
    steps: int = 40_000
    sweep_runs: int = 100
    sweep_steps: int = 500
    seconds: float = 0.5
    curve_share: float = 160.0
    figure_share: float = 190.0


FULL = Extent()
_FEWER = replace(FULL, side=512, elements=2**20, auxiliary_runs=(1, 8, 64), bessel_runs=(1, 8), samples=1_638)
_SHORTER = replace(_FEWER, trials=40, steps=800, sweep_runs=4, sweep_steps=50)
QUICK = replace(_SHORTER, seconds=0.05, curve_share=40.0, figure_share=60.0)
Found = tuple[dict[str, Any], str]
"""What a section found, for the JSON, and the line that says so."""


def taken(call: Callable[..., Any], *arguments: Any) -> float:
    """Wall seconds until what the call returns is there."""
    start = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    return time.perf_counter() - start


def pace(train: Callable[[int], Any], *, seconds: float) -> tuple[float, float]:
    """Wall seconds of a step, and of a training's rest once it is compiled: medians over rounds.

    Two lengths are trained: `FEW` steps, and so many that they take twice as long as the rest and `seconds`.
    """
    taken(train, FEW)
    rest, many = taken(train, FEW), 8 * FEW
    while taken(train, many) < 3.0 * rest + seconds:
        many *= 4
    pairs = np.array([(taken(train, FEW), taken(train, many)) for _ in range(ROUNDS)])
    step = float(np.median(pairs[:, 1] - pairs[:, 0])) / (many - FEW)
    return step, float(np.median(pairs[:, 0])) - FEW * step


def rate(amount: float, call: Callable[..., Any], *arguments: Any, seconds: float) -> float:
    """The most of an amount a second over rounds; calls queue on the device, and all are waited for."""

    def queued(number: int) -> list[Any]:
        for _ in range(number - 1):
            call(*arguments)
        return call(*arguments)

    taken(queued, 1)
    number = int(np.clip(seconds / taken(queued, 1), 1, 50))
    return amount * number / min(taken(queued, number) for _ in range(ROUNDS))


def demand(recipe: Recipe, samples: int) -> dict[str, float]:
    """Operations and bytes of one run in one step, of a network of one hidden layer, whatever the program does.

    With `i` inputs and `o` outputs, each unit and sample has `4 i + 6 o + 8` operations and one hyperbolic
    tangent, which is counted apart: forward `2 i` for its sum, 1 for the mask, `2 o` for the outputs; backward
    `4 o` for the outputs' weights and the masked activation, 1 for the activation and 2 for the mask, 3
    through the tangent, `2 i + 1` for its weights and its bias. Each output and sample has 6 for its error and
    bias, each parameter those of `FACTORS`. Bytes are the fewest: the samples and their shares are read once,
    and parameters and moments read and written once; activations never leave the chip.
    """
    (units,), inputs, outputs = recipe.capacity, recipe.in_size, recipe.out_size
    parameters = units * (inputs + 1 + recipe.size_input) + outputs * (units + 1) + 1
    operations, moved = FACTORS[recipe.optimiser]
    each = units * (4 * inputs + 6 * outputs + 8) + 6 * outputs
    numbers = samples * (inputs + outputs + 1) + moved * parameters
    return {"flops": samples * each + operations * parameters, "tanhs": samples * units, "bytes": 4 * numbers}


def achieved(recipe: Recipe, samples: int, seconds: float, ceilings: Mapping[str, float]) -> dict[str, float]:
    """Operations, tangents and bytes a second, where a run's step takes so many, and shares of the ceilings.

    The ceiling of operations is that of a product in full float32: no tensor core takes part in a mask.
    """
    rates = {name: amount / seconds for name, amount in demand(recipe, samples).items()}
    tops = {"flops": ceilings["flops_highest"], "tanhs": ceilings["tanhs"], "bytes": ceilings["bytes"]}
    found = {f"{name}_a_second": own for name, own in rates.items()}
    return found | {f"{name}_share": own / tops[name] for name, own in rates.items()}


def measure_ceilings(extent: Extent, _: Mapping[str, Any]) -> Found:
    """What the device does of each kind in a second at most, and what a step of an empty loop takes."""
    keys, side, long = jr.split(jr.key(0), 4), extent.side, extent.elements
    matrices = [jr.normal(key, (side, side)) for key in keys[:2]]
    vectors = [jr.uniform(key, (long,)) for key in keys[2:]]
    fastest = partial(rate, seconds=extent.seconds)

    @partial(jax.jit, static_argnums=1)
    def tanhs(x, times):
        for _ in range(times):
            x = jnp.tanh(x)
        return x

    @jax.jit
    def looped(x, stop):
        return jax.lax.fori_loop(0, stop, lambda _, own: jnp.sin(own), x)

    found = {"loop_seconds": 1.0 / fastest(LOOPED, looped, jnp.ones(()), jnp.asarray(LOOPED))}
    for name in ("default", "highest"):
        product = jax.jit(partial(jnp.matmul, precision=name))
        found[f"flops_{name}"] = fastest(2 * side**3, product, *matrices)
    found["bytes"] = fastest(12 * long, jax.jit(lambda x, y: x + 3.0 * y), *vectors)
    found["tanhs"] = max(fastest(times * long, tanhs, vectors[0], times) for times in TANHS)
    units = {"flops_default": "TFLOP/s by default", "flops_highest": "TFLOP/s in full float32"}
    units |= {"bytes": "TB/s", "tanhs": "T tanh/s"}
    told = ", ".join(f"{1e-12 * found[name]:.3g} {unit}" for name, unit in units.items())
    return found, f"{told}, {1e6 * found['loop_seconds']:.3g} us a step of an empty loop"


def measure_curve(extent: Extent, sections: Mapping[str, Any]) -> Found:
    """Wall time per run and step of both workloads over the number of runs in one program.

    Each workload has half of the section's share; numbers of runs that come too late for it are left out.
    """
    points, left_out = [], []
    bessel = replace(BESSEL, samples=extent.samples)
    for workload, numbers in ((AUXILIARY, extent.auxiliary_runs), (bessel, extent.bessel_runs)):
        until = time.perf_counter() + 0.5 * extent.curve_share
        for runs in numbers:
            reason = "memory" if not fits(workload, runs) else "time" if time.perf_counter() > until else None
            if reason:
                left_out.append(f"{workload.name} {runs} for {reason}")
            else:
                points.append(point(workload, runs, sections["ceilings"], seconds=extent.seconds))
    told = (f"{own['workload']} {own['runs']:,}: {own['microseconds']:.3g}" for own in points)
    rest = f"; LEFT OUT: {', '.join(left_out)}" if left_out else ""
    return {"points": points, "left_out": left_out}, f"us a run and step: {', '.join(told)}{rest}"


def point(workload: Workload, runs: int, ceilings: Mapping[str, float], *, seconds: float) -> dict[str, Any]:
    """What a step of so many runs takes in one program, through `sweep`."""
    hypers, problem, keys = inputs_of(workload, runs)
    hypers, problem = jax.device_get((hypers, problem))
    few = jax.tree.map(lambda leaf: leaf[..., :TESTED], problem.test)
    problem = eqx.tree_at(lambda own: own.test, problem, few)

    def train(steps: int) -> Any:
        own = {"keys": keys, "stops": np.array([steps]), "devices": jax.devices()[:1]}
        return sweep(workload.recipe, hypers, problem, **own).state.net

    step, rest = pace(train, seconds=seconds)
    found = {"workload": workload.name, "runs": runs, "step_seconds": step, "rest_seconds": rest}
    found |= achieved(workload.recipe, workload.samples, step / runs, ceilings)
    return found | {"microseconds": 1e6 * step / runs}


def fits(workload: Workload, runs: int) -> bool:
    """Whether samples, drawn twice over, and ten arrays of activations take less than half of the memory."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", np.inf)
    tile = min(workload.samples, workload.recipe.tile)
    each = 4 * (6 * (workload.samples + 256) + 10 * workload.capacity * max(tile, 256))
    return runs * each < 0.5 * limit


def trials_of(steps: int, trials: int, *, is_probe: bool = False) -> Study:
    """The trials of figure-3 in the two arms of the paper; as a probe those of its first task alone."""
    study = next(part.study for part in reproduction("figure-3").parts if part.name == "main")
    run = replace(study.base.run, seeds=tuple(range(trials)))
    base = replace(study.base, run=run, training=replace(study.base.training, steps=steps))
    return replace(study, base=base, cells=study.cells[:1] if is_probe else study.cells)


def trained(study: Study) -> tuple[Any, dict[str, float]]:
    """The results of a study, whose folder is not kept, and its wall seconds: all, compiling and training."""
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        results = run_study(study, Path(folder) / "study", quiet=True)
    names = ("compile_seconds", "run_seconds")
    seconds = {name: float(results[name].sum()) for name in names}
    return results, seconds | {"wall_seconds": time.perf_counter() - start}


def measure_figure(extent: Extent, _: Mapping[str, Any]) -> Found:
    """Figure-3 whole, or of the most trials, by halves, that fit into the section's share.

    Trials of one task, as many as the largest group of the whole has, are trained for a tenth of the steps
    first. Every group is taken to cost as much, but for the steps, and to be compiled once.
    """
    until, full, steps = time.perf_counter() + extent.figure_share, extent.trials, extent.steps
    probed = min(full, max(group.runs for group in plan_groups(trials_of(steps, full))))
    _, probe = trained(trials_of(steps // PROBED, probed, is_probe=True))
    rest = probe["wall_seconds"] - probe["compile_seconds"] - probe["run_seconds"]

    def projected(trials: int) -> float:
        group = rest + PROBED * probe["run_seconds"]
        return probe["compile_seconds"] + group * len(plan_groups(trials_of(steps, trials)))

    trials, left = full, until - time.perf_counter()
    while trials and projected(trials) > left:
        trials //= 2
    found = {"probed_trials": probed, "probe": probe, "projected_seconds": projected(full), "trials": trials}
    line = f"{full:,} trials of each task and arm projected {projected(full):.3g} s, {left:.3g} s left; "
    if not trials:
        return found, line + "NONE was trained"
    results, seconds = trained(trials_of(steps, trials))
    losses = results["test_loss"].isel(step=-1, drop=True).median("seed").transpose("cell", "arm").values
    arms, tasks = results["arm"].values.tolist(), results["task"].values.tolist()
    rows = [dict(zip(arms, row, strict=True)) for row in losses.tolist()]
    found |= seconds | {"median_test_loss": dict(zip(tasks, rows, strict=True))}
    took = f"took {seconds['wall_seconds']:.3g} s, {seconds['run_seconds']:.3g} s of them to train"
    return found, f"{line}{'CUT to ' * (trials < full)}{trials:,} {took}"


def measure_sweep(extent: Extent, sections: Mapping[str, Any]) -> Found:
    """The growing arm of controller-bessel for the first of its steps, and what its sweeps would take whole."""
    base = reproduction("controller-bessel", samples=extent.samples).parts[0].study.base.resolved()
    seeds, whole, steps = base.run.seeds[: extent.sweep_runs], base.training.steps, extent.sweep_steps
    run = replace(base.run, seeds=seeds, records=max(1, base.run.records * steps // whole))
    few = replace(base, run=run, training=replace(base.training, steps=steps))
    arm, data = "growing", load_data(few)
    recipe, problem = recipe_of(few, arm, data[0]), stack(data)
    hypers, keys = hypers_of(few, arm, data=data, active=None), jax.vmap(jr.key)(jnp.array(seeds))
    own = {"keys": keys, "stops": stops_of(few), "devices": jax.devices()[:1]}
    compiling = sweep(recipe, hypers, problem, **own).compile_seconds
    train = lambda: sweep(recipe, hypers, problem, **own).state.net  # noqa: E731
    wall = float(np.median([taken(train) for _ in range(ROUNDS)]))
    each = wall / (len(seeds) * steps)
    found = {"runs": len(seeds), "samples": extent.samples, "steps": steps, "wall_seconds": wall}
    found |= {"compile_seconds": compiling, "microseconds": 1e6 * each}
    found |= {"arm_seconds": wall * whole / steps, "published_seconds": each * math.prod(PUBLISHED)}
    found |= achieved(recipe, extent.samples, each, sections["ceilings"])
    return found, (
        f"{len(seeds)} runs of {extent.samples:,} samples took {wall:.3g} s for {steps} steps; projected "
        f"{found['arm_seconds']:.3g} s for {whole:,} steps, {found['published_seconds'] / 60:.3g} min for the "
        f"{PUBLISHED[0]:,} runs published"
    )


SECTIONS: Mapping[str, Callable[[Extent, Mapping[str, Any]], Found]] = {
    "ceilings": measure_ceilings,
    "curve": measure_curve,
    "figure-3": measure_figure,
    "bessel-sweep": measure_sweep,
}


def facts_of(extent: Extent, *, is_quick: bool) -> dict[str, Any]:
    """Where and of what is measured; no commit outside a checkout, and no memory where a device tells none."""
    git, words = shutil.which("git"), ("describe", "--always", "--dirty", "--abbrev=40")
    how = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "check": False}
    device, full = jax.devices()[0], asdict(FULL)
    return {
        "device": device.device_kind,
        "devices": jax.local_device_count(),
        "driver": get_backend().platform_version,
        "memory": device.memory_stats(),
        "jax": jax.__version__,
        "commit": (subprocess.run([git, *words], **how).stdout.strip() or None) if git else None,
        "quick": is_quick,
        "extent": asdict(extent),
        "cut_by": {name: float(np.max(full[name]) / np.max(own)) for name, own in asdict(extent).items()},
    }


def main() -> None:
    """Measure each section, print its line and write what is known so far."""
    parser = argparse.ArgumentParser(description="What a GPU gives, and how much of it n3 takes.")
    parser.add_argument("--quick", action="store_true", help="cut everything, so that a CPU will do")
    parser.add_argument("--out", type=Path, metavar="FILE", default=Path("gpu.json"), help="the JSON's place")
    options = parser.parse_args()
    if jax.default_backend() != "gpu" and not options.quick:
        sys.exit("error: JAX finds no GPU here; `--quick` tries all of it, cut, on what there is.")
    extent, sections = QUICK if options.quick else FULL, {}
    facts = facts_of(extent, is_quick=options.quick)
    for name, section in SECTIONS.items():
        start = time.perf_counter()
        found, line = section(extent, sections)
        sections[name] = found | {"section_seconds": time.perf_counter() - start}
        print(f"{name:<12} {sections[name]['section_seconds']:5.1f} s  {line}", flush=True)
        options.out.write_text(json.dumps(facts | {"sections": sections}, indent=1) + "\n")


if __name__ == "__main__":
    main()
