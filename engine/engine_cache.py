"""The cache of exported graphs and built engines: what it is keyed by, and what makes an entry no good.

    ROOT/BUNDLE/onnx/GRAPH-PRECISION.onnx, .json          exported graphs with their records
    ROOT/BUNDLE/BACKEND/NAME.plan, .json                  engines with theirs
    ROOT/BUNDLE/BACKEND/NAME-sm_90.runtime                kernels that TensorRT for RTX compiled there
    ROOT/timing/BACKEND-VERSION-sm_90.timing              timings that TensorRT measured there

An entry is used when its record says exactly what is wanted and the file's bytes are those recorded; anything else is
as good as missing and is made again. Records are written last, both whole or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.files import write_whole
from faceanon_engine.engine.sessions.graphs import Artifact, ImageInput, Precision, artifact_name
from faceanon_engine.engine.sessions.session import Profile

logger = logging.getLogger(__name__)

Made = TypeVar("Made", Artifact, "Entry")

FORMAT = 1
EXPORTER = "faceanon-engine"
"""Under this name a graph's record has the version of the program that exported it; another's may differ."""
PORTABLE = "portable"
"""Architecture of an engine of TensorRT for RTX without targets: it runs from compute capability 8.0 on."""


def engines_root() -> Path:
    """$FACEANON_HOME/engines when that is set, otherwise the user's cache directory."""
    home = os.environ.get("FACEANON_HOME")
    if home:
        return Path(home) / "engines"
    import platformdirs

    return Path(platformdirs.user_cache_dir("faceanon-engine")) / "engines"


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built, besides its graph.

    version_compatible: later versions of the backend run it. hardware_compatible: later GPUs run it (from Ampere
    on). refittable: its weights can be replaced. strip_weights: it is stored without those that the graph's file
    holds, which are put back when it is opened. optimization_level: 0 to 5, None for the backend's own. workspace:
    bytes a kernel may take for itself at most, None for all there is.
    """

    version_compatible: bool = False
    hardware_compatible: bool = False
    refittable: bool = False
    strip_weights: bool = False
    optimization_level: int | None = None
    workspace: int | None = None


@dataclass(frozen=True)
class EngineKey:
    """Everything that decides what an engine is.

    bundle: digest. graph_digest: of the exported file and its weights. architecture: sm_90, several joined by "+", or
    "portable". backend_version: as the package says it.
    """

    bundle: str
    graph: str
    graph_digest: str
    precision: str
    profile: Profile
    backend: str
    backend_version: str
    architecture: str
    image_input: str = "float"
    options: EngineOptions = field(default_factory=EngineOptions)

    @property
    def digest(self) -> str:
        """sha256 over all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """File name without suffix: the beginning of it is for people, the end tells keys apart."""
        graph = artifact_name(self.graph, self.precision, self.image_input)  # type: ignore[arg-type]
        profile = str(self.profile).replace(",", ".")
        return f"{graph}-b{profile}-{self.architecture}-{self.digest[:12]}"


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
        """The folder, by default `engines_root()`; it is made when something is put there."""
        self.root = root or engines_root()

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
            found = Artifact.read(path)
            if (found.bundle_digest, found.graph, found.precision) != (bundle, graph, precision):
                raise UserError(f"{path} is of another network")
            made_by, here = found.tools.get(EXPORTER), _exporter_version()
            if made_by not in (None, here):
                raise UserError(f"{path} was exported by version {made_by}, this is {here}: it is exported again")
            found.check()
        except UserError as error:
            logger.warning("%s", error)
            return None
        return found

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
                found = _key_of(json.loads(record.read_text(encoding="utf-8"))["key"])
            except (OSError, ValueError, KeyError, TypeError, UserError):
                continue
            same = replace(
                found,
                architecture=key.architecture,
                backend_version=key.backend_version,
                options=key.options,
                profile=key.profile if any_profile else found.profile,
            )
            if same == key and runs_on(found, architecture) and _runs_with(found, key.backend_version):
                candidates.append(found)
        candidates.sort(
            key=lambda found: (
                found.profile != key.profile,
                -found.profile.max,
                _preference(found, architecture),
                found.name,
            )
        )
        for found in candidates:
            entry = self.find(found)
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
            "sha256": hashlib.sha256(plan).hexdigest(),
            "bytes": plan.nbytes,
            "details": details,
        }
        try:
            path.with_suffix(".json").unlink(missing_ok=True)
            for stale in path.parent.glob(f"{path.stem}-*.runtime"):
                stale.unlink()
            write_whole(path, plan)  # type: ignore[arg-type]
            write_whole(path.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())
        except OSError as error:
            raise _unwritable(path, error) from None
        self._remove_superseded(key)
        return Entry(path, key, details)

    def _remove_superseded(self, key: EngineKey) -> None:
        """Delete engines that differ by an older graph or version alone: nothing will ask for them again."""
        for record in self.path(key).parent.glob("*.json"):
            try:
                other = _key_of(json.loads(record.read_text(encoding="utf-8"))["key"])
            except (OSError, ValueError, KeyError, TypeError, UserError):
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
        """What is found, or else made; of several processes one makes it and the others wait and find it."""
        from filelock import FileLock

        lock = FileLock(f"{path}.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            # What lies in a folder that cannot be written to may still be what is wanted.
            found = find()
            if found is None:
                raise _unwritable(path, error) from None
            return found
        try:
            _clear_leftovers(path)
            return find() or make()
        finally:
            lock.release()


def _clear_leftovers(path: Path) -> None:
    """Delete what processes that were killed had half written there; whoever calls holds the lock of that path."""
    unfinished = re.compile(rf"\.{re.escape(path.name)}(\.[a-z]+)?-[a-z0-9_]{{8}}")  # as tempfile makes names
    for found in path.parent.iterdir():
        if unfinished.fullmatch(found.name):
            logger.info("%s was left unfinished: removed", found)
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
            else:
                found.unlink(missing_ok=True)


def _exporter_version() -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(EXPORTER)
    except PackageNotFoundError:
        return None


def read_entry(path: Path) -> Entry:
    """The engine in that file; raises UserError where its record is missing or its bytes are not those recorded."""
    record = path.with_suffix(".json")
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
        entry = Entry(path, _key_of(content["key"]), dict(content["details"]))
        expected = content["sha256"]
        with open(path, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be read ({error.strerror}): build it with 'faceanon-engine build'"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{record} is no record of an engine ({error}): build it again with --force") from None
    if found != expected:
        raise UserError(f"{path} is damaged, its sha256 is not the recorded one: build it again with --force")
    return entry


def _key_of(values: dict[str, Any]) -> EngineKey:
    return EngineKey(
        **{**values, "profile": Profile(**values["profile"]), "options": EngineOptions(**values["options"])}
    )


def runs_on(key: EngineKey, architecture: str) -> bool:
    """Whether an engine of that key runs on a GPU of that architecture."""
    if architecture in key.architecture.split("+"):
        return True
    number = _number(architecture)
    if key.architecture == PORTABLE:
        return number >= 80
    # Ampere or newer serves everything newer; see HardwareCompatibilityLevel in the backend's documentation.
    return key.options.hardware_compatible and number >= 80 and _number(key.architecture.split("+")[0]) >= 80


def _runs_with(key: EngineKey, version: str) -> bool:
    """Whether an engine of that key is opened by that version of its backend."""
    if key.backend_version == version:
        return True
    built, running = _numbers(key.backend_version), _numbers(version)
    return key.options.version_compatible and built[:1] == running[:1] and built <= running


def _preference(key: EngineKey, architecture: str) -> tuple[int, int]:
    if key.architecture == architecture:
        return (0, key.options.hardware_compatible)
    return (1, len(key.architecture)) if architecture in key.architecture.split("+") else (2, 0)


def _number(architecture: str) -> int:
    digits = re.sub(r"\D", "", architecture)
    return int(digits) if digits else 0


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _unwritable(path: Path, error: OSError) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    way = "free space there" if full else "make the folder writable"
    reason = error.strerror or error
    return UserError(f"{path} cannot be written ({reason}): {way}, or use another (FACEANON_HOME, build --output)")
