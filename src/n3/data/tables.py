"""Files: the user's own samples as a table, from text with a header (.csv, .tsv) or an .npz of arrays.

The first row of a text file names its columns. Every column that is no target and not dropped is an input:
numbers as they are, names of rows included; text as `n3.data.encoding` describes it. Values may be missing in
inputs. A constant column stays. Dates, texts that are all different, and copies of the target are refused, all
that is wrong with a file in one report. Rows are counted as in an editor, the header as row 1. An .npz file
holds `inputs` (rows, columns), numbers, and `targets`, numbers or text, in one column (rows) or, for
regression, in several (rows, columns).
"""

import csv
import functools
import io
import itertools
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

from n3.config.task import Kind
from n3.config.validation import suggestion
from n3.data.encoding import MOST_CATEGORIES, TableEncoder
from n3.data.frames import MOST_NAMED, Frame, column_names, listed
from n3.data.sources import RawSamples, Table

MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "nat", "none", "null", "?", "-"})
"""Cells that hold no value, in small or capital letters."""
SEPARATORS = ",;\t"
"""What may stand between the cells of a row where it is not given; of several, the one with most cells."""
MOST_CLASSES = 20
"""Different whole numbers up to which a target is taken for classes, where each is there twice on average."""
LARGEST, LARGEST_WHOLE = 1e100, 2**53
"""Largest magnitude of a number (its square is finite), and of one written as a whole one (it is exact)."""
MOST_ARRAY = 2**34
"""Bytes of an array of an archive."""
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}([./])\d{1,2}\2\d{2,4}( .*)?")
_Cells = tuple[str, ...] | list[str]


class DataError(ValueError):
    """A file whose content cannot be learnt from."""


def read_table(
    path: str | Path,
    *,
    target: Sequence[str] = (),
    kind: Kind | None = None,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    separator: str | None = None,
    decimal: Literal[".", ","] = ".",
    encoding: str | None = None,
) -> Table:
    """The rows of a `.csv`, `.tsv` or `.npz` file, as this module describes them, in their own units.

    `target` names the columns of a text file that are to be learnt, several for regression only; without a
    `kind` it is as `infer_kind` takes it. Columns of `drop` are left out, numbers of `categorical` are taken
    for categories. `separator`, `decimal` and `encoding` are as in `n3.TaskConfig`.

    Raises:
        ValueError: If there is no such file or column, or the target is not of that kind.
        DataError: If the content is malformed, incomplete or constant; all of it in one report.
    """
    path, lists = _existing(path), {"target": target, "drop": drop, "categorical": categorical}
    rest = {"kind": kind, "separator": separator, "decimal": decimal, "encoding": encoding}
    now = path.stat()
    stamp = now.st_ino, now.st_size, now.st_mtime_ns
    return _read_table(path, stamp, **{name: tuple(own) for name, own in lists.items()}, **rest)


@functools.lru_cache(maxsize=1)
def _read_table(
    path: Path,
    stamp: tuple[int, ...],
    *,
    target: tuple[str, ...],
    drop: tuple[str, ...],
    categorical: tuple[str, ...],
    kind: Kind | None,
    separator: str | None,
    decimal: str,
    encoding: str | None,
) -> Table:
    """The table of a file as it is at a stamp: a plan and the training after it read it once."""
    if path.suffix.lower() == ".npz":
        arrays = _read_npz(path, ("inputs", "targets"))
        frame, targets = arrays["inputs"], arrays["targets"]
    else:
        lines, cells = _cells(path, separator=separator, decimal=decimal, encoding=encoding)
        for field, names in {"target": target, "drop": drop, "categorical": categorical}.items():
            _check_names(path, field, names, cells)
        known = {name: own for name, own in cells.items() if name not in drop}
        frame, targets = _columns(path, known, lines, target=target, texts=categorical, decimal=decimal)
    return table_of(str(path), frame, targets, kind=kind)


