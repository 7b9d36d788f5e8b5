"""Files: the user's own samples as a table, from a .csv with a header or an .npz of two arrays.

A .csv file is UTF-8 text with commas between its cells; its first row names the columns. Every column that is
no target is an input: numbers as they are, names of rows included; text as one column of 0 and 1 for each
category. A constant column stays. Dates, texts that are all different, numbers with a comma, missing values and
copies of the target are refused. Rows are counted as in an editor, the header as row 1. An .npz file holds
`inputs` (rows, columns), numbers, and `targets`, numbers or text, in one column (rows) or, for regression, in
several (rows, columns).
"""

import csv
import itertools
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from n3.config.experiment import Kind
from n3.config.validation import suggestion
from n3.data.sources import RawSamples, Table

MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "nat", "none", "null", "?", "-"})
"""Cells that hold no value, in small or capital letters."""
MOST_CATEGORIES = 256
"""Different texts that a column may hold: with more it names its rows and does not describe them."""
MOST_CLASSES = 20
"""Different whole numbers up to which a target is taken for classes, where each is there twice on average."""
LARGEST, LARGEST_WHOLE = 1e100, 2**53
"""Largest magnitude of a number (its square is finite), and of one written as a whole one (it is exact)."""
MOST_ARRAY = 2**34
"""Bytes of an array of an archive."""
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}([./])\d{1,2}\2\d{2,4}( .*)?")


class DataError(ValueError):
    """A file whose content cannot be learnt from."""


_Columns = tuple[dict[str, Float[np.ndarray, " rows"]], dict[str, Shaped[np.ndarray, " rows"]]]
"""Inputs and targets by name."""


def read_table(path: str | Path, *, target: Sequence[str] = (), kind: Kind | None = None) -> Table:
    """The rows of a `.csv` or `.npz` file, as the first lines of this module describe them, in their own units.

    `target` names the columns of a `.csv` file that are to be learnt, several for regression only; without a
    `kind` it is as `infer_kind` takes it.

    Raises:
        ValueError: If there is no such file or column, or the target is not of that kind.
        DataError: If the content is malformed, incomplete or constant.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`data` must name a file; there is none at {str(path)!r}.")
    inputs, targets = _read_npz(path) if path.suffix.lower() == ".npz" else _read_csv(path, target)
    names, columns = tuple(targets), list(targets.values())
    is_classes = (kind or infer_kind(columns)) == "classification"
    for name, values in targets.items():
        if np.all(values == values[0]):
            raise DataError(f"{path}: `{name}` must hold two different values or more; got {values[0]} alone.")
        if values.dtype.kind == "U" and not is_classes:
            raise ValueError(f"{path}: `{name}` must hold numbers for regression; got {str(values[0])!r}.")
    for (column, own), (name, values) in itertools.product(inputs.items(), targets.items()):
        if np.array_equal(own, values):
            raise DataError(f"{path}: column `{column}` must not repeat the target `{name}`: leave it out.")
    if is_classes and len(columns) > 1:
        raise ValueError(f"`kind` classification takes one `target`; got {', '.join(names)}.")
    learnt = np.stack(columns, axis=1)
    if is_classes:
        classes, learnt = np.unique(columns[0], return_inverse=True)
        if len(classes) > MOST_CATEGORIES:
            most = f"{MOST_CATEGORIES} classes at most"
            raise DataError(f"{path}: `{names[0]}` must hold {most}; got {len(classes)}.")
        are_whole = classes.dtype.kind != "U" and np.all(classes == np.round(classes))
        names = tuple(str(int(value)) if are_whole else str(value) for value in classes)
    return Table(RawSamples(np.stack(list(inputs.values()), axis=1), learnt), tuple(inputs), names)


def infer_kind(targets: Sequence[Shaped[np.ndarray, " rows"]]) -> Kind:
    """What targets are taken for: one column of text, or of few different whole numbers, holds classes.

    Few are `MOST_CLASSES` at most, each there twice on average. All else is regression.
    """
    values = np.unique(targets[0])
    is_text, is_few = values.dtype.kind == "U", len(values) <= min(MOST_CLASSES, len(targets[0]) / 2)
    is_classes = len(targets) == 1 and (is_text or (is_few and np.all(values == np.round(values))))
    return "classification" if is_classes else "regression"


def _read_csv(path: Path, target: Sequence[str]) -> _Columns:
    lines, cells = _cells(path)
    for name in target:
        if name not in cells:
            hint = suggestion(name, tuple(cells))
            raise ValueError(f"`target` must name a column of {path}, {', '.join(cells)}; got {name!r}.{hint}")
    columns = {name: _values(path, name, own, lines) for name, own in cells.items()}
    inputs = {}
    for name, values in columns.items():
        if name in target:
            continue
        categories = np.unique(values) if values.dtype.kind == "U" else ()
        if len(categories) > (MOST_CATEGORIES if len(categories) < len(values) else MOST_CLASSES):
            must = f"must hold numbers, or text of {MOST_CATEGORIES} categories at most that repeat"
            got = f"{len(categories)}, such as {str(values[0])!r}"
            raise DataError(f"{path}: column `{name}` {must}; got {got}. Leave it out if it names the rows.")
        encoded = {f"{name}={category}": (values == category).astype(float) for category in categories}
        encoded = encoded or {name: values}
        for doubled in inputs.keys() & encoded.keys():
            raise DataError(f"{path}: categories of column `{name}` make a column {doubled!r}, which is there.")
        inputs |= encoded
    if not inputs:
        raise DataError(f"{path} must hold a column beside `target` to learn from.")
    return inputs, {name: columns[name] for name in target}


def _cells(path: Path) -> tuple[Sequence[int], dict[str, tuple[str, ...]]]:
    """The row number of each sample, and the cells of each column by its name."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True, skipinitialspace=True)
        try:
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
        except UnicodeDecodeError as error:
            advice = "save it as UTF-8" if error.start > 1 else "it may be UTF-16: save it as UTF-8"
            raise DataError(f"{path} must be UTF-8 text; byte {error.start} is not ({advice}).") from error
        except csv.Error as error:
            where = f"row {max(reader.line_num, 1)} cannot be read as comma-separated values"
            raise DataError(f"{path}: {where}: {error}.") from error
    for line, row in rows:
        if "\0" in "".join(row):
            raise DataError(f"{path}: row {line} must be UTF-8 text; it holds a NUL (save it as UTF-8).")
    header = rows[0][1] if rows else []
    if None not in map(_number, header):
        got = ", ".join(header[:3]) or "nothing"
        raise DataError(f"{path} must begin with a header that names its columns; got {got}.")
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        raise DataError(f"{path} must have commas between its cells; its header is {header[0]!r}.")
    for place, name in enumerate(header, 1):
        if not name:
            raise DataError(f"{path}: column {place} must have a name in the header.")
        if name in header[: place - 1]:
            raise DataError(f"{path}: the names of the columns must differ; {name!r} appears more than once.")
    if len(rows) < 3:
        raise DataError(f"{path} must hold two rows or more below its header; it holds {len(rows) - 1}.")
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path}: row {line} must have {len(header)} cells, as the header; got {len(row)}.")
    lines, cells = zip(*rows[1:], strict=True)
    return lines, dict(zip(header, zip(*cells, strict=True), strict=True))


