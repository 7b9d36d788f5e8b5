"""Layers: the table of what `n3.grow` does with every layer of Equinox is what happens."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def layers():
    spec = importlib.util.spec_from_file_location("layers", DOCS / "layers.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["layers"] = module
    spec.loader.exec_module(module)
    return module


def test_every_layer_of_equinox_is_in_the_table(layers):
    tried = {name.split(",")[0] for name in layers.TRIALS}
    assert tried | set(layers.NOT_TRIED) == layers.every_layer()


def test_the_table_is_what_happens(layers):
    page = layers.PAGE.read_text()
    assert layers.with_table(page, layers.table()) == page
