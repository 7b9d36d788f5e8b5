"""Golden: small runs of everything that trains or changes a network, and the numbers that they gave.

`uv run --group test python tests/slow/golden.py [CASE ...]` runs the named cases, or all, and writes their
numbers to `golden.json`, where those of other cases stay as they are.
"""

import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import n3
from n3.config.grid import Axis, product
from n3.experiments.study import run_study
from n3.paper.experiments import reproduction

FILE = Path(__file__).with_name("golden.json")
SIZES = ("size", "sizes", "path_size")
"""First words of the names of quantities that are effective units."""
EXACT = (
    "step",
    "active_parameters",
    "diverged_at",
    "decisions",
    "capacity",
    "picked",
    "widths",
    "removed",
)
"""First words of the names of quantities that are whole numbers."""
SMALL = {"records": 4, "seeds": (0, 1)}


def experiment(**sections):
    """An experiment of few seeds and records, from the fields of each of its sections."""
    kinds = {
        "task": n3.TaskConfig,
        "network": n3.NetworkConfig,
        "training": n3.TrainingConfig,
        "information": n3.InformationConfig,
        "structure": n3.StructureConfig,
        "run": n3.RunConfig,
    }
    sections["run"] = SMALL | sections["run"]
    return n3.Experiment(**{name: kinds[name](**fields) for name, fields in sections.items()})


def numbers(values):
    """A flat list of plain numbers."""
    return np.asarray(values).ravel().tolist()


