"""Digits: test accuracy over active parameters, grown to a budget against the same shape from scratch.

    uv run --extra data benchmarks/digits.py [--quick] [--seeds N] [--out FILE] [--figure FILE]

One hidden layer, method information's preset (Adam 1e-2 with a cosine to zero, prior on the weights), but 2,500
steps of 128 samples, and sizes that move a tenth of a unit a step: as many units a run as in the preset. One
stratified split for all seeds (three quarters train). Variants:

* `growing`: to each of five budgets of active parameters (`--budget`), from half a unit on;
* `equal-size`: the same widths, seed by seed, drawn anew;
* `static`: five widths set by hand.

Intervals are BCa over the seeds, differences paired by seed. The reference is a published accuracy of a network
that Torch-Pruning made smaller.
"""

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(os.cpu_count() or 1))  # runs share the cores without talking

import jax
import numpy as np

import n3
from n3.experiments import hypers_of, load_data
from n3.plotting import plot_parameters
from n3.stats import accuracy_curve, align_columns, with_interval
from runs import Outcome, estimate, trained

BUDGETS = (400, 800, 1_700, 3_466, 6_000)
WIDTHS = (4, 8, 16, 32, 64)
CAPACITY = 96
REFERENCE = {"Torch-Pruning,\npublished": (3_466.0, 0.953)}


def experiment_of(seeds: int, steps: int, budget: int | None = None) -> n3.Experiment:
    """The experiment of all variants, to a budget or without."""
    return n3.Experiment(
        task=n3.TaskConfig(task="digits", data_seed=0),
        network=n3.NetworkConfig(method="information", capacity=(CAPACITY,)),
        training=n3.TrainingConfig(steps=steps, batch=128),
        information=n3.InformationConfig(budget=budget, size_rate=250 / steps),
        run=n3.RunConfig(seeds=tuple(range(seeds)), records=2),
    ).resolved()


def variants(seeds: int, steps: int) -> dict[str, list[Outcome]]:
    """All runs of each variant, size by size."""
    experiment = experiment_of(seeds, steps)
    data = load_data(experiment)
    budgets = [experiment_of(seeds, steps, budget) for budget in BUDGETS]
    hypers = [hypers_of(own, "growing", data=data, active=None) for own in budgets]
    growing = trained(experiment, data, hypers, arm="growing")
    widths = [*(own.widths for own in growing), *(np.full((seeds, 1), width) for width in WIDTHS)]
    hypers = [hypers_of(experiment, "equal-size", data=data, active=own) for own in widths]
    drawn = trained(experiment, data, hypers, arm="equal-size")
    return {"growing": growing, "equal-size": drawn[: len(BUDGETS)], "static": drawn[len(BUDGETS) :]}


def values(runs: list[Outcome], name: str) -> np.ndarray:
    """One quantity, sizes by seeds."""
    return np.stack([np.asarray(getattr(own, name), float) for own in runs])


def summary(found: dict[str, list[Outcome]]) -> dict[str, Any]:
    """Means with intervals, every seed's numbers, and growing less its shape from scratch."""
    names = ("parameters", "accuracy", "test_loss", "train_loss")
    report = {
        arm: [{name: values(runs, name)[n].tolist() for name in names} for n in range(len(runs))]
        for arm, runs in found.items()
    }
    for rows in report.values():
        for row in rows:
            row["mean_accuracy"] = estimate(np.array(row["accuracy"]))
    for row, other in zip(report["growing"], report["equal-size"], strict=True):
        row["less_equal_size"] = estimate(np.array(row["accuracy"]) - np.array(other["accuracy"]))
        row["loss_over_equal_size"] = n3.stats.compare(
            np.array(row["test_loss"]), np.array(other["test_loss"])
        ).ci95
    return report


def table(report: dict[str, Any]) -> str:
    """The report for the eye."""
    lines = ["variant|parameters|accuracy [95 %]|growing less equal-size [95 %]|test loss"]
    for arm, rows in report.items():
        for row in rows:
            own, less = row["mean_accuracy"], row.get("less_equal_size")
            accuracy = with_interval(own["value"], *own["ci95"], form=".4f")
            told = with_interval(less["value"], *less["ci95"], form=".4f") if less else ""
            lines.append(
                f"{arm}|{np.median(row['parameters']):g}|{accuracy}|{told}|{np.mean(row['test_loss']):.4f}"
            )
    return align_columns(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps and seeds, to see that it runs")
    parser.add_argument("--seeds", type=int, default=10, help="seeds, from 0")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON here as well")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the curves here")
    arguments = parser.parse_args()
    seeds, steps = (2, 100) if arguments.quick else (arguments.seeds, 2_500)
    before, found = os.getloadavg(), variants(seeds, steps)
    report = summary(found)
    print(table(report))
    facts = {
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
    facts |= {"steps": steps, "seeds": seeds, "load": [before, os.getloadavg()]}
    if arguments.figure:
        curves = [
            accuracy_curve(arm, *(values(runs, n) for n in ("parameters", "accuracy")))
            for arm, runs in found.items()
        ]
        title = f"digits: accuracy over active parameters, one hidden layer, {seeds} seeds"
        plot_parameters(title, curves, REFERENCE).savefig(arguments.figure, dpi=120)
    if arguments.out:
        arguments.out.write_text(json.dumps(facts | report, indent=1) + "\n")
    print(json.dumps(facts | report))


if __name__ == "__main__":
    main()
