"""Which landmarks put a face into FFHQ's frame best: the detector's five, the mesh's, or something of both.

    pip install dlib-bin; pip install --no-deps face_recognition_models
    python -m benchmarks.frame_landmarks --portraits FOLDER

FFHQ's own recipe takes 68 landmarks by dlib, which is not among the program's dependencies: here they are the
reference. It finds them on each picture as it is; what is measured are copies that are mirrored, turned and scaled, to
which the reference is carried over exactly, so that each method sees faces as they are in photographs. Of drawn people
the true places of eyes and mouth are known as well. Of each copy is written down how far the middle of the eyes, that
of the mouth, the frame's centre and, on average, its corners lie from the reference, as shares of its side, how much
its side differs, and the angle between the frames. "noise" is the reference against itself, mirrored: no method can be
told to be better than that. FOLDER holds photographs in the public domain of one person each, such as scikit-image's
astronaut and Matplotlib's Grace Hopper. `--cases FOLDER` adds pictures beside an `expected-frames.json`, which has the
reference's frames of their faces. Writes one JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from benchmarks.find_faces import SEEN_AROUND, background
from benchmarks.result import RESULTS, leave_out, new_result, new_row, table, timing, write
from faceanon_engine.demo.people import HELD_OUT_SEED, sample_person
from faceanon_engine.demo.render import render
from faceanon_engine.engine.images.align import align_face, refined
from faceanon_engine.engine.images.decode import read_image
from faceanon_engine.engine.images.detect import FaceDetector
from faceanon_engine.engine.images.ffhq import Square, ffhq_frame
from faceanon_engine.engine.images.mesh import FaceMesh

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating[Any]]

FIRST_PERSON = HELD_OUT_SEED + 12_000
CROP = 256
"""Pixels a side that the mesh is given: it looks at 192 of them."""
SIDES = (40.0, 80.0, 160.0)
"""Of the frames of the copies, in pixels."""
ANGLES = (-30.0, -10.0, 0.0, 10.0, 30.0, 90.0, 180.0)
# Of the mesh's points those nearest to dlib's: six around each eye, the mouth's outer corners, the nose's tip.
LEFT_EYE, RIGHT_EYE = (33, 160, 158, 133, 153, 144), (362, 385, 387, 263, 373, 380)
NOSE, MOUTH = 1, (61, 291)
EYE_CORNERS = ((33, 133), (362, 263))
METHODS = ("five points", "mesh", "mesh, corners of the eyes", "mesh, eyes as far apart as of the five", "mean of both")
ERRORS = ("corners", "centre", "side", "angle", "eyes", "mouth")
"""The last two where the reference has landmarks, and not only frames."""


class Dlib:
    """FFHQ's landmarks: dlib's frontal detector and its predictor of 68 points."""

    def __init__(self) -> None:
        import dlib  # pyright: ignore[reportMissingImports]

        # Not imported: the package asks for a module that setuptools no longer has. Its files are all that is needed.
        place = importlib.util.find_spec("face_recognition_models")
        if place is None or place.origin is None:
            raise ModuleNotFoundError("face_recognition_models")
        models = Path(place.origin).parent / "models"
        self.version: str = dlib.__version__
        self._find = dlib.get_frontal_face_detector()
        self._shape = dlib.shape_predictor(str(models / "shape_predictor_68_face_landmarks.dat"))

    def landmarks(self, pixels: Pixels) -> Floats | None:
        """[5, 2] of the largest face, as FFHQ takes them out of 68: eyes' centres, nose tip, mouth's outer corners."""
        rectangles = self._find(pixels, 1)
        if not rectangles:
            return None
        seen = self._shape(pixels, max(rectangles, key=lambda each: each.area())).parts()
        points = np.array([[point.x, point.y] for point in seen], float)
        return np.stack([points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48], points[54]])


class Copy(NamedTuple):
    """A picture with a face, and of it the reference's frame and landmarks [5, 2], where it has any."""

    pixels: Pixels
    frame: Square
    landmarks: Floats | None


def mirrored(landmarks: Floats, width: int) -> Floats:
    """Of the mirrored picture, those that are on the left there first."""
    return (landmarks * [-1, 1] + [width - 1, 0])[[1, 0, 2, 4, 3]]


