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
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from n3.config.task import Kind
from n3.config.validation import suggestion
from n3.data.cells import (
    LARGEST,
    LARGEST_WHOLE,
    MOST_CATEGORIES,
    MOST_CLASSES,
    CellColumn,
    DataError,
    Origin,
    and_in,
    in_memory,
    number_of,
    plain_numbers,
    report_problems,
)
from n3.data.encoding import TableEncoder
from n3.data.frames import Frame, column_names, describe_absent, listed
from n3.data.sources import RawSamples, Table

SEPARATORS = ",;\t"
"""What may stand between the cells of a row where it is not given; of several, the one with most cells."""
MOST_ARRAY = 2**34
"""Bytes of an array of an archive."""
BLOCK_ROWS = 4096
"""Rows of a text file that are held as texts at once."""
_Cells = np.ndarray | list[str]


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
        how = {"separator": separator, "decimal": decimal, "encoding": encoding}
        origin, cells = _cells(path, texts=categorical, **how)
        for field, names in {"target": target, "drop": drop, "categorical": categorical}.items():
            _check_names(path, field, names, cells, origin)
        known = {name: own for name, own in cells.items() if name not in drop}
        frame, targets = _columns(path, known, origin, target=target, texts=categorical)
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
    for column, name in copies_of(targets, frame):
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
    report_problems(source, problems)
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


