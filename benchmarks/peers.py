"""Peers: n3 beside other ways to train the same networks, beside Gromo and beside Torch-Pruning.

    uv run benchmarks/peers.py [--quick] [--only PART ...] [--out FILE]

`speed`: static networks of one hidden tanh layer, Adam, all samples in each step, each run with samples of its
own. All ways start from the same weights and must end with the same training loss, else the benchmark stops;
scikit-learn draws its own. Cost is CPU time per run and step, compiled and run once before, the median of
rounds in which all ways of a process take turns. Ways that train one run after the other train only the
first two. n3 is measured as users call it, `n3.training.sweep` as a whole.

`gromo`: the task of Gromo's tutorial of containers, three sums of ten sines, 10,000 samples. Gromo grows as its
tutorial does, and with more growths; n3 chooses its size by criterion held-out, in one call of `n3.run`.

`pruning`: digits on one split. Torch-Pruning makes a dense network of 64 units smaller by magnitude and tunes
it; n3 prunes the same kind of network by information, or grows to a budget. Adam 1e-2 with a cosine to zero and
batches of 128 in all; n3's method has a prior on the weights beside.

In these two, all seeds of n3 share a program, and a run is charged its share. What n3 does is done twice: the
first call compiles, the second does not. PyTorch is warm.

One thread and one core each. PyTorch and its libraries live in environments that `uv` makes; where one cannot
be made, the row says why.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import time
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}  # before JAX is imported

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

from engine import drawn_nets
from n3.training import sweep
from peers_growth import growing, growing_table, isolated, pruning, pruning_table
from scaling import Setting, arguments_of, in_turn

RATE, TOLERANCE, ALONE = 1e-3, 1e-3, 2
"""Learning rate; largest relative difference of two losses; runs of the ways that train one after the other."""
LIBRARIES = "jax", "jaxlib", "equinox", "optax", "numpy", "scikit-learn"


@dataclass(frozen=True)
class Work:
    """What every way computes."""

    name: str
    setting: Setting
    steps: int

    @property
    def label(self) -> str:
        own = self.setting
        return f"{self.name}: {own.units} units, {own.samples:,} samples, {own.runs} runs"


WORKS = [
    Work("bessel", Setting(runs=32, samples=26_214, units=10), 30),
    Work("wide", Setting(runs=16, samples=2048, units=64), 100),
    Work("small", Setting(runs=256, samples=32, units=9), 1_500),
]
Weights = tuple[jax.Array, jax.Array, jax.Array, jax.Array]
"""Weight and bias of the hidden layer and of the read-out, runs first."""


# Speed: ways to train in this process


def weights_of(net: Any) -> Weights:
    """The weights of n3's networks."""
    layer, readout = net.layers[0], net.readout
    return layer.weight, layer.bias, readout.weight, readout.bias


def places(model: eqx.nn.MLP) -> Weights:
    """The same of Equinox's networks."""
    hidden, readout = model.layers
    return hidden.weight, hidden.bias, readout.weight, readout.bias


