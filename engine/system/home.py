"""Where this program keeps what it makes for a user: the only place that reads $FACEANON_HOME."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "FACEANON_HOME"


@dataclass(frozen=True)
class Home:
    """Folders of imported bundles, pools of generated faces, exported graphs and engines, and compiled kernels."""

    bundles: Path
    pools: Path
    engines: Path
    kernels: Path


def home() -> Home:
    """All below $FACEANON_HOME where that is set, otherwise in the user's data and cache directories."""
    root = os.environ.get(VARIABLE)
    if root:
        data = cache = Path(root)
    else:
        import platformdirs

        data = Path(platformdirs.user_data_dir("faceanon-engine"))
        cache = Path(platformdirs.user_cache_dir("faceanon-engine"))
    return Home(data / "bundles", cache / "pools", cache / "engines", cache / "kernels")
