"""Study of sizing: one unattended run against a grid of static widths under the same treatment.

For each task the networks that choose their size, judged on held-out folds, and a grid of static widths with
the same members, the same solved read-outs and the same choice of strength. The width of the grid is chosen by
the test loss (oracle) and by the folds (what a user can do). Writes a Markdown table and every seed's numbers.
"""

import json
import os
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count() or 1))  # runs share the cores without talking

TASKS: dict[str, dict[str, Any]] = {
    **{
        name: {}
        for name in (
            *(
                "gaussian-mixture",
                "line",
                "moons",
                "spirals-3",
                "digits",
                "noise",
                "sine",
                "cubic",
                "quadratic",
            ),
            *("bessel", "sine-classes", "spirals", "breast-cancer", "wine", "diabetes"),
            *(
                "narrow-bessel",
                "cubic-negative",
                "quadratic-2",
                "gaussian-mixture-low",
                "gaussian-mixture-high",
            ),
            *("spirals-7", "spirals-9", "iris"),
            *("sine-5", "sine-5-clean", "checkerboard", "rare-class", "friedman-copies", "random-labels"),
            "separable",
        )
    },
    "checkerboard, two layers": {"task": "checkerboard", "layers": 2},
    "checkerboard, relu": {"task": "checkerboard", "activation": "relu"},
    "checkerboard, 1,000 steps": {"task": "checkerboard", "steps": 1000},
    "checkerboard, rate 1e-3": {"task": "checkerboard", "learning_rate": 1e-3},
    **{f"smooth, n = {number}": {"task": "smooth", "samples": number} for number in (30, 60, 120)},
}
"""Settings by the name of the task in tables."""
CHOSEN_ON = tuple(TASKS)[::2]
"""Half of the tasks, on which settings may be chosen; the others are for confirmation alone."""
RESOLUTION = 1e-8
"""Share of the target's variance below which losses count as equal to it."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Sizing by held-out samples against a static grid."""

    tasks: tuple[str, ...] = CHOSEN_ON
    """Tasks by their names in `TASKS`."""
    widths: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Static grid."""
    seeds: int = 5
    """Number of seeds."""
    first_seed: int = 0
    """The first of them."""
    capacity: int = 64
    """Units allocated in each hidden layer of the networks that grow."""
    has_baselines: bool = True
    """Train scikit-learn's models on the same splits too."""
    has_growing: bool = True
    """Train the networks that choose their size; without them the grid and the baselines alone, for later."""
    out: Path = Path("runs/study-sizing")
    """Folder for the run directories, `study.json`, `study.md` and the parts, from which a study goes on."""


def trained(study: Study, name: str, arm: str, units: int) -> dict[str, Any]:
    """Sizes, losses, test losses sample by sample and CPU seconds of one arm on one task, seed by seed.

    What an earlier, unfinished study of the same folder has trained is read from there.
    """
    return _part(study, f"{name} {arm} {units}", lambda: _trained(study, name, arm, units))


