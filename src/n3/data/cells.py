"""Cells: a column as its cells hold it, texts of a file or values in memory, and what is wrong with it.

A cell is a number, a text or nothing. A column with more numbers than texts is one of numbers, and its texts
are faults. Both kinds of tables go through the same checks; only names of rows and remedies differ.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from n3.data.frames import MOST_NAMED, Frame, listed, missing_rows

MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "nat", "none", "null", "?", "-"})
"""Cells that hold no value, in small or capital letters."""
MOST_CATEGORIES = 256
"""Columns that a column of text becomes at most."""
MOST_CLASSES = 20
"""Different whole numbers up to which a target is taken for classes, where each is there twice on average."""
LARGEST, LARGEST_WHOLE = 1e100, 2**53
"""Largest magnitude of a number (its square is finite), and of one written as a whole one (it is exact)."""
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}([./])\d{1,2}\2\d{2,4}( .*)?")
_MARKS = {",": "comma", ".": "point"}


class DataError(ValueError):
    """A table whose content cannot be learnt from."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the cells of a table are: what messages call its rows, and which remedies there are."""

    lines: Sequence[int]
    """Number of each row."""
    counted: str = ""
    """From where rows are counted, where it is not as in an editor."""
    drop: str = " by `drop`"
    """How a column is left out."""
    decimal: str = "."
    separator: str | None = None
    """What stands between the cells of a file; None: nothing, or no fraction can be set."""

    def fraction(self, mark: str) -> str:
        """The remedy where a comma or a point is the other mark of a fraction."""
        if self.separator is None:
            return f"write a {_MARKS[self.decimal]}"
        if mark == self.separator:
            return f"write a {_MARKS[self.decimal]}, or set `decimal` {mark} in a file with `separator` ;"
        return f"set `decimal` {mark}"


def in_memory(rows: int) -> Origin:
    """The origin of an array or a data frame."""
    return Origin(lines=range(rows), counted=", counted from 0", drop="")


def report_problems(source: str, problems: Sequence[str]) -> None:
    """Refuse a table for all that is wrong with it, ten things at most by name."""
    if len(problems) == 1:
        raise DataError(f"{source}: {problems[0]}.")
    if problems:
        lines = [f"{source} has {len(problems)} problems:", *(f"- {own}." for own in problems[:MOST_NAMED])]
        rest = len(problems) - MOST_NAMED
        raise DataError("\n".join([*lines, *([f"- and {rest} more."] if rest > 0 else [])]))


def read_frame(source: str, frame: Frame, *, categorical: Sequence[str] = ()) -> Frame:
    """Columns of rows in memory, their texts read as the cells of a file; those of `categorical` stay text.

    Raises:
        DataError: If a column has dates, texts among numbers, too many texts or no value; all in one report.
    """
    problems, found = [], {}
    origin = in_memory(len(next(iter(frame.values()), ())))
    for name, own in frame.items():
        cells = own if own.dtype.kind == "f" else ["" if cell is None else cell for cell in own.tolist()]
        column = CellColumn(name, cells, origin, is_text=name in categorical)
        found[name] = column.values(problems)
        problems += column.check_categories(found[name])
    report_problems(source, problems)
    return found


def require_targets(y: Any) -> None:
    """Refuse targets in memory, `[rows]` or `[rows, outputs]`, of which one is missing, by its row."""
    if rows := missing_rows(y):
        first, *others = rows
        raise DataError(
            f"`y` must have a value in every row; row {first}, counted from 0, has none{and_in(others)}."
        )


