"""Export: networks as files and as programs that run without n3."""

import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax import export as jax_export

from n3.config.validation import from_json, read_file, read_text
from n3.nn import norms
from n3.nn.members import Ensemble, over_members
from n3.nn.mlp import ACTIVATIONS
from n3.nn.sized import AbstractSized, stack_runs
from n3.surgery.compact import CompactLayer, CompactMLP, compact
from n3.tracing.grow import Example
from n3.tracing.trace import check_stateless, key_if_taken, with_true_sizes

PART = ".part"
"""Ending of a file that is not complete yet."""


def write_file(path: Path, content: bytes) -> None:
    """Write a file under its name only once it is complete; its folder is made where it is missing.

    Raises:
        OSError: If the file cannot be written; no part of it is left then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        scratch.unlink(missing_ok=True)
        with scratch.open("xb") as file:  # never through a link
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_out(path: str | Path, content: bytes) -> None:
    """As `write_file`, for where a user asks for a file: what is a pipe or a device there is written to.

    Raises:
        OSError: If it cannot be written.
        ValueError: If the path is empty or holds a NUL.
    """
    if not str(path).strip() or "\0" in str(path) or Path(path).name == "":
        raise ValueError(f"`out` must name a file; got {str(path)!r}.")
    if Path(path).exists() and not stat.S_ISREG(os.stat(path).st_mode):
        with open(path, "wb") as file:
            file.write(content)
    else:
        write_file(Path(os.path.realpath(path)), content)


def to_bytes(tree: Any) -> bytes:
    """The arrays of a tree in the safetensors format, each under its path; reading them executes nothing.

    Typed keys are stored as their data, under a path that names their implementation. What is not an array is
    left out, since `from_bytes` takes it from a like tree.
    """
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, lambda leaf: hasattr(leaf, "shape")))
    named = {_name(path, leaf): np.asarray(_plain(leaf), order="C") for path, leaf in leaves}
    return safetensors.numpy.save(named)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _typed(stored: np.ndarray, like: Any) -> jax.Array:
    own, found = jnp.asarray(stored), []
    if not _is_key(like):
        return own
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), like)  # of shapes alone it refuses
    return jax.random.wrap_key_data(own, impl=found[0])


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _name(path: Any, leaf: Any) -> str:
    return jax.tree_util.keystr(path) + (f" {leaf.dtype}" if _is_key(leaf) else "")


def from_bytes(content: bytes, like: Any, *, source: str) -> Any:
    """The tree that `to_bytes` stored, in which all that is no array is as in `like`.

    That is a tree of the same structure, with arrays or shapes (`jax.ShapeDtypeStruct`) as leaves. An error
    calls the content `source`, a file's name for example.

    Raises:
        ValueError: If the content is not safetensors, or a name, shape or type differs from `like`'s.
    """
    stored = arrays_in(content, source)
    shaped, others = eqx.partition(like, lambda leaf: hasattr(leaf, "shape"))
    leaves, structure = jax.tree_util.tree_flatten_with_path(shaped)
    names = [_name(path, leaf) for path, leaf in leaves]
    if set(names) != set(stored):
        odd = sorted(set(names) ^ set(stored))
        raise ValueError(f"{source} does not hold this network: {odd[0]} is missing or not expected.")
    for name, (_, leaf) in zip(names, leaves, strict=True):
        own = jax.eval_shape(_plain, leaf) if _is_key(leaf) else leaf
        if stored[name].shape != own.shape or stored[name].dtype != own.dtype:
            found = f"{stored[name].dtype}{stored[name].shape}"
            raise ValueError(f"{source}: {name} is {found}; expected {own.dtype}{own.shape}.")
    made = [_typed(stored[name], leaf) for name, (_, leaf) in zip(names, leaves, strict=True)]
    return eqx.combine(structure.unflatten(made), others)


def arrays_in(content: bytes, source: str) -> dict[str, np.ndarray]:
    """The stored arrays by name; NumPy's own reader does not know `bfloat16`."""
    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{source} is damaged or not safetensors: {error}.") from error
    return {name: np.frombuffer(own["data"], _TYPES[own["dtype"]]).reshape(own["shape"]) for name, own in found}


