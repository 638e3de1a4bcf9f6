"""Versions of installed distributions."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from importlib import metadata

OURS = "faceanon-engine"


def version_of(*names: str) -> str | None:
    """Version of the first of these distributions that is installed; None where none is.

    Ours is always there, also in a checkout of which nothing is installed.
    """
    for name in names:
        if name == OURS:
            return our_version()
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def our_version() -> str:
    """Version of this program, installed or not."""
    from faceanon_engine import __version__

    return __version__


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Versions by distribution; those that are not installed are left out."""
    return {name: version for name in names if (version := version_of(name)) is not None}


def is_importable(module: str) -> bool:
    """Whether a module is there to be imported; it is not imported to find out."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
