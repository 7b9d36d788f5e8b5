"""Tables of the evidence pages, written from the numbers in `benchmarks/results` between markers.

`uv run python docs/tables.py` writes them anew; a test compares them with what is there. A table stands between
`<!-- table: NAME -->` and `<!-- end of table -->`. Tables whose committed numbers were rounded before they were
written (digits, and structure on the first ten seeds) cannot be written to the last digit and are not here.
"""

import json
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
_PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n)\n.*?\n(<!-- end of table -->)", flags=re.S)


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _interval(value: float, ends: Sequence[float], form: str) -> str:
    low, high = ends
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def held_out(name: str) -> str:
    """Sizes by held-out samples, as `scripts/study_sizing.py` prints them."""
    import study_sizing

    return study_sizing.table(_read(name)).strip()


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
    "speed": speed,
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
