"""What `import faceanon_engine` hands out, and that each is loaded only when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import faceanon_engine


def test_everything_listed_is_there_and_nothing_else() -> None:
    for name in faceanon_engine.__all__:
        assert getattr(faceanon_engine, name) is not None
    assert callable(faceanon_engine.bench)
    with pytest.raises(AttributeError, match="no attribute 'benhc'"):
        faceanon_engine.benhc  # type: ignore[attr-defined]  # noqa: B018


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    code = (
        "import sys, faceanon_engine; before = set(sys.modules); faceanon_engine.build;"
        "rooms = ('faceanon_engine.export.build', 'faceanon_engine.engine.bench.bench', 'torch');"
        "print([room in before for room in rooms], 'faceanon_engine.export.build' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, False, False] True"
