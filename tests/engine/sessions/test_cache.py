"""Nothing stale or damaged is ever opened, and nothing is built twice."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import filelock
import pytest

from faceanon_engine import __version__
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions.cache import EngineCache, read_entry
from faceanon_engine.engine.sessions.engine_key import EngineKey, EngineOptions
from faceanon_engine.engine.sessions.session import Profile
from tests.support.small_graph import WEIGHT, write_linear

KEY = EngineKey(
    bundle="b" * 64,
    graph="identity",
    graph_digest="g" * 64,
    precision="fp32",
    profile=Profile(1, 8, 64),
    backend="tensorrt",
    backend_version="10.3.0",
    architecture="sm_89",
)
OTHERS: list[dict[str, Any]] = [
    {"bundle": "c" * 64},
    {"graph": "inverter"},
    {"graph_digest": "h" * 64},
    {"precision": "fp16"},
    {"profile": Profile(1, 8, 32)},
    {"backend": "tensorrt-rtx"},
    {"backend_version": "10.4.0"},
    {"architecture": "sm_120"},
    {"image_input": "uint8"},
    {"options": EngineOptions(refittable=True)},
    {"options": EngineOptions(workspace=2**30)},
]


class Builder:
    """Builds what it is asked for and counts."""

    def __init__(self, content: bytes = b"plan") -> None:
        self.content, self.count = content, 0

    def __call__(self) -> tuple[bytes, dict[str, Any]]:
        self.count += 1
        return self.content, {"seconds": 0.5, "layers": []}


@pytest.mark.parametrize("change", OTHERS, ids=lambda change: next(iter(change)))
def test_everything_that_decides_an_engine_is_in_its_key(tmp_path: Path, change: dict[str, Any]) -> None:
    cache, other = EngineCache(tmp_path), replace(KEY, **change)
    assert other.digest != KEY.digest
    cache.ensure(KEY, Builder(b"one"))
    second = Builder(b"two")
    assert cache.ensure(other, second).path.read_bytes() == b"two"
    assert second.count == 1


def test_what_is_there_is_taken_and_force_builds_it_again(tmp_path: Path) -> None:
    cache, build = EngineCache(tmp_path), Builder()
    first = cache.ensure(KEY, build)
    assert cache.ensure(KEY, build) == first
    assert build.count == 1
    assert (first.path.read_bytes(), first.bytes, first.details["seconds"]) == (b"plan", 4, 0.5)
    assert read_entry(first.path).key == KEY
    cache.ensure(KEY, build, force=True)
    assert build.count == 2


def damage_bytes(path: Path) -> None:
    path.write_bytes(b"plam")


def cut_short(path: Path) -> None:
    path.write_bytes(b"pl")


def remove_plan(path: Path) -> None:
    path.unlink()


def remove_record(path: Path) -> None:
    path.with_suffix(".json").unlink()


def garble_record(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


def claim_another_key(path: Path) -> None:
    record = json.loads(path.with_suffix(".json").read_text())
    record["key"] = asdict(replace(KEY, backend_version="10.2.0"))
    path.with_suffix(".json").write_text(json.dumps(record))


def another_format(path: Path) -> None:
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(record | {"format": 99}))


@pytest.mark.parametrize(
    "spoil",
    [damage_bytes, cut_short, remove_plan, remove_record, garble_record, claim_another_key, another_format],
    ids=lambda spoil: spoil.__name__,
)
def test_a_stale_or_damaged_engine_is_built_again_and_never_opened(tmp_path: Path, spoil: Any) -> None:
    cache, build = EngineCache(tmp_path), Builder()
    path = cache.ensure(KEY, build).path
    spoil(path)
    assert cache.find(KEY) is None
    assert cache.find_for_gpu(KEY, "sm_89") is None
    assert cache.ensure(KEY, build).path.read_bytes() == b"plan"
    assert build.count == 2
    assert cache.find(KEY) is not None


def test_a_build_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> Any:
        raise UserError("out of memory")

    cache = EngineCache(tmp_path)
    with pytest.raises(UserError):
        cache.ensure(KEY, fail)
    assert cache.find(KEY) is None
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    cache.ensure(KEY, Builder())


def test_kernels_of_an_engine_go_when_it_is_built_again(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    entry = cache.ensure(KEY, Builder())
    entry.runtime_cache("sm_89").write_bytes(b"kernels")
    cache.ensure(KEY, Builder(), force=True)
    assert not entry.runtime_cache("sm_89").exists()


def test_engines_of_an_older_graph_or_version_are_cleared_away(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    old = [cache.ensure(replace(KEY, graph_digest=digit * 64), Builder()).path for digit in "12"]
    kept = cache.ensure(replace(KEY, profile=Profile(1, 1, 1)), Builder()).path
    new = cache.ensure(replace(KEY, backend_version="11.0"), Builder()).path
    assert [path.exists() for path in (*old, kept, new)] == [False, False, True, True]


PROCESS = """
import sys, time
from pathlib import Path
from tests.engine.sessions.test_cache import KEY
from faceanon_engine.engine.sessions.cache import EngineCache
root = Path(sys.argv[1])

