"""How anything long says how far it is, and what the person may want to know."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with how much is done, of how much (None: nobody knows), and what is being done."""

    def __call__(self, done: float, total: float | None, what: str = "") -> None: ...


class Observer:
    """What anything long is watched by; every method may be overridden, none needs to be."""

    def progress(self, done: float, total: float | None, what: str = "") -> None:
        """So much of so much is done of this; a `Progress`."""

    def note(self, message: str) -> None:
        """Something the person may want to know."""