_TYPES = {
    "BOOL": np.bool_,
    "BF16": jnp.bfloat16,
    **{f"F{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
    **{f"{kind.upper()}{bits}": np.dtype(f"{kind}{bits // 8}") for kind in "iu" for bits in (8, 16, 32, 64)},
}
"""Types of arrays by safetensors' names."""
FORMAT = "n3 compact network, version 1"
PLATFORMS = ("cpu", "cuda", "tpu")
"""What an exported program can run on."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a stored network is, beside its arrays; of a `CompactMLP` one entry a layer, the readout last.

    Of an ensemble it is what each member is.
    """

    format: str
    sha256: str
    """Of the arrays' file."""
    model: str = CompactMLP.__name__
    """Name of its class."""
    dtype: str = "float32"
    in_size: int = 0
    units: tuple[int, ...] = ()
    activations: tuple[str, ...] = ()
    keeps_input: tuple[bool, ...] = ()
    members: int = 0
    """Networks of an ensemble; 0: a network alone."""
    is_classes: bool = False
    """Of an ensemble: whether it is the mean of chances, or of numbers."""

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"`format` must be {FORMAT!r}; got {self.format!r}.")
        if self.model != CompactMLP.__name__:
            return
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"`dtype` must be float32 or float64; got {self.dtype!r}.")
        if not len(self.units) == len(self.activations) == len(self.keeps_input) >= 1:
            raise ValueError("`units`, `activations` and `keeps_input` must have one entry for each layer.")
        if min(self.in_size, *self.units) < 0:
            got = f"{self.in_size} and {self.units}"
            raise ValueError(f"`in_size` and `units` must be zero or more; got {got}.")
        if self.members < 0:
            raise ValueError(f"`members` must be zero or more; got {self.members}.")
        for name in self.activations:
            if name not in ACTIVATIONS:
                raise ValueError(f"`activations` must be of {', '.join(ACTIVATIONS)}; got {name!r}.")


def save_compact(net: eqx.Module, directory: str | Path) -> None:
    """Write one network, compacted, as `network.safetensors` and `network.json` in a folder.

    A model that is not sized is written as it is, an ensemble with all members. The folder is made where it is
    not there.

    Raises:
        ValueError: If `net` cannot be compacted.
        OSError: If the files cannot be written.
    """
    plain, of_layers = compact(net), {}
    members = plain.each() if isinstance(plain, Ensemble) else []
    one = members[0] if members else plain
    if isinstance(one, CompactMLP):
        every = (*one.layers, one.readout)
        of_layers = {
            "dtype": str(one.readout.bias.dtype),
            "in_size": every[0].weight.shape[1],
            "units": tuple(layer.bias.shape[0] for layer in every),
            "activations": tuple(layer.activation for layer in every),
            "keeps_input": tuple(layer.keeps_input for layer in every),
        }
    if isinstance(plain, Ensemble):
        of_layers |= {"members": len(members), "is_classes": plain.is_classes}
    content = to_bytes(over_members(norms.participating, plain))
    digest = hashlib.sha256(content).hexdigest()
    manifest = Manifest(format=FORMAT, sha256=digest, model=type(one).__name__, **of_layers)
    write_file(Path(directory) / "network.safetensors", content)
    write_file(Path(directory) / "network.json", (json.dumps(asdict(manifest), indent=2) + "\n").encode())