def copy_of(pixels: Pixels, landmarks: Floats, side: float, angle: float, random: np.random.Generator) -> Copy:
    """The picture scaled so that its frame has that side, and turned, on a background a little larger."""
    scale = side / ffhq_frame(landmarks).side
    size = np.maximum(np.round(np.array(pixels.shape[1::-1]) * scale), 1).astype(int)
    small = Image.fromarray(pixels).resize((int(size[0]), int(size[1])), Image.Resampling.LANCZOS)
    points = (landmarks + 0.5) * (size / pixels.shape[1::-1])
    turn = np.radians(angle)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])  # of rows: p @ rotation
    reach = np.abs(np.array([[0, 0], [size[0], 0], [0, size[1]], size]) @ rotation - size / 2 @ rotation).max(axis=0)
    canvas = np.ceil(reach * 2 + 40).astype(int)
    centre = canvas / 2 + random.uniform(-5, 5, 2)
    # Pillow asks where a point of the canvas comes from, and counts from the corner of the first pixel.
    start = size / 2 - centre @ rotation.T
    back = rotation  # the transpose of its inverse
    data = (back[0, 0], back[0, 1], start[0], back[1, 0], back[1, 1], start[1])
    extent = (int(canvas[0]), int(canvas[1]))
    drawn = small.transform(extent, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
    there = Image.new("L", small.size, 255).transform(extent, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    whole = Image.fromarray(background(random, *extent))
    whole.paste(drawn, (0, 0), there)
    points = (points - size / 2) @ rotation + centre - 0.5
    return Copy(np.asarray(whole), ffhq_frame(points), points)


def copies(pixels: Pixels, landmarks: Floats, random: np.random.Generator) -> Iterator[Copy]:
    """Every side and angle, mirrored and not."""
    other = np.asarray(ImageOps.mirror(Image.fromarray(pixels)))
    for image, points in ((pixels, landmarks), (other, mirrored(landmarks, pixels.shape[1]))):
        for side in SIDES:
            for angle in ANGLES:
                yield copy_of(image, points, side, angle, random)


def cases(folder: Path) -> Iterator[Copy]:
    """Every face of the pictures whose frames are known."""
    for name, faces in json.loads((folder / "expected-frames.json").read_text())["faces"].items():
        pixels = read_image(folder / name).pixels
        for face in faces:
            turn = np.radians(face["angle_degrees"])
            x = np.array([np.cos(turn), np.sin(turn)]) * face["side"] / 2
            yield Copy(pixels, Square(np.array(face["centre"]), x, np.array([-x[1], x[0]])), None)


def five_of(mesh: Floats, eyes: tuple[tuple[int, ...], ...]) -> Floats:
    """[5, 2] of the mesh's 468 points."""
    return np.stack([*(mesh[list(each)].mean(axis=0) for each in eyes), mesh[NOSE], *mesh[list(MOUTH)]])


def by_mesh(mesh: FaceMesh, pixels: Pixels, landmarks: Floats) -> Floats:
    """[468, 2] of the mesh, which looks at the crop that other landmarks give."""
    crop, affine = align_face(pixels, landmarks, CROP)
    return np.asarray(mesh.look(crop).points @ affine[:, :2].T + affine[:, 2])


def errors(found: Floats, frame: Square, truth: Floats | None) -> tuple[float, ...]:
    """As `ERRORS`: shares of the true side, but for the angle in degrees."""
    here = ffhq_frame(found)
    corners = float(np.hypot(*(here.corners - frame.corners).T).mean())
    centre = float(np.hypot(*(here.centre - frame.centre)))
    turn = abs((here.angle - frame.angle + 180) % 360 - 180)
    of_frame = (corners / frame.side, centre / frame.side, abs(here.side / frame.side - 1), turn)
    if truth is None:
        return of_frame
    middles = (np.hypot(*(found[part].mean(axis=0) - truth[part].mean(axis=0))) for part in (np.s_[:2], np.s_[3:]))
    return (*of_frame, *(float(off) / frame.side for off in middles))


def nearest(found: Sequence[Floats], truth: Square) -> Floats | None:
    """Landmarks of the face whose frame lies nearest, None where none is near."""

    def off(landmarks: Floats) -> float:
        return float(np.hypot(*(ffhq_frame(landmarks).centre - truth.centre)))

    best = min(found, key=off, default=None)
    return None if best is None or off(best) > 0.4 * truth.side else best


def measure(name: str, reference: str, pictures: Sequence[Copy], detector: FaceDetector, mesh: FaceMesh) -> Any:
    """One row: every method on the same detections."""
    columns: dict[str, list[tuple[float, ...]]] = {method: [] for method in METHODS}
    seconds = []
    for picture in pictures:
        five = nearest([each.landmarks for each in detector.detect(picture.pixels)], picture.frame)
        if five is None:
            continue
        begun = time.perf_counter()
        points = by_mesh(mesh, picture.pixels, five)
        seconds.append(time.perf_counter() - begun)
        of_mesh = five_of(points, (LEFT_EYE, RIGHT_EYE))
        by_corners = five_of(points, EYE_CORNERS)
        shipped = refined(mesh, picture.pixels, five)
        found = (five, of_mesh, by_corners, shipped, (five + of_mesh) / 2)
        for method, landmarks in zip(METHODS, found, strict=True):
            columns[method].append(errors(landmarks, picture.frame, picture.landmarks))
    return new_row(
        {"pictures": name, "reference": reference},
        timings={"mesh": timing(seconds)},
        faces=len(pictures),
        found=len(seconds),
        **{method: summary(rows) for method, rows in columns.items()},
    )


def summary(rows: list[tuple[float, ...]]) -> dict[str, float]:
    """Median and 95th percentile of each error."""
    values: dict[str, float] = {}
    for name, column in zip(ERRORS, np.array(rows).T, strict=False):
        values[name], values[f"{name}_95"] = float(np.median(column)), float(np.quantile(column, 0.95))
    return values


def noise(name: str, pictures: Sequence[Pixels], dlib: Dlib) -> Any:
    """The reference on mirrored pictures against the mirrored reference."""
    rows = []
    for pixels in pictures:
        one, other = dlib.landmarks(pixels), dlib.landmarks(np.ascontiguousarray(pixels[:, ::-1]))
        if one is not None and other is not None:
            truth = mirrored(one, pixels.shape[1])
            rows.append(errors(other, ffhq_frame(truth), truth))
    return new_row({"pictures": name, "reference": "dlib"}, faces=len(pictures), found=len(rows), noise=summary(rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portraits", type=Path, required=True, help="folder of photographs of one person each")
    parser.add_argument("--cases", type=Path, help="folder with expected-frames.json")
    parser.add_argument("--people", type=int, default=60, help="drawn people")
    parser.add_argument("--output", type=Path, default=RESULTS / "frame_landmarks.json")
    arguments = parser.parse_args()
    files = sorted(path for path in arguments.portraits.iterdir() if path.is_file())
    question = "which landmarks put a face into FFHQ's frame best"
    result = new_result(
        "frame_landmarks", question, portraits=[path.name for path in files], people=arguments.people, sides=SIDES
    )
    begun = time.monotonic()
    dlib, detector, mesh = Dlib(), FaceDetector(threads=1), FaceMesh(threads=1)
    result["versions"]["dlib"] = dlib.version
    random = np.random.default_rng(11)

    def add(row: Any) -> None:
        result["rows"].append(row)
        result["seconds"] = time.monotonic() - begun
        write(arguments.output, result)
        print(table([row]), flush=True)
        for method in (*METHODS, "noise"):
            if values := row["values"].get(method):
                print(f"  {method:14}", *(f"{name} {value:.4g}" for name, value in values.items()), flush=True)

    whole: list[Pixels] = []
    for path in files:
        pixels = read_image(path).pixels
        landmarks = dlib.landmarks(pixels)
        if landmarks is None:
            leave_out(result, path.name, "dlib finds no face in it")
            continue
        whole.append(pixels)
        add(measure(path.name, "dlib", list(copies(pixels, landmarks, random)), detector, mesh))
    add(noise("portraits", whole, dlib))
    if arguments.cases:
        add(measure("cases", "dlib", list(cases(arguments.cases)), detector, mesh))
    drawn = [render(sample_person(FIRST_PERSON + each, 1)[0], 512, SEEN_AROUND) for each in range(arguments.people)]
    by_dlib, by_truth = [], []
    for each in drawn:
        side, angle = float(random.choice(SIDES)), float(random.uniform(-30, 30))
        by_truth.append(copy_of(each.image, each.landmarks.astype(float), side, angle, random))
        if (landmarks := dlib.landmarks(each.image)) is not None:
            by_dlib.append(copy_of(each.image, landmarks, side, angle, random))
    add(measure("drawn people", "dlib", by_dlib, detector, mesh))
    add(measure("drawn people", "their own eyes and mouths", by_truth, detector, mesh))
    add(noise("drawn people", [each.image for each in drawn], dlib))
    print(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
