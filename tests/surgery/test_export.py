"""Portable: networks that come back from files, and programs that run for any batch."""

import json
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from n3.surgery.compact import compact
from n3.surgery.export import export, load_compact, save_compact
from n3.tracing.grow import grow
from networks import CLOSE, inputs, network, quick, shapes


@quick
@given(shapes())
def test_a_network_comes_back(tmp_path_factory, shape):
    folder = tmp_path_factory.mktemp("net")
    net = network(**shape)
    save_compact(net, folder)
    assert eqx.tree_equal(load_compact(folder), compact(net))
    assert sorted(path.name for path in folder.iterdir()) == ["network.json", "network.safetensors"]


def test_saving_again_replaces(tmp_path):
    save_compact(network("fixed", (4,), 2.0), tmp_path)
    save_compact(network("fixed", (3, 3), 3.0), tmp_path)
    assert eqx.tree_equal(load_compact(tmp_path), compact(network("fixed", (3, 3), 3.0)))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda m: {**m, "sha256": "0"}, r"network\.safetensors is damaged or another network's"),
        (lambda m: {**m, "format": "x"}, r"network\.json: `format` must be 'n3 compact network, version 1'"),
        (lambda m: {**m, "units": m["units"][1:]}, r"must have one entry for each layer"),
        (lambda m: {**m, "units": [9, *m["units"][1:]]}, r"network\.safetensors: \S+ is float32.*; expected"),
        (lambda m: {**m, "activations": ["step", *m["activations"][1:]]}, "`activations` must be of .*'step'"),
        (lambda m: {**m, "dtype": "object"}, "`dtype` must be float32 or float64; got 'object'"),
        (lambda m: {**m, "in_size": -2}, "`in_size` and `units` must be zero or more"),
        (lambda m: {**m, "extra": 1}, "unknown field `extra`"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path, damage, message):
    save_compact(network("fixed", (4,), 2.0), tmp_path)
    manifest = json.loads((tmp_path / "network.json").read_text())
    (tmp_path / "network.json").write_text(json.dumps(damage(manifest)))
    with pytest.raises(ValueError, match=message):
        load_compact(tmp_path)


def test_flipped_and_missing_files_are_refused(tmp_path):
    save_compact(network("fixed", (4,), 2.0), tmp_path)
    path = tmp_path / "network.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="is damaged"):
        load_compact(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        load_compact(tmp_path)


@pytest.mark.parametrize(
    "shape",
    [
        {"kind": "auxiliary", "capacity": (4, 3)},
        {"kind": "controller", "capacity": (4, 4), "depth": 1.5},
        {"kind": "information", "capacity": (4, 4), "sizes": [0.0, 2.0]},
        {"kind": "fixed", "capacity": (3,), "sizes": 0.0},
    ],
)
def test_a_program_gives_the_same_outputs_at_any_batch(shape):
    net = network(**shape)
    program = jax.export.deserialize(bytearray(export(net)))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    for batch in (1, 2, 7, 130):
        x = inputs(batch).T
        found = program.call(x)
        assert found.shape == (batch, 3)
        np.testing.assert_allclose(found, np.asarray(net.batch(x.T)).T, **CLOSE)


_RUN = """
import sys, jax, numpy as np
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
print(np.asarray(program.call(np.ones((3, 2), np.float32))).tolist())
assert not any(name == "n3" or name.startswith("n3.") for name in sys.modules)
"""


def test_a_program_runs_without_this_package(tmp_path):
    net = network("auxiliary", (4, 3))
    path = tmp_path / "programs" / "net.stablehlo"
    assert export(compact(net), path) == path.read_bytes()
    done = subprocess.run([sys.executable, "-c", _RUN, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = np.asarray(net.batch(jnp.ones((2, 3)))).T
    np.testing.assert_allclose(json.loads(done.stdout), expected, **CLOSE)


def test_what_cannot_be_compacted_is_refused(tmp_path):
    other = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    grown = grow(other, example=jnp.ones(2), key=jax.random.key(1))
    for net, match in ((other, "got MLP"), (grown, "got a grown MLP")):
        for refused in (lambda net=net: export(net), lambda net=net: save_compact(net, tmp_path)):
            with pytest.raises(ValueError, match=f"`net` must be a GrowingMLP; {match}"):
                refused()
    assert not list(tmp_path.iterdir())
