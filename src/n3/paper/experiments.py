"""Paper: the published experiments by name, at full size and cut short, with the claims they are to meet."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from n3.config import (
    Experiment,
    NetworkConfig,
    RunConfig,
    Setting,
    Study,
    TaskConfig,
    TrainingConfig,
    suggestion,
)
from n3.paper import claims as references
from n3.paper.claims import (
    BOTH,
    CONTROLS,
    RATES,
    Part,
    Reproduction,
    accuracy_claim,
    advantages,
    against,
    found_size,
    half_decades,
    means,
    ratios,
    rescaled,
    slopes,
    stuck,
    widths,
)

TRIALS, CONTROLLED = 10_000, 1_000
"""Trials of the paper's figures, and those of them in which the controls are trained too."""
SIZED, SIZED_FEW = 100, 20
"""Trials of automatic sizing, whose networks are larger, beside the auxiliary weight and the controller."""
QUICK_TRIALS, QUICK_STEPS, QUICK_SAMPLES, QUICK_UNITS = 6, 200, 256, 32
"""What is left at most of trials, steps, samples and units where an experiment is cut short."""


def reproduction(
    name: str, *, trials: int | None = None, samples: int | None = None, quick: bool = False
) -> Reproduction:
    """A published experiment by its name.

    Args:
        name: One of `NAMES`.
        trials: Trials (seeds) of each arm, at most the full number; None: the full number, or few if `quick`.
        samples: Training samples of each run, at most the full number, and test samples in proportion; None:
            the full number, or few if `quick`.
        quick: Whether to cut steps, samples and cells so far that all works and nothing is learnt.

    Raises:
        ValueError: If there is no such experiment, or `trials` or `samples` is not in its range.
    """
    if name not in NAMES:
        near = suggestion(name, NAMES)
        raise ValueError(f"`name` must be one of {', '.join(NAMES)}; got {name!r}.{near}")
    made = _MADE[name](name)
    full = 1 + max(part.study.base.run.seeds[-1] for part in made.parts)
    if trials is not None and not 1 <= trials <= full:
        raise ValueError(f"`trials` must lie in [1, {full}]; got {trials}.")
    kept, parts = trials or (min(QUICK_TRIALS, full) if quick else full), made.parts
    if quick:
        parts = [_shortened(own) for own in parts]
    if samples is not None:
        parts = [_with_samples(own, samples) for own in parts]
    few = (_with_trials(part, kept) for part in parts)
    title = made.title.format(**_most(parts)) + "; CUT SHORT, so no verdict counts" * quick
    title += f"; cut to {samples:,} samples" if samples is not None else ""
    own = tuple(part for part in few if part is not None)
    return replace(made, title=title, parts=own, is_cut_short=quick)


def _most(parts: Sequence[Part]) -> dict[str, int]:
    """The most steps, training samples, fresh points and units of any part."""
    resolved = [part.study.base.resolved() for part in parts]
    return {
        "steps": max(own.training.steps or 0 for own in resolved),
        "samples": max(own.task.samples or 0 for own in resolved),
        "units": max(max(own.network.capacity or (0,)) for own in resolved),
        "points": max(part.study.points for part in parts),
    }


def _auxiliary(task: str, *, steps: int, **run: Any) -> Experiment:
    """The paper's auxiliary weight: 9 units, target 5, gradient descent at 1e-3, penalty 0.1, 32 samples."""
    return Experiment(
        task=TaskConfig(task=task, samples=32, test_samples=8),
        network=NetworkConfig(method="auxiliary", capacity=(9,)),
        training=TrainingConfig(steps=steps, learning_rate=1e-3, size_cost=0.1, target_size=5.0),
        run=RunConfig(**{"records": 1, **run}),
    )


def _controller(task: str, **run: Any) -> Experiment:
    """The paper's controller: 10 units, Adam at 1e-3, penalty 0.32, 26,214 samples."""
    return Experiment(
        task=TaskConfig(task=task, samples=26_214, test_samples=6_554),
        network=NetworkConfig(method="controller", capacity=(10,)),
        training=TrainingConfig(steps=5_000, learning_rate=1e-3, size_cost=0.32),
        run=RunConfig(**{"seeds": tuple(range(100)), **run}),
    )


def _histories(name: str) -> Reproduction:
    base = _auxiliary("narrow-bessel", steps=40_000, seeds=tuple(range(200)), records=200)
    base = replace(base, task=replace(base.task, data_seed=0))
    title = "narrow-bessel, one data set: size, losses, mean ratio and fit over {steps:,} steps"
    parts = (_part("main", base, arms=(*BOTH, *CONTROLS)), _sized(base, SIZED))
    claims = ratios() + references.sized("grown")
    return Reproduction(name=name, title=title, parts=parts, claims=claims, figure="histories")


