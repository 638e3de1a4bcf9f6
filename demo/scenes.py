"""Draws photographs of several people: rows of them behind benches, or pictures of them on a wall, with true boxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from faceanon_engine.demo.people import sample_person
from faceanon_engine.demo.render import ffhq_frame, render, rgb_of_hsv

Floats = npt.NDArray[np.floating[Any]]
Pixels = npt.NDArray[np.uint8]

BOXES = "boxes.csv"
_AROUND = 2.6
"""What is drawn of a person, in sides of FFHQ's crop: shoulders and the tips of the hair with the head."""
_HEAD = (0.5, 0.68)
"""Width and height of a face's box, in sides of its crop."""
_SHARPEST = 640
"""Pixels a side that a person is drawn with at most; larger ones are enlarged."""


class Scene(NamedTuple):
    """image uint8 [H, W, 3]; boxes float64 [N, 4]: left, top, right, bottom of each face; landmarks float64 [N, 5, 2]:
    eyes, nose tip, mouth corners; people [N]: the seeds of those who are drawn."""

    image: Pixels
    boxes: Floats
    landmarks: Floats
    people: list[int]


class _Canvas:
    """A picture on its way, and the faces that are in it."""

    def __init__(self, image: Image.Image, seed: int) -> None:
        self.image = image
        self._seed = seed
        self._landmarks: list[Floats] = []
        self._people: list[int] = []

    def person(self, centre: tuple[float, float], face: float, turn: float = 0.0, *, backdrop: bool = False) -> None:
        """Draw the next person: centre and height in pixels of the face, degrees; with what is behind, or without."""
        seed = self._seed + len(self._people)
        side = face / _HEAD[1] * _AROUND
        drawn = render(sample_person(seed, 1)[0], min(_SHARPEST, max(24, round(side))), _AROUND)
        cover = np.ones_like(drawn.cover) if backdrop else drawn.cover
        pixels = np.concatenate([drawn.image, (cover[..., None] * 255 + 0.5).astype(np.uint8)], axis=2)
        size = max(8, round(side))
        figure = Image.fromarray(pixels).resize((size, size), Image.Resampling.LANCZOS)
        figure = figure.rotate(-turn, Image.Resampling.BICUBIC, expand=True)
        start = round(centre[0] - figure.width / 2), round(centre[1] - figure.height / 2)
        self.image.paste(figure, start, figure.getchannel("A"))
        points = (drawn.landmarks.astype(float) + 0.5) * size / len(pixels) - size / 2
        cosine, sine = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        points = points @ np.array([[cosine, sine], [-sine, cosine]])
        middle = np.array(start) + np.array([figure.width, figure.height]) / 2
        self._landmarks.append(points + middle - 0.5)
        self._people.append(seed)

    def finished(self, random: np.random.Generator) -> Scene:
        """The scene as a camera has it: a little soft, a little noisy."""
        soft = np.asarray(self.image.filter(ImageFilter.GaussianBlur(0.6)), float)
        noisy = soft + random.normal(0, 2, soft.shape)
        landmarks = np.array(self._landmarks).reshape(-1, 5, 2)
        boxes = np.array([_box(each) for each in landmarks]).reshape(-1, 4)
        return Scene(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), boxes, landmarks, self._people)


def draw_scene(seed: int, people: int = 9, width: int = 1200, height: int = 800) -> Scene:
    """The scene of a seed, whose people have that seed and the following ones; the same arguments draw the same.

    Every third scene is a wall with pictures of people, turned a little; the others are rows of people behind benches,
    the smaller the further back.
    """
    random = np.random.default_rng(seed)
    if seed % 3 == 2:
        return _wall(random, seed, people, width, height)
    return _rows(random, seed, people, width, height)


