"""Columns: rows of cells as text in columns, and what stands in a cell."""

import math
from collections.abc import Sequence


def aligned(lines: Sequence[str]) -> str:
    """Rows whose cells are separated by `|`, as columns: the first to the left, the others to the right."""
    rows = [line.split("|") for line in lines]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join("  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows)


def with_interval(value: float, low: float, high: float, *, form: str = ".3g") -> str:
    """`value [low, high]`, each number in a form of `format`; the value alone where the interval is NaN."""
    ends = "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{ends}"