def table_of(source: str, frame: Frame, targets: Frame, *, kind: Kind | None) -> Table:
    """Columns of inputs and of targets as a table; errors, which name the source, as `read_table`."""
    names, columns = tuple(targets), list(targets.values())
    is_classes = (kind or infer_kind(columns)) == "classification"
    problems = []
    for name, values in targets.items():
        if values.dtype.kind != "f" and not is_classes:
            raise ValueError(f"{source}: `{name}` must hold numbers for regression; got {str(values[0])!r}.")
        if np.all(values == values[0]):
            problems.append(f"`{name}` must hold two different values or more; got {values[0]} alone")
    if is_classes and len(columns) > 1:
        raise ValueError(f"`kind` classification takes one `target`; got {', '.join(names)}.")
    for (column, own), (name, values) in itertools.product(frame.items(), targets.items()):
        if own.dtype == values.dtype and np.array_equal(own, values):
            problems.append(f"column `{column}` must not repeat the target `{name}`: leave it out by `drop`")
    learnt = np.stack(columns, axis=1)
    if is_classes:
        classes, learnt = np.unique(columns[0], return_inverse=True)
        if len(classes) > MOST_CATEGORIES:
            most = f"{MOST_CATEGORIES} classes at most"
            problems.append(f"`{names[0]}` must hold {most}; got {len(classes)}")
        elif len(classes) == len(learnt) and len(classes) > 2:
            problems.append(f"`{names[0]}` must hold a class twice or more; all {len(classes)} rows differ")
        are_whole = classes.dtype.kind == "f" and np.all(classes == np.round(classes))
        names = tuple(str(int(value)) if are_whole else str(value) for value in classes)
    _report(source, problems)
    try:
        encoder = TableEncoder.fit(frame)
    except ValueError as error:
        raise DataError(f"{source}: {error}") from error
    if encoder.is_plain:
        inputs = np.stack(list(frame.values()), axis=1)
        frame = dict(zip(frame, inputs.T, strict=True))
    else:
        inputs = encoder.transform(frame)
    return Table(RawSamples(inputs, learnt), encoder.names, names, encoder, frame)


def infer_kind(targets: Sequence[Shaped[np.ndarray, " rows"]]) -> Kind:
    """What targets are taken for: one column of text, or of few different whole numbers, holds classes.

    Few are `MOST_CLASSES` at most, each there twice on average. All else is regression.
    """
    values = np.unique(targets[0])
    is_text, is_few = values.dtype.kind in "OU", len(values) <= min(MOST_CLASSES, len(targets[0]) / 2)
    is_classes = len(targets) == 1 and (is_text or (is_few and bool(np.all(values == np.round(values)))))
    return "classification" if is_classes else "regression"


def read_rows(
    path: str | Path,
    names: Sequence[str],
    *,
    texts: Sequence[str] = (),
    separator: str | None = None,
    decimal: Literal[".", ","] = ".",
    encoding: str | None = None,
) -> dict[str, np.ndarray]:
    """The columns of a file of rows to predict, those of `texts` as text; of an `.npz` its `inputs`, so named.

    Errors are those of `read_table`; a single row will do, and a column need not hold a value.
    """
    path = _existing(path)
    if path.suffix.lower() == ".npz":
        frame = _read_npz(path, ("inputs",))["inputs"]
        if len(frame) != len(names):
            raise DataError(f"{path}: `inputs` must have {len(names)} columns; got {len(frame)}.")
        return dict(zip(names, frame.values(), strict=True))
    how = {"separator": separator, "decimal": decimal, "encoding": encoding}
    lines, cells = _cells(path, least=1, **how)
    found, problems = {}, []
    for name in (own for own in cells if own in names):
        column = _Column(name, cells[name], lines, decimal, is_text=name in texts)
        found[name] = column.values(problems, is_whole=False)
    _report(str(path), problems)
    return found | {name: np.array([]) for name in cells if name not in found}


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        is_other = Path(path).exists()
        raise ValueError(
            f"`data` must name a file; there is {'something else' if is_other else 'none'} at {str(path)!r}."
        )
    return Path(path)


