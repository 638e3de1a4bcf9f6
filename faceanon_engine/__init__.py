"""faceanon-engine: other people's faces, the same attributes.

The names stand in `__init__.pyi`; each is loaded when it is first used, so that importing this package loads no Torch.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
