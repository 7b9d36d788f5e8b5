"""Surgery with every controller and optimiser as they are compiled: outputs, the next update, and programs."""

import json
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n3.surgery.compact import compact, compact_state
from n3.surgery.edit import Edit, edited
from n3.surgery.expand import expand
from n3.surgery.export import export
from n3.surgery.prune import prune
from networks import (
    CLOSE,
    KINDS,
    inputs,
    network,
    outputs,
    quick,
    reference,
    shapes,
    silenced,
    stepped,
    task,
    trained,
)

pytestmark = pytest.mark.slow
KEPT = np.array([0, 2, 3])


def assert_same(after, before, rows, columns):
    """That the update of a layer is rows and columns of the other's."""
    np.testing.assert_allclose(after.weight, np.asarray(before.weight)[rows][:, columns], **CLOSE)
    np.testing.assert_allclose(after.bias, np.asarray(before.bias)[rows], **CLOSE)


@settings(quick, max_examples=30)
@given(shapes())
def test_compiled_outputs_are_those_by_hand_before_and_after_compaction(shape):
    net = network(**shape)
    np.testing.assert_allclose(outputs(net, inputs()), reference(net), **CLOSE)
    np.testing.assert_allclose(outputs(compact(net), inputs()), reference(net), **CLOSE)


@settings(quick, max_examples=30)
@given(shapes(gated=False), st.data())
def test_pruned_units_change_the_outputs_as_their_outgoing_weights_at_zero(shape, data):
    net = network(**shape)
    masks = [np.asarray(own) for own in net.participation()]
    lists = [st.lists(st.integers(0, own.size - 1), unique=True, max_size=own.size - 1) for own in masks]
    chosen = [data.draw(own) for own in lists]
    if any(own.any() and not np.delete(own, off).any() for own, off in zip(masks, chosen, strict=True)):
        return
    asked = iter([off for own, off in zip(masks, chosen, strict=True) if own.any()])
    pruned = prune(
        net,
        lambda active, targets: np.isin(np.arange(active.shape[1]), next(asked)),
        (task().inputs.T, task().targets.T),
        is_classes=False,
    )
    expected = net
    for layer, off in enumerate(chosen):
        expected = silenced(expected, layer, off)
    np.testing.assert_allclose(outputs(pruned.net, inputs()), outputs(expected, inputs()), **CLOSE)


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_update_without_a_unit_is_the_same(name, kind):
    samples = task()
    net, state = trained(name, network(kind, (4, 4), 3.3), samples)
    net, units = silenced(net, 0, [1]), (KEPT, np.arange(4))
    edit = Edit(layers=(0, 1), units=units, is_new=tuple(np.zeros(own.size, bool) for own in units))
    made, carried = edited(net, edit, state)
    before, *_ = stepped(name, net, state, samples)
    after, *_ = stepped(name, made, carried, samples)
    assert_same(after.layers[0], before.layers[0], KEPT, slice(None))
    assert_same(after.layers[1], before.layers[1], slice(None), KEPT)
    assert_same(after.readout, before.readout, slice(None), slice(None))


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize(
    "kind, options",
    [
        ("auxiliary", {"units": (0, 2)}),
        ("controller", {"units": 2}),
        ("fixed", {"units": (2, 0), "is_born": True}),
        ("released", {"units": (0, 2)}),
        ("layerwise", {"layers": 1, "method": "identity"}),
    ],
)
def test_the_next_update_of_what_was_there_is_the_same(name, kind, options):
    samples = task()
    net, state = trained(name, network(kind, (4, 4), 3.3), samples)
    made, carried = expand(net, key=jax.random.key(11), state=state, **options)
    before, *_ = stepped(name, net, state, samples)
    after, *_ = stepped(name, made, carried, samples)
    old = np.array([0, 1, 2, 5]) if options.get("is_born") else np.arange(4)
    np.testing.assert_allclose(np.asarray(after.layers[0].weight)[old], before.layers[0].weight, **CLOSE)
    second = np.asarray(after.layers[1].weight)[:4][:, old]
    np.testing.assert_allclose(second, before.layers[1].weight, **CLOSE)
    np.testing.assert_allclose(after.layers[1].bias[:4], before.layers[1].bias, **CLOSE)
    np.testing.assert_allclose(after.readout.weight[:, :4], before.readout.weight, **CLOSE)
    assert np.abs(np.asarray(before.readout.weight)).max() > 1e-4


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("depth", [None, 2.0])
def test_the_next_update_of_full_units_is_the_same_once_compact(name, depth):
    samples = task()
    net, state = trained(name, network("fixed", (4, 4), 2.0, size_input=False, depth=depth), samples)
    if depth is not None:
        net = eqx.tree_at(lambda n: n.depth_weight, net, jnp.asarray(depth))
    before, *_ = stepped(name, net, state, samples)
    after, *_ = stepped(name, compact(net), compact_state(net, state), samples)
    assert_same(after.layers[0], before.layers[0], slice(0, 2), slice(None))
    assert_same(after.layers[1], before.layers[1], slice(0, 2), slice(0, 2))
    assert_same(after.readout, before.readout, slice(None), slice(0, 2))


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
    for batch in (1, 2, 7, 130):
        np.testing.assert_allclose(program.call(inputs(batch).T), reference(net, batch).T, **CLOSE)


_RUN = """
import sys, jax, numpy as np
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
print(np.asarray(program.call(np.ones((3, 2), np.float32))).tolist())
assert not any(name == "n3" or name.startswith("n3.") for name in sys.modules)
"""


def test_a_program_runs_without_this_package(tmp_path):
    net, path = network("auxiliary", (4, 3)), tmp_path / "net.stablehlo"
    export(compact(net), path)
    done = subprocess.run([sys.executable, "-c", _RUN, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = np.asarray(outputs(net, jnp.ones((2, 3)))).T
    np.testing.assert_allclose(json.loads(done.stdout), expected, **CLOSE)
