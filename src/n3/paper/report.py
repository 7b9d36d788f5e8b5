"""Report: the verdicts on a reproduction and what all its variants ended with, as text and as plain data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from n3.config import setting_label
from n3.paper.claims import Reference, Reproduction
from n3.paper.variants import Trained, gather
from n3.paper.verdicts import Verdict, side
from n3.stats import (
    Estimate,
    align_columns,
    bootstrap_interval,
    stuck_fraction,
    stuck_threshold,
    tail_summary,
    with_interval,
)

CELLS = 16
"""Cells up to which a reproduction's variants are told one by one."""


def reproduction_report(
    reproduction: Reproduction, trained: Sequence[Trained], found: Sequence[Verdict], *, cost: Mapping[str, Any]
) -> dict[str, Any]:
    """All that is told of a reproduction, for JSON.

    Args:
        reproduction: The experiment.
        trained: Its parts, trained.
        found: Its verdicts.
        cost: Seconds and what else is known of the computation.
    """
    return {
        "name": reproduction.name,
        "title": reproduction.title,
        "loss_unit": reproduction.loss_unit,
        "parts": {own.part.name: _run_facts(own) for own in trained},
        "verdicts": [_plain(verdict) for verdict in found],
        "variants": variants_table(trained),
        "cost": dict(cost),
    }


def variants_table(trained: Sequence[Trained]) -> list[dict[str, Any]]:
    """What every variant ended with in every cell, robustly and not; empty above `CELLS` cells.

    A run is stuck above ten times the median of all variants of its cell.
    """
    cells = {_claim_line(cell): cell for own in trained for cell in own.part.study.cells}
    if len(cells) > CELLS:
        return []
    rows = []
    for told, cell in cells.items():
        where = {setting: setting_label(value) for setting, value in cell.items()}
        here = [own for own in trained if any(_claim_line(each) == told for each in own.part.study.cells)]
        names = dict.fromkeys(name for own in here for name in own.part.variants().values())
        runs = {name: gather(here, name, "test_loss", where) for name in names}
        losses = {name: np.array(list(values.values())) for name, values in runs.items()}
        above = stuck_threshold(*losses.values())
        for name, values in losses.items():
            final = {n: np.array(list(gather(here, name, n, where).values())) for n in _MEDIANS}
            rows.append({"cell": told, "variant": name, **_summary(values, above, final)})
    return rows


_MEDIANS = ("accuracy", "final_size", "active_parameters")


def report_text(content: Mapping[str, Any], found: Sequence[Verdict]) -> str:
    """What `report` gives, for a reader: verdicts, variants, cost."""
    lines = ["claim|reference|ours [95 % interval]|verdict"]
    for verdict in found:
        claim = verdict.claim
        lines.append(
            f"{claim.quantity}|{_of_reference(claim.reference)}|{with_interval(*verdict.ours)}|{verdict.word}"
        )
        for name, own in verdict.controls.items():
            lines.append(f"    {name} in the baseline's place||{with_interval(*own)}|{_word(verdict, own)}")
    rows = ["variant|runs|median loss|mean|trimmed|geometric|stuck|size|parameters|diverged"]
    for row in content["variants"]:
        rows.append(
            f"{row['cell']}{row['variant']}|{row['runs']}|{row['median']:.3g}|{row['mean']:.3g}"
            f"|{row['trimmed_mean']:.3g}|{row['geometric_mean']:.3g}|{100 * row['stuck']:.2g} %"
            f"|{row['final_size']:.3g}|{row['active_parameters']:.4g}|{row['diverged']}"
        )
    title = f"{content['name']}: {content['title']} (losses in {content['loss_unit']})"
    tables = [align_columns(part) for part in (lines, rows) if len(part) > 1]
    explained = [_REFERENCE] if found else []
    return "\n\n".join([title, *tables, *explained, _of_cost(content["cost"])]) + "\n"


_REFERENCE = "reference: what the paper states, or its code or a replication gave (`source` in verdict.json)."


def _plain(verdict):
    claim, reference = verdict.claim, verdict.claim.reference
    return {
        "quantity": claim.quantity,
        "measure": claim.measure,
        "of": claim.of,
        "where": dict(claim.where),
        "reference": None if reference is None else asdict(reference),
        "ours": verdict.ours._asdict(),
        "controls": {
            name: {**own._asdict(), "growing": _word(verdict, own)} for name, own in verdict.controls.items()
        },
        "verdict": verdict.word,
    }


def _run_facts(own):
    study, experiments = own.part.study, own.part.study.experiments()
    steps = sorted({experiment.training.steps for experiment in experiments})
    return {
        "variants": list(own.part.variants().values()),
        "cells": len(study.cells),
        "trials": len(own.seeds),
        "steps": steps,
        "method": experiments[0].network.method,
    }


def _summary(losses, above, final):
    known = losses[np.isfinite(losses)]
    interval = bootstrap_interval(known) if known.size else (math.nan, math.nan)
    medians = {name: float(np.nanmedian(values)) for name, values in final.items() if np.isfinite(values).any()}
    stuck = stuck_fraction(losses, above=above)
    told = {"runs": losses.size, "median_ci95": interval, **asdict(tail_summary(losses))}
    return {**told, "stuck": stuck.value, "stuck_ci95": stuck[1:], **dict.fromkeys(final, math.nan), **medians}


def _claim_line(cell):
    """Name of a cell: a task by itself, another setting with its value."""
    parts = (
        f"{setting_label(value)}" if name == "task" else f"{name} {setting_label(value)}"
        for name, value in cell.items()
    )
    return "".join(f"{part}: " for part in parts)


def _of_reference(reference: Reference | None) -> str:
    if reference is None:
        return "none"
    if reference.value is None:
        return "growing ahead"
    ends = "" if reference.low is None else f" [{reference.low:.3g}, {reference.high:.3g}]"
    return f"{reference.value:.3g}{ends}"


def _word(verdict: Verdict, control: Estimate) -> str:
    if math.isnan(control.low) or verdict.word == "cut short":
        return "-"
    return {1: "growing ahead", 0: "no difference", -1: "growing behind"}[side(verdict.claim, control)]


def _of_cost(cost):
    told = [
        f"{cost['trainings']:,} trainings, {cost['steps']:.3g} steps in all ({cost['device']}): "
        f"{cost['run_seconds'] + cost['compile_seconds']:.3g} s of wall time, of which "
        f"{cost['compile_seconds']:.3g} s to compile; {cost['cpu_seconds']:.3g} s of CPU time."
    ]
    if cost["loop"]:
        told += [
            f"The same in a Python loop over one compiled step: {cost['loop_cpu_seconds']:.3g} s of CPU, "
            f"{cost['loop_cpu_seconds'] / cost['cpu_seconds']:.1f} times as much, extrapolated from "
            f"{len(cost['loop'])} short loops, one a program."
        ]
    return "\n".join(told)
