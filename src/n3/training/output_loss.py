"""Output loss: how any model is called and scored, and what targets say of that."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from n3.config.task import Kind
from n3.nn import metrics
from n3.nn.losses import LOSSES
from n3.nn.sized import Inputs, each_input
from n3.tracing.trace import check_stateless, takes_key

LossOfOne = Callable[[Any, Any], Float[Array, ""]]
"""From one sample's output and target to its loss."""


@dataclass(frozen=True, kw_only=True)
class OutputLoss:
    """How a model is called and scored; hashable, static under `jit`."""

    loss: str | LossOfOne
    """Name in `n3.nn.losses.LOSSES`, or a function of one sample's output and target."""
    outputs: int
    """Rows of the targets: outputs of a sample, or classes."""
    is_classes: bool
    has_key: bool
    """Whether the model is called with `key=`."""

    def columns(self, targets: Array) -> Float[Array, "outputs samples"]:
        """Targets as the losses take them, a sample a column: numbers, one-hot classes, or a row of 0 and 1."""
        if not self.is_classes or self.outputs == 1 or targets.ndim > 1:
            return targets.reshape(len(targets), -1).T.astype(jnp.float32)
        return jax.nn.one_hot(targets.astype(jnp.int32), self.outputs, axis=0)

    def outputs_of(self, model: PyTree, inputs: Inputs, key: PRNGKeyArray) -> PyTree:
        """Outputs of every sample, samples first; each with a key of its own where the model takes one."""
        if not self.has_key:
            return jax.vmap(lambda one: model(*each_input(one)))(inputs)
        keys = jax.random.split(key, len(inputs))
        return jax.vmap(lambda one, own: model(*each_input(one), key=own))(inputs, keys)

    def losses_of(self, outputs: PyTree, targets: Array) -> Float[Array, " samples"]:
        """Loss of every sample."""
        if callable(self.loss):
            return jax.vmap(self.loss)(outputs, targets)
        rows = outputs.reshape(len(outputs), -1).T
        return LOSSES[self.loss](rows, self.columns(targets).astype(rows.dtype))

    @property
    def has_logits(self) -> bool:
        """Whether outputs are logits of classes."""
        return self.loss == "cross-entropy"

    def predicted(self, model: PyTree, inputs: Inputs) -> PyTree:
        """Outputs of every sample, without dropout."""
        return self.outputs_of(eqx.nn.inference_mode(model), inputs, jax.random.key(0))

    def totals(self, outputs: PyTree, targets: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Sums over samples of the loss and of predicted classes; NaN where outputs are no logits."""
        total = jnp.sum(self.losses_of(outputs, targets))
        if not self.has_logits:
            return total, jnp.full((), jnp.nan)
        rows = outputs.reshape(len(outputs), -1).T
        return total, jnp.sum(metrics.hits(rows, self.columns(targets).astype(rows.dtype)))

    @eqx.filter_jit
    def scores(self, model: PyTree, inputs: Inputs, targets: Array) -> tuple[Array, Array]:
        """Sums of a model, without dropout: see `totals`."""
        return self.totals(self.predicted(model, inputs), targets)


KIND_LOSSES = {"classification": "cross-entropy", "regression": "squared-error"}
"""Loss of each kind of targets."""


def output_loss_of(
    model: PyTree, inputs: Inputs, targets: Array, loss: str | LossOfOne | None, kind: Kind | None = None
) -> OutputLoss:
    """The goal that the loss and the kind of some samples' targets say.

    The model is the one that the user wrote, which is asked whether it takes a key. The loss is a name in
    `n3.nn.LOSSES`, a function of one sample's output and target, or None: that of the kind. Without a kind
    whole numbers are classes where the loss is None, and numbers where it is a function.

    Raises:
        ValueError: If the loss is unknown or of another kind, the targets do not fit it and the outputs, or the
            model has a state.
    """
    is_whole = not jnp.issubdtype(targets.dtype, jnp.inexact)
    loss = KIND_LOSSES[kind or ("classification" if is_whole else "regression")] if loss is None else loss
    if isinstance(loss, str) and kind and loss != KIND_LOSSES[kind]:
        raise ValueError(f"`kind` {kind} needs `loss` {KIND_LOSSES[kind]}, a function or None; got {loss!r}.")
    if isinstance(loss, str) and loss not in LOSSES:
        raise ValueError(f"`loss` must be a function or one of {', '.join(LOSSES)}; got {loss!r}.")
    check_stateless(model)
    has_key = takes_key(model)
    keys = {"key": jax.random.key(0)} if has_key else {}
    output = _shape_of("model", eqx.nn.inference_mode(model), *each_input(inputs[0]), **keys)
    if callable(loss):
        own = _shape_of("loss", loss, output, targets[0])
        if (
            not isinstance(own, jax.ShapeDtypeStruct)
            or own.shape
            or not jnp.issubdtype(own.dtype, jnp.floating)
        ):
            got = getattr(own, "shape", type(own).__name__)
            raise ValueError(f"`loss` must return one real number for a sample, of shape (); got {got}.")
        is_classes = kind == "classification"
        if is_classes and not (is_whole and bool(jnp.min(targets) >= 0)):
            raise ValueError("`kind` classification needs targets that are whole numbers, zero or more.")
        rows = int(jnp.max(targets)) + 1 if is_classes else targets[0].size
        return OutputLoss(loss=loss, outputs=rows, is_classes=is_classes, has_key=has_key)
    if not isinstance(output, jax.ShapeDtypeStruct):
        raise ValueError(f"`loss` must be a function where the model returns {type(output).__name__}s.")
    goal = OutputLoss(loss=loss, outputs=output.size, is_classes=loss == "cross-entropy", has_key=has_key)
    check_targets(goal, targets, name="train_data")
    return goal


def _shape_of(name: str, function: Callable[..., Any], *one: Any, **keys: PRNGKeyArray) -> Any:
    """What a function of one sample returns, by shape; a ValueError that names it if it cannot take that."""
    try:
        return eqx.filter_eval_shape(function, *one, **keys)
    except (TypeError, ValueError, IndexError) as error:
        shapes = " and ".join(str(getattr(own, "shape", type(own).__name__)) for own in one)
        stacked = " Many models stacked need an array of keys, one each." if name == "model" else ""
        raise ValueError(f"`{name}` must take one sample, here of shape {shapes}: {error}.{stacked}") from error


def check_targets(goal: OutputLoss, targets: Array | np.ndarray, *, name: str) -> None:
    """See that targets fit the goal.

    Raises:
        ValueError: If there are labels out of range, or more or fewer numbers than outputs, naming `name`.
    """
    if callable(goal.loss):
        return
    if goal.is_classes and targets.ndim == 1:
        classes, least, most = max(goal.outputs, 2), int(targets.min()), int(targets.max())
        if least < 0 or most >= classes:
            raise ValueError(f"`{name}` must have labels in [0, {classes - 1}]; got {least} to {most}.")
    elif targets[0].size != goal.outputs:
        got = targets[0].size
        raise ValueError(f"`{name}` must have {goal.outputs} targets a sample, one for each output; got {got}.")