class CellColumn:
    """The cells of one column of a table, and what is wrong with them."""

    def __init__(
        self,
        name: str,
        cells: Sequence[Any] | np.ndarray,
        origin: Origin,
        *,
        is_text: bool = False,
        is_number: bool = False,
    ):
        self.name, self.cells, self.origin = name, cells, origin
        self.is_text, self.is_number = is_text, is_number

    def values(self, problems: list[str], *, is_whole: bool = False, is_required: bool = True) -> np.ndarray:
        """Numbers, or texts as objects; what is wrong joins the problems.

        None may be missing where it `is_whole`; all may where it is not `is_required`.
        """
        if isinstance(self.cells, np.ndarray) and not self.is_text:
            missing, numbers = np.flatnonzero(np.isnan(self.cells)), self.cells
            problems += self._magnitudes(numbers)
        else:
            parsed = {cell: self._parse(cell) for cell in set(self.cells)}
            kinds = {
                cell: 0 if own is None else 1 if isinstance(own, float) else 2 for cell, own in parsed.items()
            }
            known = np.fromiter((kinds[cell] for cell in self.cells), int, len(self.cells))
            missing, texts = np.flatnonzero(known == 0), np.flatnonzero(known == 2)
            if self.is_text or (len(texts) and not self._are_numbers(known, problems)):
                if is_whole:
                    self._require(missing, problems)
                return np.array([*(text_in(cell) for cell in self.cells), None], object)[:-1]
            numbers = np.array([own if type(own := parsed[cell]) is float else np.nan for cell in self.cells])
            problems += self._magnitudes(numbers)
        if is_whole or (is_required and len(missing) == len(self.cells)):
            self._require(missing, problems)
        return numbers

    def check_categories(self, values: np.ndarray) -> list[str]:
        """What is wrong with the number of different texts."""
        known = values[values != None] if values.dtype.kind == "O" else []  # noqa: E711, element by element
        categories = len(set(known))
        if categories <= (MOST_CATEGORIES if categories < len(known) else MOST_CLASSES):
            return []
        must = f"must hold numbers, or text of {MOST_CATEGORIES} categories at most that repeat"
        got = f"{categories}, such as {str(known[0])!r}"
        drop = f"Leave it out{self.origin.drop} if it names the rows"
        return [f"column `{self.name}` {must}; got {got}. {drop}"]

    def _require(self, missing: np.ndarray, problems: list[str]) -> None:
        if len(missing):
            is_empty = len(missing) == len(self.cells)
            rest = f"; leave the column out{self.origin.drop}" * is_empty
            problems.append(self._at(missing, f"must have a value{rest}; got {self._cell(missing[0])!r}"))

    def _are_numbers(self, known: np.ndarray, problems: list[str]) -> bool:
        """Whether the column is one of numbers although some cells are none; those are problems."""
        texts = np.flatnonzero(known == 2)
        faults = {self._date: _is_date, self._other_mark: self._has_other_mark}
        for describe, is_such in faults.items():
            bad = [row for row in texts if is_such(self._cell(row))]
            if bad:
                problems.append(self._at(bad, describe([self._cell(row) for row in bad])))
                return True
        if np.sum(known == 1) <= len(texts) and not self.is_number:
            return False
        why = "as in training" if self.is_number else "as most of the column is"
        problems.append(self._at(texts, f"must be a number, {why}; got {self._cell(texts[0])!r}"))
        return True

    def _date(self, bad: Sequence[str]) -> str:
        return f"must be a number, such as a count of days, not a date; got {bad[0]!r}"

    def _has_other_mark(self, cell: str) -> bool:
        other = "," if self.origin.decimal == "." else "."
        return other in cell and number_of(cell.replace(",", "").replace(".", "")) is not None

    def _other_mark(self, bad: Sequence[str]) -> str:
        """What is wrong with numbers that have a comma where a point is due, or the other way round."""
        own, other = (self.origin.decimal, "," if self.origin.decimal == "." else ".")
        groups = rf"[+-]?\d{{1,3}}(\{other}\d{{3}})+(\{own}\d*)?"
        remedy = self.origin.fraction(other)
        if not all(re.fullmatch(groups, cell) for cell in bad):
            marks = f"a {_MARKS[own]} and no {_MARKS[other]}"
            return f"must be a number with {marks}; got {bad[0]!r}: {remedy}"
        thousands = f"which looks like thousands: remove the {_MARKS[other]}s"
        if any(cell.count(other) > 1 or own in cell for cell in bad):
            return f"must be a number; got {bad[0]!r}, {thousands}"
        reading = bad[0].replace(other, own)
        return f"must be a number; got {bad[0]!r}, {thousands} (if it means {reading}, {remedy})"

    def _magnitudes(self, numbers: np.ndarray) -> list[str]:
        found = []
        with np.errstate(invalid="ignore"):
            beyond = np.flatnonzero(np.abs(numbers) > LARGEST)
            whole = np.flatnonzero((np.abs(numbers) >= LARGEST_WHOLE) & (np.abs(numbers) <= LARGEST))
        if len(beyond):
            got = f"got {self._cell(beyond[0])}"
            found.append(self._at(beyond, f"must lie within -{LARGEST:g} and {LARGEST:g}; {got}"))
        whole = [row for row in whole if self._cell(row).lstrip("+-").isdecimal()]
        if whole:
            must = "must lie within 2**53 where it is written as a whole number"
            found.append(self._at(whole, f"{must}; got {self._cell(whole[0])}"))
        return found

    def _cell(self, row: int | np.integer) -> str:
        return str(self.cells[row]).strip()

    def _at(self, rows: Iterable[Any], text: str) -> str:
        first, *others = (self.origin.lines[row] for row in rows)
        return f"row {first}{self.origin.counted}, column `{self.name}` {text}{and_in(others)}"

    def _parse(self, cell: str) -> float | str | None:
        plain = text_in(cell)
        if plain is None:
            return None
        if self.origin.decimal == ",":
            number = None if "." in plain else number_of(plain.replace(",", "."))
        else:
            number = number_of(plain)
        return plain if number is None else None if number != number else number


def and_in(lines: Sequence[int]) -> str:
    """Further rows, in brackets."""
    return f" (and in row {listed(lines)})" if lines else ""


def text_in(cell: str | None) -> str | None:
    """A cell as text without the blanks around it; None where it holds no value."""
    plain = (cell or "").strip()
    return None if plain.lower() in MISSING else plain


def number_of(cell: str) -> float | None:
    """The number that a cell holds, or None."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _is_date(cell: str) -> bool:
    return bool(_DATE.fullmatch(cell))


def plain_numbers(cells: Sequence[str]) -> np.ndarray | None:
    """All cells as numbers; None where one is none, NaN, or so large that its text must be looked at."""
    try:
        numbers = np.fromiter(map(float, cells), float, len(cells))
    except ValueError:
        return None
    is_plain = np.all(np.abs(numbers) < LARGEST_WHOLE) and "_" not in "".join(cells)
    return numbers if is_plain else None
