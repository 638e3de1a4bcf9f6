"""The four networks of the method, each with a frozen configuration."""

import lazy_loader

# Lazy, as `__init__.pyi` lists them: a preset needs a network's recipe alone, and must not load Torch for it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
