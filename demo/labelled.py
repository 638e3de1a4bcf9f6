"""Writes a data set of drawn people: PNG pictures and what is true of them, as a Parquet table."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet
from PIL import Image

from faceanon_engine.demo.people import INDEX, PERSONAL, labels, personal_mask, sample_person
from faceanon_engine.demo.render import render

LABELS = "labels.parquet"
ANGLES = ("yaw", "pitch")


class Picture(NamedTuple):
    """image_id: file name; identity: number of the person, from 0; code: vector u float32 [P]."""

    image_id: str
    identity: int
    code: npt.NDArray[np.float32]


def pictures(people: int, per_person: int, seed: int) -> list[Picture]:
    """`per_person` pictures each of the persons with the seeds `seed` to `seed + people - 1`."""
    return [
        Picture(f"{person:06d}-{number:02d}.png", person, code)
        for person in range(people)
        for number, code in enumerate(sample_person(seed + person, per_person))
    ]


def label_table(drawn: list[Picture]) -> pyarrow.Table:
    """One row a picture.

    image_id; identity (int64); CelebA's attributes (int8, 1 or -1); yaw, pitch, roll in degrees (float32; an aligned
    crop has no roll); identity_vector (float32 list, what belongs to the person); code (float32 list, the whole vector
    u). The schema's metadata names the entries of identity_vector.
    """
    rows = [labels(picture.code) for picture in drawn]
    columns: dict[str, Any] = {
        "image_id": pyarrow.array([picture.image_id for picture in drawn]),
        "identity": pyarrow.array([picture.identity for picture in drawn], pyarrow.int64()),
    }
    for name in rows[0]:
        kind = pyarrow.float32() if name in ANGLES else pyarrow.int8()
        columns[name] = pyarrow.array([row[name] for row in rows], kind)
    columns["roll"] = pyarrow.array([0.0] * len(drawn), pyarrow.float32())
    vector = pyarrow.list_(pyarrow.float32())
    mask = personal_mask()
    columns["identity_vector"] = pyarrow.array([picture.code[mask] for picture in drawn], vector)
    columns["code"] = pyarrow.array([picture.code for picture in drawn], vector)
    order = sorted(PERSONAL, key=INDEX.__getitem__)
    return pyarrow.table(columns).replace_schema_metadata({"identity_vector": " ".join(order)})


def _draw(picture: Picture, size: int, folder: Path) -> str:
    Image.fromarray(render(picture.code, size).image).save(folder / picture.image_id)
    return picture.image_id


def write(
    folder: Path, *, people: int, per_person: int, size: int, seed: int, processes: int = 1
) -> Iterator[tuple[int, int]]:
    """Draw into `folder`, yielding (done, of all); the labels come last, so that a table stands for a finished set.

    Raises OSError when the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = pictures(people, per_person, seed)
    done = 0
    if processes <= 1:
        for picture in drawn:
            _draw(picture, size, folder)
            done += 1
            yield done, len(drawn)
    else:
        with ProcessPoolExecutor(processes) as pool:
            for _ in pool.map(_draw, drawn, repeat(size), repeat(folder), chunksize=16):
                done += 1
                yield done, len(drawn)
    pyarrow.parquet.write_table(label_table(drawn), folder / LABELS)
