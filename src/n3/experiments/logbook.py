"""Logbook: what an arm trained in stages did at its looks, for `results.nc`, `structure.json` and people."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from n3.config.experiment import SIZED
from n3.config.settings import StructureConfig
from n3.experiments.results import Results
from n3.training import decisions
from n3.training.decisions import ACTIONS, Decision
from n3.training.step import Recipe

LEAST = 8
"""Units of a layer that a program has at least, or all that are allocated."""


@dataclass(frozen=True, kw_only=True)
class Staged:
    """What became of the structure of an arm that was trained in stages."""

    decisions: tuple[Decision, ...]
    """Those of every run at every look, run after run."""
    looks: Int[np.ndarray, " looks"]
    """Steps at which there was a look; the last is the end."""
    capacity: Int[np.ndarray, "looks layers"]
    """Units of each layer in the program that trained up to each look."""
    programs: frozenset[Recipe]
    """The programs that trained."""
    most_programs: int
    """Programs that it could have been."""

    def told(self) -> str:
        """What the arm did at its looks, as one line."""
        counts = decisions.counts(self.decisions)
        looks, runs = len(self.looks), len(self.decisions) // len(self.looks)
        return (
            f"{self.decisions[0].arm}: {looks} looks at {runs} runs, {counts['prune']} pruned, "
            f"{counts['expand']} expanded, {counts['rollback']} undone; {len(self.programs)} programs of "
            f"{self.most_programs} at most"
        )


def looks_of(steps: int, every: int | None) -> Int[np.ndarray, " looks"]:
    """Steps of the looks: every so many, and the end."""
    return np.append(np.arange(every or steps, steps, every or steps), steps)


def most_programs(capacity: Sequence[int]) -> int:
    """Programs that the stages of an arm need at most: a power of two each, from `LEAST` to the capacity."""
    return 1 + max(0, math.ceil(math.log2(max(capacity) / LEAST)))


def added(results: Results, staged: Mapping[str, Staged], capacity: Sequence[int]) -> Results:
    """The results of an experiment with what its stages did; as they are where there were none.

    Args:
        results: Of all arms.
        staged: The arms that were trained in stages.
        capacity: Units allocated in each hidden layer, which the other arms keep.

    Returns:
        The results with `structure_action` over arm, seed and `look` (as numbered there), `structure_capacity`
        over arm, look and layer, and the counts over all arms, which may share programs, as attributes.
    """
    if not staged:
        return results
    arms, looks = results["arm"].values.tolist(), next(iter(staged.values())).looks
    actions = np.zeros((len(arms), results.sizes["seed"], len(looks)), np.int8)
    units = np.tile(np.array(capacity), (len(arms), len(looks), 1))
    for arm, own in staged.items():
        codes = [ACTIONS.index(decision.action) for decision in own.decisions]
        actions[arms.index(arm)] = np.reshape(codes, actions.shape[1:])
        units[arms.index(arm)] = own.capacity
    told = {"codes": ", ".join(f"{code} {action}" for code, action in enumerate(ACTIONS))}
    counts = decisions.counts([decision for own in staged.values() for decision in own.decisions])
    programs = frozenset().union(*(own.programs for own in staged.values()))
    named = {
        "structure_action": (("arm", "seed", "look"), actions, told),
        "structure_capacity": (("arm", "look", "layer"), units),
    }
    attributes = {f"structure_{name}": count for name, count in (*counts.items(), ("programs", len(programs)))}
    return results.assign(named).assign_coords(look=looks).assign_attrs(attributes)


def log(staged: Mapping[str, Staged]) -> dict[str, Any]:
    """What `structure.json` holds: programs and their bound by arm, and every decision with its reason."""
    programs = {arm: {"used": len(own.programs), "most": own.most_programs} for arm, own in staged.items()}
    every = [asdict(decision) for own in staged.values() for decision in own.decisions]
    return {"programs": programs, "decisions": every}


def planned(config: StructureConfig, steps: int, capacity: Sequence[int], arms: Sequence[str]) -> str:
    """What would be done to the structure of those arms that choose their size, for people."""
    looks = len(looks_of(steps, config.structure_every))
    expansions = f", expand by {config.expand} ({config.expand_method})" if config.expand else ""
    return (
        f"structure   {looks} looks at {', '.join(arm for arm in arms if arm in SIZED)}: prune {config.prune}"
        f"{expansions}; at most {most_programs(capacity)} programs an arm"
    )
