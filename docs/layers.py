"""Layers: what `n3.grow` does with every layer of Equinox, tried on a model of each, as a table.

`uv run python docs/layers.py` writes the table of `docs/method/layers.md` anew; a slow test compares them.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

import n3

PAGE = Path(__file__).parent / "method" / "layers.md"
NOT_TRIED = {
    "Conv": "base of the convolutions",
    "ConvTranspose": "base of the transposed convolutions",
    "Pool": "base of the poolings",
    "AdaptivePool": "base of the adaptive poolings",
    "StatefulLayer": "base of the layers with a state",
    "StateIndex": "a place in the state",
}
"""Classes of `equinox.nn` that no model has by themselves, and what they are."""
_KEYS = jr.split(jr.key(0), 5)
_ROW = jax.ShapeDtypeStruct((5,), jnp.float32)
_SEQUENCE = jax.ShapeDtypeStruct((4, 5), jnp.float32)
_TOKENS = jax.ShapeDtypeStruct((4,), jnp.int32)
_CHANNELS = 6
nn = eqx.nn


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A model with one layer of a kind, between others that can grow."""

    make: Callable[[], eqx.Module]
    example: Any
    own: str = ""
    """Start of the paths of the layer's own weights; empty where it has none that could grow."""
    before: str = ""
    """Path of the layer before it; empty where it stands first."""


class _Between(eqx.Module):
    """A layer after one that can grow, and before one that reads it: over the rows of a sequence, or of one."""

    first: eqx.Module
    layer: eqx.Module
    last: nn.Linear

    def __call__(self, x):
        over = jax.vmap(self.first) if x.ndim == 2 else self.first
        units = self.layer(over(x))
        return self.last(units if units.ndim == 1 else jnp.mean(units, axis=0))


class _Over(eqx.Module):
    """A layer over channels and places, after a convolution and before one."""

    first: eqx.Module
    layer: eqx.Module
    last: eqx.Module

    def __call__(self, x):
        return jnp.mean(self.last(self.layer(self.first(x))))


class _First(eqx.Module):
    """A layer that sees the input, before two that can grow."""

    layer: eqx.Module
    up: nn.Linear
    last: nn.Linear

    def __call__(self, x):
        if isinstance(self.layer, nn.Embedding):
            units = jnp.mean(jax.vmap(self.layer)(x), axis=0)
        elif x.ndim == 2:
            units = self._last_state(x)
        else:
            units = self.layer(x)
        return self.last(jnp.tanh(self.up(jnp.tanh(units))))

    def _last_state(self, x):
        start = jnp.zeros(8)
        start = (start, start) if isinstance(self.layer, nn.LSTMCell) else start
        state, _ = jax.lax.scan(lambda state, row: (self.layer(row, state), None), start, x)
        return state[0] if isinstance(state, tuple) else state


class _Attending(eqx.Module):
    """Attention over a sequence, after one layer and before two."""

    first: nn.Linear
    layer: nn.MultiheadAttention
    up: nn.Linear
    last: nn.Linear

    def __call__(self, x):
        units = jax.vmap(self.first)(x)
        units = jnp.mean(self.layer(units, units, units), axis=0)
        return self.last(jnp.tanh(self.up(units)))


class _Tied(eqx.Module):
    """Two layers with one weight, before two that can grow."""

    layer: nn.Shared
    up: nn.Linear
    last: nn.Linear

    def __call__(self, x):
        one, two = self.layer()
        return self.last(jnp.tanh(self.up(two(jnp.tanh(one(x))))))


def _linear(into: int, out: int, key: int) -> nn.Linear:
    return nn.Linear(into, out, key=_KEYS[key])


def _after(layer: Callable[[], eqx.Module], own: str = "", example: Any = _ROW) -> Trial:
    make = lambda: _Between(_linear(5, 8, 0), layer(), _linear(8, 1, 1))  # noqa: E731
    return Trial(make=make, example=example, own=own, before=".first")


def _at_input(layer: Callable[[], eqx.Module], example: Any, own: str = ".layer", width: int = 8) -> Trial:
    make = lambda: _First(layer(), _linear(width, 8, 1), _linear(8, 1, 2))  # noqa: E731
    return Trial(make=make, example=example, own=own)


def _spatial(dimensions: int, layer: Callable[[], eqx.Module], own: str = "") -> Trial:
    convolution = getattr(nn, f"Conv{dimensions}d")

    def make() -> eqx.Module:
        first = convolution(2, _CHANNELS, 3, padding=1, key=_KEYS[0])
        return _Over(first, layer(), convolution(_CHANNELS, 1, 1, key=_KEYS[1]))

    example = jax.ShapeDtypeStruct((2, *(8,) * dimensions), jnp.float32)
    return Trial(make=make, example=example, own=own, before=".first")


def _tied() -> eqx.Module:
    pair = _linear(5, 5, 0), _linear(5, 5, 1)
    shared = nn.Shared(pair, where=lambda both: both[1].weight, get=lambda both: both[0].weight)
    return _Tied(shared, _linear(5, 8, 2), _linear(8, 1, 3))


def _with_state(layer: Callable[[], eqx.Module]) -> Trial:
    make = lambda: nn.make_with_state(lambda: _Between(_linear(5, 8, 0), layer(), _linear(8, 1, 1)))()[0]  # noqa: E731
    return Trial(make=make, example=_ROW, own=".layer", before=".first")


