"""What threads hold of a budget is never more than it has, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from faceanon_engine.engine.system.budget import Budget


def test_together_no_more_is_held_than_there_is() -> None:
    budget, guard, held, most = Budget(10), threading.Lock(), [0], [0]

    def work(amount: int) -> None:
        with budget.taken(amount):
            with guard:
                held[0] += min(amount, 10)
                most[0] = max(most[0], held[0])
            time.sleep(0.001)
            with guard:
                held[0] -= min(amount, 10)

    with ThreadPoolExecutor(16) as executor:
        list(executor.map(work, [1, 4, 10, 99, 3, 0, 7, 2] * 10))
    assert most[0] == 10
    assert held[0] == 0


def test_who_needs_much_is_not_passed_by() -> None:
    budget, order = Budget(10), []
    first, waiting = threading.Event(), threading.Event()

    def hold() -> None:
        with budget.taken(5):
            first.set()
            waiting.wait(10)

    def take(name: str, amount: int) -> None:
        with budget.taken(amount):
            order.append(name)

    threads = [threading.Thread(target=hold)]
    threads[0].start()
    first.wait(10)
    for name, amount in (("much", 10), ("little", 1)):
        threads.append(threading.Thread(target=take, args=(name, amount)))
        threads[-1].start()
        time.sleep(0.05)
    waiting.set()
    for thread in threads:
        thread.join(10)
    assert order == ["much", "little"]


def test_what_was_taken_comes_back_after_an_error() -> None:
    budget = Budget(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="no"), budget.taken(5):
            raise ValueError("no")
