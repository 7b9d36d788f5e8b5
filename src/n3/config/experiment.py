"""Experiment: what is trained, on what and how, as frozen data that validates itself, to and from JSON."""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from n3.config import criteria, validation
from n3.config.task import TaskConfig

Method = Literal["auxiliary", "controller", "released", "information"]
Price = float | str  # a name of PRICES or a path too, as its own check says
Select = Literal["smallest", "best"]
ExpandMethod = Literal["zero", "split", "mutate"]
METHODS: tuple[str, ...] = get_args(Method)
ACTIVATION_NAMES = ("tanh", "relu", "gelu", "silu", "softplus", "sigmoid", "sin", "identity")
PRICES = ("description-length", "chi-square")
"""Prices that follow from the samples."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Network: what is allocated, and how its size is decided."""

    method: Method = "controller"
    """What makes the size: `auxiliary` (the size is a weight), `controller` (a bounded controller; the task's
    gradient reaches it), `released` (one scalar gain on the whole layer, blind to the task) or `information`
    (no target: units are born and dropped by the information they add)."""
    capacity: tuple[int, ...] | None = None
    """Units allocated in each hidden layer; None: one layer of the method's usual number."""
    mask: Literal["sine", "linear", "hard"] = "sine"
    """Ramp from size to participation."""
    activation: str = "tanh"
    """Activation of the hidden units: tanh, relu, gelu, silu, softplus, sigmoid, sin or identity; or a choice
    among several for each layer, such as `choose:tanh,relu,sin`, soft at first and hard in the end."""
    layerwise: bool = False
    """One size weight for each hidden layer in place of one for all."""
    depth_gates: bool = False
    """Make depth a trainable size too, by gates on the hidden layers after the first (equal capacities); under
    method `information` all are open at first, and those that are not worth their price close."""
    size_input: bool | None = None
    """Feed the size back to the hidden layers as an extra input; None: as the method is published."""
    initialisation: Literal["fan-in", "unit-uniform"] | None = None
    """First weights, uniform: `fan-in` (1/sqrt(inputs)) or `unit-uniform` (on [-1, 1]); None: the method's."""

    def __post_init__(self) -> None:
        validation.check_kinds(self)
        layers = self.capacity or ()
        if self.capacity == ():
            raise ValueError("`capacity` must name one hidden layer or more.")
        validation.check_whole("capacity", layers)
        for units in layers:
            if units < 1:
                raise ValueError(f"`capacity` must hold positive whole numbers; got {units}.")
        if self.depth_gates and (len(layers) < 2 or len(set(layers)) > 1):
            needed = "two or more hidden layers of equal `capacity`"
            raise ValueError(f"`depth_gates` needs {needed}; got {self.capacity}.")
        validation.choice("activation", self.activation, names=ACTIVATION_NAMES)

    @property
    def choices(self) -> tuple[str, ...]:
        """Activations that each layer chooses among; empty where all layers have a given one."""
        return validation.choice("activation", self.activation, names=ACTIVATION_NAMES)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Training: how long, how fast, and what growth costs."""

    steps: Annotated[int | None, "positive"] = None
    """Optimiser steps; None: the method's usual number."""
    optimiser: Literal["adam", "sgd"] | None = None
    """Optimiser; None: the method's."""
    learning_rate: Annotated[float | None, "positive"] = None
    """Learning rate, per step; None: the method's."""
    members: Annotated[int | None, "at_least_zero"] = None
    """Networks of every run that share its sizes, each with an equal part of the samples held out (1: one
    network, a fifth held out; 0: one, with none); None: 5 under criterion held-out, else 0."""
    readout: Literal["trained", "solved"] | None = None
    """Whether the read-out stays as training left it, or is solved in the end, of the strength that held-out
    samples choose; None: solved where there are members."""
    refit: bool = False
    """Train one network of the sizes found on all samples, in place of the members, for as many steps; the
    held-out loss stays that of the members."""
    schedule: Literal["constant", "cosine"] | None = None
    """Learning rate over the run: `constant`, or `cosine` down to zero; None: the method's."""
    batch: Annotated[int | Literal["full"] | None, "positive"] = None
    """Samples in a step: full (all of them), or this many from a fresh shuffle in every epoch; None: full, and
    1,024 where there are more than 32,768 training samples."""
    size_cost: Annotated[float | None, "at_least_zero"] = None
    """Weight of the size penalty (lambda), loss units per squared unit; None: the method's."""
    weight_prior: Annotated[float | None, "at_least_zero"] = None
    """Weight of the description of the network's weights, in all arms (1: the nats of a Gaussian prior with
    a scale of its own for each layer, over the samples; 0: none); None: the method's."""
    target_size: Annotated[float | None, "positive"] = None
    """Size at which the penalty vanishes, in units; None: the method's (5, or the whole capacity)."""
    initial_size: Annotated[float | None, "at_least_zero"] = None
    """Size at the first step of the growing arm, in units; None: 0 (auxiliary) or a controller near 0."""
    choice_first: Annotated[float, "positive"] = 1.0
    """Temperature of choices of activations at the start: shares are softmax(logits / temperature)."""
    choice_last: Annotated[float, "positive"] = 0.05
    """Temperature that it falls to, by a constant factor a step, before choices become hard."""
    choice_end: Annotated[float, "positive", "unit_interval"] = 0.6
    """Share of the run after which choices are hard."""

    def __post_init__(self) -> None:
        validation.check_ranges(self)