def of_results(results):
    """What runs recorded in the middle and at the end, arm by arm; what is zero everywhere is left out."""
    rows = {"middle": len(results["step"]) // 2, "last": -1}
    found = {"step": numbers(results["step"].values[list(rows.values())])}
    for name, variable in results.data_vars.items():
        if name in ("active_parameters", "diverged_at"):
            of_arms = {name: variable}
        elif "step" in variable.dims and np.any(variable.values):
            of_arms = {f"{name} {when}": variable.isel(step=row) for when, row in rows.items()}
        else:
            continue
        for label, own in of_arms.items():
            found |= {f"{label} {arm}": numbers(own.sel(arm=arm).values) for arm in results["arm"].values}
    return found


def trained(**sections):
    """The results of an experiment, and its networks by arm."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = experiment(**{**sections, "run": {**sections["run"], "out": folder}})
        record = n3.run(chosen, has_figures=False, quiet=True)
        return record.results, n3.load(record.directory)


def ran(**sections):
    """The numbers of an experiment."""
    return of_results(trained(**sections)[0])


def controller():
    """The main job: method controller on a curve, with the paper's baseline and the slow start."""
    return ran(
        task={"task": "bessel", "samples": 128, "test_samples": 64},
        training={"steps": 200, "learning_rate": 5e-3},
        run={"arms": ("growing", "static", "warmup"), "seeds": (0, 1, 2)},
    )


def classes():
    """Method controller on five classes, in batches, with the control of the same size."""
    return ran(
        task={"task": "spirals", "samples": 200, "test_samples": 100},
        training={"steps": 200, "learning_rate": 1e-2, "batch": 50},
        run={"arms": ("growing", "static", "equal-size")},
    )


AUXILIARY = {
    "task": {"task": "quadratic"},
    "network": {"method": "auxiliary"},
    "training": {"steps": 400, "learning_rate": 5e-3},
    "run": {"arms": ("growing", "grown", "rescaled"), "seeds": (0, 1, 2)},
}


def auxiliary():
    """Method auxiliary, faster than the paper's, with its baseline and that without saturation."""
    return ran(**AUXILIARY)


def layerwise():
    """Method auxiliary with a size for each of two layers."""
    return ran(
        task={"task": "cubic"},
        network={"method": "auxiliary", "capacity": (6, 6), "layerwise": True},
        training={"steps": 300, "target_size": 3.0},
        run={"arms": ("growing", "grown")},
    )


def released():
    """Method released: one gain, which the task's loss does not move."""
    return ran(
        task={"task": "bessel", "samples": 64, "test_samples": 32},
        network={"method": "released"},
        training={"steps": 200, "learning_rate": 1e-2},
        run={"arms": ("growing",)},
    )


MONITOR = ("importance", "redundancy", "entropy", "structure")


def information_curve():
    """Method information on a curve, up and down, with all that is monitored of a layer."""
    return ran(
        task={"task": "sine", "samples": 128, "test_samples": 64},
        network={"method": "information", "capacity": (6,)},
        training={"steps": 150, "learning_rate": 5e-3},
        run={"arms": ("growing", "shrinking"), "monitor": MONITOR},
    )


def information_classes():
    """Method information on two classes, with all its terms in the objective.

    Seeds 0, 2 and 3 have ties that processors break differently (2 with and without AVX2 instructions).
    """
    return ran(
        task={"task": "moons", "samples": 128, "test_samples": 64},
        network={"method": "information", "capacity": (12,)},
        training={"steps": 200},
        information={"importance": 0.02, "redundancy": 0.01, "structure": 0.05, "psi": "classification"},
        run={"arms": ("growing", "shrinking", "equal-size"), "seeds": (1, 4), "monitor": MONITOR},
    )


def two_layers():
    """Method information with two hidden layers; seed 1 has a tie that processors break differently."""
    return ran(
        task={"task": "spirals-3", "samples": 150, "test_samples": 75},
        network={"method": "information", "capacity": (8, 8)},
        training={"steps": 120, "learning_rate": 5e-3},
        run={"arms": ("growing",), "seeds": (2, 3)},
    )


def price_path():
    """The growing arm at every price, and the price that is kept."""
    results, _ = trained(
        task={"task": "line", "samples": 120, "test_samples": 60},
        network={"method": "information", "capacity": (8,)},
        training={"steps": 200},
        information={"price": "0.01:0.5:4"},
        run={"arms": ("growing",)},
    )
    names = ("path_size", "path_test_loss", "path_validation_loss")
    path = {name: numbers(results[name].values) for name in names}
    return of_results(results) | path | {"picked": [int(results.attrs["picked_price"])]}


def budget():
    """A number of parameters, met by adapting the price."""
    return ran(
        task={"task": "sine", "samples": 128, "test_samples": 64},
        network={"method": "information", "capacity": (12,)},
        training={"steps": 200},
        information={"budget": 13},
        run={"arms": ("growing",)},
    )


def depth_gates():
    """Layers that close where they are not worth their price."""
    return ran(
        task={"task": "moons", "samples": 128, "test_samples": 64},
        network={"method": "information", "capacity": (8, 8), "depth_gates": True},
        training={"steps": 200},
        run={"arms": ("growing",)},
    )


def choices():
    """Layers that choose their activation."""
    return ran(
        task={"task": "bessel", "samples": 100, "test_samples": 50},
        network={"activation": "choose:tanh,relu,sin"},
        training={"steps": 200, "learning_rate": 1e-2},
        run={"arms": ("growing",)},
    )


def structure():
    """Units removed and added during training, and both undone."""
    results, _ = trained(
        task={"task": "line", "samples": 62, "test_samples": 20},
        network={"method": "information", "capacity": (12,)},
        training={"steps": 120, "initial_size": 6.0},
        information={"every": 10, "settle": 0.2, "birth_end": 0.1},
        structure={
            "structure_every": 20,
            "prune": "importance < 0.02",
            "cooldown": 0,
            "plateau": 0.5,
            "margin": 2.0,
        },
        run={"arms": ("growing",), "seeds": (0,)},
    )
    counts = [int(results.attrs[f"structure_{name}"]) for name in ("prune", "expand", "rollback")]
    actions = {"decisions": numbers(results["structure_action"].sel(arm="growing").values)}
    capacity = {"capacity": numbers(results["structure_capacity"].sel(arm="growing").values)}
    return of_results(results) | actions | capacity | {"decisions counts": counts}


@eqx.filter_jit
def outputs(net, x):
    return net.batch(x.T).T


def surgery():
    """A trained network pruned, expanded, compacted and exported: what each puts out."""
    net = trained(**AUXILIARY)[1]["grown"][0]
    data = n3.load_dataset("quadratic", train_samples=32, test_samples=8, seed=0)
    samples = data.train_inputs, data.train_targets
    state = optax.adam(1e-2).init(eqx.filter(net, eqx.is_inexact_array))
    pruned = n3.prune(net, "importance < 0.02", samples, is_classes=False, state=state)
    made = {"trained": net, "pruned": pruned.net}
    for method in ("zero", "split", "mutate"):
        made[f"expanded {method}"], _ = n3.expand(net, units=2, method=method, key=jr.key(3), state=state)
    made |= {f"compact {name}": n3.compact(made[name]) for name in ("trained", "pruned", "expanded mutate")}
    x = jnp.asarray(data.test_inputs[:4])
    found = {f"outputs {name}": numbers(outputs(own, x)) for name, own in made.items()}
    found["outputs exported"] = numbers(jax.export.deserialize(bytearray(n3.export(net))).call(x))
    found |= {f"widths {name}": [own.layers[0].bias.size] for name, own in made.items()}
    return found | {"removed": [removal.unit for removal in pruned.removed]}


def images(samples, seed):
    """Stripes along the one side or the other, 8 x 8, with noise; the class is the side."""
    rng = np.random.default_rng(seed)
    classes = np.arange(samples) % 2
    waves = np.sin(rng.uniform(0, 2 * np.pi, (samples, 1, 1)) + 1.5 * np.arange(8)[None, :, None])
    stripes = np.where(classes[:, None, None] == 1, waves, waves.transpose(0, 2, 1))
    noisy = stripes * np.ones((1, 8, 8)) + 0.5 * rng.standard_normal((samples, 8, 8))
    return noisy[:, None].astype(np.float32), classes


def of_fit(model, data, validation_data, **settings):
    """The numbers of a model of the user's own that finds its sizes."""
    grown = n3.grow(model, example=data[0][0], key=jr.key(1), initial_size=4.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* without a unit", RuntimeWarning)  # as a run of few steps may end
        grown, history = n3.fit(grown, data, validation_data, key=jr.key(2), quiet=True, **settings)
    parts = jax.tree.leaves(n3.compact(grown), is_leaf=lambda node: hasattr(node, "bias"))
    rows = {"middle": len(history.step) // 2, "last": -1}
    found = {"widths": [own.bias.shape[0] for own in parts if hasattr(own, "bias")]}
    found["step"] = numbers(history.step[list(rows.values())])
    found["diverged_at"] = [-1 if history.diverged_at is None else history.diverged_at]
    names = ("train_loss", "validation_loss", "validation_accuracy", "sizes")
    for name, own in {name: getattr(history, name) for name in names}.items():
        found |= {f"{name} {when}": numbers(own[row]) for when, row in rows.items() if own is not None}
    return found | {"outputs": numbers(eqx.filter_jit(eqx.filter_vmap(grown))(validation_data[0][:4]))}


def convolutional():
    """A small convolutional network of the user's own, grown by information, and compacted."""
    keys, nn = jr.split(jr.key(0), 3), eqx.nn
    parts = [nn.Conv2d(1, 6, 3, padding=1, key=keys[0]), nn.Lambda(jax.nn.relu), nn.MaxPool2d(2, 2)]
    parts += [nn.Conv2d(6, 8, 3, key=keys[1]), nn.Lambda(jax.nn.relu), nn.AvgPool2d(2, 1), nn.Lambda(jnp.ravel)]
    model = nn.Sequential([*parts, nn.Linear(8, 2, key=keys[2])])
    return of_fit(model, images(96, 0), images(48, 1), steps=75, batch=32, learning_rate=1e-2)


def perceptron():
    """Equinox's multilayer perceptron, grown by information, and compacted."""
    data = n3.load_dataset("sine", train_samples=128, test_samples=64, seed=0)
    model = eqx.nn.MLP(data.in_size, 1, 16, 2, jnp.tanh, key=jr.key(0))
    sides = (data.train_inputs, data.train_targets), (data.test_inputs, data.test_targets)
    return of_fit(model, *sides, steps=150, batch=64, learning_rate=1e-2)


def of_study(study):
    """The numbers of all cells of a study."""
    with tempfile.TemporaryDirectory() as folder:
        return of_results(run_study(study, Path(folder) / "study", quiet=True))


def reproduced():
    """A published experiment cut short: three tasks with all controls."""
    return of_study(reproduction("figure-3", trials=2, quick=True).parts[0].study)


def grid():
    """A grid of learning rates and capacities."""
    base = experiment(
        task={"task": "bessel", "samples": 64, "test_samples": 32},
        training={"steps": 200},
        run={"arms": ("growing",)},
    )
    return of_study(product(base, [Axis("learning_rate", (3e-3, 1e-2)), Axis("capacity", ((4,), (6,)))]))


CASES = {
    case.__name__: case
    for case in (
        controller,
        classes,
        auxiliary,
        layerwise,
        released,
        information_curve,
        information_classes,
        two_layers,
        price_path,
        budget,
        depth_gates,
        choices,
        structure,
        surgery,
        convolutional,
        perceptron,
        reproduced,
        grid,
    )
}
"""Functions that return numbers by the name of a quantity, whose words say what, when and of which arm."""


def read():
    """The committed numbers, by case and quantity."""
    return json.loads(FILE.read_text())


def to_text(cases):
    """JSON, sorted, one quantity a line."""
    blocks = []
    for case, found in sorted(cases.items()):
        lines = [f"    {json.dumps(name)}: {json.dumps(own)}" for name, own in sorted(found.items())]
        blocks.append(f"  {json.dumps(case)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def main():
    """Run the cases named on the command line, or all, and write their numbers."""
    names = sys.argv[1:] or list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        print(f"error: no case {', '.join(unknown)}; there are {', '.join(CASES)}", file=sys.stderr)
        return 2
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    cases = read() if FILE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:  # programs compiled twice are compiled once, as in the tests
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        for name in names:
            started = time.process_time()
            cases[name] = CASES[name]()
            print(f"{name:<20} {time.process_time() - started:6.1f} CPU-seconds", flush=True)
    FILE.write_text(to_text({name: own for name, own in cases.items() if name in CASES}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