def _report(source: str, problems: Sequence[str]) -> None:
    """Refuse a file for all that is wrong with it, ten things at most by name."""
    if len(problems) == 1:
        raise DataError(f"{source}: {problems[0]}.")
    if problems:
        lines = [f"{source} has {len(problems)} problems:", *(f"- {own}." for own in problems[:MOST_NAMED])]
        rest = len(problems) - MOST_NAMED
        raise DataError("\n".join([*lines, *([f"- and {rest} more."] if rest > 0 else [])]))


def _check_names(path: Path, field: str, names: Sequence[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in (every := tuple(known)):
            hint = suggestion(name, every)
            raise ValueError(f"`{field}` must name a column of {path}, {', '.join(every)}; got {name!r}.{hint}")


def _columns(path, cells, lines, *, target, texts, decimal) -> tuple[Frame, Frame]:
    """Inputs and targets of a text file."""
    problems, columns = [], {}
    for name, own in cells.items():
        column = _Column(name, own, lines, decimal, is_text=name in texts)
        columns[name] = column.values(problems, is_whole=name in target)
        if name not in target and columns[name].dtype.kind == "O":
            problems += column.check_categories(columns[name])
    inputs = {name: own for name, own in columns.items() if name not in target}
    if not inputs:
        problems.append("there must be a column beside `target` to learn from")
    _report(str(path), problems)
    return inputs, {name: columns[name] for name in target}


def _cells(
    path: Path, *, separator: str | None, decimal: str, encoding: str | None, least: int = 2
) -> tuple[Sequence[int], dict[str, _Cells]]:
    """The row number of each sample, and the cells of each column by its name."""
    text = _text(path, encoding)
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{path}: row {line} must be text; it holds a NUL (set `encoding`, such as utf-16).")
    mark = separator or _separator(text, SEPARATORS if decimal == "." else SEPARATORS.replace(",", ""))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True, delimiter=mark)
    rows, lines = [], []
    try:
        for row in reader:
            if row:
                rows.append(tuple(row))  # which the garbage collector passes over
                lines.append(reader.line_num)
    except csv.Error as error:
        where = f"row {max(reader.line_num, 1)} cannot be read as comma-separated values"
        raise DataError(f"{path}: {where}: {error}.") from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    if None not in map(_number, header):
        got = ", ".join(header[:3]) or "nothing"
        raise DataError(f"{path} must begin with a header that names its columns; got {got}.")
    if len(header) == 1 and "|" in header[0]:
        raise DataError(f"{path}: `separator` must be given, such as '|'; its header is {header[0]!r}.")
    problems = [
        f"column {place} must have a name in the header" for place, own in enumerate(header, 1) if not own
    ]
    doubled = [name for name in dict.fromkeys(header) if name and header.count(name) > 1]
    problems += [f"the names of the columns must differ; {name!r} appears more than once" for name in doubled]
    if len(rows) <= least:
        need = f"there must be {'two rows' if least == 2 else 'a row'} or more below the header"
        problems.append(f"{need}; got {len(rows) - 1}")
    odd = [(line, len(row)) for line, row in zip(lines, rows, strict=True) if len(row) != len(header)]
    if odd:
        (first, cells), *others = odd
        rest = _and_in([line for line, _ in others])
        problems.append(f"row {first} must have {len(header)} cells, as the header; got {cells}{rest}")
    _report(str(path), problems)
    return lines[1:], dict(zip(header, zip(*rows[1:], strict=True), strict=True))


def _text(path: Path, encoding: str | None) -> str:
    content = path.read_bytes()
    try:
        return content.decode(encoding or "utf-8-sig")
    except UnicodeError as error:
        where = f"byte {error.start} does not fit" if isinstance(error, UnicodeDecodeError) else str(error)
        if encoding is not None or not isinstance(error, UnicodeDecodeError):
            raise DataError(f"{path} is not of `encoding` {encoding}: {where}.") from error
        likely = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1 or cp1252"
        rest = f"set `encoding`, such as {likely}, or save the file as UTF-8"
        raise DataError(f"{path} must be UTF-8 text; byte {error.start} is not: {rest}.") from error


def _separator(text: str, marks: str) -> str:
    """The mark by which the header has most cells, the first of several."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    try:
        return max(marks, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))
    except csv.Error:
        return marks[0]


class _Column:
    """The cells of one column of a text file, and what is wrong with them."""

    def __init__(self, name: str, cells: _Cells, lines: Sequence[int], decimal: str, *, is_text: bool):
        self.name, self.cells, self.lines, self.decimal, self.is_text = name, cells, lines, decimal, is_text

    def values(self, problems: list[str], *, is_whole: bool) -> np.ndarray:
        """Numbers, or texts as objects; what is wrong joins the problems. `is_whole`: none may be missing."""
        quick = None if self.is_text or self.decimal != "." else _quick_numbers(self.cells)
        if quick is not None:
            missing, numbers = np.flatnonzero(np.isnan(quick)), quick
            problems += self._magnitudes(numbers)
        else:
            parsed = {cell: self._parse(cell) for cell in set(self.cells)}
            kinds = {
                cell: 0 if own is None else 1 if isinstance(own, float) else 2 for cell, own in parsed.items()
            }
            known = np.fromiter((kinds[cell] for cell in self.cells), int, len(self.cells))
            missing, texts = np.flatnonzero(known == 0), np.flatnonzero(known == 2)
            if self.is_text or (len(texts) and not self._are_numbers(known, parsed, problems)):
                if is_whole:
                    self._require(missing, problems)
                return np.array([*(_text_in(cell) for cell in self.cells), None], object)[:-1]
            numbers = np.array([own if type(own := parsed[cell]) is float else np.nan for cell in self.cells])
            problems += self._magnitudes(numbers)
        if is_whole or len(missing) == len(self.cells) > 1:
            self._require(missing, problems)
        return numbers

    def check_categories(self, values: np.ndarray) -> list[str]:
        """What is wrong with the number of different texts."""
        known = values[values != None]  # noqa: E711, element by element
        categories = len(set(known.tolist()))
        if categories <= (MOST_CATEGORIES if categories < len(known) else MOST_CLASSES):
            return []
        must = f"must hold numbers, or text of {MOST_CATEGORIES} categories at most that repeat"
        got = f"{categories}, such as {str(known[0])!r}"
        return [f"column `{self.name}` {must}; got {got}. Leave it out by `drop` if it names the rows"]

    def _require(self, missing: np.ndarray, problems: list[str]) -> None:
        if len(missing):
            rest = "; leave the column out by `drop`" * (len(missing) == len(self.cells))
            problems.append(self._at(missing, f"must have a value{rest}; got {self.cells[missing[0]]!r}"))

    def _are_numbers(self, known: np.ndarray, parsed: Mapping, problems: list[str]) -> bool:
        """Whether the column is one of numbers although some cells are none; those are problems."""
        for words, is_such in self._faults.items():
            bad = [row for row in np.flatnonzero(known == 2) if is_such(self.cells[row].strip())]
            if bad:
                problems.append(self._at(bad, f"{words}; got {self.cells[bad[0]].strip()!r}"))
                return True
        numbers, texts = np.sum(known == 1), np.flatnonzero(known == 2)
        if numbers <= len(texts):
            return False
        got = f"got {self.cells[texts[0]].strip()!r}"
        problems.append(self._at(texts, f"must be a number, as most of the column is; {got}"))
        return True

    @property
    def _faults(self) -> dict[str, Callable[[str], bool]]:
        other = "," if self.decimal == "." else "."
        remedy = f"; or set `decimal` {other}" if other == "," else ", as `decimal` is"
        word = "point and no comma" if other == "," else "comma and no point"
        is_other = lambda cell: other in cell and _number(cell.replace(",", "").replace(".", "")) is not None  # noqa: E731
        return {
            "must be a number, such as a count of days, not a date": lambda cell: bool(_DATE.fullmatch(cell)),
            f"must be a number with a {word}{remedy}": is_other,
        }

    def _magnitudes(self, numbers: np.ndarray) -> list[str]:
        found = []
        with np.errstate(invalid="ignore"):
            beyond = np.flatnonzero(np.abs(numbers) > LARGEST)
            whole = np.flatnonzero((np.abs(numbers) >= LARGEST_WHOLE) & (np.abs(numbers) <= LARGEST))
        if len(beyond):
            got = f"got {self.cells[beyond[0]].strip()}"
            found.append(self._at(beyond, f"must lie within -{LARGEST:g} and {LARGEST:g}; {got}"))
        whole = [row for row in whole if self.cells[row].strip().lstrip("+-").isdecimal()]
        if whole:
            must = "must lie within 2**53 where it is written as a whole number"
            found.append(self._at(whole, f"{must}; got {self.cells[whole[0]].strip()}"))
        return found

    def _at(self, rows: Iterable[Any], text: str) -> str:
        first, *others = (self.lines[row] for row in rows)
        return f"row {first}, column `{self.name}` {text}{_and_in(others)}"

    def _parse(self, cell: str) -> float | str | None:
        plain = cell.strip()
        if plain.lower() in MISSING:
            return None
        if self.decimal == ",":
            number = None if "." in plain else _number(plain.replace(",", "."))
        else:
            number = _number(plain)
        return plain if number is None else None if number != number else number


def _and_in(lines: Sequence[int]) -> str:
    return f" (and in row {listed(lines)})" if lines else ""


def _text_in(cell: str) -> str | None:
    plain = cell.strip()
    return None if plain.lower() in MISSING else plain


def _quick_numbers(cells: _Cells) -> np.ndarray | None:
    """All cells as numbers, NaN where one is `nan`; None where one is anything else."""
    try:
        numbers = np.fromiter(map(float, cells), float, len(cells))
    except ValueError:
        return None
    return None if "_" in "".join(cells) else numbers


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _read_npz(path: Path, needed: Sequence[str]) -> dict[str, Frame]:
    """The columns of each array that is needed."""
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} must be an archive as `numpy.savez` writes it.")
    try:
        with zipfile.ZipFile(path) as archive:
            if max((each.file_size for each in archive.infolist()), default=0) > MOST_ARRAY:
                raise ValueError(f"an array has more than {MOST_ARRAY} bytes.")
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in needed if name in held.files}
            names = ", ".join(held.files)
    except (ValueError, OSError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(arrays) < len(needed):
        every = " and ".join(f"`{name}`" for name in needed)
        raise DataError(f"{path} must hold the arrays {every}; it holds {names or 'none'}.")
    for name, values in arrays.items():
        axes, kinds = ((2,), "biuf") if name == "inputs" else ((1, 2), "biufU")
        if values.ndim not in axes or 0 in values.shape or values.dtype.kind not in kinds:
            shape = "[rows, columns]" if name == "inputs" else "[rows] or [rows, columns]"
            got = f"{values.dtype} of shape {values.shape}"
            raise DataError(f"{path}: `{name}` must be numbers of shape {shape}, not empty; got {got}.")
    rows = {name: len(values) for name, values in arrays.items()}
    if len(set(rows.values())) > 1 or (len(needed) > 1 and rows["inputs"] < 2):
        got = " and ".join(map(str, rows.values()))
        raise DataError(f"{path}: `inputs` and `targets` must hold as many rows, two or more; got {got}.")
    return {name: _named(path, name, own.reshape(len(own), -1)) for name, own in arrays.items()}


def _named(path: Path, array: str, values: np.ndarray) -> Frame:
    """The columns of an array as `x0`, `x1` and so on, or by the letter alone where there is one."""
    names = column_names("x" if array == "inputs" else "y", values.shape[1])
    if values.dtype.kind == "U":
        return dict(zip(names, values.astype(object).T, strict=True))
    most = float(LARGEST_WHOLE) if values.dtype.kind in "iu" else LARGEST
    values = values.astype(float)
    is_fine = (np.abs(values) <= most) | (np.isnan(values) & (array == "inputs"))
    for row, column in np.argwhere(~is_fine):
        got = f"got {values[row, column]} in row {row}, column {column}, counted from 0"
        raise DataError(f"{path}: `{array}` must lie within -{most:g} and {most:g}; {got}.")
    return dict(zip(names, values.T, strict=True))
