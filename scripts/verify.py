"""Verify run directories: every checksum again, and what is damaged."""

from pathlib import Path

import tyro

from command_line import CORRUPT, OK, ended, run_process, show


def verify(folders: tyro.conf.Positional[tuple[Path, ...]]) -> int:
    """Compare every file of run directories with the checksums in their manifests; name what is damaged.

    Args:
        folders: Run directories of experiments, sweeps and `reproduce.py`, and checkpoints of `n3.fit`.
    """
    import n3

    found = [fault for folder in folders for fault in n3.verify(folder)]
    show("\n".join(found) or "all files are as they were written")
    return CORRUPT if found else OK


def main() -> int:
    """Parse, verify, name what is damaged; 0: nothing, 76: something, 2: nothing that can be verified."""
    return ended(lambda: tyro.cli(verify))


if __name__ == "__main__":
    run_process(main)
