"""The cache of exported graphs and built engines: what it is keyed by, and what makes an entry no good.

    ROOT/BUNDLE/onnx/GRAPH-PRECISION.onnx, .json          exported graphs with their records
    ROOT/BUNDLE/BACKEND/NAME.plan, .json                  engines with theirs
    ROOT/BUNDLE/BACKEND/NAME-sm_90.runtime                kernels that TensorRT for RTX compiled there
    ROOT/timing/BACKEND-VERSION-sm_90.timing              timings that TensorRT measured there

An entry is used when its record says exactly what is wanted and the file's bytes are those recorded; anything else is
as good as missing and is made again. Records are written last, both atomically.
"""

from __future__ import annotations

import errno
import json
import logging
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from faceanon_engine.engine.choices import ImageInput, Precision
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.sessions.engine_key import EngineKey, key_of, preference, runs_on, runs_with
from faceanon_engine.engine.sessions.graphs import Artifact, artifact_name
from faceanon_engine.engine.system.digests import sha256_of, sha256_of_chunks
from faceanon_engine.engine.system.files import write_atomic
from faceanon_engine.engine.system.home import home
from faceanon_engine.engine.system.locks import locked
from faceanon_engine.engine.system.packages import OURS, our_version

logger = logging.getLogger(__name__)

Made = TypeVar("Made", Artifact, "Entry")

FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """A built engine: its file, what it was built for, what is known of it."""

    path: Path
    key: EngineKey
    details: dict[str, Any]

    @property
    def bytes(self) -> int:
        """Size of the engine's file."""
        return self.path.stat().st_size

    def runtime_cache(self, architecture: str) -> Path:
        """Where the kernels compiled for a GPU of that architecture are kept."""
        return self.path.with_name(f"{self.path.stem}-{architecture}.runtime")


