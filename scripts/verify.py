"""Verify run directories: every checksum again, and what is damaged."""

import sys
from pathlib import Path

import tyro

from command_line import CORRUPT, OK, ended, show


def verify(folders: tyro.conf.Positional[tuple[Path, ...]]) -> int:
    """Compare every file of run directories with the checksums in their manifests; name what is damaged.

    Args:
        folders: Run directories.
    """
    import n3

    found = [fault for folder in folders for fault in n3.verify(folder)]
    show("\n".join(found) or "all files are as they were written")
    return CORRUPT if found else OK


if __name__ == "__main__":
    sys.exit(ended(lambda: tyro.cli(verify)))
