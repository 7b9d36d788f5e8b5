"""Report: one self-contained page of what a run or a sweep found, `report.html`."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from n3.config import grid
from n3.config.experiment import Experiment
from n3.config.grid import Study
from n3.config.validation import inside, read_file
from n3.data.dataset import BUILT_IN
from n3.experiments import page
from n3.experiments.directory import REMEDY, REPORT, refuse_obstacles
from n3.experiments.predict import read_preprocessing
from n3.experiments.results import read, read_results
from n3.stats.comparison import point_and_interval
from n3.stats.distributions import Ends, setting_curves
from n3.stats.summary import (
    FINAL,
    LOSS_UNITS,
    METRICS,
    QUANTILE,
    Results,
    RunRecord,
    align_columns,
    few_seeds,
    final_values,
    find_warnings,
    has_diverged,
    likeliest_classes,
    summarise,
    table,
)
from n3.surgery.export import write_file, write_out
from n3.training.checkpoint import MANIFEST, CheckpointError, damages, read_manifest, write_manifest

MOST_INTERVALS = 500
"""Rows of a sweep's table that have intervals at most: each takes some milliseconds."""
CAPTIONS = {
    "loss": "Task loss over optimiser steps, by arm: median and quartiles over the seeds.",
    "size": "Size of each hidden layer over optimiser steps, in effective units: median and quartiles over the "
    "seeds. The capacity is dotted.",
    "final-loss": "Share of runs up to each final test loss, by arm. The dotted lines mark the medians.",
    "fit": "Samples of the first seed; predictions and residuals by arm: median and quartiles over the seeds.",
    "regions": "Predicted classes over the two inputs for the first seed, with its training samples.",
    "information": "Monitored information of each layer over optimiser steps, in nats, beside the size: "
    "median and quartiles over the seeds.",
    "price-path": "The growing arm at every price: test loss over size, size over price. A circle: the pick.",
    "choices": "Share of each activation over optimiser steps, by arm and layer.",
    "settings": "Final test loss and size over each setting: medians and quartiles of all runs with it.",
    "structure": "Size of every run over optimiser steps, with the units that were pruned and added.",
}
"""What each figure shows, by its name."""
_TRAINING = ("train_growing.py", "sweep.py", "reproduce.py")
_Facts = Mapping[str, Any]


