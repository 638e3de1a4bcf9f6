"""faceanon-engine: other people's faces, the same attributes."""

from __future__ import annotations

from faceanon_engine.engine.errors import UserError

__version__ = "0.1.0"

__all__ = ["UserError", "__version__"]
