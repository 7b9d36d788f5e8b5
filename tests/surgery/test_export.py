"""Export: networks that come back from files bit for bit, and programs that run for any batch."""

import json
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from n3.nn.controllers import CONTROLLERS
from n3.nn.members import Ensemble, mean_outputs
from n3.nn.sized import stack_runs
from n3.surgery.compact import compact
from n3.surgery.export import export, from_bytes, load_compact, save_compact, to_bytes, write_file
from networks import CLOSE, filled, grown_perceptron, inputs, network, quick, reference, shapes


def assert_bit_equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, two in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert isinstance(one, jax.Array)
        assert (one.shape, one.dtype) == (two.shape, two.dtype)
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes()


@quick
@given(shapes())
def test_a_network_comes_back(tmp_path_factory, shape):
    folder = tmp_path_factory.mktemp("net")
    plain = compact(network(**shape))
    save_compact(plain, folder)
    assert_bit_equal(load_compact(folder), plain)
    assert sorted(path.name for path in folder.iterdir()) == ["network.json", "network.safetensors"]


def test_saving_again_replaces(tmp_path):
    save_compact(network("fixed", (4,), 2.0), tmp_path)
    last = network("fixed", (4, 4), 3.0)
    save_compact(last, tmp_path)
    assert_bit_equal(load_compact(tmp_path), compact(last))


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
        (lambda m: {**m, "units": [10**6, 10**6]}, "too small for 1000000 units"),
        (lambda m: {**m, "members": 10**9}, "too small for 1000000000"),
        (lambda m: {"format": m["format"]}, "`sha256` is missing"),
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


def test_a_program_gives_the_same_outputs_at_any_batch(tmp_path):
    net, path = network("controller", (4, 4), depth=1.5), tmp_path / "programs" / "net.stablehlo"
    content = export(net, path)
    assert content == path.read_bytes()
    program = jax.export.deserialize(bytearray(content))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    for batch in (1, 7):
        found = program.call(inputs(batch).T)
        assert found.shape == (batch, 3)
        np.testing.assert_allclose(found, reference(net, batch).T, **CLOSE)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file"
    write_file(path, b"first")

    def fails(descriptor):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="the disk is full"):
        write_file(path, b"second")
    assert [(each.name, each.read_bytes()) for each in path.parent.iterdir()] == [("file", b"first")]


def test_a_model_of_another_class_comes_back_by_a_model_of_its_class(tmp_path):
    grown = grown_perceptron()
    save_compact(grown, tmp_path)
    like = filled(lambda: eqx.nn.MLP(2, 3, 8, 2, key=jax.random.key(0)), seed=4)
    back, plain = load_compact(tmp_path, like), compact(grown)
    assert_bit_equal(*(eqx.filter(own, eqx.is_array) for own in (back, plain)))
    three = Ensemble(stack_runs([plain] * 3), True)
    save_compact(three, tmp_path / "three")
    for one in (like, three):
        back = load_compact(tmp_path / "three", one)
        assert_bit_equal(*(eqx.filter(own, eqx.is_array) for own in (back, three)))
        assert back.is_classes
    for wrong, kind in ((None, "None"), (like.layers[0], "Linear")):
        with pytest.raises(ValueError, match=f"`like` must be a MLP, of any sizes, to read .*; got {kind}"):
            load_compact(tmp_path, wrong)
    with pytest.raises(ValueError, match="does not hold this network"):
        load_compact(tmp_path, filled(lambda: eqx.nn.MLP(2, 3, 8, 1, key=jax.random.key(0))))


def test_a_plain_model_is_exported_by_an_example(tmp_path):
    model = filled(lambda: eqx.nn.MLP(2, 3, 8, 2, key=jax.random.key(0)))
    program = jax.export.deserialize(bytearray(export(model, example=inputs(1)[:, 0])))
    expected = eqx.filter_jit(lambda own, x: jax.vmap(own)(x))(model, inputs(5).T)
    np.testing.assert_allclose(program.call(inputs(5).T), expected, **CLOSE)
    with pytest.raises(ValueError, match="`example` must be given for a MLP"):
        export(model)


@pytest.mark.parametrize("kind", CONTROLLERS)
def test_a_growing_network_comes_back_bit_for_bit(kind):
    net, like = network(kind, depth=1.5), network(kind, sizes=1.0, depth=2.0, seed=1)
    assert_bit_equal(from_bytes(to_bytes(net), like, source="net"), net)


def test_stacked_networks_come_back_bit_for_bit_from_shapes_alone():
    nets = jax.tree.map(
        lambda *leaves: jnp.asarray(np.stack(leaves)), *(network("layerwise", seed=seed) for seed in range(3))
    )
    assert nets.layers[0].weight.shape == (3, 4, 2)
    shaped = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), nets)
    assert_bit_equal(from_bytes(to_bytes(nets), shaped, source="nets"), nets)