def write_report(directory: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a finished run or sweep, and return where it is.

    Without `out` it is `report.html` in the directory, and the manifest lists it; the other facts of the
    manifest stay as they are.

    Raises:
        FileNotFoundError: If the directory is no finished run or sweep.
        ValueError: If a file that the page shows is damaged.
    """
    folder = Path(directory)
    if out is not None and "\0" not in str(out) and Path(out).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"`out` must lie outside of {folder}, which has its {REPORT} without it; got {out}.")
    refuse_obstacles(folder)
    if not (folder / MANIFEST).exists():
        due = "must be the finished run directory of `n3 train` or `n3 sweep`"
        raise FileNotFoundError(f"`run` {due}; {folder} has no {MANIFEST}.")
    facts = read_manifest(folder)
    for fault in damages(folder, *(name for name in facts["sha256"] if name != REPORT)):
        raise CheckpointError(f"{fault} {REMEDY}")
    if (folder / "study.json").exists():
        text = study_report(Study.load(inside(folder, "study.json")), read_results(folder), folder)
    elif (folder / "config.json").exists():
        text = run_report(read(folder), folder)
    else:
        parts = [path.parent.name for path in sorted(folder.glob("*/study.json"))]
        rest = f" Its parts are sweeps: {', '.join(parts)}." if parts else ""
        raise FileNotFoundError(f"`run` must hold config.json or study.json; {folder} has neither.{rest}")
    if out is not None:
        write_out(out, text.encode())
        return Path(out)
    write_file(folder / REPORT, text.encode())
    sums = dict(facts.pop("sha256")) | {REPORT: ""}
    write_manifest(folder, facts, sorted(sums))
    return folder / REPORT


def run_report(record: RunRecord, folder: Path) -> str:
    """The page of one experiment, from its record and from the manifest and figures in its folder."""
    experiment, facts, whole = record.experiment, read_manifest(folder), summarise(record)
    summary = _without_nan(whole)
    title = f"{summary['task']}, method {summary['method']}"
    own = f"n3 train --config {shlex.quote(str(folder / 'config.json'))}"
    sections = [
        _header(title, folder, _run_sentences(record)),
        page.html_section(
            "Results",
            _arm_table(summary),
            _recall_table(summary),
            _comparison_table(summary),
            _as_text(whole),
        ),
        page.html_section("Columns", *_columns(record, folder)),
        page.html_section("Warnings", page.html_warnings([each["text"] for each in summary["warnings"]])),
        page.html_section("Figures", _figures(folder, facts)),
        page.html_section("Settings", *_settings([experiment])),
        *_end(facts, folder, [own] if experiment.task.data or experiment.task.task in BUILT_IN else []),
    ]
    return page.html_page(f"n3: {title}", sections)


def study_report(study: Study, results: Results, folder: Path) -> str:
    """The page of a sweep, from its results and the manifest in its folder."""
    run, facts = study.base.run, read_manifest(folder)
    names = ", ".join(study.cells[0]) or "nothing"
    title = f"{study.base.task.named().task}, sweep over {names}"
    plan = f"{len(study.cells)} settings, arms {', '.join(run.arms)}, {_seeds(run.seeds)} each."
    warnings = [text for own in _cells(study, results) for text in _cell_warnings(*own)]
    sections = [
        _header(title, folder, [plan]),
        page.html_section("Results", _study_table(study, results)),
        page.html_section("Warnings", page.html_warnings(warnings)),
        page.html_section("Figures", _figures(folder, facts)),
        page.html_section("Settings that all share", *_settings(study.experiments())),
        *_end(facts, folder, []),
    ]
    return page.html_page(f"n3: {title}", sections)


def cell_values(results: Results, study: Study) -> Iterator[tuple[Mapping[str, Any], str, xr.Dataset]]:
    """The settings of each cell, each arm, and its final values over the seeds, NaN where a run diverged."""
    for _, cell, here in _cells(study, results):
        for arm in study.base.run.arms:
            yield cell, arm, final_values(here).sel(arm=arm)


def _cells(study: Study, results: Results) -> Iterator[tuple[Experiment, Mapping[str, Any], Results]]:
    names = [axis.name for axis in study.axes] or ["cell"]
    places = np.ndindex(*(results.sizes[name] for name in names))
    for experiment, cell, place in zip(study.experiments(), study.cells, places, strict=True):
        here = results.isel(dict(zip(names, place, strict=True)))
        yield experiment, cell, here.dropna("step", how="all", subset=["size"])


def _cell_warnings(experiment: Experiment, cell: Mapping[str, Any], here: Results) -> Iterator[str]:
    lost, settings = has_diverged(here), _told(cell)
    count = int(lost.sum())
    if count:
        yield f"{settings}: {count} of {lost.size} runs diverged"
    for warning in find_warnings(experiment, here, lost):
        yield f"{settings}: {warning.text}"


def _told(cell: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {grid.setting_label(value)}" for name, value in cell.items()) or "all"


def _header(title: str, folder: Path, sentences: Sequence[str]) -> str:
    head = f"<header>\n<h1>{escape(title)}</h1>\n{page.html_paragraph(f'Run {folder.name}', is_dim=True)}"
    return "\n".join([head, *map(page.html_paragraph, sentences), "</header>"])


def _run_sentences(record: RunRecord) -> list[str]:
    experiment, results = record.experiment, record.results
    run, sizes, steps = experiment.run, results.sizes, experiment.training.steps
    units = ", ".join(map(str, experiment.network.capacity or ()))
    samples = f"{sizes.get('train_sample', 0):,} training and {sizes.get('test_sample', 0):,} test samples"
    what = f"{results.attrs.get('kind', 'learning').capitalize()} with {samples} for each seed."
    who = f"{len(run.arms)} arms ({', '.join(run.arms)}), {_seeds(run.seeds)} each, {steps:,} steps."
    layers = f"Capacity: {units} hidden units." if units else ""
    members = experiment.training.members
    folds = f"Every run has {members} members, each with a fold of the samples held out." if members else ""
    return [what, who, " ".join(filter(None, [layers, folds]))]


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    is_range = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    few = ", ".join(map(str, seeds[:10])) + ", ..." * (len(seeds) > 10)
    return f"{len(seeds)} seeds ({f'{seeds[0]} to {seeds[-1]}' if is_range else few})"


def _number(value: float | None, form: str = ".3g") -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:{form}}"


def _interval(value: float | None, ends: Sequence[float | None] | None) -> str:
    low, high = map(_number, ends or (None, None))
    return _number(value) if "-" in (low, high) else f"{_number(value)} [{low}, {high}]"


def _arm_table(summary: _Facts) -> str:
    first, count = next(iter(summary["arms"].values())), len(summary["seeds"])
    metric, has_held_out = first["test_metric"]["name"], "held_out_loss" in first
    head = ["arm", "test loss [95 % interval]", *["held-out loss ± 95 %"] * has_held_out]
    head += [f"{metric} ({'unit of the target' if metric == 'rmse' else 'share'})"]
    head += ["size (units) [least, most]", "parameters", "diverged"]
    rows = []
    for arm, own in summary["arms"].items():
        row = [arm, _interval(own["test_loss"]["median"], own["test_loss"]["ci95"])]
        if has_held_out:
            held = own["held_out_loss"]
            errors = [error for error in held["standard_errors"] if error is not None]
            error = QUANTILE * float(np.median(errors)) if errors else None
            row.append(f"{_number(held['median'])} ± {_number(error, '.1g')}")
        sizes = [size for size in own["final_size"]["values"] if size is not None and math.isfinite(size)]
        ends = (min(sizes), max(sizes)) if sizes else None
        row += [_number(own["test_metric"]["median"], ".4g"), _interval(own["final_size"]["median"], ends)]
        row += [_number(own["active_parameters"]["median"], "g"), f"{len(own['diverged_seeds'])} of {count}"]
        rows.append(row)
    caption = f"Medians over {count} seeds after {summary['steps']:,} steps; loss in {summary['loss_unit']}."
    return page.html_table(head, rows, caption=f"{caption} {few_seeds(count)}".strip())


def _recall_table(summary: _Facts) -> str:
    arms = summary["arms"]
    if "recall" not in next(iter(arms.values())):
        return ""
    classes, balanced = next(iter(arms.values()))["recall"], "balanced accuracy"
    rows = [[name, *(_number(own["recall"][name], ".3f") for own in arms.values())] for name in classes]
    rows += [[balanced, *(_number(own["balanced_accuracy"]["median"], ".3f") for own in arms.values())]]
    caption = "Recall of each class on the test samples, and their mean: medians over the seeds."
    return page.html_table(["class", *arms], rows, caption=caption)


def _columns(record: RunRecord, folder: Path) -> Iterator[str]:
    """What became of each column of the user's table, and how many samples each class has."""
    task, results = record.experiment.task, record.results
    if task.data is None:
        return
    first, *_ = read_preprocessing(folder, seeds=len(record.experiment.run.seeds))
    spread = np.ptp(results["train_inputs"].values, axis=0)
    constant = set(results["inputs_feature"].values[spread == 0].tolist())
    rows = [[own.name, own.describe() + "; constant" * (own.name in constant)] for own in first.encoder.columns]
    rows += [[name, "left out"] for name in task.drop]
    yield page.html_table(
        ["column", "what it is"], rows, caption=f"As seed {record.experiment.run.seeds[0]} has it."
    )
    if first.is_classes:
        sides = [likeliest_classes(results[f"{side}_targets"].values - 0.5) for side in ("train", "test")]
        counts = zip(*(np.bincount(own, minlength=len(first.targets)).tolist() for own in sides), strict=True)
        classes = [[name, *map(str, own)] for name, own in zip(first.targets, counts, strict=True)]
        yield page.html_table(["class", "training samples", "test samples"], classes)


def _comparison_table(summary: _Facts) -> str:
    if not summary["comparisons"]:
        return ""
    head = ["test loss of", "median ratio [95 % interval]", "lower in", "p-value", "ratio of means", "excluded"]
    rows = []
    for pair in summary["comparisons"]:
        ratio = _interval(pair["median_ratio"], pair["median_ratio_ci95"])
        row = [f"{pair['a']} / {pair['b']}", ratio, f"{pair['wins']} of {pair['pairs']}"]
        row += [_number(pair["p_value"], ".2g"), _number(pair["ratio_of_means"]), str(pair["excluded"])]
        rows.append(row)
    caption = "Pairs of arms, seed by seed. A ratio below 1: the first arm has the lower loss."
    return page.html_table(head, rows, caption=caption)


def _as_text(summary: _Facts) -> str:
    """The table of the terminal, which holds the price path, choices and ends of growth too."""
    return page.html_details("The same as text, as the terminal shows it", page.html_code(table(summary)))


def _without_nan(value: Any) -> Any:
    """A summary with None in place of NaN and of infinities, as in `summary.json`."""
    if isinstance(value, dict):
        return {name: _without_nan(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(own) for own in value]
    return None if isinstance(value, float | np.floating) and not math.isfinite(value) else value


def metric_heading(results: Results) -> str:
    """The heading of the metric of a sweep, by its name; `metric` where the tasks are of both kinds."""
    name, unit = METRICS.get(results.attrs.get("kind"), ("metric", "unit of the task"))
    return f"{name} ({unit})"


def _study_table(study: Study, results: Results) -> str:
    head = [
        *study.cells[0],
        "arm",
        "test loss [95 % interval]",
        metric_heading(results),
        "size (units)",
        "parameters",
        "diverged",
    ]
    rows, has_intervals = [], len(study.cells) * len(study.base.run.arms) <= MOST_INTERVALS
    for cell, arm, own in cell_values(results, study):
        losses = own["test_loss"].values
        known = losses[np.isfinite(losses)]
        middle, ends = float(np.median(known)) if len(known) else None, None
        if has_intervals and len(known):
            ends = point_and_interval(np.median, known)[1]
        others = [float(own[name].median()) for name in ("test_metric", "final_size", "active_parameters")]
        medians = map(_number, others, (".4g", ".2f", "g"))
        lost = f"{len(losses) - len(known)} of {len(losses)}"
        settings = (str(grid.setting_label(value)) for value in cell.values())
        rows.append([*settings, arm, _interval(middle, ends), *medians, lost])
    seeds = results.sizes["seed"]
    caption = f"Medians over {seeds} seeds at the last step. {few_seeds(seeds) if has_intervals else ''}"
    return page.html_table(head, rows, caption=caption.strip())


def _figures(folder: Path, facts: _Facts) -> str:
    names = [name for name in facts["sha256"] if name.startswith("figures/") and name.endswith(".png")]
    stems = sorted((Path(name).stem for name in names), key=lambda stem: [*CAPTIONS, stem].index(stem))
    pictures = [(read_file(inside(folder, f"figures/{stem}.png")), CAPTIONS.get(stem, stem)) for stem in stems]
    return f'<div class="figures">{"".join(page.html_figure(*own) for own in pictures)}</div>' if stems else ""


def _settings(experiments: Sequence[Experiment]) -> Iterator[str]:
    """The settings that resolved experiments share, part by part; those without a value are left out."""
    for part in map(str, asdict(experiments[0])):
        every = [vars(getattr(own, part)) for own in experiments]
        shared = {n: own for n, own in every[0].items() if all(other[n] == own for other in every)}
        facts = {n: _value(own) for n, own in shared.items() if own not in (None, ())}
        yield page.html_details(part.capitalize(), page.html_facts(facts))


def _value(value: Any) -> str:
    if isinstance(value, tuple) and value:
        first, *_ = value
        is_range = (
            len(value) > 3 and isinstance(first, int) and value == tuple(range(first, first + len(value)))
        )
        return f"{first} to {first + len(value) - 1}" if is_range else ", ".join(map(str, value))
    return str(value)


def _end(facts: _Facts, folder: Path, more: Sequence[str]) -> Iterator[str]:
    """How to repeat the run, and on what it was computed."""
    commands = [own for own in [_command(facts.get("command", ())), *more] if own]
    note = "The same command finds a finished run and only prints its table; another --name trains anew."
    if commands:
        code = page.html_code("\n".join(commands))
        yield page.html_section("Repeat it", code, page.html_paragraph(note, is_dim=True))
    git = facts.get("git") or {}
    commit = f"{git['commit']}{' (with changes)' * bool(git.get('dirty'))}" if git.get("commit") else "-"
    seconds = {f"{name} seconds": f"{value:,.1f}" for name, value in facts["seconds"].items()}
    versions = {name: str(own) for name, own in facts["versions"].items()}
    rest = {"device": str(facts["device"]), "precision": str(facts["precision"]), "commit of n3": commit}
    yield page.html_section("Computed with", page.html_facts({**rest, **seconds, **versions}))


def _command(words: Sequence[str]) -> str:
    """The command line that started the run; nothing where no file did, as in a notebook."""
    name = Path(words[0]).name if words else ""
    if name == "n3":
        return shlex.join(["n3", *words[1:]])
    first = f"scripts/{name}" if name in _TRAINING else name
    return shlex.join(["python", first, *words[1:]]) if name.endswith(".py") else ""


def summarise_study(results: Results, study: Study) -> dict[str, Any]:
    """The contents of a sweep's `summary.json`: of every cell its settings and, by arm, its final values."""
    cells: list[dict[str, Any]] = []
    arms = len(study.base.run.arms)
    for place, (cell, arm, own) in enumerate(cell_values(results, study)):
        if place % arms == 0:
            labels = {name: grid.setting_label(value) for name, value in cell.items()}
            cells.append({"settings": labels, "arms": {}})
        known = own.isel(seed=np.isfinite(own["test_loss"].values))
        facts = {
            name: {"median": float(known[name].median()), "values": own[name].values.tolist()} for name in FINAL
        }
        lost = sorted(set(own["seed"].values.tolist()) - set(known["seed"].values.tolist()))
        cells[-1]["arms"][arm] = {**facts, "diverged_seeds": lost}
    told = {"tasks": _tasks(study), "steps": study.last_step, "seeds": results["seed"].values.tolist()}
    units = {"loss_unit": _loss_unit(results), "metric": results.attrs.get("metric")}
    return {**told, **units, "settings": list(study.cells[0]), "cells": cells}


def describe_medians(results: Results, study: Study) -> str:
    """What the numbers of `study_table` are, in a sentence."""
    steps = {cell.training.steps for cell in study.experiments()}
    after = f"after {steps.pop()} steps" if len(steps) == 1 else "at the last step"
    return f"Medians over {results.sizes['seed']} seeds {after}; test loss in {_loss_unit(results)}."


def study_table(results: Results, study: Study) -> str:
    """The last step of every cell and arm as text: medians over the seeds of the runs that did not diverge."""
    rows = ["|".join([*study.cells[0], "arm", "test loss", metric_heading(results), *_REST])]
    for cell, arm, own in cell_values(results, study):
        known = own.isel(seed=np.isfinite(own["test_loss"].values))
        lost = f"{own.sizes['seed'] - known.sizes['seed']}/{own.sizes['seed']}"
        medians = [f"{float(known[name].median()):.4g}" if known.sizes["seed"] else "-" for name in FINAL]
        settings = (str(grid.setting_label(value)) for value in cell.values())
        rows.append("|".join([*settings, arm, *medians, lost]))
    return align_columns(rows)


_REST = ("size (units)", "parameters", "diverged")


def settings_figure(study: Study, results: Results) -> Any:
    """A Matplotlib figure of a sweep: final loss and size over each setting."""
    from n3.plotting import plot_settings  # Matplotlib is slow to import

    title = f"{', '.join(_tasks(study))}: sweep"
    return plot_settings(title, setting_curves(_ends(study, results)), unit=_loss_unit(results))


def _tasks(study: Study) -> list[str]:
    return list(dict.fromkeys(cell.task.named().task for cell in study.experiments()))


def _loss_unit(results: Results) -> str:
    return LOSS_UNITS.get(results.attrs.get("kind"), "the unit of the task")


def _ends(study: Study, results: Results) -> Ends:
    """Labels of each cell's settings, an arm, and its final values."""
    arms = len(study.base.run.arms)
    labels = {name: grid.setting_labels([cell[name] for cell in study.cells]) for name in study.cells[0]}
    return [
        (
            {name: own[place // arms] for name, own in labels.items()},
            arm,
            {str(k): v.values for k, v in ends.items()},
        )
        for place, (_, arm, ends) in enumerate(cell_values(results, study))
    ]
