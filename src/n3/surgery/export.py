"""Portable: a compact network as files, to be read back here or run without this package."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import export as jax_export
from jaxtyping import Array, Float

from n3.config.validation import from_json
from n3.experiments.results import RunDirectory
from n3.nn.choices import ACTIVATIONS
from n3.surgery.compact import CompactLayer, CompactMLP, compact
from n3.training import checkpoint

FORMAT = "n3 compact network, version 1"
PLATFORMS = ("cpu", "cuda", "tpu")
"""What an exported program can run on."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a stored network is, beside its arrays; one entry a layer, the readout last."""

    format: str
    dtype: str
    in_size: int
    units: tuple[int, ...]
    activations: tuple[str, ...]
    keeps_input: tuple[bool, ...]
    sha256: str
    """Of the arrays' file."""

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"`format` must be {FORMAT!r}; got {self.format!r}.")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"`dtype` must be float32 or float64; got {self.dtype!r}.")
        if not len(self.units) == len(self.activations) == len(self.keeps_input) >= 1:
            raise ValueError("`units`, `activations` and `keeps_input` must have one entry for each layer.")
        if min(self.in_size, *self.units) < 0:
            raise ValueError(
                f"`in_size` and `units` must be zero or more; got {self.in_size} and {self.units}."
            )
        for name in self.activations:
            if name not in ACTIVATIONS:
                raise ValueError(f"`activations` must be of {', '.join(ACTIVATIONS)}; got {name!r}.")


def save_compact(net: eqx.Module, directory: str | Path) -> None:
    """Write one network, compacted, as `network.safetensors` and `network.json`.

    Args:
        net: A `GrowingMLP` or a `CompactMLP`.
        directory: Folder for both; it is made where it is not there.

    Raises:
        ValueError: If `net` cannot be compacted.
        OSError: If the files cannot be written.
    """
    plain = _plain(net)
    content = checkpoint.to_bytes(plain)
    every = (*plain.layers, plain.readout)
    manifest = Manifest(
        format=FORMAT,
        dtype=str(plain.readout.bias.dtype),
        in_size=every[0].weight.shape[1],
        units=tuple(layer.bias.shape[0] for layer in every),
        activations=tuple(layer.activation for layer in every),
        keeps_input=tuple(layer.keeps_input for layer in every),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    folder = RunDirectory(Path(directory))
    folder.write("network.safetensors", content)
    folder.write_json("network.json", asdict(manifest))


def load_compact(directory: str | Path) -> CompactMLP:
    """The network that `save_compact` wrote.

    Args:
        directory: Its folder.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is damaged, or they do not belong together.
    """
    folder = Path(directory)
    path = folder / "network.json"
    manifest = from_json(Manifest, path.read_text(), source=str(path))
    source = folder / "network.safetensors"
    content = source.read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise ValueError(f"{source} is damaged or another network's: its sha256 is not the one in {path}.")
    return checkpoint.from_bytes(content, _like(manifest), source=str(source))


def export(net: eqx.Module, path: str | Path | None = None) -> bytes:
    """The compacted network as a StableHLO program `[batch, in_size] -> [batch, out_size]` for any batch.

    `jax.export.deserialize(content).call(x)` runs it; the weights are inside, and this package is not needed.

    Args:
        net: A `GrowingMLP` or a `CompactMLP`.
        path: File to write it to, whole or not at all; None: no file.

    Returns:
        The program, for CPU, CUDA and TPU.

    Raises:
        ValueError: If `net` cannot be compacted.
        OSError: If the file cannot be written.
    """
    plain = _plain(net)
    first = (*plain.layers, plain.readout)[0].weight
    (batch,) = jax_export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, first.shape[1]), first.dtype)

    def outputs(x: Float[Array, "batch in_size"]) -> Float[Array, "batch out_size"]:
        return plain.batch(x.T).T

    content = bytes(jax_export.export(jax.jit(outputs), platforms=PLATFORMS)(shape).serialize())
    if path is not None:
        RunDirectory(Path(path).parent).write(Path(path).name, content)
    return content


def _plain(net: eqx.Module) -> CompactMLP:
    plain = compact(net)
    if not isinstance(plain, CompactMLP):
        raise ValueError(f"`net` must be a GrowingMLP; got a grown {type(plain).__name__}.")
    return plain


def _like(manifest: Manifest) -> CompactMLP:
    """A network of the stored one's shapes."""
    layers, reads = [], manifest.in_size
    rows = zip(manifest.units, manifest.activations, manifest.keeps_input, strict=True)
    for units, activation, keeps_input in rows:
        arrays = jnp.zeros((units, reads), manifest.dtype), jnp.zeros(units, manifest.dtype)
        layers.append(CompactLayer(*arrays, activation=activation, keeps_input=keeps_input))
        reads = reads * keeps_input + units
    return CompactMLP(layers=tuple(layers[:-1]), readout=layers[-1])
