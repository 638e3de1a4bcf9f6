"""How many faces of photographs are found, by size and by angle, how exactly, and how long that takes.

    python -m benchmarks.find_faces --output benchmarks/results/find_faces.json

Montages of drawn people on backgrounds of coloured noise, whose faces' places are known exactly. A face's size is the
longer side of its box, 0.64 of FFHQ's frame. Beside it, in the same run, what it replaced: one look at the picture
scaled to 960 pixels with a margin; times are of one pass of the network over the picture in its own size.
`--people-free FOLDER` counts detections in photographs without people.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from benchmarks.result import RESULTS, new_result, new_row, table, timing, write
from faceanon_engine.demo.people import HELD_OUT_SEED, sample_person
from faceanon_engine.demo.render import render
from faceanon_engine.engine.images.centerface import CenterFace
from faceanon_engine.engine.images.decode import read_image
from faceanon_engine.engine.images.detect import FaceDetector
from faceanon_engine.engine.images.ffhq import Square, ffhq_frame

Pixels = npt.NDArray[np.uint8]
FIRST_PERSON = HELD_OUT_SEED + 9000
FACE_OF_FRAME = 0.64
SEEN_AROUND = 1.9
"""Of the frame: drawn as an ordinary photograph shows a head, hair and shoulders with it."""


class Former:
    """One look at the whole picture, scaled so that with its margin it fits into 960 pixels."""

    def __init__(self) -> None:
        self._network = CenterFace(1)

    def frames(self, pixels: Pixels) -> list[Square]:
        height, width = pixels.shape[:2]
        margin = int(0.25 * max(height, width))
        scale = min(max(1.0, 256 / min(height, width)), 960 / (max(height, width) + 2 * margin))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        around = round(margin * scale)
        scaled = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
        padded = np.pad(scaled, ((around, around), (around, around), (0, 0)), constant_values=127)
        seen = self._network.look(padded, 0.5)
        return [ffhq_frame((landmarks - around) / scale) for landmarks in seen.landmarks]


class People:
    """Drawn heads, each rendered once."""

    def __init__(self, count: int, side: int = 640) -> None:
        self._heads = []
        for person in range(count):
            drawn = render(sample_person(FIRST_PERSON + person, 1)[0], side, SEEN_AROUND)
            self._heads.append((drawn.image, drawn.landmarks.astype(float)))

    def place(self, canvas: Pixels, person: int, centre: tuple[float, float], face: float, angle: float) -> Square:
        """Draw a head, its face of that size and turned by so many degrees, and its true frame."""
        image, landmarks = self._heads[person % len(self._heads)]
        scale = face / FACE_OF_FRAME / ffhq_frame(landmarks).side
        side = max(8, round(image.shape[0] * scale))
        small = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
        y, x = np.mgrid[:side, :side]
        inside = np.hypot((x + 0.5) / side - 0.5, (y + 0.5) / side - 0.5) < 0.49
        mask = Image.fromarray((inside * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(side / 60))
        turned = small.rotate(-angle, Image.Resampling.BICUBIC, expand=False)
        left, top = round(centre[0] - side / 2), round(centre[1] - side / 2)
        whole = Image.fromarray(canvas)
        whole.paste(turned, (left, top), mask)
        canvas[:] = np.asarray(whole)
        turn = np.radians(angle)
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        points = ((landmarks + 0.5) * side / image.shape[0] - side / 2) @ rotation + [left + side / 2, top + side / 2]
        return ffhq_frame(points - 0.5)


def background(random: np.random.Generator, width: int, height: int) -> Pixels:
    """Coloured noise of many scales, in which there is nobody."""
    total = np.zeros((height, width, 3))
    for cells in (3, 12, 48, 160):
        noise = random.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
        spread = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(spread, float) / cells**0.35
    low, high = total.min(), total.max()
    return np.asarray((total - low) / (high - low) * 200 + 20, np.uint8)


def montage(
    people: People, random: np.random.Generator, size: tuple[int, int], faces: Sequence[float], angle: float | None
) -> tuple[Pixels, list[Square]]:
    """A picture with faces of these sizes on a grid; turned by `angle`, or each by any where it is None."""
    width, height = size
    canvas = background(random, width, height)
    largest = max(faces) / FACE_OF_FRAME * SEEN_AROUND * 1.1
    columns = max(1, int(width // largest))
    rows = max(1, int(height // largest))
    cells = random.permutation(columns * rows)[: len(faces)]
    truth = []
    for face, cell in zip(faces, cells, strict=False):
        centre = ((cell % columns + 0.5) * width / columns, (cell // columns + 0.5) * height / rows)
        turn = float(random.uniform(-180, 180)) if angle is None else angle
        truth.append(people.place(canvas, int(random.integers(1 << 30)), centre, face, turn))
    return canvas, truth


def matched(truth: Square, found: Sequence[Square]) -> Square | None:
    near = [each for each in found if np.hypot(*(each.centre - truth.centre)) < 0.3 * truth.side]
    near = [each for each in near if 0.6 < each.side / truth.side < 1.6]
    return min(near, key=lambda each: float(np.hypot(*(each.centre - truth.centre))), default=None)


def off(truth: Square, found: Square) -> tuple[float, float, float]:
    """Centre as a share of the side, side as a ratio, angle in degrees."""
    turn = (found.angle - truth.angle + 180) % 360 - 180
    return float(np.hypot(*(found.centre - truth.centre)) / truth.side), found.side / truth.side, abs(turn)


def measure(name: str, pictures: list[tuple[Pixels, list[Square]]], detector: FaceDetector, former: Former) -> Any:
    """One row: both detectors on the same pictures."""
    counts = {"faces": 0, "found": 0, "found_before": 0, "others": 0, "others_before": 0}
    errors, ours, theirs, single = [], [], [], []
    network = CenterFace(1)
    for pixels, truth in pictures:
        begun = time.perf_counter()
        now = [each.frame for each in detector.detect(pixels)]
        ours.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        before = former.frames(pixels)
        theirs.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        network.look(pixels, 0.5)
        single.append(time.perf_counter() - begun)
        counts["faces"] += len(truth)
        for frames, found, others in ((now, "found", "others"), (before, "found_before", "others_before")):
            hits = [matched(each, frames) for each in truth]
            counts[found] += sum(hit is not None for hit in hits)
            counts[others] += len(frames) - sum(hit is not None for hit in hits)
            if found == "found":
                errors += [off(each, hit) for each, hit in zip(truth, hits, strict=True) if hit is not None]
    values: dict[str, Any] = dict(counts)
    values["recall"] = counts["found"] / max(1, counts["faces"])
    values["recall_before"] = counts["found_before"] / max(1, counts["faces"])
    for index, what in enumerate(("centre_off", "side_ratio", "angle_off")):
        column = [each[index] for each in errors]
        if column:
            values[what] = statistics.median(column)
            values[f"{what}_95"] = float(np.quantile(column, 0.95))
    values["times_one_pass"] = statistics.median(a / b for a, b in zip(ours, single, strict=True))
    values["times_before"] = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    times = {"now": timing(ours), "before": timing(theirs), "one_pass": timing(single)}
    return new_row({"pictures": name}, timings=times, **values)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--montages", type=int, default=8, help="of each kind")
    parser.add_argument("--people-free", type=Path)
    parser.add_argument("--output", type=Path, default=RESULTS / "find_faces.json")
    arguments = parser.parse_args()
    result = new_result("find_faces", "how many faces of photographs are found", montages=arguments.montages)
    detector, former, people = FaceDetector(threads=1), Former(), People(24)
    random = np.random.default_rng(7)
    begun = time.monotonic()

    def add(name: str, pictures: list[tuple[Pixels, list[Square]]]) -> None:
        result["rows"].append(measure(name, pictures, detector, former))
        few = ["faces", "recall", "recall_before", "others", "centre_off_95", "angle_off_95", "times_one_pass"]
        print(table(result["rows"][-1:], few), flush=True)
        result["seconds"] = time.monotonic() - begun
        write(arguments.output, result)

    def montages(face: float, angle: float | None) -> list[tuple[Pixels, list[Square]]]:
        return [montage(people, random, (1400, 900), [face] * 12, angle) for _ in range(arguments.montages)]

    for face in (20.0, 28.0, 40.0, 64.0, 96.0):
        add(f"1400x900, {face:.0f} px", montages(face, 0.0))
    for angle in (45.0, 90.0, 135.0, 180.0, 270.0):
        add(f"1400x900, 40 px, {angle:.0f} degrees", montages(40.0, angle))
    add("1400x900, 40 px, any angle", montages(40.0, None))
    large = [160.0, 96.0, 64.0, 40.0, 28.0]
    add("4096x3072, 160 to 28 px", [montage(people, random, (4096, 3072), large, 0.0) for _ in range(2)])
    add("1400x900, nobody", [(background(random, 1400, 900), []) for _ in range(arguments.montages)])
    if arguments.people_free:
        files = sorted(path for path in arguments.people_free.iterdir() if path.is_file())
        add("photographs without people", [(read_image(path).pixels, []) for path in files])
    print(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
