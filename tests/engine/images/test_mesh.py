"""The mesh lies on the face, says when there is none, and reads crops of any size alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceanon_engine.demo.people import sample
from faceanon_engine.demo.render import render
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images import mesh as module
from faceanon_engine.engine.images.mesh import OVAL, FaceMesh


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return FaceMesh(threads=1)


def area_of(polygon: np.ndarray) -> float:
    """Positive when it runs clockwise on the screen."""
    x, y = polygon.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def test_the_oval_lies_around_the_landmarks(mesh: FaceMesh) -> None:
    for code in sample(41, 6):
        drawn = render(code, 256)
        found = mesh.look(drawn.image)
        assert found.score > 0.9
        assert found.points.shape == (468, 2)
        assert found.oval.shape == (36, 2) == (len(set(OVAL)), 2)
        assert 0.15 * 256**2 < area_of(found.oval) < 0.5 * 256**2
        for landmark in drawn.landmarks:
            # Inside: on the same side of all edges, but for the few points where the oval bends inwards.
            after = np.roll(found.oval, -1, axis=0) - found.oval
            off = landmark - found.oval
            sides = after[:, 0] * off[:, 1] - after[:, 1] * off[:, 0]
            assert (sides > 0).mean() > 0.9
        assert np.hypot(*(found.landmarks - drawn.landmarks)[[0, 1, 3, 4]].T).max() < 0.08 * 256
        # The eyes' outer corners: points 33 and 263 of the canonical mesh.
        for index, eye in ((33, drawn.landmarks[0]), (263, drawn.landmarks[1])):
            assert np.hypot(*(found.points[index] - eye)) < 0.12 * 256


def test_the_size_of_the_crop_changes_nothing(mesh: FaceMesh) -> None:
    drawn = render(sample(42)[0], 512).image
    large = (mesh.look(drawn).points + 0.5) / 512
    small = np.asarray(Image.fromarray(drawn).resize((192, 192), Image.Resampling.BOX))
    np.testing.assert_allclose((mesh.look(small).points + 0.5) / 192, large, atol=0.012)


def test_what_is_no_face_scores_low(mesh: FaceMesh) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    for picture in (noise, np.full((64, 64, 3), 120, np.uint8), np.zeros((1, 1, 3), np.uint8)):
        found = mesh.look(picture)
        assert found.score < 0.1
        assert np.isfinite(found.points).all()


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / "facemesh.onnx")
    with pytest.raises(UserError, match=r"facemesh.onnx cannot be opened .* reinstall the package"):
        FaceMesh()
