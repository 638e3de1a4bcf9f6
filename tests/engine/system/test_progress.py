"""Whoever watches overrides what it wants to know, and need not override anything."""

from __future__ import annotations

import inspect

import pytest

from faceanon_engine.engine.job.report import JobObserver
from faceanon_engine.engine.system.progress import Observer, Progress
from faceanon_engine.export.build import BuildObserver


def test_an_observer_that_overrides_nothing_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    observer = Observer()
    progress: Progress = observer.progress
    progress(1, None)
    progress(1.5, 3, "faces")
    observer.note("a note")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [Observer, JobObserver, BuildObserver])
def test_the_progress_of_every_observer_is_called_in_one_way(kind: type[Observer]) -> None:
    called, asked = inspect.signature(kind().progress), inspect.signature(Progress.__call__)
    assert list(called.parameters.values()) == list(asked.parameters.values())[1:]
