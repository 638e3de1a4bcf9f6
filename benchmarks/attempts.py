"""Work whose failure costs no other figure of a benchmark."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from faceanon_engine.engine.system.memory import is_out_of_memory


def attempted(name: str, work: Callable[[], Any], failed: Callable[[str], None], save: Callable[[], None]) -> Any:
    """What the work gives, or None when it fails: `failed` is told why, in 600 characters.

    `save` is called either way, and the GPU's memory given back.
    """
    try:
        return work()
    except Exception as error:
        why = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {error}"[:600]
        failed(why)
        print(f"{name}: {why}", file=sys.stderr, flush=True)
        return None
    finally:
        save()
        gc.collect()
        if torch.cuda.is_available():
            with suppress(RuntimeError):  # of what failed before
                torch.cuda.empty_cache()
