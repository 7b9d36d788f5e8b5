"""The wheel alone: built, installed into a fresh environment, and used outside the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv")
SMALL = "--samples 24 --test-samples 12 --steps 20 --seeds 2 --arms static growing --name small --quiet"


def done(words, folder, **environment):
    """What a command printed, which ended well and without a traceback."""
    plain = {name: own for name, own in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    plain |= {"JAX_PLATFORMS": "cpu", **environment}
    found = subprocess.run(
        list(map(str, words)), cwd=folder, env=plain, capture_output=True, text=True, timeout=900
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert "Traceback" not in found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command of a fresh environment that holds the wheel, and a folder outside the repository."""
    if UV is None:
        pytest.skip("uv is not on the path")
    folder = tmp_path_factory.mktemp("wheel")
    done([UV, "build", "--out-dir", folder / "dist", ROOT], folder)
    (wheel,), (_,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    assert wheel.name.startswith("n3_growing-")
    done([UV, "venv", "--python", sys.executable, folder / "venv"], folder)
    done([UV, "pip", "install", "--python", folder / "venv" / "bin" / "python", wheel], folder)
    return folder / "venv" / "bin" / "n3", folder


def test_every_verb_works_from_the_wheel(command):
    n3, folder = command
    assert done([n3, "--version"], folder).startswith("n3 ")
    assert "spirals" in done([n3, "data"], folder)
    assert "static / growing" in done([n3, "train", *SMALL.split()], folder)
    assert "report.html" in done([n3, "report", "runs/small"], folder)
    words = ("figure-2", "--quick", "--trials", "2", "--no-loop", "--quiet")
    assert "verdict" in done([n3, "reproduce", *words], folder)
    assert "all files are as they were written" in done(
        [n3, "verify", "runs/small", *folder.glob("runs/figure-2*")], folder
    )
    assert "n3 train --samples 24" in (folder / "runs" / "small" / "report.html").read_text()
