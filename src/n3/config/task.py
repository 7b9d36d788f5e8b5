"""Task: what is learnt, a named data set or the user's own file, and how that file is read."""

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from n3.config import validation

Kind = Literal["regression", "classification"]
_OF_FILE = ("target", "drop", "categorical", "separator", "decimal", "encoding", "kind")
"""What is said of a file of `data` alone."""


def check_format(separator: str | None, decimal: str, encoding: str | None) -> None:
    """See that a text file can be written so; a ValueError if not."""
    if separator is not None and (len(separator) != 1 or separator in '"\r\n\0'):
        raise ValueError(f"`separator` must be one character, such as ';'; got {separator!r}.")
    if decimal not in (".", ","):
        raise ValueError(f"`decimal` must be . or ,; got {decimal!r}.")
    if separator == decimal:
        remedy = "save the file with another separator, such as ;, or write numbers with a point"
        raise ValueError(f"`separator` and `decimal` must differ; got {decimal!r} for both: {remedy}.")
    if encoding is not None:
        try:
            "a".encode(encoding)  # of text: others are a LookupError
        except (LookupError, ValueError) as error:
            raise ValueError(f"`encoding` must be known, such as latin-1; got {encoding!r}.") from error


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Task: what is learnt, and from how many samples."""

    task: str = "bessel"
    """Data set, by its name in `n3.data.DATASETS`; left out with `data`, and then the file's name."""
    data: str | None = None
    """The user's own samples in place of a named set: a .csv or .tsv with a header (text is taken for
    categories), or an .npz of arrays `inputs` and `targets`. A fifth of the rows is test data, drawn anew for
    every seed."""
    target: tuple[str, ...] = ()
    """Columns of the .csv file that are to be learnt: one, or several for regression."""
    drop: tuple[str, ...] = ()
    """Columns of the .csv file that are left out."""
    categorical: tuple[str, ...] = ()
    """Columns of the .csv file whose numbers are names of categories."""
    separator: str | None = None
    """What stands between the cells of the .csv file; None: comma, semicolon or tab, as its header has."""
    decimal: Literal[".", ","] = "."
    """What stands before the fraction of a number in the .csv file."""
    encoding: str | None = None
    """Encoding of the .csv file, such as latin-1; None: UTF-8."""
    kind: Kind | None = None
    """What the file's target is; None: classification where it is text or holds few different whole numbers."""
    class_weight: Literal["balanced"] | None = None
    """Weight of the classes in training losses, held-out checks and solved read-outs: balanced gives each class
    the same sum; None: all samples count alike, as in tests and where a price decides the size."""
    samples: Annotated[int | None, "positive"] = None
    """Training samples, per seed; None: of `data` all rows that are no test rows, of a named set its own number
    or the method's."""
    test_samples: Annotated[int | None, "positive"] = None
    """Test samples, per seed; None: of `data` a fifth of the rows, of a named set its own number or the
    method's."""
    data_seed: Annotated[int | None, "at_least_zero"] = None
    """Give every seed the same data, drawn from this seed; None: each seed draws its own, but of `data` with
    more than 32,768 rows all have the split of seed 0, which is in memory once."""

    def __post_init__(self) -> None:
        validation.check_ranges(self)
        for name in ("target", "drop", "categorical"):
            if isinstance(value := getattr(self, name), str):
                raise ValueError(f"`{name}` must be a tuple of names, such as ('y',); got {value!r}.")
        own = [each.name for each in fields(self) if each.name in _OF_FILE]
        given = [name for name in own if getattr(self, name) != TaskConfig.__dataclass_fields__[name].default]
        if self.data is None:
            for name in given:
                raise ValueError(f"`{name}` goes with a file of `data`; got {getattr(self, name)!r} alone.")
            return
        ending = Path(self.data).suffix.lower()
        if ending not in (".csv", ".tsv", ".npz"):
            rest = ": save the table as csv" if ending.startswith((".xls", ".ods")) else ""
            raise ValueError(f"`data` must name a .csv, .tsv or .npz file; got {self.data!r}{rest}.")
        if bool(self.target) != (ending != ".npz"):
            due = "be left out with .npz" if self.target else "name a column of a .csv file, such as price"
            raise ValueError(f"`target` must {due}; got {self.target!r} with {self.data!r}.")
        for name in [own for own in given if own != "kind" and ending == ".npz"]:
            raise ValueError(f"`{name}` goes with a .csv file; got {getattr(self, name)!r} with {self.data!r}.")
        self._check_text()
        if self.task not in (TaskConfig.task, own := self._file_name()):
            due = f"must be left out with `data`, or be its name, {own!r}"
            raise ValueError(f"`task` {due}; got {self.task!r}.")

    def _check_text(self) -> None:
        """See that what is said of a text file can be so."""
        for name in ("target", "drop", "categorical"):
            if names := getattr(self, name):
                validation.distinct(name, names)
        for name, others in {"drop": self.target, "categorical": (*self.target, *self.drop)}.items():
            if both := set(getattr(self, name)) & set(others):
                raise ValueError(f"`{name}` must name no column of `target` or `drop`; got {min(both)!r}.")
        check_format(self.separator, self.decimal, self.encoding)

    def named(self) -> "TaskConfig":
        """The same task, by the file's name if it is the user's own."""
        return self if self.data is None else replace(self, task=self._file_name())

    def _file_name(self) -> str:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(self.data).stem)[:80]
