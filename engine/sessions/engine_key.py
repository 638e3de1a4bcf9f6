"""What decides what a built engine is, and which GPUs and versions it serves."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from faceanon_engine.engine.sessions.graphs import artifact_name
from faceanon_engine.engine.sessions.session import Profile
from faceanon_engine.engine.system.digests import sha256_of_values

PORTABLE = "portable"
"""Architecture of an engine of TensorRT for RTX without targets: it runs from compute capability 8.0 on, but on no
data-center GPU since Hopper."""


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
        return sha256_of_values(asdict(self))

    @property
    def name(self) -> str:
        """File name without suffix: the beginning of it is for people, the end tells keys apart."""
        graph = artifact_name(self.graph, self.precision, self.image_input)  # type: ignore[arg-type]
        profile = str(self.profile).replace(",", ".")
        return f"{graph}-b{profile}-{self.architecture}-{self.digest[:12]}"


def runs_on(key: EngineKey, architecture: str) -> bool:
    """Whether an engine of that key runs on a GPU of that architecture."""
    if architecture in key.architecture.split("+"):
        return True
    number = _number(architecture)
    if key.architecture == PORTABLE:
        # Seen on an H200: "unsupported cc". NVIDIA's support matrix lists none of 9.x, 10.x and 11.x.
        return number >= 80 and number // 10 not in (9, 10, 11)
    # Ampere or newer serves everything newer; see HardwareCompatibilityLevel in the backend's documentation.
    return key.options.hardware_compatible and number >= 80 and _number(key.architecture.split("+")[0]) >= 80


def runs_with(key: EngineKey, version: str) -> bool:
    """Whether an engine of that key is opened by that version of its backend."""
    if key.backend_version == version:
        return True
    built, running = _numbers(key.backend_version), _numbers(version)
    return key.options.version_compatible and built[:1] == running[:1] and built <= running


def preference(key: EngineKey, architecture: str) -> tuple[int, int]:
    """Sorts engines that run on a GPU of that architecture: the smaller, the better it fits that GPU alone."""
    if key.architecture == architecture:
        return (0, key.options.hardware_compatible)
    return (1, len(key.architecture)) if architecture in key.architecture.split("+") else (2, 0)


def _number(architecture: str) -> int:
    digits = re.sub(r"\D", "", architecture)
    return int(digits) if digits else 0


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def key_of(values: dict[str, Any]) -> EngineKey:
    """The key of what a record holds of it; raises KeyError, TypeError or UserError where that is no key."""
    profile, options = Profile(**values["profile"]), EngineOptions(**values["options"])
    key = EngineKey(**{**values, "profile": profile, "options": options})
    texts = [value for name, value in vars(key).items() if name not in ("profile", "options")]
    counts = [*vars(profile).values(), options.optimization_level or 0, options.workspace or 0]
    marks = [value for name, value in vars(options).items() if name not in ("optimization_level", "workspace")]
    kinds = ((texts, str), (counts, int), (marks, bool))
    if any(type(value) is not kind for values, kind in kinds for value in values):
        raise TypeError("a value of a type that it cannot have")
    return key
