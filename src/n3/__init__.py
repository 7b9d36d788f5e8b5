"""n3: neural networks that choose their own size."""

from typing import Any

import lazy_loader

_attached, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """A public name, imported where it is first read; `__version__` is that of the installed distribution."""
    if name == "__version__":
        from n3.config.release import release

        return release()
    return _attached(name)
