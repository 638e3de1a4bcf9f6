"""What this program asks of the machine it runs on: files, devices, memory, the driver."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
