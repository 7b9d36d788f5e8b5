"""Four simulated devices, one cache of compiled programs, and JAX set to refuse what is usually a mistake."""

import os
from pathlib import Path

import jax

CACHE = Path(__file__).parents[1] / ".pytest_cache" / "programs"
"""Compiled programs, shared by all workers and runs of this checkout, and by the commands that tests start."""
QUICK_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
"""The fast tier compiles more than it computes: without these it takes three times as long."""


def pytest_configure(config):
    """Set up JAX before anything is compiled; the slow tiers run the programs that users run."""
    if "not slow" in config.option.markexpr:
        os.environ.setdefault("XLA_FLAGS", QUICK_TO_COMPILE)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
    jax.config.update("jax_num_cpu_devices", int(os.environ.get("JAX_NUM_CPU_DEVICES", "4")))
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
