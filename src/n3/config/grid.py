"""Grid: settings by name, each with its values, and the experiments that differ in them and in nothing else."""

import contextlib
import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from n3.config import validation
from n3.config.experiment import Experiment

SECTIONS = ("task", "network", "training", "information")
"""Parts of an experiment whose fields a grid may vary."""
_SECTION_OF = {name: part for part in SECTIONS for name in dataclasses.asdict(getattr(Experiment(), part))}
Setting = bool | int | float | str | None | tuple[int, ...]


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes."""

    name: str
    values: tuple[Setting, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """Experiments that share arms and seeds and differ in some settings: the cells, each with its settings."""

    base: Experiment
    cells: tuple[Mapping[str, Setting], ...] = ({},)
    """Settings by name, of each cell; every cell names the same ones."""
    axes: tuple[Axis, ...] = ()
    """Where the cells are all combinations of these (the last moves fastest); empty where they are not."""
    points: int = 0
    """Fresh samples on which the confusion matrix of every trained network is counted; 0: none."""
    parts: int = 1
    """Groups to make of the runs, at least; more where memory or programs ask for more."""

    def __post_init__(self) -> None:
        validation.check_whole("points", [self.points])
        validation.check_whole("parts", [self.parts])
        if self.parts < 1:
            raise ValueError(f"`parts` must be 1 or more; got {self.parts}.")
        if self.points < 0:
            raise ValueError(f"`points` must be zero or more; got {self.points}.")
        if not self.cells or len({frozenset(cell) for cell in self.cells}) > 1:
            raise ValueError("`cells` must hold one cell or more, all with values for the same settings.")
        if self.base.information.path or any(":" in str(cell.get("price")) for cell in self.cells):
            raise ValueError("`price` as a path picks one price: give prices as a grid, price=LOW:HIGH:COUNT.")
        if self.base.structure.structure_every is not None:
            raise ValueError("`structure_every` takes one experiment, not a grid: leave it out.")
        recorded = set(self.cells[0]) & set(self.base.run.monitor)
        if recorded:
            raise ValueError(f"`{recorded.pop()}` cannot be varied while `monitor` records what has its name.")

    def experiments(self) -> tuple[Experiment, ...]:
        """The resolved experiment of each cell; errors as `varied`."""
        return self._experiments

    @cached_property
    def _experiments(self) -> tuple[Experiment, ...]:
        return tuple(varied(self.base, cell).resolved() for cell in self.cells)

    @property
    def last_step(self) -> int:
        """Steps of the cell that trains longest."""
        return max(cell.training.steps or 0 for cell in self.experiments())

    def to_json(self) -> str:
        """The study as JSON text; where it runs and what its folder is called are left out."""
        plain = dataclasses.replace(self.base.run, out="runs", name=None, log_dir=None, device="auto")
        whole = dataclasses.replace(self, base=dataclasses.replace(self.base, run=plain))
        return json.dumps(dataclasses.asdict(whole), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "study") -> "Study":
        """The study that `to_json` wrote; errors as `validation.from_json`."""
        return validation.from_json(cls, text, source=source)

    @classmethod
    def load(cls, path: str | Path) -> "Study":
        """The study in a file such as a sweep's `study.json`; errors as `Experiment.load`."""
        return cls.from_json(validation.read_text(Path(path)), source=str(path))


def product(base: Experiment, axes: Iterable[Axis]) -> Study:
    """All combinations of the values of some settings; a ValueError if one appears twice."""
    axes = tuple(axes)
    names = tuple(axis.name for axis in axes)
    if axes:
        validation.distinct("grid", names)
    if (count := math.prod(len(axis.values) for axis in axes)) > validation.MOST_VALUES:
        raise ValueError(f"`grid` must have {validation.MOST_VALUES} cells at most; got {count}.")
    combinations = itertools.product(*(axis.values for axis in axes))
    cells = tuple(dict(zip(names, each, strict=True)) for each in combinations)
    return Study(base=base, cells=cells, axes=axes)


