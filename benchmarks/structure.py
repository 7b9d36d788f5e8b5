"""Structure: what is left of a deliberately too large network, and what that costs and brings.

    uv run --extra data benchmarks/structure.py [--quick] [--tasks NAME ...] [--seeds N] [--first-seed N]
        [--scales NUMBER ...] [--steps N] [--out FILE]

Two hidden layers of 256 units; method information's preset (Adam 1e-2 with a cosine to zero, prior on the
weights), but 600 steps of 128 samples, a tenth of the price, and sizes that move 0.75 units a step towards the
best within 12 units, looked for every 50 steps, so that 256 units can come or go. Of each seed:

* `full`: all units, static;
* `growing`: sized by information from half a unit on; `shrinking`: the same from all units on;
* `pruned`: `full` without the units that add less than the price to those before them (by the drive's own
  `worth_of`, one elimination a layer; up to a multiple of 16 units), trained on for 300 steps at a third of the
  rate, moments carried along;
* `X from scratch`: the final shape of X drawn anew and trained like `full`.

Where `--scales` names several factors on the price, each task takes the one of least median loss
(`n3.experiments.pick_price`, rule `best`) over a fifth of the training samples, held out of the shrinking runs
of two seeds. Intervals are BCa over the seeds. Digits has one split for all seeds (drawn by the first of them)
and so has mnist1d, the others have a draw or a split for each.

Latency is that of `n3.compact` of the network of median size, on the default device: the median over rounds of
one compiled call, all networks in turn.
"""

import argparse
import json
import os
import platform
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count() or 1))  # runs share the cores without talking

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import n3
from latency import milliseconds
from n3.data import held_out
from n3.experiments import hypers_of, load_data, pick_price, recipe_of, stack
from n3.information import degrees_of, prices_of
from n3.stats import align_columns, with_interval
from n3.training import advance
from runs import Outcome, estimate, outcome, together, trained