def _values(path: Path, name: str, cells: Sequence[str], lines: Sequence[int]) -> Shaped[np.ndarray, " rows"]:
    numbers = [_number(cell) for cell in cells]
    share = sum(number is not None for number in numbers) / len(cells)
    for line, cell, number in zip(lines, cells, numbers, strict=True):
        where = f"{path}: row {line}, column `{name}`"
        if cell.lower() in MISSING:
            raise DataError(f"{where} must have a value; got {cell!r}.")
        if number is None and "," in cell and _number(cell.replace(",", "")) is not None:
            raise DataError(f"{where} must be a number with a point and no comma; got {cell!r}.")
        if number is None and _DATE.fullmatch(cell):
            raise DataError(f"{where} must be a number, such as a count of days, not a date; got {cell!r}.")
        if number is None and 0.5 < share < 1:
            raise DataError(f"{where} must be a number, as most of the column is; got {cell!r}.")
        if number is not None and not abs(number) <= LARGEST:
            raise DataError(f"{where} must lie within -{LARGEST:g} and {LARGEST:g}; got {cell}.")
        if number is not None and abs(number) >= LARGEST_WHOLE and cell.lstrip("+-").isdecimal():
            raise DataError(f"{where} must lie within 2**53 where it is written as a whole number; got {cell}.")
    return np.array(numbers, float) if share == 1 else np.array(cells)


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _read_npz(path: Path) -> _Columns:
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} must be an archive as `numpy.savez` writes it.")
    try:
        with zipfile.ZipFile(path) as archive:
            if max((each.file_size for each in archive.infolist()), default=0) > MOST_ARRAY:
                raise ValueError(f"an array has more than {MOST_ARRAY} bytes.")
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in ("inputs", "targets") if name in held.files}
            names = ", ".join(held.files)
    except (ValueError, OSError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(arrays) < 2:
        raise DataError(f"{path} must hold the arrays `inputs` and `targets`; it holds {names or 'none'}.")
    inputs, targets = arrays["inputs"], arrays["targets"]
    for name, values, axes, kinds in (("inputs", inputs, (2,), "biuf"), ("targets", targets, (1, 2), "biufU")):
        if values.ndim not in axes or 0 in values.shape or values.dtype.kind not in kinds:
            shape = "[rows, columns]" if name == "inputs" else "[rows] or [rows, columns]"
            got = f"{values.dtype} of shape {values.shape}"
            raise DataError(f"{path}: `{name}` must be numbers of shape {shape}, not empty; got {got}.")
    if len(inputs) != len(targets) or len(inputs) < 2:
        got = f"{len(inputs)} and {len(targets)}"
        raise DataError(f"{path}: `inputs` and `targets` must hold as many rows, two or more; got {got}.")
    targets = targets[:, None] if targets.ndim == 1 else targets
    return _named(path, "x", "inputs", inputs), _named(path, "y", "targets", targets)


def _named(path: Path, letter: str, array: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of an array as `x0`, `x1` and so on, or by the letter alone where there is one."""
    if values.dtype.kind != "U":
        most = float(LARGEST_WHOLE) if values.dtype.kind in "iu" else LARGEST
        values = values.astype(float)
        for row, column in np.argwhere(~(np.abs(values) <= most)):
            got = f"got {values[row, column]} in row {row}, column {column}, counted from 0"
            raise DataError(f"{path}: `{array}` must lie within -{most:g} and {most:g}; {got}.")
    names = [letter] if values.shape[1] == 1 else [f"{letter}{place}" for place in range(values.shape[1])]
    return dict(zip(names, values.T, strict=True))
