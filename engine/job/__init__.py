"""A job: a folder in which a set of images becomes a set of other people, and which can be stopped at any moment."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
