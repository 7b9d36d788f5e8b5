"""Study of sizing: does information find the size that a grid of static networks finds, and at what cost?

For each task: a static grid, the information method grown and shrunk, and one ablation at a time. Prints one
table in Markdown and writes it, with every seed's numbers, to `--out`.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count() or 1))  # runs share the cores without talking

CHOSEN_ON = ("gaussian-mixture", "line", "moons", "spirals-3", "digits")
CONFIRMED_ON = ("noise", "sine", "cubic", "quadratic", "bessel", "sine-classes", "spirals")
CONFIRMED_ON += ("breast-cancer", "wine", "diabetes")
ABLATIONS = {
    "look-ahead 1": {"look_ahead": 1},
    "no reordering": {"reorder": False},
    "no redundancy": {"redundancy_aware": False},
    "no bias correction": {"correct": False},
    "no birth term": {"birth": 0.0},
    "no weight prior": {"weight_prior": 0.0},
    "price / 4": {"price_scale": 0.25},
    "price x 4": {"price_scale": 4.0},
}
"""Settings that differ from the default, one at a time."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """Sizing by information against a static grid."""

    tasks: tuple[str, ...] = CHOSEN_ON + CONFIRMED_ON
    """Data sets by name; the settings were chosen on the first five."""
    widths: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    """Static grid."""
    seeds: int = 5
    """Number of seeds."""
    first_seed: int = 0
    """The first of them."""
    ablations: bool = True
    """Run the ablations too."""
    earlier: Path | None = None
    """The `study.json` of an earlier study: what it holds is kept, and only what it lacks is trained."""
    out: Path = Path("runs/study-sizing")
    """Folder for the run directories, `study.json` and `study.md`."""


def trained(
    study: Study,
    task: str,
    name: str,
    *,
    arms: tuple[str, ...],
    capacity: int | None = None,
    weight_prior: float | None = None,
    **settings: Any,
) -> dict[str, dict[str, Any]]:
    """Median size, median loss, every seed's numbers and the CPU seconds of each arm of one experiment."""
    import n3

    seeds = tuple(range(study.first_seed, study.first_seed + study.seeds))
    experiment = n3.Experiment(
        task=n3.TaskConfig(task=task),
        network=n3.NetworkConfig(method="information", capacity=None if capacity is None else (capacity,)),
        training=n3.TrainingConfig(weight_prior=weight_prior),
        information=dataclasses.replace(n3.InformationConfig(), **settings),
        run=n3.RunConfig(arms=arms, seeds=seeds, records=10, out=str(study.out), name=f"{task}-{name}"),
    )
    results = n3.run(experiment, quiet=True).results
    last = results.isel(step=-1)
    return {
        arm: {
            "size": float(last["size"].sel(arm=arm).median()),
            "loss": float(last.test_loss.sel(arm=arm).median()),
            "metric": float(last.test_metric.sel(arm=arm).median()),
            "sizes": last["size"].sel(arm=arm).values[:, 0].tolist(),
            "losses": last.test_loss.sel(arm=arm).values.tolist(),
            "cpu_seconds": results.attrs["cpu_seconds"] / len(arms),
        }
        for arm in arms
    }


def of_task(study: Study, task: str, earlier: dict) -> dict:
    """All results of one task; those of an earlier study are not trained again."""
    grids = {"static": {}, "static without prior": {"weight_prior": 0.0}}
    rows, without_prior = (earlier.get(name) or grid(study, task, name, **own) for name, own in grids.items())
    automatic = dict(earlier.get("automatic", {}))
    for arm in ("growing", "shrinking"):
        if arm not in automatic:
            automatic |= trained(study, task, arm, arms=(arm,))
    for label, settings in (ABLATIONS if study.ablations else {}).items():
        if label not in automatic:
            name = label.replace(" ", "-").replace("/", "over")
            automatic[label] = trained(study, task, name, arms=("growing",), **settings)["growing"]
    best, plain = (min(row["loss"] for row in own.values()) for own in (rows, without_prior))
    return {
        "task": task,
        "static": rows,
        "static without prior": without_prior,
        "best": best,
        "best without prior": plain,
        "smallest": min(int(width) for width, row in rows.items() if row["loss"] <= 1.05 * best),
        "automatic": automatic,
    }


def grid(study: Study, task: str, name: str, **settings: Any) -> dict[str, dict[str, Any]]:
    """The static networks of each width."""

    def of_width(width: int) -> dict[str, Any]:
        label = f"{name.replace(' ', '-')}-{width}"
        return trained(study, task, label, arms=("static",), capacity=width, **settings)["static"]

    return {str(width): of_width(width) for width in study.widths}


def table(done: list[dict]) -> str:
    """Sizes and losses of all tasks in Markdown; a loss is given over the best of the grid."""
    labels = list(done[0]["automatic"])
    lines = [
        "| task | best static loss | without prior | smallest within 5 % | "
        + " | ".join(labels)
        + " | CPU, grown / grid |",
        "|---" * (len(labels) + 5) + "|",
    ]
    for one in done:
        cells = [f"{row['size']:.1f} / {row['loss'] / one['best']:.2f}" for row in one["automatic"].values()]
        cost = one["automatic"]["growing"]["cpu_seconds"] / sum(
            r["cpu_seconds"] for r in one["static"].values()
        )
        lines.append(
            f"| {one['task']} | {one['best']:.3g} | {one['best without prior']:.3g} | {one['smallest']} | "
            + " | ".join(cells)
            + f" | {cost:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the study, task by task."""
    study = tyro.cli(Study, description=__doc__)
    earlier = json.loads(study.earlier.read_text()) if study.earlier else []
    known, done = {one["task"]: one for one in earlier}, []
    for task in study.tasks:
        done.append(of_task(study, task, known.get(task, {})))
        print(table(done[-1:]), flush=True)
        (study.out / "study.json").write_text(json.dumps(done, indent=1) + "\n")
        (study.out / "study.md").write_text(table(done))
    print(table(done))


if __name__ == "__main__":
    main()