def _part(study: Study, label: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part of the study, from its file if there is one; else made and written."""
    kind = re.sub(r"[^a-z0-9.]+", "-", f"{label} seeds {study.first_seed} {study.seeds}")
    path = study.out / "parts" / f"{kind}.json"
    if path.exists():
        return json.loads(path.read_text())
    found = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(found))
    beside.replace(path)
    return found


def _trained(study: Study, name: str, arm: str, units: int) -> dict[str, Any]:
    import n3

    options = dict(TASKS[name])
    layers, task = options.pop("layers", 1), options.pop("task", name)
    samples, activation = options.pop("samples", None), options.pop("activation", "tanh")
    own = n3.Experiment(
        task=n3.TaskConfig(task=task, samples=samples),
        network=n3.NetworkConfig(method="information", capacity=(units,) * layers, activation=activation),
        training=n3.TrainingConfig(**options),
        information=n3.InformationConfig(criterion="held-out"),
        run=n3.RunConfig(
            arms=(arm,),
            seeds=tuple(range(study.first_seed, study.first_seed + study.seeds)),
            records=10,
            out=str(study.out / "runs"),
            name=f"{re.sub('[^a-z0-9]+', '-', name)}-{arm}-{units}-{time.time_ns()}",
        ),
    )
    record = n3.run(own, quiet=True, has_figures=False)
    last = record.results.sel(arm=arm).isel(step=-1)
    losses = [_test_losses(task, samples, seed, net) for seed, net in _networks(record, arm)]
    return {
        "sizes": last["size"].values.tolist(),
        "losses": last.test_loss.values.tolist(),
        "held_out": last.held_out_loss.values.tolist(),
        "held_out_errors": last.held_out_error.values.tolist(),
        "cpu_seconds": record.results.attrs["cpu_seconds"],
        "compile_seconds": record.results.attrs["compile_seconds"],
        "sample_losses": [own.astype(np.float32).tolist() for own in losses],
    }


def _networks(record, arm: str):
    import n3

    return zip(record.experiment.run.seeds, n3.load(record.directory)[arm], strict=True)


def _test_losses(task: str, samples: int | None, seed: int, net) -> np.ndarray:
    """Loss of every test sample."""
    import jax.numpy as jnp

    import n3
    from n3.nn import sample_losses

    data = n3.load_dataset(task, train_samples=samples, seed=seed)
    loss = "squared-error" if data.kind == "regression" else "cross-entropy"
    outputs = net.batch(jnp.asarray(data.test_inputs.T))
    return np.asarray(sample_losses(outputs, jnp.asarray(data.test_targets.T), loss), float)


def baselines(study: Study, name: str) -> dict[str, list[float]]:
    """Test losses of scikit-learn's models on the same splits, seed by seed."""
    return _part(study, f"{name} baselines", lambda: _baselines(study, name))


def _baselines(study: Study, name: str) -> dict[str, list[float]]:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    import n3

    options, found = TASKS[name], {}
    for seed in range(study.first_seed, study.first_seed + study.seeds):
        data = n3.load_dataset(options.get("task", name), train_samples=options.get("samples"), seed=seed)
        is_classes = data.kind == "classification"
        mlp, trees = (
            (MLPClassifier, HistGradientBoostingClassifier)
            if is_classes
            else (MLPRegressor, HistGradientBoostingRegressor)
        )
        models = {
            "MLP": mlp(max_iter=1000, random_state=seed),
            "MLP, early stopping": mlp(max_iter=1000, early_stopping=True, random_state=seed),
            "gradient boosting": trees(random_state=seed),
        }
        labels = [_labels(own, is_classes) for own in (data.train_targets, data.test_targets)]
        for label, model in models.items():
            with warnings.catch_warnings(action="ignore"):  # of too few steps: the number counts
                model.fit(data.train_inputs, labels[0])
            found.setdefault(label, []).append(_score(model, data.test_inputs, labels[1], is_classes))
    return found


def _labels(targets: np.ndarray, is_classes: bool) -> np.ndarray:
    if targets.shape[1] == 1:
        return targets[:, 0].astype(int) if is_classes else targets[:, 0]
    return targets.argmax(axis=1) if is_classes else targets


def _score(model, inputs: np.ndarray, targets: np.ndarray, is_classes: bool) -> float:
    if not is_classes:
        return float(np.mean((model.predict(inputs) - targets) ** 2))
    chances = model.predict_proba(inputs)[np.arange(len(targets)), np.searchsorted(model.classes_, targets)]
    return float(-np.mean(np.log(np.maximum(chances, 1e-12))))


def of_task(study: Study, name: str) -> dict[str, Any]:
    """All results of one task."""
    grown = trained(study, name, "growing", study.capacity)
    grid = {str(width): trained(study, name, "static", width) for width in study.widths}
    best = min(grid, key=lambda width: np.median(grid[width]["losses"]))
    by_folds = [min(grid, key=lambda width, s=seed: grid[width]["held_out"][s]) for seed in range(study.seeds)]
    floor = RESOLUTION * _variance(name, study)
    chosen = [grid[width]["losses"][seed] for seed, width in enumerate(by_folds)]
    ratios, fair = (_ratios(grown["losses"], own, floor) for own in (grid[best]["losses"], chosen))
    close = [
        bool(np.mean(own - other) <= 2 * np.std(own - other) / np.sqrt(len(own)))
        for own, other in zip(
            np.array(grown["sample_losses"]), np.array(grid[best]["sample_losses"]), strict=True
        )
    ]
    medians = {width: np.median(own["losses"]) for width, own in grid.items()}
    near = [int(width) for width, own in medians.items() if own <= max(1.05 * medians[best], floor)]
    cpu = sum(own["cpu_seconds"] for own in grid.values())
    for own in (grown, *grid.values()):
        del own["sample_losses"]
    return {
        "task": name,
        "grown": grown,
        "grid": grid,
        "oracle": int(best),
        "chosen by folds": [int(width) for width in by_folds],
        "ratio to oracle": ratios,
        "ratio to folds": fair,
        "trusted": [bool(ratio <= 1.25) or own for ratio, own in zip(ratios, close, strict=True)],
        "smallest": min(near),
        "cost": grown["cpu_seconds"] / cpu,
        "baselines": baselines(study, name) if study.has_baselines else {},
    }


def _variance(name: str, study: Study) -> float:
    import n3

    data = n3.load_dataset(TASKS[name].get("task", name), seed=study.first_seed)
    return float(np.mean(np.var(data.train_targets, axis=0))) if data.kind == "regression" else 1.0


def _ratios(losses: list[float], others: list[float], floor: float) -> list[float]:
    """Seed by seed; losses below the resolution count as equal to it."""
    return [max(own, floor) / max(other, floor) for own, other in zip(losses, others, strict=True)]


def smallest(one: dict[str, Any]) -> float:
    """Units, in all layers, of the smallest width that is within 5 % of the best."""
    return float(np.median(np.sum(one["grid"][str(one["smallest"])]["sizes"], axis=1)))


def table(done: list[dict]) -> str:
    """Sizes, losses and ratios of all tasks in Markdown."""
    lines = [
        "| task | size, median [least, most] | smallest | loss | oracle, loss | ratio, median [least, most] "
        "| to folds | trusted | MLP | boosting | CPU |",
        "|---" * 11 + "|",
    ]
    for one in done:
        sizes = np.sum(one["grown"]["sizes"], axis=1)
        ratios, loss = one["ratio to oracle"], np.median(one["grown"]["losses"])
        best = np.median(one["grid"][str(one["oracle"])]["losses"])
        rivals = {name: np.median(own) for name, own in one["baselines"].items()}
        mlp = min((own for name, own in rivals.items() if name.startswith("MLP")), default=np.nan)
        lines.append(
            f"| {one['task']} | {np.median(sizes):.0f} [{sizes.min():.0f}, {sizes.max():.0f}] "
            f"| {smallest(one):.0f} | {loss:.3g} | {one['oracle']}, {best:.3g} "
            f"| {np.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] "
            f"| {np.median(one['ratio to folds']):.2f} | {sum(one['trusted'])}/{len(ratios)} "
            f"| {loss / mlp:.2f} | {loss / rivals.get('gradient boosting', np.nan):.2f} | {one['cost']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the study, task by task; each is written as soon as it is done."""
    study = tyro.cli(Study, description=__doc__)
    if unknown := set(study.tasks) - set(TASKS):
        raise SystemExit(f"error: `tasks` must be of {', '.join(TASKS)}; got {sorted(unknown)[0]!r}.")
    done = []
    study.out.mkdir(parents=True, exist_ok=True)
    for name in study.tasks:
        if not study.has_growing:
            _ = [trained(study, name, "static", width) for width in study.widths], baselines(study, name)
            continue
        done.append(of_task(study, name))
        (study.out / "study.json").write_text(json.dumps(done, indent=1) + "\n")
        (study.out / "study.md").write_text(table(done))
        print(table(done[-1:]), flush=True)


if __name__ == "__main__":
    main()
