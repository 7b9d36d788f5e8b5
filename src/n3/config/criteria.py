"""Criteria: which units or layers should go, by a text such as `importance < 0.01`, and what it is held to.

A text is comparisons of a name and a number, joined by `and` (which binds closer), `or` and brackets. Which
names there are, and what they stand for, says `n3.information.measures`.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

OPERATORS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)
MOST_BRACKETS = 50
"""Opening brackets that a text may hold."""
_NAME = "[A-Za-z_][A-Za-z_.]*"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TOKEN = re.compile(rf"[<>]=?|[()]|{_NAME}|{_NUMBER}|(?P<rest>\S.*)", re.DOTALL)
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
    """The criterion of a text such as `importance < 0.01 and entropy < 0.2`, with any names.

    Raises:
        ValueError: If the text is not of that form.
    """
    found = list(_TOKEN.finditer(text.strip()))
    if found and found[-1]["rest"]:
        raise ValueError(f"`criterion` cannot be read from {found[-1]['rest']!r} on; got {text!r}.")
    tokens = [*(token.group() for token in found), ""]
    if tokens.count("(") > MOST_BRACKETS:
        raise ValueError(f"`criterion` must hold at most {MOST_BRACKETS} brackets; got {tokens.count('(')}.")
    place, opened = 0, [[[]]]  # of the text and of each open bracket: parts of `or`, each of parts of `and`
    while True:
        while tokens[place] == "(":
            opened, place = [*opened, [[]]], place + 1
        opened[-1][-1].append(_comparison(text, tokens[place : place + 3]))
        place += 3
        while tokens[place] == ")" and len(opened) > 1:
            inside, place = _joined(opened.pop()), place + 1
            opened[-1][-1].append(inside)
        if tokens[place] not in ("and", "or"):
            break
        if tokens[place] == "or":
            opened[-1].append([])
        place += 1
    if len(opened) > 1:
        raise ValueError(f"`criterion` lacks a closing bracket; got {text!r}.")
    if rest := tokens[place]:
        raise ValueError(f"`criterion` must go on with `and` or `or`, or end, at {rest!r}; got {text!r}.")
    return _joined(opened[0])


def _joined(alternatives: list[list[Criterion]]) -> Criterion:
    """Parts joined by `and` within each alternative, and these by `or`; a part alone stays as it is."""
    found = [own[0] if len(own) == 1 else Criterion("and", tuple(own)) for own in alternatives]
    return found[0] if len(found) == 1 else Criterion("or", tuple(found))


def _comparison(text: str, tokens: list[str]) -> Criterion:
    name, sign, bound = [*tokens, "", ""][:3]
    if (
        not re.match(_NAME, name)
        or name in ("and", "or")
        or sign not in OPERATORS
        or not re.match(_NUMBER, bound)
    ):
        said = f"such as `importance < 0.01`, not {' '.join(tokens).strip() or 'nothing more'!r}"
        raise ValueError(f"`criterion` needs a comparison {said}; got {text!r}.")
    if not math.isfinite(float(bound)):
        raise ValueError(f"`criterion` must hold finite numbers; got {bound} in {text!r}.")
    return Criterion(sign, name=name, bound=float(bound))
