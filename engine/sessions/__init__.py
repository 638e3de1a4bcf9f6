"""Running a frozen network on a batch, with whatever the machine has. Importing this package imports no framework."""

from __future__ import annotations

from faceanon_engine.engine.choices import BACKENDS, PRECISIONS, Backend, Precision
from faceanon_engine.engine.sessions.graphs import GRAPHS, Artifact
from faceanon_engine.engine.sessions.opening import Wanted, open_artifact, open_engine, open_session
from faceanon_engine.engine.sessions.session import About, Profile, Session

__all__ = [
    "BACKENDS",
    "GRAPHS",
    "PRECISIONS",
    "About",
    "Artifact",
    "Backend",
    "Precision",
    "Profile",
    "Session",
    "Wanted",
    "open_artifact",
    "open_engine",
    "open_session",
]
