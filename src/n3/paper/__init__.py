"""Paper: the published experiments with their claims and verdicts, by public names only."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
