"""Tables of the evidence pages, written from the numbers in `benchmarks/results` between markers.

`uv run python docs/tables.py` writes them anew; a test compares them with what is there. A table stands between
`<!-- table: NAME -->` and `<!-- end of table -->`. Tables whose committed numbers were rounded before they were
written (digits, and structure on the first ten seeds) cannot be written to the last digit and are not here.
"""

import importlib.util
import json
import os
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import exp
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
EVIDENCE = ROOT / "docs" / "evidence"
sys.path.insert(0, str(ROOT / "scripts"))
_PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n)(?:(?!<!-- table).)*?(<!-- end of table -->)", flags=re.S)


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _interval(value: float, ends: Sequence[float], form: str) -> str:
    low, high = ends
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def held_out(name: str) -> str:
    """Sizes by held-out samples, as `scripts/study_sizing.py` prints them, and what they are held against."""
    import study_sizing

    done = _read(name)
    return f"{study_sizing.table(done).strip()}\n\n{_held_out_summary(done)}"


def _held_out_summary(done: Sequence[Mapping[str, Any]]) -> str:
    import study_sizing

    median, total = statistics.median, len(done)
    ratios = {one["task"]: median(one["ratio to oracle"]) for one in done}
    worst = max(ratios, key=lambda task: ratios[task])
    folds = median([median(one["ratio to folds"]) for one in done])
    trusted, runs = (
        sum(map(own, done)) for own in (lambda one: sum(one["trusted"]), lambda one: len(one["trusted"]))
    )
    sizes = {one["task"]: [sum(layers) for layers in one["grown"]["sizes"]] for one in done}
    grown = {task: own for task, own in sizes.items() if median(own) > 0}
    spreads = [_quantile(own, 0.9) / max(_quantile(own, 0.1), 0.5) for own in grown.values()]
    small = sum(median(sizes[one["task"]]) <= 2 * study_sizing.smallest(one) for one in done)
    mlp, boosting = (
        sum(_over(one, name) <= most for one in done) for name, most in (("MLP", 1.03), ("grad", 1.0))
    )
    rows = [
        ("median over tasks of the ratio to the oracle", f"{median(ratios.values()):.2f}", "1.02"),
        ("its worst task", f"{ratios[worst]:.2f} ({worst})", "1.10"),
        ("median over tasks of the ratio to the widths that folds choose", f"{folds:.2f}", "1.00"),
        ("runs trusted", f"{trusted} of {runs}", "95 %"),
        ("tasks with a median size of at most twice the smallest width", f"{small} of {total}", "all"),
        (
            "tasks with sizes that vary at most twofold (90 % over 10 %)",
            f"{sum(s <= 2 for s in spreads)} of {len(spreads)}",
            "all",
        ),
        ("tasks with a loss within 3 % of the MLP's, or below", f"{mlp} of {total}", "all"),
        ("tasks with a loss at most that of boosting", f"{boosting} of {total}", "half"),
        (
            "median over tasks of the CPU over the grid's",
            f"{median([one['cost'] for one in done]):.2f}",
            "0.25 to 0.35",
        ),
    ]
    return _markdown(("measure", "found", "aimed at"), rows)


def _over(one: Mapping[str, Any], rival: str) -> float:
    """The median loss over that of the best of the models whose name begins so."""
    losses = [statistics.median(own) for label, own in one["baselines"].items() if label.startswith(rival)]
    return statistics.median(one["grown"]["losses"]) / min(losses)


def _quantile(values: Sequence[float], share: float) -> float:
    ranked = sorted(values)
    place = share * (len(ranked) - 1)
    low = int(place)
    return ranked[low] + (place - low) * (ranked[min(low + 1, len(ranked) - 1)] - ranked[low])


def stability() -> str:
    """Sizes and losses of runs under other settings, as `benchmarks/stability.py` prints them."""
    return _benchmark("stability").table(_read("stability")).strip()


def smallness() -> str:
    """The same for settings that ask for smaller networks."""
    return _benchmark("stability").table(_read("smallness")).strip()


def estimators() -> str:
    """The estimators on twelve tables, as `benchmarks/tables.py` prints them."""
    return _benchmark("tables").table(_read("tables")).strip()


def peers(part: str, module: str, table: str) -> str:
    """A part of n3 beside its peers, as `benchmarks/peers.py` prints it."""
    return getattr(_benchmark(module), table)(_read("peers-cpu")[part]["rows"]).strip()


