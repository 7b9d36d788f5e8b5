"""Messages: every error of the page of questions is one that n3 ends with, with its remedy."""

import re
import sys
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import pytest

import n3
from n3.cli.sweep import require_launcher
from n3.data.tables import read_table

PAGE = Path(__file__).parents[1] / "docs" / "questions.md"
ERRORS = PAGE.read_text().split("## Error messages")[1].split("## Warnings")[0]
MESSAGES = [row.strip(" `") for row in re.findall(r"^\| `` (.*?) `` \|", ERRORS, re.M)]


class Square(eqx.Module):
    """A model whose call knows how wide its layer is."""

    first: eqx.nn.Linear
    last: eqx.nn.Linear

    def __call__(self, x):
        return self.last(jnp.ravel(self.first(x).reshape(2, 4)))


def table(tmp_path):
    path = tmp_path / "some.csv"
    path.write_text("a,b\n" + "".join(f"{row},{row % 7}.5\n" for row in range(12)))
    return read_table(path, target=("c",))


def of_cells(folder, cell):
    """A table with a bad cell in a column of numbers."""
    path = folder / "some.csv"
    path.write_text(f"a,c\n{cell},0.5\n" + "".join(f"{row},{row}.5\n" for row in range(5)))
    return read_table(path, target=("c",))


def unweighted():
    return n3.GrowingClassifier(class_weight="balance").fit([[0.5], [1.5]] * 4, [0, 1] * 4)


def resolved(**parts):
    return n3.Experiment(**parts).resolved()


def grown(tmp_path):
    model = Square(eqx.nn.Linear(3, 8, key=jr.key(0)), eqx.nn.Linear(8, 1, key=jr.key(1)))
    return n3.grow(model, lambda own: own.first, example=jnp.zeros(3), key=jr.key(2))


INFORMATION = n3.NetworkConfig(method="information")
TRIGGERS = {
    "task` must": lambda _: n3.describe(n3.Experiment(task=n3.TaskConfig(task="monns"))),
    "target` must": table,
    "class_weight`": lambda _: unweighted(),
    "… which looks": lambda folder: of_cells(folder, '"1,480,300"'),
    "… must be": lambda folder: of_cells(folder, "ca. 5"),
    "samples`": lambda _: n3.describe(n3.Experiment(task=n3.TaskConfig(task="iris", samples=5000))),
    "criterion`": lambda _: resolved(information=n3.InformationConfig(criterion="held-out")),
    "arms`": lambda _: n3.RunConfig(arms=("equal-size",)),
    "members`": lambda _: resolved(network=INFORMATION, training=n3.TrainingConfig(members=3)),
    "where`": grown,
    "launcher`": lambda _: require_launcher("slurm"),
}
"""What ends with each message, by its first words."""


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_of_the_page_is_what_n3_ends_with(message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    (trigger,) = (own for start, own in TRIGGERS.items() if message.startswith(start))
    with pytest.raises((ValueError, ModuleNotFoundError)) as found:
        trigger(tmp_path)
    parts = [part.strip(" :;`") for part in message.split("…")]
    assert all(part in str(found.value) for part in parts), str(found.value)


def test_there_is_a_trigger_for_every_message():
    assert len(MESSAGES) == len(TRIGGERS)
