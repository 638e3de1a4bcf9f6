"""The method: from originals to other people with the same attributes. Source: FALCO (CVPR 2023)."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