OF_PRICE = "price", "select", "price_scale", "price_start", "reorder", "correct", "redundancy_aware"
"""Settings of criterion price alone."""
OF_HELD_OUT = "errors", "resolution"
"""Settings of criterion held-out alone."""
LOOKS = 50
"""Looks at held-out samples in a run, of which those count that come before sizes rest."""
UNITS_PER_LOOK = 5.0
"""Units that a size moves between two of them, at most."""


@dataclass(frozen=True, kw_only=True)
class InformationConfig:
    """Information: what moves the size of method `information`, and its terms; the others take `psi` alone."""

    criterion: Literal["price", "held-out"] = "price"
    """What judges a unit: its `price` in nats, or (`held-out`) the loss on samples that `members` hold out."""
    errors: Annotated[float, "at_least_zero"] = 0.5
    """Standard errors of the difference on held-out samples within which fewer units count as equally good."""
    resolution: Annotated[float, "unit_interval"] = 1e-8
    """Share of the target's variance below which a further unit is worth nothing, by criterion held-out."""
    price: Annotated[Price, "at_least_zero"] = "description-length"
    """Nats per sample that a further unit must bring: a number, `description-length` (k ln n / 4n for its k
    parameters), `chi-square` (its 95 % quantile over 2n), or a geometric path LOW:HIGH:COUNT, all tried."""
    select: Select = "smallest"
    """Price of a path that is kept, by the loss over a fifth of the training samples, held out: the highest
    within one standard error of the best one's loss (`smallest`), or the best one (`best`)."""
    price_scale: Annotated[float, "at_least_zero"] = 1.0
    """Factor on the price."""
    price_start: Annotated[float, "positive"] = 1.0
    """A further factor on the price at the first step, which goes to 1, evenly in its logarithm, by the share
    `settle` of the run: below 1 the price rises, above it falls."""
    budget: Annotated[int | None, "positive"] = None
    """Active parameters to be met, by adapting the price; None: the price decides."""
    look_ahead: Annotated[int, "positive"] = 8
    """Units beyond the size whose promise counts."""
    every: Annotated[int | None, "positive"] = None
    """Steps between two looks at the information; None: 25, or by held-out samples a fiftieth of the run."""
    size_rate: Annotated[float | None, "positive"] = None
    """Units by which a step moves the size; None: 0.05, or by held-out samples 250 over all steps."""
    settle: Annotated[float, "unit_interval"] = 0.6
    """Share of the run after which sizes rest."""
    birth: Annotated[float, "at_least_zero"] = 0.01
    """Weight of the information that units about to be born are trained to add; 0: none."""
    birth_end: Annotated[float, "unit_interval"] = 0.33
    """Share of the run after which that weight has fallen to zero."""
    reorder: bool = True
    """Keep the least useful unit at the frontier."""
    correct: bool = True
    """Take the bias off the information."""
    redundancy_aware: bool = True
    """Count a unit for what it adds to the others, or for what it says alone."""
    importance: Annotated[float, "at_least_zero"] = 0.0
    """Weight of the information of the masked units in the objective, loss units per nat."""
    psi: Annotated[float | Literal["classification", "generation", "regression", "detection"], "positive"] = 1.0
    """Price of what stays uncertain, in the importance `H - psi (H - I)` of monitor and objective: a number, or
    `classification` (1.2), `generation` (0.8), `regression` (1.0) or `detection` (1.1)."""
    redundancy: Annotated[float, "at_least_zero"] = 0.0
    """Weight of the masked units' total correlation in the objective, loss units per nat."""
    structure: Annotated[float, "at_least_zero"] = 0.0
    """Weight of the divergence of the masks between two looks, loss units per nat: a trust region."""
    features: bool = False
    """Let importance and redundancy train the features as well as the masks."""

    def __post_init__(self) -> None:
        validation.check_ranges(self)
        if self.path and (self.budget is not None or not self.price_scale):
            raise ValueError("`price` as a path needs `budget` left out and `price_scale` above zero.")
        others = OF_HELD_OUT if self.criterion == "price" else OF_PRICE
        for name in sorted(set(self.changed()) & set(others)):
            raise ValueError(
                f"`{name}` does not go with `criterion` {self.criterion}: leave it out, or change that."
            )
        if self.birth and self.birth_end > self.settle:
            raise ValueError(f"`birth_end` must not exceed `settle`, {self.settle}; got {self.birth_end}.")

    def cadence(self, steps: int) -> int:
        """Steps between two looks in a run of so many."""
        return self.every or (max(1, steps // LOOKS) if self.criterion == "held-out" else 25)

    def pace(self, steps: int) -> float:
        """Units by which a step moves the size, at most, in a run of so many."""
        return self.size_rate or (UNITS_PER_LOOK * LOOKS / steps if self.criterion == "held-out" else 0.05)

    def changed(self) -> tuple[str, ...]:
        """The settings of method `information` alone, not monitor's `psi`, that are not as they come."""
        own = (each for each in fields(self) if each.name != "psi")
        return tuple(each.name for each in own if getattr(self, each.name) != each.default)

    @property
    def path(self) -> tuple[float, ...]:
        """The prices of a path, rising, nats per sample, `price_scale` included; empty without a path."""
        if not isinstance(self.price, str) or self.price in PRICES:
            return ()
        return tuple(self.price_scale * p for p in validation.geometric_path("price", self.price, names=PRICES))


@dataclass(frozen=True, kw_only=True)
class StructureConfig:
    """Structure: units really removed and added during training, by arms growing, grown and shrinking.

    For methods auxiliary and information. A fifth of the training samples, held out of all arms, judges every
    change; `capacity` stays the most that a layer can hold.
    """

    structure_every: Annotated[int | None, "positive"] = None
    """Steps between two looks, at each of which every run may prune, expand or go back; None: no look."""
    prune: str = "importance < 0.002"
    """Units that go, as comparisons of importance, marginal, entropy, redundancy (nats) and participation."""
    expand: Annotated[int, "at_least_zero"] = 4
    """Units that an expansion adds to each hidden layer, as far as its capacity allows; 0: runs only prune."""
    expand_method: ExpandMethod = "zero"
    """What is added: `zero` (new units that nothing reads yet), `split` (copies of those that say most, with
    half of the outgoing weights each) or `mutate` (such copies with noise). They take part at once."""
    cooldown: Annotated[int, "at_least_zero"] = 1
    """Looks that pass after a change, or after it was undone, before the next."""
    plateau: Annotated[float, "at_least_zero"] = 0.01
    """Relative fall of the validation loss between looks above which a run still improves, and only trains."""
    margin: Annotated[float, "at_least_zero"] = 0.05
    """Relative rise of the validation loss, over that before a change, beyond which the change is undone."""

    def __post_init__(self) -> None:
        validation.check_ranges(self)
        try:
            criteria.parse(self.prune)
        except ValueError as error:
            raise ValueError(f"`prune` must be a criterion of units: {error}") from error


Arm = Literal["growing", "grown", "shrinking", "static", "warmup", "rescaled", "equal-size"]
ARMS: tuple[str, ...] = get_args(Arm)
SIZED: tuple[str, ...] = ("growing", "grown", "shrinking")
"""Arms that choose their size, and whose structure may change."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Run: which arms and seeds, where the results go, and on what they are computed."""

    arms: tuple[Arm, ...] = ("growing", "static", "warmup")
    """Arms of the experiment, paired by seed."""
    seeds: tuple[int, ...] = tuple(range(20))
    """Seeds: `0:100` (the end is left out) or a list such as `3 5 8`."""
    records: Annotated[int, "positive"] = 100
    """Rows kept of each run's history, from the first step to the last."""
    monitor: tuple[str, ...] = ()
    """What to record and draw of every layer, in nats: entropy, importance, redundancy, structure, gap. The gap
    is what nearest neighbours see about the target and the Gaussian estimate does not."""
    out: str = "runs"
    """Folder that receives the run directory."""
    log_dir: str | None = None
    """Folder that receives TensorBoard event files, medians over the seeds, a sub-folder an arm; None: none."""
    name: str | None = None
    """Name of the run directory; None: task, method and time."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device to compute on."""
    block: Annotated[int | None, "positive"] = None
    """Runs of an arm that are trained at a time; None: as many as fit into memory."""
    figure_format: tuple[Literal["png", "pdf", "svg"], ...] = ("png",)
    """Formats of the figures, for a paper `pdf` or `svg`; PNG, which the report shows, is always among them."""

    def __post_init__(self) -> None:
        validation.check_kinds(self)
        validation.distinct("arms", self.arms)
        validation.distinct("seeds", self.seeds)
        validation.distinct("figure_format", self.figure_format)
        validation.check_whole("seeds", self.seeds)
        validation.check_ranges(self)
        if "equal-size" in self.arms and "growing" not in self.arms:
            raise ValueError("`arms` with equal-size needs growing too: it takes that arm's final size.")
        for seed in self.seeds:
            if seed < 0:
                raise ValueError(f"`seeds` must be zero or more; got {seed}.")
        if self.name is not None and (not _NAME.fullmatch(self.name) or set(self.name) == {"."}):
            raise ValueError(f"`name` must match {_NAME.pattern} and not be dots alone; got {self.name!r}.")


def member_faults(members: int, *, is_judged: bool, readout: str | None, refit: bool) -> Iterator[str]:
    """What of a run needs members and has none, in an experiment as in `n3.fit`."""
    if is_judged and not members:
        yield "`members` must be 1 or more under criterion held-out; got 0."
    if readout == "solved" and not members:
        yield "`readout` solved needs `members`, whose held-out samples choose its strength."
    if refit and not members:
        yield "`refit` needs `members`, which find the sizes."


_CONTROLLER = {
    "task": {},
    "network": {"capacity": (10,), "size_input": False, "initialisation": "fan-in"},
    "training": dict(steps=5_000, optimiser="adam", learning_rate=1e-3, size_cost=0.32, weight_prior=0.0),
}
_AUXILIARY = {
    "task": {"samples": 32, "test_samples": 8},
    "network": {"capacity": (9,), "size_input": True, "initialisation": "unit-uniform"},
    "training": _CONTROLLER["training"] | dict(steps=40_000, optimiser="sgd", size_cost=0.1, target_size=5.0),
}
_SLOWER = {"learning_rate": 1e-2, "schedule": "cosine", "initial_size": 0.5, "weight_prior": 1.0}
_INFORMATION = {
    "task": {},
    "network": _CONTROLLER["network"] | {"capacity": (64,)},
    "training": _CONTROLLER["training"] | _SLOWER,
}
PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    dict(auxiliary=_AUXILIARY, controller=_CONTROLLER, released=_CONTROLLER, information=_INFORMATION)
)
"""Task, network and training settings by method."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment: arms of one task, trained side by side over many seeds."""

    task: TaskConfig = field(default_factory=TaskConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    information: InformationConfig = field(default_factory=InformationConfig)
    structure: StructureConfig = field(default_factory=StructureConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        for fault in self._faults():
            raise ValueError(fault)

    def _faults(self) -> Iterator[str]:
        """What of the parts does not fit together."""
        network, training, information, arms = self.network, self.training, self.information, self.run.arms
        is_informed, units = network.method == "information", min(network.capacity or (math.inf,))
        for name in ("target_size", "initial_size"):
            value = getattr(training, name)
            if value is not None and value > units:
                yield f"`{name}` must lie in [0, {units}], the units of a layer; got {value}."
        if "rescaled" in arms and network.size_input is False:
            yield "`arms` with rescaled needs a size input: set `size_input`, or method auxiliary."
        if "shrinking" in arms and not is_informed:
            yield "`arms` with shrinking needs method information: the others have a target size."
        if is_informed and network.layerwise:
            yield "`layerwise` does not go with `method` information, whose layers have each a size."
        if is_informed and network.depth_gates and information.budget is not None:
            yield "`budget` does not go with `depth_gates`: it counts every layer as open."
        if is_informed and network.depth_gates and "equal-size" in arms:
            yield "`arms` with equal-size does not go with `depth_gates`: its layers are all open."
        if not is_informed and (idle := information.changed()):
            named = ", ".join(f"`{name}`" for name in idle)
            yield f"{named}: only with `method` information; got {network.method}."
        if information.path and "growing" not in arms:
            yield "`price` as a path needs growing among `arms`: it is the arm that tries them all."
        is_judged = is_informed and information.criterion == "held-out"
        members = is_judged if training.members is None else training.members
        given = {"readout": training.readout, "refit": training.refit}
        yield from member_faults(members, is_judged=is_judged, **given)
        if training.refit and network.depth_gates:
            yield "`refit` does not go with `depth_gates`: its layers are all open."
        if members and is_informed and not is_judged:
            yield "`members` need `criterion` held-out, by which they share their sizes; got price."
        if is_judged and network.depth_gates:
            yield "`depth_gates` go with `criterion` price: layers are judged by the information of the last."
        if members and (information.path or self.structure.structure_every is not None):
            rest = "`price` as a path or `structure_every`, which hold a part out of all"
            yield f"`members` do not go with {rest}."
        if self.structure.structure_every is not None:
            yield from self._structure_faults(self.structure.structure_every)
        samples, batch = self.task.samples, training.batch
        if isinstance(batch, int) and samples is not None and batch > samples:
            yield f"`batch` must lie in [1, {samples}], the training samples; got {batch}."

    def _structure_faults(self, every: int) -> Iterator[str]:
        network, steps, told = self.network, self.training.steps, "`structure_every`"
        if network.method not in ("auxiliary", "information"):
            needed = "`method` auxiliary or information, whose size is a number of units"
            yield f"{told} needs {needed}; got {network.method}."
        if not set(SIZED) & set(self.run.arms):
            yield f"{told} needs one of {', '.join(SIZED)} among `arms`."
        if network.depth_gates:
            yield f"{told} does not go with `depth_gates`: those layers share their units."
        if network.method == "auxiliary" and len(network.capacity or ()) > 1 and not network.layerwise:
            yield f"{told} with several layers under auxiliary needs `layerwise` sizes."
        if self.run.block is not None:
            yield f"{told} does not go with `block`: all runs share its stages."
        if self.information.path:
            yield f"{told} does not go with `price` as a path: both need the held-out samples."
        if steps is not None and every >= steps:
            yield f"{told} must be below `steps`, {steps}; got {every}."

    def resolved(self) -> "Experiment":
        """The same experiment with every field that the method decides filled in; again changes nothing."""
        preset = PRESETS[self.network.method]
        task, network = (_filled(getattr(self, part), **preset[part]) for part in ("task", "network"))
        units, usual = float(min(network.capacity)), {"schedule": "constant", **preset["training"]}
        usual["target_size"] = min(usual.get("target_size", units), units)
        is_judged = self.network.method == "information" and self.information.criterion == "held-out"
        if is_judged:
            first = min(float(self.information.look_ahead), units)
            usual |= {"members": 5, "weight_prior": 0.0, "initial_size": first}
        training = _filled(self.training, **{"members": 0, **usual})
        training = _filled(training, readout="solved" if training.members else "trained")
        return replace(self, task=task.named(), network=network, training=training)

    @property
    def is_open_ended(self) -> bool:
        """Whether no step of a resolved experiment depends on how many follow, so that more may follow."""
        network, training = self.network, self.training
        follows = network.choices or training.members or self.structure.structure_every is not None
        is_still = training.schedule == "constant" and network.method != "information"
        return is_still and not follows and "equal-size" not in self.run.arms

    def to_json(self) -> str:
        """The experiment as JSON text, indented, with every field."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "configuration") -> "Experiment":
        """An experiment equal to the one that `to_json` wrote; errors as `validation.from_json`."""
        return validation.from_json(cls, text, source=source)

    @classmethod
    def load(cls, path: str | Path) -> "Experiment":
        """The experiment in a file such as a run directory's `config.json`.

        Errors are as those of `from_json` and `validation.read_text`.
        """
        return cls.from_json(validation.read_text(Path(path)), source=str(path))


def _filled(config: Any, **usual: Any) -> Any:
    return replace(config, **{name: value for name, value in usual.items() if getattr(config, name) is None})