def _trials() -> dict[str, Trial]:
    found = {
        "Linear": _after(lambda: _linear(8, 8, 2), ".layer"),
        "MLP": _after(lambda: nn.MLP(8, 8, 8, 2, key=_KEYS[2]), ".layer"),
        "Sequential": _after(lambda: nn.Sequential([nn.Lambda(jnp.tanh), _linear(8, 8, 2)]), ".layer"),
        "Identity": _after(nn.Identity),
        "Lambda": _after(lambda: nn.Lambda(jnp.tanh)),
        "Dropout": _after(lambda: nn.Dropout(0.5)),
        "PReLU": _after(nn.PReLU),
        "LayerNorm": _after(lambda: nn.LayerNorm(8)),
        "RMSNorm": _after(lambda: nn.RMSNorm(8)),
        "GroupNorm": _after(lambda: nn.GroupNorm(2, 8)),
        "BatchNorm": _with_state(lambda: nn.BatchNorm(8, "batch", mode="batch")),
        "SpectralNorm": _with_state(lambda: nn.SpectralNorm(_linear(8, 8, 2), "weight", key=_KEYS[3])),
        "WeightNorm": _after(lambda: nn.WeightNorm(_linear(8, 8, 2)), ".layer"),
        "Embedding": _at_input(lambda: nn.Embedding(7, 6, key=_KEYS[0]), _TOKENS, width=6),
        "GRUCell": _at_input(lambda: nn.GRUCell(5, 8, key=_KEYS[0]), _SEQUENCE),
        "LSTMCell": _at_input(lambda: nn.LSTMCell(5, 8, key=_KEYS[0]), _SEQUENCE),
        "RotaryPositionalEmbedding": _after(lambda: nn.RotaryPositionalEmbedding(8), example=_SEQUENCE),
        "MultiheadAttention": Trial(
            make=lambda: _Attending(
                _linear(5, 8, 0), nn.MultiheadAttention(2, 8, key=_KEYS[1]), _linear(8, 8, 2), _linear(8, 1, 3)
            ),
            example=_SEQUENCE,
            own=".layer",
            before=".first",
        ),
        "Shared": Trial(make=_tied, example=_ROW, own=".layer"),
    }
    for number in (1, 2, 3):
        for name, options in (("Conv", (3,)), ("ConvTranspose", (2, 2))):
            kind = getattr(nn, f"{name}{number}d")
            layer = lambda kind=kind, options=options: kind(_CHANNELS, _CHANNELS, *options, key=_KEYS[2])  # noqa: E731
            found[f"{name}{number}d"] = _spatial(number, layer, ".layer")
        for name in ("AvgPool", "MaxPool", "AdaptiveAvgPool", "AdaptiveMaxPool"):
            kind = getattr(nn, f"{name}{number}d")
            options = (2,) if name.startswith("Adaptive") else (2, 2)
            found[f"{name}{number}d"] = _spatial(number, lambda kind=kind, own=options: kind(*own))
    for label, groups in (("Conv2d, depthwise", _CHANNELS), ("Conv2d, in groups of channels", 3)):
        layer = lambda own=groups: nn.Conv2d(_CHANNELS, _CHANNELS, 3, groups=own, key=_KEYS[2])  # noqa: E731
        found[label] = _spatial(2, layer, ".layer")
    return found


TRIALS = _trials()
"""By the name of the layer."""


def every_layer() -> set[str]:
    """The names of all modules of `equinox.nn`."""
    own = {name: getattr(nn, name) for name in dir(nn)}
    return {name for name, one in own.items() if inspect.isclass(one) and issubclass(one, eqx.Module)}


def outcome(trial: Trial) -> tuple[str, str, str]:
    """Whether the layer grows, whether the layer before it does, and a reason where one does not."""
    model = trial.make()
    try:
        groups = n3.grow(model, example=trial.example, key=_KEYS[4]).structure.groups
    except ValueError as error:
        return "refused" if trial.own else "-", "refused" if trial.before else "-", _reason(str(error))
    paths = [path for group in groups for path in group.layers]
    own = [path for path in paths if trial.own and path.startswith(trial.own)]
    grows = ("yes" if own else "left alone") if trial.own else "-"
    passes = ("yes" if trial.before in paths else "left alone") if trial.before else "-"
    whole = trial.own and own and own != [trial.own]
    names = [path.removeprefix(trial.own).lstrip(".") or "itself" for path in own]
    return grows, passes, f"`{'`, `'.join(names)}`" if whole else ""


def _reason(text: str) -> str:
    """What a refusal says of the cause, without the place in a file."""
    if "no state" in text:
        return "a state, such as batch statistics, has the sizes of layers"
    inner = re.search(r"\((?:as to channels of [^,]+, )?(.*)\)\.?$", text)
    plain = inner[1] if inner else text.split("; ")[0]
    return re.sub(r" at /\S+( \([^)]*\))?", "", plain)


def table() -> str:
    """The table, a row for each layer."""
    rows = ["| layer | it grows | the layer before it grows | remark |", "|---|---|---|---|"]
    rows += [f"| {name} | {' | '.join(outcome(trial))} |" for name, trial in TRIALS.items()]
    return "\n".join([*rows, *(f"| {name} | - | - | {what} |" for name, what in NOT_TRIED.items())])


def with_table(page: str, made: str) -> str:
    """The page with the table between its markers."""
    start, end = "<!-- table: layers -->\n\n", "\n\n<!-- end of table -->"
    return page[: page.index(start) + len(start)] + made + page[page.index(end) :]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(), table()))
