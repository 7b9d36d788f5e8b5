"""Release: which distribution of the package is installed."""

import importlib.metadata

DISTRIBUTION = "n3-growing"
"""Name by which the package is installed; it is imported as `n3`."""


def release() -> str:
    """The version of the installed distribution, or `0+unknown` where the source alone is on the path."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "0+unknown"


def install_advice(extra: str, *packages: str) -> str:
    """How to install an extra, in words that complete "install it with"."""
    alone = f", or `pip install {' '.join(packages)}`" if packages else ""
    return f"`pip install '{DISTRIBUTION}[{extra}]'` (in the repository `uv sync --extra {extra}`{alone})"