def copies_of(targets: Frame, frame: Frame) -> list[tuple[str, str]]:
    """Each column of inputs that repeats a target, and that target."""
    return [
        (column, name)
        for (column, own), (name, values) in itertools.product(frame.items(), targets.items())
        if own.dtype == values.dtype and np.array_equal(own, values)
    ]


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

    Errors are those of `read_table`, and a DataError if a column of `names` is not there; a single row will do,
    and a column need not hold a value.
    """
    how = {"separator": separator, "decimal": decimal, "encoding": encoding}
    return numbered_rows(path, names, texts=texts, **how)[0]


def numbered_rows(
    path: str | Path,
    names: Sequence[str],
    *,
    texts: Sequence[str],
    separator: str | None,
    decimal: Literal[".", ","],
    encoding: str | None,
) -> tuple[dict[str, np.ndarray], Origin]:
    """What `read_rows` gives, and what messages call those rows."""
    path = _existing(path)
    if path.suffix.lower() == ".npz":
        frame = _read_npz(path, ("inputs",))["inputs"]
        if len(frame) != len(names):
            raise DataError(f"{path}: `inputs` must have {len(names)} columns; got {len(frame)}.")
        named = dict(zip(names, frame.values(), strict=True))
        return named, in_memory(len(next(iter(named.values()))))
    how = {"separator": separator, "decimal": decimal, "encoding": encoding}
    origin, cells = _cells(path, least=1, texts=texts, **how)
    if absent := describe_absent(names, cells):
        raise DataError(f"{path} must have {absent}{_found(cells, origin)}")
    found, problems = {}, []
    for name in (own for own in cells if own in names):
        is_text = name in texts
        column = CellColumn(name, cells[name], origin, is_text=is_text, is_number=not is_text)
        found[name] = column.values(problems, is_required=False)
    report_problems(str(path), problems)
    return found | {name: np.array([]) for name in cells if name not in found}, origin


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        is_other = Path(path).exists()
        raise ValueError(
            f"`data` must name a file; there is {'something else' if is_other else 'none'} at {str(path)!r}."
        )
    return Path(path)


def _check_names(path: Path, field: str, names: Sequence[str], cells: Iterable[str], origin: Origin) -> None:
    for name in names:
        if name not in (every := tuple(cells)):
            rest = suggestion(name, every) or (_found(every, origin) if len(every) == 1 else "")
            if len(parts := name.split(",")) > 1 and set(map(str.strip, parts)) <= set(every):
                rest = f" Separate names by spaces: {' '.join(map(str.strip, parts))}."
            raise ValueError(f"`{field}` must name a column of {path}, {', '.join(every)}; got {name!r}.{rest}")


def _found(cells: Iterable[str], origin: Origin) -> str:
    """The columns of a file and by which separator they are so; what to do where they are a single one."""
    every = list(cells)
    text = f" By `separator` {origin.separator!r} it has the columns {listed(map(repr, every))}."
    if len(every) > 1:
        return text
    if origin.decimal == "," and "," in every[0]:
        return f"{text} With `decimal` , a comma separates no cells: save the file with `separator` ;."
    return f"{text} Set `separator` if it is another."


def _columns(path, cells, origin, *, target, texts) -> tuple[Frame, Frame]:
    """Inputs and targets of a text file."""
    problems, columns = [], {}
    for name, own in cells.items():
        column = CellColumn(name, own, origin, is_text=name in texts)
        columns[name] = column.values(problems, is_whole=name in target)
        if name not in target:
            problems += column.check_categories(columns[name])
    inputs = {name: own for name, own in columns.items() if name not in target}
    if not inputs:
        problems.append("there must be a column beside `target` to learn from")
    report_problems(str(path), problems)
    return inputs, {name: columns[name] for name in target}


def _cells(
    path: Path,
    *,
    separator: str | None,
    decimal: str,
    encoding: str | None,
    texts: Collection[str] = (),
    least: int = 2,
) -> tuple[Origin, dict[str, _Cells]]:
    """Where the samples are, and each column by name: its numbers, or its cells where one is no plain number.

    Cells of `texts` are kept. The texts of a block of rows go once they are numbers.
    """
    content, encoding = _content(path, encoding)
    first = next((line for line in _lines_of(content, encoding) if line.strip()), "")
    mark = separator or _separator(first, SEPARATORS if decimal == "." else SEPARATORS.replace(",", ""))
    read = functools.partial(_rows, path, content, encoding, mark)
    header = [cell.strip() for cell in next(read(), (1, []))[1]]
    if None not in map(number_of, header):
        got = ", ".join(header[:3]) or "nothing"
        raise DataError(f"{path} must begin with a header that names its columns; got {got}.")
    if len(header) == 1 and "|" in header[0]:
        raise DataError(f"{path}: `separator` must be given, such as '|'; its header is {header[0]!r}.")
    lines, odd, parts = [], [], [[] for _ in header]
    plain = {place for place, name in enumerate(header) if decimal == "." and name not in texts}
    rows = itertools.islice(read(), 1, None)
    while block := list(itertools.islice(rows, BLOCK_ROWS)):
        lines += [line for line, _ in block]
        odd += [(line, len(row)) for line, row in block if len(row) != len(header)]
        for place, cells in enumerate(zip(*(row for _, row in block), strict=not odd)) if not odd else ():
            if place in plain:
                numbers = plain_numbers(cells)
                plain -= {place} if numbers is None else set()
                parts[place].append(numbers)
    origin = Origin(lines=lines, decimal=decimal, separator=mark)
    report_problems(str(path), _faults_of_rows(header, origin, odd, least))
    kept = {place: [] for place in range(len(header)) if place not in plain}
    same: dict[str, str] = {}  # a text that repeats is held once
    for _, row in itertools.islice(read(), 1, None) if kept else ():
        for place, cells in kept.items():
            cells.append(same.setdefault(row[place], row[place]))
    columns = (kept.get(place) or np.concatenate(own) for place, own in enumerate(parts))
    return origin, dict(zip(header, columns, strict=True))


def _faults_of_rows(
    header: Sequence[str], origin: Origin, odd: Sequence[tuple[int, int]], least: int
) -> list[str]:
    """What is wrong with the header, the number of rows, and rows of another length, by line and length."""
    problems = [
        f"column {place} must have a name in the header" for place, own in enumerate(header, 1) if not own
    ]
    doubled = [name for name in dict.fromkeys(header) if name and header.count(name) > 1]
    problems += [f"the names of the columns must differ; {name!r} appears more than once" for name in doubled]
    if len(origin.lines) < least:
        need = f"there must be {'two rows' if least == 2 else 'a row'} or more below the header"
        problems.append(f"{need}; got {len(origin.lines)}")
    if odd:
        (first, cells), *others = odd
        rest = and_in([line for line, _ in others])
        why = f".{_found(header, origin)}".removesuffix(".") if len(header) == 1 else ""
        problems.append(f"row {first} must have {len(header)} cells, as the header; got {cells}{rest}{why}")
    return problems


def _rows(path: Path, content: bytes, encoding: str, mark: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a text that are not empty, and the line that each ends on."""
    reader = csv.reader(_lines_of(content, encoding), strict=True, skipinitialspace=True, delimiter=mark)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        where = f"row {max(reader.line_num, 1)} cannot be read as comma-separated values"
        raise DataError(f"{path}: {where}: {error}.") from error


def _lines_of(content: bytes, encoding: str) -> Iterator[str]:
    return io.TextIOWrapper(io.BytesIO(content), encoding=encoding, newline="")


def _content(path: Path, encoding: str | None) -> tuple[bytes, str]:
    """The bytes of a text file and their encoding, in which all of them can be read."""
    content, known = path.read_bytes(), encoding or "utf-8-sig"
    try:
        text = content.decode(known)
    except UnicodeError as error:
        where = f"byte {error.start} does not fit" if isinstance(error, UnicodeDecodeError) else str(error)
        if encoding is not None or not isinstance(error, UnicodeDecodeError):
            raise DataError(f"{path} is not of `encoding` {encoding}: {where}.") from error
        likely = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1 or cp1252"
        rest = f"set `encoding`, such as {likely}, or save the file as UTF-8"
        raise DataError(f"{path} must be UTF-8 text; byte {error.start} is not: {rest}.") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{path}: row {line} must be text; it holds a NUL (set `encoding`, such as utf-16).")
    return content, known


def _separator(header: str, marks: str) -> str:
    """The mark by which the header has most cells, the first of several."""
    try:
        return max(marks, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))
    except csv.Error:
        return marks[0]


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
