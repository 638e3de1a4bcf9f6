"""Lets `import faceanon_engine` find this repository where the package is not installed: by links to its rooms."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("kernels", "engine", "export", "demo", "cli")


def link(folder: Path | None = None) -> Path:
    """Make the links in a new folder, or the one given, and return it, to be put into PYTHONPATH."""
    place = folder or Path(tempfile.mkdtemp(prefix="faceanon-engine-"))
    package = place / "faceanon_engine"
    package.mkdir(parents=True, exist_ok=True)
    sources = {room: ROOT / room for room in ROOMS} | {path.name: path for path in (ROOT / "api").iterdir()}
    for name, source in sources.items():
        if not (package / name).exists():
            (package / name).symlink_to(source)
    return place


def environment(folder: Path) -> dict[str, str]:
    """The environment of a child process that imports the package from there."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