def fit_loss(model: eqx.nn.MLP, x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared error over `[samples, inputs]`."""
    return jnp.mean((jax.vmap(model)(x) - y) ** 2)


def adam_step(model: eqx.nn.MLP, moments: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
    """One network after one step."""
    gradient = eqx.filter_grad(fit_loss)(model, x, y)
    updates, moments = optax.adam(RATE).update(gradient, moments)
    return eqx.apply_updates(model, updates), moments


def moments_of(model: eqx.nn.MLP) -> Any:
    """Adam's first state."""
    return optax.adam(RATE).init(eqx.filter(model, eqx.is_array))


class Ways:
    """All ways to do a work in this process: each trains and returns the weights at the end."""

    def __init__(self, work: Work):
        self.work, self.arguments = work, arguments_of(work.setting)
        hypers, problem, keys = self.arguments
        self.first = weights_of(drawn_nets(work.setting.recipe, hypers, problem, keys))
        self.x, self.y = (jnp.swapaxes(own, 1, 2) for own in (problem.train.inputs, problem.train.targets))
        bare = eqx.nn.MLP(work.setting.inputs, 1, work.setting.units, 1, jnp.tanh, key=jr.key(0))
        self.models = eqx.tree_at(places, bare, self.first)
        self.single, self.every = eqx.filter_jit(adam_step), eqx.filter_jit(eqx.filter_vmap(adam_step))
        self.scan = eqx.filter_jit(self.scanned)

    def n3(self) -> Weights:
        """Nothing but a call of the engine."""
        hypers, problem, keys = self.arguments
        stops = np.array([self.work.steps])
        done = sweep(self.work.setting.recipe, hypers, problem, keys=keys, stops=stops)
        return weights_of(done.state.net)

    def loop(self) -> Weights:
        """One run after the other, one compiled step."""
        ends = []
        for run in range(ALONE):
            model = eqx.tree_at(places, self.models, tuple(own[run] for own in self.first))
            moments, x, y = moments_of(model), self.x[run], self.y[run]
            for _ in range(self.work.steps):
                model, moments = self.single(model, moments, x, y)
            ends.append(jax.block_until_ready(places(model)))
        return tuple(map(jnp.stack, zip(*ends, strict=True)))

    def ensemble(self) -> Weights:
        """All runs in one compiled step."""
        models, moments = self.models, eqx.filter_vmap(moments_of)(self.models)
        for _ in range(self.work.steps):
            models, moments = self.every(models, moments, self.x, self.y)
        return jax.block_until_ready(places(models))

    def scanned(self, models: eqx.nn.MLP, x: jax.Array, y: jax.Array) -> eqx.nn.MLP:
        """All runs and all steps, as one program."""
        arrays, rest = eqx.partition(models, eqx.is_array)

        def onward(carry, _):
            model, moments = eqx.filter_vmap(adam_step)(eqx.combine(carry[0], rest), carry[1], x, y)
            return (eqx.filter(model, eqx.is_array), moments), None

        start = arrays, eqx.filter_vmap(moments_of)(models)
        return eqx.combine(jax.lax.scan(onward, start, length=self.work.steps)[0][0], rest)

    def whole(self) -> Weights:
        """A call of that program."""
        return jax.block_until_ready(places(self.scan(self.models, self.x, self.y)))

    def scikit_learn(self) -> Weights:
        """Its regressor, on first weights of its own."""
        units, ends = self.work.setting.units, []
        for run in range(ALONE):
            x, y = np.asarray(self.x[run]), np.asarray(self.y[run, :, 0])
            how = {"alpha": 0.0, "batch_size": len(x), "learning_rate_init": RATE, "shuffle": False}
            how |= {"max_iter": self.work.steps, "n_iter_no_change": self.work.steps, "tol": 0.0}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is given
                own = MLPRegressor(hidden_layer_sizes=(units,), activation="tanh", random_state=run, **how).fit(
                    x, y
                )
            if own.n_iter_ != self.work.steps:
                raise RuntimeError(f"scikit-learn took {own.n_iter_} epochs of {self.work.steps}.")
            ends.append((own.coefs_[0].T, own.intercepts_[0], own.coefs_[1].T, own.intercepts_[1]))
        return tuple(map(np.stack, zip(*ends, strict=True)))

    def losses(self, ends: Weights) -> list[float]:
        """Mean squared error of each run at the end, in float64."""
        weight, bias, readout, offset = (np.asarray(own, float) for own in ends)
        x, y = (np.asarray(own, float)[: len(weight)] for own in (self.x, self.y))
        hidden = np.tanh(x @ weight.transpose(0, 2, 1) + bias[:, None])
        return np.mean((hidden @ readout.transpose(0, 2, 1) + offset[:, None] - y) ** 2, axis=(1, 2)).tolist()


def in_process(ways: Ways, rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds and losses of every way of this process."""
    calls = {
        "n3": ways.n3,
        "Equinox, loop": ways.loop,
        "Equinox, filter_vmap, loop": ways.ensemble,
        "Equinox, filter_vmap, lax.scan": ways.whole,
        "scikit-learn, MLPRegressor": ways.scikit_learn,
    }
    ends = {}

    def kept(name: str) -> None:
        ends[name] = calls[name]()

    with threadpool_limits(1):
        taken = in_turn({name: partial(kept, name) for name in calls}, time.process_time, rounds)
    return {name: {"seconds": taken[name], "losses": ways.losses(ends[name])} for name in calls}


def check_losses(label: str, found: dict[str, dict[str, Any]]) -> None:
    """Stop where a way that shares the first weights ends elsewhere than n3; scikit-learn has its own."""
    for name, own in found.items():
        ends = np.array(own["losses"])
        apart = np.max(np.abs(ends / np.array(found["n3"]["losses"])[: len(ends)] - 1.0))
        if not name.startswith("scikit-learn") and not apart < TOLERANCE:
            raise SystemExit(f"{label}: the loss of {name} is {apart:.2g} from n3's, not the same work.")


def speed(*, is_quick: bool) -> dict[str, Any]:
    """Rows of every work and way."""
    rounds, rows, versions = 3 if is_quick else 5, [], {}
    for full in WORKS:
        work = replace(full, steps=full.steps // 2) if is_quick else full
        ways = Ways(work)
        found = in_process(ways, rounds)
        first = {f"weights_{n}": np.array(own) for n, own in enumerate(ways.first)}
        numbers = {"alone": ALONE, "rate": RATE, "steps": work.steps, "rounds": rounds}
        arrays = {"x": np.array(ways.x), "y": np.array(ways.y)} | first
        torch = isolated("speed", ("torch", "numpy"), arrays | {k: np.array(v) for k, v in numbers.items()})
        versions |= torch.get("versions", {})
        found |= torch.get("found", {})
        check_losses(work.label, found)
        for name, own in found.items():
            each = 1e6 * own["seconds"] / len(own["losses"]) / work.steps
            rows.append({"peer": name, "work": work.label, "microseconds": each, "losses": own["losses"]})
        if "why" in torch:
            rows.append({"peer": "PyTorch", "work": work.label, "why": torch["why"]})
    return {"rounds": rounds, "rows": rows, "versions": versions}


def speed_table(rows: list[dict[str, Any]]) -> str:
    """Microseconds per run and step (over n3's), and who is ahead on each work."""
    works = list(dict.fromkeys(row["work"] for row in rows))
    cost = {(row["peer"], row["work"]): row["microseconds"] for row in rows if "why" not in row}
    lines, ends = [f"| peer | {' | '.join(works)} |", "|---" * (1 + len(works)) + "|"], []
    for peer in dict.fromkeys(row["peer"] for row in rows):
        cells = []
        for work in works:
            own, ours = cost.get((peer, work)), cost["n3", work]
            cells.append(
                "not measured" if own is None else f"{own:{',.0f' if own >= 100 else '.3g'}} ({own / ours:.2f})"
            )
        lines.append(f"| {peer} | {' | '.join(cells)} |")
    for work in works:
        rival, least = min(
            ((peer, own) for (peer, label), own in cost.items() if label == work and peer != "n3"),
            key=lambda own: own[1],
        )
        ratio = least / cost["n3", work]
        lead = f"{ratio:.2f} times ahead of" if ratio >= 1 else f"behind, at {1 / ratio:.2f} times the cost of"
        ends.append(f"- {work}: n3 is {lead} its best peer, {rival}.")
    ends += sorted({f"- {row['peer']} was not measured: {row['why']}" for row in rows if "why" in row})
    return "\n".join([*lines, "", *ends])


def main() -> None:
    parts = {
        "speed": (speed, speed_table),
        "gromo": (growing, growing_table),
        "pruning": (pruning, pruning_table),
    }
    parser = argparse.ArgumentParser(description="n3 beside its peers, in CPU time.")
    parser.add_argument("--quick", action="store_true", help="few rounds, steps and seeds, to see that it runs")
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts), help="these parts alone")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON here as well")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # idle threads would spin on other cores
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    before = os.getloadavg()
    found = {name: parts[name][0](is_quick=options.quick) for name in options.only}
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    for own in found.values():
        versions |= own.pop("versions")
    facts = {
        "device": jax.devices()[0].device_kind,
        "processor": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
        "cores": os.cpu_count(),
        "threads": 1,
        "load": [before, os.getloadavg()],
        "quick": options.quick,
    }
    if options.out:
        options.out.write_text(json.dumps(facts | found, indent=1) + "\n")
    print(*(parts[name][1](own["rows"]) for name, own in found.items()), json.dumps(facts), sep="\n\n")


if __name__ == "__main__":
    main()