class EngineCache:
    """Exported graphs and engines below one folder, safe for several processes."""

    def __init__(self, root: Path | None = None) -> None:
        """The folder, by default `home().engines`; it is made when something is put there."""
        self.root = root or home().engines

    # -- exported graphs ---------------------------------------------------------------------------------------

    def graphs_folder(self, bundle: str) -> Path:
        """Where the exported graphs of the bundle with that digest lie."""
        return self.root / bundle[:16] / "onnx"

    def find_graph(
        self, bundle: str, graph: str, precision: Precision, image_input: ImageInput = "float"
    ) -> Artifact | None:
        """The exported graph, or None where there is none or where it is stale or damaged."""
        path = self.graphs_folder(bundle) / f"{artifact_name(graph, precision, image_input)}.onnx"
        if not path.with_suffix(".json").exists():
            return None
        try:
            artifact = Artifact.read(path)
            if (artifact.bundle_digest, artifact.graph, artifact.precision) != (bundle, graph, precision):
                raise UserError(f"{path} is of another network")
            made_by, here = artifact.tools.get(OURS), our_version()
            if made_by not in (None, here):
                raise UserError(f"{path} was exported by version {made_by}, this is {here}: it is exported again")
            artifact.check()
        except UserError as error:
            logger.warning("%s", error)
            return None
        return artifact

    def ensure_graph(
        self,
        bundle: str,
        graph: str,
        precision: Precision,
        export: Callable[[Path], Artifact],
        *,
        image_input: ImageInput = "float",
        force: bool = False,
    ) -> Artifact:
        """The exported graph, which `export(folder)` makes where it is missing; processes that want the same wait."""
        folder = self.graphs_folder(bundle)
        return self._once(
            folder / artifact_name(graph, precision, image_input),
            lambda: None if force else self.find_graph(bundle, graph, precision, image_input),
            lambda: export(folder),
        )

    # -- engines -----------------------------------------------------------------------------------------------

    def path(self, key: EngineKey) -> Path:
        """Where the engine of that key lies or would lie."""
        return self.root / key.bundle[:16] / key.backend / f"{key.name}.plan"

    def find(self, key: EngineKey) -> Entry | None:
        """The engine of exactly that key, or None where there is none or where it is stale or damaged."""
        path = self.path(key)
        try:
            entry = read_entry(path)
        except UserError as error:
            if path.exists():
                logger.warning("%s", error)
            return None
        if entry.key != key:
            logger.warning("%s was built for something else: it is built again", path)
            return None
        return entry

    def find_for_gpu(self, key: EngineKey, architecture: str, *, any_profile: bool = False) -> Entry | None:
        """An engine that serves a GPU of that architecture, `key.architecture` being left open.

        With `any_profile` the batch sizes are left open, too; those of the key come first, then the largest.

        One built for this GPU alone comes before one for several, that before a portable one. An engine of another
        version is taken only where it was built version-compatible, by an earlier version of the same generation.
        """
        folder = self.path(key).parent
        candidates = []
        for record in sorted(folder.glob("*.json")) if folder.is_dir() else []:
            try:
                candidate = key_of(json.loads(record.read_text(encoding="utf-8"))["key"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError):
                continue
            same = replace(
                candidate,
                architecture=key.architecture,
                backend_version=key.backend_version,
                options=key.options,
                profile=key.profile if any_profile else candidate.profile,
            )
            if same == key and runs_on(candidate, architecture) and runs_with(candidate, key.backend_version):
                candidates.append(candidate)
        candidates.sort(
            key=lambda candidate: (
                candidate.profile != key.profile,
                -candidate.profile.max,
                preference(candidate, architecture),
                candidate.name,
            )
        )
        for candidate in candidates:
            entry = self.find(candidate)
            if entry is not None:
                return entry
        return None

    def ensure(self, key: EngineKey, build: Callable[[], tuple[Any, dict[str, Any]]], *, force: bool = False) -> Entry:
        """The engine of that key; `build()` gives its bytes and what is known of it where it is missing or no good.

        Processes that want the same key do the work once: the others wait and take what the first one built.
        """
        return self._once(
            self.path(key).with_suffix(""),
            lambda: None if force else self.find(key),
            lambda: self._put(key, *build()),
        )

    def _put(self, key: EngineKey, content: Any, details: dict[str, Any]) -> Entry:
        path, plan = self.path(key), memoryview(content)
        record = {
            "format": FORMAT,
            "key": asdict(key),
            "file": path.name,
            "sha256": sha256_of_chunks([plan]),
            "bytes": plan.nbytes,
            "details": details,
        }
        try:
            path.with_suffix(".json").unlink(missing_ok=True)
            for stale in path.parent.glob(f"{path.stem}-*.runtime"):
                stale.unlink()
            write_atomic(path, plan)
            write_atomic(path.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())
        except OSError as error:
            raise _unwritable(path, error) from None
        self._remove_superseded(key)
        return Entry(path, key, details)

    def _remove_superseded(self, key: EngineKey) -> None:
        """Delete engines that differ by an older graph or version alone: nothing will ask for them again."""
        for record in self.path(key).parent.glob("*.json"):
            try:
                other = key_of(json.loads(record.read_text(encoding="utf-8"))["key"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError):
                continue
            same = replace(other, graph_digest=key.graph_digest, backend_version=key.backend_version)
            if same == key and other != key:
                logger.info("%s is superseded: removed", record.with_suffix(".plan"))
                for file in (record, *record.parent.glob(f"{record.stem}*.runtime"), record.with_suffix(".plan")):
                    file.unlink(missing_ok=True)

    def timing_cache(self, backend: str, version: str, architecture: str) -> Path:
        """File of the timings that a version of TensorRT measured on GPUs of that architecture."""
        return self.root / "timing" / f"{backend}-{version}-{architecture}.timing"

    def _once(self, path: Path, find: Callable[[], Made | None], make: Callable[[], Made]) -> Made:
        """What is found, or else made; of several processes one makes it and the others wait and find it (no race)."""
        with ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(path.with_name(path.name + ".lock")))
            except OSError as error:
                # What lies in a folder that cannot be written to may still be what is wanted.
                there = find()
                if there is None:
                    raise _unwritable(path, error) from None
                return there
            _clear_leftovers(path)
            return find() or make()


def _clear_leftovers(path: Path) -> None:
    """Delete what processes that were killed had half written there; whoever calls holds the lock of that path."""
    unfinished = re.compile(rf"\.{re.escape(path.name)}(\.[a-z]+)?-[a-z0-9_]{{8}}")  # as tempfile makes names
    for leftover in path.parent.iterdir():
        if unfinished.fullmatch(leftover.name):
            logger.info("%s was left unfinished: removed", leftover)
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def read_entry(path: Path) -> Entry:
    """The engine in that file; raises UserError where its record is missing or its bytes are not those recorded."""
    record = path.with_suffix(".json")
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
        entry = Entry(path, key_of(content["key"]), dict(content["details"]))
        expected = content["sha256"]
        actual = sha256_of(path)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}): build it with 'faceanon-engine build'"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{record} is no record of an engine ({error}): build it again with --force") from None
    if actual != expected:
        raise UserError(f"{path} is damaged, its sha256 is not the recorded one: build it again with --force")
    return entry


def _unwritable(path: Path, error: OSError) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    way = "free space there" if full else "make the folder writable"
    reason = error.strerror or error
    return UserError(f"{path} cannot be written ({reason}): {way}, or use another (FACEANON_HOME, build --output)")
