"""Photographs of drawn people in front of nothing in particular, with the places of their faces."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.find_faces import People, background
from faceanon_engine.engine.images.ffhq import Square

SIZE = (420, 260)
LEFT, RIGHT = (110.0, 130.0), (310.0, 130.0)
"""Where a face of a scene may be."""


@functools.cache
def _people() -> People:
    return People(4, 320)


def scene(
    places: Sequence[tuple[float, float]] = (LEFT,), face: float = 90, angle: float = 0, seed: int = 1
) -> tuple[np.ndarray, list[Square]]:
    """A picture uint8 [260, 420, 3] with a face of so many pixels in each place, and their true frames."""
    canvas = background(np.random.default_rng(seed), *SIZE)
    people = _people()
    return canvas, [people.place(canvas, seed + number, at, face, angle) for number, at in enumerate(places)]


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def make_photos(folder: Path) -> None:
    """one.png with a face, two.jpg with two, nobody.png with none, and broken.jpg, which is no picture."""
    save(folder / "one.png", scene()[0])
    save(folder / "two.jpg", scene((LEFT, RIGHT), seed=2)[0], quality=95)
    save(folder / "nobody.png", scene(())[0])
    (folder / "broken.jpg").write_bytes(b"no picture")
