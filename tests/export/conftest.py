"""Traced graphs, made once: tracing is the slow part."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from faceanon_engine.engine.choices import ImageInput
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.export.onnx_export import Traced, trace_bundle
from tests.support.tiny_bundle import write_tiny_bundle

Trace = Callable[..., Traced]


@pytest.fixture(scope="session")
def demo() -> Bundle:
    return Bundle.open("demo")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(Path(tmp_path_factory.mktemp("bundles")) / "tiny")


@pytest.fixture(scope="session")
def traced() -> Trace:
    """A bundle's graph as traced; the same object for the same question."""
    kept: dict[str, Bundle] = {}

    @cache
    def trace(digest: str, graph: str, image_input: ImageInput) -> Traced:
        return trace_bundle(kept[digest], graph, image_input=image_input)

    def ask(bundle: Bundle, graph: str, image_input: ImageInput = "float") -> Traced:
        kept[bundle.digest] = bundle
        return trace(bundle.digest, graph, image_input)

    return ask
