"""Columns: rows of cells as text in columns."""

from collections.abc import Sequence


def aligned(lines: Sequence[str]) -> str:
    """Rows whose cells are separated by `|`, as columns: the first to the left, the others to the right."""
    rows = [line.split("|") for line in lines]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join("  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows)
