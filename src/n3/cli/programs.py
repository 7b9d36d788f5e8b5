"""Programs: where the command keeps what it has compiled, for the next run of the same shapes."""

import hashlib
import os
import warnings
from pathlib import Path

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
"""JAX's own setting: a folder of the user's choice, or nothing for no cache."""
MOST_CACHE_BYTES = 256 * 2**20
"""Programs that the folder holds at most; those that were not used for longest go first."""
LEAST_SECONDS = 0.01
"""Seconds of compiling from which a program is kept."""
_NO_GATHER = " gds"
"""A fault of processors for which XLA compiles programs that it then refuses to load (jax issue 38445)."""


def keep_programs() -> None:
    """Have JAX, not imported yet, keep compiled programs in the user's cache folder.

    Nothing is kept where `JAX_COMPILATION_CACHE_DIR` is set, where the folder or one of the two above it is
    somebody else's or open to others (a program in it would be executed), or where the processor cannot load
    what was kept. Each kind of processor has a folder of its own: a home directory may be shared by several.
    """
    processor = _processor()
    if VARIABLE in os.environ or _NO_GATHER in processor:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "n3"
    folder /= f"programs-{hashlib.sha256(processor.encode()).hexdigest()[:12]}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written: programs are compiled each time
        return
    above = [each.stat() for each in (folder, *folder.parents[:2])]
    if os.name == "posix" and any(own.st_uid != os.getuid() or own.st_mode & 0o022 for own in above):
        return
    warnings.filterwarnings(
        "ignore", message="Error (reading|writing) persistent compilation cache"
    )  # compiled then
    os.environ[VARIABLE] = str(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(MOST_CACHE_BYTES))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(LEAST_SECONDS))


def _processor() -> str:
    """What the system knows of its processor: model, features and faults."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        import platform

        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "bugs")))
