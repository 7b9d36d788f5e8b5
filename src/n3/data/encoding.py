"""Encoding: from a user's rows to what a network reads, and from its outputs back to the user's units.

A number that is missing is the median of the column, with a column of 0 and 1 beside it. A column of text
becomes one column of 0 and 1 for each category; rare categories share one, and a missing text is a category
too. Medians and categories are found by scikit-learn's transformers, and stored as plain JSON.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy import special

from n3.config.validation import from_json
from n3.data.cells import MOST_CATEGORIES, Origin, and_in, number_of, text_in
from n3.data.frames import MOST_NAMED, Frame, frame_of, listed, select, text_of

RARE = 0.01
"""Share of the rows below which categories share a column."""
MISSING_NAME, RARE_NAME = "(missing)", "(rare)"
"""What the names of columns say of a value that is missing, and of rare categories."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table: numbers, or text where there are `categories`."""

    name: str
    median: float | None = None
    """Of numbers: what stands for a missing one, in the column's unit."""
    has_indicator: bool = False
    """Of numbers: whether a further column is 1 where the number is missing."""
    categories: tuple[str | None, ...] | None = None
    """Of text: what has a column, in the order of these; None is a missing text."""
    rare: tuple[str | None, ...] = ()
    """Of text: what shares one further column; any other text is 0 in all columns, or rare where these are."""
    absent: tuple[str | None, ...] = ()
    """Of text: categories without a training row, taken for texts that were never there."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that it becomes."""
        if self.categories is None:
            return (self.name, *([f"{self.name}={MISSING_NAME}"] if self.has_indicator else []))
        own = [f"{self.name}={MISSING_NAME if each is None else each}" for each in self.categories]
        return (*own, *([f"{self.name}={RARE_NAME}"] if self.rare else []))

    def describe(self) -> str:
        """What becomes of it, in words."""
        if self.categories is None:
            rest = (
                f"; missing: as {self.median:.6g}, with a column that is 1 there" if self.has_indicator else ""
            )
            return f"number{rest}"
        texts = [own for own in (*self.categories, *self.rare) if own is not None]
        rare = f"; {len(self.rare)} rare ones share a column" if self.rare else ""
        missing = "; missing is one more" if None in (*self.categories, *self.rare) else ""
        return f"{len(texts)} categories{rare}{missing}"

    def encode(self, values: np.ndarray) -> Float[np.ndarray, "rows names"]:
        """The columns that it becomes, in its own unit; a ValueError if numbers are due and a text is there."""
        if self.categories is None:
            numbers = self._numbers(values)
            is_missing = np.isnan(numbers)
            whole = np.where(is_missing, 0.0 if self.median is None else self.median, numbers)
            return np.stack([whole, is_missing.astype(float)][: len(self.names)], axis=1)
        seen = [each for each in self.categories if each not in self.absent]
        places = {each: self.categories.index(each) for each in seen}
        other = len(self.categories) if self.rare else -1
        codes = np.array([places.get(cell, other) for cell in _texts(values)], int)
        return (codes[:, None] == np.arange(len(self.names))).astype(float)

    def notes(self, values: np.ndarray, origin: Origin) -> list[str]:
        """What new rows hold that no row of training did, and what it counts as."""
        if self.categories is None:
            is_empty = len(values) > 1 and bool(np.all(np.isnan(self._numbers(values))))
            median = 0.0 if self.median is None else self.median
            return [f"column `{self.name}` has no value; each counts as {median:.6g}"] if is_empty else []
        known, places = {*self.categories, *self.rare}, {}
        for line, cell in zip(origin.lines, _texts(values), strict=True):
            if cell not in known:
                places.setdefault(cell, []).append(line)
        other, found = "rare" if self.rare else "none", []
        for cell, (first, *others) in places.items():
            what = "a missing value" if cell is None else repr(cell)
            rest = f"was not in training; counted as {other}{and_in(others)}"
            found.append(f"row {first}{origin.counted}, column `{self.name}`: {what} {rest}")
        return found

    def _numbers(self, values: np.ndarray) -> Float[np.ndarray, " rows"]:
        if values.dtype.kind == "f":
            return values
        found, bad = np.full(len(values), np.nan), []
        for row, cell in enumerate(map(text_in, values)):
            if cell is not None and (number := number_of(cell)) is None:
                bad.append(row)
            elif cell is not None:
                found[row] = number
        if bad:
            got = f"{values[bad[0]]!r} in row {bad[0]}, counted from 0"
            raise ValueError(f"column `{self.name}` must hold numbers, as it did in training; got {got}.")
        return found


