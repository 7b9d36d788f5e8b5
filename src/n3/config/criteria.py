"""Criteria: which units or layers should go, by a text such as `importance < 0.01`, and what it is held to.

A text is comparisons of a name and a number, joined by `and` (which binds closer), `or` and brackets. What the
names stand for is measured by `n3.information.measures`.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from n3.config.validation import suggestion

UNIT: tuple[str, ...] = ("importance", "marginal", "entropy", "redundancy", "participation")
"""Names for a unit."""
Monitor = Literal["entropy", "importance", "redundancy", "structure", "gap"]
"""Measures of a whole layer."""
LAYER: tuple[str, ...] = (*(f"layer.{name}" for name in get_args(Monitor)), "layer.gain")
"""Names for a whole layer; `layer.gain` is its importance over that of the layer before."""
OPERATORS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)
MOST_BRACKETS = 50
"""Opening brackets that a text may hold."""
_TOKEN = re.compile(
    r"\s*(?:(<=|>=|<|>|\(|\))|([A-Za-z_][A-Za-z_.]*)|([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))"
)
Values = Mapping[str, float]


@dataclass(frozen=True)
class Criterion:
    """What a text says: a name against a number, or criteria joined; true or false of values by name."""

    word: str
    """One of `OPERATORS`, or `and` (all parts must hold) or `or` (one must)."""
    parts: "tuple[Criterion, ...]" = ()
    name: str = ""
    bound: float = math.nan

    def holds(self, values: Values) -> bool:
        """Whether it is true of the values of a unit or a layer."""
        if self.parts:
            return (all if self.word == "and" else any)(part.holds(values) for part in self.parts)
        return OPERATORS[self.word](values[self.name], self.bound)

    def names(self) -> frozenset[str]:
        """The names in it."""
        return frozenset({self.name} if self.name else set()).union(*(part.names() for part in self.parts))

    def reason(self, values: Values) -> str:
        """The comparisons that make it true, with their values, such as `importance 0.0031 < 0.01`."""
        if self.parts:
            return f" {self.word} ".join(part.reason(values) for part in self.parts if part.holds(values))
        return f"{self.name} {values[self.name]:.3g} {self.word} {self.bound:g}"


def parse(text: str) -> Criterion:
    """The criterion that a text says.

    Args:
        text: Comparisons such as `importance < 0.01 and entropy < 0.2`, with the names in `UNIT` and `LAYER`.

    Raises:
        ValueError: If the text is not of that form, or a name is unknown.
    """
    tokens = list(_tokens(text))
    if tokens.count("(") > MOST_BRACKETS:
        raise ValueError(f"`criterion` must hold at most {MOST_BRACKETS} brackets; got {tokens.count('(')}.")
    criterion, rest = _joined(text, tokens, "or")
    if rest:
        raise ValueError(f"`criterion` must go on with `and` or `or`, or end, at {rest[0]!r}; got {text!r}.")
    return criterion


def _tokens(text: str) -> Iterator[str]:
    place, end = 0, len(text.rstrip())
    while place < end:
        found = _TOKEN.match(text, place)
        if not found:
            raise ValueError(f"`criterion` cannot be read from {text[place:].strip()!r} on; got {text!r}.")
        yield found.group().strip()
        place = found.end()


def _joined(text: str, tokens: list[str], word: str) -> tuple[Criterion, list[str]]:
    """Parts joined by a word, and the tokens that are left."""
    inner = (lambda rest: _joined(text, rest, "and")) if word == "or" else (lambda rest: _atom(text, rest))
    first, tokens = inner(tokens)
    parts = [first]
    while tokens[:1] == [word]:
        part, tokens = inner(tokens[1:])
        parts.append(part)
    return (Criterion(word, tuple(parts)) if len(parts) > 1 else first), tokens


def _atom(text: str, tokens: list[str]) -> tuple[Criterion, list[str]]:
    """A comparison or a bracket, and the tokens that are left."""
    if tokens[:1] == ["("]:
        inside, rest = _joined(text, tokens[1:], "or")
        if rest[:1] != [")"]:
            raise ValueError(f"`criterion` lacks a closing bracket; got {text!r}.")
        return inside, rest[1:]
    name, sign, bound = [*tokens[:3], "", "", ""][:3]
    known = UNIT + LAYER
    if re.match("[A-Za-z_]", name) and name not in known:
        near = suggestion(name, known)
        raise ValueError(f"`criterion` must name one of {', '.join(known)}; got {name!r}.{near}")
    if name not in known or sign not in OPERATORS or not re.match(r"[-+.\d]", bound):
        found = " ".join(tokens[:3]) or "nothing more"
        raise ValueError(
            f"`criterion` needs a comparison such as `importance < 0.01`, not {found!r}; got {text!r}."
        )
    if not math.isfinite(float(bound)):
        raise ValueError(f"`criterion` must hold finite numbers; got {bound} in {text!r}.")
    return Criterion(sign, name=name, bound=float(bound)), tokens[3:]
