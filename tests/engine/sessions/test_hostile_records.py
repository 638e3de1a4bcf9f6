"""Whatever a record of a graph or an engine says, it is read or refused in one line about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions.cache import EngineCache, read_entry
from faceanon_engine.engine.sessions.graphs import Artifact
from tests.engine.sessions.test_cache import KEY, Builder
from tests.support.small_graph import write_linear

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
NESTED = b"[" * 100_000


def changed(record: dict[str, Any], path: list[str], value: Any) -> bytes:
    """The record with another value at a place; places that are not there are ones to be made."""
    content = json.loads(json.dumps(record))
    place = content
    for name in path[:-1]:
        place = place.get(name) if isinstance(place.get(name), dict) else place
    place[path[-1]] = value
    return json.dumps(content).encode()


def places(record: dict[str, Any]) -> list[list[str]]:
    inner = [[name, *rest] for name, value in record.items() if isinstance(value, dict) for rest in places(value)]
    return [[name] for name in record] + inner


def assert_one_line(error: UserError, record: Path) -> None:
    assert str(record.parent) in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 500 + len(str(record))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_graphs_record(tmp_path: Path, data: st.DataObject) -> None:
    artifact = write_linear(tmp_path)
    whole = artifact.record.read_bytes()
    record = json.loads(whole)
    content = changed(record, data.draw(st.sampled_from(places(record))), data.draw(ANYTHING))
    artifact.record.write_bytes(data.draw(st.sampled_from([content, whole[: len(whole) // 2], NESTED, b"\xff", b"1"])))
    try:
        read = Artifact.read(artifact.path)
        read.check()
        assert read.bytes > 0
        assert read.inputs
    except UserError as error:
        assert_one_line(error, artifact.record)
    EngineCache(tmp_path).find_graph(artifact.bundle_digest, "mapping", "fp32")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_engines_record(tmp_path: Path, data: st.DataObject) -> None:
    cache = EngineCache(tmp_path)
    path = cache.ensure(KEY, Builder()).path
    file = path.with_suffix(".json")
    whole = file.read_bytes()
    record = json.loads(whole)
    content = changed(record, data.draw(st.sampled_from(places(record))), data.draw(ANYTHING))
    file.write_bytes(data.draw(st.sampled_from([content, whole[: len(whole) // 2], NESTED, b"\xff", b"1"])))
    try:
        read_entry(path)
    except UserError as error:
        assert_one_line(error, file)
    cache.find_for_gpu(KEY, "sm_89", any_profile=True)
    # What cannot be used is built again.
    assert cache.ensure(KEY, Builder()).path.read_bytes() == b"plan"
    read_entry(path)


def test_a_record_that_never_ends_is_not_read(tmp_path: Path) -> None:
    artifact = write_linear(tmp_path)
    with open(artifact.record, "r+b") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="more than 16 MiB"):
        Artifact.read(artifact.path)
