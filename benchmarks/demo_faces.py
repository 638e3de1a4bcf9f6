"""Whether programs made for photographs take the drawn people for faces, and for different ones.

    pip install dlib face_recognition_models
    python -m benchmarks.demo_faces

The detector is the program's own, CenterFace; the recogniser is dlib's ResNet (King, 2017), which was trained on
photographs and never saw a drawing. dlib and its models are not among the program's dependencies: building dlib takes
a C++ compiler and minutes. Everybody here is drawn from seeds that no training uses. Writes one JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.demo_evidence import area_under_curve, threshold_at
from benchmarks.result import RESULTS, new_result, write
from faceanon_engine.demo.people import HELD_OUT_SEED, sample_person
from faceanon_engine.demo.render import render_codes
from faceanon_engine.engine.images.detect import FaceDetector

FIRST_PERSON = HELD_OUT_SEED + 6000
Floats = npt.NDArray[np.floating[Any]]
Images = npt.NDArray[np.uint8]


class Dlib:
    """dlib's recogniser, on boxes that another detector found."""

    def __init__(self) -> None:
        import dlib  # pyright: ignore[reportMissingImports]

        # Not imported: the package asks for a module that setuptools no longer has. Its files are all that is needed.
        place = importlib.util.find_spec("face_recognition_models")
        if place is None or place.origin is None:
            raise ModuleNotFoundError("face_recognition_models")
        models = Path(place.origin).parent / "models"
        self._dlib = dlib
        self.version: str = dlib.__version__
        self._shape = dlib.shape_predictor(str(models / "shape_predictor_5_face_landmarks.dat"))
        self._network = dlib.face_recognition_model_v1(str(models / "dlib_face_recognition_resnet_model_v1.dat"))

    def embed(self, picture: npt.NDArray[np.uint8], box: Floats) -> Floats:
        """Embedding float64 [128]; two of one person are expected to be nearer than 0.6 (Euclidean)."""
        rectangle = self._dlib.rectangle(*map(round, map(float, box)))
        chip = self._dlib.get_face_chip(picture, self._shape(picture, rectangle), size=150)
        return np.array(self._network.compute_face_descriptor(chip))


def detection(people: int, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Share of pictures with a face found, one picture of each person."""
    codes = np.concatenate([sample_person(FIRST_PERSON + person, 1) for person in range(people)])
    detector = FaceDetector()
    shares: dict[str, Any] = {"detector": "CenterFace", "pictures": people}
    for size in sizes:
        faces = [detector.detect(picture) for picture in render_codes(codes, size)]
        shares[f"at_{size}_px"] = {
            "found": sum(bool(several) for several in faces) / people,
            "more_than_one": sum(len(several) > 1 for several in faces) / people,
        }
    return shares


def recognition(people: int, views: int, size: int) -> dict[str, Any]:
    """How well dlib tells the drawn people apart, all pairs of all pictures."""
    recogniser, detector = Dlib(), FaceDetector()
    codes = np.concatenate([sample_person(FIRST_PERSON + person, views) for person in range(people)])
    person, embeddings = [], []
    for row, picture in enumerate(render_codes(codes, size)):
        faces = detector.detect(picture)
        if faces:
            person.append(row // views)
            embeddings.append(recogniser.embed(picture, max(faces, key=lambda face: face.score).box))
    vectors, owner = np.array(embeddings), np.array(person)
    nearness = -np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    upper = np.triu_indices(len(vectors), 1)
    alike = owner[upper[0]] == owner[upper[1]]
    same, different = nearness[upper][alike], nearness[upper][~alike]
    return {
        "recogniser": "dlib_face_recognition_resnet_model_v1",
        "dlib": recogniser.version,
        "people": people,
        "pictures": len(codes),
        "pictures_with_a_face_found": len(vectors),
        "size": size,
        "roc_auc": area_under_curve(same, different),
        "distance_same_mean": float(-same.mean()),
        "distance_different_mean": float(-different.mean()),
        "true_accepts_at_1_percent": float((same > threshold_at(different, 0.01)).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=200, help="people the detector is judged on")
    parser.add_argument("--known", type=int, default=100, help="people the recogniser is judged on")
    parser.add_argument("--views", type=int, default=4, help="pictures of each of them")
    parser.add_argument("--output", type=Path, default=RESULTS / "demo_faces.json")
    arguments = parser.parse_args()
    result = new_result(
        "demo_faces",
        "whether programs made for photographs take the drawn people for faces, and for different ones",
        people=arguments.people,
        known=arguments.known,
        views=arguments.views,
    )
    values = result["values"]
    values["detection"] = detection(arguments.people, (64, 256))
    print(json.dumps(values["detection"]), flush=True)
    try:
        values["recognition"] = recognition(arguments.known, arguments.views, 256)
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is not installed: pip install dlib face_recognition_models (nothing was written)")
    result["versions"]["dlib"] = values["recognition"]["dlib"]
    print(json.dumps(values["recognition"]))
    write(arguments.output, result)


if __name__ == "__main__":
    main()