@dataclass(frozen=True, kw_only=True)
class TableEncoder:
    """Table encoder: the columns of a table, in order, and what each of them becomes."""

    columns: tuple[Column, ...]

    @classmethod
    def fit(cls, frame: Frame) -> "TableEncoder":
        """Medians and categories of the rows of a frame.

        Raises:
            ValueError: If there are no columns or rows, or two columns become one of the same name.
        """
        if not frame or not len(next(iter(frame.values()))):
            raise ValueError("`frame` must have a column and a row, or more.")
        numbers = [name for name, own in frame.items() if own.dtype.kind == "f"]
        found = _fit_numbers({name: frame[name] for name in numbers})
        found |= {name: _fit_texts(name, own) for name, own in frame.items() if name not in found}
        encoder = cls(columns=tuple(found[name] for name in frame))
        for name in (doubled := list(encoder.names)):
            if doubled.count(name) > 1:
                raise ValueError(f"categories of a column make a column {name!r}, which is there.")
        return encoder

    @classmethod
    def of_numbers(cls, names: Sequence[str]) -> "TableEncoder":
        """Columns of numbers that stay as they are."""
        return cls(columns=tuple(Column(name=name) for name in names))

    def refitted(self, frame: Frame) -> "TableEncoder":
        """The same columns with medians of other rows; categories that these lack count as never seen."""
        numbers = {own.name: frame[own.name] for own in self.columns if own.categories is None}
        medians, found = _fit_numbers(numbers), []
        for own in self.columns:
            if own.categories is None:
                found.append(dataclasses.replace(own, median=medians[own.name].median))
            else:
                there = set(frame[own.name].tolist())
                absent = tuple(each for each in own.categories if each not in there)
                found.append(dataclasses.replace(own, absent=absent))
        return TableEncoder(columns=tuple(found))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the columns of a table."""
        return tuple(own.name for own in self.columns)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that they become."""
        return tuple(name for own in self.columns for name in own.names)

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the columns of text."""
        return tuple(own.name for own in self.columns if own.categories is not None)

    @property
    def is_plain(self) -> bool:
        """Whether every column stays as it is."""
        return self.names == self.inputs and not self.texts

    def transform(self, frame: Frame) -> Float[np.ndarray, "rows names"]:
        """What columns become, in their own units; errors as `Column.encode` and `select`."""
        frame = select(frame, self.inputs)
        found = np.empty((len(next(iter(frame.values()))), len(self.names)))
        place = 0
        for own in self.columns:
            found[:, place : place + len(own.names)] = own.encode(frame[own.name])
            place += len(own.names)
        return found

    def notes(self, frame: Frame, origin: Origin) -> list[str]:
        """What new rows hold that no row of training did, ten things at most and how many more."""
        every = [text for own in self.columns for text in own.notes(frame[own.name], origin)]
        rest = len(every) - MOST_NAMED
        return [*every[:MOST_NAMED], *([f"{rest} more values were not in training"] if rest > 0 else [])]

    def to_json(self) -> str:
        """All of it as JSON text; `from_json` gives an equal encoder."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str, *, source: str = "encoder") -> "TableEncoder":
        """The encoder that `to_json` wrote; a ValueError that names the `source` if the text is another."""
        return from_json(cls, text, source=source)