TASKS = ("digits", "breast-cancer", "spirals", "mnist1d")
ONE_SPLIT = ("digits",)
SIZED = ("growing", "shrinking")
SMALLER = (*SIZED, "pruned")
QUANTITIES = ("parameters", "flops", "train_loss", "test_loss", "gap", "accuracy")
BATCHES = (1, 32, 4096)
TOLERANCE = 1e-5
ROUNDED = 16
"""Units up to a multiple of which pruning keeps: fewer shapes to compile."""
PROMISED = {"parameters": 0.5, "latency": 3.0}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How long everything takes."""

    seeds: int = 10
    first_seed: int = 0
    scales: tuple[float, ...] = (0.1,)
    chosen_on: int = 2
    width: int = 256
    steps: int = 600
    tuning: int = 300
    rounds: int = 100


def experiment_of(task: str, options: Options, *, seeds: int, scale: float = 1.0, capacity=None):
    """The one experiment of which all arms are taken."""
    first = options.first_seed
    return n3.Experiment(
        task=n3.TaskConfig(task=task, data_seed=first if task in ONE_SPLIT else None),
        network=n3.NetworkConfig(method="information", capacity=capacity or (options.width,) * 2),
        training=n3.TrainingConfig(steps=options.steps, batch=128),
        information=n3.InformationConfig(
            price_scale=scale, size_rate=450 / options.steps, every=50, look_ahead=12
        ),
        run=n3.RunConfig(seeds=tuple(range(first, first + seeds)), records=2),
    ).resolved()


def chosen_scale(task: str, options: Options) -> tuple[float, dict[str, list[float]]]:
    """The factor on the price, and the losses over the held-out samples that chose it."""
    if len(options.scales) == 1:
        return options.scales[0], {}
    experiments = [
        experiment_of(task, options, seeds=options.chosen_on, scale=scale) for scale in options.scales
    ]
    seeds = experiments[0].run.seeds
    held = [held_out(one, seed=seed)[1] for one, seed in zip(load_data(experiments[0]), seeds, strict=True)]
    hypers = [hypers_of(own, "shrinking", data=held, active=None) for own in experiments]
    found = np.stack([own.test_loss for own in trained(experiments[0], held, hypers, arm="shrinking")])
    losses = {f"{scale:g}": own.tolist() for scale, own in zip(options.scales, found, strict=True)}
    return options.scales[pick_price(found, "best").index], losses


def pruned(experiment, data: list, full: Outcome, options: Options) -> Outcome:
    """Every full network without the units that are not worth the price, trained on in its new shape."""
    recipe = recipe_of(experiment, "static", data[0])
    drive, problem = recipe_of(experiment, "growing", data[0]).drive, stack(data)
    learning_rate = experiment.training.learning_rate / 3
    training = replace(experiment.training, learning_rate=learning_rate, steps=options.tuning)
    hypers = hypers_of(replace(experiment, training=training), "static", data=data, active=None)
    onward = eqx.filter_jit(partial(advance, recipe, start=jnp.asarray(0), stops=jnp.array([options.tuning])))

    def one(seed: int) -> Outcome:
        own, numbers = jax.tree.map(lambda leaf: leaf[seed], (problem, hypers))
        state, goes = full.states[seed], partial(below_price, drive, price_of_unit(experiment, data[seed]))
        samples = own.train.inputs.T, own.train.targets.T
        cut = n3.prune(state.net, goes, samples, is_classes=True, state=state.moments)
        state = eqx.tree_at(lambda s: (s.net, s.moments), state, (cut.net, cut.state))
        return outcome(*jax.tree.map(lambda leaf: leaf[None], onward(state=state, hypers=numbers, problem=own)))

    return together([one(seed) for seed in range(len(data))])


def price_of_unit(experiment: n3.Experiment, data: n3.Dataset) -> float:
    """Nats per sample that a unit of one hidden layer must bring."""
    samples = len(data.train_inputs)
    prices = prices_of(experiment.information, data.train_inputs, samples=samples, outputs=degrees_of(data))
    return prices.unit + prices.parameter * (prices.inputs + 1 + data.out_size)


def below_price(drive, price: float, active: jax.Array, targets: jax.Array) -> jax.Array:
    """Which units go: those behind the number that is worth most after its price, in greedy order."""
    units = active.shape[1]
    order, worth = drive.worth_of(active.T, targets.T, jnp.asarray(float(units)))
    best = int(jnp.argmax(worth - price * jnp.arange(units + 1.0)))
    kept = ROUNDED * max(1, -(-best // ROUNDED))
    return jnp.ones(units, bool).at[order[:kept]].set(False)


def arms_of(task: str, scale: float, options: Options) -> tuple[dict[str, Outcome], list]:
    """All arms of a task, and its data."""
    experiment = experiment_of(task, options, seeds=options.seeds, scale=scale)
    data = load_data(experiment)
    numbers = partial(hypers_of, experiment, data=data, active=None)
    (full,) = trained(experiment, data, [numbers("static")], arm="static")
    sized = trained(experiment, data, [numbers(arm) for arm in SIZED], arm="growing")
    arms = {
        "full": full,
        **dict(zip(SIZED, sized, strict=True)),
        "pruned": pruned(experiment, data, full, options),
    }
    widths = {arm: np.maximum(arms[arm].widths, 1) for arm in SMALLER}
    most = tuple(int(units) for units in np.max([own.max(0) for own in widths.values()], axis=0))
    fresh = experiment_of(task, options, seeds=options.seeds, capacity=most)
    hypers = [hypers_of(fresh, "equal-size", data=data, active=own) for own in widths.values()]
    scratch = trained(fresh, data, hypers, arm="equal-size")
    return arms | {f"{arm} from scratch": own for arm, own in zip(SMALLER, scratch, strict=True)}, data


def latencies(arms: dict[str, Outcome], inputs: jax.Array, rounds: int) -> dict[str, Any]:
    """Milliseconds of the median-sized networks, compacted; their outputs must be what they were."""
    calls = {}
    for arm in ("full", *SMALLER):
        middle = int(np.argsort(arms[arm].parameters, kind="stable")[len(arms[arm].parameters) // 2])
        masked = arms[arm].states[middle].net
        compacted = n3.compact(masked)
        calls[arm] = jax.jit(lambda x, net=compacted: net.batch(x))
        outputs = [np.asarray(own(inputs)) for own in (masked.batch, calls[arm])]
        if np.max(np.abs(outputs[0] - outputs[1])) > TOLERANCE * np.max(np.abs(outputs[0])):
            raise SystemExit(f"{arm}: the compacted network has other outputs")
    drawn = {batch: jr.normal(jr.key(batch), (inputs.shape[0], batch)) for batch in BATCHES}
    return {str(batch): milliseconds(calls, own, rounds=rounds) for batch, own in drawn.items()}


def summary(arms: dict[str, Outcome]) -> dict[str, Any]:
    """Every arm's quantities, and its comparisons with `full` and with its shape from scratch."""
    found = {}
    for arm, own in arms.items():
        values = {name: np.asarray(getattr(own, name), float) for name in QUANTITIES}
        found[arm] = {
            name: {"median": float(np.median(each)), "mean": estimate(each), "values": each.tolist()}
            for name, each in values.items()
        } | {"widths": own.widths.tolist()}
        for other in ("full", f"{arm} from scratch"):
            if arm != other and other in arms:
                found[arm][f"test loss over {other}"] = asdict(
                    n3.stats.compare(own.test_loss, arms[other].test_loss)
                )
                found[arm][f"gap less {other}"] = estimate(own.gap - arms[other].gap)
                found[arm][f"accuracy less {other}"] = estimate(own.accuracy - arms[other].accuracy)
    return found


