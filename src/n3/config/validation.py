"""Validation: what a configuration's fields may hold, and its strict reading from JSON text."""

import dataclasses
import difflib
import functools
import json
import math
import re
import stat
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

_T = TypeVar("_T")
CHOOSE = "choose"
"""What a choice among names begins with, before a colon."""


MOST_TEXT, MOST_DEPTH = 2**26, 50
"""Bytes and levels of nesting of a JSON text."""


def from_json(cls: type[_T], text: str, *, source: str, path: str = "") -> _T:
    """An instance of a dataclass, dataclasses within it included; errors have `path` before a field's name.

    A ValueError that names the `source` if it is not JSON, or a field is missing, unknown or of wrong type or
    value.
    """
    try:
        return _from_mapping(cls, parse_json(text), path=path)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def load_json(path: Path) -> Any:
    """What the JSON text of a file says; errors as `read_file`, and a ValueError that names a bad file."""
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_json(text: str) -> Any:
    """What a JSON text says, as strictly as RFC 8259 allows.

    A ValueError if it is not JSON, too long or nested too deeply, names a key twice in an object, or holds a
    number that is NaN, infinite or of more than 100 characters.
    """
    if len(text) > MOST_TEXT:
        raise ValueError(f"JSON must have {MOST_TEXT} characters at most; got {len(text)}.")
    depth = 0
    for mark in re.finditer(r'"(?:[^"\\]|\\.)*+"?|[][{}]', text, re.DOTALL):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark.group(), 0)
        if depth > MOST_DEPTH:
            raise ValueError(f"JSON must be nested {MOST_DEPTH} levels deep at most.")
    numbers = {"parse_int": partial(_number, int), "parse_float": partial(_number, float)}
    return json.loads(text, parse_constant=_refuse_number, object_pairs_hook=_object, **numbers)


def read_text(path: Path) -> str:
    """The text of a regular file of UTF-8; errors as `read_file`, and a ValueError that names another file."""
    try:
        return read_file(path, most=MOST_TEXT).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text; byte {error.start} is not.") from error


def read_file(path: Path, *, most: int = 2**40) -> bytes:
    """The bytes of a regular file, `most` at most, and never of a device, a pipe or a socket.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no regular file, or larger.
    """
    kind = path.stat()
    if not stat.S_ISREG(kind.st_mode):
        raise ValueError(f"{path} must be a regular file.")
    if kind.st_size > most:
        raise ValueError(f"{path} must have {most} bytes at most; it has {kind.st_size}.")
    return path.read_bytes()


def inside(folder: str | Path, name: str) -> Path:
    """The path of what has a name in a folder; a ValueError if a link on the way leads out of the folder."""
    path = Path(folder) / name
    try:
        leads_out = not path.resolve().is_relative_to(Path(folder).resolve())
    except RuntimeError as error:
        raise ValueError(f"{path} must lie in its folder; it is a link to itself.") from error
    if leads_out:
        raise ValueError(f"{path} must lie in its folder; it leads to {path.resolve()}.")
    return path


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        distinct("key", [name for name, _ in pairs])
    return found


def _number(kind: Callable[[str], int | float], text: str) -> int | float:
    if len(text) > 100 or not math.isfinite(float(text)):
        _refuse_number(text)
    return kind(text)


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:100]} is not a number that JSON may hold here.")


_RANGES: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "positive": ("be positive and finite", lambda value: 0 < value < math.inf),
    "at_least_zero": ("be zero or more, and finite", lambda value: 0 <= value < math.inf),
    "unit_interval": ("lie in [0, 1]", lambda value: 0 <= value <= 1),
}
_plain_hints = functools.cache(get_type_hints)
_hints = functools.cache(functools.partial(get_type_hints, include_extras=True))


