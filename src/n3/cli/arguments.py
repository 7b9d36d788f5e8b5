"""Arguments: flags that override an experiment, in groups, without importing JAX."""

import dataclasses
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from n3.cli.endings import OK, USAGE, complain, drop, show
from n3.config import (
    Experiment,
    InformationConfig,
    NetworkConfig,
    RunConfig,
    StructureConfig,
    TaskConfig,
    TrainingConfig,
)

FOR_TABLES = Experiment(
    network=NetworkConfig(method="information"),
    information=InformationConfig(criterion="held-out"),
    run=RunConfig(arms=("growing", "static", "equal-size"), seeds=tuple(range(6))),
)
"""Where the flags of `--data` start: a size from held-out samples, as the estimators find it."""
MOST_SEEDS = 10**6
"""Seeds that one flag may ask for."""
REGISTRY = ConstructorRegistry()
"""How the words of flags become values."""
FLAG_HELP = {
    "task": "Data set, by its name; `n3 data` lists them. Leave it out with `--data`.",
    "data": """The user's own samples: a .csv or .tsv with a header (text is taken for categories), or an .npz
    of arrays `inputs` and `targets`. A fifth of the rows is test data, drawn anew for every seed. Without
    `--method` the size is found from held-out samples (method `information`, criterion `held-out`, arms
    growing, static and equal-size, six seeds).""",
    "target": "Columns of the .csv file to be learnt: one, or several for regression.",
    "method": """What decides the size. `auxiliary`: the size is a weight. `controller`: a bounded controller,
    which the gradient of the task reaches. `released`: one gain on the whole layer, blind to the task.
    `information`: no target size; hidden units are added and dropped by the information that they add.""",
    "seeds": """Seeds of the runs. One number is so many seeds: `20` is 0 to 19. A range leaves its end out:
    `0:20` is the same, `7:8` is seed 7 alone. Several numbers are a list: `3 5 8`.""",
    "monitor": """What to record and draw of every layer, in nats: entropy, importance, redundancy, structure,
    gap. The gap is the information about the target that nearest neighbours find and the Gaussian estimate
    misses.""",
}
"""Help of flags that take more than their fields do, or that the terminal explains in other words."""
PARTS = ("task", "network", "training", "information", "structure")
_Kind = TypeVar("_Kind")
_Flags = TypeVar("_Flags", bound="Arguments")
_Made = TypeVar("_Made")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """All flags of `n3 train`."""

    task: tyro.conf.OmitArgPrefixes[TaskConfig]
    network: tyro.conf.OmitArgPrefixes[NetworkConfig]
    training: tyro.conf.OmitArgPrefixes[TrainingConfig]
    information: tyro.conf.OmitArgPrefixes[InformationConfig]
    structure: tyro.conf.OmitArgPrefixes[StructureConfig]
    run: tyro.conf.OmitArgPrefixes[RunConfig]
    config: Annotated[str | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Start from the `config.json` of an earlier run; flags win over it."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print shapes, parameters, memory and planned runs; train and write nothing."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show no progress and no seeds."""
    resume: Literal["auto", "never", "must"] = "auto"
    """Go on with what the folder holds: if it has the same settings (`auto`), `never`, or always (`must`)."""
    checkpoint_every: float = 60.0
    """Seconds between two checkpoints: the most that a killed run loses, beside the steps of one chunk."""
    strict: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """End with code 4 if any run diverged, not only if all did."""

    def __post_init__(self) -> None:
        if not 0 <= self.checkpoint_every < float("inf"):
            raise ValueError(f"`checkpoint_every` must be zero or more seconds; got {self.checkpoint_every}.")

    def experiment(self) -> Experiment:
        """The experiment of these flags; a bad value raises ValueError."""
        return Experiment(**{name: getattr(self, name) for name in (*PARTS, "run")})


def parse_flags(kind: Callable[..., _Kind], words: Sequence[str], *, program: str, **settings: Any) -> _Kind:
    """The values of a command's flags; ends the process after help, and with code 2 where a flag is wrong."""
    try:
        with _plain_where_asked(), _flowing_help():
            return tyro.cli(kind, args=list(words), prog=program, registry=REGISTRY, **settings)
    except BrokenPipeError:
        drop(sys.stdout)
        sys.exit(OK)


def parse_experiment(
    kind: type[_Flags],
    words: Sequence[str],
    *,
    program: str,
    description: str,
    made: Callable[[_Flags], _Made],
) -> _Made:
    """What is made of an experiment's flags, which start from the file of `--config` if there is one.

    Ends the process with code 2 and one sentence where a flag, a value or the file is wrong.
    """
    try:
        words = expand_seeds(words)
        first = _configuration(words)
        default = kind(**{name: getattr(first, name) for name in PARTS}, run=_unnamed(first.run))
        parsed = parse_flags(kind, words, program=program, default=default, description=description)
        refuse_idle_flags(parsed.network, words)
        return made(parsed)
    except (ValueError, OSError) as error:
        sys.exit(complain(error, USAGE))


def _unnamed(run: RunConfig) -> RunConfig:
    """The same run under no name, without event files: two runs never share a directory."""
    return dataclasses.replace(run, name=None, log_dir=None)


def _configuration(words: Sequence[str]) -> Experiment:
    """The experiment of the file that `--config` names, or the default one; errors name the field.

    A table without a `--method` has its size found from held-out samples.
    """
    given = dict(_flags(words))
    path = given.get("config")
    if path is None:
        return FOR_TABLES if "data" in given and "method" not in given else Experiment()
    try:
        return Experiment.load(path)
    except FileNotFoundError as error:
        due = "must be the `config.json` of an earlier run"
        raise ValueError(f"`config` {due}; there is no file {path!r}.") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"`config`: {error}") from error


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each flag by the name of its field, with its first word."""
    for index, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            following = words[index + 1] if index + 1 < len(words) else None
            yield name.replace("-", "_"), value if equals else following


def expand_seeds(words: Sequence[str]) -> list[str]:
    """The words with the seeds written out: `20` is 0 to 19, `5:8` is 5 6 7, several numbers are themselves.

    A ValueError if a range is empty, or holds more than `MOST_SEEDS`.
    """
    result, place = [], 0
    while place < len(words):
        flag, equals, first = words[place].partition("=")
        place += 1
        if flag != "--seeds":
            result.append(words[place - 1])
            continue
        values = [first] if equals else []
        while place < len(words) and not words[place].startswith("-"):
            values.append(words[place])
            place += 1
        if len(values) == 1 and values[0].isdecimal():
            values = [f"0:{values[0]}"]
        result += ["--seeds", *(seed for value in values for seed in _range_of_seeds(value))]
    return result


def _range_of_seeds(text: str) -> list[str]:
    low, colon, high = text.partition(":")
    if not (colon and low.isdecimal() and high.isdecimal()):
        return [text]
    forms = "a number of seeds such as 20, a range such as 0:100, or several numbers"
    if len(high) > 10 or int(low) >= int(high):
        raise ValueError(f"`seeds` must be {forms}; got {text[:100]}.")
    if int(high) - int(low) > MOST_SEEDS:
        raise ValueError(f"`seeds` must be {MOST_SEEDS} seeds at most; got {text}.")
    return list(map(str, range(int(low), int(high))))


def refuse_idle_flags(network: NetworkConfig, words: Sequence[str]) -> None:
    """Refuse a flag that changes nothing under the method: a ValueError that names it.

    A configuration may hold such a value: `resolved` fills it in. On the command line it is a mistake.
    """
    if network.method == "information" and any(flag == "target_size" for flag, _ in _flags(words)):
        reason = "that method finds the size itself; leave the flag out, or choose another method"
        raise ValueError(f"`target_size` does not go with `method` information: {reason}.")


def show_seeds(seeds: Sequence[int]) -> None:
    """Print on standard error which seeds are trained."""
    first, last, count = seeds[0], seeds[-1], len(seeds)
    is_range = list(seeds) == list(range(first, last + 1))
    few = ", ".join(map(str, seeds[:20])) + ", ..." * (count > 20)
    which = f"{first} to {last}" if is_range and count > 1 else few
    show(f"seeds: {which} ({count} {'seed' if count == 1 else 'seeds'})", sys.stderr)


@contextmanager
def _plain_where_asked() -> Iterator[None]:
    """Print help without colours where NO_COLOR is set, as no-color.org asks."""
    term = os.environ.get("TERM")
    if not os.environ.get("NO_COLOR"):
        yield
        return
    os.environ["TERM"] = "dumb"
    try:
        yield
    finally:
        os.environ.pop("TERM") if term is None else os.environ.__setitem__("TERM", term)


@contextmanager
def _flowing_help() -> Iterator[None]:
    """Let the help of a field flow over its lines: tyro takes the indentation of a line for a new paragraph."""
    import docstring_parser  # of tyro, which reads the texts by it

    original = docstring_parser.parse_from_object

    def flowing(kind: Any) -> Any:
        found = original(kind)
        for field in found.params:
            text = FLAG_HELP.get(field.arg_name, field.description)
            field.description = text and " ".join(text.split())
        return found

    docstring_parser.parse_from_object = flowing
    try:
        yield
    finally:
        docstring_parser.parse_from_object = original


def _whole(text: str) -> int:
    """A whole number, written as `10000` or `1e4`."""
    try:
        return int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            value = 0.5
    if not value.is_integer() or abs(value) >= 2**53:
        raise ValueError(f"a whole number is needed, such as 10000 or 1e4; got {text[:100]!r}.")
    return int(value)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"a number is needed, such as 0.01 or 1e-2; got {text[:100]!r}.") from error


_READERS: dict[type, tuple[str, Callable[[str], Any]]] = {
    int: ("INT", _whole),
    float: ("FLOAT", _number),
    str: ("TEXT", str),
    Path: ("PATH", Path),
}


@REGISTRY.primitive_rule
def value_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """A number or a text, or `None` where the field may hold it, from one word."""
    kinds = get_args(info.type) if get_origin(info.type) in (Union, types.UnionType) else (info.type,)
    plain = [kind for kind in kinds if kind is not type(None)]
    if len(plain) != 1 or plain[0] not in _READERS:
        return None
    (kind,), is_optional = plain, len(kinds) > 1
    metavar, read = _READERS[kind]

    def instance(words: list[str]) -> Any:
        return None if is_optional and words[0].lower() == "none" else read(words[0])

    def is_instance(value: Any) -> bool:
        allowed = (int, float) if kind is float else kind
        return (value is None and is_optional) or (isinstance(value, allowed) and not isinstance(value, bool))

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=instance,
        is_instance=is_instance,
        str_from_instance=lambda value: [str(value)],
    )
