"""Draws the sample images: held-out people, two views each, and a few files such as cameras write them.

python -m faceanon_engine.demo.make_samples demo/samples
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet
from PIL import Image

from faceanon_engine.demo.labelled import LABELS, Picture, label_table
from faceanon_engine.demo.people import HELD_OUT_SEED, sample_person
from faceanon_engine.demo.render import render

PEOPLE, VIEWS, SIZE = 24, "ab", 256
# Second views that are stored turned, with the EXIF orientation that says so, and the turn that stores them like that.
TURNED = {
    3: (6, Image.Transpose.ROTATE_90),
    11: (8, Image.Transpose.ROTATE_270),
    19: (3, Image.Transpose.ROTATE_180),
}
# Photos: people behind the aligned ones, side by side; degrees that the camera was held at; width and height.
PHOTOS: dict[str, tuple[tuple[int, ...], float, tuple[int, int]]] = {
    "photo-1.jpg": ((24,), 9.0, (480, 360)),
    "photo-2.jpg": ((26,), -14.0, (360, 480)),
    "photo-of-two.jpg": ((25, 29), 0.0, (640, 400)),
}
ORIENTATION = 0x0112


def sample_name(person: int, view: int) -> str:
    """File name of a sample, persons and views counted from 0."""
    ending = "jpg" if view == 1 and person in TURNED else "png"
    return f"person-{person + 1:02d}-{VIEWS[view]}.{ending}"


def photo(people: tuple[int, ...], degrees: float, size: tuple[int, int]) -> Image.Image:
    """A wider picture of held-out people, who stand neither upright nor in the middle."""
    width, height = size
    share = width // len(people)
    canvas = Image.new("RGB", size)
    for place, person in enumerate(people):
        # Large enough that the turned picture still covers the whole frame.
        side = int(1.35 * max(share, height))
        drawn = Image.fromarray(render(sample_person(HELD_OUT_SEED + person, 1)[0], side, frame_scale=2.0).image)
        turned = drawn.rotate(degrees, Image.Resampling.BICUBIC)
        left, top = (side - share) // 2, (side - height) // 3
        canvas.paste(turned.crop((left, top, left + share, top + height)), (place * share, 0))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Picture] = []
    for person in range(PEOPLE):
        codes: npt.NDArray[np.float32] = sample_person(HELD_OUT_SEED + person, len(VIEWS))
        for view, code in enumerate(codes):
            name = sample_name(person, view)
            drawn.append(Picture(name, person, code))
            image = Image.fromarray(render(code, SIZE).image)
            if name.endswith(".png"):
                image.save(folder / name, optimize=True)
            else:
                orientation, turn = TURNED[person]
                exif = Image.Exif()
                exif[ORIENTATION] = orientation
                image.transpose(turn).save(folder / name, quality=95, exif=exif)
    for name, description in PHOTOS.items():
        photo(*description).save(folder / name, quality=92)
    pyarrow.parquet.write_table(label_table(drawn), folder / LABELS)


if __name__ == "__main__":
    main()