def check_kinds(config: Any) -> None:
    """Refuse a value that is not of its field's kind: a tuple, one of a few words, a text, true or false.

    A ValueError that names the field and the value, and the word that is nearest. Numbers are left to
    `check_ranges` and `check_whole`.
    """
    for name, hint in _plain_hints(type(config)).items():
        value, kinds = getattr(config, name), _members_of(hint)
        if value is None and type(None) in kinds:
            continue
        words = tuple(word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind))
        own = [kind for kind in kinds if kind is not type(None) and get_origin(kind) is not Literal]
        if words and not own:
            if not isinstance(value, str):
                raise ValueError(f"`{name}` must be one of {', '.join(words)}; got {_shown(value)}.")
            among(name, [value], known=words)
        elif own and all(get_origin(kind) is tuple for kind in own):
            _check_tuple(name, value, item=get_args(own[0])[0])
        elif own in ([str], [bool]) and not isinstance(value, own[0]):
            due = "a text" if own == [str] else "True or False"
            raise ValueError(f"`{name}` must be {due}; got {_shown(value)}.")


def _members_of(hint: Any) -> tuple[Any, ...]:
    """The kinds that a field may hold."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _check_tuple(name: str, value: Any, *, item: Any) -> None:
    words = get_args(item) if get_origin(item) is Literal else ()
    what, example = ("whole numbers", "(10,)") if item is int else ("names", f"({(words or ('y',))[0]!r},)")
    if not isinstance(value, tuple):
        fix = tuple(value) if isinstance(value, list) else (value,)
        near = f" Write {_shown(fix)}." if isinstance(value, (list, int, str)) else ""
        if name == "seeds" and isinstance(value, int):
            near = f" Write tuple(range({_shown(value)}))."
        raise ValueError(f"`{name}` must be a tuple of {what}, such as {example}; got {_shown(value)}.{near}")
    if item is int:
        check_whole(name, value)
    elif strangers := [own for own in value if not isinstance(own, str)]:
        raise ValueError(f"`{name}` must be a tuple of {what}; got {_shown(strangers[0])} in it.")
    elif words:
        among(name, value, known=words)


def check_ranges(config: Any) -> None:
    """Refuse a number beyond the range that its field is annotated with, a key of `_RANGES`, naming the field.

    None is no number, nor is a text that the field may hold; another text is refused. A number must be an `int`
    (below 2**31) or, where the field takes these, a `float` (zero, or of a magnitude that float32 holds). Other
    kinds of values are checked too (`check_kinds`).
    """
    check_kinds(config)
    for name, hint in _hints(type(config)).items():
        value, spelled, ranges = getattr(config, name), str(hint), getattr(hint, "__metadata__", ())
        if value is None or (isinstance(value, str) and ("str" in spelled or repr(value) in spelled)):
            continue
        plain = _plain_hints(type(config))[name]
        if isinstance(value, str):
            known = tuple(re.findall("'([^']*)'", str(plain)))
            words = ", ".join(known) if known else "a number"
            raise ValueError(f"`{name}` must be {words}; got {_shown(value)}.{suggestion(value, known)}")
        if ranges and float not in (get_args(plain) or (plain,)):
            check_whole(name, [value])
        elif ranges and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"`{name}` must be a number; got {_shown(value)}.")
        for words, holds in (_RANGES[kind] for kind in ranges):
            if not holds(value):
                raise ValueError(f"`{name}` must {words}; got {value}.")
        if ranges and value and not LEAST_FLOAT <= abs(value) < LARGEST_FLOAT:
            raise ValueError(
                f"`{name}` must lie between {LEAST_FLOAT:.2g} and {LARGEST_FLOAT:.2g}, or be 0; got {value}."
            )


LEAST_FLOAT, LARGEST_FLOAT = 2.0**-126, 2.0**128
"""Between these float32 holds the magnitude of a number in full precision."""


def check_whole(name: str, values: Iterable[Any]) -> None:
    """Refuse what is no `int`, or one of 2**31 or more, naming its field."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"`{name}` must be a whole number; got {_shown(value)}.")
        if value >= 2**31:
            raise ValueError(f"`{name}` must be below 2**31; got {_shown(value)}.")