def write(folder: Path, *, count: int, people: int, width: int, height: int, seed: int) -> Iterator[Path]:
    """Draw so many scenes into a folder, photo-000.jpg and so on, and boxes.csv; yields each when it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["path,left,top,right,bottom"]
    for number in range(count):
        scene = draw_scene(seed + 1000 * number + number % 3, people, width, height)
        path = folder / f"photo-{number:03d}.jpg"
        Image.fromarray(scene.image).save(path, quality=95, subsampling=0)
        lines += [",".join([path.name, *(f"{value:.1f}" for value in box)]) for box in scene.boxes]
        yield path
    (folder / BOXES).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(random: np.random.Generator, seed: int, people: int, width: int, height: int) -> Scene:
    canvas = _Canvas(_hall(random, width, height), seed)
    pen = ImageDraw.Draw(canvas.image)
    rows = max(1, min(4, round(np.sqrt(people / 1.6))))
    seats = _shared(people, rows)
    wood = _colour(random.uniform(0.03, 0.11), 0.5, random.uniform(0.3, 0.55))
    for row, count in enumerate(seats):
        # The last row stands at the front, and each before it is smaller and higher.
        near = (row + 1) / rows
        face = height * (0.09 + 0.13 * near) / (1 + 0.22 * (rows - 1))
        bench = height * (0.42 + 0.53 * near) if rows > 1 else height * 0.9
        for seat in range(count):
            x = width * (seat + 0.5 + random.uniform(-0.12, 0.12) + 0.25 * (row % 2 - 0.5)) / count
            size = face * random.uniform(0.9, 1.1)
            canvas.person((x, bench - size * random.uniform(0.85, 1.0)), size, random.normal(0, 7))
        lower = bench + height * 0.53 / rows + 2
        shade = tuple(round(value * (0.7 + 0.3 * near)) for value in wood)
        pen.rectangle((0, bench, width, lower), fill=shade)
        pen.rectangle((0, bench, width, bench + face * 0.12), fill=tuple(min(255, round(v * 1.25)) for v in shade))
        for post in range(1, 6):
            x = round(width * post / 6)
            pen.line((x, bench + face * 0.12, x, lower), fill=tuple(round(v * 0.8) for v in shade), width=3)
    return canvas.finished(random)


def _wall(random: np.random.Generator, seed: int, people: int, width: int, height: int) -> Scene:
    hue = random.uniform(0, 1)
    top, bottom = _colour(hue, 0.25, 0.85), _colour(hue, 0.3, 0.65)
    canvas = _Canvas(_gradient(width, height, top, bottom), seed)
    columns = max(1, round(np.sqrt(people * width / height)))
    lines = -(-people // columns)
    cell_width, cell_height = width / columns, height / lines
    for number in range(people):
        x = (number % columns + random.uniform(0.44, 0.56)) * cell_width
        y = (number // columns + random.uniform(0.44, 0.56)) * cell_height
        side, turn = min(cell_width, cell_height) * random.uniform(0.5, 0.8), random.normal(0, 12)
        for grown, colour in ((1.12, (58, 42, 30)), (1.06, (206, 190, 150))):
            frame = Image.new("RGBA", (round(side * grown),) * 2, (*colour, 255))
            frame = frame.rotate(-turn, Image.Resampling.BICUBIC, expand=True)
            canvas.image.paste(frame, (round(x - frame.width / 2), round(y - frame.height / 2)), frame.getchannel("A"))
        canvas.person((x, y), side / _AROUND * _HEAD[1], turn, backdrop=True)
    return canvas.finished(random)


def _hall(random: np.random.Generator, width: int, height: int) -> Image.Image:
    hue = random.uniform(0.5, 0.7)
    wall = _gradient(width, height, _colour(hue, 0.1, 0.9), _colour(hue, 0.25, 0.6))
    pen = ImageDraw.Draw(wall)
    count = int(random.integers(3, 6))
    for number in range(count):
        left = width * (number + 0.2) / count
        pen.rectangle((left, height * 0.04, left + width * 0.6 / count, height * 0.34), fill=_colour(0.57, 0.25, 0.98))
        middle = left + width * 0.3 / count
        pen.line((middle, height * 0.04, middle, height * 0.34), fill=(240, 240, 236), width=5)
    return wall


def _gradient(width: int, height: int, top: tuple[int, ...], bottom: tuple[int, ...]) -> Image.Image:
    share = np.linspace(0, 1, height)[:, None, None]
    rows = np.array(top) * (1 - share) + np.array(bottom) * share
    return Image.fromarray(np.broadcast_to(np.rint(rows), (height, width, 3)).astype(np.uint8))


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = (round(float(each) * 255) for each in rgb_of_hsv(hue, saturation, value))
    return red, green, blue


def _shared(people: int, rows: int) -> list[int]:
    """How many people sit in each row; further back there are more."""
    weights = np.linspace(1.3, 0.7, rows)
    ends = np.rint(np.cumsum(weights) / weights.sum() * people).astype(int)
    return [int(count) for count in np.diff([0, *ends]) if count]


def _box(landmarks: Floats) -> Floats:
    """Left, top, right, bottom of the upright box about a face with these landmarks [5, 2]."""
    centre, x, y = ffhq_frame(landmarks)
    centre = centre + y * 0.08
    half = np.hypot(x * _HEAD[0], y * _HEAD[1])
    return np.concatenate([centre - half, centre + half])