def test_every_kind_of_number_comes_back():
    numbers = {
        "odd": np.float32([np.nan, -np.nan, np.inf, -0.0, 1e-45]),
        "count": np.int32(-7),
        "key": np.uint32([0, 3]),
        "flags": (np.array([True, False]), np.zeros((0, 4), np.float32)),
        "half": np.float16([1.5, 2.0]),
        "none": None,
    }
    tree, like = jax.tree.map(jnp.asarray, numbers), jax.tree.map(np.zeros_like, numbers)
    assert_bit_equal(from_bytes(to_bytes(tree), like, source="tree"), tree)


def test_an_array_that_is_not_contiguous_comes_back():
    tree = {"turned": np.arange(6.0, dtype=np.float32).reshape(2, 3).T}
    back = from_bytes(to_bytes(tree), tree, source="tree")
    np.testing.assert_array_equal(back["turned"], tree["turned"])


def test_what_is_no_array_is_taken_from_the_like_tree():
    tree = {"weight": np.ones(2), "name": "stored"}
    back = from_bytes(to_bytes(tree), {"weight": np.zeros(2), "name": "like"}, source="tree")
    np.testing.assert_array_equal(back["weight"], [1, 1])
    assert back["name"] == "like"


def test_the_same_tree_gives_the_same_bytes():
    assert to_bytes(network(seed=0)) == to_bytes(network(seed=0))
    assert to_bytes(network(seed=0)) != to_bytes(network(seed=1))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"no safetensors",
        lambda content: content[:5],
        lambda content: content[:-3],
        lambda content: content + b"\0",
        lambda content: bytes([content[0] ^ 0xFF]) + content[1:],
        lambda content: content[:9] + b"\0" + content[10:],
    ],
)
def test_damaged_content_is_refused(damage):
    net = network()
    with pytest.raises(ValueError, match=r"^here\.safetensors is damaged or not safetensors: "):
        from_bytes(damage(to_bytes(net)), net, source="here.safetensors")


def test_another_shape_is_refused():
    content = to_bytes({"bias": np.zeros(3, np.float32), "weight": np.zeros((2, 3), np.float32)})
    like = {"bias": np.zeros(3, np.float32), "weight": np.zeros((3, 2), np.float32)}
    message = r"^here: \['weight'\] is float32\(2, 3\); expected float32\(3, 2\)\."
    with pytest.raises(ValueError, match=message):
        from_bytes(content, like, source="here")


def test_another_type_is_refused():
    content = to_bytes({"weight": np.zeros(3, np.int32)})
    with pytest.raises(ValueError, match=r"\['weight'\] is int32\(3,\); expected float32\(3,\)\."):
        from_bytes(content, {"weight": np.zeros(3, np.float32)}, source="here")


def test_a_network_of_another_capacity_is_refused():
    content = to_bytes(network(capacity=(4, 4)))
    with pytest.raises(ValueError, match=r"^here: \S+ is float32\(.*\); expected float32\(.*\)\."):
        from_bytes(content, network(capacity=(3, 3)), source="here")


@pytest.mark.parametrize("stored, wanted", [(1.5, None), (None, 1.5)])
def test_a_missing_or_unexpected_name_is_refused(stored, wanted):
    content = to_bytes(network(depth=stored))
    message = r"^here does not hold this network: \.depth_weight is missing or not expected\."
    with pytest.raises(ValueError, match=message):
        from_bytes(content, network(depth=wanted), source="here")


def test_half_precision_comes_back(tmp_path):
    model = filled(lambda: eqx.nn.MLP(2, 3, 8, 1, dtype=jnp.bfloat16, key=jax.random.key(0)))
    save_compact(model, tmp_path)
    assert_bit_equal(*(eqx.filter(own, eqx.is_array) for own in (load_compact(tmp_path, model), model)))


@pytest.mark.parametrize("is_classes", [False, True])
def test_an_ensemble_comes_back_from_one_folder_and_is_one_program(tmp_path, is_classes):
    whole = Ensemble(stack_runs([network("fixed", (4,), 2.0, seed=seed) for seed in range(3)]), is_classes)
    save_compact(whole, tmp_path)
    back = load_compact(tmp_path)
    assert_bit_equal(back.members, compact(whole).members)
    assert json.loads((tmp_path / "network.json").read_text())["members"] == 3
    by_hand = mean_outputs(jnp.stack([own.batch(inputs(5)) for own in whole.each()]), is_classes=is_classes)
    program = jax.export.deserialize(bytearray(export(whole)))
    for outputs in (back.batch(inputs(5)), program.call(inputs(5).T).T):
        np.testing.assert_allclose(outputs, by_hand, **CLOSE)
