"""Configuration: what an experiment is, as frozen data that validates itself and round-trips as JSON."""

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from n3.config import presets, settings, validation

TaskConfig = settings.TaskConfig
NetworkConfig = settings.NetworkConfig
TrainingConfig = settings.TrainingConfig
InformationConfig = settings.InformationConfig
StructureConfig = settings.StructureConfig

Arm = Literal["growing", "grown", "shrinking", "static", "warmup", "rescaled", "equal-size"]
Monitor = Literal["entropy", "importance", "redundancy", "structure", "gap"]
Device = Literal["auto", "cpu", "gpu"]

ARMS: tuple[str, ...] = get_args(Arm)
SIZED: tuple[str, ...] = ("growing", "grown", "shrinking")
"""Arms that choose their size, and whose structure may change."""
METHODS = settings.METHODS
PRICES = settings.PRICES

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Run: which arms and seeds, where the results go, and on what they are computed."""

    arms: tuple[Arm, ...] = ("growing", "static", "warmup")
    """Arms of the experiment, paired by seed."""
    seeds: tuple[int, ...] = tuple(range(20))
    """Seeds: `0:100` (the end is left out) or a list such as `3 5 8`."""
    records: int = 100
    """Rows kept of each run's history, from the first step to the last."""
    monitor: tuple[Monitor, ...] = ()
    """What to record and draw of every layer, in nats: entropy, importance, redundancy, structure, gap (what
    nearest neighbours see about the target and the Gaussian estimate does not)."""
    out: str = "runs"
    """Folder that receives the run directory."""
    log_dir: str | None = None
    """Folder that receives TensorBoard event files, medians over the seeds, a sub-folder an arm; None: none."""
    name: str | None = None
    """Name of the run directory; None: task, method and time."""
    device: Device = "auto"
    """Device to compute on."""

    def __post_init__(self) -> None:
        validation.distinct("arms", self.arms)
        validation.distinct("seeds", self.seeds)
        validation.positive_or_none("records", self.records)
        if "equal-size" in self.arms and "growing" not in self.arms:
            raise ValueError("`arms` with equal-size needs growing too: it takes that arm's final size.")
        for seed in self.seeds:
            if not 0 <= seed < 2**31:
                raise ValueError(f"`seeds` must lie in [0, 2**31); got {seed}.")
        if self.name is not None and (not _NAME.fullmatch(self.name) or set(self.name) == {"."}):
            raise ValueError(f"`name` must match {_NAME.pattern} and not be dots alone; got {self.name!r}.")


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
        for name in ("target_size", "initial_size"):
            value, units = getattr(self.training, name), min(self.network.capacity or (math.inf,))
            if value is not None and value > units:
                raise ValueError(f"`{name}` must lie in [0, {units}], the units of a layer; got {value}.")
        if "rescaled" in self.run.arms and self.network.size_input is False:
            raise ValueError("`arms` with rescaled needs a size input: set `size_input`, or method auxiliary.")
        if "shrinking" in self.run.arms and self.network.method != "information":
            raise ValueError("`arms` with shrinking needs method information: the others have a target size.")
        if self.network.method == "information" and self.network.depth_gates:
            if self.information.budget is not None:
                raise ValueError("`budget` does not go with `depth_gates`: it counts every layer as open.")
            if "equal-size" in self.run.arms:
                raise ValueError(
                    "`arms` with equal-size does not go with `depth_gates`: its layers are all open."
                )
        idle = self.information.changed() if self.network.method != "information" else ()
        if idle:
            named = ", ".join(f"`{name}`" for name in idle)
            raise ValueError(f"{named}: only with `method` information; got {self.network.method}.")
        if self.information.path and "growing" not in self.run.arms:
            raise ValueError("`price` as a path needs growing among `arms`: it is the arm that tries them all.")
        if self.training.gumbel and not self.network.choices:
            raise ValueError(
                "`gumbel` needs a choice of activations, such as `--activation choose:tanh,relu`; "
                f"got {self.network.activation!r}."
            )
        if self.structure.structure_every is not None:
            self._check_structure(self.structure.structure_every)
        samples = self.task.samples
        if self.training.batch != "full" and samples is not None and self.training.batch > samples:
            raise ValueError(
                f"`batch` must lie in [1, {samples}], the training samples; got {self.training.batch}."
            )

    def _check_structure(self, every: int) -> None:
        network, steps = self.network, self.training.steps
        if network.method not in ("auxiliary", "information"):
            raise ValueError(
                "`structure_every` needs `method` auxiliary or information, whose size is a number of units; "
                f"got {network.method}."
            )
        if not set(SIZED) & set(self.run.arms):
            raise ValueError(f"`structure_every` needs one of {', '.join(SIZED)} among `arms`.")
        if network.depth_gates:
            raise ValueError(
                "`structure_every` does not go with `depth_gates`: those layers share their units."
            )
        if network.method == "auxiliary" and len(network.capacity or ()) > 1 and not network.layerwise:
            raise ValueError("`structure_every` with several layers under auxiliary needs `layerwise` sizes.")
        if self.information.path:
            raise ValueError(
                "`structure_every` does not go with `price` as a path: both need the held-out samples."
            )
        if steps is not None and every >= steps:
            raise ValueError(f"`structure_every` must be below `steps`, {steps}; got {every}.")

    def resolved(self) -> "Experiment":
        """The same experiment with every field that the method decides filled in.

        Returns:
            An experiment in which no method-dependent field is `None` or empty; resolving it again
            changes nothing.
        """
        preset = presets.PRESETS[self.network.method]
        task, network, training = (_filled(getattr(self, part), **preset[part]) for part in preset)
        units = float(min(network.capacity))
        training = _filled(training, target_size=units, schedule="constant")
        training = dataclasses.replace(training, target_size=min(training.target_size, units))
        return dataclasses.replace(self, task=task.named(), network=network, training=training)

    def to_json(self) -> str:
        """The experiment as JSON text, indented, with every field."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "configuration") -> "Experiment":
        """The experiment written by `to_json`.

        Args:
            text: JSON text.
            source: What to call the text in an error, a file's name for example.

        Returns:
            The experiment, equal to the one that was written.

        Raises:
            ValueError: If the text is not JSON, or a field is unknown or has a wrong type or value.
        """
        return validation.from_json(cls, text, source=source)

    @classmethod
    def load(cls, path: str | Path) -> "Experiment":
        """The experiment in a file such as a run directory's `config.json`; errors as `from_json`."""
        return cls.from_json(Path(path).read_text(), source=str(path))


def _filled(config: Any, **usual: Any) -> Any:
    missing = {name: value for name, value in usual.items() if getattr(config, name) is None}
    return dataclasses.replace(config, **missing)