def parse_axis(text: str) -> Axis:
    """An axis written as `name=VALUES`, which are separated by commas.

    Each is a number, a word, `none`, `true`, `false`, layers of units such as `16x8` (for `capacity`), or a
    range: `LOW:HIGH:xF` (factors of F), `LOW:HIGH:+S` (steps of S), `LOW:HIGH:COUNT` (a geometric path). Ranges
    hold both ends where they meet them.

    Raises:
        ValueError: If the text is no axis, names no setting, or repeats a value.
    """
    name, equals, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not values:
        form = "name=VALUES, such as learning_rate=1e-4,1e-3"
        raise ValueError(f"`grid` must be written as {form}; got {text!r}.")
    section_of(name)
    found = _activations(values) if name == "activation" else tuple(_values(values, name=name))
    if name == "capacity":
        found = tuple((value,) if isinstance(value, int) else value for value in found)
    validation.distinct(name, found)
    return Axis(name, found)


def section_of(name: str) -> str:
    """The part of an experiment that has a setting; a ValueError if none of `SECTIONS` has."""
    if name not in _SECTION_OF:
        near = validation.suggestion(name, tuple(_SECTION_OF))
        raise ValueError(f"`grid` varies a field of {', '.join(SECTIONS)}; got {name!r}.{near}")
    return _SECTION_OF[name]


def varied(base: Experiment, settings: Mapping[str, Setting]) -> Experiment:
    """The experiment with other values of some settings; a ValueError if one is unknown or does not fit."""
    changed: dict[str, dict[str, Setting]] = {}
    for name, value in settings.items():
        changed.setdefault(section_of(name), {})[name] = value
    source, parts = f"grid {', '.join(f'{name}={setting_label(own)}' for name, own in settings.items())}", {}
    for section, own in changed.items():
        part = getattr(base, section)
        text = json.dumps(dataclasses.asdict(part) | own)
        parts[section] = validation.from_json(type(part), text, source=source, path=f"{section}.")
    try:
        return dataclasses.replace(base, **parts)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def setting_label(value: Setting) -> bool | int | float | str:
    """What a value is called in results: one layer by its units, several as `16x8`, no value `none`."""
    if isinstance(value, tuple):
        return value[0] if len(value) == 1 else "x".join(map(str, value))
    return "none" if value is None else value


def setting_labels(values: Sequence[Setting]) -> list[Any]:
    """Labels of one kind: numbers where all are numbers, else words."""
    found = [setting_label(value) for value in values]
    are_numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in found)
    return found if are_numbers else [str(value) for value in found]


def _values(text: str, *, name: str) -> Iterator[Setting]:
    for part in map(str.strip, text.split(",")):
        low, _, rest = part.partition(":")
        high, _, step = rest.partition(":")
        if step[:1] in ("x", "+"):
            yield from _range(_value(low), _value(high), step[0], _value(step[1:]), name=name)
        elif rest:
            yield from validation.geometric_path(name, part, names=("LOW:HIGH:xF", "LOW:HIGH:+S"))
        else:
            yield _value(part)


def _activations(text: str) -> tuple[str, ...]:
    plain, *choices = text.replace(" ", "").split(f"{validation.CHOOSE}:")
    names = tuple(name for name in plain.split(",") if name)
    return (*names, *(f"{validation.CHOOSE}:{own.rstrip(',')}" for own in choices))


def _range(low: Any, high: Any, kind: str, by: Any, *, name: str) -> list[Setting]:
    wanted = "step above 0" if kind == "+" else "factor above 1 from LOW above 0"
    least, most = -validation.LARGEST_FLOAT if kind == "+" else validation.LEAST_FLOAT, validation.LARGEST_FLOAT
    are_numbers = all(isinstance(each, (int, float)) for each in (low, high, by))
    if not (are_numbers and least <= low < high < most and by > (kind == "x")):
        got = f"{low}:{high}:{kind}{by}"
        if are_numbers and not high < most:
            raise ValueError(f"`{name}` must end below {most:.2g}; got {got}.")
        raise ValueError(f"`{name}` must rise from LOW to HIGH by a {wanted}; got {got}.")
    count = 1 + ((high - low) / by if kind == "+" else (math.log(high) - math.log(low)) / math.log(by))
    if count > validation.MOST_VALUES:
        most = f"{validation.MOST_VALUES} values at most"
        raise ValueError(f"`{name}` must have {most}; got about {count:.0f} in {low}:{high}:{kind}{by}.")
    values = (low + by * place if kind == "+" else low * by**place for place in range(int(count + 1e-6)))
    return list(values)


def _value(text: str) -> Setting:
    words: dict[str, bool | None] = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (_whole, float, lambda layers: tuple(map(int, layers.split("x")))):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _whole(text: str) -> int | float:
    value = int(text)
    return value if abs(value) < 2**63 else float(text)