def _histograms(name: str) -> Reproduction:
    is_third = name == "figure-3"
    tasks = ("cubic", "bessel", *(() if is_third else ("cubic-negative",)), "quadratic")
    tasks, steps = (tasks, 40_000) if is_third else ((*tasks, "quadratic-2"), 20_000)
    claims = tuple(claim for task in tasks for claim in ratios(name, task))
    claims += tuple(claim for task in tasks for claim in references.sized("grown", task))
    return Reproduction(
        name=name,
        title="final test losses after {steps:,} steps, grown against growing",
        parts=_trials(_auxiliary(tasks[0], steps=steps), [{"task": task} for task in tasks]),
        claims=claims + ((*rescaled(), *stuck()) if is_third else ()),
        figure="histograms",
    )


def _classes(name: str) -> Reproduction:
    base = _auxiliary("sine-classes", steps=10_000)
    base = replace(
        base,
        task=replace(base.task, samples=40, test_samples=10),
        training=replace(base.training, learning_rate=0.08, size_cost=0.01),
    )
    accuracies = tuple(accuracy_claim(arm) for arm in BOTH)
    return Reproduction(
        name=name,
        title="sine-classes: final test losses, and classes on {points:,} fresh points",
        parts=_trials(base, [{"task": "sine-classes"}], points=1_000),
        claims=ratios(name, "sine-classes") + accuracies + references.sized("grown", "sine-classes"),
        figure="classes",
        loss_unit="nats",
    )


def _penalty(name: str) -> Reproduction:
    """The penalty's weight from 0.01 to 100 in hundredths of a decade, each with one data set of its own."""
    base = _auxiliary("narrow-bessel", steps=17_783, seeds=tuple(range(200)))
    cells = [{"size_cost": 10 ** (step / 100 - 2), "data_seed": step} for step in range(401)]
    parts = (
        _part("controls", base, cells[::10], arms=(*BOTH, *CONTROLS)),
        _part("main", base, [cell for cell in cells if cell["data_seed"] % 10], arms=BOTH),
    )
    title = "narrow-bessel: mean test loss and size penalty over the penalty's weight"
    return Reproduction(name=name, title=title, parts=parts, claims=half_decades(), figure="penalty")


def _bands(name: str) -> Reproduction:
    kind = name.removeprefix("controller-")
    task = {"gaussian": "gaussian-mixture"}.get(kind, kind)
    base = _controller(task)
    released = replace(base, network=NetworkConfig(method="released", capacity=(10,)))
    parts = (
        _part("main", base, arms=("growing", "static", "warmup", "equal-size")),
        _part("released", released, arms=("growing",), names={"growing": "released"}),
        _sized(base, SIZED_FEW),
    )
    return Reproduction(
        name=name,
        title=f"{task}: {{samples:,}} training samples, {{steps:,}} steps, capacity 10 "
        "(information: up to {units} units)",
        parts=parts,
        claims=(
            *means(name),
            *advantages(),
            *references.sized("static"),
        ),
        figure="bands",
        loss_unit="nats" if task == "spirals" else "squared scaled units",
    )


def _scaling(name: str) -> Reproduction:
    task = name.removeprefix("scaling-")
    base = _controller(task, seeds=tuple(range(10)), records=1)
    cells = [{"capacity": (2**power,), "learning_rate": rate} for power in range(2, 11) for rate in RATES]
    fastest = [cell for cell in cells if cell["learning_rate"] == RATES[-1]]
    return Reproduction(
        name=name,
        title=f"{task}: final test loss over capacity",
        parts=(
            _part("main", base, cells, arms=("growing", "static")),
            _part("controls", base, fastest, arms=("warmup",)),
        ),
        claims=slopes(task),
        figure="scaling",
        loss_unit="nats" if task == "spirals" else "squared scaled units",
    )


def _sizes(name: str) -> Reproduction:
    network, training = (
        NetworkConfig(method="controller", capacity=(128,)),
        TrainingConfig(steps=5_000, batch=200),
    )
    run = RunConfig(seeds=tuple(range(10)), records=20)
    base = Experiment(task=TaskConfig(task="mnist1d"), network=network, training=training, run=run)
    sized = replace(base, network=replace(network, method="information"))
    own = {arm: f"information {arm}" for arm in ("shrinking", "equal-size")} | {"growing": "information"}
    parts = (
        _part("static", base, [{"capacity": (2**power,)} for power in range(3, 8)], arms=("static",)),
        _part("controller", base, arms=("growing", "warmup", "equal-size")),
        _part("information", sized, arms=tuple(own), names=own),
    )
    found = ("information", "information shrinking")
    return Reproduction(
        name=name,
        title="mnist1d: accuracy over size, set by hand or found by information",
        parts=parts,
        claims=(
            *widths(),
            against("static", "growing", capacity=128),
            against("warmup", "growing"),
            *(against("static", variant, capacity=128) for variant in found),
            against("information equal-size", "information"),
            *(make(variant) for variant in found for make in (accuracy_claim, found_size)),
        ),
        figure="sizes",
        loss_unit="nats",
    )


