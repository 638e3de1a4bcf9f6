"""What an adversary still learns from results: recognisers and fitted attacks, and how sure their rates are."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
