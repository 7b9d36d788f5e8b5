"""Events: files read back record by record, folders that are in use, and the absent extra."""

import re
import struct
import sys
from collections import defaultdict

import numpy as np
import pytest
import xarray as xr

from n3.config.experiment import Experiment, NetworkConfig, RunConfig
from n3.experiments.tensorboard import SCALARS, check_log_dir, write_events
from n3.stats.summary import RunRecord

STEPS = (0, 5, 10)
pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")


@pytest.fixture
def record():
    """Two arms of three seeds and two layers; one growing seed and every static one diverge."""
    rng, axes = np.random.default_rng(0), ("arm", "seed", "step")
    results = xr.Dataset(
        {name: (axes, rng.normal(size=(2, 3, 3))) for name in SCALARS if name != "size"}
        | {name: ((*axes, "layer"), rng.normal(size=(2, 3, 3, 2))) for name in ("size", "gap")},
        coords={"arm": ["growing", "static"], "seed": [0, 1, 2], "step": list(STEPS), "layer": [0, 1]},
    )
    results["test_loss"].loc[{"arm": "growing", "seed": 2, "step": 10}] = np.nan
    results["test_loss"].loc[{"arm": "static", "step": 10}] = np.inf
    run = RunConfig(arms=("growing", "static"), seeds=(0, 1, 2), monitor=("gap",))
    experiment = Experiment(network=NetworkConfig(capacity=(4, 4)), run=run)
    return RunRecord(experiment=experiment, results=results, directory=None)


def events(path):
    """Value of each step by tag, from the framed records of the one event file of a folder."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = path.iterdir()
    content, found = file.read_bytes(), defaultdict(dict)
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event, content = Event.FromString(content[12 : 12 + length]), content[16 + length :]
        for value in event.summary.value:
            found[value.tag][event.step] = value.simple_value
    return dict(found)


def test_every_scalar_comes_back_as_the_median_over_seeds(record, tmp_path):
    write_events(record, tmp_path / "logs")
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"growing", "static"}
    layered = {f"{name}/layer-{n}" for name in ("size", "gap") for n in (1, 2)}
    for arm in ("growing", "static"):
        found, own = events(tmp_path / "logs" / arm), record.results.sel(arm=arm)
        assert set(found) == {"train_loss", "test_loss", "test_metric"} | layered
        assert tuple(found["train_loss"]) == STEPS
        np.testing.assert_allclose(
            list(found["train_loss"].values()), own["train_loss"].median("seed"), rtol=1e-6
        )
        for layer in (0, 1):
            middle = own["gap"].isel(layer=layer).median("seed")
            np.testing.assert_allclose(list(found[f"gap/layer-{layer + 1}"].values()), middle, rtol=1e-6)


def test_runs_that_are_not_finite_do_not_count(record, tmp_path):
    write_events(record, tmp_path)
    last = record.results["test_loss"].sel(arm="growing", step=10).values[:2].mean()
    np.testing.assert_allclose(events(tmp_path / "growing")["test_loss"][10], last, rtol=1e-6)
    assert tuple(events(tmp_path / "static")["test_loss"]) == STEPS[:2]


def test_a_folder_in_use_is_refused_and_kept(record, tmp_path):
    check_log_dir(tmp_path, ("growing", "static"))
    (tmp_path / "static").mkdir()
    check_log_dir(tmp_path, ("growing", "static"))
    (tmp_path / "static" / "events").write_text("ours")
    with pytest.raises(FileExistsError, match="static is not empty: give another `log_dir`"):
        write_events(record, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["static", "events"]


def test_the_absent_extra_is_named_with_its_command(record, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    rest = "(in the repository `uv sync --extra tensorboard`, or `pip install tensorboardx`)"
    command = f"`pip install 'n3-growing[tensorboard]'` {rest}"
    sentence = f"`log_dir` needs tensorboardx: install it with {command}."
    for refused in (lambda: write_events(record, tmp_path), lambda: check_log_dir(tmp_path, ("static",))):
        with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(sentence)}$"):
            refused()
    assert not list(tmp_path.iterdir())
