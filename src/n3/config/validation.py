"""Validation: what a configuration's fields may hold, and its strict reading from JSON text."""

import dataclasses
import difflib
import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

_T = TypeVar("_T")
CHOOSE = "choose"
"""What a choice among names begins with, before a colon."""


def from_json(cls: type[_T], text: str, *, source: str) -> _T:
    """An instance of a dataclass, dataclasses within it included.

    A ValueError that names the `source` if it is not JSON, or a field is unknown or of wrong type or value.
    """
    try:
        return _from_mapping(cls, json.loads(text, parse_constant=_refuse_constant), path="")
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


_RANGES: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "positive": ("be positive and finite", lambda value: 0 < value < math.inf),
    "at_least_zero": ("be zero or more, and finite", lambda value: 0 <= value < math.inf),
    "unit_interval": ("lie in [0, 1]", lambda value: 0 <= value <= 1),
}
_plain_hints = functools.cache(get_type_hints)
_hints = functools.cache(functools.partial(get_type_hints, include_extras=True))


def check_ranges(config: Any) -> None:
    """Refuse a number beyond the range that its field is annotated with, a key of `_RANGES`, naming the field.

    None is no number, nor is a text that the field may hold; another text is refused.
    """
    for name, hint in _hints(type(config)).items():
        value, spelled = getattr(config, name), str(hint)
        if value is None or (isinstance(value, str) and ("str" in spelled or repr(value) in spelled)):
            continue
        if isinstance(value, str):
            known = tuple(re.findall("'([^']*)'", str(_plain_hints(type(config))[name])))
            words = ", ".join(known) if known else "a number"
            raise ValueError(f"`{name}` must be {words}; got {value!r}.{suggestion(value, known)}")
        for words, holds in (_RANGES[kind] for kind in getattr(hint, "__metadata__", ())):
            if not holds(value):
                raise ValueError(f"`{name}` must {words}; got {value}.")


def geometric_path(name: str, text: str, *, names: tuple[str, ...]) -> tuple[float, ...]:
    """The numbers of a path `LOW:HIGH:COUNT`, each a constant factor above the one before.

    A ValueError if not `0 < LOW < HIGH`, both finite, and `COUNT` 2 or more; it says what else `name` takes.
    """
    try:
        low, high, count = (kind(part) for kind, part in zip((float, float, int), text.split(":"), strict=True))
    except ValueError:
        low, high, count = math.nan, math.nan, 0
    if not (0 < low < high < math.inf and count >= 2):
        allowed = ", ".join(f"`{word}`" for word in names)
        raise ValueError(
            f"`{name}` must be a number, {allowed} or a path LOW:HIGH:COUNT such as 0.01:0.5:8 (0 < LOW < "
            f"HIGH, COUNT of 2 or more); got {text!r}.{suggestion(text, names)}"
        )
    shares = [step / (count - 1) for step in range(count)]
    return tuple(low ** (1.0 - share) * high**share for share in shares)


def choice(name: str, text: str, *, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a choice such as `choose:tanh,relu`, two or more; none where the text is one name itself.

    A ValueError that names the field if it is neither one of `names` nor a choice among them.
    """
    word, colon, rest = text.partition(":")
    chosen = tuple(rest.split(",")) if colon else (text,)
    if colon and word != CHOOSE:
        raise ValueError(f"`{name}` must be a name or `{CHOOSE}:` and names; got {text!r}.")
    among(name, chosen, known=names)
    distinct(name, chosen)
    if colon and len(chosen) < 2:
        raise ValueError(f"`{name}` must choose among two or more of {', '.join(names)}; got {text!r}.")
    return chosen if colon else ()


def among(name: str, values: Iterable[str], *, known: tuple[str, ...]) -> None:
    """Refuse a value that is not known, naming its field and the nearest that is."""
    for value in values:
        if value not in known:
            near = suggestion(value, known)
            raise ValueError(f"`{name}` must be one of {', '.join(known)}; got {value!r}.{near}")


def distinct(name: str, values: tuple[Any, ...]) -> None:
    """Refuse no values, or one that appears twice, naming their field."""
    if not values:
        raise ValueError(f"`{name}` must not be empty.")
    if len(set(values)) < len(values):
        repeated = next(value for value in values if values.count(value) > 1)
        raise ValueError(f"`{name}` must be distinct; {repeated!r} appears more than once.")


def suggestion(word: str, words: tuple[str, ...]) -> str:
    """`" Did you mean ...?"` for the nearest of `words`, or an empty text where none is near."""
    near = difflib.get_close_matches(word, words, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that a configuration may hold.")


def _from_mapping(cls: type, data: Any, *, path: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"`{path.rstrip('.') or cls.__name__}` must be an object; got {data!r}.")
    known = {entry.name for entry in fields(cls)}
    for name in data:
        if name not in known:
            raise ValueError(f"unknown field `{path}{name}`.{suggestion(name, tuple(known))}")
    hints = get_type_hints(cls)
    return cls(**{name: _convert(hints[name], value, path=f"{path}{name}") for name, value in data.items()})


def _convert(hint: Any, value: Any, *, path: str) -> Any:
    from beartype import BeartypeConf  # here, not above: `--help` needs no type checker
    from beartype.door import is_bearable

    if dataclasses.is_dataclass(hint):
        return _from_mapping(hint, value, path=f"{path}.")  # type: ignore[arg-type]
    value = tuple(value) if isinstance(value, list) else value
    spelled = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    each = [(item,) for item in value] if isinstance(value, tuple) else [value]  # the checker samples one item
    has_truth = any(isinstance(item, bool) for item in (value if isinstance(value, tuple) else each))
    conf = BeartypeConf(is_pep484_tower=True)  # a whole number is a number
    if (has_truth and "bool" not in spelled) or not all(is_bearable(part, hint, conf=conf) for part in each):
        raise ValueError(f"`{path}` must be {spelled}; got {value!r}.")
    return value
