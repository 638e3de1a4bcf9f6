"""What a stage says of every face, as one file: arrays with a row a face, .npz or .safetensors by its name.

The rows' inputs stand in `input` (text) and `face` of an .npz, and as JSON in the metadata of a .safetensors file;
beside them the digest of the bundle that made the arrays, `bundle`.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.samples import refuse_inside_job
from faceanon_engine.engine.system.files import write_result

Arrays = dict[str, npt.NDArray[Any]]
TABLE_SUFFIXES = (".npz", ".safetensors")
_LONGEST_REASON = 300
_MOST_INFLATED, _ALWAYS_INFLATED = 100, 64 * 1024 * 1024
"""Times its size, and bytes more, that an archive may hold; names of inputs shrink well, numbers hardly."""


@dataclass(frozen=True)
class Table:
    """Arrays with a row for every face, where each row is from, and the digest of the bundle that made them."""

    inputs: list[str]
    faces: list[int]
    arrays: Mapping[str, npt.NDArray[Any]]
    bundle: str | None

    def __len__(self) -> int:
        return len(self.inputs)

    def write(self, file: str | Path) -> None:
        """Write the table in the format of the file's name, atomically; raises UserError when it cannot be written.

        What it holds of real people is biometric data: nobody else may read the file (0600).
        """
        path = Path(file)
        check_table_name(path)
        if path.suffix.lower() == ".npz":
            stream = io.BytesIO()
            rows: Arrays = {"input": np.array(self.inputs, dtype=str), "face": np.array(self.faces, np.int64)}
            rows["bundle"] = np.array(self.bundle or "")
            np.savez(stream, allow_pickle=False, **rows, **self.arrays)
            content = stream.getvalue()
        else:
            from safetensors.numpy import save

            content = save(
                {name: np.ascontiguousarray(array) for name, array in self.arrays.items()},
                metadata={
                    "input": json.dumps(self.inputs),
                    "face": json.dumps(self.faces),
                    "bundle": self.bundle or "",
                },
            )
        write_result(path, content, private=True)

    @classmethod
    def read(cls, file: str | Path) -> Table:
        """The table in a file; raises UserError for a file that is none."""
        path = Path(file)
        try:
            if path.suffix.lower() == ".npz":
                _refuse_inflated(path)
                with np.load(path, allow_pickle=False) as stored:
                    arrays = {name: stored[name] for name in stored.files}
                inputs, faces = arrays.pop("input").tolist(), arrays.pop("face").tolist()
                bundle = str(arrays.pop("bundle", ""))
            else:
                from safetensors import safe_open

                with safe_open(path, framework="numpy") as stored:
                    arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                    metadata = stored.metadata() or {}
                inputs, faces = json.loads(metadata["input"]), json.loads(metadata["face"])
                bundle = metadata.get("bundle", "")
            _check_rows(inputs, faces, arrays)
        except FileNotFoundError:
            raise UserError(f"{path} does not exist") from None
        except Exception as error:
            reason = " ".join(str(error).split())[:_LONGEST_REASON]
            raise UserError(f"{path} cannot be read as a file of 'extract': {reason}") from None
        return cls(inputs, faces, arrays, bundle or None)


def _refuse_inflated(path: Path) -> None:
    """Raise ValueError where an archive holds far more than its size: reading it would fill the memory."""
    with zipfile.ZipFile(path) as archive:
        inflated = sum(member.file_size for member in archive.infolist())
    if inflated > _MOST_INFLATED * path.stat().st_size + _ALWAYS_INFLATED:
        raise ValueError(f"it would hold {inflated} bytes")


def _check_rows(inputs: object, faces: object, arrays: Arrays) -> None:
    """Raise ValueError where the arrays are no numbers with a row for each input and face."""
    if not (isinstance(inputs, list) and all(isinstance(name, str) for name in inputs)):
        raise ValueError("its inputs are no list of names")
    if not (isinstance(faces, list) and all(type(face) is int and 0 <= face < 2**31 for face in faces)):
        raise ValueError("its faces are no list of whole numbers")
    if len(inputs) != len(faces):
        raise ValueError(f"it has {len(inputs)} inputs and {len(faces)} faces")
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or array.shape[:1] != (len(inputs),):
            shape = f"{name[:100]} has shape {array.shape}, type {array.dtype}"
            raise ValueError(f"{shape}: expected {len(inputs)} rows of numbers")


def is_table(path: Path) -> bool:
    """Whether a path is named like a table."""
    return path.suffix.lower() in TABLE_SUFFIXES


def check_table_name(path: Path) -> None:
    """Raise UserError where a table could not be written to that path: its name, a missing folder, or a job's one."""
    if not is_table(path):
        raise UserError(f"{path} is neither .npz nor .safetensors: name it one of the two")
    if not path.absolute().parent.is_dir():
        raise UserError(f"the folder of {path} does not exist: make it first")
    refuse_inside_job(path)
