"""Experiments: a study from its configuration to a run directory."""
