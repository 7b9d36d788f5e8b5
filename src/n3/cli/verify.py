"""Verify: `n3 verify`, every checksum of a run again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from n3.cli.arguments import parse_flags
from n3.cli.endings import CORRUPT, OK, ended, show


@dataclass(frozen=True, kw_only=True)
class VerifyArguments:
    """All flags of `n3 verify`."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories of `n3 train`, `n3 sweep` and `n3 reproduce`, and checkpoints of `n3.fit`."""


def verify_command(words: Sequence[str], *, program: str) -> int:
    """Name what is damaged; 0: nothing, 76: something, 2: nothing that can be verified."""
    description = (
        "Compare every file of run directories with the checksums in their manifests; name what is damaged."
    )
    arguments = parse_flags(VerifyArguments, words, program=program, description=description)

    def work() -> int:
        import n3
        from n3.experiments.directory import REMEDY
        from n3.training.checkpoint import MANIFEST

        if not arguments.folders:
            raise ValueError("`folders` must name one run directory or more.")
        found = [fault for folder in arguments.folders for fault in n3.verify(folder)]
        names = "config.json", "study.json"
        begun = [own for own in arguments.folders if any((own / name).exists() for name in names)]
        left = [own for own in begun if not (own / MANIFEST).exists()]
        rest = [f"{own} is not finished: the command that made it continues" for own in left]
        show("\n".join([*found, REMEDY] if found else ["all files are as they were written", *rest]))
        return CORRUPT if found else OK

    return ended(work)
