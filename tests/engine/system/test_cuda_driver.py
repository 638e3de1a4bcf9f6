"""The driver is asked directly: what it answers, and what is said where there is none."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from faceanon_engine.engine.system import cuda_driver


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """What was found out of this machine's driver is forgotten, and what is found out of a stand-in is, too."""
    caches = (cuda_driver._library, cuda_driver.gpus)
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()


def driver(monkeypatch: pytest.MonkeyPatch, code: int = 0, version: int = 13010) -> None:
    """A stand-in for libcuda whose cuInit answers `code`."""

    def get_version(place: Any) -> int:
        place._obj.value = version
        return 0

    library = SimpleNamespace(cuInit=lambda _: code, cuDriverGetVersion=get_version)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)


@pytest.mark.parametrize(("number", "text"), [(13010, "13.1"), (12080, "12.8"), (13000, "13.0")])
def test_its_version_is_the_newest_cuda_it_serves(number: int, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, version=number)
    assert cuda_driver.driver_version() == text


def test_a_driver_that_has_no_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, code=100)
    with pytest.raises(cuda_driver.DriverError, match=r"^the driver answers with error 100: no usable GPU$"):
        cuda_driver.driver_version()
    assert cuda_driver.gpus() == ()


def test_without_a_driver_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> Any:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(cuda_driver.DriverError, match=r"^libcuda\.so\.1 is not there: no NVIDIA driver is installed$"):
        cuda_driver.driver_version()
    assert cuda_driver.gpus() == ()
