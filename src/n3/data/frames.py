"""Frames: a user's rows in memory, arrays or data frames, as columns by name."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from n3.config.validation import suggestion

Frame = Mapping[str, np.ndarray]
"""Columns of equal length by name: numbers as float64, NaN where missing, or text as objects, None there."""
MOST_NAMED = 10
"""Columns and rows that a message names at most."""


def frame_of(rows: Any, *, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The columns of a pandas or polars frame, of a mapping from names to columns, or of an array.

    Columns of an array `[rows, columns]`, or `[rows]` for a single one, have the given names, or else `x0`,
    `x1` and so on (`x` where it is alone). True and false count as 1 and 0. A column with a text in it, or of
    pandas' type `category`, is text.

    Raises:
        ValueError: If there are not as many names as columns, names repeat, a column is complex, has dates or
            has an infinite number, or the rows are not a table.
        TypeError: If a cell is neither a number nor a text.
    """
    if isinstance(rows, Mapping) or getattr(rows, "columns", None) is not None:
        keys = list(rows) if isinstance(rows, Mapping) else list(rows.columns)
        if len({str(key) for key in keys}) < len(keys):
            raise ValueError("`rows` must have columns whose names differ.")
        return {str(key): _column(str(key), rows[key]) for key in keys}
    array = np.asarray(rows)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise ValueError(f"`rows` must have shape [rows, columns] or [rows]; got {array.shape}.")
    names = column_names("x", array.shape[1]) if names is None else names
    if len(names) != array.shape[1]:
        expected = f"{len(names)} columns, {listed(names)}"
        raise ValueError(f"`rows` must have {expected}; got {array.shape[1]}.")
    if array.dtype.kind in "biuf":  # at once: an array may have thousands of columns
        array = array.astype(float)
        if np.isinf(array).any():
            _refuse_infinite(str(names[int(np.isinf(array).any(axis=0).argmax())]))
        return dict(zip(names, array.T, strict=True))
    return {name: _column(name, own) for name, own in zip(names, array.T, strict=True)}


def column_names(letter: str, number: int) -> tuple[str, ...]:
    """Names of columns that have none: `x0`, `x1` and so on, or the letter alone."""
    return (letter,) if number == 1 else tuple(f"{letter}{place}" for place in range(number))


def listed(names: Iterable[Any]) -> str:
    """Names in one line, ten at most, and how many more there are."""
    every = [str(own) for own in names]
    rest = f" and {len(every) - MOST_NAMED} more" if len(every) > MOST_NAMED else ""
    return ", ".join(every[:MOST_NAMED]) + rest


def _column(name: str, values: Any) -> np.ndarray:
    is_text = _is_category(values)
    own = np.asarray(values.to_numpy() if getattr(values, "to_numpy", None) is not None else values)
    if own.ndim != 1:
        raise ValueError(f"column `{name}` must have one value a row; got shape {own.shape}.")
    if own.dtype.kind in "biuf" and not is_text:
        numbers = own.astype(float)
    elif own.dtype.kind in "OUT" or is_text:
        cells = [None if is_missing(cell) else cell for cell in own.tolist()]
        is_text = is_text or any(isinstance(cell, str) for cell in cells)
        if is_text:
            texts = [cell if cell is None else text_of(cell) for cell in cells]
            return np.array([*texts, None], object)[:-1]  # None keeps it an array of objects
        numbers = np.array([np.nan if cell is None else _number(name, cell) for cell in cells])
    else:
        what = "Complex data not supported" if own.dtype.kind == "c" else f"got {own.dtype}"
        remedy = "make dates a number, such as a count of days"
        raise ValueError(f"column `{name}` must hold numbers or text: {what} ({remedy}).")
    if np.isinf(numbers).any():
        _refuse_infinite(name)
    return numbers


def _is_category(values: Any) -> bool:
    return str(getattr(values, "dtype", "")).lower() in ("category", "categorical", "enum")


def _refuse_infinite(name: str) -> None:
    raise ValueError(f"column `{name}` must hold finite numbers; it contains infinity.")


def missing_rows(values: Any) -> list[int]:
    """The rows, from 0, of an array `[rows, ...]` in which a value is missing."""
    array = np.asarray(values)
    is_none = np.array([is_missing(cell) for cell in array.ravel().tolist()], bool).reshape(array.shape)
    return np.flatnonzero(is_none.any(axis=tuple(range(1, array.ndim)))).tolist()


def is_missing(cell: Any) -> bool:
    """Whether a cell in memory holds no value."""
    return cell is None or type(cell).__name__ in ("NAType", "NaTType") or (cell != cell) is True


def _number(name: str, cell: Any) -> float:
    try:
        return float(cell)
    except TypeError as error:
        raise TypeError(f"column `{name}`: argument must be a string or a number; got {cell!r}.") from error


def text_of(cell: Any) -> str:
    """A cell as text: whole numbers without a point."""
    is_whole = isinstance(cell, float) and cell.is_integer()
    return str(int(cell)) if is_whole else str(cell)


def names_of_categories(rows: Any) -> tuple[str, ...]:
    """Names of the columns of a frame, or of a mapping, whose type says that they hold categories."""
    if not isinstance(rows, Mapping) and getattr(rows, "columns", None) is None:
        return ()
    keys = list(rows) if isinstance(rows, Mapping) else list(rows.columns)
    return tuple(str(key) for key in keys if _is_category(rows[key]))


def select(frame: Frame, needed: Sequence[str], *, idle: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The needed columns, in that order; a warning lists others but the `idle` ones, which are left out.

    Raises:
        ValueError: If a column is missing; the nearest name that is there is suggested.
    """
    if absent := describe_absent(needed, frame):
        raise ValueError(f"`rows` must have {absent}")
    if others := [name for name in frame if name not in {*needed, *idle}]:
        names = listed(f"`{name}`" for name in others)
        what = "columns {} are not inputs" if len(others) > 1 else "column {} is not an input"
        warnings.warn(f"{what.format(names)}; ignored", stacklevel=3)
    return {name: frame[name] for name in needed}


def describe_absent(needed: Sequence[str], found: Iterable[str]) -> str:
    """What is said of columns that are needed and not there, with the nearest name; empty where all are."""
    found = tuple(found)
    absent = [name for name in needed if name not in found]
    if not absent:
        return ""
    spare = tuple(name for name in found if name not in needed)
    hint = suggestion(absent[0], spare) or suggestion(absent[0].lower(), tuple(map(str.lower, spare)))
    return f"the columns {listed(map(repr, absent))}: not there.{hint}"
