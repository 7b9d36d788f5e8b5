"""Presets: the usual settings of each method, which fill the fields that an experiment leaves at `None`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_CONTROLLER = {
    "task": {},
    "network": {"capacity": (10,), "size_input": False, "initialisation": "fan-in"},
    "training": {
        "steps": 5_000,
        "optimiser": "adam",
        "learning_rate": 1e-3,
        "size_cost": 0.32,
        "weight_prior": 0.0,
    },
}
_AUXILIARY = {
    "task": {"samples": 32, "test_samples": 8},
    "network": {"capacity": (9,), "size_input": True, "initialisation": "unit-uniform"},
    "training": {
        "steps": 40_000,
        "optimiser": "sgd",
        "learning_rate": 1e-3,
        "size_cost": 0.1,
        "weight_prior": 0.0,
        "target_size": 5.0,
    },
}
_INFORMATION = {
    "task": {},
    "network": {**_CONTROLLER["network"], "capacity": (64,)},
    "training": {
        **_CONTROLLER["training"],
        **{"learning_rate": 1e-2, "schedule": "cosine", "initial_size": 0.5, "weight_prior": 1.0},
    },
}
PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    dict(auxiliary=_AUXILIARY, controller=_CONTROLLER, released=_CONTROLLER, information=_INFORMATION)
)
"""Task, network and training settings by method."""
