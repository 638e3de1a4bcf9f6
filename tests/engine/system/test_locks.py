"""Whoever comes second waits or is refused, and a killed process holds nothing."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from faceanon_engine.engine.system.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_by_another_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_the_second_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with held_by_another_process(lock) as process:
        with pytest.raises(UserError) as refused, locked(lock, refusal="in use: wait for the other one"):
            pytest.fail("two hold one lock")
        assert str(refused.value) == "in use: wait for the other one"
        process.kill()
        process.wait()
        with locked(lock, refusal="in use"):
            pass


def test_a_refusal_comes_after_the_patience_and_not_before(tmp_path: Path) -> None:
    with held_by_another_process(tmp_path / "lock"):
        begun = time.monotonic()
        with pytest.raises(UserError, match="in use"), locked(tmp_path / "lock", refusal="in use", patience=0.3):
            pytest.fail("two hold one lock")
        assert 0.3 <= time.monotonic() - begun < 10


def test_the_second_waits_and_says_once_what_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with held_by_another_process(tmp_path / "lock") as process:
        releasing = threading.Timer(0.4, process.kill)
        releasing.start()
        with locked(tmp_path / "lock", waiting="waiting for the other one"):
            assert process.wait() != 0, "it was there until it was killed"
        releasing.join()
    assert caplog.messages == ["waiting for the other one"]


def test_a_lock_that_is_free_is_taken_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with locked(tmp_path / "lock", waiting="waiting", refusal="in use"):
            pass
    assert caplog.messages == []


def test_one_at_a_time_is_inside(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with locked(tmp_path / "lock"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (inside, most) == (0, 1)


def test_a_lock_is_released_when_its_block_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "lock"):
        raise KeyError
    with locked(tmp_path / "lock", refusal="in use"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
def test_no_file_stays_behind_whatever_the_end(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with locked(lock):
        assert lock.exists()
        with pytest.raises(UserError), locked(lock, refusal="in use"):
            pytest.fail("two hold one lock")
        assert lock.exists(), "it is the first one's"
    assert not lock.exists()
    with pytest.raises(KeyError), locked(lock):
        raise KeyError
    assert not lock.exists()
    with held_by_another_process(lock) as process:
        process.kill()
        process.wait()
        assert lock.exists(), "who is killed deletes nothing"
        with locked(lock, remove=False):
            pass
        assert lock.exists(), "who only looks deletes nothing"
        with locked(lock):
            pass
    assert not lock.exists()


def test_a_file_that_took_the_locks_place_is_left(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with locked(lock):
        lock.rename(tmp_path / "moved")
        lock.write_text("somebody else's")
    assert lock.read_text() == "somebody else's"


INCREMENT = """
import sys, time
from pathlib import Path
from faceanon_engine.engine.system.locks import locked
counter = Path(sys.argv[1])
for _ in range(40):
    with locked(counter.with_suffix(".lock")):
        value = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(value + 1))
"""


def test_one_at_a_time_is_inside_though_each_deletes_the_file(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", INCREMENT, str(counter)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert counter.read_text() == "120"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counter"]


def test_a_lock_file_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / "lock", refusal="in use"):
        pytest.fail("nothing is locked")