def _part(
    name: str,
    base: Experiment,
    cells: Sequence[Mapping[str, Setting]] = ({},),
    *,
    names: Mapping[str, str] | None = None,
    points: int = 0,
    **run: Any,
) -> Part:
    base = replace(base, run=replace(base.run, **run))
    return Part(name=name, study=Study(base=base, cells=tuple(cells), points=points), names=names or {})


def _sized(base: Experiment, trials: int, cells: Sequence[Mapping[str, Setting]] = ({},)) -> Part:
    """The same tasks and steps with method `information`, which has no target size, as it comes."""
    training = TrainingConfig(steps=base.training.steps)
    sized = replace(base, network=NetworkConfig(method="information"), training=training)
    run = {"arms": ("growing",), "seeds": tuple(range(trials))}
    return _part("information", sized, cells, names={"growing": "information"}, **run)


def _trials(base: Experiment, cells: Sequence[Mapping[str, Setting]], *, points: int = 0) -> tuple[Part, ...]:
    """The first trials with all controls, the others with the two arms of the paper; then automatic sizing."""
    first, others = tuple(range(CONTROLLED)), tuple(range(CONTROLLED, TRIALS))
    return (
        _part("controls", base, cells, arms=(*BOTH, *CONTROLS), seeds=first, points=points),
        _part("main", base, cells, arms=BOTH, seeds=others, points=points),
        _sized(base, SIZED, cells),
    )


def _with_trials(part: Part, trials: int) -> Part | None:
    """The part with the seeds below `trials`; None where none is."""
    run = part.study.base.run
    seeds = tuple(seed for seed in run.seeds if seed < trials)
    base = replace(part.study.base, run=replace(run, seeds=seeds)) if seeds else None
    return replace(part, study=replace(part.study, base=base)) if base else None


def _with_samples(part: Part, samples: int) -> Part:
    """The part with so many training samples, and test samples in proportion."""
    base = part.study.base
    full, tests = base.task.samples, base.task.test_samples
    if full is None or tests is None:
        raise ValueError(f"`samples` cannot be given for `{base.task.task}`, which comes with its own.")
    if not 2 <= samples <= full:
        raise ValueError(f"`samples` must lie in [2, {full}]; got {samples}.")
    task = replace(base.task, samples=samples, test_samples=max(1, round(tests * samples / full)))
    return replace(part, study=replace(part.study, base=replace(base, task=task)))


def _shortened(part: Part) -> Part:
    study, base = part.study, part.study.base
    task, training, units = base.task, base.training, base.network.capacity or (QUICK_UNITS,)
    samples = min(task.samples or QUICK_SAMPLES, QUICK_SAMPLES)
    batch = min(training.batch, samples) if isinstance(training.batch, int) else training.batch
    tests = min(task.test_samples or QUICK_SAMPLES, QUICK_SAMPLES // 2)
    base = replace(
        base,
        task=replace(task, samples=samples, test_samples=tests),
        network=replace(base.network, capacity=tuple(min(each, QUICK_UNITS) for each in units)),
        training=replace(training, steps=min(training.steps or QUICK_STEPS, QUICK_STEPS), batch=batch),
        run=replace(base.run, records=min(base.run.records, 20)),
    )
    cells = [cell for cell in study.cells if max(cell.get("capacity", (1,))) <= QUICK_UNITS]
    few = tuple(cells[:: max(1, len(cells) // 8)])
    return replace(part, study=replace(study, base=base, cells=few, points=min(study.points, 100)))


_MADE: Mapping[str, Callable[[str], Reproduction]] = {
    "figure-2": _histories,
    "figure-3": _histograms,
    "figure-4": _histograms,
    "figure-5": _classes,
    "figure-6": _penalty,
    "controller-bessel": _bands,
    "controller-spirals": _bands,
    "controller-gaussian": _bands,
    "scaling-bessel": _scaling,
    "scaling-spirals": _scaling,
    "sizes-mnist1d": _sizes,
}
NAMES: tuple[str, ...] = tuple(_MADE)
"""The experiments that can be run by name."""