def _fit_numbers(frame: Frame) -> dict[str, Column]:
    """Columns of numbers; medians and indicators only where one is missing."""
    found = {name: Column(name=name) for name in frame}
    holed = {name: own for name, own in frame.items() if np.isnan(own).any()}
    medians = {name: 0.0 for name in frame} if not holed else {}
    if holed:
        from sklearn.impute import SimpleImputer  # here, not above: most tables are complete

        imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
        imputer.fit(np.stack(list(holed.values()), axis=1))
        medians = dict(zip(holed, np.nan_to_num(imputer.statistics_).tolist(), strict=True))
    for name, own in frame.items():
        known = medians[name] if name in holed else float(np.median(own))
        found[name] = Column(name=name, median=known, has_indicator=name in holed)
    return found


def _fit_texts(name: str, values: np.ndarray) -> Column:
    from sklearn.preprocessing import OneHotEncoder

    pooled = {"min_frequency": RARE, "max_categories": MOST_CATEGORIES}
    encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", **pooled).fit(values[:, None])
    rare = encoder.infrequent_categories_[0]
    rare = [] if rare is None else [_plain(each) for each in rare]
    every = [_plain(each) for each in encoder.categories_[0]]
    return Column(name=name, categories=tuple(each for each in every if each not in rare), rare=tuple(rare))


def _texts(values: np.ndarray) -> list[str | None]:
    """Cells of a column of text, which may have come as numbers."""
    if values.dtype.kind == "f":
        return [None if cell != cell else text_of(cell) for cell in values.tolist()]
    return [text_in(cell) for cell in values.tolist()]


def _plain(category: str | None) -> str | None:
    return None if category is None else str(category)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Preprocessing: from a user's rows to scaled inputs, and from a network's outputs to the user's units."""

    encoder: TableEncoder
    input_offset: tuple[float, ...]
    input_scale: tuple[float, ...]
    """Scaled input = (encoded - offset) / scale, column by column."""
    target_offset: tuple[float, ...]
    target_scale: tuple[float, ...]
    """Own unit = output * scale + offset; ones and zeros for classes."""
    targets: tuple[str, ...]
    """Names of the target columns, or of the classes."""
    is_classes: bool

    def __post_init__(self) -> None:
        widths = {"input": len(self.encoder.names), "target": self.outputs}
        for side, width in widths.items():
            for name in (f"{side}_offset", f"{side}_scale"):
                if len(getattr(self, name)) != width:
                    raise ValueError(f"`{name}` must have {width} numbers; got {len(getattr(self, name))}.")
        for name in ("input_scale", "target_scale"):
            if not all(value > 0 for value in getattr(self, name)):
                raise ValueError(f"`{name}` must be positive; got {listed(getattr(self, name))}.")

    @property
    def outputs(self) -> int:
        """Outputs of the network: one for each target or class, one of two classes."""
        return 1 if self.is_classes and len(self.targets) == 2 else len(self.targets)

    def frame(self, rows: object, *, idle: Iterable[str] = ()) -> dict[str, np.ndarray]:
        """The columns that are needed of rows in memory, as `frame_of` and `select` take them."""
        return select(frame_of(rows, names=self.encoder.inputs), self.encoder.inputs, idle=idle)

    def inputs(self, frame: Frame) -> Float[np.ndarray, "rows in_size"]:
        """Scaled inputs of a network."""
        return (self.encoder.transform(frame) - np.array(self.input_offset)) / np.array(self.input_scale)

    def values(self, outputs: Float[np.ndarray, "rows out_size"]) -> Float[np.ndarray, "rows targets"]:
        """Outputs in the user's units, or of logits the probability of each class."""
        if not self.is_classes:
            return outputs * np.array(self.target_scale) + np.array(self.target_offset)
        if outputs.shape[1] == 1:
            return special.expit(np.concatenate([-outputs, outputs], axis=1))
        return special.softmax(outputs, axis=1)