def _benchmark(name: str) -> Any:
    if str(ROOT / "benchmarks") not in sys.path:
        sys.path.append(str(ROOT / "benchmarks"))  # which import each other
    before = dict(os.environ)
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    os.environ.clear()
    os.environ |= before  # a benchmark may set what JAX starts with
    return module


def speed() -> str:
    """Ratios of the engine, of the full and the quick run."""
    full, quick = (_read(name)["bars"] for name in ("cpu", "cpu-quick"))
    show = lambda bar: str(bar["value"]) if bar["sense"] == "==" else f"{bar['value']:#.3g}".rstrip(".")  # noqa: E731
    return _markdown(
        ("bar", "full", "quick", "must", "goal"),
        [
            (own["name"], show(own), show(other), f"{own['sense']} {_bound(own)}", f"{own['goal']:g}")
            for own, other in zip(full, quick, strict=True)
        ],
    )


def information() -> str:
    """What the information drive and the monitor cost."""
    ratios = _read("information-cpu")["ratios"]
    return _markdown(
        ("variant", "times the plain step"), [(name, f"{own:.2f}") for name, own in ratios.items()]
    )


def scaling() -> str:
    """CPU time of training by setting, measured and by the model, and the model's constants."""
    found, rows = _read("scaling-cpu"), []
    for part in ("fitted", "set_aside"):
        for own in found[part]:
            names = [f"{own[name]:,}" for name in ("runs", "samples", "units", "inputs", "block")]
            taken, model = own["microseconds"], own["model"]
            cells = (*names, f"{taken:.3g}", f"{model:.3g}", f"{100 * (model / taken - 1):+.0f} %")
            rows.append((*cells, "" if part == "fitted" else "yes"))
    head = ("runs", "samples", "units", "inputs", "runs in a block", "µs per run and step", "model", "error")
    constants = [(name, f"{value:.3g}") for name, value in found["constants"].items()]
    tables = _markdown((*head, "set aside"), rows), _markdown(("constant of the model, for", "ns"), constants)
    return "\n\n".join(tables)


def scaling_profile() -> str:
    """CPU time of a wide layer by its activation."""
    found = _read("scaling-cpu")["profile"]
    kinds = dict.fromkeys(name.split(", ")[0] for name in found)
    rows = [(kind, *(f"{found[f'{kind}, {what}']:.2f}" for what in ("outputs", "gradient"))) for kind in kinds]
    return _markdown(("activation", "outputs, ns", "gradient, ns"), rows)


def scaling_bars() -> str:
    """Ratios of two programs, with their limits."""
    rows = [
        (own["name"], f"{own['value']:.2f}", f"{own['sense']} {own['must']:g}", f"{own['goal']:g}")
        for own in _read("scaling-cpu")["bars"]
    ]
    return _markdown(("bar", "found", "must", "goal"), rows)


def _bound(bar: Mapping[str, Any]) -> str:
    return f"{bar['must']:.2f}" if bar["must"] in (0.8, 0.9) else f"{bar['must']:g}"


def by_price(name: str) -> str:
    """Sizes by a price over a static grid: growing, the static width of about that size, and shrinking."""
    rows = []
    for one in _read(name):
        automatic, static, best = one["automatic"], one["static"], one["best"]
        width = min(static, key=lambda own: abs(float(own) - automatic["growing"]["size"]))
        cost = automatic["growing"]["cpu_seconds"] / sum(own["cpu_seconds"] for own in static.values())
        growing, shrinking = (
            f"{automatic[arm]['size']:.1f} / {automatic[arm]['loss'] / best:.2f}"
            for arm in ("growing", "shrinking")
        )
        same = f"{width}: {static[width]['loss'] / best:.2f}"
        losses = f"{best:.3g}", f"{one['best without prior']:.3g}"
        rows.append((one["task"], *losses, str(one["smallest"]), growing, same, shrinking, f"{cost:.2f}"))
    head = ("task", "best static loss", "without prior", "smallest", "growing", "same size", "shrinking", "CPU")
    return _markdown(head, rows)