def load_compact(directory: str | Path, like: eqx.Module | None = None) -> Any:
    """The network, or the ensemble, that `save_compact` wrote.

    `like` is a model of the class that was written, or that the members have, of any sizes, such as the model
    before it was grown: all but the arrays is taken from it, its activations too. None: that is a `CompactMLP`.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is damaged, they do not belong together, or `like` is missing or another model.
    """
    path, source = (Path(directory) / f"network.{kind}" for kind in ("json", "safetensors"))
    manifest = from_json(Manifest, read_text(path), source=str(path))
    content = read_file(source)
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise ValueError(f"{source} is damaged or another network's: its sha256 is not the one in {path}.")
    one = like.each()[0] if isinstance(like, Ensemble) else like
    kind = CompactMLP.__name__ if one is None else type(one).__name__
    if manifest.model != kind:
        got = None if like is None else kind
        raise ValueError(f"`like` must be a {manifest.model}, of any sizes, to read {source}; got {got}.")
    if one is None:
        most = max(manifest.in_size, manifest.members, len(manifest.units), *manifest.units)
        if most > len(content):
            raise ValueError(f"{path} must be of the network in {source}, which is too small for {most} units.")
        return from_bytes(content, _like(manifest), source=str(source))
    whole = Ensemble(stack_runs([one] * manifest.members), manifest.is_classes) if manifest.members else one
    shaped = _stored_shapes(arrays_in(content, str(source)), over_members(norms.participating, whole))
    found = from_bytes(content, shaped, source=str(source))
    return over_members(lambda own: norms.simplified(with_true_sizes(own)), found)


def _stored_shapes(stored: dict[str, np.ndarray], like: eqx.Module) -> eqx.Module:

    def shape(path: Any, leaf: Any) -> Any:
        own = stored.get(jax.tree_util.keystr(path))
        is_like = eqx.is_array(leaf) and own is not None and own.ndim == leaf.ndim
        return jax.ShapeDtypeStruct(own.shape, own.dtype) if is_like else leaf

    return jax.tree_util.tree_map_with_path(shape, like)


def export(
    net: eqx.Module, path: str | Path | None = None, *, example: Example | tuple[Example, ...] | None = None
) -> bytes:
    """The compacted network as a StableHLO program `[batch, in_size] -> [batch, out_size]` for any batch.

    `jax.export.deserialize(content).call(x)` runs it on CPU, CUDA and TPU; the weights are inside, and this
    package is not needed. A model of several inputs is called with as many; dropout is off; an ensemble is one
    program, of the mean of its members. The file at `path` is written whole or not at all; `example` is one
    sample, or its shape and data type, of a model that is not sized.

    Raises:
        ValueError: If `net` cannot be compacted or has a state, or an example is missing.
        OSError: If the file cannot be written.
    """
    check_stateless(net)
    plain = compact(net)
    one = net.members if isinstance(net, Ensemble) else net
    if isinstance(one, AbstractSized):
        shapes = one.structure.example
    elif isinstance(one, CompactMLP):
        first = (*one.layers, one.readout)[0].weight
        shapes = ((first.shape[-1:], first.dtype),)
    elif example is None:
        raise ValueError(f"`example` must be given for a {type(one).__name__}: one sample of its inputs.")
    else:
        shapes = [(own.shape, own.dtype) for own in (example if isinstance(example, tuple) else (example,))]
    (batch,) = jax_export.symbolic_shape("batch")
    samples = [jax.ShapeDtypeStruct((batch, *shape), dtype) for shape, dtype in shapes]
    model = eqx.nn.inference_mode(plain)
    keys = key_if_taken(one if one is not net else model, jax.random.key(0))
    outputs = jax.jit(jax.vmap(lambda *one: model(*one, **keys)))
    content = bytes(jax_export.export(outputs, platforms=PLATFORMS)(*samples).serialize())
    if path is not None:
        write_file(Path(path), content)
    return content


def _like(manifest: Manifest) -> CompactMLP | Ensemble[CompactMLP]:
    """The network of a manifest, with shapes in place of arrays."""
    one = eqx.filter_eval_shape(_zeros, manifest)
    if not manifest.members:
        return one
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((manifest.members, *leaf.shape), leaf.dtype), one)
    return Ensemble(stacked, manifest.is_classes)


def _zeros(manifest: Manifest) -> CompactMLP:
    layers, reads = [], manifest.in_size
    rows = zip(manifest.units, manifest.activations, manifest.keeps_input, strict=True)
    for units, activation, keeps_input in rows:
        arrays = jnp.zeros((units, reads), manifest.dtype), jnp.zeros(units, manifest.dtype)
        layers.append(CompactLayer(*arrays, activation=activation, keeps_input=keeps_input))
        reads = reads * keeps_input + units
    return CompactMLP(layers=tuple(layers[:-1]), readout=layers[-1])
