"""What a stage says of every face, as one file: arrays with a row a face, .npz or .safetensors by its name.

The rows' inputs stand in `input` (text) and `face` of an .npz, and as JSON in the metadata of a .safetensors file;
beside them the digest of the bundle that made the arrays, `bundle`.
"""

from __future__ import annotations

import io
import json
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
                with np.load(path, allow_pickle=False) as stored:
                    arrays = {name: stored[name] for name in stored.files}
                inputs = [str(name) for name in arrays.pop("input")]
                faces = [int(face) for face in arrays.pop("face")]
                bundle = str(arrays.pop("bundle", ""))
            else:
                from safetensors import safe_open

                with safe_open(path, framework="numpy") as stored:
                    arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                    metadata = stored.metadata() or {}
                inputs, faces = json.loads(metadata["input"]), json.loads(metadata["face"])
                bundle = metadata.get("bundle", "")
        except FileNotFoundError:
            raise UserError(f"{path} does not exist") from None
        except Exception as error:
            raise UserError(f"{path} cannot be read as a file of 'extract': {' '.join(str(error).split())}") from None
        return cls(inputs, faces, arrays, bundle or None)


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
