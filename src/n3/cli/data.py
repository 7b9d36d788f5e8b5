"""Data: `n3 data`, the data sets that there are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from n3.cli.arguments import parse_flags
from n3.cli.endings import OK, ended, show

PACKAGED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "digits": ("classification", "64", "10 classes", "1348", "449"),
        "breast-cancer": ("classification", "30", "2 classes", "427", "142"),
        "wine": ("classification", "13", "3 classes", "134", "44"),
        "iris": ("classification", "4", "3 classes", "113", "37"),
        "diabetes": ("regression", "10", "1 output", "332", "110"),
        "mnist1d": ("classification", "40", "10 classes", "4000", "1000"),
    }
)
"""What is known, without their packages, of the data sets that come from packages."""
EXTRA = "data"
"""The extra that installs these packages."""
_HEAD = ("name", "kind", "inputs", "outputs", "training samples", "test samples", "extra")


@dataclass(frozen=True, kw_only=True)
class DataArguments:
    """All flags of `n3 data`."""


def data_command(words: Sequence[str], *, program: str) -> int:
    """Print a table of the data sets; the exit code."""
    description = (
        "List the data sets of `--task`, with the samples that each seed has unless `--samples` says more."
    )
    parse_flags(DataArguments, words, program=program, description=description)
    return ended(_list)


def _list() -> int:
    rows = [_HEAD, *dataset_rows()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    show("\n".join(lines))
    show(f"\nAn extra: `pip install 'n3-growing[{EXTRA}]'`. Your own table: `n3 train --data FILE.csv`.")
    return OK


def dataset_rows() -> Iterator[tuple[str, ...]]:
    """Name, kind, inputs, outputs or classes, training and test samples, and extra of every data set."""
    from n3.data import DATASETS, load_dataset
    from n3.data.sources import SYNTHETIC_TASKS

    for name in DATASETS:
        if name not in SYNTHETIC_TASKS:
            yield (name, *PACKAGED.get(name, ("-",) * 5), EXTRA)
            continue
        few = load_dataset(name, train_samples=64, test_samples=64, seed=0)
        outputs = f"{few.num_classes} classes" if few.num_classes else f"{few.out_size} output"
        outputs += "s" * (not few.num_classes and few.out_size > 1)
        yield (name, few.kind, str(few.in_size), outputs, *map(str, SYNTHETIC_TASKS[name].sizes), "-")