MOST_VALUES = 10_000
"""Values of a path or a range, and cells of a grid."""


def geometric_path(name: str, text: str, *, names: tuple[str, ...]) -> tuple[float, ...]:
    """The numbers of a path `LOW:HIGH:COUNT`, each a constant factor above the one before.

    A ValueError if not `0 < LOW < HIGH`, both finite, and `COUNT` from 2 to `MOST_VALUES`; it says what else
    `name` takes.
    """
    try:
        low, high, count = (kind(part) for kind, part in zip((float, float, int), text.split(":"), strict=True))
    except ValueError:
        low, high, count = math.nan, math.nan, 0
    if not (0 < low < high < math.inf and 2 <= count <= MOST_VALUES):
        allowed = ", ".join(f"`{word}`" for word in names)
        raise ValueError(
            f"`{name}` must be a number, {allowed} or a path LOW:HIGH:COUNT such as 0.01:0.5:8 (0 < LOW < "
            f"HIGH, COUNT from 2 to {MOST_VALUES}); got {_shown(text)}.{suggestion(text, names)}"
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


def distinct(name: str, values: Sequence[Any]) -> None:
    """Refuse no values, or one that appears twice, naming their field."""
    if not values:
        raise ValueError(f"`{name}` must not be empty.")
    if len(set(values)) < len(values):
        seen = set()
        repeated = next(value for value in values if value in seen or seen.add(value))
        raise ValueError(f"`{name}` must be distinct; {repeated!r} appears more than once.")


def suggestion(word: str, words: tuple[str, ...]) -> str:
    """`" Did you mean ...?"` for the nearest of `words`, or an empty text where none is near."""
    near = difflib.get_close_matches(word[:100], words, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _from_mapping(cls: type, data: Any, *, path: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"`{path.rstrip('.') or cls.__name__}` must be an object; got {_shown(data)}.")
    known = {entry.name for entry in fields(cls)}
    for name in data:
        if name not in known:
            raise ValueError(f"unknown field `{path}{name[:100]}`.{suggestion(name, tuple(known))}")
    for entry in fields(cls):
        if entry.name not in data and entry.default is entry.default_factory is dataclasses.MISSING:
            raise ValueError(f"`{path}{entry.name}` is missing.")
    hints = get_type_hints(cls)
    return cls(**{name: _convert(hints[name], value, path=f"{path}{name}") for name, value in data.items()})


def _convert(hint: Any, value: Any, *, path: str) -> Any:
    from beartype import BeartypeConf  # here, not above: `--help` needs no type checker
    from beartype.door import is_bearable

    if dataclasses.is_dataclass(hint):
        return _from_mapping(hint, value, path=f"{path}.")  # type: ignore[arg-type]
    item, *rest = get_args(hint) or (None,)
    if isinstance(value, list) and (dataclasses.is_dataclass(item) or get_origin(item) is Mapping):
        return tuple(_convert(item, own, path=f"{path}[{place}]") for place, own in enumerate(value))
    if isinstance(value, dict) and get_origin(hint) is Mapping:
        return {name: _convert(rest[0], own, path=f"{path}.{name}") for name, own in value.items()}
    value = _as_tuples(value)
    spelled = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    each = [(own,) for own in value] if value and isinstance(value, tuple) else [value]  # one item is sampled
    has_truth = any(isinstance(own, bool) for own in (value if isinstance(value, tuple) else each))
    conf = BeartypeConf(is_pep484_tower=True)  # a whole number is a number
    if (has_truth and "bool" not in spelled) or not all(is_bearable(part, hint, conf=conf) for part in each):
        raise ValueError(f"`{path}` must be {spelled}; got {_shown(value)}.")
    return float(value) if type(value) is int and "float" in spelled and "int" not in spelled else value


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