def build():
    with open(root / "builds", "a") as stream:
        stream.write("x")
    (root / f"began-{sys.argv[2]}").touch()
    time.sleep(1.0)
    return b"plan", {"seconds": 1.0, "layers": []}

(root / f"ready-{sys.argv[2]}").touch()
while not (root / "go").exists():
    time.sleep(0.01)
print(EngineCache(root).ensure(KEY, build).path.read_bytes().decode())
"""


def test_two_processes_that_want_the_same_engine_build_it_once(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path), name],
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    while not all((tmp_path / f"ready-{name}").exists() for name in ("a", "b")):
        assert all(process.poll() is None for process in processes), "a process died"
    (tmp_path / "go").touch()
    assert [process.communicate(timeout=120)[0].strip() for process in processes] == ["plan", "plan"]
    assert (tmp_path / "builds").read_text() == "x"


@pytest.mark.parametrize(
    ("built", "architecture", "serves"),
    [
        ({"architecture": "sm_89"}, "sm_89", True),
        ({"architecture": "sm_89"}, "sm_120", False),
        ({"architecture": "sm_89+sm_120"}, "sm_120", True),
        ({"architecture": "sm_89", "options": EngineOptions(hardware_compatible=True)}, "sm_90", True),
        ({"architecture": "sm_75", "options": EngineOptions(hardware_compatible=True)}, "sm_90", False),
        ({"architecture": "portable"}, "sm_89", True),
        ({"architecture": "portable"}, "sm_120", True),
        ({"architecture": "portable"}, "sm_90", False),
        ({"architecture": "portable"}, "sm_75", False),
        ({"backend_version": "10.2.9"}, "sm_89", False),
        ({"backend_version": "10.2.9", "options": EngineOptions(version_compatible=True)}, "sm_89", True),
        ({"backend_version": "10.4.0", "options": EngineOptions(version_compatible=True)}, "sm_89", False),
        ({"backend_version": "9.9.9", "options": EngineOptions(version_compatible=True)}, "sm_89", False),
        ({"precision": "fp16"}, "sm_89", False),
        ({"graph_digest": "h" * 64}, "sm_89", False),
        ({"profile": Profile(1, 1, 1)}, "sm_89", False),
    ],
)
def test_an_engine_is_found_for_the_gpus_and_versions_it_serves(
    tmp_path: Path, built: dict[str, Any], architecture: str, serves: bool
) -> None:
    cache = EngineCache(tmp_path)
    cache.ensure(replace(KEY, **built), Builder())
    entry = cache.find_for_gpu(replace(KEY, architecture=architecture), architecture)
    assert (entry is not None) is serves


def test_the_engine_made_for_this_gpu_comes_first_and_any_profile_may_be_taken(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    for architecture in ("portable", "sm_86+sm_89", "sm_89"):
        cache.ensure(replace(KEY, architecture=architecture), Builder(architecture.encode()))
        best = cache.find_for_gpu(KEY, "sm_89")
        assert best is not None
        assert best.path.read_bytes() == architecture.encode()
    other = replace(KEY, profile=Profile(1, 4, 16))
    assert cache.find_for_gpu(other, "sm_89") is None
    entry = cache.find_for_gpu(other, "sm_89", any_profile=True)
    assert entry is not None
    assert entry.key == KEY


def test_a_graph_is_exported_once_and_again_when_it_is_damaged(tmp_path: Path) -> None:
    cache, exported = EngineCache(tmp_path), []

    def export(folder: Path) -> Any:
        exported.append(folder)
        return write_linear(folder)

    def ensure(**more: Any) -> Any:
        return cache.ensure_graph("b" * 64, "mapping", "fp32", export, **more)

    artifact = ensure()
    assert ensure() == artifact
    assert len(exported) == 1
    assert cache.find_graph("c" * 64, "mapping", "fp32") is None
    assert cache.find_graph("b" * 64, "mapping", "fp16") is None
    artifact.path.write_bytes(artifact.path.read_bytes() + b" ")
    assert cache.find_graph("b" * 64, "mapping", "fp32") is None
    ensure()
    assert len(exported) == 2
    ensure(force=True)
    assert len(exported) == 3


def test_a_graph_of_another_version_of_the_exporter_is_stale(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    artifact = write_linear(cache.graphs_folder("b" * 64))
    for recorded, taken in ((__version__, True), ("0.0.1", False)):
        replace(artifact, tools={"faceanon-engine": recorded}).write()
        assert (cache.find_graph("b" * 64, "mapping", "fp32") is not None) is taken


def test_a_graph_of_another_bundle_in_this_bundles_place_is_not_taken(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    write_linear(cache.graphs_folder("b" * 64), bundle="b" * 60 + "cccc", weight=WEIGHT * 2)
    assert cache.find_graph("b" * 64, "mapping", "fp32") is None


def test_what_a_killed_process_left_is_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    folder = cache.path(KEY).parent
    graphs = cache.graphs_folder("b" * 64)
    kept = [graphs / ".mapping-fp32-uint8-k3j2h1g0", graphs / ".mapping-fp16-k3j2h1g0", folder / "other.plan"]
    left = [
        graphs / ".mapping-fp32-abcd_123",
        folder / f".{cache.path(KEY).name}-abcd_123",
        folder / f".{cache.path(KEY).stem}.json-abcd_123",
    ]
    for path in (*kept, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if path.parent == graphs else path.write_bytes(b"half")
    (left[0] / "mapping-fp32.onnx").write_bytes(b"half")
    cache.ensure(KEY, Builder())
    cache.ensure_graph("b" * 64, "mapping", "fp32", write_linear)
    assert [path.exists() for path in left] == [False, False, False]
    assert all(path.exists() for path in kept)


def test_what_lies_in_a_folder_that_cannot_be_written_to_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, build = EngineCache(tmp_path), Builder()
    built = cache.ensure(KEY, build)
    exported = write_linear(cache.graphs_folder("b" * 64))

    def refuse(_lock: Any, **_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def export(_folder: Path) -> Any:
        raise AssertionError("it is there")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    assert cache.ensure(KEY, build) == built
    assert cache.ensure_graph("b" * 64, "mapping", "fp32", export) == exported
    message = r"Read-only file system\): make the folder writable, or use another"
    with pytest.raises(UserError, match=message):
        cache.ensure(KEY, build, force=True)
    with pytest.raises(UserError, match=message):
        cache.ensure(replace(KEY, profile=Profile(2, 2, 2)), build)
    assert build.count == 1


@pytest.mark.parametrize("entry", ["tools", "reached", "inputs"])
def test_a_graph_whose_record_makes_no_sense_is_not_taken(tmp_path: Path, entry: str) -> None:
    cache = EngineCache(tmp_path)
    record = write_linear(cache.graphs_folder("b" * 64)).record
    for nonsense in (5, "x", None, []):
        record.write_text(json.dumps(json.loads(record.read_text()) | {entry: nonsense}))
        assert cache.find_graph("b" * 64, "mapping", "fp32") is None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' * 50_000, "[]", "null", '{"key": []}'])
def test_a_record_nested_without_end_is_as_none(tmp_path: Path, text: str) -> None:
    cache, build = EngineCache(tmp_path), Builder()
    engine = cache.ensure(KEY, build)
    graph = write_linear(cache.graphs_folder("b" * 64))
    for record in (engine.path.with_suffix(".json"), graph.record):
        record.write_text(text)
    assert cache.find_graph("b" * 64, "mapping", "fp32") is None
    with pytest.raises(UserError, match=r"is no record of an engine .*build it again"):
        read_entry(engine.path)
    cache.ensure(KEY, build)
    assert build.count == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="FACEANON_HOME"):
        EngineCache(tmp_path / "x").ensure(KEY, Builder())


def test_a_file_in_the_folders_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="FACEANON_HOME"):
        EngineCache(tmp_path / "x").ensure(KEY, Builder())
