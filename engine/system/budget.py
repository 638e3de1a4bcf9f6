"""So much of something for all threads together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class Budget:
    """An amount that threads take from, each what it needs for a while; who comes first is served first."""

    def __init__(self, amount: int) -> None:
        self._amount = amount
        self._left = amount
        self._changed = Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Wait until there is so much, and take it until the block ends; more than all of it is all of it."""
        amount, turn = min(amount, self._amount), object()
        with self._changed:
            self._waiting.append(turn)
            try:
                # In turn, so that who needs much is not passed by for ever by those who need little.
                self._changed.wait_for(lambda: self._waiting[0] is turn and self._left >= amount)
                self._left -= amount
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()
