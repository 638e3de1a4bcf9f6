"""What a bundle's networks cost on this machine; docs/bench.md describes the layout of a result."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
