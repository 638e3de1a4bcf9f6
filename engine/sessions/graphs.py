"""The graphs that frozen networks are run as, and the record that lies beside each exported file.

An artifact is NAME.onnx, for large networks its weights in NAME-CHECKSUM.data, and NAME.json, the record. Nothing here
needs a framework.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from faceanon_engine.engine.choices import ImageInput, Precision
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.digests import sha256_of_all
from faceanon_engine.engine.system.files import write_atomic

BATCH = "N"
RECORD_FORMAT = 1


@dataclass(frozen=True)
class Graph:
    """One way through a network: the bundle's role that holds it, and the names of its one input and one output."""

    name: str
    role: str
    input: str
    output: str

    @property
    def takes_image(self) -> bool:
        """Whether the input is an image, so that there is a variant that takes uint8 NHWC."""
        return self.input == "image"


GRAPHS: dict[str, Graph] = {
    graph.name: graph
    for graph in (
        Graph("mapping", "generator", "z", "w"),
        Graph("synthesis", "generator", "w_plus", "image"),
        Graph("inverter", "inverter", "image", "w_plus"),
        Graph("identity", "identity_encoder", "image", "embedding"),
        Graph("attributes", "attribute_encoder", "image", "embedding"),
        Graph("attribute_tokens", "attribute_encoder", "image", "tokens"),
    )
}


def get_graph(name: str) -> Graph:
    """The graph of that name; raises UserError naming the known ones."""
    try:
        return GRAPHS[name]
    except KeyError:
        raise UserError(f"unknown graph {name!r}: use one of {', '.join(GRAPHS)}") from None


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: dtype "float32" or "uint8"; shape with "N" for the batch, which may be any number."""

    dtype: str
    shape: tuple[int | str, ...]


def signature(
    configs: Mapping[str, Mapping[str, Any]], graph: str, image_input: ImageInput = "float"
) -> tuple[TensorSpec, TensorSpec]:
    """Input and output of a graph; `configs` holds each network's configuration by role, as bundle.json has them.

    Images are float32 [N, 3, R, R] in [-1, 1] or uint8 [N, R, R, 3]; R is the generator's resolution.
    """
    generator = configs["generator"]
    side, blocks = int(generator["resolution"]), int(generator["resolution"]).bit_length() - 2
    row = int(generator["w_dim"])
    identity, attribute = configs["identity_encoder"], configs["attribute_encoder"]
    image = TensorSpec("float32", (BATCH, 3, side, side))
    takes = {
        "z": TensorSpec("float32", (BATCH, int(generator["z_dim"]))),
        "w_plus": TensorSpec("float32", (BATCH, 2 * blocks, row)),
        "image": image if image_input == "float" else TensorSpec("uint8", (BATCH, side, side, 3)),
    }
    gives = {
        "mapping": TensorSpec("float32", (BATCH, row)),
        "synthesis": image,
        "inverter": takes["w_plus"],
        "identity": TensorSpec("float32", (BATCH, int(identity["embedding_dim"]))),
        "attributes": TensorSpec("float32", (BATCH, int(attribute["embedding_dim"]))),
        "attribute_tokens": TensorSpec(
            "float32", (BATCH, (attribute["input_size"] // attribute["patch"]) ** 2 + 1, int(attribute["width"]))
        ),
    }
    return takes[get_graph(graph).input], gives[graph]


def artifact_name(graph: str, precision: Precision, image_input: ImageInput = "float") -> str:
    """File name of an artifact without its suffix."""
    plain = image_input == "float" or not get_graph(graph).takes_image
    return f"{graph}-{precision}" if plain else f"{graph}-{precision}-uint8"


@dataclass(frozen=True)
class Tolerance:
    """Difference from float64, each as a share of the reference's root mean square.

    maximum: the largest difference of any element; relative: the root mean square of all differences.
    """

    maximum: float
    relative: float


@dataclass(frozen=True)
class Artifact:
    """An exported graph.

    path: the .onnx file; its weights may lie in `data`, names of files in the same folder. sha256: over the bytes of
    the .onnx file and then of each of `data`. inputs, outputs: by name; "N" is the dynamic batch. tools: versions of
    what wrote it. asked, reached: the tolerance the graph was held to and the errors that were found.
    """

    graph: str
    precision: Precision
    path: Path
    sha256: str
    bundle_digest: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    opset: int
    image_input: ImageInput = "float"
    data: tuple[str, ...] = ()
    tools: dict[str, str] = field(default_factory=dict)
    asked: Tolerance | None = None
    reached: dict[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> Path:
        """The JSON file beside the graph."""
        return self.path.with_suffix(".json")

    @property
    def files(self) -> tuple[Path, ...]:
        """The graph and its weights."""
        return (self.path, *(self.path.parent / name for name in self.data))

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(file.stat().st_size for file in self.files)

    def check(self) -> None:
        """Raises UserError unless the files are those that were recorded."""
        try:
            actual = sha256_of_all(self.files)
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read ({error.strerror}): export the graph again") from None
        if actual != self.sha256:
            raise UserError(f"{self.path} is damaged, its sha256 is not the recorded one: export the graph again")

    def write(self) -> None:
        """Write the record atomically."""
        content = {"format": RECORD_FORMAT, **asdict(self), "path": self.path.name}
        write_atomic(self.record, (json.dumps(content, indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Artifact:
        """The artifact of a record or of the graph beside it; raises UserError when the record does not make sense.

        The files themselves are compared by `check`.
        """
        record = Path(path).with_suffix(".json")
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            if content.pop("format") != RECORD_FORMAT:
                raise ValueError("another format")
            unknown = set(content) - {each.name for each in fields(cls)}
            if unknown:
                raise ValueError(f"unknown entries {', '.join(sorted(unknown))}")
            names = (content["path"], *content["data"])
            if any(Path(name).name != name or name in ("", ".", "..") for name in names):
                raise ValueError("a file name leads out of the folder")
            for key in ("inputs", "outputs"):
                content[key] = {
                    name: TensorSpec(spec["dtype"], tuple(spec["shape"])) for name, spec in content[key].items()
                }
                if len(content[key]) != 1:
                    raise ValueError(f"{len(content[key])} {key} where one is expected")
            for key in ("tools", "reached"):
                dict.keys(content.get(key, {}))
            content["path"] = record.parent / content["path"]
            content["data"] = tuple(content["data"])
            content["asked"] = content["asked"] and Tolerance(**content["asked"])
            return cls(**content)
        except OSError as error:
            raise UserError(f"{record} cannot be read ({error.strerror}): export the graph again") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{record} is no record of an exported graph ({error}): export the graph again") from None