def ablations() -> str:
    """One setting changed at a time, over the best static median of the ten seeds."""
    best = {one["task"]: one["best"] for one in _read("study-sizing")}
    found = {one["task"]: one["automatic"] for one in _read("ablations-sizing")}
    settings = list(found["digits"])
    cells = {
        task: [(own[name]["size"], own[name]["loss"] / best[task]) for name in settings]
        for task, own in found.items()
    }
    rows = [(task, *(f"{size:.0f} / {loss:.2f}" for size, loss in own)) for task, own in cells.items()]
    columns = list(zip(*cells.values(), strict=True))
    means = []
    for own in columns:
        sizes, losses = zip(*own, strict=True)
        means.append(f"{statistics.fmean(sizes):.0f} / {statistics.geometric_mean(losses):.2f}")
    rows.append(("mean size, geometric mean of the losses", *means))
    return _markdown(("task", "default", *settings[1:]), rows)


def confirmation() -> str:
    """What smaller networks of two hidden layers cost and keep, on fresh seeds, of two runs."""
    found = _read("structure-confirmation-cpu")
    tasks = found["600 steps"]["tasks"]
    chosen = {name: tasks[name] for name in ("digits", "breast-cancer")}
    chosen |= {"spirals, 2,000 steps": found["2,000 steps"]["tasks"]["spirals"], "mnist1d": tasks["mnist1d"]}
    rows = []
    for task, report in chosen.items():
        for arm in ("full", "growing", "shrinking", "pruned"):
            own = report["arms"][arm]
            shown = task if arm == "full" else ""
            rows.append((shown, arm, *_costs(own), *_kept(own, arm, report["latency_ms"])))
    head = ("task", "network", "units", "parameters", "FLOPs", "test loss", "over full", "accuracy", "gap")
    return _markdown((*head, "over scratch", "latency"), rows)


def _costs(own: Mapping[str, Any]) -> tuple[str, ...]:
    units = ", ".join(f"{statistics.median(layer):g}" for layer in zip(*own["widths"], strict=True))
    return units, *(f"{own[name]['median']:,.0f}" for name in ("parameters", "flops"))


def _kept(own: Mapping[str, Any], arm: str, latency: Mapping[str, Any]) -> tuple[str, ...]:
    loss = _interval(own["test_loss"]["mean"]["value"], own["test_loss"]["mean"]["ci95"], ".3f")
    accuracy, batches = f"{own['accuracy']['mean']['value']:.3f}", ("1", "32", "4096")
    if arm == "full":
        times = [f"{latency[batch]['full']:.2g}" for batch in batches]
        return loss, "", accuracy, f"{own['gap']['mean']['value']:.3f}", "", f"{' / '.join(times)} ms"
    pair, scratch = own["test loss over full"], own[f"test loss over {arm} from scratch"]
    over = f"{_ratio(pair)}, {pair['wins']} of {pair['pairs']}"
    gap = _interval(own["gap less full"]["value"], own["gap less full"]["ci95"], "+.3f")
    faster = " / ".join(f"{latency[batch]['full'] / latency[batch][arm]:.1f}" for batch in batches)
    return loss, over, accuracy, gap, _ratio(scratch), faster


def _ratio(pair: Mapping[str, Any]) -> str:
    return _interval(exp(pair["median_log_ratio"]), [exp(end) for end in pair["ci95"]], ".2f")


TABLES: dict[str, Callable[[], str]] = {
    "held-out": partial(held_out, "study-held-out"),
    "held-out-chosen": partial(held_out, "study-held-out-chosen"),
    "stability": stability,
    "smallness": smallness,
    "peers-speed": partial(peers, "speed", "peers", "speed_table"),
    "peers-gromo": partial(peers, "gromo", "peers_growth", "growing_table"),
    "peers-pruning": partial(peers, "pruning", "peers_growth", "pruning_table"),
    "estimators": estimators,
    "speed": speed,
    "information": information,
    "scaling": scaling,
    "scaling-bars": scaling_bars,
    "scaling-profile": scaling_profile,
    "by-price": lambda: by_price("study-sizing"),
    "by-price-confirmation": lambda: by_price("confirmation-sizing"),
    "ablations": ablations,
    "structure-confirmation": confirmation,
}
"""Each table by the name in its marker."""


def written(text: str) -> str:
    """A page with every table between markers as the numbers have it."""
    return _PLACE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[3]}", text)


def main() -> None:
    """Write the tables of all pages anew."""
    for path in sorted(EVIDENCE.glob("*.md")):
        path.write_text(written(path.read_text()))


if __name__ == "__main__":
    main()