def verdicts(found: dict[str, Any], latency: dict[str, Any]) -> dict[str, Any]:
    """For each smaller network what was promised: half the parameters, no higher loss, a third of the time."""
    verdict = {}
    for arm in SMALLER:
        share = found[arm]["parameters"]["median"] / found["full"]["parameters"]["median"]
        low, high = np.exp(found[arm]["test loss over full"]["ci95"])
        ratio = latency["4096"]["full"] / latency["4096"][arm]
        loss = "lower" if high < 1 else "higher" if low > 1 else "no different"
        holds = share <= PROMISED["parameters"] and low <= 1 and ratio >= PROMISED["latency"]
        verdict[arm] = {"parameters": share, "loss": loss, "latency": ratio, "holds": bool(holds)}
    return verdict


def of_task(task: str, options: Options) -> dict[str, Any]:
    """Everything about one task."""
    scale, losses = chosen_scale(task, options)
    arms, data = arms_of(task, scale, options)
    found = summary(arms)
    latency = latencies(arms, jnp.asarray(data[0].test_inputs.T), options.rounds)
    report = {"price_scale": scale, "held_out_losses": losses, "arms": found, "latency_ms": latency}
    return report | {"verdicts": verdicts(found, latency)}


def table(task: str, report: dict[str, Any]) -> str:
    """One task for the eye."""
    lines = ["arm|parameters|flops|test loss [95 %]|over full [95 %]|accuracy|gap|gap less full|ms at 4,096"]
    for arm, own in report["arms"].items():
        means = {name: own[name]["mean"]["value"] for name in QUANTITIES}
        milliseconds_of = report["latency_ms"]["4096"].get(arm)
        cells = [
            arm,
            f"{own['parameters']['median']:g}",
            f"{own['flops']['median']:g}",
            with_interval(means["test_loss"], *own["test_loss"]["mean"]["ci95"], form=".3f"),
            "",
            f"{means['accuracy']:.4f}",
            f"{means['gap']:.4f}",
            "",
            "" if milliseconds_of is None else f"{milliseconds_of:.3f}",
        ]
        if arm != "full":
            pair, less = own["test loss over full"], own["gap less full"]
            cells[4] = with_interval(*np.exp([pair["median_log_ratio"], *pair["ci95"]]), form=".3f")
            cells[7] = with_interval(less["value"], *less["ci95"], form=".3f")
        lines.append("|".join(cells))
    told = [f"{arm}: {own}" for arm, own in report["verdicts"].items()]
    return "\n".join([f"{task} (price x {report['price_scale']:g})", align_columns(lines), *told])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few units, steps and seeds, to see that it runs")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--seeds", type=int, default=Options.seeds, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=Options.first_seed, help="the first of them")
    parser.add_argument("--steps", type=int, default=Options.steps, help="steps; half as many after pruning")
    parser.add_argument("--scales", type=float, nargs="+", default=Options.scales, help="factors on the price")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON here as well, task by task")
    arguments = parser.parse_args()
    quick = {"seeds": 2, "width": 24, "steps": 100, "tuning": 20, "rounds": 5}
    quick = (
        quick
        if arguments.quick
        else {"seeds": arguments.seeds, "steps": arguments.steps, "tuning": arguments.steps // 2}
    )
    options = Options(**quick, first_seed=arguments.first_seed, scales=tuple(sorted(arguments.scales)))
    tasks = arguments.tasks[:1] if arguments.quick else arguments.tasks
    facts = {
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
    report = facts | {"options": asdict(options), "load": [os.getloadavg()], "tasks": {}}
    for task in tasks:
        report["tasks"][task] = of_task(task, options)
        report["load"].append(os.getloadavg())
        print(table(task, report["tasks"][task]), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
